"""The module `qt`: Qt's classes with PythonQt's face."""

from __future__ import annotations

import types

from PySide6 import QtCore, QtGui, QtSvg, QtTest, QtUiTools, QtWidgets

from .pythonqt import _members, face
from .ui_files import UiLoader

_REPLACED = {"QUiLoader": UiLoader}
_SOURCES = (QtCore, QtGui, QtWidgets, QtSvg, QtTest, QtUiTools)


class QtModule(types.ModuleType):
    """Looks classes up on first use; what Qt has not, or Slicer does not wrap, raises AttributeError."""

    def __getattr__(self, name):
        if name in _REPLACED:
            value = face(_REPLACED[name])
        else:
            found = next((getattr(s, name) for s in _SOURCES if name.startswith("Q") and hasattr(s, name)), None)
            if not isinstance(found, type):
                raise AttributeError(f"module 'qt' has no attribute '{name}'")
            value = face(found) if name != "Qt" else _namespace(found)
        setattr(self, name, value)
        return value


def _namespace(found):
    """qt.Qt: only enums."""
    return type("Qt", (), _members(found))


qt = QtModule("qt", __doc__)
