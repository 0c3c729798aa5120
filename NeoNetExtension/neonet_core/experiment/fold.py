"""One fold: its parts, and the stages that are trained on them.

A stage's inputs (settings, seed, cases, the outputs of the stages before it) decide whether it has to be run again;
see `run.run_stage`.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import torch

from neonet_core.bundle import Bundle
from neonet_core.cohort import Case, Cohort, Folds, QualityReport, inner_split
from neonet_core.errors import NeoNetError
from neonet_core.events import Events
from neonet_core.experiment.graph import needs, section_of, settings_of
from neonet_core.experiment.run import Run, outputs_hash, run_stage
from neonet_core.preprocessing import resolve_spacing
from neonet_core.presets import Preset
from neonet_core.training.files import read_json, sha256_of_file, sha256_of_json
from neonet_core.training.loop import derive_seed
from neonet_core.training.prepared import PreparedCohort


@dataclass(frozen=True)
class Fold:
    """The cases of a fold by their part.

    Attributes
    ----------
    learning : tuple of Case
        Gradients come from these alone.
    stopping : tuple of Case
        Pick the epoch: an inner part of the training patients (``rigorous``) or the validation part (``paper``).
    validation : tuple of Case
        The reported figures come from these.
    """

    number: int
    learning: tuple[Case, ...]
    stopping: tuple[Case, ...]
    validation: tuple[Case, ...]

    @property
    def training(self) -> tuple[Case, ...]:
        """All training patients: statistics may be fitted on these."""
        held_out = {case.case_id for case in self.validation}
        return self.learning + tuple(case for case in self.stopping if case.case_id not in held_out)


def split_fold(cohort: Cohort, folds: Folds, number: int, preset: Preset) -> Fold:
    """Divide a fold by the preset's protocol; no patient is in two parts, but for ``paper``'s stopping = validation."""
    validation = tuple(case for case in cohort if case.case_id in set(folds.validation[number]))
    training = tuple(case for case in cohort if case.case_id in set(folds.training(number)))
    if preset.protocol == "paper":
        return Fold(number, training, validation, validation)
    learning, stopping = inner_split(training, preset.inner_fraction, derive_seed(folds.seed, number))
    return Fold(number, learning, stopping, validation)


def case_identities(report: QualityReport) -> dict[str, str]:
    """Content of each case's image and label map, and what the labels stand for, as one string."""
    identities = {}
    for case in report.included:
        assert case.label_map is not None, "quality control leaves out cases without label map"
        identities[case.case_id] = f"{report.facts[case.case_id].sha256}-{sha256_of_file(case.label_map)}"
        if case.label_values is not None:
            identities[case.case_id] += f"-{sorted(case.label_values.items())}"
    return identities


@dataclass(frozen=True)
class Progress:
    """How far a stage is.

    Attributes
    ----------
    state : "done", "begun" or "to do"
    epochs : int
        Finished epochs of a stage that was cut off.
    seconds : float
        What it has taken so far.
    """

    state: str
    epochs: int = 0
    seconds: float = 0.0


class FoldTraining:
    """A fold's stages: what they depend on, which are done, and their training.

    Holds no open file and no network, so that another process may be given it.

    Parameters
    ----------
    identities : dict
        Of `case_identities`.
    start : Bundle or None
        From whose weights NeoSeg starts.
    """

    def __init__(self, run: Run, fold: Fold, report: QualityReport, identities: dict[str, str], preset: Preset,
                 seed: int, start: Bundle | None = None) -> None:
        self.run, self.fold, self.preset, self.seed, self.start = run, fold, preset, seed, start
        self.prepared = PreparedCohort(run.folder / "prepared", identities)
        spacings = [report.facts[case.case_id].spacing for case in fold.training]
        self.seg_spacing = resolve_spacing(preset.seg.spacing, spacings)
        self.crop_spacing = resolve_spacing(preset.crop.spacing, spacings)
        self._identities = {case.case_id: identities[case.case_id]
                            for case in (*fold.learning, *fold.stopping, *fold.validation)}

    def data(self) -> dict[str, Any]:
        """What all stages of the fold depend on: the seed; content, outcome and patient of each case by part; the grids
        of segmentation and of crops."""
        parts = {part: {case.case_id: [self._identities[case.case_id], case.outcome, case.patient_id]
                        for case in getattr(self.fold, part)} for part in ("learning", "stopping", "validation")}
        return {"seed": self.seed, "cases": parts, "spacing": {"seg": self.seg_spacing, "crop": self.crop_spacing}}

    def inputs(self, stage: str) -> dict[str, Any]:
        """What a stage depends on: the fold's data, its own settings, the outputs of the stages before."""
        data, section = self.data(), section_of(stage)
        inputs = {"seed": data["seed"], "fold": self.fold.number, "cases": data["cases"],
                  "settings": settings_of(stage, self.preset),
                  "spacing": data["spacing"]["seg" if section == "seg" else "crop"]}
        if section == "seg":
            return inputs if self.start is None else inputs | {"init": self.start.hash}
        before = needs(stage, self.preset)
        return (inputs | {"crop": self.preset.crop.model_dump()}
                | ({"after": {name: self._output_of(name) for name in before}} if before else {}))

    def _output_of(self, stage: str) -> str | None:
        done = self.run.done(self.fold.number, stage)
        return None if done is None else outputs_hash(done, stage)

    def is_done(self, stage: str) -> bool:
        """Whether a stage is done with these settings and on these cases, and so are those before it: a model of
        another split has seen patients whom this one holds out."""
        if not all(self.is_done(earlier) for earlier in needs(stage, self.preset)):
            return False
        done = self.run.done(self.fold.number, stage)
        folder = self.run.stage_folder(self.fold.number, stage)
        return (done is not None and done["inputs"] == sha256_of_json(self.inputs(stage))
                and all((folder / file).is_file() for file in done["outputs"]))

    def progress(self, stage: str) -> Progress:
        """How far a stage is with these settings and on these cases."""
        folder = self.run.stage_folder(self.fold.number, stage)
        if self.is_done(stage):
            return Progress("done", seconds=read_json(folder / "done.json")["seconds"])
        begun = folder / "inputs.json"
        ready = all(self.is_done(earlier) for earlier in needs(stage, self.preset))
        if ready and begun.is_file() and sha256_of_json(read_json(begun)) == sha256_of_json(self.inputs(stage)):
            return Progress("begun", *self.run.trained_so_far(self.fold.number, stage))
        return Progress("to do")

    def check(self, stages: list[str]) -> None:
        """See that each stage finds those that it needs, among those before it in the list or done.

        Raises
        ------
        NeoNetError
            ``NO_SEG``, ``NO_VAE``, ``NO_VQVAE``, ``NO_LDM``, ``NO_CONTROLNET``, ``NO_SYNTH``.
        """
        for number, stage in enumerate(stages):
            for earlier in needs(stage, self.preset):
                if earlier not in stages[:number] and not self.is_done(earlier):
                    self._say_missing(stage, earlier)

    def _say_missing(self, stage: str, earlier: str) -> None:
        section = section_of(earlier)
        raise NeoNetError(f"NO_{section.upper()}", f"Fold {self.fold.number} has no {earlier} that was trained with "
                          f"these settings and cases, and {stage} needs it.", "Run it first: "
                          + (f"--stages seg --models {self.preset.seg.network}" if section == "seg" else
                             f"--stages {section},..."))

    def prepare(self, events: Events) -> None:
        """Resample the cases that the report looks at, unless they are there: of an autoencoder trained by an earlier
        call, too."""
        self.prepared.load((*self.fold.learning, *self.fold.validation), self.crop_spacing, events)

    def train(self, stage: str, device: torch.device, events: Events, wait_s: float = 0.0) -> None:
        """Run a stage unless it is done, and record it; wait so long for another process that is at it. Raises
        ``NO_...`` as `check` does, ``STAGE_BUSY``, and what its training raises."""
        from neonet_core.experiment.stage_work import StageWork

        self.check([stage])
        folder, name = self.run.stage_folder(self.fold.number, stage), f"fold {self.fold.number} {stage}"
        seed = derive_seed(self.seed, self.fold.number, zlib.crc32(stage.encode()))

        def recorded() -> dict[str, Any]:
            figures = StageWork(self, stage, folder, seed, device, events, name).run()
            return {"device": device.type, "threads": torch.get_num_threads(), "protocol": self.preset.protocol,
                    **figures}

        run_stage(folder, self.inputs(stage), recorded, events, name, wait_s)
