"""The autoencoder of NeoGen (MONAI's AutoencoderKL) and its training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from monai.networks.nets import AutoencoderKL

from neonet_core.errors import NeoNetError
from neonet_core.events import Events
from neonet_core.presets import VaeSettings
from neonet_core.training.loop import Fit, Validation, derive_seed, fit, seed_everything
from neonet_core.training.patches import Patches

INITIAL_LOG_VARIANCE = -6.0


def build_autoencoder(settings: VaeSettings) -> AutoencoderKL:
    """AutoencoderKL: (N, 1, X, Y, Z) intensities <-> (N, latent_channels, X/4, Y/4, Z/4) for three levels of channels.

    No attention: at a factor of four the latent map has 6,912 positions, too many for a gain (DESIGN, section 6).

    Raises
    ------
    NeoNetError
        ``BAD_PRESET`` where the channels do not divide into the groups of the normalisation.
    """
    levels = len(settings.channels)
    if any(channels % settings.norm_groups for channels in settings.channels):
        raise NeoNetError("BAD_PRESET", f"vae.channels {settings.channels} are not all multiples of vae.norm_groups "
                          f"({settings.norm_groups}).", "Change one of them.")
    autoencoder = AutoencoderKL(
        spatial_dims=3, in_channels=1, out_channels=1, channels=settings.channels,
        latent_channels=settings.latent_channels, num_res_blocks=(settings.residual_blocks,) * levels,
        norm_num_groups=settings.norm_groups, attention_levels=(False,) * levels,
        with_encoder_nonlocal_attn=False, with_decoder_nonlocal_attn=False)
    # MONAI begins with a latent noise of about 1, which drowns the first means and teaches the decoder to ignore them;
    # with a KL weight of 1e-7 training ends at a small noise in any case (after 100 steps L1 0.16 instead of 0.21)
    projection = autoencoder.quant_conv_log_sigma.get_submodule("conv")
    torch.nn.init.zeros_(projection.get_parameter("weight"))
    torch.nn.init.constant_(projection.get_parameter("bias"), INITIAL_LOG_VARIANCE)
    return autoencoder


class FeatureEncoder(torch.nn.Module):
    """The autoencoder's encoder up to the map before the latent projection: (N, 1, X, Y, Z) -> (N, C, X/4, Y/4, Z/4).

    For the paper's network C is 128 (DESIGN, section 6). What is left out is the last convolution, which projects
    to the latent channels; the normalisation before it stays. Frozen: its parameters take no gradient.

    Parameters
    ----------
    autoencoder : AutoencoderKL
        Shares its weights with this module.
    """

    def __init__(self, autoencoder: AutoencoderKL) -> None:
        super().__init__()
        *before_projection, _projection = autoencoder.get_submodule("encoder.blocks").children()
        self.blocks = torch.nn.ModuleList(before_projection)
        self.requires_grad_(False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            image = block(image)
        return image


def kl_divergence(mean: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """KL(N(mean, sigma^2) || N(0, 1)), summed over the latent, averaged over the batch; (N, C, ...) -> scalar.

    Kingma & Welling 2013, appendix B. `sigma` is a standard deviation.
    """
    terms = mean.pow(2) + sigma.pow(2) - torch.log(sigma.pow(2)) - 1
    return 0.5 * terms.sum() / mean.shape[0]


def train_autoencoder(training: Patches, stopping: Patches,
                      settings: VaeSettings, folder: Path, seed: int, device: torch.device, events: Events,
                      stage: str) -> tuple[torch.nn.Module, Fit]:
    """Train the autoencoder on TLCR patches with L1 + KL.

    Parameters
    ----------
    training, stopping : Patches
        The patches to learn from, and those whose reconstruction error picks the epoch.
    """
    seed_everything(seed)
    network = build_autoencoder(settings)
    patches = PatchBatches(training, settings, derive_seed(seed, 1), device)
    held_out = torch.from_numpy(stopping.images).to(device)

    def loss(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
        reconstruction, mean, sigma = model(images)
        return (torch.nn.functional.l1_loss(reconstruction.float(), images)
                + settings.kl_weight * kl_divergence(mean.float(), sigma.float()))

    def measure(model: torch.nn.Module) -> dict[str, float]:
        errors = [torch.nn.functional.l1_loss(model.decode(model.encode(image[None])[0]), image[None]).item()  # type: ignore[operator]
                  for image in held_out]
        return {"l1": float(np.mean(errors))}

    result = fit(network, stage=stage, settings=settings, batches=patches.batches,
                 steps_per_epoch=patches.steps_per_epoch, loss=loss,
                 validation=Validation(measure, "l1", "lower") if len(held_out) else None, folder=folder, seed=seed,
                 device=device, events=events, channels_last=True)
    return network, result


class PatchBatches:
    """Shuffled batches of patches that stay on the device; flipped and masked at random where the settings say so.

    What an epoch gets depends on (seed, epoch) alone.
    """

    def __init__(self, patches: Patches, settings: VaeSettings, seed: int, device: torch.device) -> None:
        self._images = torch.from_numpy(patches.images).to(device)
        self._masks = torch.from_numpy(patches.masks).to(device)
        self._settings = settings
        self._seed = seed

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self._images) // self._settings.batch_size)

    def batches(self, epoch: int) -> Iterator[torch.Tensor]:
        """Yield (n, 1, X, Y, Z) float32 in [0, 1] until each patch was seen once."""
        rng = np.random.default_rng(derive_seed(self._seed, epoch))
        order = rng.permutation(len(self._images))
        for indices in np.array_split(order, self.steps_per_epoch):
            yield torch.stack([self._view(int(index), rng) for index in indices])

    def _view(self, index: int, rng: np.random.Generator) -> torch.Tensor:
        image = self._images[index]
        if self._settings.mask_inputs:
            # the three kinds of input that PattenNet's encoder may meet: as it is, T1, T2
            kind = rng.integers(3)
            if kind > 0:
                image = image * self._masks[index, kind - 1 : kind]
        if self._settings.flips:
            axes = [axis for axis in (1, 2, 3) if rng.random() < 0.5]
            if axes:
                image = image.flip(axes)
        return image

