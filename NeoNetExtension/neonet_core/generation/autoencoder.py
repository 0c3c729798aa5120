"""The autoencoders of NeoGen (MONAI's AutoencoderKL) and QNeoGen (a VQ-VAE), and their training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import torch
from monai.networks.nets import VQVAE, AutoencoderKL
from monai.networks.nets.vqvae import VQVAEResidualUnit

from neonet_core.errors import NeoNetError
from neonet_core.events import Events
from neonet_core.generation.codebook import Codebook
from neonet_core.generation.image_terms import Adversary, FeatureMaps, perceptual_distance, weighted_mean
from neonet_core.presets import AutoencoderSettings, VaeSettings, VqVaeSettings
from neonet_core.training.loop import Fit, Validation, derive_seed, fit, seed_everything
from neonet_core.training.patches import Patches

INITIAL_LOG_VARIANCE = -6.0


class Autoencoder(torch.nn.Module):
    """What the diffusion model, its training and its evaluation know of an autoencoder.

    Attributes
    ----------
    latent_channels : int
    factor : int
        By how much each edge of the latent map is shorter than that of the patch.
    """

    latent_channels: int
    factor: int

    def encode_latents(self, images: torch.Tensor) -> torch.Tensor:
        """(N, 1, X, Y, Z) intensities -> (N, C, X/factor, Y/factor, Z/factor); nothing is drawn at random."""
        raise NotImplementedError

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """(N, C, x, y, z) -> (N, 1, x * factor, y * factor, z * factor) intensities."""
        raise NotImplementedError

    def reconstruct(self, images: torch.Tensor) -> torch.Tensor:
        """Encode and decode, (N, 1, X, Y, Z) -> the same."""
        return self.decode_latents(self.encode_latents(images))

    def reconstruct_in_training(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The reconstruction (N, 1, X, Y, Z), and the scalar that the latents cost, before its weight in the loss."""
        raise NotImplementedError

    def latent_figures(self, latents: Sequence[torch.Tensor]) -> dict[str, float]:
        """What validation should say of held-out latents, (1, C, x, y, z) each."""
        return {}

    def latent_shape(self, size: Sequence[int]) -> tuple[int, int, int, int]:
        """Shape (C, x, y, z) of the latent of a patch (X, Y, Z).

        Raises
        ------
        NeoNetError
            ``BAD_PRESET`` where an edge is not a multiple of `factor`.
        """
        x, y, z = size
        if any(edge % self.factor for edge in (x, y, z)):
            raise NeoNetError("BAD_PRESET", f"The autoencoder needs crops whose edges are multiples of {self.factor}, "
                              f"not {tuple(size)}.", "Change crop.size.")
        return self.latent_channels, x // self.factor, y // self.factor, z // self.factor


class KlAutoencoder(Autoencoder, AutoencoderKL):
    """MONAI's AutoencoderKL, names of its weights included; a patch's latent is the mean of its posterior.

    No attention: at a factor of four the latent map has 6,912 positions, too many for a gain (DESIGN, section 6).
    """

    def __init__(self, settings: VaeSettings) -> None:
        levels = len(settings.channels)
        super().__init__(
            spatial_dims=3, in_channels=1, out_channels=1, channels=settings.channels,
            latent_channels=settings.latent_channels, num_res_blocks=(settings.residual_blocks,) * levels,
            norm_num_groups=settings.norm_groups, attention_levels=(False,) * levels,
            with_encoder_nonlocal_attn=False, with_decoder_nonlocal_attn=False)
        self.factor = 2 ** (levels - 1)
        # MONAI begins with a latent noise of about 1, which drowns the first means and teaches the decoder to ignore
        # them; with a KL weight of 1e-7 training ends at a small noise in any case (after 100 steps L1 0.16 instead of
        # 0.21)
        projection = self.quant_conv_log_sigma.get_submodule("conv")
        torch.nn.init.zeros_(projection.get_parameter("weight"))
        torch.nn.init.constant_(projection.get_parameter("bias"), INITIAL_LOG_VARIANCE)

    def encode_latents(self, images: torch.Tensor) -> torch.Tensor:
        return self.encode(images)[0]

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        return self.decode(latents)

    def reconstruct_in_training(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        reconstructions, mean, sigma = self(images)
        return reconstructions, kl_divergence(mean.float(), sigma.float())


class VqAutoencoder(Autoencoder):
    """Encoder and decoder of MONAI's VQVAE around a codebook, with the levels of the `KlAutoencoder`.

    A patch's latent is the encoder's output before quantisation, which is the first step of decoding: the diffusion
    model learns a continuous space, and its samples land on codes (Rombach et al. 2022, section 3.1).

    Latents have unit length at each position (Yu et al. 2022, section 3.2). Otherwise their scale is nobody's: the
    encoder lowers the commitment by shrinking them and the codes follow, down to a single code at a learning rate
    of 1e-2; batch normalisation would hold the scale too, but make a patch's latent depend on those beside it.
    """

    def __init__(self, settings: VqVaeSettings) -> None:
        super().__init__()
        halvings = len(settings.channels) - 1
        # stride, kernel, dilation, padding (and output padding): the first level keeps the size, as in the KL network
        network = VQVAE(
            spatial_dims=3, in_channels=1, out_channels=1, channels=settings.channels,
            num_res_channels=settings.channels, num_res_layers=settings.residual_blocks,
            downsample_parameters=((1, 3, 1, 1),) + ((2, 4, 1, 1),) * halvings,
            upsample_parameters=((2, 4, 1, 1, 0),) * halvings + ((1, 3, 1, 1, 0),),
            num_embeddings=settings.codes, embedding_dim=settings.latent_channels)
        self.encoder, self.decoder = network.encoder, network.decoder
        _keep_the_signal(self.encoder)
        _keep_the_signal(self.decoder)
        self.codebook = Codebook(settings.codes, settings.latent_channels, settings.codes_decay)
        self.latent_channels = settings.latent_channels
        self.factor = 2**halvings

    def encode_latents(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(self.encoder(images).float(), dim=1)

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.codebook.quantise(latents))

    def reconstruct_in_training(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        quantised, commitment = self.codebook(self.encode_latents(images))
        return self.decoder(quantised), commitment

    def latent_figures(self, latents: Sequence[torch.Tensor]) -> dict[str, float]:
        return self.codebook.use(torch.cat([self.codebook.nearest(latent) for latent in latents]))


def _keep_the_signal(network: torch.nn.Module) -> None:
    """Begin with weights through which the signal keeps its size (He et al. 2015), and with idle residual branches.

    These networks have no normalisation: with torch's own weights the encoder's first output varies by 0.005 about a
    mean that moves further than that in a few steps, and all positions fall to one or two codes (measured on the small
    phantoms: a perplexity of 1.7 of 512 codes after 30 steps, and nothing learned).
    """
    for module in network.modules():
        if isinstance(module, torch.nn.Conv3d | torch.nn.ConvTranspose3d):
            inputs = module.in_channels * math.prod(module.kernel_size)
            if isinstance(module, torch.nn.ConvTranspose3d):
                inputs //= math.prod(module.stride)  # those that reach one voxel of the output
            torch.nn.init.normal_(module.weight, std=math.sqrt(2 / inputs))
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, VQVAEResidualUnit):
            torch.nn.init.zeros_(module.conv2.get_submodule("conv").get_parameter("weight"))


@overload
def build_autoencoder(settings: VaeSettings) -> KlAutoencoder: ...
@overload
def build_autoencoder(settings: VqVaeSettings) -> VqAutoencoder: ...
@overload
def build_autoencoder(settings: AutoencoderSettings) -> Autoencoder: ...
def build_autoencoder(settings: AutoencoderSettings) -> Autoencoder:
    """(N, 1, X, Y, Z) intensities <-> (N, latent_channels, X/4, Y/4, Z/4) for three levels of channels.

    Raises
    ------
    NeoNetError
        ``BAD_PRESET`` where the channels do not divide into the groups of the normalisation.
    """
    if isinstance(settings, VqVaeSettings):
        return VqAutoencoder(settings)
    assert isinstance(settings, VaeSettings)
    if any(channels % settings.norm_groups for channels in settings.channels):
        raise NeoNetError("BAD_PRESET", f"vae.channels {settings.channels} are not all multiples of vae.norm_groups "
                          f"({settings.norm_groups}).", "Change one of them.")
    return KlAutoencoder(settings)


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


class LatentDecoder(Autoencoder):
    """The half of the `KlAutoencoder` that a generator needs: latents in, patches out.

    Parameters
    ----------
    autoencoder : KlAutoencoder
        Shares its weights with this module.
    """

    def __init__(self, autoencoder: KlAutoencoder) -> None:
        super().__init__()
        self.post_quant_conv, self.decoder = autoencoder.post_quant_conv, autoencoder.decoder
        self.latent_channels, self.factor = autoencoder.latent_channels, autoencoder.factor

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.post_quant_conv(latents))


def kl_divergence(mean: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """KL(N(mean, sigma^2) || N(0, 1)), summed over the latent, averaged over the batch; (N, C, ...) -> scalar.

    Kingma & Welling 2013, appendix B. `sigma` is a standard deviation.
    """
    terms = mean.pow(2) + sigma.pow(2) - torch.log(sigma.pow(2)) - 1
    return 0.5 * terms.sum() / mean.shape[0]


class TrainedAgainst(torch.nn.Module):
    """An autoencoder and its adversary as the one model that the training loop knows."""

    def __init__(self, autoencoder: Autoencoder, adversary: Adversary) -> None:
        super().__init__()
        self.autoencoder, self.adversary = autoencoder, adversary


def train_autoencoder(training: Patches, stopping: Patches, settings: AutoencoderSettings, folder: Path, seed: int,
                      device: torch.device, events: Events, stage: str,
                      perceptual: FeatureMaps | None = None) -> tuple[Autoencoder, Fit]:
    """Train an autoencoder on TLCR patches with L1 + KL, or with L1 + commitment to the codes.

    Parameters
    ----------
    training, stopping : Patches
        The patches to learn from, and those whose reconstruction error picks the epoch.
    settings : VaeSettings or VqVaeSettings
        Their type says which autoencoder is trained.
    perceptual : callable or None
        A frozen network on `device`, images to feature maps; needed where ``perceptual_weight`` is above 0.

    Raises
    ------
    NeoNetError
        ``NO_SEG_MODEL`` where `perceptual` is needed and missing; ``BAD_PRESET`` for sizes that do not divide.
    """
    if settings.perceptual_weight > 0 and perceptual is None:
        raise NeoNetError("NO_SEG_MODEL", "The perceptual term compares features of the fold's NeoSeg network, and "
                          "there is none.", "Train the stage seg of the fold first, or set perceptual_weight to 0.")
    seed_everything(seed)
    autoencoder = build_autoencoder(settings)
    autoencoder.latent_shape(training.images.shape[2:])
    network: torch.nn.Module = autoencoder
    if settings.adversarial_weight > 0:
        network = TrainedAgainst(autoencoder, Adversary(settings.channels[0]))
    patches = PatchBatches(training, settings, derive_seed(seed, 1), device)
    held_out = torch.from_numpy(stopping.images).to(device)
    result = fit(network, stage=stage, settings=settings, batches=patches.batches,
                 steps_per_epoch=patches.steps_per_epoch, loss=autoencoder_loss(settings, perceptual),
                 validation=Validation(lambda model: _reconstruction_figures(model, held_out), "l1", "lower")
                 if len(held_out) else None,
                 folder=folder, seed=seed, device=device, events=events, channels_last=True)
    return autoencoder, result


def autoencoder_loss(settings: AutoencoderSettings, perceptual: FeatureMaps | None = None
                     ) -> Callable[[torch.nn.Module, PatchBatch], torch.Tensor]:
    """The loss of an autoencoder, or of one `TrainedAgainst` an adversary."""
    def loss(model: torch.nn.Module, batch: PatchBatch) -> torch.Tensor:
        images = batch.images
        reconstructions, cost = _autoencoder_of(model).reconstruct_in_training(images)
        reconstructions = reconstructions.float()
        value = weighted_mean((reconstructions - images).abs(), batch.tumours, settings.tumour_weight)
        value = value + _latent_weight(settings) * cost
        if settings.perceptual_weight > 0 and perceptual is not None:
            value = value + settings.perceptual_weight * perceptual_distance(perceptual, reconstructions, images)
        if isinstance(model, TrainedAgainst):
            value = (value + settings.adversarial_weight * model.adversary.generator_term(reconstructions)
                     + model.adversary.discriminator_term(images, reconstructions))
        return value

    return loss


def _latent_weight(settings: AutoencoderSettings) -> float:
    if isinstance(settings, VqVaeSettings):
        return settings.commitment_weight
    assert isinstance(settings, VaeSettings)
    return settings.kl_weight


def _autoencoder_of(model: torch.nn.Module) -> Autoencoder:
    autoencoder = model.autoencoder if isinstance(model, TrainedAgainst) else model
    assert isinstance(autoencoder, Autoencoder)
    return autoencoder


def _reconstruction_figures(model: torch.nn.Module, images: torch.Tensor) -> dict[str, float]:
    autoencoder, errors, latents = _autoencoder_of(model), [], []
    for image in images:
        latents.append(autoencoder.encode_latents(image[None]))
        errors.append(torch.nn.functional.l1_loss(autoencoder.decode_latents(latents[-1]), image[None]).item())
    return {"l1": float(np.mean(errors)), **autoencoder.latent_figures(latents)}


@dataclass(frozen=True)
class PatchBatch:
    """Images (n, 1, X, Y, Z) float32 in [0, 1] and their tumours' masks, of the same shape, uint8."""

    images: torch.Tensor
    tumours: torch.Tensor


class PatchBatches:
    """Shuffled batches of patches that stay on the device; flipped and masked at random where the settings say so.

    What an epoch gets depends on (seed, epoch) alone.
    """

    def __init__(self, patches: Patches, settings: AutoencoderSettings, seed: int, device: torch.device) -> None:
        self._images = torch.from_numpy(patches.images).to(device)
        self._masks = torch.from_numpy(patches.masks).to(device)
        self._settings = settings
        self._seed = seed

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self._images) // self._settings.batch_size)

    def batches(self, epoch: int) -> Iterator[PatchBatch]:
        """Yield images in [0, 1] with their tumours until each patch was seen once."""
        rng = np.random.default_rng(derive_seed(self._seed, epoch))
        order = rng.permutation(len(self._images))
        for indices in np.array_split(order, self.steps_per_epoch):
            images, tumours = zip(*(self._view(int(index), rng) for index in indices), strict=True)
            yield PatchBatch(torch.stack(images), torch.stack(tumours))

    def _view(self, index: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        image, tumour = self._images[index], self._masks[index, 1:]
        if self._settings.mask_inputs:
            # the three kinds of input that PattenNet's encoder may meet: as it is, T1, T2
            kind = rng.integers(3)
            if kind > 0:
                image = image * self._masks[index, kind - 1 : kind]
        if self._settings.flips:
            axes = [axis for axis in (1, 2, 3) if rng.random() < 0.5]
            if axes:
                image, tumour = image.flip(axes), tumour.flip(axes)
        return image, tumour

