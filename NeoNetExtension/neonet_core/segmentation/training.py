"""Training of NeoSeg: Dice + cross-entropy on patches, Dice of whole volumes for validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neonet_core.evaluation.dice import dice
from neonet_core.events import Events
from neonet_core.presets import SegSettings
from neonet_core.segmentation.inference import predict_probabilities
from neonet_core.segmentation.networks import build_segmentor, check_trainable
from neonet_core.segmentation.patches import PatchSampler
from neonet_core.segmentation.two_step import TwoStep
from neonet_core.segmentation.two_step_training import TwoStepSampler, two_step_loss
from neonet_core.training.loop import Fit, Validation, derive_seed, fit, seed_everything
from neonet_core.training.prepared import PreparedCase

CHANNELS_LAST = ("UNet", "SegResNet", "DynUNet")
"""1.3 times faster so on a CPU; SwinUNETR gains nothing."""


def train_segmentor(training: Sequence[PreparedCase], stopping: Sequence[PreparedCase], settings: SegSettings,
                    folder: Path, seed: int, device: torch.device, events: Events, stage: str,
                    start: torch.nn.Module | None = None) -> tuple[torch.nn.Module, Fit]:
    """Train one segmentation network.

    Parameters
    ----------
    training, stopping : sequence of PreparedCase
        The cases to learn from, and those whose Dice picks the epoch.
    start : torch.nn.Module or None
        A network of the same kind whose weights the training starts from; None: random ones.

    Returns
    -------
    network, fit
        The network with the chosen epoch's weights, in evaluation mode.
    """
    check_trainable(settings)
    seed_everything(seed)
    network = build_segmentor(settings)
    if start is not None:
        network.load_state_dict(start.state_dict())
    two_step = isinstance(network, TwoStep)
    sampler = (TwoStepSampler if two_step else PatchSampler)(training, settings, derive_seed(seed, 1))
    loss = two_step_loss if two_step else _patch_loss()

    def batches(epoch: int) -> Iterator[Any]:
        return sampler.batches(epoch, device)

    def measure(model: torch.nn.Module) -> dict[str, float]:
        scores = np.array([dice_of_case(model, case, settings, device) for case in stopping])
        liver, tumour = np.nanmean(scores, axis=0)
        return {"dice": float((liver + tumour) / 2), "dice_liver": float(liver), "dice_tumour": float(tumour)}

    result = fit(network, stage=stage, settings=settings, batches=batches, steps_per_epoch=sampler.steps_per_epoch,
                 loss=loss, validation=Validation(measure, "dice", "higher") if stopping else None, folder=folder,
                 seed=seed, device=device, events=events, channels_last=settings.network in CHANNELS_LAST)
    return network, result


def _patch_loss() -> Callable[[torch.nn.Module, tuple[torch.Tensor, torch.Tensor]], torch.Tensor]:
    """Dice + cross-entropy of liver and tumour, of a batch of images and label maps."""
    from monai.losses import DiceCELoss

    criterion = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False)

    def loss(model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        images, label_maps = batch
        return criterion(model(images).float(), label_maps)

    return loss


def dice_of_case(network: torch.nn.Module, case: PreparedCase, settings: SegSettings,
                 device: torch.device) -> tuple[float, float]:
    """Dice of liver (label 1) and of tumour (label 2) of one case, on the network's grid."""
    predicted = predict_probabilities(network, np.asarray(case.image), settings, device).argmax(axis=0)
    return dice(predicted == 1, case.label_map == 1), dice(predicted == 2, case.label_map == 2)
