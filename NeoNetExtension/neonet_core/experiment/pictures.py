"""Pictures of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from neonet_core.figures import LIVER, TUMOUR
from neonet_core.training.patches import Patches

TILE_INCHES = 1.7
MASK_GREYS = (0.0, 0.35, 0.8)


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
    titles = ["real", "mask", *(f"{name}, synthetic" for name in synthetic)]
    _, _, x, y, _ = real.images.shape
    height = TILE_INCHES * y / x
    figure = Figure(figsize=(TILE_INCHES * len(titles), height * len(cases) + 0.3), facecolor="white", dpi=110)
    grid = figure.subplots(len(cases), len(titles), squeeze=False,
                           gridspec_kw={"wspace": 0.03, "hspace": 0.03, "left": 0.005, "right": 0.995, "bottom": 0.005,
                                        "top": 1 - 0.3 / (height * len(cases) + 0.3)})
    for row, case in enumerate(cases):
        masks = real.masks[case]
        level = int(np.argmax(masks[1].sum(axis=(0, 1))))
        outcome = f"{outcome_name} {int(real.outcomes[case])}" if real.outcomes[case] >= 0 else ""
        labels = masks.sum(axis=0)[:, :, level].astype(np.uint8)
        tiles = [real.images[case, 0, :, :, level], np.choose(labels, MASK_GREYS),
                 *(patches.images[row, 0, :, :, level] for patches in synthetic.values())]
        for column, tile in enumerate(tiles):
            axes = grid[row, column]
            axes.imshow(_upright(tile), cmap="gray", vmin=0, vmax=1,
                        interpolation="bilinear" if column != 1 else "none",
                        aspect=float(real.spacings[case][1] / real.spacings[case][0]))
            if column != 1:
                for mask, colour in zip(masks, (LIVER, TUMOUR), strict=True):
                    if mask[:, :, level].any():
                        axes.contour(_upright(mask[:, :, level]), [0.5], colors=[colour], linewidths=0.6)
            else:
                axes.text(0.03, 0.04, outcome, transform=axes.transAxes, color="white", fontsize=6)
            axes.set_axis_off()
            if row == 0:
                axes.set_title(titles[column], fontsize=8)
    return figure


def _upright(plane: np.ndarray) -> np.ndarray:
    """(R, A) as a radiologist looks at it: anterior up, the patient's right on the left."""
    return plane.T[::-1, ::-1]
