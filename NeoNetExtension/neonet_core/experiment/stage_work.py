"""What each stage of a fold does: cases in, weights and figures out."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from neonet_core.classification.names import VARIANTS, VOLUME
from neonet_core.cohort import Case
from neonet_core.events import Events
from neonet_core.experiment.graph import (
    AUTOENCODERS,
    classifier_of,
    section_of,
    segmentor_settings,
)
from neonet_core.experiment.predictions import Prediction
from neonet_core.experiment.ranges import cohort_ranges
from neonet_core.experiment.trained import (
    WEIGHTS,
    load_autoencoder,
    load_diffusion,
    load_generator,
    load_segmentor,
)
from neonet_core.presets import ClsSettings
from neonet_core.segmentation.networks import size_multiple
from neonet_core.training.checkpoint import save_weights
from neonet_core.training.files import sha256_of_file
from neonet_core.training.loop import Fit, derive_seed
from neonet_core.training.patches import Patches, concatenate, cut_patches
from neonet_core.training.prepared import PreparedCase

if TYPE_CHECKING:
    from neonet_core.experiment.fold import FoldTraining
    from neonet_core.generation.image_terms import FeatureMaps
    from neonet_core.generation.latents import CachedLatents

MOST_STOPPING_PATCHES = 64
SYNTHETIC_NOTE = "SYNTHETIC image, made by NeoNet. Research use only."

Scores = Callable[[Sequence[Case]], np.ndarray]
"""A trained classifier: cases -> probabilities (N,) of outcome 1."""


class StageWork:
    """The training of one stage. `run` writes into `folder` and returns the stage's figures."""

    def __init__(self, training: FoldTraining, stage: str, folder: Path, seed: int, device: torch.device,
                 events: Events, name: str) -> None:
        self._run, self._fold, self._preset = training.run, training.fold, training.preset
        self._prepared = training.prepared
        self._seg_spacing, self._crop_spacing = training.seg_spacing, training.crop_spacing
        self._run_seed, self._start = training.seed, training.start
        self._stage, self._folder, self._seed, self._device = stage, folder, seed, device
        self._events, self._name = events, name
        self._kind = stage.rpartition("-")[2]  # of the autoencoder

    def run(self) -> dict[str, Any]:
        work = {"seg": self._segmentation, "vae": self._autoencoder, "vqvae": self._autoencoder,
                "ldm": self._diffusion, "controlnet": self._control, "synth": self._synthesis,
                "cls": self._classifier}
        return work[section_of(self._stage)]()

    # --- cases and networks --------------------------------------------------------------------------------------

    def _load(self, cases: Sequence[Case], spacing: Sequence[float] | None) -> list[PreparedCase]:
        return self._prepared.load(cases, spacing, self._events)

    def _patches(self, cases: Sequence[Case]) -> Patches:
        return cut_patches(self._load(cases, self._crop_spacing), self._preset.crop)

    def _perceptual(self) -> FeatureMaps | None:
        """Feature maps of the fold's own NeoSeg, which has seen its training patients alone; None where not needed."""
        from neonet_core.evaluation.encoders import padded_encoder_maps

        if getattr(self._preset, self._kind).perceptual_weight == 0:
            return None
        network = load_segmentor(self._run, self._preset, self._fold.number).to(self._device).requires_grad_(False)
        return padded_encoder_maps(network, size_multiple(self._preset.seg.network, self._preset.seg.channels))

    def _latents(self, flips: bool) -> tuple[CachedLatents, CachedLatents | None]:
        """Latents to learn from, and those that pick the epoch, if any do."""
        from neonet_core.generation.latents import CachedLatents

        autoencoder = load_autoencoder(self._run, self._preset, self._fold.number, self._kind)
        learning = CachedLatents(autoencoder, self._patches(self._fold.learning), flips, self._device, self._events,
                                 self._name)
        stopping = self._generator_stopping()
        if not len(stopping):
            return learning, None
        return learning, CachedLatents(autoencoder, stopping, False, self._device, self._events, self._name)

    def _generator_stopping(self) -> Patches:
        """The patches that pick the epoch of NeoGen's networks: none in the protocol ``paper``, where these would be
        held-out ones, and the paper trains its generator "strictly ... using only the training data"."""
        cases = () if self._preset.protocol == "paper" else self._fold.stopping[:MOST_STOPPING_PATCHES]
        return self._patches(cases)

    def _save(self, network: torch.nn.Module) -> None:
        save_weights(self._folder / WEIGHTS, network)

    # --- NeoSeg --------------------------------------------------------------------------------------------------

    def _segmentation(self) -> dict[str, Any]:
        from neonet_core.segmentation.training import dice_of_case, train_segmentor

        settings = segmentor_settings(self._stage, self._preset)
        start = None if self._start is None else self._start.segmentors(torch.device("cpu"))[0].network
        network, result = train_segmentor(
            self._load(self._fold.learning, self._seg_spacing), self._load(self._fold.stopping, self._seg_spacing),
            settings, self._folder, self._seed, self._device, self._events, self._name, start)
        self._save(network)
        cases = self._load(self._fold.validation, self._seg_spacing)
        scores = {case.case_id: dice_of_case(network, case, settings, self._device) for case in cases}
        liver, tumour = np.nanmean(np.array(list(scores.values())), axis=0)
        return {**_figures(result), "spacing": self._seg_spacing, "settings": settings.model_dump(),
                "dice_liver": liver, "dice_tumour": tumour, "dice": (liver + tumour) / 2, "dice_by_case": scores}

    # --- NeoGen --------------------------------------------------------------------------------------------------

    def _autoencoder(self) -> dict[str, Any]:
        from neonet_core.generation.autoencoder import train_autoencoder

        network, result = train_autoencoder(
            self._patches(self._fold.learning), self._generator_stopping(), getattr(self._preset, self._kind),
            self._folder, self._seed, self._device, self._events, self._name, self._perceptual())
        self._save(network)
        return {**_figures(result), "spacing": self._crop_spacing}

    def _diffusion(self) -> dict[str, Any]:
        from neonet_core.generation.diffusion import train_diffusion

        learning, stopping = self._latents(self._preset.ldm.flips)
        network, result = train_diffusion(learning, stopping, self._preset.ldm, self._folder, self._seed, self._device,
                                          self._events, self._name)
        self._save(network)
        return {**_figures(result), "spacing": self._crop_spacing}

    def _control(self) -> dict[str, Any]:
        from neonet_core.generation.controlnet import train_control

        learning, stopping = self._latents(self._preset.controlnet.flips)
        factor = load_autoencoder(self._run, self._preset, self._fold.number, self._kind).factor
        diffusion = load_diffusion(self._run, self._preset, self._fold.number, self._kind)
        network, result = train_control(diffusion, learning, stopping, self._preset.controlnet, factor, self._folder,
                                        self._seed, self._device, self._events, self._name)
        self._save(network)
        return {**_figures(result), "spacing": self._crop_spacing}

    def _synthesis(self) -> dict[str, Any]:
        """Samples that balance the learning cases, and samples on held-out masks, with and without ControlNet, by which
        the generator is judged. Only NeoGen balances: QNeoGen is there for table 4."""
        from neonet_core.generation.generator import Generator
        from neonet_core.generation.synthesis import balancing_requests, evaluation_requests, write_samples

        kind, number, settings = self._kind, self._fold.number, self._preset.synth
        controlled = load_generator(self._run, self._preset, number, kind, self._device)
        free = Generator(controlled.autoencoder, controlled.diffusion, None, controlled.patch_size, self._device)
        learning, held_out = self._patches(self._fold.learning), self._patches(self._fold.validation)
        origin = {"fold": number, "generator": AUTOENCODERS[kind],
                  "weights": {stage: sha256_of_file(self._run.stage_folder(number, stage) / WEIGHTS)
                              for stage in (kind, f"ldm-{kind}", f"controlnet-{kind}")}}
        balancing = balancing_requests(learning, [case.case_id for case in self._fold.learning], settings, self._seed)
        if kind == "vae" and not balancing:
            self._events.log(f"{self._name}: the learning cases need no synthetic ones, or lack a class: R+S will be "
                             "R", "warning")
        # one seed for both generators: they are compared on the same masks
        judging = evaluation_requests(held_out, [case.case_id for case in self._fold.validation],
                                      settings.evaluation_samples,
                                      derive_seed(self._run_seed, number, zlib.crc32(b"synth")))
        parts = {"samples": (controlled, balancing if kind == "vae" else []),
                 "evaluation": (controlled, judging), "evaluation-dm": (free, judging)}
        for part, (generator, requests) in parts.items():
            write_samples(generator, requests, self._folder / part, settings,
                          origin | {"controlnet": generator.control is not None}, self._events,
                          f"{self._name} {part}", note=SYNTHETIC_NOTE)
        return {"spacing": self._crop_spacing, **{part: len(requests) for part, (_, requests) in parts.items()}}

    # --- NeoCls --------------------------------------------------------------------------------------------------

    def _classifier(self) -> dict[str, Any]:
        from neonet_core.evaluation.auc import auc

        model, ratio = classifier_of(self._stage)
        fold = self._fold
        synthetic = self._synthetic(ratio) if ratio else None
        figures: dict[str, Any]
        if model == VOLUME:
            scores, figures = self._volume_alone()
        else:
            learning = self._patches(fold.learning)
            if synthetic is not None:
                learning = concatenate(learning, synthetic)
            scores, result = (self._pattennet if model in VARIANTS else self._baseline)(model, learning)
            figures = _figures(result)
        probabilities = scores(fold.validation)
        outcomes = _outcomes(fold.validation)
        return {**figures, "spacing": self._crop_spacing, "model": model, "ratio": ratio,
                "synthetic": 0 if synthetic is None else len(synthetic),
                "auc": auc(outcomes, probabilities) if len(set(outcomes)) == 2 else None,
                "threshold": self._threshold(scores),
                "predictions": [Prediction(case.case_id, case.patient_id, fold.number, self._stage, outcome,
                                           float(probability)).to_json()
                                for case, outcome, probability in zip(fold.validation, outcomes, probabilities,
                                                                      strict=True)],
                "ranges": cohort_ranges(self._load(fold.training, self._crop_spacing))}

    def _threshold(self, scores: Scores) -> float | None:
        """Youden's threshold on training patients: those who picked the epoch, whom no gradient came from, or in the
        protocol `paper`, where these are the reported ones, those learned from."""
        from neonet_core.evaluation.auc import youden_threshold

        cases = self._fold.learning if self._preset.protocol == "paper" else self._fold.stopping
        outcomes = _outcomes(cases)
        return youden_threshold(outcomes, scores(cases)) if len(set(outcomes)) == 2 else None

    def _synthetic(self, ratio: int) -> Patches | None:
        """The share of the balancing samples that R+S `ratio` % takes; None where there is none."""
        from neonet_core.generation.synthesis import read_samples, share_of

        folder = self._run.stage_folder(self._fold.number, "synth-vae") / "samples"
        paths = sorted(folder.glob("sample-*.json"))
        chosen = paths[:share_of(len(paths), ratio)]
        return read_samples(chosen)[0] if chosen else None

    def _pattennet(self, model: str, learning: Patches) -> tuple[Scores, Fit]:
        from neonet_core.classification.training import classify_patches, train_classifier
        from neonet_core.generation.autoencoder import FeatureEncoder, KlAutoencoder

        settings: ClsSettings = self._preset.cls.model_copy(update=VARIANTS[model])
        autoencoder = load_autoencoder(self._run, self._preset, self._fold.number, "vae")
        assert isinstance(autoencoder, KlAutoencoder)
        encoder = FeatureEncoder(autoencoder)
        network, result = train_classifier(encoder, learning, self._patches(self._fold.stopping), settings,
                                           self._folder, self._seed, self._device, self._events, self._name)
        self._save(network)
        return lambda cases: classify_patches(encoder, network, self._patches(cases), self._device, self._events,
                                              self._name), result

    def _baseline(self, model: str, learning: Patches) -> tuple[Scores, Fit]:
        from neonet_core.classification.baseline_training import classify_with_baseline, train_baseline

        network, result = train_baseline(model, learning, self._patches(self._fold.stopping), self._preset.baseline,
                                         self._folder, self._seed, self._device, self._events, self._name)
        self._save(network)
        return lambda cases: classify_with_baseline(network, self._patches(cases), self._device, self._events,
                                                    self._name), result

    def _volume_alone(self) -> tuple[Scores, dict[str, Any]]:
        from neonet_core.classification.volume import fit_volume

        def volumes(cases: Sequence[Case]) -> np.ndarray:
            """Of the tumours, in ml."""
            return np.array([(np.asarray(case.label_map) == 2).sum() * np.prod(case.spacing) / 1000
                             for case in self._load(cases, self._crop_spacing)])

        # no epoch is picked: all training patients are learned from
        model = fit_volume(volumes(self._fold.training), np.array(_outcomes(self._fold.training)))
        return lambda cases: model.probabilities(volumes(cases)), {"volume_model": model.to_json()}


def _outcomes(cases: Sequence[Case]) -> list[int]:
    return [case.outcome for case in cases if case.outcome is not None]


def _figures(result: Fit) -> dict[str, Any]:
    return {"epochs": result.epochs, "best_epoch": result.best_epoch, "best_value": result.best_value}
