"""What the outcomes of the cases ask of a training: both of them, their balance, and the AUC that picks the epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch

from neonet_core.errors import NeoNetError
from neonet_core.evaluation.auc import auc
from neonet_core.training.loop import Validation


def require_both_outcomes(outcomes: np.ndarray, stage: str) -> None:
    """Raise ``ONE_CLASS`` where outcomes (N,) are all the same."""
    if len(set(outcomes.tolist())) < 2:
        raise NeoNetError("ONE_CLASS", f"{stage}: the training cases are all of one outcome.",
                          "Check the outcome column, or use fewer folds.")


def auc_validation(outcomes: np.ndarray, logits: Callable[[torch.nn.Module], np.ndarray]) -> Validation | None:
    """Validation by the AUC of a network's logits (N,) against outcomes (N,); None where these are all the same."""
    # an AUC needs both outcomes; without them the last epoch is kept
    if len(set(outcomes.tolist())) < 2:
        return None
    return Validation(lambda network: {"auc": auc(outcomes, logits(network))}, "auc", "higher")


def cases_of_epoch(outcomes: np.ndarray, balance: Literal["none", "duplicate", "weights"], seed: int) -> np.ndarray:
    """Indices of the cases that an epoch shows: each once, or with ``duplicate`` those of the rarer outcome repeated.

    They are repeated as a whole as often as that fits, then a random part of them, until both outcomes are equally
    many. (N,) 0 or 1 -> (M,), the first N of which are 0 to N - 1.
    """
    cases = np.arange(len(outcomes))
    if balance != "duplicate":
        return cases
    rarer = np.flatnonzero(outcomes == rarer_outcome(outcomes))
    copies, remainder = divmod(len(outcomes) - 2 * len(rarer), len(rarer))
    chosen = np.random.default_rng(seed).choice(rarer, remainder, replace=False)
    return np.concatenate([cases, np.tile(rarer, copies), chosen])


def outcome_weights(outcomes: np.ndarray, balance: Literal["none", "duplicate", "weights"]) -> np.ndarray:
    """Weights of outcome 0 and of outcome 1 in the loss, (2,) float32.

    With ``weights`` the rarer outcome's is the ratio of the counts, so that both outcomes weigh the same in total; else
    both are one.
    """
    weights = np.ones(2, np.float32)
    if balance == "weights":
        rarer = rarer_outcome(outcomes)
        weights[rarer] = (outcomes != rarer).sum() / (outcomes == rarer).sum()
    return weights


def rarer_outcome(outcomes: np.ndarray) -> int:
    """0 or 1; 1 where they are equally many."""
    return int(2 * outcomes.sum() <= len(outcomes))
