"""NeoSeg in two steps: the liver on 3 mm voxels, then the lesions within it on 1 x 1 x 3 mm.

The grids, the intensity scaling and the windows are those that the published networks were trained with (see
``Documentation/pyliverlesionseg.md`` for each and its source). `TwoStep` takes what every segmentor takes, an image
with canonical axes and intensities in [0, 1], always on
`networks.TWO_STEP_SPACING`, and gives the three classes; but it looks at the
whole image at once, since a window says nothing about where the liver is.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from neonet_core.segmentation.components import Box, bounding_box, largest_component
from neonet_core.segmentation.networks import TWO_STEP_SPACING as SPACING
from neonet_core.segmentation.pathway_unet import LESION, LIVER, PathwayUNet, Size

LIVER_SPACING = 3.0
UPPER_SHARE = 0.8
"""Of the image's range: what lies above is as bright as the liver's network sees."""
BODY_THRESHOLD = 0.05
"""Of the image's range; what is brighter and belongs together is the body."""
ABDOMEN_SLICES = 80
"""Of 3 mm: as high as a stack is that holds a whole liver with what lies above and below it."""
NOTHING = 1e-6
"""Probabilities below this are as good as none; their logarithm is finite."""


class TwoStep(nn.Module):
    """The two networks with all that stands before, between and behind them.

    Parameters
    ----------
    channels : int
        Of each network's first convolution.
    """

    def __init__(self, channels: int = 20) -> None:
        super().__init__()
        self.liver = PathwayUNet(LIVER, channels)
        self.lesion = PathwayUNet(LESION, channels)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Segment one image.

        Parameters
        ----------
        image : torch.Tensor
            (1, 1, X, Y, Z) in [0, 1] on `SPACING`, axes closest to R, A, S.

        Returns
        -------
        torch.Tensor
            (1, 3, X, Y, Z) logarithms of the probabilities of background, liver, tumour.
        """
        liver = _to_size(_cleaned_liver(self._liver_probability(image)), image.shape[2:])
        lesion = self._lesion_probability(image, liver > 0.5)
        whole = torch.maximum(liver, lesion)
        return torch.cat([1 - whole, whole - lesion, lesion], dim=1).clamp_min(NOTHING).log()

    # --- the liver -----------------------------------------------------------------------------------------------

    def _liver_probability(self, image: torch.Tensor) -> torch.Tensor:
        """(1, 1, x, y, z) on 3 mm, zero outside the body's box."""
        coarse = smoothed_3mm(image)
        box = body_box(coarse[0, 0].cpu().numpy())
        probability = torch.zeros_like(coarse)
        window, place = liver_window(liver_intensities(coarse[(..., *box)]))
        found = torch.sigmoid(self.liver(window).float())
        probability[(..., *box)] = found[(..., *place)]
        return probability

    # --- the lesions in it ---------------------------------------------------------------------------------------

    def _lesion_probability(self, image: torch.Tensor, liver: torch.Tensor) -> torch.Tensor:
        """(1, 1, X, Y, Z) on the image's grid, zero outside the liver with its margin."""
        probability = torch.zeros_like(image)
        if not liver.any():
            return probability
        inside = with_margin(liver)
        box = bounding_box(inside[0, 0].cpu().numpy())
        near, within = lesion_intensities(image, liver, inside)[(..., *box)], inside[(..., *box)]
        part = probability[(..., *box)]
        for window, place, kept in lesion_windows(near, within):
            found = torch.sigmoid(self.lesion(window).float())
            part[(..., *place)] = found[(..., *kept)]
        part *= within
        return probability


# --- the liver's input ------------------------------------------------------------------------------------------------


def smoothed_3mm(image: torch.Tensor) -> torch.Tensor:
    """On isotropic 3 mm, after a median of 3 x 3 x 3 voxels of 1.5 mm, as the liver's network was trained.

    Parameters
    ----------
    image : torch.Tensor
        (1, 1, X, Y, Z) on `SPACING`.

    Returns
    -------
    torch.Tensor
        (1, 1, x, y, z); covers the image to half a voxel.
    """
    from scipy.ndimage import median_filter

    size = [max(1, round(length * step / LIVER_SPACING))
            for length, step in zip(image.shape[2:], SPACING, strict=True)]
    fine = functional.interpolate(image, [2 * length for length in size], mode="trilinear")
    calm = median_filter(fine[0, 0].cpu().numpy(), size=3)
    return functional.avg_pool3d(torch.from_numpy(calm).to(image)[None, None], 2)


def body_box(image: np.ndarray) -> Box:
    """Where the body lies in (x, y, z) on 3 mm: arms and air around it are no part of what the network learned.

    The largest bright component, opened once; all slices; at most what the network's window shows: its middle from
    side to side and from front to back, and its upper end.
    """
    from scipy import ndimage

    low, high = float(image.min()), float(image.max())
    body = ndimage.binary_opening(image > low + BODY_THRESHOLD * (high - low))
    box = bounding_box(largest_component(body)) if body.any() else _everything(image.shape)
    x, y = (_shortened(part, most) for part, most in zip(box[:2], LIVER.seen[:2], strict=True))
    z = image.shape[2]
    return x, y, slice(max(0, z - LIVER.seen[2]), z)


def _shortened(part: slice, most: int) -> slice:
    surplus = max(0, part.stop - part.start - most)
    return slice(part.start + surplus // 2, part.stop - (surplus - surplus // 2))


def liver_intensities(image: torch.Tensor) -> torch.Tensor:
    """From the darkest voxel to 80 % of the range, to [-0.5, 0.5]; what is brighter is cut."""
    low, high = image.min(), image.max()
    return ((image - low) / (UPPER_SHARE * (high - low)).clamp_min(NOTHING)).clamp(0, 1) - 0.5


def liver_window(image: torch.Tensor) -> tuple[torch.Tensor, Box]:
    """The window of the training with the image in its middle, and where its logits show the image.

    Around the image there are zeros, as in the training. A stack lower than `ABDOMEN_SLICES` is first continued to
    these by its outer slices: the network knows whole abdomens, and finds no liver in a few slices between zeros.

    Parameters
    ----------
    image : torch.Tensor
        (1, 1, x, y, z), at most `LIVER.seen`.

    Returns
    -------
    window : torch.Tensor
        (1, 1, *LIVER.window).
    place : tuple of slices
        In the network's output.
    """
    length = image.shape[2:]
    before = [(whole - edge) // 2 for whole, edge in zip(LIVER.window, length, strict=True)]
    missing = max(0, ABDOMEN_SLICES - length[2])
    lower, upper = missing // 2, missing - missing // 2
    window = functional.pad(image, (lower, upper, 0, 0, 0, 0), mode="replicate")
    padding = [(first, whole - edge - first) for whole, edge, first in zip(LIVER.window, length, before, strict=True)]
    padding[2] = (padding[2][0] - lower, padding[2][1] - upper)
    window = functional.pad(window, [value for pair in reversed(padding) for value in pair])
    margins = [(whole - seen) // 2 for whole, seen in zip(LIVER.window, LIVER.seen, strict=True)]
    return window, _box([first - margin for first, margin in zip(before, margins, strict=True)], list(length))


def _cleaned_liver(probability: torch.Tensor) -> torch.Tensor:
    """Probabilities (1, 1, x, y, z) of one liver: what an opening leaves of the largest component, and its holes.

    At the border, the probabilities stay as they are, so that it is not drawn in steps of 3 mm.
    """
    from scipy import ndimage

    likely = probability[0, 0].cpu().numpy() > 0.5
    ball = ndimage.generate_binary_structure(3, 2)
    core = ndimage.binary_erosion(likely, ball)
    if not core.any():
        return torch.zeros_like(probability)
    liver = ndimage.binary_dilation(largest_component(core), ball) & likely
    holes = ndimage.binary_fill_holes(liver) & ~liver
    near = ndimage.binary_dilation(liver, ball)
    kept = np.where(likely & ~liver & ~holes, 0, near).astype(np.float32)
    cleaned = probability * torch.from_numpy(kept).to(probability)
    return cleaned.masked_fill_(torch.from_numpy(holes).to(probability.device), 1)


# --- the lesions' input -----------------------------------------------------------------------------------------------


def with_margin(liver: torch.Tensor) -> torch.Tensor:
    """A mask (1, 1, X, Y, Z) dilated twice by its 18 neighbours: lesions at the border stay whole."""
    from scipy import ndimage

    mask = liver[0, 0].cpu().numpy()
    box = tuple(slice(max(part.start - 2, 0), part.stop + 2) for part in bounding_box(mask))
    grown = np.zeros_like(mask)
    grown[box] = ndimage.binary_dilation(mask[box], ndimage.generate_binary_structure(3, 2), iterations=2)
    return torch.from_numpy(grown).to(liver.device)[None, None]


def lesion_intensities(image: torch.Tensor, liver: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """The liver's median to 0, its farthest intensity to 0.5 or -0.5; outside it -0.5.

    Parameters
    ----------
    image, liver, inside : torch.Tensor
        (1, 1, X, Y, Z): intensities, the liver's mask, and that with its margin.
    """
    values = image[liver]
    median = values.median()
    farthest = torch.maximum(values.max() - median, median - values.min()).clamp_min(NOTHING)
    return ((image - median) * (0.5 / farthest)).clamp(-0.5, 0.5).masked_fill(~inside, -0.5)


def lesion_windows(image: torch.Tensor, inside: torch.Tensor) -> Iterator[tuple[torch.Tensor, Box, Box]]:
    """Windows of the training's size that show all of the liver, evenly spread; beyond its box there are zeros.

    Yields
    ------
    window : torch.Tensor
        (1, 1, *LESION.window).
    place, kept : tuple of slices
        Where in `image` its logits belong, and which of them.
    """
    length = image.shape[2:]
    margins = [(whole - seen) // 2 for whole, seen in zip(LESION.window, LESION.seen, strict=True)]
    padded = functional.pad(image, [value for edge, seen, margin in reversed(list(zip(length, LESION.seen, margins,
                                                                                     strict=True)))
                                    for value in (margin, margin + max(0, seen - edge))])
    for start in np.ndindex(*(len(_starts(edge, seen)) for edge, seen in zip(length, LESION.seen, strict=True))):
        first = [_starts(edge, seen)[index] for index, edge, seen in zip(start, length, LESION.seen, strict=True)]
        place = _box(first, [min(seen, edge) for seen, edge in zip(LESION.seen, length, strict=True)])
        if inside[(..., *place)].any():
            kept = _box((0, 0, 0), [part.stop - part.start for part in place])
            yield padded[(..., *_box(first, LESION.window))], place, kept


def _starts(length: int, seen: int) -> list[int]:
    """Where windows begin that together cover `length`: as few as can be, at even distances."""
    count = -(-length // seen)
    return [round(index * (length - seen) / max(count - 1, 1)) for index in range(count)] if count > 1 else [0]


# --- sizes and boxes --------------------------------------------------------------------------------------------------


def _to_size(image: torch.Tensor, size: torch.Size) -> torch.Tensor:
    return functional.interpolate(image, list(size), mode="trilinear")


def _box(start: tuple[int, ...] | list[int], length: Size | list[int]) -> Box:
    x, y, z = (slice(first, first + count) for first, count in zip(start, length, strict=True))
    return x, y, z


def _everything(shape: tuple[int, ...]) -> Box:
    x, y, z = (slice(0, length) for length in shape)
    return x, y, z
