"""PattenNet against the paper's equations, its cached features and its training."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from neonet_core.classification.masks import vary_masks
from neonet_core.classification.outcomes import cases_of_epoch, outcome_weights
from neonet_core.classification.pattennet import (
    ChannelAttention,
    DualAttentionBlock,
    PattenNet,
    SpatialAttention,
    encode_channels,
    masks_at,
)
from neonet_core.classification.training import (
    VIEWS,
    _training_views,
    classify_patches,
    encode_views,
    mask_views,
    network_inputs,
    train_classifier,
)
from neonet_core.errors import NeoNetError
from neonet_core.evaluation.auc import auc
from neonet_core.events import Silent
from neonet_core.generation.autoencoder import FeatureEncoder, build_autoencoder
from neonet_core.presets import CropSettings, load_preset
from neonet_core.training.checkpoint import load_weights, save_weights
from neonet_core.training.patches import Patches, cut_patches

CPU = torch.device("cpu")
TINY = load_preset("tiny")
SHAPE = (9, 8, 7)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numbers(module):
    return {name: tensor.detach().double().numpy() for name, tensor in module.state_dict().items()}


def channel_attention(weights, features, prefix=""):
    """Equation 4 for one case, (C, X, Y, Z) -> (C,)."""
    def mlp(x):
        hidden = np.maximum(weights[f"{prefix}mlp.0.weight"] @ x + weights[f"{prefix}mlp.0.bias"], 0)
        return weights[f"{prefix}mlp.2.weight"] @ hidden + weights[f"{prefix}mlp.2.bias"]
    flat = features.reshape(len(features), -1)
    return sigmoid(mlp(flat.mean(axis=1)) + mlp(flat.max(axis=1)))


def spatial_attention(weights, features, prefix=""):
    """Equation 5 for one case, (C, X, Y, Z) -> (X, Y, Z)."""
    kernel = weights[f"{prefix}convolution.weight"][0]
    assert kernel.shape == (2, 7, 7, 7)
    convolved = sum(ndimage.correlate(pooled, one, mode="constant")
                    for pooled, one in zip((features.mean(axis=0), features.max(axis=0)), kernel, strict=True))
    return sigmoid(convolved + weights[f"{prefix}convolution.bias"][0])


def forward(weights, features, blocks, masks=None):
    """The whole network for one case, (C, X, Y, Z) and, unless pooled over the whole, (2, X, Y, Z) -> logit."""
    features = (features - weights["feature_mean"][:, None, None, None]) / weights["feature_std"][:, None, None, None]
    for block in range(blocks):
        features = features * channel_attention(weights, features, f"blocks.{block}.channel.")[:, None, None, None]
        features = features * spatial_attention(weights, features, f"blocks.{block}.spatial.")
    if masks is None:
        flat = features.reshape(len(features), -1)
        pooled = np.concatenate([flat.mean(axis=1), flat.max(axis=1)])
    else:
        pooled = np.concatenate([features[:, mask > 0].mean(axis=1) for mask in masks])
    hidden = np.maximum(weights["head.0.weight"] @ pooled + weights["head.0.bias"], 0)
    return (weights["head.3.weight"] @ hidden + weights["head.3.bias"])[0]


# Equations


def test_channel_attention_is_equation_4():
    module, features = ChannelAttention(6, 2), torch.randn(3, 6, *SHAPE)
    found = module(features).detach().numpy()
    assert found.shape == (3, 6, 1, 1, 1) and (found > 0).all() and (found < 1).all()
    for case, one in zip(features.double().numpy(), found, strict=True):
        np.testing.assert_allclose(one[:, 0, 0, 0], channel_attention(numbers(module), case), atol=1e-5)


def test_spatial_attention_is_equation_5():
    module, features = SpatialAttention(), torch.randn(2, 6, *SHAPE)
    found = module(features).detach().numpy()
    assert found.shape == (2, 1, *SHAPE) and (found > 0).all() and (found < 1).all()
    for case, one in zip(features.double().numpy(), found, strict=True):
        np.testing.assert_allclose(one[0], spatial_attention(numbers(module), case), atol=1e-5)


@pytest.mark.parametrize("pooling", ["global", "masks"])
@pytest.mark.parametrize("blocks", [0, 1, 2, 3])
def test_the_whole_network_is_what_the_equations_say(blocks, pooling):
    settings = TINY.cls.model_copy(update={"dual_attention_blocks": blocks, "pooling": pooling})
    network, features = PattenNet(8, settings).eval(), 3 * torch.randn(3, 8, *SHAPE) + 1
    masks = (torch.rand(3, 2, *SHAPE) < torch.tensor([0.5, 0.1]).view(1, 2, 1, 1, 1)).to(torch.uint8)
    network.fit_normalisation(features)
    with torch.no_grad():
        logits, attention = network.score_and_attention(features, masks)
        assert torch.equal(network(features, masks), logits) and logits.shape == (3,)
    expected = [forward(numbers(network), case, blocks, mask if pooling == "masks" else None)
                for case, mask in zip(features.double().numpy(), masks.numpy(), strict=True)]
    np.testing.assert_allclose(logits.numpy(), expected, atol=1e-4)
    assert attention.shape == (3, 1, *SHAPE)
    assert (attention == 1).all() if blocks == 0 else ((attention > 0) & (attention < 1)).all()


def test_attention_comes_one_after_the_other():
    block, features = DualAttentionBlock(6, 2), torch.randn(1, 6, *SHAPE)
    refined, attention = block(features)
    after_channel = features * block.channel(features)
    torch.testing.assert_close(attention, block.spatial(after_channel))
    torch.testing.assert_close(refined, after_channel * attention)


def test_one_attention_alone_has_no_weights_of_the_other():
    features = torch.randn(2, 8, *SHAPE)
    both = {name.split(".")[2] for name in PattenNet(8, TINY.cls).state_dict() if name.startswith("blocks")}
    assert both == {"channel", "spatial"}
    for attention, other in (("channel", "spatial"), ("spatial", "channel")):
        network = PattenNet(8, TINY.cls.model_copy(update={"attention": attention, "pooling": "global"})).eval()
        assert any(f".{attention}." in name for name in network.state_dict())
        assert not any(f".{other}." in name for name in network.state_dict())
        with torch.no_grad():
            refined, shown = network.blocks[0](features)
            weight = getattr(network.blocks[0], attention)(features)
            assert torch.equal(refined, features * weight) and shown.shape == (2, 1, *SHAPE)
            assert torch.equal(shown, weight if attention == "spatial" else torch.ones_like(shown))
            assert network.score_and_attention(features)[1].shape == (2, 1, *SHAPE)


def test_the_trained_part_is_small():
    network = PattenNet(256, load_preset("paper").cls)
    parameters = sum(p.numel() for p in network.parameters())
    # two blocks of (256 x 16 x 2 + 16 + 256) and (2 x 343 + 1), a head of 512 x 128 + 128 + 128 + 1
    assert parameters == 2 * (8464 + 687) + 65793


def test_normalisation_is_mean_and_deviation_over_cases_and_space(tmp_path):
    features = (torch.randn(5, 4, *SHAPE) * torch.tensor([1, 5, 0.1, 2]).view(1, 4, 1, 1, 1) + 7).half()
    network = PattenNet(4, TINY.cls)
    network.fit_normalisation(features)
    values = features.double().numpy()
    np.testing.assert_allclose(network.feature_mean, values.mean(axis=(0, 2, 3, 4)), rtol=1e-5)
    np.testing.assert_allclose(network.feature_std, values.std(axis=(0, 2, 3, 4)), rtol=1e-4)
    save_weights(tmp_path / "w", network)
    other = PattenNet(4, TINY.cls)
    load_weights(tmp_path / "w", other)
    assert torch.equal(other.feature_mean, network.feature_mean), "part of the weights"
    dead = torch.zeros(2, 4, 2, 2, 2)
    network.fit_normalisation(dead)
    assert torch.isfinite(network.eval()(dead, dead[:, :2])).all(), "nor do empty masks"


# Features


@pytest.fixture
def patches(prepared_blobs):
    return cut_patches(prepared_blobs, CropSettings(size=(16, 16, 8)))


@pytest.fixture
def encoder():
    torch.manual_seed(3)
    return FeatureEncoder(build_autoencoder(TINY.vae)).eval()


def test_one_encoder_reads_both_channels(encoder):
    calls = []

    class Watch(torch.nn.Module):
        def forward(self, image):
            calls.append(image)
            return encoder(image)

    channels = torch.rand(2, 2, 16, 16, 8)
    features = encode_channels(Watch(), channels)
    assert [tuple(image.shape) for image in calls] == [(2, 1, 16, 16, 8)] * 2
    assert torch.equal(features, torch.cat([encoder(channels[:, :1]), encoder(channels[:, 1:])], dim=1).half())
    assert torch.equal(encode_channels(encoder, channels.flip(1)), features.roll(features.shape[1] // 2, 1))


def test_there_are_eight_views_and_the_first_is_the_patch_itself():
    assert len(set(VIEWS)) == 8 and VIEWS[0] == () and all(set(axes) <= {2, 3, 4} for axes in VIEWS)


def test_cached_features_are_those_that_the_encoder_would_give(encoder, patches):
    channels = patches.channels()
    cached = encode_views(encoder, channels, VIEWS, CPU, Silent(), "x")
    assert cached.shape == (8, len(patches), 2 * TINY.vae.channels[-1], 4, 4, 2) and cached.dtype == torch.float16
    network = PattenNet(cached.shape[2], TINY.cls).eval()
    network.fit_normalisation(cached[0])
    masks = mask_views(patches, VIEWS, cached)
    with torch.no_grad():
        for view, axes in enumerate(VIEWS):
            flipped = torch.from_numpy(channels).flip(axes)
            direct = torch.cat([encoder(flipped[:, :1]), encoder(flipped[:, 1:])], dim=1)  # in single precision
            torch.testing.assert_close(cached[view].float(), direct, rtol=2e-3, atol=2e-3)
            torch.testing.assert_close(network(cached[view].float(), masks[view]), network(direct, masks[view]), rtol=0,
                                       atol=0.02)


def test_the_masks_of_the_features_are_those_of_the_patch_and_turn_with_it(patches):
    features = torch.zeros(8, len(patches), 1, 4, 4, 2)
    views = mask_views(patches, VIEWS, features)
    assert views.shape == (8, len(patches), 2, 4, 4, 2)
    for view, axes in enumerate(VIEWS):
        flipped = np.flip(patches.masks, axes)
        blocks = flipped.reshape(len(patches), 2, 4, 4, 4, 4, 2, 4).max(axis=(3, 5, 7))
        np.testing.assert_array_equal(views[view, :, 1].numpy(), blocks[:, 1], err_msg="touched by the tumour")
        assert (views[view, :, 0] <= torch.from_numpy(blocks[:, 0])).all(), "the surroundings stay in the liver"
    assert torch.equal(masks_at(torch.from_numpy(patches.masks), (4, 4, 2)).to(torch.uint8), views[0])


def test_the_channels_are_the_image_under_its_masks(patches):
    channels = patches.channels()
    assert channels.dtype == np.float32 and channels.shape == (4, 2, 16, 16, 8)
    np.testing.assert_array_equal(channels[:, 0], patches.images[:, 0] * patches.masks[:, 0])
    np.testing.assert_array_equal(channels[:, 1], patches.images[:, 0] * patches.masks[:, 1])
    assert (patches.masks[:, 1] <= patches.masks[:, 0]).all(), "the tumour is in the liver"


# Training


class Average(torch.nn.Module):
    """An encoder of one feature, the mean intensity of each 4 x 4 x 4 block, with a parameter to watch."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, image):
        return torch.nn.functional.avg_pool3d(image * self.scale, 4)


def separable(count, seed):
    """Patches whose outcome is how bright the tumour is."""
    rng = np.random.default_rng(seed)
    outcomes = np.arange(count) % 2
    masks = np.zeros((count, 2, 16, 16, 8), np.uint8)
    masks[:, 0, 2:14, 2:14] = 1
    masks[:, 1, 5:11, 5:11, 2:6] = 1
    images = 0.3 + 0.05 * rng.normal(size=(count, 1, 16, 16, 8))
    images += 0.4 * masks[:, 1:] * outcomes.reshape(-1, 1, 1, 1, 1)
    return Patches(images.astype(np.float32), masks, outcomes, np.ones((count, 3)))


def train_on(patches, stopping, folder, encoder=None, **changes):
    chosen = TINY.cls.model_copy(update={"epochs": 30, "learning_rate": 1e-2, "patience": None, **changes})
    return train_classifier(encoder or Average(), patches, stopping, chosen, folder, 0, CPU, Silent(), "cls")


@pytest.mark.parametrize("pooling", ["global", "masks"])
@pytest.mark.parametrize("blocks", [0, 2])
def test_a_separable_problem_is_learned(tmp_path, blocks, pooling):
    encoder = Average()
    network, fitted = train_on(separable(16, 0), separable(8, 1), tmp_path, encoder, dual_attention_blocks=blocks,
                               pooling=pooling)
    unseen = separable(20, 2)
    probabilities = classify_patches(encoder, network, unseen, CPU, Silent(), "x")
    assert ((probabilities > 0) & (probabilities < 1)).all()
    assert fitted.best_value == 1 and auc(unseen.outcomes, probabilities) == 1


def test_the_encoder_is_frozen(tmp_path, patches):
    encoder = FeatureEncoder(build_autoencoder(TINY.vae))
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    network, _ = train_on(patches, patches, tmp_path, encoder, epochs=3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert all(p.grad is None for p in encoder.parameters())
    assert not any("encoder" in name for name in network.state_dict()), "it is no part of PattenNet's weights"
    watched = Average()
    train_on(separable(8, 0), separable(4, 1), tmp_path / "b", watched, epochs=2)
    assert watched.scale.grad is None and watched.scale.item() == 1


def test_normalisation_is_fitted_on_the_training_patches_alone(tmp_path):
    training, stopping = separable(8, 0), separable(4, 1)
    poisoned = replace(stopping, images=stopping.images * 1000)
    network, _ = train_on(training, stopping, tmp_path / "a", epochs=1)
    other, _ = train_on(training, poisoned, tmp_path / "b", epochs=1)
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in network.state_dict().items())
    features = encode_views(Average(), training.channels(), VIEWS[:1], CPU, Silent(), "x")[0].double()
    np.testing.assert_allclose(network.feature_mean, features.mean(dim=(0, 2, 3, 4)), rtol=1e-4)


def test_training_is_repeatable(tmp_path):
    first, _ = train_on(separable(8, 0), separable(4, 1), tmp_path / "a", epochs=3, dropout=0.2)
    second, _ = train_on(separable(8, 0), separable(4, 1), tmp_path / "b", epochs=3, dropout=0.2)
    assert all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())


def test_one_outcome_alone_is_an_error_in_training_and_none_in_stopping(tmp_path):
    one = separable(8, 0)
    negatives = Patches(one.images[::2], one.masks[::2], one.outcomes[::2], one.spacings[::2])
    with pytest.raises(NeoNetError) as caught:
        train_on(negatives, one, tmp_path / "a")
    assert caught.value.code == "ONE_CLASS"
    _, fitted = train_on(one, negatives, tmp_path / "b", epochs=2)  # no AUC there: the last epoch is kept
    assert (fitted.best_epoch, fitted.best_value) == (2, None)


# Controls


OUTCOMES = st.lists(st.integers(0, 1), min_size=2, max_size=60).filter(lambda outcomes: len(set(outcomes)) == 2)


@given(OUTCOMES, st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_duplicated_cases_are_one_to_one_and_every_original_stays(values, seed):
    outcomes = np.array(values)
    shown = cases_of_epoch(outcomes, "duplicate", seed)
    assert outcomes[shown].sum() * 2 == len(shown)
    np.testing.assert_array_equal(shown[:len(outcomes)], np.arange(len(outcomes)))
    times = np.bincount(shown, minlength=len(outcomes))
    more, fewer = sorted((np.flatnonzero(outcomes == 0), np.flatnonzero(outcomes == 1)), key=len, reverse=True)
    assert (times[more] == 1).all() and np.ptp(times[fewer]) <= 1, "all as often, but for a remainder"
    np.testing.assert_array_equal(shown, cases_of_epoch(outcomes, "duplicate", seed))
    for balance in ("none", "weights"):
        np.testing.assert_array_equal(cases_of_epoch(outcomes, balance, seed), np.arange(len(outcomes)))


@given(OUTCOMES)
@settings(max_examples=60, deadline=None)
def test_weighted_outcomes_pull_alike(values):
    outcomes = torch.tensor(values, dtype=torch.float32)
    weights = outcome_weights(outcomes.numpy().astype(int), "weights")
    assert weights.min() == 1, "the more frequent outcome's"
    logits = torch.zeros(len(outcomes), requires_grad=True)
    torch.nn.functional.binary_cross_entropy_with_logits(
        logits, outcomes, torch.from_numpy(weights)[outcomes.long()]).backward()
    torch.testing.assert_close(logits.grad[outcomes == 0].sum(), -logits.grad[outcomes == 1].sum())
    for balance in ("none", "duplicate"):
        assert (outcome_weights(outcomes.numpy(), balance) == 1).all()


@pytest.mark.parametrize("rarer", [0, 1])
def test_balancing_moves_the_scores_towards_the_rarer_outcome(tmp_path, rarer):
    """Where nothing can be learned the score is the share of positives, unless the outcomes are balanced."""
    source = separable(16, 0)
    outcomes = np.where(np.arange(16) % 4 == 0, rarer, 1 - rarer)
    alike = replace(source, images=np.full_like(source.images, 0.5), outcomes=outcomes)
    of_one = replace(alike, outcomes=np.zeros(16, int))  # no AUC to stop by: the last epoch is kept
    for balance, share in (("none", 0.25), ("duplicate", 0.5), ("weights", 0.5)):
        encoder = Average()
        network, _ = train_on(alike, of_one, tmp_path / balance, encoder, epochs=80, balance=balance, flips=False,
                              batch_size=100, learning_rate=0.05, dual_attention_blocks=0)
        scores = classify_patches(encoder, network, alike, CPU, Silent(), "x")
        assert scores.mean() == pytest.approx(share if rarer == 1 else 1 - share, abs=0.02), balance


def test_from_masks_alone_the_image_does_not_matter(tmp_path):
    patches = separable(8, 0)
    brighter = replace(patches, images=patches.images ** 2 + 0.1)
    channels = network_inputs(patches, "masks").channels()
    np.testing.assert_array_equal(channels, 0.5 * patches.masks)
    assert network_inputs(patches, "image") is patches
    encoder = Average()
    network, _ = train_on(patches, patches, tmp_path / "a", encoder, epochs=2, inputs="masks")
    other, _ = train_on(brighter, brighter, tmp_path / "b", encoder, epochs=2, inputs="masks")
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in network.state_dict().items())
    scores = [classify_patches(encoder, network, some, CPU, Silent(), "x") for some in (patches, brighter)]
    np.testing.assert_array_equal(*scores)
    thinner = replace(patches, masks=patches.masks * (np.arange(8) % 2).astype(np.uint8))
    assert (classify_patches(encoder, network, thinner, CPU, Silent(), "x") != scores[0]).all()


# Masks as others would have drawn them


@given(st.integers(0, 2**32 - 1), st.floats(0.5, 4))
@settings(max_examples=25, deadline=None)
def test_varied_masks_stay_in_the_liver_and_near_the_border(seed, amplitude):
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in (24, 24, 12)), indexing="ij"), axis=-1) - (12, 12, 6)
    millimetres = np.linalg.norm(grid * (1.5, 1.5, 2.2), axis=-1)
    masks = np.stack([millimetres < 14, millimetres < 8]).astype(np.uint8)
    varied = vary_masks(masks, (1.5, 1.5, 2.2), amplitude, rng)
    np.testing.assert_array_equal(varied[0], masks[0])
    assert varied[1].any() and not (varied[1] & ~masks[0].astype(bool)).any()
    # one shift of at most the amplitude, and locally a field of half that standard deviation
    reach = amplitude * (1 + 0.5 * 5) + 2.2
    assert varied[1][millimetres < 8 - reach].all() and not varied[1][millimetres > 8 + reach].any()


def test_an_empty_tumour_is_not_varied():
    masks = np.zeros((2, 8, 8, 4), np.uint8)
    assert not vary_masks(masks, (1, 1, 1), 3.0, np.random.default_rng(0)).any()


def test_the_two_regions_of_pooling():
    masks = torch.zeros(1, 2, 16, 16, 16)
    masks[:, 0, :, :, :8] = 1  # liver and tumour: the lower half
    masks[:, 1, 6, 6, 6] = 1
    around, tumour = masks_at(masks, torch.Size((4, 4, 4)))[0]
    assert tumour.sum() == 1 and tumour[1, 1, 1] == 1
    assert around[:3, :3, :2].all() and around.sum() == 3 * 3 * 2, "one voxel around, and only where there is liver"


def test_views_have_masks_of_their_own_and_the_first_is_the_true_one(tmp_path):
    patches = separable(4, 0)
    changed = TINY.cls.model_copy(update={"vary_masks_mm": 3.0})
    _, masks = _training_views(Average(), patches, VIEWS, changed, 0, CPU, Silent(), "x")
    plain = mask_views(patches, VIEWS, masks)
    assert torch.equal(masks[0], plain[0])
    assert any(not torch.equal(masks[view], plain[view]) for view in range(1, len(VIEWS)))
    again = _training_views(Average(), patches, VIEWS, changed, 0, CPU, Silent(), "x")[1]
    assert torch.equal(masks, again)
