"""`neonet benchmark`: how long each stage of a preset takes on this machine.

Every stage is trained for a few steps by the function that trains it in earnest, on random patches of the preset's own
size: the time does not depend on what is in them, nor on the weights.
"""

from __future__ import annotations

import gc
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from pydantic import TypeAdapter, ValidationError

from neonet_core.classification.names import VOLUME
from neonet_core.errors import NeoNetError
from neonet_core.events import Events, Silent
from neonet_core.experiment.graph import classifier_stage, stages_of_fold
from neonet_core.experiment.measurement import VOLUME_SHAPE, Measurement, StageTime
from neonet_core.experiment.projection import Projection, measured_stage, project, usual_parts
from neonet_core.experiment.run import environment
from neonet_core.presets import Preset
from neonet_core.training.device import choose_device, is_out_of_memory
from neonet_core.training.files import read_json, write_json

BENCHMARK_FORMAT = 1
SECONDS_PER_STAGE = 10.0


@dataclass(frozen=True)
class Benchmark:
    """What the stages of a preset take on one machine.

    Attributes
    ----------
    preset : str
        Its name.
    device : str
        In words; no host name.
    failures : dict
        The stages that could not be measured, and why.
    """

    preset: str
    device: str
    threads: int
    versions: dict[str, str]
    times: tuple[StageTime, ...]
    failures: dict[str, str]

    def time_of(self, stage: str) -> StageTime | None:
        """The time of a measured stage (`projection.measured_stage`)."""
        return next((one for one in self.times if one.stage == stage), None)

    def to_json(self) -> dict[str, Any]:
        return {"format": BENCHMARK_FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, content: Any) -> Benchmark:
        """Raises ``BAD_BENCHMARK``."""
        if not isinstance(content, dict) or content.get("format") != BENCHMARK_FORMAT:
            raise _bad_benchmark("it has not the form of one")
        try:
            return TypeAdapter(cls).validate_python(content)
        except ValidationError as error:
            first = error.errors()[0]
            raise _bad_benchmark(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error

    def write(self, path: Path) -> None:
        write_json(path, self.to_json())

    @classmethod
    def read(cls, path: Path) -> Benchmark:
        """Raises ``BAD_BENCHMARK``."""
        try:
            content = read_json(path)
        except (OSError, ValueError) as error:
            raise _bad_benchmark(f"{path} cannot be read") from error
        return cls.from_json(content)


def _bad_benchmark(why: str) -> NeoNetError:
    return NeoNetError("BAD_BENCHMARK", f"This is no file of 'neonet benchmark': {why}.",
                       "Make one with 'neonet benchmark --out benchmark.json'.")


def run_benchmark(preset: Preset, *, stages: Sequence[str] | None = None, models: Sequence[str] | None = None,
                  cases: int = 128, positives: int = 44, device: str = "auto", threads: int | None = None,
                  out: Path | None = None, events: Events | None = None,
                  seconds_per_stage: float = SECONDS_PER_STAGE) -> tuple[Benchmark, Projection]:
    """Measure, write ``benchmark.json``, and log the table with the hours of a cohort.

    Parameters
    ----------
    cases, positives : int
        Of the cohort; by default those of the paper's.
    out : Path or None
        None: no file is written.
    stages, models, device, threads, seconds_per_stage
        See `measure`.

    Raises
    ------
    NeoNetError
        ``BAD_ARGUMENT``, ``NO_DEVICE``.
    """
    events = events or Silent()
    usual_parts(preset, cases, positives)  # said before the minutes of measuring
    benchmark = measure(preset, stages=stages, models=models, device=device, threads=threads, events=events,
                        seconds_per_stage=seconds_per_stage)
    if out is not None:
        benchmark.write(out)
    projection = project(benchmark, preset, cases, positives, stages, models)
    events.log(table(benchmark, projection, preset, cases, positives))
    return benchmark, projection


def table(benchmark: Benchmark, projection: Projection, preset: Preset, cases: int, positives: int) -> str:
    """Times and projected hours as text for people."""
    width = max(len(stage) for stage in (*(one.stage for one in benchmark.times), *benchmark.failures, "stage"))
    lines = [f"Preset {benchmark.preset} on {benchmark.device}, {benchmark.threads} CPU threads.",
             f"{'stage':{width}}  {'seconds':>9}  {'for each':15}  {'encoding':>9}  {'hours':>9}"]
    for one in benchmark.times:
        hours = [value for stage, value in projection.hours.items()
                 if value is not None and measured_stage(stage) == one.stage]
        once = f"{one.seconds_once:9.3g}" if one.seconds_once else f"{'':9}"
        lines.append(f"{one.stage:{width}}  {one.seconds_per_case:9.3g}  {one.what:15}  {once}  "
                     f"{_hours(sum(hours)):>9}")
    lines += [f"{stage:{width}}  {why}" for stage, why in benchmark.failures.items()]
    lines += [f"{_hours(projection.total)} hours in all for {cases} cases, {positives} of them positive: "
              f"{preset.folds} folds, one stage after the other, every share of synthetic cases.",
              "Encoding: once for each patch and view. Classifiers may stop earlier, for want of patience.",
              f"NeoSeg's hours are for volumes of {' x '.join(map(str, VOLUME_SHAPE))} voxels."]
    if projection.unknown:
        lines.append(f"Not in it, not measured: {', '.join(projection.unknown)}.")
    return "\n".join(lines)


def _hours(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def measure(preset: Preset, *, stages: Sequence[str] | None = None, models: Sequence[str] | None = None,
            device: str = "auto", threads: int | None = None, events: Events | None = None,
            seconds_per_stage: float = SECONDS_PER_STAGE) -> Benchmark:
    """Measure what each stage takes here, in a temporary folder.

    The first epoch, of one or a few batches, warms up and does not count. A stage that cannot be built, or for which
    memory does not suffice, is named in `Benchmark.failures`.

    Parameters
    ----------
    stages, models
        As in `neonet train`; None: those of the preset.
    threads : int or None
        CPU threads; None: as torch has it.
    seconds_per_stage : float
        For how long a stage's epochs are timed; one of them in any case.

    Raises
    ------
    NeoNetError
        ``BAD_ARGUMENT``, ``NO_DEVICE``.
    """
    events = events or Silent()
    if threads is not None and threads < 1:
        raise NeoNetError("BAD_ARGUMENT", f"{threads} threads cannot compute.", "Choose --threads 1 or more.")
    chosen = choose_device(device)
    names = stages_of_fold(preset, preset.stages if stages is None else stages,
                           preset.models if models is None else models, ratios=(0,))
    names = [name for name in names if name != classifier_stage(VOLUME)]
    times, failures = list[StageTime](), dict[str, str]()
    with _threads(threads):
        for number, name in enumerate(names):
            def report(share: float, done: int = number) -> None:
                events.progress("benchmark", round(done + share, 2), len(names))

            report(0)
            measured = _measured(Measurement(name, preset, chosen, seconds_per_stage, report))
            if isinstance(measured, StageTime):
                times.append(measured)
                events.log(f"{name}: {measured.seconds_per_case:.3g} s for each {measured.what}")
            else:
                failures[name] = measured
                events.log(f"{name}: {measured}", "warning")
        events.progress("benchmark", len(names), len(names))
        versions = environment()
        return Benchmark(preset.name, device_name(chosen), torch.get_num_threads(),
                         {"neonet": versions["neonet"], "python": versions["python"], **versions["packages"]},
                         tuple(times), failures)


def _measured(measurement: Measurement) -> StageTime | str:
    """The stage's time, or why there is none: the other stages are measured all the same."""
    try:
        with _memory_bound(measurement.device):
            return measurement.run()
    except NeoNetError as error:
        return error.message
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return "there is not enough memory for this stage"
    finally:
        gc.collect()
        if measurement.device.type == "cuda":
            torch.cuda.empty_cache()


def device_name(device: torch.device) -> str:
    """What computes, in words: the GPU's name, or the processor's kind."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type.upper()} ({platform.processor() or platform.machine()})"


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _memory_bound(device: torch.device) -> Iterator[None]:
    """Let an allocation that goes beyond the free memory fail: without this, Linux ends the process, or another's."""
    if sys.platform != "linux" or device.type != "cpu":
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    room = psutil.Process().memory_info().data + psutil.virtual_memory().available
    resource.setrlimit(resource.RLIMIT_DATA, (room if before[1] < 0 else min(room, before[1]), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
