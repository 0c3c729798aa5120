"""The commands as a user or a program calls them: exit codes, one clear line, JSON events, no torch for --help."""

import json
import subprocess
import sys

import numpy as np
import pytest

from neonet_core.bundle import ModelCard
from neonet_core.cli import main
from neonet_core.experiment.export import export_bundle
from neonet_core.phantom import simulate_case
from neonet_core.volume import Volume, read_volume, same_grid, write_volume


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("case")
    phantom = simulate_case(1, 5, size="small")
    write_volume(phantom.image, folder / "image.nii.gz")
    write_volume(phantom.label_map, folder / "label.nii.gz")
    empty = Volume(np.minimum(phantom.label_map.array, 1), phantom.label_map.affine)
    write_volume(empty, folder / "no_tumour.nii.gz")
    return folder


@pytest.fixture(scope="module")
def bundle(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "tiny"
    export_bundle(tiny_run, folder, name="tiny",
                  card=ModelCard(intended_use="tests", training_data="phantoms", limits="all"))
    return str(folder)


def events_of(capsys):
    """Every line on stdout must be one JSON event."""
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def run(*arguments):
    return main([str(argument) for argument in arguments])


def test_help_and_version_load_nothing_heavy():
    code = ("import sys; from neonet_core.cli import main\n"
            "try: main(['--help'])\n"
            "except SystemExit as stop: assert stop.code == 0\n"
            "heavy = {'torch', 'monai', 'diffusers', 'SimpleITK', 'nibabel', 'matplotlib', 'scipy', 'numpy'}\n"
            "print(heavy & set(sys.modules))")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "set()"


def test_modules_for_slicer_import_with_numpy_alone():
    code = ("import sys, neonet_core.tlcr, neonet_core.events, neonet_core.errors\n"
            "foreign = {name.split('.')[0] for name in sys.modules} & "
            "{'torch', 'monai', 'scipy', 'pydantic', 'yaml', 'SimpleITK', 'nibabel', 'tqdm'}\n"
            "print(foreign)")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          check=True).stdout.strip() == "set()"


@pytest.mark.parametrize(("arguments", "code"), [
    (["predict", "IMAGE"], "USAGE"),
    (["nonsense"], "USAGE"),
    ([], "USAGE"),
    (["predict", "missing.nii.gz", "--out", "OUT"], "FILE_NOT_FOUND"),
    (["predict", "IMAGE", "--bundle", "nowhere", "--out", "OUT"], "UNKNOWN_BUNDLE"),
    (["predict", "IMAGE", "--device", "cuda", "--out", "OUT"], "NO_DEVICE"),
    (["predict", "IMAGE", "--label", "IMAGE", "--out", "OUT"], "BAD_LABELS"),
    (["crop", "IMAGE", "NO_TUMOUR", "--out", "OUT"], "EMPTY_TUMOUR"),
    (["crop", "IMAGE", "LABEL", "--crop-center", "9000,0,0", "--out", "OUT"], "BAD_ARGUMENT"),
    (["crop", "IMAGE", "LABEL", "--crop-center", "here", "--out", "OUT"], "USAGE"),
    (["classify", "IMAGE", "NO_TUMOUR", "--bundle", "BUNDLE", "--out", "OUT"], "EMPTY_TUMOUR"),
    (["train", "missing.csv", "--preset", "tiny", "--out", "OUT"], "MANIFEST_NOT_FOUND"),
    (["train", "missing.csv", "--preset", "none", "--out", "OUT"], "MANIFEST_NOT_FOUND"),
    (["cohort", "split", "missing.csv", "--out", "OUT"], "MANIFEST_NOT_FOUND"),
    (["phantom", "OUT", "--cases", "3", "--positives", "4"], "BAD_ARGUMENT"),
    (["bundle", "verify", "nowhere"], "UNKNOWN_BUNDLE"),
    (["bundle", "export", "OUT", "OUT2"], "NOT_A_RUN"),
])
@pytest.mark.parametrize("as_json", [False, True])
def test_wrong_input_ends_with_code_2_and_one_clear_line(case, bundle, tmp_path, capsys, arguments, code, as_json):
    if code == "NO_DEVICE":
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("this machine has a CUDA device, so asking for it is no error")
    places = {"IMAGE": case / "image.nii.gz", "LABEL": case / "label.nii.gz", "NO_TUMOUR": case / "no_tumour.nii.gz",
              "OUT": tmp_path / "out", "OUT2": tmp_path / "out2", "BUNDLE": bundle}
    capsys.readouterr()
    assert run(*[places.get(a, a) for a in arguments], *(["--json"] if as_json else [])) == 2
    printed = capsys.readouterr()
    if as_json:
        last = json.loads(printed.out.splitlines()[-1])
        assert (last["event"], last["code"]) == ("error", code)
        assert last["message"] and last["hint"]
    else:
        assert printed.err.splitlines()[-1].startswith("neonet: ")
        assert f"[{code}]" in printed.err
        assert "Traceback" not in printed.err


def test_a_fault_of_ours_ends_with_code_1_and_its_details_in_a_file(case, tmp_path, capsys, monkeypatch):
    def broken(*arguments, **options):
        raise RuntimeError("a bug")

    monkeypatch.setattr("neonet_core.pipeline.cut_patch", broken)
    assert run("crop", case / "image.nii.gz", case / "label.nii.gz", "--out", tmp_path, "--json") == 1
    last = events_of(capsys)[-1]
    assert last["code"] == "INTERNAL"
    log = last["hint"].rsplit(" ", 1)[-1]
    with open(log, encoding="utf-8") as stream:
        assert "a bug" in stream.read()


@pytest.mark.parametrize(("fault", "code"), [
    (OSError(28, "No space left on device"), "DISK_FULL"), (MemoryError(), "OUT_OF_MEMORY"),
    (PermissionError(13, "denied", "somewhere"), "NO_PERMISSION"), (KeyboardInterrupt(), "INTERRUPTED")])
def test_faults_of_the_machine_are_said_in_words(case, tmp_path, capsys, monkeypatch, fault, code):
    def broken(*arguments, **options):
        raise fault

    monkeypatch.setattr("neonet_core.pipeline.cut_patch", broken)
    assert run("crop", case / "image.nii.gz", case / "label.nii.gz", "--out", tmp_path, "--json") in (2, 130)
    assert events_of(capsys)[-1]["code"] == code


def test_crop_by_command_is_the_papers_crop(case, tmp_path, capsys):
    assert run("crop", case / "image.nii.gz", case / "label.nii.gz", "--out", tmp_path / "crop") == 0
    image = read_volume(tmp_path / "crop" / "image.nii.gz")
    assert image.shape == (96, 96, 48)
    assert image.array.min() >= 0 and image.array.max() <= 1
    center = json.loads((tmp_path / "crop" / "crop.json").read_text())["center_ras_mm"]
    # a point with a negative first coordinate must pass the parser, with or without the equals sign
    text = ",".join(str(value) for value in [-abs(center[0]), *center[1:]])
    assert run("crop", case / "image.nii.gz", case / "label.nii.gz", "--crop-center", text,
               "--out", tmp_path / "nudged") == 0


def test_segment_classify_and_predict_agree(case, bundle, tmp_path, capsys):
    assert run("segment", case / "image.nii.gz", "--bundle", bundle, "--out", tmp_path / "seg.nrrd") == 0
    image, found = read_volume(case / "image.nii.gz"), read_volume(tmp_path / "seg.nrrd")
    assert same_grid(image, found) and set(np.unique(found.array)) <= {0, 1, 2}
    capsys.readouterr()
    assert run("classify", case / "image.nii.gz", case / "label.nii.gz", "--bundle", bundle,
               "--out", tmp_path / "score.json", "--json") == 0
    result = events_of(capsys)[-1]
    assert result["event"] == "result" and 0 <= result["probability"] <= 1
    assert "Research use only" in result["notice"]
    assert run("predict", case / "image.nii.gz", "--label", case / "label.nii.gz", "--bundle", bundle,
               "--out", tmp_path / "case", "--json") == 0
    assert events_of(capsys)[-1]["probability"] == result["probability"]
    assert json.loads((tmp_path / "score.json").read_text())["probability"] == result["probability"]


def test_no_tumour_in_predict_is_no_error(case, bundle, tmp_path, capsys):
    assert run("predict", case / "image.nii.gz", "--label", case / "no_tumour.nii.gz", "--bundle", bundle,
               "--out", tmp_path / "case", "--json") == 0
    result = events_of(capsys)[-1]
    assert result["probability"] is None and "NO_TUMOUR" in result["flags"]


def test_cohort_commands(phantom_cohort, tmp_path, capsys):
    assert run("cohort", "check", phantom_cohort, "--out", tmp_path / "quality.json", "--json") == 0
    assert events_of(capsys)[-1]["excluded"] == 0
    for name in ("a.json", "b.json"):
        assert run("cohort", "split", phantom_cohort, "--folds", "2", "--seed", "3", "--out", tmp_path / name) == 0
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_progress_events_name_stage_and_count(phantom_cohort, capsys):
    assert run("cohort", "check", phantom_cohort, "--json") == 0
    progress = [event for event in events_of(capsys) if event["event"] == "progress"]
    assert progress[-1]["done"] == progress[-1]["total"]
    assert {"stage", "done", "total", "seconds_left"} <= progress[0].keys()


def test_phantom_and_bundle_commands(tmp_path, bundle, capsys):
    assert run("phantom", tmp_path / "p", "--cases", "2", "--positives", "1", "--size", "small") == 0
    assert (tmp_path / "p" / "cases.csv").read_text().startswith("case_id,image,label_map,pni")
    capsys.readouterr()
    assert run("bundle", "verify", bundle, "--json") == 0
    verified = events_of(capsys)[-1]
    assert run("bundle", "info", bundle, "--json") == 0
    assert events_of(capsys)[-1]["hash"] == verified["hash"]
