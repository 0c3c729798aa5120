"""slicer.parameterNodeWrapper: typed parameters of a module kept in a MRML node and shown by widgets.

Which type goes with which widget class is as strict as in Slicer: the widget's class itself, not one derived from it.
"""

from __future__ import annotations

import dataclasses
import enum
import pathlib
import sys
import types
import typing
from collections.abc import MutableSequence

import slicer
import vtk

PROPERTY = "SlicerParameterName"
_PATHS = (pathlib.Path, pathlib.PurePath, type(pathlib.Path()), type(pathlib.PurePath()))


# --- annotations ---------------------------------------------------------------------------------------------------


class Validator:
    """An annotation that refuses values."""

    def validate(self, value):
        raise NotImplementedError


@dataclasses.dataclass
class WithinRange(Validator):
    minimum: float
    maximum: float

    def validate(self, value):
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"Value must be within range [{self.minimum}, {self.maximum}], is {value}")


@dataclasses.dataclass
class Minimum(Validator):
    minimum: float

    def validate(self, value):
        if value < self.minimum:
            raise ValueError(f"Value must be at least {self.minimum}, is {value}")


@dataclasses.dataclass
class Maximum(Validator):
    maximum: float

    def validate(self, value):
        if value > self.maximum:
            raise ValueError(f"Value must be at most {self.maximum}, is {value}")


@dataclasses.dataclass
class Choice(Validator):
    choices: list

    def validate(self, value):
        if value not in self.choices:
            raise ValueError(f"Value is {value}, but must be one of {self.choices}")


@dataclasses.dataclass
class Exclude(Validator):
    excludedValues: list

    def validate(self, value):
        if value in self.excludedValues:
            raise ValueError(f"Value must not be {value}")


class NotNone(Validator):
    def validate(self, value):
        if value is None:
            raise ValueError("Value must not be None")


@dataclasses.dataclass
class Default:
    value: object


@dataclasses.dataclass
class Decimals:
    value: int


@dataclasses.dataclass
class SingleStep:
    value: float


def _split(annotated):
    """Type and annotations of `Annotated[...]`."""
    if typing.get_origin(annotated) is typing.Annotated:
        kind, *annotations = typing.get_args(annotated)
        return kind, [a() if isinstance(a, type) and issubclass(a, Validator) else a for a in annotations]
    return annotated, []


def _first(annotations, kind):
    return next((a for a in annotations if isinstance(a, kind)), None)


def _alternatives(kind):
    """The members of a union; a type that is none stands alone."""
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


def _nodeTypes(kind):
    members = [k for k in _alternatives(kind) if k is not type(None)]
    return members if all(isinstance(k, type) and issubclass(k, slicer.vtkMRMLNode) for k in members) else []


# --- values in a node ------------------------------------------------------------------------------------------------


class ScalarStore:
    """int, float, str, bool, path and enum: one text parameter."""

    def __init__(self, kind):
        self.kind = kind

    @staticmethod
    def takes(kind):
        return kind in (int, float, str, bool, *_PATHS) or (isinstance(kind, type) and issubclass(kind, enum.Enum))

    def default(self):
        return next(iter(self.kind)) if issubclass(self.kind, enum.Enum) else self.kind()

    def check(self, value):
        allowed = (int, float) if self.kind is float else self.kind
        if value is None:
            raise ValueError("Value must not be None")
        if not isinstance(value, allowed):
            raise TypeError(f"Value must be of type {self.kind}, is {type(value)}: {value!r}")

    def isIn(self, node, name):
        return node.HasParameter(name)

    def write(self, node, name, value):
        node.SetParameter(name, value.name if isinstance(value, enum.Enum) else str(value))

    def read(self, node, name):
        text = node.GetParameter(name)
        if self.kind is bool:
            return text == "True"
        return self.kind[text] if issubclass(self.kind, enum.Enum) else self.kind(text)


class NodeStore:
    """A MRML node: a node reference."""

    def __init__(self, kind):
        self.kinds = tuple(_nodeTypes(kind))

    @staticmethod
    def takes(kind):
        return bool(_nodeTypes(kind))

    def default(self):
        return None

    def check(self, value):
        if value is not None and not isinstance(value, self.kinds):
            raise TypeError(f"Value must be one of {self.kinds}, is {type(value)}")

    def isIn(self, node, name):
        return node.HasParameter(name)

    def write(self, node, name, value):
        node.SetParameter(name, "")
        node.SetNodeReferenceID(name, value.GetID() if value is not None else None)

    def read(self, node, name):
        return node.GetNodeReference(name)


class OptionalStore:
    """`X | None` of a type that is no node."""

    def __init__(self, kind):
        (self.kind,) = [k for k in _alternatives(kind) if k is not type(None)]
        self.store = storeFor(self.kind)

    @staticmethod
    def takes(kind):
        alternatives = _alternatives(kind)
        return len(alternatives) == 2 and type(None) in alternatives

    def default(self):
        return None

    def check(self, value):
        if value is not None:
            self.store.check(value)

    def isIn(self, node, name):
        return node.HasParameter(name + ".none")

    def write(self, node, name, value):
        node.SetParameter(name + ".none", str(value is None))
        if value is not None:
            self.store.write(node, name, value)

    def read(self, node, name):
        return None if node.GetParameter(name + ".none") == "True" else self.store.read(node, name)


class ListStore:
    """list[X]: its length, and each element under a name of its own."""

    def __init__(self, kind):
        self.element = storeFor(*typing.get_args(kind))

    @staticmethod
    def takes(kind):
        return typing.get_origin(kind) is list and len(typing.get_args(kind)) == 1

    def default(self):
        return []

    def check(self, value):
        if not isinstance(value, (list, ObservedList)):
            raise TypeError(f"Value must be a list, is {type(value)}")
        for element in value:
            self.element.check(element)

    def isIn(self, node, name):
        return node.HasParameter(name + "_len")

    def write(self, node, name, value):
        node.SetParameter(name + "_len", str(len(value)))
        for i, element in enumerate(list(value)):
            self.element.write(node, f"{name}_{i}", element)

    def read(self, node, name):
        length = int(node.GetParameter(name + "_len"))
        return ObservedList(self, node, name, [self.element.read(node, f"{name}_{i}") for i in range(length)])


class ObservedList(MutableSequence):
    """A list that writes itself into the node when it changes."""

    def __init__(self, store, node, name, values):
        self._store, self._node, self._name, self._values = store, node, name, values

    def _save(self):
        self._store.check(self._values)
        with slicer.util.NodeModify(self._node):
            self._store.write(self._node, self._name, self._values)

    def __len__(self):
        return len(self._values)

    def __getitem__(self, index):
        return self._values[index]

    def __setitem__(self, index, value):
        self._values[index] = value
        self._save()

    def __delitem__(self, index):
        del self._values[index]
        self._save()

    def insert(self, index, value):
        self._values.insert(index, value)
        self._save()

    def __eq__(self, other):
        return self._values == (other._values if isinstance(other, ObservedList) else other)

    def __repr__(self):
        return f"ObservedList({self._values})"


class TupleStore:
    """tuple[X, Y]: each element under a name of its own."""

    def __init__(self, kind):
        self.elements = [storeFor(k) for k in typing.get_args(kind)]

    @staticmethod
    def takes(kind):
        return typing.get_origin(kind) is tuple and Ellipsis not in typing.get_args(kind)

    def default(self):
        return tuple(e.default() for e in self.elements)

    def check(self, value):
        if not isinstance(value, tuple) or len(value) != len(self.elements):
            raise TypeError(f"Value must be a tuple of {len(self.elements)}")
        for store, element in zip(self.elements, value, strict=True):
            store.check(element)

    def isIn(self, node, name):
        return all(e.isIn(node, f"{name}_{i}") for i, e in enumerate(self.elements))

    def write(self, node, name, value):
        for i, (store, element) in enumerate(zip(self.elements, value, strict=True)):
            store.write(node, f"{name}_{i}", element)

    def read(self, node, name):
        return tuple(e.read(node, f"{name}_{i}") for i, e in enumerate(self.elements))


def storeFor(annotated):
    kind, _ = _split(annotated)
    for store in (ScalarStore, NodeStore, OptionalStore, ListStore, TupleStore):
        if store.takes(kind):
            return store(kind)
    raise Exception(f"Unable to create serializer for type: {kind}")


# --- widgets -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Connector:
    """Reads, writes and listens to one widget."""

    widget: object
    signal: str
    read: object
    write: object
    changed: object = None

    def listen(self, changed):
        self.changed = lambda: changed()
        self.widget.connect(self.signal, self.changed)

    def release(self):
        self.widget.disconnect(self.signal, self.changed)


def _attribute(widget, signal, name, convert=lambda value: value):
    return Connector(widget, signal, lambda: getattr(widget, name), lambda value: setattr(widget, name, convert(value)))


def connectorFor(widget, annotated):
    """The connector of a widget class and a type; RuntimeError where Slicer has none."""
    import ctk
    import qt

    kind, annotations = _split(annotated)
    of = type(widget)
    if kind is bool and of is qt.QCheckBox:
        return _attribute(widget, "stateChanged(int)", "checked")
    if kind is bool and of is qt.QPushButton:
        widget.checkable = True
        return _attribute(widget, "toggled(bool)", "checked")
    if kind is int and of in (qt.QSpinBox, qt.QSlider):
        _limits(widget, annotations, -(2**31), 2**31 - 1, bounded=of is qt.QSlider)
        return _attribute(widget, "valueChanged(int)", "value")
    if kind is float and of in (qt.QDoubleSpinBox, ctk.ctkSliderWidget):
        _limits(widget, annotations, float("-inf"), float("inf"), bounded=of is ctk.ctkSliderWidget)
        return _attribute(widget, "valueChanged(double)", "value")
    if of is qt.QComboBox and kind in (int, float, str, bool):
        choice = _first(annotations, Choice)
        if choice is None:
            raise RuntimeError("ComboBoxToStringableConnector requires the Choice annotation to be used.")
        return _choices(widget, [str(c) for c in choice.choices], list(choice.choices))
    if of is qt.QComboBox and isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _choices(widget, [e.label() if hasattr(e, "label") else e.name for e in kind], list(kind))
    if kind is str and of is qt.QLineEdit:
        return _attribute(widget, "textChanged(QString)", "text")
    if kind is str and of is qt.QTextEdit:
        return Connector(widget, "textChanged()", widget.toPlainText, widget.setPlainText)
    if kind in _PATHS and of is ctk.ctkPathLineEdit:
        connector = _attribute(widget, "currentPathChanged(QString)", "currentPath", str)
        connector.read = lambda: kind(widget.currentPath)
        return connector
    if kind in _PATHS and of is ctk.ctkDirectoryButton:
        connector = _attribute(widget, "directoryChanged(QString)", "directory", str)
        connector.read = lambda: kind(widget.directory)
        return connector
    if _nodeTypes(kind) and of is slicer.qMRMLNodeComboBox:
        widget.nodeTypes = [k.__name__ for k in _nodeTypes(kind)]
        return Connector(widget, "currentNodeChanged(vtkMRMLNode*)", widget.currentNode, widget.setCurrentNode)
    raise RuntimeError(f"Unable to create GUI connector from datatype '{annotated}' to widget type '{of}'")


def _limits(widget, annotations, lowest, highest, bounded):
    for kind, name in ((Decimals, "decimals"), (SingleStep, "singleStep")):
        if (given := _first(annotations, kind)) is not None:
            setattr(widget, name, given.value)
    both = _first(annotations, WithinRange)
    low, high = both or _first(annotations, Minimum), both or _first(annotations, Maximum)
    if bounded and (low is None or high is None):
        raise RuntimeError("Cannot have a connection to a slider where the type is unbounded.")
    widget.minimum = low.minimum if low is not None else lowest
    widget.maximum = high.maximum if high is not None else highest


def _choices(widget, labels, values):
    widget.clear()
    widget.addItems(labels)

    def write(value):
        if value not in values:
            raise ValueError(f"Unable to find value {value} in choices {values}")
        widget.currentIndex = values.index(value)

    return Connector(widget, "currentIndexChanged(int)", lambda: values[widget.currentIndex], write)


# --- the wrapper -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Parameter:
    name: str
    annotated: object
    store: object
    validators: list
    default: object

    def write(self, node, value):
        self.store.check(value)
        for validator in self.validators:
            validator.validate(value)
        with slicer.util.NodeModify(node):
            self.store.write(node, self.name, value)


class Wrapper:
    """What `@parameterNodeWrapper` adds to a class of annotated names."""

    def __init__(self, parameterNode, prefix=None):
        if prefix is not None:
            raise NotImplementedError("the stand-in has no prefixes")
        self.parameterNode = parameterNode
        self._guis, self._updating = {}, False
        for parameter in self.allParameters.values():
            if not parameter.store.isIn(parameterNode, parameter.name):
                parameter.write(parameterNode, parameter.default)

    def getValue(self, name):
        return getattr(self, self._known(name))

    def setValue(self, name, value):
        setattr(self, self._known(name), value)

    def default(self, name):
        return Default(self.allParameters[self._known(name)].default)

    def dataType(self, name):
        return self.allParameters[self._known(name)].annotated

    def isCached(self, name):
        return self._known(name) is not None

    def _known(self, name):
        if name not in self.allParameters:
            raise ValueError(f"Cannot find a param with the given name: {name}; there are {sorted(self.allParameters)}")
        return name

    def connectGui(self, gui):
        """Connects each widget that has the property SlicerParameterName; returns a tag for `disconnectGui`."""
        import qt

        isWidget = getattr(gui, "isWidgetType", lambda: False)()
        widgets = gui.findChildren(qt.QWidget) if isWidget else gui.__dict__.values()
        return self.connectParametersToGui({w.property(PROPERTY): w for w in widgets if w.property(PROPERTY)})

    def connectParametersToGui(self, mapping):
        for name in mapping:
            self._known(name)
        connectors = {name: connectorFor(widget, self.dataType(name)) for name, widget in mapping.items()}
        tag = max(self._guis, default=-1) + 1
        for name, connector in connectors.items():
            connector.write(self.getValue(name))
            connector.listen(lambda name=name, connector=connector: self._fromWidget(name, connector))
        observer = self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._toWidgets(connectors))
        self._guis[tag] = connectors, observer
        return tag

    def disconnectGui(self, tag):
        if tag in self._guis:
            connectors, observer = self._guis.pop(tag)
            self.RemoveObserver(observer)
            for connector in connectors.values():
                connector.release()

    def _fromWidget(self, name, connector):
        if not self._updating:
            self.setValue(name, connector.read())

    def _toWidgets(self, connectors):
        if self._updating:
            return
        self._updating = True
        try:
            for name, connector in connectors.items():
                connector.write(self.getValue(name))
        finally:
            self._updating = False

    def StartModify(self):
        return self.parameterNode.StartModify()

    def EndModify(self, wasModified):
        return self.parameterNode.EndModify(wasModified)

    def AddObserver(self, event, callback, priority=0.0):
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag):
        self.parameterNode.RemoveObserver(tag)

    def Modified(self):
        self.parameterNode.Modified()


def _property(parameter):
    return property(
        lambda self: parameter.store.read(self.parameterNode, parameter.name),
        lambda self, value: parameter.write(self.parameterNode, value),
    )


def parameterNodeWrapper(classtype=None):
    """Class decorator, with or without brackets."""

    def wrapClass(cls):
        parameters = {}
        for name, annotated in typing.get_type_hints(cls, include_extras=True).items():
            kind, annotations = _split(annotated)
            store = storeFor(kind)
            given = _first(annotations, Default)
            default = getattr(cls, name) if hasattr(cls, name) else given.value if given else store.default()
            validators = [a for a in annotations if isinstance(a, Validator)]
            parameters[name] = Parameter(name, annotated, store, validators, default)
        members = {name: _property(parameter) for name, parameter in parameters.items()}
        for name, value in vars(Wrapper).items():
            if name.startswith("__") and name != "__init__":
                continue
            if name != "__init__" and hasattr(cls, name):
                raise ValueError(f"Cannot use reserved name '{name}' in a parameterNodeWrapper")
            members[name] = value
        for name, value in {**members, "allParameters": parameters, "_is_parameter_node_wrapper": True}.items():
            setattr(cls, name, value)
        return cls

    return wrapClass if classtype is None else wrapClass(classtype)


def isParameterNodeWrapper(thing):
    return getattr(thing, "_is_parameter_node_wrapper", False)


def install():
    module = types.ModuleType("slicer.parameterNodeWrapper")
    names = (
        "Validator",
        "WithinRange",
        "Minimum",
        "Maximum",
        "Choice",
        "Exclude",
        "NotNone",
        "Default",
        "Decimals",
        "SingleStep",
        "parameterNodeWrapper",
        "isParameterNodeWrapper",
        "ObservedList",
    )
    for name in names:
        setattr(module, name, globals()[name])
    module.__all__ = list(names)
    module.SlicerParameterNamePropertyName = PROPERTY
    sys.modules["slicer.parameterNodeWrapper"] = module
    slicer.parameterNodeWrapper = module
