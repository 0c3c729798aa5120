"""The networks that a run has trained, fold by fold, with their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from neonet_core.experiment.graph import segmentor_settings, segmentor_stage
from neonet_core.experiment.run import Run
from neonet_core.presets import Preset
from neonet_core.segmentation.networks import NETWORKS, build_segmentor
from neonet_core.training.checkpoint import load_weights

if TYPE_CHECKING:
    from neonet_core.generation.autoencoder import Autoencoder
    from neonet_core.generation.diffusion import LatentDiffusion
    from neonet_core.generation.generator import Generator

WEIGHTS = "weights.safetensors"


def trained_segmentors(run: Run) -> list[str]:
    """The segmentation networks that are done in any fold and belong to the run; the preset's first.

    ``--models`` may have named others than the preset's.
    """
    preset = run.preset()
    names = dict.fromkeys([preset.seg.network, *NETWORKS])
    return [name for name in names
            if any(run.current(fold, segmentor_stage(preset, name)) for fold in run.fold_numbers())]


def own_segmentor(run: Run) -> str:
    """The network by which a run segments: the preset's, or else the first that it has trained."""
    return next(iter(trained_segmentors(run)), run.preset().seg.network)


def own_segmentor_stage(run: Run) -> str:
    """The stage of `own_segmentor`."""
    return segmentor_stage(run.preset(), own_segmentor(run))


def load_segmentor(run: Run, preset: Preset, fold: int, stage: str | None = None) -> torch.nn.Module:
    """NeoSeg of a fold, in evaluation mode; without a stage the preset's network."""
    stage = stage or segmentor_stage(preset)
    network = build_segmentor(segmentor_settings(stage, preset))
    load_weights(run.stage_folder(fold, stage) / WEIGHTS, network)
    return network.eval()


def load_autoencoder(run: Run, preset: Preset, fold: int, kind: str) -> Autoencoder:
    """The trained autoencoder of a fold; `kind` is ``vae`` or ``vqvae``."""
    from neonet_core.generation.autoencoder import build_autoencoder

    autoencoder = build_autoencoder(getattr(preset, kind))
    load_weights(run.stage_folder(fold, kind) / WEIGHTS, autoencoder)
    return autoencoder


def load_diffusion(run: Run, preset: Preset, fold: int, kind: str) -> LatentDiffusion:
    """The diffusion model of a fold that was trained on that autoencoder's latents."""
    from neonet_core.generation.diffusion import LatentDiffusion

    diffusion = LatentDiffusion(getattr(preset, kind).latent_channels, preset.ldm)
    load_weights(run.stage_folder(fold, f"ldm-{kind}") / WEIGHTS, diffusion)
    return diffusion


def load_generator(run: Run, preset: Preset, fold: int, kind: str, device: torch.device) -> Generator:
    """NeoGen (``vae``) or QNeoGen (``vqvae``) of a fold, with its ControlNet."""
    from neonet_core.generation.controlnet import build_control
    from neonet_core.generation.generator import Generator

    autoencoder = load_autoencoder(run, preset, fold, kind)
    control = build_control(autoencoder.latent_channels, preset.ldm, preset.controlnet, autoencoder.factor)
    load_weights(run.stage_folder(fold, f"controlnet-{kind}") / WEIGHTS, control)
    return Generator(autoencoder, load_diffusion(run, preset, fold, kind), control, preset.crop.size, device)
