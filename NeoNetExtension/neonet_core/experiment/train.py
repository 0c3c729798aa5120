"""`neonet train`: the folds of a cohort through the stages that are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from neonet_core.bundle import Bundle, load_bundle
from neonet_core.cohort import Cohort, Folds, QualityReport, check_cohort, stratified_folds
from neonet_core.errors import NeoNetError
from neonet_core.events import Events, Silent
from neonet_core.experiment.engines import ENGINES, Task
from neonet_core.experiment.fold import Fold, FoldTraining, case_identities, split_fold
from neonet_core.experiment.graph import (
    AUTOENCODERS,
    baselines_of,
    segmentor_settings,
    segmentor_stage,
    split_models,
    stages_of_fold,
)
from neonet_core.experiment.predictions import write_predictions
from neonet_core.experiment.run import Run
from neonet_core.presets import STAGES, Preset
from neonet_core.segmentation.networks import NETWORKS, build_segmentor, check_trainable
from neonet_core.training.device import choose_device
from neonet_core.training.files import read_json, write_json


@dataclass(frozen=True)
class Experiment:
    """A training that has been looked through and not begun: nothing is written yet.

    Attributes
    ----------
    run : Run
    tasks : tuple of Task
        The stages of the chosen folds, each after those that it needs.
    parts : dict
        By fold, of all folds: what stages have to be trained on to belong to the run (`FoldTraining.data`).
    """

    run: Run
    tasks: tuple[Task, ...]
    settings: dict[str, Any]
    quality: QualityReport
    folds: Folds
    parts: dict[str, Any]

    def begin(self) -> None:
        """Write the settings, the quality control and the split into the run folder."""
        self.run.begin(self.settings)
        write_json(self.run.folder / "quality.json", self.quality.to_json())
        self.folds.write(self.run.folder / "folds.json")
        write_json(self.run.folder / "parts.json", self.parts)

    def train(self, engine: str = "local", device: str = "auto", threads: int | None = None,
              events: Events | None = None) -> Run:
        """Train what is not done yet; see `train`."""
        events = events or Silent()
        left = [task for task in self.tasks if not task.training.is_done(task.stage)]
        self.begin()
        for task in self.tasks:
            if task.stage in AUTOENCODERS:
                task.training.prepare(events)
        if not left:
            events.log(f"Nothing to do: all {len(self.tasks)} stages were done before with these settings and cases.")
        else:
            if len(left) < len(self.tasks):
                events.log(f"{len(self.tasks) - len(left)} of {len(self.tasks)} stages were done before.")
            ENGINES[engine](left, device, threads, events)
        write_predictions(self.run)
        return self.run


def train(cohort: Cohort, preset: Preset, out: Path, *, engine: str = "local", threads: int | None = None,
          device: str = "auto", events: Events | None = None, **chosen: Any) -> Run:
    """Train the models of a cohort, fold by fold; resumes where an earlier call with the same folder stopped.

    Parameters
    ----------
    engine : "local" or "ray"
        One stage after the other in this process, or as tasks of a Ray cluster (`engines`).
    threads : int or None
        CPU threads of a stage. None: as torch has it, or `engines.DEFAULT_THREADS` with Ray.
    cohort, preset, out, device, events, **chosen
        See `experiment`, which raises for all that can be seen to be wrong before the work begins.

    Raises
    ------
    NeoNetError
        What `experiment` raises; ``STAGE_BUSY``; what a stage raises.
    """
    if threads is not None and threads < 1:
        raise NeoNetError("BAD_ARGUMENT", f"{threads} threads cannot compute.", "Choose --threads 1 or more.")
    planned = experiment(cohort, preset, out, engine=engine, device=device, events=events, **chosen)
    return planned.train(engine, device, threads, events)


def experiment(cohort: Cohort, preset: Preset, out: Path, *, seed: int = 0, folds: Sequence[int] | None = None,
               split: Path | None = None, stages: Sequence[str] | None = None, models: Sequence[str] | None = None,
               ratios: Sequence[int] | None = None, init: str | Path | None = None, engine: str = "local",
               device: str = "auto", events: Events | None = None) -> Experiment:
    """Look through all that a training needs, and write nothing.

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
    stages : sequence of str or None
        Out of `STAGES`; None: those that the preset names. ``ldm``, ``controlnet`` and ``synth`` are run for the
        autoencoders (``vae``, ``vqvae``) that are named with them, or else for those that are trained.
    models : sequence of str or None
        Segmentation networks and classifiers (`graph.stages_of_fold`); None: those of the preset.
    ratios : sequence of int or None
        Shares of synthetic cases in percent with which NeoCls is trained, 0 to 100 (R+S); None: those of the preset.
    init : str, Path or None
        A bundle from whose first member's weights NeoSeg starts; its network and grid replace the preset's.
    engine, device : str
        For the record; `local` is told now if it has no such device.

    Raises
    ------
    NeoNetError
        ``BAD_ARGUMENT``, ``BAD_PRESET``, ``RUN_EXISTS``, ``COHORT_CHANGED``, ``TOO_FEW_CASES``, ``FOLDS_MISMATCH``,
        ``NO_DEVICE``; ``NO_VAE``, ``NO_LDM``, ... for a stage whose earlier stage is missing; ``UNKNOWN_BUNDLE``,
        ``NO_SEG_MODEL``, ``BUNDLE_DAMAGED``.
    """
    events = events or Silent()
    if engine not in ENGINES:
        raise NeoNetError("BAD_ARGUMENT", f"There is no engine '{engine}'.", f"Choose from {', '.join(ENGINES)}.")
    stages = preset.stages if stages is None else stages
    models = preset.models if models is None else models
    ratios = preset.ratios if ratios is None else ratios
    start = None if init is None else load_bundle(init)
    if start is not None:
        preset, models = _starting_from(start, preset, models)
    _check_arguments(stages, folds, preset, models, ratios, seed)
    run = Run(out)
    settings = {"preset": preset.model_dump(), "cohort": cohort.path.name, "outcome": cohort.outcome_name, "seed": seed,
                "device": choose_device(device).type if engine == "local" else f"{device} ({engine})"}
    run.check(settings)
    report = check_cohort(cohort, events)
    events.log(report.table())
    all_folds = _folds_of_run(run, cohort, report.included, preset, seed, split)
    identities = case_identities(report)
    tasks: list[Task] = []
    for fold in _chosen_folds(report.included, all_folds, folds, preset):
        training = FoldTraining(run, fold, report, identities, preset, seed, start)
        trained = [kind for kind in AUTOENCODERS if training.is_done(kind)]
        names = stages_of_fold(preset, stages, models, ratios, trained)
        training.check(names)
        tasks += [Task(training, name) for name in names]
    chosen = {task.training.fold.number: task.training.data() for task in tasks}
    parts = {str(number): chosen.get(number) or _data_of(report, all_folds, number, run, identities, preset, seed)
             for number in range(len(all_folds))}
    return Experiment(run, tuple(tasks), settings, report, all_folds, parts)


def _data_of(report: QualityReport, folds: Folds, number: int, run: Run, identities: dict[str, str], preset: Preset,
             seed: int) -> dict[str, Any] | None:
    """Of a fold that is not to be run now; None where it could not be run."""
    try:
        fold = split_fold(report.included, folds, number, preset)
    except NeoNetError:
        return None
    return FoldTraining(run, fold, report, identities, preset, seed).data() if fold.validation else None


def _starting_from(bundle: Bundle, preset: Preset, models: Sequence[str]) -> tuple[Preset, Sequence[str]]:
    """The preset with the bundle's segmentation network and grid, and `models` without other segmentation networks.

    Raises ``NO_SEG_MODEL``, ``BUNDLE_DAMAGED``.
    """
    started_from = bundle.segmentors(torch.device("cpu"))[0]
    theirs = bundle.record.preset.seg
    changes: dict[str, Any] = {name: getattr(theirs, name) for name in ("network", "channels", "patch_size")}
    # its own millimetres: "median" would be that of the new cohort
    changes["spacing"] = "native" if started_from.spacing is None else tuple(started_from.spacing)
    chosen = preset.model_copy(update={"seg": preset.seg.model_copy(update=changes)})
    return chosen, [model for model in models if model not in NETWORKS]


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


def _check_arguments(stages: Sequence[str], folds: Sequence[int] | None, preset: Preset, models: Sequence[str],
                     ratios: Sequence[int], seed: int) -> None:
    """Say now, not after hours, what cannot work."""
    if not 0 <= seed < 2**32:
        raise NeoNetError("BAD_ARGUMENT", f"The seed {seed} is not between 0 and 4294967295.", "Choose another --seed.")
    if not stages:
        raise NeoNetError("BAD_ARGUMENT", "No stage is named.", f"Choose from {', '.join(STAGES)}.")
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown:
        raise NeoNetError("BAD_ARGUMENT", f"There is no stage '{unknown[0]}'.", f"Choose from {', '.join(STAGES)}.")
    if folds is not None and len(set(folds)) != len(folds):
        raise NeoNetError("BAD_ARGUMENT", "A fold is named twice.", "Name each fold once, e.g. --folds 0,1.")
    if not ratios or any(not 0 <= ratio <= 100 for ratio in ratios) or len(set(ratios)) != len(ratios):
        raise NeoNetError("BAD_ARGUMENT", f"The ratios {list(ratios)} are not different percentages from 0 to 100.",
                          "Example: --ratios 0,50,100")
    segmentors, classifiers = split_models(models, preset)
    if "seg" in stages:
        for network in segmentors:
            chosen = segmentor_settings(segmentor_stage(preset, network), preset)
            build_segmentor(chosen)
            check_trainable(chosen)
    if "cls" in stages and (baselines := baselines_of(classifiers)):
        _check_baselines(baselines, preset)
    if set(stages) != {"seg"}:
        _check_generator(stages, preset)
    if "synth" in stages:
        _check_sampling(preset)


def _check_baselines(names: Sequence[str], preset: Preset) -> None:
    from neonet_core.classification.baselines import check_size

    for name in names:
        check_size(name, preset.crop.size)


def _check_sampling(preset: Preset) -> None:
    if preset.synth.steps > preset.ldm.timesteps:
        raise NeoNetError("BAD_PRESET", f"synth.steps is {preset.synth.steps}, ldm.timesteps only "
                          f"{preset.ldm.timesteps}.", "Change one of them.")
    if preset.synth.guidance != 1 and not (preset.ldm.class_embedding and preset.ldm.class_dropout > 0):
        raise NeoNetError("BAD_PRESET", f"synth.guidance is {preset.synth.guidance:g}, for which the diffusion model "
                          "must be trained with classes that are hidden at times.",
                          "Leave synth.guidance at 1, or set ldm.class_embedding and ldm.class_dropout.")


def _check_generator(stages: Sequence[str], preset: Preset) -> None:
    """Build each network of NeoGen that is to be trained, and see that the crop's size suits it."""
    from neonet_core.generation.autoencoder import build_autoencoder
    from neonet_core.generation.controlnet import build_control
    from neonet_core.generation.diffusion import LatentDiffusion, unet_factor

    for kind in [kind for kind in AUTOENCODERS if kind in stages] or ["vae"]:
        autoencoder = build_autoencoder(getattr(preset, kind))
        factor, needs = autoencoder.factor, "The autoencoder"
        if {"ldm", "controlnet", "synth"} & set(stages):
            LatentDiffusion(autoencoder.latent_channels, preset.ldm)
            build_control(autoencoder.latent_channels, preset.ldm, preset.controlnet, factor)
            factor, needs = factor * unet_factor(preset.ldm), "The diffusion model"
        if any(edge % factor for edge in preset.crop.size):
            raise NeoNetError("BAD_PRESET", f"{needs} needs crops whose edges are multiples of {factor}, not "
                              f"{preset.crop.size}.", "Change crop.size.")
