"""What the panels promise together: places in the world, the command line's numbers, a window that stays awake."""

# ruff: noqa: E402, I001 - the stand-in comes first
from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

slicer_standin = pytest.importorskip("slicer_standin")

import qt
import slicer
from neonet_core.phantom import simulate_case
from neonet_core.pipeline import cut_patch, predict_case
from neonet_core.presets import CropSettings
from neonet_core.volume import Volume, read_volume, to_canonical, write_volume

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("NeoNetSeg", "NeoNetGen", "NeoNetCls", "NeoNetExtension")
for name in MODULES:
    slicer_standin.loadModule(str(ROOT / name / f"{name}.py"))

from NeoNetLib import dependencies, nodes, results
from NeoNetLib.job import Job

CPU = 2  # entry of the device combo box
MAY_BLOCK, MAY_BLOCK_FOR_DATA = 0.1, 1.0  # seconds
WAIT_HEARD = 1.0  # seconds; a busy machine itself keeps the window waiting for some tenths of one
COS, SIN = np.cos(0.3), np.sin(0.3)
AXES = {  # of the file's voxels in the world
    "RAS": np.eye(3), "LPS": np.diag([-1.0, -1, 1]), "LAS": np.diag([-1.0, 1, 1]),
    "oblique": np.array([[COS, -SIN, 0], [SIN, COS, 0], [0, 0, 1]]) @ np.diag([-1.0, -1, 1]),
}


@pytest.fixture(autouse=True)
def empty():
    slicer.util.selectModule("Data")
    slicer_standin.reset()
    yield
    slicer.util.selectModule("Data")
    slicer_standin.reset()


def opened(module):
    slicer.util.selectModule(module)
    widget = slicer.util.getModuleWidget(module)
    panel = getattr(widget, "panel", None)
    if panel is not None:
        panel.deviceCombo.currentIndex = CPU
    return widget


def run(panel, seconds=300):
    """Click Run and let the event loop turn until the job has ended."""
    panel.runButton.click()
    assert slicer_standin.spinUntil(lambda: not panel.running, 1000 * seconds)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """One simulated case in four orientations of the voxels: paths by name."""
    folder, image = tmp_path_factory.mktemp("images"), simulate_case(1, 7, "small").image
    paths = {}
    for name, axes in AXES.items():
        flips = [slice(None, None, int(np.sign(axes[axis, axis]))) for axis in range(3)]
        affine = np.eye(4)
        affine[:3, :3] = axes @ np.diag(image.spacing)
        middle = (np.array(image.shape) - 1) / 2
        affine[:3, 3] = image.affine[:3, :3] @ middle + image.affine[:3, 3] - affine[:3, :3] @ middle
        paths[name] = folder / f"{name}.nii.gz"
        write_volume(Volume(image.array[tuple(flips)], affine), paths[name])
    return paths


def world_of(mask, affine):
    """RAS positions of a mask's voxels (X, Y, Z), in an order of their own: (N, 3) mm."""
    points = np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3]
    return points[np.lexsort(np.round(points, 2).T)]


@pytest.mark.parametrize("name", AXES)
def test_segment_preview_and_score_lie_in_the_world_and_give_the_numbers_of_the_command_line(images, name):
    """Through the widgets, from the file in Slicer to the score, the MRI under a transform."""
    volume = slicer.util.loadVolume(str(images[name]))
    moved = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    moved.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.array(
        [[0, -1, 0, 7], [1, 0, 0, -9], [0, 0, 1, 30], [0, 0, 0, 1.0]])))
    volume.SetAndObserveTransformNodeID(moved.GetID())
    seg = opened("NeoNetSeg")
    run(seg.panel)
    segmentation = seg.ui.segmentationSelector.currentNode()
    assert segmentation is not None, seg.panel.messageLabel.text + seg.panel.logText.plainText

    # the command line's view of the same file: equal to the last digit, but that Slicer makes the 32-bit cosines of an
    # oblique NIfTI header orthogonal when it reads it
    near = 1e-5 if name == "oblique" else 0
    image = read_volume(images[name])
    expected = predict_case(image, bundle="demo", device="cpu")
    truth = expected.label_map
    segments = seg._parameterNode.liverSegment, seg._parameterNode.tumourSegment
    for label, segmentId in enumerate(segments, 1):
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segmentId, volume)
        ours = world_of(np.asarray(mask).T > 0, nodes.localAffine(volume))
        assert np.allclose(ours, world_of(truth.array == label, truth.affine), atol=1e-3), segmentId
    # in the world both lie where the transform puts them
    assert segmentation.GetTransformNodeID() == moved.GetID()
    centre = np.array(segmentation.GetSegmentCenterRAS(segments[1]))
    assert np.linalg.norm(nodes.worldToLocal(volume, centre) - ours.mean(axis=0)) < 3 * max(volume.GetSpacing())

    seg.ui.previewButton.checked = True
    bundle = seg.cropModels.bundle
    patch = cut_patch(image, truth, CropSettings(size=bundle.cropSize, component=bundle.cropComponent),
                      bundle.cropSpacing)
    for node, channel in zip((seg.preview.t1Node, seg.preview.t2Node), patch.channels, strict=True):
        array, affine = nodes.canonical(node)
        assert np.allclose(array, channel, rtol=0, atol=near) and np.allclose(affine, patch.image.affine, atol=1e-3)
        assert node.GetTransformNodeID() == moved.GetID()

    cls = opened("NeoNetCls")
    assert cls.ui.segmentationSelector.currentNode() is segmentation
    run(cls.panel)
    score = results.latest(results.tableOf(volume)).score
    theirs = json.loads(json.dumps(expected.to_json()))
    for key in ("probability", "spread", "members"):
        assert np.allclose(score[key], theirs[key], rtol=0, atol=near), key
    assert score["share_of_training_scores_below"] == theirs["share_of_training_scores_below"]
    assert np.allclose(score["crop"]["center_ras_mm"], theirs["crop"]["center_ras_mm"], atol=1e-3)
    attention, map_ = results.attentionOf(cls.table), to_canonical(expected.score.attention)
    array, affine = nodes.canonical(attention)
    assert np.allclose(array, map_.array, rtol=0, atol=near) and np.allclose(affine, map_.affine, atol=1e-3)
    assert attention.GetTransformNodeID() == moved.GetID()


# --- the window stays awake ----------------------------------------------------------------------------------------


class Heartbeat:
    """Measures how long the event loop was held up, on a machine that is busy with other things.

    Computing in the window's thread is counted as its processor time. Waiting in it costs none: that is seen by the
    clock, from which goes what a second thread, which only sleeps, lost in the same time to the rest of the machine.
    """

    def __init__(self):
        self.computed, self.waited = [], []  # seconds, a turn each
        self._others = []  # (when, how late) of the second thread
        self._stop = threading.Event()
        self._timer = qt.QTimer()
        self._timer.setInterval(5)
        self._timer.connect("timeout()", self._beat)

    def __enter__(self):
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        self._last = time.monotonic(), time.thread_time()
        self._timer.start()
        return self

    def __exit__(self, *_error):
        self._beat()
        self._timer.stop()
        self._stop.set()
        self._thread.join()

    def _watch(self):
        last = time.monotonic()
        while not self._stop.wait(0.005):
            now = time.monotonic()
            self._others.append((now, now - last))
            last = now

    def _beat(self):
        now = time.monotonic(), time.thread_time()
        gap, computed = now[0] - self._last[0], now[1] - self._last[1]
        lost = sum(late for when, late in self._others if when >= self._last[0] and late > 0.02)
        self.computed.append(computed)
        self.waited.append(gap - lost - computed)
        self._last = now


def test_the_heartbeat_hears_computing_and_waiting():
    def compute():
        end = time.thread_time() + 0.3
        while time.thread_time() < end:
            pass

    for hold, heard in ((lambda: time.sleep(1.5), "waited"), (compute, "computed")):
        with Heartbeat() as heart:
            qt.QTimer.singleShot(0, hold)
            slicer_standin.spinUntil(lambda: len(heart.computed) > 5, 5000)
        assert max(getattr(heart, heard)) >= 0.3


def test_the_window_stays_awake_while_a_job_runs(images):
    """From the click, which writes the input, to the result in the scene, which is the last thing that happens."""
    slicer.util.loadVolume(str(images["LPS"]))
    seg = opened("NeoNetSeg")
    with Heartbeat() as heart:
        run(seg.panel)
    assert seg.ui.segmentationSelector.currentNode() is not None, seg.panel.messageLabel.text
    assert len(heart.computed) > 50
    writing, loading = heart.computed[0], max(heart.computed[1:])
    between = sorted(heart.computed[1:])[:-1]
    assert max(writing, loading) < MAY_BLOCK_FOR_DATA and between[-1] < MAY_BLOCK, (writing, loading, between[-5:])
    assert max(heart.waited) < WAIT_HEARD, sorted(heart.waited)[-5:]


@pytest.fixture
def large():
    """240 x 240 x 100 voxels with a liver and a tumour: (volume node, labels (K, J, I))."""
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "large")
    k, j, i = np.ogrid[:100, :240, :240]
    labels = (((i - 100) / 80) ** 2 + ((j - 120) / 60) ** 2 + ((k - 50) / 40) ** 2 < 1).astype(np.uint8)
    labels[(i - 90) ** 2 + (j - 120) ** 2 + (1.6 * (k - 50)) ** 2 < 400] = 2
    noise = np.random.default_rng(0).integers(0, 30, labels.shape)
    slicer.util.updateVolumeFromArray(volume, (100 + 500 * (labels > 0) - 200 * (labels == 2) + noise).astype(np.int16))
    volume.SetSpacing(1.5, 1.5, 2.2)
    return volume, labels


def seconds_of(function):
    """Processor time, least of three: a busy machine makes no work longer, it only lengthens the wait."""
    times = []
    for _try in range(3):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


def test_input_and_result_of_a_large_volume_take_less_than_a_second(large, tmp_path):
    volume, labels = large
    segmentation = nodes.showLabelMap(labels, volume)
    ids = (segmentation.GetSegmentation().GetNthSegmentID(0), segmentation.GetSegmentation().GetNthSegmentID(1))

    def write():
        nodes.writeVolume(volume, tmp_path / "image.nrrd")
        nodes.writeLabelMap(segmentation, *ids, volume, tmp_path / "label.nrrd")
        results.inputsOf(volume, segmentation, *ids, None, [])

    assert seconds_of(write) < MAY_BLOCK_FOR_DATA
    assert seconds_of(lambda: nodes.showLabelMap(tmp_path / "label.nrrd", volume)) < MAY_BLOCK_FOR_DATA
    assert seconds_of(lambda: nodes.loadResultVolume(tmp_path / "image.nrrd", volume, "x")) < MAY_BLOCK_FOR_DATA


def test_the_preview_follows_a_moved_box_within_a_tenth_of_a_second(large):
    volume, labels = large
    nodes.showLabelMap(labels, volume)
    seg = opened("NeoNetSeg")
    seg.ui.segmentationSelector.setCurrentNode(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")[0])
    seg.ui.previewButton.checked = True
    roi, before = seg.preview.roiNode, slicer.util.arrayFromVolume(seg.preview.t1Node).copy()
    assert seconds_of(lambda: roi.SetCenter(*np.add(roi.GetCenter(), [6, -3, 2.2]))) < MAY_BLOCK
    assert seg.ui.followButton.enabled and not np.array_equal(slicer.util.arrayFromVolume(seg.preview.t1Node), before)


def test_going_from_panel_to_panel_with_a_scored_large_volume_is_quick(large):
    import NeoNetCls

    volume, labels = large
    nodes.showLabelMap(labels, volume)
    cls = opened("NeoNetCls")
    NeoNetCls.NeoNetClsTest.addMadeUpRun(cls)
    opened("NeoNetExtension")
    for module in ("NeoNetCls", "NeoNetExtension"):
        def enter(module=module):
            slicer.util.selectModule("Data")
            slicer.util.selectModule(module)
        assert seconds_of(enter) < MAY_BLOCK, module


def test_a_segmentation_of_another_module_is_taken_up_and_a_score_is_seen(large):
    """The home module shows what the modules of the steps have made, and they what it has made."""
    import NeoNetCls

    home = opened("NeoNetExtension")
    volume, labels = large
    home.ui.volumeSelector.setCurrentNode(volume)
    assert not home.scorePanel.runButton.enabled
    slicer.util.selectModule("Data")
    nodes.showLabelMap(labels, volume)
    opened("NeoNetExtension")
    assert home.scorePanel.runButton.enabled and "ml" in home.ui.reviewLabel.text
    cls = slicer.util.getModuleWidget("NeoNetCls")
    slicer.util.selectModule("NeoNetCls")
    table = NeoNetCls.NeoNetClsTest.addMadeUpRun(cls)
    attention = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "map")
    slicer.util.updateVolumeFromArray(attention, slicer.util.arrayFromVolume(volume))
    table.SetNodeReferenceID(results.ATTENTION, attention.GetID())
    opened("NeoNetExtension")
    home.onScored(None, table)
    for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        assert composite.GetForegroundVolumeID() == attention.GetID()


def test_a_segmentation_made_again_is_the_one_that_is_scored(large):
    """Else the score would be that of a segmentation which is hidden."""
    volume, labels = large
    first = nodes.showLabelMap(labels, volume)
    cls = opened("NeoNetCls")
    assert cls.ui.segmentationSelector.currentNode() is first
    seg = opened("NeoNetSeg")
    seg.ui.segmentationSelector.setCurrentNode(first)
    seg._segmented = volume
    second = nodes.showLabelMap(labels, volume)
    seg.onSegmented(None, second)
    for module in ("NeoNetCls", "NeoNetGen"):
        assert opened(module).ui.segmentationSelector.currentNode() is (second if module == "NeoNetCls" else None)
    home = opened("NeoNetExtension")
    assert home._clsParameters.segmentation is second
    first.SetDisplayVisibility(True)  # the user goes back to it
    cls.ui.segmentationSelector.setCurrentNode(first)
    assert opened("NeoNetCls").ui.segmentationSelector.currentNode() is first


@pytest.fixture(params=MODULES)
def module(request):
    """A module that may be reloaded: the other tests get their own back."""
    before = sys.modules[request.param]
    yield request.param
    slicer.util.getModuleWidget(request.param).cleanup()
    sys.modules[request.param] = before
    slicer.util.getModule(request.param).widgetRepresentation().reload()


def test_a_module_that_is_reloaded_works_and_ends_what_it_had_begun(module, large):
    """What the Reload button of Slicer's developer mode does."""
    volume, labels = large
    nodes.showLabelMap(labels, volume)
    widget = opened(module)
    job = Job(["selftest"])
    panel = getattr(widget, "panel", None) or widget.scorePanel
    panel.run(lambda **_callbacks: job)
    slicer.util.reloadScriptedModule(module)
    assert not panel.running and not job.folder.exists()
    again = opened(module)
    assert again is not widget and again._parameterNode is not None
    volume.Modified()
    slicer.mrmlScene.Clear()
    slicer_standin.spinUntil(lambda: False, 400)


# --- scenes --------------------------------------------------------------------------------------------------------


def test_a_batch_goes_on_while_the_scene_is_closed(images, tmp_path):
    """It has nothing to do with the scene; its end is told in the panel of the next one."""
    home = opened("NeoNetExtension")
    home.ui.batchInputEdit.currentPath = str(images["RAS"].parent)
    home.ui.batchOutputEdit.currentPath = str(tmp_path / "out")
    home.batchPanel.deviceCombo.currentIndex = CPU
    home.batchPanel.runButton.click()
    assert home.batchPanel.running
    slicer.mrmlScene.Clear()
    assert home.batchPanel.running
    home.batchPanel.cancel()
    assert slicer_standin.spinUntil(lambda: not home.batchPanel.running, 5000)
    assert "Stopped" in home.batchPanel.messageLabel.text


def test_what_a_job_wrote_that_cannot_be_loaded_ends_in_a_sentence(monkeypatch):
    """Nothing that fails in the end of a job may leave its panel running for ever."""
    import NeoNetExtension

    class Empty(Job):
        def start(self):
            from NeoNetLib.job import Outcome

            self._started = self._ended = True
            qt.QTimer.singleShot(0, lambda: self._tell("finished", Outcome(True, result={})))

    monkeypatch.setattr(NeoNetExtension, "Job", Empty)
    home = opened("NeoNetExtension")
    home.ui.phantomButton.click()
    assert slicer_standin.spinUntil(lambda: not home.segmentPanel.running, 5000)
    assert home.segmentPanel.messageLabel.text and home.segmentPanel.messageLabel.text != "Done."


def test_a_new_problem_takes_the_place_of_an_old_done():
    home = opened("NeoNetExtension")
    panel = home.batchPanel
    panel.setProblem("")
    panel.setMessage("Done.")
    panel.setProblem("Choose a folder.")
    assert panel.messageLabel.text == "Choose a folder."


def test_the_sample_case_is_loaded_by_slicers_own_module():
    """Slicer calls a `customDownloader` from a button only: the case is a file, so that scripts get it too."""
    import SampleData

    import NeoNetExtension

    NeoNetExtension.registerSampleData()
    volume = SampleData.SampleDataLogic().downloadSample(NeoNetExtension.PHANTOM)
    expected = simulate_case(1, 1, "small").image
    assert np.array_equal(nodes.canonical(volume)[0], to_canonical(expected).array)
    sources = slicer.modules.sampleDataSources[NeoNetExtension.SAMPLES]
    assert all(source.checksums[0].startswith("SHA256:") for source in sources)


def test_packages_are_asked_for_before_a_case_is_simulated(monkeypatch):
    asked = []
    monkeypatch.setattr(dependencies, "ensure", lambda *_arguments, **_more: asked.append(1))
    home = opened("NeoNetExtension")
    home.ui.phantomButton.click()
    assert asked and not home.segmentPanel.running
