"""The measurement of one stage: a few steps of the function that trains it in earnest, on random patches.

The time does not depend on what is in the patches, nor on the weights.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from neonet_core.classification.names import VARIANTS
from neonet_core.events import Events, Silent
from neonet_core.experiment.graph import classifier_of, section_of, segmentor_settings, settings_of
from neonet_core.experiment.projection import work_of
from neonet_core.phantom import SIZES
from neonet_core.presets import Preset, SegSettings, Training
from neonet_core.segmentation.networks import build_segmentor, size_multiple
from neonet_core.tlcr import mask_patch
from neonet_core.training.loop import PROGRESS_INTERVAL_S
from neonet_core.training.patches import VIEWS, Patches
from neonet_core.training.prepared import PreparedCase

if TYPE_CHECKING:
    from neonet_core.generation.autoencoder import Autoencoder
    from neonet_core.generation.image_terms import FeatureMaps
    from neonet_core.generation.latents import CachedLatents

MANY_EPOCHS = 10**6
CHECKED_SHARE = 4
"""A classifier's epoch ends with a look at a quarter as many cases as it learns from, as with five folds."""
SAMPLING_STEPS = 4
VOLUME_SHAPE = SIZES["full"][0]
"""Of a whole MRI that NeoSeg segments: that of a simulated one."""
SPACING = (1.5, 1.5, 2.2)

Settings = TypeVar("Settings", bound=Training)


@dataclass(frozen=True)
class StageTime:
    """What a stage takes once it has warmed up.

    Attributes
    ----------
    seconds_per_case : float
        Wall clock for each of what `what` says.
    what : str
        "patch and epoch", "case and epoch" or "sample".
    repeats : int
        Of how many epochs (or steps of a sample) `seconds_per_case` is the median.
    work : str
        Of `projection.work_of`: the settings for which this holds.
    seconds_once : float
        For each patch and mirrored view that is encoded before the first epoch.
    seconds_per_volume : float
        For each whole volume of `VOLUME_SHAPE` voxels that NeoSeg segments at a validation.
    """

    stage: str
    seconds_per_case: float
    what: str
    repeats: int
    work: str
    seconds_once: float = 0.0
    seconds_per_volume: float = 0.0


class _Enough(Exception):  # noqa: N818 (nothing is wrong)
    """Ends a training that has been timed."""


class _Stopwatch(Silent):
    """Takes the time at the end of each epoch, and ends the training after `seconds`."""

    def __init__(self, stage: str, seconds: float, report: Callable[[float], None]) -> None:
        self.epoch_ends: list[float] = []
        self._stage, self._seconds, self._report = stage, seconds, report
        self._reported = -PROGRESS_INTERVAL_S

    def progress(self, stage: str, done: float, total: float) -> None:
        if stage != self._stage or not isinstance(done, int):  # encoding; within an epoch
            return
        now = time.perf_counter()
        self.epoch_ends.append(now)
        timed = now - self.epoch_ends[0]
        if timed - self._reported >= PROGRESS_INTERVAL_S:
            self._reported = timed
            self._report(min(timed / max(self._seconds, 1e-9), 0.99))
        if len(self.epoch_ends) > 1 and timed >= self._seconds:
            raise _Enough


class Measurement:
    """Trains a stage as `stage_work.StageWork` does, and takes the time.

    Parameters
    ----------
    seconds : float
        For how long epochs are timed, after the first; one in any case.
    report : callable
        Takes the share, 0 to 1, of the measurement that is done.
    """

    def __init__(self, stage: str, preset: Preset, device: torch.device, seconds: float,
                 report: Callable[[float], None]) -> None:
        self.device = device
        self._stage, self._preset, self._seconds, self._report = stage, preset, seconds, report
        self._kind = stage.rpartition("-")[2]  # of the autoencoder

    def run(self) -> StageTime:
        work = {"seg": self._segmentation, "vae": self._autoencoder, "vqvae": self._autoencoder,
                "ldm": self._diffusion, "controlnet": self._control, "synth": self._synthesis,
                "cls": self._classifier}
        return work[section_of(self._stage)]()

    def _time(self, seconds: Sequence[float], cases: int, what: str, **more: float) -> StageTime:
        """`seconds` are those of `cases` cases, measured several times."""
        return StageTime(self._stage, statistics.median(seconds) / cases, what, len(seconds),
                         work_of(self._stage, self._preset), **more)

    def _epochs(self, train: Callable[[Path, Events], object]) -> list[float]:
        """Seconds of each epoch but the first."""
        watch = _Stopwatch(self._stage, self._seconds, self._report)
        with TemporaryDirectory(prefix="neonet-benchmark-") as folder, suppress(_Enough):
            train(Path(folder), watch)
        return _differences(watch.epoch_ends)

    def _seconds_of(self, work: Callable[[], object]) -> float:
        """Median seconds of some work, which has to bring its result to the host."""
        work()
        taken: list[float] = []
        while not taken or sum(taken) < self._seconds / 4:
            began = time.perf_counter()
            work()
            taken.append(time.perf_counter() - began)
        return statistics.median(taken)

    def _patches(self, count: int) -> Patches:
        """Noise; the outcomes take turns."""
        size = self._preset.crop.size
        return Patches(np.random.default_rng(0).random((count, 1, *size), np.float32),
                       np.tile(mask_patch(_label_map(size)), (count, 1, 1, 1, 1)), np.arange(count) % 2,
                       np.tile(SPACING, (count, 1)))

    # --- NeoSeg --------------------------------------------------------------------------------------------------

    def _segmentation(self) -> StageTime:
        from neonet_core.segmentation.training import dice_of_case, train_segmentor

        settings = _endless(segmentor_settings(self._stage, self._preset)).model_copy(update={"patches_per_case": 1})
        patches = [_random_case(index, settings.patch_size) for index in range(settings.batch_size)]
        seconds = self._epochs(lambda folder, events: train_segmentor(
            patches, [], settings, folder, 0, self.device, events, self._stage))
        network = build_segmentor(settings).to(self.device)
        window = self._seconds_of(lambda: dice_of_case(network, patches[0], settings, self.device))
        return self._time(seconds, len(patches), "patch and epoch",
                          seconds_per_volume=window * _windows(VOLUME_SHAPE, settings))

    # --- NeoGen --------------------------------------------------------------------------------------------------

    def _autoencoder(self) -> StageTime:
        from neonet_core.generation.autoencoder import train_autoencoder

        settings = _endless(getattr(self._preset, self._kind))
        patches = self._patches(settings.batch_size)
        perceptual = self._perceptual() if settings.perceptual_weight > 0 else None
        return self._time(self._epochs(lambda folder, events: train_autoencoder(
            patches, self._patches(0), settings, folder, 0, self.device, events, self._stage, perceptual)),
            len(patches), "case and epoch")

    def _perceptual(self) -> FeatureMaps:
        from neonet_core.evaluation.encoders import padded_encoder_maps

        settings = self._preset.seg
        network = build_segmentor(settings).to(self.device).eval().requires_grad_(False)
        return padded_encoder_maps(network, size_multiple(settings.network, settings.channels))

    def _new_autoencoder(self) -> Autoencoder:
        from neonet_core.generation.autoencoder import build_autoencoder

        return build_autoencoder(getattr(self._preset, self._kind))

    def _latents(self, count: int, flips: bool) -> CachedLatents:
        """Of the right shape; what encoding takes is measured by `_encoding`."""
        from neonet_core.generation.latents import CachedLatents

        autoencoder = self._new_autoencoder()
        quick: Any = _QuickEncoder(autoencoder.latent_channels, autoencoder.factor)
        return CachedLatents(quick, self._patches(count), flips, self.device, Silent(), "")

    def _encoding(self) -> float:
        """Seconds for the latent of one patch."""
        from neonet_core.generation.latents import encode_views

        autoencoder, images = self._new_autoencoder(), self._patches(1).images
        return self._seconds_of(lambda: encode_views(autoencoder, images, VIEWS[:1], self.device, Silent(), "").cpu())

    def _diffusion(self) -> StageTime:
        from neonet_core.generation.diffusion import train_diffusion

        settings = _endless(self._preset.ldm)
        latents = self._latents(settings.batch_size, settings.flips)
        seconds = self._epochs(lambda folder, events: train_diffusion(
            latents, None, settings, folder, 0, self.device, events, self._stage))
        return self._time(seconds, len(latents), "case and epoch", seconds_once=self._encoding())

    def _control(self) -> StageTime:
        from neonet_core.generation.controlnet import train_control
        from neonet_core.generation.diffusion import LatentDiffusion

        settings, autoencoder = _endless(self._preset.controlnet), self._new_autoencoder()
        latents = self._latents(settings.batch_size, settings.flips)
        diffusion = LatentDiffusion(autoencoder.latent_channels, self._preset.ldm)
        seconds = self._epochs(lambda folder, events: train_control(
            diffusion, latents, None, settings, autoencoder.factor, folder, 0, self.device, events, self._stage))
        return self._time(seconds, len(latents), "case and epoch", seconds_once=self._encoding())

    def _synthesis(self) -> StageTime:
        """Whole samples of few steps: what the other steps would take is added."""
        from neonet_core.generation.controlnet import build_control
        from neonet_core.generation.diffusion import LatentDiffusion
        from neonet_core.generation.generator import Generator

        preset, settings, autoencoder = self._preset, self._preset.synth, self._new_autoencoder()
        generator = Generator(
            autoencoder, LatentDiffusion(autoencoder.latent_channels, preset.ldm),
            build_control(autoencoder.latent_channels, preset.ldm, preset.controlnet, autoencoder.factor),
            preset.crop.size, self.device)
        count, ends = generator.most_at_once(settings.batch_size), list[float]()
        steps = min(SAMPLING_STEPS, settings.steps)

        def step_ended(done: int, total: int) -> None:
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            ends.append(time.perf_counter())
            self._report(done / (total + 1))

        def sample() -> None:
            generator.generate(masks, [0] * count, range(count), sampler=settings.sampler, steps=steps,
                               guidance=settings.guidance, progress=step_ended)

        masks = self._patches(count).masks
        sample()  # warms up
        ends.clear()
        began = time.perf_counter()
        sample()
        whole = time.perf_counter() - began
        taken = _differences(ends) or [whole]
        beside = max(whole - (ends[-1] - ends[0]), 0)  # the mask's embedding, the first step, decoding
        return self._time([beside + second * (settings.steps - 1) for second in taken], count, "sample")

    # --- NeoCls --------------------------------------------------------------------------------------------------

    def _classifier(self) -> StageTime:
        model, _ = classifier_of(self._stage)
        batch = settings_of(self._stage, self._preset)["batch_size"]
        # whole batches, and of what is checked at least one case of each outcome
        learning = self._patches(batch * -(-2 * CHECKED_SHARE // batch))
        stopping = self._patches(len(learning) // CHECKED_SHARE)
        return (self._pattennet if model in VARIANTS else self._baseline)(model, learning, stopping)

    def _baseline(self, model: str, learning: Patches, stopping: Patches) -> StageTime:
        from neonet_core.classification.baseline_training import train_baseline

        settings = _endless(self._preset.baseline)
        return self._time(self._epochs(lambda folder, events: train_baseline(
            model, learning, stopping, settings, folder, 0, self.device, events, self._stage)),
            len(learning), "case and epoch")

    def _pattennet(self, model: str, learning: Patches, stopping: Patches) -> StageTime:
        from neonet_core.classification.training import train_classifier

        settings = _endless(self._preset.cls.model_copy(update=VARIANTS[model]))
        levels = self._preset.vae.channels
        quick = _QuickEncoder(levels[-1], 2 ** (len(levels) - 1))
        seconds = self._epochs(lambda folder, events: train_classifier(
            quick, learning, stopping, settings, folder, 0, self.device, events, self._stage))
        return self._time(seconds, len(learning), "case and epoch", seconds_once=self._features(settings.vary_masks_mm))

    def _features(self, vary_masks_mm: float) -> float:
        """Seconds for the features of one patch, and for varying its masks."""
        from neonet_core.classification.masks import vary_masks
        from neonet_core.classification.training import encode_views
        from neonet_core.generation.autoencoder import FeatureEncoder, build_autoencoder

        encoder, patches = FeatureEncoder(build_autoencoder(self._preset.vae)), self._patches(1)

        def encode() -> None:
            if vary_masks_mm > 0:
                vary_masks(patches.masks[0], SPACING, vary_masks_mm, np.random.default_rng(0))
            encode_views(encoder, patches.channels(), VIEWS[:1], self.device, Silent(), "").cpu()

        return self._seconds_of(encode)


class _QuickEncoder(torch.nn.Module):
    """In place of a frozen encoder: maps of the same shape, at once."""

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self._channels, self._factor = channels, factor

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, 1, X, Y, Z) -> (N, C, X/factor, Y/factor, Z/factor)."""
        return torch.nn.functional.avg_pool3d(images, self._factor).repeat(1, self._channels, 1, 1, 1)

    encode_latents = forward


def _endless(settings: Settings) -> Settings:
    """The same work for each case, until the stopwatch ends it."""
    return settings.model_copy(update={"epochs": MANY_EPOCHS, "patience": None})


def _random_case(index: int, size: Sequence[int]) -> PreparedCase:
    image = np.random.default_rng(index).random(tuple(size), np.float32)
    return PreparedCase(f"case-{index}", index % 2, image, _label_map(size), SPACING, (0.0, 1.0))


def _label_map(size: Sequence[int]) -> np.ndarray:
    """A liver that fills most of the patch, with a tumour in its middle."""
    labels = np.zeros(tuple(size), np.uint8)
    for label, share in ((1, 0.8), (2, 0.3)):
        margins = [int(edge * (1 - share) / 2) for edge in size]
        labels[tuple(slice(margin, edge - margin) for margin, edge in zip(margins, size, strict=True))] = label
    return labels


def _differences(times: Sequence[float]) -> list[float]:
    return [after - before for before, after in itertools.pairwise(times)]


def _windows(shape: Sequence[int], settings: SegSettings) -> int:
    """How many windows a volume is segmented in."""
    count = 1
    for length, window in zip(shape, settings.patch_size, strict=True):
        stride = max(int(window * (1 - settings.overlap)), 1)
        count *= max(-(-(length - window) // stride), 0) + 1
    return count
