"""MRML nodes <-> arrays and files.

All computing happens in the volume's own coordinates, which are those of the file that `writeVolume` writes and the
command line reads; the transform that a volume sits under is never applied to its voxels. Results are put under the
volume's parent transform, so that they overlay it in the world whatever that transform is.
"""

import sys

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from neonet_core.errors import NeoNetError
from neonet_core.tlcr import LIVER as LIVER_LABEL
from neonet_core.tlcr import TUMOUR as TUMOUR_LABEL
from neonet_core.volume import Volume, itk_affine, itk_array, reorient_like, same_grid, simpleitk, to_canonical
from NeoNetLib.segments import LIVER, TUMOUR, applyKind, findSegments

NRRD_TYPES = {"float32": "float", "float64": "double"}  # integers are called as numpy calls them
BINARY_LABELMAP = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
LIVER_OPACITY_3D = 0.4  # the tumour lies inside


# --- volumes ----------------------------------------------------------------------------------------------------------


def shownVolume():
    """The volume that the slice views show, else the only one there is, else None."""
    selection = slicer.app.applicationLogic().GetSelectionNode()
    shown = slicer.mrmlScene.GetNodeByID(selection.GetActiveVolumeID() or "")
    volumes = [node for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
               if node.GetClassName() == "vtkMRMLScalarVolumeNode"]  # no label maps, no colour images
    return shown if shown in volumes else volumes[0] if len(volumes) == 1 else None


def localAffine(volumeNode):
    """Voxel indices (I, J, K) to RAS mm in the volume's own coordinates, without its parent transforms: (4, 4)."""
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def localVolume(volumeNode):
    """A volume node as `neonet_core` sees its file.

    Returns
    -------
    neonet_core.volume.Volume
        (I, J, K) view of the node's voxels, and `localAffine`.

    Raises
    ------
    NeoNetError
        ``EMPTY_FILE`` (no voxels), ``BAD_AFFINE`` (sheared), ``NOT_3D`` (colour).
    """
    if volumeNode.GetImageData() is None or volumeNode.GetImageData().GetPointData().GetScalars() is None:
        raise NeoNetError("EMPTY_FILE", f"The volume {volumeNode.GetName()} has no voxels.", "Load it again.")
    return Volume(slicer.util.arrayFromVolume(volumeNode).T, localAffine(volumeNode))


def canonical(volumeNode):
    """A volume's voxels along R, A, S, as closely as permuting and flipping can bring them.

    Returns
    -------
    array : ndarray, (X, Y, Z)
        A view of the node's voxels where no axis is flipped, else a copy.
    affine : ndarray, (4, 4)
        Its indices to RAS mm in the volume's own coordinates.

    Raises
    ------
    NeoNetError
        As `localVolume`.
    """
    volume = to_canonical(localVolume(volumeNode))
    return volume.array, volume.affine


def writeVolume(volumeNode, path):
    """Write a volume as uncompressed NRRD in its own coordinates.

    Raises
    ------
    NeoNetError
        As `localVolume`, and ``CANNOT_WRITE`` (disk full, no permission).
    """
    _writeNrrd(localVolume(volumeNode), path)


def writeLabelMap(segmentationNode, liverId, tumourId, volumeNode, path):
    """Write `labelMapArray` as uncompressed NRRD on the volume's grid; raises as that and `writeVolume`."""
    labels = labelMapArray(segmentationNode, liverId, tumourId, volumeNode)
    _writeNrrd(Volume(labels.T, localAffine(volumeNode)), path)


def loadResultVolume(path, volumeNode, name):
    """Load a result file, such as an attention map or a synthetic patch, as a volume beside the one it belongs to.

    It comes under the volume's parent transform and beside it in the subject hierarchy; what the slice views show is
    left as it is. On the volume's own grid it takes the volume's order of axes.

    Returns
    -------
    vtkMRMLScalarVolumeNode

    Raises
    ------
    NeoNetError
        ``UNREADABLE_FILE``; the scene is unchanged then.
    """
    result, reference = _readVolume(path), localVolume(volumeNode)
    if same_grid(result, reference):
        result = reorient_like(result, reference)  # exactly on it: NIfTI rounds its header to 32 bits
    node = volumeNode.GetScene().AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(node, result.array.T)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(result.affine))
    node.CreateDefaultDisplayNodes()
    placeBeside(node, volumeNode)
    return node


def placeBeside(node, volumeNode):
    """Put a node under the volume's parent transform, if it can be, and beside it in the subject hierarchy."""
    if node.IsA("vtkMRMLTransformableNode"):
        node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(volumeNode.GetScene())
    volumeItem = hierarchy.GetItemByDataNode(volumeNode)
    parent = hierarchy.GetItemParent(volumeItem) if volumeItem else hierarchy.GetSceneItemID()
    item = hierarchy.GetItemByDataNode(node)
    if item:
        hierarchy.SetItemParent(item, parent)
    else:
        hierarchy.CreateItem(parent, node)


def worldToLocal(volumeNode, pointRAS):
    """A point of the world, as the slice views show it, in the volume's own coordinates: ndarray (3,), RAS mm."""
    local = [0.0, 0.0, 0.0]
    volumeNode.TransformPointFromWorld([float(value) for value in pointRAS], local)
    return np.array(local)


def localToWorld(volumeNode, pointRAS):
    """The inverse of `worldToLocal`, also through non-linear transforms."""
    world = [0.0, 0.0, 0.0]
    volumeNode.TransformPointToWorld([float(value) for value in pointRAS], world)
    return np.array(world)


# --- segmentations ----------------------------------------------------------------------------------------------------


def labelMapArray(segmentationNode, liverId, tumourId, volumeNode):
    """Sample two segments on a volume's grid.

    Segmentation and volume may sit under different transforms, and each segment may have a geometry of its own: every
    voxel takes what the segment holds at its place in the world (nearest neighbour).

    Parameters
    ----------
    liverId, tumourId : str or None
        Segment IDs; "" or None where there is none.

    Returns
    -------
    ndarray, (K, J, I), uint8
        0 background, 1 liver, 2 tumour; tumour where both are.

    Raises
    ------
    NeoNetError
        ``NO_SEGMENT`` where the segmentation has no segment of that ID; as `localVolume`.
    """
    labels = np.zeros(localVolume(volumeNode).shape[::-1], np.uint8)
    for segmentId, label in ((liverId, LIVER_LABEL), (tumourId, TUMOUR_LABEL)):
        if segmentId:
            labels[_sampledSegment(segmentationNode, segmentId, volumeNode)] = label
    return labels


def segmentIsEmpty(segmentationNode, segmentId):
    """Whether a segment has no voxels at all, wherever they might lie."""
    image, label = _segmentImage(segmentationNode, segmentId)
    return image is None or image.IsEmpty() or not (vtk_to_numpy(image.GetPointData().GetScalars()) == label).any()


def showLabelMap(path_or_array, volumeNode, segmentationNode=None, name=None):
    """Show a label map as a segmentation over its volume, in slices and in 3D.

    Parameters
    ----------
    path_or_array : str, Path, or ndarray (K, J, I)
        A file on the volume's grid, in whatever order of the axes, or its labels 0, 1, 2.
    volumeNode : vtkMRMLScalarVolumeNode
    segmentationNode : vtkMRMLSegmentationNode, optional
        Where to put it; its liver and its tumour (`findSegments`) are replaced and keep their IDs, its other segments
        stay. By default a new one.
    name : str, optional
        Of a new segmentation.

    Returns
    -------
    vtkMRMLSegmentationNode
        With a liver and a tumour segment, an empty one where there is no such label. The liver does not include the
        tumour.

    Raises
    ------
    NeoNetError
        ``UNREADABLE_FILE``, ``GRID_MISMATCH``; the scene is unchanged then.
    """
    reference = localVolume(volumeNode)
    if isinstance(path_or_array, np.ndarray):
        labels = path_or_array
        if labels.shape != reference.shape[::-1]:
            raise ValueError(f"Labels of the shape {labels.shape} are not on the volume's grid {reference.shape[::-1]}")
    else:
        labels = reorient_like(_readVolume(path_or_array), reference).array.T
    if segmentationNode is None:
        name = name or _("{volume} segmentation").format(volume=volumeNode.GetName())
        segmentationNode = volumeNode.GetScene().AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    if segmentationNode.GetDisplayNode() is None:
        segmentationNode.CreateDefaultDisplayNodes()
    segmentationNode.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
    placeBeside(segmentationNode, volumeNode)
    liverId, tumourId = findSegments(segmentationNode)
    liverId = _setSegment(segmentationNode, liverId, LIVER, labels == LIVER_LABEL, reference.affine)
    tumourId = _setSegment(segmentationNode, tumourId, TUMOUR, labels == TUMOUR_LABEL, reference.affine)
    segmentationNode.CreateClosedSurfaceRepresentation()
    display = segmentationNode.GetDisplayNode()
    display.SetVisibility(True)
    display.SetSegmentOpacity3D(liverId, LIVER_OPACITY_3D)
    for segmentId in (liverId, tumourId):
        display.SetSegmentVisibility(segmentId, True)
    return segmentationNode


def _setSegment(segmentationNode, segmentId, kind, mask, affine):
    """Replace a segment's voxels, or add it where `segmentId` is ""; returns its ID. `mask` is (K, J, I)."""
    segmentation = segmentationNode.GetSegmentation()
    segmentId = segmentId or segmentation.AddEmptySegment("", kind.name)
    applyKind(segmentation.GetSegment(segmentId), kind)
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(mask.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(mask, np.uint8).ravel(), deep=True))
    image.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(affine))
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    if not logic.SetBinaryLabelmapToSegment(image, segmentationNode, segmentId, logic.MODE_REPLACE):
        raise RuntimeError(f"The voxels of the segment {segmentId} could not be set")
    return segmentId


def _sampledSegment(segmentationNode, segmentId, volumeNode):
    """Where a segment is on the volume's grid: (K, J, I) bool."""
    shape = volumeNode.GetImageData().GetDimensions()[::-1]
    image, label = _segmentImage(segmentationNode, segmentId)
    if image is None or image.IsEmpty():
        return np.zeros(shape, bool)
    toVoxel = vtk.vtkMatrix4x4()
    image.GetWorldToImageMatrix(toVoxel)
    indexed = vtk.vtkImageData()  # the same voxels, placed at their own indices
    indexed.ShallowCopy(image)
    indexed.SetOrigin(0, 0, 0)
    indexed.SetSpacing(1, 1, 1)
    indexed.SetDirectionMatrix(1, 0, 0, 0, 1, 0, 0, 0, 1)
    sampler = vtk.vtkImageReslice()
    sampler.SetInputData(indexed)
    sampler.SetResliceTransform(
        _voxelToVoxel(localAffine(volumeNode), volumeNode, segmentationNode, slicer.util.arrayFromVTKMatrix(toVoxel)))
    sampler.SetInterpolationModeToNearestNeighbor()
    sampler.SetOutputOrigin(0, 0, 0)
    sampler.SetOutputSpacing(1, 1, 1)
    sampler.SetOutputExtent(0, shape[2] - 1, 0, shape[1] - 1, 0, shape[0] - 1)
    sampler.Update()
    return vtk_to_numpy(sampler.GetOutput().GetPointData().GetScalars()).reshape(shape) == label


def _segmentImage(segmentationNode, segmentId):
    """The image that holds a segment, in the segmentation's own coordinates, and the segment's label in it.

    Segments that do not overlap share one image.
    """
    segmentation = segmentationNode.GetSegmentation()
    segment = segmentation.GetSegment(segmentId)
    if segment is None:
        raise NeoNetError("NO_SEGMENT", _("A chosen segment is no longer in the segmentation; choose it again."))
    if segmentation.ContainsRepresentation(BINARY_LABELMAP):
        return segment.GetRepresentation(BINARY_LABELMAP), segment.GetLabelValue()
    image = slicer.vtkOrientedImageData()  # of a surface, such as an imported model
    found = slicer.vtkSlicerSegmentationsModuleLogic.GetSegmentBinaryLabelmapRepresentation(
        segmentationNode, segmentId, image, False)
    return (image if found else None), 1


def _voxelToVoxel(affine, volumeNode, segmentationNode, toVoxel):
    """From the volume's voxels through the world to those of a segment, whose own matrix is `toVoxel`."""
    source, target = volumeNode.GetParentTransformNode(), segmentationNode.GetParentTransformNode()
    between = vtk.vtkMatrix4x4()
    if _isLinear(source, target):
        slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(source, target, between)
        whole = vtk.vtkMatrixToLinearTransform()  # vtkImageReslice is a hundred times as fast with one matrix
        whole.SetInput(slicer.util.vtkMatrixFromArray(toVoxel @ slicer.util.arrayFromVTKMatrix(between) @ affine))
        return whole
    warp = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(source, target, warp)
    whole = vtk.vtkGeneralTransform()
    whole.PostMultiply()
    whole.Concatenate(slicer.util.vtkMatrixFromArray(affine))
    whole.Concatenate(warp)
    whole.Concatenate(slicer.util.vtkMatrixFromArray(toVoxel))
    return whole


def _isLinear(source, target):
    """Whether a matrix leads from one parent transform, None for the world, to another."""
    if source is None:
        return target is None or bool(target.IsTransformToWorldLinear())
    return bool(source.IsTransformToNodeLinear(target))


# --- views ------------------------------------------------------------------------------------------------------------


def showPlace(pointRAS):
    """Bring a place (R, A, S of the world, or None) into the slice views, and all that there is into the 3D views."""
    if pointRAS is not None:
        slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *pointRAS)
    layout = slicer.app.layoutManager()  # None without a main window
    for index in range(layout.threeDViewCount if layout is not None else 0):
        layout.threeDWidget(index).threeDView().resetFocalPoint()


# --- files ------------------------------------------------------------------------------------------------------------


def _writeNrrd(volume, path):
    """Write a `Volume` by hand: exact to the last digit, and a full disk is an OSError that says so."""
    array = np.ascontiguousarray(volume.array.T)
    columns = [f"({','.join(repr(float(value)) for value in column)})" for column in volume.affine[:3].T]
    header = "\n".join((
        "NRRD0004", f"type: {NRRD_TYPES.get(array.dtype.name, array.dtype.name)}", "dimension: 3",
        "space: right-anterior-superior", f"sizes: {' '.join(str(size) for size in volume.shape)}",
        f"space directions: {' '.join(columns[:3])}", "kinds: domain domain domain", f"endian: {sys.byteorder}",
        "encoding: raw", f"space origin: {columns[3]}", "\n"))
    try:
        with open(path, "wb") as file:
            file.write(header.encode("ascii"))
            file.write(array.data)
    except OSError as error:
        raise NeoNetError("CANNOT_WRITE", f"{path}: {error.strerror}.",
                          "Free some disk space, or check the permissions of the folder.") from error


def _readVolume(path):
    """Read a result file with Slicer's own SimpleITK, for NIfTI too: nibabel is none of Slicer's packages."""
    try:
        image = simpleitk().ReadImage(str(path))
        return Volume(itk_array(image), itk_affine(image))
    except RuntimeError as error:
        raise NeoNetError("UNREADABLE_FILE", f"{path} cannot be read.", "Run the step again.") from error


def remove(node):
    """Take a node out of the scene with what it owns there."""
    owned = [node.GetStorageNode()] if node.IsA("vtkMRMLStorableNode") else []
    if node.IsA("vtkMRMLDisplayableNode"):
        owned += [node.GetNthDisplayNode(index) for index in range(node.GetNumberOfDisplayNodes())]
    for each in (node, *filter(None, owned)):
        slicer.mrmlScene.RemoveNode(each)
