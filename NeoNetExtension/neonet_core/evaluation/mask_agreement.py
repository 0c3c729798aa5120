"""Does a synthetic patch follow its mask? Its intensities region by region, and its re-segmentation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from neonet_core.errors import NeoNetError
from neonet_core.evaluation.dice import dice
from neonet_core.evaluation.views import checked_masks, checked_patches, mean_of_known

REGIONS = ("tumour", "liver", "background")
SPREAD = 2.0
"""Standard deviations of the real patches' means within which a synthetic one's counts as like them."""


def region_means(images: np.ndarray, masks: np.ndarray) -> dict[str, np.ndarray]:
    """Mean intensity of each patch in the tumour, the liver without the tumour, and the background (with padding).

    Parameters
    ----------
    images : np.ndarray
        (N, 1, X, Y, Z) in [0, 1].
    masks : np.ndarray
        (N, 2, X, Y, Z): liver or tumour; tumour.

    Returns
    -------
    dict of str to np.ndarray
        (N,) for each of `REGIONS`, and ``contrast``, tumour less liver; NaN where a patch has no such region.
    """
    images = checked_patches(images)
    masks = checked_masks(masks, images)
    foreground, tumour = masks[:, 0], masks[:, 1]
    regions = {"tumour": tumour, "liver": foreground & ~tumour, "background": ~(foreground | tumour)}
    means = {name: np.array([image[0][region].mean(dtype=np.float64) if region.any() else np.nan
                             for image, region in zip(images, regions[name], strict=True)]) for name in REGIONS}
    return {**means, "contrast": means["tumour"] - means["liver"]}


def mask_agreement(synthetic: np.ndarray, synthetic_masks: np.ndarray, real: np.ndarray, real_masks: np.ndarray,
                   segment: Callable[[np.ndarray], np.ndarray] | None = None) -> dict[str, Any]:
    """Compare the intensities of synthetic patches within their masks with those of real ones, and re-segment them.

    Parameters
    ----------
    synthetic, real : np.ndarray
        (M, 1, X, Y, Z) and (N, 1, X, Y, Z) in [0, 1].
    synthetic_masks, real_masks : np.ndarray
        (M, 2, X, Y, Z) and (N, 2, X, Y, Z): liver or tumour; tumour.
    segment : callable, optional
        Patch (X, Y, Z) -> label patch (X, Y, Z) with 0 background, 1 liver, 2 tumour.

    Returns
    -------
    dict
        ``regions``: for tumour, liver, background and contrast (tumour less liver) a dict with ``real`` and
        ``synthetic`` (each ``mean``, ``sd``, ``min``, ``max`` over the patches' means, and ``patches``, how many have
        the region), ``per_patch`` (of the synthetic ones) and ``share_within``, the share of synthetic patches within 2
        standard deviations of the real mean. ``share_within_all``: the share that is so in all three regions.
        ``dice``: None without `segment`, else for tumour and liver ``per_patch`` and ``mean`` of the Dice of the
        re-segmentation against the mask. None stands where nothing can be said.
    """
    of_synthetic, of_real = region_means(synthetic, synthetic_masks), region_means(real, real_masks)
    regions: dict[str, Any] = {}
    within: dict[str, np.ndarray] = {}
    for name, values in of_synthetic.items():
        spread = _spread(of_real[name])
        known = np.isfinite(values)
        regions[name] = {"real": spread, "synthetic": _spread(values), "per_patch": _json_list(values),
                         "share_within": None}
        if spread["mean"] is not None and spread["sd"] is not None and known.any():
            # a region that a patch does not have cannot disagree
            within[name] = ~known | (np.abs(values - spread["mean"]) <= SPREAD * spread["sd"])
            regions[name]["share_within"] = float(within[name][known].mean())
    in_all = [within[name] for name in REGIONS if name in within]
    return {"regions": regions, "share_within_all": float(np.all(in_all, axis=0).mean()) if in_all else None,
            "dice": None if segment is None else resegmentation_dice(synthetic, synthetic_masks, segment)}


def resegmentation_dice(images: np.ndarray, masks: np.ndarray,
                        segment: Callable[[np.ndarray], np.ndarray]) -> dict[str, Any]:
    """Dice of a segmentation of each patch against the mask that it was made from.

    Parameters
    ----------
    images, masks, segment
        As in `mask_agreement`.

    Returns
    -------
    dict
        For ``tumour`` and ``liver`` (without the tumour): ``per_patch`` and ``mean``; None where mask and segmentation
        are both empty.
    """
    images = checked_patches(images)
    masks = checked_masks(masks, images)
    found: dict[str, list[float | None]] = {"tumour": [], "liver": []}
    for image, (foreground, tumour) in zip(images, masks, strict=True):
        labels = np.asarray(segment(image[0]))
        if labels.shape != tumour.shape:
            raise NeoNetError("BAD_ARGUMENT", f"The segmentation has the shape {labels.shape}, its patch "
                              f"{tumour.shape}.", "Give the label map on the patch's own grid.")
        found["tumour"] += _json_list(np.array([dice(labels == 2, tumour)]))
        found["liver"] += _json_list(np.array([dice(labels == 1, foreground & ~tumour)]))
    return {name: {"per_patch": values, "mean": mean_of_known(values)} for name, values in found.items()}


def _spread(values: np.ndarray) -> dict[str, Any]:
    known = values[np.isfinite(values)]
    if not len(known):
        return {"patches": 0, "mean": None, "sd": None, "min": None, "max": None}
    return {"patches": len(known), "mean": float(known.mean()),
            "sd": float(known.std(ddof=1)) if len(known) > 1 else None,
            "min": float(known.min()), "max": float(known.max())}


def _json_list(values: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]
