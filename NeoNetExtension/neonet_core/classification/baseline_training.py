"""Training of the networks that PattenNet is compared with: from the two TLCR channels, without an encoder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from neonet_core.classification.baselines import build_baseline
from neonet_core.classification.outcomes import auc_validation, require_both_outcomes
from neonet_core.events import Events
from neonet_core.presets import BaselineSettings
from neonet_core.training.loop import Fit, derive_seed, fit, seed_everything
from neonet_core.training.patches import VIEWS, Patches

Batch = tuple[torch.Tensor, torch.Tensor]


def train_baseline(name: str, training: Patches, stopping: Patches, settings: BaselineSettings, folder: Path, seed: int,
                   device: torch.device, events: Events, stage: str) -> tuple[torch.nn.Module, Fit]:
    """Train a network of `BASELINES` on TLCR patches; the AUC on `stopping` picks the epoch.

    Raises
    ------
    NeoNetError
        ``ONE_CLASS`` where the training patches are all of one outcome; ``BAD_PRESET`` where they are too small for
        the network.
    """
    require_both_outcomes(training.outcomes, stage)
    seed_everything(seed)
    network = build_baseline(name, training.images.shape[2:])
    patches = MirroredPatches(training, settings, derive_seed(seed, 1), device)
    held_out = torch.from_numpy(stopping.channels()).to(device)
    result = fit(network, stage=stage, settings=settings, batches=patches.batches,
                 steps_per_epoch=patches.steps_per_epoch, loss=cross_entropy,
                 validation=auc_validation(stopping.outcomes, lambda model: _logits(model, held_out)),
                 folder=folder, seed=seed, device=device, events=events)
    return network, result


class MirroredPatches:
    """The batches of an epoch, each patch in a view that is drawn for it; the same for the same seed and epoch.

    Parameters
    ----------
    patches : Patches
        Kept on `device`, as channels.
    """

    def __init__(self, patches: Patches, settings: BaselineSettings, seed: int, device: torch.device) -> None:
        self._channels = torch.from_numpy(patches.channels()).to(device)
        self._outcomes = torch.from_numpy(patches.outcomes.astype(np.float32)).to(device)
        self._views = VIEWS if settings.flips else VIEWS[:1]
        self._seed = seed
        # at least two cases in each batch: batch normalisation cannot take a single one whose map is a single voxel
        self.steps_per_epoch = max(min(-(-len(patches) // settings.batch_size), len(patches) // 2), 1)

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Yield (n, 2, X, Y, Z) channels and (n,) outcomes until each patch was seen once."""
        rng = np.random.default_rng(derive_seed(self._seed, epoch))
        for cases in np.array_split(rng.permutation(len(self._outcomes)), self.steps_per_epoch):
            views = rng.integers(len(self._views), size=len(cases))
            yield (torch.cat([self._channels[case : case + 1].flip(self._views[view])
                              for case, view in zip(cases, views, strict=True)]),
                   self._outcomes[torch.from_numpy(cases).to(self._outcomes.device)])


def cross_entropy(network: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Binary cross-entropy of a batch of channels (N, 2, X, Y, Z) and outcomes (N,)."""
    return torch.nn.functional.binary_cross_entropy_with_logits(network(batch[0]).float(), batch[1])


@torch.inference_mode()
def _logits(network: torch.nn.Module, channels: torch.Tensor) -> np.ndarray:
    """(N, 2, X, Y, Z) -> (N,), one case at a time."""
    return np.array([network(channel[None]).item() for channel in channels])


@torch.inference_mode()
def classify_with_baseline(network: torch.nn.Module, patches: Patches, device: torch.device, events: Events,
                           stage: str) -> np.ndarray:
    """PNI probabilities (N,) of patches."""
    network.to(device).eval()
    logits = []
    for done, channel in enumerate(patches.channels()):
        logits.append(network(torch.from_numpy(channel)[None].to(device)).item())
        events.progress(stage, done + 1, len(patches))
    return 1 / (1 + np.exp(-np.array(logits)))
