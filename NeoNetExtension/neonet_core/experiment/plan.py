"""What a training run will do: its stages, which of them are done, and how long the others take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from neonet_core.experiment.benchmark import Benchmark
from neonet_core.experiment.engines import Task
from neonet_core.experiment.fold import Progress
from neonet_core.experiment.graph import settings_of
from neonet_core.experiment.projection import parts_of_fold, seconds_of
from neonet_core.experiment.run import same_json
from neonet_core.training.files import read_json


@dataclass(frozen=True)
class PlannedStage:
    """One line of `neonet train --dry-run`.

    Attributes
    ----------
    fold, stage
    progress : Progress
    seconds_left : float or None
        None where nothing of the kind has been timed.
    """

    fold: int
    stage: str
    progress: Progress
    seconds_left: float | None


def plan(tasks: Sequence[Task], benchmark: Benchmark | None = None) -> list[PlannedStage]:
    """The state of each stage, and the time that is left: from its own finished epochs, from the same stage in other
    folds, or from the benchmark."""
    states = [task.training.progress(task.stage) for task in tasks]
    return [PlannedStage(task.training.fold.number, task.stage, state, _seconds_left(task, state, benchmark))
            for task, state in zip(tasks, states, strict=True)]


def _seconds_left(task: Task, progress: Progress, benchmark: Benchmark | None) -> float | None:
    if progress.state == "done":
        return 0.0
    epochs = settings_of(task.stage, task.training.preset).get("epochs")
    if progress.epochs and epochs:
        return max(epochs - progress.epochs, 0) * progress.seconds / progress.epochs
    timed = _seconds_elsewhere(task)
    if timed:
        return sum(timed) / len(timed)
    if benchmark is None:
        return None
    return seconds_of(task.stage, task.training.preset, benchmark, parts_of_fold(task.training.fold))


def _seconds_elsewhere(task: Task) -> list[float]:
    """What the same stage took in other folds, with the same settings."""
    run, timed = task.training.run, []
    for fold in run.fold_numbers():
        done = run.done(fold, task.stage)
        if done is not None and same_json(read_json(run.stage_folder(fold, task.stage) / "inputs.json")["settings"],
                                          settings_of(task.stage, task.training.preset)):
            timed.append(done["seconds"])
    return timed


def table(stages: Sequence[PlannedStage]) -> str:
    """The plan as text for people."""
    width = max(len(one.stage) for one in stages)
    lines = [f"fold {one.fold}  {one.stage:{width}}  {_state(one):28}  {_left(one)}".rstrip() for one in stages]
    left = [one for one in stages if one.progress.state != "done"]
    lines.append(f"{len(stages) - len(left)} of {len(stages)} stages are done, {len(left)} are left.")
    known = [one.seconds_left for one in left if one.seconds_left is not None]
    if known:
        rest = len(left) - len(known)
        lines.append(f"Time left for {'these' if rest == 0 else f'{len(known)} of these'}, one after the other: "
                     f"{duration(sum(known))}." + (f" {rest} have not been timed here yet." if rest else ""))
    elif left:
        lines.append("Nothing has been timed here yet: 'neonet benchmark' does, or the first fold.")
    return "\n".join(lines)


def _state(one: PlannedStage) -> str:
    if one.progress.state == "done":
        return f"done in {duration(one.progress.seconds)}"
    return f"cut off after epoch {one.progress.epochs}" if one.progress.state == "begun" else "to do"


def _left(one: PlannedStage) -> str:
    if one.progress.state == "done":
        return ""
    return "time unknown" if one.seconds_left is None else f"about {duration(one.seconds_left)}"


def duration(seconds: float) -> str:
    """``45 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
