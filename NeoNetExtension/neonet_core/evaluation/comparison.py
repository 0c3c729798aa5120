"""Is one model better than another, and is one better than chance?

Truth and scores, and what is refused, are as in `neonet_core.evaluation.auc`; two models are compared on the same
patients, in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm, rankdata

from neonet_core.errors import NeoNetError
from neonet_core.evaluation.auc import by_class, checked_scores, one_tail, placements, variance_of_mean

NO_VARIANCE = 1e-24
"""A variance below this is rounding, some 1e-33; the least true one is 1 / (2 m n)^2, 2e-8 with the paper's cohort."""


@dataclass(frozen=True)
class Difference:
    """The AUC of a first model less that of a second, with its interval and two-sided p-value."""

    difference: float
    low: float
    high: float
    p_value: float


def delong_test(truth: ArrayLike, first: ArrayLike, second: ArrayLike, level: float = 0.95) -> Difference:
    """DeLong's paired test of two models' AUCs.

    The interval is difference +- z * sd, within [-1, 1], and leaves 0 out just where p < 1 - level. Where all cases
    agree on the difference (the same scores twice; two AUCs of 1) the variance is 0, though a case not yet seen might
    differ: by Clopper and Pearson's bound for k successes in a row, k being the size of the smaller class, a share of
    up to 1 - tail^(1/k) of cases may, each by at most 1 either way. Interval and p-value are then those of that bound.

    Parameters
    ----------
    truth, first, second : array_like, (N,)
    level : float
        Of the interval; between 0 and 1.

    Returns
    -------
    Difference
        With p-value 1 and interval (-1, 1) where a class has one case only.

    References
    ----------
    DeLong, DeLong, Clarke-Pearson: Comparing the areas under two or more correlated receiver operating characteristic
    curves. Biometrics 44, 1988. Their L S L' for two models is the variance of the placements' differences.
    """
    tail = one_tail(level)
    pairs = zip(placements(*by_class(truth, first)), placements(*by_class(truth, second)), strict=True)
    of_positives, of_negatives = (one - other for one, other in pairs)
    difference, variance = float(of_positives.mean()), variance_of_mean(of_positives, of_negatives)
    if variance < NO_VARIANCE:
        k = min(len(of_positives), len(of_negatives))
        centre, half = difference * tail ** (1 / k), 1 - tail ** (1 / k)
        # The p-value is that of the level at which the interval ends at 0.
        p_value = min(1.0, 2 * (1 + abs(difference)) ** -k)
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


def permutation_test(truth: ArrayLike, score: ArrayLike, samples: int = 10000, seed: int = 0) -> float:
    """One-sided p-value of the AUC being above chance: how often a permuted truth has as high an AUC.

    Parameters
    ----------
    truth, score : array_like, (N,)
    samples : int
        Number of permutations; the p-value is at least 1 / (samples + 1).
    seed : int

    References
    ----------
    Phipson, Smyth: Permutation p-values should never be zero. Statistical Applications in Genetics and Molecular
    Biology 9, 2010.
    """
    labels, scores = checked_scores(truth, score)
    # The AUC rises with the positives' sum of ranks, which is a multiple of 1/2 and so exact.
    ranks = rankdata(scores)
    permuted = np.random.default_rng(seed).permuted(np.tile(labels, (_checked(samples), 1)), axis=1)
    return _p_value(permuted @ ranks >= labels @ ranks)


def paired_permutation_test(truth: ArrayLike, first: ArrayLike, second: ArrayLike, samples: int = 10000,
                            seed: int = 0) -> float:
    """Two-sided p-value of two models' AUCs being equal: the models' scores exchanged within patients at random.

    Scores become midranks within their model first, so that both are on one scale. What an exchange does to the
    difference of the AUCs is then a sum over patients: each adds its placement by the first model less that by the
    second, among the other class's ranks by both models, and an exchange within the patient turns the sign.

    Parameters
    ----------
    truth, first, second : array_like, (N,)
    samples : int
        Number of random exchanges; the p-value is at least 1 / (samples + 1).
    seed : int

    References
    ----------
    Bandos, Rockette, Gur: A permutation test sensitive to differences in areas for comparing ROC curves from a paired
    design. Statistics in Medicine 24, 2005.
    """
    ranked = [by_class(truth, rankdata(checked_scores(truth, score)[1])) for score in (first, second)]
    positives, negatives = (np.concatenate(ranks) for ranks in zip(*ranked, strict=True))
    # Each class: those of the first model, then those of the second; every case weighs one over its class's size.
    halves = [np.split(shares, 2) for shares in placements(positives, negatives)]
    parts = np.concatenate([(one - other) / len(one) for one, other in halves])
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(_checked(samples), len(parts)))
    # Less the rounding, so that an exchange with the same difference counts.
    return _p_value(np.abs(signs @ parts) >= abs(parts.sum()) - 1e-12)


def _checked(samples: int) -> int:
    if samples < 1:
        raise NeoNetError("BAD_ARGUMENT", f"{samples} permutations give no p-value.", "Take 10000.")
    return samples


def _p_value(as_extreme: np.ndarray) -> float:
    """The share of permutations that are as extreme as the data, which count as one of them."""
    return float((1 + as_extreme.sum()) / (1 + len(as_extreme)))
