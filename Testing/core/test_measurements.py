"""Sizes of bodies whose sizes are known, Dice, and the flags that come of them."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_preprocessing import rotation

from neonet_core.evaluation.dice import dice
from neonet_core.flags import case_flags
from neonet_core.measurements import image_facts, measure
from neonet_core.volume import Volume

GRIDS = {
    "isotropic": np.eye(3),
    "anisotropic": np.diag([0.8, 0.8, 2.4]),
    "oblique": rotation(20) @ np.diag([0.9, 1.1, 1.6]),
    "left-handed": rotation(5) @ np.diag([-1.0, 1.3, 1.7]),
}


def ellipsoid(axes, semi_axes, centre=(0.0, 0.0, 0.0), extent=26.0):
    """A mask and its affine: the ellipsoid of these semi-axes in mm along R, A, S, on a grid of any axes."""
    half = np.ceil(np.full(3, extent) * np.sqrt(3) / np.linalg.norm(axes, axis=0)).astype(int)
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = -axes @ half
    index = np.stack(np.meshgrid(*(np.arange(2 * n + 1) for n in half), indexing="ij"), axis=-1)
    world = index @ axes.T + affine[:3, 3]
    return (((world - centre) / semi_axes) ** 2).sum(axis=-1) <= 1, affine


@pytest.mark.parametrize("axes", GRIDS.values(), ids=GRIDS.keys())
@pytest.mark.parametrize("semi_axes", [(12, 12, 12), (20, 10, 8)], ids=["sphere", "ellipsoid"])
def test_volume_and_diameter_of_a_known_body(axes, semi_axes):
    liver, affine = ellipsoid(axes, np.array((24, 24, 24)))
    tumour, _ = ellipsoid(axes, np.array(semi_axes))
    found = measure(Volume((liver.astype(np.uint8) + tumour), affine))
    truth = 4 / 3 * np.pi * np.prod(semi_axes) / 1000
    assert found.tumour_ml == pytest.approx(truth, rel=0.03)
    assert found.tumour_ml + found.liver_ml == pytest.approx(4 / 3 * np.pi * 24**3 / 1000, rel=0.02)
    assert found.tumour_share == pytest.approx(found.tumour_ml / (found.tumour_ml + found.liver_ml))
    voxel = np.linalg.norm(axes, axis=0).max()
    assert 2 * max(semi_axes) - 1.5 * voxel <= found.tumour_diameter_mm <= 2 * max(semi_axes) + 1e-6
    assert found.tumours == 1


def test_the_diameter_is_that_of_the_largest_of_several_tumours():
    axes = GRIDS["anisotropic"]
    large, affine = ellipsoid(axes, np.array((8, 8, 8)), (-12, 0, 0))
    small, _ = ellipsoid(axes, np.array((4, 4, 4)), (14, 0, 0))
    found = measure(Volume((2 * (large | small)).astype(np.uint8), affine))
    assert found.tumours == 2 and found.liver_ml == 0 and found.tumour_share == 1
    assert found.tumour_diameter_mm == pytest.approx(16, abs=2)
    assert found.tumour_ml == pytest.approx(4 / 3 * np.pi * (8**3 + 4**3) / 1000, rel=0.05)


def test_tumours_that_touch_at_a_corner_are_one():
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = 2
    found = measure(Volume(labels, np.eye(4)))
    assert found.tumours == 1 and found.tumour_diameter_mm == pytest.approx(np.sqrt(3))


@settings(max_examples=60, deadline=None)
@given(arrays(bool, st.tuples(*[st.integers(1, 5)] * 3)))
def test_the_diameter_is_the_largest_distance_of_any_two_voxels(mask):
    axes = GRIDS["oblique"]
    affine = np.eye(4)
    affine[:3, :3] = axes
    found = measure(Volume(2 * mask.astype(np.uint8), affine))
    if found.tumours > 1:
        return
    points = np.argwhere(mask) @ axes.T
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    assert found.tumour_diameter_mm == pytest.approx(distances.max() if mask.any() else 0)


def test_a_wide_flat_tumour_is_measured_without_all_pairs():
    labels = np.zeros((400, 400, 1), np.uint8)
    x, y = np.ogrid[:400, :400]
    labels[(x - 200) ** 2 + (y - 200) ** 2 <= 190**2] = 2  # 113,000 voxels: 51 GB of distances
    assert measure(Volume(labels, np.eye(4))).tumour_diameter_mm == pytest.approx(380)


def test_nothing_and_one_voxel():
    empty = measure(Volume(np.zeros((3, 3, 3), np.uint8), np.eye(4)))
    assert (empty.tumour_ml, empty.liver_ml, empty.tumour_share, empty.tumour_diameter_mm, empty.tumours) == (0,) * 5
    labels = np.zeros((3, 3, 3), np.uint8)
    labels[1, 1, 1] = 2
    one = measure(Volume(labels, np.diag([10.0, 10, 10, 1])))
    assert one.tumour_ml == pytest.approx(1) and one.tumour_diameter_mm == 0 and one.tumours == 1


def test_image_facts():
    label_map = np.array([0, 1, 1, 2], np.uint8).reshape(4, 1, 1)
    image = np.array([9, 0.2, 0.4, 0.8]).reshape(4, 1, 1)
    facts = image_facts(image, label_map, (10, 10, 10))
    assert facts == pytest.approx({"liver_ml": 2, "tumour_ml": 1, "liver_intensity": 0.3, "tumour_intensity": 0.8})
    assert "tumour_intensity" not in image_facts(image, np.minimum(label_map, 1), (1, 1, 1))


# Dice


def test_dice_by_its_definition():
    a, b = np.array([1, 1, 1, 0, 0], bool), np.array([0, 1, 1, 1, 1], bool)
    assert dice(a, b) == pytest.approx(2 * 2 / (3 + 4))
    assert dice(a, a) == 1 and dice(a, ~a) == 0 and dice(a, np.zeros(5, bool)) == 0
    assert np.isnan(dice(np.zeros(5, bool), np.zeros(5, bool)))


@given(arrays(bool, 30), arrays(bool, 30))
def test_dice_is_symmetric_and_within_0_and_1(a, b):
    value = dice(a, b)
    assert (np.isnan(value) and not a.any() and not b.any()) or (0 <= value <= 1 and value == dice(b, a))
    if not np.isnan(value):
        jaccard = (a & b).sum() / (a | b).sum()
        assert value == pytest.approx(2 * jaccard / (1 + jaccard))


# Flags


@pytest.fixture
def case():
    """A sound case in the middle of its training cohort, and a function that gives the codes of its flags."""
    liver, affine = ellipsoid(np.diag([1.0, 1.0, 2.0]), np.array((22, 22, 22)))
    tumour, _ = ellipsoid(np.diag([1.0, 1.0, 2.0]), np.array((7, 7, 7)))
    labels = Volume(liver.astype(np.uint8) + tumour, affine)
    image = Volume(np.array([0, 600, 300])[labels.array] + np.arange(labels.array.size).reshape(labels.shape) % 9,
                   affine)
    ranges = {"spacing_x": (0.9, 1.1), "spacing_y": (0.9, 1.1), "spacing_z": (1.8, 2.2), "liver_ml": (30.0, 60.0),
              "liver_intensity": (0.9, 1.0), "tumour_intensity": (0.45, 0.55)}

    def codes(image=image, labels=labels, coverage=1.0, demo=False, classifies=True):
        bundle = SimpleNamespace(is_demo=demo, can_classify=lambda: classifies, record=SimpleNamespace(ranges=ranges))
        flags = case_flags(image, labels, measure(labels), SimpleNamespace(coverage=coverage), bundle)
        assert all(flag.message for flag in flags)
        return [flag.code for flag in flags]

    return SimpleNamespace(image=image, labels=labels, codes=codes)


def test_a_case_like_those_of_the_training_has_no_flag(case):
    assert case.codes() == []


def test_each_reason_for_doubt_has_its_flag(case):
    image, labels = case.image, case.labels
    assert case.codes(demo=True) == ["DEMO_MODEL"]
    assert case.codes(classifies=False) == ["NO_PNI_MODEL"]
    assert case.codes(coverage=0.8) == ["TUMOUR_LARGER_THAN_CROP"]
    ct = Volume(np.where(labels.array == 0, -1000, image.array), image.affine)
    assert "WRONG_MODALITY" in case.codes(image=ct)
    dark = Volume(np.where(labels.array == 1, 100, image.array), image.affine)
    assert case.codes(image=dark) == ["INTENSITIES_FAR"]
    assert "NO_TUMOUR" in case.codes(labels=Volume(np.minimum(labels.array, 1), labels.affine))
    assert "WRONG_BODY_PART" in case.codes(labels=Volume(np.where(labels.array == 1, 0, labels.array), labels.affine))
    all_tumour = np.where(labels.array > 0, 2, 0)
    all_tumour[all_tumour.shape[0] // 2, :, :] //= 2
    assert "TUMOUR_SHARE" in case.codes(labels=Volume(all_tumour.astype(np.uint8), labels.affine))
    wide = image.affine @ np.diag([3, 1 / np.sqrt(3), 1 / np.sqrt(3), 1.0])  # the same volume of other voxels
    assert "SPACING_FAR" in case.codes(image=Volume(image.array, wide), labels=Volume(labels.array, wide))
