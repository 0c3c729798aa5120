"""The home module through its widgets, on the stand-in: one case in two clicks, a batch, the environment."""

# ruff: noqa: E402 - the stand-in comes first
from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

slicer_standin = pytest.importorskip("slicer_standin")

import slicer

from neonet_core.phantom import simulate_case
from neonet_core.volume import read_volume, write_volume

ROOT = Path(__file__).resolve().parents[2]
for name in ("NeoNetSeg", "NeoNetGen", "NeoNetCls"):
    slicer_standin.loadModule(str(ROOT / name / f"{name}.py"))
slicer_standin.loadModule(str(ROOT / "NeoNetExtension" / "NeoNetExtension.py"))

import NeoNetExtension  # on the path once its module is loaded
from NeoNetLib import results


@pytest.fixture
def widget():
    slicer.util.selectModule("Data")
    slicer_standin.reset()
    slicer.util.selectModule("NeoNetExtension")
    yield slicer.util.getModuleWidget("NeoNetExtension")
    slicer.util.selectModule("Data")
    assert not slicer_standin.slotErrors
    slicer_standin.reset()


def wait(panel, seconds=300):
    NeoNetExtension.NeoNetExtensionTest.waitFor(lambda: not panel.running, seconds)


@pytest.mark.parametrize(
    "name", [name for name in vars(NeoNetExtension.NeoNetExtensionTest) if name.startswith("test_")])
def test_scenario(widget, name):
    case = NeoNetExtension.NeoNetExtensionTest()
    case.setUp()
    getattr(case, name)()


@pytest.fixture(scope="session")
def phantom(tmp_path_factory):
    """Two simulated cases and a broken file in a folder."""
    folder = tmp_path_factory.mktemp("images")
    for number in (1, 2):
        write_volume(simulate_case(1, number, "small").image, folder / f"case-{number}.nii.gz")
    (folder / "broken.nii.gz").write_bytes(b"no image")
    return folder


def test_two_clicks_give_the_numbers_of_the_command_line(widget, phantom, tmp_path):
    from neonet_core.pipeline import predict_case

    volume = slicer.util.loadVolume(str(phantom / "case-1.nii.gz"))
    widget.ui.volumeSelector.setCurrentNode(volume)
    for panel in (widget.segmentPanel, widget.scorePanel):
        panel.deviceCombo.currentIndex = 2
    widget.segmentPanel.runButton.click()
    wait(widget.segmentPanel)
    widget.scorePanel.runButton.click()
    wait(widget.scorePanel)
    run = results.latest(results.tableOf(volume))
    expected = predict_case(read_volume(phantom / "case-1.nii.gz"), device="cpu")
    assert run.score["members"] == list(expected.score.members)
    assert run.score["measurements"] == json.loads(json.dumps(expected.to_json()["measurements"]))

    # the modules show the same choices, and the result
    slicer.util.selectModule("NeoNetCls")
    cls = slicer.util.getModuleWidget("NeoNetCls")
    assert cls.ui.resultFrame.visible and not cls.ui.staleFrame.visible

    # a scene that is saved and reopened has it all
    path = tmp_path / "case.mrb"
    assert slicer.util.saveScene(str(path))
    slicer.mrmlScene.Clear()
    assert slicer.util.loadScene(str(path))
    slicer.util.selectModule("NeoNetExtension")
    reopened = widget.ui.volumeSelector.currentNode()
    assert reopened is not None and reopened.GetName() == volume.GetName()
    assert results.latest(results.tableOf(reopened)).score["members"] == run.score["members"]
    assert widget.ui.resultLabel.visible and "edited" not in widget.ui.resultLabel.text


def test_a_batch_over_a_folder(widget, phantom, tmp_path):
    widget.ui.batchInputEdit.currentPath = str(phantom)
    assert not widget.batchPanel.runButton.enabled
    widget.ui.batchOutputEdit.currentPath = str(tmp_path / "out")
    widget.batchPanel.deviceCombo.currentIndex = 2
    assert widget.batchPanel.runButton.enabled, widget.batchPanel.messageLabel.text
    widget.batchPanel.runButton.click()
    wait(widget.batchPanel)
    with open(tmp_path / "out" / "results.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert sorted(row["status"] for row in rows) == ["done", "done", "failed"]
    assert "failed: 1;" in widget.batchPanel.messageLabel.text
    assert widget.ui.openReportButton.enabled


def test_results_among_the_images_are_refused(widget, phantom):
    widget.ui.batchInputEdit.currentPath = str(phantom)
    widget.ui.batchOutputEdit.currentPath = str(phantom / "out")
    assert not widget.batchPanel.runButton.enabled and "among the images" in widget.batchPanel.messageLabel.text


def test_a_self_test_says_where_it_computes(widget):
    widget.ui.environmentSection.collapsed = False
    widget.ui.selfTestButton.click()
    assert slicer_standin.spinUntil(lambda: widget._environmentJob is None, 120000)
    assert "Computing works on" in widget.ui.environmentMessage.text


BLOCK = """
import importlib.abc, sys
sys.path.insert(0, {testing!r})
import slicer_standin, slicer
slicers = {{"numpy", "scipy", "vtk", "vtkmodules", "SimpleITK", "slicer", "qt", "ctk", "SampleData",
           "slicer_standin", "slicer_core", "PySide6", "shiboken6",
           "neonet_core", "NeoNetLib", "NeoNetSeg", "NeoNetGen", "NeoNetCls", "NeoNetExtension"}}
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        top = name.partition(".")[0]
        if top not in slicers and top not in sys.stdlib_module_names and not top.startswith("_"):
            raise ModuleNotFoundError(name, name=top)
sys.meta_path.insert(0, Block())
for file in {files!r}:
    slicer_standin.loadModule(file)
for name in ("NeoNetSeg", "NeoNetGen", "NeoNetCls", "NeoNetExtension"):
    slicer.util.selectModule(name)
print(slicer_standin.slotErrors)
"""


def test_modules_load_and_open_with_nothing_but_slicers_own_packages():
    files = [str(ROOT / name / f"{name}.py") for name in ("NeoNetSeg", "NeoNetGen", "NeoNetCls", "NeoNetExtension")]
    code = BLOCK.format(testing=str(ROOT / "Testing"), files=files)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.strip().splitlines()[-1] == "[]", done.stdout + done.stderr


def test_a_result_of_an_mri_that_was_left_does_not_touch_the_one_that_is_chosen(widget, phantom):
    """Segment and Score end while another MRI is chosen: their results lie beside their own MRI."""
    first, second = (slicer.util.loadVolume(str(phantom / f"case-{number}.nii.gz")) for number in (1, 2))
    for panel in (widget.segmentPanel, widget.scorePanel):
        panel.deviceCombo.currentIndex = 2
    made = []
    for volume in (first, second):
        widget.ui.volumeSelector.setCurrentNode(volume)
        widget.segmentPanel.runButton.click()
        if volume is second:
            widget.ui.volumeSelector.setCurrentNode(first)
        wait(widget.segmentPanel)
        made.append(next(node for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if node not in made))
    assert widget._clsParameters.segmentation is made[0] and made[0].GetDisplayVisibility()
    assert widget.scorePanel.runButton.enabled
    widget.scorePanel.runButton.click()
    widget.ui.volumeSelector.setCurrentNode(second)
    wait(widget.scorePanel)
    assert results.latest(results.tableOf(first)) is not None and results.tableOf(second) is None
    for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        assert composite.GetForegroundVolumeID() is None


def test_a_cleared_path_is_none(widget, phantom, tmp_path):
    widget.ui.batchInputEdit.currentPath, widget.ui.batchOutputEdit.currentPath = str(phantom), str(tmp_path / "out")
    assert widget.batchPanel.runButton.enabled
    widget.ui.batchOutputEdit.currentPath = ""
    assert widget._parameterNode.batchOutput == "" and not widget.batchPanel.runButton.enabled
