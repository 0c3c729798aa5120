"""The codebook of a VQ-VAE: nearest code, straight-through gradient, running means, restarts of unused codes."""

from __future__ import annotations

import torch

UNUSED = 0.03
NEW = 0.1
"""A code that is used less often than `UNUSED`, as a share of an even spread, starts anew with a use of `NEW`: at a
decay of 0.99 it has 120 steps to prove useful."""


class Codebook(torch.nn.Module):
    """Vectors that stand for all others (van den Oord et al. 2017, learned as in its appendix A.1).

    The codes are running means of the vectors that they stand for, not parameters: a gradient would move them by the
    learning rate, which is 1e-6 in the paper's settings, and AdamW's decay would pull unused ones to zero. A code that
    is hardly used starts anew at a random vector of the batch (Dhariwal et al. 2020, section 3.1), and so do all at
    the first step; else those that begin far from the encoder's output are never chosen, and the codebook collapses.

    All state is in buffers and the restarts draw from torch's generator, so that a checkpoint holds everything.

    Parameters
    ----------
    codes : int
        K, their number.
    channels : int
        C, their length.
    decay : float
        How much of a running mean is kept at each step.
    """

    def __init__(self, codes: int, channels: int, decay: float) -> None:
        super().__init__()
        self.codes: torch.Tensor
        self.usage: torch.Tensor
        self.register_buffer("codes", torch.zeros(codes, channels))
        self.register_buffer("usage", torch.zeros(codes))  # running mean; 1 where all are used equally often
        self._decay = decay

    def __len__(self) -> int:
        return len(self.codes)

    def nearest(self, latents: torch.Tensor) -> torch.Tensor:
        """Index of the code nearest to each position: (N, C, x, y, z) -> (N, x, y, z) int64."""
        vectors = latents.float().movedim(1, -1)
        # |v - c|^2 without |v|^2, which is the same for all codes; in float32, where the loop computes in bf16 on CUDA
        with torch.autocast("cuda", enabled=False):
            return (self.codes.square().sum(1) - 2 * vectors @ self.codes.T).argmin(dim=-1)

    def embed(self, indices: torch.Tensor) -> torch.Tensor:
        """The codes of indices: (N, x, y, z) int64 -> (N, C, x, y, z)."""
        return self.codes[indices].movedim(-1, 1)

    def quantise(self, latents: torch.Tensor) -> torch.Tensor:
        """Replace each position's vector by its code; (N, C, x, y, z) -> the same."""
        return self.embed(self.nearest(latents))

    def forward(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Quantise, and learn the codes while in training mode.

        Parameters
        ----------
        latents : torch.Tensor
            (N, C, x, y, z).

        Returns
        -------
        quantised : torch.Tensor
            The same shape. Its gradient passes on to `latents` as it is (straight through).
        commitment : torch.Tensor
            Scalar: the mean squared distance of `latents` from their codes, which draws the encoder to the codes.
        """
        latents = latents.float()
        if self.training:
            self._learn(latents.detach())
        quantised = self.quantise(latents.detach())
        commitment = torch.nn.functional.mse_loss(latents, quantised)
        return latents + (quantised - latents).detach(), commitment

    def _learn(self, latents: torch.Tensor) -> None:
        vectors = latents.movedim(1, -1).flatten(0, -2)
        # drawn for all codes, needed or not: to ask how many would make the host wait for the device
        drawn = vectors[torch.randint(len(vectors), (len(self),), device=vectors.device)]
        unused = self.usage < UNUSED
        self.codes.copy_(torch.where(unused[:, None], drawn, self.codes))
        self.usage.copy_(torch.where(unused, torch.full_like(self.usage, NEW), self.usage))

        indices = self.nearest(latents).flatten()
        share = len(self) / len(vectors)
        counts = torch.zeros_like(self.usage).index_add_(0, indices, torch.ones_like(vectors[:, 0])) * share
        sums = torch.zeros_like(self.codes).index_add_(0, indices, vectors) * share
        kept, new = self._decay * self.usage, 1 - self._decay
        usage = kept + new * counts
        self.codes.copy_((kept[:, None] * self.codes + new * sums) / usage[:, None])
        self.usage.copy_(usage)

    def use(self, indices: torch.Tensor) -> dict[str, float]:
        """How well the codes are used, so that a collapse is seen.

        Returns
        -------
        dict
            ``perplexity``: how many codes, used equally often, would carry as much (1 to K); ``codes_used``: the
            share of the K codes that occur.
        """
        counts = torch.bincount(indices.flatten(), minlength=len(self)).cpu().double()
        shares = counts[counts > 0] / counts.sum()
        return {"perplexity": (-(shares * shares.log()).sum()).exp().item(), "codes_used": len(shares) / len(self)}
