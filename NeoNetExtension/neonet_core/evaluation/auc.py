"""Area under the ROC curve with its uncertainty, and the threshold read off the curve.

`truth` is always `(N,)` of 0 and 1, `score` `(N,)` of finite numbers, higher for 1. Every function raises NeoNetError
BAD_ARGUMENT where they are anything else, and ONE_CLASS where one class has no case: there is no AUC then.

`strata`, where a function takes it, is `(N,)` of labels, such as the fold of each patient: scores of different folds
come from different networks, whose levels differ, so only patients of one fold are compared with each other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit
from scipy.stats import norm, rankdata
from sklearn.metrics import roc_curve

from neonet_core.errors import NeoNetError

NO_VARIANCE = 1e-24
"""A variance below this is rounding, some 1e-33; the least true one is 1 / (2 m n)^2, 2e-8 with the paper's cohort."""

Placements = tuple[np.ndarray, np.ndarray]
"""Of the positives (m,) and of the negatives (n,); see `placements`."""


def auc(truth: ArrayLike, score: ArrayLike, strata: ArrayLike | None = None) -> float:
    """Probability that a random positive scores above a random negative; a tie counts half.

    Parameters
    ----------
    truth, score : array_like, (N,)
    strata : array_like, (N,), or None
        Then of a random pair out of one stratum.

    Returns
    -------
    float
        0 to 1; the Mann-Whitney U statistic over the number of pairs.

    Examples
    --------
    >>> auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    return mean_and_variance(stratified_placements(truth, score, strata))[0]


def delong(truth: ArrayLike, score: ArrayLike) -> tuple[float, float]:
    """AUC and the variance of its estimate.

    Returns
    -------
    auc, variance : float
        The variance is infinite where a class has one case only: nothing can be said about its spread.

    References
    ----------
    DeLong, DeLong, Clarke-Pearson: Comparing the areas under two or more correlated receiver operating characteristic
    curves. Biometrics 44, 1988. Computed by midranks in O(N log N): Sun, Xu: Fast implementation of DeLong's algorithm.
    IEEE Signal Processing Letters 21, 2014.
    """
    return mean_and_variance(stratified_placements(truth, score))


def delong_interval(truth: ArrayLike, score: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Confidence interval of the AUC by DeLong's variance, on the logit scale.

    The plain interval, AUC +- z * sd, covers too little near 1 (90.7 % at AUC 0.95 with the paper's cohort) and leaves
    [0, 1]; the logit's does neither. Where the variance or the logit says nothing (an AUC of 0 or 1; the same score for
    all) a share of the smaller class, as large as `unseen_share`, may rank in any way: that gives the interval.

    Parameters
    ----------
    truth, score : array_like, (N,)
    level : float
        Between 0 and 1.

    Returns
    -------
    low, high : float
        (0, 1) where a class has one case only and the AUC lies between.
    """
    tail = one_tail(level)
    area, variance = delong(truth, score)
    if area in (0.0, 1.0) or variance < NO_VARIANCE:
        share = unseen_share(tail, min(map(len, by_class(truth, score))))
        return area * (1 - share), area * (1 - share) + share
    # Delta method: d logit(a) / da = 1 / (a (1 - a)).
    half = norm.isf(tail) * np.sqrt(variance) / (area * (1 - area))
    return float(expit(logit(area) - half)), float(expit(logit(area) + half))


def bootstrap_interval(truth: ArrayLike, score: ArrayLike, level: float = 0.95, samples: int = 2000,
                       seed: int = 0) -> tuple[float, float]:
    """Percentile interval of the AUC over resampled cohorts.

    Parameters
    ----------
    truth, score : array_like, (N,)
    level : float
        Between 0 and 1.
    samples : int
        Number of resampled cohorts, each with as many positives and as many negatives as there are (stratified).
    seed : int

    Returns
    -------
    low, high : float
        Both 1 (or 0) where the classes do not overlap: a bootstrap sees no more than the sample.
    """
    tail = one_tail(level)
    if samples < 1:
        raise NeoNetError("BAD_ARGUMENT", f"{samples} bootstrap samples give no interval.", "Take 2000.")
    positives, negatives = by_class(truth, score)
    difference = positives[:, None] - negatives[None, :]
    wins = (difference > 0) + 0.5 * (difference == 0)
    rng = np.random.default_rng(seed)
    m, n = wins.shape
    # A resampled cohort is how often each case was drawn; its AUC is the weighted mean over all pairs.
    drawn_positives = rng.multinomial(m, np.full(m, 1 / m), size=samples)
    drawn_negatives = rng.multinomial(n, np.full(n, 1 / n), size=samples)
    areas = ((drawn_positives @ wins) * drawn_negatives).sum(axis=1) / (m * n)
    low, high = np.quantile(areas, [tail, 1 - tail])
    return float(low), float(high)


def youden_threshold(truth: ArrayLike, score: ArrayLike) -> float:
    """The score from which on (score >= threshold) to call a case positive, by Youden's index.

    Returns
    -------
    float
        One of the scores: that with the highest sensitivity + specificity - 1; of equals the lowest, which is the
        most sensitive.

    References
    ----------
    Youden: Index for rating diagnostic tests. Cancer 3, 1950.
    """
    positives, negatives = by_class(truth, score)
    false_rate, true_rate, thresholds = roc_curve(np.repeat([1, 0], [len(positives), len(negatives)]),
                                                  np.concatenate([positives, negatives]), drop_intermediate=False)
    # The first point of the curve (call nothing positive) has an infinite threshold. Rounded, so that indices that are
    # equal as fractions stay equal.
    index = np.round(true_rate - false_rate, 12)[1:]
    return float(thresholds[1:][np.flatnonzero(index == index.max())[-1]])


def checked_scores(truth: ArrayLike, score: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The truth as (N,) bool and the score as (N,) float64, with both classes present."""
    labels, scores = np.asarray(truth), np.asarray(score, dtype=float)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise NeoNetError("BAD_ARGUMENT", f"Truth {labels.shape} and score {scores.shape} are not two equal lists.",
                          "Give one true value and one score for each case.")
    if not np.isin(labels, (0, 1)).all():
        raise NeoNetError("BAD_ARGUMENT", "The truth holds values other than 0 and 1.", "Leave out unknown cases.")
    if not np.isfinite(scores).all():
        raise NeoNetError("BAD_ARGUMENT", "Not every score is a finite number.", "Leave out cases without a score.")
    labels = labels == 1
    if not 0 < labels.sum() < labels.size:
        raise NeoNetError("ONE_CLASS", f"There are {labels.sum()} positive and {(~labels).sum()} negative cases.",
                          "It takes at least one of each.")
    return labels, scores


def by_class(truth: ArrayLike, score: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The scores of the positives and of the negatives, float64."""
    labels, scores = checked_scores(truth, score)
    return scores[labels], scores[~labels]


def placements(positives: np.ndarray, negatives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """DeLong's structural components: for each case the share of the other class that it is rightly above or below.

    A midrank among all minus the midrank within the own class counts the other class's cases below, ties half.
    """
    ranks = rankdata(np.concatenate([positives, negatives]))
    m, n = len(positives), len(negatives)
    return (ranks[:m] - rankdata(positives)) / n, 1 - (ranks[m:] - rankdata(negatives)) / m


def stratified_placements(truth: ArrayLike, score: ArrayLike, strata: ArrayLike | None = None) -> list[Placements]:
    """`placements` within each stratum that holds both classes; None: all cases are one stratum."""
    labels, scores = checked_scores(truth, score)
    members = [stratum for stratum in members_of(strata, len(labels)) if 0 < labels[stratum].sum() < stratum.sum()]
    if not members:
        raise NeoNetError("ONE_CLASS", "No stratum holds both positive and negative cases.",
                          "Compare them without strata.")
    return [placements(scores[stratum & labels], scores[stratum & ~labels]) for stratum in members]


def members_of(strata: ArrayLike | None, count: int) -> list[np.ndarray]:
    """For each stratum (N,) bool: who is in it."""
    names = np.zeros(count) if strata is None else np.asarray(strata)
    if names.shape != (count,):
        raise NeoNetError("BAD_ARGUMENT", f"The strata {names.shape} are not one for each of {count} cases.",
                          "Give each case's stratum.")
    return [names == name for name in np.unique(names)]


def pair_weights(parts: list[Placements]) -> np.ndarray:
    """The share of each stratum in all pairs that are compared."""
    pairs = np.array([len(of_positives) * len(of_negatives) for of_positives, of_negatives in parts])
    return pairs / pairs.sum()


def mean_and_variance(parts: list[Placements], largest: float = 0.25) -> tuple[float, float]:
    """An AUC and DeLong's variance of it from the placements in each stratum; or a difference of two AUCs from the
    placements' differences.

    Strata are independent, so the variance is the sum of theirs, each by its squared weight.

    Parameters
    ----------
    largest : float
        The largest variance that a placement can have: 1/4 in [0, 1], 1 for a difference in [-1, 1]. It is taken for a
        class with one case in a stratum, whose own spread is unknown. Where there is one stratum alone nothing
        outweighs that case: its variance is infinite.
    """
    unknown = largest if len(parts) > 1 else np.inf
    weights = pair_weights(parts)
    mean = sum(weight * of_positives.mean() for weight, (of_positives, _) in zip(weights, parts, strict=True))
    variance = sum(weight ** 2 * (shares.var(ddof=1) / len(shares) if len(shares) > 1 else unknown)
                   for weight, both in zip(weights, parts, strict=True) for shares in both)
    return float(mean), float(variance)


def unseen_share(tail: float, cases: float) -> float:
    """The largest share of cases that may differ from all of so many: Clopper and Pearson's bound after as many
    successes in a row. Where a variance is 0 it says how far an estimate may be off."""
    return float(1 - tail ** (1 / cases))


def one_tail(level: float) -> float:
    """What a two-sided interval of this confidence level leaves out at either end."""
    if not 0 < level < 1:
        raise NeoNetError("BAD_ARGUMENT", f"The confidence level {level} is not between 0 and 1.", "Take 0.95.")
    return (1 - level) / 2
