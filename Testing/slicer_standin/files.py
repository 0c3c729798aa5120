"""slicer.app.coreIOManager(): files into the scene and out of it, by the logics and nodes of Slicer's readers."""

from __future__ import annotations

import os

import slicer
import vtk
from PySide6 import QtCore

from .dialogs import Shown, answered
from .scene import quiet

_TYPES = {
    "SceneFile": (".mrml", ".mrb"),
    "SegmentationFile": (".seg.nrrd", ".seg.nhdr", ".seg.vtm"),
    "MarkupsFile": (".mrk.json", ".fcsv"),
    "TransformFile": (".h5", ".tfm", ".mat", ".txt"),
    "SequenceFile": (".seq.nrrd", ".seq.nhdr"),
    "VolumeFile": (".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd", ".hdr", ".dcm", ".tif", ".png", ".jpg"),
    "ModelFile": (".vtk", ".vtp", ".stl", ".ply", ".obj"),
    "TableFile": (".csv", ".tsv", ".schema.csv", ".db"),
    "TextFile": (".json", ".xml", ".md"),
    "ColorTableFile": (".ctbl", ".color"),
}


class qSlicerCoreIOManager(QtCore.QObject):
    """Loads and saves nodes."""

    newFileLoaded = QtCore.Signal(object, arguments=["qSlicerIO::IOProperties"])
    fileSaved = QtCore.Signal(object, arguments=["qSlicerIO::IOProperties"])

    def __init__(self, world):
        super().__init__()
        self._world = world

    def fileType(self, path):
        matching = [(len(end), kind) for kind, ends in _TYPES.items() for end in ends if path.lower().endswith(end)]
        return max(matching)[1] if matching else "NoFile"

    def fileWriterFileType(self, node, format=""):
        return next((k for k, c in _WRITERS.items() if isinstance(node, getattr(slicer, c))), "NoFile")

    def loadNodes(self, fileType, properties, loadedNodes=None, userMessages=None):
        path = str(properties.get("fileName", ""))
        known = set(self._world.scene.GetNodes())
        reader = getattr(self, "_read" + fileType, None)
        node = None
        if reader is not None and os.path.exists(path):
            with quiet():
                node = reader(path, properties)
        if node is None:
            if userMessages is not None:
                userMessages.AddMessage(vtk.vtkCommand.ErrorEvent, f"cannot read {path}")
            if fileType != "SceneFile":
                for left in [n for n in self._world.scene.GetNodes() if n not in known]:
                    self._world.scene.RemoveNode(left)
            return False
        if loadedNodes is not None:
            for loaded in [n for n in self._world.scene.GetNodes() if n not in known] if node is True else [node]:
                loadedNodes.AddItem(loaded)
        self.newFileLoaded.emit(properties)
        return True

    def saveNodes(self, fileType, properties, userMessages=None, scene=None):
        path = str(properties["fileName"])
        if fileType == "SceneFile":
            saved = self._writeScene(path)
        else:
            node = self._world.scene.GetNodeByID(properties["nodeID"])
            saved = node is not None and self._writeNode(node, path, properties)
        if saved:
            self.fileSaved.emit(properties)
        return bool(saved)

    def exportNodes(self, nodeIDs, fileNames, properties, hardenTransforms=False, userMessages=None):
        """Writes copies of the nodes; the storage nodes in the scene stay as they are."""
        return all(
            self._export(self._world.scene.GetNodeByID(i), str(f), hardenTransforms)
            for i, f in zip(nodeIDs, fileNames, strict=True)
        )

    def fileWriterExtensions(self, node):
        storage = node.CreateDefaultStorageNode()
        types = storage.GetSupportedWriteFileTypes()
        return [types.GetValue(i) for i in range(types.GetNumberOfValues())]

    def extractKnownExtension(self, fileName, node):
        storage = node.CreateDefaultStorageNode()
        return storage.GetSupportedFileExtension(fileName) or ""

    def openAddDataDialog(self):
        return bool(answered(Shown("openAddDataDialog", "", ""), None, False))

    def openAddVolumeDialog(self):
        return bool(answered(Shown("openAddVolumeDialog", "", ""), None, False))

    def openSaveDataDialog(self):
        return bool(answered(Shown("openSaveDataDialog", "", ""), None, False))

    # --- reading ------------------------------------------------------------------------------------------------

    def _name(self, path, properties):
        if properties.get("name"):
            return properties["name"]
        name = os.path.basename(path)
        ends = sorted((e for kind in _TYPES.values() for e in kind if name.lower().endswith(e)), key=len)
        return name[: -len(ends[-1])] if ends else os.path.splitext(name)[0]

    def _readVolumeFile(self, path, properties):
        logic = self._world.logics["Volumes"]
        options = sum(
            bit
            for key, bit in (
                ("labelmap", 1),
                ("center", 2),
                ("singleFile", 4),
                ("autoWindowLevel", 8),
                ("discardOrientation", 16),
            )
            if properties.get(key, key == "autoWindowLevel")
        )
        node = logic.AddArchetypeVolume(path, self._name(path, properties), options)
        if node is None or node.GetImageData() is None:
            return None
        if properties.get("colorNodeID"):
            node.GetDisplayNode().SetAndObserveColorNodeID(properties["colorNodeID"])
        if properties.get("show", True):
            application = self._world.applicationLogic
            selection = application.GetSelectionNode()
            if isinstance(node, slicer.vtkMRMLLabelMapVolumeNode):
                selection.SetActiveLabelVolumeID(node.GetID())
            else:
                selection.SetActiveVolumeID(node.GetID())
            application.PropagateVolumeSelection()
        return node

    def _readSegmentationFile(self, path, properties):
        scene, logic = self._world.scene, self._world.logics["Segmentations"]
        if self.fileType(path) == "SegmentationFile":
            return logic.LoadSegmentationFromFile(
                path, properties.get("autoOpacities", True), self._name(path, properties)
            )
        labels = self._world.logics["Volumes"].AddArchetypeVolume(path, self._name(path, properties), 1 | 8)
        if labels is None:
            return None
        node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", self._name(path, properties))
        if properties.get("colorNodeID"):
            labels.GetDisplayNode().SetAndObserveColorNodeID(properties["colorNodeID"])
        imported = logic.ImportLabelmapToSegmentationNode(labels, node)
        scene.RemoveNode(labels)
        if not imported:
            return None
        node.CreateDefaultDisplayNodes()
        node.SetName(self._name(path, properties))
        return node

    def _readTransformFile(self, path, properties):
        return self._world.logics["Transforms"].AddTransform(path, self._world.scene)

    def _readTableFile(self, path, properties):
        return self._world.logics["Tables"].AddTable(path, self._name(path, properties))

    def _readModelFile(self, path, properties):
        return self._world.logics["Models"].AddModel(path)

    def _readTextFile(self, path, properties):
        node = self._world.scene.AddNewNodeByClass("vtkMRMLTextNode", self._name(path, properties))
        return self._readByStorage(node, path)

    def _readSequenceFile(self, path, properties):
        return self._world.logics["Sequences"].AddSequence(path)

    def _readColorTableFile(self, path, properties):
        return self._world.logics["Colors"].LoadColorFile(path, self._name(path, properties))

    def _readMarkupsFile(self, path, properties):
        return self._world.scene.GetNodeByID(
            self._world.logics["Markups"].LoadMarkups(path, self._name(path, properties)) or ""
        )

    def _readByStorage(self, node, path):
        node.AddDefaultStorageNode()
        node.GetStorageNode().SetFileName(path)
        if node.GetStorageNode().ReadData(node):
            return node
        self._world.scene.RemoveNode(node)
        return None

    def _readSceneFile(self, path, properties):
        scene = self._world.scene
        if properties.get("clear", False):
            scene.Clear(False)
        if path.lower().endswith(".mrb"):
            return bool(scene.ReadFromMRB(path, False)) or None
        scene.SetURL(path)
        return bool(scene.Import()) or None

    # --- writing ------------------------------------------------------------------------------------------------

    def _writeNode(self, node, path, properties):
        if node.GetStorageNode() is None:
            node.AddDefaultStorageNode()
        storage = node.GetStorageNode()
        if storage is None:
            return False
        storage.SetFileName(path)
        if "useCompression" in properties:
            storage.SetUseCompression(bool(properties["useCompression"]))
        return bool(storage.WriteData(node))

    def _export(self, node, path, hardenTransforms):
        scene = slicer.vtkMRMLScene()
        copy = scene.AddNode(node.CreateNodeInstance())
        copy.CopyContent(node, True)
        copy.SetName(node.GetName())
        if hardenTransforms and node.GetParentTransformNode() is not None:
            transform = slicer.vtkMRMLTransformNode()
            scene.AddNode(transform)
            transform.CopyContent(node.GetParentTransformNode(), True)
            copy.SetAndObserveTransformNodeID(transform.GetID())
            copy.HardenTransform()
        storage = scene.AddNode(copy.CreateDefaultStorageNode())
        storage.SetFileName(path)
        return bool(storage.WriteData(copy))

    def _writeScene(self, path):
        scene = self._world.scene
        with quiet():
            if path.lower().endswith(".mrb"):
                return scene.WriteToMRB(path)
            if path.lower().endswith(".mrml"):
                return scene.Commit(path)
            os.makedirs(path, exist_ok=True)
            return self._world.applicationLogic.SaveSceneToSlicerDataBundleDirectory(path, None)


_WRITERS = {
    "SegmentationFile": "vtkMRMLSegmentationNode",
    "VolumeFile": "vtkMRMLVolumeNode",
    "MarkupsFile": "vtkMRMLMarkupsNode",
    "ModelFile": "vtkMRMLModelNode",
    "TransformFile": "vtkMRMLTransformNode",
    "TableFile": "vtkMRMLTableNode",
    "TextFile": "vtkMRMLTextNode",
    "SequenceFile": "vtkMRMLSequenceNode",
    "ColorTableFile": "vtkMRMLColorNode",
}
