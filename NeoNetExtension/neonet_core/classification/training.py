"""Training of PattenNet on features that the frozen encoder computes once.

The encoder does not change, so neither do the features of a patch: they are computed once for each mirrored view and
kept in half precision on the device (measured 69 times faster an epoch, DESIGN section 6).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from neonet_core.classification.masks import vary_masks
from neonet_core.classification.outcomes import (
    auc_validation,
    cases_of_epoch,
    outcome_weights,
    require_both_outcomes,
)
from neonet_core.classification.pattennet import PattenNet, encode_channels, masks_at
from neonet_core.events import Events
from neonet_core.presets import ClsSettings
from neonet_core.training.loop import Fit, derive_seed, fit, seed_everything
from neonet_core.training.patches import VIEWS, Patches

CONSTANT_INTENSITY = 0.5
"""In place of the image where only the masks' shape may be seen: the middle of [0, 1]."""


@torch.no_grad()
def encode_views(encoder: torch.nn.Module, channels: np.ndarray, views: Sequence[tuple[int, ...]],
                 device: torch.device, events: Events, stage: str) -> torch.Tensor:
    """Features of patches in several mirrored views, in half precision.

    (N, 2, X, Y, Z) -> (V, N, C, X/4, Y/4, Z/4) on `device`.
    """
    encoder.to(device).eval()
    features = torch.empty(0, device=device)
    for index, channel in enumerate(channels):
        patch = torch.from_numpy(channel)[None].to(device)
        encoded = torch.cat([encode_channels(encoder, patch.flip(axes)).half() for axes in views])
        if index == 0:  # filled in place: they may take a good part of a GPU's memory, and stacking would double it
            features = encoded.new_empty((len(views), len(channels), *encoded.shape[1:]))
        features[:, index] = encoded
        events.progress(f"{stage}: features", index + 1, len(channels))
    return features


def train_classifier(encoder: torch.nn.Module, training: Patches, stopping: Patches,
                     settings: ClsSettings, folder: Path, seed: int, device: torch.device, events: Events,
                     stage: str) -> tuple[PattenNet, Fit]:
    """Train PattenNet on cached features; the AUC on `stopping` picks the epoch.

    Raises
    ------
    NeoNetError
        ``ONE_CLASS`` where the training patches are all of one outcome.
    """
    require_both_outcomes(training.outcomes, stage)
    training, stopping = (network_inputs(patches, settings.inputs) for patches in (training, stopping))
    seed_everything(seed)
    views = VIEWS if settings.flips else VIEWS[:1]
    features, masks = _training_views(encoder, training, views, settings, derive_seed(seed, 2), device, events, stage)
    held_out = encode_views(encoder, stopping.channels(), VIEWS[:1], device, events, stage)
    held_out_masks = mask_views(stopping, VIEWS[:1], held_out)
    outcomes = torch.from_numpy(training.outcomes.astype(np.float32)).to(device)
    network = PattenNet(features.shape[2], settings)
    network.fit_normalisation(features[0])
    data_seed = derive_seed(seed, 1)
    shown = cases_of_epoch(training.outcomes, settings.balance, derive_seed(seed, 3))
    weights = torch.from_numpy(outcome_weights(training.outcomes, settings.balance)).to(device)
    steps = -(-len(shown) // settings.batch_size)

    def batches(epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        rng = np.random.default_rng(derive_seed(data_seed, epoch))
        for indices in np.array_split(rng.permutation(shown), steps):
            cases = torch.from_numpy(indices).to(device)
            view = torch.from_numpy(rng.integers(len(features), size=len(indices))).to(device)
            yield features[view, cases].float(), masks[view, cases], outcomes[cases]

    def loss(model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
        logits = model(batch[0], batch[1])
        return torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), batch[2], weights[batch[2].long()])

    watched = auc_validation(stopping.outcomes, lambda model: logits_of(model, held_out[0], held_out_masks[0]))
    result = fit(network, stage=stage, settings=settings, batches=batches, steps_per_epoch=steps, loss=loss,
                 validation=watched, folder=folder, seed=seed, device=device, events=events)
    return network, result


def network_inputs(patches: Patches, inputs: Literal["image", "masks"]) -> Patches:
    """The patches as a network sees them: with their images, or with a constant in place of every image."""
    if inputs == "image":
        return patches
    return replace(patches, images=np.full_like(patches.images, CONSTANT_INTENSITY))


def _training_views(encoder: torch.nn.Module, training: Patches, views: Sequence[tuple[int, ...]],
                    settings: ClsSettings, seed: int, device: torch.device, events: Events,
                    stage: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and masks (V, N, ...) of the training patches; each view but the first with its own varied masks."""
    if settings.vary_masks_mm == 0:
        features = encode_views(encoder, training.channels(), views, device, events, stage)
        return features, mask_views(training, views, features)
    encoded, masks = [], []
    for number, view in enumerate(views):
        patches = training
        if number > 0:
            patches = _with_varied_masks(training, settings.vary_masks_mm, derive_seed(seed, number))
        encoded.append(encode_views(encoder, patches.channels(), [view], device, events,
                                    f"{stage}, view {number + 1} of {len(views)}"))
        masks.append(mask_views(patches, [view], encoded[-1]))
    return torch.cat(encoded), torch.cat(masks)


def _with_varied_masks(patches: Patches, amplitude_mm: float, seed: int) -> Patches:
    cases = enumerate(zip(patches.masks, patches.spacings, strict=True))
    return replace(patches, masks=np.stack([
        vary_masks(mask, spacing, amplitude_mm, np.random.default_rng(derive_seed(seed, index)))
        for index, (mask, spacing) in cases]))


def mask_views(patches: Patches, views: Sequence[tuple[int, ...]], features: torch.Tensor) -> torch.Tensor:
    """The masks on the grid of the features (V, N, C, x, y, z), in the same views: (V, N, 2, x, y, z) uint8."""
    masks = masks_at(torch.from_numpy(patches.masks), features.shape[3:]).to(torch.uint8)
    return torch.stack([masks.flip(axes) for axes in views]).to(features.device)


@torch.inference_mode()
def logits_of(network: torch.nn.Module, features: torch.Tensor, masks: torch.Tensor) -> np.ndarray:
    """(N, C, X, Y, Z) features and (N, 2, X, Y, Z) masks -> (N,) logits, one case at a time."""
    return np.array([network(feature[None].float(), mask[None]).item()
                     for feature, mask in zip(features, masks, strict=True)])


def classify_patches(encoder: torch.nn.Module, network: PattenNet, patches: Patches,
                     device: torch.device, events: Events, stage: str) -> np.ndarray:
    """PNI probabilities (N,) of patches."""
    patches = network_inputs(patches, network.inputs)
    features = encode_views(encoder, patches.channels(), VIEWS[:1], device, events, stage)
    masks = mask_views(patches, VIEWS[:1], features)
    network.to(device).eval()
    return 1 / (1 + np.exp(-logits_of(network, features[0], masks[0])))
