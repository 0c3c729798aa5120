"""The copies check: planted copies are found, fresh samples are not."""

import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from neonet_core.errors import NeoNetError
from neonet_core.evaluation.copies import copies_check, neighbours, share_nearer_training
from neonet_core.evaluation.features import FeatureSet, SliceFeatures

SHAPE = (16, 12, 8)


def fresh(rng, count, shape=SHAPE):
    """(N, 1, X, Y, Z): independent samples of one distribution."""
    images = np.stack([gaussian_filter(rng.normal(size=shape), 1.5) for _ in range(count)])
    return np.clip(0.5 + 2 * images, 0, 1)[:, None].astype(np.float32)


def pixel_features(patches, name="pixels"):
    """A feature set of one slice a patch: the mirrored-invariant means over a coarse grid."""
    values = np.stack([np.sort(patch[0].reshape(4, 4, -1).mean(axis=2).ravel()) for patch in patches])
    view = SliceFeatures(values, np.arange(len(patches)))
    return FeatureSet(name, False, len(patches), {"axial": view})


def test_planted_copies_are_found_however_they_are_disguised():
    rng = np.random.default_rng(0)
    training, held_out, synthetic = fresh(rng, 30), fresh(rng, 12), fresh(rng, 8)
    synthetic[1] = training[3]
    synthetic[2] = training[4][:, ::-1, :, ::-1]
    synthetic[5] = training[7] + rng.normal(0, 0.02, SHAPE)
    found = copies_check(synthetic, training, held_out)["pixels"]
    assert {flag["sample"]: flag["training"] for flag in found["flagged"]} == {1: 3, 2: 4, 5: 7}
    assert [flag["distance"] < 1e-6 for flag in found["flagged"]] == [True, True, False]
    assert all(flag["ratio"] < 0.3 for flag in found["flagged"])
    assert all(flag["is_mask_source"] is None for flag in found["flagged"])
    json.dumps(found, allow_nan=False)


def test_fresh_samples_are_as_near_to_training_as_to_held_out_patches():
    rng = np.random.default_rng(1)
    found = copies_check(fresh(rng, 80), fresh(rng, 60), fresh(rng, 15))["pixels"]
    nearer = found["nearer_training"]
    assert nearer["by_chance"][0] < nearer["share"] < nearer["by_chance"][1]  # though four times as many training ones
    assert nearer["median_ratio"] == pytest.approx(1, abs=0.05)
    assert nearer["compared_with"] == 15 and found["samples"] == 80
    assert len(found["flagged"]) <= 4  # about 1 %


def test_a_generator_that_only_copies_is_nearer_to_training_always():
    rng = np.random.default_rng(2)
    training, held_out = fresh(rng, 10), fresh(rng, 10)
    found = copies_check(training[::-1] + 0.001, training, held_out)["pixels"]
    assert found["nearer_training"]["share"] == 1 and found["nearer_training"]["p_value"] < 0.01
    assert found["nearer_training"]["median_ratio"] < 0.1 and len(found["flagged"]) == 10


def test_copying_the_held_out_patches_counts_the_other_way():
    rng = np.random.default_rng(3)
    training, held_out = fresh(rng, 10), fresh(rng, 10)
    found = copies_check(held_out, training, held_out)["pixels"]
    assert found["nearer_training"]["share"] == pytest.approx(0) and found["nearer_training"]["p_value"] > 0.99
    assert found["nearer_training"]["median_ratio"] > 10


def test_a_shape_taken_from_the_mask_source_is_told_from_a_copy():
    """Samples that resemble their mask's patch only: nearer to training, but not once that patch is left out."""
    rng = np.random.default_rng(4)
    training, held_out = fresh(rng, 20), fresh(rng, 20)
    sources = rng.integers(0, 20, 40)
    synthetic = training[sources] + 0.7 * (fresh(rng, 40) - 0.5)
    found = copies_check(synthetic, training, held_out, mask_sources=sources)["pixels"]
    assert found["nearer_training"]["share"] > 0.9 and found["nearer_training"]["p_value"] < 0.01
    others = found["nearer_training_without_mask_source"]
    assert others["share"] < others["by_chance"][1] and others["p_value"] > 0.05 and others["compared_with"] == 19
    copied = copies_check(training[sources], training, held_out, mask_sources=sources)["pixels"]
    assert all(flag["is_mask_source"] for flag in copied["flagged"]) and len(copied["flagged"]) == 40


def test_copies_are_found_in_features_under_their_name():
    rng = np.random.default_rng(5)
    training, held_out, synthetic = fresh(rng, 20), fresh(rng, 10), fresh(rng, 5)
    synthetic[2] = training[9]
    features = [pixel_features(patches) for patches in (synthetic, training, held_out)]
    found = copies_check(synthetic, training, held_out, features)["features"]
    assert found["extractor"] == "pixels"
    assert (2, 9) in {(flag["sample"], flag["training"]) for flag in found["flagged"]}


def test_large_patches_are_compared_at_working_size_and_small_differences_average_out():
    rng = np.random.default_rng(6)
    shape = (70, 64, 33)
    training = gaussian_filter(rng.normal(size=(6, 1, *shape)), (0, 0, 3, 3, 3)).astype(np.float32)
    copy = training[4] + rng.normal(0, training.std(), (1, *shape))  # as much noise as signal
    found = copies_check(copy[None], training, -training[:3])["pixels"]
    assert found["nearest_training"][0][0] == 4 and found["flagged"][0]["training"] == 4


def test_the_result_depends_on_the_seed_alone():
    rng = np.random.default_rng(7)
    patches = fresh(rng, 6), fresh(rng, 9), fresh(rng, 5)
    assert copies_check(*patches, seed=1) == copies_check(*patches, seed=1)
    one = copies_check(*(patch[:1] for patch in patches))["pixels"]
    assert one["nearer_training"]["compared_with"] == 1 and one["nearer_training"]["share"] in (0, 1)
    alone = copies_check(*(patch[:1] for patch in patches), mask_sources=np.array([0]))["pixels"]
    assert alone["nearer_training_without_mask_source"] is None


def by_drawing(to_training, to_held_out, size, rng, repeats=4000):
    """The share by its definition: over random subsets of equal size."""
    hits = 0.0
    for _ in range(repeats):
        a, b = (rng.choice(np.arange(d.shape[1])[np.isfinite(d[0])], size, replace=False)
                for d in (to_training, to_held_out))
        hits += (to_training[0, a].min() < to_held_out[0, b].min()) / repeats
    return hits


@pytest.mark.parametrize("n, k, left_out", [(9, 4, 0), (4, 9, 0), (6, 6, 0), (9, 4, 1), (5, 5, 1)])
def test_the_share_is_that_over_random_subsets_of_equal_size(n, k, left_out):
    rng = np.random.default_rng(9)
    to_training, to_held_out = rng.random((1, n)), rng.random((1, k))
    to_training[:, :left_out] = np.inf
    found = share_nearer_training(to_training, to_held_out)
    assert found["compared_with"] == min(n, k) - left_out
    assert found["share"] == pytest.approx(by_drawing(to_training, to_held_out, min(n, k) - left_out, rng), abs=0.03)


def test_the_p_value_is_uniform_where_nothing_was_copied():
    """A few patches are near to everything, as smooth ones are: the share strays far from 0.5, the p-value does not."""
    rng = np.random.default_rng(10)
    shares, p_values = [], []
    for _ in range(60):
        hubs = rng.exponential(size=16)
        distances = hubs + 0.3 * rng.random((10, 16))
        found = share_nearer_training(distances[:, :10], distances[:, 10:], seed=1)
        shares.append(found["share"])
        p_values.append(found["p_value"])
    assert np.std(shares) > 0.25
    assert np.mean(np.array(p_values) < 0.1) < 0.2 and np.mean(p_values) == pytest.approx(0.5, abs=0.15)


def test_a_tie_is_decided_by_lot():
    found = neighbours(np.ones((500, 3)), np.ones((500, 3)), np.ones((3, 3)), np.ones((3, 3)))["nearer_training"]
    assert found["share"] == pytest.approx(0.5, abs=0.1) and found["median_ratio"] == pytest.approx(1)


def test_what_cannot_be_compared_is_refused():
    rng = np.random.default_rng(8)
    a, b, c = fresh(rng, 2), fresh(rng, 3), fresh(rng, 2)
    other = tuple(pixel_features(patches, name) for patches, name in zip((a, b, c), "xyz", strict=True))
    few = tuple(pixel_features(patches) for patches in (a, c, c))
    for arguments in [(a[0], b, c), (a, b, c[..., :4]), (a, b, c[:0]), (a, b, c, other), (a, b, c, few),
                      (a, b, c, None, np.zeros(3, int))]:
        with pytest.raises(NeoNetError) as caught:
            copies_check(*arguments)
        assert caught.value.code == "BAD_ARGUMENT"
