"""The one error type for all that a user may cause."""

from __future__ import annotations


class NeoNetError(Exception):
    """A fault in what the user gave, said so that the user can mend it.

    Parameters
    ----------
    code : str
        Stable upper-case identifier, e.g. ``"EMPTY_TUMOUR"``; tests and other programs key on it.
    message : str
        What is wrong and where, in one line, without patient identity.
    hint : str
        What to do next, in one line; empty where nothing helps.
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type[NeoNetError], tuple[str, str, str]]:
        """As it is sent from one process to another."""
        return type(self), (self.code, self.message, self.hint)

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip() + f" [{self.code}]"
