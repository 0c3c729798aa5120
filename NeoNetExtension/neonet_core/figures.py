"""Pictures of a case: planes through the tumour, the TLCR patch with its attention map, the score in its cohort.

Slices are cut from canonical arrays and shown in radiological convention: the patient's right on the left of axial and
coronal planes, anterior on the left of sagittal ones, head up, in true millimetre aspect. The `Slice` functions need
numpy alone; the others return matplotlib Figures and never touch pyplot's global state.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from neonet_core.bundle import RESEARCH_USE_ONLY
from neonet_core.volume import Volume, resample_like, to_canonical

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from neonet_core.pipeline import CaseResult, TumourPatch

PLANES = {"axial": (2, "RLAP"), "coronal": (1, "RLSI"), "sagittal": (0, "APSI")}
"""Of each plane the array axis that it cuts, and the letters at its left, right, top and bottom."""

# Okabe and Ito's palette: told apart by colour-blind readers.
LIVER, TUMOUR, BOX = "#56B4E9", "#E69F00", "#F0F0F0"
POSITIVE, NEGATIVE, INK, QUIET = "#D55E00", "#0072B2", "#1c2430", "#5b6675"
ATTENTION_MAP = "viridis"
MOST_OPAQUE = 0.7

PLANE_PIXELS, TILE_PIXELS = 560, 330  # longer side; the page stays below 2 MB even where the image is pure noise
DPI = 100


@dataclass(frozen=True, eq=False)
class Slice:
    """One plane as it is shown: row 0 on top, column 0 on the left.

    Attributes
    ----------
    plane : str
        A key of `PLANES`.
    position_mm : float
        R, A or S coordinate of the plane in the image's centre lines (exact where the image is not oblique).
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
        return f"{self.plane}, {'RAS'[PLANES[self.plane][0]]} {self.position_mm:.0f} mm".replace("-0 mm", "0 mm")


# --- slices -----------------------------------------------------------------------------------------------------------


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
    return tuple(_slice(plane, grid.array, labels > 0, labels == 2, center[axis], grid.spacing,
                        float(at_center[axis]), box) for plane, (axis, _) in PLANES.items())


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
        slices.append(_slice("axial", patch.image.array, patch.masks[0] > 0, patch.masks[1] > 0, index,
                             patch.image.spacing, position, None, weights))
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


def _slice(plane: str, image: np.ndarray, liver: np.ndarray, tumour: np.ndarray, index: int,
           spacing: Sequence[float], position_mm: float, box: np.ndarray | None,
           attention: np.ndarray | None = None) -> Slice:
    axis = PLANES[plane][0]
    across, up = (other for other in range(3) if other != axis)

    def shown(array: np.ndarray) -> np.ndarray:
        # What remains runs towards (R or A, A or S); the screen runs towards (L or P, P or I).
        return np.ascontiguousarray(np.take(array, index, axis)[::-1, ::-1].T)

    box_mm = None
    if box is not None:
        ends = [(image.shape[k] - 0.5 - box[::-1, k]) * spacing[k] for k in (across, up)]
        limits = [np.clip(end, 0, image.shape[k] * spacing[k]) for end, k in zip(ends, (across, up), strict=True)]
        left, right, top, bottom = np.concatenate(limits).tolist()
        box_mm = (left, right, top, bottom)
    return Slice(plane, position_mm, shown(image), shown(liver), shown(tumour), (spacing[across], spacing[up]), box_mm,
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
        inside = labels[tuple(slice(a, max(int(np.floor(b + 1e-3)) + 1, a)) for a, b in zip(first, box[1], strict=True))]
        tumour = inside == 2
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
    draw_slice(figure.add_axes((0, 0, 1, 1)), shown, limits, weights, letters=pixels / 40)
    return figure


def draw_slice(axes: Axes, shown: Slice, limits: tuple[float, float], weights: tuple[float, float] | None = None,
               letters: float = 9.0) -> None:
    """Draw a slice with the contours of liver and tumour, the crop's box and the letters of its sides.

    Parameters
    ----------
    limits : (float, float)
        Intensities shown black and white.
    weights : (float, float) or None
        Attention shown transparent and most opaque; None: the attention is not drawn.
    letters : float
        Font size in points.
    """
    from matplotlib.patheffects import Stroke, withStroke

    width, height = shown.size_mm
    extent = (0.0, width, height, 0.0)
    halo = [withStroke(linewidth=2.2, foreground="black", alpha=0.7)]
    axes.set_facecolor("black")
    axes.imshow(shown.image, cmap="gray", vmin=limits[0], vmax=limits[1], extent=extent, interpolation="bilinear")
    if weights is not None and shown.attention is not None:
        axes.imshow(attention_colours(shown.attention, weights), extent=extent, interpolation="bilinear")
    columns = (np.arange(-1, shown.image.shape[1] + 1) + 0.5) * shown.pixel_mm[0]
    rows = (np.arange(-1, shown.image.shape[0] + 1) + 0.5) * shown.pixel_mm[1]
    for mask, colour in ((shown.liver, LIVER), (shown.tumour, TUMOUR)):
        if mask.any():
            lines = axes.contour(columns, rows, np.pad(mask, 1).astype(float), levels=[0.5], colors=[colour],
                                 linewidths=1.4)
            lines.set_path_effects([Stroke(linewidth=2.6, foreground="black", alpha=0.55), *_normal()])
    if shown.box_mm is not None:
        left, right, top, bottom = shown.box_mm
        axes.plot([left, right, right, left, left], [top, top, bottom, bottom, top], color=BOX, linewidth=1.1,
                  linestyle=(0, (4, 3)), path_effects=halo)
    for letter, (x, y) in zip(PLANES[shown.plane][1], ((0.02, 0.5), (0.98, 0.5), (0.5, 0.98), (0.5, 0.02)), strict=True):
        axes.text(x, y, letter, transform=axes.transAxes, color="white", fontsize=letters, fontweight="bold",
                  ha="left" if x < 0.1 else "right" if x > 0.9 else "center",
                  va="top" if y > 0.9 else "bottom" if y < 0.1 else "center", path_effects=halo)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    axes.set_axis_off()


def _normal() -> list[Any]:
    from matplotlib.patheffects import Normal

    return [Normal()]


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

    figure = Figure(figsize=(6.0, 3.1), dpi=DPI, facecolor="white")
    draw_score(figure.add_axes((0.03, 0.17, 0.94, 0.68)), result)
    return figure


def draw_score(axes: Axes, result: CaseResult) -> None:
    """See `score_figure`."""
    score, record = result.score, result.bundle.record
    assert score is not None, "a case without score has no chart"
    outcome, demo = Outcome.of(record.outcome), is_demonstration(result)
    cohort = "simulated training cases" if demo else "training cases"
    for row, (value, colour, marker) in enumerate(((0, NEGATIVE, "o"), (1, POSITIVE, "D"))):
        scores = np.sort([one.score for one in record.out_of_fold if one.outcome == value])
        spread = (np.arange(len(scores)) * 0.618034 % 1 - 0.5) * 0.42  # golden ratio: neighbours lie apart
        axes.scatter(scores, row + spread, s=17, marker=marker, color=colour, alpha=0.6, linewidths=0)
        axes.text(0, row + 0.31, _plain(f"{outcome.group(value)}: {len(scores)} {cohort}"), color=colour, fontsize=9,
                  va="bottom")
    mean, spread_mm = score.probability, score.spread
    if len(score.members) > 1:
        axes.axvspan(max(mean - spread_mm, 0), min(mean + spread_mm, 1), ymax=0.86, color=INK, alpha=0.13, linewidth=0)
    axes.axvline(mean, ymax=0.86, color=INK, linewidth=2)
    axes.scatter(score.members, np.full(len(score.members), 2.0), s=46, marker="|", color=INK, linewidths=1.6)
    axes.text(0, 2.31, "This case: mean and its members" if len(score.members) > 1 else "This case", color=INK,
              fontsize=9, va="bottom", fontweight="bold")
    if score.threshold is not None:
        axes.axvline(score.threshold, ymax=0.86, color=QUIET, linewidth=1.4, linestyle=(0, (4, 3)))
        left = score.threshold > 0.7
        axes.text(score.threshold + (-0.008 if left else 0.008), -0.52, f"threshold {score.threshold:.2f}", color=QUIET,
                  fontsize=8.5, ha="right" if left else "left", va="bottom")
    title = ("Demonstration score " if demo else "Score ") + with_spread(score.members)
    axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold", color=INK)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.58, 2.75), yticks=[])
    axes.set_xlabel(_plain(f"{'demonstration ' if demo else ''}score for {outcome.short}, 0 to 1"), fontsize=9,
                    color=INK)
    axes.tick_params(labelsize=9, colors=INK)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)


def case_figure(result: CaseResult) -> Figure:
    """The whole case in one picture: planes, patch, attention and score, with notice and the bundle's name."""
    from matplotlib.figure import Figure

    planes = orthogonal_slices(result.image, result.label_map, result.patch)
    attention = None if result.score is None else result.score.attention
    tiles = () if result.patch is None else patch_slices(result.patch, attention)
    figure = Figure(figsize=(10, 3.9 + (2.3 if tiles else 0) + (2.3 if attention is not None else 0)
                             + (3.0 if result.score is not None else 0)), dpi=DPI, facecolor="white")
    total = float(figure.get_size_inches()[1])
    top = total - 0.75
    demo = "Demonstration: " if is_demonstration(result) else ""

    def row(height: float, widths: Sequence[float]) -> list[Axes]:
        """A row of axes, `height` inches high, across the figure."""
        nonlocal top
        top -= height
        shares = np.array(widths) / sum(widths) * (9.6 - 0.06 * (len(widths) - 1))
        lefts = 0.2 + np.concatenate([[0], np.cumsum(shares + 0.06)[:-1]])
        return [figure.add_axes((left / 10, top / total, share / 10, (height - 0.3) / total))
                for left, share in zip(lefts.tolist(), shares.tolist(), strict=True)]

    figure.text(0.02, 1 - 0.22 / total, _plain(f"NeoNet, bundle {result.bundle.name}"), fontsize=13, fontweight="bold",
                color=INK, va="top")
    notice = (DEMO_NOTE + " " if demo else "") + RESEARCH_USE_ONLY
    figure.text(0.98, 1 - 0.26 / total, notice, fontsize=8.5, color=POSITIVE, va="top", ha="right", fontweight="bold")
    for axes, shown in zip(row(3.0, [shown.size_mm[0] for shown in planes]), planes, strict=True):
        draw_slice(axes, shown, window(result.image))
        axes.set_title(shown.name, loc="left", fontsize=8.5, color=QUIET)
    for weights in [None] * bool(tiles) + ([attention_range(attention)] if attention is not None and tiles else []):
        for axes, shown in zip(row(2.3, [1.0] * len(tiles)), tiles, strict=True):
            draw_slice(axes, shown, (0, 1), weights)
            axes.set_title(shown.name if weights is None else demo + "attention", loc="left", fontsize=8.5,
                           color=QUIET)
    if result.score is not None:
        top -= 0.25
        draw_score(row(2.6, [1.0])[0], result)
    return figure


DEMO_NOTE = "Demonstration model: not about a patient."


def png(picture: Figure | np.ndarray) -> bytes:
    """A figure, or (rows, columns, 3) uint8, as PNG of 256 colours; equal pictures give equal bytes."""
    from PIL import Image

    if isinstance(picture, np.ndarray):
        image = Image.fromarray(picture)
    else:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas = FigureCanvasAgg(picture)
        canvas.draw()
        image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    stream = io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(stream, format="PNG", optimize=True)
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


def is_demonstration(result: CaseResult) -> bool:
    """Whether the result comes from a model that knows simulated images only."""
    return result.bundle.is_demo or any(flag.code == "DEMO_MODEL" for flag in result.flags)


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
