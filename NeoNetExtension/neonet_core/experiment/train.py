"""`neonet train`: the folds of a cohort through the stages seg, vae and cls."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neonet_core.cohort import Case, Cohort, Folds, QualityReport, check_cohort, inner_split, stratified_folds
from neonet_core.errors import NeoNetError
from neonet_core.events import Events, Silent
from neonet_core.experiment.predictions import Prediction, write_predictions
from neonet_core.experiment.ranges import cohort_ranges
from neonet_core.experiment.run import Run, run_stage
from neonet_core.preprocessing import resolve_spacing
from neonet_core.presets import Preset, SegSettings
from neonet_core.segmentation.networks import NETWORKS, build_segmentor
from neonet_core.training.checkpoint import load_weights, save_weights
from neonet_core.training.device import choose_device
from neonet_core.training.files import read_json, sha256_of_file, sha256_of_json, write_json
from neonet_core.training.loop import Fit, derive_seed
from neonet_core.training.patches import Patches, cut_patches
from neonet_core.training.prepared import PreparedCase, PreparedCohort

STAGES = ("seg", "vae", "cls")
MOST_STOPPING_PATCHES = 64


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


def train(cohort: Cohort, preset: Preset, out: Path, *, seed: int = 0, folds: Sequence[int] | None = None,
          split: Path | None = None, stages: Sequence[str] = STAGES, models: Sequence[str] = (),
          device: str = "auto", events: Events | None = None) -> Run:
    """Train the models of a cohort, fold by fold; resumes where an earlier call with the same folder stopped.

    Parameters
    ----------
    cohort : Cohort
        Passes quality control first; what that leaves out is logged and stands in ``quality.json``.
    out : Path
        The run folder.
    folds : sequence of int or None
        Folds to run; None: all.
    split : Path or None
        A ``folds.json`` to use instead of a split by `seed`.
    stages : sequence of str
        Out of ``seg``, ``vae`` and ``cls``; ``cls`` needs ``vae`` of the same fold.
    models : sequence of str
        Segmentation networks instead of the preset's.

    Raises
    ------
    NeoNetError
        ``BAD_ARGUMENT``, ``RUN_EXISTS``, ``COHORT_CHANGED``, ``TOO_FEW_CASES``, ``FOLDS_MISMATCH``, ``NO_VAE``,
        ``STAGE_BUSY``.
    """
    events = events or Silent()
    _check_arguments(stages, folds, preset, models, seed)
    chosen = choose_device(device)
    run = Run(out)
    run.begin({"preset": preset.model_dump(), "cohort": cohort.path.name, "outcome": cohort.outcome_name, "seed": seed,
               "device": chosen.type})
    report = check_cohort(cohort, events)
    events.log(report.table())
    all_folds = _folds_of_run(run, cohort, report.included, preset, seed, split)
    write_json(out / "quality.json", report.to_json())
    all_folds.write(out / "folds.json")
    prepared = PreparedCohort(out / "prepared", _identities(report))
    for fold in _chosen_folds(report.included, all_folds, folds, preset):
        FoldTraining(run, fold, report, preset, prepared, seed, chosen, events).run(stages, models)
    write_predictions(run)
    return run


def _folds_of_run(run: Run, cohort: Cohort, included: Cohort, preset: Preset, seed: int, split: Path | None) -> Folds:
    """The run's split: made once and reused, so that a case that cannot be read today does not undo what is trained."""
    folds = (Folds.read(split, cohort).restrict(included) if split is not None
             else stratified_folds(included, preset.folds, seed))
    path = run.folder / "folds.json"
    if not path.is_file():
        return folds
    before = {name for part in read_json(path)["validation"] for name in part}
    now = {case.case_id for case in included}
    if before != now:
        raise NeoNetError("COHORT_CHANGED", f"The run was begun with {len(before)} cases; {len(before - now)} of them "
                          f"are not usable now and {len(now - before)} are new"
                          f" ({', '.join(sorted(before ^ now)[:3])}{', ...' if len(before ^ now) > 3 else ''}).",
                          "Mend the cohort ('neonet cohort check' says why), or choose another folder with --out.")
    stored = Folds.read(path, included)
    if [set(part) for part in stored.validation] != [set(part) for part in folds.validation]:
        raise NeoNetError("RUN_EXISTS", f"{run.folder} holds a run with another split.",
                          "Choose another folder with --out.")
    return stored


def _chosen_folds(cohort: Cohort, all_folds: Folds, numbers: Sequence[int] | None, preset: Preset) -> list[Fold]:
    """The folds to run, all checked before the first begins."""
    chosen = []
    for number in numbers if numbers is not None else range(len(all_folds)):
        if not 0 <= number < len(all_folds):
            raise NeoNetError("BAD_ARGUMENT", f"There is no fold {number}.",
                              f"The split has the folds 0 to {len(all_folds) - 1}.")
        fold = split_fold(cohort, all_folds, number, preset)
        if not fold.validation:
            raise NeoNetError("TOO_FEW_CASES", f"Quality control has left no case in the validation part of fold "
                              f"{number}.", "Mend the cases that quality.json names, or leave this fold out.")
        chosen.append(fold)
    return chosen


class FoldTraining:
    """The stages of one fold."""

    def __init__(self, run: Run, fold: Fold, report: QualityReport, preset: Preset, prepared: PreparedCohort, seed: int,
                 device: torch.device, events: Events) -> None:
        self._run, self._fold, self._preset, self._prepared = run, fold, preset, prepared
        self._seed, self._device, self._events = seed, device, events
        self._identities = _identities(report)
        spacings = [report.facts[case.case_id].spacing for case in fold.training]
        self._seg_spacing = resolve_spacing(preset.seg.spacing, spacings)
        self._crop_spacing = resolve_spacing(preset.crop.spacing, spacings)

    def run(self, stages: Sequence[str], models: Sequence[str]) -> None:
        if "seg" in stages:
            for settings in _segmentors(self._preset, models):
                self._segmentation(settings)
        if "vae" in stages:
            self._autoencoder()
        if "cls" in stages:
            self._classifier()

    def _load(self, cases: Sequence[Case], spacing: Sequence[float] | None) -> list[PreparedCase]:
        return self._prepared.load(cases, spacing, self._events)

    def _patches(self, cases: Sequence[Case]) -> Patches:
        return cut_patches(self._load(cases, self._crop_spacing), self._preset.crop)

    def _inputs(self, **settings: Any) -> dict[str, Any]:
        """What a stage depends on: its settings, the seed, and the content of the cases in each part."""
        parts = {
            part: {case.case_id: [self._identities[case.case_id], case.outcome] for case in getattr(self._fold, part)}
            for part in ("learning", "stopping", "validation")}
        return {"seed": self._seed, "fold": self._fold.number, "cases": parts, **settings}

    def _stage_seed(self, stage: str) -> int:
        return derive_seed(self._seed, self._fold.number, zlib.crc32(stage.encode()))

    def _name(self, stage: str) -> str:
        return f"fold {self._fold.number} {stage}"

    def _segmentation(self, settings: SegSettings) -> None:
        from neonet_core.segmentation.training import dice_of_case, train_segmentor

        stage = f"seg-{settings.network.lower()}"
        folder = self._run.stage_folder(self._fold.number, stage)

        def work() -> dict[str, Any]:
            network, result = train_segmentor(
                self._load(self._fold.learning, self._seg_spacing), self._load(self._fold.stopping, self._seg_spacing),
                settings, folder, self._stage_seed(stage), self._device, self._events, self._name(stage))
            save_weights(folder / "weights.safetensors", network)
            cases = self._load(self._fold.validation, self._seg_spacing)
            scores = {case.case_id: dice_of_case(network, case, settings, self._device) for case in cases}
            liver, tumour = np.nanmean(np.array(list(scores.values())), axis=0)
            return {**_figures(result, self._device), "spacing": self._seg_spacing, "settings": settings.model_dump(),
                    "dice_liver": liver, "dice_tumour": tumour, "dice": (liver + tumour) / 2,
                    "dice_by_case": scores, "protocol": self._preset.protocol}

        run_stage(folder, self._inputs(settings=settings.model_dump(), spacing=self._seg_spacing), work, self._events,
                  self._name(stage))

    def _autoencoder_inputs(self) -> dict[str, Any]:
        return self._inputs(settings=self._preset.vae.model_dump(), crop=self._preset.crop.model_dump(),
                            spacing=self._crop_spacing)

    def _autoencoder_is_ours(self) -> bool:
        """Whether the fold's autoencoder is trained, with these settings and on these cases: one of another split has
        seen patients whom this one holds out."""
        done = self._run.done(self._fold.number, "vae")
        return done is not None and done["inputs"] == sha256_of_json(self._autoencoder_inputs())

    def _autoencoder(self) -> None:
        from neonet_core.generation.autoencoder import train_autoencoder

        folder = self._run.stage_folder(self._fold.number, "vae")

        def work() -> dict[str, Any]:
            stopping = self._patches(self._fold.stopping[:MOST_STOPPING_PATCHES])
            network, result = train_autoencoder(self._patches(self._fold.learning), stopping, self._preset.vae, folder,
                                                self._stage_seed("vae"), self._device, self._events, self._name("vae"))
            save_weights(folder / "weights.safetensors", network)
            return {**_figures(result, self._device), "spacing": self._crop_spacing, "protocol": self._preset.protocol}

        run_stage(folder, self._autoencoder_inputs(), work, self._events, self._name("vae"))

    def _classifier(self) -> None:
        from neonet_core.classification.training import classify_patches, train_classifier
        from neonet_core.evaluation.auc import auc
        from neonet_core.generation.autoencoder import FeatureEncoder, build_autoencoder

        stage = "cls-pattennet"
        folder = self._run.stage_folder(self._fold.number, stage)
        weights = self._run.stage_folder(self._fold.number, "vae") / "weights.safetensors"
        if not self._autoencoder_is_ours():
            raise NeoNetError("NO_VAE", f"Fold {self._fold.number} has no autoencoder that was trained with these "
                              "settings and cases, and PattenNet needs its encoder.",
                              "Run the stage vae first: --stages vae,cls")

        def work() -> dict[str, Any]:
            autoencoder = build_autoencoder(self._preset.vae)
            load_weights(weights, autoencoder)
            encoder = FeatureEncoder(autoencoder)
            network, result = train_classifier(
                encoder, self._patches(self._fold.learning), self._patches(self._fold.stopping), self._preset.cls,
                folder, self._stage_seed(stage), self._device, self._events, self._name(stage))
            save_weights(folder / "weights.safetensors", network)
            cases = self._fold.validation
            scores = classify_patches(encoder, network, self._patches(cases), self._device, self._events,
                                      self._name(stage))
            outcomes = [case.outcome for case in cases if case.outcome is not None]
            return {**_figures(result, self._device), "spacing": self._crop_spacing, "protocol": self._preset.protocol,
                    "auc": auc(outcomes, scores) if len(set(outcomes)) == 2 else None,
                    "predictions": [Prediction(case.case_id, case.patient_id, self._fold.number, stage, outcome,
                                               float(score)).to_json()
                                    for case, outcome, score in zip(cases, outcomes, scores, strict=True)],
                    "ranges": cohort_ranges(self._load(self._fold.training, self._crop_spacing))}

        run_stage(folder, self._inputs(settings=self._preset.cls.model_dump(), crop=self._preset.crop.model_dump(),
                                       spacing=self._crop_spacing, encoder=sha256_of_file(weights)), work,
                  self._events, self._name(stage))


def _figures(result: Fit, device: torch.device) -> dict[str, Any]:
    return {"device": device.type, "epochs": result.epochs, "best_epoch": result.best_epoch,
            "best_value": result.best_value}


def _identities(report: QualityReport) -> dict[str, str]:
    """Content of each case's image and label map, and what the labels stand for, as one string."""
    identities = {}
    for case in report.included:
        assert case.label_map is not None, "quality control leaves out cases without label map"
        identities[case.case_id] = f"{report.facts[case.case_id].sha256}-{sha256_of_file(case.label_map)}"
        if case.label_values is not None:
            identities[case.case_id] += f"-{sorted(case.label_values.items())}"
    return identities


def _segmentors(preset: Preset, models: Sequence[str]) -> list[SegSettings]:
    """The settings of each segmentation network to train: those of the preset, or of `models` in its place."""
    unknown = [model for model in models if model not in NETWORKS]
    if unknown:
        raise NeoNetError("BAD_ARGUMENT", f"There is no model '{unknown[0]}'.", f"Choose from {', '.join(NETWORKS)}.")
    return [preset.seg.model_copy(update={"network": network}) for network in models or (preset.seg.network,)]


def _check_arguments(stages: Sequence[str], folds: Sequence[int] | None, preset: Preset, models: Sequence[str],
                     seed: int) -> None:
    """Say now, not after hours, what cannot work."""
    from neonet_core.generation.autoencoder import build_autoencoder

    if not 0 <= seed < 2**32:
        raise NeoNetError("BAD_ARGUMENT", f"The seed {seed} is not between 0 and 4294967295.", "Choose another --seed.")
    if not stages:
        raise NeoNetError("BAD_ARGUMENT", "No stage is named.", f"Choose from {', '.join(STAGES)}.")
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown:
        raise NeoNetError("BAD_ARGUMENT", f"There is no stage '{unknown[0]}'.", f"Choose from {', '.join(STAGES)}.")
    if folds is not None and len(set(folds)) != len(folds):
        raise NeoNetError("BAD_ARGUMENT", "A fold is named twice.", "Name each fold once, e.g. --folds 0,1.")
    if "seg" in stages:
        for settings in _segmentors(preset, models):
            build_segmentor(settings)
    if "vae" in stages or "cls" in stages:
        build_autoencoder(preset.vae)
        factor = 2 ** (len(preset.vae.channels) - 1)
        if any(edge % factor for edge in preset.crop.size):
            raise NeoNetError("BAD_PRESET", f"The autoencoder needs crops whose edges are multiples of {factor}, not "
                              f"{preset.crop.size}.", "Change crop.size.")
