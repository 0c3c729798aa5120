"""Workers as processes of this machine.

Each is a fresh process (not forked: a fork of a process that has used torch's threads may hang) with a pipe of its own,
so that one that is killed, by whom and whenever, harms none of the others.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection, wait
from typing import Any

from neonet_core.batch.backlog import Backlog, Watcher, never_ready
from neonet_core.batch.inputs import BatchCase
from neonet_core.batch.worker import Job, Outcome, Worker, be_quiet
from neonet_core.errors import NeoNetError

TICK_S = 0.5
MOST_DEATHS_AT_START = 3
PATIENCE_S = 10.0
"""How long an idle worker may take to end."""


def run_local(backlog: Backlog, job: Job, workers: int | None, watcher: Watcher) -> None:
    """Run the cases by `workers` processes (None: one).

    Raises
    ------
    NeoNetError
        What a `Worker` raises where it cannot load its models; ``WORKER_DIED`` where the system ends it then.
    """
    crew = _Crew(job, min(workers or 1, len(backlog)), watcher)
    try:
        while len(backlog) or crew.busy:
            crew.give_work(backlog)
            crew.listen(backlog)
            watcher.tick()
    except BaseException:
        crew.kill()
        raise
    crew.dismiss()


class _Member:
    """A worker's process, seen from outside."""

    def __init__(self, context: Any, job: Job, number: int) -> None:
        self.number = number
        self.case: BatchCase | None = None
        self.is_ready = False
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(job, theirs), daemon=True)
        self.process.start()
        theirs.close()  # so that its end is seen here


class _Crew:
    """All workers; those that die are replaced."""

    def __init__(self, job: Job, count: int, watcher: Watcher) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._job, self._watcher = job, watcher
        self._deaths_at_start = 0
        self._members = [self._hired(number) for number in range(1, count + 1)]

    def _hired(self, number: int) -> _Member:
        return _Member(self._context, self._job, number)

    @property
    def busy(self) -> bool:
        return any(member.case is not None for member in self._members)

    def give_work(self, backlog: Backlog) -> None:
        """A case to each worker that waits for one."""
        for member in self._members:
            if member.is_ready and member.case is None and len(backlog):
                member.case = backlog.take()
                self._watcher.started(member.number, member.case.case_id)
                with contextlib.suppress(OSError):  # it has died: `listen` sees it
                    member.pipe.send(member.case)

    def listen(self, backlog: Backlog) -> None:
        """Hear what the workers have to say, for at most `TICK_S`."""
        for pipe in wait([member.pipe for member in self._members], timeout=TICK_S):
            member = next(one for one in self._members if one.pipe is pipe)
            try:
                self._heard(member, member.pipe.recv())
            except (EOFError, OSError):
                self._replace(member, backlog)

    def _heard(self, member: _Member, message: Outcome | NeoNetError | None) -> None:
        if isinstance(message, NeoNetError):
            raise message
        if message is None:
            member.is_ready, self._deaths_at_start = True, 0
            self._watcher.ready(member.number)
        else:
            member.case = None
            self._watcher.finished(member.number, message)

    def _replace(self, member: _Member, backlog: Backlog) -> None:
        self._watcher.lost(member.number)
        member.process.join()
        self._members.remove(member)
        if member.case is not None:
            outcome = backlog.worker_died(member.case)
            if outcome is not None:
                self._watcher.finished(member.number, outcome)
        if not member.is_ready:
            self._deaths_at_start += 1
            if self._deaths_at_start >= MOST_DEATHS_AT_START:
                raise never_ready(self._deaths_at_start)
        if len(backlog):
            self._members.append(self._hired(member.number))

    def dismiss(self) -> None:
        """Let all end: a worker whose pipe is closed has nothing left to do."""
        for member in self._members:
            member.pipe.close()
        for member in self._members:
            member.process.join(PATIENCE_S)
        self.kill()

    def kill(self) -> None:
        for member in self._members:
            member.process.kill()
            member.process.join()


def _serve(job: Job, pipe: Connection) -> None:
    """A worker's life: None as soon as it is ready, then an outcome for each case."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of a terminal; the parent ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    be_quiet()
    try:
        worker = Worker(job)
    except Exception as error:
        pipe.send(error if isinstance(error, NeoNetError) else NeoNetError(
            "WORKER_DIED", f"A worker could not load its models: {type(error).__name__}.",
            "Try 'neonet predict' with the same bundle, which says more."))
        return
    pipe.send(None)
    while True:
        try:
            case = pipe.recv()
        except EOFError:
            return
        pipe.send(worker.run(case))


def _end_with_parent() -> None:
    """A killed parent can tell nobody; what a worker is at is then given up, as nobody would note it down."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has a parent"
    wait([parent.sentinel])
    os._exit(1)
