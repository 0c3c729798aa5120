"""Boxes and connected components of masks."""

from __future__ import annotations

import numpy as np

Box = tuple[slice, slice, slice]


def bounding_box(mask: np.ndarray) -> Box:
    """The box of a mask (X, Y, Z) that is not empty."""
    spans = []
    for axis in range(3):
        filled = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        spans.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return spans[0], spans[1], spans[2]


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest of the components (6 neighbours) of a mask; an empty mask stays empty."""
    from scipy import ndimage

    components, count = ndimage.label(mask)
    if count < 2:
        return mask
    return components == np.bincount(components.ravel())[1:].argmax() + 1
