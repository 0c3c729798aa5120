"""The crop in the scene is the crop of the command line, follows the tumour and the user, and says what it holds."""

import os
import subprocess
import sys

import numpy as np
import pytest
import slicer
import vtk
from test_nodes import AXES, PARENTS, affine_of, make_labels, make_segmentation, make_transform, make_volume, put_under
from vtk.util.numpy_support import numpy_to_vtk

from neonet_core.pipeline import cut_patch
from neonet_core.presets import CropSettings
from neonet_core.tlcr import world_to_voxel
from neonet_core.volume import read_label_map, read_volume
from NeoNetLib import nodes
from NeoNetLib.croppreview import CropPreview

SHAPE = (20, 36, 40)  # K, J, I
SIZE = (12, 16, 8)
SPACING = (1.5, 1.2, 2.0)


def make_case(axes="oblique", parent="none", labels=None):
    """Volume and segmentation, both under the same transform."""
    labels = make_labels(SHAPE) if labels is None else labels
    volume, segmentation = make_volume(affine_of(axes), SHAPE), make_segmentation(labels, affine_of(axes))
    transform = make_transform(parent)
    put_under(volume, transform)
    put_under(segmentation, transform)
    return volume, segmentation


def preview_of(volume, segmentation, size=SIZE, spacing=None, component="all"):
    return CropPreview(volume, segmentation, "liver", "tumour", size, spacing, component)


def command_lines_patch(preview, folder):
    """What `neonet_core` cuts from the files that a job would get, with the options that it would get."""
    nodes.writeVolume(preview.volumeNode, folder / "image.nrrd")
    nodes.writeLabelMap(preview.segmentationNode, "liver", "tumour", preview.volumeNode, folder / "labels.nrrd")
    center = None
    for option in preview.options():
        name, value = option.split("=")
        assert name == "--crop-center"
        center = tuple(float(number) for number in value.split(","))
    return cut_patch(read_volume(folder / "image.nrrd"), read_label_map(folder / "labels.nrrd"),
                     CropSettings(size=preview.size, component=preview.component), preview.spacing, crop_center=center)


def assert_same(preview, patch):
    for node, channel in zip((preview.t1Node, preview.t2Node), patch.channels, strict=True):
        shown = slicer.util.arrayFromVolume(node).T
        assert shown.dtype == np.float32 and np.array_equal(shown, channel)
        assert np.allclose(nodes.localAffine(node), patch.image.affine, rtol=0, atol=1e-9)
    assert preview.coverage == patch.crop.coverage


def move(preview, *voxels):
    """Move the box by voxels along R, A, S, as a user does."""
    affine = nodes.localAffine(preview.t1Node)
    preview.roiNode.SetCenter(*(np.array(preview.roiNode.GetCenter()) + affine[:3, :3] @ voxels))


def draw(segmentation, segment_id, labels, affine):
    """Replace a segment, as Segment Editor does."""
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(labels.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(labels.astype(np.uint8).ravel(), deep=True))
    image.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(affine))
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    assert logic.SetBinaryLabelmapToSegment(image, segmentation, segment_id, logic.MODE_REPLACE)


def first_voxel(node):
    return nodes.localAffine(node)[:3, 3]


# --- the same crop as the command line's ------------------------------------------------------------------------------


@pytest.mark.parametrize("parent", PARENTS)
@pytest.mark.parametrize("spacing", [None, SPACING])
@pytest.mark.parametrize("axes", AXES)
def test_the_crop_is_that_of_the_command_line(tmp_path, axes, spacing, parent):
    preview = preview_of(*make_case(axes, parent), spacing=spacing)
    assert preview.problem == "" and preview.options() == [] and preview.coverage > 0
    assert slicer.util.arrayFromVolume(preview.t2Node).any()
    assert_same(preview, command_lines_patch(preview, tmp_path))
    move(preview, 4, -3, 2)
    assert preview.options()
    assert_same(preview, command_lines_patch(preview, tmp_path))


@pytest.mark.parametrize("spacing", [None, SPACING])
def test_the_largest_tumour_alone(tmp_path, spacing):
    labels = make_labels(SHAPE)
    labels[15:17, 30:32, 33:35] = 2
    preview = preview_of(*make_case("LAS", labels=labels), spacing=spacing, component="largest")
    assert_same(preview, command_lines_patch(preview, tmp_path))
    assert preview.coverage == 1 and preview.summary == "The crop holds the whole tumour."
    everything = preview_of(*make_case("LAS", labels=labels), spacing=spacing)
    assert everything.coverage < 1


@pytest.mark.parametrize("spacing", [None, SPACING])
@pytest.mark.parametrize("axes", AXES)
def test_a_volume_smaller_than_the_crop_is_padded(tmp_path, axes, spacing):
    preview = preview_of(*make_case(axes), size=(60, 10, 50), spacing=spacing)
    assert_same(preview, command_lines_patch(preview, tmp_path))
    assert preview.summary.endswith("The volume is smaller than the crop, which is filled with zeros.")
    move(preview, 5, 0, -5)
    assert preview.options() == []  # there is nowhere to go
    move(preview, 0, 2, 0)
    assert preview.options()
    assert_same(preview, command_lines_patch(preview, tmp_path))


def test_a_liver_need_not_be_chosen():
    volume, segmentation = make_case()
    preview = CropPreview(volume, segmentation, "", "tumour", SIZE)
    assert preview.problem == ""
    assert np.array_equal(*(slicer.util.arrayFromVolume(node) for node in (preview.t1Node, preview.t2Node)))


# --- the box ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parent", ["none", "linear", "nested"])
@pytest.mark.parametrize("size", [SIZE, (13, 15, 7), (60, 10, 9)])
@pytest.mark.parametrize("axes", AXES)
def test_the_box_encloses_the_patch_in_the_world(axes, size, parent):
    preview = preview_of(*make_case(axes, parent), size=size)
    roi, affine = preview.roiNode, nodes.localAffine(preview.t1Node)
    assert roi.GetROIType() == slicer.vtkMRMLMarkupsROINode.ROITypeBox
    to_world = vtk.vtkMatrix4x4()
    to_world.DeepCopy(roi.GetObjectToWorldMatrix())
    matrix = slicer.util.arrayFromVTKMatrix(to_world)
    for corner in np.ndindex(2, 2, 2):
        voxel = np.where(corner, np.array(size) - 0.5, -0.5)
        expected = nodes.localToWorld(preview.t1Node, affine[:3, :3] @ voxel + affine[:3, 3])
        of_box = np.where(corner, 0.5, -0.5) * np.array(roi.GetSize())
        if parent == "none":
            assert np.allclose((matrix @ [*of_box, 1])[:3], expected, atol=1e-3)
        local = slicer.util.arrayFromVTKMatrix(roi.GetObjectToNodeMatrix()) @ [*of_box, 1]
        assert np.allclose(nodes.localToWorld(roi, local[:3]), expected, atol=1e-3)


def test_the_box_can_be_moved_but_not_resized_or_turned():
    preview = preview_of(*make_case())
    display = preview.roiNode.GetDisplayNode()
    assert display.GetHandlesInteractive() and display.GetTranslationHandleVisibility()
    assert not display.GetScaleHandleVisibility() and not display.GetRotationHandleVisibility()
    size, matrix = preview.roiNode.GetSize(), slicer.util.arrayFromVTKMatrix(preview.roiNode.GetObjectToNodeMatrix())
    preview.roiNode.SetSize(1, 2, 3)
    assert preview.roiNode.GetSize() == pytest.approx(size)
    preview.roiNode.SetAndObserveObjectToNodeMatrix(slicer.util.vtkMatrixFromArray(np.eye(4)))
    preview.update()
    now = slicer.util.arrayFromVTKMatrix(preview.roiNode.GetObjectToNodeMatrix())
    assert np.allclose(now[:3, :3], matrix[:3, :3])


def test_a_box_moved_out_is_held_at_the_border(tmp_path):
    preview = preview_of(*make_case("oblique"))
    for way in ((-1000, -1000, -1000), (1000, 1000, 1000)):
        move(preview, *way)
        grid, affine = nodes.canonical(preview.volumeNode)
        start = world_to_voxel(affine, first_voxel(preview.t1Node))
        expected = 0 if way[0] < 0 else np.subtract(grid.shape, SIZE)
        assert np.allclose(start, expected, atol=1e-6)
        middle = world_to_voxel(affine, preview.roiNode.GetCenter()) - np.subtract(SIZE, 1) / 2
        assert np.allclose(middle, expected, atol=1e-3)  # the box, too
        assert_same(preview, command_lines_patch(preview, tmp_path))
    assert preview.coverage == 0 and preview.summary == "The crop holds nothing of the tumour."


def test_a_drag_in_steps_smaller_than_a_voxel_arrives():
    """Slicer moves a dragged box by each step of the mouse, from where it is."""
    preview = preview_of(*make_case())
    before = first_voxel(preview.t1Node)
    affine = nodes.localAffine(preview.t1Node)
    for _step in range(20):
        move(preview, 0.25, 0, 0)
    assert np.allclose(first_voxel(preview.t1Node) - before, affine[:3, 0] * 5)
    move(preview, 0.3, 0, 0)
    preview.roiNode.InvokeCustomModifiedEvent(slicer.vtkMRMLMarkupsNode.PointEndInteractionEvent)
    middle = first_voxel(preview.t1Node) + affine[:3, :3] @ (np.subtract(SIZE, 1) / 2)
    assert np.allclose(preview.roiNode.GetCenter(), middle, atol=1e-3)  # back on the crop that it shows
    assert np.allclose(first_voxel(preview.t1Node) - before, affine[:3, 0] * 5)


def test_each_move_is_told_once():
    preview, told = preview_of(*make_case()), []
    preview.onChanged = lambda: told.append(preview.coverage)
    assert preview.changed is False
    move(preview, 0.2, 0, 0)
    assert told == [] and preview.center is None and not preview.changed  # the crop is the same
    move(preview, 3, 0, 0)
    assert len(told) == 1 and preview.changed
    preview.changed = False
    preview.update()
    assert len(told) == 1 and not preview.changed


# --- following --------------------------------------------------------------------------------------------------------


def test_the_crop_follows_an_edited_tumour_unless_it_was_moved(tmp_path):
    volume, segmentation = make_case("LAS")
    preview, affine, told = preview_of(volume, segmentation), affine_of("LAS"), []
    preview.onChanged = lambda: told.append(1)
    before = first_voxel(preview.t1Node)
    tumour = np.zeros(SHAPE, np.uint8)
    tumour[12:15, 20:26, 24:30] = 1
    draw(segmentation, "tumour", tumour, affine)
    assert told and preview.changed and preview.center is None
    assert not np.allclose(first_voxel(preview.t1Node), before)
    assert_same(preview, command_lines_patch(preview, tmp_path))

    move(preview, -2, 1, 0)
    moved, preview.changed = first_voxel(preview.t1Node), False
    draw(segmentation, "tumour", np.roll(tumour, -9, axis=2), affine)
    assert preview.changed and np.allclose(first_voxel(preview.t1Node), moved)
    assert_same(preview, command_lines_patch(preview, tmp_path))

    preview.follow()
    assert preview.center is None and preview.options() == [] and not np.allclose(first_voxel(preview.t1Node), moved)
    assert_same(preview, command_lines_patch(preview, tmp_path))


def test_an_edit_of_another_segment_changes_nothing():
    volume, segmentation = make_case()
    preview = preview_of(volume, segmentation)
    segmentation.GetSegmentation().AddEmptySegment("vessel", "vessel")
    draw(segmentation, "vessel", make_labels(SHAPE)[::-1] == 2, affine_of("oblique"))
    segmentation.GetSegmentation().GetSegment("tumour").SetName("mass")
    volume.SetName("renamed")
    assert not preview.changed


def test_changed_voxels_and_geometry_of_the_volume_are_followed(tmp_path):
    volume, segmentation = make_case("LPS")
    preview = preview_of(volume, segmentation, spacing=SPACING)
    slicer.util.arrayFromVolume(volume)[:10] //= 3
    slicer.util.arrayFromVolumeModified(volume)
    assert preview.changed
    assert_same(preview, command_lines_patch(preview, tmp_path))
    volume.SetOrigin(np.add(volume.GetOrigin(), [3.3, 0, -1]))
    assert_same(preview, command_lines_patch(preview, tmp_path))


def test_transforms_of_volume_and_segmentation_are_followed(tmp_path):
    volume, segmentation = make_case()
    preview = preview_of(volume, segmentation)
    linear = make_transform("linear")
    put_under(volume, linear)
    put_under(segmentation, linear)
    assert {node.GetParentTransformNode() for node in (preview.roiNode, preview.t1Node, preview.t2Node)} == {linear}
    assert_same(preview, command_lines_patch(preview, tmp_path))
    shifted = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    shifted.SetAndObserveTransformNodeID(linear.GetID())
    put_under(segmentation, shifted)
    preview.changed = False
    matrix = np.eye(4)
    matrix[:3, 3] = [6, -4, 5]
    shifted.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    assert preview.changed
    assert_same(preview, command_lines_patch(preview, tmp_path))


# --- what is said -----------------------------------------------------------------------------------------------------


def one_sentence(text):
    assert text.endswith(".") and text.count(". ") == 0 and text[0].isupper()
    return text


def test_an_empty_tumour_is_said_and_a_drawn_one_is_shown(tmp_path):
    volume, segmentation = make_case(labels=np.minimum(make_labels(SHAPE), 1))
    preview = preview_of(volume, segmentation)
    assert "is empty" in one_sentence(preview.problem) and preview.summary == preview.problem
    assert preview.coverage is None and not preview.roiNode.GetDisplayNode().GetVisibility()
    assert not slicer.util.arrayFromVolume(preview.t1Node).any()
    draw(segmentation, "tumour", make_labels(SHAPE) == 2, affine_of("oblique"))
    assert preview.problem == "" and preview.roiNode.GetDisplayNode().GetVisibility()
    assert_same(preview, command_lines_patch(preview, tmp_path))
    draw(segmentation, "tumour", np.zeros(SHAPE), affine_of("oblique"))
    assert "is empty" in preview.problem and not slicer.util.arrayFromVolume(preview.t1Node).any()


def test_a_tumour_outside_the_volume_is_said():
    volume, segmentation = make_case()
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    put_under(segmentation, transform)
    preview = preview_of(volume, segmentation)
    matrix = np.eye(4)
    matrix[:3, 3] = 500
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    assert "outside the volume" in one_sentence(preview.problem)


def test_a_tumour_too_small_for_the_grid_is_said():
    labels = np.minimum(make_labels(SHAPE), 1)
    labels[6, 7, 8] = 2
    preview = preview_of(*make_case("RAS", labels=labels), spacing=(5, 5, 9))
    assert "too small" in one_sentence(preview.problem)


def test_a_missing_segment_and_an_image_without_contrast_are_said():
    volume, segmentation = make_case()
    assert "choose it" in one_sentence(CropPreview(volume, segmentation, "liver", "", SIZE).problem)
    preview = preview_of(volume, segmentation)
    segmentation.GetSegmentation().RemoveSegment("tumour")
    assert "no longer" in one_sentence(preview.problem)
    flat, segmentation = make_case()
    slicer.util.updateVolumeFromArray(flat, np.zeros(SHAPE, np.int16))
    assert "no contrast" in one_sentence(preview_of(flat, segmentation).problem)


def test_a_part_is_never_called_the_whole():
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:18, 4:30, 4:36] = 2
    preview = preview_of(*make_case("RAS", labels=labels), size=(31, 26, 16))
    assert preview.summary == "The crop holds 96.8 % of the tumour." and preview.coverage == pytest.approx(31 / 32)


# --- the scene --------------------------------------------------------------------------------------------------------


def node_ids():
    return {slicer.mrmlScene.GetNthNode(i).GetID() for i in range(slicer.mrmlScene.GetNumberOfNodes())}


def kinds(name):
    return slicer.mrmlScene.GetNumberOfNodesByClass(name)


def test_a_preview_leaves_nothing_behind():
    volume, segmentation = make_case()
    slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)  # made by whoever asks first
    before = node_ids()
    preview = preview_of(volume, segmentation)
    preview.remove()
    assert node_ids() == before
    draw(segmentation, "tumour", np.zeros(SHAPE), affine_of("oblique"))
    preview.remove()
    assert node_ids() == before


def test_a_released_preview_keeps_its_nodes_and_is_taken_up_again(tmp_path):
    volume, segmentation = make_case()
    first = preview_of(volume, segmentation)
    move(first, 3, 2, -1)
    first.release()
    draw(segmentation, "tumour", make_labels(SHAPE) == 1, affine_of("oblique"))
    assert first.coverage == 0 or first.changed
    again = preview_of(volume, segmentation)
    assert (again.roiNode, again.t1Node, again.t2Node) == (first.roiNode, first.t1Node, first.t2Node)
    assert again.center == pytest.approx(first.center, abs=1e-5)
    assert_same(again, command_lines_patch(again, tmp_path))


def test_a_saved_scene_keeps_the_crop(tmp_path):
    volume, segmentation = make_case("LPS", "linear")
    preview = preview_of(volume, segmentation)
    move(preview, 3, 2, -1)
    center, size = preview.center, preview.roiNode.GetSize()
    patch = slicer.util.arrayFromVolume(preview.t1Node).copy()
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    preview.release()
    slicer.mrmlScene.Clear()
    assert slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    count = slicer.mrmlScene.GetNumberOfNodes()
    again = preview_of(slicer.util.getNode("mr"), slicer.util.getNode("s"))
    assert slicer.mrmlScene.GetNumberOfNodes() == count and kinds("vtkMRMLMarkupsROINode") == 1
    assert again.center == pytest.approx(center, abs=1e-4) and again.roiNode.GetSize() == pytest.approx(size)
    assert np.array_equal(slicer.util.arrayFromVolume(again.t1Node), patch)
    assert not again.roiNode.GetDisplayNode().GetScaleHandleVisibility()


def test_deleted_nodes_of_the_preview_come_back():
    preview = preview_of(*make_case())
    move(preview, 3, 0, 0)
    slicer.mrmlScene.RemoveNode(preview.t1Node)
    preview.update()
    assert slicer.util.arrayFromVolume(preview.t1Node).any()
    slicer.mrmlScene.RemoveNode(preview.roiNode)
    preview.update()
    assert preview.center is None and kinds("vtkMRMLMarkupsROINode") == 1
    move(preview, 3, 0, 0)
    assert preview.center is not None


def test_closing_the_scene_or_deleting_the_inputs_is_safe():
    volume, segmentation = make_case("RAS", "linear")
    preview = preview_of(volume, segmentation)
    slicer.mrmlScene.RemoveNode(segmentation)
    preview.update()
    preview.follow()
    other = preview_of(*make_case("RAS", "nested"))
    slicer.mrmlScene.Clear()
    assert kinds("vtkMRMLMarkupsROINode") == 0 and kinds("vtkMRMLScalarVolumeNode") == 0
    for gone in (preview, other):
        gone.update()
        gone.remove()
    assert kinds("vtkMRMLMarkupsROINode") == 0


def test_slicers_own_packages_are_enough(tmp_path):
    """What NeoNet installs later is not there yet when a radiologist loads a label map and looks at the crop."""
    script = tmp_path / "script.py"
    script.write_text("""
import sys
for name in ("torch", "monai", "diffusers", "pydantic", "yaml", "nibabel", "psutil", "accelerate"):
    sys.modules[name] = None
import slicer_standin
import numpy as np
import SimpleITK
import slicer
from NeoNetLib import nodes, segments
from NeoNetLib.croppreview import CropPreview
labels = np.zeros((12, 14, 16), np.uint8)
labels[2:9, 3:12, 4:13], labels[4:6, 5:8, 6:9] = 1, 2
image = SimpleITK.GetImageFromArray(labels)
SimpleITK.WriteImage(image, sys.argv[1])
volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
slicer.util.updateVolumeFromArray(volume, np.arange(labels.size, dtype=np.int16).reshape(labels.shape))
volume.SetIJKToRASDirections(-1, 0, 0, 0, -1, 0, 0, 0, 1)
node = nodes.showLabelMap(sys.argv[1], volume)
preview = CropPreview(volume, node, *segments.findSegments(node), (8, 8, 4), (1.5, 1.5, 2), "largest")
assert preview.coverage == 1, preview.summary
""", encoding="utf-8")
    paths = {"PYTHONPATH": os.pathsep.join(sys.path), "QT_QPA_PLATFORM": "offscreen"}
    subprocess.run([sys.executable, str(script), str(tmp_path / "labels.nii.gz")], check=True, timeout=120,
                   env=os.environ | paths)
