"""Typed settings of an experiment, read from ``resources/presets/*.yaml`` or a user's own file.

A preset is complete: every number that shapes a result stands in it, and a copy of it lies in every run folder and
bundle. ``--set seg.epochs=20`` changes one value; the types and ranges here say what is allowed.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from neonet_core.errors import NeoNetError

Count = Annotated[int, Field(gt=0)]
Millimetres = Annotated[float, Field(gt=0, allow_inf_nan=False)]

Spacing = Literal["native", "median"] | tuple[Millimetres, Millimetres, Millimetres]
"""The grid on which a network works: each case's own, the median of the fold's training cases, or millimetres."""

Size = tuple[Count, Count, Count]
Channels = Annotated[tuple[Count, ...], Field(min_length=1)]


class Settings(BaseModel):
    """Base of all settings: unknown keys are errors, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Training(Settings):
    """What the one training loop needs to know of a stage."""

    epochs: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(0.01, ge=0)
    schedule: Literal["constant", "cosine"] = "constant"
    validate_every: int = Field(1, gt=0)
    patience: int | None = Field(None, gt=0)
    """Epochs without a better validation value after which training stops; None: never."""
    ema_decay: float | None = Field(None, gt=0, lt=1)
    clip_gradient: float | None = Field(None, gt=0)


class SegSettings(Training):
    """NeoSeg."""

    network: Literal["UNet", "SegResNet", "DynUNet", "SwinUNETR"] = "SwinUNETR"
    channels: Channels | None = None
    """Feature channels, level by level; None: the network's published size."""
    spacing: Spacing = "native"
    patch_size: Size = (96, 96, 96)
    patches_per_case: int = Field(1, gt=0)
    """Patches drawn from each case in an epoch."""
    tumour_share: float = Field(0.5, ge=0, le=1)
    """Share of the patches that are centred on a tumour voxel; half of the rest is centred on the liver."""
    augment: bool = True
    overlap: float = Field(0.25, ge=0, lt=1)
    """Overlap of neighbouring windows at inference, as a share of the patch."""


class VaeSettings(Training):
    """The autoencoder of NeoGen, whose encoder PattenNet reads."""

    channels: Channels = (32, 64, 128)
    residual_blocks: int = Field(2, gt=0)
    latent_channels: int = Field(4, gt=0)
    norm_groups: int = Field(32, gt=0)
    kl_weight: float = Field(1e-7, ge=0)
    mask_inputs: bool = False
    """Mask each patch at random (not at all, liver and tumour, tumour), as PattenNet will meet them (DESIGN, 6)."""
    flips: bool = False


class ClsSettings(Training):
    """NeoCls."""

    dual_attention_blocks: int = Field(2, ge=0)
    reduction: int = Field(16, gt=0)
    """Width of the channel attention's MLP: channels / reduction (CBAM's value)."""
    hidden: int = Field(128, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    pooling: Literal["global", "masks"] = "global"
    """Over the whole patch (the paper), or within each of the two masks; see `PattenNet`."""
    vary_masks_mm: float = Field(0.0, ge=0)
    """By how much the tumour's border varies between the cached views, as segmentations do; 0: not at all."""
    flips: bool = True
    """Train on all eight mirrored views, whose features are cached once."""


class CropSettings(Settings):
    """TLCR (Algorithm 1)."""

    size: Size = (96, 96, 48)
    spacing: Spacing = "native"
    component: Literal["all", "largest"] = "all"


class Preset(Settings):
    """All settings of an experiment."""

    name: str
    description: str = ""
    protocol: Literal["paper", "rigorous"] = "rigorous"
    folds: int = Field(5, ge=2)
    inner_fraction: float = Field(0.2, gt=0, lt=0.5)
    """Share of a fold's training patients on which the rigorous protocol stops early."""
    seg: SegSettings
    crop: CropSettings
    vae: VaeSettings
    cls: ClsSettings


def preset_names() -> list[str]:
    """Names of the built-in presets."""
    folder = files("neonet_core") / "resources" / "presets"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_preset(name_or_file: str | Path, changes: Iterable[str] = ()) -> Preset:
    """Read a built-in preset or a YAML file, with single values changed.

    Parameters
    ----------
    name_or_file : str or Path
        ``"smoke"``, ``"paper"``, ... or the path of a YAML file of the same form.
    changes : iterable of str
        ``"seg.epochs=20"``; the value is read as YAML.

    Raises
    ------
    NeoNetError
        ``UNKNOWN_PRESET``, or ``BAD_PRESET`` where a key or value is not allowed.
    """
    text = _preset_text(name_or_file)
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise NeoNetError("BAD_PRESET", f"{name_or_file} is not valid YAML.", str(error).splitlines()[0]) from error
    if not isinstance(values, dict):
        raise NeoNetError("BAD_PRESET", f"{name_or_file} holds no settings.", "See the built-in presets for the form.")
    for change in changes:
        _apply(values, change)
    return parse_preset(values)


def parse_preset(values: dict[str, Any]) -> Preset:
    """Check settings that were read from YAML or JSON; raises ``BAD_PRESET``."""
    try:
        return Preset.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise NeoNetError("BAD_PRESET", f"Setting '{place}': {first['msg']} (given: {first.get('input')!r}).",
                          "Correct it in the preset or in --set.") from error


def _preset_text(name_or_file: str | Path) -> str:
    if str(name_or_file) in preset_names():
        return (files("neonet_core") / "resources" / "presets" / f"{name_or_file}.yaml").read_text(encoding="utf-8")
    path = Path(name_or_file)
    if path.suffix in {".yaml", ".yml"} and path.is_file():
        return path.read_text(encoding="utf-8")
    raise NeoNetError("UNKNOWN_PRESET", f"There is no preset '{name_or_file}'.",
                      f"Choose one of {', '.join(preset_names())}, or give a .yaml file.")


def _apply(values: dict[str, Any], change: str) -> None:
    key, separator, text = change.partition("=")
    if not separator or not key:
        raise NeoNetError("BAD_PRESET", f"--set {change}: expected key=value.", "Example: --set seg.epochs=20")
    *parents, last = key.strip().split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise NeoNetError("BAD_PRESET", f"--set {change}: '{parent}' holds no further settings.")
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise NeoNetError("BAD_PRESET", f"--set {change}: the value is not valid YAML.",
                          "Quote it for the shell, e.g. --set 'seg.patch_size=[64, 64, 32]'") from error
