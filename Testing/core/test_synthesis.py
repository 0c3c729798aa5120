"""Samples on disk: what is drawn, that nothing is lost or drawn twice, and where each sample comes from."""

import gzip
import json

import numpy as np
import pytest
import torch

from neonet_core.bundle import ModelCard, load_bundle
from neonet_core.cli import main
from neonet_core.cohort import read_manifest
from neonet_core.errors import NeoNetError
from neonet_core.evaluation.dice import dice
from neonet_core.events import Silent
from neonet_core.experiment.export import export_bundle
from neonet_core.experiment.images import label_patch
from neonet_core.experiment.train import train
from neonet_core.generate import generate
from neonet_core.generation import synthesis
from neonet_core.generation.masks import apply_transform
from neonet_core.generation.synthesis import (
    balancing_requests,
    evaluation_requests,
    minority,
    read_samples,
    share_of,
    write_samples,
)
from neonet_core.phantom import simulate_case
from neonet_core.pipeline import cut_masks, cut_patch
from neonet_core.presets import load_preset
from neonet_core.training.patches import cut_patches
from neonet_core.volume import Volume, read_label_map, read_volume, write_volume

TINY = load_preset("tiny")
SYNTH = TINY.synth
NAMES = ["case-0", "case-1", "case-2", "case-3"]


class FakeGenerator:
    """Draws the seed as a flat patch; counts what it draws."""

    patch_size, control = TINY.crop.size, object()

    def __init__(self, stop_after=None, memory=None):
        self.drawn, self.stop_after, self.memory = [], stop_after, memory

    def most_at_once(self, wanted):
        return wanted

    def generate(self, masks, classes, seeds, *, progress=None, **_):
        if self.memory is not None and len(seeds) > self.memory:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        if self.stop_after is not None and len(self.drawn) + len(seeds) > self.stop_after:
            raise KeyboardInterrupt
        self.drawn += list(seeds)
        return np.stack([np.full((1, *self.patch_size), (seed % 1000) / 1000, np.float32) for seed in seeds])


@pytest.fixture
def patches(prepared_blobs):
    return cut_patches(prepared_blobs, TINY.crop)


@pytest.fixture
def requests(patches):
    return evaluation_requests(patches, NAMES, 4, 0)


def uneven(patches):
    return patches.__class__(patches.images, patches.masks, np.array([1, 0, 0, 0]), patches.spacings)


# What is drawn


def test_balancing_makes_one_to_one_from_the_rarer_class_alone(patches):
    made = balancing_requests(uneven(patches), NAMES, SYNTH, 0)
    assert len(made) == 2, "three negatives against one positive"
    assert {request.mask_case for request in made} == {"case-0"}
    assert {request.outcome for request in made} == {1}
    assert len({request.seed for request in made}) == 2
    assert not np.array_equal(made[0].masks, made[1].masks)


@pytest.mark.parametrize(("outcomes", "expected"), [([1, 0, 0], (1, 1)), ([1, 1, 0], (0, 1)), ([0, 1], (1, 0)),
                                                    ([1, 0, 0, -1, -1], (1, 1))])
def test_minority(outcomes, expected):
    assert minority(outcomes) == expected


def test_masks_are_lent_evenly(patches):
    outcomes = np.array([1, 1, 0, 0])
    many = patches.__class__(np.tile(patches.images, (4, 1, 1, 1, 1)), np.tile(patches.masks, (4, 1, 1, 1, 1)),
                             np.concatenate([outcomes, [0] * 12]), np.tile(patches.spacings, (4, 1)))
    lenders = [r.mask_case for r in balancing_requests(many, [f"c{i}" for i in range(16)], SYNTH, 0)]
    assert sorted(lenders.count(name) for name in ("c0", "c1")) == [6, 6]


def test_lineage_redoes_the_mask(patches):
    for request in balancing_requests(uneven(patches), NAMES, SYNTH, 3):
        again = apply_transform(patches.masks[0], patches.spacings[0], json.loads(json.dumps(request.transform)))
        assert np.array_equal(again, request.masks)


def test_ratios_are_nested_shares():
    assert [share_of(40, percent) for percent in (0, 25, 50, 75, 100)] == [0, 10, 20, 30, 40]


def test_evaluation_takes_held_out_masks_as_they_are(patches):
    made = evaluation_requests(patches, NAMES, 3, 0)
    assert len({request.mask_case for request in made}) == 3
    for request in made:
        case = NAMES.index(request.mask_case)
        assert np.array_equal(request.masks, patches.masks[case]) and request.outcome == patches.outcomes[case]


# Writing


def test_samples_come_back_with_their_lineage(requests, tmp_path):
    paths = write_samples(FakeGenerator(), requests, tmp_path, SYNTH, {"weights": "abc"}, Silent(), "test")
    back, lineages = read_samples(paths)
    for index, request in enumerate(requests):
        assert np.array_equal(back.masks[index], request.masks)
        assert np.allclose(back.images[index], (request.seed % 1000) / 1000)
        assert back.outcomes[index] == request.outcome
        assert np.allclose(back.spacings[index], np.diag(request.affine)[:3])
        record = lineages[index]
        assert (record["mask_case"], record["seed"], record["weights"]) == (request.mask_case, request.seed, "abc")


def test_an_interrupted_run_loses_nothing_and_draws_nothing_twice(requests, tmp_path):
    first = FakeGenerator(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        write_samples(first, requests, tmp_path, SYNTH, {}, Silent(), "test")
    kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(first.drawn) == 2 and len(kept) == 6
    second = FakeGenerator()
    write_samples(second, requests, tmp_path, SYNTH, {}, Silent(), "test")
    assert sorted(first.drawn + second.drawn) == sorted(request.seed for request in requests)
    assert all((tmp_path / name).stat().st_mtime_ns == stamp for name, stamp in kept.items())


def test_a_sample_cut_off_while_it_was_written_is_drawn_again(requests, tmp_path):
    write_samples(FakeGenerator(), requests, tmp_path, SYNTH, {}, Silent(), "test")
    (tmp_path / "sample-0001.json").unlink()
    (tmp_path / "sample-0001.nii.gz").write_bytes(b"half")
    again = FakeGenerator()
    paths = write_samples(again, requests, tmp_path, SYNTH, {}, Silent(), "test")
    assert again.drawn == [requests[1].seed]
    assert len(read_samples(paths)[0]) == 4


def test_batches_fit_the_memory(requests, tmp_path):
    roomy, tight = FakeGenerator(), FakeGenerator(memory=1)
    for generator, folder in ((roomy, tmp_path / "roomy"), (tight, tmp_path / "tight")):
        write_samples(generator, requests, folder, SYNTH, {}, Silent(), "test")
    assert tight.drawn == roomy.drawn


def test_a_sample_without_its_image_is_drawn_again(requests, tmp_path):
    write_samples(FakeGenerator(), requests, tmp_path, SYNTH, {}, Silent(), "test")
    (tmp_path / "sample-0002.nii.gz").unlink()
    again = FakeGenerator()
    write_samples(again, requests, tmp_path, SYNTH, {}, Silent(), "test")
    assert again.drawn == [requests[2].seed]


def test_samples_of_another_model_are_not_overwritten(requests, tmp_path):
    write_samples(FakeGenerator(), requests, tmp_path, SYNTH, {"weights": "a"}, Silent(), "test")
    with pytest.raises(NeoNetError) as caught:
        write_samples(FakeGenerator(), requests, tmp_path, SYNTH, {"weights": "b"}, Silent(), "test")
    assert caught.value.code == "EXISTS"


def test_more_samples_than_the_disk_holds_are_refused_before_the_first(requests, tmp_path, monkeypatch):
    monkeypatch.setattr(synthesis.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    generator = FakeGenerator()
    with pytest.raises(NeoNetError) as caught:
        write_samples(generator, requests, tmp_path, SYNTH, {}, Silent(), "test")
    assert caught.value.code == "DISK_FULL" and not generator.drawn


# Stages and bundle, on the preset `tiny`


def lineages(run, part, kind="vae"):
    folder = run.stage_folder(0, f"synth-{kind}") / part
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def test_masks_come_from_the_folds_own_learning_cases(generator_run):
    inputs = json.loads((generator_run.stage_folder(0, "synth-vae") / "inputs.json").read_text())["cases"]
    outcomes = {case: outcome for case, (_, outcome, _) in inputs["learning"].items()}
    balancing, judging = lineages(generator_run, "samples"), lineages(generator_run, "evaluation")
    counts = [list(outcomes.values()).count(outcome) for outcome in (0, 1)]
    assert len(balancing) == counts[0] - counts[1] > 0
    assert all(outcomes[record["mask_case"]] == 1 == record["outcome"] for record in balancing)
    assert judging and {record["mask_case"] for record in judging} <= set(inputs["validation"])


def test_all_four_rows_of_table_4_have_samples_on_the_same_masks(generator_run):
    masks = [[(record["mask_case"], record["seed"]) for record in lineages(generator_run, part, kind)]
             for part in ("evaluation", "evaluation-dm") for kind in ("vae", "vqvae")]
    assert masks[0] and masks == [masks[0]] * 4


def test_ratios_add_that_many_synthetic_cases(generator_run):
    lacking = len(lineages(generator_run, "samples"))
    for ratio, stage in ((0, "cls-pattennet"), (50, "cls-pattennet-rs50"), (100, "cls-pattennet-rs100")):
        assert generator_run.done(0, stage)["figures"]["synthetic"] == share_of(lacking, ratio)
    table = (generator_run.folder / "predictions.csv").read_text(encoding="utf-8")
    assert {line.split(",")[3] for line in table.splitlines()[1:]} == {
        "cls-pattennet", "cls-pattennet-rs50", "cls-pattennet-rs100"}


def test_lineage_names_the_weights_that_drew_it(generator_run):
    record = lineages(generator_run, "evaluation")[0]
    for stage, name in record["weights"].items():
        assert generator_run.done(0, stage)["outputs"]["weights.safetensors"] == name


def test_a_second_call_runs_nothing_again(generator_run, unequal_cohort):
    def stamps():
        return {path: path.stat().st_mtime_ns for path in generator_run.folder.rglob("fold-0/*/*")}

    before = stamps()
    train(read_manifest(unequal_cohort), TINY, generator_run.folder, folds=(0,), device="cpu", ratios=(0, 50, 100),
          stages=("vae", "vqvae", "ldm", "controlnet", "synth", "cls"))
    assert stamps() == before


@pytest.mark.parametrize(("stages", "code"), [(("ldm",), "NO_VAE"), (("vae", "controlnet"), "NO_LDM"),
                                              (("vae", "ldm", "synth"), "NO_CONTROLNET")])
def test_a_missing_earlier_stage_is_said(blob_cohort, tmp_path, stages, code):
    with pytest.raises(NeoNetError) as caught:
        train(read_manifest(blob_cohort), TINY, tmp_path / "run", folds=(0,), device="cpu", stages=stages)
    assert caught.value.code == code


def test_a_crop_that_the_diffusion_model_cannot_take_is_said_at_once(blob_cohort, tmp_path):
    preset = load_preset("tiny", ["crop.size=[36, 32, 16]"])
    with pytest.raises(NeoNetError) as caught:
        train(read_manifest(blob_cohort), preset, tmp_path / "run", device="cpu", stages=("vae", "ldm"))
    assert caught.value.code == "BAD_PRESET"


@pytest.mark.parametrize("changes", [["synth.steps=1001"], ["synth.guidance=2", "ldm.class_embedding=false"],
                                     ["synth.guidance=2", "ldm.class_dropout=0"]])
def test_sampling_that_the_model_cannot_do_is_said_before_it_is_trained(blob_cohort, tmp_path, changes):
    with pytest.raises(NeoNetError) as caught:
        train(read_manifest(blob_cohort), load_preset("tiny", changes), tmp_path / "run", device="cpu",
              stages=("vae", "ldm", "controlnet", "synth"))
    assert caught.value.code == "BAD_PRESET" and not (tmp_path / "run").exists()


@pytest.mark.parametrize("change", ["synth.scale=[1.1, 0.9]", "synth.scale=[0, 1]", "synth.elastic_mm=.inf",
                                    "synth.smoothness_mm=.inf", "synth.guidance=.inf"])
def test_masks_cannot_be_varied_without_bounds(change):
    with pytest.raises(NeoNetError) as caught:
        load_preset("tiny", [change])
    assert caught.value.code == "BAD_PRESET"


@pytest.fixture(scope="module")
def generator_bundle(generator_run, tmp_path_factory):
    card = ModelCard(intended_use="tests", training_data="blobs", limits="all")
    return export_bundle(generator_run, tmp_path_factory.mktemp("bundles") / "blobs", name="blobs", card=card)


def test_bundle_draws_what_the_run_draws(generator_run, generator_bundle):
    """A bundle holds the decoder without the encoder; a sample must not notice."""
    _, generator = generator_bundle.generators(torch.device("cpu"))[0]
    record = lineages(generator_run, "evaluation")[0]
    paths = sorted((generator_run.stage_folder(0, "synth-vae") / "evaluation").glob("*.json"))
    patches, _ = read_samples(paths)
    drawn = generator.generate(patches.masks[:1], [record["outcome"]], [record["seed"]], sampler=SYNTH.sampler,
                               steps=SYNTH.steps, guidance=SYNTH.guidance)
    np.testing.assert_allclose(drawn[0], patches.images[0], atol=1e-4)


@pytest.fixture
def label_map(prepared_blobs):
    """Left-handed and off the origin: a patch must find its place in the world all the same."""
    labels = prepared_blobs[0].label_map[::-1].copy()
    affine = np.diag([-4.3, 4.0, 5.5, 1.0])
    affine[:3, 3] = [60.0, -30.0, 12.0]
    return Volume(labels, affine)


def test_generated_patches_lie_where_their_tumour_lies(generator_bundle, label_map, tmp_path):
    images = generate([label_map], tmp_path, bundle=generator_bundle, count=2, device="cpu")
    assert len(images) == 2
    expected = cut_masks(label_map, generator_bundle.record.preset.crop,
                         generator_bundle.record.members[0].crop_spacing)
    mask = read_label_map(tmp_path / "label-01-sample-0000_mask.nii.gz")
    assert np.array_equal(mask.array, expected.masks.sum(axis=0))
    for path in images:
        assert np.allclose(read_volume(path).affine, expected.affine, atol=1e-4)
    whole = np.argwhere(label_map.array == 2).mean(axis=0)
    patch = np.argwhere(mask.array == 2).mean(axis=0)
    centre = [affine[:3, :3] @ voxel + affine[:3, 3]
              for affine, voxel in ((label_map.affine, whole), (mask.affine, patch))]
    assert np.allclose(centre[0], centre[1], atol=3.0)


def test_generate_goes_on_and_repeats_itself(generator_bundle, label_map, tmp_path):
    one = generate([label_map], tmp_path / "a", bundle=generator_bundle, count=1, seed=4, device="cpu")
    before = one[0].read_bytes()
    more = generate([label_map], tmp_path / "a", bundle=generator_bundle, count=3, seed=4, device="cpu")
    again = generate([label_map], tmp_path / "b", bundle=generator_bundle, count=3, seed=4, device="cpu")
    assert one[0].read_bytes() == before
    for first, second in zip(more, again, strict=True):
        np.testing.assert_allclose(read_volume(first).array, read_volume(second).array, atol=1e-4)


def test_generate_says_that_it_is_synthetic(generator_bundle, label_map, tmp_path):
    generate([label_map], tmp_path, bundle=generator_bundle, device="cpu")
    record = json.loads((tmp_path / "label-01-sample-0000.json").read_text(encoding="utf-8"))
    assert record["kind"] == "synthetic" and "SYNTHETIC" in record["flags"] and "Research use only" in record["notice"]
    header = gzip.decompress((tmp_path / "label-01-sample-0000.nii.gz").read_bytes())[:348]
    assert b"SYNTHETIC" in header


@pytest.mark.parametrize(("spoil", "options", "code"), [
    (lambda labels: np.minimum(labels, 1), [], "EMPTY_TUMOUR"),
    (lambda labels: labels + 3, [], "BAD_LABELS"),
    (lambda labels: labels[:, :, :1], [], "NOT_3D"),
    (lambda labels: labels, ["--count", "0"], "BAD_ARGUMENT"),
    (lambda labels: labels, ["--count", "1000000000"], "BAD_ARGUMENT"),
    (lambda labels: labels, ["--seed", "-1"], "BAD_ARGUMENT"),
    (lambda labels: labels, ["--guidance", "inf"], "BAD_ARGUMENT"),
    (lambda labels: labels, ["--steps", "1001"], "BAD_ARGUMENT"),
    (lambda labels: labels, ["--steps", "0"], "BAD_ARGUMENT"),
    (lambda labels: labels, ["--sampler", "euler"], "USAGE"),
    (lambda labels: labels, ["--crop-center", "900,0,0"], "BAD_ARGUMENT"),
])
def test_wrong_input_of_generate_by_its_code(generator_bundle, label_map, tmp_path, capsys, spoil, options, code):
    path = tmp_path / "label.nii.gz"
    write_volume(Volume(spoil(label_map.array), label_map.affine), path)
    rc = main(["generate", str(path), "--bundle", str(generator_bundle.folder), "--out", str(tmp_path / "out"),
               "--device", "cpu", "--json", *options])
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rc == 2 and events[-1]["code"] == code


def test_a_bundle_without_generator_is_said(tiny_run, label_map, tmp_path):
    card = ModelCard(intended_use="tests", training_data="phantoms", limits="all")
    bundle = export_bundle(tiny_run, tmp_path / "plain", name="plain", card=card)
    with pytest.raises(NeoNetError) as caught:
        generate([label_map], tmp_path / "out", bundle=bundle, device="cpu")
    assert caught.value.code == "NO_GENERATOR"


# The built-in bundle


def test_demo_draws_tumours_where_its_own_segmentor_finds_them():
    """Simulated cases that it has never seen, from mask to sample to label map; as well as in the real patches, which
    show less than the whole images that the segmentor was trained on."""
    bundle = load_bundle("demo")
    member, generator = bundle.generators(torch.device("cpu"))[0]
    segmentor, synth = bundle.segmentors(torch.device("cpu"))[0], bundle.record.preset.synth
    in_samples, in_real = [], []
    for pni, seed in ((0, 4001), (1, 4002), (0, 4003)):
        case = simulate_case(pni, seed, size="small")
        patch = cut_patch(case.image, case.label_map, bundle.record.preset.crop, member.crop_spacing)
        sample = generator.generate(patch.masks[None], [pni], [seed], sampler=synth.sampler, steps=synth.steps)[0, 0]
        for image, found in ((sample, in_samples), (patch.image.array, in_real)):
            labels = label_patch(image, patch.image.spacing, segmentor, torch.device("cpu"))
            found.append(dice(labels == 2, patch.masks[1] == 1))
        assert sample[patch.masks[1] == 1].mean() < sample[(patch.masks[0] == 1) & (patch.masks[1] == 0)].mean() - 0.2
    assert np.mean(in_samples) > 0.4 and np.mean(in_samples) > 0.75 * np.mean(in_real)


@pytest.mark.parametrize("size", ["small", "full"])
def test_demo_holds_its_own_figures_of_the_generator(size):
    figures = load_bundle("demo").record.metrics["unseen_phantoms"][size]["generator"]
    assert figures["samples"] >= 16 and figures["dice_tumour"] > 0.8 * figures["dice_tumour_of_real"]
    for region in ("tumour", "liver", "background"):
        assert abs(figures[region]["samples"] - figures[region]["real"]) < 0.1


# The perceptual term


def test_the_perceptual_term_reads_the_folds_own_segmentor(blob_cohort, tmp_path):
    preset = load_preset("tiny", ["vae.perceptual_weight=0.1"])
    with pytest.raises(NeoNetError) as caught:
        train(read_manifest(blob_cohort), preset, tmp_path / "run", folds=(0,), device="cpu", stages=("vae",))
    assert caught.value.code == "NO_SEG"
    run = train(read_manifest(blob_cohort), preset, tmp_path / "run", folds=(0,), device="cpu", stages=("seg", "vae"))
    inputs = json.loads((run.stage_folder(0, "vae") / "inputs.json").read_text(encoding="utf-8"))
    assert set(inputs["after"]) == {"seg-unet"} and run.current(0, "vae") is not None
