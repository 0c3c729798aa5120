"""The Python packages that jobs need: what is missing, and installing it into Slicer's Python once the user agrees.

Nothing here runs when Slicer starts or a module opens; `missing` imports none of the packages. Slicer's own numpy,
scipy, VTK and SimpleITK are never replaced.
"""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import logging
import os
import platform
import sys
import tempfile
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from NeoNetLib.python import coreFolder

SLICERS_OWN = {"numpy": "numpy", "scipy": "scipy", "vtk": "vtk", "SimpleITK": "SimpleITK"}
"""Distribution and the package that it is imported as."""
IMPORT_PACKAGES = ("h5py>=3.10",)
"""What importing published weights needs beyond the rest (`pretrained` in pyproject.toml)."""
REQUESTER = "NeoNet"

_installing = False


def requirements():
    """What neonet_core needs: list of str as pip takes them, from the file that lies with the library."""
    text = (coreFolder() / "neonet_core" / "resources" / "requirements.txt").read_text(encoding="utf-8")
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    # the paths of torch 2.13 are longer than Windows allows below Slicer's folder, and pip leaves it half installed
    return [f"{line},<2.13" if line.startswith("torch") and sys.platform == "win32" else line for line in lines if line]


def missing(more=()):
    """Requirements that Slicer's Python does not meet; quick, and imports none of the packages.

    Parameters
    ----------
    more : sequence of str
        Further requirements, e.g. `IMPORT_PACKAGES`.

    Returns
    -------
    list of str
        As pip takes them, e.g. ``"monai>=1.5"``.
    """
    importlib.invalidate_caches()  # what was installed a moment ago counts
    return [text for text in (*requirements(), *more) if not _isMet(_requirement(text))]


def ensure(parent=None, wheels=None, more=()):
    """Install what is missing, once the user agrees. Call it where the packages are needed, never before.

    Parameters
    ----------
    parent : qt.QWidget, optional
        Of the question and the progress.
    wheels : str or pathlib.Path, optional
        Folder of wheels to install from, without any network.
    more : sequence of str
        Further requirements.

    Returns
    -------
    bool
        All is there now. Failures have been shown to the user.
    """
    global _installing
    needed = missing(more)
    if not needed:
        return True
    if slicer.app.testingEnabled():
        logging.info("NeoNet: testing, so nothing is installed; missing: %s", ", ".join(needed))
        return False
    if any(_requirement(text).name == "torch" for text in needed) and not _hasTorchForThisComputer():
        slicer.util.errorDisplay(
            _("PyTorch is no longer made for Slicer on Macs with Intel processors, or with an Intel build of Slicer: "
              "NeoNet runs in a Slicer for Apple silicon, on Windows and on Linux."), windowTitle=REQUESTER,
            parent=parent)
        return False
    if _installing or not _agreed(needed, wheels, parent):
        return False
    _installing = True
    try:
        with _constraints() as constraints:
            if wheels:
                _installFromFolder(needed, wheels, constraints, parent)
            else:
                _download(needed, constraints, parent)
    except Exception as error:  # pip's exit code, no network, a user who cancels in a dialog of Slicer's own
        logging.exception("NeoNet: packages could not be installed")
        slicer.util.errorDisplay(
            _("The packages could not be installed; check the network connection and the free disk space, restart "
              "Slicer and try again, or install them from a folder of wheels."),
            windowTitle=REQUESTER, parent=parent, detailedText=str(error))
        return False
    finally:
        _installing = False
    left = missing(more)
    if left:
        slicer.util.errorDisplay(_("Some packages are still missing; restart Slicer and try again."),
                                 windowTitle=REQUESTER, parent=parent, detailedText="\n".join(left))
    return not left


def selfTestJob(device="auto"):
    """Arguments of the `NeoNetLib.job.Job` that tries a 3D convolution on `device`.

    Its result has ``device``, ``fell_back``, ``reason``, ``devices``, ``free_memory_gb``, ``seconds``, ``versions``.
    """
    return ["selftest", "--device", device]


# --- what is there ---------------------------------------------------------------------------------------------------


def _requirement(text):
    try:
        from packaging.requirements import Requirement
    except ImportError:  # an older Slicer, which has pip all the same
        from pip._vendor.packaging.requirements import Requirement
    return Requirement(text)


def _isMet(requirement):
    if requirement.name in SLICERS_OWN and importlib.util.find_spec(SLICERS_OWN[requirement.name]) is not None:
        return True  # whatever its version: it is Slicer's and stays
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return version is not None and requirement.specifier.contains(version, prereleases=True)


@contextlib.contextmanager
def _constraints():
    """Path of a pip constraints file that pins what is Slicer's own."""
    lines = []
    for name in SLICERS_OWN:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            lines.append(f"{name}=={importlib.metadata.version(name)}\n")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "constraints.txt")
        path.write_text("".join(lines), encoding="utf-8")
        yield str(path)


# --- asking and installing -----------------------------------------------------------------------------------------


def _agreed(needed, wheels, parent):
    names = [_requirement(text).name for text in needed]
    if wheels:
        source = _("They are taken from the folder {folder}; nothing is downloaded.").format(folder=wheels)
    elif "torch" in names:
        source = _("From 300 MB to 3 GB are downloaded, the most for an NVIDIA graphics card: nearly all of it is "
                   "PyTorch. It takes some minutes, in which Slicer cannot be used.")
        if not _hasPyTorchExtension():
            source += "\n\n" + _("To use a graphics card, install the extension PyTorch from the Extensions Manager "
                                 "first.")
    else:
        source = _("Up to 100 MB are downloaded. It takes some minutes, in which Slicer cannot be used.")
    text = _("NeoNet needs {count} more Python packages in Slicer: {names}.").format(
        count=len(names), names=", ".join(names))
    return slicer.util.confirmOkCancelDisplay(
        "\n\n".join([text, source, _("No data of patients leave this computer. Install them now?")]),
        windowTitle=_("NeoNet: install Python packages"), parent=parent, detailedText="\n".join(needed))


def _hasTorchForThisComputer():
    """There is no torch after 2.2 for macOS on x86_64, as which Slicer also runs on Apple silicon."""
    return not (sys.platform == "darwin" and platform.machine() == "x86_64")


def _hasPyTorchExtension():
    return importlib.util.find_spec("PyTorchUtils") is not None


def _download(needed, constraints, parent):
    """torch by Slicer's PyTorch extension, which knows the graphics card's driver; the rest by pip."""
    torch = next((text for text in needed if _requirement(text).name == "torch"), None)
    if torch and _hasPyTorchExtension():
        import PyTorchUtils

        with _busy(_("Installing PyTorch..."), parent):
            PyTorchUtils.PyTorchUtilsLogic().installTorch(
                askConfirmation=False, torchVersionRequirement=str(_requirement(torch).specifier))
        needed = [text for text in needed if text != torch]
    if not needed:
        return
    try:
        from slicer.packaging import pip_ensure  # Slicer 5.11 and later
    except ImportError:
        _pip(needed, constraints, parent)
    else:  # it shows its progress, and offers to restart where a loaded package was replaced
        pip_ensure([_requirement(text) for text in needed], constraints=constraints, prompt_install=False,
                   requester=REQUESTER)


def _installFromFolder(needed, wheels, constraints, parent):
    if not os.path.isdir(wheels):
        raise FileNotFoundError(f"There is no folder {wheels}.")
    _pip(["--no-index", "--find-links", str(wheels), *needed], constraints, parent)


def _pip(arguments, constraints, parent):
    try:
        from slicer.packaging import pip_install  # shows its progress
    except ImportError:
        with _busy(_("Installing Python packages..."), parent):
            slicer.util.pip_install([*arguments, "--constraint", constraints])
    else:
        pip_install(arguments, constraints=constraints, requester=REQUESTER, parent=parent)


@contextlib.contextmanager
def _busy(text, parent):
    """A window that says so while pip runs; Slicer keeps it painted, and nothing else can be clicked."""
    dialog = slicer.util.createProgressDialog(parent=parent, maximum=0, labelText=text, windowTitle=REQUESTER)
    dialog.setCancelButton(None)
    dialog.setWindowModality(qt.Qt.ApplicationModal)
    dialog.show()
    slicer.app.processEvents()
    try:
        yield
    finally:
        dialog.close()
