"""Which Python runs NeoNet's jobs, and in what environment. Nothing of torch is ever loaded in Slicer's own process."""

import os
import sys
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

PARENT_VARIABLE = "NEONET_PARENT"  # neonet_core.__main__ ends where this process ends


def coreFolder():
    """The folder that holds `neonet_core`, beside this package: pathlib.Path."""
    return Path(__file__).resolve().parents[1]


def pythonExecutable():
    """Path of the Python that runs the jobs: Slicer's own, with the packages that are installed in Slicer.

    Raises
    ------
    RuntimeError
        None was found. Never Slicer itself: that would open a second window.
    """
    own = Path(slicer.app.slicerHome) / "bin" / ("PythonSlicer.exe" if sys.platform == "win32" else "PythonSlicer")
    if own.is_file():
        return str(own)
    if Path(sys.executable).stem.lower().startswith("python"):
        return sys.executable
    raise RuntimeError(_("Slicer's own Python was not found in {folder}; install Slicer again.").format(
        folder=own.parent))


def environment():
    """The environment of a job: qt.QProcessEnvironment.

    Slicer's own, so that its Python finds its libraries, in which Python finds `neonet_core`, leaves the user's own
    packages alone (they may be of another version) and writes UTF-8 without delay.
    """
    values = qt.QProcessEnvironment.systemEnvironment()
    path = os.pathsep.join(filter(None, [str(coreFolder()), values.value("PYTHONPATH")]))
    for name, value in {
        "PYTHONPATH": path,
        "PYTHONNOUSERSITE": "1",
        "PYTHONSAFEPATH": "1",  # a file in the current folder must not pass for a package
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
        "PYTHONFAULTHANDLER": "1",  # a crash leaves its place in the log
        PARENT_VARIABLE: str(os.getpid()),
    }.items():
        values.insert(name, value)
    return values
