"""The event loop in tests."""

from __future__ import annotations

import time

from PySide6 import QtCore


def spin(ms):
    """Runs the event loop for so many milliseconds."""
    loop = QtCore.QEventLoop()
    QtCore.QTimer.singleShot(ms, loop.quit)
    loop.exec()


def spinUntil(condition, timeout=10000):
    """Runs the event loop until `condition()` holds; False if it does not within `timeout` milliseconds."""
    end = time.monotonic() + timeout / 1000
    while not condition():
        if time.monotonic() > end:
            return False
        spin(5)
    return True
