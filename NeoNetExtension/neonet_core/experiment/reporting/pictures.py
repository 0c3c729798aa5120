"""Pictures of a run's images: real and synthetic patches, reconstructions, label maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from neonet_core.figures import LIVER, TUMOUR
from neonet_core.training.patches import Patches

TILE_INCHES = 1.7
TITLE_INCHES = 0.3
MASK_GREYS = (0.0, 0.35, 0.8)


@dataclass(frozen=True, eq=False)
class Tile:
    """One axial slice.

    Attributes
    ----------
    plane : np.ndarray
        (R, A) in [0, 1].
    pixel_mm : (float, float)
        Along R and A.
    contours : sequence of np.ndarray
        (R, A) bool: liver with tumour, tumour.
    text : str
        In the lower left corner.
    smooth : bool
        Interpolated on the screen; labels are not.
    """

    plane: np.ndarray
    pixel_mm: tuple[float, float]
    contours: Sequence[np.ndarray] = ()
    text: str = ""
    smooth: bool = True


def patch_gallery(real: Patches, cases: Sequence[int], synthetic: Mapping[str, Patches],
                  outcome_name: str = "pni") -> Figure:
    """Axial slices through the middle of the tumour: real patch, its mask, and each generator's sample on that mask.

    Parameters
    ----------
    real : Patches
    cases : sequence of int
        Which of `real`, one row each.
    synthetic : mapping of str to Patches
        By the generator's name; in the order of `cases`.
    outcome_name : str
        The cohort's outcome column: 0 and 1 are written with its name.
    """
    rows = []
    for row, case in enumerate(cases):
        level, contours, pixel_mm = _middle(real, case)
        labels = real.masks[case].sum(axis=0)[:, :, level].astype(np.uint8)
        outcome = f"{outcome_name} {int(real.outcomes[case])}" if real.outcomes[case] >= 0 else ""
        rows.append([Tile(real.images[case, 0, :, :, level], pixel_mm, contours),
                     Tile(np.choose(labels, MASK_GREYS), pixel_mm, text=outcome, smooth=False),
                     *(Tile(patches.images[row, 0, :, :, level], pixel_mm, contours)
                       for patches in synthetic.values())])
    return tile_figure(["real", "mask", *(f"{name}, synthetic" for name in synthetic)], rows)


def reconstruction_gallery(real: Patches, cases: Sequence[int], reconstructed: Mapping[str, np.ndarray]) -> Figure:
    """Axial slices through the middle of the tumour: real patch, and what each autoencoder gives back.

    Parameters
    ----------
    reconstructed : mapping of str to np.ndarray
        By the autoencoder's name: (len(cases), 1, X, Y, Z) in [0, 1].
    """
    rows = []
    for row, case in enumerate(cases):
        level, _, pixel_mm = _middle(real, case)
        rows.append([Tile(images[0, :, :, level], pixel_mm)
                     for images in (real.images[case], *(images[row] for images in reconstructed.values()))])
    return tile_figure(["real", *reconstructed], rows)


def overlay_gallery(images: Sequence[np.ndarray], truths: Sequence[np.ndarray], predictions: Sequence[np.ndarray],
                    spacings: Sequence[Sequence[float]], texts: Sequence[str], name: str) -> Figure:
    """Axial slices where the true tumour is largest, cut around the liver: true label map, and the network's.

    Parameters
    ----------
    images, truths, predictions : sequence of np.ndarray
        (X, Y, Z) each; in [0, 1], labels, labels.
    texts : sequence of str
        What is written into each prediction.
    name : str
        Of the network.
    """
    rows = []
    for image, truth, predicted, spacing, text in zip(images, truths, predictions, spacings, texts, strict=True):
        level = int(np.argmax((truth == 2).sum(axis=(0, 1))))
        box = _around(truth[:, :, level] > 0)
        pixel_mm = (float(spacing[0]), float(spacing[1]))
        rows.append([Tile(image[:, :, level][box], pixel_mm, [(labels[:, :, level] >= label)[box] for label in (1, 2)],
                          written) for labels, written in ((truth, ""), (predicted, text))])
    return tile_figure(["annotated", name], rows, inches=2.6)


def tile_figure(titles: Sequence[str], rows: Sequence[Sequence[Tile]], inches: float = TILE_INCHES) -> Figure:
    """Tiles in rows under the titles of their columns, in true proportions and radiological convention."""
    heights = [inches * max(tile.plane.shape[1] * tile.pixel_mm[1] / (tile.plane.shape[0] * tile.pixel_mm[0])
                            for tile in row) for row in rows]
    total = sum(heights) + TITLE_INCHES
    figure = Figure(figsize=(inches * len(titles), total), facecolor="white", dpi=110)
    grid = figure.subplots(len(rows), len(titles), squeeze=False, gridspec_kw={
        "wspace": 0.03, "hspace": 0.03, "left": 0.005, "right": 0.995, "bottom": 0.005,
        "top": 1 - TITLE_INCHES / total, "height_ratios": heights})
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title.replace("$", r"\$"), fontsize=8)
    for all_axes, row in zip(grid, rows, strict=True):
        for axes, tile in zip(all_axes, row, strict=True):
            axes.imshow(_upright(tile.plane), cmap="gray", vmin=0, vmax=1,
                        interpolation="bilinear" if tile.smooth else "none",
                        aspect=tile.pixel_mm[1] / tile.pixel_mm[0])
            for mask, colour in zip(tile.contours, (LIVER, TUMOUR), strict=False):
                if mask.any() and not mask.all():
                    axes.contour(_upright(mask), [0.5], colors=[colour], linewidths=0.35 * inches)
            axes.text(0.03, 0.04, tile.text.replace("$", r"\$"), transform=axes.transAxes, color="white",
                      fontsize=3.6 * inches)
            axes.set_axis_off()
    return figure


def _middle(real: Patches, case: int) -> tuple[int, list[np.ndarray], tuple[float, float]]:
    """The axial slice with the largest tumour: its level, the masks there, and the size of a pixel."""
    masks = real.masks[case]
    level = int(np.argmax(masks[1].sum(axis=(0, 1))))
    return level, [mask[:, :, level] for mask in masks], (float(real.spacings[case][0]), float(real.spacings[case][1]))


def _around(mask: np.ndarray, margin: float = 0.12) -> tuple[slice, slice]:
    """The box around a mask (R, A), a little wider."""
    if not mask.any():
        return slice(None), slice(None)
    first, last = (edge(np.argwhere(mask), axis=0) for edge in (np.min, np.max))
    extra = np.ceil(margin * (last - first + 1)).astype(int)
    start, stop = np.maximum(first - extra, 0), last + extra + 1
    return slice(int(start[0]), int(stop[0])), slice(int(start[1]), int(stop[1]))


def _upright(plane: np.ndarray) -> np.ndarray:
    """(R, A) as a radiologist looks at it: anterior up, the patient's right on the left."""
    return plane.T[::-1, ::-1]
