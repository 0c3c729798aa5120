"""Pictures of panels, without a screen."""

from __future__ import annotations

import pathlib

from PySide6 import QtWidgets

from .pythonqt import unwrap


def screenshot(widget, path, width=480):
    """A PNG of a whole panel as high as it needs to be, `width` pixels wide.

    `widget` is a widget of `qt`, or a module's widget object, whose panel is taken. Returns the path.
    """
    panel = unwrap(getattr(widget, "parent", widget) if not hasattr(widget, "isWidgetType") else widget)
    panel.ensurePolished()
    application = QtWidgets.QApplication.instance()
    home = panel.parentWidget()
    stack = home if isinstance(home, QtWidgets.QStackedWidget) else None
    if stack is not None:
        stack.removeWidget(panel)
    panel.setParent(None)
    for _ in range(3):  # height for width settles after the layouts have seen the width
        panel.resize(width, max(panel.sizeHint().height(), panel.heightForWidth(width), 1))
        panel.show()
        application.processEvents()
    picture = panel.grab()
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    if not picture.save(str(path), "PNG"):
        raise OSError(f"cannot write {path}")
    panel.hide()
    if stack is not None:
        stack.addWidget(panel)
        stack.setCurrentWidget(panel)
    elif home is not None:
        panel.setParent(home)
    return str(path)
