"""What NeoNetLib's nodes and crop preview rely on in 3D Slicer, beyond ../shared/slicer_conformance."""

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk


def oriented(mask, affine):
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(mask.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(mask, np.uint8).ravel(), deep=True))
    image.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(affine))
    return image


def observed(node, *events):
    seen = []
    for event in events:
        node.AddObserver(event, lambda caller, name: seen.append(name))
    return seen


def test_segments_that_do_not_overlap_share_an_image_with_labels_of_their_own():
    slicer.mrmlScene.Clear()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    logic, segmentation = slicer.vtkSlicerSegmentationsModuleLogic, node.GetSegmentation()
    masks = np.zeros((2, 6, 7, 8), np.uint8)
    masks[0, 1:3, 2:5, 3:6] = masks[1, 3:5, 2:5, 3:6] = 1
    ids = [segmentation.AddEmptySegment("", name) for name in ("a", "b")]
    for segment_id, mask in zip(ids, masks, strict=True):
        assert logic.SetBinaryLabelmapToSegment(oriented(mask, np.eye(4)), node, segment_id, logic.MODE_REPLACE)
    name = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    images = [segmentation.GetSegment(segment_id).GetRepresentation(name) for segment_id in ids]
    assert images[0] is images[1] and segmentation.ContainsRepresentation(name)
    values = vtk.util.numpy_support.vtk_to_numpy(images[0].GetPointData().GetScalars())
    for segment_id, mask in zip(ids, masks, strict=True):
        assert (values == segmentation.GetSegment(segment_id).GetLabelValue()).sum() == mask.sum()


def test_edits_of_a_segment_are_events_of_the_segmentation_node():
    slicer.mrmlScene.Clear()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    segment_id = node.GetSegmentation().AddEmptySegment("", "a")
    seen = observed(node, slicer.vtkSegmentation.SourceRepresentationModified)
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    logic.SetBinaryLabelmapToSegment(oriented(np.ones((3, 4, 5)), np.eye(4)), node, segment_id, logic.MODE_REPLACE)
    assert seen
    removed = observed(node, slicer.vtkSegmentation.SegmentRemoved)
    node.GetSegmentation().RemoveSegment(segment_id)
    assert removed


def test_a_box_is_placed_by_a_matrix_and_says_when_it_moves():
    slicer.mrmlScene.Clear()
    box = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    affine = np.eye(4)
    affine[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    affine[:3, 3] = [1, 2, 3]
    box.SetAndObserveObjectToNodeMatrix(slicer.util.vtkMatrixFromArray(affine))
    box.SetSize(10, 20, 30)
    assert np.allclose(box.GetCenter(), [1, 2, 3]) and np.allclose(box.GetSize(), [10, 20, 30])
    seen = observed(box, slicer.vtkMRMLMarkupsNode.PointModifiedEvent)
    box.SetCenter(4, 5, 6)
    assert seen and np.allclose(slicer.util.arrayFromVTKMatrix(box.GetObjectToNodeMatrix())[:3, 3], [4, 5, 6])
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = np.eye(4)
    matrix[0, 3] = 100
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    box.SetAndObserveTransformNodeID(transform.GetID())
    assert np.allclose(box.GetCenter(), [4, 5, 6]) and np.allclose(box.GetCenterWorld(), [104, 5, 6])


def test_attributes_and_references_of_a_box_survive_a_scene_file():
    import os
    import tempfile

    slicer.mrmlScene.Clear()
    box = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
    box.SetSize(10, 20, 30)
    box.SetAttribute("NeoNet.CropCenter", "1.5,2,3")
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "mr")
    slicer.util.updateVolumeFromArray(volume, np.zeros((3, 4, 5), np.int16))
    box.SetNodeReferenceID("NeoNet.CropVolume", volume.GetID())
    path = os.path.join(tempfile.mkdtemp(), "scene.mrb")
    assert slicer.util.saveScene(path)
    slicer.mrmlScene.Clear()
    assert slicer.util.loadScene(path)
    box = slicer.util.getNode("box")
    assert box.GetAttribute("NeoNet.CropCenter") == "1.5,2,3" and np.allclose(box.GetSize(), [10, 20, 30])
    assert box.GetNodeReference("NeoNet.CropVolume").GetName() == "mr"
    slicer.mrmlScene.Clear()


def test_transforms_between_nodes():
    slicer.mrmlScene.Clear()
    field = vtk.vtkImageData()
    field.SetDimensions(2, 2, 2)
    field.SetSpacing(100, 100, 100)
    field.GetPointData().SetScalars(numpy_to_vtk(np.full((8, 3), 5.0), deep=True))
    warp = slicer.vtkOrientedGridTransform()
    warp.SetDisplacementGridData(field)
    grid = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode")
    grid.SetAndObserveTransformFromParent(warp)
    linear = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    assert not grid.IsTransformToWorldLinear() and linear.IsTransformToWorldLinear()
    assert not grid.IsTransformToNodeLinear(linear) and grid.IsTransformToNodeLinear(grid)
    before = linear.GetTransformToWorldMTime()
    linear.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.diag([2.0, 1, 1, 1])))
    assert linear.GetTransformToWorldMTime() > before
    general = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(None, grid, general)  # None is the world
    assert np.allclose(general.TransformPoint(50, 50, 50), [55, 55, 55])
