"""Training patches of NeoSeg: drawn around the tumour, the liver or anywhere, and augmented.

Every patch depends on (seed, epoch, index) alone, so that a resumed training sees what an uninterrupted one would.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from neonet_core.presets import SegSettings
from neonet_core.training.loop import derive_seed
from neonet_core.training.prepared import PreparedCase

VOXELS_KEPT_PER_CLASS = 20_000
"""Patch centres are drawn from at most so many voxels of a class: enough to be dense, small enough for any cohort."""


class PatchSampler:
    """Draws the patches of an epoch.

    Parameters
    ----------
    cases : sequence of PreparedCase
    settings : SegSettings
    seed : int
    """

    def __init__(self, cases: Sequence[PreparedCase], settings: SegSettings, seed: int) -> None:
        self._cases = cases
        self._settings = settings
        self._seed = seed
        self._centres = [_class_voxels(np.asarray(case.label_map), derive_seed(seed, index))
                         for index, case in enumerate(cases)]
        self._augment = _augmentation() if settings.augment else None

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self._cases) * self._settings.patches_per_case // self._settings.batch_size)

    def batches(self, epoch: int, device: torch.device) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (images (N, 1, X, Y, Z) float32, label maps (N, 1, X, Y, Z) uint8) until each case was seen
        `patches_per_case` times."""
        order = np.tile(np.arange(len(self._cases)), self._settings.patches_per_case)
        np.random.default_rng(derive_seed(self._seed, epoch)).shuffle(order)
        for first in range(0, len(order), self._settings.batch_size):
            indices = order[first : first + self._settings.batch_size]
            patches = [self._patch(int(case), derive_seed(self._seed, epoch, first + position))
                       for position, case in enumerate(indices)]
            yield (torch.stack([image for image, _ in patches]).to(device, non_blocking=True),
                   torch.stack([labels for _, labels in patches]).to(device, non_blocking=True))

    def _patch(self, index: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng(seed)
        case, (liver, tumour) = self._cases[index], self._centres[index]
        shape = np.array(case.image.shape)
        size = np.array(self._settings.patch_size)
        # of the patches that are not centred on a tumour voxel, one half is centred on the liver
        candidates = tumour if rng.random() < self._settings.tumour_share else (liver if rng.random() < 0.5 else None)
        if candidates is not None and len(candidates):
            centre = candidates[rng.integers(len(candidates))]
        else:
            centre = rng.integers(0, shape)
        start = np.clip(centre - size // 2, 0, np.maximum(shape - size, 0))
        window = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
        image = _padded(np.asarray(case.image[window]), size)
        labels = _padded(np.asarray(case.label_map[window]), size)
        sample = {"image": torch.from_numpy(image)[None], "labels": torch.from_numpy(labels)[None]}
        if self._augment is not None:
            self._augment.set_random_state(seed)
            sample = self._augment(sample)
        return (torch.as_tensor(sample["image"]).float().as_subclass(torch.Tensor),
                torch.as_tensor(sample["labels"]).to(torch.uint8).as_subclass(torch.Tensor))


def _class_voxels(label_map: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Voxel indices (n, 3) of liver and of tumour, thinned at random where there are many."""
    rng = np.random.default_rng(seed)
    kept = []
    for value in (1, 2):
        flat = np.flatnonzero(label_map == value)
        if len(flat) > VOXELS_KEPT_PER_CLASS:
            flat = np.sort(rng.choice(flat, VOXELS_KEPT_PER_CLASS, replace=False))
        kept.append(np.stack(np.unravel_index(flat, label_map.shape), axis=1))
    return kept[0], kept[1]


def _padded(array: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Zero-pad at the end of each axis, as TLCR does, where the volume is smaller than the patch."""
    return np.pad(array, [(0, int(n - have)) for n, have in zip(size, array.shape, strict=True)])


def _augmentation() -> Any:
    """Flips, a small affine change, and what scanners vary: contrast, brightness, noise, blur."""
    from monai.transforms import (
        Compose,
        RandAdjustContrastd,
        RandAffined,
        RandFlipd,
        RandGaussianNoised,
        RandGaussianSmoothd,
        RandScaleIntensityd,
        RandShiftIntensityd,
    )

    both, image = ("image", "labels"), ("image",)
    return Compose([
        # left-right only: the liver's side is anatomy, but a mirrored abdomen still teaches shape and contrast
        RandFlipd(both, prob=0.2, spatial_axis=0),
        RandAffined(both, prob=0.3, rotate_range=(0.15, 0.15, 0.15), scale_range=(0.15, 0.15, 0.15),
                    mode=("bilinear", "nearest"), padding_mode="zeros"),
        RandAdjustContrastd(image, prob=0.3, gamma=(0.7, 1.5)),
        RandScaleIntensityd(image, factors=0.2, prob=0.5),
        RandShiftIntensityd(image, offsets=0.1, prob=0.5),
        RandGaussianNoised(image, prob=0.3, std=0.05),
        RandGaussianSmoothd(image, prob=0.15, sigma_x=(0.5, 1.0), sigma_y=(0.5, 1.0), sigma_z=(0.5, 1.0)),
    ])
