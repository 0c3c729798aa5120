"""Tests of AUCs against their definitions, and their p-values where nothing is to be found."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, mannwhitneyu, norm

from neonet_core.errors import NeoNetError
from neonet_core.evaluation.auc import auc, delong
from neonet_core.evaluation.comparison import delong_test, holm, permutation_test


@st.composite
def pairs_of_models(draw, least=2):
    """Truth with both classes, and two models' scores on coarse scales that differ: many ties."""
    m, n = draw(st.integers(least, 12)), draw(st.integers(least, 12))
    scores = st.lists(st.integers(0, 8), min_size=m + n, max_size=m + n)
    truth = draw(st.permutations([1] * m + [0] * n))
    return np.array(truth), np.array(draw(scores)) / 8, np.array(draw(scores)) * 5.0


def two_models(rng, areas=(0.8, 0.8), correlation=0.5, m=44, n=84):
    """The paper's cohort, and two models of known true AUCs whose scores within a class are correlated."""
    truth = np.repeat([1, 0], [m, n])
    noise = rng.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]], size=m + n).T
    first, second = noise + truth * np.sqrt(2) * norm.ppf(areas)[:, None]
    return truth, first, second


FOLDS = np.concatenate([np.arange(44) % 5, np.arange(84) % 5])
"""Of the paper's cohort in five stratified folds."""


def cross_validated(rng, areas=(0.8, 0.8), correlation=0.5, offsets=(1.0, 1.0)):
    """`two_models` whose networks of each fold score at levels of their own, with these standard deviations."""
    truth, *scores = two_models(rng, areas, correlation)
    return truth, *(score + rng.normal(0, offset, 5)[FOLDS] for score, offset in zip(scores, offsets, strict=True))


def kernel(truth, score):
    """For each positive (row) and negative (column): 1 if rightly ordered, 1/2 if tied."""
    return np.array([[1.0 if p > q else 0.5 if p == q else 0.0 for q in score[truth == 0]]
                     for p in score[truth == 1]])


def naive_variance(truth, first, second):
    """DeLong, DeLong and Clarke-Pearson's equations 4 to 6, pair by pair, and L S L' for L = (1, -1)."""
    kernels = [kernel(truth, first), kernel(truth, second)]
    m, n = kernels[0].shape
    areas = [pairs.mean() for pairs in kernels]
    s10, s01 = np.empty((2, 2)), np.empty((2, 2))
    for r in range(2):
        for s in range(2):
            s10[r, s] = sum((kernels[r][i].mean() - areas[r]) * (kernels[s][i].mean() - areas[s])
                            for i in range(m)) / (m - 1)
            s01[r, s] = sum((kernels[r][:, j].mean() - areas[r]) * (kernels[s][:, j].mean() - areas[s])
                            for j in range(n)) / (n - 1)
    contrast = np.array([1, -1])
    return contrast @ (s10 / m + s01 / n) @ contrast


def assert_uniform(p_values):
    """Of p-values where nothing is to be found: one in twenty is below 0.05, and none of the others is preferred."""
    assert 0.035 <= (np.array(p_values) <= 0.05).mean() <= 0.065
    assert kstest(p_values, "uniform").pvalue > 0.01


@settings(deadline=None)
@given(pairs_of_models())
def test_the_paired_test_is_delongs_by_its_definition(models):
    truth, first, second = models
    found = delong_test(truth, first, second)
    assert found.difference == pytest.approx(auc(truth, first) - auc(truth, second))
    variance = naive_variance(*models)
    if variance > 1e-12:
        assert found.p_value == pytest.approx(2 * norm.sf(abs(found.difference) / np.sqrt(variance)))
        half = 1.959964 * np.sqrt(variance)
        assert found.low == pytest.approx(max(found.difference - half, -1), abs=1e-6)
        assert found.high == pytest.approx(min(found.difference + half, 1), abs=1e-6)


def test_the_paired_interval_is_that_of_resampled_cohorts():
    truth, first, second = two_models(np.random.default_rng(0), areas=(0.85, 0.75))
    rng = np.random.default_rng(1)
    differences = []
    for _ in range(2000):
        drawn = np.concatenate([rng.integers(0, 44, 44), rng.integers(44, 128, 84)])
        differences.append(auc(truth, first[drawn]) - auc(truth, second[drawn]))
    found = delong_test(truth, first, second)
    np.testing.assert_allclose(np.quantile(differences, [0.025, 0.975]), [found.low, found.high], atol=0.015)


def test_independent_models_add_their_variances():
    truth, first, second = two_models(np.random.default_rng(2), correlation=0, m=2000, n=2000)
    found = delong_test(truth, first, second)
    sd = (found.high - found.low) / 2 / 1.959964
    assert sd ** 2 == pytest.approx(delong(truth, first)[1] + delong(truth, second)[1], rel=0.1)


def test_delong_finds_a_difference_of_equal_models_as_often_as_it_says():
    rng = np.random.default_rng(3)
    assert_uniform([delong_test(*two_models(rng, correlation=0.7)).p_value for _ in range(2000)])


def test_the_paired_interval_covers_the_true_difference_as_often_as_it_says():
    rng = np.random.default_rng(4)
    found = [delong_test(*two_models(rng, areas=(0.85, 0.75))) for _ in range(2000)]
    assert 0.93 <= np.mean([result.low <= 0.1 <= result.high for result in found]) <= 0.97
    # Such a difference, which the paper's cohort shows two times in three, is not lost to caution either.
    assert np.mean([result.p_value < 0.05 for result in found]) > 0.6


@settings(deadline=None)
@given(pairs_of_models(least=1), st.sampled_from([0.5, 0.95]))
def test_interval_and_p_value_say_the_same(models, level):
    truth, first, second = models
    found = delong_test(truth, first, second, level)
    assert -1 <= found.low <= found.difference + 1e-12 and found.difference - 1e-12 <= found.high <= 1
    assert 0 <= found.p_value <= 1
    if abs(found.p_value - (1 - level)) > 1e-9:
        assert (found.p_value < 1 - level) == (not found.low <= 0 <= found.high)
    turned = delong_test(truth, second, first, level)
    assert (turned.difference, turned.low, turned.high, turned.p_value) == pytest.approx(
        (-found.difference, -found.high, -found.low, found.p_value), abs=1e-12)


def test_the_same_scores_twice_do_not_differ():
    truth, first, _ = two_models(np.random.default_rng(5))
    found = delong_test(truth, first, np.exp(first))
    assert (found.difference, found.p_value) == (0, 1)
    # Nobody of 44 differing does not show that nobody does.
    assert (found.low, found.high) == pytest.approx((0.025 ** (1 / 44) - 1, 1 - 0.025 ** (1 / 44)))


def test_a_difference_without_variance_is_no_certainty():
    truth = np.repeat([1, 0], [4, 6])
    found = delong_test(truth, truth, np.zeros(10))
    assert found.difference == 0.5
    assert 0 < found.p_value == pytest.approx(2 * 1.5 ** -4)
    assert delong_test(truth, truth, -truth).p_value == pytest.approx(2 * 2 ** -4)
    one = delong_test([1, 0, 0], [0.5, 0.4, 0.6], [0.1, 0.2, 0.3])
    assert (one.low, one.high, one.p_value) == (-1, 1, 1)


# --- within strata ----------------------------------------------------------------------------------------------------


def test_levels_of_the_folds_networks_are_no_difference():
    """Two models that rank every fold alike: pooled, one seems far better; within folds they are the same."""
    truth, first, _ = two_models(np.random.default_rng(11))
    second = first + np.array([3.0, -2, 0, 2, -3])[FOLDS]
    pooled = delong_test(truth, first, second)
    assert pooled.difference > 0.1 and pooled.p_value < 0.05
    within = delong_test(truth, first, second, strata=FOLDS)
    assert (within.difference, within.p_value) == (0, 1)
    assert (within.low, within.high) == pytest.approx((0.025 ** (1 / 44) - 1, 1 - 0.025 ** (1 / 44)), abs=1e-3)


def test_the_variance_within_strata_is_the_weighted_sum_of_theirs():
    truth, first, second = cross_validated(np.random.default_rng(12), areas=(0.85, 0.75))
    parts = [tuple(values[fold == FOLDS] for values in (truth, first, second)) for fold in range(5)]
    pairs = np.array([part[0].sum() * (1 - part[0]).sum() for part in parts])
    weights = pairs / pairs.sum()
    difference = weights @ [auc(part[0], part[1]) - auc(part[0], part[2]) for part in parts]
    sd = np.sqrt(weights ** 2 @ [naive_variance(*part) for part in parts])
    found = delong_test(truth, first, second, strata=FOLDS)
    assert found.difference == pytest.approx(difference)
    assert found.difference == pytest.approx(auc(truth, first, FOLDS) - auc(truth, second, FOLDS))
    assert (found.low, found.high) == pytest.approx((difference - 1.959964 * sd, difference + 1.959964 * sd), abs=1e-6)
    assert found.p_value == pytest.approx(2 * norm.sf(abs(difference) / sd))
    # A fold of one class has no pair.
    more = [np.append(values, extra) for values, extra in ((truth, [1, 1]), (first, [0, 9]), (second, [9, 0]))]
    assert delong_test(*more, strata=np.append(FOLDS, [5, 5])) == found


def test_one_stratum_is_no_stratum():
    models = two_models(np.random.default_rng(13))
    strata = np.zeros(128)
    assert delong_test(*models, strata=strata) == delong_test(*models)
    assert permutation_test(*models[:2], strata=strata) == permutation_test(*models[:2])


@pytest.mark.parametrize("offsets", [(1, 1), (0, 1.5)])
def test_equal_models_of_five_folds_differ_as_often_as_the_test_says(offsets):
    rng = np.random.default_rng(14)
    p_values = [delong_test(*cross_validated(rng, offsets=offsets), strata=FOLDS).p_value for _ in range(1000)]
    assert_uniform(p_values)


def test_the_interval_over_five_folds_covers_the_true_difference_as_often_as_it_says():
    rng = np.random.default_rng(15)
    found = [delong_test(*cross_validated(rng, (0.85, 0.75), offsets=(0, 1.5)), strata=FOLDS) for _ in range(1000)]
    assert 0.935 <= np.mean([result.low <= 0.1 <= result.high for result in found]) <= 0.97
    assert np.mean([result.p_value < 0.05 for result in found]) > 0.5


def test_a_fold_with_one_positive_counts_with_the_largest_variance():
    truth = np.array([1, 1, 0, 0, 1, 0, 0, 0])
    first, second = np.array([3, 1, 2, 0, 1, 0, 2, 3.0]), np.array([1, 2, 3, 0, 3, 0, 2, 1.0])
    strata = np.repeat([0, 1], 4)
    found = delong_test(truth, first, second, strata=strata)
    whole = naive_variance(truth[:4], first[:4], second[:4])
    negatives = np.array([(first[4] > one) - (float(second[4] > other)) for one, other in
                          zip(first[5:], second[5:], strict=True)])
    variance = (4 / 7) ** 2 * whole + (3 / 7) ** 2 * (1 + negatives.var(ddof=1) / 3)
    assert found.p_value == pytest.approx(2 * norm.sf(abs(found.difference) / np.sqrt(variance)))


def test_few_positives_in_a_fold_do_not_make_the_test_find_more():
    rng = np.random.default_rng(16)
    folds = FOLDS.copy()
    folds[np.flatnonzero(FOLDS[:44] == 4)[1:]] = np.arange(7) % 4  # fold 4 keeps one positive
    p_values = [delong_test(*cross_validated(rng, offsets=(0, 0)), strata=folds).p_value for _ in range(1000)]
    assert 0.02 < np.mean(np.array(p_values) < 0.05) < 0.06


def test_chance_passes_for_a_model_as_often_as_permutations_within_folds_say():
    """Where a fold's network scores high just where its fold holds many positives, as a coincidence would have it."""
    truth, folds = np.repeat([1, 0, 1, 0], [30, 34, 14, 50]), np.repeat([0, 1], 64)
    rng = np.random.default_rng(17)
    scores = [rng.normal(size=128) - folds for _ in range(1000)]
    assert_uniform([permutation_test(truth, score, 199, seed, folds) for seed, score in enumerate(scores)])
    assert np.mean([permutation_test(truth, score, 199, seed) <= 0.05 for seed, score in enumerate(scores[:200])]) > 0.2


def test_permutations_within_strata_are_those_of_the_stratified_auc():
    truth, folds = np.array([1, 1, 0, 0, 1, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
    score = np.array([3, 1, 2, 0, 2, 0, 2, 3.0, 1, 5])
    every = [auc([*one, *other, 1, 1], score, folds) for one in set(itertools.permutations([1, 1, 0, 0]))
             for other in set(itertools.permutations([1, 0, 0, 0]))]
    expected = np.mean(np.array(every) >= auc(truth, score, folds) - 1e-12)
    assert permutation_test(truth, score, 20000, strata=folds) == pytest.approx(expected, abs=0.015)


# --- adjustment and permutations --------------------------------------------------------------------------------------


def test_holm_by_hand():
    # Times 4, 3, 2, 1 from the smallest on: 0.04, 0.09, 0.08 and 0.2; the third may not fall below the second.
    assert holm([0.2, 0.01, 0.04, 0.03]) == pytest.approx([0.2, 0.04, 0.09, 0.09])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([0.03]) == [0.03] and holm([]) == []


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_never_helps_and_is_between_no_correction_and_bonferronis(raw):
    adjusted = holm(raw)
    assert all(p <= q <= min(1, p * len(raw)) for p, q in zip(raw, adjusted, strict=True))
    order = np.argsort(raw, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


def test_a_permutation_is_mann_whitneys_exact_test():
    rng = np.random.default_rng(6)
    for shift in (0, 0.5, 1):
        truth = np.repeat([1, 0], [8, 12])
        score = rng.normal(size=20) + shift * truth
        exact = mannwhitneyu(score[:8], score[8:], alternative="greater", method="exact").pvalue
        assert permutation_test(truth, score) == pytest.approx(exact, abs=0.015)


def test_permutation_and_delong_agree_on_the_papers_cohort():
    rng = np.random.default_rng(7)
    for _ in range(8):
        truth, score, _ = two_models(rng, areas=(0.6, 0.5))
        area, variance = delong(truth, score)
        expected = norm.sf((area - 0.5) / np.sqrt(variance))
        # Where 10,000 permutations tell them from each other.
        if expected > 0.002:
            assert permutation_test(truth, score) == pytest.approx(expected, rel=0.5)


def test_chance_passes_for_a_model_as_often_as_the_permutations_say():
    rng = np.random.default_rng(8)
    truth = np.repeat([1, 0], [44, 84])
    assert_uniform([permutation_test(truth, rng.normal(size=128), samples=199, seed=seed) for seed in range(1000)])


@settings(deadline=None)
@given(pairs_of_models(least=1))
def test_the_scales_of_the_models_do_not_matter(models):
    truth, first, second = models
    assert permutation_test(truth, np.exp(first), samples=50) == permutation_test(truth, first, samples=50)
    assert delong_test(truth, np.exp(first), 100 * second) == delong_test(truth, first, second)


def test_a_permutation_p_value_is_never_0_and_repeats():
    truth = np.repeat([1, 0], [44, 84])
    assert permutation_test(truth, truth, samples=999) == 1 / 1000
    assert permutation_test(truth, -truth, samples=999) == 1
    model = two_models(np.random.default_rng(10), areas=(0.55, 0.5))[:2]
    assert permutation_test(*model, seed=1) == permutation_test(*model, seed=1) != permutation_test(*model, seed=2)


EVERY = [delong_test, lambda truth, first, _: permutation_test(truth, first)]


@pytest.mark.parametrize("test", EVERY)
@pytest.mark.parametrize("truth, score, code", [
    ([1, 1], [0.1, 0.2], "ONE_CLASS"), ([0, 1], [0.1, np.nan], "BAD_ARGUMENT"), ([0, 1, 1], [0.1, 0.2], "BAD_ARGUMENT"),
    ([0, 2], [0.1, 0.2], "BAD_ARGUMENT")])
def test_what_has_no_auc_is_refused(test, truth, score, code):
    with pytest.raises(NeoNetError) as caught:
        test(truth, score, score)
    assert caught.value.code == code


@pytest.mark.parametrize("call", [
    lambda: delong_test([0, 1], [0.1, 0.2], [0.1, 0.2], level=1),
    lambda: permutation_test([0, 1], [0.1, 0.2], samples=0),
    lambda: delong_test([0, 1], [0.1, 0.2], [0.1, 0.2], strata=[0]), lambda: holm([0.5, 1.5]),
    lambda: permutation_test([0, 1], [0.1, 0.2], strata=[[0], [0]]),
    lambda: delong_test([0, 1], [0.1, 0.2], [0.1, 0.2, 0.3]), lambda: holm([np.nan])])
def test_bad_options_are_refused(call):
    with pytest.raises(NeoNetError) as caught:
        call()
    assert caught.value.code == "BAD_ARGUMENT"
