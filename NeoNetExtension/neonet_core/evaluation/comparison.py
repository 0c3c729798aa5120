"""Is one model better than another, and is one better than chance?

Truth, scores and strata, and what is refused, are as in `neonet_core.evaluation.auc`; two models are compared on the
same patients, in the same order. Over the folds of a cross-validation give the folds as strata: the difference of two
pooled AUCs is also one of how far apart the levels of either model's networks lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm, rankdata

from neonet_core.errors import NeoNetError
from neonet_core.evaluation.auc import (
    NO_VARIANCE,
    Placements,
    checked_scores,
    mean_and_variance,
    members_of,
    one_tail,
    pair_weights,
    stratified_placements,
    unseen_share,
)


@dataclass(frozen=True)
class Difference:
    """The AUC of a first model less that of a second, with its interval and two-sided p-value."""

    difference: float
    low: float
    high: float
    p_value: float


def delong_test(truth: ArrayLike, first: ArrayLike, second: ArrayLike, level: float = 0.95,
                strata: ArrayLike | None = None) -> Difference:
    """DeLong's paired test of two models' AUCs.

    The interval is difference +- z * sd, within [-1, 1], and leaves 0 out just where p < 1 - level. Where all cases
    agree on the difference (the same scores twice; two AUCs of 1) the variance is 0, though a case not yet seen might
    differ: of as many cases as the smaller class has, each by at most 1 either way, `unseen_share` may. Interval and
    p-value are then those of that bound.

    Parameters
    ----------
    truth, first, second : array_like, (N,)
    level : float
        Of the interval; between 0 and 1.
    strata : array_like, (N,), or None
        Then the AUCs are those within strata (`auc`), and strata of one class count for nothing. A class with a single
        case in a stratum has no spread of its own there: the largest is taken that differences in [-1, 1] can have,
        a variance of 1, so that the test errs towards finding nothing.

    Returns
    -------
    Difference
        With p-value 1 and interval (-1, 1) where there is one stratum alone and a class has one case in it.

    References
    ----------
    DeLong, DeLong, Clarke-Pearson: Comparing the areas under two or more correlated receiver operating characteristic
    curves. Biometrics 44, 1988. Their L S L' for two models is the variance of the placements' differences.
    """
    tail = one_tail(level)
    models = (stratified_placements(truth, score, strata) for score in (first, second))
    parts = [(one[0] - other[0], one[1] - other[1]) for one, other in zip(*models, strict=True)]
    difference, variance = mean_and_variance(parts, largest=1.0)
    if variance < NO_VARIANCE:
        cases = _cases(parts)
        half = unseen_share(tail, cases)
        centre = difference * (1 - half)
        # The p-value is that of the level at which the interval ends at 0.
        p_value = min(1.0, 2 * (1 + abs(difference)) ** -cases)
    else:
        centre, half = difference, norm.isf(tail) * np.sqrt(variance)
        p_value = 2 * norm.sf(abs(difference) / np.sqrt(variance))
    return Difference(difference, float(max(centre - half, -1)), float(min(centre + half, 1)), float(p_value))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number, so that the chance of any false finding stays below the level.

    Parameters
    ----------
    p_values : sequence of float
        Of the tests that are made together.

    Returns
    -------
    list of float
        In the order given.

    References
    ----------
    Holm: A simple sequentially rejective multiple test procedure. Scandinavian Journal of Statistics 6, 1979.

    Examples
    --------
    >>> holm([0.04, 0.01, 0.5])
    [0.08, 0.03, 0.5]
    """
    raw = np.asarray(p_values, dtype=float)
    if not ((raw >= 0) & (raw <= 1)).all():
        raise NeoNetError("BAD_ARGUMENT", "Not every p-value is between 0 and 1.", "Leave out tests without a result.")
    order = np.argsort(raw)
    adjusted = np.empty_like(raw)
    # The smallest counts for all, the next for all but one; none may fall below one before it.
    adjusted[order] = np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1)).clip(max=1)
    return adjusted.tolist()


def permutation_test(truth: ArrayLike, score: ArrayLike, samples: int = 10000, seed: int = 0,
                     strata: ArrayLike | None = None) -> float:
    """One-sided p-value of the AUC being above chance: how often a permuted truth has as high an AUC.

    Parameters
    ----------
    truth, score : array_like, (N,)
    samples : int
        Number of permutations; the p-value is at least 1 / (samples + 1).
    seed : int
    strata : array_like, (N,), or None
        Then the AUC is that within strata (`auc`), and so is the truth permuted; strata of one class count for nothing.

    References
    ----------
    Phipson, Smyth: Permutation p-values should never be zero. Statistical Applications in Genetics and Molecular
    Biology 9, 2010.
    """
    if samples < 1:
        raise NeoNetError("BAD_ARGUMENT", f"{samples} permutations give no p-value.", "Take 10000.")
    stratified_placements(truth, score, strata)  # refuses what has no AUC
    labels, scores = checked_scores(truth, score)
    rng = np.random.default_rng(seed)
    # Weighted by pairs, the AUC rises with the sum of the positives' ranks within their strata, which is a multiple of
    # 1/2 and so exact.
    observed, permuted = 0.0, np.zeros(samples)
    for stratum in members_of(strata, len(labels)):
        ranks, of_stratum = rankdata(scores[stratum]), labels[stratum]
        observed += of_stratum @ ranks
        permuted += rng.permuted(np.tile(of_stratum, (samples, 1)), axis=1) @ ranks
    # The data are one of the permutations.
    return float((1 + (permuted >= observed).sum()) / (1 + samples))


def _cases(parts: list[Placements]) -> float:
    """How many cases the smaller class has; with strata as many of equal weight as tell as much."""
    weights = pair_weights(parts)
    sizes = np.array([[len(shares) for shares in both] for both in parts])
    return float((1 / (weights[:, None] ** 2 / sizes).sum(axis=0)).min())
