"""NeoSeg in two steps: what the networks see, what is made of what they say, and training on a cohort's own labels."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from neonet_core.cohort import read_manifest
from neonet_core.errors import NeoNetError
from neonet_core.experiment.train import experiment, train
from neonet_core.presets import SegSettings, load_preset
from neonet_core.pretrained.pyliverlesionseg import write_bundle
from neonet_core.segmentation import two_step
from neonet_core.segmentation.networks import build_segmentor
from neonet_core.segmentation.pathway_unet import LESION, LIVER
from neonet_core.segmentation.two_step import (
    TwoStep,
    body_box,
    lesion_intensities,
    lesion_windows,
    liver_intensities,
    liver_window,
    smoothed_3mm,
    with_margin,
)
from neonet_core.segmentation.two_step_training import TwoStepSampler, two_step_loss
from neonet_core.training.prepared import PreparedCase

CPU = torch.device("cpu")
SETTINGS = SegSettings(network="TwoStep", channels=(1,), spacing=(1, 1, 3), epochs=1, batch_size=2, learning_rate=1e-3)


def volume(*shape):
    return torch.rand(1, 1, *shape)


# --- the liver's input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(60, 45, 20), (61, 44, 1), (31, 29, 9)])
def test_3mm_voxels_cover_the_same_space(shape):
    coarse = smoothed_3mm(volume(*shape))
    assert coarse.shape[2:] == (max(1, round(shape[0] / 3)), max(1, round(shape[1] / 3)), shape[2])
    ramp = torch.linspace(0, 1, shape[0])[None, None, :, None, None].expand(1, 1, *shape)
    found = smoothed_3mm(ramp.contiguous())[0, 0, :, 0, 0]
    assert found[0] < 0.2 and found[-1] > 0.8 and (found.diff() > 0).all()


def test_single_bright_voxels_do_not_reach_the_network():
    image = torch.full((1, 1, 30, 30, 10), 0.2)
    image[0, 0, 15, 15, 5] = 1
    assert smoothed_3mm(image).max() < 0.21


def test_the_body_is_what_is_bright_and_belongs_together():
    image = np.zeros((60, 50, 20), np.float32)
    image[10:40, 12:44, :] = 0.5
    image[50:56, 20:26, :] = 0.5  # an arm
    assert body_box(image) == (slice(10, 40), slice(12, 44), slice(0, 20))
    assert body_box(np.zeros((5, 6, 7))) == (slice(0, 5), slice(0, 6), slice(0, 7))


def test_a_body_larger_than_the_window_keeps_its_middle_and_its_upper_end():
    x, y, z = body_box(np.ones((200, 150, 150), np.float32))
    assert [part.stop - part.start for part in (x, y, z)] == list(LIVER.seen)
    assert abs((x.start + x.stop) - 200) <= 1 and z.stop == 150


@pytest.mark.parametrize("shape", [(117, 91, 20), (163, 136, 136), (1, 1, 1), (120, 90, 101)])
def test_the_livers_window_shows_the_image_where_it_says(shape):
    image = volume(*shape) + 1
    window, place = liver_window(image)
    assert window.shape[2:] == LIVER.window
    margins = [(whole - seen) // 2 for whole, seen in zip(LIVER.window, LIVER.seen, strict=True)]
    x, y, z = (slice(part.start + margin, part.stop + margin) for part, margin in zip(place, margins, strict=True))
    assert torch.equal(window[:, :, x, y, z], image)
    filled = (window > 0).any(dim=2).any(dim=2)[0, 0]
    assert filled.sum() == max(shape[2], two_step.ABDOMEN_SLICES)
    assert torch.equal(window[:, :, x, y, z.stop - 1], window[:, :, x, y, min(z.stop, LIVER.window[2] - 1)]) == (
        shape[2] < two_step.ABDOMEN_SLICES)


def test_the_brightest_fifth_of_the_range_is_cut():
    found = liver_intensities(torch.tensor([0.1, 0.5, 0.9, 1.1]).reshape(1, 1, 2, 2, 1))
    assert found.flatten().tolist() == pytest.approx([-0.5, 0.0, 0.5, 0.5])


# --- between and behind the networks -----------------------------------------------------------------------------


def cleaned(mask):
    probability = torch.from_numpy(np.where(mask, 0.9, 0.1).astype(np.float32))[None, None]
    return two_step._cleaned_liver(probability)[0, 0].numpy() > 0.5


def test_of_the_liver_stays_one_piece_without_holes_and_thin_threads():
    mask = np.zeros((40, 30, 20), bool)
    mask[5:20, 5:25, 3:17] = True
    expected = mask.copy()
    mask[10, 12, 8] = False  # a hole
    mask[20:30, 10, 10] = True  # a thread to
    mask[30:36, 7:13, 8:13] = True  # another organ
    found = cleaned(mask)
    assert found[10, 12, 8] and not found[23:].any()
    assert (found == expected).mean() > 0.999
    assert not cleaned(np.zeros((9, 9, 9), bool)).any()


def test_lesions_are_seen_around_the_livers_median():
    image = volume(20, 20, 8)
    liver = torch.zeros_like(image, dtype=torch.bool)
    liver[..., 5:15, 5:15, 2:6] = True
    inside = with_margin(liver)
    assert (inside & liver).sum() == liver.sum() < inside.sum()
    found = lesion_intensities(image, liver, inside)
    assert found.min() == -0.5 and found.max() <= 0.5 and (found[~inside] == -0.5).all()
    assert found[liver].median().abs() < 1e-6


@pytest.mark.parametrize("shape", [(200, 170, 60), (92, 84, 42), (30, 100, 5)])
def test_the_lesions_windows_cover_the_liver_once_or_more(shape):
    image, seen = volume(*shape), torch.zeros(shape)
    margins = [(whole - part) // 2 for whole, part in zip(LESION.window, LESION.seen, strict=True)]
    for window, place, kept in lesion_windows(image, torch.ones(1, 1, *shape, dtype=torch.bool)):
        assert window.shape[2:] == LESION.window
        inner = tuple(slice(part.start + m, part.stop + m) for part, m in zip(kept, margins, strict=True))
        assert torch.equal(window[(..., *inner)], image[(..., *place)])
        seen[place] += 1
    assert seen.min() >= 1
    assert not list(lesion_windows(image, torch.zeros(1, 1, *shape, dtype=torch.bool)))


class Says(torch.nn.Module):
    """A network with a fixed opinion about every voxel of its window's middle."""

    def __init__(self, design, rule):
        super().__init__()
        self.design, self.rule = design, rule

    def forward(self, window):
        cut = [(a - b) // 2 for a, b in zip(self.design.window, self.design.seen, strict=True)]
        x, y, z = (slice(c, c + n) for c, n in zip(cut, self.design.seen, strict=True))
        return torch.where(self.rule(window[:, :, x, y, z]), 9.0, -9.0)


def test_three_classes_come_out_where_the_networks_see_them():
    image = torch.full((1, 1, 120, 110, 40), 0.3)
    image[..., 20:100, 20:90, 8:32] = 0.8  # liver
    image[..., 50:70, 40:60, 16:24] = 0.95  # lesion
    network = TwoStep(1)
    network.liver = Says(LIVER, lambda seen: seen > 0.3)
    network.lesion = Says(LESION, lambda seen: seen > 0.4)
    found = network(image).argmax(dim=1)[0]
    assert found.shape == image.shape[2:]
    assert found[60, 50, 20] == 2 and found[30, 30, 20] == 1 and found[5, 5, 20] == 0
    assert (found == 2).sum() == pytest.approx(20 * 20 * 8, rel=0.05)
    assert (found > 0).sum() == pytest.approx(80 * 70 * 24, rel=0.1)
    torch.testing.assert_close(network(image).exp().sum(dim=1), torch.ones(1, *image.shape[2:]), atol=1e-4, rtol=0)


def test_without_a_liver_there_are_no_lesions():
    network = TwoStep(1)
    network.liver = Says(LIVER, lambda seen: torch.zeros_like(seen, dtype=torch.bool))
    network.lesion = Says(LESION, lambda seen: torch.ones_like(seen, dtype=torch.bool))
    assert not network(volume(30, 30, 10)).argmax(dim=1).any()


def test_another_grid_is_refused_at_once():
    with pytest.raises(NeoNetError) as caught:
        build_segmentor(SETTINGS.model_copy(update={"spacing": "native"}))
    assert caught.value.code == "BAD_PRESET" and "seg.spacing" in caught.value.hint


# --- training ----------------------------------------------------------------------------------------------------


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    labels = np.zeros((60, 54, 12), np.uint8)
    labels[10:50, 10:44, 2:10], labels[25:35, 20:30, 4:8] = 1, 2
    image = (np.array([0.2, 0.8, 0.5])[labels] + rng.normal(0, 0.02, labels.shape)).astype(np.float32)
    return PreparedCase("case", 0, image.clip(0, 1), labels, (1.0, 1.0, 3.0), (0.0, 1.0))


def test_samples_fit_the_networks_and_depend_on_seed_epoch_and_index_alone(case):
    sampler = TwoStepSampler([case, replace(case, case_id="b")], SETTINGS.model_copy(update={"tumour_share": 1.0}), 3)
    first, again = (next(sampler.batches(2, CPU)) for _ in range(2))
    assert len(first) == 2 and sampler.steps_per_epoch == 1
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.lesion_window, other.lesion_window) and torch.equal(one.liver_window, other.liver_window)
        assert one.liver_window.shape[2:] == LIVER.window and one.lesion_window.shape[2:] == LESION.window
        assert one.lesion_target.shape[2:] == one.known.shape[2:] == LESION.seen
        assert one.lesion_target.sum() == 400 and (one.lesion_target <= one.known).all()
        margins = [(whole - seen) // 2 for whole, seen in zip(LESION.window, LESION.seen, strict=True)]
        x, y, z = (slice(m, m + n) for m, n in zip(margins, LESION.seen, strict=True))
        shown = one.lesion_window[:, :, x, y, z][one.lesion_target == 1]
        assert shown.max() < -0.1 and shown.mean() > -0.5, "the lesion is darker than the liver's median"


def test_the_loss_trains_both_networks(case):
    network = TwoStep(1)
    sampler = TwoStepSampler([case], SETTINGS, 0)
    loss = two_step_loss(network, next(sampler.batches(0, CPU)))
    loss.backward()
    assert torch.isfinite(loss)
    for part in (network.liver, network.lesion):
        assert all(weights.grad is not None for weights in part.parameters())
        assert any(weights.grad.abs().max() > 0 for weights in part.parameters())


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    torch.manual_seed(1)
    return write_bundle(TwoStep(1), tmp_path_factory.mktemp("home") / "pyliverlesionseg", 1)


def test_init_takes_the_bundles_network_and_is_part_of_what_a_stage_depends_on(blob_cohort, start, tmp_path):
    cohort, preset = read_manifest(blob_cohort), load_preset("tiny")
    with_start = experiment(cohort, preset, tmp_path / "run", stages=("seg",), init=start.folder, device="cpu")
    assert [task.stage for task in with_start.tasks] == ["seg-twostep"] * 2
    inputs = with_start.tasks[0].training.inputs("seg-twostep")
    assert inputs["init"] == start.hash and inputs["spacing"] == (1.0, 1.0, 3.0)
    assert with_start.tasks[0].training.preset.seg.spacing == (1.0, 1.0, 3.0), "not the median of the new cohort"
    plain = experiment(cohort, preset, tmp_path / "run", stages=("seg",), device="cpu")
    assert all("init" not in task.training.inputs(task.stage) for task in plain.tasks)


def test_training_starts_from_the_bundles_weights(blob_cohort, start, tmp_path):
    preset = load_preset("tiny", ["seg.learning_rate=1e-12", "seg.weight_decay=0", "seg.epochs=1"])
    run = train(read_manifest(blob_cohort), preset, tmp_path / "run", stages=("seg",), folds=(0,), init=start.folder,
                device="cpu")
    from safetensors.torch import load_file

    trained = load_file(run.stage_folder(0, "seg-twostep") / "weights.safetensors")
    begun = load_file(start.folder / "fold-0" / "seg.safetensors")
    assert trained.keys() == begun.keys()
    assert all(torch.allclose(trained[name], begun[name], atol=1e-6) for name in trained)


def test_a_bundle_without_neoseg_is_refused(blob_cohort, tmp_path):
    with pytest.raises(NeoNetError) as caught:
        experiment(read_manifest(blob_cohort), load_preset("tiny"), tmp_path / "run", init=tmp_path / "nothing")
    assert caught.value.code == "UNKNOWN_BUNDLE"
