"""New masks for synthetic cases: a training case's mask patch, mirrored, scaled and bent.

One transform moves liver and tumour together, so that the tumour stays where it was in the anatomy. It is a small dict
that goes into a sample's lineage: with the mask patch that it started from, it gives the same mask again to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

LEAST_TUMOUR = 0.5
"""A tumour keeps at least this share of the volume that scaling alone gives it, and at most its reciprocal."""

MOST_SHREDDED = 0.02
"""Of a mask's volume, what may come loose of its largest part."""


def vary_anatomy(masks: np.ndarray, spacing: Sequence[float], rng: np.random.Generator, *, flips: bool = True,
                 scale: tuple[float, float] = (0.9, 1.1), elastic_mm: float = 2.0,
                 smoothness_mm: float = 12.0) -> tuple[np.ndarray, dict[str, Any]]:
    """Draw a transform and apply it.

    A transform that would fold the anatomy, shred or lose a mask, or change the tumour out of proportion is weakened
    by half, and by half again, until it does not; mirroring alone never does.

    Parameters
    ----------
    masks : np.ndarray
        (2, X, Y, Z) uint8, 0 or 1: liver or tumour; tumour.
    spacing : sequence of float
        Voxel edges in mm.
    rng : np.random.Generator
        Always advanced by the same number of draws.
    flips : bool
        Mirror along each of R, A and S with a chance of one half.
    scale : (float, float)
        Range of the factor by which the anatomy grows about the patch's centre.
    elastic_mm : float
        Root mean square of the elastic displacement along each axis; 0: none.
    smoothness_mm : float
        Standard deviation of the Gaussian that smooths the displacement: over how far neighbours move alike.

    Returns
    -------
    varied : np.ndarray
        Like `masks`; the tumour inside the first mask, neither empty unless it was so before.
    transform : dict
        JSON-able, for `apply_transform`.
    """
    mirrored = [bool(chance < 0.5) and flips for chance in rng.random(3)]
    drawn_scale, seed = float(rng.uniform(*scale)), int(rng.integers(2**32))
    for strength in (1.0, 0.5, 0.25):
        factor = 1 + strength * (drawn_scale - 1)
        transform = {"flips": mirrored, "scale": factor, "elastic_mm": strength * elastic_mm,
                     "smoothness_mm": float(smoothness_mm), "elastic_seed": seed}
        varied = apply_transform(masks, spacing, transform)
        if not _folds(masks.shape[1:], spacing, transform) and _is_sound(masks, varied, factor):
            return varied, transform
    transform |= {"scale": 1.0, "elastic_mm": 0.0}
    return apply_transform(masks, spacing, transform), transform


def apply_transform(masks: np.ndarray, spacing: Sequence[float], transform: dict[str, Any]) -> np.ndarray:
    """Mirror, bend and scale masks as `transform` says; what enters from outside the patch is background.

    Parameters
    ----------
    masks : np.ndarray
        (2, X, Y, Z) uint8, 0 or 1: liver or tumour; tumour.
    spacing : sequence of float
        Voxel edges in mm.
    transform : dict
        ``flips`` (three bool), ``scale``, ``elastic_mm``, ``smoothness_mm``, ``elastic_seed``, as `vary_anatomy` gave
        them.

    Returns
    -------
    np.ndarray
        (2, X, Y, Z) uint8, 0 or 1. Linear interpolation, cut at one half.
    """
    from scipy.ndimage import map_coordinates

    mirrored = np.flip(masks, tuple(axis + 1 for axis, flip in enumerate(transform["flips"]) if flip))
    if transform["scale"] == 1 and transform["elastic_mm"] == 0:
        return mirrored.copy()
    where = _sources(masks.shape[1:], spacing, transform)
    # from float32: uint8 would be interpolated to whole numbers
    varied = np.stack([map_coordinates(mask.astype(np.float32), where, order=1, mode="grid-constant", cval=0) >= 0.5
                       for mask in mirrored])
    varied[1] &= varied[0]  # holds without rounding
    return varied.astype(masks.dtype)


def _sources(shape: Sequence[int], spacing: Sequence[float], transform: dict[str, Any]) -> np.ndarray:
    """From where each voxel is taken, in voxels: (3, X, Y, Z)."""
    centre = (np.reshape(shape, (3, 1, 1, 1)) - 1) / 2
    away = np.indices(shape) - centre
    return centre + away / transform["scale"] + _displacement(shape, spacing, transform)


def _displacement(shape: Sequence[int], spacing: Sequence[float], transform: dict[str, Any]) -> np.ndarray:
    """A smooth random field with the given root mean square along each axis, in voxels: (3, X, Y, Z)."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(transform["elastic_seed"])
    smoothness = [transform["smoothness_mm"] / edge for edge in spacing]
    field = np.stack([gaussian_filter(rng.standard_normal(shape), smoothness) for _ in range(3)])
    size = np.sqrt((field**2).mean(axis=(1, 2, 3), keepdims=True))
    return field * transform["elastic_mm"] / np.maximum(size, 1e-12) / np.reshape(spacing, (3, 1, 1, 1))


def _folds(shape: Sequence[int], spacing: Sequence[float], transform: dict[str, Any]) -> bool:
    """Whether the map turns space inside out somewhere: a Jacobian determinant of zero or less."""
    where = _sources(shape, spacing, transform)
    jacobian = np.stack([np.stack(np.gradient(component), axis=-1) for component in where], axis=-2)
    return bool((np.linalg.det(jacobian) <= 0).any())


def _is_sound(before: np.ndarray, after: np.ndarray, scale: float) -> bool:
    volumes = before.sum(axis=(1, 2, 3)), after.sum(axis=(1, 2, 3))
    if (volumes[1] == 0)[volumes[0] > 0].any():
        return False
    grown = volumes[1][1] / max(volumes[0][1] * scale**3, 1e-12)
    if volumes[0][1] and not LEAST_TUMOUR <= grown <= 1 / LEAST_TUMOUR:
        return False
    return all(_largest_share(b) - _largest_share(a) <= MOST_SHREDDED for b, a in zip(before, after, strict=True))


def _largest_share(mask: np.ndarray) -> float:
    """Share of a mask's volume that hangs together in one part (26 neighbours); 1 where it is empty."""
    from scipy.ndimage import label

    parts, count = label(mask, np.ones((3, 3, 3)))
    return float(np.bincount(parts.ravel())[1:].max() / mask.sum()) if count else 1.0
