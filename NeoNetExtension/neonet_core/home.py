"""The user's own folder, where imported bundles lie."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def home() -> Path:
    """The folder of NeoNet's own data; it need not exist yet.

    ``NEONET_HOME`` where it is set, else the system's place for a program's data: ``%LOCALAPPDATA%`` on Windows,
    ``~/Library/Application Support`` on macOS, ``$XDG_DATA_HOME`` or ``~/.local/share`` elsewhere.
    """
    if chosen := os.environ.get("NEONET_HOME"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "NeoNet"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "NeoNet"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "neonet"


def bundles_folder() -> Path:
    """Where imported bundles lie, each in a folder of its name."""
    return home() / "bundles"
