"""Scores in the scene, on real MRML: what survives, what marks a score as stale, and what leaves Slicer."""

import csv
import itertools
import time
from pathlib import Path

import numpy as np
import pytest
import qt
import slicer

from NeoNetLib import results
from NeoNetLib.catalogue import BundleInfo

BUNDLE = BundleInfo("demo", Path("."), version="1.0", hash="f1", outOfFold=((0, 0.1), (0, 0.3), (1, 0.8)))
NAMES = ("SMITH^JOHN T1", "SMITH^JOHN segmentation")


def score(probability=0.7177012345678901, **changes):
    return {
        "format": 1, "case": "case", "notice": "Research use only.", "outcome": "pni",
        "bundle": {"name": "demo", "version": "1.0", "hash": "a" * 64},
        "probability": probability, "spread": 0.06123456789012345, "members": [0.6565, 0.77890246913578],
        "threshold": 0.62, "share_of_training_scores_below": {"all": 0.7, "positive": 0.0, "negative": 1.0},
        "label_source": "given by the user",
        "measurements": {"liver_ml": 1400.5, "tumour_ml": 23.4, "tumour_share": 0.016, "tumour_diameter_mm": 41.2,
                         "tumours": 2},
        "crop": {"center_ras_mm": [-9.0, 0.5, 22.25], "coverage": 0.98},
        "flags": [{"code": "DEMO_MODEL", "message": "d"}, {"code": "SPACING_FAR", "message": "<b>far</b>"}],
        "seconds": {},
    } | changes


@pytest.fixture
def case():
    """A volume with a liver and a tumour, under names that no table may hold."""
    slicer.mrmlScene.Clear()
    k, j, i = np.indices((20, 22, 24))
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", NAMES[0])
    slicer.util.updateVolumeFromArray(volume, (k + j + i).astype(np.int16))
    volume.SetSpacing(1.1, 1.2, 1.3)
    volume.SetOrigin(1 / 3, 2 / 3, -1 / 7)
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", NAMES[1])
    segmentation.CreateDefaultDisplayNodes()
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    for name, radius in (("liver", 8), ("tumour", 3)):
        segmentation.GetSegmentation().AddEmptySegment(name, name)
        paint(segmentation, name, volume, (k - 10) ** 2 + (j - 11) ** 2 + (i - 12) ** 2 < radius**2)
    yield volume, segmentation
    slicer.mrmlScene.Clear()


def paint(segmentation, name, volume, mask):
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), segmentation, name, volume)


def mask(segmentation, name, volume):
    return slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, name, volume).copy()


def inputs(volume, segmentation, bundle=BUNDLE, crop=()):
    return results.inputsOf(volume, segmentation, "liver", "tumour", bundle, crop)


def scored(volume, segmentation, content=None, attention=None, report="<html>ü</html>"):
    return results.addRun(volume, segmentation, inputs(volume, segmentation), content or score(), BUNDLE.outOfFold,
                          attention, report)


def spin(condition, seconds=5.0):
    loop, end = qt.QEventLoop(), time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        qt.QTimer.singleShot(10, loop.quit)
        loop.exec_()
    return condition()


# --- the table ------------------------------------------------------------------------------------------------------


def test_a_row_a_run_in_one_table_a_volume(case):
    table = scored(*case)
    assert results.tableOf(case[0]) is table and scored(*case, score(0.25)) is table
    assert table.GetNumberOfRows() == 2
    assert [run.probability for run in results.runs(table)] == [0.7177012345678901, 0.25]
    assert results.latest(table).probability == 0.25
    assert list(slicer.util.arrayFromTableColumn(table, "probability")) == [0.7177012345678901, 0.25]
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    assert results.tableOf(other) is None and results.latest(None) is None


def test_the_latest_attention_map_and_report_replace_those_before(case):
    maps = [slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name) for name in ("first", "second")]
    table = scored(*case, attention=maps[0], report="one")
    scored(*case, attention=maps[1], report="two")
    assert not slicer.mrmlScene.IsNodePresent(maps[0]) and results.attentionOf(table) is maps[1]
    assert [node.GetText() for node in slicer.util.getNodesByClass("vtkMRMLTextNode")] == ["two"]


def test_no_name_goes_into_the_table_or_the_csv_file(case, tmp_path):
    table = scored(*case)
    results.exportCsv(table, tmp_path / "t.csv")
    texts = [table.GetName(), table.GetAttribute(results.ATTRIBUTE), (tmp_path / "t.csv").read_text("utf-8")]
    texts += [table.GetCellText(0, i) for i in range(table.GetNumberOfColumns())]
    assert not any("SMITH" in text for text in texts)


def test_csv_holds_every_digit_and_the_demonstration_flag(case, tmp_path):
    table = scored(*case)
    scored(*case, score(None, spread=None, members=[], threshold=None, crop=None))
    results.exportCsv(table, tmp_path / "t.csv")
    with open(tmp_path / "t.csv", encoding="utf-8-sig", newline="") as file:
        first, second = csv.DictReader(file)
    assert float(first["probability"]) == 0.7177012345678901 and float(first["spread"]) == 0.06123456789012345
    assert first["members"].split() == ["0.6565", "0.77890246913578"] and "DEMO_MODEL" in first["flags"]
    assert second["probability"] == second["crop_r_mm"] == ""
    assert np.isnan(slicer.util.arrayFromTableColumn(table, "probability")[1])


def test_report_is_written_as_it_came_or_said_to_be_gone(case, tmp_path):
    table = scored(*case, report="<html>ü</html>")
    results.exportReport(table, tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text("utf-8") == "<html>ü</html>"
    slicer.mrmlScene.RemoveNode(slicer.util.getNodesByClass("vtkMRMLTextNode")[0])
    with pytest.raises(ValueError, match="deleted"):
        results.exportReport(table, tmp_path / "r2.html")


def test_all_comes_back_from_a_saved_scene(case, tmp_path):
    attention = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "map")
    slicer.util.updateVolumeFromArray(attention, np.ones((3, 4, 5), np.float32))
    long = "<html>ü" + "x" * 1_000_000 + "</html>"
    run = results.latest(scored(*case, attention=attention, report=long))
    assert slicer.util.saveScene(str(tmp_path / "case.mrb"))
    slicer.mrmlScene.Clear()
    assert slicer.util.loadScene(str(tmp_path / "case.mrb"))
    volume, segmentation = slicer.util.getNode(NAMES[0]), slicer.util.getNode(NAMES[1])
    table = results.tableOf(volume)
    assert results.latest(table) == run
    assert results.attentionOf(table).GetName() == "map"
    assert table.GetNodeReference(results.REPORT).GetText() == long
    assert table.GetNodeReference(results.SEGMENTATION) is segmentation
    assert results.staleMessage(run.inputs, inputs(volume, segmentation)) == ""
    assert results.tableOf(volume) is results.addRun(volume, segmentation, run.inputs, score(), (), None, "")


# --- stale ------------------------------------------------------------------------------------------------------------


def test_equal_content_is_never_stale(case):
    volume, segmentation = case
    then = inputs(*case)
    volume.SetName("another")
    segmentation.GetSegmentation().GetSegment("tumour").SetColor(1, 0, 0)
    segmentation.CreateClosedSurfaceRepresentation()
    paint(segmentation, "tumour", volume, mask(segmentation, "tumour", volume))
    assert results.staleMessage(then, inputs(*case)) == ""


def test_what_changed_is_named(case):
    volume, segmentation = case
    then = inputs(*case)
    assert "Another model" in results.staleMessage(then, inputs(*case, bundle=BundleInfo("x", Path("."))))
    assert "crop was moved" in results.staleMessage(then, inputs(*case, crop=["--crop-center=1,2,3"]))
    before = mask(segmentation, "tumour", volume)
    edited = before.copy()
    edited[0, 0, 0] = 1
    paint(segmentation, "tumour", volume, edited)
    assert "segmentation was edited" in results.staleMessage(then, inputs(*case))
    paint(segmentation, "tumour", volume, before)
    assert results.staleMessage(then, inputs(*case)) == ""
    slicer.util.arrayFromVolume(volume)[1, 2, 3] += 1
    assert "volume was changed" in results.staleMessage(then, inputs(*case))
    slicer.util.arrayFromVolume(volume)[1, 2, 3] -= 1
    volume.SetSpacing(1.1, 1.2, 1.4)
    assert "volume was changed" in results.staleMessage(then, inputs(*case))
    assert results.staleMessage(then, inputs(None, None)) and results.staleMessage(then, inputs(volume, None))


def test_a_transform_of_both_leaves_the_score_and_one_of_the_segmentation_marks_it(case):
    volume, _segmentation = case
    then = inputs(*case)
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = np.eye(4)
    matrix[0, 3] = 5.0
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    for node in case:
        node.SetAndObserveTransformNodeID(transform.GetID())
    assert results.staleMessage(then, inputs(*case)) == ""
    volume.SetAndObserveTransformNodeID(None)
    assert "segmentation" in results.staleMessage(then, inputs(*case))


def test_the_watch_hears_edits_once_they_rest_and_nothing_after_its_release(case):
    volume, segmentation = case
    box = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    heard = []
    watch = results.InputWatch(lambda: heard.append(1))
    watch.watch(volume, segmentation, box, None)
    tumour = mask(segmentation, "tumour", volume)
    for edit in (
        lambda: [paint(segmentation, "tumour", volume, tumour) for _ in range(5)],
        lambda: segmentation.GetSegmentation().RemoveSegment("liver"),
        lambda: slicer.util.updateVolumeFromArray(volume, np.zeros((3, 3, 3), np.int16)),
        lambda: volume.SetOrigin(9, 9, 9),
        lambda: box.SetAttribute("NeoNet.CropCenter", "1,2,3"),
        lambda: segmentation.SetAndObserveTransformNodeID(transform.GetID()),
    ):
        heard.clear()
        edit()
        assert not heard and spin(lambda: heard), edit
        assert len(heard) == 1
    watch.release()
    heard.clear()
    volume.SetOrigin(8, 8, 8)
    assert not spin(lambda: heard, 0.6)


# --- words ------------------------------------------------------------------------------------------------------------


def run(**changes):
    training = {"negative": [0.1, 0.3], "positive": [0.8]}
    return results.Run("2026-11-22T06:31:11", score(**changes), {"crop": []}, training)


def test_words_on_the_score():
    assert "0.66, 0.78" in results.meaning(run()) and "no statement about a patient" in results.meaning(run())
    assert "Probability of perineural invasion (PNI)" in results.meaning(run(flags=[]))
    assert results.againstThreshold(run()) == "At or above the operating threshold of 0.62."
    assert results.againstThreshold(run(probability=0.1)).startswith("Below")
    assert "1 of 2" in results.againstThreshold(run(members=[0.6, 0.9]))
    assert "100 % of the scores of the simulated negative" in results.standing(run())
    assert results.warnings(run()) == ["<b>far</b>"]
    assert (results.probabilityText(0.001), results.probabilityText(0.999)) == ("< 0.01", "> 0.99")


def test_no_score_says_why():
    empty = run(probability=None, spread=None, members=[], threshold=None, crop=None,
                flags=[{"code": "NO_TUMOUR", "message": "There is no tumour."}])
    assert "There is no tumour." in results.scoreHtml(empty) and "No score" in results.scoreHtml(empty)
    assert results.chartHtml(empty) == results.standing(empty) == ""
    assert results.warnings(empty) == [] and results.factsHtml(empty)


def test_what_a_bundle_says_is_text_never_markup():
    evil = run(bundle={"name": "<em>x</em>", "version": "<b>", "hash": "h" * 64}, outcome="<u>o</u>")
    text = results.scoreHtml(evil) + results.chartHtml(evil) + results.factsHtml(evil, "<script>")
    assert not any(tag in text for tag in ("<em>", "<b>", "<u>", "<script>"))


def test_facts_name_bundle_segmentation_crop_and_sizes():
    facts = dict(results.facts(run(), "my segmentation"))
    assert facts["Tumour volume"] == "23.4 ml" and facts["Largest diameter"] == "41.2 mm"
    assert facts["Number of tumours"] == "2" and facts["Segmentation"] == "my segmentation"
    assert "R -9.0, A 0.5, S 22.2 mm" in facts["Crop"] and facts["Tumour inside the crop"] == "98.0 %"
    assert facts["Model"] == "demo, version 1.0" and facts["Model hash"] == "a" * 16


def test_the_strip_shows_each_score_at_its_place():
    one = run(probability=0.5, spread=None, members=[0.5], threshold=None)
    image = results.strip([0.0, 1.0], results.NEGATIVE, one)
    columns = np.flatnonzero((image[..., :3] == results.NEGATIVE).all(-1).any(0))
    width, inset, near = (pixels * results.SCALE for pixels in (results.STRIP_WIDTH, 4, 3))
    assert abs(columns[0] - inset) <= near and abs(columns[-1] - (width - inset)) <= near
    line = np.flatnonzero((image[0, :, :3] == results.CASE).all(-1) & (image[0, :, 3] == 255))
    assert abs(line.mean() - width / 2) <= 1
    assert results.strip([0.5], results.NEGATIVE, one, faint=True)[..., 3].max() <= 0.4 * 255 + 1


def test_the_chart_is_a_picture_that_a_label_shows():
    label = qt.QLabel()
    label.text = results.chartHtml(run())
    label.adjustSize()
    assert label.width > results.STRIP_WIDTH and label.height > 3 * results.STRIP_HEIGHT


def test_digests_of_a_full_case_are_quick():
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    slicer.util.updateVolumeFromArray(volume, np.zeros((100, 240, 240), np.int16))
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    filled = np.zeros((100, 240, 240), bool)
    filled[10:80, 30:200, 30:200] = True
    for name in ("liver", "tumour"):
        segmentation.GetSegmentation().AddEmptySegment(name, name)
        paint(segmentation, name, volume, filled)
    inputs(volume, segmentation)
    times = [time.perf_counter()]
    for _ in range(3):
        inputs(volume, segmentation)
        times.append(time.perf_counter())
    print([b - a for a, b in itertools.pairwise(times)])
    assert min(b - a for a, b in itertools.pairwise(times)) < 0.3
    slicer.mrmlScene.Clear()
