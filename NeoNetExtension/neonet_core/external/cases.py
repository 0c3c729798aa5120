"""What a batch has found in each case, beside what is known of it."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from neonet_core.batch.results import CASES_FOLDER, RESULTS_FILE, is_results_header
from neonet_core.cohort import Case, Cohort, load_case
from neonet_core.errors import NeoNetError
from neonet_core.evaluation.dice import dice
from neonet_core.events import Events, track
from neonet_core.volume import read_label_map, reorient_like

LABEL_MAP = "label_map.nii.gz"
"""Of a case's folder, as `pipeline.write_case` names it."""


@dataclass(frozen=True)
class JudgedCase:
    """A case whose outcome is known and which has a score.

    Attributes
    ----------
    outcome : int
    probability : float
        Of outcome 1, by the bundle.
    tumour_ml : float or None
        By the label map that the score rests on.
    flags : tuple of str
        Codes.
    columns : mapping of str to str
        Further columns of the manifest.
    """

    case_id: str
    patient_id: str
    outcome: int
    probability: float
    tumour_ml: float | None
    flags: tuple[str, ...]
    columns: Mapping[str, str]


@dataclass(frozen=True)
class LeftOut:
    """A case that cannot be judged, and why."""

    case_id: str
    reason: str


@dataclass(frozen=True)
class Overlap:
    """Dice of a case's label map against the one of the manifest; NaN where neither has the structure."""

    case_id: str
    patient_id: str
    liver: float
    tumour: float


@dataclass(frozen=True)
class BatchResults:
    """The rows of a batch's ``results.csv``.

    Attributes
    ----------
    rows : mapping of str to dict
        By case_id.
    folder : Path
        That holds the file.
    """

    rows: Mapping[str, Mapping[str, str]]
    folder: Path

    def one(self, column: str) -> str:
        """The value that all rows share, such as the bundle's hash. Raises ``MIXED_RESULTS`` where they do not."""
        values = {row.get(column, "") for row in self.rows.values()} - {""}
        if len(values) > 1:
            raise NeoNetError("MIXED_RESULTS", f"The results hold several values of {column}: "
                              f"{', '.join(sorted(values))}.", "Evaluate the results of one bundle at a time.")
        return values.pop() if values else ""


def read_results(path: Path) -> BatchResults:
    """Read a batch's folder or its ``results.csv``.

    Raises
    ------
    NeoNetError
        ``RESULTS_NOT_FOUND``, ``BAD_RESULTS``.
    """
    file = path / RESULTS_FILE if path.is_dir() else path
    if not file.is_file():
        raise NeoNetError("RESULTS_NOT_FOUND", f"{path} holds no {RESULTS_FILE}.",
                          "Give the folder that 'neonet batch' wrote with --out.")
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            rows = list(reader)
            header = reader.fieldnames or []
    except (UnicodeDecodeError, csv.Error) as error:
        raise _bad_results(file, "is no CSV file") from error
    if not is_results_header(header):
        raise _bad_results(file, "lacks columns that every batch writes")
    by_case = {row["case_id"]: row for row in rows}
    if len(by_case) < len(rows):
        raise _bad_results(file, "holds a case twice")
    return BatchResults(by_case, file.parent)


def _bad_results(file: Path, problem: str) -> NeoNetError:
    return NeoNetError("BAD_RESULTS", f"{file.name} {problem}.", "Give the results.csv of 'neonet batch', unchanged.")


def judge(results: BatchResults, truth: Cohort) -> tuple[list[JudgedCase], list[LeftOut]]:
    """Put scores and outcomes together, in the manifest's order; every case of either side comes out once.

    Raises
    ------
    NeoNetError
        ``NO_COMMON_CASES``, ``BAD_RESULTS`` (a probability that is none).
    """
    judged: list[JudgedCase] = []
    left_out: list[LeftOut] = []
    for case in truth:
        found = _judge(case, results.rows.get(case.case_id))
        if isinstance(found, JudgedCase):
            judged.append(found)
        else:
            left_out.append(LeftOut(case.case_id, found))
    known = {case.case_id for case in truth}
    left_out += [LeftOut(case_id, "not in the manifest") for case_id in results.rows if case_id not in known]
    if not known & set(results.rows):
        raise NeoNetError("NO_COMMON_CASES", "No case_id of the manifest stands in the results.",
                          "Give --truth the manifest that the batch was run with, or one with the same case_id.")
    return judged, left_out


def _judge(case: Case, row: Mapping[str, str] | None) -> JudgedCase | str:
    """The judged case, or why it cannot be judged."""
    if row is None:
        return "not in the results"
    if row["error_code"]:
        return f"failed: {row['error_code']}"
    if not row["probability"]:
        return f"no score ({row['flags'].replace(';', ', ') or 'no reason given'})"
    if case.outcome is None:
        return "outcome not known"
    try:
        probability, volume = float(row["probability"]), float(row["tumour_ml"]) if row["tumour_ml"] else None
    except ValueError as error:
        raise NeoNetError("BAD_RESULTS", f"Case {case.case_id}: its probability or tumour volume is no number.",
                          "Give the results.csv of 'neonet batch', unchanged.") from error
    flags = tuple(flag for flag in row["flags"].split(";") if flag)
    return JudgedCase(case.case_id, case.patient_id, case.outcome, probability, volume, flags, case.extra)


def patients_of(cases: Sequence[JudgedCase]) -> list[JudgedCase]:
    """One entry a patient: mean probability and volume, highest outcome, all flags, the columns of the first case.

    Intervals and tests take their rows for independent, which several cases of one patient are not.
    """
    groups: dict[str, list[JudgedCase]] = {}
    for case in cases:
        groups.setdefault(case.patient_id, []).append(case)
    return [replace(own[0], outcome=max(one.outcome for one in own),
                    probability=sum(one.probability for one in own) / len(own), tumour_ml=_mean_volume(own),
                    flags=tuple(dict.fromkeys(flag for one in own for flag in one.flags)))
            for own in groups.values()]


def _mean_volume(cases: Sequence[JudgedCase]) -> float | None:
    known = [one.tumour_ml for one in cases if one.tumour_ml is not None]
    return sum(known) / len(known) if known else None


def overlaps(results: BatchResults, truth: Cohort, events: Events) -> tuple[list[Overlap], list[LeftOut]]:
    """Dice of the bundle's own label maps where the manifest names one, on the image's own grid.

    A label map that the batch was given is not the bundle's. What cannot be read is left out with its reason.
    """
    wanted = [case for case in truth if case.label_map is not None
              and (row := results.rows.get(case.case_id)) is not None and row["label_source"] == "segmented"]
    found, left_out = [], []
    for case in track(wanted, "compare label maps", events) if wanted else []:
        try:
            found.append(_overlap(case, results.folder / CASES_FOLDER / case.case_id / LABEL_MAP))
        except NeoNetError as error:
            left_out.append(LeftOut(case.case_id, f"label maps not compared: {error.code}"))
    return found, left_out


def _overlap(case: Case, path: Path) -> Overlap:
    image, annotated = load_case(case)
    expected = reorient_like(annotated, image).array
    ours = reorient_like(read_label_map(path), image).array
    return Overlap(case.case_id, case.patient_id, dice(ours == 1, expected == 1), dice(ours == 2, expected == 2))


