"""The PythonQt face of Qt classes: proxies made from PySide classes and their meta objects.

Slicer reaches Qt through PythonQt, which differs from PySide: properties are attributes, `connect` takes signatures,
enums are numbers, unknown attributes raise, errors in slots are only logged. `face(cls)` mirrors a PySide class (Qt's
own, or one of the stand-in's widgets) as such a class. A name is a property if the meta object says so, a signal
likewise, and otherwise a method if the PySide class has a public one. Nothing is listed by hand.
"""

from __future__ import annotations

import enum
import inspect
import logging
import sys
import traceback
import types
import weakref

import shiboken6
from PySide6 import QtCore
from shibokensupport.signature import get_signature

slotErrors: list[
    BaseException
] = []  # what slots, overridden events and VTK observers raised; tests assert that it is empty

overrides: dict[type, dict[str, object]] = {}  # functions used instead of a PySide class's own
_faces: dict[type, type] = {}
_RENAMED = {"exec": "exec_", "print": "print_"}
STATIC_ALL_THE_SAME = {"singleShot"}
_HIDDEN = {
    "connect",
    "disconnect",
    "findChild",
    "findChildren",
    "property",
    "setProperty",
    "inherits",
    "emit",
    "exec_",
    "receivers",
    "sender",
    "metaObject",
    "staticMetaObject",
    "sizeHintProperty",
}


class EnumValue(int):
    """A number that remembers which enumerator of Qt it is."""

    qtValue: enum.Enum

    def __new__(cls, qtValue):
        self = super().__new__(cls, qtValue.value)
        self.qtValue = qtValue
        return self

    def _combined(self, other, operation):
        number = operation(int(self), int(other))
        if isinstance(self.qtValue, enum.Flag):
            return EnumValue(type(self.qtValue)(number))
        return number

    def __or__(self, other):
        return self._combined(other, int.__or__)

    def __and__(self, other):
        return self._combined(other, int.__and__)

    def __xor__(self, other):
        return self._combined(other, int.__xor__)

    __ror__, __rand__, __rxor__ = __or__, __and__, __xor__


def logError(error):
    """What PythonQt does with an exception that nobody can catch: it is printed, and the program goes on."""
    slotErrors.append(error)
    logging.getLogger("slicer_standin").error("".join(traceback.format_exception(error)))


def recordUncaughtErrors():
    """VTK hands an observer's exception to sys.excepthook: keep it beside those of the slots."""
    previous = sys.excepthook

    def hook(kind, error, trace):
        slotErrors.append(error)
        previous(kind, error, trace)

    sys.excepthook = hook


# --- values across the border ------------------------------------------------------------------------------------


def unwrap(value):
    """A Python value as PySide takes it."""
    if isinstance(value, Proxy):
        return value._alive()
    if isinstance(value, EnumValue):
        return value.qtValue
    if isinstance(value, ProxyClass):
        return value._qtClass
    if type(value) in (list, tuple):
        return type(value)(map(unwrap, value))
    if type(value) is dict:
        return {key: unwrap(v) for key, v in value.items()}
    if isinstance(value, (types.FunctionType, types.MethodType, QtMethod)):
        return guarded(value)
    return value


def wrap(value):
    """A value of PySide as PythonQt gives it."""
    if isinstance(value, enum.Enum) and isinstance(value.value, int):
        return EnumValue(value)
    if isinstance(value, shiboken6.Shiboken.Object):
        return proxyOf(value)
    if type(value) in (list, tuple):
        return type(value)(map(wrap, value))
    if type(value) is dict:
        return {key: wrap(v) for key, v in value.items()}
    return value


def proxyOf(inner):
    """The one proxy of a Qt object while anybody holds it (of a value, e.g. a QSize, a new one)."""
    known = getattr(inner, "_standinProxy", None)
    known = known() if isinstance(known, weakref.ref) else known
    if known is None:
        cls = face(type(inner))
        known = cls.__new__(cls)
        known._adopt(inner)
    return known


def guarded(function):
    """`function` called from Qt: values are wrapped, an exception is logged."""

    def call(*arguments):
        try:
            return unwrap(function(*map(wrap, arguments)))
        except Exception as error:
            logError(error)

    return call


def _asEnums(function, arguments):
    """Plain numbers replaced by the enumerators that one of the function's signatures takes there, or None."""
    signatures = get_signature(getattr(function, "cls", function)) or []
    for signature in signatures if isinstance(signatures, list) else [signatures]:
        kinds = [p.annotation for p in signature.parameters.values() if p.name != "self"]
        if len(kinds) < len(arguments):
            continue
        replaced, changed = [], False
        for value, kind in zip(arguments, kinds, strict=False):
            isEnum = isinstance(kind, type) and issubclass(kind, enum.Enum)
            if isEnum and type(value) is int:
                value, changed = kind(value), True
            replaced.append(value)
        if changed:
            return replaced
    return None


def callQt(function, name, *arguments):
    """Call a PySide function with arguments of PythonQt's kind; errors are those of PythonQt."""
    arguments = [unwrap(a) for a in arguments]
    try:
        try:
            return wrap(function(*arguments))
        except TypeError:
            replaced = _asEnums(function, arguments)
            if replaced is None and arguments and isinstance(arguments[0], shiboken6.Shiboken.Object):
                rest = _asEnums(function, arguments[1:])  # an unbound method: its signatures leave self out
                replaced = None if rest is None else [arguments[0], *rest]
            if replaced is None:
                raise
            return wrap(function(*replaced))
    except TypeError as error:
        raise ValueError(f"Called {name} with wrong arguments: {error}") from error


# --- members -----------------------------------------------------------------------------------------------------


class QtMethod:
    """A method of a Qt class, bound to an object or not; `qtName`: its name in PySide, None if it replaces one."""

    def __init__(self, name, function, qtName=None, owner=None, static=False):
        self.__name__, self._function, self._qtName, self._owner, self._static = name, function, qtName, owner, static

    def __get__(self, instance, cls=None):
        return (
            self if instance is None else QtMethod(self.__name__, self._function, self._qtName, instance, self._static)
        )

    def __call__(self, *arguments):
        if self._owner is None:
            return callQt(self._function, self.__name__, *arguments)
        inner = self._owner._alive()
        if self._qtName is not None and self._qtName not in vars(type(inner)).get("_overridden", ()):
            # PySide chooses between a static function and a method of one name (QFile.exists) only by the object
            return callQt(getattr(inner, self._qtName), self.__name__, *arguments)
        return callQt(self._function, self.__name__, *(arguments if self._static else (self._owner, *arguments)))

    def __eq__(self, other):
        return isinstance(other, QtMethod) and (self._function, self._owner) == (other._function, other._owner)

    def __hash__(self):
        return hash(self._function)

    def __repr__(self):
        return f"<qt slot {self.__name__}>"


class QtProperty:
    """A property of the meta object: an attribute."""

    def __init__(self, name, cls, writable, ofClass=None):
        self.name, self.writable = name, writable
        self.ofClass = ofClass  # a static function of the same name (QTimer.singleShot)
        capital = name[0].upper() + name[1:]
        self.ofPython = isinstance(inspect.getattr_static(cls, name, None), QtCore.Property)
        self.getter = next(
            (m for m in (name, "is" + capital, "has" + capital, "get" + capital) if callable(getattr(cls, m, None))),
            None,
        )
        self.setter = "set" + capital if callable(getattr(cls, "set" + capital, None)) else None

    def __get__(self, instance, cls=None):
        if instance is None:
            # PythonQt looks for a property before a static function of that name, and a class has no value for one;
            # of QTimer.singleShot it is known that a class has it
            return self.ofClass if self.name in STATIC_ALL_THE_SAME else None
        inner = instance._alive()
        if self.ofPython or isinstance(inspect.getattr_static(type(inner), self.name, None), QtCore.Property):
            return wrap(getattr(inner, self.name))
        if self.getter is None:
            return wrap(inner.property(self.name))
        value = getattr(inner, self.getter)  # a property of the stand-in's own where its class replaces one of Qt's
        return wrap(value() if callable(value) else value)

    def __set__(self, instance, value):
        inner = instance._alive()
        if not self.writable or self.name in STATIC_ALL_THE_SAME:  # nobody knows whether it can be set
            raise AttributeError(f"Property '{self.name}' of type '{instance._typeName()}' is not writable")
        try:
            if self.setter:
                callQt(getattr(inner, self.setter), self.name, value)
            elif self.ofPython:
                setattr(inner, self.name, unwrap(value))
            elif not inner.setProperty(self.name, unwrap(value)):
                raise ValueError(self.name)
        except ValueError as error:
            message = f"Property '{self.name}' of type '{instance._typeName()}' does not accept {value!r}: {error}"
            raise ValueError(message) from error


class QtSignal:
    """A signal: called it is emitted, and it has connect and disconnect."""

    def __init__(self, name, owner=None):
        self.name, self._owner = name, owner

    def __get__(self, instance, cls=None):
        return self if instance is None else QtSignal(self.name, instance)

    def _signature(self):
        # clicked(bool) stands before its clone clicked(): the full signature is the first
        return next(s for s in self._owner._signals() if s.startswith(self.name + "("))

    def connect(self, slot):
        return self._owner.connect(self._signature(), slot)

    def disconnect(self, slot):
        return self._owner.disconnect(self._signature(), slot)

    def __call__(self, *arguments):
        callQt(getattr(self._owner._alive(), self.name).emit, self.name, *arguments)


def declaredSignature(method):
    """`name(types)` of a QMetaMethod; a Python object stands there under the type that the stand-in declared for it."""
    name, kinds = bytes(method.methodSignature()).decode()[:-1].split("(", 1)
    names = [bytes(n).decode() for n in method.parameterNames()]
    types_ = [n if kind == "PyObject" else kind for kind, n in zip(kinds.split(","), names, strict=False)]
    return f"{name}({','.join(types_)})"


def wanted(slot, arguments):
    """The arguments cut to those that a Python function takes; other callables are given all of them."""
    function = slot.__func__ if isinstance(slot, types.MethodType) else slot
    if not isinstance(function, types.FunctionType) or function.__code__.co_flags & inspect.CO_VARARGS:
        return arguments
    return arguments[: function.__code__.co_argcount - isinstance(slot, types.MethodType)]


# --- objects -----------------------------------------------------------------------------------------------------


class ProxyClass(type):
    """Type of the mirrored classes and of what Python code derives from them."""

    def __new__(meta, name, bases, namespace, qtClass=None):
        cls = super().__new__(meta, name, bases, namespace)
        cls._derived = qtClass is None
        cls._qtClass = qtClass or _withOverrides(cls, bases[0]._qtClass)
        return cls

    def __init__(cls, name, bases, namespace, qtClass=None):
        super().__init__(name, bases, namespace)

    def __setattr__(cls, name, value):
        if not cls.__dict__.get("_derived", True) and not name.startswith("_"):
            raise AttributeError(f"'{name}' of {cls.__name__} cannot be set")
        super().__setattr__(name, value)


def _withOverrides(cls, qtClass):
    """`qtClass` with those methods forwarded to Python that `cls` overrides (event handlers and the like)."""
    overridden = {}
    for name, value in vars(cls).items():
        original = getattr(qtClass, name, None)
        if isinstance(value, types.FunctionType) and not name.startswith("_") and callable(original):
            overridden[name] = _forwarder(name, original)
    if not overridden:
        return qtClass
    earlier = getattr(qtClass, "_overridden", ())
    return type(cls.__name__, (qtClass,), {**overridden, "_overridden": (*earlier, *overridden)})


def _forwarder(name, original):
    """The override in Python; when it raises, what the class does by itself."""

    def forward(inner, *arguments):
        try:
            return unwrap(getattr(proxyOf(inner), name)(*map(wrap, arguments)))
        except Exception as error:
            logError(error)
            return original(inner, *arguments)

    return forward


class Proxy:
    """Root of all mirrored classes."""

    def __init__(self, *arguments):
        self._adopt(callQt(_Construct(type(self)._qtClass), type(self).__name__, *arguments).inner)

    def _adopt(self, inner):
        self.__dict__["_inner"] = inner
        if isinstance(inner, QtCore.QObject):
            # an object of a derived class carries Python state, which lives as long as the Qt object
            inner._standinProxy = self if type(self)._derived else weakref.ref(self)

    def _alive(self):
        inner = self.__dict__.get("_inner")
        if inner is None:
            raise ValueError(f"{type(self).__name__}: the base class's __init__ was not called")
        if not shiboken6.isValid(inner):
            raise ValueError(f"Trying to use a destroyed {type(self).__name__} object")
        return inner

    @classmethod
    def _typeName(cls):
        return next(c for c in cls.__mro__ if not c._derived).__name__

    def __getattr__(self, name):
        inner = self.__dict__.get("_inner")
        if isinstance(inner, QtCore.QObject) and not name.startswith("_"):
            if not shiboken6.isValid(inner):
                raise ValueError(f"Trying to read attribute '{name}' of a destroyed {type(self).__name__} object")
            if name.encode() in [bytes(n) for n in inner.dynamicPropertyNames()]:
                return wrap(inner.property(name))
            for child in inner.children():
                if child.objectName() == name:
                    return wrap(child)
        raise AttributeError(f"{self._typeName()} has no attribute named '{name}'")

    def __setattr__(self, name, value):
        member = inspect.getattr_static(type(self), name, None)
        inner = self.__dict__.get("_inner")
        if isinstance(member, (QtProperty, property)):
            member.__set__(self, value)
        elif isinstance(inner, QtCore.QObject) and name.encode() in [bytes(n) for n in inner.dynamicPropertyNames()]:
            inner.setProperty(name, unwrap(value))
        elif type(self)._derived:
            object.__setattr__(self, name, value)
        elif isinstance(member, (QtMethod, QtSignal, EnumValue)):
            raise AttributeError(f"'{name}' of {self._typeName()} cannot be overwritten")
        else:
            raise AttributeError(
                f"'{name}' does not exist on {self._typeName()}, and C++ objects take no new attributes"
            )

    def __eq__(self, other):
        inner = self.__dict__.get("_inner")
        if other is None:
            return not shiboken6.isValid(inner)
        if not isinstance(other, Proxy):
            return NotImplemented
        if isinstance(inner, QtCore.QObject):
            return inner is other.__dict__.get("_inner")
        return bool(inner == other.__dict__.get("_inner"))

    def __hash__(self):
        return id(self.__dict__["_inner"]) if isinstance(self._inner, QtCore.QObject) else hash(self._inner)

    def __bool__(self):
        return shiboken6.isValid(self.__dict__.get("_inner"))

    def __repr__(self):
        return f"<{type(self).__name__} {self.__dict__.get('_inner')!r}>"

    def __str__(self):
        return str(self.__dict__.get("_inner"))

    def __dir__(self):
        return super().__dir__()


class _Construct:
    """A constructor as `callQt` takes functions: its result not wrapped."""

    def __init__(self, cls):
        self.cls = cls

    def __call__(self, *arguments):
        return types.SimpleNamespace(inner=self.cls(*arguments))


def _operator(name):
    def operate(self, *others):
        return callQt(getattr(self._alive(), name), name, *others)

    return operate


class ObjectMembers:
    """What PythonQt adds to every QObject."""

    @property
    def name(self):
        return self._alive().objectName()

    @name.setter
    def name(self, value):
        self._alive().setObjectName(value)

    def _signals(self):
        meta = self._alive().metaObject()
        methods = [meta.method(i) for i in range(meta.methodCount())]
        return {declaredSignature(m): m for m in methods if m.methodType() == QtCore.QMetaMethod.MethodType.Signal}

    def connect(self, signal, *slot):
        """`connect("clicked(bool)", function)` or `(..., object, "slot(bool)")`; False if there is no such."""
        receiver = self._receiver(slot)
        method = self._signals().get(_normalized(signal))
        if method is None or receiver is None:
            logging.getLogger("slicer_standin").warning(
                "%s: no such signal or slot: %s %s", self._typeName(), signal, slot
            )
            return False

        def call(*arguments):
            try:
                receiver(*wanted(receiver, tuple(map(wrap, arguments))))
            except Exception as error:
                logError(error)

        inner = self._alive()
        inner.__dict__.setdefault("_standinSlots", []).append((_normalized(signal), receiver, call))
        signature = "2" + bytes(method.methodSignature()).decode()
        return bool(QtCore.QObject.connect(inner, signature, call))

    def disconnect(self, signal, *slot):
        method, receiver = self._signals().get(_normalized(signal)), self._receiver(slot) if slot else None
        inner = self._alive()
        found = [
            c
            for c in inner.__dict__.get("_standinSlots", [])
            if c[0] == _normalized(signal) and (not slot or c[1] == receiver)
        ]
        for connection in found:
            inner._standinSlots.remove(connection)
            QtCore.QObject.disconnect(inner, "2" + bytes(method.methodSignature()).decode(), connection[2])
        return bool(found)

    @staticmethod
    def _receiver(slot):
        if len(slot) == 2:
            return getattr(slot[0], slot[1].split("(")[0], None)
        return slot[0] if len(slot) == 1 and callable(slot[0]) else None

    def property(self, name):
        inner = self._alive()
        member = inspect.getattr_static(type(self), name, None)
        return member.__get__(self) if isinstance(member, QtProperty) else wrap(inner.property(name))

    def setProperty(self, name, value):
        member = inspect.getattr_static(type(self), name, None)
        if isinstance(member, QtProperty):
            member.__set__(self, value)
            return True
        return self._alive().setProperty(name, unwrap(value))

    def inherits(self, className):
        return self._alive().inherits(className)

    def className(self):
        return self._alive().metaObject().className()

    def delete(self):
        shiboken6.delete(self._alive())

    def findChildren(self, kind=None, name=""):
        """All descendants of a class (given itself or by name) with an object name ("" for any)."""
        kind = kind if isinstance(kind, str) else getattr(kind, "__name__", "QObject")
        found = []
        for child in self._alive().children():
            if child.inherits(kind) and name in ("", child.objectName()):
                found.append(wrap(child))
            found += ObjectMembers.findChildren(wrap(child), kind, name)
        return found

    def findChild(self, kind=None, name=""):
        return next(iter(self.findChildren(kind, name)), None)


def _normalized(signature):
    return bytes(QtCore.QMetaObject.normalizedSignature(signature)).decode() if isinstance(signature, str) else ""


# --- classes -----------------------------------------------------------------------------------------------------


def face(qtClass):
    """The mirrored class of a PySide class; those of its bases are its bases."""
    if qtClass in _faces:
        return _faces[qtClass]
    parents = [
        b for b in qtClass.__bases__ if issubclass(b, shiboken6.Shiboken.Object) and b is not shiboken6.Shiboken.Object
    ]
    bases = tuple(face(b) for b in parents) or (Proxy,)
    name = qtClass.__name__
    _faces[qtClass] = cls = ProxyClass(name, bases, _members(qtClass), qtClass=qtClass)
    return cls


def _members(qtClass):
    members = {"__doc__": qtClass.__doc__, "__module__": "qt"}
    meta = getattr(qtClass, "staticMetaObject", None) if issubclass(qtClass, QtCore.QObject) else None
    for name, value in (vars(qtClass) | overrides.get(qtClass, {})).items():
        if isinstance(value, type) and issubclass(value, enum.Enum):
            members[name] = value
            members |= {key: EnumValue(v) for key, v in value.__members__.items() if isinstance(v.value, int)}
        elif name.startswith("__") and name in _OPERATORS and meta is None:
            members[name] = _operator(name)
        elif not name.startswith("_") and name not in _HIDDEN and _isFunction(value):
            static = isinstance(value, staticmethod)
            if meta is not None and not static and meta.indexOfProperty(name) >= 0:
                continue  # a property, even a base class's, stands before a method
            qtName = name if name not in overrides.get(qtClass, {}) else None
            name = _RENAMED.get(name, name)
            members[name] = QtMethod(name, value.__func__ if static else value, qtName, static=static)
    members = {k: _enumType(v) if isinstance(v, type) and issubclass(v, enum.Enum) else v for k, v in members.items()}
    if meta is None:
        return members
    if qtClass is QtCore.QObject:
        members |= {k: v for k, v in vars(ObjectMembers).items() if not k.startswith("__")}
    for i in range(meta.methodOffset(), meta.methodCount()):
        method = meta.method(i)
        if method.methodType() == QtCore.QMetaMethod.MethodType.Signal:
            signalName = bytes(method.name()).decode()
            members[signalName] = QtSignal(signalName)
    for i in range(meta.propertyOffset(), meta.propertyCount()):
        prop = meta.property(i)
        same = members.get(prop.name())
        static = same if isinstance(same, QtMethod) and same._static else None
        members[prop.name()] = QtProperty(prop.name(), qtClass, prop.isWritable(), static)
    return members


_OPERATORS = {
    "__add__",
    "__sub__",
    "__mul__",
    "__truediv__",
    "__lt__",
    "__gt__",
    "__le__",
    "__ge__",
    "__or__",
    "__and__",
    "__len__",
    "__contains__",
    "__getitem__",
    "__lshift__",
    "__rshift__",
    "__neg__",
}


def _isFunction(value):
    """Python methods of the stand-in's own widgets and PySide's; classes and signals are none."""
    value = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
    return callable(value) and not isinstance(value, (type, QtCore.Signal))


def _enumType(kind):
    """An enum type of PythonQt: it makes numbers."""
    values = {key: EnumValue(v) for key, v in kind.__members__.items() if isinstance(v.value, int)}
    return type(kind.__name__, (int,), values)
