"""A DICOM series as a volume: from a folder, a zip of one, or one multi-frame file.

GDCM (in SimpleITK) decodes the pixels; where the slices lie is worked out here from each slice's own position, because
GDCM takes a series with a missing slice, or a multi-frame file with uneven frames, without an error.
"""

from __future__ import annotations

import re
import stat
import struct
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from neonet_core.errors import NeoNetError
from neonet_core.training.files import files_below
from neonet_core.volume import LPS_TO_RAS, simpleitk, unreadable

MAX_ARCHIVE_BYTES = 8 << 30  # unpacked: a CT of 2,000 slices has 1 GiB, an examination seldom more than 4
MAX_ARCHIVE_FILES = 100_000
UNEVEN = 0.01  # share of the slice distance by which slices may lie off, ...
UNEVEN_MM = 0.01  # ... or this: positions are often rounded to 0.01 mm
NO_IMAGES = {"SEG", "RTSTRUCT", "RTDOSE", "RTPLAN", "SR", "PR", "KO", "REG"}  # modalities stored beside the images
STORAGE = "1.2.840.10008.5.1.4.1.1."
CT_MR_PET = ("2", "2.1", "2.2", "4", "4.1", "4.3", "4.4", "128", "128.1", "130")  # SOP classes under STORAGE

SIZE_ROWS, SIZE_COLUMNS, FRAMES = "0028|0010", "0028|0011", "0028|0008"
SPACING, POSITION, ORIENTATION = "0028|0030", "0020|0032", "0020|0037"
SERIES_UID, SERIES_NUMBER, DESCRIPTION, MODALITY = "0020|000e", "0020|0011", "0008|103e", "0008|0060"
INSTANCE_UID = "0008|0018"
WHAT_DIFFERS = {  # why a series may have several images at one position
    "0018|0081": "echo time",
    "0018|0080": "repetition time",
    "0018|9087": "b-value",
    "0020|0100": "time point",
    "0020|0012": "acquisition",
    "0018|1060": "trigger time",
    "0008|0008": "image type",
    "0008|0032": "acquisition time",
}


@dataclass(frozen=True)
class Slice:
    """One 2D image and where it lies (LPS, mm)."""

    header: dict[str, str]
    size: tuple[int, int]  # columns, rows
    spacing: tuple[float, float]  # between rows, between columns
    position: tuple[float, float, float]  # of the centre of the first pixel
    along_row: tuple[float, float, float]
    along_column: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class SeriesGrid:
    """The files of a series in the order of the slices of its volume, and where they lie.

    Attributes
    ----------
    files : tuple of Path
        One a slice, along the third axis; of a multi-frame series the one file.
    frames : tuple of int
        Of each slice its frame in its file, from 0: all 0 unless the series is multi-frame.
    shape : (int, int, int)
        Of the volume: columns, rows, slices.
    affine : numpy.ndarray, shape (4, 4)
        Voxel indices to RAS mm, as `read_dicom` gives it.
    """

    files: tuple[Path, ...]
    frames: tuple[int, ...]
    shape: tuple[int, int, int]
    affine: np.ndarray


def read_dicom(path: Path, series: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Read one DICOM series.

    Parameters
    ----------
    path : Path
        A folder that holds the series at any depth, a ``.zip`` of one, or one file.
    series : str, optional
        Series number or SeriesInstanceUID.

    Returns
    -------
    array : numpy.ndarray, shape (X, Y, Z)
        Along image rows, image columns and the slice normal; integers, or float32 where a scale is stored.
    affine : numpy.ndarray, shape (4, 4)
        Voxel indices to RAS mm.

    Raises
    ------
    NeoNetError
        See :func:`neonet_core.volume.read_volume`.
    """
    with _files(path) as files:
        return _read_series(files, series)


@contextmanager
def series_files(path: Path, series: str | None = None) -> Iterator[list[Path]]:
    """The files of one series, in no particular order; parameters and errors as `read_dicom`, which reads the same.

    A zip is unpacked for as long as the context lasts.
    """
    with _files(path) as files:
        yield [Path(header["path"]) for header in _one_series(files, series)]


def series_grid(files: Sequence[Path]) -> SeriesGrid:
    """Where the slices of one series lie; without its pixels. Errors as `read_dicom`."""
    headers = _one_series(files, None)
    multiframe = _is_multiframe(headers)
    slices = _multiframe_slices(headers[0])[0] if multiframe else [_slice(header) for header in headers]
    order, affine = _stack(slices)
    return SeriesGrid(
        files=(Path(headers[0]["path"]),) if multiframe else tuple(Path(headers[i]["path"]) for i in order),
        frames=tuple(order) if multiframe else (0,) * len(order),
        shape=(*slices[0].size, len(slices)),
        affine=affine,
    )


@contextmanager
def _files(path: Path) -> Iterator[list[Path]]:
    """All files below a folder or in a zip, which is unpacked meanwhile, or the one file."""
    if path.is_dir():
        yield [file for file in files_below(path) if file.is_file()]
    elif path.suffix.lower() != ".zip":
        yield [path]
    else:
        with tempfile.TemporaryDirectory(prefix="neonet-dicom-") as folder:
            try:
                with zipfile.ZipFile(path) as archive:
                    files = _unpack(archive, Path(folder))
            except NeoNetError:
                raise
            except Exception as error:  # zipfile, zlib, bz2 and lzma raise many kinds on damage
                raise unreadable(error) from error
            yield files


def _unpack(archive: zipfile.ZipFile, folder: Path) -> list[Path]:
    """Unpack into the folder under names of our own; refuse an archive that means harm."""
    files = []
    for number, member in enumerate(checked_members(archive)):
        name = PurePosixPath(member.filename.replace("\\", "/")).name
        file = folder / f"{number:06d}-{re.sub(r'[^A-Za-z0-9.-]', '_', name)[-40:]}"
        with archive.open(member) as source, open(file, "wb") as target:
            while block := source.read(1 << 20):
                target.write(block)
        files.append(file)
    return files


def checked_members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The files in a zip but hidden ones. Raises ``UNSAFE_ARCHIVE``, ``UNREADABLE_FILE`` (encrypted)."""
    members = [member for member in archive.infolist() if not member.is_dir()]
    for member in members:
        name = PurePosixPath(member.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or name.parts[0].endswith(":"):
            raise _unsafe("has a member that would be written outside its folder")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise _unsafe("has a symbolic link")
        if member.flag_bits & 1:
            raise NeoNetError("UNREADABLE_FILE", "The zip is encrypted.", "Give it without a password.")
    size = sum(member.file_size for member in members)  # zipfile reads no more of a member than this
    if size > MAX_ARCHIVE_BYTES or len(members) > MAX_ARCHIVE_FILES:
        raise _unsafe(f"would unpack to {len(members)} files of {size / 2**30:.1f} GiB in all")

    def is_hidden(member: zipfile.ZipInfo) -> bool:
        parts = PurePosixPath(member.filename.replace("\\", "/")).parts
        return parts[0] == "__MACOSX" or any(part.startswith(".") for part in parts)

    return [member for member in members if not is_hidden(member)]


def _unsafe(what: str) -> NeoNetError:
    return NeoNetError("UNSAFE_ARCHIVE", f"The zip {what}.", "Unpack it yourself and give the folder of one series.")


# --- from files to one series -----------------------------------------------------------------------------------------


def _read_series(files: Sequence[Path], series: str | None) -> tuple[np.ndarray, np.ndarray]:
    headers = _one_series(files, series)
    if _is_multiframe(headers):
        return _read_multiframe(headers[0])
    slices = [_slice(header) for header in headers]
    order, affine = _stack(slices)
    images = [_pixels(slices[i].header["path"])[0] for i in order]
    return _transposed(np.stack(images)), affine


def _is_multiframe(headers: Sequence[dict[str, str]]) -> bool:
    """Whether the series is one multi-frame file. Raises ``SEVERAL_FRAMES`` where it is several."""
    if _frames(headers[0]) > 1 and len(headers) > 1:
        raise NeoNetError(
            "SEVERAL_FRAMES",
            f"The series has {len(headers)} multi-frame files, each a volume of its own.",
            "Give the one file that you mean.",
        )
    return _frames(headers[0]) > 1


class _DamagedFileError(NeoNetError):
    """A file is an image, and cannot be read; `series_uid` is "" where that could not be found in it."""

    def __init__(self, path: Path) -> None:
        super().__init__("UNREADABLE_FILE", f"Its file {path.name} is a truncated or damaged DICOM image.",
                         "Copy or export the series again.")
        self.series_uid = _series_uid(path)


def _header(path: Path) -> dict[str, str] | None:
    """Attributes of a DICOM image as text, keyed ``"gggg|eeee"``, and its path; None for any other file."""
    try:
        reader = _reader(path)
        reader.ReadImageInformation()
    except (RuntimeError, UnicodeEncodeError) as error:
        if _is_damaged_image(path):
            raise _DamagedFileError(path) from error
        return None
    header = {}
    for key in reader.GetMetaDataKeys():
        if len(key) == 9:
            header[key] = reader.GetMetaData(key).encode("utf-8", "replace").decode().strip(" \0")
    if header.get(MODALITY) in NO_IMAGES or INSTANCE_UID not in header:
        return None
    return header | {"path": str(path)}


def _series_uid(path: Path) -> str:
    """SeriesInstanceUID of a file that GDCM cannot read, or "" where it is not found."""
    with open(path, "rb") as file:
        start = file.read(1 << 16)
    found = re.search(rb"\x20\x00\x0e\x00(?:UI..|.{2}\x00\x00)([0-9.]{1,64})", start, re.DOTALL)
    return found[1].decode("ascii").rstrip("\0 ") if found else ""


def _reader(path: Path | str) -> Any:
    str(path).encode("utf-8")  # of a name that is no text SimpleITK ends the process
    reader = simpleitk().ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    return reader


def _is_damaged_image(path: Path) -> bool:
    """Whether a file that GDCM cannot read is a CT, MR or PET image, and not a report or another kind of object."""
    with open(path, "rb") as file:
        start = file.read(4096)
    if not start:
        return path.suffix.lower() in (".dcm", ".ima")
    if start[128:132] != b"DICM":
        return False
    tag = start.find(b"\x02\x00\x02\x00UI")  # MediaStorageSOPClassUID; always explicit VR, little endian
    if tag < 0 or len(start) < tag + 8:
        return True
    length = int.from_bytes(start[tag + 6 : tag + 8], "little")
    sop_class = start[tag + 8 : tag + 8 + length].rstrip(b" \0").decode("ascii", "replace")
    return sop_class in {STORAGE + kind for kind in CT_MR_PET}


def _one_series(files: Sequence[Path], series: str | None) -> list[dict[str, str]]:
    """The headers of the one series there is, or of the one asked for, each image once; a damaged file of another does
    not matter then."""
    by_series: dict[str, dict[str, dict[str, str]]] = defaultdict(dict)
    damaged: list[_DamagedFileError] = []
    for file in files:
        try:
            header = _header(file)
        except _DamagedFileError as error:
            damaged.append(error)
            continue
        if header is not None:
            by_series[header.get(SERIES_UID, "")].setdefault(header[INSTANCE_UID], header)
    groups = sorted(by_series.values(), key=lambda group: _series_order(next(iter(group.values()))))
    if damaged and (series is None or not groups):
        raise damaged[0]
    if not groups:
        raise NeoNetError("NO_DICOM", "No DICOM image in it.", "Give the folder, or a zip of it, with the series.")
    numbers = [next(iter(group.values())).get(SERIES_NUMBER, "") for group in groups]
    uids = [next(iter(group.values())).get(SERIES_UID, "") for group in groups]
    chosen = list(range(len(groups)))
    if series is not None:
        wanted = str(series).strip()
        chosen = [i for i in chosen if wanted == uids[i]] or [i for i in chosen if wanted == numbers[i]]
    if len(chosen) == 1:
        for one in damaged:
            if one.series_uid in ("", uids[chosen[0]]):
                raise one
        return list(groups[chosen[0]].values())
    shown = chosen or range(len(groups))
    listed = "; ".join(
        f"{numbers[i] if numbers[i] and numbers.count(numbers[i]) == 1 else uids[i]}: {_described(groups[i].values())}"
        for i in shown
    )
    hint = "Choose one by what stands before the colon (a series number or a UID): --series NUMBER."
    if not chosen:
        raise NeoNetError("SERIES_NOT_FOUND", f"No series {series} in it. There are: {listed}.", hint)
    raise NeoNetError("SEVERAL_SERIES", f"It holds {len(chosen)} series: {listed}.", hint)


def _series_order(header: dict[str, str]) -> tuple[int, str]:
    number = header.get(SERIES_NUMBER, "")
    return int(number) if number.lstrip("-").isdigit() else 1 << 31, header.get(SERIES_UID, "")


def _frames(header: dict[str, str]) -> int:
    count = header.get(FRAMES, "")
    return int(count) if count.isdecimal() else 1


def _described(group: Any) -> str:
    group = list(group)
    text = "".join(c for c in group[0].get(DESCRIPTION, "") if c.isprintable())[:64].strip()
    slices = sum(_frames(header) for header in group)
    kind = group[0].get(MODALITY, "")[:16]
    return f"{text or 'no description'} ({kind + ', ' if kind else ''}{slices} slice{'s' if slices != 1 else ''})"


# --- from slices to a grid --------------------------------------------------------------------------------------------


def _slice(header: dict[str, str]) -> Slice:
    position, orientation = _numbers(header.get(POSITION), 3), _numbers(header.get(ORIENTATION), 6)
    spacing = _numbers(header.get(SPACING), 2)
    return _checked_slice(header, spacing, position, orientation)


def _checked_slice(
    header: dict[str, str], spacing: Sequence[float], position: Sequence[float], orientation: Sequence[float]
) -> Slice:
    if not (position and orientation and spacing and np.isfinite([*position, *orientation, *spacing]).all()):
        raise NeoNetError(
            "BAD_AFFINE",
            "A slice lacks its position, orientation or pixel spacing.",
            "Give the series as the scanner made it, not screenshots or reformatted pictures.",
        )
    row, column = np.reshape(orientation, (2, 3))
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if abs(lengths[0] - 1) > 0.01 or abs(lengths[1] - 1) > 0.01 or min(spacing) <= 0:
        raise NeoNetError("BAD_AFFINE", "A slice's orientation or pixel spacing is no such thing.", "Export it again.")
    return Slice(
        header=header,
        size=(int(header[SIZE_COLUMNS]), int(header[SIZE_ROWS])),
        spacing=(spacing[0], spacing[1]),
        position=(position[0], position[1], position[2]),
        along_row=tuple((row / lengths[0]).tolist()),
        along_column=tuple((column / lengths[1]).tolist()),
    )


def _numbers(text: str | None, count: int) -> tuple[float, ...]:
    """The numbers of a DICOM decimal string, empty where there are not ``count``."""
    try:
        values = tuple(float(part) for part in (text or "").split("\\"))
    except ValueError:
        return ()
    return values if len(values) == count else ()


def _stack(slices: Sequence[Slice]) -> tuple[list[int], np.ndarray]:
    """Order of the slices along their normal, and the RAS affine of the volume that they make.

    Raises
    ------
    NeoNetError
        ``NOT_3D``, ``MIXED_SLICES``, ``SEVERAL_FRAMES``, ``SLICE_GAP``.
    """
    first = slices[0]
    if len(slices) == 1:
        raise NeoNetError("NOT_3D", "A single slice.", "Give the folder with all slices of the series.")
    for name, differ in {
        "size": any(s.size != first.size for s in slices),
        "pixel spacing": not all(np.allclose(s.spacing, first.spacing, rtol=1e-3, atol=0) for s in slices),
        "orientation": not all(
            np.allclose(s.along_row + s.along_column, first.along_row + first.along_column, atol=1e-3) for s in slices
        ),
    }.items():
        if differ:
            raise NeoNetError(
                "MIXED_SLICES",
                f"The {len(slices)} slices differ in {name}: not one stack.",
                "Export the volume without its scout images, as a series of its own.",
            )
    normal = np.cross(first.along_row, first.along_column)
    positions = np.array([s.position for s in slices])
    height = positions @ normal
    order = np.argsort(height, kind="stable").tolist()
    steps = np.diff(height[order])
    apart = steps[steps > UNEVEN_MM]
    if apart.size < steps.size:
        raise _several_at_one_place(slices, order, steps)
    distance = float(np.median(apart))
    off = np.abs(steps - distance)
    if off.max() > max(UNEVEN * distance, 1.5 * UNEVEN_MM):
        worst = int(off.argmax())
        raise NeoNetError(
            "SLICE_GAP",
            f"The {len(slices)} slices are not evenly spaced: {steps.min():.2f} to {steps.max():.2f} mm, "
            f"{steps[worst]:.2f} mm between slices {worst + 1} and {worst + 2}.",
            "Slices are missing or overlap: export the whole series again.",
        )
    step = (positions[order[-1]] - positions[order[0]]) / (len(slices) - 1)
    straight = positions[order[0]] + np.arange(len(slices))[:, None] * step
    if np.linalg.norm(positions[order] - straight, axis=1).max() > max(0.1 * min(first.spacing), 0.1 * distance):
        raise NeoNetError("MIXED_SLICES", "The slices are shifted against each other.", "Export the series again.")
    affine = np.eye(4)
    affine[:3, 0] = np.multiply(first.along_row, first.spacing[1])
    affine[:3, 1] = np.multiply(first.along_column, first.spacing[0])
    affine[:3, 2] = step
    affine[:3, 3] = positions[order[0]]
    return order, LPS_TO_RAS @ affine


def _several_at_one_place(slices: Sequence[Slice], order: Sequence[int], steps: np.ndarray) -> NeoNetError:
    places = 1 + int((steps > UNEVEN_MM).sum())
    i = int(np.argmin(steps))
    a, b = slices[order[i]].header, slices[order[i + 1]].header
    differing = [name for tag, name in WHAT_DIFFERS.items() if a.get(tag) != b.get(tag)]
    return NeoNetError(
        "SEVERAL_FRAMES",
        f"The series has {len(slices)} slices at {places} positions"
        + (f"; slices at one position differ in {', '.join(differing)}." if differing else "."),
        "Export the one echo, phase or b-value that you mean as a series of its own.",
    )


# --- pixels -----------------------------------------------------------------------------------------------------------


def _pixels(path: str) -> np.ndarray:
    """Grey values (frames, rows, columns) of one file, with the rescale slope that GDCM applies."""
    try:
        image = _reader(path).Execute()
    except RuntimeError as error:
        raise unreadable(error) from error
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise NeoNetError("SEVERAL_FRAMES", "The images are in colour.", "Give the grey-value series.")
    return simpleitk().GetArrayFromImage(image)


def _transposed(stack: np.ndarray) -> np.ndarray:
    """From (Z, Y, X) to (X, Y, Z); float64, which GDCM makes of scaled values, to float32."""
    return (stack.astype(np.float32) if stack.dtype == np.float64 else stack).T


def _read_multiframe(header: dict[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """An enhanced multi-frame file."""
    slices, scales = _multiframe_slices(header)
    order, affine = _stack(slices)
    stack = _pixels(header["path"])
    if len(set(scales)) > 1:  # GDCM gives all frames the scale of the first
        slope, intercept = np.array(scales).T[:, :, None, None]
        stack = (stack - intercept[0]) / slope[0] * slope + intercept
    return _transposed(stack[order]), affine


def _multiframe_slices(header: dict[str, str]) -> tuple[list[Slice], list[tuple[float, ...]]]:
    """Place and scale (slope, intercept) of each frame of a multi-frame file, from its functional groups."""
    dataset = _parsed(Path(header["path"]))
    shared: dict[int, Any] = (dataset.get(0x52009229) or [{}])[0]
    frames = dataset.get(0x52009230) or []
    if len(frames) != _frames(header):
        raise NeoNetError(
            "SEVERAL_FRAMES",
            f"A multi-frame file with {header[FRAMES]} frames that does not say where each lies.",
            "Export the volume as NIfTI or NRRD, for example from 3D Slicer.",
        )

    def value(frame: dict[int, Any], group: int, tag: int, count: int) -> tuple[float, ...]:
        macro = (frame.get(group) or shared.get(group) or [{}])[0]
        return _numbers(macro.get(tag, b"").decode("ascii", "replace").strip(" \0"), count)

    slices, scales = [], []
    for frame in frames:
        spacing = value(frame, 0x00289110, 0x00280030, 2)
        position = value(frame, 0x00209113, 0x00200032, 3)
        orientation = value(frame, 0x00209116, 0x00200037, 6)
        slices.append(_checked_slice(header, spacing, position, orientation))
        slope, intercept = value(frame, 0x00289145, 0x00281053, 1), value(frame, 0x00289145, 0x00281052, 1)
        scales.append((slope or (1.0,)) + (intercept or (0.0,)))
    return slices, scales


# Sequences that are needed, for files whose elements do not say that they are sequences (implicit VR).
_SEQUENCES = {0x52009229, 0x52009230, 0x00289110, 0x00209113, 0x00209116, 0x00289145}
_LONG_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_UNDEFINED, _ITEM, _ITEM_END, _SEQUENCE_END, _PIXELS = 0xFFFFFFFF, 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD, 0x7FE00000


def _parsed(path: Path) -> dict[int, Any]:
    """The elements of a DICOM file before its pixels: tag -> bytes, or a list of such dicts for a sequence.

    SimpleITK does not show sequences. Little endian only: that is all but a retired transfer syntax.
    """
    data = path.read_bytes()
    try:
        meta, start = _dataset(data, 132, len(data), explicit=True, last_group=2)
        syntax = meta.get(0x00020010, b"").rstrip(b" \0").decode("ascii", "replace")
        if syntax in ("1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"):
            raise NeoNetError(
                "UNREADABLE_FILE",
                "A multi-frame file in big-endian or deflated coding.",
                "Export it as NIfTI or NRRD, for example from 3D Slicer.",
            )
        return _dataset(data, start, len(data), explicit=syntax != "1.2.840.10008.1.2")[0]
    except (struct.error, RecursionError) as error:
        raise unreadable(error) from error


def _dataset(data: bytes, start: int, end: int, explicit: bool, last_group: int = 0xFFFF) -> tuple[dict[int, Any], int]:
    """The elements between two offsets, up to an end mark, the pixels or the last group; and where they end."""
    elements: dict[int, Any] = {}
    while start + 8 <= end:
        group, element = struct.unpack_from("<HH", data, start)
        tag = group << 16 | element
        if tag == _ITEM_END:
            return elements, start + 8
        if group > last_group or _PIXELS <= tag < _ITEM:
            return elements, start
        vr = data[start + 4 : start + 6] if explicit else b""
        if vr and vr not in _LONG_VRS:
            (length,) = struct.unpack_from("<H", data, start + 6)
            start += 8
        else:
            (length,) = struct.unpack_from("<I", data, start + (8 if vr else 4))
            start += 12 if vr else 8
        if vr == b"SQ" or length == _UNDEFINED or (tag in _SEQUENCES and not vr):
            # An unknown element (UN) of undefined length is a sequence in implicit VR, by the standard.
            elements[tag], start = _items(data, start, length, end, explicit and vr != b"UN")
        else:
            elements[tag] = data[start : start + length]
            start += length
    return elements, start


def _items(data: bytes, start: int, length: int, end: int, explicit: bool) -> tuple[list[dict[int, Any]], int]:
    """The items of a sequence, and where it ends."""
    stop = end if length == _UNDEFINED else min(start + length, end)
    items: list[dict[int, Any]] = []
    while start + 8 <= stop:
        group, element, size = struct.unpack_from("<HHI", data, start)
        start += 8
        if (group << 16 | element) == _SEQUENCE_END:
            return items, start
        item, start = _dataset(data, start, stop if size == _UNDEFINED else min(start + size, stop), explicit)
        items.append(item)
    return items, start
