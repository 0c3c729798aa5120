"""Feature vectors of the slices of patches, by a named network: what distances between distributions are taken on.

Two extractors: our own segmentor's encoder (`SegmentorFeatures`), which knows liver MRI and is always there, and the
Inception network of the FID (`InceptionFeatures`), which knows photographs and needs its published weights as a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from unittest.mock import patch as replaced

import numpy as np
import torch

from neonet_core.evaluation.encoders import encoder_maps, on_network_grid
from neonet_core.evaluation.local_weights import import_package, unfit, weights_file
from neonet_core.evaluation.views import VIEWS, checked_patches, filled_slices, slices_of
from neonet_core.training.files import sha256_of_file

MOST_FEATURES = 300
"""Features that `SegmentorFeatures` takes at most: a covariance of F features wants more than F slices, and a fold's
held-out patients give some hundreds to two thousand. Inception has 2,048."""
SLICES_AT_ONCE = 32


@dataclass(frozen=True)
class SliceFeatures:
    """Features of one view: `values` (n, F) float32, a row for each slice, and `patch` (n,), the patch it is of."""

    values: np.ndarray
    patch: np.ndarray


@dataclass(frozen=True)
class FeatureSet:
    """Features of a set of patches; the extractor's name stays with them.

    Attributes
    ----------
    extractor : str
    inception : bool
        The features are those of the FID: distances on them may bear its name.
    patches : int
        Number of patches.
    views : dict of str to SliceFeatures
        By the names of `VIEWS`.
    """

    extractor: str
    inception: bool
    patches: int
    views: dict[str, SliceFeatures]

    def __len__(self) -> int:
        return self.patches

    def of_patches(self, indices: np.ndarray) -> FeatureSet:
        """The slices of these patches alone; each index at most once. They are numbered anew in the given order."""
        number = np.full(self.patches, -1)
        number[indices] = np.arange(len(indices))
        views = {}
        for view, features in self.views.items():
            owner = number[features.patch]
            views[view] = SliceFeatures(features.values[owner >= 0], owner[owner >= 0])
        return FeatureSet(self.extractor, self.inception, len(indices), views)

    def of_whole_patches(self) -> np.ndarray:
        """One vector a patch, the means over its slices in the three views side by side: (N, 3 F); 0 without slices."""
        means = []
        for features in self.views.values():
            sums = np.zeros((self.patches, features.values.shape[1]))
            np.add.at(sums, features.patch, features.values)
            count = np.bincount(features.patch, minlength=self.patches)
            means.append(sums / np.maximum(count, 1)[:, None])
        return np.concatenate(means, axis=1)


@dataclass(frozen=True)
class FeatureMap:
    """One level of a patch's encoding: `values` (C, x, y, z), of which the patch fills the first `filled` (3,) voxels.

    The rest is padding; `filled` need not be whole numbers.
    """

    values: np.ndarray
    filled: np.ndarray

    def inside(self) -> np.ndarray:
        """The part that the patch reaches into: (C, x, y, z)."""
        x, y, z = np.ceil(np.round(self.filled, 6)).astype(int)
        return self.values[:, :x, :y, :z]


class FeatureExtractor(Protocol):
    """What turns patches into features; `name` goes beside every number that comes of them."""

    name: str

    def extract(self, images: np.ndarray, spacings: Sequence[Sequence[float]] | np.ndarray | None = None) -> FeatureSet:
        """Features of all slices that are not padding.

        Parameters
        ----------
        images : np.ndarray
            (N, 1, X, Y, Z) in [0, 1].
        spacings : (N, 3), optional
            Voxel edges in mm.
        """
        ...


class SegmentorFeatures:
    """Mean and standard deviation of the activations of NeoSeg's encoder over each slice.

    A patch is resampled to the segmentor's own spacing and sent through its encoder as a whole, in 3D. The features of
    a slice are, of each channel, the mean and the standard deviation over the two in-plane axes, on the plane of the
    feature map that holds the slice's centre; the channels of several levels stand side by side, from the finest level
    on, as many as give `MOST_FEATURES` together. A feature map is coarser than the patch: neighbouring slices share
    planes. What is finer than the segmentor's grid (3 mm in the bundle `demo`) is not seen: a blur of one voxel does
    not move the distance; PSNR and SSIM see it. With `spacing` None the patches' own grid is kept, on which more is
    seen, by a network at another scale than it was trained at.

    Parameters
    ----------
    network : torch.nn.Module
        A trained segmentor of `segmentation.networks`, on `device`.
    spacing : tuple of float or None
        The grid in mm that it was trained on; None: each case's own.
    multiple : int
        What each edge must be a multiple of (`segmentation.networks.size_multiple`); 32 does for all of them.
    name : str
        E.g. "NeoSeg UNet (demo, fold 0)".
    device : torch.device
    """

    def __init__(self, network: torch.nn.Module, spacing: tuple[float, float, float] | None, multiple: int, name: str,
                 device: torch.device | None = None) -> None:
        self.name = name
        self._network = network
        self._spacing = spacing
        self._multiple = multiple
        self._device = device or torch.device("cpu")

    def extract(self, images: np.ndarray, spacings: Sequence[Sequence[float]] | np.ndarray | None = None) -> FeatureSet:
        images = checked_patches(images)
        rows: dict[str, list[np.ndarray]] = {view: [] for view in VIEWS}
        owners: dict[str, list[np.ndarray]] = {view: [] for view in VIEWS}
        for index, image in enumerate(images):
            levels = _finest(self.maps(image[0], None if spacings is None else spacings[index]))
            for view, axis in VIEWS.items():
                filled = np.flatnonzero(filled_slices(image[0], view))
                moments = [_slice_moments(level, axis, image.shape[1 + axis]) for level in levels]
                rows[view].append(np.concatenate(moments, axis=1)[filled])
                owners[view].append(np.full(len(filled), index))
        views = {view: SliceFeatures(np.concatenate(rows[view]), np.concatenate(owners[view])) for view in VIEWS}
        return FeatureSet(self.name, False, len(images), views)

    def maps(self, patch: np.ndarray, spacing: Sequence[float] | np.ndarray | None) -> list[FeatureMap]:
        """The feature maps of all levels of the encoder of a patch (X, Y, Z), the finest first."""
        edges = None if spacing is None else (float(spacing[0]), float(spacing[1]), float(spacing[2]))
        padded, extent = on_network_grid(patch, edges, self._spacing, self._multiple)
        self._network.eval()
        with torch.inference_mode():
            batch = torch.from_numpy(padded)[None, None].to(self._device)
            arrays = [level[0].float().cpu().numpy() for level in encoder_maps(self._network, batch)]
        share = np.array(extent) / padded.shape
        return [FeatureMap(array, share * array.shape[1:]) for array in arrays]


class InceptionFeatures:
    """The 2,048 pooled features of the Inception-v3 that defines the FID, of each slice as a grey image.

    Intensities in [0, 1] become 0 to 255, as the network's published pre-processing expects; torch-fidelity's network
    resizes the slice to 299 x 299 itself.

    Parameters
    ----------
    weights : Path
        safetensors with the state of torch-fidelity's FeatureExtractorInceptionV3. Nothing is downloaded.
    device : torch.device

    Raises
    ------
    NeoNetError
        ``MISSING_PACKAGE`` without torch-fidelity (and the torchvision that it imports), ``FILE_NOT_FOUND``,
        ``BAD_WEIGHTS`` where the file is not safetensors or does not fit.

    References
    ----------
    Heusel et al.: GANs trained by a two time-scale update rule converge to a local Nash equilibrium. NeurIPS 2017.
    """

    def __init__(self, weights: Path, device: torch.device | None = None) -> None:
        self._device = device or torch.device("cpu")
        self._network = _load_inception(weights).to(self._device).eval()
        self.name = f"Inception-v3 ({Path(weights).name}, SHA-256 {sha256_of_file(Path(weights))[:8]})"

    def extract(self, images: np.ndarray, spacings: Sequence[Sequence[float]] | np.ndarray | None = None) -> FeatureSet:
        images = checked_patches(images)
        views = {}
        for view in VIEWS:
            features, owners = [], []
            for index, image in enumerate(images):
                slices = slices_of(image[0], view)
                features.append(self._features(slices))
                owners.append(np.full(len(slices), index))
            views[view] = SliceFeatures(np.concatenate(features), np.concatenate(owners))
        return FeatureSet(self.name, True, len(images), views)

    def _features(self, slices: np.ndarray) -> np.ndarray:
        """(n, H, W) in [0, 1] -> (n, 2048)."""
        grey = torch.from_numpy(np.rint(255 * np.clip(slices, 0, 1)).astype(np.uint8))
        found = [np.zeros((0, 2048), np.float32)]
        with torch.inference_mode():
            for batch in grey.split(SLICES_AT_ONCE) if len(grey) else ():
                found.append(self._network(batch[:, None].expand(-1, 3, -1, -1).to(self._device))[0].cpu().numpy())
        return np.concatenate(found)


def _load_inception(path: Path) -> torch.nn.Module:
    purpose = "the FID's Inception network"
    path = weights_file(path, purpose)
    module = import_package("torch_fidelity.feature_extractor_inceptionv3", "The FID")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
        # its constructor would download or unpickle the weights; it gets ours in the place of the download
        with replaced.object(module, "load_state_dict_from_url", lambda *_, **__: state):
            return module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    except (RuntimeError, SafetensorError) as error:
        raise unfit(path, purpose, error) from error


def _finest(levels: list[FeatureMap]) -> list[FeatureMap]:
    """The levels from the finest on, as long as their features stay within `MOST_FEATURES`; at least one."""
    features = np.cumsum([2 * len(level.values) for level in levels])
    return levels[: max(int((features <= MOST_FEATURES).sum()), 1)]


def _slice_moments(level: FeatureMap, axis: int, slices: int) -> np.ndarray:
    """Mean and sd of a feature map in the plane of each slice of the patch along an axis, (slices, 2 C)."""
    inside, in_plane = level.inside(), tuple(1 + other for other in range(3) if other != axis)
    planes = np.concatenate([inside.mean(axis=in_plane), inside.std(axis=in_plane)])
    centres = (np.arange(slices) + 0.5) / slices * level.filled[axis]
    return planes[:, np.floor(centres).astype(int)].T
