"""Folders that appear whole or not at all, and what is left of those that did not."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neonet_core.batch.results import CASES_FOLDER

UNFINISHED = ".partial-"
SCRATCH = ".scratch"
"""Of the batch's folder: temporary files, such as unpacked zips. Nowhere else, for they may show patients."""


@contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """A new folder to write into; once the block has ended without an error it lies on disk as `final`, in the place of
    what was there."""
    final.parent.mkdir(parents=True, exist_ok=True)
    mark = f"{UNFINISHED}{uuid.uuid4().hex}"
    partial, before = final.parent / mark, final.parent / f"{mark}-before"
    partial.mkdir()
    try:
        yield partial
        for path in sorted(partial.rglob("*"), reverse=True):
            _sync(path)
        _sync(partial)
        if final.exists():
            final.rename(before)
        partial.rename(final)
        _sync(final.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(before, ignore_errors=True)


def remove_unfinished(out: Path) -> None:
    """Remove what a kill or a power cut has left. Only for whoever holds the batch's lock."""
    for path in (out / CASES_FOLDER).glob(f"{UNFINISHED}*"):
        shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(out / SCRATCH, ignore_errors=True)


def free_bytes(folder: Path) -> int:
    """Free space of the disk that a folder lies on, or would lie on."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def is_disk_full(error: BaseException | None) -> bool:
    """Whether a full disk, or a quota that is used up, stands behind an error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def _sync(path: Path) -> None:
    """Force a file, or a folder's list of files, to disk; Windows knows no such thing for folders."""
    if path.is_file():
        with open(path, "rb+") as stream:  # Windows syncs no file that is open for reading alone
            os.fsync(stream.fileno())
        return
    with contextlib.suppress(PermissionError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
