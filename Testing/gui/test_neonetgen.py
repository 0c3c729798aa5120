"""NeoNetGen through its widgets, on the stand-in: its own scenarios, and that it gives what the command line gives."""

# ruff: noqa: E402, I001 - the stand-in comes first
from __future__ import annotations

import unittest
from pathlib import Path

import numpy as np
import pytest

slicer_standin = pytest.importorskip("slicer_standin")

import slicer
from neonet_core.generate import generate
from neonet_core.pipeline import cut_patch
from neonet_core.presets import CropSettings
from neonet_core.volume import read_label_map, read_volume, to_canonical

ROOT = Path(__file__).resolve().parents[2]
slicer_standin.loadModule(str(ROOT / "NeoNetGen" / "NeoNetGen.py"))

import NeoNetGen  # on the path once its module is loaded
from NeoNetLib import catalogue, croppreview, nodes, segments, synthetic


@pytest.fixture(autouse=True)
def clean():
    slicer.util.selectModule("Data")
    slicer_standin.reset()
    yield
    slicer.util.selectModule("Data")
    slicer.mrmlScene.Clear()
    assert slicer_standin.slotErrors == []


@pytest.fixture
def scenario():
    """The test class's own helpers: a case, waiting."""
    made = NeoNetGen.NeoNetGenTest()
    made.setUp()
    yield made
    made.doCleanups()


def demo():
    return next(bundle for bundle in catalogue.bundles() if bundle.name == "demo")


@pytest.mark.parametrize("name", unittest.defaultTestLoader.getTestCaseNames(NeoNetGen.NeoNetGenTest))
def test_scenario(scenario, name):
    getattr(scenario, name)()


def run(scenario, volumeNode, segmentationNode, *, count, seed, steps, crop=(), **options):
    """Generate through the logic; returns the patches."""
    ended = []
    ids = segments.findSegments(segmentationNode)
    NeoNetGen.NeoNetGenLogic().generate(volumeNode, segmentationNode, *ids, demo(), count, seed, steps, 1, list(crop),
                                        "cpu", onFinished=lambda *values: ended.append(values), **options)
    scenario.waitFor(lambda: bool(ended))
    outcome, patches = ended[0]
    assert outcome.ok, outcome.details
    return patches


@pytest.mark.parametrize("vary, moved", [(False, False), (True, True)])
def test_the_numbers_are_those_of_the_command(scenario, tmp_path, vary, moved):
    volumeNode, segmentationNode = scenario.case()
    image, labels = tmp_path / "image.nrrd", tmp_path / "labels.nrrd"
    nodes.writeVolume(volumeNode, image)
    nodes.writeLabelMap(segmentationNode, *segments.findSegments(segmentationNode), volumeNode, labels)
    center = (50.0, -20.0, 12.0) if moved else None
    crop = [f"--crop-center={','.join(map(str, center))}"] if moved else []
    patches = run(scenario, volumeNode, segmentationNode, count=2, seed=7, steps=2, crop=crop, vary=vary)
    paths = generate([read_label_map(labels)], tmp_path / "out", count=2, seed=7, vary=vary, changes={"steps": 2},
                     crop_center=center, device="cpu")
    for patch, path in zip(patches, paths, strict=True):
        expected = to_canonical(read_volume(path))
        array, affine = nodes.canonical(patch)
        assert np.array_equal(array, expected.array) and np.allclose(affine, expected.affine, atol=1e-4)
        assert bool(synthetic.lineageOf(patch)["transform"]) == vary
    real = nodes.canonical(synthetic.realPatch(patches[0].GetAttribute(synthetic.GENERATION)))[0]
    settings = CropSettings(size=demo().cropSize, component=demo().cropComponent)
    cut = cut_patch(read_volume(image), read_label_map(labels), settings, demo().cropSpacing, crop_center=center)
    assert np.allclose(real, cut.image.array, atol=1e-5)  # NIfTI keeps the grid in 32 bits


def test_a_crop_that_was_moved_is_the_crop_that_is_generated(scenario):
    widget = scenario.panel()
    scenario.case()
    widget.initializeParameterNode()
    assert widget.cropOptions() == [] and not widget.ui.followButton.enabled
    widget.ui.previewButton.checked = True
    roi = widget.preview.roiNode
    roi.SetCenter(*np.add(roi.GetCenter(), [9, -6, 0]))
    (option,) = widget.cropOptions()
    assert option == "--crop-center=" + roi.GetAttribute(croppreview.CENTER)
    widget.preview.release()
    widget.preview = widget._previewOf = None  # as if another module had moved it
    assert widget.cropOptions() == [option]
    widget.checkInputs()
    widget.ui.followButton.click()
    assert widget.cropOptions() == []


def test_opening_the_panel_imports_no_torch():
    import subprocess
    import sys

    code = ("import sys; sys.path[:0] = [{t!r}, {l!r}]; import slicer_standin, slicer;"
            "slicer_standin.loadModule({m!r}); slicer.util.selectModule('NeoNetGen');"
            "assert slicer.modules.NeoNetGenWidget.ui.countSpin.value == 4;"
            "print([n for n in ('torch', 'monai', 'pydantic', 'yaml', 'nibabel') if n in sys.modules])")
    code = code.format(t=str(ROOT / "Testing"), l=str(ROOT / "NeoNetExtension"), m=str(ROOT / "NeoNetGen/NeoNetGen.py"))
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stdout.splitlines()[-1] == "[]", ended.stderr


def test_a_preview_outlives_a_scene_that_is_loaded_while_another_module_is_open(scenario):
    widget = scenario.panel()
    scenario.case()
    widget.initializeParameterNode()
    widget.ui.previewButton.checked = True
    preview = widget.preview
    slicer.util.selectModule("Data")
    widget.onSceneStartImport(None, None)
    widget.onSceneEndImport(None, None)
    assert widget._parameterNode is None and preview is widget.preview
    preview.onChanged()  # a segment is edited
    slicer.util.selectModule("NeoNetGen")
    assert widget.ui.cropLabel.text == preview.summary


def test_entering_again_and_again_connects_nothing_anew(scenario, monkeypatch):
    """In Slicer each wrapper and each connection leaves an observer on the parameter node for good."""
    widget = scenario.panel()
    wrapper, connected = widget._parameterNode, []
    monkeypatch.setattr(type(wrapper), "connectParametersToGui", lambda self, mapping: connected.append(self))
    for _ in range(3):
        slicer.util.selectModule("Data")
        slicer.util.selectModule("NeoNetGen")
    assert widget._parameterNode is wrapper and connected == []
    widget.ui.countSpin.value = 9
    assert widget._parameterNode.count == 9, "it is connected still"
