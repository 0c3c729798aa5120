"""A tree of DICOM studies as a manifest: the hepatobiliary phase of each study under a pseudonym, and why it was taken.

Beside ``CASES.csv`` lie ``CASES-series.csv`` with every series of every study and what spoke for and against it, and
the secret of the pseudonyms. A file of the user's own choices overrides ours.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from neonet_core.cohort import Case, read_manifest
from neonet_core.dicom.identity import Pseudonyms
from neonet_core.dicom.studies import Scan, SeriesInfo, Study, scan_tree, with_choices
from neonet_core.errors import NeoNetError
from neonet_core.events import Events, Silent
from neonet_core.training.files import relative_path, write_bytes, write_text

COLUMNS = ("case_id", "image", "label_map", "pni", "patient_id", "series", "explanation")
SERIES_COLUMNS = ("case_id", "series", "chosen", "points", "slices", "explanation")


@dataclass(frozen=True)
class Written:
    """What `write_cases` made.

    Attributes
    ----------
    cases, series : Path
        The manifest, and the list of all series.
    count : int
        Rows of the manifest.
    left_out : dict of str to str
        Case id to the reason, of studies without a hepatobiliary phase.
    scan : Scan
    """

    cases: Path
    series: Path
    count: int
    left_out: dict[str, str]
    scan: Scan


def write_cases(tree: Path, out: Path, choices: Mapping[str, str] | None = None,
                events: Events | None = None) -> Written:
    """Write the manifest of a tree of DICOM studies.

    Parameters
    ----------
    tree : Path
        Folder with studies, unpacked or in zips, at any depth.
    out : Path
        The manifest. What an earlier one of this name says of outcome, label map and further columns is kept, and the
        earlier one itself as ``CASES-earlier.csv``.
    choices : mapping, optional
        Case id to series number or SeriesInstanceUID (`read_choices`).

    Returns
    -------
    Written

    Raises
    ------
    NeoNetError
        As `scan_tree` and `with_choices`; ``NO_SERIES`` where no study has a hepatobiliary phase;
        ``IDENTITY_IN_PATH`` where paths hold patients' names and no links can be made in their place.
    """
    events = events or Silent()
    known = _known_cases(out)
    scan = scan_tree(tree, events)
    out.parent.mkdir(parents=True, exist_ok=True)
    pseudonyms = Pseudonyms.in_folder(out.parent)
    studies = list(with_choices(scan.studies, choices or {},
                                lambda study: pseudonyms.case_id(study.uid, study.patient_id)))
    by_case = sorted(((pseudonyms.case_id(study.uid, study.patient_id), study) for study in studies),
                     key=lambda one: one[0])
    series_file = out.with_name(f"{out.stem}-series.csv")
    _write_csv(series_file, SERIES_COLUMNS, _series_rows(by_case))
    rows, left_out, linked = [], {}, 0
    for case_id, study in by_case:
        if study.chosen is None:
            left_out[case_id] = study.reason
            continue
        image = relative_path(study.chosen.path, out.parent)
        if _names_patient(image, study):
            image = relative_path(_link(study.chosen, out, case_id), out.parent)
            linked += 1
        rows.append({"case_id": case_id, "image": image, "patient_id": pseudonyms.patient(study.patient_id, study.uid),
                     "series": study.chosen.selector, "explanation": study.reason,
                     **_kept(known.get(case_id), out.parent)})
    if not rows:
        raise NeoNetError("NO_SERIES", f"None of {len(studies)} studies has a series that looks like the hepatobiliary "
                          "phase.", f"Why is in {series_file}; choose series there with --series-choice.")
    if known:
        write_bytes(out.with_name(f"{out.stem}-earlier.csv"), out.read_bytes())  # it may name cases that have gone
        gone = set(known) - {row["case_id"] for row in rows}
        if gone:
            events.log(f"{len(gone)} cases of the earlier manifest are not in this one; they stand in "
                       f"{out.stem}-earlier.csv.", "warning")
    further = dict.fromkeys(name for row in rows for name in row if name not in COLUMNS)
    _write_csv(out, (*COLUMNS, *further), rows)
    if linked:
        events.log(f"{linked} images are named by links in {_links_folder(out).name}/, since their paths hold a name "
                   "or number of the patient.")
    for case_id, reason in left_out.items():
        events.log(f"{case_id}: {reason}", "warning")
    return Written(out, series_file, len(rows), left_out, scan)


def read_choices(path: Path) -> dict[str, str]:
    """The user's own choices: a CSV with the columns case_id and series; rows with an empty series do not count.

    Raises
    ------
    NeoNetError
        ``BAD_CHOICES``: no such columns, or two choices for a case; ``FILE_NOT_FOUND``.
    """
    hint = "Write a CSV with the columns case_id,series: one row for each case whose series you choose."
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise NeoNetError("FILE_NOT_FOUND", f"There is no {path}.", hint) from error
    except UnicodeDecodeError as error:
        raise NeoNetError("BAD_CHOICES", f"{path} is not UTF-8 text.", hint) from error
    reader = csv.DictReader(io.StringIO(text), delimiter=max(",;\t", key=text.partition("\n")[0].count))
    if not {"case_id", "series"} <= set(reader.fieldnames or ()):
        raise NeoNetError("BAD_CHOICES", f"{path} lacks the column case_id or series.", hint)
    choices: dict[str, str] = {}
    for row in reader:
        case_id, series = ((row[name] or "").strip() for name in ("case_id", "series"))
        if series and choices.setdefault(case_id, series) != series:
            raise NeoNetError("BAD_CHOICES", f"{path} chooses two series for {case_id}.", hint)
    return choices


def _known_cases(out: Path) -> dict[str, Case]:
    return {case.case_id: case for case in read_manifest(out)} if out.exists() else {}


def _kept(case: Case | None, folder: Path) -> dict[str, str]:
    """What the user has filled in."""
    if case is None:
        return {"label_map": "", "pni": ""}
    own = {name: value for name, value in case.extra.items() if name not in COLUMNS}
    values = case.label_values or {}
    meanings = {column: "|".join(str(value) for value, label in values.items() if label == meant)
                for column, meant in (("liver_label", 1), ("tumour_label", 2))}
    return {"label_map": "" if case.label_map is None else relative_path(case.label_map, folder),
            "pni": "" if case.outcome is None else str(case.outcome), **own,
            **{column: text for column, text in meanings.items() if text}}


def _series_rows(by_case: Sequence[tuple[str, Study]]) -> Iterator[dict[str, str]]:
    for case_id, study in by_case:
        numbers = [one.number for one in study.series]
        for one in study.series:
            unique = one.number and numbers.count(one.number) == 1
            yield {"case_id": case_id, "series": one.number if unique else one.uid,
                   "chosen": "yes" if study.chosen is not None and one.uid == study.chosen.uid else "",
                   "points": "" if one.excluded else str(one.score), "slices": str(one.slices),
                   "explanation": one.explanation}


def _write_csv(path: Path, columns: Sequence[str], rows: Iterator[dict[str, str]] | list[dict[str, str]]) -> None:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, stream.getvalue())


# --- paths without identity -------------------------------------------------------------------------------------------


def _names_patient(path: str, study: Study) -> bool:
    """Whether a path holds part of the patient's name, the patient id, birth date or accession number."""
    squeezed = _squeezed(path)
    return any((len(part) >= 3 or not part.isascii()) and part in squeezed
               for part in map(_squeezed, study.identifiers))


def _squeezed(text: str) -> str:
    """Letters and digits, without accents, with one spelling for umlauts: Schröder, Schroeder and SCHRODER are one."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    return re.sub(r"([aou])e", r"\1", re.sub(r"[\W_]", "", plain))


def _links_folder(out: Path) -> Path:
    return out.with_name(f"{out.stem}-images")


def _link(series: SeriesInfo, out: Path, case_id: str) -> Path:
    """A link under the case's pseudonym to a folder or zip whose own name must not stand in the manifest."""
    folder = _links_folder(out)
    folder.mkdir(exist_ok=True)
    link = folder / (case_id + (series.path.suffix.lower() if series.path.is_file() else ""))
    try:
        link.unlink(missing_ok=True)
        link.symlink_to(series.path.absolute(), target_is_directory=series.path.is_dir())
    except OSError as error:
        raise NeoNetError("IDENTITY_IN_PATH", f"The path of case {case_id} holds a name or number of its patient, and "
                          "no link can be made in its place.", "Rename the folders, or allow links (on Windows: "
                          "developer mode).") from error
    return link
