"""What every network sees: the canonical array, on the grid it works on, with intensities in [0, 1].

Training, inference and Slicer's preview of the crop call the same functions, so that they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neonet_core.volume import Volume, normalise_intensity, resample_to_spacing, to_canonical

if TYPE_CHECKING:  # presets need packages that Slicer does not have
    from neonet_core.presets import Spacing


@dataclass(frozen=True)
class PreparedImage:
    """An image ready for the networks.

    Attributes
    ----------
    volume : Volume
        (X, Y, Z) float32 in [0, 1], axes closest to R, A, S.
    intensity_range : (float, float)
        The raw intensities (0.5 and 99.5 percentile) that became 0 and 1.
    """

    volume: Volume
    intensity_range: tuple[float, float]


def prepare_image(image: Volume, spacing: Sequence[float] | None) -> PreparedImage:
    """Canonical axes, 0.5-99.5 percentile to [0, 1], then `spacing` in mm (None: as it is). Raises ``CONSTANT_IMAGE``.

    The percentiles are those of the image as it came, so that they do not depend on the network's grid.
    """
    canonical = to_canonical(image)
    array, intensity_range = normalise_intensity(canonical.array)
    scaled = Volume(array, canonical.affine)
    if spacing is not None:
        scaled = resample_to_spacing(scaled, spacing, order=1)
    return PreparedImage(Volume(np.clip(scaled.array, 0, 1), scaled.affine), intensity_range)


def prepare_label_map(label_map: Volume, spacing: Sequence[float] | None) -> Volume:
    """The label map on the grid that `prepare_image` gives its image: (X, Y, Z) uint8, 0, 1, 2."""
    canonical = to_canonical(label_map)
    canonical = Volume(canonical.array.astype(np.uint8), canonical.affine)
    return canonical if spacing is None else resample_to_spacing(canonical, spacing, order=0)


def resolve_spacing(spacing: Spacing,
                    training_spacings: Sequence[Sequence[float]]) -> tuple[float, float, float] | None:
    """Turn a preset's spacing into millimetres.

    Parameters
    ----------
    spacing : "native", "median" or three numbers in mm
    training_spacings : (N, 3)
        Spacings of the *training* cases along R, A, S; the median is taken over them alone.

    Returns
    -------
    tuple of float or None
        None: each case keeps its own grid.
    """
    if spacing == "native":
        return None
    if spacing == "median":
        x, y, z = np.median(np.asarray(training_spacings, dtype=float), axis=0).round(4).tolist()
        return x, y, z
    x, y, z = spacing
    return float(x), float(y), float(z)
