"""Counts of calls, their rates and Wilson's interval, against their definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, precision_score, recall_score

from neonet_core.errors import NeoNetError
from neonet_core.evaluation.operating_point import sensitivity_specificity, wilson_interval

CALLS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40).filter(
    lambda cases: len({truth for truth, _ in cases}) == 2)


@settings(deadline=None)
@given(CALLS)
def test_the_rates_are_those_of_the_confusion_matrix(cases):
    truth, called = np.transpose(cases)
    point = sensitivity_specificity(truth, called)
    tn, fp, fn, tp = confusion_matrix(truth, called, labels=[False, True]).ravel()
    assert (point.true_positives, point.false_positives) == (tp, fp)
    assert (point.true_negatives, point.false_negatives) == (tn, fn)
    assert point.sensitivity == pytest.approx(recall_score(truth, called))
    assert point.specificity == pytest.approx(recall_score(~truth, ~called))
    assert point.ppv == (pytest.approx(precision_score(truth, called)) if called.any() else None)
    assert point.npv == (pytest.approx(precision_score(~truth, ~called)) if not called.all() else None)
    for rate, (low, high) in [(point.sensitivity, point.sensitivity_interval),
                              (point.specificity, point.specificity_interval)]:
        assert 0 <= low <= rate <= high <= 1 and low < high


@settings(deadline=None)
@given(CALLS)
def test_swapping_the_classes_swaps_the_rates(cases):
    truth, called = np.transpose(cases)
    point, mirrored = sensitivity_specificity(truth, called), sensitivity_specificity(~truth, ~called)
    assert (point.sensitivity, point.sensitivity_interval) == (mirrored.specificity, mirrored.specificity_interval)
    assert point.ppv == mirrored.npv


def test_wilsons_interval_is_where_the_score_test_just_rejects():
    # |p - share| = z sqrt(p (1 - p) / n) at both ends.
    for end in wilson_interval(33, 44):
        assert abs(0.75 - end) == pytest.approx(1.959964 * np.sqrt(end * (1 - end) / 44), rel=1e-6)
    # Newcombe: Two-sided confidence intervals for the single proportion. Statistics in Medicine 17, 1998, table I.
    assert wilson_interval(81, 263) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))
    assert wilson_interval(0, 20) == (0, pytest.approx(0.1611, abs=5e-5))


@pytest.mark.parametrize("truth, called, code", [
    ([1, 1], [True, False], "ONE_CLASS"), ([], [], "ONE_CLASS"), ([0, 1], [0.2, 0.8], "BAD_ARGUMENT"),
    ([0, 1, 1], [True, False], "BAD_ARGUMENT"), ([0, 2], [True, False], "BAD_ARGUMENT")])
def test_what_cannot_be_counted_is_refused(truth, called, code):
    with pytest.raises(NeoNetError) as caught:
        sensitivity_specificity(truth, called)
    assert caught.value.code == code
