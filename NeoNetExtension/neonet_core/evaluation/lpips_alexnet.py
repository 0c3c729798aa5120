"""LPIPS 0.1 on AlexNet's features: the published network, with its weights from a local file.

The usual packages import torchvision and download; the network is five convolutions, so it stands here in torch alone.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load

from neonet_core.evaluation.local_weights import unfit, weights_file

PURPOSE = "LPIPS (alex)"
CHANNELS = (64, 192, 384, 256, 256)
CONVOLUTIONS = ("slice1.0", "slice2.3", "slice3.6", "slice4.8", "slice5.10")
"""Names of AlexNet's convolutions in the state of the package lpips."""
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's mean and standard deviation for images in [-1, 1]."""


class AlexNetLpips(torch.nn.Module):
    """Distance of two images (N, 3, H, W) in [-1, 1]: (N,), 0 for equal ones.

    The features after each of AlexNet's five rectified convolutions are scaled to unit length at each position; their
    squared differences, weighted by channel, are averaged over the positions and summed over the layers.

    References
    ----------
    Zhang, Isola, Efros, Shechtman, Wang: The unreasonable effectiveness of deep features as a perceptual metric. CVPR
    2018, equation 1.
    """

    shift: torch.Tensor
    scale: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        inputs = (3, *CHANNELS[:-1])
        kernels = ((11, 4, 2), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1))
        self.convolutions = torch.nn.ModuleList(
            torch.nn.Conv2d(before, after, kernel, stride, padding)
            for before, after, (kernel, stride, padding) in zip(inputs, CHANNELS, kernels, strict=True))
        self.weights = torch.nn.ParameterList(torch.zeros(1, channels, 1, 1) for channels in CHANNELS)
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1), persistent=False)

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The five feature maps, each position's vector of unit length."""
        maps, current = [], (images - self.shift) / self.scale
        for layer, convolution in enumerate(self.convolutions):
            if layer in (1, 2):
                current = torch.nn.functional.max_pool2d(current, 3, 2)
            current = torch.relu(convolution(current))
            maps.append(current / (current.square().sum(dim=1, keepdim=True).sqrt() + 1e-10))
        return maps

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        layers = zip(self.weights, self.features(first), self.features(second), strict=True)
        return torch.stack([(weight * (a - b).square()).sum(dim=1).mean(dim=(1, 2)) for weight, a, b in layers]).sum(0)


def load_lpips(path: Path) -> AlexNetLpips:
    """LPIPS with the weights of a local file.

    Parameters
    ----------
    path : Path
        ``.safetensors`` with the state of the package's ``lpips.LPIPS(net="alex")``, or the ``.npz`` of its JAX port
        (convolutions as height, width, in, out).

    Raises
    ------
    NeoNetError
        ``FILE_NOT_FOUND``, ``BAD_WEIGHTS``.
    """
    path = weights_file(path, PURPOSE, (".safetensors", ".npz"))
    network = AlexNetLpips()
    try:
        state = _from_npz(path) if path.suffix == ".npz" else _from_safetensors(path)
        network.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    except (KeyError, ValueError, RuntimeError, OSError, SafetensorError, zipfile.BadZipFile) as error:
        raise unfit(path, PURPOSE, error) from error
    return network.requires_grad_(False)


def _from_safetensors(path: Path) -> dict[str, torch.Tensor]:
    stored = load(path.read_bytes())
    state = {}
    for layer, name in enumerate(CONVOLUTIONS):
        state[f"convolutions.{layer}.weight"] = stored[f"net.{name}.weight"]
        state[f"convolutions.{layer}.bias"] = stored[f"net.{name}.bias"]
        # the package holds each linear layer under two names, of which safetensors keeps one
        names = [key for key in (f"lin{layer}.model.1.weight", f"lins.{layer}.model.1.weight") if key in stored]
        state[f"weights.{layer}"] = stored[(names or [f"lin{layer}.model.1.weight"])[0]]
    return state


def _from_npz(path: Path) -> dict[str, torch.Tensor]:
    stored = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)

    def convolution(name: str) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(stored[name].transpose(3, 2, 0, 1)))

    state = {}
    for layer in range(len(CHANNELS)):
        state[f"convolutions.{layer}.weight"] = convolution(f"AlexNet_0.Conv_{layer}.kernel")
        state[f"convolutions.{layer}.bias"] = torch.from_numpy(stored[f"AlexNet_0.Conv_{layer}.bias"])
        state[f"weights.{layer}"] = convolution(f"NetLinLayer_{layer}.Conv_0.kernel")
    return state
