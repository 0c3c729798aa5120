"""ControlNet of NeoGen: makes the diffusion model follow a mask (Zhang, Rao & Agrawala 2023).

y_c = F(x; theta) + Z2(F(x + Z1(c); theta')): theta is the frozen diffusion model, theta' a trainable copy of its
encoder, Z1 and Z2 convolutions that begin at zero, so that the controlled output begins as the uncontrolled one.
"""

from __future__ import annotations

from pathlib import Path

import torch
from monai.networks.nets import ControlNet
from monai.networks.nets.controlnet import ControlNetConditioningEmbedding

from neonet_core.errors import NeoNetError
from neonet_core.events import Events
from neonet_core.generation.diffusion import LatentDiffusion, Residuals, fit_to_noise, unet_arguments
from neonet_core.generation.latents import CachedLatents, LatentBatch
from neonet_core.presets import ControlSettings, DiffusionSettings
from neonet_core.training.loop import Fit, seed_everything

OWN_PARTS = ("controlnet_cond_embedding.", "controlnet_down_blocks.", "controlnet_mid_block.")
"""The parts of ControlNet that the diffusion model has not."""
ENCODER_PARTS = ("conv_in.", "time_embed.", "class_embedding.", "down_blocks.", "middle_block.")
"""The parts of the diffusion model's U-Net that are copied."""
MASK_CHANNELS = 2


def build_control(latent_channels: int, diffusion: DiffusionSettings, settings: ControlSettings,
                  factor: int) -> ControlNet:
    """A ControlNet for the two-channel mask patch (liver or tumour; tumour) at the patch's full resolution.

    Parameters
    ----------
    factor : int
        How much smaller a latent is than its patch, along each axis.

    Raises
    ------
    NeoNetError
        ``BAD_PRESET`` where the mask's embedding does not end on the latent's grid.
    """
    reached = 2 ** (len(settings.channels) - 1)
    if reached != factor:
        raise NeoNetError("BAD_PRESET", f"controlnet.channels has {len(settings.channels)} levels, which make a mask "
                          f"{reached} times smaller; the latents are {factor} times smaller.",
                          f"Give {factor.bit_length()} levels.")
    control = ControlNet(**unet_arguments(latent_channels, diffusion),
                         conditioning_embedding_in_channels=MASK_CHANNELS,
                         conditioning_embedding_num_channels=settings.channels)
    control.controlnet_cond_embedding = MaskEmbedding(3, MASK_CHANNELS, diffusion.channels[0], settings.channels)
    return control


class MaskEmbedding(ControlNetConditioningEmbedding):
    """MONAI's embedding, (N, 2, X, Y, Z) -> (N, C, x, y, z); what is embedded already passes through.

    So sampling embeds a mask once and not at every step: at full resolution that is the dearest part of ControlNet.
    """

    def forward(self, conditioning: torch.Tensor) -> torch.Tensor:
        return super().forward(conditioning) if conditioning.shape[1] == MASK_CHANNELS else conditioning


def copy_encoder(diffusion: LatentDiffusion, control: ControlNet) -> int:
    """Copy the diffusion model's encoder into ControlNet; returns how many tensors were copied.

    MONAI's way copies what fits and keeps silent about the rest (DESIGN, section 6): here every tensor of the encoder
    must arrive, and every tensor of ControlNet but its own parts must be filled.

    Raises
    ------
    ValueError
        Where the two networks do not match: a fault of ours.
    """
    source = {name: tensor for name, tensor in diffusion.unet.state_dict().items() if name.startswith(ENCODER_PARTS)}
    target = {name: tensor for name, tensor in control.state_dict().items() if not name.startswith(OWN_PARTS)}
    if ({name: tensor.shape for name, tensor in source.items()}
            != {name: tensor.shape for name, tensor in target.items()}):
        raise ValueError("ControlNet's encoder is not a copy of the diffusion model's")
    control.load_state_dict(source, strict=False)
    return len(source)


def control_residuals(control: torch.nn.Module, noisy: torch.Tensor, steps: torch.Tensor, classes: torch.Tensor,
                      masks: torch.Tensor, class_embedding: bool) -> Residuals:
    """What ControlNet adds to the diffusion model; masks are (N, 2, X, Y, Z) float at full resolution."""
    return control(noisy, steps, controlnet_cond=masks, class_labels=classes if class_embedding else None)


def train_control(diffusion: LatentDiffusion, training: CachedLatents, stopping: CachedLatents | None,
                  settings: ControlSettings, factor: int, folder: Path, seed: int, device: torch.device,
                  events: Events, stage: str) -> tuple[ControlNet, Fit]:
    """Train ControlNet with the diffusion model frozen; the loss is the diffusion model's own.

    Parameters
    ----------
    diffusion : LatentDiffusion
        Trained; takes no gradient here.
    training, stopping
        As in `train_diffusion`, with their masks.
    """
    seed_everything(seed)
    diffusion.to(device).eval().requires_grad_(False)
    control = build_control(training.latents.shape[2], diffusion.settings, settings, factor)
    copy_encoder(diffusion, control)

    def predict(model: torch.nn.Module, batch: LatentBatch, noisy: torch.Tensor, steps: torch.Tensor,
                classes: torch.Tensor) -> torch.Tensor:
        return diffusion(noisy, steps, classes, control_residuals(model, noisy, steps, classes, batch.masks,
                                                                  diffusion.settings.class_embedding))

    return control, fit_to_noise(control, diffusion, predict, training, stopping, settings, folder, seed, device,
                                 events, stage, settings.tumour_weight)
