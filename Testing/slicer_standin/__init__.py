"""A strict stand-in for `qt`, `ctk` and `slicer`: what a scripted module of 3D Slicer sees, without Slicer.

Importing this package (or `pytest -p slicer_standin`) puts the modules into `sys.modules`. Qt is PySide6 with the
manners of PythonQt; MRML, its logics and `slicer.util` are the real ones of the slicer-core wheel. What Slicer has not,
raises here.

    slicer_standin.loadModule("NeoNetSeg/NeoNetSeg.py")
    slicer.util.selectModule("NeoNetSeg")
    slicer.modules.NeoNetSegWidget.ui.applyButton.click()
    assert slicer_standin.spinUntil(lambda: done, 20000) and not slicer_standin.slotErrors
"""

from . import wheel  # noqa: F401  first of all
from .dialogs import answers, shown
from .modules import loadModule, unloadModule
from .pythonqt import slotErrors
from .screenshots import screenshot
from .scripted_modules import installs, translated
from .slicer_module import reset, world
from .spinning import spin, spinUntil

__all__ = [
    "answers",
    "installs",
    "loadModule",
    "reset",
    "screenshot",
    "shown",
    "slotErrors",
    "spin",
    "spinUntil",
    "translated",
    "unloadModule",
    "world",
]
