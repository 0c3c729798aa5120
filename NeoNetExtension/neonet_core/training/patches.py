"""TLCR patches of prepared cases: what the autoencoder and the classifier train on."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neonet_core.errors import NeoNetError
from neonet_core.presets import CropSettings
from neonet_core.tlcr import extract, image_channels, locate_crop, mask_patch
from neonet_core.training.prepared import PreparedCase

VIEWS = tuple(itertools.chain.from_iterable(itertools.combinations((2, 3, 4), n) for n in range(4)))
"""The eight mirrored views of a batch (N, C, X, Y, Z), as the axes that are flipped; the first is the patch itself."""


@dataclass(frozen=True)
class Patches:
    """TLCR patches with their outcomes.

    Attributes
    ----------
    images : np.ndarray
        (N, 1, X, Y, Z) float32 in [0, 1].
    masks : np.ndarray
        (N, 2, X, Y, Z) uint8: liver or tumour; tumour.
    outcomes : np.ndarray
        (N,) 0 or 1; -1 where it is unknown.
    spacings : np.ndarray
        (N, 3) voxel edges in mm.
    """

    images: np.ndarray
    masks: np.ndarray
    outcomes: np.ndarray
    spacings: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def channels(self) -> np.ndarray:
        """The classifier's input, T1 and T2 (N, 2, X, Y, Z) float32: image x mask."""
        return np.stack([image_channels(image[0], mask) for image, mask in zip(self.images, self.masks, strict=True)])


def cut_patches(cases: Sequence[PreparedCase], settings: CropSettings) -> Patches:
    """Cut the TLCR patch of each case by its ground-truth mask. Raises ``EMPTY_TUMOUR``."""
    images, masks = [], []
    for case in cases:
        label_map = np.asarray(case.label_map)
        if not (label_map == 2).any():
            raise NeoNetError("EMPTY_TUMOUR", f"The tumour of {case.case_id} is smaller than a voxel of the grid that "
                              "the model works on.", "Leave the case out, or choose a finer crop.spacing.")
        crop = locate_crop(label_map, settings.size, component=settings.component, spacing=case.spacing)
        assert crop is not None, "quality control leaves out cases without tumour"
        if crop.coverage == 0:
            raise NeoNetError("EMPTY_TUMOUR", f"The crop around the tumours of {case.case_id} holds none of them: they "
                              "lie farther apart than it is large.",
                              "Crop the largest one (--set crop.component=largest), or leave the case out.")
        images.append(extract(np.asarray(case.image), crop)[None])
        masks.append(mask_patch(extract(label_map, crop)))
    shape = tuple(settings.size)
    outcomes = np.array([-1 if case.outcome is None else case.outcome for case in cases], dtype=np.int64)
    return Patches(np.stack(images) if images else np.zeros((0, 1, *shape), np.float32),
                   np.stack(masks) if masks else np.zeros((0, 2, *shape), np.uint8), outcomes,
                   np.array([case.spacing for case in cases]).reshape(-1, 3))


def concatenate(first: Patches, second: Patches) -> Patches:
    """The patches of both, in order."""
    return Patches(np.concatenate([first.images, second.images]), np.concatenate([first.masks, second.masks]),
                   np.concatenate([first.outcomes, second.outcomes]),
                   np.concatenate([first.spacings, second.spacings]))
