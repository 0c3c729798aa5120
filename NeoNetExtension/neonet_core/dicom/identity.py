"""Pseudonyms that are the same throughout a batch and say nothing without its secret."""

from __future__ import annotations

import base64
import hmac
import os
import secrets
from pathlib import Path

from neonet_core.errors import NeoNetError
from neonet_core.training.files import write_atomic

KEY_FILE = ".pseudonyms.key"
SECRET_BYTES = 32
PATIENT_LETTERS, STUDY_LETTERS = 10, 6
"""Of 32 each: two of 10,000 patients get one pseudonym with a chance of 1 in 20 million."""


class Pseudonyms:
    """Names of patients and cases, made of their identity and a secret (HMAC-SHA-256).

    Without the secret nobody can tell whose a pseudonym is, not even by trying all patient numbers. They are safe as
    file names.

    Parameters
    ----------
    secret : bytes
        The same secret gives the same pseudonyms.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) < SECRET_BYTES:
            raise ValueError(f"a secret has at least {SECRET_BYTES} bytes")
        self._secret = secret

    @staticmethod
    def in_folder(folder: Path) -> Pseudonyms:
        """With the secret that lies in a folder, readable by its owner alone; where there is none, a new random one.

        Raises
        ------
        NeoNetError
            ``BAD_KEY``: the file is there, but is no secret of ours.
        """
        path = folder / KEY_FILE
        if not path.exists():
            write_atomic(path, _write_secret)
        try:
            return Pseudonyms(bytes.fromhex(path.read_text(encoding="ascii")))
        except ValueError as error:
            raise NeoNetError("BAD_KEY", f"{path} holds no key for pseudonyms.",
                              "Put the original back, or delete it: the cases then get new pseudonyms.") from error

    def patient(self, patient_id: str, study_uid: str = "") -> str:
        """Pseudonym of a patient, e.g. ``"p4kq2mzc7ra"``; without a patient id, each study is a patient of its own."""
        known = patient_id.strip()
        return "p" + self._letters("patient" if known else "study", known or study_uid, PATIENT_LETTERS)

    def case_id(self, study_uid: str, patient_id: str) -> str:
        """Pseudonym of a study, which begins with that of its patient, e.g. ``"p4kq2mzc7ra-s3fw7hb"``."""
        return f"{self.patient(patient_id, study_uid)}-s{self._letters('study', study_uid, STUDY_LETTERS)}"

    def _letters(self, kind: str, name: str, count: int) -> str:
        digest = hmac.digest(self._secret, f"{kind}\0{name}".encode("utf-8", "surrogateescape"), "sha256")
        return base64.b32encode(digest).decode("ascii").lower()[:count]


def _write_secret(path: Path) -> None:
    """A new one, which nobody else can read at any moment."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as stream:
        stream.write(secrets.token_hex(SECRET_BYTES) + "\n")
