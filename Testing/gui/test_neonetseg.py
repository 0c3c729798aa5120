"""NeoNetSeg through its widgets, on the stand-in: what the user clicks, sees and gets."""

# ruff: noqa: E402, I001 - a module's folder is on the path once it is loaded
from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import qt
import slicer
import slicer_standin
from neonet_core.cli import main
from neonet_core.phantom import simulate_case
from neonet_core.volume import Volume, read_label_map, reorient_like, same_grid, write_volume

ROOT = Path(__file__).resolve().parents[2]
slicer_standin.loadModule(str(ROOT / "NeoNetSeg" / "NeoNetSeg.py"))

import NeoNetSeg  # on the path once its module is loaded
from NeoNetLib import catalogue, dependencies, jobpanel, nodes
from NeoNetLib.job import Job, Outcome


def spin(condition, seconds=120):
    """Run the event loop until `condition` holds."""
    assert slicer_standin.spinUntil(condition, 1000 * seconds)


@pytest.fixture(scope="session")
def phantom(tmp_path_factory):
    """A simulated case as a file, and what the command line makes of it."""
    folder = tmp_path_factory.mktemp("phantom")
    case = simulate_case(1, 7, "small")
    image, label_map = folder / "image.nii.gz", folder / "label_map.nii.gz"
    write_volume(case.image, image)
    assert main(["segment", str(image), "--out", str(label_map), "--device", "cpu"]) == 0
    return image, label_map


@pytest.fixture
def widget():
    slicer.util.selectModule("Data")
    slicer.util.selectModule("NeoNetSeg")
    yield slicer.util.getModuleWidget("NeoNetSeg")
    slicer.util.selectModule("Data")
    slicer.mrmlScene.Clear()


@pytest.fixture
def quick(phantom, monkeypatch):
    """Jobs that have the command's label map at once: for what is not about the job."""

    class QuickJob(Job):
        highest = 2  # label that is kept

        def start(self):
            self._started = True
            found = read_label_map(phantom[1])
            kept = np.where(found.array <= self.highest, found.array, 0)
            write_volume(Volume(kept, found.affine), self.arguments[self.arguments.index("--out") + 1])
            qt.QTimer.singleShot(50, self.end)

        def end(self):
            self._ended = True
            self._tell("finished", Outcome(True, result={"flags": ["DEMO_MODEL"], "notice": "simulated images only"}))

    monkeypatch.setattr(NeoNetSeg, "Job", QuickJob)
    return phantom


def load(phantom):
    slicer.util.selectModule("Data")
    volume = slicer.util.loadVolume(str(phantom[0]))
    slicer.util.selectModule("NeoNetSeg")
    return volume


def segmented(widget):
    widget.panel.runButton.click()
    spin(lambda: not widget.panel.running)
    node = widget.ui.segmentationSelector.currentNode()
    assert node is not None, widget.panel.messageLabel.text + widget.panel.logText.plainText
    return node


# --- the scenarios that run inside a real Slicer too ----------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in vars(NeoNetSeg.NeoNetSegTest) if name.startswith("test_")])
def test_scenario(widget, name):
    scenarios = NeoNetSeg.NeoNetSegTest()
    scenarios.setUp()
    getattr(scenarios, name)()


def test_the_module_runs_all_its_scenarios():
    run = []
    names = [name for name in vars(NeoNetSeg.NeoNetSegTest) if name.startswith("test_")]
    fake = type("Fake", (NeoNetSeg.NeoNetSegTest,), {n: lambda self, n=n: run.append(n) for n in names})
    fake().runTest()
    assert sorted(run) == sorted(names)


# --- segmenting -----------------------------------------------------------------------------------------------------


def test_one_click_gives_the_voxels_of_the_command(widget, phantom, tmp_path):
    volume = load(phantom)
    assert widget.ui.inputVolumeSelector.currentNode() is volume  # so that one click is enough
    widget.panel.deviceCombo.currentIndex = 2
    assert widget.panel.device == "cpu"
    seen = set()
    widget.panel.runButton.click()
    spin(lambda: seen.add(widget.panel.messageLabel.text) or not widget.panel.running)
    assert "Starting…" in seen and any(text.startswith("Segment, about") for text in seen), seen
    assert widget.panel.messageLabel.text == "Done." and not widget.panel.job and widget.panel.logText.plainText
    node = widget.ui.segmentationSelector.currentNode()
    liver, tumour = widget.ui.liverCombo.currentText, widget.ui.tumourCombo.currentText
    assert (liver, tumour) == ("liver", "tumour")
    parameters = widget.logic.getParameterNode()
    nodes.writeLabelMap(node, parameters.liverSegment, parameters.tumourSegment, volume, tmp_path / "ours.nrrd")
    theirs = read_label_map(phantom[1])
    ours = reorient_like(read_label_map(tmp_path / "ours.nrrd"), theirs)
    assert same_grid(ours, theirs) and np.array_equal(ours.array, theirs.array)
    assert set(np.unique(theirs.array)) == {0, 1, 2}
    assert node.GetAttribute("NeoNet.Flags") == "DEMO_MODEL" and node.GetAttribute("NeoNet.Bundle").startswith("demo")
    assert "DEMONSTRATION MODEL" in node.GetName() and "simulated images only" in node.GetDescription()


def test_the_result_is_in_view_and_the_former_one_is_not(widget, quick):
    load(quick)
    widget.ui.segmentationSelector.setCurrentNode(NeoNetSeg.NeoNetSegTest.drawn(
        widget.ui.inputVolumeSelector.currentNode(), {"liver": (5, 9, 9)}))
    former = widget.ui.segmentationSelector.currentNode()
    node = segmented(widget)
    assert node is not former and node.GetDisplayVisibility() and not former.GetDisplayVisibility()
    tumour = node.GetSegmentCenterRAS(widget.logic.getParameterNode().tumourSegment)
    red = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
    assert abs(red.GetSliceOffset() - tumour[2]) < 5  # a slice of the phantom is 4.4 mm thick
    assert node.GetSegmentation().ContainsRepresentation("Closed surface")


def test_cancel_by_its_button(widget, phantom):
    load(phantom)
    before = [slicer.mrmlScene.GetNthNode(i).GetID() for i in range(slicer.mrmlScene.GetNumberOfNodes())]
    widget.panel.runButton.click()
    folder = widget.panel.job.folder
    assert folder.is_dir() and not widget.panel.cancelButton.enabled  # a double click does not cancel
    spin(lambda: widget.panel.cancelButton.enabled)
    widget.panel.cancelButton.click()
    spin(lambda: not widget.panel.running, 2)
    after = [slicer.mrmlScene.GetNthNode(i).GetID() for i in range(slicer.mrmlScene.GetNumberOfNodes())]
    assert after == before and not folder.exists()
    assert "Cancelled" in widget.panel.messageLabel.text
    assert widget.panel.runButton.visible and not widget.panel.cancelButton.visible


def test_a_volume_removed_meanwhile_ends_in_a_sentence(widget, quick):
    volume = load(quick)
    widget.panel.runButton.click()
    slicer.mrmlScene.RemoveNode(volume)
    spin(lambda: not widget.panel.running)
    assert "removed" in widget.panel.messageLabel.text
    assert not slicer.util.getNodesByClass("vtkMRMLSegmentationNode")


def test_a_result_for_another_volume_is_not_chosen(widget, quick):
    load(quick)
    widget.panel.runButton.click()
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "other")
    widget.ui.inputVolumeSelector.setCurrentNode(other)
    spin(lambda: not widget.panel.running)
    assert len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) == 1
    assert widget.ui.segmentationSelector.currentNode() is None


def test_a_module_that_is_left_and_entered_keeps_its_job(widget, quick):
    load(quick)
    widget.panel.runButton.click()
    job = widget.panel.job
    slicer.util.selectModule("Data")
    slicer.util.selectModule("NeoNetSeg")
    assert widget.panel.job is job
    spin(lambda: not widget.panel.running)
    assert widget.ui.segmentationSelector.currentNode() is not None


def test_no_tumour_is_said_and_flagged(widget, quick, monkeypatch):
    load(quick)
    monkeypatch.setattr(NeoNetSeg.Job, "highest", 1)
    node = segmented(widget)
    assert node.GetAttribute("NeoNet.Flags") == "DEMO_MODEL NO_TUMOUR"
    assert "No tumour was found" in widget.panel.messageLabel.text and widget.ui.tumourCombo.currentText == "tumour"
    widget.ui.previewButton.click()
    assert "empty" in widget.ui.cropLabel.text


def test_a_result_that_cannot_be_shown_ends_in_a_sentence(widget, quick, monkeypatch):
    def fail(*_arguments, **_options):
        raise RuntimeError("broken")

    load(quick)
    monkeypatch.setattr(nodes, "showLabelMap", fail)
    widget.panel.runButton.click()
    spin(lambda: not widget.panel.running)
    assert "fault" in widget.panel.messageLabel.text and "broken" not in widget.panel.messageLabel.text
    assert widget.panel.runButton.enabled and not slicer.util.getNodesByClass("vtkMRMLSegmentationNode")


# --- what keeps it from starting ------------------------------------------------------------------------------------


def test_without_a_volume_the_panel_says_so(widget):
    assert not widget.panel.runButton.enabled and "Load" in widget.panel.messageLabel.text


def test_the_only_volume_is_taken_and_never_a_label_map(widget):
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    assert nodes.shownVolume() is None
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    assert nodes.shownVolume() is volume


def test_a_model_that_is_not_here_is_named(widget):
    parameters = widget.logic.getParameterNode()
    parameters.inputVolume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    assert widget.panel.runButton.enabled
    parameters.bundle = "elsewhere"
    assert widget.panel.bundle is None and not widget.panel.runButton.enabled
    assert "elsewhere" in widget.panel.messageLabel.text
    parameters.bundle = "demo"
    assert widget.panel.runButton.enabled


def test_a_model_is_added_from_its_folder(widget, tmp_path):
    shutil.copytree(ROOT / "NeoNetExtension" / "neonet_core" / "resources" / "bundles" / "demo", tmp_path / "own")
    record = tmp_path / "own" / "bundle.json"
    record.write_text(record.read_text().replace('"name": "demo"', '"name": "own"'))
    try:
        slicer_standin.answers.append(str(tmp_path / "own"))
        widget.panel.addBundleButton.click()
        assert widget.panel.bundle.name == "own" and widget.logic.getParameterNode().bundle == "own"
        crops = widget.ui.cropBundleCombo
        assert [crops.itemText(i) for i in range(crops.count)] == ["demo (1.0)", "own (1.0)"]
        assert crops.currentIndex == 0  # another choice
        widget.panel.bundleCombo.currentIndex = 0
        assert widget.panel.bundle.name == "demo" == widget.logic.getParameterNode().bundle
    finally:
        catalogue.removeFolder(tmp_path / "own")


def test_a_folder_without_a_model_is_refused_in_words(widget, tmp_path):
    slicer_standin.answers.append(str(tmp_path))
    widget.panel.addBundleButton.click()
    assert any("There is no model in" in dialog.text for dialog in slicer_standin.shown)
    assert widget.panel.bundle.name == "demo"


def test_nothing_is_installed_before_the_click_and_nothing_runs_without_consent(widget, phantom, monkeypatch):
    asked = []
    monkeypatch.setattr(dependencies, "ensure", lambda parent=None: asked.append(parent) or False)
    load(phantom)
    assert not asked
    widget.panel.runButton.click()
    assert len(asked) == 1 and not widget.panel.running


def test_a_volume_that_cannot_be_written_ends_in_a_sentence(widget, monkeypatch):
    parameters = widget.logic.getParameterNode()
    parameters.inputVolume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")  # it holds no image
    widget.panel.runButton.click()
    assert not widget.panel.running and widget.panel.messageLabel.text
    assert widget.panel.runButton.enabled


# --- the scene ------------------------------------------------------------------------------------------------------


def test_a_saved_scene_comes_back_with_parameters_and_results(widget, quick, tmp_path):
    load(quick)
    widget.panel.deviceCombo.currentIndex = 2
    segmented(widget)
    widget.ui.previewButton.checked = True
    widget.preview.roiNode.SetCenter(*np.add(widget.preview.roiNode.GetCenter(), (9, 0, 0)))
    center, path = widget.preview.center, str(tmp_path / "scene.mrb")
    assert center is not None and slicer.util.saveScene(path)
    slicer.mrmlScene.Clear()
    assert widget.preview is None
    assert slicer.util.loadScene(path)
    assert np.allclose(widget.preview.center, center) and widget.ui.followButton.enabled
    assert len(slicer.util.getNodesByClass("vtkMRMLMarkupsROINode")) == 1
    assert widget.ui.inputVolumeSelector.currentNode().GetName() == "image"
    assert widget.panel.device == "cpu" and widget.panel.bundle.name == "demo"
    assert (widget.ui.liverCombo.currentText, widget.ui.tumourCombo.currentText) == ("liver", "tumour")
    assert widget.ui.segmentationSelector.currentNode().GetAttribute("NeoNet.Flags") == "DEMO_MODEL"


# --- what it costs to open ------------------------------------------------------------------------------------------


def test_opening_the_module_imports_no_package_that_slicer_lacks():
    code = (f"import sys; sys.path[:0] = [{str(ROOT / 'Testing')!r}]; import slicer_standin, slicer;"
            "kept = set(sys.modules);"
            f"slicer_standin.loadModule({str(ROOT / 'NeoNetSeg' / 'NeoNetSeg.py')!r});"
            "slicer.util.selectModule('NeoNetSeg');"
            "print({name.split('.')[0] for name in set(sys.modules) - kept})")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = ast.literal_eval(run.stdout.strip().splitlines()[-1])
    assert not loaded & {"torch", "monai", "pydantic", "yaml", "psutil", "nibabel", "diffusers"}
    assert "NeoNetSeg" in loaded


# --- what the panel always says ---------------------------------------------------------------------------------------


def test_a_moved_crop_goes_back_to_the_tumour(widget, quick):
    volume = load(quick)
    segmented(widget)
    widget.ui.previewButton.click()
    preview, place = widget.preview, widget.preview.roiNode.GetCenter()
    assert "whole tumour" in widget.ui.cropLabel.text and not widget.ui.followButton.enabled
    preview.roiNode.SetCenter(*np.add(place, (0, 60, 0)))
    assert widget.ui.followButton.enabled and "whole" not in widget.ui.cropLabel.text
    widget.ui.followButton.click()
    assert np.allclose(preview.roiNode.GetCenter(), place) and not widget.ui.followButton.enabled
    assert "whole tumour" in widget.ui.cropLabel.text
    slicer.mrmlScene.RemoveNode(volume)
    assert widget.preview is None and not slicer.util.getNodesByClass("vtkMRMLMarkupsROINode")


def test_research_use_and_demo_stand_in_the_panel(widget):
    from neonet_core.bundle import DEMO_WARNING, RESEARCH_USE_ONLY

    assert widget.panel.researchUseLabel.text == RESEARCH_USE_ONLY == jobpanel.researchUseOnly()
    assert widget.panel.demoLabel.text == DEMO_WARNING and widget.panel.demoLabel.visible
    assert "simulated" in widget.panel.cardLabel.text


def test_a_card_is_text_never_markup():
    bundle = catalogue.BundleInfo("x", Path("x"), card={"limits": "<script>"})
    assert "&lt;script&gt;" in jobpanel.cardAsHtml(bundle)


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "1 s"), (59, "59 s"), (90, "2 min"), (3900, "1 h 5 min")])
def test_duration(seconds, words):
    assert jobpanel.duration(seconds) == words


def test_unloading_the_module_ends_its_job(widget, phantom):
    load(phantom)
    widget.panel.runButton.click()
    folder = widget.panel.job.folder
    slicer_standin.unloadModule("NeoNetSeg")
    spin(lambda: not folder.exists(), 2)
    assert not slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    slicer_standin.loadModule(str(ROOT / "NeoNetSeg" / "NeoNetSeg.py"))
