"""Workers as actors of a Ray cluster, each with the models on its GPU."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from neonet_core.batch.backlog import Backlog, Watcher, never_ready
from neonet_core.batch.inputs import BatchCase
from neonet_core.batch.worker import Job, Outcome, Worker, be_quiet
from neonet_core.errors import NeoNetError
from neonet_core.events import Silent

POLL_S = 0.5
MOST_DEATHS_AT_START = 5


def run_ray(backlog: Backlog, job: Job, workers: int | None, watcher: Watcher) -> None:
    """Run the cases by `workers` actors (None: as many as the cluster has room for).

    Uses the cluster that ``RAY_ADDRESS`` names, or else starts Ray on this machine. An actor takes ``job.threads`` CPUs
    and, where nodes have GPUs and the device allows, one GPU, or its share where there are more workers than GPUs. The
    inputs, the bundle and the batch's folder must be seen under the same path by all nodes.

    Raises
    ------
    NeoNetError
        ``MISSING_PACKAGE``, ``NO_CLUSTER``, and what `local.run_local` raises.
    """
    from neonet_core.experiment import engines

    try:
        import ray
    except ImportError:
        raise NeoNetError("MISSING_PACKAGE", "The engine 'ray' needs the package ray.",
                          "Install it: pip install 'neonet-core[cluster]'") from None
    own = not ray.is_initialized()
    if own:
        engines.connect(ray)
    try:
        cpus, on_gpu = engines.room(ray, job.device, job.threads, Silent())
        room = ray.cluster_resources()
        gpus = int(room.get("GPU", 0)) if on_gpu else 0
        count = min(len(backlog), workers or max(gpus or int(room["CPU"] // cpus), 1))
        share = 1 / math.ceil(count / gpus) if gpus else 0
        actor = ray.remote(_Actor).options(num_cpus=cpus, num_gpus=share, max_restarts=0)
        _Crew(ray, actor, replace(job, threads=cpus), count, watcher).run(backlog)
    finally:
        if own:
            ray.shutdown()


class _Actor:
    """A worker on some node."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def load(self) -> None:
        be_quiet()
        self._worker = Worker(self._job)

    def run(self, case: BatchCase) -> Outcome:
        return self._worker.run(case)


class _Crew:
    """All actors. What each is at is a reference: None while it loads its models, then its case."""

    def __init__(self, ray: Any, actor: Any, job: Job, count: int, watcher: Watcher) -> None:
        self._ray, self._actor, self._job, self._watcher = ray, actor, job, watcher
        self._at_work: dict[Any, tuple[int, Any, BatchCase | None]] = {}
        self._idle: list[tuple[int, Any]] = []
        self._deaths_at_start = 0
        for number in range(1, count + 1):
            self._hire(number)

    def _hire(self, number: int) -> None:
        """An actor that the cluster has no room for waits until it has, and gets no case before."""
        handle = self._actor.remote(self._job)
        self._at_work[handle.load.remote()] = number, handle, None

    def run(self, backlog: Backlog) -> None:
        while len(backlog) or any(case for _, _, case in self._at_work.values()):
            while self._idle and len(backlog):
                number, handle = self._idle.pop()
                case = backlog.take()
                self._at_work[handle.run.remote(case)] = number, handle, case
                self._watcher.started(number, case.case_id)
            finished, _ = self._ray.wait(list(self._at_work), timeout=POLL_S)
            for reference in finished:
                self._finish(reference, backlog)
            self._watcher.tick()
        for _, handle in [*self._idle, *((number, handle) for number, handle, _ in self._at_work.values())]:
            self._ray.kill(handle)

    def _finish(self, reference: Any, backlog: Backlog) -> None:
        number, handle, case = self._at_work.pop(reference)
        exceptions = self._ray.exceptions
        try:
            outcome = self._ray.get(reference)
        except exceptions.RayTaskError as error:  # `Worker.run` raises nothing: it could not load its models
            cause = error.cause
            raise cause if isinstance(cause, NeoNetError) else error from None
        except exceptions.RayError:
            self._lost(number, case, backlog)
            return
        self._idle.append((number, handle))
        if case is None:
            self._deaths_at_start = 0
            self._watcher.ready(number)
        else:
            self._watcher.finished(number, outcome)

    def _lost(self, number: int, case: BatchCase | None, backlog: Backlog) -> None:
        """Its process, its node or its machine has died."""
        self._watcher.lost(number)
        if case is None:
            self._deaths_at_start += 1
            if self._deaths_at_start >= MOST_DEATHS_AT_START:
                raise never_ready(self._deaths_at_start)
        else:
            outcome = backlog.worker_died(case)
            if outcome is not None:
                self._watcher.finished(number, outcome)
        if len(backlog):
            self._hire(number)

