"""Our training steps against plain MONAI loops of the same networks, in turns on the same machine with the same batch.

    python Testing/benchmark/bench_plain_monai.py [--preset paper|smoke] [--runs 3] [--seconds 10] [--stages vae,cls]

The plain loops are what MONAI's tutorials teach: the default DataLoader, fp32 (TF32 on CUDA), the default memory
layout and attention, and a frozen autoencoder that encodes every batch anew. Ours are the project's own training
functions, as `neonet benchmark` measures them. Prints milliseconds for each case of an epoch, and the ratio of plain to
ours: median and range over the runs. PattenNet's goal is 20: an epoch on cached features against one through the
encoder; ours has the validation of a quarter as many cases in it.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from monai.data import DataLoader, Dataset
from monai.losses import DiceCELoss
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDPMScheduler
from monai.transforms import Compose, EnsureTyped, RandCropByPosNegLabeld, RandFlipd, RandShiftIntensityd

from neonet_core.classification.pattennet import PattenNet, masks_at
from neonet_core.experiment.benchmark import device_name, measure
from neonet_core.generation.autoencoder import FeatureEncoder, build_autoencoder
from neonet_core.generation.controlnet import build_control
from neonet_core.generation.diffusion import OUTCOMES, unet_arguments
from neonet_core.presets import Preset, load_preset
from neonet_core.segmentation.networks import build_segmentor
from neonet_core.training.device import choose_device

Step = Callable[[dict[str, torch.Tensor]], torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each stage, way and run")
    parser.add_argument("--stages", default=",".join(PLAIN))
    parser.add_argument("--network", help="of NeoSeg; default: the preset's")
    options = parser.parse_args()
    preset, device = load_preset(options.preset), choose_device(options.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    if options.network:
        preset = preset.model_copy(update={"seg": preset.seg.model_copy(update={"network": options.network})})
    print(f"preset {preset.name} on {device_name(device)}, {torch.get_num_threads()} CPU threads, "
          f"torch {torch.__version__}")
    for stage in options.stages.split(","):
        compare(stage, preset, device, options.runs, options.seconds)


def compare(stage: str, preset: Preset, device: torch.device, runs: int, seconds: float) -> None:
    """Measure a stage in turns and print one line."""
    ours, plain = [], []
    for _ in range(runs):
        ours.append(our_seconds(stage, preset, device, seconds))
        plain.append(plain_seconds(*PLAIN[stage](preset, device), device, seconds))
    ratios = [slow / fast for slow, fast in zip(plain, ours, strict=True)]
    name = f"seg ({preset.seg.network})" if stage == "seg" else stage
    print(f"{name:16} ours {1000 * statistics.median(ours):9.1f} ms, plain {1000 * statistics.median(plain):9.1f} ms, "
          f"ratio {statistics.median(ratios):6.2f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)


def our_seconds(stage: str, preset: Preset, device: torch.device, seconds: float) -> float:
    models = {"seg": (preset.seg.network,), "cls": ("PattenNet",)}.get(stage, ())
    measured = measure(preset, stages=(stage,), models=models, device=device.type, seconds_per_stage=seconds)
    assert not measured.failures, measured.failures
    return measured.times[0].seconds_per_case


def plain_seconds(loader: DataLoader, parameters: list[torch.nn.Parameter], loss: Step, device: torch.device,
                  seconds: float) -> float:
    """Seconds for each case of an epoch; the first epoch, a single batch, does not count."""
    optimizer = torch.optim.AdamW([p for p in parameters if p.requires_grad], lr=1e-5)
    times: list[float] = []
    while len(times) < 2 or sum(times[1:]) < seconds:
        began, cases = time.perf_counter(), 0
        for batch in loader:
            batch = {key: value.to(device) for key, value in batch.items()}
            optimizer.zero_grad()
            value = loss(batch)
            value.backward()
            optimizer.step()
            value.item()  # the tutorials print the running loss
            cases += len(batch["image"])
        times.append((time.perf_counter() - began) / cases)
    return statistics.median(times[1:])


def patch_loader(preset: Preset, batch_size: int) -> DataLoader:
    size, rng = preset.crop.size, np.random.default_rng(0)
    mask = torch.zeros(2, *size)
    mask[:, size[0] // 3 : -size[0] // 3, size[1] // 3 : -size[1] // 3, size[2] // 3 : -size[2] // 3] = 1
    cases = [{"image": torch.from_numpy(rng.random((1, *size), np.float32)), "mask": mask,
              "outcome": torch.tensor(float(index % 2))} for index in range(batch_size)]
    return DataLoader(Dataset(cases), batch_size=batch_size, shuffle=True)


def segmentor(preset: Preset, device: torch.device) -> tuple[DataLoader, list[torch.nn.Parameter], Step]:
    settings, rng = preset.seg, np.random.default_rng(0)
    network, criterion = build_segmentor(settings).to(device), DiceCELoss(to_onehot_y=True, softmax=True)
    labels = torch.zeros(1, *settings.patch_size)
    labels[:, 8:-8, 8:-8, 4:-4], labels[:, 12:-12, 12:-12, 6:-6] = 1, 2
    cases = [{"image": torch.from_numpy(rng.random((1, *settings.patch_size), np.float32)), "label": labels}
             for _ in range(settings.batch_size)]
    augment = Compose([
        RandCropByPosNegLabeld(("image", "label"), "label", settings.patch_size, num_samples=1),
        *(RandFlipd(("image", "label"), prob=0.1, spatial_axis=axis) for axis in range(3)),
        RandShiftIntensityd("image", offsets=0.1, prob=0.5), EnsureTyped(("image", "label"), track_meta=False)])
    loader = DataLoader(Dataset(cases, augment), batch_size=settings.batch_size, shuffle=True)
    return loader, list(network.parameters()), lambda batch: criterion(network(batch["image"]), batch["label"])


def autoencoder(preset: Preset, device: torch.device) -> tuple[DataLoader, list[torch.nn.Parameter], Step]:
    network = build_autoencoder(preset.vae).to(device)

    def loss(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        image = batch["image"]
        reconstruction, mean, sigma = network(image)
        kl = 0.5 * (mean.pow(2) + sigma.pow(2) - torch.log(sigma.pow(2)) - 1).sum(dim=(1, 2, 3, 4)).mean()
        return torch.nn.functional.l1_loss(reconstruction, image) + preset.vae.kl_weight * kl

    return patch_loader(preset, preset.vae.batch_size), list(network.parameters()), loss


def diffusion(preset: Preset, device: torch.device) -> tuple[DataLoader, list[torch.nn.Parameter], Step]:
    encoder, unet, add_noise, extra = frozen_parts(preset, device)

    def loss(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        noisy, noise, steps = add_noise(encoder, batch["image"])
        return torch.nn.functional.mse_loss(unet(noisy, steps, **extra(batch)), noise)

    return patch_loader(preset, preset.ldm.batch_size), list(unet.parameters()), loss


def control(preset: Preset, device: torch.device) -> tuple[DataLoader, list[torch.nn.Parameter], Step]:
    encoder, unet, add_noise, extra = frozen_parts(preset, device)
    unet.requires_grad_(False)
    network = build_control(encoder.latent_channels, preset.ldm, preset.controlnet, encoder.factor).to(device)

    def loss(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        noisy, noise, steps = add_noise(encoder, batch["image"])
        skips, middle = network(noisy, steps, controlnet_cond=batch["mask"], **extra(batch))
        return torch.nn.functional.mse_loss(unet(noisy, steps, down_block_additional_residuals=skips,
                                                 mid_block_additional_residual=middle, **extra(batch)), noise)

    return patch_loader(preset, preset.controlnet.batch_size), list(network.parameters()), loss


def frozen_parts(preset: Preset, device: torch.device) -> tuple:
    """Autoencoder, U-Net, the noising of a batch of images, and the class where the preset tells it."""
    encoder = build_autoencoder(preset.vae).to(device).eval()
    arguments = unet_arguments(encoder.latent_channels, preset.ldm) | {"use_flash_attention": False}
    unet = DiffusionModelUNet(**arguments, out_channels=encoder.latent_channels).to(device)
    scheduler = DDPMScheduler(num_train_timesteps=preset.ldm.timesteps, schedule="scaled_linear_beta",
                              beta_start=preset.ldm.beta_start, beta_end=preset.ldm.beta_end)

    def add_noise(network: torch.nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            latents = network.encode_stage_2_inputs(images)
        noise = torch.randn_like(latents)
        steps = torch.randint(preset.ldm.timesteps, (len(latents),), device=device)
        return scheduler.add_noise(original_samples=latents, noise=noise, timesteps=steps), noise, steps

    def extra(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"class_labels": batch["outcome"].long() % OUTCOMES} if preset.ldm.class_embedding else {}

    return encoder, unet, add_noise, extra


def pattennet(preset: Preset, device: torch.device) -> tuple[DataLoader, list[torch.nn.Parameter], Step]:
    encoder = FeatureEncoder(build_autoencoder(preset.vae)).to(device).eval()
    network = PattenNet(2 * preset.vae.channels[-1], preset.cls).to(device)

    def loss(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        t1, t2 = (batch["image"] * batch["mask"]).split(1, dim=1)
        with torch.no_grad():
            features = torch.cat([encoder(t1), encoder(t2)], dim=1)
        masks = masks_at(batch["mask"], features.shape[2:])
        return torch.nn.functional.binary_cross_entropy_with_logits(network(features, masks), batch["outcome"])

    return patch_loader(preset, preset.cls.batch_size), list(network.parameters()), loss


PLAIN = {"seg": segmentor, "vae": autoencoder, "ldm": diffusion, "controlnet": control, "cls": pattennet}


if __name__ == "__main__":
    main()
