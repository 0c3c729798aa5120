"""PSNR and SSIM of reconstructions: over the whole patch, inside liver and tumour, and inside the tumour.

A patch is mostly easy background; what the classifier reads lies in the mask. A result is None where a patch's mask is
empty, never NaN: results are written as JSON.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.ndimage import correlate1d

from neonet_core.errors import NeoNetError
from neonet_core.evaluation.views import checked_masks, checked_patches, mean_of_known

HIGHEST_PSNR = 100.0
"""What identical images get (their PSNR is infinite, which JSON cannot hold): an error of 1e-5 of the range."""

SSIM_SIGMA = 1.5
SSIM_WIDTH = 11
SSIM_K1, SSIM_K2 = 0.01, 0.03
"""Wang et al. 2004, section III-C."""


def psnr(real: np.ndarray, reconstruction: np.ndarray, mask: np.ndarray | None = None) -> float | None:
    """Peak signal-to-noise ratio in dB, -10 log10(MSE), of images in [0, 1].

    Parameters
    ----------
    real, reconstruction : np.ndarray
        Same shape.
    mask : np.ndarray, optional
        Boolean, same shape: the mean squared error is taken over these voxels alone.

    Returns
    -------
    float or None
        At most `HIGHEST_PSNR`, which identical images get too; None where the mask is empty.
    """
    squared = (_float(real) - _float(reconstruction)) ** 2
    if mask is not None:
        squared = squared[np.asarray(mask, dtype=bool)]
    if not squared.size:
        return None
    return float(-10 * np.log10(max(squared.mean(), 10 ** (-HIGHEST_PSNR / 10))))


def ssim_map(real: np.ndarray, reconstruction: np.ndarray) -> np.ndarray:
    """Structural similarity at each voxel, of images in [0, 1] of any number of axes.

    The window is a Gaussian of sigma 1.5, 11 voxels wide along every axis. At the borders the image is mirrored, so
    that patches smaller than the window have a value too. One axis after the other: ten times as fast as the dense
    window of torchmetrics, whose values these are.

    Parameters
    ----------
    real, reconstruction : np.ndarray
        Same shape.

    Returns
    -------
    np.ndarray
        Same shape, float64, in [-1, 1].

    References
    ----------
    Wang, Bovik, Sheikh, Simoncelli: Image quality assessment: from error visibility to structural similarity. IEEE
    Transactions on Image Processing 13, 2004, equation 13.
    """
    x, y = _float(real), _float(reconstruction)
    mean_x, mean_y = _blur(x), _blur(y)
    # a constant region's variance may come out a rounding error below zero
    variance_x = np.maximum(_blur(x * x) - mean_x**2, 0)
    variance_y = np.maximum(_blur(y * y) - mean_y**2, 0)
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    return ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)
            / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)))


def ssim(real: np.ndarray, reconstruction: np.ndarray, mask: np.ndarray | None = None) -> float | None:
    """Mean of `ssim_map`, over the mask's voxels where there is one (a window reaches 5 voxels beyond the mask).

    Returns
    -------
    float or None
        1 for identical images; None where the mask is empty.
    """
    return _mean_inside(ssim_map(real, reconstruction), mask)


def reconstruction_quality(real: np.ndarray, reconstruction: np.ndarray, masks: np.ndarray) -> dict[str, Any]:
    """PSNR and SSIM of each patch and their means: the paper's table 3, and the same inside the mask.

    Parameters
    ----------
    real, reconstruction : np.ndarray
        (N, 1, X, Y, Z), in [0, 1]. A reconstruction is taken as it is, not clipped.
    masks : np.ndarray
        (N, 2, X, Y, Z): liver or tumour; tumour.

    Returns
    -------
    dict
        ``patches`` (N), ``per_patch`` (a list of N dicts) and ``mean``, each with ``psnr``, ``ssim`` (whole patch),
        ``psnr_liver_or_tumour``, ``ssim_liver_or_tumour``, ``psnr_tumour``, ``ssim_tumour``. None where a mask is
        empty; the mean leaves these patches out.
    """
    real, reconstruction = checked_patches(real), checked_patches(reconstruction, "reconstructions")
    if real.shape != reconstruction.shape:
        raise NeoNetError("BAD_ARGUMENT", f"Patches {real.shape} and reconstructions {reconstruction.shape} differ in "
                          "shape.", "Give the reconstruction of each patch, in the same order.")
    masks = checked_masks(masks, real)
    rows = [_quality(image[0], other[0], mask)
            for image, other, mask in zip(real, reconstruction, masks, strict=True)]
    return {"patches": len(rows), "per_patch": rows,
            "mean": {key: mean_of_known(row[key] for row in rows) for key in rows[0]}}


def _quality(real: np.ndarray, reconstruction: np.ndarray, mask: np.ndarray) -> dict[str, float | None]:
    similarity = ssim_map(real, reconstruction)
    regions = {"": None, "_liver_or_tumour": mask[0], "_tumour": mask[1]}
    return ({f"psnr{name}": psnr(real, reconstruction, region) for name, region in regions.items()}
            | {f"ssim{name}": _mean_inside(similarity, region) for name, region in regions.items()})


def _mean_inside(values: np.ndarray, mask: np.ndarray | None) -> float | None:
    inside = values if mask is None else values[np.asarray(mask, dtype=bool)]
    return float(inside.mean()) if inside.size else None


def _blur(image: np.ndarray) -> np.ndarray:
    offsets = np.arange(SSIM_WIDTH) - SSIM_WIDTH // 2
    window = np.exp(-0.5 * (offsets / SSIM_SIGMA) ** 2)
    for axis in range(image.ndim):
        image = correlate1d(image, window / window.sum(), axis=axis, mode="mirror")
    return image


def _float(image: np.ndarray) -> np.ndarray:
    return np.asarray(image, dtype=np.float64)
