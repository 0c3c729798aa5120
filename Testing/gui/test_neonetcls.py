"""NeoNetCls through its widgets, on the stand-in: what the user clicks, sees and gets."""

# ruff: noqa: E402, I001 - the stand-in comes first
from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

slicer_standin = pytest.importorskip("slicer_standin")

import slicer
from neonet_core.phantom import simulate_case
from neonet_core.pipeline import predict_case, write_case
from neonet_core.volume import read_label_map, read_volume, to_canonical, write_volume

ROOT = Path(__file__).resolve().parents[2]
slicer_standin.loadModule(str(ROOT / "NeoNetCls" / "NeoNetCls.py"))

import NeoNetCls  # on the path once its module is loaded
from NeoNetLib import nodes, results
from NeoNetLib.croppreview import CropPreview


def scenarios():
    """Not kept in a variable of this file, where pytest would collect them a second time."""
    return NeoNetCls.NeoNetClsTest()


@pytest.fixture
def widget():
    slicer.util.selectModule("Data")
    slicer_standin.reset()
    slicer.util.selectModule("NeoNetCls")
    yield slicer.util.getModuleWidget("NeoNetCls")
    slicer.util.selectModule("Data")
    assert not slicer_standin.slotErrors
    slicer_standin.reset()


@pytest.fixture(scope="session")
def phantom(tmp_path_factory):
    """A simulated case with its true label map, as files."""
    folder = tmp_path_factory.mktemp("phantom")
    case = simulate_case(1, 7, "small")
    write_volume(case.image, folder / "image.nii.gz")
    write_volume(case.label_map, folder / "label_map.nii.gz")
    return folder


def load(phantom):
    """The phantom in the scene, its segmentation included, with the module entered after it: (volume, segmentation)."""
    slicer.util.selectModule("Data")
    volume = slicer.util.loadVolume(str(phantom / "image.nii.gz"))
    segmentation = nodes.showLabelMap(phantom / "label_map.nii.gz", volume)
    slicer.util.selectModule("NeoNetCls")
    return volume, segmentation


def score(widget):
    widget.panel.deviceCombo.currentIndex = 2
    widget.panel.runButton.click()
    scenarios().waitFor(lambda: not widget.panel.running)
    assert widget.table is not None, widget.panel.messageLabel.text + widget.panel.logText.plainText
    return results.latest(widget.table)


# --- the scenarios that run inside a real Slicer too ----------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in vars(NeoNetCls.NeoNetClsTest) if name.startswith("test_")])
def test_scenario(widget, name):
    case = scenarios()
    case.setUp()
    getattr(case, name)()


# --- the numbers ----------------------------------------------------------------------------------------------------


def without_times(score):
    return {name: value for name, value in json.loads(json.dumps(score)).items() if name != "seconds"}


def test_the_panel_gives_what_the_library_gives_to_the_last_digit(widget, phantom, tmp_path):
    load(phantom)
    run = score(widget)
    image, label_map = read_volume(phantom / "image.nii.gz"), read_label_map(phantom / "label_map.nii.gz")
    expected = predict_case(image, label_map=label_map, bundle="demo", device="cpu")
    assert without_times(run.score) == without_times(expected.to_json())
    assert run.score["bundle"]["hash"] == widget.panel.bundle.hash
    array, affine = nodes.canonical(results.attentionOf(widget.table))
    attention = to_canonical(expected.score.attention)
    assert np.array_equal(array, attention.array) and np.allclose(affine, attention.affine, atol=1e-4)

    write_case(expected, tmp_path)
    slicer_standin.answers.append(str(tmp_path / "saved.html"))
    widget.ui.exportReportButton.click()
    theirs, ours = ((tmp_path / name).read_text("utf-8") for name in ("report.html", "saved.html"))
    seconds = re.compile(r"\d+\.\d\d s\b")
    assert seconds.sub("", ours) == seconds.sub("", theirs)

    slicer_standin.answers.append(str(tmp_path / "saved.csv"))
    widget.ui.exportCsvButton.click()
    with open(tmp_path / "saved.csv", encoding="utf-8-sig", newline="") as file:
        row, = csv.DictReader(file)
    assert float(row["probability"]) == expected.score.probability and row["flags"].startswith("DEMO_MODEL")

    # the crop moved by hand, as the preview of NeoNetSeg leaves it in the scene
    bundle = widget.panel.bundle
    slicer.util.selectModule("Data")
    preview = CropPreview(*widget.inputs()[:4], bundle.cropSize, bundle.cropSpacing, bundle.cropComponent)
    preview.roiNode.SetCenter(*(np.array(preview.roiNode.GetCenter()) + [9, -6, 4]))
    slicer.util.selectModule("NeoNetCls")
    assert widget.ui.staleFrame.visible and "crop was moved" in widget.ui.staleLabel.text
    assert "by hand" in widget.ui.cropLabel.text
    assert "color:#808080" in widget.ui.scoreLabel.text
    widget.ui.renewButton.click()  # one click renews
    scenarios().waitFor(lambda: not widget.panel.running)
    assert not widget.ui.staleFrame.visible and widget.table.GetNumberOfRows() == 2
    moved = predict_case(image, label_map=label_map, bundle="demo", device="cpu", crop_center=preview.center)
    assert without_times(results.latest(widget.table).score) == without_times(moved.to_json())
    assert moved.score.probability != expected.score.probability
    preview.remove()
    scenarios().waitFor(lambda: widget.ui.staleFrame.visible)


# --- what is proposed, and what keeps it from starting ----------------------------------------------------------------


def test_a_volume_without_a_segmentation_says_what_to_do(widget):
    assert "Load" in widget.panel.messageLabel.text and not widget.panel.runButton.enabled
    slicer.util.selectModule("Data")
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    slicer.util.selectModule("NeoNetCls")
    assert "NeoNetSeg" in widget.panel.messageLabel.text and not widget.panel.runButton.enabled


def test_another_volume_brings_its_own_segmentation_and_its_own_score(widget):
    _widget, first, first_segmentation = scenarios().openWithCase()
    scenarios().addMadeUpRun(widget)
    _widget, second, second_segmentation = scenarios().openWithCase()
    widget.ui.inputVolumeSelector.setCurrentNode(second)
    assert widget.ui.segmentationSelector.currentNode() is second_segmentation and widget.ui.noResultLabel.visible
    widget.ui.inputVolumeSelector.setCurrentNode(first)
    assert widget.ui.segmentationSelector.currentNode() is first_segmentation and widget.ui.resultFrame.visible
    assert not widget.ui.staleFrame.visible


def test_only_models_that_can_score_are_offered(widget):
    combo = widget.panel.bundleCombo
    assert [combo.itemText(i).split()[0] for i in range(combo.count)] == ["demo"]


def test_a_segmentation_removed_meanwhile_ends_in_a_sentence(widget):
    scenarios().openWithCase()
    widget.panel.runButton.click()
    slicer.mrmlScene.RemoveNode(widget.ui.segmentationSelector.currentNode())
    scenarios().waitFor(lambda: not widget.panel.running)
    assert "removed meanwhile" in widget.panel.messageLabel.text and widget.table is None


def test_another_model_marks_the_score(widget):
    scenarios().openWithCase()
    table = scenarios().addMadeUpRun(widget)
    run = results.latest(table)
    changed = dict(run.inputs, bundle="of another version")
    results.addRun(widget.inputs()[0], widget.inputs()[1], changed, run.score, (), None, "")
    widget.updateResult()
    assert "model" in widget.ui.staleLabel.text and widget.ui.staleFrame.visible


def test_a_deleted_table_takes_the_score_from_the_panel(widget):
    scenarios().openWithCase()
    slicer.mrmlScene.RemoveNode(scenarios().addMadeUpRun(widget))
    assert widget.ui.noResultLabel.visible and not widget.ui.resultFrame.visible


# --- what the panel always says ---------------------------------------------------------------------------------------


def test_demonstration_and_research_use_stand_beside_the_score(widget):
    from neonet_core.bundle import DEMO_WARNING, RESEARCH_USE_ONLY

    scenarios().openWithCase()
    scenarios().addMadeUpRun(widget)
    assert widget.ui.demoResultLabel.visible and widget.ui.demoResultLabel.text == DEMO_WARNING
    assert widget.ui.researchUseResultLabel.text == RESEARCH_USE_ONLY
    assert "The liver measures 40 ml." in widget.ui.warningsLabel.text and widget.ui.warningsLabel.visible
    assert widget.ui.scoreLabel.toolTip == "0.7177012345678901"


def test_moving_the_opacity_compares_nothing(widget, monkeypatch):
    scenarios().openWithCase()
    scenarios().addMadeUpRun(widget)
    monkeypatch.setattr(results, "inputsOf", lambda *_: pytest.fail("compared"))
    widget.ui.attentionSlider.value = 0.25
    assert widget.logic.getParameterNode().attentionOpacity == 0.25
