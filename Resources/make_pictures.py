"""Draws the README's pictures from real output: `make picture`."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from matplotlib.figure import Figure

from neonet_core.bundle import catalogue, load_bundle
from neonet_core.demo import run_demo
from neonet_core.experiment.reporting.pictures import patch_gallery
from neonet_core.figures import LIVER, TUMOUR, png
from neonet_core.phantom import draw_severity, simulate_case
from neonet_core.pipeline import cut_patch
from neonet_core.presets import CropSettings
from neonet_core.segmentation.inference import segment
from neonet_core.training.patches import Patches
from neonet_core.volume import read_volume, to_canonical

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "shared" / "data"
REAL = {"abdominal MRI": "abdomen_mr/example_mr_sm.nii.gz", "T2": "abdomen_mr/CMB-CRC_SCAN001_T2_half.nii.gz",
        "ADC": "abdomen_mr_dicom/adc_series.zip"}
GENERATED = ((0, 901), (1, 902), (0, 903), (1, 904))
SHOWN = ((0, 3), (0, 12), (1, 7), (1, 5))  # PNI and seed


def demo_case() -> None:
    """`demo-case.png`: the main figure of `neonet demo`."""
    with TemporaryDirectory() as folder:
        run_demo(Path(folder))
        (HERE / "demo-case.png").write_bytes((Path(folder) / "figure.png").read_bytes())


def phantoms() -> None:
    """`phantoms.png`: two simulated cases of each outcome, whole slice above, tumour below."""
    figure = Figure(figsize=(12, 5.6), facecolor="black", layout="constrained")
    axes = figure.subplots(2, len(SHOWN), gridspec_kw={"height_ratios": (1, 1)})
    for column, (pni, seed) in enumerate(SHOWN):
        case = simulate_case(pni, seed, size="full")
        image, labels = to_canonical(case.image), to_canonical(case.label_map)
        level = int(np.median(np.nonzero(labels.array == 2)[2]))
        patch = cut_patch(case.image, case.label_map, CropSettings(size=(64, 64, 32)))
        middle = patch.image.array[:, :, level - patch.crop.start[2]]
        low, high = np.percentile(image.array, (0.5, 99.5))
        title = f"simulated, {'PNI' if pni else 'no PNI'}, severity {draw_severity(pni, seed):.1f}"
        axes[0, column].set_title(title, color="white", fontsize=10)
        # radiological convention: patient's right on the left, front up
        for axis, picture, scale in ((axes[0, column], image.array[25:215, 45:195, level], (low, high)),
                                     (axes[1, column], middle, (0, 1))):
            axis.imshow(picture[::-1, ::-1].T, cmap="gray", vmin=scale[0], vmax=scale[1], interpolation="bilinear")
            axis.axis("off")
    (HERE / "phantoms.png").write_bytes(png(figure))


def patches() -> None:
    """`patches.png`: simulated patients, their masks, and what the built-in bundle's generator makes of these masks."""
    bundle = load_bundle("demo")
    preset, (member, generator) = bundle.record.preset, bundle.generators(torch.device("cpu"))[0]
    cut, samples = [], []
    for pni, seed in GENERATED:
        case = simulate_case(pni, seed, size="full")
        patch = cut_patch(case.image, case.label_map, preset.crop, member.crop_spacing)
        cut.append(patch)
        samples.append(generator.generate(patch.masks[None], [pni], [seed], sampler=preset.synth.sampler,
                                          steps=preset.synth.steps)[0])
    real = Patches(np.stack([patch.image.array[None] for patch in cut]), np.stack([patch.masks for patch in cut]),
                   np.array([pni for pni, _ in GENERATED]), np.array([patch.image.spacing for patch in cut]))
    shown = {"NeoGen": replace(real, images=np.stack(samples))}
    (HERE / "patches.png").write_bytes(png(patch_gallery(real, range(len(cut)), shown)))


def published() -> None:
    """`Documentation/pyliverlesionseg.png`: what the imported bundle finds in three real images, right or wrong."""
    if "pyliverlesionseg" not in catalogue() or not DATA.is_dir():
        print("pyliverlesionseg.png is left as it is: it needs the imported bundle and ../shared/data.")
        return
    device = torch.device("cpu")
    segmentors = load_bundle("pyliverlesionseg").segmentors(device)
    figure = Figure(figsize=(9, 7.6), facecolor="black", layout="constrained")
    for row, (title, path) in zip(figure.subplots(len(REAL), 3), REAL.items(), strict=True):
        image = read_volume(DATA / path)
        labels = to_canonical(segment(image, segmentors, device)).array
        shown = to_canonical(image)
        low, high = np.percentile(shown.array, (0.5, 99.5))
        levels = np.quantile(np.nonzero(labels)[2], (0.25, 0.5, 0.75)).astype(int)  # of the liver, from below
        for axis, level in zip(row, levels, strict=True):
            axis.imshow(shown.array[::-1, ::-1, level].T, cmap="gray", vmin=low, vmax=high,
                        aspect=shown.spacing[1] / shown.spacing[0])
            for mask, colour in ((labels[..., level] > 0, LIVER), (labels[..., level] == 2, TUMOUR)):
                if mask.any():
                    axis.contour(mask[::-1, ::-1].T, levels=[0.5], colors=colour, linewidths=1)
            axis.set_title(f"{title}, slice {level}", color="white", fontsize=8)
            axis.axis("off")
    (HERE.parent / "Documentation" / "pyliverlesionseg.png").write_bytes(png(figure))


if __name__ == "__main__":
    phantoms()
    demo_case()
    patches()
    published()
