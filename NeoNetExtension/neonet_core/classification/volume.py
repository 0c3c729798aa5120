"""The tumour's volume alone as a classifier: what any image-based score must beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from neonet_core.classification.outcomes import require_both_outcomes
from neonet_core.errors import NeoNetError

INVERSE_PENALTY = 1e4
"""Practically unpenalised, but finite where volume separates the outcomes."""


@dataclass(frozen=True)
class VolumeModel:
    """P(PNI) = sigmoid(intercept + slope * ln(tumour volume in ml))."""

    intercept: float
    slope: float

    def probabilities(self, volumes_ml: Sequence[float] | np.ndarray) -> np.ndarray:
        """(N,) volumes -> (N,) probabilities. Raises ``EMPTY_TUMOUR``."""
        return 1 / (1 + np.exp(-self.intercept - self.slope * _log(volumes_ml)))

    def to_json(self) -> dict[str, float]:
        return asdict(self)


def fit_volume(volumes_ml: Sequence[float] | np.ndarray, outcomes: Sequence[int] | np.ndarray) -> VolumeModel:
    """Logistic regression of outcomes (N,) on the logarithm of tumour volumes (N,).

    Raises
    ------
    NeoNetError
        ``ONE_CLASS`` where the outcomes are all the same, ``EMPTY_TUMOUR`` where a volume is zero.
    """
    from sklearn.linear_model import LogisticRegression

    outcomes = np.asarray(outcomes)
    require_both_outcomes(outcomes, "Volume")
    model = LogisticRegression(C=INVERSE_PENALTY).fit(_log(volumes_ml)[:, None], outcomes)
    return VolumeModel(float(model.intercept_[0]), float(model.coef_[0, 0]))


def _log(volumes_ml: Sequence[float] | np.ndarray) -> np.ndarray:
    volumes = np.asarray(volumes_ml, dtype=float)
    if (volumes <= 0).any():
        raise NeoNetError("EMPTY_TUMOUR", "A case without tumour has no volume to be classified by.",
                          "Leave the case out.")
    return np.log(volumes)
