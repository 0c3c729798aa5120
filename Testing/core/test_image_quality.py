"""PSNR, SSIM, the perceptual distances and the agreement with the mask, against their definitions."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import load_file, save_file, save_model

from neonet_core.errors import NeoNetError
from neonet_core.evaluation.features import SegmentorFeatures
from neonet_core.evaluation.image_quality import HIGHEST_PSNR, psnr, reconstruction_quality, ssim, ssim_map
from neonet_core.evaluation.lpips_alexnet import CHANNELS, CONVOLUTIONS, AlexNetLpips, load_lpips
from neonet_core.evaluation.mask_agreement import mask_agreement, region_means, resegmentation_dice
from neonet_core.evaluation.perceptual import Lpips, SegmentorDistance, perceptual_distance
from neonet_core.presets import SegSettings
from neonet_core.segmentation.networks import build_segmentor

SHAPE = (16, 14, 12)


def optional(name):
    """An optional package, or a skip; torchvision raises RuntimeError where it does not fit the installed torch."""
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError, OSError) as error:
        pytest.skip(f"{name} does not import: {error}")


def smooth(rng, count=1, shape=SHAPE):
    """(N, 1, X, Y, Z) float32 in [0, 1]: blobs, with structure to lose."""
    from scipy.ndimage import gaussian_filter

    noise = np.stack([gaussian_filter(rng.normal(size=shape), 1.5) for _ in range(count)])[:, None]
    return np.clip(0.5 + 2 * noise, 0, 1).astype(np.float32)


def boxes(count=1, shape=SHAPE):
    """(N, 2, X, Y, Z) uint8: a liver in half of the patch, a tumour in a corner of it."""
    masks = np.zeros((count, 2, *shape), np.uint8)
    masks[:, 0, : shape[0] // 2] = 1
    masks[:, 1, :4, :4, :4] = 1
    return masks


def code(function, *args, **kwargs):
    with pytest.raises(NeoNetError) as caught:
        function(*args, **kwargs)
    return caught.value.code


# --- PSNR -------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(arrays.arrays(np.float64, (3, 4, 5), elements=st.floats(0, 0.5)), st.floats(1e-3, 0.5))
def test_psnr_of_a_constant_error_is_its_decibels(image, error):
    assert psnr(image, image + error) == pytest.approx(-20 * np.log10(error))


def test_identical_images_have_the_highest_psnr_and_ssim_one_and_json_can_hold_them():
    image = smooth(np.random.default_rng(0), 2)
    result = reconstruction_quality(image, image, boxes(2))
    assert {key: value for key, value in result["mean"].items() if key.startswith("psnr")} == {
        "psnr": HIGHEST_PSNR, "psnr_liver_or_tumour": HIGHEST_PSNR, "psnr_tumour": HIGHEST_PSNR}
    assert all(value == pytest.approx(1) for key, value in result["mean"].items() if key.startswith("ssim"))
    json.dumps(result, allow_nan=False)


def test_psnr_inside_a_mask_sees_no_voxel_outside_it():
    rng = np.random.default_rng(1)
    real, mask = smooth(rng)[0, 0], boxes()[0, 1].astype(bool)
    other = real + 0.1
    changed = np.where(mask, other, rng.random(SHAPE))
    assert psnr(real, changed, mask) == pytest.approx(psnr(real, other, mask)) == pytest.approx(20)
    assert psnr(real, changed) < psnr(real, other)


# --- SSIM -------------------------------------------------------------------------------------------------------------


def direct_ssim(x, y, at):
    """Wang's equation 13 at one voxel far from the border, by sums over the window as the paper writes them."""
    window = np.ix_(*(range(i - 5, i + 6) for i in at))
    distance = sum((np.arange(-5, 6) ** 2).reshape([-1 if a == b else 1 for b in range(3)]) for a in range(3))
    weights = np.exp(-distance / (2 * 1.5**2))
    weights /= weights.sum()
    x, y = x[window].astype(float), y[window].astype(float)
    mx, my = (weights * x).sum(), (weights * y).sum()
    vx, vy, c = (weights * (x - mx) ** 2).sum(), (weights * (y - my) ** 2).sum(), (weights * (x - mx) * (y - my)).sum()
    return (2 * mx * my + 1e-4) * (2 * c + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))


def test_ssim_is_the_papers_sum_over_the_window():
    rng = np.random.default_rng(2)
    x, y = smooth(rng)[0, 0], smooth(rng)[0, 0]
    values = ssim_map(x, y)
    for at in [(5, 5, 5), (8, 7, 6), (10, 8, 6)]:
        assert values[at] == pytest.approx(direct_ssim(x, y, at))


def test_ssim_is_that_of_torchmetrics():
    functional = optional("torchmetrics.functional.image")
    rng = np.random.default_rng(3)
    real, other = (torch.from_numpy(smooth(rng, 2)) for _ in range(2))
    expected, maps = functional.structural_similarity_index_measure(other, real, data_range=1.0, reduction="none",
                                                                     return_full_image=True)
    for a, b, value, full in zip(real, other, expected, maps, strict=True):
        assert ssim(a[0].numpy(), b[0].numpy()) == pytest.approx(value.item(), abs=1e-4)
        np.testing.assert_allclose(ssim_map(a[0].numpy(), b[0].numpy()), full[0].numpy(), atol=1e-3)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.tuples(*(st.integers(1, 13),) * 3))
def test_ssim_is_symmetric_bounded_and_defined_for_every_size(seed, shape):
    rng = np.random.default_rng(seed)
    x, y = rng.random(shape), rng.random(shape)
    assert ssim(x, y) == pytest.approx(ssim(y, x))
    assert np.abs(ssim_map(x, y)).max() <= 1 + 1e-9
    assert ssim(x, x) == pytest.approx(1)


def test_more_noise_lowers_ssim_and_psnr():
    rng = np.random.default_rng(4)
    real, noise = smooth(rng), rng.normal(size=(1, 1, *SHAPE))
    rows = [reconstruction_quality(real, real + amount * noise, boxes())["mean"] for amount in (0.02, 0.1, 0.4)]
    for key in rows[0]:
        assert rows[0][key] > rows[1][key] > rows[2][key], key


def test_ssim_inside_a_mask_sees_no_further_than_its_window():
    real, mask = smooth(np.random.default_rng(5), shape=(24, 12, 12))[0, 0], np.zeros((24, 12, 12), bool)
    mask[:6] = True
    other = real.copy()
    other[11:] = 0.9 - other[11:]
    assert ssim(real, other, mask) == pytest.approx(1)
    assert ssim(real, other, ~mask) < 0.9
    other[10] = 1 - other[10]
    assert ssim(real, other, mask) < 1 - 1e-9


def test_a_patch_without_tumour_has_no_figure_inside_it_and_spoils_no_mean():
    rng = np.random.default_rng(6)
    real, masks = smooth(rng, 2), boxes(2)
    masks[0, 1] = 0
    result = reconstruction_quality(real, real + 0.1, masks)
    assert result["per_patch"][0]["psnr_tumour"] is None and result["per_patch"][0]["ssim_tumour"] is None
    assert result["mean"]["psnr_tumour"] == pytest.approx(result["per_patch"][1]["psnr_tumour"])
    nothing = reconstruction_quality(real, real, np.zeros_like(masks))["mean"]
    assert nothing["psnr_liver_or_tumour"] is None and nothing["psnr"] == HIGHEST_PSNR


@pytest.mark.parametrize("real, other, masks", [
    (np.zeros((1, *SHAPE)), np.zeros((1, 1, *SHAPE)), boxes()),
    (np.zeros((2, 1, *SHAPE)), np.zeros((1, 1, *SHAPE)), boxes(2)),
    (np.zeros((1, 1, *SHAPE)), np.zeros((1, 1, *SHAPE)), boxes(2)),
    (np.zeros((1, 1, *SHAPE)), np.full((1, 1, *SHAPE), np.nan), boxes()),
    (np.zeros((1, 1, *SHAPE)), np.zeros((1, 1, *SHAPE)), 2 * boxes()),
    (np.zeros((0, 1, *SHAPE)), np.zeros((0, 1, *SHAPE)), boxes(0))])
def test_what_does_not_fit_together_is_refused(real, other, masks):
    assert code(reconstruction_quality, real, other, masks) == "BAD_ARGUMENT"


# --- perceptual distance ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def neoseg():
    torch.manual_seed(0)
    network = build_segmentor(SegSettings(network="UNet", channels=(4, 8), patch_size=(8, 8, 8), epochs=1, batch_size=1,
                                          learning_rate=1e-3)).eval()
    return SegmentorDistance(SegmentorFeatures(network, None, 2, "NeoSeg UNet (test)"))


def test_perceptual_distance_on_neoseg_says_what_it_is(neoseg):
    rng = np.random.default_rng(7)
    real = smooth(rng, 2)
    same = perceptual_distance(neoseg, real, real)
    assert same["name"] == "Perceptual distance on NeoSeg UNet (test) features" and "LPIPS" not in same["name"]
    assert same["mean"] == 0 and same["patches"] == 2
    noise = rng.normal(size=real.shape).astype(np.float32)
    near, far = (perceptual_distance(neoseg, real, real + amount * noise) for amount in (0.02, 0.2))
    assert 0 < near["mean"] < far["mean"] <= 4
    assert far["mean"] == pytest.approx(np.mean(far["per_patch"]))
    swapped = perceptual_distance(neoseg, real + 0.2 * noise, real)
    assert swapped["per_patch"] == pytest.approx(far["per_patch"], rel=1e-4)


# --- LPIPS ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def lpips_file(tmp_path):
    """Random weights under the names of the package lpips; the linear ones are positive, as the published are."""
    network = AlexNetLpips()
    state = {}
    for layer, name in enumerate(CONVOLUTIONS):
        state[f"net.{name}.weight"] = network.convolutions[layer].weight.detach()
        state[f"net.{name}.bias"] = network.convolutions[layer].bias.detach()
        state[f"lin{layer}.model.1.weight"] = torch.rand(1, CHANNELS[layer], 1, 1)
    save_file(state, tmp_path / "lpips-alex.safetensors")
    return tmp_path / "lpips-alex.safetensors"


def as_npz(safetensors_path):
    """The same weights as the JAX port stores them."""
    state = load_file(safetensors_path)
    arrays = {}
    for layer, name in enumerate(CONVOLUTIONS):
        arrays[f"AlexNet_0.Conv_{layer}.kernel"] = state[f"net.{name}.weight"].numpy().transpose(2, 3, 1, 0)
        arrays[f"AlexNet_0.Conv_{layer}.bias"] = state[f"net.{name}.bias"].numpy()
        arrays[f"NetLinLayer_{layer}.Conv_0.kernel"] = state[f"lin{layer}.model.1.weight"].numpy().transpose(2, 3, 1, 0)
    path = safetensors_path.with_suffix(".npz")
    np.savez(path, **arrays)
    return path


def test_lpips_is_the_published_sum_over_layers(lpips_file):
    """Against the equation written out in NumPy on the network's own rectified convolutions."""
    network = load_lpips(lpips_file)
    torch.nn.init.normal_(network.convolutions[0].weight)
    first, second = torch.rand(2, 3, 64, 80) * 2 - 1, torch.rand(2, 3, 64, 80) * 2 - 1
    expected = np.zeros(2)
    for image in range(2):
        maps = []
        for one in (first[image:image + 1], second[image:image + 1]):
            x = (one - torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)) / torch.tensor(
                [0.458, 0.448, 0.450]).view(3, 1, 1)
            layers = []
            for layer, convolution in enumerate(network.convolutions):
                x = torch.relu(convolution(torch.nn.functional.max_pool2d(x, 3, 2) if layer in (1, 2) else x))
                layers.append(x[0].numpy().astype(np.float64))
            maps.append(layers)
        for layer, (a, b) in enumerate(zip(*maps, strict=True)):
            a, b = (m / (np.sqrt((m**2).sum(axis=0)) + 1e-10) for m in (a, b))
            weights = network.weights[layer].detach().numpy().reshape(-1, 1, 1)
            expected[image] += (weights * (a - b) ** 2).sum(axis=0).mean()
    assert network(first, second).numpy() == pytest.approx(expected, rel=1e-4)


def test_both_kinds_of_file_give_the_same_network(lpips_file):
    a, b = load_lpips(lpips_file), load_lpips(as_npz(lpips_file))
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_lpips_compares_the_slices_of_three_views_as_photographs(lpips_file, monkeypatch):
    measure = Lpips(lpips_file)
    assert measure.name.startswith("LPIPS (alex; lpips-alex.safetensors, SHA-256 ")
    seen, features = [], AlexNetLpips.features
    monkeypatch.setattr(AlexNetLpips, "features", lambda self, x: seen.append(x) or features(self, x))
    real = smooth(np.random.default_rng(8), 2)
    real[0, 0, :, :, 9:] = 0  # padding
    noise = np.random.default_rng(9).normal(size=real.shape).astype(np.float32)
    near, far = (perceptual_distance(measure, real, real + amount * noise) for amount in (0.02, 0.2))
    assert set(near["views"]) == {"axial", "sagittal", "coronal"} and 0 < near["mean"] < far["mean"]
    assert sum(len(batch) for batch in seen) == 2 * 2 * (sum(SHAPE) * 2 - 3)
    assert all(batch.shape[1] == 3 and min(batch.shape[2:]) == 64 for batch in seen)
    assert all(batch.min() >= -1 and batch.max() <= 1 for batch in seen)
    assert perceptual_distance(measure, real, real)["mean"] == 0
    assert perceptual_distance(measure, np.zeros_like(real), real)["mean"] is None


def test_lpips_weights_that_are_missing_unsafe_or_of_another_network_are_refused(lpips_file):
    assert code(Lpips, lpips_file.with_name("none.safetensors")) == "FILE_NOT_FOUND"
    unsafe = lpips_file.with_suffix(".pth")
    torch.save({"weight": torch.ones(1)}, unsafe)
    assert code(Lpips, unsafe) == "BAD_WEIGHTS"
    for name, content in (("damaged.safetensors", lpips_file.read_bytes()[:-2]), ("damaged.npz", b"PK nothing")):
        damaged = lpips_file.with_name(name)
        damaged.write_bytes(content)
        assert code(Lpips, damaged) == "BAD_WEIGHTS"
    other = lpips_file.with_name("other.safetensors")
    save_file({"other": torch.ones(1)}, other)
    assert code(Lpips, other) == "BAD_WEIGHTS"
    np.savez(lpips_file.with_name("pickled.npz"), **{"AlexNet_0.Conv_0.kernel": np.array([{}], dtype=object)})
    assert code(Lpips, lpips_file.with_name("pickled.npz")) == "BAD_WEIGHTS"


def test_ours_is_the_packages_lpips(tmp_path):
    lpips = optional("lpips")
    network = lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False).eval()
    save_model(network, tmp_path / "random.safetensors")
    first, second = torch.rand(2, 3, 64, 64) * 2 - 1, torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.inference_mode():
        expected = network(first, second).flatten()
        torch.testing.assert_close(load_lpips(tmp_path / "random.safetensors")(first, second), expected, rtol=1e-4,
                                   atol=1e-6)


PUBLISHED_LPIPS = Path(__file__).parents[3] / "shared" / "data" / "lpips_alexnet" / "lpips_alexnet_v0.1_fp16.npz"


@pytest.mark.skipif(not PUBLISHED_LPIPS.is_file(), reason="the published weights of LPIPS are not at ../shared/data")
def test_published_lpips_orders_distortions_as_people_do():
    """Blur and noise are further away the stronger they are, and a small shift is nearer than a strong blur."""
    from scipy.ndimage import gaussian_filter

    network = load_lpips(PUBLISHED_LPIPS)
    rng = np.random.default_rng(3)
    # pink noise: edges and texture at every size, as photographs and organs have
    spectrum = np.fft.rfft2(rng.standard_normal((128, 128)))
    radius = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.rfftfreq(128))
    image = np.fft.irfft2(spectrum / (radius + 0.02) ** 1.5, s=(128, 128))
    real = (image - image.min()) / np.ptp(image)

    def distance(other):
        a, b = (torch.from_numpy(2 * one - 1).float().expand(1, 3, -1, -1) for one in (real, other))
        return network(a, b).item()

    blurred = [distance(gaussian_filter(real, sigma)) for sigma in (0.5, 1, 2, 4)]
    noisy = [distance(np.clip(real + amount * rng.standard_normal(real.shape), 0, 1)) for amount in (0.02, 0.1, 0.3)]
    assert blurred == sorted(blurred) and noisy == sorted(noisy)
    assert distance(np.roll(real, 1, axis=0)) < blurred[2]
    assert 0 < blurred[0] < blurred[-1] < 1.5


# --- agreement with the mask ------------------------------------------------------------------------------------------


def painted(rng, count, tumour=0.4, liver=0.8, background=0.1, shape=SHAPE):
    """Patches that follow their masks, each with a brightness of its own."""
    masks = boxes(count, shape)
    labels = masks.sum(axis=1)
    bright = rng.normal(0, 0.02, (count, 1, 1, 1))
    images = np.array([background, liver, tumour])[labels] + bright + rng.normal(0, 0.01, labels.shape)
    return images[:, None].astype(np.float32), masks


def threshold_segment(patch):
    return np.where(patch > 0.6, 1, np.where(patch > 0.25, 2, 0))


def test_region_means_are_those_of_their_region_alone():
    images, masks = painted(np.random.default_rng(10), 3)
    means = region_means(images, masks)
    for name, expected in {"tumour": 0.4, "liver": 0.8, "background": 0.1, "contrast": -0.4}.items():
        np.testing.assert_allclose(means[name], expected, atol=0.1)
    brighter = np.where(masks[:, 1:] == 1, images, 1.0)
    np.testing.assert_array_equal(region_means(brighter, masks)["tumour"], means["tumour"])


def test_patches_that_follow_their_masks_lie_within_the_spread_of_real_ones():
    rng = np.random.default_rng(11)
    real, synthetic = painted(rng, 30), painted(rng, 30)
    result = mask_agreement(*synthetic, *real, threshold_segment)
    assert result["share_within_all"] > 0.8
    assert result["dice"]["tumour"]["mean"] > 0.99 and result["dice"]["liver"]["mean"] > 0.99
    json.dumps(result, allow_nan=False)
    itself = mask_agreement(*real, *real)
    assert itself["regions"]["liver"]["share_within"] > 0.85 and itself["dice"] is None
    spread = itself["regions"]["tumour"]["real"]
    assert spread["min"] <= spread["mean"] <= spread["max"] and spread["sd"] == pytest.approx(0.02, rel=0.5)


def test_patches_that_ignore_their_masks_do_not():
    rng = np.random.default_rng(12)
    real, (images, masks) = painted(rng, 20), painted(rng, 5)
    elsewhere = masks[:, :, ::-1, ::-1, ::-1]
    result = mask_agreement(images, elsewhere, *real, threshold_segment)
    assert result["share_within_all"] == 0
    assert result["regions"]["tumour"]["share_within"] == 0
    assert result["dice"]["tumour"]["mean"] == 0


def test_regions_that_are_not_there_leave_no_nan():
    images, masks = painted(np.random.default_rng(13), 4)
    masks[0] = 0
    result = mask_agreement(images, masks, images, masks, lambda patch: np.zeros(patch.shape, int))
    assert result["regions"]["tumour"]["per_patch"][0] is None
    assert result["regions"]["tumour"]["synthetic"]["patches"] == 3
    assert result["dice"]["tumour"]["per_patch"] == [None, 0, 0, 0] and result["dice"]["tumour"]["mean"] == 0
    json.dumps(result, allow_nan=False)
    alone = mask_agreement(images[1:2], masks[1:2], images[1:2], masks[1:2])
    assert alone["share_within_all"] is None and alone["regions"]["liver"]["real"]["sd"] is None


def test_a_segmentation_on_another_grid_is_refused():
    images, masks = painted(np.random.default_rng(14), 1)
    assert code(resegmentation_dice, images, masks, lambda patch: np.zeros((2, 2, 2))) == "BAD_ARGUMENT"
