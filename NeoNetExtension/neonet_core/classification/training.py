"""Training of PattenNet on features that the frozen encoder computes once.

The encoder does not change, so neither do the features of a patch: they are computed once for each mirrored view and
kept in half precision on the device (measured 69 times faster an epoch, DESIGN section 6).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from neonet_core.classification.pattennet import PattenNet, encode_channels
from neonet_core.errors import NeoNetError
from neonet_core.evaluation.auc import auc
from neonet_core.events import Events
from neonet_core.presets import ClsSettings
from neonet_core.training.loop import Fit, Validation, derive_seed, fit, seed_everything
from neonet_core.training.patches import Patches

VIEWS = tuple(itertools.chain.from_iterable(itertools.combinations((2, 3, 4), n) for n in range(4)))
"""The eight mirrored views of a batch (N, C, X, Y, Z), as the axes that are flipped; the first is the patch itself."""


@torch.no_grad()
def encode_views(encoder: torch.nn.Module, channels: np.ndarray, views: Sequence[tuple[int, ...]],
                 device: torch.device, events: Events, stage: str) -> torch.Tensor:
    """Features of patches in several mirrored views, in half precision.

    (N, 2, X, Y, Z) -> (V, N, C, X/4, Y/4, Z/4) on `device`.
    """
    encoder.to(device).eval()
    encoded = []
    for done, channel in enumerate(channels):
        patch = torch.from_numpy(channel)[None].to(device)
        encoded.append(torch.cat([encode_channels(encoder, patch.flip(axes)).half() for axes in views]))
        events.progress(f"{stage}: features", done + 1, len(channels))
    return torch.stack(encoded, dim=1)


def train_classifier(encoder: torch.nn.Module, training: Patches, stopping: Patches,
                     settings: ClsSettings, folder: Path, seed: int, device: torch.device, events: Events,
                     stage: str) -> tuple[PattenNet, Fit]:
    """Train PattenNet on cached features; the AUC on `stopping` picks the epoch.

    Raises
    ------
    NeoNetError
        ``ONE_CLASS`` where the training patches are all of one outcome.
    """
    if len(set(training.outcomes.tolist())) < 2:
        raise NeoNetError("ONE_CLASS", f"{stage}: the training cases are all of one outcome.",
                          "Check the outcome column, or use fewer folds.")
    seed_everything(seed)
    features = encode_views(encoder, training.channels(), VIEWS if settings.flips else VIEWS[:1], device, events, stage)
    held_out = encode_views(encoder, stopping.channels(), VIEWS[:1], device, events, stage)[0]
    outcomes = torch.from_numpy(training.outcomes.astype(np.float32)).to(device)
    network = PattenNet(features.shape[2], settings)
    network.fit_normalisation(features[0])
    data_seed = derive_seed(seed, 1)
    steps = -(-len(outcomes) // settings.batch_size)

    def batches(epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        rng = np.random.default_rng(derive_seed(data_seed, epoch))
        for indices in np.array_split(rng.permutation(len(outcomes)), steps):
            cases = torch.from_numpy(indices).to(device)
            views = torch.from_numpy(rng.integers(len(features), size=len(indices))).to(device)
            yield features[views, cases].float(), outcomes[cases]

    def loss(model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(model(batch[0]).float(), batch[1])

    def measure(model: torch.nn.Module) -> dict[str, float]:
        return {"auc": auc(stopping.outcomes, logits_of(model, held_out))}

    # an AUC needs both outcomes; without them the last epoch is kept
    watched = Validation(measure, "auc", "higher") if len(set(stopping.outcomes.tolist())) == 2 else None
    result = fit(network, stage=stage, settings=settings, batches=batches, steps_per_epoch=steps, loss=loss,
                 validation=watched, folder=folder, seed=seed, device=device, events=events)
    return network, result


@torch.inference_mode()
def logits_of(network: torch.nn.Module, features: torch.Tensor) -> np.ndarray:
    """(N, C, X, Y, Z) features -> (N,) logits, one case at a time."""
    return np.array([network(feature[None].float()).item() for feature in features])


def classify_patches(encoder: torch.nn.Module, network: PattenNet, patches: Patches,
                     device: torch.device, events: Events, stage: str) -> np.ndarray:
    """PNI probabilities (N,) of patches."""
    features = encode_views(encoder, patches.channels(), VIEWS[:1], device, events, stage)[0]
    network.to(device).eval()
    return 1 / (1 + np.exp(-logits_of(network, features)))
