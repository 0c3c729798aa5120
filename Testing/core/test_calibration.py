"""Calibration and decision curves, against their definitions and on simulated patients whose risk is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.metrics import brier_score_loss

from neonet_core.errors import NeoNetError
from neonet_core.evaluation.calibration import (
    brier_score,
    calibration_intercept_slope,
    decision_curve,
    reliability,
)
from neonet_core.evaluation.operating_point import wilson_interval


@st.composite
def predictions(draw):
    """Truth with both classes, and probabilities on a coarse scale: many ties, 0 and 1 among them."""
    m, n = draw(st.integers(1, 15)), draw(st.integers(1, 15))
    truth = draw(st.permutations([1] * m + [0] * n))
    return np.array(truth), np.array(draw(st.lists(st.integers(0, 8), min_size=m + n, max_size=m + n))) / 8


def patients(count, seed=0):
    """Patients of known risk: their outcome, and its true probability."""
    rng = np.random.default_rng(seed)
    risk = expit(rng.normal(-0.7, 1.5, count))
    return (rng.random(count) < risk).astype(int), risk


@settings(deadline=None)
@given(predictions())
def test_brier_is_sklearns(prediction):
    assert brier_score(*prediction) == pytest.approx(brier_score_loss(*prediction))


def test_brier_is_best_for_the_true_risk():
    truth, risk = patients(20000)
    assert brier_score(truth, truth) == 0
    assert brier_score(truth, risk) == pytest.approx((risk * (1 - risk)).mean(), abs=0.005)
    for wrong in (expit(2 * logit(risk)), expit(logit(risk) + 0.5), np.full_like(risk, truth.mean())):
        assert brier_score(truth, wrong) > brier_score(truth, risk)


def test_the_true_risk_lies_on_the_diagonal_of_the_reliability_plot():
    for found in reliability(*patients(20000), bins=10):
        assert found.count == 2000
        assert found.observed == pytest.approx(found.predicted, abs=0.04)
        assert (found.low, found.high) == wilson_interval(round(found.observed * 2000), 2000)


def test_the_bins_are_as_even_as_the_cohort_allows():
    truth, risk = patients(128)
    found = reliability(truth, risk, bins=5)
    assert sorted(part.count for part in found) == [25, 25, 26, 26, 26]
    assert [part.predicted for part in found] == sorted(part.predicted for part in found)
    assert len(reliability(truth, risk, bins=500)) == 128
    (all_of_them,) = reliability(truth, risk, bins=1)
    assert all_of_them.observed == pytest.approx(truth.mean()) and all_of_them.predicted == pytest.approx(risk.mean())


@settings(deadline=None)
@given(predictions(), st.integers(1, 6))
def test_the_bins_hold_every_case_once_and_no_order_matters(prediction, bins):
    truth, probability = prediction
    found = reliability(truth, probability, bins)
    assert 1 <= len(found) <= bins
    assert sum(part.count for part in found) == len(truth)
    assert sum(part.count * part.observed for part in found) == pytest.approx(truth.sum())
    assert sum(part.count * part.predicted for part in found) == pytest.approx(probability.sum())
    order = np.lexsort((truth, -probability))
    for part, other in zip(found, reliability(truth[order], probability[order], bins), strict=True):
        assert (part.count, part.observed) == (other.count, other.observed)
        assert part.predicted == pytest.approx(other.predicted)


def test_true_risks_have_slope_1_and_intercept_0():
    assert calibration_intercept_slope(*patients(20000)) == (pytest.approx(0, abs=0.05), pytest.approx(1, abs=0.05))


def test_the_slope_and_intercept_undo_what_was_done_to_the_logits():
    truth, risk = patients(128)
    intercept, slope = calibration_intercept_slope(truth, risk)
    assert calibration_intercept_slope(truth, expit(2 * logit(risk)))[1] == pytest.approx(slope / 2, abs=1e-5)
    raised = calibration_intercept_slope(truth, expit(logit(risk) + 0.8))
    assert raised == (pytest.approx(intercept - 0.8), pytest.approx(slope, abs=1e-5))
    mirrored = calibration_intercept_slope(1 - truth, 1 - risk)
    assert mirrored == (pytest.approx(-intercept), pytest.approx(slope, abs=1e-5))


def test_the_slope_is_the_likeliest():
    truth, risk = patients(128)
    _, slope = calibration_intercept_slope(truth, risk)
    # At the likeliest intercept and slope the residuals sum to 0, and so do they times the predictor.
    logits = slope * logit(risk)
    intercept, _ = calibration_intercept_slope(truth, expit(logits))
    residual = truth - expit(logits + intercept)
    assert residual.sum() == pytest.approx(0, abs=1e-6)
    assert residual @ logit(risk) == pytest.approx(0, abs=1e-3)


def test_predictions_that_hardly_differ_have_a_slope_too(recwarn):
    truth, risk = patients(128)
    _, slope = calibration_intercept_slope(truth, risk)
    _, flat = calibration_intercept_slope(truth, expit(1e-7 * logit(risk)))
    assert flat * 1e-7 == pytest.approx(slope, rel=1e-4)
    assert not list(recwarn)


@pytest.mark.parametrize("truth, probability", [
    ([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4]), ([1, 1, 0, 0], [0.1, 0.2, 0.3, 0.4]), ([0, 0, 1, 1], [0.1, 0.2, 0.2, 0.4]),
    ([0, 0, 1, 1], [0.3] * 4)])
def test_separated_classes_have_an_intercept_and_no_slope(truth, probability):
    intercept, slope = calibration_intercept_slope(truth, probability)
    assert slope is None
    assert expit(logit(probability) + intercept).mean() == pytest.approx(0.5)


@settings(deadline=None)
@given(predictions())
def test_a_probability_of_0_or_1_still_has_a_calibration(prediction):
    intercept, slope = calibration_intercept_slope(*prediction)
    assert np.isfinite(intercept)
    assert slope is None or np.isfinite(slope)


def test_the_decision_curve_is_vickers_and_elkins_formula():
    truth, probability = [1, 1, 0, 0, 0], [0.9, 0.3, 0.6, 0.2, 0.1]
    curve = decision_curve(truth, probability, [0, 0.2, 0.5, 0.75])
    # At 0.2 two true and two false positives, at 0.5 one of each, at 0.75 a true one.
    np.testing.assert_allclose(curve.model, [2 / 5, 2 / 5 - 2 / 5 / 4, 1 / 5 - 1 / 5, 1 / 5], atol=1e-12)
    np.testing.assert_allclose(curve.treat_all, [2 / 5, 2 / 5 - 3 / 5 / 4, 2 / 5 - 3 / 5, 2 / 5 - 3 / 5 * 3])


@settings(deadline=None)
@given(predictions())
def test_treating_all_is_worth_the_prevalence_at_0_and_nothing_at_the_prevalence(prediction):
    truth, _ = prediction
    curve = decision_curve(*prediction, [0, truth.mean()])
    assert curve.treat_all == pytest.approx([truth.mean(), 0])
    assert curve.model[0] == pytest.approx(truth.mean())
    assert decision_curve(truth, truth, [0.3, 0.9]).model == pytest.approx(truth.mean())


def test_the_true_risk_is_never_worse_than_treating_all_or_none():
    truth, risk = patients(20000)
    curve = decision_curve(truth, risk, np.linspace(0.01, 0.9, 30))
    assert (curve.model >= np.maximum(curve.treat_all, 0) - 0.005).all()
    # A model that only knows the prevalence treats all or none.
    same = decision_curve(truth, np.full_like(risk, truth.mean()), curve.thresholds)
    np.testing.assert_allclose(same.model, np.maximum(curve.treat_all, 0), atol=1e-12)


EVERY = [brier_score, reliability, calibration_intercept_slope, lambda *pair: decision_curve(*pair, [0.5])]


@pytest.mark.parametrize("measure", EVERY)
@pytest.mark.parametrize("truth, probability, code", [
    ([0, 1], [0.1, 1.1], "BAD_ARGUMENT"), ([0, 1], [-0.1, 0.5], "BAD_ARGUMENT"),
    ([0, 1], [0.1, np.nan], "BAD_ARGUMENT"), ([0, 2], [0.1, 0.2], "BAD_ARGUMENT"),
    ([1, 1], [0.1, 0.2], "ONE_CLASS"), ([], [], "ONE_CLASS")])
def test_what_is_no_prediction_is_refused(measure, truth, probability, code):
    with pytest.raises(NeoNetError) as caught:
        measure(truth, probability)
    assert caught.value.code == code


@pytest.mark.parametrize("measure, option", [
    (reliability, 0), (decision_curve, [1]), (decision_curve, [-0.1]), (decision_curve, [np.nan]),
    (decision_curve, 0.5)])
def test_bad_options_are_refused(measure, option):
    with pytest.raises(NeoNetError) as caught:
        measure([0, 1], [0.1, 0.2], option)
    assert caught.value.code == "BAD_ARGUMENT"
