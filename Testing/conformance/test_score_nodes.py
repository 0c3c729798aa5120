"""What NeoNetCls relies on beyond the shared statements: nodes that keep a score, and how it is shown."""

import os
import struct
import tempfile
import zlib
from base64 import b64encode

import numpy as np
import qt
import slicer
import vtk


def test_table_attributes_references_and_long_texts_survive_a_scene_file():
    slicer.mrmlScene.Clear()
    table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", "scores")
    text = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode", "report")
    value = '{"a": [0.1234567890123456, "é;:%\\"<>&"]}'
    table.SetAttribute("NeoNet.Results", value)
    table.SetNodeReferenceID("report", text.GetID())
    text.SetText("<html>é\n" + 100000 * "x")
    column = vtk.vtkDoubleArray()
    column.SetName("probability")
    column.InsertNextValue(0.5)
    table.AddColumn(column)
    path = os.path.join(tempfile.mkdtemp(), "scene.mrb")
    assert slicer.util.saveScene(path)
    slicer.mrmlScene.Clear()
    assert slicer.util.loadScene(path)
    back = slicer.util.getNode("scores")
    assert back.GetAttribute("NeoNet.Results") == value and back.GetNumberOfRows() == 1
    assert back.GetNodeReference("report").GetText() == "<html>é\n" + 100000 * "x"
    slicer.mrmlScene.Clear()


def test_a_segmentation_node_passes_on_the_events_of_its_segments():
    slicer.mrmlScene.Clear()
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    slicer.util.updateVolumeFromArray(volume, np.zeros((5, 6, 7), np.int16))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    seen = []
    for name in ("SegmentAdded", "SegmentRemoved", "SegmentModified", "SourceRepresentationModified"):
        node.AddObserver(getattr(slicer.vtkSegmentation, name), lambda caller, event, name=name: seen.append(name))
    node.GetSegmentation().AddEmptySegment("a", "a")
    assert "SegmentAdded" in seen
    for value in (1, 0, 1):
        seen.clear()
        mask = np.ones((5, 6, 7), np.uint8)
        mask[0, 0, 0] = value
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, "a", volume)
        assert {"SegmentModified", "SourceRepresentationModified"} & set(seen)  # the one or the other
    node.GetSegmentation().GetSegment("a").SetName("b")
    assert "SegmentModified" in seen
    node.GetSegmentation().RemoveSegment("a")
    assert "SegmentRemoved" in seen
    slicer.mrmlScene.Clear()


def test_removing_a_node_and_importing_a_scene_are_events():
    slicer.mrmlScene.Clear()
    seen = []
    tags = [slicer.mrmlScene.AddObserver(getattr(slicer.mrmlScene, name), lambda c, e, n=name: seen.append(n))
            for name in ("NodeRemovedEvent", "EndImportEvent")]
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode")
    assert slicer.mrmlScene.IsNodePresent(node)
    slicer.mrmlScene.RemoveNode(node)
    assert seen == ["NodeRemovedEvent"] and not slicer.mrmlScene.IsNodePresent(node)
    path = os.path.join(tempfile.mkdtemp(), "scene.mrb")
    slicer.util.saveScene(path)
    slicer.util.loadScene(path)
    assert "EndImportEvent" in seen
    for tag in tags:
        slicer.mrmlScene.RemoveObserver(tag)
    slicer.mrmlScene.Clear()


def test_slice_views_show_a_foreground_and_jump():
    slicer.mrmlScene.Clear()
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    slicer.util.updateVolumeFromArray(volume, np.zeros((5, 6, 7), np.float32))
    composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    assert composites
    composites[0].SetForegroundVolumeID(volume.GetID())
    composites[0].SetForegroundOpacity(0.5)
    assert composites[0].GetForegroundVolumeID() == volume.GetID()
    composites[0].SetForegroundVolumeID(None)
    assert not composites[0].GetForegroundVolumeID()
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, 1.0, 2.0, 3.0, slicer.vtkMRMLSliceNode.OffsetJumpSlice)
    red = slicer.mrmlScene.GetSingletonNode("Red", "vtkMRMLSliceNode")
    assert abs(red.GetSliceOffset() - 3) < 1e-6
    slicer.mrmlScene.Clear()


def test_the_colours_of_the_attention_map():
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    slicer.util.updateVolumeFromArray(volume, np.zeros((5, 6, 7), np.float32))
    volume.CreateDefaultDisplayNodes()
    display = volume.GetDisplayNode()
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeFileViridis.txt")
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(0.25, 0.75)
    display.AutoThresholdOff()
    display.SetThreshold(0.25, 0.75)
    display.ApplyThresholdOn()
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (0.25, 0.75)
    assert (display.GetLowerThreshold(), display.GetUpperThreshold()) == (0.25, 0.75) and display.GetApplyThreshold()
    try:
        import slicer_standin  # noqa: F401 - the wheel comes without Slicer's colour files
    except ImportError:
        assert display.GetColorNode().GetName() == "Viridis"
    slicer.mrmlScene.Clear()


def test_a_label_shows_a_picture_from_its_own_text():
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    line = b"\0" + b"\xff\x00\x00\xff" * 40
    picture = (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 40, 30, 8, 6, 0, 0, 0))
               + chunk(b"IDAT", zlib.compress(line * 30)) + chunk(b"IEND", b""))
    label = qt.QLabel()
    label.setTextFormat(qt.Qt.RichText)
    label.setTextInteractionFlags(qt.Qt.TextSelectableByMouse)
    label.text = f"<img src='data:image/png;base64,{b64encode(picture).decode()}' width='400' height='300'/>"
    label.adjustSize()
    assert label.width >= 400 and label.height >= 300
    red = label.grab().toImage().pixelColor(200, 150)
    assert (red.red(), red.green(), red.blue()) == (255, 0, 0)


def test_elapsed_timer():
    clock = qt.QElapsedTimer()
    clock.start()
    assert 0 <= clock.elapsed() < 10000
