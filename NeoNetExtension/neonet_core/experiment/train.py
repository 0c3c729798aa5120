"""`neonet train`: the folds of a cohort through the stages that are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from neonet_core.cohort import Cohort, Folds, check_cohort, stratified_folds
from neonet_core.errors import NeoNetError
from neonet_core.events import Events, Silent
from neonet_core.experiment.fold import (
    AUTOENCODERS,
    Fold,
    FoldTraining,
    case_identities,
    chosen_segmentors,
    split_fold,
)
from neonet_core.experiment.predictions import write_predictions
from neonet_core.experiment.run import Run
from neonet_core.presets import STAGES, Preset
from neonet_core.segmentation.networks import build_segmentor
from neonet_core.training.device import choose_device
from neonet_core.training.files import read_json, write_json
from neonet_core.training.prepared import PreparedCohort


def train(cohort: Cohort, preset: Preset, out: Path, *, seed: int = 0, folds: Sequence[int] | None = None,
          split: Path | None = None, stages: Sequence[str] | None = None, models: Sequence[str] = (),
          ratios: Sequence[int] | None = None, device: str = "auto", events: Events | None = None) -> Run:
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
    stages : sequence of str or None
        Out of `STAGES`; None: those that the preset names. ``ldm``, ``controlnet`` and ``synth`` are run for the
        autoencoders (``vae``, ``vqvae``) that are named with them, or else for those that are trained.
    models : sequence of str
        Segmentation networks instead of the preset's.
    ratios : sequence of int or None
        Shares of synthetic cases in percent with which NeoCls is trained, 0 to 100 (R+S); None: those of the preset.

    Raises
    ------
    NeoNetError
        ``BAD_ARGUMENT``, ``RUN_EXISTS``, ``COHORT_CHANGED``, ``TOO_FEW_CASES``, ``FOLDS_MISMATCH``,
        ``STAGE_BUSY``; ``NO_VAE``, ``NO_LDM``, ... for a stage whose earlier stage is missing.
    """
    events = events or Silent()
    stages = preset.stages if stages is None else stages
    ratios = preset.ratios if ratios is None else ratios
    _check_arguments(stages, folds, preset, models, ratios, seed)
    chosen = choose_device(device)
    run = Run(out)
    run.begin({"preset": preset.model_dump(), "cohort": cohort.path.name, "outcome": cohort.outcome_name, "seed": seed,
               "device": chosen.type})
    report = check_cohort(cohort, events)
    events.log(report.table())
    all_folds = _folds_of_run(run, cohort, report.included, preset, seed, split)
    write_json(out / "quality.json", report.to_json())
    all_folds.write(out / "folds.json")
    prepared = PreparedCohort(out / "prepared", case_identities(report))
    for fold in _chosen_folds(report.included, all_folds, folds, preset):
        FoldTraining(run, fold, report, preset, prepared, seed, chosen, events).run(stages, models, ratios)
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
    if any(not 0 <= ratio <= 100 for ratio in ratios) or len(set(ratios)) != len(ratios):
        raise NeoNetError("BAD_ARGUMENT", f"The ratios {list(ratios)} are not different percentages from 0 to 100.",
                          "Example: --ratios 0,50,100")
    if "seg" in stages:
        for settings in chosen_segmentors(preset, models):
            build_segmentor(settings)
    if set(stages) != {"seg"}:
        _check_generator(stages, preset)
    if "synth" in stages:
        _check_sampling(preset)


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
