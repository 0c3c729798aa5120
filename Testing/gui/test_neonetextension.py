"""The home module through its widgets, on the stand-in: one case in two clicks, a batch, the environment."""

# ruff: noqa: E402 - the stand-in comes first
from __future__ import annotations

import csv
import json
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
    NeoNetExtension.NeoNetExtensionTest.waitForEnd(panel, seconds)


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


def test_opening_the_panel_imports_no_torch(tmp_path):
    import subprocess
    import sys

    code = (f"import sys; sys.path[:0] = [{str(ROOT / 'Testing')!r}]; import slicer_standin, slicer\n"
            + "".join(f"slicer_standin.loadModule({str(ROOT / folder / (name + '.py'))!r})\n" for folder, name in
                      (("NeoNetSeg", "NeoNetSeg"), ("NeoNetGen", "NeoNetGen"), ("NeoNetCls", "NeoNetCls"),
                       ("NeoNetExtension", "NeoNetExtension")))
            + "slicer.util.selectModule('NeoNetExtension')\n"
            "print([n for n in ('torch', 'monai', 'pydantic', 'yaml', 'nibabel', 'psutil') if n in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip().splitlines()[-1] == "[]", done.stdout + done.stderr
