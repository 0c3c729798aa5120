"""The latent diffusion model of NeoGen: MONAI's DiffusionModelUNet on standardised latents, and its training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from monai.networks.nets import DiffusionModelUNet

from neonet_core.errors import NeoNetError
from neonet_core.events import Events
from neonet_core.generation.image_terms import weighted_mean
from neonet_core.generation.latents import CachedLatents, LatentBatch
from neonet_core.generation.schedulers import add_noise, signal_and_noise
from neonet_core.presets import DiffusionSettings, Training
from neonet_core.training.loop import Fit, Validation, derive_seed, fit, seed_everything

OUTCOMES = 2
UNKNOWN_CLASS = OUTCOMES
"""Index of the embedding that stands for no class: outcome unknown, or hidden for classifier-free guidance."""
VALIDATION_STEPS = 8
"""Time steps, evenly spread, at which a held-out latent's noise is predicted."""

Residuals = tuple[Sequence[torch.Tensor], torch.Tensor]
"""What ControlNet adds: to each skip connection, and to the middle block's output."""


class LatentDiffusion(torch.nn.Module):
    """Predicts the noise in standardised latents, or the velocity from which it follows.

    The mean and standard deviation of each latent channel over the fold's training latents are buffers: they travel
    with the weights.

    Parameters
    ----------
    latent_channels : int
    settings : DiffusionSettings

    Raises
    ------
    NeoNetError
        ``BAD_PRESET`` where channels, groups, heads and levels do not fit each other.
    """

    def __init__(self, latent_channels: int, settings: DiffusionSettings) -> None:
        super().__init__()
        self.settings = settings
        self.unet = DiffusionModelUNet(**unet_arguments(latent_channels, settings), out_channels=latent_channels)
        self.latent_mean: torch.Tensor
        self.latent_std: torch.Tensor
        self.register_buffer("latent_mean", torch.zeros(latent_channels))
        self.register_buffer("latent_std", torch.ones(latent_channels))

    def set_statistics(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Take the training latents' mean and standard deviation, (C,) each."""
        self.latent_mean.copy_(mean)
        self.latent_std.copy_(std.clamp(min=1e-6))

    def standardise(self, latents: torch.Tensor) -> torch.Tensor:
        """The autoencoder's latents (N, C, x, y, z) -> mean 0, standard deviation 1 over the training latents."""
        return (latents - _by_channel(self.latent_mean)) / _by_channel(self.latent_std)

    def target(self, latents: torch.Tensor, noise: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """What the network should predict for standardised latents: the noise, or the velocity
        sqrt(a) noise - sqrt(1 - a) latents (Salimans & Ho 2022, appendix D)."""
        if self.settings.prediction == "noise":
            return noise
        signal, spread = signal_and_noise(steps, self.settings, latents)
        return signal * noise - spread * latents

    def noise_of(self, output: torch.Tensor, noisy: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """The noise in `noisy` by the network's output: itself, or sqrt(1 - a) noisy + sqrt(a) velocity."""
        if self.settings.prediction == "noise":
            return output
        signal, spread = signal_and_noise(steps, self.settings, noisy)
        return spread * noisy + signal * output

    def restore(self, latents: torch.Tensor) -> torch.Tensor:
        """The inverse of `standardise`."""
        return latents * _by_channel(self.latent_std) + _by_channel(self.latent_mean)

    def forward(self, noisy: torch.Tensor, steps: torch.Tensor, classes: torch.Tensor,
                residuals: Residuals | None = None) -> torch.Tensor:
        """Predict the noise or the velocity, as the settings say; see `noise_of`.

        Parameters
        ----------
        noisy : torch.Tensor
            (N, C, x, y, z), standardised.
        steps : torch.Tensor
            (N,) int64, 0 (little noise) to timesteps - 1.
        classes : torch.Tensor
            (N,) int64: 0, 1 or `UNKNOWN_CLASS`; read only by a model with class embedding.
        residuals : tuple
            Of ControlNet.

        Returns
        -------
        torch.Tensor
            As `noisy`.
        """
        skips, middle = residuals if residuals is not None else (None, None)
        return self.unet(noisy, steps, class_labels=classes if self.settings.class_embedding else None,
                         down_block_additional_residuals=skips, mid_block_additional_residual=middle)


def unet_arguments(latent_channels: int, settings: DiffusionSettings) -> dict:
    """Arguments that the U-Net and its ControlNet share; raises ``BAD_PRESET``."""
    levels = len(settings.channels)
    if len(settings.attention_levels) != levels:
        raise NeoNetError("BAD_PRESET", f"ldm.attention_levels names {len(settings.attention_levels)} levels, "
                          f"ldm.channels {levels}.", "Give one true or false for each level.")
    if any(channels % settings.norm_groups for channels in settings.channels):
        raise NeoNetError("BAD_PRESET", f"ldm.channels {settings.channels} are not all multiples of ldm.norm_groups "
                          f"({settings.norm_groups}).", "Change one of them.")
    # the middle block attends too
    attending = [c for c, attends in zip(settings.channels, settings.attention_levels, strict=True) if attends]
    if any(channels % settings.head_channels for channels in [*attending, settings.channels[-1]]):
        raise NeoNetError("BAD_PRESET", f"The attending levels of ldm.channels {settings.channels} are not all "
                          f"multiples of ldm.head_channels ({settings.head_channels}).", "Change one of them.")
    return {"spatial_dims": 3, "in_channels": latent_channels, "num_res_blocks": (settings.residual_blocks,) * levels,
            "channels": settings.channels, "attention_levels": settings.attention_levels,
            "norm_num_groups": settings.norm_groups, "num_head_channels": settings.head_channels,
            "num_class_embeds": OUTCOMES + 1 if settings.class_embedding else None,
            # torch's fused attention: the same result in less memory
            "use_flash_attention": True, "include_fc": True, "use_combined_linear": False}


def unet_factor(settings: DiffusionSettings) -> int:
    """Latent edges must be multiples of this."""
    return 2 ** (len(settings.channels) - 1)


def classes_of(outcomes: torch.Tensor) -> torch.Tensor:
    """Outcomes (N,), -1 for unknown, as class indices."""
    return torch.where(outcomes < 0, UNKNOWN_CLASS, outcomes)


def hide_classes(classes: torch.Tensor, share: float) -> torch.Tensor:
    """Each class becomes `UNKNOWN_CLASS` with probability `share` (Ho & Salimans 2022)."""
    hidden = torch.rand(classes.shape, device=classes.device) < share
    return torch.where(hidden, UNKNOWN_CLASS, classes)


def train_diffusion(training: CachedLatents, stopping: CachedLatents | None, settings: DiffusionSettings, folder: Path,
                    seed: int, device: torch.device, events: Events, stage: str) -> tuple[LatentDiffusion, Fit]:
    """Train the diffusion model: mean squared error of the predicted noise (or velocity) at random time steps.

    Ho 2020, equation 14.

    Parameters
    ----------
    training : CachedLatents
    stopping : CachedLatents or None
        Latents of patients who pick the epoch by their noise error; None: the last epoch is kept.
    """
    seed_everything(seed)
    diffusion = LatentDiffusion(training.latents.shape[2], settings)
    diffusion.set_statistics(*(value.cpu() for value in training.statistics()))

    return diffusion, fit_to_noise(
        diffusion, diffusion, lambda model, _batch, noisy, steps, classes: model(noisy, steps, classes), training,
        stopping, settings, folder, seed, device, events, stage)


Prediction = Callable[[torch.nn.Module, LatentBatch, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(the model in training, batch, noisy latents, steps, classes) -> predicted noise or velocity."""


def fit_to_noise(model: torch.nn.Module, diffusion: LatentDiffusion, predict: Prediction, training: CachedLatents,
                 stopping: CachedLatents | None, settings: Training, folder: Path, seed: int, device: torch.device,
                 events: Events, stage: str, tumour_weight: float = 1.0) -> Fit:
    """Train `model`, the diffusion model itself or its ControlNet, so that `predict` finds the noise of `diffusion`;
    errors where the tumour lies count `tumour_weight` times."""
    def loss(network: torch.nn.Module, batch: LatentBatch) -> torch.Tensor:
        target, steps, noisy = noised(diffusion, batch.latents)
        classes = hide_classes(classes_of(batch.outcomes), diffusion.settings.class_dropout)
        errors = (predict(network, batch, noisy, steps, classes).float() - target).square()
        touched = torch.nn.functional.adaptive_max_pool3d(batch.masks[:, 1:], errors.shape[2:])
        return weighted_mean(errors, touched, tumour_weight)

    def measure(network: torch.nn.Module) -> dict[str, float]:
        assert stopping is not None
        return noise_error(network, diffusion, predict, stopping, seed)

    data_seed = derive_seed(seed, 1)
    return fit(model, stage=stage, settings=settings, loss=loss,
               batches=lambda epoch: training.batches(data_seed, epoch, settings.batch_size),
               steps_per_epoch=training.steps_per_epoch(settings.batch_size),
               validation=Validation(measure, "noise_error", "lower") if stopping else None,
               folder=folder, seed=seed, device=device, events=events)


def noised(diffusion: LatentDiffusion,
           latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents with noise of random time steps: (what the network should predict, steps, noisy standardised latents)."""
    standardised = diffusion.standardise(latents)
    noise = torch.randn_like(standardised)
    steps = torch.randint(diffusion.settings.timesteps, (len(latents),), device=latents.device)
    return (diffusion.target(standardised, noise, steps), steps,
            add_noise(standardised, noise, steps, diffusion.settings))


def noise_error(network: torch.nn.Module, diffusion: LatentDiffusion, predict: Prediction, held_out: CachedLatents,
                seed: int) -> dict[str, float]:
    """Mean squared error of the predicted noise (or velocity) on held-out latents, always with the same noise and time
    steps; 1 is that of predicting no noise."""
    settings = diffusion.settings
    generator = torch.Generator().manual_seed(seed)
    steps = torch.linspace(0, settings.timesteps - 1, VALIDATION_STEPS + 2)[1:-1].round().long()
    errors = []
    for index in range(len(held_out)):
        batch = held_out.batch([index] * VALIDATION_STEPS, [0] * VALIDATION_STEPS)
        noise = torch.randn(batch.latents.shape, generator=generator).to(batch.latents.device)
        at = steps.to(batch.latents.device)
        latents = diffusion.standardise(batch.latents)
        noisy = add_noise(latents, noise, at, settings)
        found = predict(network, batch, noisy, at, classes_of(batch.outcomes)).float()
        errors.append(torch.nn.functional.mse_loss(found, diffusion.target(latents, noise, at)).item())
    return {"noise_error": float(np.mean(errors))}


def _by_channel(values: torch.Tensor) -> torch.Tensor:
    return values.view(1, -1, 1, 1, 1)
