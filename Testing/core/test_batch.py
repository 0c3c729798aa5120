"""A cohort through a bundle: one row a case, nothing lost, nothing twice, no names, and every failure said."""

import csv
import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from batch_cohorts import PATIENT, all_text, break_case, files_of, manifest_rows, table_of, write_manifest
from filelock import FileLock

from neonet_core.batch import run as batch_run
from neonet_core.batch.backlog import Backlog
from neonet_core.batch.cohort_page import cohort_html
from neonet_core.batch.inputs import BatchCase, read_cases
from neonet_core.batch.journal import Journal
from neonet_core.batch.results import RESULT_COLUMNS, is_results_header
from neonet_core.batch.run import plan_batch, run_batch
from neonet_core.batch.worker import Worker, read_case
from neonet_core.bundle import ModelCard
from neonet_core.cli import main
from neonet_core.dicom.identity import Pseudonyms
from neonet_core.dicom.studies import SeriesInfo, Study
from neonet_core.errors import NeoNetError
from neonet_core.events import Silent
from neonet_core.experiment.export import export_bundle
from neonet_core.pipeline import predict_case
from neonet_core.training.files import write_json
from neonet_core.volume import Volume, read_volume, write_volume


@pytest.fixture(scope="module")
def bundle(tiny_run, tmp_path_factory):
    card = ModelCard(intended_use="tests", training_data="phantoms", limits="all")
    return export_bundle(tiny_run, tmp_path_factory.mktemp("batch") / "tiny", name="tiny", card=card).folder


@pytest.fixture(scope="module")
def rows(blob_cohort):
    """Manifest rows of the blobs: small images, each with its label map."""
    return manifest_rows(blob_cohort)


def in_process(backlog, job, workers, watcher):
    """An engine for tests: one worker in this process, which monkeypatch reaches."""
    worker = Worker(job)
    while len(backlog):
        case = backlog.take()
        watcher.started(1, case.case_id)
        watcher.finished(1, worker.run(case))


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)  # a worker sets it; this brings it back
    monkeypatch.setitem(batch_run.ENGINES, "local", in_process)


@pytest.fixture
def light(here, monkeypatch):
    """Cases without their pictures, which take longest: for tests of what becomes of a case, not of what it holds."""
    from neonet_core.batch import worker

    monkeypatch.setattr(worker, "write_case",
                        lambda result, folder: write_json(folder / "score.json", result.to_json()))
    monkeypatch.setattr(worker, "thumbnail", lambda result: b"")


@pytest.fixture
def cases(rows, tmp_path):
    return write_manifest(tmp_path / "cases.csv", rows[:3])


@pytest.fixture
def batch(bundle, tmp_path):
    """Runs a batch in tmp_path/out."""
    def run(source, out="out", **options):
        return run_batch(Path(source), tmp_path / out, bundle=options.pop("bundle", bundle), threads=1, device="cpu",
                         **options)
    return run


def journal_of(out):
    return [json.loads(line) for line in (out / "journal.jsonl").read_text(encoding="utf-8").splitlines()]


# --- what it makes ----------------------------------------------------------------------------------------------------


def test_results_are_those_of_predict(here, batch, bundle, rows, cases, tmp_path):
    summary = batch(cases)
    assert (summary.done, summary.failed, summary.left, summary.complete) == (3, 0, 0, True)
    table = table_of(tmp_path / "out")
    assert [row["case_id"] for row in table] == sorted(row[0] for row in rows[:3])
    for row, (case_id, image, label) in zip(table, rows[:3], strict=True):
        expected = predict_case(read_volume(image), label_map=read_volume(label), bundle=bundle, case=case_id)
        assert float(row["probability"]) == expected.score.probability
        assert float(row["tumour_ml"]) == pytest.approx(expected.measurements.tumour_ml, abs=1e-3)
        assert row["flags"].split(";") == [flag.code for flag in expected.flags] or not row["flags"]
        assert row["bundle_hash"] == expected.bundle.hash and row["label_source"] == "given"
        folder = tmp_path / "out" / "cases" / case_id
        assert json.loads((folder / "score.json").read_text())["probability"] == expected.score.probability
        assert {path.name for path in folder.iterdir()} == {
            "attention.nii.gz", "crop", "figure.png", "label_map.nii.gz", "report.html", "score.json", "thumbnail.png"}
    with open(summary.results, encoding="utf-8", newline="") as stream:
        header = next(csv.reader(stream))
    assert header == list(RESULT_COLUMNS) and header[0] == "format" and is_results_header(header)


def test_the_page_links_the_cases_and_holds_nothing_external(here, batch, cases, rows, tmp_path):
    broken = write_manifest(tmp_path / "cases.csv", [*rows[:3], ("gone", str(tmp_path / "none.nii"), "")])
    page = batch(broken).report.read_text(encoding="utf-8")
    assert "Research use only" in page and "<script" not in page and not re.search(r'src="(http|/)', page)
    assert page.count('loading="lazy"') == 3
    for link in re.findall(r'(?:href|src)="(cases/[^"]+)"', page):
        assert (tmp_path / "out" / link).is_file(), link
    scores = [float(text) for text in re.findall(r"<b>([0-9.]+)</b>", page)]
    assert scores == sorted(scores, reverse=True) and len(scores) == 3
    assert "FILE_NOT_FOUND" in page and "gone" in page and str(tmp_path) not in page


def test_the_demo_bundle_marks_table_and_page(here, batch, rows, tmp_path):
    summary = batch(write_manifest(tmp_path / "cases.csv", [rows[0], ("gone", "none.nii", "")]), bundle="demo")
    assert all("DEMO_MODEL" in row["flags"] and "simulated" in row["notice"] for row in table_of(tmp_path / "out"))
    page = summary.report.read_text(encoding="utf-8")
    assert "Demonstration model" in page and "DEMO_MODEL" in page and "Demonstration scores" in page


def test_a_page_of_no_result_says_so(bundle):
    from neonet_core.bundle import load_bundle

    page = cohort_html({}, load_bundle(bundle), load_bundle(bundle))
    assert "Failed cases: none" in page and "No case was run" in page


def test_where_a_score_means_nothing_there_is_none(here, batch, rows, tmp_path):
    image, label = read_volume(rows[0][1]), read_volume(rows[0][2])
    write_volume(Volume(image.array - 1000, image.affine), tmp_path / "ct.nii.gz")
    write_volume(Volume(np.where(label.array == 2, 2, 0).astype(np.uint8), label.affine), tmp_path / "no-liver.nii.gz")
    write_volume(Volume(np.minimum(label.array, 1).astype(np.uint8), label.affine), tmp_path / "no-tumour.nii.gz")
    manifest = write_manifest(tmp_path / "cases.csv", [
        ("ct", "ct.nii.gz", rows[0][2]), ("no-liver", rows[0][1], "no-liver.nii.gz"),
        ("no-tumour", rows[0][1], "no-tumour.nii.gz"), ("sound", rows[0][1], rows[0][2])])
    summary = batch(manifest)
    found = {row["case_id"]: row for row in table_of(tmp_path / "out")}
    for case_id, flag in (("ct", "WRONG_MODALITY"), ("no-liver", "NO_LIVER"), ("no-tumour", "NO_TUMOUR")):
        assert found[case_id]["status"] == "done" and found[case_id]["probability"] == ""
        assert flag in found[case_id]["flags"].split(";")
        assert not (tmp_path / "out" / "cases" / case_id / "attention.nii.gz").exists()
        assert "so there is no score" in (tmp_path / "out" / "cases" / case_id / "report.html").read_text("utf-8")
    assert found["sound"]["probability"] and summary.complete
    with pytest.raises(NeoNetError) as caught:
        predict_case(read_volume(tmp_path / "ct.nii.gz"), label_map=label, need_score=True)
    assert caught.value.code == "WRONG_MODALITY"


# --- failures ---------------------------------------------------------------------------------------------------------


def test_twelve_broken_files_of_fifteen(bundle, rows, tmp_path, capfd):
    broken = break_case(tmp_path / "broken", Path(rows[0][1]), Path(rows[0][2]))
    failing = [(f"broken-{number:02d}", *paths) for number, paths in enumerate(broken.values())]
    manifest, out = write_manifest(tmp_path / "cases.csv", rows[:3] + failing), tmp_path / "out"
    arguments = ["batch", str(manifest), "--bundle", str(bundle), "--out", str(out), "--threads", "1"]
    assert main(arguments) == 3
    printed = capfd.readouterr()
    assert "Traceback" not in printed.out + printed.err
    table = {row["case_id"]: row for row in table_of(out)}
    assert sum(row["status"] == "done" for row in table.values()) == 3
    assert [table[row[0]]["error_code"] for row in failing] == [code.partition("#")[0] for code in broken]
    assert all(len(table[row[0]]["error_reason"]) > 20 for row in failing)
    assert PATIENT not in all_text(out) + printed.out + printed.err
    assert not list(out.rglob(".partial-*")) and not (out / ".scratch").exists() and not (out / "faults").exists()

    before = (out / "journal.jsonl").read_bytes()
    assert main([*arguments, "--json"]) == 3, "what has failed has failed"
    assert (out / "journal.jsonl").read_bytes() == before, "and nothing is run again"
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (result["event"], result["done"], result["failed"]) == ("result", 3, 12)


def test_failed_cases_are_tried_again_when_asked_or_mended(light, batch, rows, tmp_path):
    image = tmp_path / "late.nii.gz"
    manifest = write_manifest(tmp_path / "cases.csv", [rows[0], ("late", str(image), rows[1][2]),
                                                       ("never", str(tmp_path / "none.nii"), "")])
    assert batch(manifest).failed == 2
    shutil.copyfile(rows[1][1], image)
    assert batch(manifest).failed == 1, "its files have changed"
    begun = len(journal_of(tmp_path / "out"))
    assert batch(manifest, retry_failed=True).failed == 1
    again = journal_of(tmp_path / "out")[begun:]
    assert [entry.get("case") for entry in again] == [None, "never"]


def test_a_fault_of_ours_costs_one_case_and_leaves_its_details(light, batch, rows, tmp_path, monkeypatch):
    from neonet_core.batch import worker

    image = tmp_path / f"{PATIENT}.nii.gz"
    shutil.copyfile(rows[0][1], image)
    sound = worker.predict_case

    def broken(volume, case, **options):
        if case == "cursed":
            raise ZeroDivisionError(f"in {image}")
        return sound(volume, case=case, **options)

    monkeypatch.setattr(worker, "predict_case", broken)
    summary = batch(write_manifest(tmp_path / "cases.csv", [("cursed", str(image), ""), rows[1]]))
    assert (summary.done, summary.failed) == (1, 1)
    details = (tmp_path / "out" / "faults" / "cursed.txt").read_text(encoding="utf-8")
    assert "ZeroDivisionError" in details and PATIENT not in all_text(tmp_path / "out")


def test_a_full_disk_ends_nothing_and_the_same_command_does_the_rest(light, batch, cases, tmp_path, monkeypatch):
    from neonet_core.batch import worker

    sound, calls = worker.write_case, []

    def full(result, folder):
        calls.append(result.case)
        sound(result, folder)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(worker, "write_case", full)
    summary = batch(cases)
    assert (summary.done, summary.failed, summary.left, summary.complete) == (2, 0, 1, False)
    assert sorted(path.name for path in (tmp_path / "out" / "cases").iterdir()) == sorted(
        {row["case_id"] for row in table_of(tmp_path / "out")})
    summary = batch(cases)
    assert (summary.done, summary.complete) == (3, True)
    assert len(calls) == 4


def test_without_space_for_a_case_none_is_begun(here, batch, cases, monkeypatch):
    from neonet_core.batch import worker

    monkeypatch.setattr(worker, "free_bytes", lambda folder: 1000)
    monkeypatch.setattr(worker, "predict_case", None)
    summary = batch(cases)
    assert (summary.done, summary.failed, summary.left, summary.stopped) == (0, 0, 3, 3)


def test_a_journal_that_cannot_be_written_leaves_the_case_for_later(light, batch, cases, tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(
        handle, data[:20] if b'"case"' in data else data))  # what a full disk does to a line
    summary = batch(cases)
    assert (summary.done, summary.left, summary.complete) == (0, 3, False)
    assert [entry["event"] for entry in journal_of(tmp_path / "out")] == ["session"]
    monkeypatch.setattr(os, "write", write)
    assert batch(cases).complete


# --- workers that die -------------------------------------------------------------------------------------------------


class Watched:
    """Notes what an engine reports."""

    def __init__(self):
        self.outcomes, self.losses = [], 0

    def ready(self, worker): ...

    def started(self, worker, case_id): ...

    def finished(self, worker, outcome):
        self.outcomes.append(outcome)

    def lost(self, worker):
        self.losses += 1

    def tick(self): ...


@pytest.fixture
def crew(monkeypatch, tmp_path):
    """Runs cases of these names by processes of `batch_workers.serve`."""
    import batch_workers

    from neonet_core.batch import local
    from neonet_core.batch.inputs import BatchCase
    from neonet_core.batch.worker import Job, Outcome

    monkeypatch.setattr(local, "_serve", batch_workers.serve)

    def run(names, workers, device="cpu"):
        watched = Watched()
        backlog = Backlog([BatchCase(name, tmp_path / name) for name in names],
                          lambda case, error: Outcome(case.case_id, "failed", {"error_code": error.code}))
        local.run_local(backlog, Job(tmp_path, tmp_path, tmp_path, device, 1, 0), workers, watched)
        return watched
    return run


def test_a_case_whose_worker_dies_is_tried_once_more(crew):
    watched = crew(["a", "unlucky", "killer", "b", "slow"], workers=2)
    found = {outcome.case_id: outcome for outcome in watched.outcomes}
    assert len(watched.outcomes) == len(found) == 5, "each once"
    assert {name for name, outcome in found.items() if outcome.status == "done"} == {"a", "unlucky", "b", "slow"}
    assert found["killer"].row["error_code"] == "WORKER_DIED" and watched.losses == 3


def test_workers_that_never_get_ready_end_the_batch(crew):
    with pytest.raises(NeoNetError) as caught:
        crew(["a", "b"], workers=2, device="dead on arrival")
    assert caught.value.code == "WORKER_DIED"


def test_a_worker_that_cannot_load_its_models_says_why(batch, cases):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device, so asking for it is no error")
    with pytest.raises(NeoNetError) as caught:
        run_batch(cases, cases.parent / "out", device="cuda")
    assert caught.value.code == "NO_DEVICE"


# --- nothing lost, nothing twice --------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_kills_at_random_moments_change_nothing(here, batch, cases, tmp_path):
    begun = time.monotonic()
    batch(cases, "whole")
    whole_s = time.monotonic() - begun
    wait = random.Random(4)
    kills = 0
    while kills < 20:
        child = os.fork()
        if child == 0:  # nothing of pytest may go on in here
            try:
                batch(cases, "killed")
            finally:
                os._exit(0)
        time.sleep(wait.uniform(0, 0.5 * whole_s))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            break
        kills += 1
    assert kills > 2
    assert batch(cases, "killed").complete
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert files_of(killed) == files_of(whole) and table_of(killed) == table_of(whole)
    done = [entry["case"] for entry in journal_of(killed) if entry["event"] == "done"]
    assert len(done) == len(set(done)) == 3


def test_a_torn_journal_is_read_up_to_where_it_is_whole(tmp_path):
    path = tmp_path / "journal.jsonl"
    Journal(path).append({"event": "done", "case": "a", "fingerprint": "1"})
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0\0\0\n" + b'{"event": "done", "case": "b", "fing')
    journal = Journal(path)
    assert list(journal.last) == ["a"]
    journal.append({"event": "failed", "case": "b"})
    assert Journal(path).last["b"]["event"] == "failed" and path.read_bytes().startswith(whole)


def test_limit_runs_so_many_at_a_time(light, batch, cases):
    assert [batch(cases, limit=2).left for _ in range(2)] == [1, 0]


def test_cases_that_have_left_the_input_stay_in_the_table(light, batch, rows, tmp_path):
    manifest = write_manifest(tmp_path / "cases.csv", rows[:2])
    batch(manifest)
    write_manifest(manifest, rows[1:2])
    assert batch(manifest).done == 1
    assert len(table_of(tmp_path / "out")) == 2


def test_another_input_bundle_or_folder_is_refused(light, batch, cases, rows, tmp_path):
    batch(cases, limit=1)
    other = write_manifest(tmp_path / "other.csv", rows[:2])
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "letter.txt").write_text("mine")
    for source, options in ((other, {}), (cases, {"bundle": "demo"}), (cases, {"seg_bundle": "demo"}),
                            (cases, {"out": "foreign"})):
        with pytest.raises(NeoNetError) as caught:
            batch(source, **options)
        assert caught.value.code == "BATCH_EXISTS"
    assert [path.name for path in (tmp_path / "foreign").iterdir()] == ["letter.txt"]


def test_two_batches_do_not_work_in_one_folder(here, batch, cases, tmp_path):
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"), pytest.raises(NeoNetError) as caught:
        batch(cases)
    assert caught.value.code == "BATCH_BUSY"


def test_a_dry_run_writes_nothing(bundle, cases, tmp_path, capsys):
    plan = plan_batch(cases, tmp_path / "out", bundle=bundle, limit=2)
    assert (len(plan.cases), len(plan.todo), plan.done) == (3, 2, 0) and plan.case_bytes > 1 << 20
    assert main(["batch", str(cases), "--bundle", str(bundle), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    printed = capsys.readouterr()
    assert "3 cases: 0 done" in printed.err and "on the disk" in printed.err
    assert not (tmp_path / "out").exists()


def test_label_maps_of_the_manifest_are_left_out_when_asked(light, batch, rows, tmp_path):
    manifest = write_manifest(tmp_path / "cases.csv", rows[:1])
    sources = []
    for segment_all in (False, True):  # another input of the case: it is run again
        batch(manifest, segment_all=segment_all)
        sources += [row["label_source"] for row in table_of(tmp_path / "out")]
    assert sources == ["given", "segmented"]


def test_the_headless_script_is_the_command(tmp_path):
    script = Path(__file__).parents[2] / "NeoNetExtension" / "Scripts" / "batch.py"
    ended = subprocess.run([sys.executable, script, "nosuch.csv"], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 2 and "--out" in ended.stderr


# --- inputs -----------------------------------------------------------------------------------------------------------


def test_pseudonyms_of_files_stay_when_others_are_added(tmp_path):
    names = [f"{PATIENT}/scan.nii.gz", "b.nrrd", "c.mha"]
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"x")
    (tmp_path / "in" / ".hidden.nii").write_bytes(b"x")
    pseudonyms = Pseudonyms.in_folder(tmp_path)

    def cases():
        return {case.image.name: case.case_id
                for case in read_cases(tmp_path / "in", tmp_path / "in" / "out", pseudonyms, Silent())}

    first = cases()
    assert len(set(first.values())) == 3
    (tmp_path / "in" / "a.nii").write_bytes(b"x")
    (tmp_path / "in" / "out").mkdir()
    (tmp_path / "in" / "out" / "label_map.nii.gz").write_bytes(b"x")  # what a batch has written is no input
    second = cases()
    assert len(second) == 4 and {name: second[name] for name in first} == first
    (tmp_path / "other").mkdir()
    strangers = read_cases(tmp_path / "in", tmp_path / "out", Pseudonyms.in_folder(tmp_path / "other"), Silent())
    assert not {case.case_id for case in strangers} & set(second.values())


def test_names_are_kept_only_when_asked(here, batch, rows, tmp_path):
    (tmp_path / "in").mkdir()
    shutil.copyfile(rows[0][1], tmp_path / "in" / f"{PATIENT}.nii.gz")
    batch(tmp_path / "in")
    assert PATIENT not in all_text(tmp_path / "out")
    batch(tmp_path / "in", keep_names=True)
    assert PATIENT in (tmp_path / "out" / "names.csv").read_text(encoding="utf-8")
    (tmp_path / "out" / "names.csv").unlink()
    assert PATIENT not in all_text(tmp_path / "out")


def test_dicom_studies_are_cases_whether_they_can_be_run_or_not(tmp_path, monkeypatch):
    (tmp_path / "IM0001").write_bytes(b"x")
    series = SeriesInfo("1.2.3", "7", tmp_path / "s", 40, 40, selector="7")
    studies = [Study("1.1", "P1", frozenset(), (series,), series, "series 7, 12 points: 20 min"),
               Study("1.2", "P2", frozenset(), (), None, "No series looks like it.")]
    monkeypatch.setattr("neonet_core.dicom.studies.find_studies", lambda tree, events, but: studies)
    pseudonyms = Pseudonyms.in_folder(tmp_path)
    found = {case.case_id: case for case in read_cases(tmp_path, tmp_path / "out", pseudonyms, Silent())}
    run = found[pseudonyms.case_id("1.1", "P1")]
    assert (run.image, run.series, run.error) == (tmp_path / "s", "7", None) and "20 min" in run.note
    assert found[pseudonyms.case_id("1.2", "P2")].error.code == "NO_SERIES"
    before = run.fingerprint()
    (tmp_path / "IM0002").write_bytes(b"x")  # of another study, in the same folder
    assert run.fingerprint() == before != replace(run, content="1.2.3:41").fingerprint()


def test_headers_of_which_no_dicom_object_can_be_made_cost_no_score(here, batch, rows, tmp_path, monkeypatch):
    pytest.importorskip("highdicom")
    from dicom_files import write_series

    write_series(tmp_path / "in", np.rint(read_volume(rows[0][1]).array).astype(np.int16))

    def refuse(result, files, folder):
        (folder / "label.seg.dcm").write_bytes(b"half")
        raise AttributeError("no attribute 'PixelMeasuresSequence'")

    monkeypatch.setattr("neonet_core.dicom.outputs.write_dicom_outputs", refuse)
    assert batch(tmp_path / "in").done == 1
    row, = table_of(tmp_path / "out")
    names = {path.name for path in (tmp_path / "out" / "cases" / row["case_id"]).iterdir()}
    assert "score.json" in names and not [name for name in names if name.endswith(".dcm")]
    assert "no DICOM objects: AttributeError" in row["series"]


def test_the_series_that_the_user_named_is_not_chosen_anew(tmp_path):
    pytest.importorskip("pydicom")
    from dicom_files import write_series

    for number in range(2):
        write_series(tmp_path / "in", names=[f"{number}-{i}.dcm" for i in range(18)])
    write_series(tmp_path / "in", SeriesNumber=7, names=[f"7-{i}.dcm" for i in range(18)])
    with pytest.raises(NeoNetError) as caught:
        read_case(BatchCase("a", tmp_path / "in", "4"))
    assert caught.value.code == "SEVERAL_SERIES"


def test_linked_folders_are_looked_into_once(tmp_path):
    for folder in ("in", "elsewhere"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{folder}.nii.gz").write_bytes(b"x")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in" / "link")
    cases = read_cases(tmp_path / "in", tmp_path / "out", Pseudonyms.in_folder(tmp_path), Silent())
    assert sorted(case.image.name for case in cases) == ["elsewhere.nii.gz", "in.nii.gz"]


def test_a_tree_of_dicom_studies_goes_through(here, batch, rows, tmp_path):
    pytest.importorskip("highdicom")
    from dicom_files import CT, IDENTITY, STUDY, write_series

    array = np.rint(read_volume(rows[0][1]).array).astype(np.int16)
    other = STUDY | {"StudyInstanceUID": "1.2.826.0.1.3680043.8.498.77"}
    write_series(tmp_path / "in" / "Doe_Jane" / "SE4", array)
    write_series(tmp_path / "in" / "Doe_Jane" / "SE5", array, SeriesNumber=5, SeriesDescription="t2_haste")
    write_series(tmp_path / "in" / "CT", sop_class=CT, Modality="CT", study=other, template={})
    (tmp_path / "in" / "broken.dcm").write_bytes(b"x" * 300)
    summary = batch(tmp_path / "in")
    assert (summary.done, summary.failed) == (1, 1)
    failed, done = sorted(table_of(tmp_path / "out"), key=lambda row: row["status"], reverse=True)
    assert failed["error_code"] == "NO_SERIES" and "20min" in done["series"].replace(" ", "")
    folder = tmp_path / "out" / "cases" / done["case_id"]
    assert {"report.sr.dcm", "report.sc.dcm"} <= {path.name for path in folder.iterdir()}
    text = all_text(tmp_path / "out").lower()
    assert not [name for name in IDENTITY if re.search(rf"\b{name}\b", text)]
    assert batch(tmp_path / "in").done == 1 and len(journal_of(tmp_path / "out")) == 3, "nothing is run again"


@pytest.mark.parametrize(("source", "code"), [("none", "FILE_NOT_FOUND"), ("empty", "NO_CASES"),
                                              ("one.nii.gz", "USAGE")])
def test_an_input_without_cases_is_said(tmp_path, source, code):
    (tmp_path / "empty").mkdir()
    (tmp_path / "one.nii.gz").write_bytes(b"x")
    with pytest.raises(NeoNetError) as caught:
        plan_batch(tmp_path / source, tmp_path / "out")
    assert caught.value.code == code


def test_a_manifest_needs_an_outcome_for_no_batch(tmp_path):
    (tmp_path / "cases.csv").write_text("case_id,image,series,explanation\na,a,3,because\n")
    case, = read_cases(tmp_path / "cases.csv", tmp_path / "out", Pseudonyms.in_folder(tmp_path), Silent())
    assert (case.case_id, case.series, case.note, case.label_map) == ("a", "3", "because", None)
