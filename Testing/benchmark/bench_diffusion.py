"""What caching latents and few sampling steps save, as ratios in one run, and what a sample of the paper's size costs.

    python Testing/benchmark/bench_diffusion.py [--preset paper] [--device auto] [--runs 3]

Prints a table: a U-Net step on cached latents against one that encodes anew; DDIM-50 against DDPM-1000 (the networks of
the preset `smoke`, whole samples); seconds a sample and peak memory for the networks of `--preset`.
"""

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from neonet_core.generation.autoencoder import build_autoencoder
from neonet_core.generation.controlnet import build_control
from neonet_core.generation.diffusion import LatentDiffusion, noised
from neonet_core.generation.generator import Generator
from neonet_core.presets import Preset, load_preset
from neonet_core.training.device import choose_device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    device = choose_device(options.device)
    paper, smoke = load_preset(options.preset), load_preset("smoke")
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"on {where}, torch {torch.__version__}")
    seconds = sample_time(paper, device, "ddim", 50)  # first: the peak of memory is then that of sampling
    print(f"sample, preset {paper.name}, DDIM-50 with ControlNet: {seconds:.1f} s, peak memory "
          f"{peak_memory_gb(device):.2f} GB")
    cached, encoding = step_times(paper, device, options.runs)
    print(f"U-Net step, preset {paper.name}, batch {paper.ldm.batch_size}: cached latents {cached:.3f} s, encoding "
          f"anew {encoding:.3f} s, ratio {encoding / cached:.2f} (goal: 2)")
    few, many = (sample_time(smoke, device, sampler, steps) for sampler, steps in (("ddim", 50), ("ddpm", 1000)))
    print(f"sample, preset smoke: DDIM-50 {few:.2f} s, DDPM-1000 {many:.2f} s, ratio {many / few:.1f} (goal: 18)")


def generator_of(preset: Preset, device: torch.device) -> Generator:
    """An untrained generator: the time does not depend on the weights."""
    autoencoder = build_autoencoder(preset.vae)
    diffusion = LatentDiffusion(autoencoder.latent_channels, preset.ldm)
    control = build_control(autoencoder.latent_channels, preset.ldm, preset.controlnet, autoencoder.factor)
    return Generator(autoencoder, diffusion, control, preset.crop.size, device)


def step_times(preset: Preset, device: torch.device, runs: int) -> tuple[float, float]:
    """Median seconds of a training step on cached latents and of one that encodes its batch first, taken in turns."""
    generator = generator_of(preset, device)
    diffusion = generator.diffusion.train()
    optimizer = torch.optim.AdamW(diffusion.parameters(), lr=1e-5)
    images = torch.rand(preset.ldm.batch_size, 1, *preset.crop.size, device=device)
    with torch.no_grad():
        latents = torch.cat([generator.autoencoder.encode_latents(image[None]) for image in images])
    classes = torch.zeros(len(images), dtype=torch.int64, device=device)

    def step(batch: torch.Tensor) -> None:
        target, steps, noisy = noised(diffusion, batch)
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.mse_loss(diffusion(noisy, steps, classes), target).backward()
        optimizer.step()

    def encode_and_step() -> None:
        with torch.no_grad():
            batch = torch.cat([generator.autoencoder.encode_latents(image[None]) for image in images])
        step(batch)

    step(latents)
    pairs = [(seconds_of(lambda: step(latents), device), seconds_of(encode_and_step, device)) for _ in range(runs)]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


def sample_time(preset: Preset, device: torch.device, sampler: str, steps: int) -> float:
    """Seconds of one sample with its mask, from noise to patch."""
    generator = generator_of(preset, device)
    masks = np.zeros((1, 2, *preset.crop.size), np.uint8)
    masks[:, :, 8:24, 8:24, 8:16] = 1
    generator.generate(masks, [1], [0], sampler=sampler, steps=2)
    return seconds_of(lambda: generator.generate(masks, [1], [0], sampler=sampler, steps=steps), device)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def peak_memory_gb(device: torch.device) -> float:
    """So far: on CUDA that of the device, else that of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)


if __name__ == "__main__":
    main()
