"""Bundles: what is exported is what is loaded, damage is noticed, nothing foreign is read."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from neonet_core.bundle import DEMO_WARNING, RESEARCH_USE_ONLY, ModelCard, built_in_bundles, load_bundle
from neonet_core.cohort import read_manifest
from neonet_core.errors import NeoNetError
from neonet_core.experiment.export import export_bundle
from neonet_core.experiment.predictions import read_predictions
from neonet_core.experiment.run import Run
from neonet_core.experiment.train import experiment
from neonet_core.presets import load_preset

CARD = ModelCard(intended_use="tests", training_data="phantoms", limits="all")


@pytest.fixture(scope="module")
def exported(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    export_bundle(tiny_run, folder, name="tiny", card=CARD)
    return folder


@pytest.fixture
def copy(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "tiny")
    return tmp_path / "tiny"


def code_of(call):
    with pytest.raises(NeoNetError) as caught:
        call()
    return caught.value.code


def test_members_carry_the_weights_that_were_trained(tiny_run, exported):
    bundle = load_bundle(exported)
    assert [member.fold for member in bundle.record.members] == tiny_run.fold_numbers()
    for member in bundle.record.members:
        trained = load_file(tiny_run.stage_folder(member.fold, "cls-pattennet") / "weights.safetensors")
        shipped = load_file(exported / member.cls)
        assert trained.keys() == shipped.keys()
        assert all(torch.equal(trained[name], shipped[name]) for name in trained)


def test_record_holds_the_out_of_fold_scores_without_identity(tiny_run, exported):
    record = load_bundle(exported).record
    expected = sorted((p.outcome, p.probability) for p in read_predictions(tiny_run))
    assert sorted((s.outcome, s.score) for s in record.out_of_fold) == expected
    text = (exported / "bundle.json").read_text()
    assert not any(p.case_id in text for p in read_predictions(tiny_run))


def test_half_precision_bundle_computes_nearly_the_same(tiny_run, exported, tmp_path):
    half = export_bundle(tiny_run, tmp_path / "half", name="half", card=CARD, half=True)
    image = torch.rand(1, 1, 32, 32, 16)
    for (encoder, _), (encoder_half, _) in zip(load_bundle(exported).classifiers(torch.device("cpu")),
                                               half.classifiers(torch.device("cpu")), strict=True):
        with torch.no_grad():
            expected, found = encoder(image), encoder_half(image)
        assert found.dtype == torch.float32
        assert (expected - found).abs().max() < 0.01 * expected.abs().max()
    size = sum(path.stat().st_size for path in (tmp_path / "half").rglob("*.safetensors"))
    assert size < 0.75 * sum(path.stat().st_size for path in exported.rglob("*.safetensors"))


def test_hash_names_the_model_exactly(tiny_run, exported, copy):
    assert load_bundle(copy).hash == load_bundle(exported).hash
    record = json.loads((copy / "bundle.json").read_text())
    record["threshold"] = 0.123
    (copy / "bundle.json").write_text(json.dumps(record))
    assert load_bundle(copy).hash != load_bundle(exported).hash


def test_verify_accepts_what_was_exported(exported):
    load_bundle(exported).verify()


def test_a_flipped_bit_is_noticed_before_the_weights_are_read(copy):
    file = next(copy.rglob("seg.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    bundle = load_bundle(copy)
    assert code_of(bundle.verify) == "BUNDLE_DAMAGED"
    assert code_of(lambda: bundle.segmentors(torch.device("cpu"))) == "BUNDLE_DAMAGED"


def test_a_missing_file_is_noticed(copy):
    next(copy.rglob("cls.safetensors")).unlink()
    assert code_of(load_bundle(copy).verify) == "BUNDLE_DAMAGED"


def test_weights_that_do_not_fit_the_settings_are_refused(copy):
    from neonet_core.training.files import sha256_of_file

    file = next(copy.rglob("cls.safetensors"))
    save_file({"foreign": torch.zeros(3)}, file)
    record = json.loads((copy / "bundle.json").read_text())
    record["hashes"][file.relative_to(copy).as_posix()] = sha256_of_file(file)
    (copy / "bundle.json").write_text(json.dumps(record))
    assert code_of(lambda: load_bundle(copy).classifiers(torch.device("cpu"))) == "BUNDLE_DAMAGED"


def test_a_path_that_leaves_the_bundle_is_refused(copy):
    record = json.loads((copy / "bundle.json").read_text())
    outside = copy.parent / "outside.safetensors"
    outside.write_bytes(b"x")
    record["members"][0]["seg"] = "../outside.safetensors"
    record["hashes"]["../outside.safetensors"] = "0" * 64
    (copy / "bundle.json").write_text(json.dumps(record))
    assert code_of(lambda: load_bundle(copy).segmentors(torch.device("cpu"))) == "BUNDLE_DAMAGED"


@pytest.mark.parametrize(("change", "code"), [
    ({"format": 99}, "BUNDLE_TOO_NEW"), ({"name": "../x"}, "BUNDLE_DAMAGED"), ({"surprise": 1}, "BUNDLE_DAMAGED"),
    ({"members": []}, "BUNDLE_DAMAGED"), ({"preset": {"name": "x"}}, "BUNDLE_DAMAGED")])
def test_a_wrong_record_is_refused(copy, change, code):
    record = json.loads((copy / "bundle.json").read_text()) | change
    (copy / "bundle.json").write_text(json.dumps(record))
    assert code_of(lambda: load_bundle(copy)) == code


def test_broken_json_and_unknown_names(copy, tmp_path):
    (copy / "bundle.json").write_text("{")
    assert code_of(lambda: load_bundle(copy)) == "BUNDLE_DAMAGED"
    assert code_of(lambda: load_bundle("no-such-bundle")) == "UNKNOWN_BUNDLE"
    assert code_of(lambda: load_bundle(tmp_path)) == "UNKNOWN_BUNDLE"


def test_export_never_overwrites_and_leaves_nothing_when_it_fails(tiny_run, exported, tmp_path):
    assert code_of(lambda: export_bundle(tiny_run, exported, name="again", card=CARD)) == "EXISTS"
    empty = tmp_path / "run"
    Run(empty).begin({**{key: tiny_run.settings()[key] for key in ("preset", "cohort", "outcome", "seed", "device")}})
    assert code_of(lambda: export_bundle(Run(empty), tmp_path / "out", name="x", card=CARD)) == "NOTHING_TRAINED"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_incomplete_folds_are_left_out_of_the_ensemble(tiny_run, tmp_path):
    shutil.copytree(tiny_run.folder, tmp_path / "run")
    (tmp_path / "run" / "fold-1" / "cls-pattennet" / "done.json").unlink()
    bundle = export_bundle(Run(tmp_path / "run"), tmp_path / "out", name="one", card=CARD)
    assert [member.fold for member in bundle.record.members] == [0]
    assert not (tmp_path / "out" / "fold-1" / "seg.safetensors").exists()


def test_weights_are_tuned_further_on_the_grid_that_they_were_trained_on(exported, blob_cohort, tmp_path):
    """The bundle's preset says "median", which would be another grid in another cohort."""
    record = load_bundle(exported).record
    assert record.preset.seg.spacing == "median"
    begun = experiment(read_manifest(blob_cohort), load_preset("tiny", ["seg.spacing=native"]), tmp_path / "run",
                       stages=("seg",), init=exported, device="cpu")
    assert begun.tasks[0].training.preset.seg.spacing == record.members[0].seg_spacing


def test_threshold_lies_within_the_out_of_fold_scores(exported):
    record = load_bundle(exported).record
    scores = [s.score for s in record.out_of_fold]
    assert min(scores) <= record.threshold <= max(scores)


# --- the built-in bundle ---------------------------------------------------------------------------------------


def test_demo_is_built_in_small_verified_and_says_what_it_is():
    folder = built_in_bundles()["demo"]
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 8e6
    demo = load_bundle()
    demo.verify()
    assert demo.is_demo
    assert DEMO_WARNING in demo.notice
    assert RESEARCH_USE_ONLY in demo.notice
    assert len(demo.record.members) >= 2


UNSEEN_SIZES = ("small", "full")


@pytest.mark.parametrize("size", UNSEEN_SIZES)
def test_demo_holds_its_own_figures_on_unseen_phantoms(size):
    figures = load_bundle().record.metrics["unseen_phantoms"][size]
    assert figures["dice_liver"] >= 0.95
    assert figures["dice_tumour"] >= 0.80
    low, high = figures["auc"]["delong_95"]
    assert 0.5 < low < figures["auc"]["value"] < high
    assert abs(figures["auc_of_tumour_volume"]["value"] - 0.5) < 0.15
    assert figures["not_scored"] == 0


@pytest.mark.parametrize("size", UNSEEN_SIZES)
def test_demo_reaches_the_goal_for_its_auc(size):
    assert load_bundle().record.metrics["unseen_phantoms"][size]["auc"]["value"] >= 0.85


def test_folds_of_other_settings_are_not_mixed(tiny_run, tmp_path):
    shutil.copytree(tiny_run.folder, tmp_path / "run")
    inputs = tmp_path / "run" / "fold-1" / "vae" / "inputs.json"
    content = json.loads(inputs.read_text())
    content["settings"]["epochs"] += 1
    inputs.write_text(json.dumps(content))
    assert code_of(lambda: export_bundle(Run(tmp_path / "run"), tmp_path / "out", name="x",
                                         card=CARD)) == "MIXED_SETTINGS"
