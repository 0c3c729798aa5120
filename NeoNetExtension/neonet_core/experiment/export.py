"""From a training run to a bundle."""

from __future__ import annotations

import re
import shutil
import uuid
from pathlib import Path
from typing import Any

import torch

from neonet_core import __version__
from neonet_core.bundle import NAME_PATTERN, Bundle, BundleRecord, Member, ModelCard, load_bundle
from neonet_core.classification.pattennet import PattenNet
from neonet_core.errors import NeoNetError
from neonet_core.experiment.graph import classifier_stage, segmentor_stage
from neonet_core.experiment.run import Run
from neonet_core.experiment.summary import summarise
from neonet_core.generation.autoencoder import FeatureEncoder, LatentDecoder, build_autoencoder
from neonet_core.generation.controlnet import build_control
from neonet_core.generation.diffusion import LatentDiffusion
from neonet_core.presets import Preset
from neonet_core.segmentation.networks import NETWORKS, build_segmentor
from neonet_core.training.checkpoint import load_weights, save_weights
from neonet_core.training.files import sha256_of_file, write_json


def export_bundle(run: Run, out: Path, *, name: str, card: ModelCard, version: str = "1.0",
                  half: bool = False, ratio: int = 0) -> Bundle:
    """Make a bundle of the folds of a run that are trained whole.

    Parameters
    ----------
    run : Run
    out : Path
        The bundle's folder; must not exist. It appears whole or not at all.
    half : bool
        Store weights in half precision; they are computed with in single precision all the same.
    ratio : int
        Which NeoCls: that trained on real cases (0), or with this percentage of synthetic ones.

    Raises
    ------
    NeoNetError
        ``NOTHING_TRAINED`` where no fold has a finished stage; ``MIXED_SETTINGS`` where stages do not belong together;
        ``SEVERAL_SEGMENTORS``; ``EXISTS``; ``BAD_ARGUMENT`` for a name that cannot be one.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise NeoNetError("BAD_ARGUMENT", f"'{name}' cannot be a bundle's name.", "Use up to 40 letters, digits, '.', "
                          "'_' and '-', with --name.")
    if out.exists():
        raise NeoNetError("EXISTS", f"{out} is there already.", "Choose another folder, or remove it first.")
    settings, preset = run.settings(), _preset_of(run)
    temporary = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.part")
    temporary.mkdir(parents=True)
    try:
        members, hashes = [], {}
        for fold in run.fold_numbers():
            member = _export_member(run, preset, fold, temporary, half, classifier_stage(ratio=ratio))
            if member is not None:
                members.append(member)
        members = _complete(members)
        if not members:
            raise NeoNetError("NOTHING_TRAINED", f"{run.folder} holds no finished stage.", "Run 'neonet train' first.")
        for path in sorted(temporary.rglob("*.safetensors")):
            file = path.relative_to(temporary).as_posix()
            if any(file in member.files for member in members):
                hashes[file] = sha256_of_file(path)
            else:
                path.unlink()
        summary = summarise(run, classifier_stage(ratio=ratio))
        record = BundleRecord(name=name, version=version, neonet=__version__, outcome=settings["outcome"],
                              preset=preset, members=tuple(members), hashes=hashes, card=card,
                              out_of_fold=summary.out_of_fold,
                              threshold=summary.threshold, metrics=summary.metrics, ranges=summary.ranges)
        write_json(temporary / "bundle.json", record.model_dump(mode="json"))
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return load_bundle(out)


def _export_member(run: Run, preset: Preset, fold: int, folder: Path, half: bool, classifier: str) -> Member | None:
    stages = {"seg": segmentor_stage(preset), "encoder": "vae", "cls": classifier}
    if run.done(fold, "controlnet-vae") is not None:
        stages |= {"decoder": "vae", "ldm": "ldm-vae", "controlnet": "controlnet-vae"}
    values: dict[str, Any] = {}
    figures: dict[str, Any] = {}
    for part, stage in stages.items():
        done = run.done(fold, stage)
        if done is None:
            continue
        if run.current(fold, stage) is None:
            raise NeoNetError("MIXED_SETTINGS", f"Fold {fold} {stage} was trained with other settings, on another "
                              "split or on another encoder than the run has now.",
                              "Give 'neonet train' once more, for all folds, with the settings that you want.")
        file = f"fold-{fold}/{part}.safetensors"
        network = _trained_network(part, preset, run.stage_folder(fold, stage) / "weights.safetensors")
        save_weights(folder / file, network, half)
        values[part] = file
        if part == "seg":
            values["seg_spacing"] = done["figures"]["spacing"]
        figures |= {key: done["figures"][key] for key in ("dice_liver", "dice_tumour", "auc") if key in done["figures"]}
    parts = run.parts(fold)
    if not values or parts is None:
        return None
    # the crop's grid also where no stage that needs it is trained: `neonet crop --bundle` asks for it
    return Member(fold=fold, figures=figures, crop_spacing=parts["spacing"]["crop"], **values)


def _preset_of(run: Run) -> Preset:
    """The run's preset, with the segmentation network that was trained where ``--models`` named another."""
    preset = run.preset()
    trained = [name for name in NETWORKS
               if any(run.done(fold, segmentor_stage(preset, name)) for fold in run.fold_numbers())]
    if not trained or preset.seg.network in trained:
        return preset
    if len(trained) > 1:
        raise NeoNetError("SEVERAL_SEGMENTORS", f"The run holds {', '.join(trained)}; its preset names none of them.",
                          "Give 'neonet train' with --set seg.network=NAME to choose one.")
    return preset.model_copy(update={"seg": preset.seg.model_copy(update={"network": trained[0]})})


def _trained_network(part: str, preset: Preset, weights: Path) -> torch.nn.Module:
    if part in ("encoder", "decoder"):
        autoencoder = build_autoencoder(preset.vae)
        load_weights(weights, autoencoder)
        return FeatureEncoder(autoencoder) if part == "encoder" else LatentDecoder(autoencoder)
    network: torch.nn.Module
    if part == "seg":
        network = build_segmentor(preset.seg)
    elif part == "ldm":
        network = LatentDiffusion(preset.vae.latent_channels, preset.ldm)
    elif part == "controlnet":
        network = build_control(preset.vae.latent_channels, preset.ldm, preset.controlnet,
                                build_autoencoder(preset.vae).factor)
    else:
        network = PattenNet(2 * preset.vae.channels[-1], preset.cls)
    load_weights(weights, network)
    return network


def _complete(members: list[Member]) -> list[Member]:
    """The members that have the same parts as the most complete one: an ensemble needs equals. (A generator is none:
    each sample is drawn by one member.)"""
    def parts(member: Member) -> tuple[bool, ...]:
        return member.seg is not None, member.encoder is not None, member.cls is not None

    best = max(map(parts, members), key=sum, default=())
    return [member for member in members if parts(member) == best]
