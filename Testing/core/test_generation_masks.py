"""New masks for synthetic cases: sound anatomy, and a record from which they can be made again."""

import json

import numpy as np
import pytest
from blobs import blob
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label

from neonet_core.generation import masks as module
from neonet_core.generation.masks import apply_transform, vary_anatomy

SPACING = (4.0, 4.0, 6.0)
IDENTITY = {"flips": [False, False, False], "scale": 1.0, "elastic_mm": 0.0, "smoothness_mm": 12.0, "elastic_seed": 0}


def anatomy(seed=0, shape=(32, 28, 16)):
    _, label_map = blob(seed, shape)
    return np.stack([label_map > 0, label_map == 2]).astype(np.uint8)


def vary(masks, seed=0, **options):
    return vary_anatomy(masks, SPACING, np.random.default_rng(seed), **options)


def largest_share(mask):
    parts, _ = label(mask, np.ones((3, 3, 3)))
    return np.bincount(parts.ravel())[1:].max() / mask.sum()


@given(seed=st.integers(0, 2**32 - 1), elastic=st.floats(0, 12), low=st.floats(0.6, 1), high=st.floats(1, 1.6))
@settings(max_examples=25, deadline=None)
def test_whatever_is_drawn_the_anatomy_is_sound(seed, elastic, low, high):
    masks = anatomy()
    varied, transform = vary(masks, seed, scale=(low, high), elastic_mm=elastic)
    assert varied.shape == masks.shape and varied.dtype == np.uint8 and set(np.unique(varied)) == {0, 1}
    assert (varied[1] <= varied[0]).all(), "the tumour lies inside liver or tumour"
    assert varied.any(axis=(1, 2, 3)).all()
    assert 0.5 <= varied[1].sum() / (masks[1].sum() * transform["scale"] ** 3) <= 2
    assert all(largest_share(mask) >= 0.97 for mask in varied), "nothing is torn to shreds"
    again = apply_transform(masks, SPACING, json.loads(json.dumps(transform)))
    assert np.array_equal(again, varied) and again.dtype == varied.dtype


def test_the_generator_alone_decides():
    first, again, other = (vary(anatomy(), seed) for seed in (1, 1, 2))
    assert first[1] == again[1] and np.array_equal(first[0], again[0])
    assert not np.array_equal(first[0], other[0])
    left = [np.random.default_rng(5) for _ in range(2)]
    vary_anatomy(anatomy(), SPACING, left[0], elastic_mm=0, flips=False, scale=(1, 1))
    vary_anatomy(anatomy(), SPACING, left[1], elastic_mm=9, scale=(0.5, 2))
    assert left[0].random() == left[1].random(), "the next mask does not depend on how this one was weakened"


def test_without_change_the_mask_stays():
    masks = anatomy()
    varied, transform = vary(masks, flips=False, scale=(1.0, 1.0), elastic_mm=0.0)
    assert np.array_equal(varied, masks) and not np.shares_memory(varied, masks)
    assert {**transform, "elastic_seed": 0} == IDENTITY
    barely = apply_transform(masks, SPACING, IDENTITY | {"elastic_mm": 1e-9})
    assert np.array_equal(barely, masks), "interpolation moves nothing by itself"


def test_flips_mirror_along_every_axis():
    masks, seen = anatomy(), set()
    for seed in range(60):
        varied, transform = vary(masks, seed, scale=(1.0, 1.0), elastic_mm=0.0)
        axes = tuple(axis for axis in range(3) if transform["flips"][axis])
        assert np.array_equal(varied, np.flip(masks, [axis + 1 for axis in axes]))
        seen.add(axes)
    assert len(seen) == 8


def test_scaling_is_isotropic_and_about_the_centre():
    grid = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in (41, 41, 21)), indexing="ij"))
    ball = ((grid * np.reshape([1, 1, 2], (3, 1, 1, 1))) ** 2).sum(0) < 12**2
    masks = np.stack([ball, ball]).astype(np.uint8)
    for scale in (0.8, 1.2):
        scaled = apply_transform(masks, (1, 1, 2), IDENTITY | {"scale": scale})[0]
        assert scaled.sum() / ball.sum() == pytest.approx(scale**3, rel=0.1)
        assert np.abs(np.argwhere(scaled).mean(0) - [20, 20, 10]).max() < 0.05
        extent = np.ptp(np.argwhere(scaled), axis=0) + 1
        assert extent[0] == extent[1] == pytest.approx(23 * scale, abs=1.5)


def test_the_displacement_has_the_size_and_smoothness_asked_for():
    transform = IDENTITY | {"elastic_mm": 3.0, "smoothness_mm": 10.0, "elastic_seed": 4}
    field = module._displacement((40, 40, 24), (2.0, 2.0, 3.0), transform) * np.reshape([2, 2, 3], (3, 1, 1, 1))
    np.testing.assert_allclose(np.sqrt((field**2).mean(axis=(1, 2, 3))), 3.0, rtol=1e-9)
    # white noise smoothed with a Gaussian of standard deviation s has a slope of amplitude / (s sqrt 2)
    slopes = [np.gradient(component, 2.0, axis=0).std() for component in field]
    assert np.mean(slopes) == pytest.approx(3 / (10 * 2**0.5), rel=0.25)


def test_liver_and_tumour_move_as_one():
    """With a tumour that fills the liver, both masks stay equal."""
    masks = anatomy()
    masks[1] = masks[0]
    varied, _ = vary(masks, 3, elastic_mm=3.0)
    assert np.array_equal(varied[0], varied[1]) and not np.array_equal(varied, masks)


def test_what_enters_from_outside_the_patch_is_background():
    masks = np.ones((2, 20, 20, 10), np.uint8)
    smaller = apply_transform(masks, SPACING, IDENTITY | {"scale": 0.8})
    assert not smaller[:, 0].any() and not smaller[:, :, -1].any() and not smaller[:, :, :, 0].any()
    assert smaller[:, 3:-3, 3:-3, 2:-2].all()
    larger = apply_transform(masks, SPACING, IDENTITY | {"scale": 1.2})
    assert larger.all(), "no border appears inside"


def test_a_map_that_would_fold_is_weakened():
    _, gentle = vary(anatomy(), 0, elastic_mm=2.0, smoothness_mm=16.0)
    _, rough = vary(anatomy(), 0, elastic_mm=12.0, smoothness_mm=6.0)
    assert gentle["elastic_mm"] == 2.0 and rough["elastic_mm"] < 12.0
    strong = IDENTITY | {"elastic_mm": 12.0, "smoothness_mm": 6.0}
    assert module._folds((32, 28, 16), SPACING, strong)
    assert not module._folds((32, 28, 16), SPACING, IDENTITY | {"scale": 1.1})


@pytest.mark.parametrize("place", [(16, 14, 8), (0, 0, 0), (31, 3, 15)])
def test_a_tumour_of_one_voxel_survives_wherever_it_is(place):
    masks = anatomy()
    masks[1] = 0
    masks[(slice(None), *place)] = 1
    for seed in range(12):
        varied, _ = vary(masks, seed, scale=(0.8, 1.3), elastic_mm=4.0)
        assert varied[1].sum() in (1, 2, 3)


def test_empty_masks_stay_empty():
    masks = anatomy()
    masks[1] = 0
    varied, _ = vary(masks, 1)
    assert varied[0].any() and not varied[1].any()
    assert not vary(np.zeros_like(masks), 1)[0].any()
