"""What NeoNetSeg relies on, in the form of the other statements on 3D Slicer."""

import os
import pathlib
import tempfile

import numpy as np
import qt
import slicer
from slicer.parameterNodeWrapper import parameterNodeWrapper

UI = """<?xml version="1.0" encoding="UTF-8"?>
<ui version="4.0"><class>Panel</class><widget class="qMRMLWidget" name="Panel"><layout class="QVBoxLayout" name="outer">
<item><layout class="QFormLayout" name="innerLayout"/></item>
<item><widget class="QPushButton" name="showButton"><property name="checkable"><bool>true</bool></property>
 <property name="SlicerParameterName" stdset="0"><string>show</string></property></widget></item>
</layout></widget>
<customwidgets><customwidget><class>qMRMLWidget</class><extends>QWidget</extends><header>qMRMLWidget.h</header>
<container>1</container></customwidget></customwidgets><resources/></ui>
"""


@parameterNodeWrapper
class Parameters:
    show: bool = False


def drawn():
    """A volume of 8 x 8 x 8 voxels of 2 mm, and a segmentation with a cube in it around (9, 9, 9) mm."""
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "v")
    slicer.util.updateVolumeFromArray(volume, np.zeros((8, 8, 8), np.int16))
    volume.SetSpacing(2, 2, 2)
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "s")
    segmentation.CreateDefaultDisplayNodes()
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    mask = np.zeros((8, 8, 8), np.uint8)
    mask[4:6, 4:6, 4:6] = 1
    segment = segmentation.GetSegmentation().AddEmptySegment("tumour", "tumour")
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, segmentation, segment, volume)
    return volume, segmentation


def test_segment_editor_takes_up_a_node_of_its_tag():
    slicer.mrmlScene.Clear()
    slicer.util.selectModule("Data")
    volume, segmentation = drawn()
    node = slicer.mrmlScene.GetSingletonNode("SegmentEditor", "vtkMRMLSegmentEditorNode")
    if node is None:
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
        node.UnRegister(None)
        node.SetSingletonTag("SegmentEditor")
        node = slicer.mrmlScene.AddNode(node)
    node.SetAndObserveSegmentationNode(segmentation)
    node.SetAndObserveSourceVolumeNode(volume)
    node.SetSelectedSegmentID("tumour")
    slicer.util.selectModule("SegmentEditor")
    assert slicer.util.selectedModule() == "SegmentEditor"
    assert node.GetSegmentationNode() == segmentation and node.GetSelectedSegmentID() == "tumour"
    widget = getattr(slicer.modules, "SegmentEditorWidget", None)
    if widget is not None:  # the stand-in has no editor
        assert widget.editor.segmentationNode() == segmentation and widget.editor.sourceVolumeNode() == volume
    slicer.util.selectModule("Data")
    slicer.mrmlScene.Clear()


def test_a_place_comes_into_view():
    slicer.mrmlScene.Clear()
    _volume, segmentation = drawn()
    center = segmentation.GetSegmentCenterRAS("tumour")
    assert np.allclose(center, (9, 9, 9), atol=1)
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *center)
    layout = slicer.app.layoutManager()
    assert abs(layout.sliceWidget("Red").mrmlSliceNode().GetSliceOffset() - center[2]) < 1e-3
    for index in range(layout.threeDViewCount):
        layout.threeDWidget(index).threeDView().resetFocalPoint()
    empty = segmentation.GetSegmentation().AddEmptySegment("empty", "empty")
    assert segmentation.GetSegmentCenterRAS(empty) is None and segmentation.GetSegmentCenterRAS("") is None
    assert segmentation.GetDisplayVisibility()
    segmentation.SetDisplayVisibility(False)
    assert not segmentation.GetDisplayVisibility()
    slicer.mrmlScene.Clear()


def test_a_button_that_stays_down_is_a_parameter_and_layouts_have_names():
    slicer.mrmlScene.Clear()
    path = os.path.join(tempfile.mkdtemp(), "Panel.ui")
    pathlib.Path(path).write_text(UI)
    panel = slicer.util.loadUI(path)
    ui = slicer.util.childWidgetVariables(panel)
    parameters = Parameters(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    clicked = []
    tag = parameters.connectGui(ui)
    ui.showButton.connect("clicked()", lambda: clicked.append(parameters.show))
    ui.showButton.click()
    assert parameters.show is True and clicked == [True]  # the parameter is set when the click is told
    parameters.show = False
    assert ui.showButton.checked is False and clicked == [True]
    parameters.disconnectGui(tag)
    tag = parameters.connectParametersToGui({"show": ui.showButton})
    ui.showButton.click()
    assert parameters.show is True
    parameters.disconnectGui(tag)
    ui.showButton.click()
    assert ui.showButton.checked is False and parameters.show is True  # connected no more
    label, row = qt.QLabel("text"), qt.QHBoxLayout()
    ui.innerLayout.addRow(label)
    ui.innerLayout.addRow("Name:", row)
    assert ui.innerLayout.rowCount() == 2
    slicer.mrmlScene.Clear()


def test_widgets_of_the_job_panel():
    combo, got = qt.QComboBox(), []
    combo.connect("currentIndexChanged(int)", got.append)
    assert combo.blockSignals(True) is False
    combo.addItems(["a", "b"])
    combo.currentIndex = -1
    assert combo.blockSignals(False) is True and got == [] and combo.currentText == ""
    label = qt.QLabel()
    label.wordWrap = True
    label.setTextFormat(qt.Qt.PlainText)
    label.text = "<b>no markup</b>"
    assert label.text == "<b>no markup</b>"
    text = qt.QPlainTextEdit()
    text.readOnly, text.maximumBlockCount = True, 2
    for line in "abc":
        text.appendPlainText(line)
    assert text.plainText == "b\nc"
    bar = qt.QProgressBar()
    bar.maximum = 0
    assert bar.maximum == 0


def test_a_loaded_scene_begins_and_ends_with_an_event():
    slicer.mrmlScene.Clear()
    drawn()
    path, events = os.path.join(tempfile.mkdtemp(), "scene.mrb"), []
    assert slicer.util.saveScene(path)
    slicer.mrmlScene.Clear()
    tags = [slicer.mrmlScene.AddObserver(getattr(slicer.mrmlScene, name), lambda c, e, n=name: events.append(n))
            for name in ("StartImportEvent", "EndImportEvent")]
    assert slicer.util.loadScene(path)
    for tag in tags:
        slicer.mrmlScene.RemoveObserver(tag)
    assert events[0] == "StartImportEvent" and events[-1] == "EndImportEvent"
    slicer.mrmlScene.Clear()
