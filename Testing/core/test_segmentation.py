"""NeoSeg: networks, patches, sliding-window inference and the way back to the input's grid."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from test_preprocessing import ORIENTATIONS, rotation, stored_otherwise

from neonet_core.errors import NeoNetError
from neonet_core.evaluation.dice import dice
from neonet_core.events import Silent
from neonet_core.presets import SegSettings, load_preset
from neonet_core.segmentation import inference
from neonet_core.segmentation.inference import Segmentor, predict_probabilities, remove_islands, segment
from neonet_core.segmentation.networks import TWO_STEP_SPACING, build_segmentor
from neonet_core.segmentation.patches import PatchSampler
from neonet_core.segmentation.training import dice_of_case, train_segmentor
from neonet_core.training.checkpoint import load_weights, save_weights
from neonet_core.volume import Volume

CPU = torch.device("cpu")
SETTINGS = SegSettings(network="UNet", channels=(4, 8), patch_size=(16, 16, 8), epochs=1, batch_size=2,
                       learning_rate=1e-3)


# Networks


@pytest.mark.parametrize(("network", "channels", "size"), [
    ("UNet", (4, 8, 16, 16, 16), (32, 16, 16)), ("UNet", (4, 8), (6, 4, 2)), ("SegResNet", (8,), (24, 16, 8)),
    ("DynUNet", (4, 8, 8, 8, 8), (32, 16, 16)), ("SwinUNETR", (12,), (64, 64, 32))])
def test_each_network_gives_three_logits_a_voxel(network, channels, size):
    built = build_segmentor(SETTINGS.model_copy(update={"network": network, "channels": channels, "patch_size": size}))
    with torch.no_grad():
        assert built.eval()(torch.rand(1, 1, *size)).shape == (1, 3, *size)


@pytest.mark.parametrize("network", ["UNet", "SegResNet", "DynUNet", "SwinUNETR"])
def test_each_network_builds_as_the_paper_has_it(network):
    paper = load_preset("paper", [f"seg.network={network}"]).seg
    with torch.device("cpu" if network == "SwinUNETR" else "meta"):  # meta: shapes alone, nothing is computed
        built = build_segmentor(paper)
        assert 4e6 < sum(p.numel() for p in built.parameters()) < 1e8
        if network != "SwinUNETR":  # which does not do without numbers
            assert built(torch.empty(2, 1, *paper.patch_size)).shape == (2, 3, 96, 96, 96)


@pytest.mark.parametrize(("network", "channels", "size"), [
    ("SwinUNETR", (12,), (64, 64, 48)), ("UNet", (4, 8, 16), (16, 16, 6)), ("DynUNet", None, (96, 96, 24)),
    ("SegResNet", None, (12, 16, 16)), ("SwinUNETR", (16,), (64, 64, 32)), ("SegResNet", (5,), (16, 16, 16)),
    ("UNet", (8,), (16, 16, 16))])
def test_a_patch_or_channels_that_do_not_fit_are_said_at_once(network, channels, size):
    with pytest.raises(NeoNetError) as caught:
        build_segmentor(SETTINGS.model_copy(update={"network": network, "channels": channels, "patch_size": size}))
    assert caught.value.code == "BAD_PRESET" and network in caught.value.message


@pytest.mark.parametrize(("network", "channels", "size"), [("SwinUNETR", (12,), (32, 32, 32)),
                                                           ("DynUNet", None, (16, 16, 16))])
def test_a_patch_that_is_one_voxel_at_the_lowest_level_is_said_before_training(prepared_blobs, tmp_path, network,
                                                                             channels, size):
    chosen = SETTINGS.model_copy(update={"network": network, "channels": channels, "patch_size": size})
    with pytest.raises(NeoNetError) as caught:
        train_segmentor(prepared_blobs[:2], prepared_blobs[3:], chosen, tmp_path, 0, CPU, Silent(), "seg")
    assert caught.value.code == "BAD_PRESET" and "single voxel" in caught.value.message


# Sliding windows


@pytest.mark.parametrize("shape", [(40, 33, 17), (10, 40, 5), (16, 16, 8), (3, 3, 3)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_windows_of_a_network_without_context_equal_the_whole(shape, overlap):
    torch.manual_seed(1)
    network = torch.nn.Conv3d(1, 3, 1)
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    found = predict_probabilities(network, image, SETTINGS.model_copy(update={"overlap": overlap}), CPU)
    with torch.no_grad():
        expected = torch.softmax(network(torch.from_numpy(image)[None, None])[0], dim=0).numpy()
    assert found.shape == (3, *shape) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)


def test_probabilities_sum_to_one_and_the_network_is_put_in_evaluation_mode():
    network = build_segmentor(SETTINGS).train()
    found = predict_probabilities(network, np.random.default_rng(0).random((20, 30, 11)), SETTINGS, CPU)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)
    assert found.min() >= 0 and not network.training


def test_the_border_of_a_window_counts_little_where_another_sees_more():
    class SureInside(torch.nn.Module):
        """Background with a logit of 10; of -10 in the outermost voxels of its window, which lack context."""

        def forward(self, batch):
            logits = torch.zeros(len(batch), 3, *batch.shape[2:])
            logits[:, 0] = -10
            logits[:, 0, 1:-1, 1:-1, 1:-1] = 10
            return logits

    found = predict_probabilities(SureInside(), np.zeros((40, 40, 20), np.float32),
                                  SETTINGS.model_copy(update={"overlap": 0.5}), CPU)
    assert found[0, 8:-8, 8:-8, 4:-4].min() > 0.9, "where windows overlap along each axis"


def test_no_more_windows_than_promised_are_on_the_device():
    seen = []

    class Watch(torch.nn.Conv3d):
        def forward(self, batch):
            seen.append(tuple(batch.shape))
            return super().forward(batch)

    predict_probabilities(Watch(1, 3, 1), np.zeros((64, 64, 32), np.float32), SETTINGS, CPU)
    assert {shape[1:] for shape in seen} == {(1, 16, 16, 8)}
    assert max(shape[0] for shape in seen) <= inference.WINDOWS_AT_ONCE


# The input's grid


class Thresholds(torch.nn.Module):
    """Liver above a quarter of the image's range, tumour above three quarters."""

    def forward(self, batch):
        return torch.cat([torch.zeros_like(batch), 400 * (batch - 0.25), 800 * (batch - 0.5)], dim=1)


def example(spacing, degrees=0.0):
    """An image whose segmentation by thresholds is known: a lopsided liver with a tumour."""
    shape = np.array((30, 26, 20))
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    liver = (((grid - (13, 12, 9)) / (10, 8, 7)) ** 2).sum(axis=-1) < 1
    liver[22:, :, :] = False
    tumour = (((grid - (9, 10, 11)) / 4) ** 2).sum(axis=-1) < 1
    labels = liver.astype(np.uint8) + (liver & tumour)
    affine = np.eye(4)
    affine[:3, :3] = rotation(degrees) @ np.diag(spacing)
    affine[:3, 3] = (-20, 31, 7)
    return Volume(np.array([0, 500, 1000], np.int16)[labels], affine), labels


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS)
@pytest.mark.parametrize("degrees", [0, 12])
def test_the_label_map_lies_on_the_grid_of_the_image_in_every_orientation(order, flips, degrees):
    image, labels = example((1.0, 1.4, 2.5), degrees)
    stored = stored_otherwise(image, order, flips)
    found = segment(stored, [Segmentor(Thresholds(), SETTINGS, None)], CPU)
    expected = stored_otherwise(Volume(labels, image.affine), order, flips)
    assert found.array.dtype == np.uint8
    np.testing.assert_array_equal(found.affine, stored.affine)
    np.testing.assert_array_equal(found.array, expected.array)


@pytest.mark.parametrize("orientation", [0, 7, 22, 41])
@pytest.mark.parametrize("degrees", [0, 12])
@pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.5), (0.8, 1.0, 3.0)])
def test_the_networks_own_spacing_does_not_move_the_result(orientation, degrees, spacing):
    image, labels = example((1.0, 1.4, 2.5), degrees)
    stored = stored_otherwise(image, *ORIENTATIONS[orientation])
    found = segment(stored, [Segmentor(Thresholds(), SETTINGS, spacing)], CPU)
    expected = stored_otherwise(Volume(labels, image.affine), *ORIENTATIONS[orientation])
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found.affine, stored.affine)
    canonical = segment(image, [Segmentor(Thresholds(), SETTINGS, spacing)], CPU)
    np.testing.assert_array_equal(
        found.array, stored_otherwise(canonical, *ORIENTATIONS[orientation]).array)
    assert dice(found.array > 0, expected.array > 0) > 0.95 and dice(found.array == 2, expected.array == 2) > 0.85
    for value in (1, 2):  # not shifted: the centre of mass is within a third of a voxel
        np.testing.assert_allclose(ndimage.center_of_mass(found.array >= value),
                                   ndimage.center_of_mass(expected.array >= value), atol=0.35)


def test_each_network_of_an_ensemble_sees_its_own_spacing(monkeypatch):
    image, labels = example((1.0, 1.4, 2.5))
    shapes = []

    def watch(network, array, *rest):
        shapes.append(array.shape)
        return predict_probabilities(network, array, *rest)

    monkeypatch.setattr(inference, "predict_probabilities", watch)
    found = segment(image, [Segmentor(Thresholds(), SETTINGS, spacing)
                            for spacing in ((1.0, 1.4, 2.5), (1.1, 1.4, 2.5), None)], CPU)
    assert shapes == [(30, 26, 20), (27, 26, 20), (30, 26, 20)]
    assert dice(found.array > 0, labels > 0) > 0.98 and found.shape == image.shape


def test_an_ensemble_takes_the_mean_probability():
    image, labels = example((1.0, 1.0, 1.0))

    class Background(torch.nn.Module):
        def forward(self, batch):
            return torch.cat([3 + 0 * batch, 0 * batch, 0 * batch], dim=1)

    sure, unsure = Segmentor(Thresholds(), SETTINGS, None), Segmentor(Background(), SETTINGS, None)
    assert (segment(image, [sure, sure, unsure], CPU).array == labels).all()
    assert not segment(image, [sure, unsure, unsure], CPU).array.any()


# Islands


def test_islands_follow_their_rules():
    labels = np.zeros((30, 20, 10), np.uint8)
    labels[2:22, 2:18, 1:9] = 1
    labels[4:10, 4:10, 3:7] = 2  # 144 voxels: the tumour
    labels[12:15, 4:8, 3:6] = 2  # 36 voxels, 25 %: a second one
    labels[18, 14, 5] = 2  # one voxel: noise
    labels[15:17, 12:14, 4:6] = 0  # a hole
    labels[26:29, 2:6, 2:6] = 2  # not connected with the liver
    expected = labels.copy()
    expected[18, 14, 5] = expected[15:17, 12:14, 4:6] = 1
    expected[26:29] = 0
    np.testing.assert_array_equal(remove_islands(labels), expected)


@settings(max_examples=60, deadline=None)
@given(arrays(np.uint8, (7, 6, 5), elements=st.integers(0, 2)))
def test_cleaning_is_final_and_invents_no_tumour(labels):
    before = labels.copy()
    cleaned = remove_islands(labels)
    np.testing.assert_array_equal(labels, before)
    np.testing.assert_array_equal(remove_islands(cleaned), cleaned)
    assert cleaned.shape == labels.shape and cleaned.dtype == np.uint8
    assert not ((cleaned == 2) & (before != 2)).any()
    assert ndimage.label(cleaned > 0)[1] <= 1 and bool(cleaned.any()) == bool(before.any())


# Patches


def drawn(cases, epoch=0, seed=0, **changes):
    sampler = PatchSampler(cases, SETTINGS.model_copy(update=changes), seed)
    batches = list(sampler.batches(epoch, CPU))
    assert len(batches) == sampler.steps_per_epoch
    return batches


@pytest.mark.parametrize("augment", [False, True])
def test_patches_depend_on_seed_and_epoch_alone(prepared_blobs, augment):
    sampler = PatchSampler(prepared_blobs, SETTINGS.model_copy(update={"augment": augment}), 5)
    list(sampler.batches(0, CPU)), torch.rand(7), np.random.rand(7)  # what came before does not matter
    again = list(sampler.batches(3, CPU))
    for (images, labels), (other_images, other_labels) in zip(drawn(prepared_blobs, 3, 5, augment=augment), again,
                                                              strict=True):
        assert torch.equal(images, other_images) and torch.equal(labels, other_labels)
    for epoch, seed in ((4, 5), (3, 6)):
        assert not torch.equal(drawn(prepared_blobs, epoch, seed, augment=augment)[0][0], again[0][0])


def test_each_case_is_seen_as_often_as_set(prepared_blobs):
    marked = [replace(case, image=np.full(case.image.shape, float(number), np.float32))
              for number, case in enumerate(prepared_blobs)]
    batches = drawn(marked, patches_per_case=3, batch_size=5, augment=False)
    assert [len(images) for images, _ in batches] == [5, 5, 2]
    seen = torch.cat([images for images, _ in batches]).amax(dim=(1, 2, 3, 4)).long()
    assert torch.bincount(seen).tolist() == [3, 3, 3, 3]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_share_of_patches_around_the_tumour_is_as_set(prepared_blobs, share):
    # one tumour voxel a case, in a corner: chance alone does not hit it
    cases = []
    for case in prepared_blobs:
        labels = np.zeros((64, 64, 32), np.uint8)
        labels[30:40, 30:40, 10:20] = 1
        labels[1, 62, 30] = 2
        cases.append(replace(case, image=labels.astype(np.float32), label_map=labels))
    batches = drawn(cases, tumour_share=share, patches_per_case=50, augment=False)
    labels = torch.cat([labels for _, labels in batches])
    hits = (labels == 2).flatten(1).any(dim=1).float().mean().item()
    assert hits == pytest.approx(share, abs=0 if share == 1 else 0.12)
    livers = (labels == 1).flatten(1).any(dim=1).float().mean().item()
    assert livers >= 0.9 * 0.5 * (1 - share), "half of the rest is centred on the liver"


def test_the_voxel_is_in_the_middle_of_its_patch_unless_the_volume_ends_there(prepared_blobs):
    for voxel, inside in (((20, 30, 10), (8, 8, 4)), ((1, 38, 19), (1, 14, 7))):
        labels = np.zeros((40, 40, 20), np.uint8)
        labels[voxel] = 2
        case = replace(prepared_blobs[0], image=labels.astype(np.float32), label_map=labels)
        (_, drawn_labels), = drawn([case], tumour_share=1.0, augment=False)
        assert torch.nonzero(drawn_labels[0, 0]).tolist() == [list(inside)]


def test_a_case_without_tumour_or_smaller_than_the_patch_gives_patches_all_the_same(prepared_blobs):
    small = replace(prepared_blobs[0], image=np.full((5, 40, 3), 0.5, np.float32),
                    label_map=np.ones((5, 40, 3), np.uint8))
    for images, labels in drawn([small] * 3, patches_per_case=4, augment=False):
        assert images.shape[1:] == labels.shape[1:] == (1, 16, 16, 8)
        assert images.dtype == torch.float32 and labels.dtype == torch.uint8
        assert (images[:, :, :5, :, :3] == 0.5).all() and not images[:, :, 5:].any() and not images[..., 3:].any()
        assert torch.equal(labels > 0, images > 0)


def test_augmentation_keeps_labels_and_alignment(prepared_blobs):
    """Where the image shows nothing but its labels, it still does after both were moved."""
    cases = [replace(case, image=case.label_map * np.float32(0.4)) for case in prepared_blobs]
    batches = drawn(cases, patches_per_case=20, patch_size=(24, 24, 12), tumour_share=1.0)
    moved = 0
    for (images, labels), (_, plain) in zip(
            batches, drawn(cases, patches_per_case=20, patch_size=(24, 24, 12), tumour_share=1.0, augment=False),
            strict=True):
        assert type(images) is torch.Tensor and type(labels) is torch.Tensor
        assert set(labels.unique().tolist()) <= {0, 1, 2}
        for image, label, before in zip(images, labels, plain, strict=True):
            assert np.corrcoef(image.flatten(), label.flatten())[0, 1] > 0.85
            moved += not torch.equal(label, before)
    assert 0.2 < moved / 80 < 0.8, "flips and affine changes"


# Training


def test_training_lowers_the_loss_and_finds_the_liver(prepared_blobs, tmp_path):
    chosen = SETTINGS.model_copy(update={"epochs": 12, "learning_rate": 2e-2, "patches_per_case": 4,
                                         "validate_every": 4})
    network, fitted = train_segmentor(prepared_blobs[:3], prepared_blobs[3:], chosen, tmp_path, 0, CPU, Silent(), "seg")
    losses = [record["loss"] for record in fitted.history]
    assert losses[-1] < 0.6 * losses[0]
    assert [record["epoch"] for record in fitted.history if "dice" in record] == [4, 8, 12]
    liver, tumour = dice_of_case(network, prepared_blobs[3], chosen, CPU)
    assert liver > 0.8 and fitted.best_value == pytest.approx((liver + tumour) / 2)


@pytest.mark.parametrize(("network", "channels", "size"), [
    ("UNet", (4, 8), (16, 16, 8)), ("SegResNet", (8,), (16, 16, 8)), ("DynUNet", (4, 8, 8), (16, 16, 8)),
    ("SwinUNETR", (12,), (64, 32, 32)), ("TwoStep", (2,), (16, 16, 8))])
def test_each_network_is_read_back_as_it_was_trained(prepared_blobs, tmp_path, network, channels, size):
    chosen = SETTINGS.model_copy(update={"network": network, "channels": channels, "patch_size": size,
                                         "validate_every": 1,
                                         "spacing": TWO_STEP_SPACING if network == "TwoStep" else "median"})
    trained, _fit = train_segmentor(prepared_blobs[:2], prepared_blobs[3:], chosen, tmp_path, 0, CPU, Silent(), "seg")
    again = build_segmentor(chosen)
    save_weights(tmp_path / "weights.safetensors", trained)
    load_weights(tmp_path / "weights.safetensors", again)
    for name, tensor in trained.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=0)
