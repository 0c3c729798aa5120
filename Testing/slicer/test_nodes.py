"""Volumes and label maps keep their voxels and their place in the world between MRML nodes, files and the library."""

import os
from pathlib import Path

import numpy as np
import pytest
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk

from neonet_core.errors import NeoNetError
from neonet_core.volume import Volume, read_label_map, read_volume, to_canonical, write_volume
from NeoNetLib import nodes, segments

TURN = np.array([[np.cos(0.3), -np.sin(0.3), 0], [np.sin(0.3), np.cos(0.3), 0], [0, 0, 1]]) @ np.array(
    [[1, 0, 0], [0, np.cos(0.2), -np.sin(0.2)], [0, np.sin(0.2), np.cos(0.2)]])
AXES = {
    "RAS": np.eye(3),
    "LPS": np.diag([-1.0, -1, 1]),
    "LAS": np.diag([-1.0, 1, 1]),  # left-handed
    "sagittal": np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]),
    "oblique": TURN,
    "oblique left-handed": TURN @ np.diag([1.0, -1, 1]),
}
PARENTS = ("none", "linear", "nested", "non-linear")
SHAPE = (14, 18, 22)  # K, J, I


def affine_of(axes):
    affine = np.eye(4)
    affine[:3, :3] = AXES[axes] * [1.1, 1.3, 2.7]
    affine[:3, 3] = [10 / 3, -20.5, 30.25]
    return affine


def make_volume(affine, shape=SHAPE, name="mr"):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(node, np.random.default_rng(0).integers(0, 1000, shape).astype(np.int16))
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(affine))
    return node


def make_labels(shape=SHAPE):
    """A liver and a tumour without any symmetry."""
    labels = np.zeros(shape, np.uint8)
    labels[2:9, 3:14, 4:20] = 1
    labels[4:6, 5:9, 6:13] = 2
    labels[3, 4, 5] = 2
    return labels


def make_transform(kind):
    """A transform node, None for "none"."""
    if kind == "none":
        return None
    if kind == "non-linear":
        field = vtk.vtkImageData()
        field.SetDimensions(4, 4, 4)
        field.SetOrigin(-150, -150, -150)
        field.SetSpacing(100, 100, 100)
        moves = np.random.default_rng(1).uniform(-8, 8, (64, 3))
        field.GetPointData().SetScalars(numpy_to_vtk(moves, deep=True))
        warp = slicer.vtkOrientedGridTransform()
        warp.SetDisplacementGridData(field)
        warp.SetInterpolationModeToCubic()
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", kind)
        node.SetAndObserveTransformFromParent(warp)
        return node
    matrix = np.eye(4)
    matrix[:3, :3] = TURN.T @ np.diag([1.0, 1.0, 1.05])
    matrix[:3, 3] = [40, -7, 3]
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", kind)
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    if kind == "nested":
        node.SetAndObserveTransformNodeID(make_transform("linear").GetID())
    return node


def put_under(node, transform):
    node.SetAndObserveTransformNodeID(transform.GetID() if transform else None)


def make_segmentation(labels, affine):
    """Segments "liver" and "tumour" of a label map (K, J, I), with a geometry of their own."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "s")
    for name, label in (("liver", 1), ("tumour", 2)):
        image = slicer.vtkOrientedImageData()
        image.SetDimensions(labels.shape[::-1])
        image.GetPointData().SetScalars(numpy_to_vtk((labels == label).astype(np.uint8).ravel(), deep=True))
        image.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(affine))
        segment = slicer.vtkSegment()
        segment.SetName(name)
        segment.AddRepresentation(nodes.BINARY_LABELMAP, image)
        node.GetSegmentation().AddSegment(segment, name)
    return node


def world_of(node, affine, index):
    """Where a voxel (I, J, K) of a node's grid is in the world."""
    return nodes.localToWorld(node, (affine @ [*index, 1])[:3])


def world_points_of_segment(segmentation, segment_id):
    """World positions (N, 3) of a segment's voxels, read from the segment itself."""
    image = slicer.vtkOrientedImageData()
    assert segmentation.GetBinaryLabelmapRepresentation(segment_id, image)
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    affine, extent = slicer.util.arrayFromVTKMatrix(matrix), image.GetExtent()
    return np.array([
        nodes.localToWorld(segmentation, (affine @ [i, j, k, 1])[:3])
        for k in range(extent[4], extent[5] + 1) for j in range(extent[2], extent[3] + 1)
        for i in range(extent[0], extent[1] + 1) if image.GetScalarComponentAsDouble(i, j, k, 0)])


def in_order(points):
    return points[np.lexsort(points.round(3).T)]


def node_count():
    return slicer.mrmlScene.GetNumberOfNodes()


# --- volumes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parent", PARENTS)
@pytest.mark.parametrize("axes", AXES)
def test_a_written_volume_is_read_with_the_same_voxels_at_the_same_places(tmp_path, axes, parent):
    volume = make_volume(affine_of(axes))
    put_under(volume, make_transform(parent))
    nodes.writeVolume(volume, tmp_path / "image.nrrd")
    read = read_volume(tmp_path / "image.nrrd")
    assert read.array.dtype == np.int16 and np.array_equal(read.array, slicer.util.arrayFromVolume(volume).T)
    assert np.allclose(read.affine, affine_of(axes), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"])
def test_all_kinds_of_voxels_are_written(tmp_path, dtype):
    volume = make_volume(affine_of("LPS"))
    slicer.util.updateVolumeFromArray(volume, np.arange(60).reshape(3, 4, 5).astype(dtype))
    nodes.writeVolume(volume, tmp_path / "image.nrrd")
    read = read_volume(tmp_path / "image.nrrd").array
    assert read.dtype == dtype and np.array_equal(read.T.ravel(), np.arange(60))


@pytest.mark.parametrize("axes", AXES)
def test_canonical_is_that_of_the_library(tmp_path, axes):
    volume = make_volume(affine_of(axes))
    array, affine = nodes.canonical(volume)
    nodes.writeVolume(volume, tmp_path / "image.nrrd")
    library = to_canonical(read_volume(tmp_path / "image.nrrd"))
    assert np.array_equal(array, library.array) and np.allclose(affine, library.affine, rtol=0, atol=1e-9)


def test_a_volume_that_cannot_be_computed_on_says_so(tmp_path):
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    sheared = make_volume(np.array([[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    for volume, code in ((empty, "EMPTY_FILE"), (sheared, "BAD_AFFINE")):
        with pytest.raises(NeoNetError) as caught:
            nodes.writeVolume(volume, tmp_path / "image.nrrd")
        assert caught.value.code == code
    with pytest.raises(NeoNetError) as caught:
        nodes.writeVolume(make_volume(np.eye(4)), tmp_path / "no such folder" / "image.nrrd")
    assert caught.value.code == "CANNOT_WRITE"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full disk here")
def test_a_full_disk_is_named():
    with pytest.raises(NeoNetError, match="No space left") as caught:
        nodes.writeVolume(make_volume(np.eye(4), (50, 60, 70)), "/dev/full")
    assert caught.value.code == "CANNOT_WRITE"


@pytest.mark.parametrize("parent", PARENTS)
def test_points_go_to_the_world_and_back(parent):
    volume = make_volume(affine_of("oblique"))
    put_under(volume, make_transform(parent))
    point = np.array([5.0, -6, 7])
    assert np.allclose(nodes.worldToLocal(volume, nodes.localToWorld(volume, point)), point, atol=1e-3)
    assert np.allclose(nodes.localToWorld(volume, point), point) == (parent == "none")


@pytest.mark.parametrize("axes", AXES)
def test_a_result_lies_exactly_over_its_volume(tmp_path, axes):
    volume = make_volume(affine_of(axes))
    put_under(volume, make_transform("linear"))
    array = np.random.default_rng(2).random(SHAPE, np.float32)
    write_volume(to_canonical(Volume(array.T, affine_of(axes))), tmp_path / "attention.nii.gz")
    result = nodes.loadResultVolume(tmp_path / "attention.nii.gz", volume, "attention")
    assert np.array_equal(slicer.util.arrayFromVolume(result), array)
    assert np.array_equal(nodes.localAffine(result), nodes.localAffine(volume))
    assert result.GetParentTransformNode() is volume.GetParentTransformNode()


def test_a_patch_keeps_its_own_grid_and_place(tmp_path):
    volume = make_volume(affine_of("LAS"))
    patch = Volume(np.random.default_rng(2).random((6, 5, 4), np.float32), affine_of("oblique"))
    write_volume(patch, tmp_path / "patch.nii.gz")
    result = nodes.loadResultVolume(tmp_path / "patch.nii.gz", volume, "patch")
    assert np.array_equal(slicer.util.arrayFromVolume(result).T, patch.array)
    assert np.allclose(nodes.localAffine(result), patch.affine, atol=1e-4)  # NIfTI has 32 bits


def test_results_come_beside_the_volume_and_leave_the_views_as_they_are(tmp_path):
    volume = make_volume(affine_of("LPS"))
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    study = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "study")
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(volume) or hierarchy.CreateItem(study, volume), study)
    nodes.writeVolume(volume, tmp_path / "x.nrrd")
    composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    background = [node.GetBackgroundVolumeID() for node in composites]
    for node in (nodes.loadResultVolume(tmp_path / "x.nrrd", volume, "x"), nodes.showLabelMap(make_labels(), volume),
                 slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode")):
        nodes.placeBeside(node, volume)
        assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study
    assert [node.GetBackgroundVolumeID() for node in composites] == background


# --- label maps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parent", PARENTS)
@pytest.mark.parametrize("axes", AXES)
def test_a_label_map_of_the_library_overlays_the_anatomy(tmp_path, axes, parent):
    """The library gets the file that Slicer wrote, and may write its answer along other axes."""
    volume, labels = make_volume(affine_of(axes)), make_labels()
    put_under(volume, make_transform(parent))
    nodes.writeVolume(volume, tmp_path / "image.nrrd")
    image = read_volume(tmp_path / "image.nrrd")
    write_volume(to_canonical(Volume(labels.T, image.affine)), tmp_path / "labels.nii.gz")
    segmentation = nodes.showLabelMap(tmp_path / "labels.nii.gz", volume)
    liver, tumour = segments.findSegments(segmentation)
    for segment, label in ((liver, 1), (tumour, 2)):
        expected = np.array([world_of(volume, affine_of(axes), kji[::-1]) for kji in np.argwhere(labels == label)])
        assert np.allclose(in_order(world_points_of_segment(segmentation, segment)), in_order(expected), atol=1e-3)
    assert np.array_equal(nodes.labelMapArray(segmentation, liver, tumour, volume), labels)


@pytest.mark.parametrize("axes", AXES)
def test_slicers_own_export_agrees(axes):
    volume, labels = make_volume(affine_of(axes)), make_labels()
    put_under(volume, make_transform("linear"))
    segmentation = nodes.showLabelMap(labels, volume)
    for segment, label in zip(segments.findSegments(segmentation), (1, 2), strict=True):
        exported = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segment, volume)
        assert np.array_equal(exported, labels == label)


@pytest.mark.parametrize("axes", AXES)
def test_a_label_map_is_written_for_the_library(tmp_path, axes):
    volume, labels = make_volume(affine_of(axes)), make_labels()
    segmentation = make_segmentation(labels, affine_of(axes))
    nodes.writeLabelMap(segmentation, "liver", "tumour", volume, tmp_path / "labels.nrrd")
    read = read_label_map(tmp_path / "labels.nrrd")
    assert np.array_equal(read.array.T, labels) and np.allclose(read.affine, affine_of(axes), rtol=0, atol=1e-12)


def test_the_tumour_wins_and_either_may_be_missing():
    volume, labels = make_volume(np.eye(4)), make_labels()
    segmentation = make_segmentation(labels, np.eye(4))
    both = make_segmentation(np.ones_like(labels), np.eye(4)).GetSegmentation().GetSegment("liver")
    segmentation.GetSegmentation().AddSegment(both, "everywhere")
    covered = nodes.labelMapArray(segmentation, "everywhere", "tumour", volume)
    assert np.array_equal(covered, np.where(labels == 2, 2, 1))
    assert np.array_equal(nodes.labelMapArray(segmentation, "", "tumour", volume), np.where(labels == 2, 2, 0))
    assert np.array_equal(nodes.labelMapArray(segmentation, "liver", None, volume), np.where(labels == 1, 1, 0))
    with pytest.raises(NeoNetError) as caught:
        nodes.labelMapArray(segmentation, "liver", "deleted", volume)
    assert caught.value.code == "NO_SEGMENT"


@pytest.mark.parametrize("segmentation_under", PARENTS)
@pytest.mark.parametrize("volume_under", PARENTS)
def test_segments_are_sampled_at_their_place_in_the_world(volume_under, segmentation_under):
    """Volume and segmentation under different transforms, the segments on a finer grid of their own."""
    volume, warp = make_volume(affine_of("oblique")), make_transform(segmentation_under)
    put_under(volume, make_transform(volume_under))
    labels = np.zeros((30, 40, 44), np.uint8)
    labels[3:27, 4:36, 5:40], labels[8:18, 10:25, 12:30] = 1, 2
    own = affine_of("LAS")
    own[:3, :3] *= 0.6
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    put_under(segmentation, warp)
    middle = nodes.worldToLocal(segmentation, world_of(volume, affine_of("oblique"), (10, 9, 7)))
    own[:3, 3] = middle - own[:3, :3] @ [20, 17, 12]
    segmentation = make_segmentation(labels, own)
    put_under(segmentation, warp)

    expected = np.zeros(SHAPE, np.uint8)
    for k, j, i in np.ndindex(SHAPE):
        local = nodes.worldToLocal(segmentation, world_of(volume, affine_of("oblique"), (i, j, k)))
        x, y, z = np.floor(np.linalg.solve(own[:3, :3], local - own[:3, 3]) + 0.5).astype(int)
        if 0 <= z < 30 and 0 <= y < 40 and 0 <= x < 44:
            expected[k, j, i] = labels[z, y, x]
    sampled = nodes.labelMapArray(segmentation, "liver", "tumour", volume)
    assert (expected == 2).sum() > 10
    assert (sampled != expected).mean() < 2e-3  # ties, and the inverse of a warp is found to a tolerance only


def test_a_segment_drawn_as_a_surface_is_sampled():
    volume = make_volume(np.diag([1.0, 1, 1, 1]), (40, 40, 40))
    sphere = vtk.vtkSphereSource()
    sphere.SetCenter(20, 20, 20)
    sphere.SetRadius(12)
    sphere.SetThetaResolution(60)
    sphere.SetPhiResolution(60)
    sphere.Update()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "surface")
    node.GetSegmentation().SetSourceRepresentationName("Closed surface")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    node.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), "liver", None, "liver")
    labels = nodes.labelMapArray(node, "liver", "", volume)
    assert abs((labels == 1).sum() / (4 / 3 * np.pi * 12**3) - 1) < 0.03
    assert list(np.argwhere(labels).mean(axis=0).round()) == [20, 20, 20]


def test_a_label_map_becomes_two_segments_for_slices_and_3d():
    volume = make_volume(affine_of("LPS"))
    segmentation = nodes.showLabelMap(make_labels(), volume, name="case 1")
    assert segmentation.GetName() == "case 1"
    role = segmentation.GetReferenceImageGeometryReferenceRole()
    assert segmentation.GetNodeReference(role) is volume
    for segment_id, kind in zip(segments.findSegments(segmentation), (segments.LIVER, segments.TUMOUR), strict=True):
        segment = segmentation.GetSegmentation().GetSegment(segment_id)
        assert segment.GetName() == kind.name and np.allclose(segment.GetColor(), kind.colour)
        surface = vtk.vtkPolyData()
        assert segmentation.GetClosedSurfaceRepresentation(segment_id, surface) and surface.GetNumberOfPoints() > 0
        assert segmentation.GetDisplayNode().GetSegmentVisibility(segment_id)
        assert segmentation.GetDisplayNode().GetSegmentVisibility3D(segment_id)
    assert segmentation.GetDisplayNode().GetVisibility()


def test_a_label_map_without_tumour_gives_an_empty_segment_to_draw_in():
    volume = make_volume(affine_of("LPS"))
    labels = np.minimum(make_labels(), 1)
    segmentation = nodes.showLabelMap(labels, volume)
    liver, tumour = segments.findSegments(segmentation)
    assert liver and tumour and np.array_equal(nodes.labelMapArray(segmentation, liver, tumour, volume), labels)
    assert nodes.segmentIsEmpty(segmentation, tumour) and not nodes.segmentIsEmpty(segmentation, liver)


def test_a_segmentation_is_renewed_in_place():
    volume, labels = make_volume(affine_of("LAS")), make_labels()
    segmentation = nodes.showLabelMap(labels, volume)
    before = segments.findSegments(segmentation)
    vessel = make_segmentation(labels[::-1], affine_of("LAS")).GetSegmentation().GetSegment("tumour")
    vessel.SetName("portal vein")
    segmentation.GetSegmentation().AddSegment(vessel, "vessel")
    new = np.roll(labels, 3, axis=2)
    assert nodes.showLabelMap(new, volume, segmentation) is segmentation
    assert segments.findSegments(segmentation) == before
    assert np.array_equal(nodes.labelMapArray(segmentation, *before, volume), new)
    assert np.array_equal(nodes.labelMapArray(segmentation, "vessel", "", volume) == 1, labels[::-1] == 2)
    empty = np.zeros_like(labels)
    assert not nodes.labelMapArray(nodes.showLabelMap(empty, volume, segmentation), *before, volume).any()


def test_a_result_that_cannot_be_used_leaves_the_scene_as_it_was(tmp_path):
    volume = make_volume(affine_of("LPS"))
    write_volume(Volume(make_labels().T, np.eye(4)), tmp_path / "elsewhere.nii.gz")
    Path(tmp_path / "broken.nii.gz").write_bytes(b"no image")
    before = node_count()
    for name, code in (("elsewhere", "GRID_MISMATCH"), ("broken", "UNREADABLE_FILE"), ("missing", "UNREADABLE_FILE")):
        with pytest.raises(NeoNetError) as caught:
            nodes.showLabelMap(tmp_path / f"{name}.nii.gz", volume)
        assert caught.value.code == code and node_count() == before
    with pytest.raises(NeoNetError):
        nodes.loadResultVolume(tmp_path / "broken.nii.gz", volume, "x")
    with pytest.raises(ValueError):
        nodes.showLabelMap(np.zeros((2, 3, 4), np.uint8), volume)
    assert node_count() == before
