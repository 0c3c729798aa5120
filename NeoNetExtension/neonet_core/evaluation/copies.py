"""Are synthetic patches copies of training patches? Nearest training against nearest held-out neighbour.

A generator that learned the distribution is as near to patches it has never seen as to those it was trained on.
Distances are taken over all eight mirrored views of the real patches, training and held-out alike: the generator trains
on mirrored views, and a mirrored copy is a copy.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from scipy.special import gammaln

from neonet_core.errors import NeoNetError
from neonet_core.evaluation.features import FeatureSet
from neonet_core.evaluation.views import checked_patches

WORKING_EDGE = 32
"""Patches are averaged over blocks until no edge has twice this many voxels: fast, and blind to noise, in which a copy
may differ."""
FLAG_PERCENTILE = 1.0
PERMUTATIONS = 500
TINY = 1e-12


def copies_check(synthetic: np.ndarray, training: np.ndarray, held_out: np.ndarray,
                 features: tuple[FeatureSet, FeatureSet, FeatureSet] | None = None,
                 mask_sources: np.ndarray | None = None, seed: int = 0) -> dict[str, Any]:
    """Look for copies of training patches among synthetic ones, in pixels and in features.

    Parameters
    ----------
    synthetic, training, held_out : np.ndarray
        (M, 1, X, Y, Z), (N, 1, X, Y, Z), (K, 1, X, Y, Z) in [0, 1]; training: what the generator learned from.
    features : three FeatureSet, optional
        Of the same patches in the same order. Their means over all slices are compared, not over mirrored views too:
        means hardly depend on which side is which.
    mask_sources : np.ndarray, optional
        (M,) the training patch whose mask conditioned each synthetic patch, -1 for none. A sample shares its shape with
        that patch without being a copy of it; the share is given without these pairs too.
    seed : int
        Of the permutations.

    Returns
    -------
    dict
        ``pixels`` and, with features, ``features``, as `neighbours` gives them. Pixel distances are root mean squared
        differences of intensity.
    """
    synthetic = checked_patches(synthetic, "synthetic patches")
    training, held_out = checked_patches(training, "training patches"), checked_patches(held_out, "held-out patches")
    if not synthetic.shape[2:] == training.shape[2:] == held_out.shape[2:]:
        raise NeoNetError("BAD_ARGUMENT", f"Synthetic patches {synthetic.shape[2:]}, training {training.shape[2:]} and "
                          f"held-out ones {held_out.shape[2:]} differ in size.",
                          "Cut all patches with the same settings.")
    if mask_sources is not None and np.shape(mask_sources) != (len(synthetic),):
        raise NeoNetError("BAD_ARGUMENT", f"There are {len(synthetic)} synthetic patches and mask sources of shape "
                          f"{np.shape(mask_sources)}.", "Give one index for each; -1 where there is none.")
    small, small_training, small_held_out = (_reduced(patches) for patches in (synthetic, training, held_out))
    result = {"pixels": neighbours(_mirrored_rmse(small, small_training), _mirrored_rmse(small, small_held_out),
                                   _mirrored_rmse(small_training, small_training),
                                   _mirrored_rmse(small_held_out, small_training), mask_sources, seed)}
    if features is not None:
        vectors, training_vectors, held_out_vectors = _standardised(features, (synthetic, training, held_out))
        result["features"] = {"extractor": features[0].extractor,
                              **neighbours(_rms(vectors, training_vectors), _rms(vectors, held_out_vectors),
                                           _rms(training_vectors, training_vectors),
                                           _rms(held_out_vectors, training_vectors), mask_sources, seed)}
    return result


def neighbours(to_training: np.ndarray, to_held_out: np.ndarray, within_training: np.ndarray,
               held_out_to_training: np.ndarray, mask_sources: np.ndarray | None = None,
               seed: int = 0) -> dict[str, Any]:
    """What the distances say about copies.

    Parameters
    ----------
    to_training, to_held_out : np.ndarray
        (M, N) and (M, K), of each synthetic patch.
    within_training, held_out_to_training : np.ndarray
        (N, N) and (K, N): how near real patches are to one another.
    mask_sources : np.ndarray, optional
        (M,); see `copies_check`.

    Returns
    -------
    dict
        ``samples`` (M); ``nearer_training``, as `share_nearer_training` gives it;
        ``nearer_training_without_mask_source``, the same where a sample's own mask source is left out (None without
        sources); ``nearest_training`` and ``nearest_held_out``, for each sample ``[index, distance]`` over all patches;
        ``threshold``, the `FLAG_PERCENTILE` of the distances of real patches to their nearest training patch;
        ``flagged``, the samples nearer to a training patch than that: ``sample``, ``training``, ``distance``,
        ``ratio`` (to the nearest held-out distance) and ``is_mask_source``. Of samples that are no copies about one in
        a hundred is flagged, more where synthetic patches are smoother than real ones: then the ratio is near 1.
    """
    real = within_training + np.diag(np.full(len(within_training), np.inf))  # a patch is not its own neighbour
    real_distances = np.concatenate([real.min(axis=1), held_out_to_training.min(axis=1)])
    threshold = float(np.percentile(real_distances[np.isfinite(real_distances)], FLAG_PERCENTILE))
    nearest, nearest_held_out = to_training.argmin(axis=1), to_held_out.argmin(axis=1)
    rows = np.arange(len(to_training))
    distance, other = to_training[rows, nearest], to_held_out[rows, nearest_held_out]
    flagged = [{"sample": int(i), "training": int(nearest[i]), "distance": float(distance[i]),
                "ratio": float((distance[i] + TINY) / (other[i] + TINY)),
                "is_mask_source": None if mask_sources is None else bool(mask_sources[i] == nearest[i])}
               for i in np.flatnonzero(distance < threshold)]
    without_source = None
    if mask_sources is not None:
        others = to_training.copy()
        known = np.asarray(mask_sources) >= 0
        others[rows[known], np.asarray(mask_sources)[known]] = np.inf
        without_source = share_nearer_training(others, to_held_out, seed)
    return {"samples": len(rows), "nearer_training": share_nearer_training(to_training, to_held_out, seed),
            "nearer_training_without_mask_source": without_source,
            "nearest_training": [[int(i), float(d)] for i, d in zip(nearest, distance, strict=True)],
            "nearest_held_out": [[int(i), float(d)] for i, d in zip(nearest_held_out, other, strict=True)],
            "threshold": threshold, "flagged": flagged}


def share_nearer_training(to_training: np.ndarray, to_held_out: np.ndarray, seed: int = 0) -> dict[str, Any] | None:
    """Share of samples whose nearest training patch is nearer than their nearest held-out one, with what chance gives.

    The nearest of many patches is nearer than the nearest of few. The share is therefore the expectation over random
    subsets of equally many training and held-out patches, computed exactly from the ranks of the distances.

    Some patches are near to everything, so that with few real patches the share may be far from one half by chance.
    What chance gives is seen by permutation: if nothing was copied, which real patches were trained on does not matter.

    Parameters
    ----------
    to_training, to_held_out : np.ndarray
        (M, N) and (M, K); an infinite distance leaves the pair out.
    seed : int
        Of the permutations, and of the order among equal distances.

    Returns
    -------
    dict or None
        ``share`` (0.5 expected where nothing is copied, 1 where all is); ``by_chance``, the central 95 % of the share
        over the permutations; ``p_value``, how often a permutation gives as large a share; ``median_ratio`` of the
        expected nearest distances to training and to held-out patches (1 expected, near 0 for copies);
        ``compared_with``, how many patches of each kind. None where there is no pair to compare.
    """
    pool = np.concatenate([to_training, to_held_out], axis=1)
    training = np.arange(pool.shape[1]) < to_training.shape[1]
    left_out = int(np.isinf(pool).sum(axis=1).max())  # by row; a permutation may put it among the smaller set
    size = min(to_training.shape[1], to_held_out.shape[1]) - left_out
    if size < 1:
        return None
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.random(pool.shape), pool), axis=1)
    distances = np.take_along_axis(pool, order, axis=1)
    table = _chance_that_none_is_drawn(pool.shape[1], size, {*to_training.shape[1:], *to_held_out.shape[1:]}, left_out)

    def least(wanted: np.ndarray) -> np.ndarray:
        """The chance of each pair to be the least of its kind among `size` drawn: (M, N + K)."""
        seen, total = np.cumsum(wanted, axis=1), wanted.sum(axis=1, keepdims=True)
        return np.where(wanted, table[total, seen - wanted] - table[total, seen], 0.0)

    def share(labels: np.ndarray) -> float:
        trained = labels[order] & np.isfinite(distances)
        held_out = ~labels[order] & np.isfinite(distances)
        none_nearer = table[trained.sum(axis=1, keepdims=True), np.cumsum(trained, axis=1)]
        return float(1 - (least(held_out) * none_nearer).sum(axis=1).mean())

    observed = share(training)
    by_chance = np.array([share(rng.permutation(training)) for _ in range(PERMUTATIONS)])
    finite = np.where(np.isfinite(distances), distances, 0.0)
    expected = [(least(kind & np.isfinite(distances)) * finite).sum(axis=1) for kind in (training[order],
                                                                                        ~training[order])]
    low, high = np.quantile(by_chance, [0.025, 0.975])
    return {"share": observed, "by_chance": [float(low), float(high)],
            "p_value": float((1 + (by_chance >= observed - 1e-9).sum()) / (1 + PERMUTATIONS)),
            "median_ratio": float(np.median((expected[0] + TINY) / (expected[1] + TINY))), "compared_with": size}


def _chance_that_none_is_drawn(highest: int, size: int, totals: set[int], left_out: int) -> np.ndarray:
    """[N, c]: the chance that `size` of N hold none of c chosen ones, C(N - c, size) / C(N, size); other rows are 0."""
    table = np.zeros((highest + 1, highest + 1))
    for total in {total - fewer for total in totals for fewer in range(left_out + 1)}:
        chosen = np.arange(total - size + 1)
        table[total, chosen] = np.exp(gammaln(total - chosen + 1) - gammaln(total - chosen - size + 1)
                                      - gammaln(total + 1) + gammaln(total - size + 1))
    return table


def _reduced(patches: np.ndarray) -> np.ndarray:
    """(N, x, y, z) float64, averaged over blocks; what does not fill a block at the end is cut off."""
    array = patches[:, 0].astype(np.float64)
    for axis in (1, 2, 3):
        block = max(array.shape[axis] // WORKING_EDGE, 1)
        count = array.shape[axis] // block
        array = np.take(array, np.arange(count * block), axis=axis)
        array = array.reshape(*array.shape[:axis], count, block, *array.shape[axis + 1:]).mean(axis=axis + 1)
    return array


def _mirrored_rmse(patches: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Least root mean squared difference of each patch to each other one over the other's eight mirrored views."""
    flat = patches.reshape(len(patches), -1)
    nearest = np.full((len(patches), len(others)), np.inf)
    for axes in itertools.chain.from_iterable(itertools.combinations((1, 2, 3), n) for n in range(4)):
        nearest = np.minimum(nearest, _rms(flat, np.flip(others, axes).reshape(len(others), -1)))
    return nearest


def _rms(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Root mean squared difference of each row of (M, V) to each of (N, V): (M, N)."""
    squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2 * a @ b.T
    return np.sqrt(np.maximum(squared, 0) / a.shape[1])


def _standardised(features: tuple[FeatureSet, FeatureSet, FeatureSet],
                  patches: tuple[np.ndarray, np.ndarray, np.ndarray]) -> list[np.ndarray]:
    """Vectors of whole patches, each feature in units of its spread over the real ones: none outweighs the others."""
    if [len(one) for one in features] != [len(one) for one in patches]:
        raise NeoNetError("BAD_ARGUMENT", f"Features are of {[len(one) for one in features]} patches, not of "
                          f"{[len(one) for one in patches]}.", "Extract them from the same patches.")
    if len({one.extractor for one in features}) > 1:
        raise NeoNetError("BAD_ARGUMENT", "The features come from different extractors.", "Take one for all.")
    vectors = [one.of_whole_patches() for one in features]
    real = np.concatenate(vectors[1:])
    spread = real.std(axis=0)
    return [(one - real.mean(axis=0)) / np.where(spread > 0, spread, 1) for one in vectors]
