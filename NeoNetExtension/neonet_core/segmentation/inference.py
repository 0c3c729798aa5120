"""Sliding-window inference of NeoSeg, and the way from probabilities to a label map on the input's grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from neonet_core.events import Events, Silent
from neonet_core.preprocessing import prepare_image
from neonet_core.presets import SegSettings
from neonet_core.segmentation.components import largest_component
from neonet_core.segmentation.two_step import TwoStep
from neonet_core.volume import Volume, resample_like, same_grid

WINDOWS_AT_ONCE = 4
MINIMUM_ISLAND_SHARE = 0.1
"""Tumour islands below this share of the largest one are taken for false positives."""


@dataclass(frozen=True)
class Segmentor:
    """A trained network with the settings and the grid that it was trained on; `spacing` None is each case's own."""

    network: torch.nn.Module
    settings: SegSettings
    spacing: tuple[float, float, float] | None


def predict_probabilities(network: torch.nn.Module, image: np.ndarray, settings: SegSettings,
                          device: torch.device) -> np.ndarray:
    """Class probabilities of a prepared image.

    Windows of the training's patch size overlap by ``settings.overlap`` and are weighted by a Gaussian. The sums stay
    in main memory; on the device there are only `WINDOWS_AT_ONCE` windows, whatever the volume's size. `TwoStep` looks
    for its windows itself.

    Parameters
    ----------
    image : np.ndarray
        (X, Y, Z) float32 in [0, 1].

    Returns
    -------
    np.ndarray
        (3, X, Y, Z) float32, background, liver, tumour; sums to one over the classes.
    """
    from monai.inferers import sliding_window_inference

    network.eval()
    with torch.inference_mode():
        batch = torch.from_numpy(np.array(image, dtype=np.float32, order="C"))[None, None]  # memory-mapped: a copy
        if isinstance(network, TwoStep):
            return torch.softmax(network(batch.to(device))[0], dim=0).cpu().numpy()
        logits = sliding_window_inference(batch, settings.patch_size, WINDOWS_AT_ONCE, network,
                                          overlap=settings.overlap, mode="gaussian", sw_device=device, device="cpu")
        return torch.softmax(torch.as_tensor(logits)[0].float(), dim=0).numpy()


def segment(image: Volume, segmentors: Sequence[Segmentor], device: torch.device,
            events: Events | None = None) -> Volume:
    """Label map of an image by the mean probability of several networks.

    Parameters
    ----------
    image : Volume
        As read; any orientation and spacing.
    segmentors : sequence of Segmentor
        At least one; each looks at the image on the spacing that it was trained on.

    Returns
    -------
    Volume
        (X, Y, Z) uint8 on the grid of `image`: 0 background, 1 liver, 2 tumour.
    """
    events = events or Silent()
    # the median spacing of a fold's training cases is not quite that of the next fold
    images = {segmentor.spacing: prepare_image(image, segmentor.spacing).volume for segmentor in segmentors}
    prepared = images[segmentors[0].spacing]
    total: np.ndarray | None = None
    for done, segmentor in enumerate(segmentors):
        events.progress("segment", done, len(segmentors) + 1)
        own = images[segmentor.spacing]
        probabilities = predict_probabilities(segmentor.network, own.array, segmentor.settings, device)
        if own is not prepared:
            probabilities = np.stack([resample_like(Volume(one, own.affine), prepared).array for one in probabilities])
        total = probabilities if total is None else total + probabilities
    assert total is not None, "segment() needs at least one network"
    events.progress("segment", len(segmentors), len(segmentors) + 1)
    label_map = probabilities_to_label_map(total / len(segmentors), prepared, image)
    events.progress("segment", len(segmentors) + 1, len(segmentors) + 1)
    return label_map


def probabilities_to_label_map(probabilities: np.ndarray, prepared: Volume, image: Volume) -> Volume:
    """The most probable class of each voxel of `image`, islands removed.

    Probabilities are interpolated before a class is chosen: interpolating labels would draw the network's coarser
    voxels as steps into the result.

    Parameters
    ----------
    probabilities : np.ndarray
        (3, X, Y, Z) on the grid of `prepared`.

    Returns
    -------
    Volume
        uint8 on the grid of `image`.
    """
    liver, tumour = probabilities[1], probabilities[2]
    if not (prepared.shape == image.shape and np.allclose(prepared.affine, image.affine)):
        # one map at a time: three full-size float maps of a large volume are the peak of the memory otherwise
        on_prepared = same_grid(prepared, image)
        order = 0 if on_prepared else 1
        liver = resample_like(Volume(liver, prepared.affine), image, order=order).array
        tumour = resample_like(Volume(tumour, prepared.affine), image, order=order).array
    labels = np.zeros(image.shape, dtype=np.uint8)
    background = 1 - liver - tumour
    labels[(liver >= tumour) & (liver > background)] = 1
    labels[(tumour > liver) & (tumour > background)] = 2
    return Volume(remove_islands(labels), image.affine)


def remove_islands(labels: np.ndarray) -> np.ndarray:
    """Keep the largest connected foreground, and in it the tumour islands that are not small.

    Rules: (1) liver and tumour together: only the largest component stays. (2) Tumour islands smaller than
    `MINIMUM_ISLAND_SHARE` of the largest become liver. (3) Holes of background inside the foreground become liver.

    Parameters
    ----------
    labels : np.ndarray
        (X, Y, Z) uint8.
    """
    from scipy import ndimage

    foreground = labels > 0
    if not foreground.any():
        return labels
    box = ndimage.find_objects(foreground.astype(np.uint8))[0]
    inside, kept = labels[box], largest_component(foreground[box])
    inside = np.where(kept, inside, 0).astype(np.uint8)
    inside[ndimage.binary_fill_holes(kept) & (inside == 0)] = 1
    components, count = ndimage.label(inside == 2)
    if count > 1:
        sizes = np.bincount(components.ravel())
        sizes[0] = 0
        small = np.flatnonzero((sizes < MINIMUM_ISLAND_SHARE * sizes.max()) & (sizes > 0))
        inside[np.isin(components, small)] = 1
    cleaned = np.zeros_like(labels)
    cleaned[box] = inside
    return cleaned
