"""The graph of stages: what is run, in which order, what it needs, and what `--dry-run` says of it."""

import json

import pytest

from neonet_core.classification.names import ABLATIONS, CLASSIFIERS, CONTROLS
from neonet_core.cli import main
from neonet_core.cohort import read_manifest
from neonet_core.errors import NeoNetError
from neonet_core.experiment.graph import (
    classifier_of,
    classifier_stage,
    needs,
    section_of,
    settings_of,
    stages_of_fold,
)
from neonet_core.experiment.plan import duration, plan, table
from neonet_core.experiment.train import experiment, train
from neonet_core.presets import STAGES, load_preset, preset_names
from neonet_core.segmentation.networks import NETWORKS

PAPER, TINY = load_preset("paper"), load_preset("tiny")


def all_of(preset):
    return stages_of_fold(preset, preset.stages, preset.models, preset.ratios)


@pytest.mark.parametrize("name", preset_names())
def test_each_stage_comes_after_those_that_it_needs(name):
    preset = load_preset(name)
    stages = stages_of_fold(preset, STAGES, preset.models, preset.ratios)
    assert len(set(stages)) == len(stages)
    for number, stage in enumerate(stages):
        assert set(needs(stage, preset)) <= set(stages[:number])


def test_the_paper_is_there_whole():
    """Its tables 1, 2 and 5: four segmentors; PattenNet and 13 rivals on R and four R+S; five ablations."""
    stages = all_of(PAPER)
    assert sum(section_of(stage) == "seg" for stage in stages) == 4
    assert {"vae", "vqvae", "ldm-vae", "ldm-vqvae", "controlnet-vae", "controlnet-vqvae", "synth-vae"} <= set(stages)
    trained = [classifier_of(stage) for stage in stages if section_of(stage) == "cls"]
    rivals = set(CLASSIFIERS) - set(ABLATIONS) - set(CONTROLS)
    assert len(rivals) == 14
    assert {model for model, ratio in trained if ratio == 50} == rivals
    assert {model for model, ratio in trained if ratio == 100} == rivals | set(ABLATIONS) - {"PattenNet-2"}
    assert {model for model, ratio in trained if ratio == 0} == rivals | set(CONTROLS)


@pytest.mark.parametrize("model", CLASSIFIERS)
@pytest.mark.parametrize("ratio", [0, 25, 100])
def test_a_classifiers_stage_says_what_it_is(model, ratio):
    assert classifier_of(classifier_stage(model, ratio)) == (model, ratio)


def test_pattennet_with_its_own_number_of_blocks_is_pattennet():
    assert stages_of_fold(PAPER, ["cls"], ["PattenNet-2", "PattenNet"], [0]) == ["cls-pattennet"]
    assert settings_of("cls-pattennet-2", PAPER) == settings_of("cls-pattennet", PAPER)


def test_each_variant_differs_from_pattennet_in_one_setting():
    own = settings_of("cls-pattennet", PAPER)
    for model in (*ABLATIONS, *CONTROLS):
        if model not in ("PattenNet-2", "Volume"):
            other = settings_of(classifier_stage(model), PAPER)
            assert sum(own[key] != other[key] for key in own) == 1, model


def test_models_of_one_kind_leave_the_other_as_the_preset_has_it():
    assert stages_of_fold(TINY, ["seg", "cls"], ["DenseNet-121"], [0]) == ["seg-unet", "cls-densenet-121"]
    assert stages_of_fold(TINY, ["seg", "cls"], ["SegResNet"], [0]) == ["seg-segresnet", "cls-pattennet"]


def test_diffusion_is_trained_on_the_autoencoders_that_are_there():
    assert stages_of_fold(TINY, ["ldm"], (), [0], trained=["vqvae"]) == ["ldm-vqvae"]
    assert stages_of_fold(TINY, ["ldm"], (), [0]) == ["ldm-vae"]
    assert stages_of_fold(TINY, ["vae", "ldm"], (), [0], trained=["vqvae"]) == ["vae", "ldm-vae"]


def test_networks_and_classifiers_have_names_of_their_own():
    names = [name.lower() for name in (*NETWORKS, *CLASSIFIERS)]
    assert len(set(names)) == len(names)


def test_an_unknown_model_is_said():
    with pytest.raises(NeoNetError) as caught:
        stages_of_fold(TINY, ["cls"], ["VGG"], [0])
    assert caught.value.code == "BAD_ARGUMENT" and "EfficientNet-B0" in caught.value.hint


# --dry-run


def tasks_of(cohort, out, stages, **options):
    return experiment(read_manifest(cohort), TINY, out, stages=stages, device="cpu", **options).tasks


def test_a_dry_run_writes_nothing(blob_cohort, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", str(blob_cohort), "--preset", "tiny", "--out", str(out), "--dry-run", "--json"]) == 0
    assert not out.exists()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["stages"] == 6 and result["done"] == 0
    assert {one["stage"] for one in result["plan"]} == {"seg-unet", "vae", "cls-pattennet"}


def test_what_is_done_in_one_fold_times_the_others(blob_cohort, tmp_path):
    out = tmp_path / "run"
    train(read_manifest(blob_cohort), TINY, out, folds=[0], stages=["vae"], device="cpu")
    stages = plan(tasks_of(blob_cohort, out, ["vae", "cls"]))
    states = {(one.fold, one.stage): one for one in stages}
    assert states[0, "vae"].progress.state == "done" and states[0, "vae"].seconds_left == 0
    assert states[1, "vae"].seconds_left == states[0, "vae"].progress.seconds > 0
    assert states[0, "cls-pattennet"].seconds_left is None
    assert "1 of 4 stages are done, 3 are left." in table(stages)


def test_a_stage_that_was_cut_off_is_timed_by_its_own_epochs(blob_cohort, tmp_path):
    out = tmp_path / "run"
    run = train(read_manifest(blob_cohort), TINY, out, folds=[0], stages=["vae"], device="cpu")
    folder = run.stage_folder(0, "vae")
    (folder / "done.json").unlink()
    (folder / "log.jsonl").write_text('{"epoch": 1, "seconds": 7.0}\n')
    [stage] = plan(tasks_of(blob_cohort, out, ["vae"], folds=[0]))
    assert (stage.progress.state, stage.progress.epochs) == ("begun", 1)
    assert stage.seconds_left == (TINY.vae.epochs - 1) * 7.0


def test_a_log_whose_last_line_was_cut_off_is_read(blob_cohort, tmp_path):
    out = tmp_path / "run"
    run = train(read_manifest(blob_cohort), TINY, out, folds=[0], stages=["vae"], device="cpu")
    (run.stage_folder(0, "vae") / "log.jsonl").write_text('{"epoch": 1, "seconds": 7.0}\n{"epoch": 2, "sec')
    assert run.trained_so_far(0, "vae") == (1, 7.0)


def test_another_fold_times_a_stage_of_the_same_settings_only(blob_cohort, tmp_path):
    out = tmp_path / "run"
    train(read_manifest(blob_cohort), TINY, out, folds=[0], stages=["vae"], device="cpu")
    longer = experiment(read_manifest(blob_cohort), load_preset("tiny", ["vae.epochs=9"]), out, stages=["vae"],
                        device="cpu")
    assert [one.seconds_left for one in plan(longer.tasks)] == [None, None]


def test_other_settings_are_to_do_again(blob_cohort, tmp_path):
    out = tmp_path / "run"
    train(read_manifest(blob_cohort), TINY, out, folds=[0], stages=["vae"], device="cpu")
    changed = experiment(read_manifest(blob_cohort), load_preset("tiny", ["vae.epochs=2"]), out, folds=[0],
                         stages=["vae"], device="cpu")
    assert [one.progress.state for one in plan(changed.tasks)] == ["to do"]


def test_a_missing_stage_is_said_before_anything_is_written(blob_cohort, tmp_path):
    out = tmp_path / "run"
    train(read_manifest(blob_cohort), TINY, out, folds=[0], stages=["seg"], device="cpu")
    before = (out / "settings.json").read_bytes()
    for stages, ratios, code in ((["ldm"], [0], "NO_VAE"), (["vae", "cls"], [0, 100], "NO_SYNTH")):
        with pytest.raises(NeoNetError) as caught:
            train(read_manifest(blob_cohort), load_preset("tiny", ["seg.epochs=1"]), out, stages=stages, ratios=ratios,
                  device="cpu")
        assert caught.value.code == code
    assert (out / "settings.json").read_bytes() == before
    assert not (out / "fold-0" / "vae").exists()


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (89, "89 s"), (720, "12 min"), (12600, "3.5 h")])
def test_durations_are_said_in_fitting_units(seconds, text):
    assert duration(seconds) == text
