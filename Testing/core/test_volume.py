"""Volumes: every voxel keeps its value and its place in the patient, and every bad input has one clear error."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import stat
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

from neonet_core import dicom_series as dicom_series_module
from neonet_core.errors import NeoNetError
from neonet_core.volume import (
    Volume,
    normalise_intensity,
    read_label_map,
    read_volume,
    reorient_like,
    resample_like,
    resample_to_spacing,
    same_grid,
    to_canonical,
    write_volume,
)

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the shared test data are not at {DATA}")

SHAPE = (5, 6, 7)
SPACING = (1.5, 0.8, 3.0)
ORIENTATIONS = [
    (order, signs) for order in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)
]
FORMATS = (".nii", ".nii.gz", ".nrrd", ".mha")


def rotation(degrees: Sequence[float]) -> np.ndarray:
    """Rotation about x, then y, then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        matrix = turn @ matrix
    return matrix


def grid(order: Sequence[int], signs: Sequence[int], degrees: Sequence[float] = (0, 0, 0)) -> np.ndarray:
    """Affine whose array axis i runs along world axis order[i], then turned by a rotation."""
    affine = np.eye(4)
    axes = np.zeros((3, 3))
    axes[list(order), range(3)] = signs
    affine[:3, :3] = rotation(degrees) @ axes * SPACING
    affine[:3, 3] = (-12.5, 34.25, -101.0)
    return affine


def volume_of(affine: np.ndarray, dtype: Any = np.int16, shape: tuple[int, ...] = SHAPE) -> Volume:
    """Every voxel with a value of its own."""
    return Volume(np.random.default_rng(0).permutation(int(np.prod(shape))).reshape(shape).astype(dtype), affine)


def places(array: np.ndarray, to_world: Callable[[tuple[int, ...]], Any]) -> np.ndarray:
    """World position of each value 0, 1, 2, ... of an array that holds each once, by any function of the index."""
    positions = np.empty((array.size, 3))
    for index in np.ndindex(array.shape):
        positions[int(array[index])] = to_world(index)
    return positions


def own_places(volume: Volume) -> np.ndarray:
    return places(volume.array, lambda index: (volume.affine @ [*index, 1])[:3])


def nibabel_places(path: Path) -> np.ndarray:
    image = nibabel.load(path)
    return places(np.asarray(image.dataobj), lambda index: nibabel.affines.apply_affine(image.affine, index))


def itk_places(path: Path) -> np.ndarray:
    image = SimpleITK.ReadImage(str(path))
    array = SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0)
    return places(array, lambda index: np.multiply(image.TransformIndexToPhysicalPoint(index), (-1, -1, 1)))


def code_of(function: Callable[..., Any], *arguments: Any, **options: Any) -> NeoNetError:
    with pytest.raises(NeoNetError) as caught:
        function(*arguments, **options)
    return caught.value


# --- orientation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [(0, 0, 0), (12, -20, 31)], ids=["straight", "oblique"])
@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_canonical_and_back_over_all_48_orientations(order: Any, signs: Any, degrees: Any) -> None:
    volume = volume_of(grid(order, signs, degrees))
    assert volume.orientation == "".join("RAS"[i] if s > 0 else "LPI"[i] for i, s in zip(order, signs, strict=True))
    canonical = to_canonical(volume)
    assert canonical.orientation == "RAS"
    assert min(canonical.array.strides) > 0  # torch takes no others
    np.testing.assert_allclose(own_places(canonical), own_places(volume), atol=1e-9)
    theirs = nibabel.as_closest_canonical(nibabel.Nifti1Image(volume.array, volume.affine))
    np.testing.assert_array_equal(canonical.array, np.asarray(theirs.dataobj))
    np.testing.assert_allclose(canonical.affine, theirs.affine, atol=1e-9)
    back = reorient_like(canonical, volume)
    np.testing.assert_array_equal(back.array, volume.array)
    np.testing.assert_array_equal(back.affine, volume.affine)
    assert same_grid(canonical, volume)


@given(
    order=st.permutations(range(3)),
    signs=st.tuples(*[st.sampled_from((1, -1))] * 3),
    degrees=st.tuples(*[st.floats(-180, 180)] * 3),
    shape=st.tuples(*[st.integers(1, 5)] * 3),
)
@settings(max_examples=60, deadline=None)
def test_canonical_keeps_every_place_at_any_obliquity(order: Any, signs: Any, degrees: Any, shape: Any) -> None:
    volume = volume_of(grid(order, signs, degrees), shape=shape)
    canonical = to_canonical(volume)
    np.testing.assert_allclose(own_places(canonical), own_places(volume), atol=1e-9)
    np.testing.assert_array_equal(reorient_like(canonical, volume).array, volume.array)
    # No other order of the axes lies closer to R, A, S.
    cosines = canonical.affine[:3, :3] / canonical.spacing
    best = max(sum(abs(cosines[i, p[i]]) for i in range(3)) for p in itertools.permutations(range(3)))
    assert np.trace(cosines) == pytest.approx(best)


def test_canonical_volume_is_returned_as_it_is() -> None:
    volume = volume_of(grid((0, 1, 2), (1, 1, 1)))
    assert to_canonical(volume) is volume


def test_same_grid_sees_world_space() -> None:
    volume = volume_of(grid((2, 0, 1), (1, -1, 1), (5, 6, 7)))
    assert same_grid(volume, to_canonical(volume))
    moved = volume.affine + np.pad(np.full((3, 1), 0.2), ((0, 1), (3, 0)))
    assert not same_grid(volume, Volume(volume.array, moved))
    assert same_grid(volume, Volume(volume.array, moved), tolerance_mm=0.5)
    assert not same_grid(volume, Volume(volume.array[:-1], volume.affine))
    turned = volume.affine.copy()  # the same origin and spacing, turned by one degree
    turned[:3, :3] = rotation((0, 0, 1)) @ turned[:3, :3]
    assert not same_grid(volume, Volume(volume.array, turned))
    # A mirrored array with the same affine has the same voxels, hence the same grid; mirrored affine has not.
    assert not same_grid(volume, Volume(volume.array, volume.affine @ np.diag([-1, 1, 1, 1])))
    assert code_of(reorient_like, volume, Volume(volume.array, moved)).code == "GRID_MISMATCH"


def test_same_grid_of_a_cube_compares_corner_by_corner() -> None:
    cube = Volume(np.zeros((4, 4, 4)), np.diag([2.0, 2.0, 2.0, 1.0]))
    turned = Volume(cube.array, np.array([[0, 2.0, 0, 0], [2.0, 0, 0, 0], [0, 0, 2.0, 0], [0, 0, 0, 1]]))
    assert same_grid(cube, turned)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("degrees", [(0, 0, 0), (12, -20, 31)], ids=["straight", "oblique"])
@pytest.mark.parametrize(("order", "signs"), [ORIENTATIONS[i] for i in (0, 3, 7, 13, 26, 45)])
def test_files_keep_every_place(order: Any, signs: Any, degrees: Any, suffix: str, tmp_path: Path) -> None:
    volume = volume_of(grid(order, signs, degrees))
    path = tmp_path / "new" / f"volume{suffix}"
    write_volume(volume, path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    again = read_volume(path)
    np.testing.assert_allclose(own_places(again), own_places(volume), atol=1e-3)
    np.testing.assert_allclose(itk_places(path), own_places(volume), atol=1e-3)
    if suffix in (".nii", ".nii.gz"):
        np.testing.assert_allclose(nibabel_places(path), own_places(volume), atol=1e-3)
    assert same_grid(again, volume)
    assert again.array.dtype == np.int16


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "i4", "u4", "i8", "f4", "f8", "?", "f2"])
def test_files_keep_the_dtype(dtype: str, suffix: str, tmp_path: Path) -> None:
    values = (np.arange(210) % 2).reshape(SHAPE).astype(dtype)
    path = tmp_path / f"volume{suffix}"
    write_volume(Volume(values, grid((0, 1, 2), (1, 1, 1))), path)
    again = read_volume(path).array
    assert again.dtype == {"?": np.uint8, "f2": np.float32}.get(dtype, np.dtype(dtype))
    assert not isinstance(again, np.memmap)
    np.testing.assert_array_equal(again, values)


@pytest.mark.parametrize("suffix", FORMATS)
def test_any_memory_order_is_written_right(suffix: str, tmp_path: Path) -> None:
    for number, array in enumerate((np.arange(210).reshape(SHAPE), np.arange(210).reshape(SHAPE[::-1]).T)):
        volume = Volume(array[::-1, :, ::-1].astype(np.float32), grid((0, 1, 2), (1, 1, 1)))
        write_volume(volume, tmp_path / f"{number}{suffix}")
        np.testing.assert_array_equal(read_volume(tmp_path / f"{number}{suffix}").array, volume.array)


def test_written_nifti_says_it_twice_and_in_mm(tmp_path: Path) -> None:
    volume = volume_of(grid((1, 0, 2), (1, 1, 1), (3, 4, 5)))  # left-handed
    assert np.linalg.det(volume.affine) < 0
    write_volume(volume, tmp_path / "v.nii.gz")
    header = nibabel.load(tmp_path / "v.nii.gz").header
    assert header["sform_code"] == header["qform_code"] == 1
    np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-4)
    assert header.get_xyzt_units()[0] == "mm"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "v.nii.gz"
    write_volume(volume_of(np.eye(4)), path)
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nibabel.save", fail)
    error = code_of(write_volume, volume_of(np.eye(4)), path)
    assert error.code == "CANNOT_WRITE" and "No space" in error.message
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["v.nii.gz"]
    (tmp_path / "file").write_text("")
    assert code_of(write_volume, volume_of(np.eye(4)), tmp_path / "file" / "v.nrrd").code == "CANNOT_WRITE"
    assert code_of(write_volume, volume_of(np.eye(4)), tmp_path / "v.png").code == "UNKNOWN_FORMAT"


def nifti(path: Path, array: np.ndarray, affine: Any = None, **header: Any) -> Path:
    """A NIfTI file with header fields as given, unchecked; scl_slope as stored."""
    image = nibabel.Nifti1Image(array, np.diag([*SPACING, 1]) if affine is None else affine)
    image.set_qform(image.affine, 1)
    nibabel.save(image, path)
    content = bytearray(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
    fields = nibabel.Nifti1Header(bytes(content[:348]), check=False)
    for name, value in header.items():
        fields[name] = value
    content[:348] = fields.binaryblock
    path.write_bytes(gzip.compress(bytes(content), 1) if path.suffix == ".gz" else bytes(content))
    return path


NUMBERS = np.arange(210, dtype=np.int16).reshape(SHAPE)


def test_sform_wins_over_qform(tmp_path: Path) -> None:
    sform = grid((0, 2, 1), (-1, 1, 1), (10, 0, 0))
    rows = {f"srow_{name}": sform[i] for i, name in enumerate("xyz")}
    path = nifti(tmp_path / "v.nii", NUMBERS, sform_code=2, qform_code=1, **rows)
    np.testing.assert_allclose(read_volume(path).affine, sform, atol=1e-5)
    path = nifti(tmp_path / "q.nii", NUMBERS, sform_code=0, qform_code=1, **rows)
    np.testing.assert_allclose(read_volume(path).affine, np.diag([*SPACING, 1]), atol=1e-6)


def test_without_sform_and_qform_it_lies_as_slicer_shows_it(tmp_path: Path) -> None:
    path = nifti(tmp_path / "v.nii", NUMBERS, sform_code=0, qform_code=0)
    np.testing.assert_allclose(own_places(read_volume(path)), itk_places(path), atol=1e-5)


@pytest.mark.parametrize(("units", "factor"), [(1, 1000.0), (2, 1.0), (3, 0.001), (0, 1.0), (2 + 8, 1.0)])
def test_units_become_mm(units: int, factor: float, tmp_path: Path) -> None:
    path = nifti(tmp_path / "v.nii", NUMBERS, xyzt_units=units)
    np.testing.assert_allclose(read_volume(path).spacing, np.multiply(SPACING, factor), rtol=1e-6)


def test_scale_in_the_header_is_applied(tmp_path: Path) -> None:
    path = nifti(tmp_path / "v.nii.gz", NUMBERS, scl_slope=0.5, scl_inter=-3)
    volume = read_volume(path)
    assert volume.array.dtype == np.float32
    np.testing.assert_allclose(volume.array, NUMBERS * 0.5 - 3)
    np.testing.assert_allclose(volume.array, nibabel.load(path).get_fdata())
    for slope in (0.0, 1.0, np.nan):  # 0 means no scale
        plain = read_volume(nifti(tmp_path / "p.nii.gz", NUMBERS, scl_slope=slope, scl_inter=0))
        assert plain.array.dtype == np.int16
        np.testing.assert_array_equal(plain.array, NUMBERS)


def test_nifti_of_other_kinds(tmp_path: Path) -> None:
    expected = read_volume(nifti(tmp_path / "v.nii", NUMBERS))
    big_endian = nibabel.Nifti1Image(NUMBERS, expected.affine, nibabel.Nifti1Header(endianness=">"))
    big_endian.set_data_dtype(np.int16)
    nibabel.save(big_endian, tmp_path / "big.nii.gz")
    nibabel.save(nibabel.Nifti2Image(NUMBERS, expected.affine), tmp_path / "two.nii.gz")
    (tmp_path / "not_zipped.nii.gz").write_bytes((tmp_path / "v.nii").read_bytes())
    (tmp_path / "zipped.NII").write_bytes(gzip.compress((tmp_path / "v.nii").read_bytes()))
    for name in ("big.nii.gz", "two.nii.gz", "not_zipped.nii.gz", "zipped.NII"):
        volume = read_volume(tmp_path / name)
        np.testing.assert_array_equal(volume.array, NUMBERS)
        assert volume.array.dtype == np.int16 and volume.array.dtype.isnative and same_grid(volume, expected)


@pytest.mark.parametrize("extra", [(1,), (1, 1)])
def test_one_frame_in_4d_is_a_volume(extra: tuple[int, ...], tmp_path: Path) -> None:
    path = nifti(tmp_path / "v.nii.gz", NUMBERS.reshape(SHAPE + extra))
    np.testing.assert_array_equal(read_volume(path).array, NUMBERS)
    image = SimpleITK.GetImageFromArray(NUMBERS.T[None], isVector=False)
    image.SetSpacing((*SPACING, 1.0))
    image.SetOrigin((1, 2, 3, 0))
    for suffix in (".nrrd", ".mha"):
        SimpleITK.WriteImage(image, str(tmp_path / f"v{suffix}"))
        volume = read_volume(tmp_path / f"v{suffix}")
        np.testing.assert_array_equal(volume.array, NUMBERS)
        np.testing.assert_allclose(volume.spacing, SPACING)
        np.testing.assert_allclose(volume.affine[:3, 3], (-1, -2, 3))


def nrrd(path: Path, fields: str, array: np.ndarray) -> Path:
    head = f"NRRD0004\ntype: short\nencoding: raw\nendian: little\n{fields}\n\n"
    path.write_bytes(head.encode() + array.astype("<i2").tobytes(order="F"))
    return path


@pytest.mark.parametrize(
    ("space", "signs"),
    [("left-posterior-superior", (-1, -1, 1)), ("right-anterior-superior", (1, 1, 1)), ("LAS", (-1, 1, 1))],
)
def test_nrrd_spaces(space: str, signs: tuple[int, ...], tmp_path: Path) -> None:
    fields = (
        f"dimension: 3\nspace: {space}\nsizes: 5 6 7\nspace directions: (1.5,0,0) (0,0.8,0) (0,0,3)\n"
        "space origin: (10,20,30)"
    )
    volume = read_volume(nrrd(tmp_path / "v.nrrd", fields, NUMBERS))
    np.testing.assert_allclose(volume.affine[:3, :3], np.diag(np.multiply(SPACING, signs)))
    np.testing.assert_allclose(volume.affine[:3, 3], np.multiply((10, 20, 30), signs))
    np.testing.assert_array_equal(volume.array, NUMBERS)


def test_nrrd_header_and_metaimage_header_with_data_beside_them(tmp_path: Path) -> None:
    volume = volume_of(grid((0, 1, 2), (-1, -1, 1)))
    write_volume(volume, tmp_path / "v.nrrd")
    image = SimpleITK.ReadImage(str(tmp_path / "v.nrrd"))
    for name in ("v.nhdr", "v.mhd"):
        SimpleITK.WriteImage(image, str(tmp_path / name))
        again = read_volume(tmp_path / name)
        np.testing.assert_allclose(own_places(again), own_places(volume), atol=1e-6)


# --- errors of files --------------------------------------------------------------------------------------------------


def file_of(suffix: str, folder: Path, array: np.ndarray) -> Path:
    path = folder / f"bad{suffix}"
    if suffix.startswith(".nii"):
        return nifti(path, array)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array.T), str(path))
    return path


def test_missing_and_unknown(tmp_path: Path) -> None:
    error = code_of(read_volume, tmp_path / "none.nii.gz")
    assert error.code == "FILE_NOT_FOUND" and "none.nii.gz" in error.message and error.hint
    (tmp_path / "v.png").write_bytes(b"PNG")
    assert code_of(read_volume, tmp_path / "v.png").code == "UNKNOWN_FORMAT"
    (tmp_path / "v").write_bytes(b"x")
    assert code_of(read_volume, tmp_path / "v").code == "UNKNOWN_FORMAT"


@pytest.mark.parametrize("suffix", [*FORMATS, ".mhd", ".nhdr", ".zip", ".dcm"])
def test_empty_and_nonsense(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"v{suffix}"
    path.write_bytes(b"")
    assert code_of(read_volume, path).code == "EMPTY_FILE"
    path.write_bytes(bytes(range(256)) * 20)
    assert code_of(read_volume, path).code in ("UNREADABLE_FILE", "NO_DICOM")


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("share", [0.001, 0.02, 0.1, 0.5, 0.98])
def test_truncated(suffix: str, share: float, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 999, (20, 21, 22)).astype(np.int16)
    path = file_of(suffix, tmp_path, noise)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share) + 1])
    error = code_of(read_volume, path)
    assert error.code == "UNREADABLE_FILE" and "\n" not in str(error)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha", ".mhd", ".nhdr"])
def test_damage_is_noticed_by_the_checksum(suffix: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 999, (20, 21, 22)).astype(np.int16)
    if suffix == ".nii.gz":
        path = damaged = nifti(tmp_path / "v.nii.gz", noise)
    else:
        path = tmp_path / f"v{suffix}"
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(noise.T), str(path), useCompression=True)
        damaged = max(tmp_path.iterdir(), key=lambda file: file.stat().st_size)  # the data, perhaps beside the header
    np.testing.assert_array_equal(read_volume(path).array, noise)
    content = damaged.read_bytes()
    for position in (len(content) // 2, len(content) - 2000, len(content) - 6):
        changed = bytearray(content)
        changed[position] ^= 0xFF
        damaged.write_bytes(changed)
        assert code_of(read_volume, path).code == "UNREADABLE_FILE"


@pytest.mark.parametrize("suffix", [*FORMATS, ".dcm", ".zip"])
def test_random_damage_is_an_error_or_nothing(suffix: str, tmp_path: Path) -> None:
    """Whatever the bytes: a volume or a NeoNetError, never another exception."""
    path = tmp_path / f"v{suffix}"
    if suffix == ".dcm":
        enhanced(path, 3.0 * np.arange(7))
    elif suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in dicom_series(tmp_path / "s").iterdir():
                archive.write(file, file.name)
    else:
        write_volume(volume_of(grid((0, 1, 2), (-1, -1, 1))), path)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        changed = bytearray(content)
        for position in rng.integers(min(len(content), 600), size=2):
            changed[position] = rng.integers(256)
        path.write_bytes(changed)
        with contextlib.suppress(NeoNetError):
            read_volume(path)


def test_a_header_cannot_ask_for_more_than_the_file_can_hold(tmp_path: Path) -> None:
    path = nifti(tmp_path / "v.nii.gz", NUMBERS, dim=[3, 32767, 32767, 32767, 1, 1, 1, 1])
    assert code_of(read_volume, path).code == "UNREADABLE_FILE"


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(suffix: str, value: float, tmp_path: Path) -> None:
    array = NUMBERS.astype(np.float32)
    array[2, 3, 4] = value
    assert code_of(read_volume, file_of(suffix, tmp_path, array)).code == "NOT_FINITE"


@pytest.mark.parametrize("suffix", FORMATS)
def test_flat(suffix: str, tmp_path: Path) -> None:
    assert code_of(read_volume, file_of(suffix, tmp_path, NUMBERS[:, :, 0])).code == "NOT_3D"
    assert code_of(read_volume, file_of(suffix, tmp_path, NUMBERS[:, :, :1])).code == "NOT_3D"


@pytest.mark.parametrize("suffix", FORMATS)
def test_several_frames(suffix: str, tmp_path: Path) -> None:
    two = np.stack([NUMBERS, NUMBERS], axis=-1)
    if suffix.startswith(".nii"):
        path = nifti(tmp_path / f"v{suffix}", two)
    else:
        path = tmp_path / f"v{suffix}"
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(two.T, isVector=False), str(path))
    error = code_of(read_volume, path)
    assert error.code == "SEVERAL_FRAMES" and "2 volumes" in error.message


def test_colour_and_layers(tmp_path: Path) -> None:
    rgb = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(rgb, np.eye(4)), tmp_path / "rgb.nii")
    assert code_of(read_volume, tmp_path / "rgb.nii").code == "SEVERAL_FRAMES"
    nibabel.save(nibabel.Nifti1Image(np.zeros(SHAPE, np.complex64), np.eye(4)), tmp_path / "c.nii")
    assert code_of(read_volume, tmp_path / "c.nii").code == "SEVERAL_FRAMES"
    colour = SimpleITK.GetImageFromArray(np.zeros((*SHAPE, 3), np.uint8), isVector=True)
    for suffix in (".nrrd", ".mha"):
        SimpleITK.WriteImage(colour, str(tmp_path / f"c{suffix}"))
        assert code_of(read_volume, tmp_path / f"c{suffix}").code == "SEVERAL_FRAMES"
    fields = (  # as Slicer writes a segmentation with overlapping segments
        "dimension: 4\nspace: left-posterior-superior\nsizes: 2 5 6 7\nkinds: list domain domain domain\n"
        "space directions: none (1.5,0,0) (0,0.8,0) (0,0,3)\nspace origin: (0,0,0)"
    )
    error = code_of(read_label_map, nrrd(tmp_path / "s.seg.nrrd", fields, np.stack([NUMBERS, NUMBERS])))
    assert error.code == "SEVERAL_FRAMES" and "label map" in error.hint


@pytest.mark.parametrize(
    "header",
    [
        {"srow_x": [0, 0, 0, 0]},  # singular
        {"srow_x": [1, 0.2, 0, 0]},  # sheared
        {"srow_z": [0, 0, np.nan, 0]},
        {"srow_y": [0, np.inf, 0, 0]},
        {"sform_code": 0, "qform_code": 0, "pixdim": [1, 0, 0, 0, 0, 0, 0, 0]},
        {"sform_code": 0, "pixdim": [1, 1.5, np.nan, 3, 0, 0, 0, 0]},
        {"sform_code": 0, "quatern_b": 3.0},  # no rotation
        {"sform_code": 0, "quatern_b": np.nan},
        {"sform_code": 0, "qoffset_x": np.inf},
    ],
    ids=lambda header: "-".join(header),
)
def test_bad_affine_in_nifti(header: dict[str, Any], tmp_path: Path) -> None:
    assert code_of(read_volume, nifti(tmp_path / "v.nii.gz", NUMBERS, **header)).code == "BAD_AFFINE"


def test_bad_affine_elsewhere(tmp_path: Path) -> None:
    for number, directions in enumerate(
        ("(1,0,0) (1,0,0) (0,0,1)", "(1,0,0) (0.3,1,0) (0,0,1)", "(0,0,0) (0,1,0) (0,0,1)", "(nan,0,0) (0,1,0) (0,0,1)")
    ):
        fields = f"dimension: 3\nspace: RAS\nsizes: 5 6 7\nspace directions: {directions}\nspace origin: (0,0,0)"
        path = nrrd(tmp_path / f"{number}.nrrd", fields, NUMBERS)
        assert code_of(read_volume, path).code == "BAD_AFFINE", directions
    for affine in (np.zeros((4, 4)), np.eye(3), np.full((4, 4), np.nan), np.eye(4) * 2):
        assert code_of(Volume, NUMBERS, affine).code == "BAD_AFFINE"
    assert code_of(Volume, NUMBERS[0], np.eye(4)).code == "NOT_3D"
    assert code_of(Volume, NUMBERS[:0], np.eye(4)).code == "EMPTY_FILE"


def test_a_file_that_does_not_say_its_spacing_is_refused(tmp_path: Path) -> None:
    path = nrrd(tmp_path / "v.nrrd", "dimension: 3\nsizes: 5 6 7", NUMBERS)
    assert code_of(read_volume, path).code == "BAD_AFFINE"
    nrrd(path, "dimension: 3\nsizes: 5 6 7\nspacings: 2 2 3", NUMBERS)
    np.testing.assert_allclose(read_volume(path).spacing, (2, 2, 3))
    header = "ObjectType = Image\nNDims = 3\nDimSize = 5 6 7\nElementType = MET_SHORT\n{}ElementDataFile = LOCAL\n"
    for fields, said in (("", False), ("ElementSpacing = 2 2 3\n", True)):
        path = tmp_path / "v.mha"
        path.write_bytes(header.format(fields).encode() + NUMBERS.astype("<i2").tobytes(order="F"))
        if said:
            np.testing.assert_allclose(read_volume(path).spacing, (2, 2, 3))
        else:
            assert code_of(read_volume, path).code == "BAD_AFFINE"


def test_rounded_headers_are_no_shear(tmp_path: Path) -> None:
    affine = np.round(grid((0, 1, 2), (-1, -1, 1), (12, -20, 31)), 4)
    write_volume(Volume(NUMBERS, affine), tmp_path / "v.nii.gz")
    np.testing.assert_allclose(read_volume(tmp_path / "v.nii.gz").affine, affine, atol=1e-5)


# --- label maps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "is_read"),
    [("liver", "tumour", True), ("Tumor", "Liver", False), ("tumour", "", False), ("Segment_1", "Segment_2", True),
     ("Leber", "liver tumor", True), ("liver segment", "ICC", True), ("lesion 1", "liver", False)],
)
def test_names_of_segments_that_contradict_their_values(first: str, second: str, is_read: bool, tmp_path: Path) -> None:
    """As 3D Slicer writes a segmentation whose segments lie in one layer."""
    fields = (
        "dimension: 3\nspace: left-posterior-superior\nsizes: 5 6 7\nspace directions: (1,0,0) (0,1,0) (0,0,3)\n"
        "space origin: (0,0,0)\nSegment0_LabelValue:=1\nSegment0_Layer:=0\n"
        f"Segment0_Name:={first}\nSegment1_LabelValue:=2\nSegment1_Name:={second}"
    )
    path = nrrd(tmp_path / "s.seg.nrrd", fields, NUMBERS % 3)
    if is_read:
        assert set(np.unique(read_label_map(path).array)) == {0, 1, 2}
    else:
        error = code_of(read_label_map, path)
        assert error.code == "BAD_LABELS" and first in error.message
        assert read_label_map(path, {1: 2, 2: 1}).array.max() == 2, "whoever says what the values mean is believed"


def test_label_maps(tmp_path: Path) -> None:
    labels = (NUMBERS % 3).astype(np.float32)
    for suffix in FORMATS:
        write_volume(Volume(labels, np.eye(4)), tmp_path / f"l{suffix}")
        read = read_label_map(tmp_path / f"l{suffix}")
        assert read.array.dtype == np.uint8
        np.testing.assert_array_equal(read.array, labels)
    write_volume(Volume((NUMBERS % 3 * 7).astype(np.int16), np.eye(4)), tmp_path / "m.nii.gz")
    np.testing.assert_array_equal(read_label_map(tmp_path / "m.nii.gz", {7: 2, 14: 1}).array, (3 - NUMBERS % 3) % 3)
    error = code_of(read_label_map, tmp_path / "m.nii.gz")
    assert error.code == "BAD_LABELS" and "7, 14" in error.message and "m.nii.gz" in error.message
    error = code_of(read_label_map, tmp_path / "m.nii.gz", {7: 1})
    assert error.code == "BAD_LABELS" and "values 14;" in error.message
    assert code_of(read_label_map, tmp_path / "m.nii.gz", {7: 1, 14: 3}).code == "BAD_LABELS"
    write_volume(Volume(labels * 0.5, np.eye(4)), tmp_path / "h.nii.gz")
    error = code_of(read_label_map, tmp_path / "h.nii.gz")
    assert error.code == "BAD_LABELS" and "0.5" in error.message


# --- resampling -------------------------------------------------------------------------------------------------------


def blob(affine: np.ndarray, shape: tuple[int, ...], centre: np.ndarray, sigma: float = 6.0) -> Volume:
    """A Gaussian of ``sigma`` mm at a world position."""
    index = np.indices(shape).reshape(3, -1)
    world = affine[:3, :3] @ index + affine[:3, 3:]
    values = np.exp(-((world - centre[:, None]) ** 2).sum(0) / (2 * sigma**2)).reshape(shape)
    return Volume(values.astype(np.float32), affine)


def centroid(volume: Volume) -> np.ndarray:
    index = np.indices(volume.shape).reshape(3, -1)
    world = volume.affine[:3, :3] @ index + volume.affine[:3, 3:]
    weight = np.asarray(volume.array, np.float64).ravel()
    return (world * weight).sum(1) / weight.sum()


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS[::5])
@pytest.mark.parametrize("spacing", [(1, 1, 1), (2.5, 2.5, 2.5), (0.7, 3.1, 3.0)])
@pytest.mark.parametrize("interpolation", [1, 3])
def test_resampling_keeps_the_blob_in_its_place(order: Any, signs: Any, spacing: Any, interpolation: int) -> None:
    affine = grid(order, signs, (12, -20, 31))
    shape = (44, 62, 25)
    middle = affine[:3, :3] @ (np.array(shape) / 2 + (1.3, -0.7, 0.4)) + affine[:3, 3]
    volume = blob(affine, shape, middle, sigma=5.0)
    near = 0.1 if interpolation == 1 else 0.02  # mm; half a voxel off would be 0.35 or more
    new = resample_to_spacing(volume, spacing, interpolation)
    np.testing.assert_allclose(new.spacing, spacing)
    np.testing.assert_allclose(centroid(new), centroid(volume), atol=near)
    mass = volume.array.sum() * volume.voxel_volume_ml
    assert new.array.sum() * new.voxel_volume_ml == pytest.approx(mass, rel=0.01)
    back = resample_like(new, volume, interpolation)
    np.testing.assert_allclose(centroid(back), centroid(volume), atol=near)
    np.testing.assert_array_equal(back.affine, volume.affine)
    other = blob(grid((2, 0, 1), (1, -1, 1), (-8, 3, 4)), (60, 61, 62), np.zeros(3))
    other = Volume(other.array, _centred(other, middle))
    np.testing.assert_allclose(centroid(resample_like(volume, other, interpolation)), centroid(volume), atol=near)


def _centred(volume: Volume, world: np.ndarray) -> np.ndarray:
    """The affine moved so that the middle of the grid lies at a world position."""
    affine = volume.affine.copy()
    affine[:3, 3] += world - (affine[:3, :3] @ ((np.array(volume.shape) - 1) / 2) + affine[:3, 3])
    return affine


@given(
    spacing=st.tuples(*[st.floats(0.4, 6)] * 3),
    shape=st.tuples(*[st.integers(2, 12)] * 3),
    order=st.sampled_from([0, 1, 3]),
)
@settings(max_examples=60, deadline=None)
def test_resampling_keeps_extent_and_range(spacing: Any, shape: Any, order: int) -> None:
    volume = volume_of(grid((2, 0, 1), (1, -1, 1), (5, 6, 7)), shape=shape)
    new = resample_to_spacing(volume, spacing, order)
    for axis in range(3):  # the same outer faces to half a new voxel, unless that leaves no voxel
        old_mm, new_mm = shape[axis] * volume.spacing[axis], new.shape[axis] * new.spacing[axis]
        assert abs(old_mm - new_mm) <= new.spacing[axis] / 2 + 1e-6 or new.shape[axis] == 1

    def middle(v: Volume) -> np.ndarray:
        return v.affine @ [*((np.array(v.shape) - 1) / 2), 1]

    np.testing.assert_allclose(middle(new), middle(volume), atol=1e-6)
    if order < 3:
        assert volume.array.min() <= new.array.min() and new.array.max() <= volume.array.max() + 1e-3
    if order == 0:
        assert new.array.dtype == volume.array.dtype and set(np.unique(new.array)) <= set(np.unique(volume.array))


@pytest.mark.parametrize("order", [0, 1, 3])
def test_resampling_to_itself_changes_nothing(order: int) -> None:
    volume = volume_of(grid((2, 0, 1), (1, -1, 1), (5, 6, 7)))
    assert resample_to_spacing(volume, volume.spacing, order) is volume
    assert resample_to_spacing(volume, np.add(volume.spacing, 5e-4), order) is volume
    np.testing.assert_array_equal(resample_like(volume, volume, order).array, volume.array)
    canonical = to_canonical(volume)
    np.testing.assert_array_equal(resample_like(volume, canonical, order).array, canonical.array)


@pytest.mark.parametrize("layout", ["C", "F"])
@pytest.mark.parametrize("order", [0, 1])
def test_resampled_values_are_those_at_the_same_world_point(order: int, layout: Any) -> None:
    """Against scipy, point by point, in either memory order."""
    from scipy.ndimage import map_coordinates

    volume = volume_of(grid((2, 0, 1), (1, -1, 1), (5, 6, 7)), np.float32, (9, 10, 11))
    volume = Volume(np.asarray(volume.array, order=layout), volume.affine)
    affine = grid((0, 1, 2), (-1, 1, 1), (20, -10, 3)) * [[0.77], [0.77], [0.77], [1]]
    reference = Volume(np.zeros((8, 9, 10), np.uint8), affine)
    reference = Volume(reference.array, _centred(reference, (volume.affine @ [4.1, 4.7, 5.2, 1])[:3]))
    world = reference.affine @ np.vstack([np.indices(reference.shape).reshape(3, -1), np.ones(720)])
    index = (np.linalg.inv(volume.affine) @ world)[:3]
    inside = ((index >= 0) & (index <= np.array(volume.shape)[:, None] - 1)).all(0)
    new = resample_like(volume, reference, order, fill=-7).array.ravel()
    assert 0.3 < inside.mean() < 1
    if order == 0:
        nearest = volume.array[tuple(np.rint(index[:, inside]).astype(int))]
        assert (new[inside] == nearest).mean() > 0.99  # ties may fall either way
    else:
        expected = map_coordinates(volume.array.astype(np.float64), index[:, inside], order=1)
        np.testing.assert_allclose(new[inside], expected, atol=0.05)
    outside = ((index < -0.5) | (index > np.array(volume.shape)[:, None] - 0.5)).any(0)
    assert outside.any() and (new[outside] == -7).all()


def test_labels_keep_their_kind() -> None:
    for dtype in (np.uint8, bool, np.int64, np.float16):
        volume = Volume((NUMBERS % 3 > 0).astype(dtype), grid((0, 1, 2), (1, 1, 1)))
        new = resample_to_spacing(volume, (1, 1, 1), order=0)
        assert new.array.dtype == dtype and set(np.unique(new.array)) == {0, 1}
    with pytest.raises(ValueError):
        resample_to_spacing(volume, (1, 0, 1))


def test_downsampling_does_not_alias() -> None:
    """Alternating slices, four times finer than the new grid, become their mean, not stripes of either."""
    stripes = Volume(np.tile(np.arange(64)[:, None, None] % 2, (1, 8, 8)).astype(np.float32), np.eye(4))
    new = resample_to_spacing(stripes, (4.4, 1, 1))
    assert np.abs(new.array[1:-1] - 0.5).max() < 0.05


# --- intensities ------------------------------------------------------------------------------------------------------


@given(hnp.arrays(np.float32, (4, 5, 6), elements=st.floats(-1000, 1000, width=32), unique=True))
@settings(max_examples=40, deadline=None)
def test_normalised_intensities(array: np.ndarray) -> None:
    normalised, (low, high) = normalise_intensity(array)
    assert normalised.dtype == np.float32 and normalised.min() == 0 and normalised.max() == 1
    inside = (array >= low) & (array <= high)
    np.testing.assert_allclose(normalised[inside] * (high - low) + low, array[inside], atol=1e-2)
    assert (np.diff(normalised.ravel()[np.argsort(array.ravel())]) >= 0).all()
    assert (low, high) == pytest.approx(tuple(np.percentile(array, [0.5, 99.5])))


def test_normalising_ignores_outliers_and_refuses_what_has_no_contrast() -> None:
    array = np.random.default_rng(0).normal(100, 10, (20, 20, 20))
    spiked = array.copy()
    spiked[0, 0, :5] = 1e6
    assert normalise_intensity(spiked)[1] == pytest.approx(normalise_intensity(array)[1], rel=0.01)
    assert code_of(normalise_intensity, np.full((4, 4, 4), 7)).code == "CONSTANT_IMAGE"
    mask = np.zeros((10, 10, 20))
    mask[0, 0, 0] = 1
    assert code_of(normalise_intensity, mask).code == "CONSTANT_IMAGE"
    assert code_of(normalise_intensity, np.full((4, 4, 4), np.nan)).code == "NOT_FINITE"


# --- DICOM ------------------------------------------------------------------------------------------------------------

CT, MR, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"
PIXEL = (0.8, 1.5)  # between rows, between columns


def dataset(sop_class: str, syntax: str = ExplicitVRLittleEndian, **attributes: Any) -> Dataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, generate_uid()
    meta.TransferSyntaxUID = syntax
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    data.PatientName, data.PatientID = "Doe^Jane", "SECRET-17"
    data.StudyInstanceUID = "1.2.3"
    for name, value in attributes.items():
        setattr(data, name, value)
    return data


def with_pixels(data: Dataset, array: np.ndarray) -> Dataset:
    data.Rows, data.Columns = array.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, int(array.dtype == np.int16)
    data.PixelData = array.tobytes()
    return data


def dicom_series(
    folder: Path,
    array: np.ndarray = NUMBERS,
    matrix: np.ndarray | None = None,
    heights: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
    change: Callable[[int, Dataset], None] | None = None,
    **attributes: Any,
) -> Path:
    """A series, one file a slice of array (X, Y, Z), along the columns of a rotation ``matrix`` (LPS)."""
    folder.mkdir(parents=True, exist_ok=True)
    matrix = np.eye(3) if matrix is None else matrix
    heights = 3.0 * np.arange(array.shape[2]) if heights is None else heights
    attributes = {"SeriesInstanceUID": generate_uid(), "SeriesNumber": 4, "Modality": "MR", **attributes}
    for i, height in enumerate(heights):
        data = dataset(attributes.pop("sop_class", MR), **attributes)
        data.ImagePositionPatient = [f"{v:.6f}" for v in np.array((10, -20, 30)) + matrix[:, 2] * height]
        data.ImageOrientationPatient = [f"{v:.6f}" for v in np.concatenate([matrix[:, 0], matrix[:, 1]])]
        data.PixelSpacing = list(PIXEL)
        data.InstanceNumber = i + 1
        with_pixels(data, np.ascontiguousarray(array[:, :, i % array.shape[2]].T))
        if change:
            change(i, data)
        data.save_as(folder / (names[i] if names else f"{i:03d}.dcm"), enforce_file_format=True)
    return folder


def expected_places(matrix: np.ndarray, distance: float = 3.0) -> np.ndarray:
    """Where the value v of NUMBERS lies, by DICOM's own formula, in RAS."""
    x, y, z = np.indices(SHAPE).reshape(3, -1)
    lps = np.array([[10], [-20], [30]]) + matrix @ np.array([x * PIXEL[1], y * PIXEL[0], z * distance])
    return (lps * [[-1], [-1], [1]]).T


@pytest.mark.parametrize("degrees", [(0, 0, 0), (90, 0, 0), (0, 90, 0), (12, -20, 31)])
@pytest.mark.parametrize("backwards", [False, True])
def test_dicom_series_lies_where_its_slices_say(degrees: Any, backwards: bool, tmp_path: Path) -> None:
    names = [f"IM{n:04d}" for n in (range(7, 0, -1) if backwards else range(7))]  # no suffix
    folder = dicom_series(tmp_path / "case" / "study" / "s", matrix=rotation(degrees), names=names)
    (folder / "DICOMDIR.txt").write_text("not an image")
    (folder / ".hidden").write_bytes(b"x")
    volume = read_volume(tmp_path / "case")
    assert volume.array.dtype == np.int16
    np.testing.assert_allclose(own_places(volume), expected_places(rotation(degrees)), atol=1e-3)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    SimpleITK.WriteImage(reader.Execute(), str(tmp_path / "itk.mha"))
    np.testing.assert_allclose(own_places(volume), itk_places(tmp_path / "itk.mha"), atol=1e-3)


def test_dicom_scale(tmp_path: Path) -> None:
    def scale(i: int, data: Dataset) -> None:
        data.RescaleSlope, data.RescaleIntercept = ("1", "-1000") if i == 0 else (f"{0.25 * (i + 1)}", "3")

    array = read_volume(dicom_series(tmp_path, change=scale, sop_class=CT, Modality="CT")).array
    assert array.dtype == np.float32
    np.testing.assert_allclose(array[:, :, 0], NUMBERS[:, :, 0] - 1000.0)
    for i in range(1, 7):  # also where the first slice is stored in whole numbers
        np.testing.assert_allclose(array[:, :, i], NUMBERS[:, :, i] * 0.25 * (i + 1) + 3)


def test_dicom_zip(tmp_path: Path) -> None:
    folder = dicom_series(tmp_path / "s")
    with zipfile.ZipFile(tmp_path / "s.ZIP", "w") as archive:
        archive.writestr("study/", "")
        archive.writestr("__MACOSX/study/._000.dcm", b"\0" * 200)
        for file in folder.iterdir():
            archive.write(file, f"study/series/{file.name}")
    np.testing.assert_array_equal(read_volume(tmp_path / "s.ZIP").array, read_volume(folder).array)
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert code_of(read_volume, tmp_path / "none.zip").code == "NO_DICOM"


@pytest.mark.parametrize("name", ["../evil.dcm", "/evil.dcm", "a/../../evil.dcm", "..\\evil.dcm", "C:\\evil.dcm"])
def test_a_zip_cannot_write_outside(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp" / "deep"))
    (tmp_path / "tmp" / "deep").mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.writestr(name, "evil")
    assert code_of(read_volume, tmp_path / "s.zip").code == "UNSAFE_ARCHIVE"
    assert not list(tmp_path.rglob("*evil*")) and not list((tmp_path / "tmp" / "deep").iterdir())


def test_a_zip_with_a_link_a_bomb_a_password_or_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    assert code_of(read_volume, tmp_path / "link.zip").code == "UNSAFE_ARCHIVE"
    monkeypatch.setattr(dicom_series_module, "MAX_ARCHIVE_BYTES", 10_000)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", b"\0" * 20_000)
    assert code_of(read_volume, tmp_path / "bomb.zip").code == "UNSAFE_ARCHIVE"
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("000.dcm", b"\0" * 5000)
    content = bytearray((tmp_path / "z.zip").read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1  # the bit for encryption
    content[6] |= 1
    (tmp_path / "locked.zip").write_bytes(content)
    error = code_of(read_volume, tmp_path / "locked.zip")
    assert error.code == "UNREADABLE_FILE" and "password" in error.hint
    content = bytearray((tmp_path / "z.zip").read_bytes())
    content[1000] ^= 0xFF
    (tmp_path / "damaged.zip").write_bytes(content)
    (tmp_path / "short.zip").write_bytes(content[:3000])
    for name in ("damaged.zip", "short.zip"):
        assert code_of(read_volume, tmp_path / name).code == "UNREADABLE_FILE"


def test_several_series_are_listed_and_chosen(tmp_path: Path) -> None:
    dicom_series(tmp_path / "a", SeriesNumber=4, SeriesDescription="T1 HBP\n20 min")
    dicom_series(tmp_path / "b", NUMBERS[:, :, :4] * 2, SeriesNumber=11, SeriesDescription="T2 äö", Modality="MR")
    error = code_of(read_volume, tmp_path)
    assert error.code == "SEVERAL_SERIES" and "--series" in error.hint
    assert "4: T1 HBP" in error.message and "7 slices" in error.message
    assert "11: T2" in error.message and "4 slices" in error.message
    assert not any(word in str(error) for word in ("Doe", "Jane", "SECRET", "\n"))
    np.testing.assert_array_equal(read_volume(tmp_path, series="11").array, NUMBERS[:, :, :4] * 2)
    np.testing.assert_array_equal(read_volume(tmp_path, series="4").array, NUMBERS)
    uid = str(pydicom.dcmread(tmp_path / "b" / "000.dcm").SeriesInstanceUID)
    np.testing.assert_array_equal(read_volume(tmp_path, series=uid).array, NUMBERS[:, :, :4] * 2)
    error = code_of(read_volume, tmp_path, series="5")
    assert error.code == "SERIES_NOT_FOUND" and "11: T2" in error.message
    dicom_series(tmp_path / "c", SeriesNumber=4)
    error = code_of(read_volume, tmp_path, series="4")  # two of that number: by UID
    assert error.code == "SEVERAL_SERIES" and "T2" not in error.message
    uid = str(pydicom.dcmread(tmp_path / "c" / "000.dcm").SeriesInstanceUID)
    assert uid in error.message
    np.testing.assert_array_equal(read_volume(tmp_path, series=uid).array, NUMBERS)


def test_objects_beside_the_images_do_not_count(tmp_path: Path) -> None:
    folder = dicom_series(tmp_path / "a")
    report = dataset("1.2.840.10008.5.1.4.1.1.88.11", SeriesInstanceUID=generate_uid(), Modality="SR")
    report.save_as(folder / "report.dcm", enforce_file_format=True)
    dicom_series(tmp_path / "seg", Modality="SEG")
    (tmp_path / "copy").mkdir()  # the same image twice
    (tmp_path / "copy" / "again.dcm").write_bytes((folder / "002.dcm").read_bytes())
    np.testing.assert_array_equal(read_volume(tmp_path).array, NUMBERS)


def test_no_dicom(tmp_path: Path) -> None:
    assert code_of(read_volume, tmp_path).code == "NO_DICOM"
    (tmp_path / "notes.txt").write_text("no image")
    assert code_of(read_volume, tmp_path).code == "NO_DICOM"


@pytest.mark.parametrize("missing", [1, 3, 5])
def test_a_missing_slice_is_a_gap(missing: int, tmp_path: Path) -> None:
    folder = dicom_series(tmp_path, matrix=rotation((12, -20, 31)))
    (folder / f"{missing:03d}.dcm").unlink()
    error = code_of(read_volume, folder)
    assert error.code == "SLICE_GAP" and f"between slices {missing} and {missing + 1}" in error.message
    assert "6.00 mm" in error.message


def test_jitter_is_no_gap_and_uneven_slices_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    jitter = 3.0 * np.arange(7) + rng.uniform(-0.005, 0.005, 7)
    assert read_volume(dicom_series(tmp_path / "a", heights=jitter)).spacing[2] == pytest.approx(3, rel=0.01)
    rounded = np.round(1.0 / 3 * np.arange(7), 2)
    assert read_volume(dicom_series(tmp_path / "b", heights=rounded)).spacing[2] == pytest.approx(1 / 3, rel=0.01)
    assert code_of(read_volume, dicom_series(tmp_path / "c", heights=np.arange(7) ** 1.2)).code == "SLICE_GAP"
    assert code_of(read_volume, dicom_series(tmp_path / "d", heights=(0, 3, 6, 9, 12, 13.5, 16.5))).code == "SLICE_GAP"


@pytest.mark.parametrize("what", ["size", "pixel spacing", "orientation"])
def test_mixed_slices(what: str, tmp_path: Path) -> None:
    def change(i: int, data: Dataset) -> None:
        if i == 3 and what == "size":
            with_pixels(data, np.zeros((9, 5), np.int16))
        if i == 3 and what == "pixel spacing":
            data.PixelSpacing = [0.9, 1.5]
        if i == 3 and what == "orientation":
            data.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]

    error = code_of(read_volume, dicom_series(tmp_path, change=change))
    assert error.code == "MIXED_SLICES" and what in error.message


def test_shifted_and_tilted_slices(tmp_path: Path) -> None:
    def shift(i: int, data: Dataset) -> None:
        if i == 3:
            data.ImagePositionPatient[0] += 4

    assert code_of(read_volume, dicom_series(tmp_path / "a", change=shift)).code == "MIXED_SLICES"

    def tilt(i: int, data: Dataset) -> None:
        data.ImagePositionPatient[1] += 0.5 * i

    assert code_of(read_volume, dicom_series(tmp_path / "b", change=tilt)).code == "BAD_AFFINE"


def test_several_images_at_a_position(tmp_path: Path) -> None:
    def echo(i: int, data: Dataset) -> None:
        data.EchoTime = 1.2 if i < 7 else 2.4

    error = code_of(read_volume, dicom_series(tmp_path, heights=[*range(0, 21, 3)] * 2, change=echo))
    assert error.code == "SEVERAL_FRAMES"
    assert "14 slices at 7 positions" in error.message and "echo time" in error.message


def test_dicom_without_geometry_colour_or_a_single_slice(tmp_path: Path) -> None:
    def bare(_: int, data: Dataset) -> None:
        del data.ImagePositionPatient

    assert code_of(read_volume, dicom_series(tmp_path / "a", change=bare)).code == "BAD_AFFINE"

    def colour(_: int, data: Dataset) -> None:
        data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
        data.BitsAllocated = data.BitsStored = 8
        data.HighBit, data.PixelRepresentation = 7, 0
        data.PixelData = bytes(5 * 6 * 3)

    assert code_of(read_volume, dicom_series(tmp_path / "b", change=colour)).code == "SEVERAL_FRAMES"
    folder = dicom_series(tmp_path / "c", heights=[0])
    for path in (folder, folder / "000.dcm"):
        error = code_of(read_volume, path)
        assert error.code == "NOT_3D" and "folder" in error.hint


@pytest.mark.parametrize("keep", [0, 200, 600, -20])
def test_a_damaged_slice_is_named_not_skipped(keep: int, tmp_path: Path) -> None:
    folder = dicom_series(tmp_path)
    last = folder / "006.dcm"  # without it the rest would be a good, shorter stack
    last.write_bytes(last.read_bytes()[:keep])
    error = code_of(read_volume, folder)
    assert error.code == "UNREADABLE_FILE" and "006.dcm" in error.message


def enhanced(
    path: Path,
    heights: Sequence[float],
    slopes: Sequence[float] | None = None,
    matrix: np.ndarray | None = None,
    syntax: str = ExplicitVRLittleEndian,
    undefined: bool = False,
) -> Path:
    """An enhanced multi-frame MR: geometry in functional groups."""
    matrix = np.eye(3) if matrix is None else matrix

    def item(**attributes: Any) -> list[Dataset]:
        data = Dataset()
        for name, value in attributes.items():
            setattr(data, name, value)
        data.is_undefined_length_sequence_item = undefined
        return [data]

    data = dataset(ENHANCED_MR, syntax, SeriesInstanceUID=generate_uid(), SeriesNumber=5, Modality="MR")
    data.NumberOfFrames = len(heights)
    data.SharedFunctionalGroupsSequence = item(
        PlaneOrientationSequence=item(ImageOrientationPatient=[f"{v:.6f}" for v in matrix[:, :2].T.ravel()]),
        PixelMeasuresSequence=item(PixelSpacing=list(PIXEL), SliceThickness=3),
    )
    frames = []
    for i, height in enumerate(heights):
        position = [f"{v:.6f}" for v in np.array((10, -20, 30)) + matrix[:, 2] * height]
        groups: dict[str, Any] = {"PlanePositionSequence": item(ImagePositionPatient=position)}
        if slopes:
            scale = item(RescaleSlope=slopes[i], RescaleIntercept=1, RescaleType="US")
            groups["PixelValueTransformationSequence"] = scale
        frames += item(**groups)
    data.PerFrameFunctionalGroupsSequence = frames
    if undefined:
        for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
            data[name].is_undefined_length = True
    with_pixels(data, np.ascontiguousarray(NUMBERS.transpose(2, 1, 0)[np.arange(len(heights)) % 7]))
    data.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("undefined", [False, True])
def test_enhanced_multiframe(syntax: str, undefined: bool, tmp_path: Path) -> None:
    matrix = rotation((12, -20, 31))
    path = enhanced(tmp_path / "e.dcm", 3.0 * np.arange(7), matrix=matrix, syntax=syntax, undefined=undefined)
    for source in (path, tmp_path):
        np.testing.assert_allclose(own_places(read_volume(source)), expected_places(matrix), atol=1e-3)
    enhanced(path, 3.0 * np.arange(7)[::-1])
    backwards = read_volume(path)
    np.testing.assert_array_equal(backwards.array, NUMBERS[:, :, ::-1])
    np.testing.assert_allclose(backwards.affine[:3, 3], (-10, 20, 30))
    enhanced(path, 3.0 * np.arange(7), slopes=[0.5 * (i + 1) for i in range(7)])
    scale = 0.5 * (np.arange(7) + 1)
    np.testing.assert_allclose(read_volume(path).array, NUMBERS * scale + 1, rtol=1e-6)


def test_enhanced_multiframe_errors(tmp_path: Path) -> None:
    path = tmp_path / "e.dcm"
    assert code_of(read_volume, enhanced(path, (0, 3, 6, 12, 15))).code == "SLICE_GAP"
    assert code_of(read_volume, enhanced(path, (0, 0, 3, 3, 6, 6))).code == "SEVERAL_FRAMES"
    bare = dataset("1.2.840.10008.5.1.4.1.1.7.3", SeriesInstanceUID=generate_uid(), Modality="OT", NumberOfFrames=7)
    with_pixels(bare, np.ascontiguousarray(NUMBERS.transpose(2, 1, 0))).save_as(path, enforce_file_format=True)
    assert code_of(read_volume, path).code == "SEVERAL_FRAMES"
    enhanced(path, (0, 3, 6))
    whole = path.read_bytes()
    for share in (0.2, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        assert code_of(read_volume, path).code == "UNREADABLE_FILE"
    enhanced(tmp_path / "f.dcm", (0, 3, 6))
    path.write_bytes(whole)
    assert code_of(read_volume, tmp_path).code == "SEVERAL_SERIES"


@given(st.binary(max_size=400))
@settings(max_examples=100, deadline=None)
def test_the_parser_of_functional_groups_ends_on_any_bytes(content: bytes) -> None:
    for explicit in (True, False):
        try:
            elements, end = dicom_series_module._dataset(content, 0, len(content), explicit)
        except (struct.error, RecursionError):
            continue
        assert isinstance(elements, dict) and end >= 0


# --- real data --------------------------------------------------------------------------------------------------------


@needs_data
@pytest.mark.parametrize(
    "name",
    [
        "abdomen_mr/example_mr_sm.nii.gz",
        "abdomen_mr/example_ct_sm.nii.gz",
        "abdomen_mr/CMB-CRC_SCAN001_T2_half.nii.gz",
        "sarcoma_t1/images/STS_002.nii.gz",
    ],
)
def test_real_nifti(name: str, tmp_path: Path) -> None:
    volume = read_volume(DATA / name)
    theirs = nibabel.load(DATA / name)
    np.testing.assert_allclose(volume.array, theirs.get_fdata(), rtol=1e-5)
    np.testing.assert_allclose(volume.affine, theirs.affine)
    canonical = to_canonical(volume)
    np.testing.assert_array_equal(canonical.array, nibabel.as_closest_canonical(theirs).get_fdata(dtype=np.float32))
    write_volume(reorient_like(canonical, volume), tmp_path / "v.nrrd")
    np.testing.assert_array_equal(read_volume(tmp_path / "v.nrrd").array, volume.array)
    assert same_grid(read_volume(tmp_path / "v.nrrd"), volume)
    there = resample_to_spacing(canonical, (2.0, 2.0, 3.0))
    back = resample_like(there, volume)
    assert np.corrcoef(back.array.ravel(), volume.array.ravel())[0, 1] > 0.9


@needs_data
def test_real_dicom_series(tmp_path: Path) -> None:
    volume = read_volume(DATA / "abdomen_mr_dicom" / "adc_series.zip")
    with zipfile.ZipFile(DATA / "abdomen_mr_dicom" / "adc_series.zip") as archive:
        archive.extractall(tmp_path / "files")
    folder = next((tmp_path / "files").rglob("*.dcm")).parent
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    theirs = reader.Execute()
    assert volume.shape == theirs.GetSize() == (256, 288, 36)
    np.testing.assert_array_equal(volume.array, SimpleITK.GetArrayFromImage(theirs).T)
    for index in [(0, 0, 0), (255, 0, 35), (17, 287, 20)]:
        lps = theirs.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose((volume.affine @ [*index, 1])[:3], np.multiply(lps, (-1, -1, 1)), atol=1e-3)
    sorted(folder.glob("*.dcm"))[20].unlink()
    assert code_of(read_volume, tmp_path / "files").code == "SLICE_GAP"


@needs_data
def test_real_labels_share_the_grid_of_their_image() -> None:
    image, label = DATA / "sarcoma_t1" / "images" / "STS_002.nii.gz", DATA / "sarcoma_t1" / "labels" / "STS_002.nii.gz"
    assert same_grid(read_volume(image), read_label_map(label))
    organs = DATA / "abdomen_mr" / "example_seg_mr.nii.gz"
    assert code_of(read_label_map, organs).code == "BAD_LABELS"
    others = {int(value): 0 for value in np.unique(np.asarray(nibabel.load(organs).dataobj))}
    liver = read_label_map(organs, others | {5: 1})
    assert 0 < liver.array.sum() == (np.asarray(nibabel.load(organs).dataobj) == 5).sum()
