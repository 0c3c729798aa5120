"""The stages of a fold as a graph: which there are, what each needs, and the settings that shape it.

A stage's name says what it trains: ``seg-unet``, ``vae``, ``ldm-vae``, ``cls-densenet-121-rs50``. Nothing here looks
at a run's files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from neonet_core.classification.names import ABLATIONS, BASELINE_NAMES, CLASSIFIERS, CONTROLS, VARIANTS, VOLUME
from neonet_core.errors import NeoNetError
from neonet_core.presets import AutoencoderSettings, Preset, SegSettings
from neonet_core.segmentation.networks import NETWORKS

AUTOENCODERS = {"vae": "NeoGen", "vqvae": "QNeoGen"}
"""The autoencoders' stages, and what the paper calls the generator that is built on each."""


def section_of(stage: str) -> str:
    """The stage of the command line that a stage belongs to: ``ldm`` for ``ldm-vqvae``."""
    return stage.partition("-")[0]


def segmentor_stage(preset: Preset, network: str | None = None) -> str:
    """The stage of a segmentation network; None: the preset's."""
    return f"seg-{(network or preset.seg.network).lower()}"


def classifier_stage(model: str = "PattenNet", ratio: int = 0) -> str:
    """The stage of a classifier trained on real cases (R) and `ratio` % of the synthetic ones (R+S)."""
    return f"cls-{model.lower()}" + (f"-rs{ratio}" if ratio else "")


def classifier_of(stage: str) -> tuple[str, int]:
    """Name and ratio of a classifier's stage."""
    found = re.fullmatch(r"cls-(.+?)(?:-rs(\d+))?", stage)
    assert found is not None, stage
    return {name.lower(): name for name in CLASSIFIERS}[found[1]], int(found[2] or 0)


def segmentor_settings(stage: str, preset: Preset) -> SegSettings:
    """The preset's settings with the network of a stage ``seg-...``."""
    network = {name.lower(): name for name in NETWORKS}[stage.removeprefix("seg-")]
    return preset.seg.model_copy(update={"network": network})


def settings_of(stage: str, preset: Preset) -> dict[str, Any]:
    """The settings that a stage is trained with: where these differ, it has to be trained anew."""
    section = section_of(stage)
    if section == "seg":
        return segmentor_settings(stage, preset).model_dump()
    if section == "cls":
        model, _ = classifier_of(stage)
        if model in VARIANTS:
            return preset.cls.model_copy(update=VARIANTS[model]).model_dump()
        return {} if model == VOLUME else preset.baseline.model_dump()
    return getattr(preset, section).model_dump()


def needs(stage: str, preset: Preset) -> tuple[str, ...]:
    """The stages of the same fold whose outputs go into this one."""
    section, _, kind = stage.partition("-")
    if section in AUTOENCODERS:
        settings: AutoencoderSettings = getattr(preset, section)
        return (segmentor_stage(preset),) if settings.perceptual_weight > 0 else ()
    if section == "cls":
        model, ratio = classifier_of(stage)
        return (("vae",) if model in VARIANTS else ()) + (("synth-vae",) if ratio else ())
    return {"ldm": (kind,), "controlnet": (kind, f"ldm-{kind}"),
            "synth": (kind, f"ldm-{kind}", f"controlnet-{kind}")}.get(section, ())


def stages_of_fold(preset: Preset, stages: Sequence[str], models: Sequence[str], ratios: Sequence[int],
                   trained: Sequence[str] = ()) -> list[str]:
    """All stages that are asked for, each after those that it needs.

    Parameters
    ----------
    stages : sequence of str
        Out of `presets.STAGES`.
    models : sequence of str
        Segmentation networks and classifiers. None of a kind: the preset's network; PattenNet.
    ratios : sequence of int
        Of R+S, in percent. Controls are trained on real cases only, ablations at the highest ratio only.
    trained : sequence of str
        The autoencoders that are there already: without one in `stages`, diffusion is trained on these.

    Raises
    ------
    NeoNetError
        ``BAD_ARGUMENT`` for an unknown model.
    """
    segmentors, classifiers = split_models(models, preset)
    names = []
    if "seg" in stages:
        names += [segmentor_stage(preset, network) for network in segmentors]
    kinds = [kind for kind in AUTOENCODERS if kind in stages]
    names += kinds
    kinds = kinds or [kind for kind in AUTOENCODERS if kind in trained] or ["vae"]
    names += [f"{stage}-{kind}" for stage in ("ldm", "controlnet", "synth") if stage in stages for kind in kinds]
    if "cls" in stages:
        names += [classifier_stage(model, ratio) for model in classifiers
                  for ratio in _ratios_of(model, ratios)]
    return names


def split_models(models: Sequence[str], preset: Preset) -> tuple[list[str], list[str]]:
    """Segmentation networks and classifiers out of a list of both; PattenNet with the preset's own number of dual
    attention blocks is PattenNet itself. Raises ``BAD_ARGUMENT``."""
    for model in models:
        if model not in NETWORKS and model not in CLASSIFIERS:
            raise NeoNetError("BAD_ARGUMENT", f"There is no model '{model}'.",
                              f"Choose from {', '.join([*NETWORKS, *CLASSIFIERS])}.")
    itself = f"PattenNet-{preset.cls.dual_attention_blocks}"
    segmentors = [model for model in models if model in NETWORKS] or [preset.seg.network]
    classifiers = ["PattenNet" if model == itself else model for model in models if model in CLASSIFIERS]
    return list(dict.fromkeys(segmentors)), list(dict.fromkeys(classifiers or ["PattenNet"]))


def _ratios_of(model: str, ratios: Sequence[int]) -> Sequence[int]:
    if model in CONTROLS:
        return (0,)
    return (max(ratios),) if model in ABLATIONS else ratios


def baselines_of(models: Sequence[str]) -> list[str]:
    """Those of `models` that are trained without an encoder."""
    return [model for model in models if model in BASELINE_NAMES]
