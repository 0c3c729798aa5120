"""The feature maps of NeoSeg's encoder, level by level, for each of its networks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from neonet_core.errors import NeoNetError
from neonet_core.segmentation.two_step import TwoStep
from neonet_core.volume import Volume, resample_to_spacing


def encoder_maps(network: torch.nn.Module, batch: torch.Tensor) -> list[torch.Tensor]:
    """The output of each level of a segmentor's encoder, the finest first.

    UNet: the block before each skip connection, and the bottom block. SegResNet: its four stages. DynUNet: input block,
    down-sampling blocks, bottleneck. SwinUNETR: the patch embedding and the four Swin stages, normalised as its decoder
    gets them. TwoStep: the levels of its network for the liver. These are the maps of the network's own forward pass;
    the decoder is not run.

    Parameters
    ----------
    network : torch.nn.Module
        Of `segmentation.networks`, in evaluation mode.
    batch : torch.Tensor
        (N, 1, X, Y, Z), with edges that divide as the network needs.

    Returns
    -------
    list of torch.Tensor
        (N, C, x, y, z) each.
    """
    from monai.networks.nets import DynUNet, SegResNet, SwinUNETR, UNet

    if isinstance(network, TwoStep):
        return network.liver.levels(batch - 0.5)
    if isinstance(network, SegResNet):
        return list(network.encode(batch)[1])
    if isinstance(network, SwinUNETR):
        return list(network.swinViT(batch, network.normalize))
    if isinstance(network, DynUNet):
        blocks = [network.input_block, *network.downsamples, network.bottleneck]
    elif isinstance(network, UNet):
        blocks = _unet_blocks(network.model)
    else:
        raise NeoNetError("BAD_ARGUMENT", f"The encoder of a {type(network).__name__} is not known.",
                          "Use UNet, SegResNet, DynUNet, SwinUNETR or TwoStep.")
    maps = []
    for block in blocks:
        batch = block(batch)
        maps.append(batch)
    return maps


def padded_encoder_maps(network: torch.nn.Module, multiple: int) -> Callable[[torch.Tensor], list[torch.Tensor]]:
    """`encoder_maps` of images of any size (N, 1, X, Y, Z): edges are repeated until they divide by `multiple`."""
    def maps(images: torch.Tensor) -> list[torch.Tensor]:
        padding = [length for edge in reversed(images.shape[2:]) for length in (0, -edge % multiple)]
        return encoder_maps(network, torch.nn.functional.pad(images, padding, mode="replicate"))

    return maps


def _unet_blocks(model: torch.nn.Module) -> list[torch.nn.Module]:
    """MONAI nests a UNet as Sequential(down, SkipConnection(the same one level below), up)."""
    from monai.networks.layers.simplelayers import SkipConnection

    blocks = []
    while isinstance(model, torch.nn.Sequential) and len(model) == 3 and isinstance(model[1], SkipConnection):
        blocks.append(model[0])
        model = model[1].submodule
    return [*blocks, model]


def on_network_grid(patch: np.ndarray, spacing: tuple[float, float, float] | None,
                    network_spacing: tuple[float, float, float] | None, multiple: int) -> tuple[np.ndarray,
                                                                                              tuple[int, int, int]]:
    """A patch as the segmentor saw images in its training: on its spacing, with edges that it can halve.

    Parameters
    ----------
    patch : np.ndarray
        (X, Y, Z).
    spacing : tuple of float or None
        Voxel edges of the patch in mm; needed where the network has a spacing of its own.
    network_spacing : tuple of float or None
        None: the network works on each case's own grid.
    multiple : int
        Each edge is padded at its end to a multiple of this, by repeating the outermost voxels.

    Returns
    -------
    padded : np.ndarray
        float32.
    extent : tuple of int
        The part of it that the patch fills, in voxels from the start.
    """
    array = np.asarray(patch, dtype=np.float32)
    if network_spacing is not None:
        if spacing is None:
            raise NeoNetError("BAD_ARGUMENT", "The segmentor has a grid of its own, and the patches' spacing is not "
                              "given.", "Give the voxel edges of each patch in mm.")
        affine = np.diag([*(float(edge) for edge in spacing), 1.0])
        array = resample_to_spacing(Volume(array, affine), network_spacing, order=1).array
    x, y, z = array.shape
    edges = [-(-edge // multiple) * multiple for edge in (x, y, z)]
    if max(edges) == multiple:
        edges[0] *= 2  # the deepest map would be a single voxel, which instance normalisation refuses
    padding = [(0, padded - edge) for padded, edge in zip(edges, (x, y, z), strict=True)]
    return np.ascontiguousarray(np.pad(array, padding, mode="edge")), (x, y, z)
