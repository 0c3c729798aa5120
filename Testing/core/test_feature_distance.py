"""Feature extractors and the distances between sets of features, against closed forms and other implementations."""

import importlib
import json
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from neonet_core.errors import NeoNetError
from neonet_core.evaluation.encoders import encoder_maps, on_network_grid
from neonet_core.evaluation.feature_distance import compare, frechet_distance, kernel_distance
from neonet_core.evaluation.features import (
    MOST_FEATURES,
    FeatureSet,
    InceptionFeatures,
    SegmentorFeatures,
    SliceFeatures,
)
from neonet_core.evaluation.views import VIEWS, filled_slices, slices_of
from neonet_core.presets import SegSettings
from neonet_core.segmentation.networks import build_segmentor, size_multiple


def optional(name):
    """An optional package, or a skip; torchvision raises RuntimeError where it does not fit the installed torch."""
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError, OSError) as error:
        pytest.skip(f"{name} does not import: {error}")


def code(function, *args, **kwargs):
    with pytest.raises(NeoNetError) as caught:
        function(*args, **kwargs)
    return caught.value.code


# --- Frechet distance -------------------------------------------------------------------------------------------------


def with_moments(rng, n, mean, root):
    """(n, F) samples whose mean and covariance (ddof 1) are exactly `mean` and root^T root."""
    noise = rng.normal(size=(n, len(mean)))
    noise -= noise.mean(axis=0)
    whitened = noise @ np.linalg.inv(np.linalg.cholesky(np.cov(noise.T))).T
    return whitened @ root + mean


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.integers(2, 8), st.floats(-3, 3), st.floats(0.1, 4))
def test_frechet_of_two_isotropic_gaussians_is_the_closed_form(seed, dimension, shift, scale):
    rng = np.random.default_rng(seed)
    a = with_moments(rng, 40, np.zeros(dimension), np.eye(dimension))
    b = with_moments(rng, 50, np.full(dimension, shift), scale * np.eye(dimension))
    # N(0, I) against N(m, s^2 I): |m|^2 + F (1 - s)^2
    assert frechet_distance(a, b) == pytest.approx(dimension * (shift**2 + (1 - scale) ** 2), abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.integers(2, 12), st.integers(2, 30), st.integers(2, 30))
def test_frechet_is_symmetric_and_zero_for_equal_sets_however_few(seed, dimension, n, m):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n, dimension)), rng.normal(0.5, 2, size=(m, dimension))
    distance = frechet_distance(a, b)
    assert np.isfinite(distance) and distance >= 0
    assert frechet_distance(b, a) == pytest.approx(distance)
    assert frechet_distance(a, rng.permutation(a)) == pytest.approx(0, abs=1e-9)
    turn = np.linalg.qr(rng.normal(size=(dimension, dimension)))[0]
    assert frechet_distance(a @ turn + 3, b @ turn + 3) == pytest.approx(distance, rel=1e-6, abs=1e-9)


def test_frechet_with_fewer_samples_than_features_is_that_of_the_subspace():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(12, 4)), rng.normal(1, 2, size=(15, 4))
    wide = np.linalg.qr(rng.normal(size=(200, 4)))[0].T  # 4 dimensions within 200
    assert frechet_distance(a @ wide, b @ wide) == pytest.approx(frechet_distance(a, b))


def test_frechet_of_samples_of_one_distribution_falls_with_their_number():
    rng = np.random.default_rng(1)
    few, more, many = (frechet_distance(rng.normal(size=(n, 10)), rng.normal(size=(n, 10))) for n in (20, 200, 2000))
    assert few > more > many > 0


class Identity(torch.nn.Module):
    """Hands features through torchmetrics as if they were images."""

    num_features = 6

    def forward(self, features):
        return features


@pytest.mark.parametrize("n", [100, 5])
def test_frechet_and_kernel_distance_are_those_of_torchmetrics(n):
    fid, kid = optional("torchmetrics.image.fid"), optional("torchmetrics.image.kid")
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(n, 6)), rng.normal(0.4, 1.3, size=(n, 6))
    metrics = [fid.FrechetInceptionDistance(feature=Identity()).set_dtype(torch.float64),
               kid.KernelInceptionDistance(feature=Identity(), subsets=2, subset_size=n)]
    for metric in metrics:
        metric.update(torch.from_numpy(a), real=True)
        metric.update(torch.from_numpy(b), real=False)
    assert frechet_distance(a, b) == pytest.approx(metrics[0].compute().item(), rel=1e-6, abs=1e-4)
    # torchmetrics leaves the pairs of a row with itself out within each set, as we do
    assert kernel_distance(a, b)[0] == pytest.approx(metrics[1].compute()[0].item(), rel=1e-4)


# --- kernel distance --------------------------------------------------------------------------------------------------


def test_kernel_distance_is_unbiased_about_zero_for_one_distribution():
    rng = np.random.default_rng(3)
    found = np.array([kernel_distance(rng.normal(size=(20, 4)), rng.normal(size=(25, 4)))[0] for _ in range(400)])
    assert abs(found.mean()) < 3 * found.std() / np.sqrt(len(found))
    assert 0.3 < (found < 0).mean() < 0.8


def test_slices_of_one_patch_do_not_count_as_independent():
    rng = np.random.default_rng(4)

    def sliced(patches=10, slices=8):
        values = np.repeat(rng.normal(size=(patches, 4)), slices, axis=0) + 0.1 * rng.normal(size=(patches * slices, 4))
        return values, np.repeat(np.arange(patches), slices)

    plain, grouped = [], []
    for _ in range(300):
        (a, of_a), (b, of_b) = sliced(), sliced()
        plain.append(kernel_distance(a, b)[0])
        grouped.append(kernel_distance(a, b, of_a, of_b)[0])
    assert abs(np.mean(grouped)) < 3 * np.std(grouped) / np.sqrt(300)
    assert np.mean(plain) > 5 * np.std(plain) / np.sqrt(300)


def test_kernel_distance_sees_what_frechet_cannot():
    rng = np.random.default_rng(5)
    a = with_moments(rng, 600, np.zeros(2), np.eye(2))
    skewed = rng.exponential(size=(600, 2))
    skewed = (skewed - skewed.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(skewed.T))).T
    assert frechet_distance(a, skewed) == pytest.approx(0, abs=1e-9)
    assert kernel_distance(a, skewed)[0] > 0.1  # the cubic kernel compares three moments


def test_subsets_are_seeded_and_near_the_whole():
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=(300, 3)), rng.normal(0.5, 1, size=(200, 3))
    mean, sd = kernel_distance(a, b, subset_size=50, subsets=40, seed=1)
    assert (mean, sd) == kernel_distance(a, b, subset_size=50, subsets=40, seed=1) != kernel_distance(
        a, b, subset_size=50, subsets=40, seed=2)
    whole, none = kernel_distance(a, b)
    assert none == 0 < sd
    assert mean == pytest.approx(whole, abs=4 * sd / np.sqrt(40))


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
@pytest.mark.parametrize("a, b, expected", [
    (np.zeros((5, 3)), np.zeros((5, 4)), "BAD_ARGUMENT"), (np.zeros(5), np.zeros(5), "BAD_ARGUMENT"),
    (np.zeros((1, 3)), np.zeros((5, 3)), "TOO_FEW_CASES"), (np.zeros((0, 3)), np.zeros((5, 3)), "TOO_FEW_CASES"),
    (np.full((5, 3), np.nan), np.zeros((5, 3)), "BAD_ARGUMENT")])
def test_sets_without_a_distance_are_refused(distance, a, b, expected):
    assert code(distance, a, b) == expected


def test_kernel_distance_refuses_groups_and_subsets_that_leave_no_pair():
    a, b = np.random.default_rng(7).normal(size=(2, 6, 3))
    assert code(kernel_distance, a, b, np.zeros(6), np.arange(6)) == "TOO_FEW_CASES"
    assert code(kernel_distance, a, b, np.zeros(5)) == "BAD_ARGUMENT"
    assert code(kernel_distance, a, b, subset_size=1) == "BAD_ARGUMENT"


# --- compare ----------------------------------------------------------------------------------------------------------


def feature_set(rng, patches, slices=6, shift=0.0, name="NeoSeg UNet (test)", inception=False):
    views = {}
    for view in VIEWS:
        owner = np.repeat(np.arange(patches), slices)
        values = rng.normal(size=(patches, 5))[owner] + rng.normal(size=(patches * slices, 5)) + shift
        views[view] = SliceFeatures(values, owner)
    return FeatureSet(name, inception, patches, views)


def test_compare_puts_equal_numbers_beside_the_floor():
    rng = np.random.default_rng(8)
    real = feature_set(rng, 40)
    near, far = compare(real, feature_set(rng, 60)), compare(real, feature_set(rng, 60, shift=2.0))
    assert near["patches"] == far["patches"] == 20 and near["slices"]["axial"] == 120
    assert near["frechet"]["mean"] == pytest.approx(near["frechet_floor"]["mean"], rel=0.5)
    assert near["frechet_floor"] == far["frechet_floor"]
    assert far["frechet"]["mean"] > 10 * far["frechet_floor"]["mean"]
    assert far["kernel"]["mean"] > 10 * abs(far["kernel_floor"]["mean"])
    for key in ("frechet", "kernel", "frechet_floor", "kernel_floor"):
        assert near[key]["mean"] == pytest.approx(np.mean([near[key][view] for view in VIEWS]))
    json.dumps(near, allow_nan=False)


def test_compare_with_two_real_sets_need_not_halve_them():
    rng = np.random.default_rng(9)
    result = compare(feature_set(rng, 12), feature_set(rng, 30), feature_set(rng, 10))
    assert result["patches"] == 10 and result["floor"] == "two sets of real patches, 10 patches each"
    assert compare(feature_set(rng, 12), feature_set(rng, 4))["patches"] == 4


def test_only_inceptions_distances_are_called_fid():
    rng = np.random.default_rng(10)
    ours = compare(feature_set(rng, 8), feature_set(rng, 8))
    assert ours["frechet_name"] == "Frechet distance on NeoSeg UNet (test) features"
    assert ours["kernel_name"] == "Kernel distance on NeoSeg UNet (test) features"
    assert ours["extractor"] == "NeoSeg UNet (test)"
    theirs = compare(*(feature_set(rng, 8, name="Inception-v3", inception=True) for _ in range(2)))
    assert (theirs["frechet_name"], theirs["kernel_name"]) == ("FID", "KID")


def test_no_channel_of_our_own_decides_by_its_unit_and_inceptions_are_left_as_they_are():
    rng = np.random.default_rng(17)
    units = np.array([1.0, 1000.0, 0.001, 5.0, 1.0])

    def in_units(features, inception):
        views = {view: SliceFeatures((one.values + 30) * units, one.patch) for view, one in features.views.items()}
        return replace(features, views=views, inception=inception)

    real, synthetic = feature_set(rng, 10), feature_set(rng, 10, shift=1.0)
    expected, scaled = compare(real, synthetic), compare(in_units(real, False), in_units(synthetic, False))
    # the third feature hardly varies beside the others, and is held down
    assert scaled["frechet"]["mean"] == pytest.approx(expected["frechet"]["mean"], rel=0.3)
    assert scaled["kernel"]["mean"] == pytest.approx(expected["kernel"]["mean"], rel=0.5)
    raw = compare(in_units(real, True), in_units(synthetic, True))
    assert raw["frechet"]["mean"] > 1e5 * expected["frechet"]["mean"]


def test_compare_is_seeded_and_refuses_too_little_or_mixed_features():
    rng = np.random.default_rng(11)
    real, synthetic = feature_set(rng, 9), feature_set(rng, 9)
    assert compare(real, synthetic, seed=1) == compare(real, synthetic, seed=1) != compare(real, synthetic, seed=2)
    assert code(compare, real.of_patches(np.arange(3)), synthetic) == "TOO_FEW_CASES"
    assert code(compare, real, synthetic.of_patches(np.arange(1))) == "TOO_FEW_CASES"
    assert code(compare, real, replace(synthetic, extractor="another")) == "BAD_ARGUMENT"


def test_choosing_patches_takes_all_of_their_slices():
    features = feature_set(np.random.default_rng(12), 5)
    chosen = features.of_patches(np.array([3, 0]))
    assert len(chosen) == 2
    np.testing.assert_allclose(chosen.of_whole_patches(), features.of_whole_patches()[[3, 0]])
    view = chosen.views["axial"]
    np.testing.assert_array_equal(view.values[view.patch == 0], features.views["axial"].values[18:24])


# --- NeoSeg's features ------------------------------------------------------------------------------------------------

NETWORKS = [("UNet", (4, 8, 12)), ("SegResNet", (8,)), ("DynUNet", (4, 8, 12)), ("SwinUNETR", (12,))]


def segmentor(name, channels):
    torch.manual_seed(0)
    return build_segmentor(SegSettings(network=name, channels=channels, patch_size=(32, 32, 32), epochs=1, batch_size=1,
                                       learning_rate=1e-3)).eval()


@pytest.fixture(scope="module", params=NETWORKS, ids=lambda param: param[0])
def network(request):
    name, channels = request.param
    return segmentor(name, channels), size_multiple(name, channels)


@pytest.fixture(scope="module")
def unet():
    return segmentor("UNet", (4, 8))


def test_encoder_maps_are_those_of_the_networks_own_forward_pass(network):
    model, multiple = network
    batch = torch.rand(1, 1, 32, 32, 64)
    seen = []
    hooks = [module.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
             for module in model.modules()]
    with torch.inference_mode():
        model(batch)
        for hook in hooks:
            hook.remove()
        maps = encoder_maps(model, batch)
    flat = [tensor for output in seen for tensor in (output if isinstance(output, (list, tuple)) else [output])]
    sizes = [level.shape[2] for level in maps]
    assert sizes == sorted(sizes, reverse=True) and 32 // sizes[-1] == multiple
    for level in maps:
        assert any(level.shape == other.shape and torch.equal(level, other) for other in flat)


def test_another_network_is_refused():
    assert code(encoder_maps, torch.nn.Conv3d(1, 1, 1), torch.rand(1, 1, 4, 4, 4)) == "BAD_ARGUMENT"


def test_every_segmentor_gives_a_row_for_each_slice_that_is_not_padding(network):
    model, multiple = network
    images = np.random.default_rng(13).random((2, 1, 20, 24, 12)).astype(np.float32)
    images[1, 0, :, :, :5] = 0
    features = SegmentorFeatures(model, (2.0, 2.0, 3.0), multiple, "NeoSeg").extract(images, [(1.5, 1.5, 3.0)] * 2)
    assert features.extractor == "NeoSeg" and not features.inception and len(features) == 2
    counts = {view: np.bincount(features.views[view].patch).tolist() for view in VIEWS}
    assert counts == {"axial": [12, 7], "sagittal": [20, 20], "coronal": [24, 24]}
    widths = {features.views[view].values.shape[1] for view in VIEWS}
    assert len(widths) == 1 and 0 < widths.pop() <= MOST_FEATURES
    assert all(np.isfinite(features.views[view].values).all() for view in VIEWS)
    assert features.of_whole_patches().shape[0] == 2


def test_a_slices_features_come_from_its_own_place(unet):
    """With a linear network of one voxel's reach, a change in one half of the patch shows in that half's slices."""
    image = np.random.default_rng(14).random((16, 16, 16)).astype(np.float32)
    extractor = SegmentorFeatures(unet, None, 2, "NeoSeg")
    pooled = _averaging_maps(extractor)
    for view, axis in VIEWS.items():
        changed = image.copy()
        np.moveaxis(changed, axis, 0)[10] += 1
        before, after = (pooled.extract(one[None, None]).views[view].values for one in (image, changed))
        moved = np.flatnonzero(np.abs(after - before).max(axis=1) > 1e-5)
        assert moved.tolist() == [10, 11]  # a plane of the half-size map holds two slices


def test_features_keep_their_place_where_the_grid_is_resampled_and_padded(unet):
    ramp = np.broadcast_to(np.linspace(0.1, 1, 15, dtype=np.float32), (10, 10, 15))
    pooled = _averaging_maps(SegmentorFeatures(unet, (2.0, 2.0, 2.0), 16, "NeoSeg"))
    rows = pooled.extract(ramp[None, None], [(1.0, 1.0, 3.0)]).views["axial"].values[:, 0]
    np.testing.assert_allclose(rows, ramp[0, 0], atol=0.07)  # the padding would pull the last ones off


def _averaging_maps(extractor):
    """The extractor with the mean over 2 x 2 x 2 voxels in the place of the network's encoder."""
    from neonet_core.evaluation import features

    class Averaging:
        def extract(self, *args):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(features, "encoder_maps", lambda _, batch: [torch.nn.functional.avg_pool3d(batch, 2)])
                return extractor.extract(*args)

    return Averaging()


def test_noise_is_farther_than_another_sample(unet):
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(15)
    patches = np.stack([gaussian_filter(rng.random((16, 16, 16)), 2) for _ in range(18)])[:, None].astype(np.float32)
    extractor = SegmentorFeatures(unet, None, 2, "NeoSeg")
    real, fresh = extractor.extract(patches[:12]), extractor.extract(patches[12:])
    noise = extractor.extract(rng.random((6, 1, 16, 16, 16)).astype(np.float32))
    assert compare(real, noise)["frechet"]["mean"] > 5 * compare(real, fresh)["frechet"]["mean"]


def test_the_grid_of_the_network_needs_the_patches_spacing():
    patch = np.zeros((4, 4, 4), np.float32)
    assert code(on_network_grid, patch, None, (1.0, 1.0, 1.0), 2) == "BAD_ARGUMENT"
    padded, extent = on_network_grid(patch, (2.0, 2.0, 1.0), (1.0, 1.0, 1.0), 8)
    assert extent == (8, 8, 4) and padded.shape == (16, 8, 8)  # never a single voxel at the bottom
    same, extent = on_network_grid(patch, (2.0, 2.0, 2.0), None, 2)
    assert extent == same.shape == (4, 4, 4)


def test_slices_that_are_padding_are_left_out():
    patch = np.zeros((4, 5, 6))
    patch[1:3, :, 2:] = 0.5
    assert filled_slices(patch, "sagittal").tolist() == [False, True, True, False]
    assert slices_of(patch, "axial").shape == (4, 4, 5)
    assert slices_of(patch, "coronal").shape == (5, 4, 6)


# --- Inception's features ---------------------------------------------------------------------------------------------


class TinyInception(torch.nn.Module):
    """Stands for torch-fidelity's network: takes its weights where that would download them."""

    def __init__(self, _name, features_list, feature_extractor_weights_path=None):
        super().__init__()
        assert features_list == ["2048"] and feature_extractor_weights_path is None, "a path would be unpickled"
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.load_state_dict(sys.modules[MODULE].load_state_dict_from_url("https://example.org/", progress=True))

    def forward(self, images):
        assert images.dtype == torch.uint8 and images.shape[1] == 3
        return (self.scale * images.float().mean(dim=(1, 2, 3))[:, None].expand(-1, 2048),)


MODULE = "torch_fidelity.feature_extractor_inceptionv3"


@pytest.fixture
def tiny_inception(tmp_path, monkeypatch):
    module = types.ModuleType(MODULE)
    module.FeatureExtractorInceptionV3 = TinyInception
    module.load_state_dict_from_url = lambda *_, **__: pytest.fail("it downloads")
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, MODULE, module)
    save_file({"scale": torch.full((1,), 2.0)}, tmp_path / "inception.safetensors")
    return tmp_path / "inception.safetensors"


def test_inception_sees_grey_slices_of_bytes_with_the_files_weights(tiny_inception):
    extractor = InceptionFeatures(tiny_inception)
    images = np.zeros((2, 1, 6, 5, 40), np.float32)
    images[0, 0] = 0.5
    images[1, 0, :, :, :30] = 1.5  # clipped
    features = extractor.extract(images)
    assert features.inception and features.extractor.startswith("Inception-v3 (inception.safetensors, SHA-256 ")
    axial = features.views["axial"]
    assert np.bincount(axial.patch).tolist() == [40, 30] and axial.values.shape == (70, 2048)
    np.testing.assert_allclose(axial.values[:40], 2 * 128)
    np.testing.assert_allclose(axial.values[40:], 2 * 255)
    assert compare(features, features, features)["frechet_name"] == "FID"


def test_inception_weights_that_are_missing_unsafe_or_of_another_network_are_refused(tiny_inception):
    assert code(InceptionFeatures, tiny_inception.with_name("none.safetensors")) == "FILE_NOT_FOUND"
    unsafe = tiny_inception.with_suffix(".pth")
    torch.save({"scale": torch.ones(1)}, unsafe)
    assert code(InceptionFeatures, unsafe) == "BAD_WEIGHTS"
    damaged = tiny_inception.with_name("damaged.safetensors")
    damaged.write_bytes(b"\x00" * 40)
    assert code(InceptionFeatures, damaged) == "BAD_WEIGHTS"
    save_file({"other": torch.ones(1)}, damaged)
    assert code(InceptionFeatures, damaged) == "BAD_WEIGHTS"


def test_without_the_package_the_fid_says_what_to_install(tiny_inception, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    monkeypatch.setitem(sys.modules, MODULE, None)
    with pytest.raises(NeoNetError, match="neonet-core\\[metrics\\]") as caught:
        InceptionFeatures(tiny_inception)
    assert caught.value.code == "MISSING_PACKAGE"


def test_the_real_inception_loads_from_a_local_file(tmp_path):
    optional("torch_fidelity")
    module = optional(MODULE)
    state = {}
    with pytest.MonkeyPatch.context() as patch:  # an untrained network: its constructor wants the published weights
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: state)
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    save_file(network.state_dict(), tmp_path / "random.safetensors")
    image = np.random.default_rng(16).random((1, 1, 2, 40, 50)).astype(np.float32)
    features = InceptionFeatures(tmp_path / "random.safetensors").extract(image).views["sagittal"].values
    grey = torch.from_numpy(np.rint(255 * image[0, 0]).astype(np.uint8))[:, None].expand(-1, 3, -1, -1)
    np.testing.assert_allclose(features, network(grey)[0].numpy(), rtol=1e-4, atol=1e-5)
