"""What a batch is given: a manifest, a folder of volumes, a tree of DICOM studies; each a list of cases.

Case ids become folder names and stand in every log and table. A manifest's are taken as they are. Files and studies
carry names of patients often enough, so that theirs are pseudonyms: made with a secret that lies in the batch's folder,
of the file's path below the given folder or of the study's UID, they stay the same when others are added.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from neonet_core.cohort import Case, read_manifest
from neonet_core.dicom.identity import Pseudonyms
from neonet_core.errors import NeoNetError
from neonet_core.events import Events
from neonet_core.training.files import files_below, sha256_of_json
from neonet_core.volume import ITK_SUFFIXES, NIFTI_SUFFIXES

VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, *ITK_SUFFIXES)
SERIES_COLUMN, NOTE_COLUMN = "series", "explanation"
"""Of a manifest: which series of a DICOM folder or zip, by its number or UID; and why (`cohort from-dicom`)."""

SHORTEST_NAME = 4
"""Shorter names of files tell nobody, and "17" is a number of slices as well."""

_UNPACKED = re.compile(r"\b\d{6}-[\w.-]+")
"""How `dicom_series` calls the files of a zip: with the end of their own names."""


@dataclass(frozen=True)
class BatchCase:
    """One case to be run.

    Attributes
    ----------
    case_id : str
        Unique, safe as a file name, no patient's name.
    image : Path
        A volume file, a DICOM folder or a zip of one.
    series : str or None
        Which series of the DICOM folder or zip; None: the only one, or the one that looks like the right one.
    label_map : Path or None
        Replaces our segmentation.
    label_values : dict of int to int, or None
        As `cohort.Case.label_values`.
    note : str
        Why this series was taken.
    error : NeoNetError or None
        Why it cannot be run; known before anything is read.
    content : str
        Of a DICOM study what tells its content: UIDs and numbers of files. Its folder may hold other studies too.
    """

    case_id: str
    image: Path
    series: str | None = None
    label_map: Path | None = None
    label_values: dict[int, int] | None = None
    note: str = ""
    error: NeoNetError | None = None
    content: str = ""

    @property
    def is_dicom(self) -> bool:
        return self.image.is_dir() or self.image.suffix.lower() in (".zip", ".dcm")

    def fingerprint(self) -> str:
        """Changes when the case's files do: by size and time, as reading hundreds of volumes would take too long."""
        files = [self.content or list(_stamps(self.image)), list(_stamps(self.label_map)) if self.label_map else None]
        return sha256_of_json({"files": files, "series": self.series, "values": self.label_values})[:16]

    def anonymous(self, text: str) -> str:
        """`text` with the case's id where it names the case's files or folders."""
        for path in filter(None, (self.image, self.label_map)):
            names = [str(path), *([path.name] if path.suffix else []), str(path.parent)]
            if path.is_dir():
                names += [file.name for file in files_below(path)]
            for name in names:
                if len(name) < SHORTEST_NAME:
                    continue
                text = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", self.case_id, text)
        return _UNPACKED.sub(self.case_id, text)


def read_cases(source: Path, out: Path, pseudonyms: Pseudonyms, events: Events) -> list[BatchCase]:
    """The cases of a manifest or folder, in a stable order.

    Parameters
    ----------
    source : Path
        A CSV as `cohort.read_manifest` reads it, of which `case_id` and `image` are needed; its columns `series` and
        `explanation` are those of `neonet cohort from-dicom`. Or a folder, of which all volumes (NIfTI, NRRD,
        MetaImage) and all DICOM studies count, at any depth, but no hidden files.
    out : Path
        The batch's own folder, which may lie in `source`.

    Raises
    ------
    NeoNetError
        ``FILE_NOT_FOUND``, ``NO_CASES``; what `read_manifest` raises.
    """
    if not source.exists():
        raise NeoNetError("FILE_NOT_FOUND", f"There is no {source}.", "Give a manifest (.csv) or a folder.")
    if source.is_dir():
        return _cases_in_folder(source, out, pseudonyms, events)
    if _suffix_is(source, VOLUME_SUFFIXES):
        raise NeoNetError("USAGE", f"{source.name} is one image, not a cohort.", "Use 'neonet predict' for it.")
    return [_case_of_row(case) for case in read_manifest(source, outcome=None)] or _none(source)


def _case_of_row(case: Case) -> BatchCase:
    return BatchCase(case.case_id, case.image, case.extra.get(SERIES_COLUMN) or None, case.label_map,
                     case.label_values, case.extra.get(NOTE_COLUMN, ""))


def _cases_in_folder(folder: Path, out: Path, pseudonyms: Pseudonyms, events: Events) -> list[BatchCase]:
    files = [file for file in files_below(folder) if not file.is_relative_to(out)]
    volumes = [file for file in files if _suffix_is(file, VOLUME_SUFFIXES)]
    cases = [BatchCase(pseudonyms.patient("", file.relative_to(folder).as_posix()), file) for file in volumes]
    if len(volumes) < len(files):
        try:
            studies = _studies(folder, out, pseudonyms, events)
        except NeoNetError as error:
            if error.code != "MISSING_PACKAGE" or not volumes:
                raise
            events.log(f"DICOM studies are not looked for: {error.message} {error.hint}", "warning")
            studies = []
        if not studies:
            events.log(f"{len(files) - len(volumes)} other files are neither volumes nor DICOM: not looked at.")
        cases += studies
    return cases or _none(folder)


def _studies(folder: Path, out: Path, pseudonyms: Pseudonyms, events: Events) -> list[BatchCase]:
    """A case for each DICOM study; one without a suitable series is a case that fails, not one that is missing."""
    from neonet_core.dicom import studies

    try:
        found = studies.find_studies(folder, events, but=out)
    except NeoNetError as error:
        if error.code == "NO_DICOM":
            return []
        raise
    cases = []
    for study in found:
        case_id, chosen = pseudonyms.case_id(study.uid, study.patient_id), study.chosen
        content = " ".join(f"{one.uid}:{one.files}" for one in ((chosen,) if chosen else study.series))
        if chosen is None:
            cases.append(BatchCase(case_id, folder, error=no_series(study.reason), content=content))
        else:
            cases.append(BatchCase(case_id, chosen.path, chosen.selector or None, note=study.reason, content=content))
    return sorted(cases, key=lambda case: case.case_id)


def no_series(reason: str) -> NeoNetError:
    """The error for a study none of whose series looks like the hepatobiliary phase."""
    return NeoNetError("NO_SERIES", f"{reason[:1].upper()}{reason[1:].rstrip('.')}.", "Where one is meant all the "
                       "same, name it in a manifest's column 'series' ('neonet cohort from-dicom' lists them).")


def _none(source: Path) -> list[BatchCase]:
    raise NeoNetError("NO_CASES", f"{source} holds no case.", "Give a manifest with rows, or a folder of NIfTI, NRRD "
                      "or MetaImage files or of DICOM studies.")


def _suffix_is(file: Path, suffixes: tuple[str, ...]) -> bool:
    return file.name.lower().endswith(suffixes)


def _stamps(path: Path) -> Iterator[tuple[int, int]]:
    """Size and time of a file, or of all files in a folder; nothing where there is none."""
    for file in files_below(path) if path.is_dir() else [path]:
        try:
            found = file.stat()
        except OSError:
            continue
        yield found.st_size, found.st_mtime_ns
