"""From an HDF5 file of Keras weights to a network of our own: every tensor has its place, and none is left over."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from neonet_core.errors import NeoNetError
from neonet_core.segmentation.pathway_unet import PathwayUNet

if TYPE_CHECKING:
    import h5py


def load_keras_weights(content: bytes, network: PathwayUNet, spacing: tuple[float, float, float]) -> None:
    """Put the weights of an HDF5 file into a network.

    The file names its layers in the order in which they were made and holds for each convolution a kernel
    (x, y, z, channels in, channels out) and a bias; ``header/voxel_size`` holds the voxels' edges in mm.

    Parameters
    ----------
    content : bytes
        The file.
    network : PathwayUNet
        Changed in place, once all has been checked.
    spacing : tuple of float
        What the file must have been trained on, in mm.

    Raises
    ------
    NeoNetError
        ``MISSING_PACKAGE`` without h5py; ``WRONG_WEIGHTS`` where anything is missing, left over or of another shape.
    """
    try:
        import h5py
    except ImportError:
        raise NeoNetError("MISSING_PACKAGE", "Reading HDF5 weights needs the package h5py.",
                          "Install it: pip install 'neonet-core[pretrained]'") from None
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            tensors = _tensors(file)
            voxel = tuple(float(edge) for edge in file["header/voxel_size"][()])
    except (OSError, KeyError, ValueError) as error:
        raise _wrong(f"the file cannot be read ({type(error).__name__})") from error
    if voxel != spacing:
        raise _wrong(f"it is for voxels of {voxel} mm, not {spacing}")
    state = {}
    for number, (name, layer) in enumerate(convolutions(network), start=1):
        kernel, bias = (tensors.pop(f"conv3d_{number}/{part}:0", None) for part in ("kernel", "bias"))
        if kernel is None or bias is None:
            raise _wrong(f"convolution {number} is missing")
        weight = np.ascontiguousarray(kernel.transpose(4, 3, 0, 1, 2))
        if weight.shape != tuple(layer.weight.shape) or bias.shape != weight.shape[:1]:
            raise _wrong(f"convolution {number} has the shape {kernel.shape}")
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise _wrong(f"convolution {number} holds values that are not finite")
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.from_numpy(weight), torch.from_numpy(bias)
    if tensors:
        raise _wrong(f"{len(tensors)} tensors are left over ({min(tensors)})")
    network.load_state_dict(state)


def convolutions(network: PathwayUNet) -> Iterator[tuple[str, torch.nn.Conv3d]]:
    """Names and convolutions of a network, in the order in which Keras has numbered them: level by level down, then up;
    within a level the two of the path, then that of the shortcut."""
    for part, pairs in (("down", network.down), ("up", network.up)):
        for level, pair in enumerate(pairs):
            for name in ("first", "second", "shortcut"):
                if (layer := getattr(pair, name)) is not None:
                    yield f"{part}.{level}.{name}", layer
    yield "last", network.last


def _tensors(file: h5py.File) -> dict[str, np.ndarray]:
    """All weights by name, e.g. ``conv3d_1/kernel:0``, in float32."""
    tensors = {}
    for layer in file.attrs["layer_names"]:
        group = file[_text(layer)]
        for name in group.attrs["weight_names"]:
            tensors[_text(name)] = np.asarray(group[_text(name)], dtype=np.float32)
    return tensors


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _wrong(why: str) -> NeoNetError:
    return NeoNetError("WRONG_WEIGHTS", f"The weights do not fit: {why}.", "This NeoNet reads the published file only.")
