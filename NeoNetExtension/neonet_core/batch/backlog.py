"""The cases that are still to be run, whatever runs them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from neonet_core.batch.inputs import BatchCase
from neonet_core.batch.worker import Job, Outcome
from neonet_core.errors import NeoNetError

TRIES = 2
"""How often a case is begun whose worker dies."""


class Watcher(Protocol):
    """Who is told what the workers do; `worker` is its number."""

    def ready(self, worker: int) -> None: ...

    def started(self, worker: int, case_id: str) -> None: ...

    def finished(self, worker: int, outcome: Outcome) -> None: ...

    def lost(self, worker: int) -> None: ...

    def tick(self) -> None: ...


class Backlog:
    """Hands out cases. One whose worker died is handed out again, after all others; then it has failed.

    Parameters
    ----------
    cases : iterable of BatchCase
    failed : callable
        Makes a failed case's outcome of its error.
    """

    def __init__(self, cases: Iterable[BatchCase], failed: Callable[[BatchCase, NeoNetError], Outcome]) -> None:
        self._waiting = deque(cases)
        self._failed = failed
        self._deaths: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self) -> BatchCase:
        return self._waiting.popleft()

    def worker_died(self, case: BatchCase) -> Outcome | None:
        """The case's outcome, or None where it will be tried again."""
        self._deaths[case.case_id] = self._deaths.get(case.case_id, 0) + 1
        if self._deaths[case.case_id] < TRIES:
            self._waiting.append(case)
            return None
        return self._failed(case, NeoNetError(
            "WORKER_DIED", f"The worker died {TRIES} times while it was at this case, perhaps for want of memory.",
            "Run it with fewer --workers: --retry-failed."))


Engine = Callable[[Backlog, Job, int | None, Watcher], None]
"""Runs a backlog with so many workers (None: as it sees fit), and returns when all cases have an outcome."""


def never_ready(deaths: int) -> NeoNetError:
    """The error for workers that die before they can take a case."""
    return NeoNetError("WORKER_DIED", f"{deaths} workers died while they loaded the models.",
                       "See that there is memory enough, or choose fewer --workers; what is done is kept.")
