"""The three views of a patch, slice by slice, and what every image metric asks of its input.

Patches are `(N, 1, X, Y, Z)` in [0, 1], masks `(N, 2, X, Y, Z)` of 0 and 1 (liver or tumour; tumour); X, Y, Z run along
R, A, S.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from neonet_core.errors import NeoNetError

VIEWS = {"axial": 2, "sagittal": 0, "coronal": 1}
"""View -> the axis of (X, Y, Z) along which its slices follow one another."""


def filled_slices(patch: np.ndarray, view: str) -> np.ndarray:
    """Which slices of a view are not padding: (n,) bool. A slice that is zero throughout lay outside the volume.

    Parameters
    ----------
    patch : np.ndarray
        (X, Y, Z).
    view : str
        One of `VIEWS`.
    """
    in_plane = tuple(axis for axis in range(3) if axis != VIEWS[view])
    return (patch != 0).any(axis=in_plane)


def slices_of(patch: np.ndarray, view: str) -> np.ndarray:
    """The slices of a view that are not padding.

    Parameters
    ----------
    patch : np.ndarray
        (X, Y, Z).

    Returns
    -------
    np.ndarray
        Axial (n, X, Y), sagittal (n, Y, Z), coronal (n, X, Z).
    """
    return np.moveaxis(patch, VIEWS[view], 0)[filled_slices(patch, view)]


def checked_patches(patches: np.ndarray, what: str = "patches") -> np.ndarray:
    """The patches as an array (N, 1, X, Y, Z). Raises ``BAD_ARGUMENT`` where they are anything else, or not finite."""
    array = np.asarray(patches)
    if array.ndim != 5 or array.shape[1] != 1 or not array.size:
        raise NeoNetError("BAD_ARGUMENT", f"The {what} have the shape {array.shape}, not (N, 1, X, Y, Z).",
                          "Give at least one patch of one channel.")
    if not np.isfinite(array).all():
        raise NeoNetError("BAD_ARGUMENT", f"Not every voxel of the {what} is a finite number.",
                          "Look at what made them: a training that diverged gives such patches.")
    return array


def checked_masks(masks: np.ndarray, patches: np.ndarray, what: str = "masks") -> np.ndarray:
    """The masks as booleans (N, 2, X, Y, Z). Raises ``BAD_ARGUMENT`` where they do not fit the patches."""
    array = np.asarray(masks)
    expected = (len(patches), 2, *patches.shape[2:])
    if array.shape != expected:
        raise NeoNetError("BAD_ARGUMENT", f"The {what} have the shape {array.shape}, not {expected}.",
                          "Give for each patch two channels: liver or tumour; tumour.")
    if not np.isin(array, (0, 1)).all():
        raise NeoNetError("BAD_ARGUMENT", f"The {what} hold values other than 0 and 1.", "Give binary masks.")
    return array.astype(bool)


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are known; None where none is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
