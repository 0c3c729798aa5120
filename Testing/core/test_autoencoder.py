"""The autoencoders of NeoGen and QNeoGen: shapes, loss, codes, what they are shown."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.networks.nets import AutoencoderKL

from neonet_core.errors import NeoNetError
from neonet_core.events import Silent
from neonet_core.generation.autoencoder import (
    FeatureEncoder,
    PatchBatch,
    PatchBatches,
    TrainedAgainst,
    autoencoder_loss,
    build_autoencoder,
    kl_divergence,
    train_autoencoder,
)
from neonet_core.generation.codebook import Codebook
from neonet_core.generation.image_terms import Adversary, perceptual_distance, weighted_mean
from neonet_core.presets import AutoencoderSettings, CropSettings, VqVaeSettings, load_preset
from neonet_core.training import loop
from neonet_core.training.patches import cut_patches

CPU = torch.device("cpu")
TINY = load_preset("tiny").vae
TINY_VQ = VqVaeSettings(codes=32, codes_decay=0.9,
                        **{name: getattr(TINY, name) for name in AutoencoderSettings.model_fields})
BOTH = pytest.mark.parametrize("settings", [TINY, TINY_VQ], ids=["kl", "vq"])


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


def test_both_autoencoders_of_the_paper_have_the_same_latent():
    vae = load_preset("paper").vae
    shared = {name: getattr(vae, name) for name in AutoencoderSettings.model_fields}
    image = torch.empty(2, 1, 96, 96, 48, device="meta")
    for settings in (vae, VqVaeSettings(**shared)):
        with torch.device("meta"):
            network = build_autoencoder(settings).eval()
            latents = network.encode_latents(image)
            assert latents.shape == (2, 4, 24, 24, 12) == (2, *network.latent_shape((96, 96, 48)))
            assert network.decode_latents(latents).shape == network.reconstruct(image).shape == image.shape
            assert network.factor == 4 and network.latent_channels == 4


@BOTH
@pytest.mark.parametrize(("levels", "factor"), [(1, 1), (2, 2), (4, 8)])
def test_each_level_after_the_first_halves_the_size(settings, levels, factor):
    network = build_autoencoder(settings.model_copy(update={"channels": (4,) * levels})).eval()
    image = torch.rand(1, 1, 24, 16, 8)
    latents = network.encode_latents(image)
    assert network.factor == factor and latents.shape[1:] == network.latent_shape((24, 16, 8))
    assert network.decode_latents(latents).shape == image.shape
    if factor > 1:
        with pytest.raises(NeoNetError, match=f"multiples of {factor}") as caught:
            network.latent_shape((24, 16, 9))
        assert caught.value.code == "BAD_PRESET"


@BOTH
def test_latents_are_not_drawn_at_random(settings):
    network, image = build_autoencoder(settings).eval(), torch.rand(2, 1, 16, 16, 8)
    with torch.no_grad():
        latents, again = network.encode_latents(image), network.encode_latents(image)
        alone = network.encode_latents(image[1:])
    assert torch.equal(latents, again)
    torch.testing.assert_close(latents[1:], alone)


def test_the_kl_latent_is_the_posteriors_mean():
    network, image = build_autoencoder(TINY).eval(), torch.rand(1, 1, 16, 16, 8)
    assert torch.equal(network.encode_latents(image), network.encode(image)[0])


def test_weights_bear_monais_names():
    """Weights of runs and bundles that exist already are read by these names."""
    monai = AutoencoderKL(spatial_dims=3, in_channels=1, out_channels=1, channels=TINY.channels,
                          latent_channels=TINY.latent_channels, num_res_blocks=(1, 1, 1),
                          norm_num_groups=TINY.norm_groups, attention_levels=(False,) * 3,
                          with_encoder_nonlocal_attn=False, with_decoder_nonlocal_attn=False)
    network = build_autoencoder(TINY)
    assert {name: t.shape for name, t in network.state_dict().items()} == {
        name: t.shape for name, t in monai.state_dict().items()}
    features = FeatureEncoder(network).state_dict()
    assert features and all(torch.equal(t, network.state_dict()[f"encoder.{name}"]) for name, t in features.items())
    assert {name.split(".")[1] for name in monai.encoder.state_dict()} - {name.split(".")[1] for name in features} == {
        str(len(monai.encoder.blocks) - 1)}, "all but the projection"


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


# Codes


def test_every_position_gets_the_nearest_code():
    codebook, latents = Codebook(7, 3, 0.9), torch.randn(2, 3, 4, 2, 3)
    codebook.codes.normal_()
    vectors = latents.movedim(1, -1).reshape(-1, 3)
    expected = torch.cdist(vectors, codebook.codes).argmin(1)
    assert torch.equal(codebook.nearest(latents).flatten(), expected)
    quantised = codebook.quantise(latents)
    assert torch.equal(quantised.movedim(1, -1).reshape(-1, 3), codebook.codes[expected])
    assert torch.equal(codebook.quantise(quantised), quantised), "codes stand for themselves"


def test_the_gradient_passes_straight_through_the_codes_to_the_encoder():
    network = build_autoencoder(TINY_VQ)
    latents = torch.randn(1, 2, 4, 4, 2, requires_grad=True)
    quantised, _ = network.codebook(latents)
    weights = torch.randn_like(quantised)
    (quantised * weights).sum().backward()
    torch.testing.assert_close(latents.grad, weights)
    reconstruction, _ = network.reconstruct_in_training(torch.rand(2, 1, 16, 16, 8))
    reconstruction.mean().backward()
    for convolution in (network.encoder.blocks[0], network.encoder.blocks[-1]):
        assert all(p.grad.abs().sum() > 0 for p in convolution.parameters())


def test_codes_become_the_means_of_what_they_stand_for():
    torch.manual_seed(1)
    means = torch.tensor([[-5.0, 0.0], [5.0, 0.0], [0.0, 9.0]])
    codebook = Codebook(3, 2, 0.8).train()
    codebook.codes.copy_(means + 1.5)
    codebook.usage.fill_(1.0)
    for _ in range(60):
        codebook((means[torch.arange(300) % 3] + 0.1 * torch.randn(300, 2)).T.reshape(1, 2, 300, 1, 1))
    torch.testing.assert_close(codebook.codes, means, atol=0.05, rtol=0)
    torch.testing.assert_close(codebook.usage, torch.ones(3), atol=0.01, rtol=0)


def test_codes_far_from_the_latents_come_into_use():
    """The trap of a codebook that begins beside the data: a few codes take everything, the others are never chosen."""
    torch.manual_seed(0)
    codebook = Codebook(32, 4, 0.9).train()
    codebook.usage.fill_(1.0)
    codebook.codes.normal_(std=20)
    for _ in range(120):
        latents = torch.randn(1, 4, 16, 16, 4)
        codebook(latents)
    figures = codebook.use(codebook.nearest(latents))
    assert figures["codes_used"] == 1 and figures["perplexity"] > 20


@pytest.mark.parametrize("rate", [1e-3, 1e-2])
def test_the_codebook_does_not_collapse_in_training(rate, patches, tmp_path):
    settings = TINY_VQ.model_copy(update={"epochs": 20, "learning_rate": rate, "validate_every": 20})
    _, fitted = train_autoencoder(patches, patches, settings, tmp_path, 0, CPU, Silent(), "vqvae")
    assert fitted.history[-1]["perplexity"] > 6 and fitted.history[-1]["codes_used"] > 0.3, "of 32 codes"


def test_vq_latents_have_unit_length():
    network = build_autoencoder(TINY_VQ)
    lengths = network.encode_latents(torch.rand(2, 1, 16, 16, 8)).norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


def test_use_is_counted_in_codes():
    codebook = Codebook(8, 2, 0.9)
    assert codebook.use(torch.full((2, 3, 3), 5)) == {"perplexity": pytest.approx(1), "codes_used": 1 / 8}
    assert codebook.use(torch.arange(8).repeat(3)) == {"perplexity": pytest.approx(8), "codes_used": 1}
    assert codebook.use(torch.arange(4)) == {"perplexity": pytest.approx(4), "codes_used": 0.5}


def test_the_codebook_learns_in_training_mode_alone():
    network, image = build_autoencoder(TINY_VQ), torch.rand(2, 1, 16, 16, 8)
    network.reconstruct_in_training(image)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.eval()
    network.reconstruct_in_training(image), network.reconstruct(image)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    network.train().reconstruct_in_training(image)
    assert not torch.equal(network.codebook.codes, before["codebook.codes"])


def test_the_vq_networks_first_latents_and_images_have_the_size_of_their_inputs():
    """Without normalisation a signal that fades on its way leaves all positions to one code."""
    image = torch.rand(2, 1, 32, 32, 16)
    for seed in range(5):
        torch.manual_seed(seed)
        network = build_autoencoder(TINY_VQ.model_copy(update={"channels": (16, 32, 64), "residual_blocks": 2}))
        with torch.no_grad():
            latents = network.encoder(image)
            decoded = network.decoder(torch.randn_like(latents))
        assert 0.03 < latents.std(dim=(0, 2, 3, 4)).mean() < 3
        assert 0.1 < decoded.std() < 10


def test_codes_take_no_part_in_gradient_descent():
    assert not any(name.startswith("codebook") for name, _ in build_autoencoder(TINY_VQ).named_parameters())
    assert {"codebook.codes", "codebook.usage"} <= build_autoencoder(TINY_VQ).state_dict().keys()


# Further terms of the loss


def maps_of(images):
    """Two feature maps without parameters: intensities, and their differences along X."""
    return [torch.cat([images, 1 - images], 1), torch.cat([images[:, :, 1:] - images[:, :, :-1], images[:, :, 1:]], 1)]


def test_perceptual_distance_is_a_distance_with_a_gradient_to_the_first_image():
    image, other = torch.rand(2, 1, 8, 8, 4, requires_grad=True), torch.rand(2, 1, 8, 8, 4, requires_grad=True)
    assert perceptual_distance(maps_of, image, image).item() == 0
    distance = perceptual_distance(maps_of, image, other)
    torch.testing.assert_close(distance, perceptual_distance(maps_of, other, image))
    distance.backward()
    assert image.grad.abs().sum() > 0 and other.grad is None
    flat = torch.zeros(1, 1, 4, 4, 4, requires_grad=True)
    perceptual_distance(lambda x: [x], flat, torch.ones_like(flat)).backward()
    assert torch.isfinite(flat.grad).all(), "features that are all zero have no direction"


@pytest.mark.parametrize("size", [(32, 32, 16), (16, 16, 8), (8, 8, 4)])
def test_each_side_of_the_adversarial_loss_leaves_the_other_alone(size):
    adversary = Adversary(4)
    images, reconstructions = torch.rand(2, 1, *size), torch.rand(2, 1, *size, requires_grad=True)
    adversary.generator_term(reconstructions).backward()
    assert reconstructions.grad.abs().sum() > 0
    assert all(p.grad is None for p in adversary.parameters())
    reconstructions.grad = None
    adversary.discriminator_term(images, reconstructions).backward()
    assert reconstructions.grad is None
    assert all(p.grad is not None for p in adversary.parameters())


def test_hinge_loss_is_zero_for_a_sure_discriminator_and_two_sided_else():
    adversary = Adversary(4)
    adversary.discriminator = torch.nn.ModuleList()  # judges by brightness
    adversary.discriminator.forward = lambda x: [x]
    real, made = torch.full((1, 1, 4, 4, 4), 2.0), torch.full((1, 1, 4, 4, 4), -3.0)
    assert adversary.discriminator_term(real, made).item() == 0
    assert adversary.discriminator_term(made, real).item() == pytest.approx(0.5 * (4 + 3))
    assert adversary.generator_term(made).item() == 3


@BOTH
def test_one_backward_gives_each_part_its_own_gradient(settings):
    """The autoencoder's gradient is that of its own terms, the discriminator's that of its own."""
    settings = settings.model_copy(update={"adversarial_weight": 0.3})
    pair = TrainedAgainst(build_autoencoder(settings), Adversary(4)).eval()
    images = torch.rand(2, 1, 16, 16, 8)
    torch.manual_seed(2)
    autoencoder_loss(settings)(pair, PatchBatch(images, torch.zeros_like(images))).backward()
    found = {name: p.grad.clone() for name, p in pair.named_parameters()}
    pair.zero_grad()
    torch.manual_seed(2)  # the posterior's noise
    reconstruction, cost = pair.autoencoder.reconstruct_in_training(images)
    weight = 0.25 if isinstance(settings, VqVaeSettings) else 1e-7
    own = (torch.nn.functional.l1_loss(reconstruction, images) + weight * cost
           + 0.3 * -pair.adversary.discriminator(reconstruction)[-1].mean())
    expected = torch.autograd.grad(own, list(pair.autoencoder.parameters()), allow_unused=True)
    for (name, _), gradient in zip(pair.autoencoder.named_parameters(), expected, strict=True):
        torch.testing.assert_close(found[f"autoencoder.{name}"], gradient)
    pair.adversary.discriminator_term(images, reconstruction).backward()
    for name, parameter in pair.adversary.named_parameters():
        torch.testing.assert_close(found[f"adversary.{name}"], parameter.grad)


def test_a_perceptual_weight_needs_a_network(patches, tmp_path):
    settings = TINY.model_copy(update={"perceptual_weight": 0.1})
    with pytest.raises(NeoNetError) as caught:
        train_autoencoder(patches, patches, settings, tmp_path, 0, CPU, Silent(), "vae")
    assert caught.value.code == "NO_SEG_MODEL"


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
        found = [kind_of(image, patches) for batch in source.batches(epoch) for image in batch.images.numpy()]
        assert sorted(index for index, _ in found) == list(range(len(patches))), "each patch once an epoch"
        kinds += [kind for _, kind in found]
    counts = np.bincount(kinds, minlength=3)
    assert counts.min() > 0.2 * len(kinds), counts


def test_without_masking_and_flips_patches_are_shown_as_they_are(patches):
    settings = TINY.model_copy(update={"mask_inputs": False, "flips": False})
    shown = [kind_of(image, patches) for batch in PatchBatches(patches, settings, 0, CPU).batches(0)
             for image in batch.images.numpy()]
    assert sorted(shown) == [(index, 0) for index in range(len(patches))]


def test_flips_mirror_along_every_axis(patches):
    settings = TINY.model_copy(update={"mask_inputs": False, "flips": True})
    source, views = PatchBatches(patches, settings, 0, CPU), set()
    for epoch in range(40):
        for batch in source.batches(epoch):
            for image in batch.images.numpy():
                views |= {axes for axes in [(), (1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3)]
                          if any(np.array_equal(np.flip(image, axes), one) for one in patches.images)}
    assert len(views) == 8


def test_batches_depend_on_seed_and_epoch_alone(patches):
    source = PatchBatches(patches, TINY, 3, CPU)
    list(source.batches(0)), torch.rand(3), np.random.rand(3)
    first, again = list(source.batches(2)), list(PatchBatches(patches, TINY, 3, CPU).batches(2))
    assert len(first) == source.steps_per_epoch == 2
    assert all(torch.equal(a.images, b.images) and torch.equal(a.tumours, b.tumours)
               for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0].images, next(source.batches(1)).images)


# Training


@BOTH
def test_training_learns_to_reconstruct(settings, patches, tmp_path):
    settings = settings.model_copy(update={"epochs": 25, "learning_rate": 1e-2, "mask_inputs": False})
    network, fitted = train_autoencoder(patches, patches, settings, tmp_path, 0, CPU, Silent(), "vae")
    errors = [record["l1"] for record in fitted.history]
    assert min(errors) == fitted.best_value < 0.6 * errors[0]
    with torch.no_grad():
        images = torch.from_numpy(patches.images)
        error = torch.nn.functional.l1_loss(network.reconstruct(images), images).item()
    assert error == pytest.approx(fitted.best_value, rel=1e-3)


def test_both_further_terms_train_and_the_caller_gets_the_autoencoder(patches, tmp_path):
    settings = TINY_VQ.model_copy(update={"epochs": 2, "perceptual_weight": 0.1, "adversarial_weight": 0.1,
                                          "ema_decay": 0.5})
    network, fitted = train_autoencoder(patches, patches, settings, tmp_path, 0, CPU, Silent(), "vqvae", maps_of)
    assert network.state_dict().keys() == build_autoencoder(settings).state_dict().keys()
    assert np.isfinite([record["l1"] for record in fitted.history]).all()


class KilledError(Exception):
    """Stands for a kill: nothing of ours catches it."""


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.8, "adversarial_weight": 0.1}], ids=["plain", "all"])
def test_resumed_equals_uninterrupted_for_the_codebook_too(changes, patches, tmp_path, monkeypatch):
    settings = TINY_VQ.model_copy(update={"epochs": 4, **changes})

    def train(name):
        return train_autoencoder(patches, patches, settings, tmp_path / name, 0, CPU, Silent(), "vqvae")

    whole, expected = train("whole")
    save = loop.save_checkpoint
    monkeypatch.setattr(loop, "CHECKPOINT_INTERVAL_S", 0.0, raising=False)

    def saves_and_dies(path, model, optimizer, ema, progress):
        save(path, model, optimizer, ema, progress)
        if progress["epoch"] == 2:
            raise KilledError

    monkeypatch.setattr(loop, "save_checkpoint", saves_and_dies)
    with pytest.raises(KilledError):
        train("cut")
    torch.manual_seed(99)  # another process
    resumed, found = train("cut")
    a, b = whole.state_dict(), resumed.state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert [(record["loss"], record["l1"], record["perplexity"]) for record in found.history] == [
        (record["loss"], record["l1"], record["perplexity"]) for record in expected.history]


def test_a_crop_between_two_tumours_is_said_with_its_case(prepared_blobs):
    label_map = np.zeros((64, 28, 16), np.uint8)
    label_map[2:4, 10, 8] = label_map[60:62, 10, 8] = 2
    case = replace(prepared_blobs[0], image=np.zeros(label_map.shape, np.float32), label_map=label_map)
    with pytest.raises(NeoNetError) as caught:
        cut_patches([case], CropSettings(size=(16, 16, 8), component="all"))
    assert caught.value.code == "EMPTY_TUMOUR" and case.case_id in caught.value.message
    assert cut_patches([case], CropSettings(size=(16, 16, 8), component="largest")).masks[0, 1].sum() == 2


def test_tumours_are_flipped_with_their_images(patches):
    """The tumour is what is brightest here: wherever the mask is 1, the image is 1."""
    images = patches.masks[:, 1:].astype(np.float32)
    source = PatchBatches(replace(patches, images=images), TINY.model_copy(update={"mask_inputs": False}), 0, CPU)
    for batch in source.batches(0):
        assert torch.equal(batch.images, batch.tumours.float())


def test_an_error_in_the_tumour_counts_as_often_as_its_weight_says():
    errors, tumours = (torch.tensor(values).view(1, 1, 4, 1, 1) for values in ([1.0, 1.0, 1.0, 5.0], [0, 0, 0, 1]))
    assert weighted_mean(errors, tumours, 1.0).item() == errors.mean().item() == 2
    assert weighted_mean(errors, tumours, 3.0).item() == pytest.approx((1 + 1 + 1 + 3 * 5) / 6)
    assert weighted_mean(torch.ones(2, 3, 4, 4, 4), torch.ones(2, 1, 4, 4, 4), 7.0).item() == pytest.approx(1)
