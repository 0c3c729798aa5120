"""Studies in a tree of DICOM files, and the series of each that looks most like the hepatobiliary phase.

The hepatobiliary phase is a fat-suppressed, T1-weighted 3D gradient echo, some 20 minutes (gadobenate: one to three
hours) after a liver-specific contrast agent. No attribute says so; several together do, so each gives points, and the
reasons are kept in words. Reasons quote the words that were found and never a whole description, which may hold a name.
"""

from __future__ import annotations

import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from neonet_core.dicom.source import quiet, required
from neonet_core.dicom_series import checked_members
from neonet_core.errors import NeoNetError
from neonet_core.events import Events, Silent, track
from neonet_core.training.files import files_below

LEAST_SCORE = 7
"""A series of fewer points is not taken: one of several T1 3D gradient echoes without a sign of its phase has 6."""
LEAST_SLICES = 16
DYNAMIC_MINUTES = 8.0
"""Until then after the injection a series belongs to the dynamic phases."""
PHASE_MINUTES = {"gadoxetate": (8.0, 60.0), "gadobenate": (40.0, 240.0), "other": (8.0, 240.0)}

MR_IMAGES = ("1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.4")
DICOMDIR = "1.2.840.10008.1.3.10"
FUNCTIONAL_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
WANTED = (
    "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID",
    "PatientName", "PatientBirthDate", "AccessionNumber", "Modality", "SeriesNumber", "ImageType",
    "SeriesDescription", "ProtocolName", "SequenceName", "PulseSequenceName", "ScanningSequence", "ScanOptions",
    "EchoPulseSequence", "MRAcquisitionType", "EchoTime", "RepetitionTime", "DiffusionBValue", "ContrastBolusAgent",
    "ContrastBolusAgentSequence", "ContrastBolusStartTime", "AcquisitionDate", "AcquisitionTime",
    "AcquisitionDateTime", "ContentTime", "SeriesTime", "StudyDate", "Rows", "Columns", "NumberOfFrames",
    "ImagePositionPatient", "ImageOrientationPatient", *FUNCTIONAL_GROUPS)

# Words are looked for in text without case and punctuation: "t1_vibe_fs_20min" is "t1 vibe fs 20min".
_HEPATOBILIARY = (r"hbp\w*|hb phase|hepatobil\w*|hepatocyte\w*|hepatozyt\w*|leberspez\w*|liver specific|hepatospez\w*|"
                  r"(?:1[2-9]|[2-9]\d|1[0-8]0)\s?(?:min|mn)\w*")
_LATE = r"delay\w*|late|spaet\w*|tardi\w*"
_DYNAMIC = (r"arterial\w*|art|aart|portal\w*|porto\w*|portven\w*|pv|pvp|venous|venoes\w*|ven|equilib\w*|transitional|"
            r"dyn\w*|native?|nativ|pre|precontrast|pre contrast|unenhanced|ohne km|early|bolus|care bolus|"
            r"(?:[1-9]|10)\s?min\w*|\d+\s?s(?:ec\w*)?|multiphase|ph(?:ase)?\s?\d")
_T1_GRADIENT_ECHO = (r"t1\w*|vibe\w*|lava\w*|e?thrive\w*|fame|fspgr\w*|flash\w*|tfe3d|quick3d\w*|tigre|starvibe|"
                     r"disco|mdixon\w*")
_FAT_SUPPRESSED = r"fs|fatsat\w*|fat sat|spair|spir|ssrf|water|wat|w|q fs|quickfatsat"
_EXCLUDING = {
    "a localiser": r"loc|localis\w*|localiz\w*|scout|survey|3 ?plane|plan scan",
    "diffusion": r"dwi\w*|adc\w*|diff\w*|b\s?\d{2,4}|trace\w*|ivim|ep2d\w*|epi",
    "a subtraction": r"sub|subs|subtr\w*",
    "a projection": r"mip\w*|minip|projection\w*|vr|3d recon\w*",
    "an in- or opposed-phase or fat image": r"(?:in|out|opp|opposed|out of|oop) ?phase|ip|oop|opp|"
                                            r"(?<!post )(?<!pre )op|inopp|in opp|fat fraction|pdff|ff|r2 ?star|r2|"
                                            r"fat only",
    "T2-weighted, MRCP or steady state": r"t2\w*|haste\w*|ssfse\w*|sshtse|stir|flair|mrcp|trufi\w*|truefisp|fiesta\w*|"
                                         r"b?ssfp|b?tfe bal|bffe|space|propeller\w*|blade|tse\w*|fse\w*",
    "a map": r"map|t1map\w*|molli|elast\w*|mre|swi|phase map|b1|b0",
}
_EXCLUDING_TYPES = {
    "LOCALIZER": "a localiser", "ADC": "diffusion", "DIFFUSION": "diffusion", "TRACEW": "diffusion", "FA": "diffusion",
    "SUB": "a subtraction", "SUBTRACTION": "a subtraction", "SUBTRACT": "a subtraction", "MIP": "a projection",
    "PROJECTION IMAGE": "a projection", "CSA MIP": "a projection", "MAX_IP": "a projection",
    "MIN_IP": "a projection", "IN_PHASE": "an in- or opposed-phase or fat image",
    "OUT_PHASE": "an in- or opposed-phase or fat image", "OPP_PHASE": "an in- or opposed-phase or fat image",
    "OP": "an in- or opposed-phase or fat image", "IP": "an in- or opposed-phase or fat image",
    "FAT": "an in- or opposed-phase or fat image", "F": "an in- or opposed-phase or fat image",
    "FAT_FRACTION": "an in- or opposed-phase or fat image", "FF": "an in- or opposed-phase or fat image",
    "R2_STAR": "a map", "R2STAR": "a map", "T2_STAR": "a map", "T1 MAP": "a map", "T1_MAP": "a map", "PHASE": "a map",
    "P": "a map", "SCREEN SAVE": "a screenshot"}
_AGENTS = {"gadoxetate": r"gadoxet\w*|primovist|eovist|gd eob\w*|eob dtpa", "gadobenate": r"gadobenat\w*|multihance|"
           r"gd bopta|bopta"}


@dataclass(frozen=True)
class SeriesInfo:
    """One series of a study and how much it looks like the hepatobiliary phase.

    Attributes
    ----------
    uid, number : str
        SeriesInstanceUID, and the SeriesNumber that people know it by ("" where there is none).
    path : Path
        The folder with its files, at any depth and perhaps beside others, or the zip.
    files : int
        Of this series.
    slices : int
        Files, or frames of its multi-frame file.
    score : int
        Points; 0 where it is excluded.
    reasons : tuple of str
        What gave or cost points.
    excluded : str
        Why it cannot be the one; "" where it can.
    selector : str
        What `read_volume` needs besides the path: "" where the series lies there alone, else its number, or its UID
        where numbers are not unique.
    """

    uid: str = field(repr=False)
    number: str
    path: Path = field(repr=False)
    files: int
    slices: int
    score: int = 0
    reasons: tuple[str, ...] = ()
    excluded: str = ""
    selector: str = ""

    @property
    def name(self) -> str:
        """How it is called in explanations: by its number, never its description."""
        return f"series {self.number}" if self.number else "a series without number"

    @property
    def explanation(self) -> str:
        """In one line why it was excluded, or what gave it its points."""
        if self.excluded:
            return f"{self.name}: {self.excluded}"
        return f"{self.name}, {self.score} points: {'; '.join(self.reasons)}"


@dataclass(frozen=True)
class Study:
    """One study and the series chosen of it.

    Attributes
    ----------
    uid, patient_id : str
        Identity: for pseudonyms only, never shown.
    identifiers : frozenset of str
        What must not stand in a path or a log: parts of the name, patient id, birth date, accession number.
    series : tuple of SeriesInfo
        The most likely first.
    chosen : SeriesInfo or None
        None where no series looks like the hepatobiliary phase.
    reason : str
        Why, in words.
    """

    uid: str = field(repr=False)
    patient_id: str = field(repr=False)
    identifiers: frozenset[str] = field(repr=False)
    series: tuple[SeriesInfo, ...]
    chosen: SeriesInfo | None
    reason: str

    def choose(self, series: str) -> Study:
        """The study with another series: a SeriesInstanceUID or series number. Raises ``SERIES_NOT_FOUND``."""
        found = [one for one in self.series if series == one.uid] or [
            one for one in self.series if series == one.number]
        if len(found) != 1:
            numbers = ", ".join(one.number or "(none)" for one in self.series)
            raise NeoNetError("SERIES_NOT_FOUND", f"The study has {'several' if found else 'no'} series {series}; it "
                              f"has the numbers {numbers}.", "Give a SeriesInstanceUID where numbers are not unique.")
        instead = "" if self.chosen is None or self.chosen is found[0] else f", instead of {self.chosen.explanation}"
        against = f", although excluded ({found[0].excluded})" if found[0].excluded else ""
        return replace(self, chosen=found[0], reason=f"{found[0].name}: chosen by the user{against}{instead}")


@dataclass(frozen=True)
class Scan:
    """What a tree holds: its studies, and how many files are no DICOM, and are damaged."""

    studies: tuple[Study, ...]
    not_dicom: int
    damaged: int

    @property
    def summary(self) -> str:
        """For the log."""
        chosen = sum(study.chosen is not None for study in self.studies)
        return (f"{len(self.studies)} studies, {chosen} with a hepatobiliary phase; skipped {self.not_dicom} files "
                f"that are not DICOM and {self.damaged} that are damaged")


def find_studies(tree: Path, events: Events | None = None, but: Path | None = None) -> list[Study]:
    """The studies in a tree, each with its choice; how many files were skipped goes to the log. See `scan_tree`."""
    events = events or Silent()
    scan = scan_tree(tree, events, but)
    events.log(scan.summary + ".")
    return list(scan.studies)


def scan_tree(tree: Path, events: Events | None = None, but: Path | None = None) -> Scan:
    """Read the headers of all files below a folder, and of those in its zips.

    Parameters
    ----------
    tree : Path
        Folder, or one zip.
    events : Events, optional
        Gets the progress.
    but : Path, optional
        A folder in it that is left out: our own outputs.

    Returns
    -------
    Scan
        Studies in the order of their StudyInstanceUID. Whatever is not DICOM or damaged is skipped and counted.

    Raises
    ------
    NeoNetError
        ``FILE_NOT_FOUND``; ``NO_DICOM`` where there is no study at all.
    """
    if not tree.exists():
        raise NeoNetError("FILE_NOT_FOUND", f"There is no {tree}.", "Check the path.")
    found = _Found()
    files = [tree] if tree.is_file() else [
        path for path in files_below(tree) if path.is_file() and not (but and path.is_relative_to(but))]
    with quiet():
        for path in track(files, "reading DICOM headers", events or Silent()):
            if path.suffix.lower() == ".zip":
                found.add_zip(path)
            else:
                found.add_file(path)
    if not found.series:
        raise NeoNetError("NO_DICOM", f"{tree} holds no DICOM study.", "Give the folder above the studies.")
    together = _lying_together(found.series.values())
    studies: dict[str, list[tuple[_Series, str]]] = defaultdict(list)
    for (study_uid, _), one in sorted(found.series.items(), key=lambda item: item[0]):
        studies[study_uid].append((one, _selector(one, together[one.path])))
    return Scan(tuple(_study(uid, *zip(*series, strict=True)) for uid, series in studies.items()), found.not_dicom,
                found.damaged)


def _lying_together(series: Iterable[_Series]) -> dict[Path, list[_Series]]:
    """Which series have files in or below a folder, or in a zip."""
    there: dict[Path, list[_Series]] = defaultdict(list)
    for one in series:
        for place in {place for path in one.paths for place in (path, *path.parents)}:
            there[place].append(one)
    return there


def _selector(series: _Series, together: Sequence[_Series]) -> str:
    if len(together) == 1:
        return ""
    numbers = [_text(one.header, "SeriesNumber") for one in together]
    number = _text(series.header, "SeriesNumber")
    return number if number and numbers.count(number) == 1 else _text(series.header, "SeriesInstanceUID")


# --- reading headers --------------------------------------------------------------------------------------------------


class _Series:
    """What the files of one series say: one header, and of each slice where it lies."""

    def __init__(self, header: Any) -> None:
        self.header = header
        self.paths: list[Path] = []
        self.instances: set[str] = set()
        self.places: list[tuple[float, ...]] = []  # one a slice
        self.is_zip = False  # at least one file lies in a zip

    @property
    def slices(self) -> int:
        return len(self.places)

    @property
    def path(self) -> Path:
        """Where `read_volume` finds it: the zip, the multi-frame file's or the files' folder."""
        if self.is_zip:
            return self.paths[0]
        folders = {path.parent for path in self.paths}
        first = next(iter(folders))
        return first if len(folders) == 1 else Path(*_common([folder.parts for folder in folders]))


class _Found:
    """The series read so far, by study and series UID."""

    def __init__(self) -> None:
        self._pydicom = required("pydicom")
        self.series: dict[tuple[str, str], _Series] = {}
        self.not_dicom = self.damaged = 0

    def add_file(self, path: Path) -> None:
        try:
            with open(path, "rb") as stream:
                self.add(stream, path)
        except OSError:
            self.damaged += 1

    def add_zip(self, path: Path) -> None:
        try:
            with zipfile.ZipFile(path) as archive:
                for member in checked_members(archive):
                    with archive.open(member) as stream:
                        self.add(stream, path, is_zip=True)
        except Exception:  # zipfile, zlib, bz2 and lzma raise many kinds on damage; unsafe and encrypted ones too
            self.damaged += 1

    def add(self, stream: Any, path: Path, is_zip: bool = False) -> None:
        """Note a file of a series; count what is none."""
        try:
            header = self._pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=list(WANTED))
        except self._pydicom.errors.InvalidDicomError:
            self.not_dicom += 1
            return
        except Exception:  # a damaged file makes pydicom raise nearly anything
            self.damaged += 1
            return
        key = (_text(header, "StudyInstanceUID"), _text(header, "SeriesInstanceUID"))
        instance = _text(header, "SOPInstanceUID")
        if _text(header.file_meta, "MediaStorageSOPClassUID") == DICOMDIR:
            return
        if not (all(key) and instance):  # what a broken transfer has left
            self.damaged += 1
            return
        series = self.series.setdefault(key, _Series(header))
        if instance not in series.instances:  # a copy in another folder adds nothing
            series.instances.add(instance)
            series.paths.append(path)
            series.is_zip |= is_zip
            series.places += _places(header)


def _places(header: Any) -> list[tuple[float, ...]]:
    """Position and orientation of each slice of a file, rounded; empty tuples where it does not say."""
    frames = _sequence(header, "PerFrameFunctionalGroupsSequence")
    if not frames:
        return [_numbers(header, "ImagePositionPatient") + _numbers(header, "ImageOrientationPatient")]
    shared = (_sequence(header, "SharedFunctionalGroupsSequence") or [{}])[0]

    def of(frame: Any, group: str, name: str) -> tuple[float, ...]:
        items = _sequence(frame, group) or _sequence(shared, group)
        return _numbers(items[0], name) if items else ()

    return [of(frame, "PlanePositionSequence", "ImagePositionPatient")
            + of(frame, "PlaneOrientationSequence", "ImageOrientationPatient") for frame in frames]


def _get(header: Any, name: str) -> Any:
    """A value, or None where it is missing, empty or so damaged that pydicom cannot convert it."""
    try:
        return header.get(name)
    except Exception:
        return None


def _text(header: Any, name: str) -> str:
    value = _get(header, name)
    return "" if value is None else str(value).strip(" \0")


def _numbers(header: Any, name: str) -> tuple[float, ...]:
    value = _get(header, name)
    try:
        return () if value is None else tuple(round(float(part), 3) for part in np.atleast_1d(value))
    except (TypeError, ValueError):
        return ()


def _sequence(header: Any, name: str) -> list[Any]:
    return list(_get(header, name) or [])


def _parts(header: Any, name: str) -> list[str]:
    value = _get(header, name)
    return [] if value is None else [str(part).strip() for part in ([value] if isinstance(value, str) else value)]


def _common(parts: Sequence[tuple[str, ...]]) -> list[str]:
    shared = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return shared


# --- choosing ---------------------------------------------------------------------------------------------------------


def _study(uid: str, series: Sequence[_Series], selectors: Sequence[str]) -> Study:
    excluded = [_excluded(one) for one in series]
    possible = [one for one, reason in zip(series, excluded, strict=True) if not reason]
    times = [when for one in possible if (when := _acquired(one.header)) is not None]
    rated = []
    for one, selector, reason in zip(series, selectors, excluded, strict=True):
        info = SeriesInfo(_text(one.header, "SeriesInstanceUID"), _text(one.header, "SeriesNumber"), one.path,
                          len(one.paths), one.slices, excluded=reason, selector=selector)
        points = [] if reason else [*_sequence_points(one), *_word_points(one.header), *_contrast_points(one.header),
                                    *_time_points(one.header, times), *_shape_points(one)]
        if len(possible) == 1 and not reason:
            points.append((2, "the only one of its kind in the study"))
        rated.append((_acquired(one.header) or 0.0, replace(
            info, score=sum(value for value, _ in points),
            reasons=tuple(f"{text} ({value:+d})" if value else text for value, text in points))))
    rated.sort(key=lambda item: (bool(item[1].excluded), -item[1].score, -item[1].slices, -item[0], _number(item[1]),
                                 item[1].uid))
    ranked = tuple(info for _, info in rated)
    header = series[0].header
    return Study(uid, _text(header, "PatientID"), _identifiers(header), ranked, *_choice(ranked))


def _choice(ranked: Sequence[SeriesInfo]) -> tuple[SeriesInfo | None, str]:
    """The best of the ranked series with the reason in words, ties said."""
    possible = [one for one in ranked if not one.excluded]
    if not possible:
        kinds = Counter(one.excluded for one in ranked)
        listed = "; ".join(f"{count} × {kind}" if count > 1 else kind for kind, count in kinds.most_common(6))
        return None, f"no series can be a hepatobiliary phase ({listed})"
    best = possible[0]
    if best.score < LEAST_SCORE:
        return None, f"no series reaches {LEAST_SCORE} points; the nearest is {best.explanation}"
    tied = [one for one in possible[1:] if one.score == best.score]
    if tied:
        why = "it has more slices" if tied[0].slices < best.slices else "it is the later one, or the first by number"
        return best, f"{best.explanation} – TIE with {', '.join(one.name for one in tied)}, taken because {why}"
    behind = f" – next is {possible[1].name} with {possible[1].score}" if len(possible) > 1 else ""
    return best, best.explanation + behind


def _excluded(series: _Series) -> str:
    """Why a series cannot be a hepatobiliary phase, "" where it can."""
    header = series.header
    modality, kinds = _text(header, "Modality"), {part.upper() for part in _parts(header, "ImageType")}
    if modality != "MR":
        return f"modality {modality or 'not given'}"
    if _text(header, "SOPClassUID") not in MR_IMAGES:
        return "not an MR image"
    for kind in sorted(kinds & set(_EXCLUDING_TYPES)):
        return _EXCLUDING_TYPES[kind]
    if (_float(header, "DiffusionBValue") or 0) > 0:
        return "diffusion"
    words = _words(header)
    for what, pattern in _EXCLUDING.items():
        if found := _find(pattern, words):
            return f"{what}, by “{found}”"
    # Dixon: four images of one acquisition, of which only water is the fat-suppressed one; Siemens marks them last.
    if re.search("dixon|flex|ideal", words) and words.split()[-1] in ("in", "f", "fat"):
        return f"an in- or opposed-phase or fat image, by “{words.split()[-1]}”"
    technique = set(_parts(header, "ScanningSequence"))
    if technique and "GR" not in technique:
        return "no gradient echo"
    if _text(header, "EchoPulseSequence").upper() == "SPIN":
        return "no gradient echo"
    if _text(header, "MRAcquisitionType") == "2D":
        return "a 2D acquisition"
    if series.is_zip and len(set(series.paths)) > 1:
        return "its files are spread over several zips"
    if series.slices < LEAST_SLICES:
        return f"{series.slices} slice{'s' if series.slices != 1 else ''} only"
    per_place = max(Counter(series.places).values())
    if all(series.places) and per_place > 1:
        return f"{per_place} images at one position (several phases, echoes or time points)"
    return ""


Points = list[tuple[int, str]]


def _sequence_points(series: _Series) -> Points:
    header, points = series.header, []
    if "GR" in _parts(header, "ScanningSequence") or _text(header, "EchoPulseSequence").upper() == "GRADIENT":
        points.append((1, "gradient echo"))
    if _text(header, "MRAcquisitionType") == "3D":
        points.append((1, "3D"))
    echo, repetition = _timing(header)
    if echo is not None and repetition is not None:
        if echo <= 6 and repetition <= 15:
            points.append((1, f"T1-weighted by TE {echo:.1f}, TR {repetition:.1f} ms"))
        else:
            points.append((-3, f"TE {echo:.1f}, TR {repetition:.1f} ms are long"))
    return points


def _word_points(header: Any) -> Points:
    """The description says the phase; the protocol's name, which may stand over all phases, does so less surely."""
    words, others, points = _words(header), _all_words(header), []
    if found := _find(_HEPATOBILIARY, words):
        points.append((6, f"named “{found}”"))
    elif found := _find(_DYNAMIC, words):
        points.append((-6, f"a native or dynamic phase, by “{found}”"))
    elif found := _find(_HEPATOBILIARY, others):
        points.append((4, f"protocol named “{found}”"))
    elif found := _find(_LATE, words):
        points.append((1, f"named “{found}”"))
    if found := _find(_T1_GRADIENT_ECHO, others):
        points.append((1, f"named “{found}”"))
    kinds = {part.upper() for part in _parts(header, "ImageType")}
    if found := _find(_FAT_SUPPRESSED, others):
        points.append((1, f"fat-suppressed, by “{found}”"))
    elif "FS" in _parts(header, "ScanOptions") or kinds & {"WATER", "W"}:
        points.append((1, "fat-suppressed"))
    return points


def _contrast_points(header: Any) -> Points:
    agent = _agent(header)
    if agent in ("gadoxetate", "gadobenate"):
        return [(2, f"contrast agent {agent}")]
    if agent == "other":
        return [(-1, "another contrast agent")]
    return []


def _time_points(header: Any, times: Sequence[float]) -> Points:
    """By minutes after the injection where it is known, else after the first series of the kind in the study."""
    points, acquired = [], _acquired(header)
    minutes = _minutes_after_injection(header)
    if minutes is not None:
        earliest, latest = PHASE_MINUTES[_agent(header) or "other"]
        points.append((4 if earliest <= minutes <= latest else -4, f"{minutes:.0f} min after the injection"))
    elif acquired is not None and acquired - min(times) >= 60 * DYNAMIC_MINUTES:
        points.append((3, f"{(acquired - min(times)) / 60:.0f} min after the study’s first series of this kind"))
    if acquired is not None and min(times) < acquired == max(times):
        points.append((1, "the last of its kind in the study"))
    return points


def _shape_points(series: _Series) -> Points:
    header, points = series.header, []
    kinds = [part.upper() for part in _parts(header, "ImageType")]
    if {"MPR", "REFORMATTED", "RESAMPLED"} & set(kinds):
        points.append((-3, "reformatted"))
    elif kinds[:1] == ["DERIVED"] and kinds[1:2] == ["SECONDARY"]:
        points.append((-2, "derived"))
    if series.slices >= 40:
        points.append((1, f"{series.slices} slices"))
    else:
        points.append((0, f"{series.slices} slices"))
    place = series.places[0]
    if len(place) == 9 and abs(np.cross(place[3:6], place[6:9])[2]) < 0.7:
        points.append((-1, "not axial"))
    return points


def _words(header: Any) -> str:
    """The series' description without case and punctuation; where it has none, all names of protocol and sequence."""
    return _plain(_text(header, "SeriesDescription")) or _all_words(header)


def _all_words(header: Any) -> str:
    names = ("SeriesDescription", "ProtocolName", "SequenceName", "PulseSequenceName")
    return " ".join(filter(None, (_plain(_text(header, name)) for name in names)))


def _plain(text: str) -> str:
    for letter, letters in {"ä": "ae", "ö": "oe", "ü": "ue"}.items():
        text = text.lower().replace(letter, letters)
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


def _find(pattern: str, words: str) -> str | None:
    found = re.search(rf"(?<![a-z0-9])(?:{pattern})(?![a-z0-9])", words)
    return found[0] if found else None


def _timing(header: Any) -> tuple[float | None, float | None]:
    """Echo and repetition time in ms, of enhanced files from their functional groups."""
    echo, repetition = _float(header, "EchoTime"), _float(header, "RepetitionTime")
    for group in FUNCTIONAL_GROUPS:
        for item in _sequence(header, group)[:1]:
            for one in _sequence(item, "MREchoSequence")[:1]:
                echo = _float(one, "EffectiveEchoTime") if echo is None else echo
            for one in _sequence(item, "MRTimingAndRelatedParametersSequence")[:1]:
                repetition = _float(one, "RepetitionTime") if repetition is None else repetition
    return echo, repetition


def _float(header: Any, name: str) -> float | None:
    numbers = _numbers(header, name)
    return numbers[0] if numbers else None


def _agent(header: Any) -> str | None:
    """gadoxetate, gadobenate or other; None where none is named."""
    names = [_text(header, "ContrastBolusAgent"),
             *(_text(item, "CodeMeaning") for item in _sequence(header, "ContrastBolusAgentSequence"))]
    named, words = _plain(" ".join(names)), _all_words(header)
    for agent, pattern in _AGENTS.items():
        if _find(pattern, named) or _find(pattern, words):
            return agent
    return None if named in ("", "none", "no", "no contrast", "without", "ohne") else "other"


def _clock(text: str) -> float | None:
    """Seconds since midnight of a DICOM time (HHMMSS.FFFFFF, shorter ones too)."""
    found = re.fullmatch(r"(\d{2}):?(\d{2})?:?(\d{2}(?:\.\d*)?)?", text.strip())
    if not found:
        return None
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return 3600 * hours + 60 * minutes + seconds if hours < 24 and minutes < 60 else None


def _acquired(header: Any) -> float | None:
    """When the series was acquired, in seconds since midnight."""
    whole = _text(header, "AcquisitionDateTime")
    for text in (_text(header, "AcquisitionTime"), whole[8:].split("+")[0].split("-")[0],
                 _text(header, "SeriesTime")):
        if text and (seconds := _clock(text)) is not None:
            return seconds
    return None


def _minutes_after_injection(header: Any) -> float | None:
    injected, acquired = _clock(_text(header, "ContrastBolusStartTime")), _acquired(header)
    if injected is None or acquired is None:
        return None
    minutes = (acquired - injected) / 60
    return minutes if -120 < minutes < 600 else None  # else the clocks disagree


def _number(series: SeriesInfo) -> int:
    return int(series.number) if series.number.lstrip("-").isdecimal() else 1 << 31


def _identifiers(header: Any) -> frozenset[str]:
    """What tells who a patient is: whatever is long enough not to be found in a path by chance."""
    name = re.split(r"[\^=\s,]+", _text(header, "PatientName"))
    others = [_text(header, tag) for tag in ("PatientID", "AccessionNumber")]
    born = _text(header, "PatientBirthDate")
    dates = [born, born[6:] + born[4:6] + born[:4], born[4:] + born[:4]]
    # a name of two letters is found anywhere by chance, one of a single Chinese character is not
    return frozenset(part for part in (*name, "".join(name), *others, *dates)
                     if len(part) >= 3 or not part.isascii())


# --- the user's own choice --------------------------------------------------------------------------------------------


def with_choices(studies: Sequence[Study], choices: Mapping[str, str],
                 case_id: Callable[[Study], str]) -> Iterator[Study]:
    """The studies with the user's choices in place of ours.

    Parameters
    ----------
    choices : mapping
        Case id or StudyInstanceUID to series number or SeriesInstanceUID.
    case_id : callable
        The case id of a study.

    Raises
    ------
    NeoNetError
        ``SERIES_NOT_FOUND``; ``UNKNOWN_CASE``: a choice for a case that is not there.
    """
    names = {study.uid: case_id(study) for study in studies}
    unknown = set(choices) - set(names) - set(names.values())
    if unknown:
        raise NeoNetError("UNKNOWN_CASE", f"Series are chosen for {len(unknown)} cases that are not in the tree.",
                          "Name them as the column case_id of the earlier CASES.csv does; its key must be in the "
                          "same folder.")
    for study in studies:
        series = choices.get(names[study.uid], choices.get(study.uid))
        try:
            yield study if series is None else study.choose(series)
        except NeoNetError as error:
            raise NeoNetError(error.code, f"Case {names[study.uid]}: {error.message}", error.hint) from error
