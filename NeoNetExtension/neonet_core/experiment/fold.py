"""One fold: its parts and the stages that are trained on them.

A stage's inputs (settings, seed, cases, the outputs of the stages before it) decide whether it has to be run again;
see `run.run_stage`.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from neonet_core.cohort import Case, Cohort, Folds, QualityReport, inner_split
from neonet_core.errors import NeoNetError
from neonet_core.events import Events
from neonet_core.experiment.predictions import Prediction, classifier_stage
from neonet_core.experiment.ranges import cohort_ranges
from neonet_core.experiment.run import Run, outputs_hash, run_stage, section_of, segmentor_stage
from neonet_core.preprocessing import resolve_spacing
from neonet_core.presets import AutoencoderSettings, Preset, SegSettings
from neonet_core.segmentation.networks import NETWORKS, build_segmentor, size_multiple
from neonet_core.training.checkpoint import load_weights, save_weights
from neonet_core.training.files import sha256_of_file, sha256_of_json
from neonet_core.training.loop import Fit, derive_seed
from neonet_core.training.patches import Patches, concatenate, cut_patches
from neonet_core.training.prepared import PreparedCase, PreparedCohort

if TYPE_CHECKING:
    from neonet_core.generation.autoencoder import Autoencoder
    from neonet_core.generation.diffusion import LatentDiffusion
    from neonet_core.generation.generator import Generator
    from neonet_core.generation.image_terms import FeatureMaps
    from neonet_core.generation.latents import CachedLatents

AUTOENCODERS = {"vae": "NeoGen", "vqvae": "QNeoGen"}
"""The autoencoders' stages, and what the paper calls the generator that is built on each."""
MOST_STOPPING_PATCHES = 64
WEIGHTS = "weights.safetensors"


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


class FoldTraining:
    """The stages of one fold."""

    def __init__(self, run: Run, fold: Fold, report: QualityReport, preset: Preset, prepared: PreparedCohort, seed: int,
                 device: torch.device, events: Events) -> None:
        self._run, self._fold, self._preset, self._prepared = run, fold, preset, prepared
        self._seed, self._device, self._events = seed, device, events
        self._identities = case_identities(report)
        spacings = [report.facts[case.case_id].spacing for case in fold.training]
        self._seg_spacing = resolve_spacing(preset.seg.spacing, spacings)
        self._crop_spacing = resolve_spacing(preset.crop.spacing, spacings)

    def run(self, stages: Sequence[str], models: Sequence[str], ratios: Sequence[int]) -> None:
        """Run stages in the order in which they need each other."""
        if "seg" in stages:
            for settings in chosen_segmentors(self._preset, models):
                self._segmentation(settings)
        for kind in AUTOENCODERS:
            if kind in stages:
                self._autoencoder(kind)
        # the autoencoders that are named, or else those that are trained
        kinds = ([kind for kind in AUTOENCODERS if kind in stages]
                 or [kind for kind in AUTOENCODERS if self._is_ready(kind)] or ["vae"])
        for stage, work in (("ldm", self._diffusion), ("controlnet", self._control), ("synth", self._synthesis)):
            if stage in stages:
                for kind in kinds:
                    work(kind)
        if "cls" in stages:
            for ratio in ratios:
                self._classifier(ratio)

    # --- what a stage depends on -------------------------------------------------------------------------------

    def _before(self, stage: str) -> tuple[str, ...]:
        """The stages whose outputs go into this one."""
        section, _, kind = stage.partition("-")
        if section in AUTOENCODERS:
            settings: AutoencoderSettings = getattr(self._preset, section)
            return (segmentor_stage(self._preset),) if settings.perceptual_weight > 0 else ()
        if section == "cls":
            return ("vae",) if stage == classifier_stage(0) else ("vae", "synth-vae")
        return {"ldm": (kind,), "controlnet": (kind, f"ldm-{kind}"),
                "synth": (kind, f"ldm-{kind}", f"controlnet-{kind}")}.get(section, ())

    def _inputs(self, stage: str, settings: dict[str, Any] | None = None) -> dict[str, Any]:
        """What a stage depends on: its settings, the seed, the content of the cases in each part, the stages before."""
        parts = {
            part: {case.case_id: [self._identities[case.case_id], case.outcome] for case in getattr(self._fold, part)}
            for part in ("learning", "stopping", "validation")}
        section = section_of(stage)
        inputs = {"seed": self._seed, "fold": self._fold.number, "cases": parts,
                  "settings": settings or getattr(self._preset, section).model_dump()}
        if section == "seg":
            return inputs | {"spacing": self._seg_spacing}
        inputs |= {"spacing": self._crop_spacing, "crop": self._preset.crop.model_dump()}
        before = self._before(stage)
        return inputs | {"after": {name: self._output_of(name) for name in before}} if before else inputs

    def _output_of(self, stage: str) -> str | None:
        done = self._run.done(self._fold.number, stage)
        return None if done is None else outputs_hash(done)

    def _is_ready(self, stage: str) -> bool:
        """Whether a stage is done with these settings and on these cases, and so are those before it: a model of
        another split has seen patients whom this one holds out."""
        if not all(self._is_ready(earlier) for earlier in self._before(stage)):
            return False
        done = self._run.done(self._fold.number, stage)
        return done is not None and done["inputs"] == sha256_of_json(self._inputs(stage))

    def _need(self, stage: str) -> None:
        """Raises ``NO_SEG``, ``NO_VAE``, ``NO_VQVAE``, ``NO_LDM``, ``NO_CONTROLNET``, ``NO_SYNTH``."""
        for earlier in self._before(stage):
            if not self._is_ready(earlier):
                section = section_of(earlier)
                raise NeoNetError(f"NO_{section.upper()}", f"Fold {self._fold.number} has no {earlier} that was "
                                  f"trained with these settings and cases, and {stage} needs it.",
                                  f"Run it first: --stages {section},...")

    def _run_stage(self, stage: str, work: Any, settings: dict[str, Any] | None = None) -> None:
        """Check what `work(folder, name, seed)` needs, run it unless it is done, and record it."""
        self._need(stage)
        folder, name = self._folder(stage), f"fold {self._fold.number} {stage}"
        seed = derive_seed(self._seed, self._fold.number, zlib.crc32(stage.encode()))

        def recorded() -> dict[str, Any]:
            return {"device": self._device.type, "protocol": self._preset.protocol, **work(folder, name, seed)}

        run_stage(folder, self._inputs(stage, settings), recorded, self._events, name)

    # --- cases and networks --------------------------------------------------------------------------------------

    def _folder(self, stage: str) -> Path:
        return self._run.stage_folder(self._fold.number, stage)

    def _load(self, cases: Sequence[Case], spacing: Sequence[float] | None) -> list[PreparedCase]:
        return self._prepared.load(cases, spacing, self._events)

    def _patches(self, cases: Sequence[Case]) -> Patches:
        return cut_patches(self._load(cases, self._crop_spacing), self._preset.crop)

    def _trained_autoencoder(self, kind: str) -> Autoencoder:
        return load_autoencoder(self._run, self._preset, self._fold.number, kind)

    def _perceptual(self, kind: str) -> FeatureMaps | None:
        """Feature maps of the fold's own NeoSeg, which has seen its training patients alone; None where not needed."""
        from neonet_core.evaluation.encoders import encoder_maps

        if getattr(self._preset, kind).perceptual_weight == 0:
            return None
        network = load_segmentor(self._run, self._preset, self._fold.number).to(self._device).requires_grad_(False)
        multiple = size_multiple(self._preset.seg.network, self._preset.seg.channels)

        def maps(images: torch.Tensor) -> list[torch.Tensor]:
            padding = [length for edge in reversed(images.shape[2:]) for length in (0, -edge % multiple)]
            return encoder_maps(network, torch.nn.functional.pad(images, padding, mode="replicate"))

        return maps

    def _latents(self, kind: str, flips: bool, name: str) -> tuple[CachedLatents, CachedLatents | None]:
        """Latents to learn from, and, in the rigorous protocol, those that pick the epoch: the paper names none."""
        from neonet_core.generation.latents import CachedLatents

        autoencoder = self._trained_autoencoder(kind)
        learning = CachedLatents(autoencoder, self._patches(self._fold.learning), flips, self._device, self._events,
                                 name)
        if self._preset.protocol == "paper":
            return learning, None
        stopping = self._patches(self._fold.stopping[:MOST_STOPPING_PATCHES])
        return learning, CachedLatents(autoencoder, stopping, False, self._device, self._events, name)

    # --- the stages ----------------------------------------------------------------------------------------------

    def _segmentation(self, settings: SegSettings) -> None:
        from neonet_core.segmentation.training import dice_of_case, train_segmentor

        def work(folder: Path, name: str, seed: int) -> dict[str, Any]:
            network, result = train_segmentor(
                self._load(self._fold.learning, self._seg_spacing), self._load(self._fold.stopping, self._seg_spacing),
                settings, folder, seed, self._device, self._events, name)
            save_weights(folder / WEIGHTS, network)
            cases = self._load(self._fold.validation, self._seg_spacing)
            scores = {case.case_id: dice_of_case(network, case, settings, self._device) for case in cases}
            liver, tumour = np.nanmean(np.array(list(scores.values())), axis=0)
            return {**_figures(result), "spacing": self._seg_spacing, "settings": settings.model_dump(),
                    "dice_liver": liver, "dice_tumour": tumour, "dice": (liver + tumour) / 2, "dice_by_case": scores}

        self._run_stage(f"seg-{settings.network.lower()}", work, settings.model_dump())

    def _autoencoder(self, kind: str) -> None:
        from neonet_core.generation.autoencoder import train_autoencoder

        def work(folder: Path, name: str, seed: int) -> dict[str, Any]:
            stopping = self._patches(self._fold.stopping[:MOST_STOPPING_PATCHES])
            network, result = train_autoencoder(self._patches(self._fold.learning), stopping,
                                                getattr(self._preset, kind), folder, seed, self._device, self._events,
                                                name, self._perceptual(kind))
            save_weights(folder / WEIGHTS, network)
            return {**_figures(result), "spacing": self._crop_spacing}

        # the report looks at both parts, even where the autoencoder was trained by an earlier call
        self._load((*self._fold.learning, *self._fold.validation), self._crop_spacing)
        self._run_stage(kind, work)

    def _diffusion(self, kind: str) -> None:
        from neonet_core.generation.diffusion import train_diffusion

        def work(folder: Path, name: str, seed: int) -> dict[str, Any]:
            learning, stopping = self._latents(kind, self._preset.ldm.flips, name)
            network, result = train_diffusion(learning, stopping, self._preset.ldm, folder, seed, self._device,
                                              self._events, name)
            save_weights(folder / WEIGHTS, network)
            return {**_figures(result), "spacing": self._crop_spacing}

        self._run_stage(f"ldm-{kind}", work)

    def _control(self, kind: str) -> None:
        from neonet_core.generation.controlnet import train_control

        def work(folder: Path, name: str, seed: int) -> dict[str, Any]:
            learning, stopping = self._latents(kind, self._preset.controlnet.flips, name)
            factor = self._trained_autoencoder(kind).factor
            diffusion = load_diffusion(self._run, self._preset, self._fold.number, kind)
            network, result = train_control(diffusion, learning, stopping, self._preset.controlnet, factor, folder,
                                            seed, self._device, self._events, name)
            save_weights(folder / WEIGHTS, network)
            return {**_figures(result), "spacing": self._crop_spacing}

        self._run_stage(f"controlnet-{kind}", work)

    def _synthesis(self, kind: str) -> None:
        """Samples that balance the learning cases, and samples on held-out masks, with and without ControlNet, by which
        the generator is judged. Only NeoGen balances: QNeoGen is there for table 4."""
        from neonet_core.generation.generator import Generator
        from neonet_core.generation.synthesis import balancing_requests, evaluation_requests, write_samples

        settings = self._preset.synth

        def work(folder: Path, name: str, seed: int) -> dict[str, Any]:
            controlled = load_generator(self._run, self._preset, self._fold.number, kind, self._device)
            free = Generator(controlled.autoencoder, controlled.diffusion, None, controlled.patch_size, self._device)
            learning, held_out = self._patches(self._fold.learning), self._patches(self._fold.validation)
            origin = {"fold": self._fold.number, "generator": AUTOENCODERS[kind],
                      "weights": {stage: sha256_of_file(self._folder(stage) / WEIGHTS)
                                  for stage in (kind, f"ldm-{kind}", f"controlnet-{kind}")}}
            balancing = balancing_requests(learning, [case.case_id for case in self._fold.learning], settings, seed)
            if kind == "vae" and not balancing:
                self._events.log(f"{name}: the learning cases need no synthetic ones, or lack a class: R+S will be R",
                                 "warning")
            # one seed for both generators: they are compared on the same masks
            judging = evaluation_requests(held_out, [case.case_id for case in self._fold.validation],
                                          settings.evaluation_samples,
                                          derive_seed(self._seed, self._fold.number, zlib.crc32(b"synth")))
            parts = {"samples": (controlled, balancing if kind == "vae" else []),
                     "evaluation": (controlled, judging), "evaluation-dm": (free, judging)}
            for part, (generator, requests) in parts.items():
                write_samples(generator, requests, folder / part, settings,
                              origin | {"controlnet": generator.control is not None}, self._events, f"{name} {part}",
                              note=SYNTHETIC_NOTE)
            return {"spacing": self._crop_spacing, **{part: len(requests) for part, (_, requests) in parts.items()}}

        self._run_stage(f"synth-{kind}", work)

    def _synthetic(self, ratio: int) -> Patches | None:
        """The share of the balancing samples that R+S `ratio` % takes; None where there is none."""
        from neonet_core.generation.synthesis import read_samples, share_of

        paths = sorted((self._folder("synth-vae") / "samples").glob("sample-*.json"))
        chosen = paths[:share_of(len(paths), ratio)]
        return read_samples(chosen)[0] if chosen else None

    def _classifier(self, ratio: int) -> None:
        from neonet_core.classification.training import classify_patches, train_classifier
        from neonet_core.evaluation.auc import auc
        from neonet_core.generation.autoencoder import FeatureEncoder, KlAutoencoder

        stage = classifier_stage(ratio)

        def work(folder: Path, name: str, seed: int) -> dict[str, Any]:
            autoencoder = self._trained_autoencoder("vae")
            assert isinstance(autoencoder, KlAutoencoder)
            encoder = FeatureEncoder(autoencoder)
            learning, synthetic = self._patches(self._fold.learning), self._synthetic(ratio) if ratio else None
            network, result = train_classifier(
                encoder, concatenate(learning, synthetic) if synthetic is not None else learning,
                self._patches(self._fold.stopping), self._preset.cls, folder, seed, self._device, self._events, name)
            save_weights(folder / WEIGHTS, network)
            cases = self._fold.validation
            scores = classify_patches(encoder, network, self._patches(cases), self._device, self._events, name)
            outcomes = [case.outcome for case in cases if case.outcome is not None]
            return {**_figures(result), "spacing": self._crop_spacing, "ratio": ratio,
                    "synthetic": 0 if synthetic is None else len(synthetic),
                    "auc": auc(outcomes, scores) if len(set(outcomes)) == 2 else None,
                    "predictions": [Prediction(case.case_id, case.patient_id, self._fold.number, stage, outcome,
                                               float(score)).to_json()
                                    for case, outcome, score in zip(cases, outcomes, scores, strict=True)],
                    "ranges": cohort_ranges(self._load(self._fold.training, self._crop_spacing))}

        self._run_stage(stage, work)


def load_segmentor(run: Run, preset: Preset, fold: int) -> torch.nn.Module:
    """NeoSeg of a fold, the preset's network, in evaluation mode."""
    network = build_segmentor(preset.seg)
    load_weights(run.stage_folder(fold, segmentor_stage(preset)) / WEIGHTS, network)
    return network.eval()


def load_autoencoder(run: Run, preset: Preset, fold: int, kind: str) -> Autoencoder:
    """The trained autoencoder of a fold; `kind` is ``vae`` or ``vqvae``."""
    from neonet_core.generation.autoencoder import build_autoencoder

    autoencoder = build_autoencoder(getattr(preset, kind))
    load_weights(run.stage_folder(fold, kind) / WEIGHTS, autoencoder)
    return autoencoder


def load_diffusion(run: Run, preset: Preset, fold: int, kind: str) -> LatentDiffusion:
    """The diffusion model of a fold that was trained on that autoencoder's latents."""
    from neonet_core.generation.diffusion import LatentDiffusion

    diffusion = LatentDiffusion(getattr(preset, kind).latent_channels, preset.ldm)
    load_weights(run.stage_folder(fold, f"ldm-{kind}") / WEIGHTS, diffusion)
    return diffusion


def load_generator(run: Run, preset: Preset, fold: int, kind: str, device: torch.device) -> Generator:
    """NeoGen (``vae``) or QNeoGen (``vqvae``) of a fold, with its ControlNet."""
    from neonet_core.generation.controlnet import build_control
    from neonet_core.generation.generator import Generator

    autoencoder = load_autoencoder(run, preset, fold, kind)
    control = build_control(autoencoder.latent_channels, preset.ldm, preset.controlnet, autoencoder.factor)
    load_weights(run.stage_folder(fold, f"controlnet-{kind}") / WEIGHTS, control)
    return Generator(autoencoder, load_diffusion(run, preset, fold, kind), control, preset.crop.size, device)


SYNTHETIC_NOTE = "SYNTHETIC image, made by NeoNet. Research use only."


def _figures(result: Fit) -> dict[str, Any]:
    return {"epochs": result.epochs, "best_epoch": result.best_epoch, "best_value": result.best_value}


def case_identities(report: QualityReport) -> dict[str, str]:
    """Content of each case's image and label map, and what the labels stand for, as one string."""
    identities = {}
    for case in report.included:
        assert case.label_map is not None, "quality control leaves out cases without label map"
        identities[case.case_id] = f"{report.facts[case.case_id].sha256}-{sha256_of_file(case.label_map)}"
        if case.label_values is not None:
            identities[case.case_id] += f"-{sorted(case.label_values.items())}"
    return identities


def chosen_segmentors(preset: Preset, models: Sequence[str]) -> list[SegSettings]:
    """The settings of each segmentation network to train: those of the preset, or of `models` in its place."""
    unknown = [model for model in models if model not in NETWORKS]
    if unknown:
        raise NeoNetError("BAD_ARGUMENT", f"There is no model '{unknown[0]}'.", f"Choose from {', '.join(NETWORKS)}.")
    return [preset.seg.model_copy(update={"network": network}) for network in models or (preset.seg.network,)]
