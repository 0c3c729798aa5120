"""A job ends where the program that started it ends: else a crash of Slicer would leave it computing for hours."""

from __future__ import annotations

import contextlib
import os
import threading
import time

PARENT_VARIABLE = "NEONET_PARENT"
"""The process id to watch. Not our own parent's: between Slicer and its Python stands a launcher."""
INTERVAL_S = 1.0
ORPHANED = 4
"""Exit code; nobody is left to read it."""


def end_with_parent() -> None:
    """Watch the process that ``NEONET_PARENT`` names, if any, in a thread that costs nothing."""
    pid = os.environ.get(PARENT_VARIABLE, "")
    if pid.isdecimal():
        threading.Thread(target=_watch, args=(int(pid),), name="parent", daemon=True).start()


def _watch(pid: int) -> None:
    try:
        import psutil
    except ImportError:  # whatever else is missing is said by the command itself
        return
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(pid)  # with its time of creation: a later process of this number is another one
        while parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE:
            time.sleep(INTERVAL_S)
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()
    os._exit(ORPHANED)
