"""Sensitivity, specificity and predictive values of calls that are already made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest

from neonet_core.errors import NeoNetError
from neonet_core.evaluation.auc import checked_scores


@dataclass(frozen=True)
class OperatingPoint:
    """What a set of calls amounts to.

    Parameters
    ----------
    sensitivity, specificity : float
        0 to 1.
    sensitivity_interval, specificity_interval : tuple of float
        Wilson's 95 % interval of each.
    ppv, npv : float or None
        Positive and negative predictive value, at the cohort's own prevalence; None where no case is so called.
    true_positives, false_positives, true_negatives, false_negatives : int
    """

    sensitivity: float
    sensitivity_interval: tuple[float, float]
    specificity: float
    specificity_interval: tuple[float, float]
    ppv: float | None
    npv: float | None
    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int


def sensitivity_specificity(truth: ArrayLike, called: ArrayLike) -> OperatingPoint:
    """Count calls against the truth.

    Parameters
    ----------
    truth : array_like, (N,)
        0 and 1.
    called : array_like, (N,)
        True where the case is called positive. Calls and not scores, because each fold has its own threshold.

    Returns
    -------
    OperatingPoint

    Raises
    ------
    NeoNetError
        BAD_ARGUMENT where the two are not lists of 0 and 1 of equal length, ONE_CLASS where a class has no case.

    Examples
    --------
    >>> point = sensitivity_specificity([1, 1, 0, 0, 0], [True, False, True, False, False])
    >>> point.sensitivity, point.ppv
    (0.5, 0.5)
    """
    labels, calls = checked_scores(truth, called)
    if not np.isin(calls, (0, 1)).all():
        raise NeoNetError("BAD_ARGUMENT", "The calls hold values other than 0 and 1.",
                          "Compare each score with its fold's threshold first.")
    calls = calls == 1
    tp, fn = int((labels & calls).sum()), int((labels & ~calls).sum())
    fp, tn = int((~labels & calls).sum()), int((~labels & ~calls).sum())
    return OperatingPoint(
        sensitivity=tp / (tp + fn), sensitivity_interval=wilson_interval(tp, tp + fn),
        specificity=tn / (tn + fp), specificity_interval=wilson_interval(tn, tn + fp),
        ppv=tp / (tp + fp) if tp + fp else None, npv=tn / (tn + fn) if tn + fn else None,
        true_positives=tp, false_positives=fp, true_negatives=tn, false_negatives=fn)


def wilson_interval(successes: int, total: int) -> tuple[float, float]:
    """95 % interval of a proportion; unlike the plain one it has a width at 0 and 1 and stays within them.

    Parameters
    ----------
    successes, total : int
        0 <= successes <= total, and total at least 1.

    References
    ----------
    Wilson: Probable inference, the law of succession, and statistical inference. Journal of the American Statistical
    Association 22, 1927.
    """
    interval = binomtest(successes, total).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
