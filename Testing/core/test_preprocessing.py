"""What the networks see does not depend on how a file happens to be stored."""

from itertools import permutations, product

import numpy as np
import pytest

from neonet_core.errors import NeoNetError
from neonet_core.preprocessing import prepare_image, prepare_label_map, resolve_spacing
from neonet_core.volume import Volume

ORIENTATIONS = [(order, flips) for order in permutations(range(3)) for flips in product((False, True), repeat=3)]


def stored_otherwise(volume, order, flips):
    """The same voxels in the same places, in another order of the array."""
    array, affine = volume.array, volume.affine.copy()
    for axis, flip in enumerate(flips):
        if flip:
            affine[:3, 3] += affine[:3, axis] * (array.shape[axis] - 1)
            affine[:3, axis] *= -1
            array = np.flip(array, axis)
    return Volume(array.transpose(order), affine[:, [*order, 3]])


def rotation(degrees):
    """About all three axes, by so much."""
    turned = np.eye(3)
    for axis in range(3):
        c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        i, j = [k for k in range(3) if k != axis]
        one = np.eye(3)
        one[i, i], one[i, j], one[j, i], one[j, j] = c, -s, s, c
        turned = turned @ one
    return turned


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(0)
    affine = np.eye(4)
    affine[:3, :3] = rotation(8) @ np.diag([1.2, 1.5, 3.0])
    affine[:3, 3] = (-30, 12, 55)
    return Volume(rng.gamma(2, 100, (14, 11, 9)).astype(np.float32), affine)


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS)
@pytest.mark.parametrize("spacing", [None, (2.0, 2.0, 2.5)])
def test_all_48_orientations_give_the_networks_one_array(image, order, flips, spacing):
    expected, found = prepare_image(image, spacing), prepare_image(stored_otherwise(image, order, flips), spacing)
    np.testing.assert_allclose(found.volume.array, expected.volume.array, atol=1e-5)
    np.testing.assert_allclose(found.volume.affine, expected.volume.affine, atol=1e-9)
    assert found.intensity_range == expected.intensity_range
    assert found.volume.orientation == "RAS"
    if spacing is None:
        np.testing.assert_array_equal(found.volume.array, expected.volume.array)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float64])
def test_an_image_becomes_float32_in_0_to_1(dtype):
    array = np.random.default_rng(1).integers(0, 200, (10, 10, 10)).astype(dtype)
    found = prepare_image(Volume(array, np.eye(4)), (1.5, 1.5, 1.5)).volume.array
    assert found.dtype == np.float32 and found.min() >= 0 and found.max() <= 1


def test_the_percentiles_are_those_of_the_image_as_it_came(image):
    low, high = np.percentile(image.array, [0.5, 99.5])
    for spacing in (None, (3.0, 3.0, 3.0), (0.7, 0.9, 2.0)):
        assert prepare_image(image, spacing).intensity_range == pytest.approx((low, high))


def test_scale_and_offset_of_the_scanner_do_not_matter(image):
    other = Volume(image.array * 7.5 - 300, image.affine)
    np.testing.assert_allclose(prepare_image(other, (2, 2, 2)).volume.array,
                               prepare_image(image, (2, 2, 2)).volume.array, atol=1e-4)


def test_a_constant_image_is_refused():
    with pytest.raises(NeoNetError) as caught:
        prepare_image(Volume(np.full((4, 4, 4), 7.0), np.eye(4)), None)
    assert caught.value.code == "CONSTANT_IMAGE"


@pytest.mark.parametrize("spacing", [None, (2.0, 2.0, 2.5), (0.5, 0.5, 0.5)])
def test_image_and_label_map_stay_on_one_grid_and_labels_stay_labels(image, spacing):
    labels = np.random.default_rng(2).integers(0, 3, image.shape).astype(np.int16)
    prepared = prepare_label_map(Volume(labels, image.affine), spacing)
    expected = prepare_image(image, spacing).volume
    assert prepared.shape == expected.shape
    np.testing.assert_allclose(prepared.affine, expected.affine)
    assert prepared.array.dtype == np.uint8 and set(np.unique(prepared.array)) == {0, 1, 2}


def test_labels_stay_on_what_they_label(image):
    """A bright block stays under its label: neither is shifted against the other by resampling."""
    labels = np.zeros(image.shape, np.uint8)
    labels[3:9, 2:7, 2:6] = 2
    bright = Volume(labels.astype(np.float32) * 50 + 1, image.affine)
    for spacing in ((0.6, 0.7, 1.0), (1.0, 1.0, 1.5)):
        prepared = prepare_image(bright, spacing).volume.array
        mapped = prepare_label_map(Volume(labels, image.affine), spacing).array == 2
        disagreement = (mapped != (prepared > 0.5)).mean()
        assert disagreement < 0.02


def test_the_median_is_taken_axis_by_axis_over_the_cases_given():
    assert resolve_spacing("native", [(1, 1, 1)]) is None
    assert resolve_spacing("median", [(1, 2, 3), (1.5, 2, 9), (4, 2, 5)]) == (1.5, 2.0, 5.0)
    assert resolve_spacing((2.0, 2.0, 4.0), [(1, 1, 1)]) == (2.0, 2.0, 4.0)
