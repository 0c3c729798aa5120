"""A package's wheel, fetched by pip or given as a file, and what lies in it. Nothing of it is installed or run."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from neonet_core.errors import NeoNetError
from neonet_core.training.files import sha256_of_file

PIP_TIMEOUT_S = 600


@dataclass(frozen=True)
class Wheel:
    """One exact file of a package index.

    Attributes
    ----------
    python : str
        A Python version that the wheel is for, which is not that which is running.
    sha256 : str
        Of the whole file, in hexadecimal.
    """

    package: str
    version: str
    python: str
    sha256: str

    @property
    def file(self) -> str:
        return f"{self.package}-{self.version}-py3-none-any.whl"

    @property
    def pip_arguments(self) -> list[str]:
        """What pip is told: this file alone, and no source package, whose set-up would be run."""
        return ["download", "--no-deps", "--only-binary=:all:", "--python-version", self.python,
                f"{self.package}=={self.version}"]

    @property
    def elsewhere(self) -> str:
        """What to do by hand, in words."""
        return (f"On a computer with a network: pip {' '.join(self.pip_arguments)}; then here: neonet bundle import "
                f"{self.package} --wheel {self.file}")


def fetch(wheel: Wheel, folder: Path) -> Path:
    """Fetch a wheel by pip, from the package index that pip is set up with. Raises ``DOWNLOAD_FAILED``."""
    command = [sys.executable, "-m", "pip", *wheel.pip_arguments, "--dest", str(folder), "--no-input", "--quiet",
               "--disable-pip-version-check"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=PIP_TIMEOUT_S, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        done = False
    if not done or not (folder / wheel.file).is_file():
        raise NeoNetError("DOWNLOAD_FAILED", f"pip could not fetch {wheel.package} {wheel.version}: no network, or no "
                          "package index that has it.", wheel.elsewhere)
    return folder / wheel.file


def check(wheel: Wheel, path: Path) -> None:
    """See that a file is that wheel, to the bit. Raises ``FILE_NOT_FOUND``, ``WRONG_HASH``."""
    if not path.is_file():
        raise NeoNetError("FILE_NOT_FOUND", f"There is no file {path}.", "Give the wheel with --wheel, or leave it "
                          "out and let pip fetch it.")
    found = sha256_of_file(path)
    if found != wheel.sha256:
        raise NeoNetError("WRONG_HASH", f"{path.name} is not the wheel of {wheel.package} {wheel.version}: its SHA-256 "
                          f"begins with {found[:12]}, not with {wheel.sha256[:12]}. Nothing of it was read.",
                          wheel.elsewhere)


def read(path: Path, part: str) -> bytes:
    """The content of one file of a wheel, whose hash has been checked; nothing is unpacked."""
    with zipfile.ZipFile(path) as archive:
        return archive.read(part)
