"""What a command tells the outside while it runs: progress, log lines, results and errors.

One schema for every command (`--json` prints one object a line on stdout):

=========== ==========================================================================================
``event``   further fields
=========== ==========================================================================================
progress    ``stage`` (str), ``done`` (number), ``total`` (number), ``seconds_left`` (number or null)
log         ``level`` ("info" or "warning"), ``message`` (str)
result      the fields that the command's documentation names
error       ``code`` (str), ``message`` (str), ``hint`` (str)
=========== ==========================================================================================

Imports the standard library alone, so that Slicer's modules may use it in process.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TextIO, TypeVar

from neonet_core.errors import NeoNetError

T = TypeVar("T")

BAR = "{desc:<32}{percentage:3.0f}%|{bar:30}| {n:g}/{total:g} [{elapsed}<{remaining}]"  # in tqdm's words


class Events(Protocol):
    """Where a running command reports to."""

    def progress(self, stage: str, done: float, total: float) -> None: ...

    def log(self, message: str, level: str = "info") -> None: ...

    def result(self, **fields: Any) -> None: ...

    def error(self, error: NeoNetError) -> None: ...


class Silent:
    """Reports nothing: the default of library calls."""

    def progress(self, stage: str, done: float, total: float) -> None:
        pass

    def log(self, message: str, level: str = "info") -> None:
        pass

    def result(self, **fields: Any) -> None:
        pass

    def error(self, error: NeoNetError) -> None:
        pass


class RemainingTime:
    """Seconds left of each stage, from the mean pace since the stage began (or began again)."""

    def __init__(self) -> None:
        self._begun: dict[str, tuple[float, float]] = {}

    def __call__(self, stage: str, done: float, total: float) -> float | None:
        now = time.monotonic()
        started, done_then = self._begun.get(stage, (now, done))
        if done <= done_then:
            self._begun[stage] = now, done
            return None
        return round((now - started) / (done - done_then) * max(total - done, 0), 1)


class JsonLines:
    """One JSON object a line: for programs (Slicer's job, `--json`) and for log files."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stdout
        self._seconds_left = RemainingTime()

    def _write(self, event: str, **fields: Any) -> None:
        self._stream.write(json.dumps({"event": event, **fields}, default=str) + "\n")
        self._stream.flush()

    def progress(self, stage: str, done: float, total: float) -> None:
        self._write("progress", stage=stage, done=done, total=total,
                    seconds_left=self._seconds_left(stage, done, total))

    def log(self, message: str, level: str = "info") -> None:
        self._write("log", level=level, message=message)

    def result(self, **fields: Any) -> None:
        self._write("result", **fields)

    def error(self, error: NeoNetError) -> None:
        self._write("error", code=error.code, message=error.message, hint=error.hint)


class Terminal:
    """For people: a progress bar on stderr while a stage runs, results on stdout."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._stage = ""

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar, self._stage = None, ""

    def progress(self, stage: str, done: float, total: float) -> None:
        if self._stage != stage:
            from tqdm import tqdm

            self._close_bar()
            self._stage = stage
            self._bar = tqdm(total=total, desc=stage, file=sys.stderr, mininterval=0.5, bar_format=BAR)
        self._bar.total = total
        self._bar.update(done - self._bar.n)
        if done >= total:
            self._close_bar()

    def log(self, message: str, level: str = "info") -> None:
        text = message if level == "info" else f"{level}: {message}"
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr)

    def result(self, **fields: Any) -> None:
        self._close_bar()
        print("\n".join(_lines(fields)))

    def error(self, error: NeoNetError) -> None:
        self._close_bar()
        print(f"neonet: {error.message}" + (f" {error.hint}" if error.hint else "") + f" [{error.code}]",
              file=sys.stderr)


def _lines(fields: dict[str, Any], indent: str = "") -> Iterator[str]:
    """``name: value`` a line; nested fields are indented, floats have four digits."""
    for name, value in fields.items():
        label = f"{indent}{str(name).replace('_', ' ')}:"
        if isinstance(value, dict):
            yield label
            yield from _lines(value, indent + "  ")
        elif value is not None and not (isinstance(value, list | tuple) and not value):
            yield f"{label} {_short(value)}"


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_short, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def track(items: Iterable[T], stage: str, events: Events, total: int | None = None) -> Iterator[T]:
    """Yield `items` and report how many are done after each."""
    count = total if total is not None else len(items)  # type: ignore[arg-type]
    events.progress(stage, 0, count)
    for done, item in enumerate(items, start=1):
        yield item
        events.progress(stage, done, count)
