"""Tumour-Localised ROI Crop (TLCR): Algorithm 1 of the paper, as DESIGN.md section 5 states it.

All arrays are canonical `(X, Y, Z)`, running along R, A, S; all points are voxel indices (`world_to_voxel` converts
from millimetres). Per axis, with `C` the crop's size, `n` the volume's, and `min`, `max` the first and last index of
the tumour::

    centre = floor((min + max + 1) / 2)
    start  = max(centre - floor(C / 2), 0), at most max(n - C, 0)

The published algorithm lacks the upper bound, although its text promises one. Where the volume is smaller than the
crop, `start` is therefore 0 and the zeros lie at the end of the axis.

Imports numpy alone (and scipy only where single components are asked for): Slicer calls this module in process.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from neonet_core.errors import NeoNetError

BACKGROUND, LIVER, TUMOUR = 0, 1, 2
PATCH_SIZE = (96, 96, 48)

Component = Literal["all", "largest"]
OnEmpty = Literal["error", "zeros"]
Index = tuple[int, int, int]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Crop:
    """Where a patch lies in its volume.

    Attributes
    ----------
    start : tuple of int
        First voxel of the patch, as an index into the canonical array; never negative.
    size : tuple of int
        Size of the patch in voxels. Axes on which it exceeds `shape` are zero-padded at their end.
    shape : tuple of int
        Size of the volume in voxels.
    tumour_voxels : int
        Size of the selected tumour; 0 only for a crop made by `center` with ``on_empty="zeros"``.
    coverage : float
        Share of the selected tumour's voxels that the patch holds, 0 to 1; below 1 the tumour does not fit.
    """

    start: Index
    size: Index
    shape: Index
    tumour_voxels: int
    coverage: float

    @property
    def center(self) -> Index:
        """Voxel index that, given to `locate_crop` as `center`, gives this crop again."""
        return _index(begin + min(length, extent) // 2
                      for begin, length, extent in zip(self.start, self.size, self.shape, strict=True))

    @property
    def inside(self) -> Box:
        """The part of the volume that the patch holds, as slices into the volume."""
        return _box((begin, min(begin + length, extent))
                    for begin, length, extent in zip(self.start, self.size, self.shape, strict=True))

    @property
    def filled(self) -> Box:
        """The part of the patch that is volume and not padding, as slices into the patch."""
        return _box((0, part.stop - part.start) for part in self.inside)


def world_to_voxel(affine: ArrayLike, point: Sequence[float]) -> np.ndarray:
    """Convert a point in RAS millimetres to a continuous voxel index.

    Parameters
    ----------
    affine : array_like, (4, 4)
        Voxel indices to RAS millimetres, of the canonical volume.
    point : sequence of 3 floats
        R, A, S in millimetres.

    Returns
    -------
    ndarray, (3,), float64
        The voxel whose centre is nearest is this rounded; `locate_crop` rounds by itself.
    """
    matrix = np.asarray(affine, dtype=float)
    return np.linalg.solve(matrix[:3, :3], np.asarray(point, dtype=float) - matrix[:3, 3])


def tumour_component(label_map: np.ndarray, component: Component = "all", tumour_at: Sequence[float] | None = None, *,
                     spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> np.ndarray:
    """Select the tumour that the crop is made for.

    Parameters
    ----------
    label_map : ndarray, (X, Y, Z)
        0 background, 1 liver, 2 tumour.
    component : {"all", "largest"}
        All tumour voxels, or the largest 26-connected component (of equals, the first in index order).
    tumour_at : sequence of 3 floats, optional
        Voxel index; takes the 26-connected component at this point, or else the one nearest to it, whatever
        `component` says.
    spacing : sequence of 3 floats
        Voxel size in millimetres, for "nearest".

    Returns
    -------
    ndarray, (X, Y, Z), bool
        All False if there is no tumour.

    Raises
    ------
    NeoNetError
        SHAPE_MISMATCH, BAD_LABELS, BAD_ARGUMENT.
    """
    labels = _checked_labels(label_map)
    selected = np.zeros(labels.shape, dtype=bool)
    found = _select_tumour(labels, component, tumour_at, spacing)
    if found is not None:
        box, mask = found
        selected[box] = mask
    return selected


def locate_crop(label_map: np.ndarray, size: Sequence[int] = PATCH_SIZE, *, component: Component = "all",
                tumour_at: Sequence[float] | None = None, center: Sequence[float] | None = None,
                on_empty: OnEmpty = "error", spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> Crop | None:
    """Find the crop around the tumour: Algorithm 1 up to the start index.

    Parameters
    ----------
    label_map : ndarray, (X, Y, Z)
        0 background, 1 liver, 2 tumour; canonical.
    size : sequence of 3 ints
        Patch size in voxels.
    component, tumour_at, spacing
        Which tumour the bounding box is of; see `tumour_component`.
    center : sequence of 3 floats, optional
        Voxel index that replaces the bounding box's centre; the crop still stays inside the volume. The selected
        tumour then decides the coverage only.
    on_empty : {"error", "zeros"}
        Without any tumour: raise EMPTY_TUMOUR, or return None (a crop only where `center` says where).

    Returns
    -------
    Crop or None

    Raises
    ------
    NeoNetError
        EMPTY_TUMOUR; SHAPE_MISMATCH (not three axes); BAD_LABELS (a value other than 0, 1, 2); BAD_ARGUMENT (a size
        below 1, a point outside the volume, an unknown option).
    """
    labels = _checked_labels(label_map)
    lengths = _checked_size(size)
    _check_option("on_empty", on_empty, ("error", "zeros"))
    shape = _index(labels.shape)
    middle = None if center is None else _checked_point("crop centre", center, shape)

    found = _select_tumour(labels, component, tumour_at, spacing)
    if found is None:
        if on_empty == "error":
            raise NeoNetError("EMPTY_TUMOUR", "The label map has no tumour (label 2), so there is nothing to crop.",
                              "Segment the tumour as label 2, or check which value the file uses for it.")
        return None if middle is None else Crop(_start(middle, lengths, shape), lengths, shape, 0, 0.0)

    box, mask = found
    if middle is None:
        # A slice's stop is max + 1, so this is floor((min + max + 1) / 2).
        middle = _index((part.start + part.stop) // 2 for part in box)
    crop = Crop(_start(middle, lengths, shape), lengths, shape, int(np.count_nonzero(mask)), 1.0)
    held = mask[_box((max(seen.start - part.start, 0), max(seen.stop - part.start, 0))
                     for seen, part in zip(crop.inside, box, strict=True))]
    return Crop(crop.start, lengths, shape, crop.tumour_voxels, np.count_nonzero(held) / crop.tumour_voxels)


def extract(array: np.ndarray, crop: Crop) -> np.ndarray:
    """Cut a crop out of a volume.

    Parameters
    ----------
    array : ndarray, (..., X, Y, Z)
        Image or label map of the crop's volume; leading axes (channels) are kept.
    crop : Crop

    Returns
    -------
    ndarray, (..., *crop.size)
        A copy of the same dtype; zeros where the volume is smaller than the crop.

    Raises
    ------
    NeoNetError
        SHAPE_MISMATCH if `array` is not of the size that the crop was located in.
    """
    array = np.asarray(array)
    _check_shape("The volume", array.shape[-3:], crop.shape)
    patch = np.zeros(array.shape[:-3] + crop.size, dtype=array.dtype)
    patch[(..., *crop.filled)] = array[(..., *crop.inside)]
    return patch


def paste(patch: np.ndarray, crop: Crop, *, fill: float = 0) -> np.ndarray:
    """Put a patch back where it was cut out: the way of an attention map to the input's grid.

    Parameters
    ----------
    patch : ndarray, (..., *crop.size)
    crop : Crop
    fill : float
        Value outside the crop.

    Returns
    -------
    ndarray, (..., *crop.shape)
        Same dtype as `patch`; its padding is dropped.

    Raises
    ------
    NeoNetError
        SHAPE_MISMATCH if `patch` is not of the crop's size.
    """
    patch = np.asarray(patch)
    _check_shape("The patch", patch.shape[-3:], crop.size)
    array = np.full(patch.shape[:-3] + crop.shape, fill, dtype=patch.dtype)
    array[(..., *crop.inside)] = patch[(..., *crop.filled)]
    return array


def mask_patch(label_patch: np.ndarray) -> np.ndarray:
    """Turn labels `(X, Y, Z)` into the two binary channels `(2, X, Y, Z)`, uint8: liver or tumour; tumour."""
    label_patch = np.asarray(label_patch)
    return np.stack([label_patch >= LIVER, label_patch == TUMOUR]).astype(np.uint8)


def image_channels(image_patch: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Mask an image patch: the classifier's two input channels T1 and T2.

    Parameters
    ----------
    image_patch : ndarray, (X, Y, Z) or (1, X, Y, Z)
        Intensities.
    masks : ndarray, (2, X, Y, Z)
        As `mask_patch` gives them.

    Returns
    -------
    ndarray, (2, X, Y, Z), float32
        T1: the image in liver and tumour; T2: in the tumour; 0 elsewhere.

    Raises
    ------
    NeoNetError
        SHAPE_MISMATCH.
    """
    image_patch, masks = np.asarray(image_patch), np.asarray(masks)
    _check_shape("The image patch", image_patch.shape[-3:], masks.shape[-3:])
    return np.where(masks != 0, image_patch, 0).astype(np.float32)


def tlcr(image: np.ndarray, label_map: np.ndarray, size: Sequence[int] = PATCH_SIZE, *, component: Component = "all",
         tumour_at: Sequence[float] | None = None, center: Sequence[float] | None = None,
         on_empty: OnEmpty = "error",
         spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> tuple[np.ndarray, np.ndarray, Crop | None]:
    """Crop an image around its tumour: Algorithm 1 of the paper.

    Parameters
    ----------
    image, label_map : ndarray, (X, Y, Z)
        On one canonical grid.
    size, component, tumour_at, center, on_empty, spacing
        See `locate_crop`.

    Returns
    -------
    T1, T2 : ndarray, `size`, float32
        The image where the label is 1 or 2, and where it is 2; 0 elsewhere.
    crop : Crop or None
        None only for an empty tumour with ``on_empty="zeros"`` and no `center`; T1 and T2 are zeros then.

    Raises
    ------
    NeoNetError
        As `locate_crop`, and SHAPE_MISMATCH if image and label map differ in shape.
    """
    _check_shape("The image", np.shape(image), np.shape(label_map))
    crop = locate_crop(label_map, size, component=component, tumour_at=tumour_at, center=center, on_empty=on_empty,
                       spacing=spacing)
    if crop is None:
        empty = np.zeros((2, *_checked_size(size)), dtype=np.float32)
        return empty[0], empty[1], None
    T1, T2 = image_channels(extract(image, crop), mask_patch(extract(label_map, crop)))
    return T1, T2, crop


def _start(center: Index, size: Index, shape: Index) -> Index:
    return _index(min(max(middle - length // 2, 0), max(extent - length, 0))
                  for middle, length, extent in zip(center, size, shape, strict=True))


def _select_tumour(labels: np.ndarray, component: str, tumour_at: Sequence[float] | None,
                   spacing: Sequence[float]) -> tuple[Box, np.ndarray] | None:
    """Bounding box of the selected tumour, and which voxels in it are tumour; None without tumour."""
    _check_option("component", component, ("all", "largest"))
    point = None if tumour_at is None else _checked_point("tumour point", tumour_at, _index(labels.shape))
    box = _tumour_box(labels)
    if box is None:
        return None
    mask = labels[box] == TUMOUR
    if point is None and component == "all":
        return box, mask

    from scipy import ndimage

    components, _ = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    if point is not None:
        voxels = np.argwhere(mask)
        offset = (voxels + [part.start for part in box] - point) * np.asarray(spacing, dtype=float)
        chosen = components[tuple(voxels[np.argmin((offset ** 2).sum(axis=1))])]
    else:
        chosen = np.argmax(np.bincount(components.ravel())[1:]) + 1
    mask = components == chosen
    part = ndimage.find_objects(mask.view(np.uint8))[0]
    return (_box((outer.start + inner.start, outer.start + inner.stop) for outer, inner in zip(box, part, strict=True)),
            mask[part])


def _tumour_box(labels: np.ndarray) -> Box | None:
    """Bounding box of all voxels of label 2, in little more than one pass over memory.

    The highest label of each slab along the slowest axis in memory tells both whether the labels are valid and where
    the tumour begins and ends on that axis; the other two axes are then looked at inside those slabs only.
    """
    order = tuple(int(axis) for axis in np.argsort([-abs(stride) for stride in labels.strides], kind="stable"))
    slabs = labels.transpose(order)
    highest = np.array([slab.max(initial=0) for slab in slabs], dtype=np.uint8)
    if highest.max(initial=0) > TUMOUR:
        raise _bad_labels(int(highest.max()))
    depth = _extent(highest == TUMOUR)
    if depth is None:
        return None
    flat = slabs[depth].max(axis=0) == TUMOUR
    parts = (depth, _extent(flat.any(axis=1)), _extent(flat.any(axis=0)))
    box = [slice(0)] * 3
    for axis, part in zip(order, parts, strict=True):
        assert part is not None
        box[axis] = part
    return (box[0], box[1], box[2])


def _extent(occupied: np.ndarray) -> slice | None:
    where = np.flatnonzero(occupied)
    return slice(int(where[0]), int(where[-1]) + 1) if where.size else None


def _checked_labels(label_map: np.ndarray) -> np.ndarray:
    """The labels as uint8; values over 2 are left to `_tumour_box`, which meets every voxel anyway."""
    labels = np.asarray(label_map)
    if labels.ndim != 3 or 0 in labels.shape:
        raise NeoNetError("SHAPE_MISMATCH", f"A label map has three axes (X, Y, Z), not the shape {labels.shape}.",
                          "Give one 3D label map.")
    if labels.dtype in (np.uint8, np.bool_):
        return labels.view(np.uint8)
    with np.errstate(invalid="ignore"):
        converted = labels.astype(np.uint8)
    wrong = converted != labels
    if wrong.any():
        raise _bad_labels(labels[wrong][0])
    return converted


def _bad_labels(value: float) -> NeoNetError:
    return NeoNetError("BAD_LABELS", f"The label map holds the value {value}; 0 is background, 1 liver, 2 tumour.",
                       "Map the file's values to 0, 1 and 2 first.")


def _checked_size(size: Sequence[int]) -> Index:
    if len(size) != 3 or any(length != int(length) or length < 1 for length in size):
        raise NeoNetError("BAD_ARGUMENT", f"The crop size {tuple(size)} is not three whole numbers of at least 1.",
                          "Give the size in voxels, e.g. 96 96 48.")
    return _index(size)


def _checked_point(name: str, point: Sequence[float], shape: Index) -> Index:
    position = np.asarray(point, dtype=float)
    if position.shape == (3,) and np.isfinite(position).all():
        nearest = np.floor(position + 0.5)
        if (nearest >= 0).all() and (nearest < shape).all():
            return _index(nearest)
    raise NeoNetError("BAD_ARGUMENT",
                      f"The {name} is outside the volume: voxel {position.round(1).tolist()}, shape {list(shape)}.",
                      "Give R,A,S in millimetres of a point inside the image.")


def _check_option(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise NeoNetError("BAD_ARGUMENT", f"{name} is {value!r}.", f"It can be {' or '.join(allowed)}.")


def _check_shape(name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if tuple(shape) != tuple(expected):
        raise NeoNetError("SHAPE_MISMATCH", f"{name} has the shape {tuple(shape)} where {tuple(expected)} is needed.",
                          "Image, label map and crop must be of one volume.")


def _index(values: Iterable[float]) -> Index:
    first, second, third = (int(value) for value in values)
    return first, second, third


def _box(bounds: Iterable[tuple[int, int]]) -> Box:
    first, second, third = (slice(begin, end) for begin, end in bounds)
    return first, second, third
