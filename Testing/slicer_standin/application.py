"""slicer.app, its main window, and the layout with its slice and 3D views (logics are real, nothing is rendered)."""

from __future__ import annotations

import os
import sys

import slicer
from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import Property, Signal, Slot

from .files import qSlicerCoreIOManager
from .scene import SLICE_VIEWS

RELEASE = (5, 13)


def constant(kind, value):
    return Property(kind, lambda self: value, constant=True)


class qSlicerApplication(QtWidgets.QApplication):
    """The application object."""

    mrmlSceneChanged = Signal(object, arguments=["vtkMRMLScene*"])
    startupCompleted = Signal()
    pausedRender = Signal(bool)

    majorVersion = constant(int, RELEASE[0])
    minorVersion = constant(int, RELEASE[1])
    applicationVersion = constant(str, f"{RELEASE[0]}.{RELEASE[1]}.0")
    mainApplicationName = constant(str, "Slicer")
    revision = constant(str, "31053")
    platform = constant(str, f"{sys.platform}-amd64")
    os = constant(str, {"win32": "win", "darwin": "macosx"}.get(sys.platform, "linux"))
    arch = constant(str, "amd64")
    documentationBaseUrl = constant(str, "https://slicer.readthedocs.io/en/latest/")

    def _start(self, world):
        self._world = world
        self._settings = QtCore.QSettings(
            os.path.join(world.temporaryPath, "Slicer.ini"), QtCore.QSettings.Format.IniFormat
        )
        self._io = qSlicerCoreIOManager(world)
        self._layout = qSlicerLayoutManager(world)
        self._options = qSlicerCommandOptions()
        self._rendersPaused = 0
        self._exitCode = None  # what slicer.util.exit asked for

    temporaryPath = Property(str, lambda self: self._world.temporaryPath, lambda self, path: self._moveTemporary(path))
    slicerHome = Property(str, lambda self: self._folder("home"))
    extensionsInstallPath = Property(str, lambda self: self._folder("extensions"))
    slicerUserSettingsFilePath = Property(str, lambda self: self._settings.fileName())
    cachePath = Property(str, lambda self: self._folder("cache"))
    defaultScenePath = Property(str, lambda self: self._folder("scenes"))

    def _moveTemporary(self, path):
        self._world.temporaryPath = path
        self._world.applicationLogic.SetTemporaryPath(path)

    def _folder(self, name):
        folder = os.path.join(self._world.temporaryPath, name)
        os.makedirs(folder, exist_ok=True)
        return folder

    def mrmlScene(self):
        return self._world.scene

    def applicationLogic(self):
        return self._world.applicationLogic

    def mrmlApplicationLogic(self):
        return self._world.applicationLogic

    def coreIOManager(self):
        return self._io

    def ioManager(self):
        return self._io

    def layoutManager(self):
        return self._layout

    def moduleManager(self):
        return self._moduleManager

    def commandOptions(self):
        return self._options

    def settings(self):
        return self._settings

    def userSettings(self):
        return self._settings

    def revisionUserSettings(self):
        return self._settings

    def startupEnvironment(self):
        return QtCore.QProcessEnvironment.systemEnvironment()

    def environment(self):
        return QtCore.QProcessEnvironment.systemEnvironment()

    def launcherExecutableFilePath(self):
        return ""

    def toSlicerHomeAbsolutePath(self, path):
        return path if os.path.isabs(path) else os.path.join(self.slicerHome, path)

    def testingEnabled(self):
        return self._options.testingEnabled

    def moduleLogic(self, name):
        return self._world.applicationLogic.GetModuleLogic(name)

    def moduleDocumentationUrl(self, name):
        return f"{self.documentationBaseUrl}user_guide/modules/{name.lower()}.html"

    def openNodeModule(self, node):
        shown = {
            "vtkMRMLSegmentationNode": "Segmentations",
            "vtkMRMLVolumeNode": "Volumes",
            "vtkMRMLMarkupsNode": "Markups",
            "vtkMRMLTransformNode": "Transforms",
            "vtkMRMLTableNode": "Tables",
            "vtkMRMLModelNode": "Models",
        }
        slicer.util.selectModule(next((m for c, m in shown.items() if node.IsA(c)), "Data"))

    @Slot()
    def pauseRender(self):
        self._rendersPaused += 1

    @Slot()
    def resumeRender(self):
        self._rendersPaused -= 1

    @Slot(int)
    def exit(self, code=0):
        self._exitCode = code

    @Slot()
    def restart(self):
        self._exitCode = "restart"


class qSlicerCommandOptions(QtCore.QObject):
    """How Slicer was started."""

    def __init__(self):
        super().__init__()
        self._values = {"testingEnabled": False, "runPythonAndExit": False, "noMainWindow": False}

    testingEnabled = Property(
        bool, lambda self: self._values["testingEnabled"], lambda self, on: self._set("testingEnabled", on)
    )
    runPythonAndExit = Property(
        bool, lambda self: self._values["runPythonAndExit"], lambda self, on: self._set("runPythonAndExit", on)
    )
    noMainWindow = Property(bool, lambda self: self._values["noMainWindow"])

    def _set(self, name, value):
        self._values[name] = value


class qSlicerLayoutManager(QtCore.QObject):
    """Three slice views and a 3D view in every layout."""

    layoutChanged = Signal(int)

    def __init__(self, world):
        super().__init__()
        self._world = world
        self._slices = {name: qMRMLSliceWidget(world, name) for name in SLICE_VIEWS}
        self._threeD = qMRMLThreeDWidget(world)

    layout = Property(int, lambda self: self._node().GetViewArrangement(), lambda self, number: self.setLayout(number))
    threeDViewCount = constant(int, 1)
    tableViewCount = constant(int, 0)
    plotViewCount = constant(int, 0)

    def _node(self):
        return self._world.layoutLogic.GetLayoutNode()

    @Slot(int)
    def setLayout(self, number):
        if number != self._node().GetViewArrangement():
            self._node().SetViewArrangement(number)
            self.layoutChanged.emit(number)

    def sliceViewNames(self):
        return tuple(self._slices)

    def sliceWidget(self, name):
        return self._slices.get(name)

    def mrmlSliceLogics(self):
        return self._world.applicationLogic.GetSliceLogics()

    def threeDWidget(self, index):
        return self._threeD if index == 0 else None

    def activeMRMLThreeDViewNode(self):
        return self._threeD.mrmlViewNode()

    @Slot()
    def resetThreeDViews(self):
        self._threeD.threeDView().resetFocalPoint()

    @Slot()
    def resetSliceViews(self):
        for widget in self._slices.values():
            widget.fitSliceToBackground()


class qMRMLSliceWidget(QtWidgets.QWidget):
    """A slice view: its logic and nodes."""

    def __init__(self, world, name):
        super().__init__()
        self._world, self._name = world, name
        self._view = qMRMLSliceView(self)

    def sliceLogic(self):
        return self._world.sliceLogics[self._name]

    def mrmlSliceNode(self):
        return self.sliceLogic().GetSliceNode()

    def mrmlSliceCompositeNode(self):
        return self.sliceLogic().GetSliceCompositeNode()

    def sliceView(self):
        return self._view

    @Slot()
    def fitSliceToBackground(self):
        self.sliceLogic().FitSliceToBackground()


class qMRMLSliceView(QtWidgets.QWidget):
    """What a slice view draws: nothing here."""

    @Slot()
    def scheduleRender(self):
        pass

    @Slot()
    def forceRender(self):
        pass


class qMRMLThreeDWidget(QtWidgets.QWidget):
    """A 3D view: its node."""

    def __init__(self, world):
        super().__init__()
        self._world = world
        self._view = qMRMLThreeDView(self)

    def mrmlViewNode(self):
        return self._world.scene.GetSingletonNode("1", "vtkMRMLViewNode")

    def threeDView(self):
        return self._view


class qMRMLThreeDView(QtWidgets.QWidget):
    """What a 3D view draws: nothing here; resets are counted for tests."""

    _resets = 0

    def mrmlViewNode(self):
        return self.parent().mrmlViewNode()

    @Slot()
    def resetFocalPoint(self):
        self._resets += 1

    @Slot()
    def resetCamera(self):
        self._resets += 1

    @Slot()
    def scheduleRender(self):
        pass

    @Slot()
    def forceRender(self):
        pass


class qSlicerMainWindow(QtWidgets.QMainWindow):
    """The window with the panel of the selected module."""

    def __init__(self, selector):
        super().__init__()
        self.setObjectName("qSlicerMainWindow")
        self._selector = selector
        self._panel = QtWidgets.QScrollArea()
        self._panel.setWidgetResizable(True)
        self._panel.setObjectName("ModulePanel")
        self._stack = QtWidgets.QStackedWidget()
        self._panel.setWidget(self._stack)
        self.setCentralWidget(self._panel)
        self.statusBar()

    def moduleSelector(self):
        return self._selector

    def _show(self, widget):
        if widget is not None and self._stack.indexOf(widget) < 0:
            self._stack.addWidget(widget)
        if widget is not None:
            self._stack.setCurrentWidget(widget)


def useFont(application):
    """A real font, the same everywhere, so that widgets have the sizes that people see."""
    import matplotlib

    folder = os.path.join(matplotlib.get_data_path(), "fonts", "ttf")
    for name in ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSans-Oblique.ttf", "DejaVuSansMono.ttf"):
        QtGui.QFontDatabase.addApplicationFont(os.path.join(folder, name))
    application.setFont(QtGui.QFont("DejaVu Sans", 9))
