"""The widgets of CTK that modules use, as PySide classes: properties, signals and slots named as in CTK."""

from __future__ import annotations

import enum
import os
import types

from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import Property, Signal, Slot

from .dialogs import Shown, answered
from .pythonqt import face
from .ui_files import widgetClasses


def stored(kind, name, default, changed=None):
    """A property that is only kept; `changed(self)` is called after it was set."""
    key = "_" + name

    def write(self, value):
        setattr(self, key, value)
        if changed:
            changed(self)

    return Property(kind, lambda self: getattr(self, key, default), write)


def delegated(kind, part, name, getter=None, setter=None):
    """A property of a child widget, e.g. the spin box's `maximum`."""
    setter = setter or "set" + name[0].upper() + name[1:]
    return Property(
        kind,
        lambda self: getattr(getattr(self, part), getter or name)(),
        lambda self, value: getattr(getattr(self, part), setter)(value),
    )


class ctkCollapsibleButton(QtWidgets.QAbstractButton):
    """A header that shows and hides the widgets of its layout."""

    contentsCollapsed = Signal(bool)

    def __init__(self, text="", parent=None):
        if isinstance(text, QtWidgets.QWidget) or text is None:
            text, parent = "", text
        super().__init__(parent)
        self.setText(text)
        self.setCheckable(True)
        self.setChecked(True)
        self.setContentsMargins(0, self._headerHeight(), 0, 0)
        self.toggled.connect(lambda on: self._collapse(not on))
        self._collapsedNow = False

    def _headerHeight(self):
        return self.fontMetrics().height() + 10

    def _collapse(self, on):
        if on == self._collapsedNow:
            return
        self._collapsedNow = on
        for child in self.children():
            if isinstance(child, QtWidgets.QWidget):
                if on:
                    child.setProperty("_shownBefore", not child.isHidden())
                child.setVisible(not on and child.property("_shownBefore") is not False)
        self.updateGeometry()
        self.contentsCollapsed.emit(on)

    def _setCollapsed(self, on):
        self.setChecked(not on)
        self._collapse(on)

    collapsed = Property(bool, lambda self: self._collapsedNow, _setCollapsed)
    collapsedHeight = stored(int, "collapsedHeight", 10)
    flat = stored(bool, "flat", False)

    def sizeHint(self):
        layout, height = self.layout(), self._headerHeight()
        if self._collapsedNow or layout is None:
            return QtCore.QSize(self.fontMetrics().horizontalAdvance(self.text()) + 30, height)
        return layout.totalSizeHint()

    def minimumSizeHint(self):
        return self.sizeHint() if self._collapsedNow else super().minimumSizeHint()

    def paintEvent(self, event):
        painter, height = QtGui.QPainter(self), self._headerHeight()
        painter.fillRect(0, 0, self.width(), height, self.palette().mid())
        arrow = QtWidgets.QStyleOption()
        arrow.initFrom(self)
        arrow.rect = QtCore.QRect(4, 4, height - 8, height - 8)
        right, down = (
            QtWidgets.QStyle.PrimitiveElement.PE_IndicatorArrowRight,
            QtWidgets.QStyle.PrimitiveElement.PE_IndicatorArrowDown,
        )
        self.style().drawPrimitive(right if self._collapsedNow else down, arrow, painter, self)
        painter.drawText(
            QtCore.QRect(height, 0, self.width() - height, height), QtCore.Qt.AlignmentFlag.AlignVCenter, self.text()
        )


class ctkCollapsibleGroupBox(QtWidgets.QGroupBox):
    """A group box whose contents its title shows and hides."""

    def __init__(self, title="", parent=None):
        if isinstance(title, QtWidgets.QWidget) or title is None:
            title, parent = "", title
        super().__init__(title, parent)
        self.setCheckable(True)
        self.toggled.connect(self._show)

    def _show(self, on):
        for child in self.findChildren(QtWidgets.QWidget, options=QtCore.Qt.FindChildOption.FindDirectChildrenOnly):
            child.setVisible(on)

    collapsed = Property(bool, lambda self: not self.isChecked(), lambda self, on: self.setChecked(not on))
    collapsedHeight = stored(int, "collapsedHeight", 14)


class ctkDoubleSpinBox(QtWidgets.QWidget):
    """A spin box of floats in a widget of its own."""

    valueChanged = Signal(float)
    editingFinished = Signal()

    def __init__(self, parent=None):
        super().__init__(parent)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._spin = QtWidgets.QDoubleSpinBox()
        layout.addWidget(self._spin)
        self._spin.valueChanged.connect(self.valueChanged)
        self._spin.editingFinished.connect(self.editingFinished)

    value = delegated(float, "_spin", "value")
    minimum = delegated(float, "_spin", "minimum")
    maximum = delegated(float, "_spin", "maximum")
    singleStep = delegated(float, "_spin", "singleStep")
    decimals = delegated(int, "_spin", "decimals")
    prefix = delegated(str, "_spin", "prefix")
    suffix = delegated(str, "_spin", "suffix")
    readOnly = delegated(bool, "_spin", "readOnly", "isReadOnly")

    @Slot(float)
    def setValue(self, value):
        self._spin.setValue(value)

    @Slot(float, float)
    def setRange(self, minimum, maximum):
        self._spin.setRange(minimum, maximum)


class ctkSliderWidget(QtWidgets.QWidget):
    """A slider of floats with a spin box."""

    valueChanged = Signal(float)
    valueIsChanging = Signal(float)
    positionChanged = Signal(float)
    rangeChanged = Signal(float, float)

    def __init__(self, parent=None):
        super().__init__(parent)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._slider, self._spin = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal), QtWidgets.QDoubleSpinBox()
        self._spin.setDecimals(2)
        self._spin.setRange(0, 99)
        layout.addWidget(self._slider, 1)
        layout.addWidget(self._spin)
        self._slider.setRange(0, 1000)
        self._slider.sliderMoved.connect(lambda at: self._spin.setValue(self._low() + at / 1000 * self._length()))
        self._spin.valueChanged.connect(self._changed)

    def _low(self):
        return self._spin.minimum()

    def _length(self):
        return self._spin.maximum() - self._spin.minimum()

    def _changed(self, value):
        self._slider.setValue(round(1000 * (value - self._low()) / self._length()) if self._length() else 0)
        self.valueChanged.emit(value)

    def _setLimits(self, low, high):
        self._spin.setRange(low, high)
        self._changedLimits()

    def _changedLimits(self):
        self.rangeChanged.emit(self._spin.minimum(), self._spin.maximum())

    value = delegated(float, "_spin", "value")
    minimum = Property(
        float, lambda self: self._spin.minimum(), lambda self, v: self._setLimits(v, max(v, self._spin.maximum()))
    )
    maximum = Property(
        float, lambda self: self._spin.maximum(), lambda self, v: self._setLimits(min(v, self._spin.minimum()), v)
    )
    singleStep = delegated(float, "_spin", "singleStep")
    pageStep = stored(float, "pageStep", 10.0)
    decimals = delegated(int, "_spin", "decimals")
    prefix = delegated(str, "_spin", "prefix")
    suffix = delegated(str, "_spin", "suffix")
    tracking = stored(bool, "tracking", True)
    spinBoxVisible = Property(bool, lambda self: not self._spin.isHidden(), lambda self, on: self._spin.setVisible(on))

    @Slot(float)
    def setValue(self, value):
        self._spin.setValue(value)

    @Slot(float, float)
    def setRange(self, minimum, maximum):
        self._setLimits(minimum, maximum)


class ctkRangeWidget(QtWidgets.QWidget):
    """Two floats, the one not above the other."""

    valuesChanged = Signal(float, float)
    minimumValueChanged = Signal(float)
    maximumValueChanged = Signal(float)
    rangeChanged = Signal(float, float)

    def __init__(self, parent=None):
        super().__init__(parent)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._lower, self._upper = QtWidgets.QDoubleSpinBox(), QtWidgets.QDoubleSpinBox()
        for spin in (self._lower, self._upper):
            spin.setRange(0, 99)
            layout.addWidget(spin)
        self._upper.setValue(99)
        self._lower.valueChanged.connect(self._lowerMoved)
        self._upper.valueChanged.connect(self._upperMoved)

    def _lowerMoved(self, value):
        self._upper.setValue(max(value, self._upper.value()))
        self.minimumValueChanged.emit(value)
        self.valuesChanged.emit(value, self._upper.value())

    def _upperMoved(self, value):
        self._lower.setValue(min(value, self._lower.value()))
        self.maximumValueChanged.emit(value)
        self.valuesChanged.emit(self._lower.value(), value)

    def _both(self, setter, value):
        for spin in (self._lower, self._upper):
            getattr(spin, setter)(value)
        if setter in ("setMinimum", "setMaximum"):
            self.rangeChanged.emit(self._lower.minimum(), self._lower.maximum())

    minimumValue = delegated(float, "_lower", "value")
    maximumValue = delegated(float, "_upper", "value")
    minimum = Property(float, lambda self: self._lower.minimum(), lambda self, v: self._both("setMinimum", v))
    maximum = Property(float, lambda self: self._lower.maximum(), lambda self, v: self._both("setMaximum", v))
    singleStep = Property(float, lambda self: self._lower.singleStep(), lambda self, v: self._both("setSingleStep", v))
    decimals = Property(int, lambda self: self._lower.decimals(), lambda self, v: self._both("setDecimals", v))
    suffix = Property(str, lambda self: self._lower.suffix(), lambda self, v: self._both("setSuffix", v))

    @Slot(float, float)
    def setValues(self, lower, upper):
        self._upper.setValue(upper)
        self._lower.setValue(lower)

    @Slot(float, float)
    def setRange(self, minimum, maximum):
        self._both("setMinimum", minimum)
        self._both("setMaximum", maximum)


class ctkPathLineEdit(QtWidgets.QWidget):
    """A path with its history and a button that asks for one."""

    class Filter(enum.IntFlag):
        Dirs = 0x001
        Files = 0x002
        Drives = 0x004
        NoSymLinks = 0x008
        Readable = 0x010
        Writable = 0x020
        Executable = 0x040
        Hidden = 0x100
        System = 0x200

    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)

    def __init__(self, parent=None):
        super().__init__(parent)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._combo = QtWidgets.QComboBox(editable=True)
        self._button = QtWidgets.QToolButton(text="...")
        layout.addWidget(self._combo, 1)
        layout.addWidget(self._button)
        self._combo.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Fixed)
        self._valid = False
        self._combo.editTextChanged.connect(self._onText)
        self._button.clicked.connect(self.browse)

    def _onText(self, text):
        """An empty path is no valid one: `currentPathChanged` does not tell of it."""
        valid = bool(text)
        if valid != self._valid:
            self._valid = valid
            self.validInputChanged.emit(valid)
        if valid:
            self.currentPathChanged.emit(text)

    currentPath = Property(str, lambda self: self._combo.currentText(), lambda self, path: self.setCurrentPath(path))
    filters = stored(int, "filters", 0x001 | 0x002)
    nameFilters = stored("QStringList", "nameFilters", [])
    settingKey = stored(str, "settingKey", "")
    label = stored(str, "label", "")
    showBrowseButton = Property(
        bool, lambda self: not self._button.isHidden(), lambda self, on: self._button.setVisible(on)
    )
    showHistoryButton = stored(bool, "showHistoryButton", True)

    @Slot(str)
    def setCurrentPath(self, path):
        self._combo.setEditText(path)

    @Slot()
    def browse(self):
        path = answered(Shown("ctkPathLineEdit", self.label, self.currentPath), None, "")
        if path:
            self.setCurrentPath(os.fspath(path))

    @Slot()
    def addCurrentPathToHistory(self):
        if self.currentPath and self._combo.findText(self.currentPath) < 0:
            self._combo.addItem(self.currentPath)


class ctkDirectoryButton(QtWidgets.QWidget):
    """A button that asks for a folder and shows it."""

    directoryChanged = Signal(str)
    directorySelected = Signal(str)

    def __init__(self, parent=None):
        super().__init__(parent)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._button = QtWidgets.QPushButton(os.path.abspath("."))
        layout.addWidget(self._button)
        self._button.clicked.connect(self.browse)

    def _setDirectory(self, path):
        path = os.path.abspath(path)
        if path != self._button.text():
            self._button.setText(path)
            self.directoryChanged.emit(path)

    directory = Property(str, lambda self: self._button.text(), _setDirectory)
    caption = stored(str, "caption", "")
    acceptMode = stored(int, "acceptMode", 0)

    @Slot()
    def browse(self):
        path = answered(Shown("ctkDirectoryButton", self.caption, self.directory), None, "")
        if path:
            self._setDirectory(os.fspath(path))
            self.directorySelected.emit(self.directory)


class ctkComboBox(QtWidgets.QComboBox):
    """A combo box with a text for no choice."""

    defaultText = stored(str, "defaultText", "", lambda self: self.setPlaceholderText(self.defaultText))
    forceDefault = stored(bool, "forceDefault", False)


class ctkCheckableComboBox(QtWidgets.QComboBox):
    """A combo box whose items are checked."""

    checkedIndexesChanged = Signal()

    def __init__(self, parent=None):
        super().__init__(parent)
        self.model().dataChanged.connect(lambda *_: self.checkedIndexesChanged.emit())

    def _checkState(self, index):
        return QtCore.Qt.CheckState(self.itemData(index.row(), QtCore.Qt.ItemDataRole.CheckStateRole) or 0)

    @Slot()
    def checkedIndexes(self):
        indexes = [self.model().index(i, 0) for i in range(self.count())]
        return [i for i in indexes if self._checkState(i) == QtCore.Qt.CheckState.Checked]

    @Slot()
    def checkState(self, index):
        return self._checkState(index)

    @Slot()
    def setCheckState(self, index, state):
        state = QtCore.Qt.CheckState(state)
        self.setItemData(index.row(), state.value, QtCore.Qt.ItemDataRole.CheckStateRole)


class ctkMessageBox(QtWidgets.QMessageBox):
    """A message box that can be silenced."""

    dontShowAgain = stored(bool, "dontShowAgain", False)
    dontShowAgainSettingsKey = stored(str, "dontShowAgainSettingsKey", "")


class ctkPushButton(QtWidgets.QPushButton):
    """A push button that can elide its text."""

    elideMode = stored(int, "elideMode", 3)


class ctkMenuButton(QtWidgets.QPushButton):
    """A push button with a menu beside it."""


class ctkColorPickerButton(QtWidgets.QPushButton):
    """A button that shows a colour."""

    colorChanged = Signal(QtGui.QColor)
    color = stored(QtGui.QColor, "color", QtGui.QColor(), lambda self: self.colorChanged.emit(self.color))
    displayColorName = stored(bool, "displayColorName", True)


class ctkFittedTextBrowser(QtWidgets.QTextBrowser):
    """A text browser as high as its text."""

    collapsed = stored(bool, "collapsed", False)


class ctkSearchBox(QtWidgets.QLineEdit):
    """A line edit with a magnifying glass."""


class CtkModule(types.ModuleType):
    """The module `ctk`."""


ctk = CtkModule("ctk", __doc__)
for _class in [c for n, c in dict(globals()).items() if n.startswith("ctk") and isinstance(c, type)]:
    widgetClasses[_class.__name__] = _class
    setattr(ctk, _class.__name__, face(_class))
