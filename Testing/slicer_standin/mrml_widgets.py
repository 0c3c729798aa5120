"""Slicer's widgets over MRML nodes, as PySide classes: properties, signals and slots named as in Slicer."""

from __future__ import annotations

import slicer
import vtk
from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import Property, Signal, Slot

from .ctk_widgets import ctkSliderWidget, stored
from .pythonqt import face
from .ui_files import widgetClasses

SCENE, NODE = ["vtkMRMLScene*"], ["vtkMRMLNode*"]


class Observations:
    """VTK observers of a widget, dropped when what they watch is replaced or the widget is gone."""

    def __init__(self, widget):
        self._tags = []
        widget.destroyed.connect(self.clear)

    def add(self, watched, event, function):
        self._tags.append((watched, watched.AddObserver(event, function)))

    def clear(self, *_):
        for watched, tag in self._tags:
            watched.RemoveObserver(tag)
        self._tags.clear()


def _calledWithNode(function):
    """An observer that is given the node of the event."""

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def observe(caller, event, node):
        function(node)

    return observe


class qSlicerWidget(QtWidgets.QWidget):
    """A widget that knows the scene."""

    mrmlSceneChanged = Signal(object, arguments=SCENE)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene = None

    def mrmlScene(self):
        return self._scene

    @Slot(object)
    def setMRMLScene(self, scene):
        if scene is not self._scene:
            self._scene = scene
            self.mrmlSceneChanged.emit(scene)


class qMRMLWidget(qSlicerWidget):
    """The root of most panels."""


class qMRMLNodeComboBox(QtWidgets.QWidget):
    """Chooses a node of the scene."""

    currentNodeChanged = Signal(object, arguments=NODE)
    currentNodeIDChanged = Signal(str)
    nodeActivated = Signal(object, arguments=NODE)
    currentNodeValid = Signal(bool, name="currentNodeChanged")
    nodeAdded = Signal(object, arguments=NODE)
    nodeAddedByUser = Signal(object, arguments=NODE)
    nodeAddedByUserAction = Signal(object, arguments=NODE)
    nodeAboutToBeRemoved = Signal(object, arguments=NODE)
    nodeAboutToBeEdited = Signal(object, arguments=NODE)
    currentNodeRenamed = Signal(str)

    def __init__(self, parent=None):
        super().__init__(parent)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._combo = QtWidgets.QComboBox()
        self._combo.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Fixed)
        layout.addWidget(self._combo)
        self._combo.activated.connect(self._activated)
        self._scene, self._node, self._attributes, self._labels = None, None, [], {}
        self._requested = ""  # chosen before there was a scene
        self._observed = Observations(self)
        self.setEnabled(False)

    def _refilter(self):
        """The property or the scene changed: fill anew."""
        self._fill(self._node)

    nodeTypes = stored("QStringList", "nodeTypes", [], _refilter)
    hideChildNodeTypes = stored("QStringList", "hideChildNodeTypes", [], _refilter)
    showHidden = stored(bool, "showHidden", False, _refilter)
    showChildNodeTypes = stored(bool, "showChildNodeTypes", True, _refilter)
    noneEnabled = stored(bool, "noneEnabled", False, _refilter)
    noneDisplay = stored(str, "noneDisplay", "None", _refilter)
    addEnabled = stored(bool, "addEnabled", True)
    removeEnabled = stored(bool, "removeEnabled", True)
    editEnabled = stored(bool, "editEnabled", False)
    renameEnabled = stored(bool, "renameEnabled", False)
    selectNodeUponCreation = stored(bool, "selectNodeUponCreation", True)
    baseName = stored(str, "baseName", "")
    interactionNodeSingletonTag = stored(str, "interactionNodeSingletonTag", "Singleton")
    currentNodeID = Property(
        str, lambda self: self._node.GetID() if self._node else "", lambda self, i: self.setCurrentNodeID(i)
    )

    def mrmlScene(self):
        return self._scene

    def currentNode(self):
        return self._node

    def nodeCount(self):
        return len(self._nodes())

    def nodeFromIndex(self, index):
        nodes = self._nodes()
        return nodes[index] if 0 <= index < len(nodes) else None

    def addAttribute(self, nodeType, attributeName, attributeValue=None):
        self._attributes.append((nodeType, attributeName, attributeValue))
        self._refilter()

    def removeAttribute(self, nodeType, attributeName):
        self._attributes = [a for a in self._attributes if a[:2] != (nodeType, attributeName)]
        self._refilter()

    def setNodeTypeLabel(self, label, nodeType):
        self._labels[nodeType] = label

    def nodeTypeLabel(self, nodeType):
        return self._labels.get(nodeType, "")

    @Slot(object)
    def setMRMLScene(self, scene):
        self._observed.clear()
        self._scene = scene
        self.setEnabled(scene is not None)
        if scene is not None:
            self._observed.add(scene, scene.NodeAddedEvent, _calledWithNode(self._added))
            self._observed.add(scene, scene.NodeRemovedEvent, _calledWithNode(self._removed))
            self._observed.add(scene, scene.EndCloseEvent, lambda *_: self._refilter())
            self._observed.add(scene, scene.EndBatchProcessEvent, lambda *_: self._refilter())
        self._refilter()
        if scene is not None and self._requested:
            requested, self._requested = self._requested, ""
            self.setCurrentNodeID(requested)

    @Slot(object)
    def setCurrentNode(self, node):
        if isinstance(node, str):
            return self.setCurrentNodeID(node)
        if node is not None and not isinstance(node, slicer.vtkMRMLNode):
            raise TypeError(f"setCurrentNode takes a node, not {node!r}")
        if self._scene is None:
            self._requested = (node.GetID() or "") if node is not None else ""
            return
        self._choose(node if node is not None and self._accepts(node) else None)

    @Slot(str)
    def setCurrentNodeID(self, nodeID):
        if self._scene is None:
            self._requested = nodeID
        else:
            self.setCurrentNode(self._scene.GetNodeByID(nodeID) if nodeID else None)

    @Slot(int)
    def setCurrentNodeIndex(self, index):
        self.setCurrentNode(self.nodeFromIndex(index))

    @Slot()
    def addNode(self, nodeType=None):
        nodeType = nodeType or self.nodeTypes[0]
        if self._scene is None or nodeType not in self.nodeTypes:
            return None
        node = self._scene.CreateNodeByClass(nodeType)
        node.UnRegister(None)
        node.SetName(self._scene.GenerateUniqueName(self.baseName or node.GetNodeTagName()))
        for kind, attribute, value in self._attributes:
            if node.IsA(kind) and value is not None:
                node.SetAttribute(attribute, str(value))
        node = self._scene.AddNode(node)
        if self.selectNodeUponCreation:
            self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node

    @Slot()
    def removeCurrentNode(self):
        if self._node is not None:
            self._scene.RemoveNode(self._node)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _accepts(self, node):
        if node.GetScene() is not self._scene or (node.GetHideFromEditors() and not self.showHidden):
            return False
        isKind = node.IsA if self.showChildNodeTypes else node.GetClassName().__eq__
        if not any(isKind(kind) for kind in self.nodeTypes) or any(node.IsA(kind) for kind in self.hideChildNodeTypes):
            return False
        for kind, attribute, value in self._attributes:
            has = node.GetAttribute(attribute)
            if node.IsA(kind) and (has is None or (value is not None and has != str(value))):
                return False
        return True

    def _nodes(self):
        return [node for node in self._scene.GetNodes() if self._accepts(node)] if self._scene is not None else []

    def _fill(self, wanted):
        nodes = self._nodes()
        self._combo.blockSignals(True)
        self._combo.clear()
        if self.noneEnabled:
            self._combo.addItem(self.noneDisplay, "")
        for node in nodes:
            self._combo.addItem(node.GetName() or "", node.GetID())
        self._combo.blockSignals(False)
        if wanted not in nodes:
            # a combo box with nothing but nodes is never without one; entries such as "Create new ..." leave it at none
            onlyNodes = not (
                self.noneEnabled or self.addEnabled or self.removeEnabled or self.editEnabled or self.renameEnabled
            )
            wanted = nodes[0] if onlyNodes and nodes else None
        self._choose(wanted)

    def _choose(self, node):
        index = self._combo.findData(node.GetID() if node is not None else "")
        self._combo.setCurrentIndex(index)
        if node is self._node:
            return
        self._node = node
        self.currentNodeChanged.emit(node)
        self.currentNodeValid.emit(node is not None)
        self.currentNodeIDChanged.emit(node.GetID() if node is not None else "")

    def _activated(self, index):
        self.setCurrentNodeID(self._combo.itemData(index))
        self.nodeActivated.emit(self._node)

    def _added(self, node):
        self._observed.add(node, vtk.vtkCommand.ModifiedEvent, lambda *_: self._modified(node))
        if self._accepts(node):
            self._fill(self._node)
            self.nodeAdded.emit(node)

    def _modified(self, node):
        index = self._combo.findData(node.GetID() or "-")
        if index >= 0 and self._combo.itemText(index) != node.GetName():
            self._combo.setItemText(index, node.GetName())
        elif (index >= 0) != self._accepts(node):
            self._refilter()  # hidden, shown or an attribute set

    def _removed(self, node):
        index = self._combo.findData(node.GetID() or "-")
        if index < 0:
            return
        self.nodeAboutToBeRemoved.emit(node)
        if node is not self._node:
            return self._fill(self._node)
        # the entry that takes its place becomes the current one, also where none is allowed
        nodes = self._nodes()
        self._fill(nodes[min(index - self.noneEnabled, len(nodes) - 1)] if nodes else None)


class qMRMLCheckableNodeComboBox(qMRMLNodeComboBox):
    """Chooses several nodes."""

    checkedNodesChanged = Signal()

    def __init__(self, parent=None):
        super().__init__(parent)
        self._checked = []

    def checkedNodes(self):
        return tuple(node for node in self._nodes() if node.GetID() in self._checked)

    def setCheckState(self, node, state):
        self._checked = [i for i in self._checked if i != node.GetID()] + (
            [node.GetID()] if int(state.value) == 2 else []
        )
        self.checkedNodesChanged.emit()


class qMRMLSegmentSelectorWidget(qMRMLWidget):
    """Chooses a segmentation and one of its segments."""

    currentNodeChanged = Signal(object, arguments=NODE)
    currentSegmentChanged = Signal(str)

    def __init__(self, parent=None):
        super().__init__(parent)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._nodes, self._segments = qMRMLNodeComboBox(), QtWidgets.QComboBox()
        self._nodes.nodeTypes, self._nodes.addEnabled, self._nodes.removeEnabled = (
            ["vtkMRMLSegmentationNode"],
            False,
            False,
        )
        self._segments.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Fixed)
        layout.addWidget(self._nodes)
        layout.addWidget(self._segments)
        self._observed, self._segmentID = Observations(self), ""
        self._nodes.currentNodeChanged.connect(self._nodeChanged)
        self._segments.currentIndexChanged.connect(lambda index: self._choose(self._segments.itemData(index) or ""))

    noneEnabled = Property(
        bool, lambda self: self._nodes.noneEnabled, lambda self, on: setattr(self._nodes, "noneEnabled", on)
    )
    segmentationNodeSelectorVisible = Property(
        bool, lambda self: not self._nodes.isHidden(), lambda self, on: self._nodes.setVisible(on)
    )

    @Slot(object)
    def setMRMLScene(self, scene):
        super().setMRMLScene(scene)
        self._nodes.setMRMLScene(scene)

    def currentNode(self):
        return self._nodes.currentNode()

    def currentNodeID(self):
        return self._nodes.currentNodeID

    def currentSegmentID(self):
        return self._segmentID

    @Slot(object)
    def setCurrentNode(self, node):
        self._nodes.setCurrentNode(node)

    @Slot(str)
    def setCurrentNodeID(self, nodeID):
        self._nodes.setCurrentNodeID(nodeID)

    @Slot(str)
    def setCurrentSegmentID(self, segmentID):
        self._segments.setCurrentIndex(self._segments.findData(segmentID))

    def _nodeChanged(self, node):
        self._observed.clear()
        if node is not None:
            segmentation = node.GetSegmentation()
            for event in (segmentation.SegmentAdded, segmentation.SegmentRemoved, segmentation.SegmentModified):
                self._observed.add(segmentation, event, lambda *_: self._fill())
        self._fill()
        self.currentNodeChanged.emit(node)

    def _fill(self):
        node, before = self.currentNode(), self._segmentID
        self._segments.blockSignals(True)
        self._segments.clear()
        for segmentID in node.GetSegmentation().GetSegmentIDs() if node is not None else ():
            self._segments.addItem(node.GetSegmentation().GetSegment(segmentID).GetName(), segmentID)
        self._segments.setCurrentIndex(max(self._segments.findData(before), 0 if self._segments.count() else -1))
        self._segments.blockSignals(False)
        self._choose(self._segments.currentData() or "")

    def _choose(self, segmentID):
        if segmentID != self._segmentID:
            self._segmentID = segmentID
            self.currentSegmentChanged.emit(segmentID)


class qMRMLSegmentsTableView(qMRMLWidget):
    """Lists the segments of a segmentation."""

    selectionChanged = Signal(QtCore.QItemSelection, QtCore.QItemSelection)
    segmentAboutToBeModified = Signal(str)

    def __init__(self, parent=None):
        super().__init__(parent)
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._table, self._node, self._observed = QtWidgets.QTableWidget(0, 3), None, Observations(self)
        self._table.setHorizontalHeaderLabels(["Visible", "Colour", "Name"])
        self._table.horizontalHeader().setStretchLastSection(True)
        self._table.setSelectionBehavior(QtWidgets.QTableWidget.SelectionBehavior.SelectRows)
        layout.addWidget(self._table)
        self._table.selectionModel().selectionChanged.connect(self.selectionChanged)

    selectionMode = Property(
        int,
        lambda self: self._table.selectionMode().value,
        lambda self, mode: self._table.setSelectionMode(QtWidgets.QTableWidget.SelectionMode(mode)),
    )
    headerVisible = stored(
        bool, "headerVisible", True, lambda self: self._table.horizontalHeader().setVisible(self.headerVisible)
    )
    visibilityColumnVisible = stored(
        bool,
        "visibilityColumnVisible",
        True,
        lambda self: self._table.setColumnHidden(0, not self.visibilityColumnVisible),
    )
    colorColumnVisible = stored(
        bool, "colorColumnVisible", True, lambda self: self._table.setColumnHidden(1, not self.colorColumnVisible)
    )
    opacityColumnVisible = stored(bool, "opacityColumnVisible", True)
    statusColumnVisible = stored(bool, "statusColumnVisible", False)
    layerColumnVisible = stored(bool, "layerColumnVisible", False)
    readOnly = stored(bool, "readOnly", False)
    filterBarVisible = stored(bool, "filterBarVisible", False)
    textFilter = stored(str, "textFilter", "")
    jumpToSelectedSegmentEnabled = stored(bool, "jumpToSelectedSegmentEnabled", False)
    segmentCount = Property(int, lambda self: self._table.rowCount())

    def segmentationNode(self):
        return self._node

    def tableWidget(self):
        return self._table

    def displayedSegmentIDs(self):
        return tuple(self.segmentIDForRow(row) for row in range(self._table.rowCount()))

    def segmentIDForRow(self, row):
        return self._table.item(row, 2).data(QtCore.Qt.ItemDataRole.UserRole)

    def rowForSegmentID(self, segmentID):
        ids = self.displayedSegmentIDs()
        return ids.index(segmentID) if segmentID in ids else -1

    def selectedSegmentIDs(self):
        return tuple(self.segmentIDForRow(index.row()) for index in self._table.selectionModel().selectedRows())

    def setSelectedSegmentIDs(self, segmentIDs):
        self._table.clearSelection()
        for segmentID in segmentIDs:
            self._table.selectRow(self.rowForSegmentID(segmentID))

    def clearSelection(self):
        self._table.clearSelection()

    @Slot(object)
    def setSegmentationNode(self, node):
        self._observed.clear()
        self._node = node
        if node is not None:
            segmentation = node.GetSegmentation()
            for event in (segmentation.SegmentAdded, segmentation.SegmentRemoved, segmentation.SegmentModified):
                self._observed.add(segmentation, event, lambda *_: self._fill())
        self._fill()

    def _fill(self):
        ids = self._node.GetSegmentation().GetSegmentIDs() if self._node is not None else ()
        self._table.setRowCount(len(ids))
        for row, segmentID in enumerate(ids):
            segment = self._node.GetSegmentation().GetSegment(segmentID)
            name, colour = QtWidgets.QTableWidgetItem(segment.GetName()), QtWidgets.QTableWidgetItem()
            name.setData(QtCore.Qt.ItemDataRole.UserRole, segmentID)
            colour.setBackground(QtGui.QColor.fromRgbF(*segment.GetColor()))
            self._table.setItem(row, 0, QtWidgets.QTableWidgetItem("•"))
            self._table.setItem(row, 1, colour)
            self._table.setItem(row, 2, name)


class qMRMLTableView(QtWidgets.QTableView):
    """Shows a table node."""

    mrmlSceneChanged = Signal(object, arguments=SCENE)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene, self._node, self._observed = None, None, Observations(self)
        self.setModel(QtGui.QStandardItemModel(self))

    transposed = stored(bool, "transposed", False, lambda self: self._fill())
    firstRowLocked = stored(bool, "firstRowLocked", False, lambda self: self._fill())
    firstColumnLocked = stored(bool, "firstColumnLocked", False, lambda self: self._fill())

    def mrmlScene(self):
        return self._scene

    def mrmlTableNode(self):
        return self._node

    @Slot(object)
    def setMRMLScene(self, scene):
        self._scene = scene
        self.mrmlSceneChanged.emit(scene)

    @Slot(object)
    def setMRMLTableNode(self, node):
        self._observed.clear()
        self._node = node
        if node is not None:
            self._observed.add(node, vtk.vtkCommand.ModifiedEvent, lambda *_: self._fill())
        self._fill()

    def _fill(self):
        table, model = self._node.GetTable() if self._node is not None else None, self.model()
        model.clear()
        if table is None:
            return
        columns = range(table.GetNumberOfColumns())
        rows = [[table.GetValue(r, c).ToString() for c in columns] for r in range(table.GetNumberOfRows())]
        names = [table.GetColumnName(c) or "" for c in columns]
        if self.firstRowLocked and rows:
            names, rows = rows[0], rows[1:]
        for row in rows:
            model.appendRow([QtGui.QStandardItem(text) for text in row])
        model.setHorizontalHeaderLabels(names)


class qMRMLSliderWidget(ctkSliderWidget):
    """A slider with a quantity of the scene's units; parameterNodeWrapper has no connector for it."""

    quantity = stored(str, "quantity", "")
    unitAwareProperties = stored(int, "unitAwareProperties", 0)

    @Slot(object)
    def setMRMLScene(self, scene):
        self._scene = scene


class qMRMLSubjectHierarchyTreeView(QtWidgets.QTreeWidget):
    """The tree of the Data module (empty here): the current item only."""

    currentItemChanged = Signal("qlonglong")
    currentItemsChanged = Signal()

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene, self._item = None, 0

    nodeTypes = stored("QStringList", "nodeTypes", [])
    multiSelection = stored(bool, "multiSelection", False)

    def mrmlScene(self):
        return self._scene

    @Slot(object)
    def setMRMLScene(self, scene):
        self._scene = scene

    def subjectHierarchyNode(self):
        return self._scene.GetSubjectHierarchyNode() if self._scene is not None else None

    def currentItem(self):
        return self._item

    @Slot("qlonglong")
    def setCurrentItem(self, item):
        self._item = item
        self.currentItemChanged.emit(item)
        self.currentItemsChanged.emit()

    def setCurrentNode(self, node):
        self.setCurrentItem(self.subjectHierarchyNode().GetItemByDataNode(node))

    @Slot()
    def clearSelection(self):
        self._item = 0


def install():
    """Puts the widgets into `slicer`, and where .ui files find them."""
    for name, cls in dict(globals()).items():
        if name.startswith(("qMRML", "qSlicer")) and isinstance(cls, type):
            widgetClasses[name] = cls
            setattr(slicer, name, face(cls))
