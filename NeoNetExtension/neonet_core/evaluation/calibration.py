"""Are the probabilities right, and would acting on them help?

`truth` is `(N,)` of 0 and 1, `probability` `(N,)` of the predicted probabilities of 1. Every function raises
NeoNetError BAD_ARGUMENT where they are anything else, and ONE_CLASS where one class has no case.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression

from neonet_core.errors import NeoNetError
from neonet_core.evaluation.auc import checked_scores
from neonet_core.evaluation.operating_point import wilson_interval

SMALLEST = 1e-6
"""Probabilities nearer to 0 or 1 count as this near on the logit scale, where 0 and 1 themselves are infinite."""


@dataclass(frozen=True)
class ReliabilityBin:
    """Cases of similar predicted probability.

    Parameters
    ----------
    predicted : float
        Mean predicted probability.
    observed : float
        Share of positives.
    low, high : float
        Wilson's 95 % interval of that share.
    count : int
        Number of cases.
    """

    predicted: float
    observed: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class DecisionCurve:
    """Net benefit, in true positives a case, at each threshold probability; that of treating none is 0.

    Parameters
    ----------
    thresholds, model, treat_all : np.ndarray
        (T,)
    """

    thresholds: np.ndarray
    model: np.ndarray
    treat_all: np.ndarray


def brier_score(truth: ArrayLike, probability: ArrayLike) -> float:
    """Mean squared difference of probability and truth: 0 at best; prevalence * (1 - prevalence) knowing only that.

    References
    ----------
    Brier: Verification of forecasts expressed in terms of probability. Monthly Weather Review 78, 1950.

    Examples
    --------
    >>> brier_score([0, 1], [0.5, 1])
    0.125
    """
    labels, probabilities = _checked(truth, probability)
    return float(np.mean((probabilities - labels) ** 2))


def reliability(truth: ArrayLike, probability: ArrayLike, bins: int = 5) -> list[ReliabilityBin]:
    """The reliability plot: observed against predicted, in bins of equal count.

    Parameters
    ----------
    truth, probability : array_like, (N,)
    bins : int
        Number of bins: 5 of some 25 cases for the paper's cohort.

    Returns
    -------
    list of ReliabilityBin
        By rising probability, counts differing by 1 at most. Equal probabilities stay in one bin, so that the order of
        the cases does not matter: with many of them the bins are fewer and unequal.
    """
    if bins < 1:
        raise NeoNetError("BAD_ARGUMENT", f"{bins} bins hold no case.", "Take 5.")
    labels, probabilities = _checked(truth, probability)
    bin_of_case = (rankdata(probabilities) - 0.5) * bins // len(labels)
    found = []
    for members in (bin_of_case == index for index in np.unique(bin_of_case)):
        count, positives = int(members.sum()), int(labels[members].sum())
        low, high = wilson_interval(positives, count)
        found.append(ReliabilityBin(float(probabilities[members].mean()), positives / count, low, high, count))
    return found


def calibration_intercept_slope(truth: ArrayLike, probability: ArrayLike) -> tuple[float, float | None]:
    """Logistic recalibration: how far the predicted logits are off on the whole, and how far too flat.

    Returns
    -------
    intercept : float
        Calibration in the large, a in logit P(1) = a + logit(p): 0 is right, below 0 says that p is too high on the
        whole.
    slope : float or None
        b in logit P(1) = a' + b * logit(p): 1 is right, below 1 says that p is too extreme. None where p separates the
        classes (a tie at the border included) or is the same for all: no finite b is the likeliest then.

    References
    ----------
    Cox: Two further applications of a model for binary regression. Biometrika 45, 1958. Van Calster et al.: A
    calibration hierarchy for risk models was defined: from utopia to empirical data. Journal of Clinical Epidemiology
    74, 2016.
    """
    labels, probabilities = _checked(truth, probability)
    logits = logit(probabilities.clip(SMALLEST, 1 - SMALLEST))
    # The likeliest intercept makes the mean prediction the prevalence; it lies between the two that would alone make
    # the lowest and the highest prediction so.
    prevalence = labels.mean()
    shifts = logit(prevalence) - logits
    intercept = brentq(lambda shift: expit(logits + shift).mean() - prevalence, shifts.min() - 1, shifts.max() + 1)
    positives, negatives = logits[labels], logits[~labels]
    if positives.min() >= negatives.max() or positives.max() <= negatives.min():
        return float(intercept), None
    # C = inf: no penalty. Of one spread, because the solver stumbles over predictions that hardly differ.
    spread = logits.std()
    standardised = (logits - logits.mean()) / spread
    fit = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-8).fit(standardised[:, None], labels)
    return float(intercept), float(fit.coef_[0, 0] / spread)


def decision_curve(truth: ArrayLike, probability: ArrayLike, thresholds: ArrayLike) -> DecisionCurve:
    """Net benefit of treating those whose probability reaches a threshold, beside treating all.

    TP / N - FP / N * t / (1 - t): the threshold t at which one would just treat says how many false positives weigh as
    much as one true positive.

    Parameters
    ----------
    truth, probability : array_like, (N,)
    thresholds : array_like, (T,)
        From 0 to below 1.

    References
    ----------
    Vickers, Elkin: Decision curve analysis: a novel method for evaluating prediction models. Medical Decision Making
    26, 2006.
    """
    labels, probabilities = _checked(truth, probability)
    t = np.asarray(thresholds, dtype=float)
    if t.ndim != 1 or not ((t >= 0) & (t < 1)).all():
        raise NeoNetError("BAD_ARGUMENT", "The thresholds are not a list of numbers from 0 to below 1.",
                          "Take 0.05 to 0.95.")
    odds = t / (1 - t)
    treated = probabilities >= t[:, None]
    model = (treated & labels).mean(axis=1) - (treated & ~labels).mean(axis=1) * odds
    return DecisionCurve(thresholds=t, model=model, treat_all=labels.mean() - (~labels).mean() * odds)


def _checked(truth: ArrayLike, probability: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The truth as (N,) bool and the probability as (N,) float64."""
    labels, probabilities = checked_scores(truth, probability)
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise NeoNetError("BAD_ARGUMENT", "Not every probability is between 0 and 1.",
                          "Give probabilities; a logit becomes one by the logistic function.")
    return labels, probabilities
