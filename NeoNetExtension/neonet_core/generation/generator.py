"""NeoGen put together: masks in, synthetic image patches out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from monai.networks.nets import ControlNet

from neonet_core.errors import NeoNetError
from neonet_core.generation.autoencoder import Autoencoder
from neonet_core.generation.controlnet import MASK_CHANNELS, control_residuals
from neonet_core.generation.diffusion import UNKNOWN_CLASS, LatentDiffusion, Residuals
from neonet_core.generation.schedulers import draw

Progress = Callable[[int, int], None]
EMBEDDING_MAPS = 4
"""Feature maps of a mask at full resolution that are in memory together: input and output of a convolution, its
activation, and as much again to be on the safe side."""


@dataclass(frozen=True)
class Generator:
    """A trained NeoGen on one device.

    Attributes
    ----------
    autoencoder, diffusion : module
    control : ControlNet or None
        None: samples follow no mask (the rows "DM" of table 4).
    patch_size : tuple of int
        (X, Y, Z) of the patches.
    """

    autoencoder: Autoencoder
    diffusion: LatentDiffusion
    control: ControlNet | None
    patch_size: tuple[int, int, int]
    device: torch.device

    def __post_init__(self) -> None:
        for network in (self.autoencoder, self.diffusion, self.control):
            if network is not None:
                network.to(self.device).eval()

    def most_at_once(self, wanted: int) -> int:
        """How many samples fit into half of the memory that is free now, at most `wanted`, at least 1."""
        on_cuda = self.device.type == "cuda"
        free = torch.cuda.mem_get_info(self.device)[0] if on_cuda else psutil.virtual_memory().available
        return max(1, min(wanted, int(free / 2 / self._bytes_a_sample())))

    def _bytes_a_sample(self) -> int:
        """The mask's embedding at full resolution is what needs most; a patch is decoded by itself."""
        channels = 0
        if self.control is not None:
            channels = len(self.control.get_parameter("controlnet_cond_embedding.conv_in.conv.weight"))
        return int(np.prod(self.patch_size)) * 4 * (MASK_CHANNELS + EMBEDDING_MAPS * channels)

    @torch.inference_mode()
    def generate(self, masks: np.ndarray, classes: Sequence[int | None], seeds: Sequence[int], *, sampler: str,
                 steps: int, guidance: float = 1.0, progress: Progress | None = None) -> np.ndarray:
        """Draw one patch for each mask.

        Parameters
        ----------
        masks : np.ndarray
            (N, 2, X, Y, Z) uint8: liver or tumour; tumour. Without ControlNet they are not read.
        classes : sequence of int or None
            Outcome of each; None: not told. Read only by a model with class embedding.
        seeds : sequence of int
            One for each; the same seed gives the same patch on the same device.
        sampler, steps
            See `schedulers.SAMPLERS`.
        guidance : float
            Noise = unconditional + guidance * (conditional - unconditional) (Ho & Salimans 2022, equation 6, with
            w + 1 = guidance); 1: conditional alone.

        Returns
        -------
        np.ndarray
            (N, 1, X, Y, Z) float32 in [0, 1].

        Raises
        ------
        NeoNetError
            ``BAD_MASK``; ``BAD_ARGUMENT``; ``NOT_FINITE``.
        """
        check_masks(masks, self.patch_size, needs_tumour=self.control is not None)
        if guidance != 1 and not self.diffusion.settings.class_embedding:
            raise NeoNetError("BAD_ARGUMENT", "This model was trained without classes, which guidance needs.",
                              "Leave guidance at 1.")
        labels = torch.tensor([UNKNOWN_CLASS if value is None else value for value in classes], device=self.device)
        embedding = None
        if self.control is not None:
            embedding = self.control.controlnet_cond_embedding(torch.from_numpy(masks).to(self.device).float())

        def predict(noisy: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
            conditional = self._noise(noisy, at, labels, embedding)
            if guidance == 1:
                return conditional
            unconditional = self._noise(noisy, at, torch.full_like(labels, UNKNOWN_CLASS), embedding)
            return unconditional + guidance * (conditional - unconditional)

        shape = self.autoencoder.latent_shape(self.patch_size)
        latents = draw(predict, shape, sampler, steps, self.diffusion.settings, seeds, self.device, progress)
        # decoded one by one: at full resolution the decoder needs many times the memory of the diffusion model
        images = [self.autoencoder.decode_latents(latent[None]) for latent in self.diffusion.restore(latents)]
        drawn = torch.cat(images).float().clamp(0, 1).cpu().numpy()
        if not np.isfinite(drawn).all():
            raise NeoNetError("NOT_FINITE", "The model has drawn values that are no numbers.",
                              "Lower the guidance, if it is high; else the model's training has diverged.")
        return drawn

    def _noise(self, noisy: torch.Tensor, at: torch.Tensor, classes: torch.Tensor,
               embedding: torch.Tensor | None) -> torch.Tensor:
        residuals: Residuals | None = None
        if self.control is not None and embedding is not None:
            residuals = control_residuals(self.control, noisy, at, classes, embedding,
                                          self.diffusion.settings.class_embedding)
        return self.diffusion.noise_of(self.diffusion(noisy, at, classes, residuals), noisy, at)


def check_masks(masks: np.ndarray, patch_size: Sequence[int], needs_tumour: bool = True) -> None:
    """Say what is wrong with masks (N, 2, X, Y, Z). Raises ``BAD_MASK``, ``EMPTY_TUMOUR``."""
    expected = (MASK_CHANNELS, *patch_size)
    if masks.ndim != 5 or masks.shape[1:] != expected:
        raise NeoNetError("BAD_MASK", f"A mask patch of shape {list(masks.shape[1:])} was given; this model needs "
                          f"{list(expected)}.", "Cut it with 'neonet crop', or give a whole label map.")
    if not np.isin(masks, (0, 1)).all():
        raise NeoNetError("BAD_MASK", "A mask patch holds values other than 0 and 1.",
                          "Give liver-or-tumour and tumour as 0 and 1.")
    if (masks[:, 1] > masks[:, 0]).any():
        raise NeoNetError("BAD_MASK", "A mask patch has tumour outside the liver's mask.",
                          "The first channel is liver or tumour, the second tumour.")
    if needs_tumour and not masks[:, 1].any(axis=(1, 2, 3)).all():
        raise NeoNetError("EMPTY_TUMOUR", "A mask patch has no tumour, so there is nothing to generate.",
                          "Give masks with a tumour.")


def batches(count: int, size: int) -> Iterator[range]:
    """0 .. count - 1 in runs of at most `size`."""
    return (range(start, min(start + size, count)) for start in range(0, count, size))
