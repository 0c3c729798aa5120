"""Cohorts for the tests of batches: sound cases, and files that are broken in twelve different ways."""

import csv
import os
from pathlib import Path

import numpy as np

from neonet_core.volume import Volume, read_volume, write_volume

PATIENT = "Doe_Jane_19530704"
"""Stands in the name of every broken file; no output may hold it."""


def break_case(folder: Path, image: Path, label_map: Path) -> dict[str, tuple[str, str]]:
    """Twelve broken versions of a sound case.

    Returns
    -------
    dict of str to (image, label_map)
        Paths as a manifest in `folder` has them, by the code of the error that each must give; "#2" after a code tells
        two ways to the same code apart. No label map: "".
    """
    import nibabel

    folder.mkdir(parents=True, exist_ok=True)
    sound, labels = read_volume(image), read_volume(label_map)
    data = image.read_bytes()
    array = sound.array.astype(np.float32)

    def path(what: str, suffix: str = ".nii.gz") -> Path:
        return folder / f"{PATIENT}-{what}{suffix}"

    def plain(what: str, voxels: np.ndarray, affine: np.ndarray) -> Path:
        nibabel.save(nibabel.Nifti1Image(voxels, affine), path(what))
        return path(what)

    path("truncated").write_bytes(data[: len(data) // 2])
    path("text").write_text("This is a letter, not an image.")
    path("empty").write_bytes(b"")
    path("letter", ".docx").write_bytes(data)
    plain("flat", array[:, :, 0], sound.affine)
    plain("film", np.stack([array, array], axis=-1), sound.affine)
    plain("constant", np.full_like(array, 7), sound.affine)
    hole = array.copy()
    hole[2, 2, 2] = np.nan
    plain("hole", hole, sound.affine)
    sheared = sound.affine.copy()
    sheared[0, 1] = 0.4 * sheared[1, 1]
    plain("sheared", array, sheared)
    moved = labels.affine.copy()
    moved[0, 3] += 7
    write_volume(Volume(labels.array, moved), path("moved-label"))
    write_volume(Volume((labels.array * 3).astype(np.uint8), labels.affine), path("bad-label"))
    broken = {"UNREADABLE_FILE": (path("truncated"), ""), "UNREADABLE_FILE#2": (path("text"), ""),
              "FILE_NOT_FOUND": (path("missing"), ""), "EMPTY_FILE": (path("empty"), ""),
              "UNKNOWN_FORMAT": (path("letter", ".docx"), ""), "NOT_3D": (path("flat"), ""),
              "SEVERAL_FRAMES": (path("film"), ""), "CONSTANT_IMAGE": (path("constant"), ""),
              "NOT_FINITE": (path("hole"), ""), "BAD_AFFINE": (path("sheared"), ""),
              "GRID_MISMATCH": (image, path("moved-label")), "BAD_LABELS": (image, path("bad-label"))}
    return {code: (str(one), str(label)) for code, (one, label) in broken.items()}


def write_manifest(path: Path, rows: list[tuple[str, str, str]]) -> Path:
    """A manifest of (case_id, image, label_map)."""
    with open(path, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("case_id", "image", "label_map"), *rows])
    return path


def manifest_rows(path: Path) -> list[tuple[str, str, str]]:
    """The rows of a manifest with absolute paths."""
    with open(path, newline="", encoding="utf-8") as stream:
        return [(row["case_id"], str(path.parent / row["image"]), str(path.parent / row["label_map"]))
                for row in csv.DictReader(stream)]


def table_of(out: Path) -> list[dict[str, str]]:
    """The rows of ``results.csv`` without their seconds."""
    with open(out / "results.csv", newline="", encoding="utf-8") as stream:
        return [{name: value for name, value in row.items() if not name.startswith("seconds")}
                for row in csv.DictReader(stream)]


def files_of(out: Path) -> dict[str, bytes]:
    """All files of all cases."""
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in (out / "cases").rglob("*")
            if path.is_file()}


def all_text(folder: Path) -> str:
    """Names and contents of all files of a batch's folder, as far as they are text."""
    found = []
    for path in folder.rglob("*"):
        found.append(os.fspath(path.relative_to(folder)))
        if path.is_file() and path.suffix in (".csv", ".json", ".jsonl", ".html", ".txt"):
            found.append(path.read_text(encoding="utf-8"))
    return "\n".join(found)
