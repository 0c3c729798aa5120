"""The 3D networks that PattenNet is compared with (the paper's table 2), by name; all from MONAI.

None of them is pretrained. MONAI is imported where a network is built: it takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from neonet_core.errors import NeoNetError

CHANNELS = 2  # the two TLCR channels


def _resnet(layers: int) -> nn.Module:
    """He et al. 2016, in 3D with bottlenecks (Hara et al. 2018).

    The first convolution halves the size, as published; MONAI's own default does not, at eight times the cost.
    """
    from monai.networks import nets

    build = getattr(nets, f"resnet{layers}")
    return build(pretrained=False, spatial_dims=3, n_input_channels=CHANNELS, num_classes=1, conv1_t_stride=2,
                 bias_downsample=False)


def _densenet(layers: int) -> nn.Module:
    """Huang et al. 2017."""
    from monai.networks import nets

    return getattr(nets, f"DenseNet{layers}")(spatial_dims=3, in_channels=CHANNELS, out_channels=1)


def _efficientnet(size: int) -> nn.Module:
    """Tan & Le 2019.

    Two things are as in the other networks, not as published for ImageNet. Running variances start at one and keep 0.9
    of themselves at each step instead of 0.99: a fold's training has hundreds of steps, not many thousands (B0 on
    separable patches reached a held-out AUC of 1 after 36 steps; with 0.99 it was at chance after 120). And the last
    layer starts with torch's own weights: with those meant for a thousand classes the first loss was 4.4, not 0.5.
    """
    from monai.networks.nets import EfficientNetBN

    network = EfficientNetBN(f"efficientnet-b{size}", pretrained=False, spatial_dims=3, in_channels=CHANNELS,
                             num_classes=1, norm=("batch", {"eps": 1e-3, "momentum": 0.1}))
    network._fc = nn.Linear(network._fc.in_features, 1)
    return network


class SwinClassifier(nn.Module):
    """Liu et al. 2021: the encoder of SwinUNETR (Tang et al. 2022, same sizes), global average, one linear layer.

    MONAI's Swin Transformer has no head for classification. Other than SwinUNETR, whose decoder needs multiples of
    32, the encoder pads odd sizes with zeros itself, level by level.
    """

    def __init__(self) -> None:
        super().__init__()
        from monai.networks.nets.swin_unetr import SwinTransformer

        # on the CPU even where `check_size` builds without weights: the constructor reads a tensor's values
        with torch.device("cpu"):
            self.encoder = SwinTransformer(
                in_chans=CHANNELS, embed_dim=48, window_size=(7, 7, 7), patch_size=(2, 2, 2), depths=(2, 2, 2, 2),
                num_heads=(3, 6, 12, 24), downsample="mergingv2", spatial_dims=3)
            self.head = nn.Linear(self.encoder.num_features * 2, 1)

    def forward(self, channels: torch.Tensor) -> torch.Tensor:
        """(N, 2, X, Y, Z) -> (N, 1)."""
        return self.head(self.encoder(channels)[-1].mean(dim=(2, 3, 4)))


BASELINES: dict[str, Callable[[], nn.Module]] = {
    "ResNet-50": partial(_resnet, 50),
    "ResNet-101": partial(_resnet, 101),
    "ResNet-152": partial(_resnet, 152),
    "ResNet-200": partial(_resnet, 200),
    "DenseNet-121": partial(_densenet, 121),
    "DenseNet-169": partial(_densenet, 169),
    "DenseNet-201": partial(_densenet, 201),
    "DenseNet-264": partial(_densenet, 264),
    "EfficientNet-B0": partial(_efficientnet, 0),
    "EfficientNet-B1": partial(_efficientnet, 1),
    "EfficientNet-B2": partial(_efficientnet, 2),
    "EfficientNet-B3": partial(_efficientnet, 3),
    "Swin": SwinClassifier,
}
"""Each builds a network (N, 2, X, Y, Z) -> (N, 1). A new one needs its name in `names.BASELINE_NAMES`, too."""


class Baseline(nn.Module):
    """A network of `BASELINES` with its logits as `PattenNet` gives them: (N, 2, X, Y, Z) -> (N,)."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.network = BASELINES[name]()

    def forward(self, channels: torch.Tensor) -> torch.Tensor:
        return self.network(channels)[:, 0]


def build_baseline(name: str, size: Sequence[int]) -> Baseline:
    """Build a network of `BASELINES` for TLCR patches of `size` voxels. Raises ``BAD_PRESET`` as `check_size` does."""
    check_size(name, size)
    return Baseline(name)


def check_size(name: str, size: Sequence[int]) -> None:
    """Find out, without computing anything, whether a network can be trained on patches of a size.

    Takes 0.1 to 0.5 s and no memory, for any size. Smallest workable edges: DenseNet 29, EfficientNet-B0 32, -B1 16,
    -B2 4, -B3 12, the others 1.

    Raises
    ------
    NeoNetError
        ``BAD_PRESET`` where a feature map would shrink to nothing.
    """
    with torch.device("meta"):  # shapes only
        network = Baseline(name).to("meta").train()
        try:
            network(torch.zeros(2, CHANNELS, *size))
        except (RuntimeError, ValueError) as error:
            raise NeoNetError("BAD_PRESET", f"{name} cannot work on crops of {' x '.join(map(str, size))} voxels: its "
                              "feature maps shrink to nothing.", "Enlarge crop.size, or leave the network out of "
                              "--models.") from error
