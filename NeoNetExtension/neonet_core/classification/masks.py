"""Tumour masks as another hand, or a network, would have drawn them.

A classifier that has seen ground-truth borders only takes the border itself for a sign: a segmentation network draws
the tumours of PNI-positive patients too large, since their dark rims look like tumour. On phantoms whose rims were
almost as dark as the tumour, a model of that kind fell from an AUC of 0.90 on true masks to 0.73 on predicted ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CORRELATION_MM = 6.0
"""Over how far a border's error is the same: a segmentation errs in patches, not voxel by voxel."""


def vary_masks(masks: np.ndarray, spacing: Sequence[float], amplitude_mm: float,
               rng: np.random.Generator) -> np.ndarray:
    """Move the tumour's border to and fro, within the liver.

    The border moves everywhere by one shift, between ``-amplitude_mm`` and ``+amplitude_mm``, and locally by a smooth
    random field of half that standard deviation.

    Parameters
    ----------
    masks : np.ndarray
        (2, X, Y, Z) uint8: liver or tumour; tumour.
    spacing : sequence of float
        Voxel edges in mm.

    Returns
    -------
    np.ndarray
        Same shape; the first mask unchanged, the second inside it and, where it was not empty, not empty.
    """
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    whole, tumour = masks[0].astype(bool), masks[1].astype(bool)
    if not tumour.any():
        return masks
    outside, inside = (distance_transform_edt(mask, sampling=spacing) for mask in (~tumour, tumour))
    field = gaussian_filter(rng.standard_normal(tumour.shape), [CORRELATION_MM / edge for edge in spacing])
    field *= 0.5 * amplitude_mm / max(float(field.std()), 1e-12)
    varied = (outside - inside < rng.uniform(-amplitude_mm, amplitude_mm) + field) & whole
    if not varied.any():  # a tumour of few voxels that was eroded away
        return masks
    return np.stack([masks[0], varied.astype(masks.dtype)])
