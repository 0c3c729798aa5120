"""The series that a result comes from: its headers in the order of the slices, mended where a rule of DICOM is broken.

Objects that are made of them take over the identity of patient and study, and only these objects do.
"""

from __future__ import annotations

import importlib
import logging
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neonet_core.dicom_series import SeriesGrid, series_grid
from neonet_core.errors import NeoNetError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

UTF8 = "ISO_IR 192"
UID_NAMESPACE = uuid.UUID("5b1f4c3e-7a52-5c0e-9d62-3f0a2e6b8c11")
"""Of all UIDs that are derived from something else; any fixed number will do."""
NO_DATE, NO_TIME = "19000101", "000000"

# Attributes that must be there, if only empty (type 2), in the modules that are taken over.
PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
STUDY = ("StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber")
TAKEN_OVER = (0x0008, 0x0010, 0x0012, 0x0032, 0x0038)
"""Groups of these modules, and not of those that say where an image lies."""
NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")


@dataclass(frozen=True, eq=False)
class Source:
    """The source series of a result.

    Attributes
    ----------
    headers : list of pydicom Dataset
        One a slice in the order of `grid`, or that of the one multi-frame file; without pixels, mended.
    grid : SeriesGrid
    """

    headers: list[Dataset]
    grid: SeriesGrid

    @property
    def series_uid(self) -> str:
        return str(self.headers[0].SeriesInstanceUID)

    @property
    def study_uid(self) -> str:
        return str(self.headers[0].StudyInstanceUID)

    @property
    def acquired(self) -> tuple[str, str]:
        """Date and time (DA, TM) of the series: the earliest of its images, else those of series or study."""
        for date, time in (("AcquisitionDate", "AcquisitionTime"), ("SeriesDate", "SeriesTime"),
                           ("StudyDate", "StudyTime")):
            found = [(str(header.get(date)), _whole_seconds(header.get(time))) for header in self.headers
                     if header.get(date)]
            if found:
                return min(found)
        return NO_DATE, NO_TIME


def read_source(files: Sequence[Path]) -> Source:
    """Read the headers of a series.

    Parameters
    ----------
    files : sequence of Path
        All files of one series, in any order.

    Raises
    ------
    NeoNetError
        As `series_grid`: ``NO_DICOM``, ``SEVERAL_SERIES``, ``SLICE_GAP``, ``MIXED_SLICES``, ...;
        ``INCOMPLETE_DICOM``: no UID of study, series or image.
    """
    pydicom, grid = required("pydicom"), series_grid(files)
    with quiet():
        headers: list[Dataset] = [pydicom.dcmread(path, stop_before_pixels=True) for path in grid.files]
        for header in headers:
            missing = [name for name in NEEDED if not header.get(name)]
            if missing:
                raise NeoNetError("INCOMPLETE_DICOM", f"The source images lack {', '.join(missing)}.",
                                  "Export the series again from the archive.")
            _mend(header)
            _fill_thickness(header, float(np.linalg.norm(grid.affine[:3, 2])))
        _make_alike(headers)
    return Source(headers, grid)


def required(package: str) -> Any:
    """pydicom or highdicom. Raises ``MISSING_PACKAGE``, saying how to install it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise NeoNetError("MISSING_PACKAGE", f"This needs the package {package}, which is not installed.",
                          "Install it: pip install 'neonet-core[dicom]'") from error


def derived_uid(*parts: str) -> str:
    """A UID (2.25, of a UUID by name) that is the same whenever the parts are."""
    return f"2.25.{uuid.uuid5(UID_NAMESPACE, chr(0).join(parts)).int}"


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of pydicom and highdicom: they quote values, which may be a name."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _mend(header: Dataset) -> None:
    """Make a header fit to be taken over: text in UTF-8, what is invalid left out, what must be there empty."""
    header.decode()
    for element in list(header):
        if element.tag.is_private or (element.tag.group in TAKEN_OVER and not _is_valid(element)):
            del header[element.tag]
    for name in (*PATIENT, *STUDY):
        if name not in header:
            setattr(header, name, None if name != "PatientName" else "")
    if header.PatientSex not in ("M", "F", "O"):
        header.PatientSex = ""
    header.SpecificCharacterSet = UTF8
    if header.get("AcquisitionDateTime") and not header.get("AcquisitionDate"):  # enhanced images have both in one
        moment = str(header.AcquisitionDateTime)
        header.AcquisitionDate, header.AcquisitionTime = moment[:8], _whole_seconds(moment[8:14])
    if not header.get("FrameOfReferenceUID"):
        # Required in a segmentation. All slices get the same, and it is nobody else's.
        header.FrameOfReferenceUID = derived_uid("frame of reference", str(header.SeriesInstanceUID))


def _make_alike(headers: Sequence[Dataset]) -> None:
    """One orientation and one frame of reference for all slices, as highdicom compares them to the last digit and
    `series_grid` has found them to be one grid. Of a multi-frame image's frames, what they share is said once."""
    first = headers[0]
    for header in headers[1:]:
        header.FrameOfReferenceUID = first.FrameOfReferenceUID
        if "ImageOrientationPatient" in first:
            header.ImageOrientationPatient = first.ImageOrientationPatient
    frames, shared = first.get("PerFrameFunctionalGroupsSequence"), first.get("SharedFunctionalGroupsSequence")
    if not frames or not shared:
        return
    for name in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
        groups = [frame.get(name) for frame in frames]
        if name not in shared[0] and all(groups) and all(group == groups[0] for group in groups):
            setattr(shared[0], name, groups[0])
            for frame in frames:
                delattr(frame, name)


def _fill_thickness(header: Dataset, distance: float) -> None:
    """Where the source does not say how thick its slices are, they count as thick as they lie apart."""
    measures = [header] if "PerFrameFunctionalGroupsSequence" not in header else [
        measure for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
        for group in header.get(name) or [] for measure in group.get("PixelMeasuresSequence") or []]
    for measure in measures:
        if not measure.get("SliceThickness"):
            measure.SliceThickness = f"{distance:.6g}"


def _is_valid(element: Any) -> bool:
    """Whether a value keeps to its value representation; sequences, bytes and UIDs (often too long) are let pass."""
    from pydicom.config import RAISE
    from pydicom.valuerep import validate_value

    if element.VR not in ("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UT"):
        return True
    try:
        for value in element.value if element.VM > 1 else [element.value]:
            if value not in (None, ""):
                validate_value(element.VR, str(value), RAISE)
    except (ValueError, TypeError):
        return False
    return True


def _whole_seconds(time: Any) -> str:
    digits = str(time or "").split(".")[0].replace(":", "")
    return (digits + "000000")[:6] if digits.isdecimal() else NO_TIME
