"""Ends a process with all that it has started, on Windows, macOS and Linux.

PythonSlicer is a launcher whose child does the work, and the child may have workers of its own: ending one process is
never enough. A job writes only into its own temporary folder, so nothing is lost when it is ended without a warning.
"""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

LONGEST_ANCESTRY = 64  # rounds of stopping; each finds what was started during the last


def endTree(pid):
    """End the process `pid` and all its descendants at once; returns without waiting for them to be gone.

    Everything is stopped before anything is ended: a stopped process starts no further one, and a descendant whose
    parent is gone could not be found any more.

    Parameters
    ----------
    pid : int
        Process id; one that is gone already is no error.
    """
    try:
        import psutil
    except ImportError:  # it comes with NeoNet's packages, which may not be installed yet
        return _endWithoutPsutil(pid)
    stopped = {}
    with contextlib.suppress(psutil.Error):  # the root is gone; what was found is ended
        root = psutil.Process(pid)
        for _round in range(LONGEST_ANCESTRY):
            new = [one for one in (root, *root.children(recursive=True)) if one.pid not in stopped]
            if not new:
                break
            for one in new:
                stopped[one.pid] = one
                with contextlib.suppress(psutil.Error):
                    one.suspend()
    for one in stopped.values():
        with contextlib.suppress(psutil.Error):  # it has ended by itself
            one.kill()


def _endWithoutPsutil(pid):
    if sys.platform == "win32":
        import qt

        # at once: the root must still be there for its children to be found
        qt.QProcess.execute("taskkill", ["/T", "/F", "/PID", str(pid)])
        return
    stopped = []
    for _round in range(LONGEST_ANCESTRY):
        new = [one for one in _family(pid) if one not in stopped]
        if not new:
            break
        _signal(new, signal.SIGSTOP)
        stopped += new
    _signal(stopped, signal.SIGKILL)


def _signal(pids, number):
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def _family(pid):
    """`pid` and its descendants, parents first."""
    children = {}
    for child, parent in _parents():
        children.setdefault(parent, []).append(child)
    family = [pid]
    for one in family:  # grows while it is read
        family += children.get(one, [])
    return family


def _parents():
    """(process id, its parent's) of every process."""
    if sys.platform == "darwin":
        listing = subprocess.run(["/bin/ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=False)
        return [tuple(map(int, line.split())) for line in listing.stdout.splitlines()]
    pairs = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            # "pid (name) state ppid ...", and the name may hold blanks and brackets
            pairs.append((int(path.parent.name), int(path.read_bytes().rpartition(b")")[2].split()[1])))
    return pairs
