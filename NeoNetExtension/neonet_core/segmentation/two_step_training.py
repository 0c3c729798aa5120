"""Training of `TwoStep` on a cohort's own label maps: both networks at once, each on windows as it was trained on.

A sample is one case: its whole abdomen for the liver's network, and one window within its (true) liver for that of the
lesions. Every sample depends on (seed, epoch, index) alone, so that a resumed training sees what an uninterrupted one
would.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from neonet_core.presets import SegSettings
from neonet_core.segmentation.components import Box, bounding_box
from neonet_core.segmentation.pathway_unet import LESION
from neonet_core.segmentation.two_step import (
    body_box,
    lesion_intensities,
    liver_intensities,
    liver_window,
    smoothed_3mm,
    with_margin,
)
from neonet_core.training.loop import derive_seed
from neonet_core.training.prepared import PreparedCase


@dataclass(frozen=True)
class Sample:
    """What one case gives to both networks; tensors are (1, 1, X, Y, Z) float32, targets 0 or 1.

    `lesion_target` and `known` cover what the lesions' network gives logits for; it learns where `known` is 1, in the
    liver with its margin.
    """

    liver_window: torch.Tensor
    liver_place: Box
    liver_target: torch.Tensor
    lesion_window: torch.Tensor
    lesion_target: torch.Tensor
    known: torch.Tensor


@dataclass(frozen=True)
class _Case:
    """A case on both grids: the body on 3 mm, the liver's box on 1 x 1 x 3 mm."""

    coarse: torch.Tensor
    coarse_target: torch.Tensor
    near: torch.Tensor
    target: torch.Tensor
    inside: torch.Tensor


class TwoStepSampler:
    """Draws the samples of an epoch.

    Parameters
    ----------
    cases : sequence of PreparedCase
        On the grid of `TwoStep`; each is kept on both grids (about 30 MB).
    settings : SegSettings
        `patches_per_case`, `batch_size`, `tumour_share` and `augment` count; the windows have their own sizes.
    seed : int
    """

    def __init__(self, cases: Sequence[PreparedCase], settings: SegSettings, seed: int) -> None:
        self._cases = [_on_both_grids(case) for case in cases]
        self._settings, self._seed = settings, seed

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self._cases) * self._settings.patches_per_case // self._settings.batch_size)

    def batches(self, epoch: int, device: torch.device) -> Iterator[list[Sample]]:
        """Yield lists of samples until each case was seen `patches_per_case` times."""
        order = np.tile(np.arange(len(self._cases)), self._settings.patches_per_case)
        np.random.default_rng(derive_seed(self._seed, epoch)).shuffle(order)
        for first in range(0, len(order), self._settings.batch_size):
            indices = order[first : first + self._settings.batch_size]
            yield [self._sample(int(index), derive_seed(self._seed, epoch, first + position), device)
                   for position, index in enumerate(indices)]

    def _sample(self, index: int, seed: int, device: torch.device) -> Sample:
        rng = np.random.default_rng(seed)
        case = self._cases[index]
        window, place = liver_window(case.coarse.to(device))
        size, seen = np.array(LESION.window), np.array(LESION.seen)
        # the lesions' windows are centred on a tumour voxel, or anywhere in the liver's box
        tumour = np.argwhere(case.target[0, 0].numpy())
        if len(tumour) and rng.random() < self._settings.tumour_share:
            centre = tumour[rng.integers(len(tumour))]
        else:
            centre = rng.integers(0, case.near.shape[2:])
        image, target, known = (_window(part, centre, length, device) for part, length in (
            (case.near, size), (case.target, seen), (case.inside, seen)))
        if self._settings.augment and rng.random() < 0.5:  # left and right, as the published network was trained
            image, target, known = (part.flip(2) for part in (image, target, known))
        return Sample(window, place, case.coarse_target.to(device), image, target, known)


def two_step_loss(network: Any, samples: list[Sample]) -> torch.Tensor:
    """Soft Dice + cross-entropy of the liver, and the same of the lesions, averaged over the samples."""
    total = torch.zeros((), device=samples[0].liver_window.device)
    for sample in samples:
        logits = network.liver(sample.liver_window).float()[(..., *sample.liver_place)]
        total = total + _dice_and_cross_entropy(logits, sample.liver_target, torch.ones_like(logits))
        logits = network.lesion(sample.lesion_window).float()
        total = total + _dice_and_cross_entropy(logits, sample.lesion_target, sample.known)
    return total / len(samples)


def _dice_and_cross_entropy(logits: torch.Tensor, target: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Of one structure, where `known` is 1; a window without the structure counts 0 where nothing is found."""
    probability = torch.sigmoid(logits) * known
    target = target * known
    overlap = (2 * (probability * target).sum() + 1) / (probability.sum() + target.sum() + 1)
    entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return 1 - overlap + (entropy * known).sum() / known.sum().clamp_min(1)


def _on_both_grids(case: PreparedCase) -> _Case:
    image = torch.from_numpy(np.array(case.image, dtype=np.float32))[None, None]
    labels = torch.from_numpy(np.array(case.label_map))[None, None]
    liver = labels > 0
    coarse = smoothed_3mm(image)
    box = body_box(coarse[0, 0].numpy())
    whole = functional.interpolate(liver.float(), coarse.shape[2:], mode="trilinear")
    inside = with_margin(liver)
    near = bounding_box(inside[0, 0].numpy())
    return _Case(liver_intensities(coarse[(..., *box)]), (whole > 0.5).float()[(..., *box)],
                 lesion_intensities(image, liver, inside)[(..., *near)].clone(),
                 (labels == 2).float()[(..., *near)].clone(), inside.float()[(..., *near)].clone())


def _window(volume: torch.Tensor, centre: np.ndarray, size: np.ndarray, device: torch.device) -> torch.Tensor:
    """The part of (1, 1, X, Y, Z) of a size around a voxel, zeros beyond the volume."""
    starts = centre - size // 2
    stops = starts + size
    x, y, z = (slice(max(0, a), min(b, n)) for a, b, n in zip(starts, stops, volume.shape[2:], strict=True))
    padding = [int(value) for a, b, n in reversed(list(zip(starts, stops, volume.shape[2:], strict=True)))
               for value in (max(0, -a), max(0, b - n))]
    return functional.pad(volume[..., x, y, z], padding).to(device)
