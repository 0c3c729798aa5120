"""Where the stages of a run are trained: one after the other in this process, or as tasks of a Ray cluster.

Both do the same work from the same seeds. On a CPU sums depend on the number of threads, so that equal results to the
last digit need the same ``threads`` in both.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from neonet_core.classification.names import VARIANTS, VOLUME
from neonet_core.errors import NeoNetError
from neonet_core.events import Events
from neonet_core.experiment.fold import FoldTraining
from neonet_core.experiment.graph import classifier_of, needs, section_of
from neonet_core.training.device import choose_device

RETRIES = 5
"""How often Ray begins a stage again whose worker or node has died; it goes on from its checkpoint."""
DEFAULT_THREADS = 4
POLL_S = 0.5
PATIENCE_S = 120.0
"""How long to wait for a node that can take a stage; and for a worker that was given up, but still holds its stage."""
UNFINISHED = 0.99
"""The most that a stage counts for before it has ended."""


@dataclass(frozen=True)
class Task:
    """One stage of one fold."""

    training: FoldTraining
    stage: str

    @property
    def name(self) -> str:
        return f"fold {self.training.fold.number} {self.stage}"


Engine = Callable[[Sequence[Task], str, "int | None", Events], None]


def run_local(tasks: Sequence[Task], device: str, threads: int | None, events: Events) -> None:
    """Train one stage after the other in this process; `threads` None: as torch has it."""
    if threads is not None:
        torch.set_num_threads(threads)
    chosen = choose_device(device)
    for task in tasks:
        task.training.train(task.stage, chosen, events)


def run_ray(tasks: Sequence[Task], device: str, threads: int | None, events: Events) -> None:
    """Train stages as Ray tasks, as many at once as the cluster has room for; each waits for those that it needs.

    Uses the cluster that ``RAY_ADDRESS`` names, or else starts Ray on this machine. The run folder and the cohort must
    be seen under the same path by all nodes. A stage takes `threads` CPUs (None: `DEFAULT_THREADS`, or all of smaller
    nodes) and, where a node has GPUs and `device` allows, its share of one (`gpu_share`). A stage whose worker or node
    dies is begun again elsewhere, from its last checkpoint.

    Raises
    ------
    NeoNetError
        ``MISSING_PACKAGE`` without Ray; ``NO_CLUSTER``, also where no node can take a stage; what a stage raises;
        ``WORKER_DIED`` where it died too often.
    """
    try:
        import ray
    except ImportError:
        raise NeoNetError("MISSING_PACKAGE", "The engine 'ray' needs the package ray.",
                          "Install it: pip install 'neonet-core[cluster]'") from None
    own = not ray.is_initialized()
    if own:
        connect(ray)
    try:
        cpus, on_gpu = room(ray, device, threads, events)
        mailbox = _mailbox(ray)
        # a worker that lived on would keep the memory of a GPU that Ray takes for free; Ray sees to it by itself only
        # where the decorator names GPUs
        once: dict[str, Any] = {"max_calls": 1} if on_gpu else {}
        train = ray.remote(max_retries=RETRIES, **once)(_train)
        pending: dict[Any, Task] = {}
        found: dict[tuple[int, str], Any] = {}
        for task in tasks:
            number = task.training.fold.number
            before = [found[number, stage] for stage in needs(task.stage, task.training.preset)
                      if (number, stage) in found]
            share = gpu_share(task.stage) if on_gpu else 0
            own_device = "cpu" if on_gpu and not share else device  # it may be sent to a node without a GPU
            reference = train.options(num_cpus=cpus, num_gpus=share, name=task.name).remote(
                task, os.getcwd(), own_device, cpus, mailbox, *before)
            found[number, task.stage], pending[reference] = reference, task
        _follow(ray, pending, mailbox, events)
    finally:
        if own:
            ray.shutdown()


def gpu_share(stage: str) -> float:
    """How much of a GPU a stage takes: PattenNet learns from cached features, and the tumour's volume needs none."""
    if section_of(stage) != "cls":
        return 1
    model, _ = classifier_of(stage)
    return 0 if model == VOLUME else 0.25 if model in VARIANTS else 1


def room(ray: Any, device: str, threads: int | None, events: Events) -> tuple[int, bool]:
    """CPUs for each stage, and whether stages run on GPUs, from the largest node; the head may have none of either."""
    until = time.monotonic() + PATIENCE_S
    wants_gpu, told = device == "cuda", False
    while True:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        fitting = [node for node in nodes if node.get("CPU", 0) >= (threads or 1)
                   and (node.get("GPU", 0) >= 1 or not wants_gpu)]
        if fitting:
            cpus = threads or min(DEFAULT_THREADS, int(max(node["CPU"] for node in fitting)))
            return cpus, device in ("auto", "cuda") and any(node.get("GPU", 0) >= 1 for node in fitting)
        if time.monotonic() > until:
            raise NeoNetError("NO_CLUSTER", f"No node of the Ray cluster has {threads or 1} free CPUs"
                              f"{' and a GPU' if wants_gpu else ''}.", "Choose fewer --threads, or add nodes.")
        if not told:
            events.log("Waiting for a node that can take a stage.")
            told = True
        time.sleep(POLL_S)


def connect(ray: Any) -> None:
    """Join the cluster that RAY_ADDRESS names, or start one of this machine. Raises ``NO_CLUSTER``."""
    address = os.environ.get("RAY_ADDRESS")
    # without "local" Ray would look for what another command has left on this machine
    options = {} if address else {"address": "local", "include_dashboard": False}
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except ConnectionError as error:
        raise NeoNetError("NO_CLUSTER", f"There is no Ray cluster at {address or 'this machine'} that this "
                          "command may use.", "Start it with 'ray start --head'; where it asks for a token, "
                          "export RAY_AUTH_MODE=token first.") from error


def _train(task: Task, folder: str, device: str, threads: int, mailbox: Any, *before: bool) -> bool:
    """A Ray task. `folder` is where the command was given; `before` are the results of earlier stages, for which Ray
    waits."""
    os.chdir(folder)
    torch.set_num_threads(threads)
    task.training.train(task.stage, choose_device(device), _Posted(mailbox), wait_s=PATIENCE_S)
    return True


def _follow(ray: Any, pending: dict[Any, Task], mailbox: Any, events: Events) -> None:
    """Report until all is done; the first error ends the others, which another call resumes."""
    total, shares = len(pending), dict[str, float]()
    last = 0.0
    while pending:
        finished, _ = ray.wait(list(pending), timeout=POLL_S)
        _read(ray, mailbox, shares, events)
        for reference in finished:
            task = pending.pop(reference)
            _result(ray, reference, task)
            shares.pop(task.name, None)
            events.log(f"{task.name}: done ({total - len(pending)} of {total} stages)")
        running = sum(share for stage, share in shares.items() if stage in {task.name for task in pending.values()})
        if finished or time.monotonic() - last > POLL_S:
            last = time.monotonic()
            events.progress("stages", round(total - len(pending) + running, 2), total)
    _read(ray, mailbox, shares, events)


def _read(ray: Any, mailbox: Any, shares: dict[str, float], events: Events) -> None:
    """Pass the tasks' log on, and note how much of each is done."""
    for kind, fields in ray.get(mailbox.empty.remote()):
        if kind == "log":
            events.log(**fields)
        else:
            shares[fields["stage"]] = min(fields["done"] / max(fields["total"], 1), UNFINISHED)


def _result(ray: Any, reference: Any, task: Task) -> None:
    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        raise cause if isinstance(cause, NeoNetError) else error from None
    except ray.exceptions.RayError as error:
        raise NeoNetError("WORKER_DIED", f"{task.name}: its worker died {RETRIES + 1} times ({type(error).__name__}).",
                          "See that the nodes have memory enough; the same command goes on from the last checkpoint."
                          ) from error


def _mailbox(ray: Any) -> Any:
    """An actor on this node, so that it does not die with another; begun again if Ray ends it for want of memory."""
    strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(_Mailbox).options(num_cpus=0, scheduling_strategy=strategy, max_restarts=-1,
                                            max_task_retries=-1).remote()


class _Mailbox:
    """Progress and log of the tasks, until the driver fetches them."""

    def __init__(self) -> None:
        self._held: list[tuple[str, dict[str, Any]]] = []

    def post(self, kind: str, fields: dict[str, Any]) -> None:
        self._held.append((kind, fields))

    def empty(self) -> list[tuple[str, dict[str, Any]]]:
        held, self._held = self._held, []
        return held


class _Posted:
    """Events of a task, sent to the driver's mailbox."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    def progress(self, stage: str, done: float, total: float) -> None:
        self._mailbox.post.remote("progress", {"stage": stage, "done": done, "total": total})

    def log(self, message: str, level: str = "info") -> None:
        self._mailbox.post.remote("log", {"message": message, "level": level})

    def result(self, **fields: Any) -> None:
        raise AssertionError("a stage has no result of its own")

    def error(self, error: NeoNetError) -> None:
        raise AssertionError("a stage raises its errors")


ENGINES: dict[str, Engine] = {"local": run_local, "ray": run_ray}
