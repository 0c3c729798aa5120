"""A cohort: its manifest, quality control with a reason for every exclusion, and patient-level stratified folds.

The manifest is a CSV with the columns `case_id, image, label_map, pni`; paths are relative to the CSV. Further columns:

================ ====================================================================================================
`patient_id`     rows of one patient stay in one fold; without it, or where it is empty, a case is its own patient
`liver_label`    the label file's values for liver, several joined by `|`; with one of these two columns filled, all
`tumour_label`   other values of the file count as background; without, the file must hold 0, 1, 2 alone
================ ====================================================================================================

Whatever else stands in the CSV is kept in `Case.extra`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from neonet_core.errors import NeoNetError
from neonet_core.events import Events, Silent, track
from neonet_core.volume import Volume, normalise_intensity, read_label_map, read_volume, same_grid, to_canonical

# Above this share n2 / (n1 + n2) the "liver" is no liver any more (DESIGN.md section 3).
MAX_TUMOUR_SHARE = 0.70
# Share of the body's voxels that may have exactly the image's highest value. Unclipped MRI has under 0.01 % there, also
# when quantised to 8 bits; an image stored after clipping at its 99.5th percentile has 1 to 2 % and is usable; when the
# bright liver itself is flattened it is far more.
MAX_CLIPPED_SHARE = 0.05

FOLDS_FORMAT = 1

# Case ids become file names, on Windows too.
_SAFE_ID = re.compile(r"[A-Za-z0-9_-]([A-Za-z0-9._-]*[A-Za-z0-9_-])?")


@dataclass(frozen=True)
class Case:
    """One row of a manifest.

    Attributes
    ----------
    case_id : str
        Unique, and safe as a file name.
    image : Path
        A volume file, a DICOM folder or a zip of one.
    label_map : Path or None
    outcome : int or None
        0 or 1; None where the manifest leaves it empty (for prediction).
    patient_id : str
    label_values : dict of int to int, or None
        The label file's values to 1 (liver) and 2 (tumour), others to 0; None if the file holds 0, 1, 2.
    extra : dict of str to str
        All further columns.
    """

    case_id: str
    image: Path
    label_map: Path | None
    outcome: int | None
    patient_id: str
    label_values: dict[int, int] | None = None
    extra: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cohort:
    """The cases of a manifest, in its order; `outcome_name` is the outcome's column, "" where none was read."""

    cases: tuple[Case, ...]
    outcome_name: str
    path: Path

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases)

    def subset(self, case_ids: Iterable[str]) -> Cohort:
        """The cases with these ids, in the manifest's order."""
        wanted = set(case_ids)
        return replace(self, cases=tuple(case for case in self.cases if case.case_id in wanted))


def read_manifest(path: str | os.PathLike[str], outcome: str | None = "pni") -> Cohort:
    """Read a manifest.

    Parameters
    ----------
    path : path
        CSV file, UTF-8 with or without byte order mark, separated by comma, semicolon or tab.
    outcome : str or None
        Column of the outcome, values 0, 1 or empty; None reads a cohort without outcomes.

    Returns
    -------
    Cohort
        Whether the files exist is left to `check_cohort`.

    Raises
    ------
    NeoNetError
        MANIFEST_NOT_FOUND; BAD_MANIFEST, naming row and column: a missing column, no rows, an empty or unsafe or
        repeated case_id, an outcome other than 0 and 1, a label value that is no whole number above 0 or that is used
        twice, rows of more fields than columns, no text.
    """
    path = Path(path)
    columns, rows = _read_csv(path)
    needed = ["case_id", "image", *([outcome] if outcome else [])]
    missing = [name for name in needed if name not in columns]
    if missing:
        hint = f"It has the columns {', '.join(columns)}."
        if outcome in missing:
            hint += " Name the outcome's column with --outcome."
        raise _bad_manifest(path, f"lacks the column {' and '.join(missing)}.", hint)
    if not rows:
        raise _bad_manifest(path, "has no rows.", "Write one row a case below the header.")

    cases: list[Case] = []
    seen: dict[str, int] = {}
    for line, row in rows:
        case = _read_case(path, line, row, outcome)
        # Windows and macOS do not tell names apart by case.
        first = seen.setdefault(case.case_id.casefold(), line)
        if first != line:
            raise _bad_manifest(path, f"row {line}, column case_id: {case.case_id} stands in row {first} already.",
                                "Give each row its own case_id; rows of one patient share a patient_id.")
        cases.append(case)
    return Cohort(tuple(cases), outcome or "", path)


def load_case(case: Case) -> tuple[Volume, Volume]:
    """Read a case's image and label map as stored, the labels as 0, 1, 2.

    Raises
    ------
    NeoNetError
        NO_LABEL_MAP if the manifest names none; what `read_volume` and `read_label_map` raise.
    """
    if case.label_map is None:
        raise NeoNetError("NO_LABEL_MAP", f"Case {case.case_id} has no label map.",
                          "Name its file in the manifest's column label_map.")
    return read_case_image(case), read_case_labels(case.label_map, case.label_values)


@dataclass(frozen=True)
class Exclusion:
    """Why a case is left out: a stable code and the reason in words."""

    case_id: str
    code: str
    reason: str


@dataclass(frozen=True)
class CaseFacts:
    """What quality control measured on a readable case.

    Attributes
    ----------
    shape : tuple of int
        Voxels along R, A, S.
    spacing : tuple of float
        Millimetres along R, A, S.
    sha256 : str
        Of the canonical intensities as float32, with their shape: equal for the same image stored otherwise.
    intensity_range : tuple of two floats
        The 0.5th and 99.5th percentile of the intensities, as stored.
    tumour_ml, tumour_share : float or None
        Volume of label 2, and n2 / (n1 + n2), 0 where both are absent; None without a label map.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    sha256: str
    intensity_range: tuple[float, float]
    tumour_ml: float | None = None
    tumour_share: float | None = None


@dataclass(frozen=True)
class QualityReport:
    """The cases that may be used, those left out and why, and the facts of all whose image is sound."""

    included: Cohort
    exclusions: tuple[Exclusion, ...]
    facts: dict[str, CaseFacts]

    def to_json(self) -> dict[str, Any]:
        """The report as plain values for a JSON file."""
        outcomes = [case.outcome for case in self.included]
        return {
            "cases": len(self.included) + len(self.exclusions),
            "included": [case.case_id for case in self.included],
            "outcome": self.included.outcome_name,
            "positives": outcomes.count(1),
            "negatives": outcomes.count(0),
            "exclusions": [asdict(exclusion) for exclusion in self.exclusions],
            "facts": {case_id: asdict(facts) for case_id, facts in self.facts.items()},
        }

    def table(self) -> str:
        """The report as text for people: totals, then one line for each case left out."""
        outcomes = [case.outcome for case in self.included]
        total = len(self.included) + len(self.exclusions)
        lines = [f"{len(self.included)} of {total} cases usable"]
        if self.included.outcome_name:
            lines[0] += f" ({self.included.outcome_name}: {outcomes.count(1)} positive, {outcomes.count(0)} negative)"
        id_width = max((len(exclusion.case_id) for exclusion in self.exclusions), default=0)
        code_width = max((len(exclusion.code) for exclusion in self.exclusions), default=0)
        lines += [f"  {exclusion.case_id:{id_width}}  {exclusion.code:{code_width}}  {exclusion.reason}"
                  for exclusion in self.exclusions]
        return "\n".join(lines)


def check_cohort(cohort: Cohort, events: Events | None = None, need_labels: bool = True) -> QualityReport:
    """Look at every case and tell which may be used.

    Parameters
    ----------
    cohort : Cohort
    events : Events, optional
        Gets the progress.
    need_labels : bool
        Whether each case needs a label map and an outcome (training). A label map that is given is checked anyway.

    Returns
    -------
    QualityReport
        The first reason that is found for each case left out: NO_OUTCOME, NO_LABEL_MAP, the codes of `read_volume` and
        `read_label_map` (a missing or unreadable file, BAD_LABELS), CONSTANT_IMAGE, CLIPPED_IMAGE,
        GRID_MISMATCH, NO_TUMOUR, NO_LIVER, TUMOUR_SHARE, DUPLICATE_IMAGE (of a case that is kept).
    """
    included: dict[str, Case] = {}  # by image hash
    exclusions: list[Exclusion] = []
    all_facts: dict[str, CaseFacts] = {}
    for case in track(cohort.cases, "checking cases", events or Silent()):
        try:
            facts = _check_case(case, need_labels, bool(cohort.outcome_name), all_facts)
            twin = included.get(facts.sha256)
            if twin is not None:
                raise _excluded("DUPLICATE_IMAGE", _describe_twins(case, twin))
            included[facts.sha256] = case
        except NeoNetError as error:
            exclusions.append(Exclusion(case.case_id, error.code, error.message))
        except Exception as error:  # one bad file must not end the check of hundreds
            exclusions.append(Exclusion(case.case_id, "UNREADABLE_FILE", f"{type(error).__name__}: {error}"))
    return QualityReport(replace(cohort, cases=tuple(included.values())), tuple(exclusions), all_facts)


@dataclass(frozen=True)
class Folds:
    """A split of a cohort for cross-validation, written to disk once and reused.

    Attributes
    ----------
    seed : int
    outcome : str
        Column that the split is stratified by.
    validation : tuple of tuple of str
        Case ids of each fold's validation part; together they are the cohort.
    """

    seed: int
    outcome: str
    validation: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.validation)

    def training(self, fold: int) -> tuple[str, ...]:
        """Case ids of a fold's training part: all other folds' validation parts."""
        return tuple(case_id for other, ids in enumerate(self.validation) if other != fold for case_id in ids)

    def restrict(self, cohort: Cohort) -> Folds:
        """The same split of fewer cases: those that quality control has kept."""
        kept = {case.case_id for case in cohort}
        return replace(self, validation=tuple(tuple(case_id for case_id in ids if case_id in kept)
                                              for ids in self.validation))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON; the file appears whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + f".{os.getpid()}.partial")
        partial.write_text(json.dumps({"format": FOLDS_FORMAT, **asdict(self)}, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, path)

    @classmethod
    def read(cls, path: str | os.PathLike[str], cohort: Cohort) -> Folds:
        """Read a split and make sure that it is one of this cohort.

        Raises
        ------
        NeoNetError
            FOLDS_NOT_FOUND; BAD_FOLDS (not a file of ours); FOLDS_MISMATCH (other cases than the cohort's, or one
            patient in two folds).
        """
        path = Path(path)
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["format"] != FOLDS_FORMAT:
                raise ValueError(f"format {stored['format']}")
            folds = cls(int(stored["seed"]), str(stored["outcome"]),
                        tuple(tuple(str(case_id) for case_id in ids) for ids in stored["validation"]))
        except FileNotFoundError:
            raise NeoNetError("FOLDS_NOT_FOUND", f"There is no split {path}.",
                              "Make one with `neonet cohort split`.") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NeoNetError("BAD_FOLDS", f"{path} is not a split of this version ({error}).",
                              "Make it anew with `neonet cohort split`.") from error
        folds._match(cohort, path)
        return folds

    def _match(self, cohort: Cohort, path: Path) -> None:
        hint = f"Make a split of {cohort.path.name} with `neonet cohort split`."
        listed = [case_id for ids in self.validation for case_id in ids]
        expected = {case.case_id for case in cohort}
        repeated = len(listed) - len(set(listed))
        lacking, foreign = sorted(expected - set(listed)), sorted(set(listed) - expected)
        if repeated or lacking or foreign:
            parts = [f"{len(ids)} {what} ({', '.join(ids[:3])}{', ...' if len(ids) > 3 else ''})"
                     for ids, what in ((lacking, "cases are not in it"), (foreign, "are not in the cohort")) if ids]
            parts += [f"{repeated} are listed twice"] if repeated else []
            raise NeoNetError("FOLDS_MISMATCH", f"{path} splits another cohort: {'; '.join(parts)}.", hint)
        fold_of = {case_id: fold for fold, ids in enumerate(self.validation) for case_id in ids}
        home: dict[str, int] = {}
        for case in cohort:
            if home.setdefault(case.patient_id, fold_of[case.case_id]) != fold_of[case.case_id]:
                raise NeoNetError("FOLDS_MISMATCH", f"{path} has patient {case.patient_id} in two folds.", hint)


def stratified_folds(cohort: Cohort, folds: int = 5, seed: int = 0) -> Folds:
    """Split a cohort by patients, each fold with the cohort's share of positives.

    A patient with rows of different outcomes counts as positive. The split depends on the patients, their outcomes
    and the seed, not on the order of the rows.

    Parameters
    ----------
    cohort : Cohort
    folds : int
        Number of folds, at least 2.
    seed : int

    Returns
    -------
    Folds
        Every case in one validation part; positives and negatives differ by at most one patient between folds.

    Raises
    ------
    NeoNetError
        BAD_ARGUMENT; NO_OUTCOME; TOO_FEW_CASES if a class has fewer patients than there are folds.
    """
    from sklearn.model_selection import StratifiedKFold

    if folds < 2:
        raise NeoNetError("BAD_ARGUMENT", f"A split into {folds} folds validates nothing.", "Take at least 2 folds.")
    outcomes = _patient_outcomes(cohort.cases)
    _require_patients(outcomes, folds, f"{folds} folds")
    patients = sorted(outcomes)
    # Splitting patients instead of rows keeps the balance that StratifiedGroupKFold does not promise.
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    fold_of = {patients[index]: fold
               for fold, (_, part) in enumerate(splitter.split(patients, [outcomes[name] for name in patients]))
               for index in part}
    validation = tuple(tuple(case.case_id for case in cohort if fold_of[case.patient_id] == fold)
                       for fold in range(folds))
    return Folds(seed, cohort.outcome_name, validation)


def inner_split(cases: Iterable[Case], fraction: float = 0.2, seed: int = 0) -> tuple[tuple[Case, ...],
                                                                                      tuple[Case, ...]]:
    """Set patients of a training part aside for early stopping.

    Parameters
    ----------
    cases : iterable of Case
    fraction : float
        Share of the patients of each class to set aside, rounded, but at least one and not all.
    seed : int

    Returns
    -------
    train, stop : tuple of Case
        In the order given; no patient in both.

    Raises
    ------
    NeoNetError
        BAD_ARGUMENT; NO_OUTCOME; TOO_FEW_CASES if a class has fewer than two patients.
    """
    if not 0 < fraction < 1:
        raise NeoNetError("BAD_ARGUMENT", f"The share {fraction} to set aside is not between 0 and 1.", "Try 0.2.")
    cases = tuple(cases)
    outcomes = _patient_outcomes(cases)
    _require_patients(outcomes, 2, "an inner split")
    rng = np.random.default_rng(seed)
    aside: set[str] = set()
    for outcome in (0, 1):
        patients = sorted(name for name, value in outcomes.items() if value == outcome)
        count = min(max(round(fraction * len(patients)), 1), len(patients) - 1)
        aside.update(patients[index] for index in rng.permutation(len(patients))[:count])
    return (tuple(case for case in cases if case.patient_id not in aside),
            tuple(case for case in cases if case.patient_id in aside))


def _read_csv(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Column names, and each row with its line number; fields stripped, blank rows left out."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise NeoNetError("MANIFEST_NOT_FOUND", f"There is no manifest {path}.",
                          "Give a CSV file with the columns case_id, image, label_map, pni.") from None
    except PermissionError as error:
        raise _bad_manifest(path, "cannot be read.", "Ask for the right to read it.") from error
    except UnicodeDecodeError as error:
        raise _bad_manifest(path, "is not UTF-8 text.", "Save it as CSV in UTF-8.") from error
    header = text.lstrip().partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        lines = [(reader.line_num, [value.strip() for value in fields]) for fields in reader]
    except csv.Error as error:
        raise _bad_manifest(path, f"is not a CSV file ({error}).", "Save it as CSV in UTF-8.") from error
    lines = [(line, fields) for line, fields in lines if any(fields)]
    if not lines:
        raise _bad_manifest(path, "is empty.", "It starts with the header case_id,image,label_map,pni.")
    columns = lines[0][1]
    repeated = sorted({name for name in columns if name and columns.count(name) > 1})
    if repeated:
        raise _bad_manifest(path, f"has the column {repeated[0]} twice.", "Rename one of them.")
    rows = []
    for line, fields in lines[1:]:
        if any(fields[len(columns):]):
            raise _bad_manifest(path, f"row {line} has {len(fields)} fields for {len(columns)} columns.",
                                "Put text that holds the separator in quotes.")
        padded = fields + [""] * (len(columns) - len(fields))
        rows.append((line, {name: value for name, value in zip(columns, padded, strict=False) if name}))
    return columns, rows


def _read_case(path: Path, line: int, row: dict[str, str], outcome: str | None) -> Case:
    def take(name: str) -> str:
        return row.pop(name, "")

    def bad(column: str, problem: str, hint: str) -> NeoNetError:
        return _bad_manifest(path, f"row {line}, column {column}: {problem}.", hint)

    # Read before the named columns are taken out of the row: the outcome may be any column.
    stated = row.get(outcome, "") if outcome else ""
    case_id, image, label_map, patient_id = (take(name) for name in ("case_id", "image", "label_map", "patient_id"))
    if outcome:
        take(outcome)
    if not _SAFE_ID.fullmatch(case_id):
        raise bad("case_id", f"{case_id!r} cannot be a file name" if case_id else "is empty",
                  "Use letters, digits, '-', '_' and, within, '.'.")
    if not image:
        raise bad("image", "is empty", "Give the path of the image, relative to the manifest.")
    # pandas writes 0.0 and 1.0 as soon as one value is missing.
    known = {"": None, "0": 0, "1": 1, "0.0": 0, "1.0": 1}
    if stated not in known:
        raise bad(str(outcome), f"{stated!r} is not 0 or 1", "Write 1 for yes, 0 for no, nothing if unknown.")

    label_values: dict[int, int] = {}
    for column, label in (("liver_label", 1), ("tumour_label", 2)):
        for text in filter(None, (part.strip() for part in take(column).split("|"))):
            whole = _without_zeros(text)
            if not re.fullmatch(r"[0-9]+", whole) or int(whole) == 0:
                raise bad(column, f"{text!r} is not a whole number above 0", "Join several values by |, e.g. 5|6.")
            if label_values.setdefault(int(whole), label) != label:
                raise bad(column, f"{text} is the liver's value already", "Each value is liver or tumour.")
    if "series" in row:
        row["series"] = _without_zeros(row["series"])
    return Case(case_id, path.parent / image, path.parent / label_map if label_map else None, known[stated],
                patient_id or case_id, label_values or None, row)


def _without_zeros(text: str) -> str:
    """pandas writes 4.0 for 4 as soon as one value of a column is missing."""
    return re.sub(r"^([0-9]+)\.0+$", r"\1", text)


def _bad_manifest(path: Path, problem: str, hint: str) -> NeoNetError:
    return NeoNetError("BAD_MANIFEST", f"The manifest {path}: {problem}", hint)


def _check_case(case: Case, need_labels: bool, need_outcome: bool, all_facts: dict[str, CaseFacts]) -> CaseFacts:
    """Measure a case, note its facts as soon as they are known, and raise the first reason against it."""
    if need_labels and need_outcome and case.outcome is None:
        raise _excluded("NO_OUTCOME", "The manifest gives no outcome.")
    if case.label_map is None:
        if need_labels:
            raise _excluded("NO_LABEL_MAP", "The manifest names no label map.")
        stored, labels = read_case_image(case), None
    else:
        stored, labels = load_case(case)
    image = to_canonical(stored)
    intensity_range = normalise_intensity(image.array)[1]  # raises CONSTANT_IMAGE
    _check_clipping(image.array)
    facts = CaseFacts(image.shape, _rounded(image.spacing), _content_hash(image.array), intensity_range)
    if labels is not None:
        liver, tumour = (int(np.count_nonzero(labels.array == label)) for label in (1, 2))
        share = tumour / max(liver + tumour, 1)
        facts = replace(facts, tumour_ml=tumour * labels.voxel_volume_ml, tumour_share=share)
    all_facts[case.case_id] = facts
    if labels is not None:
        if not same_grid(stored, labels):
            raise _excluded("GRID_MISMATCH", f"Image {stored.shape} and label map {labels.shape} lie on different "
                                             "grids.")
        if tumour == 0:
            raise _excluded("NO_TUMOUR", "The label map holds no tumour.")
        if liver == 0:
            raise _excluded("NO_LIVER", "The label map holds no liver.")
        if share > MAX_TUMOUR_SHARE:
            raise _excluded("TUMOUR_SHARE", f"The tumour is {share:.0%} of liver and tumour, over "
                                            f"{MAX_TUMOUR_SHARE:.0%}.")
    return facts


def read_case_image(case: Case) -> Volume:
    """A case's image as stored; the column ``series`` says which one of a DICOM folder or .zip."""
    return read_volume(case.image, case.extra.get("series") or None)


def read_case_labels(path: Path, values: dict[int, int] | None) -> Volume:
    """A manifest's label map as 0, 1, 2; `values` are `Case.label_values`."""
    if values is None:
        return read_label_map(path)
    # The manifest names the two structures of a file that may hold many: whatever is not named is background.
    stored = read_volume(path)
    array = stored.array
    if array.dtype.kind == "f":
        array = np.rint(array)
        if not np.allclose(array, stored.array, rtol=0, atol=1e-3):
            raise NeoNetError("BAD_LABELS", f"{path}: the label map holds values that are not whole.",
                              "It may have been resampled: labels are resampled by the nearest neighbour.")
    labels = np.zeros(array.shape, np.uint8)
    for value, label in values.items():
        labels[array == value] = label
    return Volume(labels, stored.affine)


def _check_clipping(array: np.ndarray) -> None:
    highest = array.max()
    body = array > array.mean(dtype=np.float64)
    clipped = np.count_nonzero(array == highest) / np.count_nonzero(body)
    if clipped > MAX_CLIPPED_SHARE:
        raise _excluded("CLIPPED_IMAGE", f"{clipped:.0%} of the body's voxels have the highest value "
                                         f"{float(highest):g}: a saturated image, or a mask.")


def _rounded(spacing: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(size, 4) for size in spacing)


def _content_hash(array: np.ndarray) -> str:
    digest = hashlib.sha256(repr(array.shape).encode())
    digest.update(np.ascontiguousarray(array, dtype="<f4").data)
    return digest.hexdigest()


def _describe_twins(case: Case, twin: Case) -> str:
    text = f"The image is that of case {twin.case_id}"
    if case.outcome != twin.outcome:
        text += f"; yet the outcomes differ ({twin.outcome} there, {case.outcome} here): check both"
    if case.patient_id != twin.patient_id:
        text += "; the patient_id differs too" if case.outcome != twin.outcome else "; yet the patient_id differs"
    return text + "."


def _excluded(code: str, reason: str) -> NeoNetError:
    return NeoNetError(code, reason)


def _patient_outcomes(cases: Sequence[Case]) -> dict[str, int]:
    """Each patient's outcome: positive if one of the rows is."""
    outcomes: dict[str, int] = {}
    for case in cases:
        if case.outcome is None:
            raise NeoNetError("NO_OUTCOME", f"Case {case.case_id} has no outcome, so it cannot be split by outcome.",
                              "Fill in the outcome, or leave the case out.")
        outcomes[case.patient_id] = max(outcomes.get(case.patient_id, 0), case.outcome)
    return outcomes


def _require_patients(outcomes: dict[str, int], least: int, purpose: str) -> None:
    counts = {outcome: list(outcomes.values()).count(outcome) for outcome in (0, 1)}
    if min(counts.values()) < least:
        raise NeoNetError("TOO_FEW_CASES", f"{counts[1]} positive and {counts[0]} negative patients are too few for "
                                           f"{purpose}.", f"At least {least} of each are needed.")
