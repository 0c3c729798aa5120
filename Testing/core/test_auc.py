"""AUC, its intervals and the threshold, against their definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from neonet_core.errors import NeoNetError
from neonet_core.evaluation.auc import auc, bootstrap_interval, delong, delong_interval, youden_threshold


@st.composite
def samples(draw, least=1):
    """Truth with both classes, and scores on a coarse scale: many ties."""
    m, n = draw(st.integers(least, 15)), draw(st.integers(least, 15))
    truth = draw(st.permutations([1] * m + [0] * n))
    score = draw(st.lists(st.integers(0, 8), min_size=m + n, max_size=m + n))
    return np.array(truth), np.array(score) / 8


def kernel(truth, score):
    """For each positive (row) and negative (column): 1 if rightly ordered, 1/2 if tied."""
    return np.array([[1.0 if p > q else 0.5 if p == q else 0.0 for q in score[truth == 0]]
                     for p in score[truth == 1]])


def binormal(rng, m=44, n=84, area=0.8):
    """The paper's cohort with a known true AUC."""
    truth = np.repeat([1, 0], [m, n])
    return truth, rng.normal(size=m + n) + truth * np.sqrt(2) * norm.ppf(area)


@given(samples())
def test_auc_is_the_share_of_pairs_in_order(sample):
    assert auc(*sample) == pytest.approx(kernel(*sample).mean())


@given(samples(least=2))
def test_delong_is_the_spread_of_the_structural_components(sample):
    pairs = kernel(*sample)
    m, n = pairs.shape
    of_positives = [sum(row) / n for row in pairs]
    of_negatives = [sum(column) / m for column in pairs.T]
    area = pairs.mean()
    expected = (sum((value - area) ** 2 for value in of_positives) / (m - 1) / m
                + sum((value - area) ** 2 for value in of_negatives) / (n - 1) / n)
    assert delong(*sample) == (pytest.approx(area), pytest.approx(expected, abs=1e-12))


def test_delong_variance_is_that_of_repeated_cohorts():
    rng = np.random.default_rng(0)
    areas, variances = np.transpose([delong(*binormal(rng)) for _ in range(1000)])
    assert areas.mean() == pytest.approx(0.8, abs=0.005)
    assert variances.mean() == pytest.approx(areas.var(), rel=0.15)


@pytest.mark.parametrize("area", [0.7, 0.8, 0.9, 0.95])
def test_the_interval_covers_the_true_auc_as_often_as_it_says(area):
    rng = np.random.default_rng(1)
    low, high = np.transpose([delong_interval(*binormal(rng, area=area)) for _ in range(2000)])
    assert 0.93 <= ((low <= area) & (area <= high)).mean() <= 0.97


@settings(deadline=None)
@given(samples(), st.sampled_from([0.5, 0.9, 0.95]))
def test_intervals_hold_the_estimate_and_stay_in_range(sample, level):
    low, high = delong_interval(*sample, level)
    assert 0 <= low <= auc(*sample) + 1e-12 and auc(*sample) - 1e-12 <= high <= 1
    wider = delong_interval(*sample, 0.99)
    assert wider[0] <= low and high <= wider[1]
    bottom, top = bootstrap_interval(*sample, level, samples=50)
    assert 0 <= bottom <= top <= 1


@settings(deadline=None)
@given(samples())
def test_only_the_order_of_the_scores_counts(sample):
    truth, score = sample
    other = np.exp(3 * score) - 7
    assert auc(truth, other) == auc(truth, score)
    assert delong_interval(truth, other) == delong_interval(truth, score)
    assert bootstrap_interval(truth, other, samples=20) == bootstrap_interval(truth, score, samples=20)
    np.testing.assert_array_equal(other >= youden_threshold(truth, other), score >= youden_threshold(truth, score))


@given(samples())
def test_swapping_the_classes_mirrors(sample):
    truth, score = sample
    low, high = delong_interval(truth, score)
    assert auc(1 - truth, score) == pytest.approx(1 - auc(truth, score))
    assert delong_interval(1 - truth, score) == (pytest.approx(1 - high), pytest.approx(1 - low))


def test_bootstrap_and_delong_agree_on_the_papers_cohort():
    sample = binormal(np.random.default_rng(2))
    np.testing.assert_allclose(bootstrap_interval(*sample), delong_interval(*sample), atol=0.02)
    assert bootstrap_interval(*sample, seed=1) == bootstrap_interval(*sample, seed=1) != bootstrap_interval(*sample)


def test_separated_classes_have_an_honest_interval():
    truth, score = np.repeat([1, 0], [44, 84]), np.repeat([1.0, 0.0], [44, 84])
    assert delong(truth, score) == (1, 0)
    assert delong_interval(truth, score) == (pytest.approx(0.025 ** (1 / 44)), 1)
    assert delong_interval(truth, -score) == (0, pytest.approx(1 - 0.025 ** (1 / 44)))
    assert delong_interval(truth[40:50], score[40:50])[0] < delong_interval(truth, score)[0]
    assert bootstrap_interval(truth, score) == (1, 1)


def test_a_network_that_scores_all_alike_has_an_honest_interval():
    truth = np.repeat([1, 0], [44, 84])
    low, high = delong_interval(truth, np.full(128, 0.3))
    assert (low, high) == pytest.approx((0.5 * 0.025 ** (1 / 44), 1 - 0.5 * 0.025 ** (1 / 44)))
    fewer = delong_interval(truth[40:50], np.full(10, 0.3))
    assert 0 < fewer[0] < low and high < fewer[1] < 1


def test_a_single_case_of_a_class_says_nothing_about_the_spread():
    truth, score = [1, 0, 0], [0.5, 0.4, 0.6]
    assert delong(truth, score) == (0.5, np.inf)
    assert delong_interval(truth, score) == (0, 1)


@settings(deadline=None)
@given(samples(least=4), st.randoms())
def test_with_strata_only_pairs_within_them_count(sample, random):
    truth, score = sample
    strata = np.array([random.randrange(3) for _ in truth])
    within = [kernel(truth[strata == one], score[strata == one]).ravel() for one in range(3)
              if len(set(truth[strata == one])) == 2]
    if not within:
        with pytest.raises(NeoNetError) as caught:
            auc(truth, score, strata)
        assert caught.value.code == "ONE_CLASS"
        return
    assert auc(truth, score, strata) == pytest.approx(np.concatenate(within).mean())
    assert auc(truth, score + 10 * strata, strata) == auc(truth, score, strata)
    assert auc(truth, score, np.zeros(len(truth))) == auc(truth, score)


def test_strata_are_one_for_each_case():
    with pytest.raises(NeoNetError) as caught:
        auc([0, 1, 1], [0.1, 0.2, 0.3], [0, 0])
    assert caught.value.code == "BAD_ARGUMENT"


@given(samples())
def test_youden_is_the_best_of_all_thresholds(sample):
    truth, score = sample

    def index(threshold):
        return (score[truth == 1] >= threshold).mean() + (score[truth == 0] < threshold).mean()

    chosen = youden_threshold(truth, score)
    best = max(index(threshold) for threshold in score)
    assert chosen in score
    assert index(chosen) == pytest.approx(best)
    assert not any(index(threshold) == pytest.approx(best) for threshold in score if threshold < chosen)


EVERY = [auc, delong, delong_interval, bootstrap_interval, youden_threshold]


@pytest.mark.parametrize("measure", EVERY)
@pytest.mark.parametrize("truth, score, code", [
    ([1, 1], [0.1, 0.2], "ONE_CLASS"), ([0, 0], [0.1, 0.2], "ONE_CLASS"), ([], [], "ONE_CLASS"),
    ([0, 1], [0.1, np.nan], "BAD_ARGUMENT"), ([0, 1], [0.1, np.inf], "BAD_ARGUMENT"),
    ([0, 2], [0.1, 0.2], "BAD_ARGUMENT"), ([0, np.nan], [0.1, 0.2], "BAD_ARGUMENT"),
    ([0, 1, 1], [0.1, 0.2], "BAD_ARGUMENT"), ([[0, 1]], [[0.1, 0.2]], "BAD_ARGUMENT")])
def test_what_has_no_auc_is_refused(measure, truth, score, code):
    with pytest.raises(NeoNetError) as caught:
        measure(truth, score)
    assert caught.value.code == code


@pytest.mark.parametrize("interval, options", [
    (delong_interval, {"level": 1}), (bootstrap_interval, {"level": 0}), (bootstrap_interval, {"samples": 0})])
def test_bad_options_are_refused(interval, options):
    with pytest.raises(NeoNetError) as caught:
        interval([0, 1], [0.1, 0.2], **options)
    assert caught.value.code == "BAD_ARGUMENT"


def test_booleans_are_a_truth_too():
    truth, score = binormal(np.random.default_rng(3))
    assert auc(truth.astype(bool), score) == auc(truth, score)
