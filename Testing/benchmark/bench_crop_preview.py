"""Milliseconds that Slicer's main thread is held, on a volume of 240 x 240 x 100: the crop preview while its box moves
(the goal: under 100 ms), and writing a job's input and loading its label map (under 1 s together).

    PYTHONPATH=NeoNetExtension:Testing python Testing/benchmark/bench_crop_preview.py
"""

import slicer_standin  # noqa: F401  first: it makes the rest of slicer

# isort: split
import tempfile
import time
from pathlib import Path

import numpy as np
import slicer

from neonet_core.volume import Volume, read_volume, to_canonical, write_volume
from NeoNetLib import nodes, segments
from NeoNetLib.croppreview import CropPreview

SHAPE = (100, 240, 240)  # K, J, I
SPACING = (1.2, 1.2, 2.5)
RUNS = 20


def make_case():
    """A noisy left-handed oblique volume, and a liver with a tumour, both with rough borders."""
    random = np.random.default_rng(0)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[-0.8, 0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]) * [1.5, 1.5, 3]
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "mr")
    slicer.util.updateVolumeFromArray(volume, random.integers(0, 1000, SHAPE).astype(np.int16))
    volume.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(affine))
    k, j, i = np.ogrid[:SHAPE[0], :SHAPE[1], :SHAPE[2]]
    rough = 1 + 0.02 * random.standard_normal(SHAPE)
    labels = (((k - 50) / 30) ** 2 + ((j - 110) / 60) ** 2 + ((i - 100) / 75) ** 2 < rough).astype(np.uint8)
    labels[((k - 50) / 9) ** 2 + ((j - 110) / 18) ** 2 + ((i - 100) / 18) ** 2 < rough] = 2
    return volume, labels


def timed(name, action):
    begun = time.perf_counter()
    result = action()
    print(f"{name:50} {1000 * (time.perf_counter() - begun):7.1f} ms")
    return result


def main():
    volume, labels = make_case()
    folder = Path(tempfile.mkdtemp())
    timed("write the volume", lambda: nodes.writeVolume(volume, folder / "image.nrrd"))
    affine = read_volume(folder / "image.nrrd").affine
    write_volume(to_canonical(Volume(labels.T, affine)), folder / "labels.nii.gz")
    segmentation = timed("load and show the label map, with its surface",
                         lambda: nodes.showLabelMap(folder / "labels.nii.gz", volume))
    ids = segments.findSegments(segmentation)
    timed("write the label map", lambda: nodes.writeLabelMap(segmentation, *ids, volume, folder / "labels.nrrd"))
    for spacing in (None, SPACING):
        for component in ("all", "largest"):
            print(f"--- crop 96 x 96 x 48, spacing {spacing}, component {component}")
            preview = timed("first preview", lambda s=spacing, c=component: CropPreview(
                volume, segmentation, *ids, (96, 96, 48), s, c))
            times, center = [], np.array(preview.roiNode.GetCenter())
            for _ in range(RUNS):
                center += [2, -3, 2.5]
                begun = time.perf_counter()
                preview.roiNode.SetCenter(*center)
                times.append(1000 * (time.perf_counter() - begun))
            print(f"{'a move of the box: median, worst':50} {np.median(times):7.1f} ms, {max(times):.1f} ms")
            edited = segmentation.GetSegmentation().GetSegment(ids[1]).GetRepresentation(nodes.BINARY_LABELMAP)
            timed("an edit of the tumour, seen by the preview", edited.Modified)
            preview.remove()


if __name__ == "__main__":
    main()
