"""PattenNet: dual attention blocks over frozen encoder features (the paper's NeoCls, equations 4 and 5)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from neonet_core.presets import ClsSettings


class ChannelAttention(nn.Module):
    """M_c(F) = sigmoid(MLP(AvgPool(F)) + MLP(MaxPool(F))), one shared MLP (equation 4).

    (N, C, X, Y, Z) -> (N, C, 1, 1, 1) in (0, 1).
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        average, maximum = features.mean(dim=(2, 3, 4)), features.amax(dim=(2, 3, 4))
        return torch.sigmoid(self.mlp(average) + self.mlp(maximum))[:, :, None, None, None]


class SpatialAttention(nn.Module):
    """M_s(F) = sigmoid(conv7x7x7([AvgPool_c(F); MaxPool_c(F)])) (equation 5).

    (N, C, X, Y, Z) -> (N, 1, X, Y, Z) in (0, 1).
    """

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(2, 1, kernel_size=7, padding=3)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        pooled = torch.cat([features.mean(dim=1, keepdim=True), features.amax(dim=1, keepdim=True)], dim=1)
        return torch.sigmoid(self.convolution(pooled))


class DualAttentionBlock(nn.Module):
    """Channel attention, then spatial attention, each multiplied onto the features; shape unchanged.

    For table 5 one of them alone.
    """

    def __init__(self, channels: int, reduction: int,
                 attention: Literal["dual", "channel", "spatial"] = "dual") -> None:
        super().__init__()
        self.channel = ChannelAttention(channels, reduction) if attention != "spatial" else None
        self.spatial = SpatialAttention() if attention != "channel" else None

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the refined features and the spatial attention map (N, 1, X, Y, Z), ones where there is none."""
        if self.channel is not None:
            features = features * self.channel(features)
        if self.spatial is None:
            return features, torch.ones_like(features[:, :1])
        attention = self.spatial(features)
        return features * attention, attention


class PattenNet(nn.Module):
    """The trained part of PattenNet: from the features of both TLCR channels to one logit.

    Features are standardised by the mean and standard deviation that `fit_normalisation` took from the training
    cases, refined by the dual attention blocks, pooled over space and classified by an MLP. The pooling is

    - ``global``: average and maximum over the whole patch (the paper says "global pooling");
    - ``masks``: average within the tumour, and within the tumour and one feature voxel of liver around it. Most of a
      masked patch is zeros, and an average over them says first of all how large the tumour is. On 200 phantoms with
      107 to train on, ``global`` stayed at an AUC of 0.4 to 0.55 where averages within masks reached 0.87 to 0.92.

    Parameters
    ----------
    channels : int
        Features of T1 and T2 together (256 for the paper's encoder).
    settings : ClsSettings

    Attributes
    ----------
    inputs : "image" or "masks"
        What its TLCR channels are masked from; `network_inputs` takes it.
    """

    feature_mean: torch.Tensor
    feature_std: torch.Tensor

    def __init__(self, channels: int, settings: ClsSettings) -> None:
        super().__init__()
        self.pooling = settings.pooling
        self.inputs = settings.inputs
        self.register_buffer("feature_mean", torch.zeros(channels))
        self.register_buffer("feature_std", torch.ones(channels))
        self.blocks = nn.ModuleList(DualAttentionBlock(channels, settings.reduction, settings.attention)
                                    for _ in range(settings.dual_attention_blocks))
        self.head = nn.Sequential(nn.Linear(2 * channels, settings.hidden), nn.ReLU(), nn.Dropout(settings.dropout),
                                  nn.Linear(settings.hidden, 1))

    def fit_normalisation(self, features: torch.Tensor) -> None:
        """Take mean and standard deviation of each channel from the training cases' features (N, C, X, Y, Z)."""
        # one case at a time: the whole in double precision would not fit
        total = torch.zeros(len(self.feature_mean), dtype=torch.float64)
        squares = torch.zeros_like(total)
        for case in features:
            values = case.cpu().double()  # in this order: Apple's GPUs have no double precision
            total += values.sum(dim=(1, 2, 3))
            squares += values.pow(2).sum(dim=(1, 2, 3))
        count = features.numel() // features.shape[1]
        mean = total / count
        self.feature_mean.copy_(mean)
        self.feature_std.copy_((squares / count - mean**2).clamp_min(1e-12).sqrt())

    def forward(self, features: torch.Tensor, masks: torch.Tensor | None = None) -> torch.Tensor:
        """(N, C, X, Y, Z) features and, for the pooling ``masks``, (N, 2, X, Y, Z) `masks_at` -> (N,) logits."""
        return self.score_and_attention(features, masks)[0]

    def score_and_attention(self, features: torch.Tensor,
                            masks: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (N,) and the mean of the blocks' spatial attention maps (N, 1, X, Y, Z), in (0, 1).

        Without blocks, or with channel attention alone, it is one everywhere.
        """
        shape = (1, -1, 1, 1, 1)
        features = (features - self.feature_mean.view(shape)) / self.feature_std.view(shape)
        maps = []
        for block in self.blocks:
            features, attention = block(features)
            maps.append(attention)
        attention = torch.stack(maps).mean(dim=0) if maps else torch.ones_like(features[:, :1])
        return self.head(self._pool(features, masks))[:, 0], attention

    def _pool(self, features: torch.Tensor, masks: torch.Tensor | None) -> torch.Tensor:
        """(N, C, X, Y, Z) -> (N, 2 C)."""
        if self.pooling == "global":
            return torch.cat([features.mean(dim=(2, 3, 4)), features.amax(dim=(2, 3, 4))], dim=1)
        assert masks is not None, "the pooling 'masks' needs the masks"
        masks = masks.to(features.dtype)
        sums = torch.einsum("ncxyz,nmxyz->nmc", features, masks)
        return (sums / masks.sum(dim=(2, 3, 4)).clamp_min(1)[..., None]).flatten(1)


def encode_channels(encoder: nn.Module, channels: torch.Tensor) -> torch.Tensor:
    """Features of the two TLCR channels, one encoder for both, concatenated.

    (N, 2, X, Y, Z) T1 and T2 -> (N, 2 C, X/4, Y/4, Z/4) in half precision, in training and in use alike.
    """
    t1, t2 = channels[:, :1], channels[:, 1:]
    return torch.cat([encoder(t1), encoder(t2)], dim=1).half()


def masks_at(masks: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """The two regions that features are averaged in: (N, 2, X, Y, Z) masks -> (N, 2, *size), 0 or 1.

    The first is the tumour with one feature voxel of liver around it, the second the tumour. A feature voxel at the
    border, which a mask only touches, belongs to it: what surrounds the tumour is what PNI shows in.
    """
    liver, tumour = nn.functional.adaptive_max_pool3d(masks.float(), tuple(size)).split(1, dim=1)
    around = nn.functional.max_pool3d(tumour, kernel_size=3, stride=1, padding=1) * liver
    return torch.cat([around, tumour], dim=1)
