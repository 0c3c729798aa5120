"""The tumour-localised crop (TLCR), live in the scene: a box that can be moved, and the two patches that it cuts.

The computing is `neonet_core.tlcr`'s, in process; what is shown is what the command line cuts, voxel for voxel.
"""

import contextlib
import math

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from neonet_core.errors import NeoNetError
from neonet_core.preprocessing import prepare_image, prepare_label_map
from neonet_core.tlcr import TUMOUR, extract, image_channels, locate_crop, mask_patch, world_to_voxel
from neonet_core.volume import Volume
from NeoNetLib import messages
from NeoNetLib.nodes import labelMapArray, localAffine, localVolume, placeBeside, segmentIsEmpty

# On the box's node, so that a saved scene knows them
VOLUME, SEGMENTATION, T1, T2 = "NeoNet.CropVolume", "NeoNet.CropSegmentation", "NeoNet.CropT1", "NeoNet.CropT2"
CENTER = "NeoNet.CropCenter"
SAME_PLACE_MM = 1e-4


def cropBox(volumeNode, segmentationNode):
    """The box of a preview of this case, from this session or a saved scene; None if there is none."""
    for node in slicer.util.getNodesByClass("vtkMRMLMarkupsROINode"):
        shown = node.GetNodeReference(VOLUME), node.GetNodeReference(SEGMENTATION)
        if None not in shown and shown == (volumeNode, segmentationNode):
            return node
    return None


def cropOptions(volumeNode, segmentationNode):
    """Arguments that make the command line cut the crop where the user has moved it; [] while it follows the tumour."""
    box = cropBox(volumeNode, segmentationNode)
    center = box.GetAttribute(CENTER) if box is not None else None
    return [f"--crop-center={center}"] if center else []


class CropPreview(VTKObservationMixin):
    """Shows the crop of a volume and follows the tumour, or the user who moves the box.

    Parameters
    ----------
    volumeNode : vtkMRMLScalarVolumeNode
    segmentationNode : vtkMRMLSegmentationNode
    liverId, tumourId : str
        Segment IDs; "" where there is none.
    size : sequence of 3 ints
        Voxels along R, A, S.
    spacing : sequence of 3 floats, optional
        mm along R, A, S of the grid that is cropped; by default the volume's own.
    component : {"all", "largest"}
        Which tumour, as in `neonet_core.tlcr`.

    Attributes
    ----------
    roiNode : vtkMRMLMarkupsROINode
        The box; it carries the references to the other nodes. A scene that was saved with a preview gets its nodes,
        and a box that was moved its place, when a preview of the same volume and segmentation is made again.
    t1Node, t2Node : vtkMRMLScalarVolumeNode
        The image in liver and tumour, and in the tumour, scaled to [0, 1]; 0 elsewhere.
    center : tuple of 3 floats or None
        R, A, S in mm in the volume's own coordinates, of a box that the user moved; None while it follows the tumour.
    coverage : float or None
        Share of the tumour that the crop holds; None where there is no crop.
    problem : str
        One sentence on why there is no crop, or "".
    changed : bool
        The crop or the labels changed since this was last set to False, such as when a score was computed.
    onChanged : callable or None
        Called without arguments after each change.
    """

    def __init__(self, volumeNode, segmentationNode, liverId, tumourId, size, spacing=None, component="all"):
        super().__init__()
        self.volumeNode, self.segmentationNode = volumeNode, segmentationNode
        self.liverId, self.tumourId = liverId, tumourId
        self.size, self.spacing, self.component = size, spacing, component
        self.center = self.coverage = self.onChanged = None
        self.problem = ""
        self.changed = False
        self._image = _Cached()  # the image as the networks see it, and the labels on its grid
        self._labels = _Cached()
        self._crop = None
        self._updating = False
        self.roiNode = self.t1Node = self.t2Node = None
        self.update()
        self.changed = False
        self._observe()

    # --- what the panel asks for --------------------------------------------------------------------------------------

    def update(self):
        """Bring the preview up to date with its nodes; quick where they did not change."""
        if self._sceneIsUsable():
            self._update()

    def _update(self, roiCenter=None):
        """As `update`; `roiCenter`, in the volume's own coordinates, says where the box is if not at the crop."""
        with self._quietly():
            self._findNodes()
        previous = self._state()
        self._crop, self.coverage, self.problem = None, None, ""
        try:
            self._crop = self._locate()
            self.coverage = float(self._crop.coverage)
        except NeoNetError as error:
            self.problem = messages.explain(error.code, error.message, error.hint)
        with self._quietly():
            self._show(roiCenter)
        if self._state() != previous:
            self.changed = True
            if self.onChanged:
                self.onChanged()

    def _state(self):
        return self._crop, self.center, self.problem, self._image.version, self._labels.version

    @property
    def summary(self):
        """What the crop holds, or why there is none: a sentence, and a second one where the crop leaves the volume."""
        if self.problem:
            return self.problem
        if self.coverage == 1:
            text = _("The crop holds the whole tumour.")
        elif self.coverage > 0:
            share = math.floor(self.coverage * 1000) / 10  # never "100 %" of a part
            text = _("The crop holds {share} % of the tumour.").format(share=f"{share:g}")
        else:
            text = _("The crop holds nothing of the tumour.")
        if any(length > extent for length, extent in zip(self._crop.size, self._crop.shape, strict=True)):
            text += " " + _("The volume is smaller than the crop, which is filled with zeros.")
        return text

    def follow(self):
        """Return to the tumour after the box was moved."""
        self._setCenter(None)
        self.update()

    def options(self):
        """What makes the command line cut the same crop: its arguments, none while the crop follows the tumour."""
        return [] if self.center is None else ["--crop-center=" + _join(self.center)]

    def release(self):
        """Stop following; the nodes stay in the scene."""
        self.removeObservers()

    def remove(self):
        """Stop following and take the preview's nodes out of the scene."""
        self.release()
        for node in (self.roiNode, self.t1Node, self.t2Node):
            scene = node.GetScene() if node else None
            if scene is not None:
                if node.GetDisplayNode() is not None:
                    scene.RemoveNode(node.GetDisplayNode())
                scene.RemoveNode(node)
        self.roiNode = self.t1Node = self.t2Node = None

    # --- the crop -----------------------------------------------------------------------------------------------------

    def _locate(self):
        """The crop, on the grids that it is cut from; raises `NeoNetError` where there is none."""
        volume = localVolume(self.volumeNode)
        self._image.update(self._imageKey(), lambda: prepare_image(volume, self.spacing).volume)
        self._labels.update((self._imageKey(), self._segmentsKey()), lambda: self._preparedLabels(volume))
        labels = self._labels.value
        center = None
        if self.center is not None:
            center = np.clip(world_to_voxel(labels.affine, self.center), 0, np.subtract(labels.shape, 1))
        crop = locate_crop(labels.array, self.size, component=self.component, spacing=labels.spacing, center=center)
        if center is not None:
            self._setCenter(_at(labels.affine, crop.center))
        return crop

    def _preparedLabels(self, volume):
        """Liver and tumour on the prepared image's grid."""
        if not self.tumourId:
            raise NeoNetError("NO_SEGMENT", _("No tumour segment is chosen; choose it."))
        labels = labelMapArray(self.segmentationNode, self.liverId, self.tumourId, self.volumeNode)
        if not (labels == TUMOUR).any():
            raise self._noTumour()
        labels = prepare_label_map(Volume(labels.T, volume.affine), self.spacing)
        if not (labels.array == TUMOUR).any():
            raise NeoNetError("SMALL_TUMOUR", _("The tumour is too small for the model's grid; check its segment."))
        previous = self._labels.value  # an edit of another segment changes nothing here
        return previous if previous is not None and _sameVolume(previous, labels) else labels

    def _noTumour(self):
        if segmentIsEmpty(self.segmentationNode, self.tumourId):
            return NeoNetError("EMPTY_TUMOUR", _("The tumour segment is empty; draw the tumour in the Segment Editor."))
        return NeoNetError("TUMOUR_OUTSIDE",
                           _("The tumour lies outside the volume; choose the volume that it was segmented on."))

    def _imageKey(self):
        """Equal as long as voxels and geometry are: VTK's times of change are unique in a session."""
        return _modified(self.volumeNode.GetImageData()), localAffine(self.volumeNode).tobytes()

    def _segmentsKey(self):
        """Equal as long as the segments' voxels and places are."""
        segmentation = self.segmentationNode.GetSegmentation()
        segments = [segmentation.GetSegment(segmentId) for segmentId in (self.liverId, self.tumourId) if segmentId]
        source = segmentation.GetSourceRepresentationName()
        parents = (self.volumeNode.GetParentTransformNode(), self.segmentationNode.GetParentTransformNode())
        return (tuple((_modified(segment.GetRepresentation(source)), segment.GetLabelValue()) if segment else None
                      for segment in segments),
                None if parents[0] is parents[1] else tuple(_toWorldModified(parent) for parent in parents))

    # --- the nodes ----------------------------------------------------------------------------------------------------

    def _sceneIsUsable(self):
        scene = self.volumeNode.GetScene()
        return (scene is not None and self.segmentationNode.GetScene() is scene
                and not scene.IsClosing() and not scene.IsImporting())

    def _findNodes(self):
        """The preview's nodes: those it has, those that the scene was saved with, or new ones."""
        scene = self.volumeNode.GetScene()
        if self.roiNode is None or self.roiNode.GetScene() is None:
            self.roiNode = cropBox(self.volumeNode, self.segmentationNode) or self._newRoi()
            text = self.roiNode.GetAttribute(CENTER)
            self.center = tuple(float(value) for value in text.split(",")) if text else None
            if self.Observations:
                self._observeRoi()
        for attribute, role, name in (("t1Node", T1, _("{volume} T1 crop")), ("t2Node", T2, _("{volume} T2 crop"))):
            node = self.roiNode.GetNodeReference(role)
            if node is None:
                node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name.format(volume=self.volumeNode.GetName()))
                node.CreateDefaultDisplayNodes()
                node.GetDisplayNode().SetAutoWindowLevel(False)
                node.GetDisplayNode().SetWindowLevelMinMax(0, 1)
                placeBeside(node, self.volumeNode)
                self.roiNode.SetNodeReferenceID(role, node.GetID())
            setattr(self, attribute, node)

    def _newRoi(self):
        roi = self.volumeNode.GetScene().AddNewNodeByClass("vtkMRMLMarkupsROINode", _("Crop"))
        roi.SetNodeReferenceID(VOLUME, self.volumeNode.GetID())
        roi.SetNodeReferenceID(SEGMENTATION, self.segmentationNode.GetID())
        roi.CreateDefaultDisplayNodes()
        display = roi.GetDisplayNode()
        display.SetHandlesInteractive(True)
        display.SetTranslationHandleVisibility(True)
        display.SetRotationHandleVisibility(False)
        display.SetScaleHandleVisibility(False)
        display.SetPropertiesLabelVisibility(False)
        display.SetFillVisibility(False)
        placeBeside(roi, self.volumeNode)
        return roi

    @contextlib.contextmanager
    def _quietly(self):
        """Changes of the box made here are not the user's."""
        outer, self._updating = self._updating, True
        try:
            yield
        finally:
            self._updating = outer

    def _show(self, roiCenter):
        """Bring the box and both patches to the crop; without one the box goes and the patches are empty."""
        for node in (self.roiNode, self.t1Node, self.t2Node):
            if node.GetTransformNodeID() != self.volumeNode.GetTransformNodeID():
                node.SetAndObserveTransformNodeID(self.volumeNode.GetTransformNodeID())
        crop = self._crop
        self.roiNode.GetDisplayNode().SetVisibility(crop is not None)
        if crop is None:
            for node in (self.t1Node, self.t2Node):
                slicer.util.updateVolumeFromArray(node, np.zeros(tuple(self.size)[::-1], np.float32))
            return
        self._placeRoi(self._cropCenter() if roiCenter is None else roiCenter)
        image, labels = self._image.value, self._labels.value
        channels = image_channels(extract(image.array, crop), mask_patch(extract(labels.array, crop)))
        affine = image.affine.copy()
        affine[:3, 3] = _at(image.affine, crop.start)
        for node, channel in zip((self.t1Node, self.t2Node), channels, strict=True):
            node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(affine))
            slicer.util.updateVolumeFromArray(node, channel.T)

    def _cropCenter(self):
        """Middle of the crop, padding included: along even sizes half a voxel off a voxel's centre."""
        return _at(self._image.value.affine, np.add(self._crop.start, np.subtract(self._crop.size, 1) / 2))

    def _placeRoi(self, center):
        """Box of the crop's size along the axes of its grid, around `center` in the volume's own coordinates."""
        roi, grid = self.roiNode, self._image.value
        matrix = np.eye(4)
        matrix[:3, :3] = grid.affine[:3, :3] / grid.spacing
        matrix[:3, 3] = center
        size = np.multiply(self._crop.size, grid.spacing)
        if not _isClose(slicer.util.arrayFromVTKMatrix(roi.GetObjectToNodeMatrix()), matrix):
            roi.SetAndObserveObjectToNodeMatrix(slicer.util.vtkMatrixFromArray(matrix))
        if not _isClose(roi.GetSize(), size):
            roi.SetSize(*size)  # also gives a new box its centre point
        if not _isClose(roi.GetCenter(), center):
            roi.SetCenter(*center)

    def _setCenter(self, center):
        self.center = None if center is None else tuple(float(value) for value in center)
        with self._quietly():
            self.roiNode.SetAttribute(CENTER, None if center is None else _join(self.center))

    # --- what the user does -------------------------------------------------------------------------------------------

    def _observe(self):
        if self.roiNode is not None:
            self._observeRoi()
        for event in (vtk.vtkCommand.ModifiedEvent, slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent,
                      slicer.vtkMRMLTransformableNode.TransformModifiedEvent):
            self.addObserver(self.volumeNode, event, self._onNodesModified)
        for event in (slicer.vtkSegmentation.SourceRepresentationModified, slicer.vtkSegmentation.SegmentModified,
                      slicer.vtkSegmentation.SegmentRemoved, slicer.vtkMRMLTransformableNode.TransformModifiedEvent):
            self.addObserver(self.segmentationNode, event, self._onNodesModified)

    def _observeRoi(self):
        for event in (vtk.vtkCommand.ModifiedEvent, slicer.vtkMRMLMarkupsNode.PointModifiedEvent):
            self.addObserver(self.roiNode, event, self._onRoiModified)
        self.addObserver(self.roiNode, slicer.vtkMRMLMarkupsNode.PointEndInteractionEvent, self._onRoiReleased)

    def _onNodesModified(self, caller, event):
        if not self._updating and self._sceneIsUsable() and not self._isUpToDate():
            self.update()

    def _isUpToDate(self):
        """Whether neither voxels nor places changed since the last update; most events tell of neither."""
        return (self._image.key == self._imageKey() and self._labels.key == (self._imageKey(), self._segmentsKey())
                and self.roiNode.GetTransformNodeID() == self.volumeNode.GetTransformNodeID())

    def _onRoiModified(self, caller, event):
        """The crop goes to the box; while the user drags it, the box keeps its place between the voxels.

        Slicer moves a dragged box by the mouse's last step: a box put back onto the grid at once would swallow steps
        of less than half a voxel. At the volume's border it is held at once.
        """
        if self._updating or self._crop is None or not self._sceneIsUsable():
            return
        affine, crop = self._image.value.affine, self._crop
        start = world_to_voxel(affine, self.roiNode.GetCenter()) - np.subtract(crop.size, 1) / 2
        start = np.clip(start, 0, np.maximum(np.subtract(crop.shape, crop.size), 0))
        held = _at(affine, start + np.subtract(crop.size, 1) / 2)
        nearest = np.floor(start + 0.5).astype(int)
        if np.array_equal(nearest, crop.start):
            with self._quietly():
                self._placeRoi(held)
        else:
            self._setCenter(_at(affine, nearest + np.minimum(crop.size, crop.shape) // 2))
            self._update(held)

    def _onRoiReleased(self, caller, event):
        if self._crop is not None and self._sceneIsUsable():
            with self._quietly():
                self._placeRoi(self._cropCenter())


class _Cached:
    """A value and what it was made of; `version` counts its changes."""

    def __init__(self):
        self.key = self.value = None
        self.version = 0

    def update(self, key, make):
        if key != self.key:
            self.key = None  # should `make` raise
            value = make()
            self.version += value is not self.value
            self.key, self.value = key, value


def _sameVolume(a, b):
    return np.array_equal(a.affine, b.affine) and np.array_equal(a.array, b.array)


def _isClose(a, b):
    return np.allclose(a, b, rtol=0, atol=SAME_PLACE_MM)


def _at(affine, index):
    """RAS of a voxel index: tuple of 3 floats."""
    return tuple((affine[:3, :3] @ np.asarray(index, float) + affine[:3, 3]).tolist())


def _join(point):
    return ",".join(f"{value:.6f}" for value in point)


def _modified(dataObject):
    return dataObject.GetMTime() if dataObject is not None else None


def _toWorldModified(transformNode):
    return transformNode.GetTransformToWorldMTime() if transformNode is not None else None
