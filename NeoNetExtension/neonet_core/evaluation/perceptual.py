"""Perceptual distance of reconstructions: LPIPS with its published weights, or its like on NeoSeg's features.

The two are different quantities on different scales; the measure's name stands beside every number.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from neonet_core.errors import NeoNetError
from neonet_core.evaluation.features import SLICES_AT_ONCE, SegmentorFeatures
from neonet_core.evaluation.lpips_alexnet import load_lpips
from neonet_core.evaluation.views import VIEWS, checked_patches, filled_slices, mean_of_known
from neonet_core.training.files import sha256_of_file

Spacing = Sequence[float] | np.ndarray
LPIPS_EDGE = 64
"""LPIPS was calibrated on images of 64 x 64; smaller ones do not pass AlexNet's pooling either."""


class PerceptualMeasure(Protocol):
    """A perceptual distance of two patches; `name` goes beside every number."""

    name: str

    def distances(self, real: np.ndarray, other: np.ndarray, spacing: Spacing | None) -> dict[str, float | None]:
        """Distances of two patches (X, Y, Z) by view, or under one key where the measure is of the whole patch."""
        ...


class Lpips:
    """Learned perceptual image patch similarity of slices in the three views, the mean over a view's slices.

    Slices that are padding in the real patch are left out; slices with an edge below 64 are enlarged (linearly).

    Parameters
    ----------
    weights : Path
        See `lpips_alexnet.load_lpips`. Nothing is downloaded.
    device : torch.device

    Raises
    ------
    NeoNetError
        ``FILE_NOT_FOUND``, ``BAD_WEIGHTS``.

    References
    ----------
    Zhang, Isola, Efros, Shechtman, Wang: The unreasonable effectiveness of deep features as a perceptual metric. CVPR
    2018.
    """

    def __init__(self, weights: Path, device: torch.device | None = None) -> None:
        self._device = device or torch.device("cpu")
        self._network: torch.nn.Module = load_lpips(weights).to(self._device).eval()
        self.name = f"LPIPS (alex; {Path(weights).name}, SHA-256 {sha256_of_file(Path(weights))[:8]})"

    def distances(self, real: np.ndarray, other: np.ndarray, spacing: Spacing | None) -> dict[str, float | None]:
        found: dict[str, float | None] = {}
        for view, axis in VIEWS.items():
            filled = filled_slices(real, view)
            pair = [torch.from_numpy(np.moveaxis(patch, axis, 0)[filled].astype(np.float32)) for patch in (real, other)]
            batches = list(zip(*(slices.split(SLICES_AT_ONCE) for slices in pair), strict=True)) if filled.any() else []
            with torch.inference_mode():
                values = [self._network(self._as_photographs(a), self._as_photographs(b)).flatten().cpu().numpy()
                          for a, b in batches]
            found[view] = float(np.concatenate(values).mean()) if values else None
        return found

    def _as_photographs(self, slices: torch.Tensor) -> torch.Tensor:
        """(n, H, W) in [0, 1] -> (n, 3, h, w) in [-1, 1] with edges of at least 64."""
        images = slices.clamp(0, 1)[:, None].to(self._device) * 2 - 1
        shorter = min(images.shape[2:])
        if shorter < LPIPS_EDGE:
            size = [round(edge * LPIPS_EDGE / shorter) for edge in images.shape[2:]]
            images = torch.nn.functional.interpolate(images, size=size, mode="bilinear", align_corners=False)
        return images.expand(-1, 3, -1, -1)


class SegmentorDistance:
    """The form of LPIPS on the feature maps of NeoSeg's encoder, in 3D and without learned weights.

    At each position of each level of the encoder the features are scaled to unit length; the distance is the squared
    difference of the two patches' vectors, averaged over a level's positions and then over the levels: 0 to 4.

    Parameters
    ----------
    features : SegmentorFeatures
        The encoder, with its name.

    References
    ----------
    Zhang et al., CVPR 2018, equation 1 with all w = 1.
    """

    def __init__(self, features: SegmentorFeatures) -> None:
        self._features = features
        self.name = f"Perceptual distance on {features.name} features"

    def distances(self, real: np.ndarray, other: np.ndarray, spacing: Spacing | None) -> dict[str, float | None]:
        levels = zip(self._features.maps(real, spacing), self._features.maps(other, spacing), strict=True)
        return {"patch": float(np.mean([((_unit(a.inside()) - _unit(b.inside())) ** 2).sum(axis=0).mean()
                                        for a, b in levels]))}


def perceptual_distance(measure: PerceptualMeasure, real: np.ndarray, reconstruction: np.ndarray,
                        spacings: Sequence[Spacing] | np.ndarray | None = None) -> dict[str, Any]:
    """Perceptual distance of each reconstruction from its patch.

    Parameters
    ----------
    measure : PerceptualMeasure
        `Lpips` or `SegmentorDistance`.
    real, reconstruction : np.ndarray
        (N, 1, X, Y, Z) in [0, 1].
    spacings : (N, 3), optional
        Voxel edges in mm; `SegmentorDistance` needs them where the segmentor has a spacing of its own.

    Returns
    -------
    dict
        ``name`` of the measure, ``patches`` (N), ``per_patch`` (a list of N numbers, each the mean over the views),
        ``views`` (the mean over the patches, by view) and ``mean``. None where a patch has no slice but padding.
    """
    real, reconstruction = checked_patches(real), checked_patches(reconstruction, "reconstructions")
    if real.shape != reconstruction.shape:
        raise NeoNetError("BAD_ARGUMENT", f"Patches {real.shape} and reconstructions {reconstruction.shape} differ in "
                          "shape.", "Give the reconstruction of each patch, in the same order.")
    rows = [measure.distances(real[index, 0], reconstruction[index, 0], None if spacings is None else spacings[index])
            for index in range(len(real))]
    per_patch = [mean_of_known(row.values()) for row in rows]
    return {"name": measure.name, "patches": len(rows), "per_patch": per_patch,
            "views": {view: mean_of_known(row[view] for row in rows) for view in rows[0]},
            "mean": mean_of_known(per_patch)}


def _unit(features: np.ndarray) -> np.ndarray:
    """(C, x, y, z), each position's vector scaled to length 1."""
    return features / np.sqrt((features**2).sum(axis=0, keepdims=True) + 1e-10)  # LPIPS' guard against zero vectors
