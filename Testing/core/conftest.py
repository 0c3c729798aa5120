"""What the tests share: one thread, fixed seeds, and cohorts that are made and trained once."""

import csv
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import random

import numpy as np
import pytest
import torch
from blobs import blob

from neonet_core.cohort import read_manifest
from neonet_core.experiment.train import train
from neonet_core.phantom import write_cohort
from neonet_core.presets import load_preset
from neonet_core.training.prepared import PreparedCase
from neonet_core.volume import Volume, write_volume

torch.set_num_threads(1)  # sums depend on the number of threads


@pytest.fixture(autouse=True)
def fixed_seeds():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def checkpoint_every_epoch(monkeypatch):
    """Else tests that stop a training would find no checkpoint: their epochs take milliseconds."""
    monkeypatch.setattr("neonet_core.training.loop.CHECKPOINT_INTERVAL_S", 0.0)


@pytest.fixture(scope="session")
def phantom_cohort(tmp_path_factory):
    """`cases.csv` of 16 small phantoms, 7 of them positive."""
    return write_cohort(tmp_path_factory.mktemp("phantoms"), cases=16, positives=7, seed=0, size="small")


@pytest.fixture(scope="session")
def tiny_run(phantom_cohort, tmp_path_factory):
    """A whole run of the preset `tiny`: both folds, the stages seg, vae and cls. Do not write into it."""
    return train(read_manifest(phantom_cohort), load_preset("tiny"), tmp_path_factory.mktemp("runs") / "tiny",
                 device="cpu")


@pytest.fixture(scope="session")
def blob_cohort(tmp_path_factory):
    """`cases.csv` of 13 blobs of 32 x 28 x 16 voxels, 12 patients, every case of another spacing: quick to train on."""
    return write_blobs(tmp_path_factory.mktemp("blobs"))


def write_blobs(folder, count=12):
    rows = []
    for index in range(count):
        visits = 2 if index == 0 else 1  # the first patient was imaged twice
        for visit in range(visits):
            name, pni = f"case-{index:02d}-{visit}", index % 2
            image, label_map = blob((index, visit), pni=pni)
            x, z = np.random.default_rng(index).uniform([4, 5], [4.6, 6])
            affine = np.diag([x, 4, z, 1])
            write_volume(Volume(image, affine), folder / "images" / f"{name}.nii.gz")
            write_volume(Volume(label_map, affine), folder / "labels" / f"{name}.nii.gz")
            rows.append([name, f"images/{name}.nii.gz", f"labels/{name}.nii.gz", pni, f"patient-{index:02d}"])
    with open(folder / "cases.csv", "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["case_id", "image", "label_map", "pni", "patient_id"], *rows])
    return folder / "cases.csv"


@pytest.fixture(scope="session")
def unequal_cohort(blob_cohort, tmp_path_factory):
    """The blobs with a third of the positives called negative: something is left to balance."""
    header, *lines = blob_cohort.read_text(encoding="utf-8").splitlines()
    rows = [line.split(",") for line in lines]
    for row in rows:
        row[1:3] = [str(blob_cohort.parent / name) for name in row[1:3]]
        row[3] = "0" if row[0].startswith(("case-05", "case-11")) else row[3]
    path = tmp_path_factory.mktemp("unequal") / "cases.csv"
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def generator_run(unequal_cohort, tmp_path_factory):
    """Fold 0 of the preset `tiny` with both generators. Do not write into it."""
    return train(read_manifest(unequal_cohort), load_preset("tiny"), tmp_path_factory.mktemp("runs") / "generator",
                 folds=(0,), device="cpu", ratios=(0, 50, 100),
                 stages=("vae", "vqvae", "ldm", "controlnet", "synth", "cls"))


@pytest.fixture
def prepared_blobs():
    """Four cases in memory, as the networks get them."""
    cases = []
    for index in range(4):
        image, label_map = blob(index)
        scaled = np.clip(image / 180, 0, 1).astype(np.float32)
        cases.append(PreparedCase(f"case-{index}", index % 2, scaled, label_map, (4.0, 4.0, 6.0), (0.0, 180.0)))
    return cases
