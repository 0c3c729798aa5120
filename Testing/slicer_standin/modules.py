"""slicer.modules, the module manager, and `loadModule(path)`: the life of a scripted module."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import sys
import types

import slicer
from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import Property, Signal, Slot

from .ctk_widgets import stored
from .mrml_widgets import qSlicerWidget
from .pythonqt import guarded, proxyOf
from .scene import MODULE_LOGICS


class qSlicerAbstractCoreModule(QtCore.QObject):
    """What every module has."""

    def __init__(self, name, path):
        super().__init__()
        self._name, self._path, self._widget = name, path, None
        self._title = name
        self.setObjectName(name + "Module")

    name = Property(str, lambda self: self._name)
    path = Property(str, lambda self: self._path)
    title = stored(str, "title", "")
    category = Property(str, lambda self: (self.categories or [""])[0])
    categories = stored("QVariantList", "categories", [])
    dependencies = stored("QVariantList", "dependencies", [])
    contributors = stored("QVariantList", "contributors", [])
    associatedNodeTypes = stored("QVariantList", "associatedNodeTypes", [])
    helpText = stored(str, "helpText", "")
    acknowledgementText = stored(str, "acknowledgementText", "")
    icon = stored(QtGui.QIcon, "icon", QtGui.QIcon())
    index = stored(int, "index", -1)
    hidden = stored(bool, "hidden", False)
    widgetRepresentationCreationEnabled = stored(bool, "widgetRepresentationCreationEnabled", True)

    def widgetRepresentation(self):
        if self._widget is None and self.widgetRepresentationCreationEnabled:
            self._widget = self.createNewWidgetRepresentation()
        return self._widget


class qSlicerLoadableModule(qSlicerAbstractCoreModule):
    """A module of Slicer's own: its logic and an empty panel."""

    def __init__(self, name, logic):
        super().__init__(name, f"qSlicer{name}Module")
        self._logic = logic

    def logic(self):
        return self._logic

    def createNewWidgetRepresentation(self):
        return qSlicerAbstractModuleWidget(self)


class qSlicerScriptedLoadableModule(qSlicerAbstractCoreModule):
    """A module made of a Python file."""

    def __init__(self, name, path, python):
        super().__init__(name, path)
        self._python = python
        self._logic = slicer.vtkSlicerScriptedLoadableModuleLogic()

    def logic(self):
        return self._logic

    def createNewWidgetRepresentation(self):
        widgetClass = getattr(self._python, self._name + "Widget", None)
        if widgetClass is None:
            return None
        panel = qSlicerScriptedLoadableModuleWidget(self)
        panel._setUp(widgetClass)
        return panel


class qSlicerAbstractModuleWidget(qSlicerWidget):
    """A module's panel."""

    def __init__(self, module):
        super().__init__()
        self._module, self._isEntered = module, False
        self.setObjectName(module._name + "ModuleWidget")
        QtWidgets.QVBoxLayout(self)
        self.setMRMLScene(slicer.mrmlScene)

    isEntered = Property(bool, lambda self: self._isEntered)
    moduleName = Property(str, lambda self: self._module._name)

    def module(self):
        return self._module

    def _enter(self):
        self._isEntered = True

    def _exit(self):
        self._isEntered = False


class qSlicerScriptedLoadableModuleWidget(qSlicerAbstractModuleWidget):
    """The panel of a scripted module; `self()` is its Python object."""

    _python = None

    def self(self):
        return self._python

    def _setUp(self, widgetClass):
        self._python = guarded(widgetClass)(self)
        if self._python is None:
            return
        setattr(slicer.modules, self._module._name + "Widget", self._python)
        guarded(self._python.setup)()
        if self.layout() is not None:
            self.layout().addStretch(1)

    @Slot()
    def reload(self):
        """A new Python object in this panel, of the class as it is now; the former one's widgets stay, hidden."""
        name = self._module._name
        self._module._python = sys.modules[name]
        self._setUp(getattr(self._module._python, name + "Widget"))

    def _enter(self):
        super()._enter()
        if hasattr(self._python, "enter"):
            guarded(self._python.enter)()

    def _exit(self):
        super()._exit()
        if hasattr(self._python, "exit"):
            guarded(self._python.exit)()


class qSlicerModuleFactoryManager(QtCore.QObject):
    """Registers and loads modules."""

    def __init__(self, manager):
        super().__init__(manager)
        self._manager = manager
        self._registered = {}

    def registerModule(self, file):
        self._registered[file.baseName()] = file.filePath()
        return True

    def loadModules(self, names):
        for name in names:
            loadModule(self._registered[name])
        return True

    def loadedModuleNames(self):
        return tuple(self._manager._modules)

    def isLoaded(self, name):
        return name in self._manager._modules


class qSlicerModuleManager(QtCore.QObject):
    """All modules by name."""

    moduleLoaded = Signal(str)
    moduleAboutToBeUnloaded = Signal(str)
    moduleUnloaded = Signal(str)

    def __init__(self):
        super().__init__()
        self._modules = {}
        self._factory = qSlicerModuleFactoryManager(self)

    def factoryManager(self):
        return self._factory

    def module(self, name):
        return self._modules.get(name)

    def modulesNames(self):
        return tuple(self._modules)

    def _add(self, module):
        self._modules[module._name] = module
        setattr(slicer.modules, module._name.lower(), proxyOf(module))
        self.moduleLoaded.emit(module._name)


class qSlicerModuleSelectorToolBar(QtWidgets.QToolBar):
    """The list of modules above the panel."""

    moduleSelected = Signal(str)

    def __init__(self, manager):
        super().__init__()
        self._manager, self._selected, self._window = manager, "", None

    selectedModule = Property(str, lambda self: self._selected)

    @Slot(str)
    def selectModule(self, name):
        module = self._manager.module(name)
        if module is None or name == self._selected:
            return
        left = self._manager.module(self._selected)
        if left is not None and left._widget is not None:
            left._widget._exit()
        self._selected = name
        panel = module.widgetRepresentation()
        self._window._show(panel)
        if panel is not None:
            panel._enter()
        self.moduleSelected.emit(name)


def addOwnModules(manager, world):
    """The modules that Slicer brings."""
    for name, logic in world.logics.items():
        manager._add(qSlicerLoadableModule(name, logic))
    for name in ("Data", "DICOM", "SampleData", "SegmentEditor", "SegmentStatistics", "Welcome"):
        if name not in MODULE_LOGICS:
            manager._add(qSlicerLoadableModule(name, None))


def loadModule(path):
    """What Slicer does with a module file: its folder becomes importable, the module object is made, no widget yet.

    Returns the file's Python module; an error while loading is raised. A file that is loaded already stays as it is;
    another one of that name takes its place.
    """
    path = os.path.abspath(path)
    name, folder = pathlib.Path(path).stem, os.path.dirname(path)
    loaded = slicer.app.moduleManager()._alive()._modules.get(name)
    if loaded is not None and loaded.path == path:
        return sys.modules[name]
    unloadModule(name)
    if folder not in sys.path:
        sys.path.append(folder)
    spec = importlib.util.spec_from_file_location(name, path)
    python = importlib.util.module_from_spec(spec)
    sys.modules[name] = python
    spec.loader.exec_module(python)
    module = qSlicerScriptedLoadableModule(name, path, python)
    instance = getattr(python, name)(proxyOf(module))
    manager = slicer.app.moduleManager()._alive()
    setattr(slicer.modules, name + "Instance", instance)
    manager._add(module)
    application = slicer.app._alive()
    application.startupCompleted.emit()
    slicer.app.disconnect("startupCompleted()")  # each module sees one start
    return python


def unloadModule(name):
    """What Slicer does with a module when it quits: its widget cleans up, its signals and observers end."""
    manager = slicer.app.moduleManager()._alive()
    module = manager._modules.pop(name, None)
    if module is None:
        return
    if slicer.app._alive()._selector._selected == name:
        slicer.util.selectModule("Welcome")
    manager.moduleAboutToBeUnloaded.emit(name)
    if module._widget is not None:
        module._widget.deleteLater()
    for attribute in (name.lower(), name + "Instance", name + "Widget"):
        if hasattr(slicer.modules, attribute):
            delattr(slicer.modules, attribute)
    manager.moduleUnloaded.emit(name)


modules = types.ModuleType("slicer.modules")
