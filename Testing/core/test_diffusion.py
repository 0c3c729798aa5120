"""Latent diffusion and ControlNet: samplers against a closed form, the control that begins at nothing."""

import math

import numpy as np
import pytest
import torch

from neonet_core.errors import NeoNetError
from neonet_core.events import Silent
from neonet_core.generation.autoencoder import build_autoencoder
from neonet_core.generation.controlnet import build_control, control_residuals, copy_encoder, train_control
from neonet_core.generation.diffusion import UNKNOWN_CLASS, LatentDiffusion, classes_of, hide_classes, train_diffusion
from neonet_core.generation.generator import Generator
from neonet_core.generation.latents import CachedLatents
from neonet_core.generation.schedulers import SAMPLERS, add_noise, build_scheduler, draw, signal_and_noise, signal_share
from neonet_core.presets import load_preset
from neonet_core.training.patches import VIEWS, cut_patches

CPU = torch.device("cpu")
TINY = load_preset("tiny")
PAPER = load_preset("paper").ldm


# Schedulers


def gaussian_denoiser(mean, std):
    """The best prediction of the noise in x = sqrt(a) x0 + sqrt(1 - a) noise, where x0 ~ N(mean, std^2)."""
    kept = signal_share(PAPER)

    def predict(noisy, steps):
        a = kept[steps].view(-1, *[1] * (noisy.ndim - 1))
        return (1 - a).sqrt() * (noisy - a.sqrt() * mean) / (a * std**2 + 1 - a)

    return predict


def gaussian_samples(sampler, steps, std, mean=0.7):
    return draw(gaussian_denoiser(mean, std), (1, 24, 24, 24), sampler, steps, PAPER, range(8), CPU)


@pytest.mark.parametrize("std", [0.5, 1.0, 1.5])
@pytest.mark.parametrize(("sampler", "steps"), [("ddpm", 1000), ("ddim", 250), ("dpm-solver++", 25),
                                                ("dpm-solver++", 50), ("dpm-solver++", 200)])
def test_sampler_reproduces_a_gaussian(sampler, steps, std):
    samples = gaussian_samples(sampler, steps, std)
    assert samples.mean().item() == pytest.approx(0.7, abs=0.02 * max(std, 1))
    assert samples.std().item() == pytest.approx(std, rel=0.03)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [61, 150, 201, 600, 999])
def test_steps_need_not_divide_the_time_steps(sampler, steps):
    """A sampler that takes whole steps of 1000 // steps ends before the noise does: the mean is far too small."""
    assert gaussian_samples(sampler, steps, 0.5).mean().item() == pytest.approx(0.7, abs=0.02)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("steps", [61, 103, 201, 999])
def test_as_many_steps_are_taken_as_asked_for_and_none_too_many(sampler, steps):
    """diffusers takes one more, below 0, of some numbers of steps; DDPM then ends far too narrow."""
    assert gaussian_samples(sampler, steps, 1.0).std().item() == pytest.approx(1.0, rel=0.06)


def test_few_steps_of_ddim_are_narrow_where_latents_are_narrow():
    """Known, and said where the choice is made: the reason why DPM-Solver++ is the better one for few steps."""
    assert gaussian_samples("ddim", 50, 1.0).std().item() == pytest.approx(1.0, rel=0.05)
    assert 0.88 < gaussian_samples("ddim", 50, 0.5).std().item() / 0.5 < 0.95


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_latents_are_not_clipped(sampler):
    """Latents reach beyond [-1, 1], the range to which schedulers for images cut them off."""
    assert gaussian_samples(sampler, 50, 1.5, mean=4.0).mean().item() == pytest.approx(4.0, rel=0.03)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sample_does_not_depend_on_its_batch(sampler):
    predict = gaussian_denoiser(0.0, 1.0)
    together = draw(predict, (2, 4, 4, 4), sampler, 10, PAPER, [5, 6, 7], CPU)
    alone = draw(predict, (2, 4, 4, 4), sampler, 10, PAPER, [6], CPU)
    torch.testing.assert_close(together[1], alone[0], rtol=1e-5, atol=1e-6)
    assert not torch.equal(together[0], together[1])


def test_noise_schedule_is_the_samplers():
    ours, theirs = signal_share(PAPER), build_scheduler("ddpm", PAPER).alphas_cumprod
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)
    latents, noise = torch.randn(3, 4, 2, 2, 2), torch.randn(3, 4, 2, 2, 2)
    steps = torch.tensor([0, 400, 999])
    torch.testing.assert_close(add_noise(latents, noise, steps, PAPER),
                               build_scheduler("ddpm", PAPER).add_noise(latents, noise, steps), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("sampler", "steps"), [("euler", 10), ("ddim", 0), ("ddim", 1001)])
def test_impossible_samplers_are_refused(sampler, steps):
    with pytest.raises(NeoNetError) as caught:
        draw(gaussian_denoiser(0, 1), (1, 4, 4, 4), sampler, steps, PAPER, [0], CPU)
    assert caught.value.code == "BAD_ARGUMENT"


# Networks


def networks(seed=0):
    """A diffusion model that says something (many of its layers begin at zero) and its ControlNet, preset `tiny`."""
    torch.manual_seed(seed)
    autoencoder = build_autoencoder(TINY.vae)
    diffusion = LatentDiffusion(autoencoder.latent_channels, TINY.ldm)
    for parameter in diffusion.unet.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    control = build_control(autoencoder.latent_channels, TINY.ldm, TINY.controlnet, autoencoder.factor)
    return autoencoder.eval(), diffusion.eval(), control.eval()


def some_masks(count=2, seed=0):
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, 2, *TINY.crop.size), np.uint8)
    masks[:, 0, 4:28, 4:28, 2:14] = 1
    for mask in masks:
        x, y, z = rng.integers(6, 16), rng.integers(6, 16), rng.integers(3, 7)
        mask[1, x:x + 8, y:y + 8, z:z + 5] = 1
    return masks


def test_control_begins_as_no_control_to_the_bit():
    _, diffusion, control = networks()
    assert copy_encoder(diffusion, control) > 0
    noisy, steps, classes = torch.randn(2, 2, 8, 8, 4), torch.tensor([3, 900]), torch.tensor([1, UNKNOWN_CLASS])
    masks = torch.from_numpy(some_masks()).float()
    with torch.no_grad():
        free = diffusion(noisy, steps, classes)
        controlled = diffusion(noisy, steps, classes, control_residuals(control, noisy, steps, classes, masks, True))
    assert free.std() > 0.01
    assert torch.equal(free, controlled)


def test_the_whole_encoder_is_copied():
    _, diffusion, control = networks()
    count = copy_encoder(diffusion, control)
    copied, source = control.state_dict(), diffusion.unet.state_dict()
    shared = [name for name in copied if name in source]
    assert len(shared) == count
    assert all(torch.equal(copied[name], source[name]) for name in shared)
    assert {name.split(".")[0] for name in copied if name not in source} == {
        "controlnet_cond_embedding", "controlnet_down_blocks", "controlnet_mid_block"}
    assert {name.split(".")[0] for name in source if name not in copied} == {"up_blocks", "out"}


def test_a_control_of_other_widths_is_refused():
    """MONAI's own way would copy the tensors that happen to fit and say nothing."""
    autoencoder, diffusion, _ = networks()
    wider = TINY.ldm.model_copy(update={"channels": (8, 16)})
    other = build_control(autoencoder.latent_channels, wider, TINY.controlnet, autoencoder.factor)
    with pytest.raises(ValueError, match="not a copy"):
        copy_encoder(diffusion, other)


def test_a_mask_embedded_once_gives_the_same_as_at_every_step():
    _, _, control = networks()
    torch.nn.init.normal_(control.controlnet_cond_embedding.conv_out.conv.weight)
    torch.nn.init.normal_(control.controlnet_mid_block.conv.weight)
    noisy, steps, classes = torch.randn(2, 2, 8, 8, 4), torch.tensor([3, 900]), torch.tensor([0, 1])
    masks = torch.from_numpy(some_masks()).float()
    with torch.no_grad():
        embedding = control.controlnet_cond_embedding(masks)
        once = control_residuals(control, noisy, steps, classes, embedding, True)
        each = control_residuals(control, noisy, steps, classes, masks, True)
    assert embedding.shape[2:] == noisy.shape[2:]
    assert torch.equal(once[1], each[1]) and each[1].abs().sum() > 0


@pytest.mark.parametrize("change", ["ldm.channels=[6, 8]", "ldm.attention_levels=[true]", "ldm.head_channels=3"])
def test_networks_that_cannot_be_built_are_bad_presets(change):
    with pytest.raises(NeoNetError) as caught:
        LatentDiffusion(2, load_preset("tiny", [change]).ldm)
    assert caught.value.code == "BAD_PRESET"


def test_a_mask_embedding_of_another_factor_is_a_bad_preset():
    with pytest.raises(NeoNetError) as caught:
        build_control(2, TINY.ldm, load_preset("tiny", ["controlnet.channels=[4, 4, 4, 8]"]).controlnet, 4)
    assert caught.value.code == "BAD_PRESET"


def test_classes():
    assert classes_of(torch.tensor([-1, 0, 1])).tolist() == [UNKNOWN_CLASS, 0, 1]
    hidden = hide_classes(torch.ones(20_000, dtype=torch.int64), 0.1)
    share = (hidden == UNKNOWN_CLASS).double().mean().item()
    assert share == pytest.approx(0.1, abs=5 * math.sqrt(0.1 * 0.9 / 20_000))
    assert hide_classes(torch.ones(5, dtype=torch.int64), 0.0).tolist() == [1] * 5


# Latents and training


@pytest.fixture
def latents(prepared_blobs):
    autoencoder = build_autoencoder(TINY.vae)
    patches = cut_patches(prepared_blobs, TINY.crop)
    return CachedLatents(autoencoder, patches, True, CPU, Silent(), "test")


def test_cached_views_are_the_latents_of_flipped_patches(prepared_blobs):
    autoencoder = build_autoencoder(TINY.vae).eval()
    patches = cut_patches(prepared_blobs, TINY.crop)
    cached = CachedLatents(autoencoder, patches, True, CPU, Silent(), "test")
    for number, view in enumerate(VIEWS):
        batch = cached.batch([2], [number])
        flipped = torch.from_numpy(patches.images[2:3]).flip(view)
        with torch.no_grad():
            torch.testing.assert_close(batch.latents, autoencoder.encode_latents(flipped))
        assert np.array_equal(batch.masks[0], np.flip(patches.masks[2], [axis - 1 for axis in view]))


def test_statistics_standardise_the_training_latents(latents):
    diffusion = LatentDiffusion(2, TINY.ldm)
    diffusion.set_statistics(*latents.statistics())
    every = latents.latents.flatten(0, 1)
    standardised = diffusion.standardise(every)
    by_channel = standardised.transpose(0, 1).flatten(1)
    torch.testing.assert_close(by_channel.mean(1), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(by_channel.std(1), torch.ones(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(diffusion.restore(standardised), every, atol=1e-5, rtol=1e-4)


def test_each_patch_is_seen_once_an_epoch_and_epochs_differ(latents):
    def outcomes(epoch):
        return torch.cat([batch.outcomes for batch in latents.batches(0, epoch, 3)])

    assert sorted(outcomes(0).tolist()) == sorted(latents.outcomes.tolist())
    first, again, second = (torch.cat([b.latents for b in latents.batches(0, epoch, 3)]) for epoch in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_training_learns_to_predict_noise(latents, tmp_path):
    settings = TINY.ldm.model_copy(update={"epochs": 60, "batch_size": 4, "validate_every": 20})
    _, result = train_diffusion(latents, latents, settings, tmp_path, 0, CPU, Silent(), "ldm")
    figures = [record["noise_error"] for record in result.history if "noise_error" in record]
    assert figures[-1] < 0.9, "an error of 1 is that of predicting nothing"
    assert figures[-1] < figures[0]


def test_control_trains_alone(latents, tmp_path):
    """The diffusion model stays as it was, bit by bit, and ControlNet moves away from nothing."""
    _, diffusion, _ = networks()
    diffusion.set_statistics(*latents.statistics())
    before = {name: tensor.clone() for name, tensor in diffusion.state_dict().items()}
    control, _ = train_control(diffusion, latents, latents, TINY.controlnet, 4, tmp_path, 0, CPU, Silent(), "control")
    assert all(torch.equal(tensor, before[name]) for name, tensor in diffusion.state_dict().items())
    assert control.controlnet_mid_block.conv.weight.abs().sum() > 0


# Generator


def generate(generator, masks, classes=(1, 1), seeds=(3, 4), **options):
    return generator.generate(masks, classes, seeds, **{"sampler": "dpm-solver++", "steps": 4} | options)


def trained_looking(seed=0):
    """A generator whose ControlNet has an effect, without training."""
    autoencoder, diffusion, control = networks(seed)
    copy_encoder(diffusion, control)
    for part in (control.controlnet_cond_embedding.conv_out, control.controlnet_mid_block,
                 *control.controlnet_down_blocks):
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return Generator(autoencoder, diffusion, control, TINY.crop.size, CPU)


def test_same_seed_same_patch():
    generator = trained_looking()
    first, again = generate(generator, some_masks()), generate(generator, some_masks())
    assert np.array_equal(first, again)
    assert not np.array_equal(first, generate(generator, some_masks(), seeds=(5, 6)))
    assert first.shape == (2, 1, *TINY.crop.size) and first.dtype == np.float32
    assert first.min() >= 0 and first.max() <= 1


def test_masks_and_classes_matter():
    generator = trained_looking()
    plain = generate(generator, some_masks())
    assert not np.array_equal(plain, generate(generator, some_masks(seed=1)))
    assert not np.array_equal(plain, generate(generator, some_masks(), classes=(0, 0)))
    guided = generate(generator, some_masks(), guidance=3.0)
    assert not np.array_equal(plain, guided)


def test_without_control_masks_do_not_matter():
    autoencoder, diffusion, _ = networks()
    free = Generator(autoencoder, diffusion, None, TINY.crop.size, CPU)
    assert np.array_equal(generate(free, some_masks()), generate(free, some_masks(seed=1)))


def test_batches_are_bounded_by_the_memory_that_is_free(monkeypatch):
    generator = trained_looking()
    assert generator.most_at_once(4) == 4
    need = generator._bytes_a_sample()
    assert need > TINY.crop.size[0] * TINY.crop.size[1] * TINY.crop.size[2] * 4 * 2
    for free, expected in ((need, 1), (10 * need, 5), (0, 1)):
        monkeypatch.setattr("psutil.virtual_memory", lambda free=free: type("Memory", (), {"available": free})())
        assert generator.most_at_once(100_000) == expected


def test_values_that_are_no_numbers_are_not_handed_out():
    with pytest.raises(NeoNetError) as caught:
        generate(trained_looking(), some_masks(), guidance=1e38)
    assert caught.value.code == "NOT_FINITE"


def test_guidance_goes_from_the_unconditional_through_the_conditional_noise(monkeypatch):
    """Ho & Salimans 2022, equation 6: 0 is the unknown class, 1 the class alone, and more goes on in that direction."""
    noises = {}

    def once(predict, shape, sampler, steps, settings, seeds, *_):
        noises["now"] = predict(torch.ones(len(seeds), *shape), torch.full((len(seeds),), 500))
        return torch.zeros(len(seeds), *shape)

    monkeypatch.setattr("neonet_core.generation.generator.draw", once)
    generator = trained_looking()

    def noise(guidance, classes=(1, 1)):
        generate(generator, some_masks(), classes, guidance=guidance)
        return noises["now"]

    unconditional, conditional = noise(1.0, (None, None)), noise(1.0)
    assert not torch.equal(unconditional, conditional)
    torch.testing.assert_close(noise(0.0), unconditional, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(noise(3.0), 3 * conditional - 2 * unconditional, rtol=1e-4, atol=1e-5)


def test_guidance_needs_classes():
    autoencoder = build_autoencoder(TINY.vae)
    settings = TINY.ldm.model_copy(update={"class_embedding": False})
    generator = Generator(autoencoder, LatentDiffusion(2, settings), None, TINY.crop.size, CPU)
    with pytest.raises(NeoNetError) as caught:
        generate(generator, some_masks(), guidance=2.0)
    assert caught.value.code == "BAD_ARGUMENT"


@pytest.mark.parametrize(("spoil", "code"), [
    (lambda masks: masks[:, :, :-1], "BAD_MASK"),
    (lambda masks: masks[:, :1], "BAD_MASK"),
    (lambda masks: masks[0], "BAD_MASK"),
    (lambda masks: masks * 2, "BAD_MASK"),
    (lambda masks: masks[:, ::-1].copy(), "BAD_MASK"),
    (lambda masks: masks * np.array([1, 0], np.uint8).reshape(1, 2, 1, 1, 1), "EMPTY_TUMOUR"),
], ids=["shape", "channels", "axes", "labels", "tumour outside", "no tumour"])
def test_wrong_masks_are_said(spoil, code):
    with pytest.raises(NeoNetError) as caught:
        generate(trained_looking(), spoil(some_masks()))
    assert caught.value.code == code


# What the network predicts


@pytest.mark.parametrize("prediction", ["noise", "velocity"])
def test_the_right_output_gives_the_noise_back(prediction):
    settings = TINY.ldm.model_copy(update={"prediction": prediction})
    diffusion = LatentDiffusion(2, settings)
    latents, noise, steps = torch.randn(3, 2, 4, 4, 4), torch.randn(3, 2, 4, 4, 4), torch.tensor([0, 500, 999])
    noisy = add_noise(latents, noise, steps, settings)
    output = diffusion.target(latents, noise, steps)
    torch.testing.assert_close(diffusion.noise_of(output, noisy, steps), noise, rtol=1e-4, atol=1e-5)


def test_an_error_in_the_velocity_does_not_grow_at_the_noisiest_steps():
    """x0 = (noisy - sqrt(1 - a) noise) / sqrt(a): an error in the noise is divided by a small sqrt(a)."""
    latents, noise, steps = torch.randn(1, 2, 4, 4, 4), torch.randn(1, 2, 4, 4, 4), torch.tensor([999])
    signal, spread = signal_and_noise(steps, PAPER, latents)
    errors = {}
    for prediction in ("noise", "velocity"):
        diffusion = LatentDiffusion(2, TINY.ldm.model_copy(update={"prediction": prediction}))
        noisy = add_noise(latents, noise, steps, PAPER)
        found = diffusion.noise_of(diffusion.target(latents, noise, steps) + 0.1, noisy, steps)
        errors[prediction] = ((noisy - spread * found) / signal - latents).abs().mean().item()
    assert errors["velocity"] < 0.11 and errors["noise"] > 5 * errors["velocity"]
