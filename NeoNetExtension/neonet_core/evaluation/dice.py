"""Dice similarity coefficient."""

from __future__ import annotations

import numpy as np


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Dice similarity coefficient 2 |A and B| / (|A| + |B|) of two masks (Dice 1945).

    Parameters
    ----------
    first, second : np.ndarray
        Boolean, same shape.

    Returns
    -------
    float
        In [0, 1]; NaN where both masks are empty (there is nothing to agree on).
    """
    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    total = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / total if total else float("nan")
