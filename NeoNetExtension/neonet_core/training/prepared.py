"""Prepared cases on disk: each is read, resampled and normalised once for a whole experiment.

The arrays are memory-mapped, so that patches are drawn from a cohort of any size in bounded memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from neonet_core.cohort import Case, load_case
from neonet_core.events import Events, track
from neonet_core.preprocessing import prepare_image, prepare_label_map
from neonet_core.training.files import read_json, sha256_of_json, write_atomic, write_json


@dataclass(frozen=True)
class PreparedCase:
    """One case on a network's grid.

    Attributes
    ----------
    image : np.ndarray
        (X, Y, Z) float32 in [0, 1], memory-mapped.
    label_map : np.ndarray
        (X, Y, Z) uint8, memory-mapped.
    spacing : tuple of float
        Millimetres along R, A, S.
    intensity_range : tuple of float
        The raw intensities that became 0 and 1.
    """

    case_id: str
    outcome: int | None
    image: np.ndarray
    label_map: np.ndarray
    spacing: tuple[float, float, float]
    intensity_range: tuple[float, float]


class PreparedCohort:
    """Prepares cases on demand and keeps them in ``folder``.

    Parameters
    ----------
    folder : Path
        A prepared case lies in ``folder/<spacing>/<case_id>.*``.
    identities : mapping
        Content hash of each case (image and label file), so that a changed file is prepared anew.
    """

    def __init__(self, folder: Path, identities: dict[str, str]) -> None:
        self._folder = folder
        self._identities = identities

    def load(self, cases: Iterable[Case], spacing: Sequence[float] | None, events: Events) -> list[PreparedCase]:
        """The cases on the grid of that spacing, in their order."""
        cases = list(cases)
        self._folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self._folder / ".lock"):  # another process may be training another fold of the run
            missing = [case for case in cases if not self._is_current(case, spacing)]
            for case in track(missing, "prepare cases", events) if missing else ():
                self._prepare(case, spacing)
        return [open_prepared(self._folder, spacing, case.case_id, case.outcome) for case in cases]

    def _path(self, case: Case, spacing: Sequence[float] | None, suffix: str) -> Path:
        return _path(self._folder, spacing, case.case_id, suffix)

    def _identity(self, case: Case) -> str:
        series = {"series": case.extra["series"]} if case.extra.get("series") else {}
        return sha256_of_json({"files": self._identities[case.case_id], "labels": case.label_values, **series})

    def _is_current(self, case: Case, spacing: Sequence[float] | None) -> bool:
        facts = self._path(case, spacing, ".json")
        return facts.is_file() and read_json(facts)["identity"] == self._identity(case)

    def _prepare(self, case: Case, spacing: Sequence[float] | None) -> None:
        image, label_map = load_case(case)
        prepared = prepare_image(image, spacing)
        labels = prepare_label_map(label_map, spacing).array
        self._path(case, spacing, ".json").unlink(missing_ok=True)
        _save(self._path(case, spacing, ".image.npy"), prepared.volume.array)
        _save(self._path(case, spacing, ".labels.npy"), labels)
        # written last: a case counts as prepared once its arrays are whole
        write_json(self._path(case, spacing, ".json"),
                   {"identity": self._identity(case), "spacing": prepared.volume.spacing,
                    "intensity_range": prepared.intensity_range})


def open_prepared(folder: Path, spacing: Sequence[float] | None, case_id: str, outcome: int | None) -> PreparedCase:
    """A case that `PreparedCohort` has prepared in `folder`."""
    facts: dict[str, Any] = read_json(_path(folder, spacing, case_id, ".json"))
    return PreparedCase(
        case_id, outcome,
        np.load(_path(folder, spacing, case_id, ".image.npy"), mmap_mode="r", allow_pickle=False),
        np.load(_path(folder, spacing, case_id, ".labels.npy"), mmap_mode="r", allow_pickle=False),
        tuple(facts["spacing"]), tuple(facts["intensity_range"]))


def _path(folder: Path, spacing: Sequence[float] | None, case_id: str, suffix: str) -> Path:
    grid = "native" if spacing is None else "x".join(f"{value:g}" for value in spacing)
    return folder / grid / f"{case_id}{suffix}"


def _save(path: Path, array: np.ndarray) -> None:
    def write(temporary: Path) -> None:
        with open(temporary, "wb") as stream:
            np.save(stream, array, allow_pickle=False)

    write_atomic(path, write)
