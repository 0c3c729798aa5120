"""Puts `qt`, `ctk` and a living `slicer` (application, scene, modules, widgets) into `sys.modules`."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import sys

import slicer
import vtk  # noqa: F401  all of it, as in Slicer
from PySide6.QtCore import QSettings, qInstallMessageHandler

from . import application, modules, mrml_widgets, parameter_nodes, scripted_modules
from .ctk_widgets import ctk
from .dialogs import answers, shown
from .pythonqt import face, proxyOf, recordUncaughtErrors, slotErrors
from .qt_module import qt
from .scene import World

_CLASSES = (
    application.qSlicerApplication,
    modules.qSlicerAbstractModuleWidget,
    modules.qSlicerLoadableModule,
    modules.qSlicerScriptedLoadableModule,
    modules.qSlicerScriptedLoadableModuleWidget,
)


def _log(kind, context, message):
    """Qt's warnings in Python's log, as in Slicer's; without the one that the screenless platform always has."""
    if "propagateSizeHints" not in message:
        logging.getLogger("qt").warning(message)


def _startApplication(world):
    qInstallMessageHandler(_log)
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    app = application.qSlicerApplication(["Slicer"])
    app.setOrganizationName("NA-MIC")
    app.setApplicationName("Slicer")
    QSettings.setDefaultFormat(QSettings.Format.IniFormat)
    for scope in QSettings.Scope:
        QSettings.setPath(QSettings.Format.IniFormat, scope, world.temporaryPath)
    application.useFont(app)
    app._start(world)
    return app


def _startModules(app, world):
    app._moduleManager = modules.qSlicerModuleManager()
    app._selector = modules.qSlicerModuleSelectorToolBar(app._moduleManager)
    app._window = app._selector._window = application.qSlicerMainWindow(app._selector)
    modules.addOwnModules(app._moduleManager, world)
    app._window.resize(700, 900)
    app._window.show()


def _install():
    sys.modules |= {"qt": qt, "ctk": ctk}
    world = World()
    atexit.register(shutil.rmtree, world.temporaryPath, ignore_errors=True)
    app = _startApplication(world)
    slicer.app, slicer.mrmlScene, slicer.modules = proxyOf(app), world.scene, modules.modules
    mrml_widgets.install()
    for cls in _CLASSES:
        setattr(slicer, cls.__name__, face(cls))
    scripted_modules.install()
    parameter_nodes.install()
    _startModules(app, world)
    recordUncaughtErrors()
    return world


def reset():
    """Between two tests: an empty scene, and no dialogs, answers, errors or installations left over."""
    slicer.mrmlScene.Clear(0)
    for kept in (answers, scripted_modules.installs, shown, slotErrors):
        kept.clear()


world = _install()
