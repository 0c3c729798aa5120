"""What has happened to each case: one JSON object a line, appended and forced to disk, never rewritten."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any

Entry = dict[str, Any]


class Journal:
    """The journal of a batch; one process writes it.

    Attributes
    ----------
    last : dict of str to dict
        Of each case its last entry.

    Parameters
    ----------
    path : Path
        Need not exist yet. What a power cut has left of a last line is passed over, and removed by the first `append`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.last: dict[str, Entry] = {}
        self._sound = 0  # bytes up to the end of the last whole line
        data = path.read_bytes() if path.is_file() else b""
        self._sound = data.rfind(b"\n") + 1
        for line in data[: self._sound].splitlines():
            with contextlib.suppress(ValueError):  # a disk may come back with blocks that were never written
                entry = json.loads(line)
                if "case" in entry:
                    self.last[entry["case"]] = entry

    def append(self, entry: Entry) -> None:
        """Write an entry, all of it or nothing. Raises OSError where the disk is full."""
        line = json.dumps(entry, ensure_ascii=False).encode() + b"\n"
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        try:
            os.ftruncate(handle, self._sound)
            os.lseek(handle, self._sound, os.SEEK_SET)
            try:
                if os.write(handle, line) < len(line):
                    raise OSError(errno.ENOSPC, "No space left on device")
                os.fsync(handle)
            except OSError:
                os.ftruncate(handle, self._sound)
                raise
        finally:
            os.close(handle)
        self._sound += len(line)
        if "case" in entry:
            self.last[entry["case"]] = entry
