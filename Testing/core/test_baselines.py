"""The networks that PattenNet is compared with, their training, and the tumour's volume as a classifier."""

import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neonet_core.classification import baseline_training
from neonet_core.classification.baseline_training import MirroredPatches, classify_with_baseline, train_baseline
from neonet_core.classification.baselines import BASELINES, Baseline, build_baseline, check_size
from neonet_core.classification.names import ABLATIONS, BASELINE_NAMES, CLASSIFIERS, CONTROLS, VARIANTS
from neonet_core.classification.volume import fit_volume
from neonet_core.errors import NeoNetError
from neonet_core.evaluation.auc import auc
from neonet_core.events import Silent
from neonet_core.presets import BaselineSettings, ClsSettings, load_preset
from neonet_core.training.patches import VIEWS, Patches

CPU = torch.device("cpu")
SMOKE, PAPER = (load_preset(name).crop.size for name in ("smoke", "paper"))
SMALL = (32, 32, 32)
SETTINGS = BaselineSettings(epochs=3, batch_size=4, learning_rate=1e-3)


def separable(count, seed, shape=SMALL):
    """Patches whose outcome is how bright the tumour is."""
    rng = np.random.default_rng(seed)
    outcomes = np.arange(count) % 2
    masks = np.zeros((count, 2, *shape), np.uint8)
    masks[:, 0, 4:28, 4:28, 4:28] = 1
    masks[:, 1, 10:22, 10:22, 10:22] = 1
    images = 0.3 + 0.05 * rng.normal(size=(count, 1, *shape))
    images += 0.4 * masks[:, 1:] * outcomes.reshape(-1, 1, 1, 1, 1)
    return Patches(images.astype(np.float32), masks, outcomes, np.ones((count, 3)))


# Names


def test_names_are_read_without_any_library():
    code = ("import sys, neonet_core.classification.names; "
            "assert not {'torch', 'monai', 'numpy', 'sklearn'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_name_can_be_made():
    assert tuple(BASELINES) == BASELINE_NAMES
    assert len(set(CLASSIFIERS)) == len(CLASSIFIERS) == len(VARIANTS) + len(BASELINES) + 1
    assert set(ABLATIONS) | set(CONTROLS) < set(CLASSIFIERS) and not set(ABLATIONS) & set(CONTROLS)
    plain = load_preset("paper").cls
    for changes in VARIANTS.values():
        ClsSettings.model_validate(plain.model_dump() | changes)


# Networks


def shapes_only(name):
    with torch.device("meta"):
        return Baseline(name).to("meta")


@pytest.mark.parametrize("name", BASELINES)
def test_every_network_gives_one_logit_a_patch(name):
    network = shapes_only(name)
    for size in (SMOKE, PAPER):
        for mode, count in ((True, 2), (False, 1)):
            logits = network.train(mode)(torch.zeros(count, 2, *size, device="meta"))
            assert logits.shape == (count,)


@pytest.mark.parametrize(("name", "size"), [("ResNet-50", SMOKE), ("DenseNet-121", SMOKE), ("EfficientNet-B0", PAPER),
                                            ("Swin", SMOKE)])
@torch.no_grad()
def test_both_channels_reach_the_logit(name, size):
    torch.manual_seed(0)
    network = build_baseline(name, size).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.train()  # untrained running variances of one let the signal fade
    channels = torch.rand(1, 2, *size)
    logit = network(channels)
    assert logit.shape == (1,) and logit.isfinite().all()
    for channel in (0, 1):
        changed = channels.clone()
        changed[:, channel] *= torch.linspace(0, 1, size[0]).view(-1, 1, 1)
        assert (network(changed) - logit).abs() > 1e-6


@pytest.mark.parametrize(("name", "edge"), [("DenseNet-121", 29), ("EfficientNet-B0", 32), ("EfficientNet-B1", 16),
                                            ("EfficientNet-B2", 4), ("EfficientNet-B3", 12), ("ResNet-50", 1),
                                            ("Swin", 1)])
def test_too_small_a_patch_is_said_before_training(name, edge):
    check_size(name, (edge,) * 3)
    if edge > 1:
        with pytest.raises(NeoNetError, match=f"{name} .* {edge} x {edge} x {edge - 1}") as caught:
            build_baseline(name, (edge, edge, edge - 1))
        assert caught.value.code == "BAD_PRESET" and "crop.size" in caught.value.hint


def test_the_sizes_that_the_design_names_as_too_small():
    for name in ("DenseNet-121", "EfficientNet-B0"):
        with pytest.raises(NeoNetError):
            check_size(name, (48, 48, 24))


PUBLISHED = {  # of the 2D network for ImageNet, in torchvision; ResNet-200 in timm
    "ResNet-50": 25_557_032, "ResNet-101": 44_549_160, "ResNet-152": 60_192_808, "ResNet-200": 64_673_832,
    "DenseNet-121": 7_978_856, "DenseNet-169": 14_149_480, "DenseNet-201": 20_013_928,
    "EfficientNet-B0": 5_288_548, "EfficientNet-B1": 7_794_184, "EfficientNet-B2": 9_109_994,
    "EfficientNet-B3": 12_233_232,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_networks_are_those_published_with_one_axis_more(name):
    def in_2d(module):
        """Parameters with square kernels, three input channels and a thousand classes."""
        parameters = sum(p.numel() for p in module.parameters(recurse=False))
        if isinstance(module, torch.nn.Conv3d):
            cubic = module.weight.numel()
            colours = 1.5 if module.in_channels == 2 else 1
            return parameters - cubic + round(cubic * colours) // module.kernel_size[0]
        if isinstance(module, torch.nn.Linear):
            return 1000 * parameters
        return parameters

    assert sum(map(in_2d, shapes_only(name).modules())) == PUBLISHED[name]


def test_the_swin_encoder_is_that_of_swinunetr():
    from monai.networks.nets import SwinUNETR

    theirs = SwinUNETR(in_channels=2, out_channels=1, feature_size=48, spatial_dims=3, downsample="mergingv2").swinViT
    ours = Baseline("Swin").network.encoder
    assert {name: t.shape for name, t in ours.state_dict().items()} == {
        name: t.shape for name, t in theirs.state_dict().items()}


def test_the_first_logits_are_small():
    """MONAI begins EfficientNet's last layer with weights up to 1, meant for a thousand classes."""
    for name in ("DenseNet-121", "EfficientNet-B0"):
        torch.manual_seed(0)
        with torch.no_grad():
            logits = build_baseline(name, SMALL).train()(torch.rand(4, 2, *SMALL))
        assert logits.abs().max() < 2


# Training


def test_an_obvious_difference_is_learned(tmp_path):
    network, fitted = train_baseline("DenseNet-121", separable(12, 0), separable(6, 1), SETTINGS, tmp_path, 0, CPU,
                                     Silent(), "x")
    unseen = separable(10, 2)
    probabilities = classify_with_baseline(network, unseen, CPU, Silent(), "x")
    assert probabilities.shape == (10,) and ((probabilities >= 0) & (probabilities <= 1)).all()
    assert fitted.best_value == 1 and auc(unseen.outcomes, probabilities) == 1


def test_resumed_equals_uninterrupted_to_the_bit(tmp_path, monkeypatch):
    def train(folder):
        # dropout, stochastic depth, batch normalisation and mirroring take part
        return train_baseline("EfficientNet-B0", separable(8, 0), separable(4, 1), SETTINGS, folder, 5, CPU, Silent(),
                              "x")

    class KilledError(Exception):
        """Stands for a kill: nothing of ours catches it."""

    network, expected = train(tmp_path / "whole")
    real, steps = baseline_training.cross_entropy, iter(range(100))

    def dies(*args):
        if next(steps) == 3:  # in the second epoch
            raise KilledError
        return real(*args)

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(baseline_training, "cross_entropy", dies)
        train(tmp_path / "cut")
    random.seed(1)  # another process starts with other random states
    np.random.seed(1)
    torch.manual_seed(1)
    resumed, found = train(tmp_path / "cut")
    assert found.epochs == expected.epochs == SETTINGS.epochs
    assert [record["loss"] for record in found.history] == [record["loss"] for record in expected.history]
    assert (found.best_epoch, found.best_value) == (expected.best_epoch, expected.best_value)
    state = resumed.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(("count", "batch_size"), [(25, 8), (9, 4), (5, 2), (3, 2), (2, 1), (4, 100)])
def test_an_epoch_shows_every_case_once_and_none_alone(count, batch_size):
    patches = separable(count, 0, (32, 32, 24))
    chosen = SETTINGS.model_copy(update={"batch_size": batch_size})
    source = MirroredPatches(patches, chosen, 3, CPU)
    batches = list(source.batches(0))
    assert len(batches) == source.steps_per_epoch and all(len(channels) >= 2 for channels, _ in batches)
    assert all(len(channels) <= max(batch_size, 3) for channels, _ in batches)
    shown, outcomes = (torch.cat(parts) for parts in zip(*batches, strict=True))
    own = torch.from_numpy(patches.channels())
    number = {view.numpy().tobytes(): case for axes in VIEWS for case, view in enumerate(own.flip(axes))}
    cases = [number[one.numpy().tobytes()] for one in shown]
    assert sorted(cases) == list(range(count))
    np.testing.assert_array_equal(outcomes, patches.outcomes[cases])


def test_mirroring_depends_on_the_epoch_and_can_be_left_out():
    patches = separable(8, 0)
    source = MirroredPatches(patches, SETTINGS, 3, CPU)
    first, again, second = (torch.cat([channels for channels, _ in source.batches(epoch)]) for epoch in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, second)
    plain = MirroredPatches(patches, SETTINGS.model_copy(update={"flips": False}), 3, CPU)
    own = {one.tobytes() for one in patches.channels()}
    assert {one.numpy().tobytes() for channels, _ in plain.batches(0) for one in channels} == own
    assert not {one.numpy().tobytes() for one in first} <= own


def test_one_outcome_alone_and_small_patches_are_errors(tmp_path):
    both = separable(4, 0)
    negatives = Patches(both.images[::2], both.masks[::2], both.outcomes[::2], both.spacings[::2])
    with pytest.raises(NeoNetError) as caught:
        train_baseline("Swin", negatives, both, SETTINGS, tmp_path, 0, CPU, Silent(), "x")
    assert caught.value.code == "ONE_CLASS"
    small = Patches(both.images[..., :16], both.masks[..., :16], both.outcomes, both.spacings)
    with pytest.raises(NeoNetError) as caught:
        train_baseline("DenseNet-121", small, small, SETTINGS, tmp_path, 0, CPU, Silent(), "x")
    assert caught.value.code == "BAD_PRESET"


# Volume


def test_volume_finds_the_coefficients_that_made_the_outcomes():
    rng = np.random.default_rng(0)
    volumes = np.exp(rng.normal(3, 1, size=20_000))
    outcomes = rng.random(len(volumes)) < 1 / (1 + np.exp(4 - 1.2 * np.log(volumes)))
    model = fit_volume(volumes, outcomes.astype(int))
    assert model.intercept == pytest.approx(-4, abs=0.15) and model.slope == pytest.approx(1.2, abs=0.05)


@given(st.lists(st.tuples(st.floats(0.1, 1000), st.integers(0, 1)), min_size=4, max_size=40)
       .filter(lambda cases: len({outcome for _, outcome in cases}) == 2))
@settings(max_examples=30, deadline=None)
def test_volume_ranks_cases_by_their_volume(cases):
    volumes, outcomes = np.array([v for v, _ in cases]), np.array([o for _, o in cases])
    model = fit_volume(volumes, outcomes)
    probabilities = model.probabilities(volumes)
    assert np.isfinite(probabilities).all()
    order = np.argsort(volumes)
    assert (np.diff(probabilities[order]) * np.sign(model.slope) >= 0).all()
    assert model.to_json() == {"intercept": model.intercept, "slope": model.slope}


@pytest.mark.parametrize("sign", [1, -1])
def test_the_auc_of_volume_is_that_of_the_volumes_themselves(sign):
    rng = np.random.default_rng(1)
    outcomes = np.arange(60) % 2
    volumes = np.exp(3 + rng.normal(size=60) + 0.8 * sign * outcomes)
    alone = auc(outcomes, volumes)
    assert auc(outcomes, fit_volume(volumes, outcomes).probabilities(volumes)) == pytest.approx(max(alone, 1 - alone))


def test_volumes_that_separate_and_volumes_that_cannot_be_used():
    model = fit_volume([1, 2, 30, 40], [0, 0, 1, 1])
    assert np.isfinite([model.intercept, model.slope]).all() and model.slope > 0
    for volumes, outcomes, code in (([1, 2], [1, 1], "ONE_CLASS"), ([0, 2], [0, 1], "EMPTY_TUMOUR")):
        with pytest.raises(NeoNetError) as caught:
            fit_volume(volumes, outcomes)
        assert caught.value.code == code
