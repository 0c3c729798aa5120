"""TLCR against a literal transcription of DESIGN.md section 5, and its corner cases."""

import subprocess
import sys
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neonet_core.errors import NeoNetError
from neonet_core.tlcr import (
    extract,
    image_channels,
    locate_crop,
    mask_patch,
    paste,
    tlcr,
    tumour_component,
    world_to_voxel,
)


def transcription(image, labels, size):
    """Algorithm 1 with the design's bounds, read line by line: slow and plain."""
    voxels = np.argwhere(labels == 2)
    start = []
    for axis in range(3):
        low, high = int(voxels[:, axis].min()), int(voxels[:, axis].max())
        centre = (low + high + 1) // 2
        first = max(centre - size[axis] // 2, 0)
        if first + size[axis] > labels.shape[axis]:
            first = labels.shape[axis] - size[axis]
        start.append(max(first, 0))
    T1, T2 = np.zeros(size, np.float32), np.zeros(size, np.float32)
    for offset in product(*map(range, size)):
        at = tuple(begin + step for begin, step in zip(start, offset, strict=True))
        if any(index >= extent for index, extent in zip(at, labels.shape, strict=True)):
            continue
        if labels[at] in (1, 2):
            T1[offset] = image[at]
        if labels[at] == 2:
            T2[offset] = image[at]
    return tuple(start), T1, T2


def blank(shape, **boxes):
    labels = np.zeros(shape, np.uint8)
    for box in boxes.values():
        labels[box] = 2
    return labels


def code_of(call, *args, **kwargs):
    with pytest.raises(NeoNetError) as caught:
        call(*args, **kwargs)
    return caught.value.code


extents = st.tuples(*[st.integers(1, 11)] * 3)
crop_sizes = st.tuples(*[st.integers(1, 9)] * 3)


@st.composite
def volumes(draw):
    """An image and a label map with tumour voxels anywhere, in any memory layout."""
    shape = draw(extents)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tumour_share = draw(st.sampled_from([0.0, 0.01, 0.05, 0.4]))
    labels = rng.choice(3, size=shape, p=[(1 - tumour_share) / 2, (1 - tumour_share) / 2, tumour_share])
    labels[tuple(rng.integers(shape))] = 2
    labels = labels.astype(draw(st.sampled_from([np.uint8, np.int16, np.float32])))
    order = draw(st.permutations(range(3)))
    labels = np.ascontiguousarray(labels.transpose(order)).transpose(np.argsort(order))
    if draw(st.booleans()):
        labels = np.ascontiguousarray(labels[::-1, :, ::-1])[::-1, :, ::-1]
    return rng.random(shape, dtype=np.float32) + 0.1, labels


@settings(max_examples=300, deadline=None)
@given(volumes(), crop_sizes)
def test_equals_the_transcription(volume, size):
    image, labels = volume
    start, expected_T1, expected_T2 = transcription(image, labels, size)
    T1, T2, crop = tlcr(image, labels, size)
    assert crop.start == start
    np.testing.assert_array_equal(T1, expected_T1)
    np.testing.assert_array_equal(T2, expected_T2)
    assert crop.tumour_voxels == (labels == 2).sum()
    assert crop.coverage == pytest.approx(np.count_nonzero(T2) / crop.tumour_voxels)


@pytest.mark.parametrize("corner", list(product([0, 7, 14], [0, 6, 12], [0, 5, 10])))
@pytest.mark.parametrize("size", [(5, 4, 3), (15, 13, 11), (20, 4, 30)])
def test_a_tumour_voxel_anywhere_is_inside_and_so_is_the_crop(corner, size):
    labels = blank((15, 13, 11))
    labels[corner] = 2
    image = np.ones(labels.shape, np.float32)
    _, T2, crop = tlcr(image, labels, size)
    assert T2.sum() == 1 and crop.coverage == 1
    for begin, length, extent in zip(crop.start, size, labels.shape, strict=True):
        assert begin >= 0
        assert begin + length <= extent or begin == 0


def test_upper_bound_keeps_the_crop_in_the_volume():
    labels = blank((20, 20, 20), tumour=np.s_[18:20, 18:20, 18:20])
    crop = locate_crop(labels, (8, 8, 8))
    assert crop.start == (12, 12, 12)


def test_half_of_an_odd_size_is_floored():
    labels = blank((21, 21, 21), tumour=np.s_[10:11, 10:12, 10:13])
    # centres: floor((10 + 11) / 2) = 10, floor((10 + 12) / 2) = 11, floor((10 + 13) / 2) = 11
    assert locate_crop(labels, (5, 5, 5)).start == (8, 9, 9)


def test_a_smaller_volume_is_padded_with_zeros_at_the_end():
    labels = blank((3, 4, 5), tumour=np.s_[:])
    patch = extract(np.full((3, 4, 5), 7, np.int16), locate_crop(labels, (6, 6, 6)))
    assert patch.dtype == np.int16 and patch.shape == (6, 6, 6)
    assert (patch[:3, :4, :5] == 7).all() and patch.sum() == 7 * 60


def test_coverage_tells_that_the_tumour_does_not_fit():
    labels = blank((20, 20, 20), tumour=np.s_[5:15, 8:10, 8:10])
    assert locate_crop(labels, (4, 4, 4)).coverage == pytest.approx(0.4)
    assert locate_crop(labels, (10, 4, 4)).coverage == 1
    assert locate_crop(labels, (10, 4, 4), center=(0, 0, 0)).coverage == 0


def test_empty_tumour():
    labels = np.ones((6, 6, 6), np.uint8)
    image = np.ones(labels.shape, np.float32)
    assert code_of(tlcr, image, labels, (4, 4, 4)) == "EMPTY_TUMOUR"
    assert code_of(tlcr, image, labels, (4, 4, 4), center=(3, 3, 3)) == "EMPTY_TUMOUR"
    T1, T2, crop = tlcr(image, labels, (4, 4, 4), on_empty="zeros")
    assert crop is None and T1.shape == T2.shape == (4, 4, 4) and not T1.any() and not T2.any()
    T1, T2, crop = tlcr(image, labels, (4, 4, 4), on_empty="zeros", center=(3, 3, 3))
    assert crop.start == (1, 1, 1) and T1.all() and not T2.any()
    assert not tumour_component(labels, "largest").any()


@settings(max_examples=100, deadline=None)
@given(volumes(), crop_sizes)
def test_paste_is_the_way_back(volume, size):
    image, labels = volume
    crop = locate_crop(labels, size)
    back = paste(extract(image, crop), crop, fill=-1)
    inside = np.zeros(image.shape, bool)
    inside[crop.inside] = True
    np.testing.assert_array_equal(back[inside], image[inside])
    assert (back[~inside] == -1).all()
    two = extract(np.stack([image, 2 * image]), crop)
    np.testing.assert_array_equal(two[1], 2 * extract(image, crop))


@settings(max_examples=100, deadline=None)
@given(volumes(), crop_sizes, st.tuples(*[st.floats(0, 1)] * 3))
def test_a_crop_is_found_again_by_its_centre(volume, size, where):
    _, labels = volume
    center = [share * (extent - 1) for share, extent in zip(where, labels.shape, strict=True)]
    for crop in (locate_crop(labels, size), locate_crop(labels, size, center=center)):
        assert locate_crop(labels, size, center=crop.center) == crop


@settings(max_examples=50, deadline=None)
@given(st.tuples(*[st.integers(-4, 4)] * 3), crop_sizes, st.integers(0, 2**32 - 1))
def test_a_moved_label_map_moves_the_crop(shift, size, seed):
    labels = np.zeros((30, 30, 30), np.uint8)
    labels[12:18, 12:18, 12:18] = np.random.default_rng(seed).integers(0, 3, (6, 6, 6))
    labels[15, 15, 15] = 2
    moved = np.roll(labels, shift, axis=(0, 1, 2))
    first, second = locate_crop(labels, size), locate_crop(moved, size)
    assert second.start == tuple(np.add(first.start, shift))
    np.testing.assert_array_equal(extract(labels, first), extract(moved, second))


@pytest.fixture
def two_tumours():
    return blank((40, 20, 20), small=np.s_[2:4, 2:4, 2:4], large=np.s_[30:36, 10:16, 10:16])


def test_components(two_tumours):
    whole, largest = locate_crop(two_tumours, (8, 8, 8)), locate_crop(two_tumours, (8, 8, 8), component="largest")
    assert whole.tumour_voxels == 8 + 216 and whole.coverage < 1
    assert largest.tumour_voxels == 216 and largest.coverage == 1
    assert largest.start == (29, 9, 9)
    assert locate_crop(two_tumours, (8, 8, 8), tumour_at=(2, 3, 2)).tumour_voxels == 8
    assert tumour_component(two_tumours, "largest").sum() == 216
    np.testing.assert_array_equal(tumour_component(two_tumours), two_tumours == 2)
    np.testing.assert_array_equal(tumour_component(two_tumours, tumour_at=(2, 2, 2)),
                                  (two_tumours == 2) & (np.arange(40) < 10)[:, None, None])


def test_a_point_beside_the_tumours_takes_the_nearest_in_millimetres(two_tumours):
    assert locate_crop(two_tumours, (8, 8, 8), tumour_at=(12, 2, 2)).tumour_voxels == 8
    assert locate_crop(two_tumours, (8, 8, 8), tumour_at=(24, 10, 10)).tumour_voxels == 216
    point = (18, 2, 2)  # 15 voxels from the small tumour; from the large one 12, 8 and 8
    assert locate_crop(two_tumours, (8, 8, 8), tumour_at=point).tumour_voxels == 8
    assert locate_crop(two_tumours, (8, 8, 8), tumour_at=point, spacing=(3, 0.5, 0.5)).tumour_voxels == 216


def test_components_that_touch_at_a_corner_are_one():
    labels = blank((10, 10, 10), a=np.s_[2:4, 2:4, 2:4], b=np.s_[4:6, 4:6, 4:6])
    assert locate_crop(labels, (8, 8, 8), component="largest").tumour_voxels == 16


def test_the_other_component_stays_visible_in_the_patch():
    labels = blank((20, 20, 20), small=np.s_[4:5, 8:9, 8:9], large=np.s_[8:12, 8:12, 8:12])
    _, T2, crop = tlcr(np.ones(labels.shape), labels, (16, 8, 8), component="largest")
    assert crop.tumour_voxels == 64 and T2.sum() == 65


def test_mask_patch_and_channels():
    labels = np.array([0, 1, 2], np.uint8).reshape(3, 1, 1)
    masks = mask_patch(labels)
    assert masks.dtype == np.uint8 and masks[:, :, 0, 0].tolist() == [[0, 1, 1], [0, 0, 1]]
    for image in (np.full((3, 1, 1), 0.5), np.full((1, 3, 1, 1), 0.5)):
        channels = image_channels(image, masks)
        assert channels.dtype == np.float32 and channels[:, :, 0, 0].tolist() == [[0, 0.5, 0.5], [0, 0, 0.5]]


def test_world_to_voxel():
    affine = np.array([[0, -2, 0, 5], [1, 0, 0, -7], [0, 0, 3, 1], [0, 0, 0, 1]], float)
    index = np.array([4.0, 6.5, 2.25])
    np.testing.assert_allclose(world_to_voxel(affine, affine[:3, :3] @ index + affine[:3, 3]), index)


@pytest.mark.parametrize("value, dtype", [(3, np.uint8), (255, np.uint8), (-1, np.int16), (258, np.int32),
                                          (1.5, np.float32), (np.nan, np.float64)])
def test_other_labels_are_refused(value, dtype):
    labels = blank((4, 4, 4), tumour=np.s_[0:1, 0:1, 0:1]).astype(dtype)
    labels[2, 2, 2] = value
    assert code_of(locate_crop, labels, (2, 2, 2)) == "BAD_LABELS"
    assert code_of(tumour_component, labels) == "BAD_LABELS"


def test_shapes_that_do_not_match_are_refused():
    labels = blank((4, 4, 4), tumour=np.s_[1:2, 1:2, 1:2])
    crop = locate_crop(labels, (2, 2, 2))
    other = np.zeros((4, 4, 5))
    assert code_of(tlcr, other, labels, (2, 2, 2)) == "SHAPE_MISMATCH"
    assert code_of(extract, other, crop) == "SHAPE_MISMATCH"
    assert code_of(paste, other, crop) == "SHAPE_MISMATCH"
    assert code_of(image_channels, other, mask_patch(labels)) == "SHAPE_MISMATCH"
    assert code_of(locate_crop, labels[0], (2, 2, 2)) == "SHAPE_MISMATCH"
    assert code_of(locate_crop, labels[:0], (2, 2, 2)) == "SHAPE_MISMATCH"


@pytest.mark.parametrize("options", [
    {"size": (0, 4, 4)}, {"size": (4, 4)}, {"size": (4, 4, 2.5)}, {"component": "biggest"}, {"on_empty": "none"},
    {"center": (4, 0, 0)}, {"center": (0, -1, 0)}, {"tumour_at": (0, 0, 99)}, {"center": (np.nan, 0, 0)},
    {"tumour_at": (1, 1)}])
def test_bad_arguments_are_refused(options):
    labels = blank((4, 4, 4), tumour=np.s_[1:2, 1:2, 1:2])
    assert code_of(locate_crop, labels, **{"size": (2, 2, 2), **options}) == "BAD_ARGUMENT"


def test_imports_with_numpy_alone():
    program = ("import sys, neonet_core.tlcr; "
               "print([name for name in ('scipy', 'torch', 'monai', 'SimpleITK') if name in sys.modules])")
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          check=True).stdout.strip() == "[]"
