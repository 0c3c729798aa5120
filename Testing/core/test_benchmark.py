"""What the stages take is measured for each of them, and adds up to the hours of an experiment."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from neonet_core.cohort import read_manifest
from neonet_core.errors import NeoNetError
from neonet_core.experiment.benchmark import Benchmark, measure, run_benchmark, table
from neonet_core.experiment.graph import stages_of_fold
from neonet_core.experiment.plan import plan
from neonet_core.experiment.projection import Parts, measured_stage, parts_of_fold, project, seconds_of, usual_parts
from neonet_core.experiment.run import Run
from neonet_core.experiment.train import experiment, train
from neonet_core.presets import STAGES, load_preset

MODELS = ("UNet", "PattenNet", "PattenNet-duplicated", "Swin", "Volume")
PARTS = Parts(learning=16, stopping=4, validation=5, lacking=6)


def tiny(*changes):
    return load_preset("tiny", changes)


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    """All stages of the preset `tiny`; the measurement leaves no temporary folder behind."""
    folder = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        measured = measure(tiny(), stages=STAGES, models=MODELS, device="cpu", seconds_per_stage=0.02)
    assert not list(folder.glob("neonet-*"))
    return measured


def test_every_stage_gets_a_time(benchmark):
    expected = [stage for stage in stages_of_fold(tiny(), STAGES, MODELS, (0,)) if stage != "cls-volume"]
    assert [one.stage for one in benchmark.times] == expected and not benchmark.failures
    assert all(one.seconds_per_case > 0 and one.repeats > 0 for one in benchmark.times)
    encoding = {one.stage for one in benchmark.times if one.seconds_once > 0}
    assert encoding == {stage for stage in expected if stage.startswith(("ldm", "controlnet", "cls-pattennet"))}


def test_the_number_of_threads_is_left_as_it_was():
    before = torch.get_num_threads()
    measured = measure(tiny(), stages=("vae",), threads=before + 1, device="cpu", seconds_per_stage=0)
    assert measured.threads == before + 1 and torch.get_num_threads() == before


def test_written_and_read_it_is_the_same(benchmark, tmp_path):
    benchmark.write(tmp_path / "benchmark.json")
    assert Benchmark.read(tmp_path / "benchmark.json") == benchmark


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1, "preset": "tiny"}', None])
def test_a_file_that_is_no_benchmark_is_said(content, tmp_path):
    path = tmp_path / "benchmark.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(NeoNetError) as error:
        Benchmark.read(path)
    assert error.value.code == "BAD_BENCHMARK"


def test_a_time_that_is_no_number_is_said(benchmark):
    content = json.loads(json.dumps(benchmark.to_json()))
    content["times"][0]["seconds_per_case"] = "soon"
    with pytest.raises(NeoNetError, match="seconds_per_case") as error:
        Benchmark.from_json(content)
    assert error.value.code == "BAD_BENCHMARK"


@pytest.mark.parametrize("stage, key", [("vae", "vae"), ("ldm-vae", "ldm"), ("controlnet-vqvae", "controlnet"),
                                        ("cls-pattennet", "cls"), ("cls-swin-rs50", "baseline")])
def test_twice_the_epochs_take_twice_as_long_encoding_aside(benchmark, stage, key):
    def seconds(epochs):
        return seconds_of(stage, tiny(f"{key}.epochs={epochs}"), benchmark, PARTS)

    assert seconds(200) > seconds(100)
    assert seconds(200) - seconds(100) == pytest.approx(seconds(300) - seconds(200))
    one = benchmark.time_of(measured_stage(stage))
    if one.seconds_once == 0:
        assert seconds(200) == pytest.approx(2 * seconds(100))


def test_patches_per_case_count(benchmark):
    without = replace(benchmark, times=tuple(replace(one, seconds_per_volume=0.0) for one in benchmark.times))
    once, twice = (seconds_of("seg-unet", tiny(f"seg.patches_per_case={count}"), without, PARTS) for count in (1, 2))
    assert twice == pytest.approx(2 * once)
    assert seconds_of("seg-unet", tiny(), benchmark, PARTS) > once


def test_synthetic_and_repeated_cases_are_learned_from_too(benchmark):
    real, half, all_of_them = (seconds_of(f"cls-swin{ratio}", tiny(), benchmark, PARTS)
                               for ratio in ("", "-rs50", "-rs100"))
    assert half / real == pytest.approx((16 + 3) / 16) and all_of_them / real == pytest.approx((16 + 6) / 16)
    one, more = (benchmark.time_of(f"cls-pattennet{name}").seconds_per_case for name in ("", "-duplicated"))
    few, many = (replace(PARTS, lacking=lacking) for lacking in (0, 6))
    epochs = tiny().cls.epochs
    duplicated = [seconds_of("cls-pattennet-duplicated", tiny(), benchmark, parts) for parts in (few, many)]
    assert one > 0 and duplicated[1] - duplicated[0] == pytest.approx(6 * epochs * more)


def test_samples_are_those_that_balance_and_those_that_are_judged(benchmark):
    balancing, judging = (seconds_of(f"synth-{kind}", tiny(), benchmark, PARTS)
                          / benchmark.time_of(f"synth-{kind}").seconds_per_case for kind in ("vae", "vqvae"))
    assert (round(balancing), round(judging)) == (6 + 2 * 2, 2 * 2)  # the preset judges two samples, twice


def test_other_networks_or_sizes_were_not_measured(benchmark):
    for change in ("vae.channels=[8, 8, 8]", "crop.size=[64, 64, 32]"):
        assert seconds_of("vae", tiny(change), benchmark, PARTS) is None
    assert seconds_of("ldm-vae", tiny("vae.channels=[8, 8, 8]"), benchmark, PARTS) is None
    assert seconds_of("ldm-vae", tiny("vae.learning_rate=0.5"), benchmark, PARTS) is not None
    assert seconds_of("cls-resnet-50", tiny(), benchmark, PARTS) is None


@pytest.mark.parametrize("protocol", ["paper", "rigorous"])
def test_hours_add_up_over_all_folds_and_stages(benchmark, protocol):
    preset = tiny(f"protocol={protocol}", "folds=4", "ratios=[0, 50, 100]")
    projection = project(benchmark, preset, 40, 12, STAGES, MODELS)
    assert list(projection.hours) == stages_of_fold(preset, STAGES, MODELS, preset.ratios)
    assert projection.total == pytest.approx(sum(projection.hours.values())) and not projection.unknown
    fold = usual_parts(preset, 40, 12)
    assert projection.hours["vae"] == pytest.approx(4 * seconds_of("vae", preset, benchmark, fold) / 3600)
    learning, stopping, lacking = (30, 10, 12) if protocol == "paper" else (21, 9, 8)
    assert fold == Parts(learning, stopping, 10, lacking)


def test_what_was_not_measured_is_named(benchmark):
    projection = project(benchmark, tiny(), 40, 12, STAGES, (*MODELS, "ResNet-50"))
    assert projection.unknown == ["cls-resnet-50"]
    text = table(benchmark, projection, tiny(), 40, 12)
    assert "cls-resnet-50" in text and "may stop earlier" in text and "controlnet-vqvae" in text


@pytest.mark.parametrize("cases, positives", [(40, 0), (40, 40), (3, 1)])
def test_a_cohort_that_cannot_be_split_is_said_before_anything_is_measured(cases, positives):
    with pytest.raises(NeoNetError) as error:
        run_benchmark(tiny(), cases=cases, positives=positives, device="cpu")
    assert error.value.code == "BAD_ARGUMENT"


def test_a_stage_without_memory_or_a_network_that_does_not_fit_is_not_the_end(monkeypatch, tmp_path):
    def exhausted(*_arguments):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("neonet_core.generation.autoencoder.train_autoencoder", exhausted)
    out = tmp_path / "benchmark.json"
    benchmark, projection = run_benchmark(tiny(), stages=("vae", "cls"), models=("PattenNet", "DenseNet-121"),
                                          cases=16, positives=7, device="cpu", out=out,
                                          seconds_per_stage=0)
    assert [one.stage for one in benchmark.times] == ["cls-pattennet"]
    assert "memory" in benchmark.failures["vae"] and "DenseNet-121" in benchmark.failures["cls-densenet-121"]
    assert projection.unknown == ["vae", "cls-densenet-121"]
    assert Benchmark.read(out) == benchmark


def test_a_plan_asks_the_benchmark_where_nothing_else_is_known(benchmark, blob_cohort, tmp_path):
    def planned(stages, known):
        tasks = experiment(read_manifest(blob_cohort), tiny(), out, stages=stages, device="cpu").tasks
        return tasks, plan(tasks, known)

    out: Path = tmp_path / "run"
    _, unknown = planned(("vae", "cls"), None)
    assert {one.seconds_left for one in unknown} == {None}
    tasks, known = planned(("vae", "cls"), benchmark)
    for task, one in zip(tasks, known, strict=True):
        assert one.seconds_left == seconds_of(one.stage, tiny(), benchmark, parts_of_fold(task.training.fold)) > 0
    train(read_manifest(blob_cohort), tiny(), out, folds=(0,), stages=("vae",), device="cpu")
    taken = Run(out).done(0, "vae")["seconds"]
    left = [one.seconds_left for one in planned(("vae",), benchmark)[1]]
    assert left == [0.0, taken]
