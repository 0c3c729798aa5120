"""What NeoNetGen relies on to show, browse and keep its patches, in the form of the other statements on 3D Slicer."""

import os
import tempfile

import numpy as np
import qt
import slicer


def volume(name, value):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(node, np.full((4, 5, 6), value, np.float32))
    node.CreateDefaultDisplayNodes()
    return node


def test_a_sequence_browser_shows_one_item_after_the_other():
    slicer.mrmlScene.Clear()
    assert hasattr(slicer.modules, "sequences")
    parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "items")
    for number in (1, 2):
        node = volume(f"item {number}", number)
        node.SetAttribute("Number", str(number))
        sequence.SetDataNodeAtValue(node, str(number))
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    browser.SetSelectedItemNumber(0)
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
    shown = browser.GetProxyNode(browser.GetMasterSequenceNode())
    shown.SetAndObserveTransformNodeID(parent.GetID())
    for index in (1, 0):
        browser.SetSelectedItemNumber(index)  # at once, through the module's logic
        assert slicer.util.arrayFromVolume(shown).max() == index + 1 and shown.GetAttribute("Number") == str(index + 1)
        assert shown.GetTransformNodeID() == parent.GetID()
        assert shown.GetName() == "items"  # not the item's: it is the sequence's
    slicer.mrmlScene.Clear()


def test_the_general_storage_of_a_sequence_keeps_attributes_in_a_saved_scene():
    slicer.mrmlScene.Clear()
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "items")
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceStorageNode")
    sequence.SetAndObserveStorageNodeID(storage.GetID())
    node = volume("item", 1)
    node.SetAttribute("Number", "1")
    sequence.SetDataNodeAtValue(node, "1")
    path = os.path.join(tempfile.mkdtemp(), "scene.mrb")
    assert slicer.util.saveScene(path)
    slicer.mrmlScene.Clear()
    assert slicer.util.loadScene(path)
    assert slicer.util.getNode("items").GetNthDataNode(0).GetAttribute("Number") == "1"
    slicer.mrmlScene.Clear()


def test_parameters_of_a_loaded_scene_come_before_the_nodes_that_they_name():
    """Whoever shows them must look again when the import has ended."""
    slicer.mrmlScene.Clear()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "mr")
    slicer.util.updateVolumeFromArray(node, np.zeros((3, 4, 5), np.int16))
    parameters = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "BrowsingConformance")
    parameters.SetNodeReferenceID("inputVolume", node.GetID())
    path = os.path.join(tempfile.mkdtemp(), "scene.mrb")
    assert slicer.util.saveScene(path)
    slicer.mrmlScene.Clear()
    found = []
    tag = slicer.mrmlScene.AddObserver(
        slicer.mrmlScene.EndImportEvent,
        lambda caller, event: found.append(slicer.util.getNode("BrowsingConformance").GetNodeReference("inputVolume")),
    )
    assert slicer.util.loadScene(path)
    slicer.mrmlScene.RemoveObserver(tag)
    assert found and found[-1] is not None
    slicer.mrmlScene.Clear()


def test_two_slice_views_side_by_side():
    slicer.mrmlScene.Clear()
    layout = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    before = layout.GetViewArrangement()
    layout.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutSideBySideView)
    node = volume("v", 1)
    for name in ("Red", "Yellow"):
        slice_ = slicer.mrmlScene.GetNodeByID(f"vtkMRMLSliceNode{name}")
        layers = slicer.mrmlScene.GetNodeByID(f"vtkMRMLSliceCompositeNode{name}")
        layers.SetForegroundVolumeID(None)
        layers.SetBackgroundVolumeID(node.GetID())
        slice_.SetOrientation("Axial")
        assert slice_.GetOrientation() == "Axial"
        slice_.JumpSliceByCentering(1.0, 2.0, 3.0)
        assert abs(slice_.GetSliceOffset() - 3.0) < 1e-6
        for linked in (True, False):
            layers.SetLinkedControl(linked)
            layers.SetHotLinkedControl(linked)
            assert bool(layers.GetLinkedControl()) is linked and bool(layers.GetHotLinkedControl()) is linked
    slicer.app.layoutManager()  # None without a main window
    layout.SetViewArrangement(before)
    slicer.mrmlScene.Clear()


def test_the_nrrd_storage_keeps_a_nodes_attributes_in_the_files_header():
    slicer.mrmlScene.Clear()
    node = volume("v", 1)
    node.SetAttribute("NeoNet.Lineage", '{"seed": 3}')
    path = os.path.join(tempfile.mkdtemp(), "v.nrrd")
    writer = slicer.vtkMRMLNRRDStorageNode()
    writer.SetFileName(path)
    writer.SetUseCompression(True)
    assert writer.WriteData(node)
    with open(path, "rb") as file:
        assert b'NeoNet.Lineage:={"seed": 3}' in file.read()
    assert np.array_equal(slicer.util.arrayFromVolume(slicer.util.loadVolume(path)), slicer.util.arrayFromVolume(node))
    slicer.mrmlScene.Clear()


def test_folders_of_the_subject_hierarchy():
    slicer.mrmlScene.Clear()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "folder")
    node = volume("v", 1)
    item = hierarchy.GetItemByDataNode(node) or hierarchy.CreateItem(folder, node)
    hierarchy.SetItemParent(item, folder)
    assert hierarchy.GetItemParent(item) == folder and hierarchy.GetItemName(folder) == "folder"
    assert hierarchy.GetItemByDataNode(node) == item
    slicer.mrmlScene.Clear()


def test_tables_and_spin_boxes():
    table = qt.QTableWidget()
    table.columnCount, table.rowCount = 2, 2
    table.setHorizontalHeaderLabels(["a", "b"])
    cell = qt.QTableWidgetItem("x")
    cell.setToolTip("more")
    table.setItem(1, 0, cell)
    table.resizeColumnsToContents()
    table.selectRow(1)
    assert table.currentRow() == 1 and table.item(1, 0).toolTip() == "more"
    assert table.connect("cellClicked(int,int)", lambda row, column: None)
    spin = qt.QSpinBox()
    spin.specialValueText = "as the model says"
    assert spin.text == "as the model says" and spin.value == 0
    combo = qt.QComboBox()
    combo.addItems(["", ""])
    combo.setItemText(1, "b")
    assert combo.itemText(1) == "b"
