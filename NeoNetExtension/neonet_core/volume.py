"""A volume and where it lies in the patient: reading, writing, reorienting and resampling.

Arrays are ``(X, Y, Z)``; affines map voxel indices to millimetres in RAS (x to the patient's right, y to anterior, z to
superior). Geometry is always compared in world space: tools differ in the order and direction of a file's axes.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from neonet_core.errors import NeoNetError

NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = {".nrrd": "NrrdImageIO", ".nhdr": "NrrdImageIO", ".mha": "MetaImageIO", ".mhd": "MetaImageIO"}
NRRD_SUFFIXES = (".nrrd", ".nhdr")
SPACING_FIELDS = {b"spacings", b"space directions", b"elementspacing", b"elementsize"}
"""Of the headers of NRRD and MetaImage; a file without any of them would be read as 1 mm."""
WRITABLE_SUFFIXES = (*NIFTI_SUFFIXES, ".nrrd", ".mha")
READABLE = ".nii, .nii.gz, .nrrd, .nhdr, .mha, .mhd, a folder of DICOM files or a .zip of one"

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM and ITK count x to the left and y to the back; its own inverse
MAX_AXIS_COSINE = 1e-3  # between two axes of a grid; rounded headers stay below 1e-4, 1 degree of tilt is 0.017
_STORED_AS: dict[str, Any] = {"b1": np.uint8, "f2": np.float32}  # dtypes that neither the formats nor ITK know
MAX_DEFLATE_RATIO = 1032  # of zlib; a header that promises more than that of its file is wrong


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3D array and the place of its voxels in the patient.

    Parameters
    ----------
    array : numpy.ndarray, shape (X, Y, Z)
        Intensities or labels, any numeric dtype or bool. Not copied.
    affine : numpy.ndarray, shape (4, 4), float64
        Maps voxel indices (of voxel centres) to RAS millimetres. Copied and made read-only.

    Raises
    ------
    NeoNetError
        ``NOT_3D``, ``EMPTY_FILE`` (no voxels), ``BAD_AFFINE`` (not finite, singular, sheared).
    """

    array: np.ndarray
    affine: np.ndarray

    def __post_init__(self) -> None:
        array = np.asarray(self.array)
        if array.ndim != 3:
            raise NeoNetError("NOT_3D", f"The array has {array.ndim} dimensions, not 3.", "Give a 3D volume.")
        if array.size == 0:
            raise NeoNetError("EMPTY_FILE", f"The volume has no voxels (shape {array.shape}).", "Export it again.")
        affine = np.array(self.affine, dtype=np.float64)
        _check_affine(affine)
        affine.setflags(write=False)
        object.__setattr__(self, "array", array)
        object.__setattr__(self, "affine", affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along each axis."""
        x, y, z = self.array.shape
        return x, y, z

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance in mm between voxel centres along each axis."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return x, y, z

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(np.prod(self.spacing)) / 1000.0

    @property
    def orientation(self) -> str:
        """Directions of the three axes by the closest anatomical axis, e.g. ``"LPS"``: towards left, back, head."""
        axes, signs = _closest_axes(self.affine)
        return "".join("RAS"[axis] if sign > 0 else "LPI"[axis] for axis, sign in zip(axes, signs, strict=True))


# --- reading ----------------------------------------------------------------------------------------------------------


def read_volume(path: str | os.PathLike[str], series: str | None = None) -> Volume:
    """Read a volume from a file, a folder of DICOM files or a zip of one.

    Parameters
    ----------
    path : str or path
        ``.nii``, ``.nii.gz``, ``.nrrd``, ``.nhdr``, ``.mha``, ``.mhd``, a folder that holds a DICOM series (at any
        depth), a ``.zip`` of such a folder, or one multi-frame ``.dcm`` file.
    series : str, optional
        Series number or SeriesInstanceUID, where the DICOM folder holds several series.

    Returns
    -------
    Volume
        On the grid of the file. Integers keep their dtype, unless a scale is stored with them: then float32. In NIfTI
        the sform wins over the qform.

    Raises
    ------
    NeoNetError
        ``FILE_NOT_FOUND``, ``UNKNOWN_FORMAT``, ``EMPTY_FILE``, ``UNREADABLE_FILE`` (truncated, damaged), ``NOT_FINITE``
        (NaN, infinity), ``BAD_AFFINE``, ``NOT_3D`` (also a single slice), ``SEVERAL_FRAMES`` (4D, colour, several
        echoes); of DICOM ``NO_DICOM``, ``SEVERAL_SERIES``, ``SERIES_NOT_FOUND``, ``SLICE_GAP``, ``MIXED_SLICES``; of a
        zip ``UNSAFE_ARCHIVE``.
    """
    path = Path(path)
    try:
        return _read(path, series)
    except NeoNetError as error:
        raise NeoNetError(error.code, f"{path}: {error.message}", error.hint) from error


def _read(path: Path, series: str | None) -> Volume:
    if not path.exists():
        raise NeoNetError("FILE_NOT_FOUND", "No such file or folder.", "Check the path.")
    suffix = _suffix(path)
    if not path.is_dir():
        if suffix not in (*NIFTI_SUFFIXES, *ITK_SUFFIXES, ".zip", ".dcm"):
            raise NeoNetError("UNKNOWN_FORMAT", f"Unknown format {suffix or 'without a suffix'}.", f"Give {READABLE}.")
        if path.stat().st_size == 0:
            raise NeoNetError("EMPTY_FILE", "The file is empty (0 bytes).", "Export or copy it again.")
    if path.is_dir() or suffix in (".zip", ".dcm"):
        from neonet_core.dicom_series import read_dicom

        array, affine = read_dicom(path, series)
    else:
        try:
            array, affine = _read_nifti(path) if suffix in NIFTI_SUFFIXES else _read_itk(path, ITK_SUFFIXES[suffix])
        except (OSError, EOFError, ValueError, OverflowError, RuntimeError, MemoryError, zlib.error) as error:
            raise unreadable(error) from error
    volume = Volume(array, affine)
    if 1 in volume.shape:
        raise NeoNetError("NOT_3D", f"A single slice (shape {volume.shape}).", "Give the whole 3D volume.")
    # A minimum is NaN if any value is: no temporary array as of isfinite().
    if array.dtype.kind == "f" and not (np.isfinite(array.min()) and np.isfinite(array.max())):
        raise NeoNetError("NOT_FINITE", "The volume holds NaN or infinite values.", "Replace them, then export again.")
    return volume


def unreadable(error: Exception | None = None) -> NeoNetError:
    """The error for a file that ends too early or is damaged."""
    reason = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
    return NeoNetError(
        "UNREADABLE_FILE",
        f"The file cannot be read{reason}: truncated, damaged or not of the format that its name says.",
        "Export or copy it again.",
    )


def _suffix(path: Path) -> str:
    """Suffix in lower case, ``.nii.gz`` as one."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def _read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Array and RAS affine of a NIfTI-1 or NIfTI-2 file, compressed or not whatever its name says."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    with open(path, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    with gzip.open(path, "rb") if compressed else open(path, "rb") as stream:
        is_nifti2 = stream.read(4) in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c")  # sizeof_hdr: 540, not 348
        stream.seek(0)
        try:
            # Unchecked: the check would replace a spacing of zero by one.
            block = stream.read(540 if is_nifti2 else 348)
            header = (Nifti2Header if is_nifti2 else Nifti1Header)(block, check=False)
            if header["sizeof_hdr"] not in (348, 540) or bytes(header["magic"].item())[:3] not in (b"n+1", b"n+2"):
                raise unreadable()
            shape = header.get_data_shape()
            dtype = header.get_data_dtype()
            slope, intercept = header.get_slope_inter()
        except (HeaderDataError, WrapStructError, KeyError) as error:
            raise unreadable(error) from error
        shape = _one_frame(shape)
        if dtype.kind not in "iuf":
            raise _several_components("colour or complex")
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if size > path.stat().st_size * (MAX_DEFLATE_RATIO if compressed else 1):
            raise unreadable()
        affine = _nifti_affine(header)
        array = header.raw_data_from_fileobj(stream).reshape(shape, order="F")
        while stream.read(1 << 20):  # to the end: there gzip compares its checksum
            pass
    # Out of the file (nibabel maps it into memory), in this machine's byte order, without long doubles.
    native = np.dtype(np.float64) if dtype.itemsize > 8 else dtype.newbyteorder("=")
    array = array.astype(native, copy=isinstance(array, np.memmap))
    if slope is not None and (slope, intercept) != (1.0, 0.0):
        array = (array * np.float64(slope) + np.float64(intercept)).astype(np.float32)
    return array, affine


def _nifti_affine(header: Any) -> np.ndarray:
    """RAS affine in mm: the sform if it is set, else the qform, else the spacing alone."""
    from nibabel.spatialimages import HeaderDataError

    pixdim = np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64))
    if header["sform_code"] > 0:
        affine = header.get_sform()
    elif not (np.isfinite(pixdim).all() and (pixdim > 0).all()):
        raise NeoNetError("BAD_AFFINE", f"The voxel spacing is {pixdim.tolist()} mm.", "Export the volume again.")
    elif header["qform_code"] > 0:
        header["pixdim"][1:4] = pixdim
        header["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1  # NIfTI: 0 means 1
        try:
            affine = header.get_qform()
        except (HeaderDataError, ValueError) as error:
            raise NeoNetError("BAD_AFFINE", "The qform is no rotation.", "Export the volume again.") from error
    else:
        # The file says nothing of orientation, and the standard, nibabel and ITK differ: as Slicer (ITK) shows it.
        affine = LPS_TO_RAS @ np.diag([*pixdim, 1.0])
    to_mm = {1: 1000.0, 3: 0.001}.get(int(header["xyzt_units"]) & 7, 1.0)  # metres, micrometres
    return np.vstack([affine[:3] * to_mm, [0.0, 0.0, 0.0, 1.0]])


def _read_itk(path: Path, image_io: str) -> tuple[np.ndarray, np.ndarray]:
    """Array and RAS affine of a NRRD or MetaImage file."""
    sitk = simpleitk()
    str(path).encode("utf-8")  # of a name that is no text SimpleITK ends the process
    reader = sitk.ImageFileReader()
    reader.SetImageIO(image_io)
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        if reader.GetNumberOfComponents() > 1:
            raise _several_components(f"{reader.GetNumberOfComponents()} values in each voxel")
        _one_frame(reader.GetSize())
        image = reader.Execute()
    except RuntimeError as error:
        reason = str(error).replace(str(path), "").lower()
        if any(word in reason for word in ("determinant", "spacing", "direction")):
            raise NeoNetError("BAD_AFFINE", "Its axes are no grid in space.", "Export the volume again.") from error
        raise
    fields, start = _itk_header(path)
    if not fields.keys() & SPACING_FIELDS:
        raise NeoNetError("BAD_AFFINE", "It does not say how large its voxels are.",
                          "Export the volume again, with its spacing.")
    _verify_checksum(path, fields, start)
    return itk_array(image), itk_affine(image)


def _itk_header(path: Path) -> tuple[dict[bytes, bytes], int]:
    """The fields of a NRRD or MetaImage header, their names in lower case, and where it ends."""
    fields: dict[bytes, bytes] = {}
    with open(path, "rb") as file:
        for line in file:
            key, _, value = line.partition(b":" if path.suffix.lower() in NRRD_SUFFIXES else b"=")
            fields[key.strip().lower()] = value.strip()
            if key.strip().lower() in (b"", b"elementdatafile"):  # where the header of NRRD, of MetaImage ends
                break
        return fields, file.tell()


def _verify_checksum(path: Path, fields: Mapping[bytes, bytes], start: int) -> None:
    """Raise where the compressed voxels of a NRRD or MetaImage file are damaged: ITK returns whatever unpacks."""
    coding = fields.get(b"encoding") or fields.get(b"compresseddata") or b""
    name = fields.get(b"data file") or fields.get(b"datafile") or fields.get(b"elementdatafile") or b"LOCAL"
    source = path if name.upper() == b"LOCAL" else path.parent / os.fsdecode(name)
    if coding.lower() not in (b"gzip", b"gz", b"true") or b"byte skip" in fields or not source.is_file():
        return
    inflate = zlib.decompressobj(wbits=47)  # zlib or gzip, by their first bytes
    with open(source, "rb") as file:
        file.seek(start if source is path else 0)
        while not inflate.eof and (block := file.read(1 << 16)):
            inflate.decompress(block)
    if not inflate.eof:
        raise unreadable()


def simpleitk() -> Any:
    """SimpleITK without its warnings on stderr: what they announce is checked here."""
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    return SimpleITK


def itk_array(image: Any) -> np.ndarray:
    """Copy of the voxels of a SimpleITK image of one frame, shape (X, Y, Z)."""
    array = simpleitk().GetArrayFromImage(image).T
    return array.reshape(array.shape[:3], order="F")


def itk_affine(image: Any) -> np.ndarray:
    """RAS affine of a SimpleITK image (LPS) of three or more dimensions."""
    n = image.GetDimension()
    affine = np.eye(4)
    direction = np.reshape(image.GetDirection(), (n, n))[:3, :3]
    affine[:3, :3] = direction * np.asarray(image.GetSpacing()[:3])
    affine[:3, 3] = image.GetOrigin()[:3]
    return LPS_TO_RAS @ affine


def _one_frame(shape: Sequence[int]) -> tuple[int, ...]:
    """The first three sizes of a shape, checked that there are no more."""
    shape = tuple(int(n) for n in shape)
    if 0 in shape or not shape:
        raise NeoNetError("EMPTY_FILE", f"The volume has no voxels (shape {shape}).", "Export it again.")
    if any(n != 1 for n in shape[3:]):
        raise NeoNetError(
            "SEVERAL_FRAMES",
            f"The file holds {int(np.prod(shape[3:]))} volumes (shape {shape}), not one.",
            "Export the one phase, echo or frame that you mean as a 3D volume.",
        )
    if len(shape) < 3:
        raise NeoNetError("NOT_3D", f"A 2D image (shape {shape}).", "Give the whole 3D volume.")
    return shape[:3]


def _several_components(what: str) -> NeoNetError:
    return NeoNetError(
        "SEVERAL_FRAMES",
        f"The file holds {what}, not one number a voxel.",
        "Export a single grey-value volume, or of a segmentation with overlapping segments a label map.",
    )


# --- label maps -------------------------------------------------------------------------------------------------------


def read_label_map(path: str | os.PathLike[str], values: Mapping[int, int] | None = None) -> Volume:
    """Read a label map: 0 background, 1 liver, 2 tumour.

    Parameters
    ----------
    path : str or path
        As for :func:`read_volume`. Labels stored as floating-point numbers are taken if they are whole.
    values : mapping of int to int, optional
        What each value in the file means (0, 1 or 2), e.g. ``{5: 1, 9: 2}``; 0 stays 0 unless it is named.

    Returns
    -------
    Volume
        Array of uint8 with values 0, 1, 2, on the grid of the file.

    Raises
    ------
    NeoNetError
        ``BAD_LABELS``: other values in the file; and all that :func:`read_volume` raises.
    """
    meaning = {0: 0, **values} if values is not None else {0: 0, 1: 1, 2: 2}
    if not set(meaning.values()) <= {0, 1, 2}:
        raise NeoNetError("BAD_LABELS", f"Labels can only mean 0, 1 or 2, not {sorted(meaning.values())}.")
    volume = read_volume(path)
    if values is None:
        _check_segment_names(Path(path))
    array = volume.array
    if array.dtype.kind == "f":
        whole = np.rint(array)
        array = np.where(np.abs(array - whole) < 1e-3, whole, array)
    labels = np.zeros_like(array, np.uint8)  # in the same memory order: three times as fast
    unknown = np.ones_like(array, bool)
    for value, label in meaning.items():
        here = array == value
        unknown &= ~here
        if label:
            np.copyto(labels, np.uint8(label), where=here)
    if unknown.any():
        found = np.unique(array[unknown]).tolist()
        listed = ", ".join(f"{value:g}" for value in found[:10]) + (", ..." if len(found) > 10 else "")
        raise NeoNetError(
            "BAD_LABELS",
            f"{os.fspath(path)}: The label map holds the values {listed}; known are {sorted(meaning)}.",
            "Labels are 0 background, 1 liver, 2 tumour: say what other values mean, or export the label map again.",
        )
    return Volume(labels, volume.affine)


def _check_segment_names(path: Path) -> None:
    """Raise ``BAD_LABELS`` where the header of Slicer's segmentation (.seg.nrrd) calls 1 a tumour or 2 a liver."""
    if path.suffix.lower() not in NRRD_SUFFIXES:
        return
    fields, _ = _itk_header(path)
    named: dict[str, str] = {}  # value -> name; a key/value pair of NRRD has ":=" between the two
    for key, value in fields.items():
        if (found := re.fullmatch(rb"segment(\d+)_labelvalue", key)) is not None:
            name = fields.get(b"segment" + found[1] + b"_name", b"")
            named[value.lstrip(b"=").decode()] = name.lstrip(b"=").decode("utf-8", "replace").strip()

    def is_tumour(name: str) -> bool:
        return re.search(r"tumou?r|lesion|carcinoma|neoplasm|\b(icc|cca|hcc)\b", name, re.IGNORECASE) is not None

    first, second = (named.get(value, "") for value in ("1", "2"))
    if is_tumour(first) or ("liver" in second.lower() and not is_tumour(second)):
        listed = ", ".join(f"{value} {name}" for value, name in sorted(named.items()))
        raise NeoNetError("BAD_LABELS", f"{path}: The values of the segmentation are {listed}; needed are 1 liver and "
                          "2 tumour.", "Put the liver first in Slicer and export it again, or say in a manifest what "
                          "the values mean (columns liver_label, tumour_label).")


# --- writing ----------------------------------------------------------------------------------------------------------


def write_volume(volume: Volume, path: str | os.PathLike[str], note: str = "") -> None:
    """Write a volume as ``.nii``, ``.nii.gz``, ``.nrrd`` or ``.mha``: all of it or nothing.

    The dtype is kept, but bool becomes uint8 and float16 float32. In NIfTI sform and qform are both set, in mm. The
    folder is made where it is missing.

    Parameters
    ----------
    note : str
        A remark for whoever finds the file, kept in its header: NIfTI's ``descrip`` (79 bytes), else ``Comment``.

    Raises
    ------
    NeoNetError
        ``UNKNOWN_FORMAT``, ``CANNOT_WRITE`` (no permission, disk full).
    """
    path = Path(path)
    suffix = check_writable_format(path)
    array = volume.array.astype(_STORED_AS.get(volume.array.dtype.str[1:], volume.array.dtype), copy=False)
    temporary = path.parent / f".{uuid.uuid4().hex}{suffix}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix in NIFTI_SUFFIXES:
            _write_nifti(array, volume.affine, temporary, note)
        else:
            image = _itk_image(array.T, volume.affine)
            if note:
                image.SetMetaData("Comment", note)
            simpleitk().WriteImage(image, str(temporary), useCompression=True)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "the writer failed"
        raise NeoNetError("CANNOT_WRITE", f"{path}: {reason}.", "Check the permissions and the free space.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_writable_format(path: Path) -> str:
    """The suffix by which `write_volume` chooses the format. Raises ``UNKNOWN_FORMAT``."""
    suffix = _suffix(path)
    if suffix not in WRITABLE_SUFFIXES:
        raise NeoNetError("UNKNOWN_FORMAT", f"{path}: Cannot write {suffix or 'without a suffix'}.",
                          f"Use {', '.join(WRITABLE_SUFFIXES)}.")
    return suffix


def _write_nifti(array: np.ndarray, affine: np.ndarray, path: Path, note: str) -> None:
    import nibabel

    image = nibabel.Nifti1Image(array, affine, dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = note.encode("ascii", "replace")[:79]
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    nibabel.save(image, path)


def _itk_image(array_zyx: np.ndarray, affine: np.ndarray) -> Any:
    """SimpleITK image of an array (Z, Y, X) whose indices (x, y, z) the affine maps to RAS mm."""
    image = simpleitk().GetImageFromArray(array_zyx)
    _set_itk_geometry(image, affine)
    return image


def _set_itk_geometry(target: Any, affine: np.ndarray) -> None:
    """Give an image, or by its ``SetOutput...`` methods a resampler, the grid of a RAS affine."""
    lps = LPS_TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    prefix = "Set" if hasattr(target, "SetSpacing") else "SetOutput"
    getattr(target, prefix + "Spacing")(spacing.tolist())
    getattr(target, prefix + "Direction")((lps[:3, :3] / spacing).ravel().tolist())
    getattr(target, prefix + "Origin")(lps[:3, 3].tolist())


# --- geometry ---------------------------------------------------------------------------------------------------------


def _check_affine(affine: np.ndarray) -> None:
    hint = "Export the volume again from the scanner's images."
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or not np.array_equal(affine[3], [0, 0, 0, 1]):
        raise NeoNetError("BAD_AFFINE", "The affine is not a finite 4 x 4 matrix with last row 0 0 0 1.", hint)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if spacing.min() < 1e-6:
        raise NeoNetError("BAD_AFFINE", f"The voxel spacing is {spacing.tolist()} mm.", hint)
    axes = affine[:3, :3] / spacing
    if np.abs(axes.T @ axes - np.eye(3)).max() > MAX_AXIS_COSINE:
        raise NeoNetError("BAD_AFFINE", "The axes are not perpendicular (gantry tilt or shear).", hint)


def _closest_axes(affine: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """For each array axis the world axis (0 R, 1 A, 2 S) that it runs along most closely, and its sense (+1, -1)."""
    return _best_match(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))


def _best_match(cosines: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """For each column the row of its own with which it is most parallel (the best sum over all), and the sign there."""
    rows = max(permutations(range(3)), key=lambda p: sum(abs(cosines[p[i], i]) for i in range(3)))
    return rows, tuple(1 if cosines[rows[i], i] > 0 else -1 for i in range(3))


def _permuted(volume: Volume, order: Sequence[int], flips: Sequence[bool]) -> Volume:
    """The volume with array axis ``order[i]`` as its axis ``i``, reversed where ``flips[i]``."""
    to_old = np.zeros((4, 4))  # index in the new array -> index in the old
    to_old[3, 3] = 1.0
    for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
        to_old[old, new] = -1.0 if flip else 1.0
        to_old[old, 3] = volume.shape[old] - 1 if flip else 0.0
    array = volume.array.transpose(order)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    # Copied, because torch takes no negative strides; in the order it has in memory: that is eight times as fast.
    return Volume(array.copy(order="K") if any(flips) else array, volume.affine @ to_old)


def to_canonical(volume: Volume) -> Volume:
    """The same voxels with axes along R, A, S as closely as permuting and flipping can bring them.

    Parameters
    ----------
    volume : Volume
        In any orientation, oblique or left-handed.

    Returns
    -------
    Volume
        Orientation ``"RAS"``; every voxel keeps its value and its place in the patient. The volume itself where it is
        canonical already.
    """
    axes, signs = _closest_axes(volume.affine)
    order = [axes.index(world) for world in range(3)]
    flips = [signs[old] < 0 for old in order]
    return volume if order == [0, 1, 2] and not any(flips) else _permuted(volume, order, flips)


def same_grid(a: Volume, b: Volume, tolerance_mm: float = 0.05) -> bool:
    """Whether two volumes have their voxels in the same places, in whatever order and direction of the axes.

    Parameters
    ----------
    a, b : Volume
    tolerance_mm : float
        Largest distance between corresponding corner voxels. Formats that round their header stay below 0.01 mm;
        0.05 mm is a tenth of the finest voxels in abdominal MRI.
    """
    return _way_between(a, b, tolerance_mm) is not None


def reorient_like(volume: Volume, reference: Volume) -> Volume:
    """Permute and flip a volume onto the grid of the reference: the way back from :func:`to_canonical`.

    Returns
    -------
    Volume
        The voxels of ``volume`` in the order of ``reference``, with its affine.

    Raises
    ------
    NeoNetError
        ``GRID_MISMATCH`` where the voxels do not coincide (see :func:`same_grid`).
    """
    way = _way_between(volume, reference, 0.05)
    if way is None:
        raise NeoNetError(
            "GRID_MISMATCH",
            f"Two volumes are not on the same grid: {_grid(volume)}, and {_grid(reference)}.",
            "Resample one onto the other.",
        )
    order, flips = way
    if order == [0, 1, 2] and not any(flips):
        return Volume(volume.array, reference.affine)
    return Volume(_permuted(volume, order, flips).array, reference.affine)


def _grid(volume: Volume) -> str:
    size = " x ".join(str(n) for n in volume.shape)
    spacing = " x ".join(f"{mm:.3g}" for mm in volume.spacing)
    return f"{size} voxels of {spacing} mm, {volume.orientation}"


def _way_between(a: Volume, b: Volume, tolerance_mm: float) -> tuple[list[int], list[bool]] | None:
    """Order and flips (see _permuted) that bring ``a`` onto the grid of ``b``; None if none do."""
    cosines = (a.affine[:3, :3] / a.spacing).T @ (b.affine[:3, :3] / b.spacing)  # of each axis of a with each of b
    closest, signs = _best_match(cosines)
    order, flips = list(closest), [sign < 0 for sign in signs]
    if tuple(a.shape[i] for i in order) != b.shape:
        return None
    corners_b = np.array(np.meshgrid(*[(0, n - 1) for n in b.shape], indexing="ij")).reshape(3, -1)
    corners_a = np.empty_like(corners_b)
    for i, (old, flip) in enumerate(zip(order, flips, strict=True)):
        corners_a[old] = a.shape[old] - 1 - corners_b[i] if flip else corners_b[i]
    apart = (a.affine[:3, :3] @ corners_a + a.affine[:3, 3:]) - (b.affine[:3, :3] @ corners_b + b.affine[:3, 3:])
    return (order, flips) if np.linalg.norm(apart, axis=0).max() <= tolerance_mm else None


# --- resampling -------------------------------------------------------------------------------------------------------


def resample_to_spacing(volume: Volume, spacing: Sequence[float], order: int = 1) -> Volume:
    """Resample to another voxel spacing over the same extent in the patient.

    Parameters
    ----------
    volume : Volume
    spacing : three floats
        Of the new voxels in mm, along the axes of the volume.
    order : {0, 1, 3}
        0 nearest neighbour for labels, 1 linear, 3 cubic B-spline. Images (1, 3) are smoothed first along axes that get
        coarser, with sigma = (factor - 1) / 2 voxels as in scikit-image, against aliasing.

    Returns
    -------
    Volume
        The new grid has the same centre and, to half a new voxel, the same outer faces. Labels keep their dtype, images
        become float32 (float64 stays). The volume itself where no spacing changes by more than 0.001 mm.
    """
    old, new = np.asarray(volume.spacing), np.asarray(spacing, dtype=np.float64)
    if new.shape != (3,) or not (np.isfinite(new).all() and (new > 0).all()):
        raise ValueError(f"spacing must be three positive numbers, not {spacing}")
    if np.abs(old - new).max() <= 1e-3:
        return volume
    shape = np.maximum(np.rint(np.asarray(volume.shape) * old / new), 1).astype(int)
    affine = np.array(volume.affine)
    affine[:3, :3] *= new / old
    centre = volume.affine[:3, :3] @ ((np.asarray(volume.shape) - 1) / 2) + volume.affine[:3, 3]
    affine[:3, 3] = centre - affine[:3, :3] @ ((shape - 1) / 2)
    array = volume.array
    if order > 0:
        from scipy.ndimage import gaussian_filter1d

        array = array.astype(np.float64 if array.dtype == np.float64 else np.float32, copy=False)
        for axis, factor in enumerate(new / old):
            if factor > 1:
                array = gaussian_filter1d(array, (factor - 1) / 2, axis=axis, mode="nearest")
    return _resampled(Volume(array, volume.affine), affine, shape.tolist(), order, fill=None)


def resample_like(volume: Volume, reference: Volume, order: int = 1, fill: float = 0.0) -> Volume:
    """Resample a volume onto the grid of another, by world position.

    Parameters
    ----------
    volume : Volume
    reference : Volume
        Only its shape and affine are used; any orientation and obliquity.
    order : {0, 1, 3}
        0 nearest neighbour for labels, 1 linear, 3 cubic B-spline. Nothing is smoothed: where the reference is much
        coarser, use :func:`resample_to_spacing` first.
    fill : float
        Value of voxels outside the volume.

    Returns
    -------
    Volume
        On the grid of the reference. Labels (order 0) keep their dtype, images become float32 (float64 stays). Where
        the grids coincide the values are exactly those of the volume.
    """
    if _way_between(volume, reference, 1e-3) is not None:
        return reorient_like(volume, reference)
    return _resampled(volume, reference.affine, reference.shape, order, fill)


def _resampled(volume: Volume, affine: np.ndarray, shape: Sequence[int], order: int, fill: float | None) -> Volume:
    """Resample onto a grid; ``fill`` None repeats the outermost voxels."""
    sitk = simpleitk()
    dtype = volume.array.dtype
    if order > 0:
        array = volume.array.astype(np.float64 if dtype == np.float64 else np.float32, copy=False)
    else:
        array = volume.array.astype(_STORED_AS.get(dtype.str[1:], dtype), copy=False)
    # ITK's first index runs fastest: an array in C order is handed over with its axes reversed, not transposed.
    as_is = array.flags.f_contiguous
    if not as_is:
        array, shape = array.T, shape[::-1]
    turn = np.eye(4)[[0, 1, 2, 3] if as_is else [2, 1, 0, 3]]
    resampler = sitk.ResampleImageFilter()
    resampler.SetInterpolator({0: sitk.sitkNearestNeighbor, 1: sitk.sitkLinear, 3: sitk.sitkBSpline}[order])
    resampler.SetSize([int(n) for n in shape])
    _set_itk_geometry(resampler, affine @ turn)
    if fill is None:
        resampler.SetUseNearestNeighborExtrapolator(True)
    else:
        resampler.SetDefaultPixelValue(fill)
    result = itk_array(resampler.Execute(_itk_image(array.T, volume.affine @ turn)))
    result = result.astype(dtype if order == 0 else array.dtype, copy=False)
    return Volume(result if as_is else result.T, affine)


# --- intensities ------------------------------------------------------------------------------------------------------


def normalise_intensity(
    array: np.ndarray, low: float = 0.5, high: float = 99.5
) -> tuple[np.ndarray, tuple[float, float]]:
    """Map the intensities between two percentiles of the volume to [0, 1]; the rest is clipped.

    Parameters
    ----------
    array : numpy.ndarray
        Any shape and numeric dtype.
    low, high : float
        Percentiles, 0 to 100.

    Returns
    -------
    normalised : numpy.ndarray
        float32 in [0, 1], same shape.
    limits : tuple of two floats
        The intensities that became 0 and 1.

    Raises
    ------
    NeoNetError
        ``CONSTANT_IMAGE`` where the two percentiles are equal; ``NOT_FINITE``.
    """
    bottom, top = (float(value) for value in np.percentile(array.ravel(order="K"), [low, high]))
    if not np.isfinite([bottom, top]).all():
        raise NeoNetError("NOT_FINITE", "The image holds NaN or infinite values.", "Replace them first.")
    if top <= bottom:
        raise NeoNetError(
            "CONSTANT_IMAGE",
            f"The image has no contrast: its percentiles {low:g} and {high:g} are both {bottom:g}.",
            "Check that this is the MRI and not an empty or a mask volume.",
        )
    normalised = array.astype(np.float32)
    normalised -= np.float32(bottom)
    normalised /= np.float32(top - bottom)
    return np.clip(normalised, 0.0, 1.0, out=normalised), (bottom, top)
