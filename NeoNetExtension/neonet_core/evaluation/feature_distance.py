"""Distances between the features of real and of synthetic patches: FID and KID, or their like on other features.

Both distances depend on how many samples they see, so a number alone says nothing: `compare` takes equal numbers of
patches and puts beside each distance that between two sets of real patches of the same size, the floor.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from neonet_core.errors import NeoNetError
from neonet_core.evaluation.features import FeatureSet, SliceFeatures
from neonet_core.evaluation.views import VIEWS

SUBSET_SIZE = 1000
SUBSETS = 20
REPEATS = 5


def frechet_distance(a: ArrayLike, b: ArrayLike) -> float:
    """Frechet distance of the Gaussians with the mean and covariance of two sets of features.

    |m_a - m_b|^2 + Tr(C_a + C_b - 2 (C_a C_b)^(1/2)). With A the centred features over sqrt(n - 1), so that
    C_a = A^T A, the trace of the root is the sum of the singular values of A B^T: no root of a matrix is taken, and the
    result is exact for fewer samples than features too, where the root is of a singular matrix.

    Parameters
    ----------
    a, b : array_like
        (n, F) and (m, F), with n and m at least 2.

    Returns
    -------
    float
        0 for equal sets, never negative. Of two samples of one distribution it is above 0, the more so the fewer they
        are: compare at equal n alone.

    References
    ----------
    Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter: GANs trained by a two time-scale update rule converge to a local
    Nash equilibrium. NeurIPS 2017, equation 6.
    """
    first, second = _two_sets(a, b)
    root_a, root_b = _covariance_root(first), _covariance_root(second)
    between = ((first.mean(axis=0) - second.mean(axis=0)) ** 2).sum()
    shared = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    return max(float(between + (root_a**2).sum() + (root_b**2).sum() - 2 * shared), 0.0)


def kernel_distance(a: ArrayLike, b: ArrayLike, groups_a: ArrayLike | None = None, groups_b: ArrayLike | None = None,
                    subset_size: int = SUBSET_SIZE, subsets: int = SUBSETS, seed: int = 0) -> tuple[float, float]:
    """Squared maximum mean discrepancy with the kernel (x.y / F + 1)^3: the KID on Inception's features.

    Parameters
    ----------
    a, b : array_like
        (n, F) and (m, F).
    groups_a, groups_b : array_like of int, optional
        (n,) and (m,): the patch that a row is a slice of. Pairs from one patch are left out: its slices resemble each
        other, so that the estimate would not be about 0 for equal distributions. None: each row stands for itself.
    subset_size, subsets, seed : int
        The estimate is averaged over this many random subsets of this many rows of each set, drawn without
        replacement; where both sets are no larger, they are taken whole, once.

    Returns
    -------
    mean, sd : float
        Over the subsets (sd 0 for one). The estimate is unbiased, so that for equal distributions it is about 0, and
        below 0 as often as above.

    References
    ----------
    Binkowski, Sutherland, Arbel, Gretton: Demystifying MMD GANs. ICLR 2018, section 4 and appendix E.
    """
    first, second = _two_sets(a, b)
    owners_a, owners_b = _groups(groups_a, len(first)), _groups(groups_b, len(second))
    if subset_size < 2 or subsets < 1:
        raise NeoNetError("BAD_ARGUMENT", f"{subsets} subsets of {subset_size} rows give no distance.", "Take 20 of "
                          "1000.")
    rng = np.random.default_rng(seed)
    size_a, size_b = min(subset_size, len(first)), min(subset_size, len(second))
    whole = size_a == len(first) and size_b == len(second)
    found = []
    for _ in range(1 if whole else subsets):
        rows_a = rng.choice(len(first), size_a, replace=False)
        rows_b = rng.choice(len(second), size_b, replace=False)
        found.append(_within(first[rows_a], owners_a[rows_a]) + _within(second[rows_b], owners_b[rows_b])
                     - 2 * _kernel(first[rows_a], second[rows_b]).mean())
    return float(np.mean(found)), float(np.std(found))


def compare(real: FeatureSet, synthetic: FeatureSet, other_real: FeatureSet | None = None, repeats: int = REPEATS,
            seed: int = 0) -> dict[str, Any]:
    """Distances of synthetic to real patches in three views, at equal n of patches, with the floor at the same n.

    Inception's features are taken as they are: that is the FID. Those of other networks are first put in units of
    their standard deviation from their mean over all slices of `real` in that view, so that the channel with the
    largest numbers does not decide alone, and the cubic kernel is in the range that it was made for. Such distances
    compare generators that were measured against the same real patches.

    Parameters
    ----------
    real, synthetic : FeatureSet
        By the same extractor.
    other_real : FeatureSet, optional
        Real patches of other patients than `real`: the floor is their distance to `real`. None: `real` is split into
        random halves, and the distances are to one half, so that n is half of `real` at most.
    repeats : int
        The distances are averaged over this many random choices of n patches.
    seed : int

    Returns
    -------
    dict
        ``extractor``; ``frechet_name`` and ``kernel_name``, what the distances may be called (FID and KID on
        Inception's features alone); ``patches``, n in each set; ``slices``, their mean number in each view in the
        smaller set; ``frechet`` and ``kernel`` (axial, sagittal, coronal, mean), of synthetic against real;
        ``frechet_floor`` and ``kernel_floor``, of real against real; ``floor`` says in words how.

    Raises
    ------
    NeoNetError
        ``BAD_ARGUMENT`` where the extractors differ; ``TOO_FEW_CASES`` where n would be below 2.
    """
    others = [synthetic] if other_real is None else [synthetic, other_real]
    if any(other.extractor != real.extractor for other in others):
        raise NeoNetError("BAD_ARGUMENT", "The features come from different extractors: "
                          f"{', '.join(sorted({one.extractor for one in [real, *others]}))}.", "Take one for all.")
    available = len(real) // 2 if other_real is None else min(len(real), len(other_real))
    n = min(available, len(synthetic))
    if n < 2:
        raise NeoNetError("TOO_FEW_CASES", f"{len(real)} real and {len(synthetic)} synthetic patches are too few to "
                          "compare.", "At least 4 real (2 in each of two sets) and 2 synthetic patches are needed.")
    as_they_are = np.zeros(1), np.ones(1)
    units = {view: as_they_are if real.inception else _units(real.views[view].values) for view in VIEWS}
    rng = np.random.default_rng(seed)
    rows: dict[str, list[dict[str, float]]] = {"frechet": [], "kernel": [], "frechet_floor": [], "kernel_floor": []}
    slices: list[dict[str, int]] = []
    for _ in range(max(repeats, 1)):
        order = rng.permutation(len(real))
        reference = real.of_patches(order[:n])
        control = (real.of_patches(order[n : 2 * n]) if other_real is None
                   else other_real.of_patches(rng.permutation(len(other_real))[:n]))
        sample = synthetic.of_patches(rng.permutation(len(synthetic))[:n])
        for suffix, candidate in (("", sample), ("_floor", control)):
            pairs = {view: (reference.views[view], candidate.views[view]) for view in VIEWS}
            distances = {view: _distances(a, b, units[view], seed) for view, (a, b) in pairs.items()}
            rows["frechet" + suffix].append({view: frechet for view, (frechet, _) in distances.items()})
            rows["kernel" + suffix].append({view: kernel for view, (_, kernel) in distances.items()})
        slices.append({view: min(len(reference.views[view].patch), len(sample.views[view].patch)) for view in VIEWS})
    label = f"on {real.extractor} features"
    return {"extractor": real.extractor,
            "frechet_name": "FID" if real.inception else f"Frechet distance {label}",
            "kernel_name": "KID" if real.inception else f"Kernel distance {label}",
            "patches": n,
            "slices": {view: round(float(np.mean([row[view] for row in slices]))) for view in VIEWS},
            **{name: _views_and_mean(values) for name, values in rows.items()},
            "floor": ("two halves of the real patches" if other_real is None else "two sets of real patches")
            + f", {n} patches each"}


def _views_and_mean(rows: Iterable[dict[str, float]]) -> dict[str, float]:
    """The mean of each view over the repeats, and the mean over the views (the paper's table 4)."""
    rows = list(rows)
    views = {view: float(np.mean([row[view] for row in rows])) for view in VIEWS}
    return {**views, "mean": float(np.mean(list(views.values())))}


def _distances(a: SliceFeatures, b: SliceFeatures, units: tuple[np.ndarray, np.ndarray],
               seed: int) -> tuple[float, float]:
    """Frechet and kernel distance of the slices of two sets of patches."""
    mean, spread = units
    first, second = ((np.asarray(one.values, np.float64) - mean) / spread for one in (a, b))
    return frechet_distance(first, second), kernel_distance(first, second, a.patch, b.patch, seed=seed)[0]


def _units(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each feature, (F,); for one that hardly varies a hundredth of the usual deviation.

    Such a feature would get a huge weight otherwise.
    """
    mean, spread = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    usual = float(np.median(spread))
    return mean, np.maximum(spread, 0.01 * usual) if usual > 0 else np.ones_like(spread)


def _covariance_root(features: np.ndarray) -> np.ndarray:
    """R (min(n, F), F) with R^T R the covariance of (n, F) features."""
    centred = features - features.mean(axis=0)
    return np.asarray(np.linalg.qr(centred / np.sqrt(len(features) - 1), mode="r"))


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _within(features: np.ndarray, owners: np.ndarray) -> float:
    """Mean of the kernel over the pairs of rows of different groups."""
    apart = owners[:, None] != owners[None, :]
    if not apart.any():
        raise NeoNetError("TOO_FEW_CASES", "All slices are of one patch.", "A distance needs at least two patches.")
    return float(_kernel(features, features)[apart].mean())


def _groups(groups: ArrayLike | None, count: int) -> np.ndarray:
    owners = np.arange(count) if groups is None else np.asarray(groups)
    if owners.shape != (count,):
        raise NeoNetError("BAD_ARGUMENT", f"There are {count} rows of features and groups of shape {owners.shape}.",
                          "Give one group for each row.")
    return owners


def _two_sets(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1:] != second.shape[1:] or not first.shape[1]:
        raise NeoNetError("BAD_ARGUMENT", f"Features {first.shape} and {second.shape} are not (n, F) and (m, F).",
                          "Give two sets of features by one extractor.")
    if min(len(first), len(second)) < 2:
        raise NeoNetError("TOO_FEW_CASES", f"{min(len(first), len(second))} slices have no covariance.",
                          "A distance needs at least two in each set.")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise NeoNetError("BAD_ARGUMENT", "Not every feature is a finite number.", "Look at what the patches hold.")
    return first, second
