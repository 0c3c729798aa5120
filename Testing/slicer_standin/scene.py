"""The MRML scene and the logics of the application and its loadable modules: the real ones of the slicer-core wheel."""

from __future__ import annotations

import contextlib
import os
import tempfile

import slicer

# module -> its logic class; creating them registers their nodes in the scene
MODULE_LOGICS = {
    "Annotations": "vtkSlicerAnnotationModuleLogic",
    "Cameras": "vtkSlicerCamerasModuleLogic",
    "Colors": "vtkSlicerColorLogic",
    "CropVolume": "vtkSlicerCropVolumeLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Models": "vtkSlicerModelsLogic",
    "Plots": "vtkSlicerPlotsLogic",
    "SceneViews": "vtkSlicerSceneViewsModuleLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "Sequences": "vtkSlicerSequencesLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Tables": "vtkSlicerTablesLogic",
    "Terminologies": "vtkSlicerTerminologiesModuleLogic",
    "Texts": "vtkSlicerTextsLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "Units": "vtkSlicerUnitsLogic",
    "ViewControllers": "vtkSlicerViewControllersLogic",
    "VolumeRendering": "vtkSlicerVolumeRenderingLogic",
    "Volumes": "vtkSlicerVolumesLogic",
}
SLICE_VIEWS = {"Red": ("Axial", "R"), "Yellow": ("Sagittal", "Y"), "Green": ("Coronal", "G")}


@contextlib.contextmanager
def quiet():
    """VTK's own messages off: the wheel lacks the colour and terminology files that the logics look for."""
    import vtk

    before = vtk.vtkObject.GetGlobalWarningDisplay()
    vtk.vtkObject.SetGlobalWarningDisplay(0)
    level = vtk.vtkLogger.GetCurrentVerbosityCutoff()
    vtk.vtkLogger.SetStderrVerbosity(vtk.vtkLogger.VERBOSITY_OFF)
    try:
        yield
    finally:
        vtk.vtkObject.SetGlobalWarningDisplay(before)
        vtk.vtkLogger.SetStderrVerbosity(level)


class World:
    """The scene, the application's logic, the modules' logics, and the slice views' logics."""

    def __init__(self):
        self.temporaryPath = tempfile.mkdtemp(prefix="Slicer-standin-")
        self.scene = slicer.vtkMRMLScene()
        self.applicationLogic = slicer.vtkSlicerApplicationLogic()
        self.applicationLogic.SetTemporaryPath(self.temporaryPath)
        self.logics = {}
        with quiet():
            self.scene.SetRootDirectory(self.temporaryPath)
            self._addCache()
            self.applicationLogic.SetMRMLScene(self.scene)
            for module, className in MODULE_LOGICS.items():
                logic = getattr(slicer, className)()
                logic.SetMRMLApplicationLogic(self.applicationLogic)
                self.applicationLogic.SetModuleLogic(module, logic)
                self.logics[module] = logic
                if className == "vtkSlicerTerminologiesModuleLogic":
                    logic.SetUserContextsPath(os.path.join(self.temporaryPath, "terminologies"))
                logic.SetMRMLScene(self.scene)
                if module == "Colors":
                    self.applicationLogic.SetColorLogic(logic)
        self.layoutLogic = slicer.vtkMRMLLayoutLogic()
        self.layoutLogic.SetMRMLApplicationLogic(self.applicationLogic)
        self.layoutLogic.SetMRMLScene(self.scene)
        self.sliceLogics = {}
        self._addSliceViews()
        self.scene.AddObserver(slicer.vtkMRMLScene.EndCloseEvent, lambda *_: self._afterClose())

    def _addCache(self):
        """A scene bundle is unpacked in the cache of remote files."""
        cache = slicer.vtkCacheManager()
        cache.SetRemoteCacheDirectory(os.path.join(self.temporaryPath, "RemoteIO"))
        os.makedirs(cache.GetRemoteCacheDirectory(), exist_ok=True)
        self.dataIO = slicer.vtkDataIOManager()
        self.dataIO.SetCacheManager(cache)
        cache.SetMRMLScene(self.scene)
        self.scene.SetCacheManager(cache)
        self.scene.SetDataIOManager(self.dataIO)

    def _addSliceViews(self):
        import vtk

        collection = vtk.vtkCollection()
        for name, (orientation, abbreviation) in SLICE_VIEWS.items():
            node = self.scene.GetSingletonNode(name, "vtkMRMLSliceNode")
            if node is None:
                node = slicer.vtkMRMLSliceNode()
                node.SetName(name)
                node.SetLayoutName(name)
                node.SetSingletonTag(name)
                node.SetLayoutLabel(abbreviation)
                slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(self.scene)
                node = self.scene.AddNode(node)
                node.SetOrientation(orientation)
            node.SetMappedInLayout(1)
            logic = self.sliceLogics.get(name) or slicer.vtkMRMLSliceLogic()
            logic.SetMRMLApplicationLogic(self.applicationLogic)
            logic.SetMRMLScene(self.scene)
            logic.SetSliceNode(node)
            composite = slicer.vtkMRMLSliceLogic.GetSliceCompositeNode(node) or self.scene.GetSingletonNode(
                name, "vtkMRMLSliceCompositeNode"
            )
            if composite is None:
                composite = slicer.vtkMRMLSliceCompositeNode()
                composite.SetLayoutName(name)
                composite.SetSingletonTag(name)
                composite = self.scene.AddNode(composite)
            logic.SetSliceCompositeNode(composite)
            self.sliceLogics[name] = logic
            collection.AddItem(logic)
        if self.scene.GetSingletonNode("1", "vtkMRMLViewNode") is None:
            view = slicer.vtkMRMLViewNode()
            view.SetName("View1")
            view.SetLayoutName("1")
            view.SetSingletonTag("1")
            view.SetMappedInLayout(1)
            self.scene.AddNode(view)
        self.applicationLogic.SetSliceLogics(collection)

    def _afterClose(self):
        """Singletons of the views stay in a cleared scene; where one went, it is made again."""
        self._addSliceViews()
