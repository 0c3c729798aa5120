"""Draws the panels' screenshots, and what lies in the slice views beside them: `make screenshots`.

The four modules run on the stand-in for Slicer (`Testing/slicer_standin`) with its real MRML library: the built-in
simulated case and the built-in bundle, by the panels' own buttons and their own jobs. Nothing here is a photo of
Slicer's window.
"""

# ruff: noqa: E402, I001 - the stand-in comes first
import argparse
import io
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "Testing"), str(ROOT / "NeoNetExtension")]

import slicer_standin
import numpy as np
import slicer
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw, ImageFilter

from NeoNetLib import croppreview, nodes, results
from NeoNetLib.segments import LIVER, TUMOUR
from neonet_core.volume import Volume, to_canonical

MODULES = ("NeoNetSeg", "NeoNetGen", "NeoNetCls", "NeoNetExtension")
ICONS = ROOT / "NeoNetExtension" / "Resources" / "Icons"
PATCHES = 3
WIDTH, MARGIN, COLOURS, THUMBNAIL = 480, 16, 256, 128
AXES = {  # of the slice's right and up, as in Slicer: patient's right on the left, front on the left
    "Axial": (2, (0, -1), (1, 1)),
    "Sagittal": (0, (1, -1), (2, 1)),
    "Coronal": (1, (0, -1), (2, 1)),
}
"""Orientation: axis across the slice; axis and sign to the right; axis and sign upwards."""


def finish(panel):
    """Wait for a panel's job; the figures would be wrong after one that failed."""
    if not slicer_standin.spinUntil(lambda: not panel.running, 1000 * 1800) or panel.messageLabel.text != "Done.":
        raise SystemExit(f"{panel.messageLabel.text}\n{panel.logText.plainText}")


def opened(name):
    slicer.util.selectModule(name)
    return slicer.util.getModuleWidget(name)


def shoot(widget, path):
    """A panel as PNG with few colours, without the empty part at its end."""
    slicer_standin.screenshot(widget, path, WIDTH)
    picture = Image.open(path).convert("RGB")
    pixels = np.asarray(picture)
    last = np.nonzero((pixels != pixels[-1]).any((1, 2)))[0][-1]
    whole = picture.crop((0, 0, picture.width, min(last + MARGIN, picture.height)))
    save(whole, path, method=Image.Quantize.MAXCOVERAGE)  # which keeps rare colours


def save(picture, path, colours=COLOURS, method=Image.Quantize.MEDIANCUT):
    picture.convert("RGB").quantize(colours, method, dither=Image.Dither.NONE).save(path, optimize=True)


def panels(folder):
    """`NeoNet.png`, `NeoNetSeg.png`, `NeoNetCls.png`, `NeoNetGen.png`; leaves case and results in the scene."""
    for name in MODULES:
        slicer_standin.loadModule(str(ROOT / name / f"{name}.py"))
    home = opened("NeoNetExtension")
    for section in (home.ui.batchSection, home.ui.environmentSection):
        section.collapsed = False
        section.collapsed = True  # the stand-in leaves room for what a .ui file collapses
    home.ui.phantomButton.click()
    finish(home.segmentPanel)
    home.segmentPanel.runButton.click()
    finish(home.segmentPanel)
    home.scorePanel.runButton.click()
    finish(home.scorePanel)
    shoot(home, folder / "NeoNet.png")

    seg = opened("NeoNetSeg")
    seg.ui.previewButton.checked = True
    shoot(seg, folder / "NeoNetSeg.png")

    cls = opened("NeoNetCls")
    shoot(cls, folder / "NeoNetCls.png")

    gen = opened("NeoNetGen")
    gen.ui.countSpin.value = PATCHES
    gen.panel.runButton.click()
    finish(gen.panel)
    slicer_standin.spinUntil(lambda: gen.sideBySide.active, 10000)
    shoot(gen, folder / "NeoNetGen.png")
    if slicer_standin.slotErrors:
        raise SystemExit(f"an error in a slot: {slicer_standin.slotErrors}")
    return cls


def slices(volume, segmentation, segmentIds, path):
    """`slices.png`: what the nodes of the scene put into the three slice views at the crop's centre."""
    image, affine = nodes.canonical(volume)
    labels = nodes.labelMapArray(segmentation, *segmentIds, volume)
    labels = to_canonical(Volume(labels.T, nodes.localAffine(volume))).array
    attention = nodes.canonical(results.attentionOf(results.tableOf(volume)))[0]
    box = croppreview.cropBox(volume, segmentation)
    spacing = np.diag(affine)[:3]  # the simulated case lies along the axes
    if not np.allclose(affine[:3, :3], np.diag(spacing)):
        raise SystemExit("The picture is drawn along R, A, S; this case is oblique.")
    center = (np.array(box.GetCenter()) - affine[:3, 3]) / spacing
    size = np.array(box.GetSize()) / spacing
    display = volume.GetDisplayNode()
    low, high = display.GetWindowLevelMin(), display.GetWindowLevelMax()
    inside = attention[attention > 0]
    viridis = colormaps["viridis"]

    body = [slice(*span) for span in filled(image > low + 0.2 * (high - low))]
    image, labels, attention = image[*body], labels[*body], attention[*body]
    center -= [span.start for span in body]

    figure = Figure(figsize=(10.4, 3.6), facecolor="black", layout="constrained", dpi=100)
    shapes = [extent(image.shape, spacing, *AXES[name][1:])[0] for name in AXES]
    for axis, name in zip(figure.subplots(1, 3, width_ratios=shapes), AXES, strict=True):
        across, right, up = AXES[name]
        level = round(float(center[across]))
        shown = [cut(array, across, level, right, up) for array in (image, labels, attention)]
        width, height = extent(image.shape, spacing, right, up)
        place = {"extent": (0, width, 0, height), "interpolation": "nearest"}
        axis.imshow(shown[0], cmap="gray", vmin=low, vmax=high, **place)
        weight = (shown[2] - inside.min()) / np.ptp(inside)
        axis.imshow(viridis(np.clip(weight, 0, 1), alpha=0.5 * (shown[2] > 0)), **place)
        for mask, kind in ((shown[1] > 0, LIVER), (shown[1] == 2, TUMOUR)):
            if mask.any():
                axis.contour(mask[::-1], levels=[0.5], colors=[kind.colour], linewidths=1.2,
                             extent=(0, width, 0, height))
        corner, length = [], []
        for direction, sign in (right, up):
            start = center[direction] - size[direction] / 2 + 0.5  # from the volume's edge, in voxels
            start = start if sign > 0 else image.shape[direction] - start - size[direction]
            corner.append(start * spacing[direction])
            length.append(size[direction] * spacing[direction])
        axis.add_patch(Rectangle(corner, *length, fill=False, edgecolor="white", linewidth=1, linestyle="--"))
        axis.set(xlim=(0, width), ylim=(0, height), aspect="equal")
        axis.set_title(name, color="white", fontsize=9)
        axis.axis("off")
    figure.suptitle("SIMULATED case, DEMONSTRATION model: drawn from the nodes of the scene, not a photo of Slicer's "
                    "window", color="white", fontsize=9)
    figure.supxlabel("outlines: liver, tumour (yellow)     dashed: crop     colours: attention map, yellow most",
                     color="white", fontsize=8)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", facecolor="black")
    save(Image.open(drawn), path)


def cut(array, across, level, right, up):
    """A slice as a picture: rows from above, columns to the right."""
    plane = np.take(array, level, across)
    if right[0] > up[0]:
        plane = plane.T
    plane = plane[::right[1], ::up[1]]  # to the right, upwards
    return plane.T[::-1]


def filled(mask):
    """First and last index + 1 along each axis where a mask is more than a stray voxel."""
    spans = []
    for axis in range(mask.ndim):
        shares = mask.mean(tuple(other for other in range(mask.ndim) if other != axis))
        along = np.nonzero(shares > 0.01)[0]
        spans.append((along[0], along[-1] + 1))
    return spans


def extent(shape, spacing, right, up):
    """Width and height of a slice in mm."""
    return shape[right[0]] * spacing[right[0]], shape[up[0]] * spacing[up[0]]


def thumbnails(volume):
    """Pictures for Slicer's Sample Data module: the simulated case, and a drawing that stands for an abdominal MRI."""
    image = nodes.canonical(volume)[0]
    low, high = np.percentile(image, (0.5, 99.5))
    across, *directions = AXES["Axial"]
    plane = cut(np.clip((image - low) / (high - low), 0, 1), across, image.shape[across] // 2, *directions)
    picture = Image.fromarray(np.rint(255 * plane).astype(np.uint8))
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    square = Image.new("L", (THUMBNAIL, THUMBNAIL))
    square.paste(picture, ((THUMBNAIL - picture.width) // 2, (THUMBNAIL - picture.height) // 2))
    save(square, ICONS / "Phantom.png", 64)

    scale = 4  # drawn large, for smooth edges
    drawing = Image.new("L", (THUMBNAIL * scale, THUMBNAIL * scale))
    draw = ImageDraw.Draw(drawing)
    for (x, y, width, height), grey in (
        ((64, 66, 56, 42), 190), ((64, 66, 52, 38), 70),  # fat beneath the skin, what lies inside
        ((43, 58, 26, 24), 130), ((58, 48, 22, 12), 130),  # liver
        ((95, 66, 12, 17), 105), ((85, 45, 13, 9), 50),  # spleen, stomach
        ((64, 88, 10, 9), 150), ((64, 88, 4, 3), 215),  # spine with its canal
        ((60, 72, 4, 4), 30), ((72, 73, 4, 4), 30),  # vena cava, aorta
    ):
        draw.ellipse([scale * edge for edge in (x - width, y - height, x + width, y + height)], fill=grey)
    drawing = drawing.filter(ImageFilter.GaussianBlur(scale)).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    save(drawing, ICONS / "AbdomenMRI.png", 32)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "Resources" / "screenshots")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    slicer_standin.reset()
    cls = panels(folder)
    volume, segmentation, *segmentIds = cls.inputs()[:4]
    slices(volume, segmentation, segmentIds, folder / "slices.png")
    thumbnails(volume)
    slicer.util.selectModule("Data")
    for name in reversed(MODULES):
        slicer_standin.unloadModule(name)
    slicer_standin.reset()


if __name__ == "__main__":
    main()
