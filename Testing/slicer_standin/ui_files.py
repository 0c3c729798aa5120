"""`.ui` files: Qt's loader with the widgets of CTK and Slicer, and its connections made with Slicer's signatures."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from PySide6 import QtCore, QtUiTools

from .pythonqt import proxyOf

widgetClasses: dict[str, type] = {}  # name -> class, filled by the modules that define widgets


class UiLoader(QtUiTools.QUiLoader):
    """qt.QUiLoader: a widget class that Slicer has not, or a connection that cannot be made, raises RuntimeError."""

    def __init__(self, parent=None):
        super().__init__(parent)
        self._unknown, self._made = [], []

    def createWidget(self, className, parent=None, name=""):
        if className in widgetClasses:
            widget = widgetClasses[className](parent)
            widget.setObjectName(name)
            self._made.append(widget)  # C++ holds no reference to it yet
            return widget
        if not className.startswith("Q"):
            self._unknown.append(className)
        return super().createWidget(className, parent, name)

    def load(self, device, parent=None):
        root = ElementTree.fromstring(bytes(device.readAll()))
        connections = root.find("connections")
        if connections is not None:
            root.remove(connections)
        _numbersForEnums(root)
        buffer = QtCore.QBuffer()
        buffer.setData(ElementTree.tostring(root))
        buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
        widget = super().load(buffer, parent)
        if self._unknown:
            raise RuntimeError(f"no such widget class: {', '.join(sorted(set(self._unknown)))}")
        if widget is not None and connections is not None:
            for connection in connections.iter("connection"):
                _connect(widget, *(connection.findtext(tag) for tag in ("sender", "signal", "receiver", "slot")))
        return widget


def _connect(root, sender, signal, receiver, slot):
    ends = []
    for name in (sender, receiver):
        end = root if root.objectName() == name else root.findChild(QtCore.QObject, name)
        if end is None:
            raise RuntimeError(f"connection of {name}: no such object")
        ends.append(proxyOf(end))
    if not ends[0].connect(signal, ends[1], slot):
        raise RuntimeError(f"no such connection: {sender}.{signal} -> {receiver}.{slot}")


def _numbersForEnums(root):
    """Enumerators of CTK's and Slicer's classes as numbers (those of Qt the loader knows)."""
    for element in [*root.iter("set"), *root.iter("enum")]:
        names = (element.text or "").split("|")
        owners = {n.split("::")[0] for n in names}
        if len(owners) == 1 and (owner := owners.pop()) in widgetClasses:
            values = vars(widgetClasses[owner])
            kinds = [v.__members__ for v in values.values() if hasattr(v, "__members__")]
            element.tag = "number"
            element.text = str(
                sum(next(k[n.split("::")[-1]] for k in kinds if n.split("::")[-1] in k).value for n in names)
            )
