"""Dialogs that never wait for a person: each is recorded and answered at once, by the test or by default.

`answers.append(...)` before the click that opens the dialog. An answer is what the dialog returns (a button, the text
of a button of one's own, a path), or a function of the dialog that returns it and may first press and fill what it
shows. Without one a message box is agreed to (as in Slicer's testing mode), a file dialog is cancelled, any other
dialog rejected.
"""

from __future__ import annotations

import dataclasses

from PySide6 import QtWidgets

from .pythonqt import EnumValue, overrides, proxyOf, wrap

Buttons = QtWidgets.QMessageBox.StandardButton
_AGREEING = (Buttons.Yes, Buttons.Ok, Buttons.Open, Buttons.Save, Buttons.Apply, Buttons.Retry, Buttons.Close)


@dataclasses.dataclass
class Shown:
    """A dialog as it would have been seen."""

    kind: str
    title: str
    text: str
    details: str = ""
    answer: object = None


shown: list[Shown] = []
answers: list[object] = []


def answered(record, dialog, default):
    shown.append(record)
    answer = answers.pop(0) if answers else default
    record.answer = answer(proxyOf(dialog) if dialog is not None else record) if callable(answer) else answer
    return record.answer


def _execMessageBox(box):
    buttons = box.standardButtons()
    default = next((b for b in _AGREEING if b in buttons), Buttons.Ok)
    record = Shown(type(box).__name__, box.windowTitle().strip(), box.text(), box.detailedText())
    # buttons of one's own: the answer names the text of the one that is pressed
    answer = answered(record, box, EnumValue(default))
    pressed = next((b for b in box.buttons() if isinstance(answer, str) and b.text().replace("&", "") == answer), None)
    if pressed is None and not isinstance(answer, str):
        pressed = box.button(Buttons(int(answer)))
    if isinstance(answer, str) and pressed is None:
        raise AssertionError(f"no button {answer!r} in {[b.text() for b in box.buttons()]}")
    if pressed is not None:
        pressed.click()
    return answer if not isinstance(answer, str) else EnumValue(box.standardButton(pressed))


def _execDialog(dialog):
    texts = [w.text() for w in dialog.findChildren(QtWidgets.QLabel)]
    answer = int(answered(Shown(type(dialog).__name__, dialog.windowTitle(), "\n".join(texts)), dialog, 0))
    dialog.done(answer)
    return answer


def _execMenu(menu, *_position):
    return answered(Shown("QMenu", menu.title(), "\n".join(a.text() for a in menu.actions())), menu, None)


def _messageBox(kind):
    def show(parent, title, text, buttons=Buttons.Ok, defaultButton=Buttons.NoButton):
        default = next((b for b in _AGREEING if b in Buttons(buttons)), Buttons.Ok)
        return answered(Shown(kind, title, text), None, EnumValue(default))

    return staticmethod(show)


def _path(kind):
    def ask(parent=None, caption="", directory="", *more):
        return answered(Shown(kind, caption, directory), None, [] if kind == "getOpenFileNames" else "")

    return staticmethod(ask)


def _input(kind):
    def ask(parent, title, label, *more):
        return answered(Shown(kind, title, label), None, wrap(more[0]) if more else "")

    return staticmethod(ask)


overrides |= {
    QtWidgets.QDialog: {"exec": _execDialog},
    QtWidgets.QMessageBox: {"exec": _execMessageBox}
    | {kind: _messageBox(kind) for kind in ("information", "question", "warning", "critical")},
    QtWidgets.QFileDialog: {
        kind: _path(kind) for kind in ("getOpenFileName", "getOpenFileNames", "getSaveFileName", "getExistingDirectory")
    },
    QtWidgets.QInputDialog: {kind: _input(kind) for kind in ("getText", "getInt", "getDouble", "getItem")},
    QtWidgets.QMenu: {"exec": _execMenu},
}
