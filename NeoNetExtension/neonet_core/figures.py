"""Pictures of a case: planes through the tumour, the TLCR patch with its attention map, the score in its cohort.

Slices are cut from canonical arrays and shown in radiological convention: the patient's right on the left of axial and
coronal planes, anterior on the left of sagittal ones, head up, in true millimetre aspect. The `Slice` functions need
numpy alone; the others return matplotlib Figures and never touch pyplot's global state.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neonet_core.bundle import RESEARCH_USE_ONLY
from neonet_core.volume import Volume, resample_like, to_canonical

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.path import Path
    from PIL.Image import Image as PilImage

    from neonet_core.pipeline import CaseResult, TumourPatch

PLANES = {"axial": (2, "RLAP"), "coronal": (1, "RLSI"), "sagittal": (0, "APSI")}
"""Of each plane the array axis that it cuts, and the letters at its left, right, top and bottom."""

# Okabe and Ito's palette: told apart by colour-blind readers.
LIVER, TUMOUR, BOX = "#56B4E9", "#E69F00", "#F0F0F0"
POSITIVE, NEGATIVE, INK, QUIET = "#D55E00", "#0072B2", "#1c2430", "#5b6675"
ATTENTION_MAP = "viridis"
MOST_OPAQUE = 0.7
TOP_ROW = 0.88  # height of the lines in the score's chart, of the axes

PLANE_PIXELS, TILE_PIXELS = 560, 330  # longer side
MOST_BYTES_A_PIXEL = 0.65  # three planes and five pairs of tiles, in base64, then stay below 1.8 MB whatever they show
FAST, THOROUGH = 3, 6  # zlib's levels: the first takes 0.4 of the time, for 2 % (a case's figure) to 16 % more bytes
HOPELESS = 1.25  # a fast encoding above the limit by more than this: the thorough one would not get below it either
DPI = 100


@dataclass(frozen=True, eq=False)
class Slice:
    """One plane as it is shown: row 0 on top, column 0 on the left.

    Attributes
    ----------
    plane : str
        A key of `PLANES`.
    position_mm : float
        R, A or S coordinate of the point where the three planes meet, or of the slice's centre.
    image : np.ndarray
        (rows, columns).
    liver, tumour : np.ndarray
        (rows, columns) bool: liver with tumour; tumour.
    pixel_mm : (float, float)
        Width and height of a pixel.
    box_mm : tuple of float or None
        Left, right, top and bottom of the crop, in mm from the upper left corner.
    attention : np.ndarray or None
        (rows, columns) float.
    """

    plane: str
    position_mm: float
    image: np.ndarray
    liver: np.ndarray
    tumour: np.ndarray
    pixel_mm: tuple[float, float]
    box_mm: tuple[float, float, float, float] | None = None
    attention: np.ndarray | None = None

    @property
    def size_mm(self) -> tuple[float, float]:
        """Width and height."""
        rows, columns = self.image.shape
        return columns * self.pixel_mm[0], rows * self.pixel_mm[1]

    @property
    def name(self) -> str:
        """E.g. ``"axial, S 12 mm"``: the plane and where it lies in RAS coordinates, as Slicer shows them."""
        position = round(self.position_mm)
        return f"{self.plane}, {'RAS'[PLANES[self.plane][0]]} {'−' if position < 0 else ''}{abs(position)} mm"


@dataclass(frozen=True, eq=False)
class Views:
    """What the pictures of a case show.

    Attributes
    ----------
    planes : tuple of Slice
        See `orthogonal_slices`.
    limits : (float, float)
        Intensities that `planes` show black and white.
    tiles : tuple of Slice
        See `patch_slices`; none without a patch.
    weights : (float, float) or None
        See `attention_range`; None without a score.
    """

    planes: tuple[Slice, ...]
    limits: tuple[float, float]
    tiles: tuple[Slice, ...]
    weights: tuple[float, float] | None


# --- slices -----------------------------------------------------------------------------------------------------------


def cut_views(result: CaseResult) -> Views:
    """Cut what the pictures of a case show; `CaseResult.views` keeps it for all of them."""
    patch, attention = result.patch, None if result.score is None else result.score.attention
    return Views(
        orthogonal_slices(result.image, result.label_map, patch),
        window(result.image) if patch is None else patch.intensity_range,  # the same, known already: 0.03 s
        () if patch is None else patch_slices(patch, attention),
        None if attention is None else attention_range(attention))


def orthogonal_slices(image: Volume, label_map: Volume, patch: TumourPatch | None) -> tuple[Slice, ...]:
    """Axial, coronal and sagittal plane where the tumour's area is largest.

    Parameters
    ----------
    image, label_map : Volume
        On one grid, in any orientation; slices follow the image's own axes, the closest to the patient's.
    patch : TumourPatch or None
        Of several tumours those inside the crop count; where it holds none the planes go through its centre.

    Returns
    -------
    tuple of Slice
        Without tumour and patch through the liver's centre, without liver through the volume's.
    """
    grid, labels = to_canonical(image), to_canonical(label_map).array
    box = None if patch is None else _crop_box(patch, grid)
    center = _center(labels, box)
    at_center = grid.affine @ [*center, 1.0]
    return tuple(_slice(plane, grid.array, labels, center[axis], grid.spacing, float(at_center[axis]), box)
                 for plane, (axis, _) in PLANES.items())


def patch_slices(patch: TumourPatch, attention: Volume | None = None, count: int = 5) -> tuple[Slice, ...]:
    """Axial slices of the patch, from head to feet, spread over the tumour's height.

    Parameters
    ----------
    attention : Volume or None
        On any grid; brought to that of the patch.
    count : int
        At most so many; fewer where the tumour has fewer slices.
    """
    weights = None if attention is None else resample_like(attention, patch.image, order=1).array
    occupied = np.flatnonzero(patch.masks[1].any(axis=(0, 1)))
    if not len(occupied):
        occupied = np.arange(patch.crop.filled[2].stop)
    # Evenly over the height, the two ends left out: a tumour's outermost slices show next to nothing of it.
    wanted = np.unique(np.linspace(occupied[0], occupied[-1], count + 2)[1:-1].round().astype(int))[::-1]
    slices = []
    for index in wanted.tolist():
        position = float((patch.image.affine @ [*((np.array(patch.image.shape[:2]) - 1) / 2), index, 1.0])[2])
        slices.append(_slice("axial", patch.image.array, patch.masks[0] + patch.masks[1], index, patch.image.spacing,
                             position, None, weights))
    return tuple(slices)


def attention_range(attention: Volume) -> tuple[float, float]:
    """Lowest and highest weight within the crop; outside it the map is exactly zero, inside never."""
    inside = attention.array[attention.array > 0]
    return (float(inside.min()), float(inside.max())) if inside.size else (0.0, 0.0)


def window(image: Volume) -> tuple[float, float]:
    """Intensities shown black and white: the 0.5 and 99.5 percentile, as in the networks' input."""
    low, high = np.percentile(image.array.ravel(order="K"), [0.5, 99.5]).tolist()
    return low, high if high > low else low + 1.0


def tilt_degrees(image: Volume) -> float:
    """Largest angle between an axis of the image and the patient's axis that it is shown as."""
    affine = to_canonical(image).affine[:3, :3]
    cosines = np.diag(affine) / np.linalg.norm(affine, axis=0)
    return float(np.degrees(np.arccos(np.clip(cosines, -1, 1))).max())


def _slice(plane: str, image: np.ndarray, labels: np.ndarray, index: int, spacing: Sequence[float],
           position_mm: float, box: np.ndarray | None, attention: np.ndarray | None = None) -> Slice:
    axis = PLANES[plane][0]
    across, up = (other for other in range(3) if other != axis)

    def shown(array: np.ndarray) -> np.ndarray:
        # What remains runs towards (R or A, A or S); the screen runs towards (L or P, P or I).
        return np.ascontiguousarray(array[(slice(None),) * axis + (index,)][::-1, ::-1].T)

    box_mm = None
    if box is not None:
        ends = [(image.shape[k] - 0.5 - box[::-1, k]) * spacing[k] for k in (across, up)]
        limits = [np.clip(end, 0, image.shape[k] * spacing[k]) for end, k in zip(ends, (across, up), strict=True)]
        left, right, top, bottom = np.concatenate(limits).tolist()
        box_mm = (left, right, top, bottom)
    label = shown(labels)
    return Slice(plane, position_mm, shown(image), label > 0, label == 2, (spacing[across], spacing[up]), box_mm,
                 None if attention is None else shown(attention))


def _crop_box(patch: TumourPatch, grid: Volume) -> np.ndarray:
    """First and last face of the crop as continuous indices into `grid`, (2, 3); both are canonical and parallel."""
    start, size = np.array(patch.crop.start), np.array(patch.crop.size)
    corners = np.array([[*(start - 0.5), 1.0], [*(start + size - 0.5), 1.0]])
    return (np.linalg.inv(grid.affine) @ patch.grid.affine @ corners.T).T[:, :3]


def _center(labels: np.ndarray, box: np.ndarray | None) -> tuple[int, ...]:
    """Index of the three planes that show the most of what matters."""
    if box is not None:
        first = np.clip(np.ceil(box[0] - 1e-3), 0, None).astype(int)
        stop = np.maximum(np.floor(box[1] + 1e-3).astype(int) + 1, first)
        tumour = labels[first[0]:stop[0], first[1]:stop[1], first[2]:stop[2]] == 2
        if not tumour.any():
            middle = np.clip(np.rint(box.mean(axis=0)), 0, np.array(labels.shape) - 1)
            return tuple(middle.astype(int).tolist())
    else:
        first, tumour = np.zeros(3, int), labels == 2
    if tumour.any():
        others = [tuple(other for other in range(3) if other != axis) for axis in range(3)]
        return tuple(int(first[axis] + tumour.sum(axis=others[axis]).argmax()) for axis in range(3))
    liver = np.argwhere(labels == 1)
    middle = liver.mean(axis=0) if len(liver) else (np.array(labels.shape) - 1) / 2
    return tuple(np.floor(middle + 0.5).astype(int).tolist())


# --- drawing ----------------------------------------------------------------------------------------------------------


def slice_figure(shown: Slice, limits: tuple[float, float], pixels: int = PLANE_PIXELS,
                 weights: tuple[float, float] | None = None) -> Figure:
    """One slice without margins, its longer side `pixels` long; see `draw_slice`."""
    from matplotlib.figure import Figure

    width, height = shown.size_mm
    unit = pixels / max(width, height) / DPI
    figure = Figure(figsize=(max(width * unit, 0.3), max(height * unit, 0.3)), dpi=DPI, facecolor="black")
    draw_slice(figure.add_axes((0, 0, 1, 1)), shown, limits, weights, letters=14, line=2.2)
    return figure


def draw_slice(axes: Axes, shown: Slice, limits: tuple[float, float], weights: tuple[float, float] | None = None,
               letters: float = 9.0, line: float = 1.2) -> None:
    """Draw a slice with the contours of liver and tumour, the crop's box and the letters of its sides.

    Parameters
    ----------
    limits : (float, float)
        Intensities shown black and white.
    weights : (float, float) or None
        Attention shown transparent and most opaque; None: the attention is not drawn.
    letters, line : float
        Font size and width of the contours, in points.
    """
    from matplotlib.collections import PathCollection
    from matplotlib.patheffects import AbstractPathEffect, withStroke

    width, height = shown.size_mm
    halo: list[AbstractPathEffect] = [withStroke(linewidth=line + 1.2, foreground="black", alpha=0.6)]
    axes.set_facecolor("black")
    axes.imshow(shown.image, cmap="gray", vmin=limits[0], vmax=limits[1], extent=(0, width, height, 0),
                interpolation="bilinear")
    if weights is not None:
        lay_attention_over(axes, shown, weights)
    for mask, colour in ((shown.liver, LIVER), (shown.tumour, TUMOUR)):
        if mask.any() and not mask.all():
            axes.add_collection(PathCollection([_border(mask, shown.pixel_mm)], facecolors="none", edgecolors=colour,
                                               linewidths=line, path_effects=halo, zorder=2), autolim=False)
    if shown.box_mm is not None:
        left, right, top, bottom = shown.box_mm
        axes.plot([left, right, right, left, left], [top, top, bottom, bottom, top], color=BOX, linewidth=0.8 * line,
                  linestyle=(0, (4, 3)), path_effects=halo)
    places = ((0.02, 0.5), (0.98, 0.5), (0.5, 0.98), (0.5, 0.02))
    for letter, (x, y) in zip(PLANES[shown.plane][1], places, strict=True):
        axes.text(x, y, letter, transform=axes.transAxes, color="white", fontsize=letters, fontweight="bold",
                  ha="left" if x < 0.1 else "right" if x > 0.9 else "center",
                  va="top" if y > 0.9 else "bottom" if y < 0.1 else "center", path_effects=halo)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    axes.set_axis_off()


def lay_attention_over(axes: Axes, shown: Slice, weights: tuple[float, float]) -> None:
    """Draw the slice's attention, if it has any, between its image and its contours, drawn already or not."""
    if shown.attention is not None:
        width, height = shown.size_mm
        axes.imshow(attention_colours(shown.attention, weights), extent=(0, width, height, 0), interpolation="bilinear")


def _border(mask: np.ndarray, pixel_mm: tuple[float, float]) -> Path:
    """The contour of a mask in mm: that of `Axes.contour`, without its scales of colours and widths (2 ms each)."""
    from contourpy import LineType, contour_generator
    from matplotlib.path import Path

    padded = np.pad(mask, 1, mode="edge").astype(float)  # what goes on beyond the picture has no border there
    rows, columns = ((np.arange(-1, length + 1) + 0.5) * step
                     for length, step in zip(mask.shape, pixel_mm[::-1], strict=True))
    lines = contour_generator(columns, rows, padded, name="mpl2014", line_type=LineType.SeparateCode).lines(0.5)
    return Path.make_compound_path(*map(Path, *lines))


def attention_colours(weights: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Colour and opacity of attention weights, (..., 4) in [0, 1]; both grow with the weight."""
    import matplotlib

    low, high = limits
    scaled = np.clip((weights - low) / (high - low), 0, 1) if high > low else np.zeros_like(weights, dtype=float)
    colours = matplotlib.colormaps[ATTENTION_MAP](scaled)
    colours[..., 3] = MOST_OPAQUE * scaled
    return np.asarray(colours)


def attention_bar() -> np.ndarray:
    """The colours of the map from its lowest to its highest weight, over mid-grey: (1, 256, 3) uint8."""
    colours = attention_colours(np.linspace(0, 1, 256)[None], (0, 1))
    opacity = colours[..., 3:]
    return np.rint(255 * (opacity * colours[..., :3] + (1 - opacity) * 0.45)).astype(np.uint8)


def score_figure(result: CaseResult) -> Figure:
    """The case's score, with its members and spread, among the training cohort's out-of-fold scores by outcome."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, 2.9), dpi=2 * DPI, facecolor="white")
    draw_score(figure.add_axes((0.02, 0.17, 0.96, 0.74)), result)
    return figure


def draw_score(axes: Axes, result: CaseResult) -> None:
    """See `score_figure`."""
    score, record = result.score, result.bundle.record
    assert score is not None, "a case without score has no chart"
    outcome, demo = Outcome.of(record.outcome), result.is_demonstration
    for row, (value, colour, marker) in enumerate(((0, NEGATIVE, "o"), (1, POSITIVE, "D"))):
        scores = np.sort([one.score for one in record.out_of_fold if one.outcome == value])
        height = (np.arange(len(scores)) * 0.618034 % 1 - 0.5) * 0.42  # golden ratio: neighbours lie apart
        axes.scatter(scores, row + height, s=17, marker=marker, color=colour, alpha=0.6, linewidths=0)
        axes.text(0, row + 0.29, _plain(f"{outcome.group(value)} ({len(scores)})"), color=colour, fontsize=9.5,
                  va="bottom")
    mean, spread = score.probability, score.spread
    if spread is not None:
        axes.axvspan(max(mean - spread, 0), min(mean + spread, 1), ymax=TOP_ROW, color=INK, alpha=0.12, linewidth=0)
        axes.scatter(score.members, np.full(len(score.members), 2.0), s=30, facecolor="white", edgecolor=INK,
                     linewidths=1.3, zorder=3)
    axes.axvline(mean, ymax=TOP_ROW, color=INK, linewidth=2.2)
    axes.text(0, 2.29, "this case" + ": mean and members" * (len(score.members) > 1), color=INK, fontsize=9.5,
              va="bottom")
    if score.threshold is not None:
        axes.axvline(score.threshold, ymax=TOP_ROW, color=QUIET, linewidth=1.4, linestyle=(0, (4, 3)))
        left = 0.25 < score.threshold < mean or score.threshold > 0.75  # away from the line of the score
        axes.text(score.threshold + (-0.008 if left else 0.008), -0.52, f"threshold {score.threshold:.2f}", color=QUIET,
                  fontsize=8.5, ha="right" if left else "left", va="bottom")
    title = ("Demonstration score " if demo else "Score ") + with_spread(score.members)
    axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold", color=INK)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.58, 2.6), yticks=[])
    axes.set_xlabel(_plain(f"{'demonstration ' if demo else ''}score for {outcome.short}, 0 to 1"), fontsize=9,
                    color=INK)
    axes.tick_params(labelsize=9, colors=INK)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)


def case_figure(result: CaseResult) -> Figure:
    """The whole case in one picture: planes, patch, attention and score, with notice and the bundle's name."""
    from matplotlib.figure import Figure

    planes, tiles, weights = result.views.planes, result.views.tiles, result.views.weights
    demo = "Demonstration " if result.is_demonstration else ""
    shares = plane_shares(planes)
    heights = [0.8 + 9.6 * shares[0] * planes[0].size_mm[1] / planes[0].size_mm[0],
               *[2.15] * bool(tiles), *[2.15] * bool(tiles and weights), *[3.0] * (result.score is not None)]
    total = sum(heights)
    figure = Figure(figsize=(10, total), dpi=DPI, facecolor="white")

    def axes_at(left: float, top: float, width: float, height: float) -> Axes:
        """Axes in inches from the figure's upper left corner."""
        return figure.add_axes((left / 10, 1 - (top + height) / total, width / 10, height / total))

    figure.text(0.02, 1 - 0.2 / total, _plain(f"NeoNet, bundle {result.bundle.name}"), fontsize=13, fontweight="bold",
                color=INK, va="top")
    notice = (DEMO_NOTE + "\n" if demo else "") + RESEARCH_USE_ONLY
    figure.text(0.98, 1 - 0.2 / total, notice, fontsize=8.5, color=INK, va="top", ha="right", fontweight="bold")
    top, height = 0.7, heights[0] - 0.8
    split = planes[1].size_mm[1] / planes[1].size_mm[0]
    split /= split + planes[2].size_mm[1] / planes[2].size_mm[0]
    places = [(0.2, top, 9.55 * shares[0], height),
              (0.25 + 9.55 * shares[0], top, 9.55 * shares[1], height * split - 0.025),
              (0.25 + 9.55 * shares[0], top + height * split + 0.025, 9.55 * shares[1], height * (1 - split) - 0.025)]
    for shown, place in zip(planes, places, strict=True):
        axes = axes_at(*place)
        draw_slice(axes, shown, result.views.limits)
        axes.set_anchor("N" if shown is planes[0] else "NW")
    for row, laid_over in enumerate([None, weights] if weights is not None else [None]):
        top = sum(heights[: row + 1])
        width = 9.6 / max(len(tiles), 5)
        for column, shown in enumerate(tiles):
            axes = axes_at(0.2 + column * width, top + 0.22, width - 0.06, 1.85)
            draw_slice(axes, shown, (0, 1), laid_over)
            title = shown.name if laid_over is None else f"{demo}attention".capitalize()
            axes.set_title(title, loc="left", y=1, fontsize=8.5, color=QUIET, pad=3)  # no y: looks for it, 4 ms
    if result.score is not None:
        draw_score(axes_at(0.25, total - 2.55, 9.5, 1.95), result)
    return figure


def plane_shares(planes: Sequence[Slice]) -> tuple[float, float]:
    """Shares of the width for the first plane and for the two stacked beside it, so that both columns are as high."""
    first, *beside = (height / width for width, height in (plane.size_mm for plane in planes))
    share = float(np.clip(sum(beside) / (first + sum(beside)), 0.4, 0.65))
    return share, 1 - share


DEMO_NOTE = "Demonstration model: not about a patient."


def png(picture: Figure | np.ndarray, most_bytes_a_pixel: float | None = MOST_BYTES_A_PIXEL) -> bytes:
    """A figure, or (rows, columns, 3) uint8, as PNG; equal pictures give equal bytes.

    Noise does not compress: a picture that gets too large is stored with fewer levels of each colour, and where that
    does not suffice with 16 colours in all. Encoding thoroughly is left to where it may decide about the levels.
    """
    from PIL import Image

    if isinstance(picture, np.ndarray):
        pixels = picture
    else:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas = FigureCanvasAgg(picture)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    most = np.inf if most_bytes_a_pixel is None else most_bytes_a_pixel * pixels.shape[0] * pixels.shape[1]
    for levels in (255, 127, 63, 31):
        rounded = np.rint(np.rint(np.arange(256) * (levels / 255)) * (255 / levels)).astype(np.uint8)
        image = Image.fromarray(rounded[pixels])
        data = _encoded(image, FAST)
        if most < len(data) <= HOPELESS * most:
            data = _encoded(image, THOROUGH)
        if len(data) <= most:
            return data
    return _encoded(Image.fromarray(np.ascontiguousarray(pixels)).quantize(16, dither=Image.Dither.NONE), THOROUGH)


def _encoded(image: PilImage, level: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="PNG", compress_level=level)
    return stream.getvalue()


# --- words that figures and page share --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """How the outcome is called: PNI by its name, any other column as it is."""

    name: str
    short: str

    @staticmethod
    def of(column: str) -> Outcome:
        return Outcome("perineural invasion (PNI)", "PNI") if column.lower() == "pni" else Outcome(column, column)

    def group(self, value: int) -> str:
        """The cases with this outcome, e.g. ``"PNI-negative"``."""
        if self.short == "PNI":
            return "PNI-positive" if value else "PNI-negative"
        return f"{self.short} = {value}"


def probability(value: float) -> str:
    """Two decimals, but never a 0 or 1 that the network did not give."""
    return "< 0.01" if value < 0.005 else "> 0.99" if value > 0.995 else f"{value:.2f}"


def with_spread(members: Sequence[float]) -> str:
    """Mean and, of several members, their standard deviation: ``"0.72 ± 0.06"``."""
    mean = probability(float(np.mean(members)))
    return f"{mean} ± {float(np.std(members)):.2f}" if len(members) > 1 else mean


def _plain(text: str) -> str:
    """Text that matplotlib does not read as mathematics."""
    return text.replace("$", r"\$")
