"""How long the stages of an experiment take, from the times that `neonet benchmark` has measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from neonet_core.classification.names import VARIANTS, VOLUME
from neonet_core.errors import NeoNetError
from neonet_core.experiment.graph import classifier_of, classifier_stage, needs, section_of, settings_of, stages_of_fold
from neonet_core.generation.synthesis import share_of
from neonet_core.presets import Preset
from neonet_core.training.files import sha256_of_json
from neonet_core.training.patches import VIEWS

if TYPE_CHECKING:
    from neonet_core.experiment.benchmark import Benchmark
    from neonet_core.experiment.fold import Fold
    from neonet_core.experiment.measurement import StageTime

HOW_OFTEN = {"epochs", "validate_every", "patience", "patches_per_case", "evaluation_samples", "learning_rate",
             "weight_decay", "schedule"}
"""Settings that do not change how long a case takes."""


@dataclass(frozen=True)
class Parts:
    """How many cases there are in each part of a fold.

    Attributes
    ----------
    lacking : int
        Synthetic cases by which the learning cases become 1:1.
    """

    learning: int
    stopping: int
    validation: int
    lacking: int


@dataclass(frozen=True)
class Projection:
    """Hours of each stage, all folds together; None for a stage that was not measured."""

    hours: dict[str, float | None]

    @property
    def total(self) -> float:
        """Hours of all that was measured, one stage after the other."""
        return sum(hours for hours in self.hours.values() if hours is not None)

    @property
    def unknown(self) -> list[str]:
        """The stages that were not measured."""
        return [stage for stage, hours in self.hours.items() if hours is None]


def measured_stage(stage: str) -> str:
    """The stage under which `stage` is measured: a classifier's cases take equally long, real or synthetic."""
    return classifier_stage(classifier_of(stage)[0]) if section_of(stage) == "cls" else stage


def work_of(stage: str, preset: Preset) -> str:
    """A hash of the settings on which the seconds of a case depend: where it differs, a benchmark says nothing."""
    stage = measured_stage(stage)
    settings: dict[str, Any] = {name: {key: value for key, value in settings_of(name, preset).items()
                                       if key not in HOW_OFTEN}
                                for name in (stage, *needs(stage, preset))}
    return sha256_of_json({"settings": settings, "size": preset.crop.size})


def parts_of_fold(fold: Fold) -> Parts:
    """The parts of a fold that is there."""
    outcomes = [case.outcome for case in fold.learning]
    return Parts(len(fold.learning), len(fold.stopping), len(fold.validation),
                 abs(outcomes.count(0) - outcomes.count(1)))


def usual_parts(preset: Preset, cases: int, positives: int) -> Parts:
    """The parts of a fold of a cohort of that size.

    Raises
    ------
    NeoNetError
        ``BAD_ARGUMENT`` where no such cohort can be split.
    """
    if not (0 < positives < cases and cases >= 2 * preset.folds):
        raise NeoNetError("BAD_ARGUMENT", f"{cases} cases, {positives} of them positive, cannot be split into "
                          f"{preset.folds} folds.", "Example: --cases 128 --positives 44")
    validation = round(cases / preset.folds)
    training = cases - validation
    stopping = validation if preset.protocol == "paper" else round(training * preset.inner_fraction)
    learning = training if preset.protocol == "paper" else training - stopping
    return Parts(learning, stopping, validation, round(abs(cases - 2 * positives) * learning / cases))


def seconds_of(stage: str, preset: Preset, benchmark: Benchmark, parts: Parts) -> float | None:
    """Seconds of a stage of one fold; None where it was not measured, or with other networks or sizes.

    A classifier may stop earlier, for want of patience: its seconds are those of all epochs. Preparing the cases
    (once for an experiment) is not in it, nor is NeoGen's validation, below 3 % of its training.
    """
    if stage == classifier_stage(VOLUME):
        return 0.0  # a logistic regression
    time = benchmark.time_of(measured_stage(stage))
    if time is None or time.work != work_of(stage, preset):
        return None
    if section_of(stage) == "synth":
        # the samples without ControlNet are drawn somewhat faster
        judged = 2 * min(preset.synth.evaluation_samples, parts.validation)
        return time.seconds_per_case * (judged + (parts.lacking if stage == "synth-vae" else 0))
    settings = settings_of(stage, preset)
    return (settings["epochs"] * _cases_of_epoch(stage, settings, parts) * time.seconds_per_case
            + _encoded(stage, preset, settings, parts) * time.seconds_once + _checks(time, settings, parts))


def _cases_of_epoch(stage: str, settings: dict[str, Any], parts: Parts) -> int:
    if section_of(stage) == "cls":
        repeated = parts.lacking if settings.get("balance") == "duplicate" else 0
        return _classifier_cases(stage, parts) + repeated
    return parts.learning * settings.get("patches_per_case", 1)


def _classifier_cases(stage: str, parts: Parts) -> int:
    return parts.learning + share_of(parts.lacking, classifier_of(stage)[1])


def _encoded(stage: str, preset: Preset, settings: dict[str, Any], parts: Parts) -> int:
    """How many patches the frozen encoder meets, each mirrored view counted."""
    views = len(VIEWS) if settings.get("flips") else 1
    rigorous = preset.protocol != "paper"
    if section_of(stage) in ("ldm", "controlnet"):
        return parts.learning * views + (parts.stopping if rigorous else 0)
    if section_of(stage) == "cls" and classifier_of(stage)[0] in VARIANTS:
        # once more for the predictions, and for the threshold
        scored = parts.validation + (parts.stopping if rigorous else parts.learning)
        return _classifier_cases(stage, parts) * views + parts.stopping + scored
    return 0


def _checks(time: StageTime, settings: dict[str, Any], parts: Parts) -> float:
    """Seconds of the whole volumes that NeoSeg segments to pick the epoch, and for its Dice."""
    if time.seconds_per_volume == 0:
        return 0.0
    times = -(-settings["epochs"] // settings["validate_every"])
    return time.seconds_per_volume * (times * parts.stopping + parts.validation)


def project(benchmark: Benchmark, preset: Preset, cases: int, positives: int, stages: Sequence[str] | None = None,
            models: Sequence[str] | None = None) -> Projection:
    """Hours of the whole protocol on a cohort: all folds, stages, models and shares of synthetic cases.

    Parameters
    ----------
    stages, models
        As in `neonet train`; None: those of the preset.

    Raises
    ------
    NeoNetError
        ``BAD_ARGUMENT``.
    """
    parts = usual_parts(preset, cases, positives)
    names = stages_of_fold(preset, preset.stages if stages is None else stages,
                           preset.models if models is None else models, preset.ratios)
    seconds = {name: seconds_of(name, preset, benchmark, parts) for name in names}
    return Projection({name: None if value is None else value * preset.folds / 3600
                       for name, value in seconds.items()})
