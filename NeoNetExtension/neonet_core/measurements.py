"""Sizes of liver and tumour from a label map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neonet_core.volume import Volume

MOST_HULL_POINTS = 4_000


@dataclass(frozen=True)
class Measurements:
    """Attributes
    ----------
    liver_ml, tumour_ml : float
        Volumes of label 1 and of label 2.
    tumour_share : float
        n2 / (n1 + n2); 0 where there is neither.
    tumour_diameter_mm : float
        Largest distance between two voxel centres of the largest tumour component, plus nothing; 0 without tumour.
    tumours : int
        Connected components of label 2 (26 neighbours).
    """

    liver_ml: float
    tumour_ml: float
    tumour_share: float
    tumour_diameter_mm: float
    tumours: int


def measure(label_map: Volume) -> Measurements:
    """Measure a label map (0 background, 1 liver, 2 tumour)."""
    from scipy import ndimage

    counts = np.bincount(label_map.array.ravel(), minlength=3)
    liver, tumour = int(counts[1]), int(counts[2])
    diameter, tumours = 0.0, 0
    if tumour:
        mask = label_map.array == 2
        box = ndimage.find_objects(mask.astype(np.uint8))[0]
        components, tumours = ndimage.label(mask[box], structure=np.ones((3, 3, 3)))
        largest = components == np.bincount(components.ravel())[1:].argmax() + 1
        diameter = _largest_diameter(largest, label_map.affine[:3, :3])
    unit = label_map.voxel_volume_ml
    return Measurements(liver * unit, tumour * unit, tumour / (liver + tumour) if tumour else 0.0, diameter,
                        int(tumours))


def _largest_diameter(mask: np.ndarray, axes: np.ndarray) -> float:
    """Largest distance in mm between two voxel centres of a mask: between two corners of its convex hull."""
    from scipy import ndimage
    from scipy.spatial import ConvexHull, QhullError
    from scipy.spatial.distance import pdist

    surface = np.argwhere(mask & ~ndimage.binary_erosion(mask)) @ axes.T
    if len(surface) < 2:
        return 0.0
    try:
        surface = surface[ConvexHull(surface).vertices]
    except QhullError:
        pass  # flat tumours have no hull in 3D; they have few voxels
    if len(surface) > MOST_HULL_POINTS:
        surface = surface[:: -(-len(surface) // MOST_HULL_POINTS)]
    return float(pdist(surface).max())
