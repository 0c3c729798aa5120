"""What a running batch shows: a live table in a terminal, else events."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Protocol, TextIO

from neonet_core.batch.worker import Outcome
from neonet_core.events import Events, RemainingTime, Terminal

STAGE = "cases"
REFRESH_S = 0.5
MOST_ROWS = 16
"""Workers that are shown; a cluster may have more than a terminal has lines."""


class Display(Protocol):
    """A `backlog.Watcher` that shows things until it is closed."""

    def ready(self, worker: int) -> None: ...

    def started(self, worker: int, case_id: str) -> None: ...

    def finished(self, worker: int, outcome: Outcome) -> None: ...

    def lost(self, worker: int) -> None: ...

    def tick(self) -> None: ...

    def close(self) -> None: ...


class EventLines:
    """A display that reports by events: progress after each case, and a line for each."""

    def __init__(self, events: Events, total: int) -> None:
        self._events, self._total, self._finished = events, total, 0
        events.progress(STAGE, 0, total)

    def ready(self, worker: int) -> None:
        if self._finished == 0:
            self._events.progress(STAGE, 0, self._total)  # the time left is reckoned from here, without the loading

    def started(self, worker: int, case_id: str) -> None: ...

    def finished(self, worker: int, outcome: Outcome) -> None:
        self._finished += 1
        self._events.log(line_of(outcome), "info" if outcome.status == "done" else "warning")
        self._events.progress(STAGE, self._finished, self._total)

    def lost(self, worker: int) -> None:
        self._events.log(f"Worker {worker} has died; what it was at is tried once more.", "warning")

    def tick(self) -> None: ...

    def close(self) -> None: ...


class LiveTable:
    """A display that draws a table over itself: what each worker is at, how many cases are done, how long it takes.

    Cases that fail stay above the table.
    """

    def __init__(self, stream: TextIO, total: int) -> None:
        self._stream, self._total = stream, total
        self._counts = {"done": 0, "failed": 0, "left": 0}
        self._at_work: dict[int, tuple[str, float]] = {}
        self._begun = time.monotonic()
        self._seconds_left = RemainingTime()
        self._left: float | None = None
        self._left_at = self._begun
        self._lines, self._drawn = 0, 0.0
        self._draw()

    def ready(self, worker: int) -> None:
        self._at_work[worker] = "", time.monotonic()
        if not any(self._counts.values()):
            self._seconds_left(STAGE, 0, self._total)  # reckoned from here, without the loading of the models

    def started(self, worker: int, case_id: str) -> None:
        self._at_work[worker] = case_id, time.monotonic()

    def finished(self, worker: int, outcome: Outcome) -> None:
        self._counts[outcome.status] += 1
        self._left = self._seconds_left(STAGE, sum(self._counts.values()), self._total)
        self._left_at = time.monotonic()
        self._at_work[worker] = "", time.monotonic()
        self._draw([line_of(outcome)] if outcome.status != "done" else [])

    def lost(self, worker: int) -> None:
        self._at_work.pop(worker, None)
        self._draw([f"Worker {worker} has died; what it was at is tried once more."])

    def tick(self) -> None:
        if time.monotonic() - self._drawn >= REFRESH_S:
            self._draw()

    def close(self) -> None:
        self._erase()
        self._stream.flush()

    def _draw(self, above: Sequence[str] = ()) -> None:
        self._erase()
        width = shutil.get_terminal_size().columns - 1  # a line that wraps would not be erased
        lines = [line[:width] for line in self._table()]
        self._stream.write("".join(f"{line}\n" for line in [*above, *lines]))
        self._stream.flush()
        self._lines, self._drawn = len(lines), time.monotonic()

    def _erase(self) -> None:
        if self._lines:
            self._stream.write(f"\x1b[{self._lines}F\x1b[J")  # to the table's first line, and clear from there on
        self._lines = 0

    def _table(self) -> Iterable[str]:
        now = time.monotonic()
        finished = sum(self._counts.values())
        parts = [f"{finished} of {self._total} cases", f"{self._counts['failed']} failed"]
        if self._counts["left"]:
            parts.append(f"{self._counts['left']} left for later")
        left = None if self._left is None else max(self._left - (now - self._left_at), 0)
        parts += [f"{clock(now - self._begun)} gone", "about " + clock(left) + " left" if left is not None else
                  "time left not known yet"]
        yield "  ".join(parts)
        for worker in sorted(self._at_work)[:MOST_ROWS]:
            case_id, since = self._at_work[worker]
            yield f"  worker {worker:<3} {case_id[:40] or 'waits':<40} {clock(now - since):>8}"
        if len(self._at_work) > MOST_ROWS:
            yield f"  and {len(self._at_work) - MOST_ROWS} more workers"


def display_for(events: Events, total: int) -> Display:
    """A table where a person looks on, events for programs and files."""
    if isinstance(events, Terminal) and sys.stderr.isatty():
        return LiveTable(sys.stderr, total)
    return EventLines(events, total)


def line_of(outcome: Outcome) -> str:
    """A case's outcome in one line."""
    row = outcome.row
    if outcome.status == "done":
        score = "no score" if row["probability"] is None else f"score {row['probability']:.2f}"
        flags = f", {row['flags'].replace(';', ', ')}" if row["flags"] else ""
        return f"{outcome.case_id}: {score}{flags} ({row['seconds']:.1f} s)"
    word = "failed" if outcome.status == "failed" else "left for later"
    return f"{outcome.case_id}: {word}. {row['error_reason']} [{row['error_code']}]"


def clock(seconds: float) -> str:
    """``0:07``, ``12:30`` or ``3:05:00``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
