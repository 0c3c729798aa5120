"""The two 3D U-Nets of Tang et al. 2020, in torch: one for the whole liver, one for the lesions in it.

Both have four levels of two convolutions each way. Before every convolution but the first stand an instance
normalisation over the whole window and a leaky ReLU; the last convolution (1 x 1 x 1) gives one logit a voxel. They
differ in what `Design` says. Because the normalisation looks at the whole window, a network gives its best on windows
of the size that it was trained on (`Design.window`).

Reference: Tang X. et al., Whole liver segmentation based on deep learning and manual adjustment for clinical use in
SIRT, Eur. J. Nucl. Med. Mol. Imaging 47, 2020 (10.1007/s00259-020-04800-3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

LEVELS = 4
SLOPE = 0.01
"""Of the leaky ReLU."""
DEVIATION_FLOOR = 1e-7
"""Added to the standard deviation before dividing by it."""

Size = tuple[int, int, int]
IN_PLANE, CUBE = (3, 3, 1), (3, 3, 3)


@dataclass(frozen=True)
class Design:
    """What tells the two networks apart.

    Attributes
    ----------
    factor : int
        Each level's pooling along every axis.
    window, seen : (X, Y, Z)
        Voxels that go in, and those of its middle for which logits come out.
    padded : bool
        Convolutions keep the size (zeros around) and upsampling is linear; else they use what is there and upsampling
        repeats voxels.
    residual : bool
        Each pair of convolutions adds to what came in, through a 1 x 1 x 1 convolution where channels change.
    deepest : tuple of kernel sizes
        Of the two convolutions of the deepest level.
    """

    factor: int
    window: Size
    seen: Size
    padded: bool
    residual: bool
    deepest: tuple[Size, Size]


LIVER = Design(factor=3, window=(189, 162, 162), seen=(163, 136, 136), padded=True, residual=False,
               deepest=(CUBE, CUBE))
LESION = Design(factor=2, window=(180, 172, 86), seen=(92, 84, 42), padded=False, residual=True,
                deepest=(IN_PLANE, CUBE))


class PathwayUNet(nn.Module):
    """One of the two networks: (N, 1, X, Y, Z) intensities in [-0.5, 0.5] -> (N, 1, x, y, z) logits.

    Parameters
    ----------
    design : Design
    channels : int
        Of the first convolution; 20 in the published networks.
    """

    def __init__(self, design: Design, channels: int = 20) -> None:
        super().__init__()
        self.design = design
        widths = [channels * 2**level for level in range(LEVELS)]
        self.down = nn.ModuleList()
        arriving = 1
        for level, width in enumerate(widths):
            deepest = level == LEVELS - 1
            leaving = width if deepest else 2 * width
            kernels = design.deepest if deepest else (IN_PLANE, CUBE)
            self.down.append(_Pair((arriving, width, leaving), kernels, design, normalise_input=level > 0))
            arriving = leaving
        self.up = nn.ModuleList(_Pair((4 * width, 2 * width, width), (CUBE, IN_PLANE), design)
                                for width in reversed(widths[:-1]))
        self.last = nn.Conv3d(channels, 1, 1)
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        kept = self.levels(image)
        features = kept.pop()
        for pair in self.up:
            features = self._enlarged(features)
            features = torch.cat([_middle(kept.pop(), features.shape[2:]), features], dim=1)
            features = pair(features)
        return self.last(_normalised(features))

    def levels(self, image: torch.Tensor) -> list[torch.Tensor]:
        """What each level makes of the image on the way down, the finest first: (N, C, x, y, z) each."""
        features = image.contiguous(memory_format=torch.channels_last_3d)  # 1.4 times faster on a CPU
        levels: list[torch.Tensor] = []
        for pair in self.down:
            features = pair(functional.max_pool3d(features, self.design.factor) if levels else features)
            levels.append(features)
        return levels

    def _enlarged(self, features: torch.Tensor) -> torch.Tensor:
        factor = self.design.factor
        if self.design.padded:  # linear between voxel centres, nothing beyond the outermost: n becomes factor (n-1) + 1
            size = [factor * (length - 1) + 1 for length in features.shape[2:]]
            return functional.interpolate(features, size=size, mode="trilinear", align_corners=True)
        return functional.interpolate(features, scale_factor=factor, mode="nearest")


class _Pair(nn.Module):
    """Two convolutions; `widths` are the channels before, between and after them."""

    def __init__(self, widths: Size, kernels: tuple[Size, Size], design: Design, normalise_input: bool = True) -> None:
        super().__init__()
        before, between, after = widths
        padding: Any = "same" if design.padded else 0
        self.normalise_input = normalise_input
        self.first = nn.Conv3d(before, between, kernels[0], padding=padding)
        self.second = nn.Conv3d(between, after, kernels[1], padding=padding)
        self.residual = design.residual
        self.shortcut = nn.Conv3d(before, after, 1) if design.residual and before != after else None

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        # what came in is not looked at again where nothing is added to it
        changed = self.first(_normalised(features, not self.residual) if self.normalise_input else features)
        changed = self.second(_normalised(changed))
        if not self.residual:
            return changed
        short = _middle(features, changed.shape[2:])
        return changed + (short if self.shortcut is None else self.shortcut(short))


def _normalised(features: torch.Tensor, overwrite: bool = True) -> torch.Tensor:
    """Each channel of each window to mean 0 and standard deviation 1, then a leaky ReLU.

    Without gradients and where `overwrite` allows it, in place: a liver window's finest maps are 0.5 GB each.
    """
    deviation, mean = torch.std_mean(features.float(), dim=(2, 3, 4), correction=0, keepdim=True)
    scale = 1 / (deviation + DEVIATION_FLOOR)
    if overwrite and not torch.is_grad_enabled():
        return functional.leaky_relu_(features.mul_(scale).sub_(mean * scale), SLOPE)
    return functional.leaky_relu(torch.addcmul(-mean * scale, features, scale), SLOPE, inplace=True)


def _middle(features: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """The middle of (N, C, X, Y, Z); what is left over is the same on both sides."""
    window = [slice((have - want) // 2, (have - want) // 2 + want)
              for have, want in zip(features.shape[2:], size, strict=True)]
    return features[:, :, window[0], window[1], window[2]]
