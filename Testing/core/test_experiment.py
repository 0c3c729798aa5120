"""`neonet train` as a whole: resume, what is run again and what is not, and that no patient leaks."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neonet_core.bundle import ModelCard
from neonet_core.cohort import Case, Cohort, Folds, read_manifest, stratified_folds
from neonet_core.errors import NeoNetError
from neonet_core.events import Silent
from neonet_core.experiment.export import export_bundle
from neonet_core.experiment.predictions import read_predictions, write_predictions
from neonet_core.experiment.run import Run, run_stage
from neonet_core.experiment.summary import summarise
from neonet_core.experiment.train import split_fold, train
from neonet_core.presets import load_preset
from neonet_core.training import loop
from neonet_core.volume import Volume, read_volume, write_volume

STAGES = ("seg-unet", "vae", "cls-pattennet")
TINY = load_preset("tiny")


class KilledError(Exception):
    """Stands for a kill."""


class Log(Silent):
    def __init__(self):
        self.lines = []

    def log(self, message, level="info"):
        self.lines.append(message)


def train_fold(manifest, out, *changes, fold=0, **arguments):
    return train(read_manifest(manifest), load_preset("tiny", changes), out, folds=[fold], device="cpu", **arguments)


def weights(run, fold=0):
    return {stage: (run.stage_folder(fold, stage) / "weights.safetensors").read_bytes() for stage in STAGES}


def stamps(run, fold=0):
    return {stage: tuple((run.stage_folder(fold, stage) / name).stat().st_mtime_ns
                         for name in ("done.json", "weights.safetensors")) for stage in STAGES}


def rerun(before, after):
    """Which stages were run again."""
    return [stage for stage in STAGES if before[stage] != after[stage]]


def history(run, stage, fold=0):
    lines = (run.stage_folder(fold, stage) / "log.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "seconds"} for line in lines]


@pytest.fixture(scope="module")
def trained(blob_cohort, tmp_path_factory):
    """An uninterrupted run of fold 0. Do not write into it."""
    return train_fold(blob_cohort, tmp_path_factory.mktemp("run") / "whole")


@pytest.fixture
def own_run(trained, tmp_path):
    """A copy of the run that a test may change."""
    return Run(Path(shutil.copytree(trained.folder, tmp_path / "run")))


def own_images(manifest, folder):
    """A copy of a cohort whose manifest names files elsewhere."""
    rows = [line.split(",") for line in manifest.read_text(encoding="utf-8").splitlines()]
    for row in rows[1:]:
        for column, kind in ((1, "images"), (2, "labels")):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            row[column] = str(Path(kind, Path(shutil.copy(row[column], folder / kind)).name))
    (folder / "cases.csv").write_text("\n".join(map(",".join, rows)) + "\n", encoding="utf-8")
    return folder / "cases.csv"


@pytest.fixture
def own_cohort(blob_cohort, tmp_path):
    """A copy of the cohort that a test may change."""
    return Path(shutil.copytree(blob_cohort.parent, tmp_path / "cohort")) / "cases.csv"


# The run folder


def test_a_run_holds_what_the_design_promises(trained, blob_cohort):
    for name in ("settings.json", "quality.json", "folds.json", "predictions.csv"):
        assert (trained.folder / name).is_file()
    for stage in STAGES:
        folder = trained.stage_folder(0, stage)
        assert {"inputs.json", "log.jsonl", "checkpoint.safetensors", "weights.safetensors", "done.json"} <= set(
            os.listdir(folder))
        assert trained.done(0, stage)["seconds"] >= 0
    assert trained.preset() == TINY and trained.fold_numbers() == [0]
    folds = Folds.read(trained.folder / "folds.json", read_manifest(blob_cohort))
    with open(trained.folder / "predictions.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert sorted(row["case_id"] for row in rows) == sorted(folds.validation[0]), "each held-out case once"
    outcomes = {case.case_id: case.outcome for case in read_manifest(blob_cohort)}
    for row in rows:
        assert 0 < float(row["probability"]) < 1 and int(row["outcome"]) == outcomes[row["case_id"]]
    assert all(path.name.endswith(".lock") for path in trained.folder.rglob(".*")), "nothing unfinished is left"


def test_the_folds_together_predict_every_case_once(blob_cohort, own_run):
    train_fold(blob_cohort, own_run.folder, fold=1, stages=["vae", "cls"])
    predictions = read_predictions(own_run)
    assert sorted(p.case_id for p in predictions) == sorted(case.case_id for case in read_manifest(blob_cohort))


def test_the_same_command_gives_the_same_run(trained, blob_cohort, tmp_path):
    again = train_fold(blob_cohort, tmp_path / "again")
    assert weights(again) == weights(trained)
    assert (again.folder / "predictions.csv").read_bytes() == (trained.folder / "predictions.csv").read_bytes()
    other = train_fold(blob_cohort, tmp_path / "other", seed=1, stages=["vae"])
    assert (other.stage_folder(0, "vae") / "weights.safetensors").read_bytes() != weights(trained)["vae"]


# Resume


@pytest.mark.parametrize(("stage", "after"), [("seg-unet", 0.1), ("seg-unet", 1.1), ("vae", 1.2), ("vae", 2.2),
                                              ("cls-pattennet", 1.2), ("cls-pattennet", 3.2)])
def test_each_stage_resumes_to_the_bit(trained, blob_cohort, tmp_path, monkeypatch, stage, after):
    monkeypatch.setattr(loop, "PROGRESS_INTERVAL_S", -1)  # report every step

    class Interrupt(Silent):
        def progress(self, name, done, total):
            if name == f"fold 0 {stage}" and done > after:
                raise KilledError

    with pytest.raises(KilledError):
        train_fold(blob_cohort, tmp_path / "cut", events=Interrupt())
    run = Run(tmp_path / "cut")
    assert run.done(0, stage) is None and len(history(run, stage)) == int(after)
    torch.manual_seed(99), np.random.seed(99)  # as in another process
    log = Log()
    resumed = train_fold(blob_cohort, run.folder, events=log)
    if after > 1:
        assert any(f"{stage}: resumed after epoch {int(after)}" in line for line in log.lines)
    assert weights(resumed) == weights(trained)
    for name in STAGES:
        assert history(resumed, name) == history(trained, name)
    assert (resumed.folder / "predictions.csv").read_bytes() == (trained.folder / "predictions.csv").read_bytes()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 on this system")
def test_kill_9_loses_nothing_that_matters(trained, blob_cohort, tmp_path):
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "neonet_core", "train", str(blob_cohort), "--preset", "tiny", "--folds", "0",
               "--device", "cpu", "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    for stage in ("seg-unet", "cls-pattennet"):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        begun, until = out / "fold-0" / stage / "checkpoint.safetensors", time.monotonic() + 60
        while not begun.exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        _, said = process.communicate()
        assert begun.exists(), said.decode()
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
    assert weights(Run(out)) == weights(trained)
    assert (out / "predictions.csv").read_bytes() == (trained.folder / "predictions.csv").read_bytes()
    assert not list(out.glob("fold-*/*/.*.part"))


def test_a_folder_that_a_kill_left_half_removed_is_not_resumed(tmp_path):
    """Removing a stage's folder is not atomic: a checkpoint without inputs.json may be one of other settings."""
    folder = tmp_path / "vae"
    folder.mkdir()
    (folder / "checkpoint.safetensors").write_bytes(b"of other settings")
    (folder / ".weights.safetensors.7.part").write_bytes(b"half")
    done = run_stage(folder, {"epochs": 2}, lambda: {"files": sorted(os.listdir(folder))}, Silent(), "vae")
    assert done["figures"]["files"] == ["inputs.json"]


def test_what_a_kill_left_of_a_file_is_cleared_and_the_checkpoint_kept(tmp_path):
    folder = tmp_path / "vae"

    def dies():
        (folder / "checkpoint.safetensors").write_bytes(b"ours")
        raise KilledError

    with pytest.raises(KilledError):
        run_stage(folder, {"epochs": 2}, dies, Silent(), "vae")
    (folder / ".checkpoint.safetensors.7.part").write_bytes(b"half")
    done = run_stage(folder, {"epochs": 2}, lambda: {"files": sorted(os.listdir(folder))}, Silent(), "vae")
    assert done["figures"]["files"] == ["checkpoint.safetensors", "inputs.json"]


def test_a_run_that_was_killed_at_its_first_file_can_be_started_again(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / ".settings.json.7.part").write_text("{")
    Run(out).begin({"cohort": "c", "outcome": "pni", "seed": 0})
    assert Run(out).settings()["seed"] == 0


# What is run again


def test_a_second_call_does_nothing(own_run, blob_cohort):
    before = stamps(own_run)
    log = Log()
    train_fold(blob_cohort, own_run.folder, events=log)
    assert rerun(before, stamps(own_run)) == []
    assert any(line.startswith("Nothing to do: all 3 stages") for line in log.lines)


@pytest.mark.parametrize(("change", "stages"), [
    ("seg.epochs=1", ["seg-unet"]),
    ("seg.overlap=0.5", ["seg-unet"]),
    ("vae.epochs=2", ["vae", "cls-pattennet"]),
    ("cls.epochs=2", ["cls-pattennet"]),
    ("crop.component=all", ["vae", "cls-pattennet"]),
    ("description=other", []),
])
def test_a_changed_setting_runs_its_stage_again_and_those_after_it(own_run, blob_cohort, change, stages):
    before = stamps(own_run)
    train_fold(blob_cohort, own_run.folder, change)
    found = rerun(before, stamps(own_run))
    if change.startswith("crop"):  # one tumour each: the same patches, the same encoder, so the hash may stay
        assert "vae" in found and "seg-unet" not in found
    else:
        assert found == stages


def case_path(manifest, case_id, folder="images"):
    return manifest.parent / folder / f"{case_id}.nii.gz"


def parts(run):
    return run.parts(0)["cases"]


def change_image(manifest, case_id, change, scale=1.0):
    """Rewrite a case's image with `change` of its array, on a grid of `scale` times the spacing."""
    for folder, how in (("images", change), ("labels", lambda array: array)):
        path = case_path(manifest, case_id, folder)
        volume = read_volume(path)
        write_volume(Volume(how(volume.array), volume.affine @ np.diag([scale, scale, scale, 1])), path)


def noise(array):
    return np.random.default_rng(int(np.abs(array).sum())).gamma(2, 300, array.shape).astype(np.float32)


def test_a_changed_image_runs_everything_again(own_run, own_cohort):
    before = stamps(own_run)
    change_image(own_cohort, next(iter(parts(own_run)["learning"])), noise)
    train_fold(own_cohort, own_run.folder)
    assert rerun(before, stamps(own_run)) == list(STAGES)


def test_labels_that_stand_for_something_else_run_everything_again(own_run, own_cohort):
    with open(own_cohort, newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    victim = next(iter(parts(own_run)["learning"]))

    def write(tumour):
        with open(own_cohort, "w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([
                [*rows[0], "liver_label", "tumour_label"],
                *([*row, *(("1", tumour) if row[0] == victim else ("", ""))] for row in rows[1:])])

    labels = read_volume(case_path(own_cohort, victim, "labels"))
    array = labels.array.copy()
    array[np.unravel_index(np.flatnonzero(array == 1)[:40], array.shape)] = 3
    write_volume(Volume(array, labels.affine), case_path(own_cohort, victim, "labels"))
    write("2")
    train_fold(own_cohort, own_run.folder)
    before = stamps(own_run)
    write("2|3")
    train_fold(own_cohort, own_run.folder)
    assert rerun(before, stamps(own_run)) == list(STAGES)


def test_lost_weights_are_trained_again(own_run, blob_cohort, trained):
    (own_run.stage_folder(0, "vae") / "weights.safetensors").unlink()
    train_fold(blob_cohort, own_run.folder)
    assert weights(own_run) == weights(trained)


def test_pattennet_takes_no_encoder_of_another_training(own_run, blob_cohort, own_cohort):
    def refused(manifest, *changes):
        with pytest.raises(NeoNetError) as caught:
            train_fold(manifest, own_run.folder, *changes, stages=["cls"])
        assert caught.value.code == "NO_VAE"

    train_fold(blob_cohort, own_run.folder, "cls.epochs=1", stages=["cls"])
    refused(blob_cohort, "vae.epochs=1")
    refused(blob_cohort, "vae.channels=[4, 8, 16]")
    # another split: the encoder has seen patients whom this fold holds out
    refused(blob_cohort, "protocol=paper")
    change_image(own_cohort, next(iter(parts(own_run)["learning"])), noise)
    refused(own_cohort)


def test_a_fold_of_an_earlier_split_does_not_count_twice(own_run):
    before = read_predictions(own_run)
    assert before
    split = json.loads((own_run.folder / "folds.json").read_text())
    split["validation"].reverse()
    (own_run.folder / "folds.json").write_text(json.dumps(split))
    assert read_predictions(own_run) == [], "the fold was trained on another split"
    write_predictions(own_run)
    assert len((own_run.folder / "predictions.csv").read_text().splitlines()) == 1


@pytest.mark.parametrize("change", ["cls.epochs=1", "vae.epochs=1", "crop.component=all", "protocol=paper"])
def test_what_was_trained_with_other_settings_is_not_counted(own_run, blob_cohort, change):
    assert read_predictions(own_run)
    train_fold(blob_cohort, own_run.folder, change, stages=["seg"])  # the run's settings are now others
    assert read_predictions(own_run) == []
    assert "auc_out_of_fold" not in summarise(own_run).metrics


def test_a_classifier_whose_encoder_was_trained_anew_is_not_counted(own_run, blob_cohort, own_cohort):
    change_image(own_cohort, next(iter(parts(own_run)["learning"])), noise)
    train_fold(own_cohort, own_run.folder, stages=["vae"])
    assert own_run.current(0, "vae") is not None
    assert own_run.current(0, "cls-pattennet") is None
    with pytest.raises(NeoNetError) as caught:
        export_bundle(own_run, own_run.folder.parent / "bundle", name="x",
                      card=ModelCard(intended_use="x", training_data="x", limits="x"))
    assert caught.value.code == "MIXED_SETTINGS"


def test_a_case_that_cannot_be_read_today_undoes_nothing(own_run, own_cohort):
    before = stamps(own_run)
    case_path(own_cohort, next(iter(parts(own_run)["learning"]))).unlink()
    with pytest.raises(NeoNetError) as caught:
        train_fold(own_cohort, own_run.folder)
    assert caught.value.code == "COHORT_CHANGED"
    assert rerun(before, stamps(own_run)) == []
    assert read_predictions(own_run)


def test_what_was_trained_is_kept_when_its_inputs_change(own_run, blob_cohort):
    trained_before = own_run.stage_folder(0, "cls-pattennet") / "weights.safetensors"
    weights_before, key = trained_before.read_bytes(), own_run.done(0, "cls-pattennet")["inputs"]
    train_fold(blob_cohort, own_run.folder, "cls.epochs=1")
    kept = own_run.stage_folder(0, f"cls-pattennet.before-{key[:8]}") / "weights.safetensors"
    assert kept.read_bytes() == weights_before


def test_settings_that_come_back_bring_what_was_trained_with_them(own_run, blob_cohort, trained):
    train_fold(blob_cohort, own_run.folder, "cls.epochs=1", stages=["cls"])
    log = Log()
    train_fold(blob_cohort, own_run.folder, stages=["cls"], events=log)
    assert any("done before" in line for line in log.lines)
    assert weights(own_run) == weights(trained)


def test_folds_that_learned_from_other_parts_are_not_mixed(phantom_cohort, tiny_run, tmp_path):
    run = Run(Path(shutil.copytree(tiny_run.folder, tmp_path / "run")))
    assert {prediction.fold for prediction in read_predictions(run)} == {0, 1}
    train_fold(phantom_cohort, run.folder, "inner_fraction=0.45", fold=1, stages=["vae", "cls"])
    assert {prediction.fold for prediction in read_predictions(run)} == {1}


@pytest.mark.parametrize("change", ["outcome", "image"])
def test_folds_that_learned_from_other_cases_are_not_mixed(own_cohort, tmp_path, change):
    run = train(read_manifest(own_cohort), TINY, tmp_path / "run", stages=["vae", "cls"], device="cpu")
    split = tmp_path / "folds.json"
    shutil.copy(run.folder / "folds.json", split)
    name = next(iter(parts(run)["validation"]))
    if change == "image":
        change_image(own_cohort, name, noise)
    else:
        rows = own_cohort.read_text(encoding="utf-8").splitlines()
        flipped = [",".join([*row.split(",")[:3], str(1 - int(row.split(",")[3])), *row.split(",")[4:]])
                   if row.startswith(name) else row for row in rows]
        own_cohort.write_text("\n".join(flipped) + "\n", encoding="utf-8")
    train_fold(own_cohort, run.folder, stages=["vae", "cls"], split=split)
    assert {prediction.fold for prediction in read_predictions(run)} == {0}, "fold 1 has learned from the old case"


def test_patients_who_turn_out_to_be_one_are_counted_anew(own_cohort, tmp_path):
    run = train_fold(own_cohort, tmp_path / "run", stages=["cls"], models=["Volume"])
    rows = [line.split(",") for line in own_cohort.read_text(encoding="utf-8").splitlines()]
    mine = [row for row in rows if row[0] in parts(run)["validation"]]
    mine[1][4] = mine[0][4]
    mine[1][3] = mine[0][3]
    split = shutil.copy(run.folder / "folds.json", tmp_path / "folds.json")
    own_cohort.write_text("\n".join(map(",".join, rows)) + "\n", encoding="utf-8")
    train_fold(own_cohort, run.folder, stages=["cls"], models=["Volume"], split=split)
    assert sum(prediction.patient_id == mine[0][4] for prediction in read_predictions(run, "cls-volume")) >= 2


def test_samples_that_judge_the_generator_train_no_classifier_anew(unequal_cohort, tmp_path):
    stages = {"stages": ("vae", "ldm", "controlnet", "synth", "cls"), "ratios": (100,)}
    run = train_fold(unequal_cohort, tmp_path / "run", **stages)
    classifier = run.stage_folder(0, "cls-pattennet-rs100") / "done.json"
    before = classifier.stat().st_mtime_ns
    train_fold(unequal_cohort, run.folder, "synth.evaluation_samples=1", **stages)
    assert classifier.stat().st_mtime_ns == before and run.current(0, "cls-pattennet-rs100") is not None


def test_two_processes_do_not_train_the_same_stage(own_run, blob_cohort):
    from filelock import FileLock

    with FileLock(own_run.stage_folder(0, ".vae.lock")), pytest.raises(NeoNetError) as caught:
        train_fold(blob_cohort, own_run.folder, "vae.epochs=2")
    assert caught.value.code == "STAGE_BUSY"


def test_all_folds_are_checked_before_the_first_begins(blob_cohort, tmp_path):
    with pytest.raises(NeoNetError) as caught:
        train(read_manifest(blob_cohort), load_preset("tiny"), tmp_path / "run", folds=[0, 7])
    assert caught.value.code == "BAD_ARGUMENT"
    assert Run(tmp_path / "run").fold_numbers() == []


# Leakage


@st.composite
def cohorts(draw):
    """Cohorts with several rows of a patient, of both outcomes."""
    patients = draw(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 3)), min_size=0, max_size=25))
    patients = [(0, 1), (0, 2), (0, 1), (0, 1), (1, 1), (1, 2), (1, 1), (1, 1)] + patients
    cases = [Case(f"{number}-{row}", Path("x"), Path("y"), outcome, f"patient {number}")
             for number, (outcome, rows) in enumerate(patients) for row in range(rows)]
    order = draw(st.permutations(cases))
    return Cohort(tuple(order), "pni", Path("cases.csv"))


def patients(cases):
    return {case.patient_id for case in cases}


@settings(max_examples=60, deadline=None)
@given(cohorts(), st.integers(0, 50), st.sampled_from(["rigorous", "paper"]))
def test_no_patient_is_on_two_sides(cohort, seed, protocol):
    preset = TINY.model_copy(update={"protocol": protocol})
    folds = stratified_folds(cohort, 2, seed)
    for number in range(2):
        fold = split_fold(cohort, folds, number, preset)
        assert not patients(fold.learning) & patients(fold.validation)
        assert not patients(fold.learning) & patients(fold.stopping)
        assert not patients(fold.training) & patients(fold.validation), "statistics are fitted on these"
        assert patients(fold.training) | patients(fold.validation) == patients(cohort)
        assert len(fold.training) + len(fold.validation) == len(cohort)
        if protocol == "paper":
            assert fold.stopping == fold.validation and fold.training == fold.learning
        else:
            assert not patients(fold.stopping) & patients(fold.validation)
            assert {case.outcome for case in fold.stopping} == {0, 1}


def test_folds_are_independent_of_the_order_of_the_manifest(blob_cohort):
    cohort = read_manifest(blob_cohort)
    turned = replace(cohort, cases=tuple(reversed(cohort.cases)))
    for number in range(2):
        a, b = (split_fold(c, stratified_folds(c, 2, 3), number, TINY) for c in (cohort, turned))
        for part in ("learning", "stopping", "validation"):
            assert {c.case_id for c in getattr(a, part)} == {c.case_id for c in getattr(b, part)}


def test_poisoned_validation_patients_change_no_weight(trained, own_cohort, tmp_path):
    """The held-out patients' images become noise on another grid: nothing that was learned may notice."""
    for case_id in parts(trained)["validation"]:
        change_image(own_cohort, case_id, noise, scale=1.7)
    run = train_fold(own_cohort, tmp_path / "poisoned")
    assert set(parts(run)["validation"]) == set(parts(trained)["validation"])
    assert parts(run)["validation"] != parts(trained)["validation"] and parts(run)["learning"] == parts(trained)[
        "learning"]
    assert weights(run) == weights(trained)
    for stage in STAGES:
        assert history(run, stage) == history(trained, stage), "nor was an epoch picked by them"
        assert run.done(0, stage)["figures"]["spacing"] == trained.done(0, stage)["figures"]["spacing"]
    before, after = (r.done(0, "cls-pattennet")["figures"] for r in (trained, run))
    assert after["ranges"] == before["ranges"] and after["predictions"] != before["predictions"]


def learned(run, fold=0):
    """All weights, and the synthetic patients that a classifier learns from."""
    folder = run.folder / f"fold-{fold}"
    files = [*folder.glob("*/weights.safetensors"), *folder.glob("synth-*/samples/*.nii.gz")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


EVERY = {"stages": ("seg", "vae", "vqvae", "ldm", "controlnet", "synth", "cls"), "ratios": (0, 100),
         "models": ("UNet", "PattenNet", "PattenNet-duplicated", "PattenNet-masks", "EfficientNet-B2", "Volume")}


def test_poisoned_validation_patients_change_nothing_from_segmentor_to_classifier(unequal_cohort, tmp_path):
    manifest = own_images(unequal_cohort, tmp_path / "cohort")
    clean = train_fold(manifest, tmp_path / "clean", **EVERY)
    for case_id in parts(clean)["validation"]:
        change_image(manifest, case_id, noise)
    poisoned = train_fold(manifest, tmp_path / "poisoned", **EVERY)
    before, after = learned(clean), learned(poisoned)
    assert len(before) >= 14 and any("synth-vae/samples" in name for name in before)
    assert [name for name in before if before[name] != after.get(name)] == []
    for stage in ("cls-pattennet-rs100", "cls-efficientnet-b2", "cls-pattennet"):
        one, other = (run.done(0, stage)["figures"] for run in (clean, poisoned))
        assert one["threshold"] == other["threshold"], "it is chosen on training patients"
    one, other = (run.done(0, "cls-pattennet")["figures"]["predictions"] for run in (clean, poisoned))
    assert one != other, "they are scored"
    volumes = [run.done(0, "cls-volume")["figures"]["volume_model"] for run in (clean, poisoned)]
    assert volumes[0] == volumes[1]


def test_in_the_papers_protocol_validation_patients_pick_the_epoch_and_no_more(blob_cohort, own_cohort, tmp_path):
    runs = [train_fold(blob_cohort, tmp_path / "clean", "protocol=paper", stages=["seg", "vae"])]
    for case_id in parts(runs[0])["validation"]:
        change_image(own_cohort, case_id, noise)
    runs.append(train_fold(own_cohort, tmp_path / "poisoned", "protocol=paper", stages=["seg", "vae"]))
    for stage in ("seg-unet", "vae"):
        losses = [[epoch["loss"] for epoch in history(run, stage)] for run in runs]
        assert losses[0] == losses[1]
    autoencoders = [(run.stage_folder(0, "vae") / "weights.safetensors").read_bytes() for run in runs]
    assert autoencoders[0] == autoencoders[1], "the paper trains its generator on training patients alone"


def test_poisoned_learning_patients_change_every_weight(trained, own_cohort, tmp_path):
    """That the test above can fail."""
    change_image(own_cohort, next(iter(parts(trained)["learning"])), noise)
    run = train_fold(own_cohort, tmp_path / "poisoned")
    assert all(a != b for a, b in zip(weights(run).values(), weights(trained).values(), strict=True))


def test_spacing_is_the_median_of_the_training_patients(trained, blob_cohort):
    fold = split_fold(read_manifest(blob_cohort), stratified_folds(read_manifest(blob_cohort), 2, 0), 0, TINY)
    expected = np.median([read_volume(case.image).spacing for case in fold.training], axis=0)
    found = trained.done(0, "seg-unet")["figures"]["spacing"]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    everyone = np.median([read_volume(case.image).spacing for case in read_manifest(blob_cohort)], axis=0)
    assert not np.allclose(found, everyone, atol=1e-4), "the cohort can tell the two apart"


# Wrong use


@pytest.mark.parametrize(("arguments", "code"), [
    ({"stages": ["segg"]}, "BAD_ARGUMENT"),
    ({"models": ["VNet"]}, "BAD_ARGUMENT"),
    ({"seed": -1}, "BAD_ARGUMENT"),
    ({"stages": ["cls"]}, "NO_VAE"),
    ({"models": ["SwinUNETR"]}, "BAD_PRESET"),
    ({"split": Path("nosuch.json")}, "FOLDS_NOT_FOUND"),
])
def test_wrong_arguments_are_said(blob_cohort, tmp_path, arguments, code):
    with pytest.raises(NeoNetError) as caught:
        train_fold(blob_cohort, tmp_path / "run", **arguments)
    assert caught.value.code == code


@pytest.mark.parametrize("change", ["seg.patch_size=[33, 32, 16]", "crop.size=[30, 32, 16]", "vae.norm_groups=3"])
def test_settings_that_cannot_work_are_said_before_anything_is_read(tmp_path, change):
    cohort = Cohort((), "pni", tmp_path / "cases.csv")
    with pytest.raises(NeoNetError) as caught:
        train(cohort, load_preset("tiny", [change]), tmp_path / "run", device="cpu")
    assert caught.value.code == "BAD_PRESET" and not (tmp_path / "run").exists()


def test_folds_that_are_not_there(blob_cohort, tmp_path):
    for folds in ([2], [-1], [0, 0]):
        with pytest.raises(NeoNetError) as caught:
            train(read_manifest(blob_cohort), TINY, tmp_path / "run", folds=folds, device="cpu", stages=["vae"])
        assert caught.value.code == "BAD_ARGUMENT"


def test_a_fold_whose_held_out_cases_quality_control_left_out(blob_cohort, own_cohort, tmp_path):
    cohort = read_manifest(own_cohort)
    folds = stratified_folds(cohort, 6, 0)
    folds.write(tmp_path / "folds.json")
    for case_id in folds.validation[2]:
        case_path(own_cohort, case_id).unlink()
    with pytest.raises(NeoNetError) as caught:
        train_fold(own_cohort, tmp_path / "run", fold=2, split=tmp_path / "folds.json")
    assert caught.value.code == "TOO_FEW_CASES"


def test_another_run_is_not_overwritten(own_run, blob_cohort, tmp_path):
    with pytest.raises(NeoNetError) as caught:
        train_fold(blob_cohort, own_run.folder, seed=5)
    assert caught.value.code == "RUN_EXISTS"
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.docx").write_text("years")
    with pytest.raises(NeoNetError) as caught:
        train_fold(blob_cohort, foreign)
    assert caught.value.code == "RUN_EXISTS" and (foreign / "thesis.docx").read_text() == "years"
    with pytest.raises(NeoNetError) as caught:
        Run(foreign).settings()
    assert caught.value.code == "NOT_A_RUN"


def test_a_whole_tiny_run(tiny_run):
    """The fixture that other tests build on."""
    assert tiny_run.fold_numbers() == [0, 1]
    assert all(tiny_run.done(fold, stage) for fold in (0, 1) for stage in STAGES)
    assert len(read_predictions(tiny_run)) == 16
