"""The autoencoder of NeoGen: shapes, loss, what it is shown."""

import numpy as np
import pytest
import torch

from neonet_core.events import Silent
from neonet_core.generation.autoencoder import (
    FeatureEncoder,
    PatchBatches,
    build_autoencoder,
    kl_divergence,
    train_autoencoder,
)
from neonet_core.presets import CropSettings, load_preset
from neonet_core.training.patches import cut_patches

CPU = torch.device("cpu")
TINY = load_preset("tiny").vae


@pytest.fixture
def patches(prepared_blobs):
    return cut_patches(prepared_blobs, CropSettings(size=(16, 16, 8)))


def test_the_papers_network_has_the_designs_shapes():
    preset = load_preset("paper")
    with torch.device("meta"):  # shapes alone: nothing is computed
        network = build_autoencoder(preset.vae)
        image = torch.empty(1, 1, *preset.crop.size)
        mean, sigma = network.encode(image)
        assert mean.shape == sigma.shape == (1, 4, 24, 24, 12)
        assert network.decode(mean).shape == (1, 1, 96, 96, 48)
        assert FeatureEncoder(network)(image).shape == (1, 128, 24, 24, 12)


def test_a_real_forward_pass_of_the_papers_network_is_four_times_smaller():
    network = build_autoencoder(load_preset("paper").vae).eval()
    with torch.no_grad():
        image = torch.rand(1, 1, 16, 16, 8)
        reconstruction, mean, sigma = network(image)
    assert mean.shape == (1, 4, 4, 4, 2) and (sigma > 0).all() and reconstruction.shape == image.shape


def test_the_features_are_what_the_latent_projection_reads():
    network = build_autoencoder(TINY).eval()
    image = torch.rand(2, 1, 16, 16, 8)
    encoder = FeatureEncoder(network)
    projection = list(network.encoder.blocks.children())[-1]
    with torch.no_grad():
        features = encoder(image)
        assert features.shape == (2, TINY.channels[-1], 4, 4, 2)
        assert torch.equal(projection(features), network.encoder(image))
    assert not any(p.requires_grad for p in encoder.parameters())
    assert any(p.requires_grad for p in network.decoder.parameters())


def test_kl_divergence_is_that_of_the_distributions():
    mean, sigma = torch.randn(3, 4, 5, 2, 2), torch.rand(3, 4, 5, 2, 2) + 0.05
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, sigma), normal(0.0, 1.0)).sum() / 3
    torch.testing.assert_close(kl_divergence(mean, sigma), expected)
    assert kl_divergence(torch.zeros(2, 1, 3), torch.ones(2, 1, 3)).item() == 0
    torch.testing.assert_close(kl_divergence(mean[:1], sigma[:1]).item(),
                               kl_divergence(mean[:1].repeat(4, 1, 1, 1, 1), sigma[:1].repeat(4, 1, 1, 1, 1)).item())


# What it is shown


def kind_of(image, patches):
    """(patch, kind) of an unflipped image: 0 as it is, 1 liver and tumour, 2 tumour."""
    found = [(index, kind) for index, original in enumerate(patches.images)
             for kind, masked in enumerate((original, original * patches.masks[index, :1],
                                            original * patches.masks[index, 1:])) if np.array_equal(image, masked)]
    assert len(found) == 1, "one of the three kinds and no other"
    return found[0]


def test_masking_gives_the_three_kinds_that_pattennet_meets(patches):
    settings = TINY.model_copy(update={"mask_inputs": True, "flips": False})
    source = PatchBatches(patches, settings, 0, CPU)
    kinds = []
    for epoch in range(30):
        found = [kind_of(image, patches) for batch in source.batches(epoch) for image in batch.numpy()]
        assert sorted(index for index, _ in found) == list(range(len(patches))), "each patch once an epoch"
        kinds += [kind for _, kind in found]
    counts = np.bincount(kinds, minlength=3)
    assert counts.min() > 0.2 * len(kinds), counts


def test_without_masking_and_flips_patches_are_shown_as_they_are(patches):
    settings = TINY.model_copy(update={"mask_inputs": False, "flips": False})
    shown = [kind_of(image, patches) for batch in PatchBatches(patches, settings, 0, CPU).batches(0)
             for image in batch.numpy()]
    assert sorted(shown) == [(index, 0) for index in range(len(patches))]


def test_flips_mirror_along_every_axis(patches):
    settings = TINY.model_copy(update={"mask_inputs": False, "flips": True})
    source, views = PatchBatches(patches, settings, 0, CPU), set()
    for epoch in range(40):
        for batch in source.batches(epoch):
            for image in batch.numpy():
                views |= {axes for axes in [(), (1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3)]
                          if any(np.array_equal(np.flip(image, axes), one) for one in patches.images)}
    assert len(views) == 8


def test_batches_depend_on_seed_and_epoch_alone(patches):
    source = PatchBatches(patches, TINY, 3, CPU)
    list(source.batches(0)), torch.rand(3), np.random.rand(3)
    first, again = list(source.batches(2)), list(PatchBatches(patches, TINY, 3, CPU).batches(2))
    assert len(first) == source.steps_per_epoch == 2
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], next(source.batches(1)))


def test_training_learns_to_reconstruct(patches, tmp_path):
    settings = TINY.model_copy(update={"epochs": 25, "learning_rate": 1e-2, "mask_inputs": False})
    network, fitted = train_autoencoder(patches, patches, settings, tmp_path, 0, CPU, Silent(), "vae")
    errors = [record["l1"] for record in fitted.history]
    assert min(errors) == fitted.best_value < 0.6 * errors[0]
    with torch.no_grad():
        images = torch.from_numpy(patches.images)
        error = torch.nn.functional.l1_loss(network.decode(network.encode(images)[0]), images).item()
    assert error == pytest.approx(fitted.best_value, rel=1e-3)
