"""The segmentation networks by name: the four of the paper's table 1, and `TwoStep`, which has published weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from neonet_core.errors import NeoNetError
from neonet_core.presets import SegSettings

if TYPE_CHECKING:
    import torch

CLASSES = 3  # background, liver, tumour
TWO_STEP_SPACING = (1.0, 1.0, 3.0)
"""Millimetres along R, A, S on which `TwoStep` works."""


def _unet(channels: Sequence[int] | None) -> torch.nn.Module:
    """Ronneberger et al. 2015, in 3D with residual units (MONAI's UNet)."""
    from monai.networks.nets import UNet

    channels = channels or (32, 64, 128, 256, 512)
    return UNet(spatial_dims=3, in_channels=1, out_channels=CLASSES, channels=channels,
                strides=(2,) * (len(channels) - 1), num_res_units=2, norm="instance")


def _segresnet(channels: Sequence[int] | None) -> torch.nn.Module:
    """Myronenko 2018; each level doubles the first level's channels."""
    from monai.networks.nets import SegResNet

    first = (channels or (32,))[0]
    return SegResNet(spatial_dims=3, in_channels=1, out_channels=CLASSES, init_filters=first,
                     blocks_down=(1, 2, 2, 4), blocks_up=(1, 1, 1))


def _dynunet(channels: Sequence[int] | None) -> torch.nn.Module:
    """Isensee et al. 2021: nnU-Net's plain U-Net, without deep supervision."""
    from monai.networks.nets import DynUNet

    channels = channels or (32, 64, 128, 256, 320)
    levels = len(channels)
    return DynUNet(spatial_dims=3, in_channels=1, out_channels=CLASSES, kernel_size=[3] * levels,
                   strides=[1] + [2] * (levels - 1), upsample_kernel_size=[2] * (levels - 1), filters=list(channels))


def _swinunetr(channels: Sequence[int] | None) -> torch.nn.Module:
    """Tang et al. 2022; the first channel count is the feature size (a multiple of 12)."""
    from monai.networks.nets import SwinUNETR

    return SwinUNETR(in_channels=1, out_channels=CLASSES, feature_size=(channels or (48,))[0], spatial_dims=3)


def _two_step(channels: Sequence[int] | None) -> torch.nn.Module:
    """Tang et al. 2020: a network for the liver, one for the lesions in it; the channel count is their first one."""
    from neonet_core.segmentation.two_step import TwoStep

    return TwoStep((channels or (20,))[0])


NETWORKS: dict[str, Callable[[Sequence[int] | None], torch.nn.Module]] = {
    "UNet": _unet,
    "SegResNet": _segresnet,
    "DynUNet": _dynunet,
    "SwinUNETR": _swinunetr,
    "TwoStep": _two_step,
}

INSTANCE_NORM = ("UNet", "DynUNet", "SwinUNETR")
"""Those that normalise each channel by its spread over space."""


def size_multiple(name: str, channels: Sequence[int] | None) -> int:
    """The number that each edge of a patch must be a multiple of: two to the number of times the network halves it."""
    if name == "SwinUNETR":
        return 32
    if name == "SegResNet":
        return 8
    if name == "TwoStep":  # fits its windows itself
        return 1
    return 2 ** (len(channels or (0,) * 5) - 1)


def build_segmentor(settings: SegSettings) -> torch.nn.Module:
    """Build NeoSeg: (N, 1, X, Y, Z) intensities in [0, 1] -> (N, 3, X, Y, Z) logits of background, liver, tumour.

    Raises
    ------
    NeoNetError
        ``BAD_PRESET`` where the patch does not divide as the network needs, or its channels do not; where `TwoStep`
        is not given the grid that its two networks work on.
    """
    if settings.network == "TwoStep" and settings.spacing != TWO_STEP_SPACING:
        raise NeoNetError("BAD_PRESET", f"TwoStep works on voxels of 1 x 1 x 3 mm, not on seg.spacing "
                          f"{settings.spacing}.",
                          "Add --set 'seg.spacing=[1, 1, 3]'.")
    multiple = size_multiple(settings.network, settings.channels)
    if any(edge % multiple for edge in settings.patch_size):
        raise NeoNetError("BAD_PRESET", f"{settings.network} needs patches whose edges are multiples of {multiple}, "
                          f"not {settings.patch_size}.", "Change seg.patch_size.")
    try:
        return NETWORKS[settings.network](settings.channels)
    except ValueError as error:
        raise NeoNetError("BAD_PRESET", f"{settings.network} cannot be built with seg.channels {settings.channels}: "
                          f"{error}", "Change seg.channels, or leave it out.") from error


def check_trainable(settings: SegSettings) -> None:
    """Raise ``BAD_PRESET`` where a patch fits the network, but is too small to be learned from."""
    multiple = size_multiple(settings.network, settings.channels)
    if settings.network in INSTANCE_NORM and all(edge == multiple for edge in settings.patch_size):
        raise NeoNetError("BAD_PRESET", f"A patch of {settings.patch_size} is a single voxel at the lowest level of "
                          f"{settings.network}, which has no spread to normalise by.",
                          "Choose a larger seg.patch_size.")
