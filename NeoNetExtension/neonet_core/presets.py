"""Typed settings of an experiment, read from ``resources/presets/*.yaml`` or a user's own file.

A preset is complete: every number that shapes a result stands in it, and a copy of it lies in every run folder and
bundle. ``--set seg.epochs=20`` changes one value; the types and ranges here say what is allowed.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from neonet_core.errors import NeoNetError

Count = Annotated[int, Field(gt=0)]
Factor = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Millimetres = Annotated[float, Field(gt=0, allow_inf_nan=False)]

Stage = Literal["seg", "vae", "vqvae", "ldm", "controlnet", "synth", "cls"]
STAGES: tuple[str, ...] = get_args(Stage)
"""The stages of a fold, in the order in which they need each other."""
Percent = Annotated[int, Field(ge=0, le=100)]

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

    @model_validator(mode="after")
    def _patience_sees_a_validation(self) -> Training:
        if self.patience is not None and self.patience < self.validate_every:
            raise ValueError(f"patience {self.patience} ends before the next validation, validate_every "
                             f"{self.validate_every}")
        return self


class SegSettings(Training):
    """NeoSeg."""

    network: Literal["UNet", "SegResNet", "DynUNet", "SwinUNETR", "TwoStep"] = "SwinUNETR"
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


class AutoencoderSettings(Training):
    """What NeoGen's two autoencoders have in common."""

    channels: Channels = (32, 64, 128)
    """Feature channels, level by level; each level after the first halves the size."""
    residual_blocks: int = Field(2, gt=0)
    latent_channels: int = Field(4, gt=0)
    mask_inputs: bool = False
    """Mask each patch at random (not at all, liver and tumour, tumour), as PattenNet will meet them (DESIGN, 6)."""
    flips: bool = False
    tumour_weight: float = Field(1.0, ge=1, allow_inf_nan=False)
    """How much more an error in the tumour counts than one elsewhere: a tumour is a few per cent of its patch, and with
    few training steps its brightness is what comes out last."""
    perceptual_weight: float = Field(0.0, ge=0)
    """Of the distance between feature maps of the fold's NeoSeg network; 0: off."""
    adversarial_weight: float = Field(0.0, ge=0)
    """Of the term by which the reconstruction should deceive a patch discriminator; 0: off."""


class VaeSettings(AutoencoderSettings):
    """The autoencoder of NeoGen, whose encoder PattenNet reads."""

    norm_groups: int = Field(32, gt=0)
    kl_weight: float = Field(1e-7, ge=0)


class VqVaeSettings(AutoencoderSettings):
    """The autoencoder of the variant QNeoGen. Defaults: van den Oord et al. 2017, section 4.2 and appendix A.1."""

    codes: int = Field(512, gt=1)
    """Entries of the codebook."""
    codes_decay: float = Field(0.99, gt=0, lt=1)
    """How much of a code's running mean is kept at each step."""
    commitment_weight: float = Field(0.25, ge=0)


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
    attention: Literal["dual", "channel", "spatial"] = "dual"
    """Both attentions in each block, or one of them alone (table 5)."""
    balance: Literal["none", "duplicate", "weights"] = "none"
    """How classes are balanced without synthetic cases: the rarer class's cases repeated, or weighted in the loss."""
    inputs: Literal["image", "masks"] = "image"
    """What both TLCR channels are masked from: the image, or a constant, so that only the masks' shape is seen."""


class BaselineSettings(Training):
    """The 3D networks that NeoCls is compared with; they learn from the two TLCR channels, without an encoder."""

    flips: bool = True
    """Mirror each patch at random."""


PAPERS_BASELINE = BaselineSettings.model_validate({"epochs": 300, "batch_size": 4, "learning_rate": 1e-4,
                                                  "patience": 20, "flips": False})


class DiffusionSettings(Training):
    """The diffusion model of NeoGen, on latents (stage ``ldm``)."""

    channels: Channels = (64, 128, 256)
    residual_blocks: int = Field(2, gt=0)
    attention_levels: Annotated[tuple[bool, ...], Field(min_length=1)] = (False, True, True)
    head_channels: int = Field(64, gt=0)
    """Channels of each attention head."""
    norm_groups: int = Field(32, gt=0)
    timesteps: int = Field(1000, ge=2)
    beta_start: float = Field(0.0015, gt=0, lt=1)
    beta_end: float = Field(0.0195, gt=0, lt=1)
    """Scaled-linear noise variances from the first to the last time step (Rombach 2022)."""
    prediction: Literal["noise", "velocity"] = "noise"
    """What the network predicts: the noise (the paper), or the velocity of Salimans & Ho 2022, from which the noise
    follows. At the first, noisiest steps an error in the noise grows 84-fold in the latent and spoils a sample's
    brightness; an error in the velocity does not. With few training steps that decides."""
    class_embedding: bool = False
    """Tell the network the outcome; without it only the mask's shape carries the class (DESIGN, 6)."""
    class_dropout: float = Field(0.1, ge=0, lt=1)
    """How often the class is hidden in training, for classifier-free guidance (Ho & Salimans 2022)."""
    flips: bool = False
    """Train on all eight mirrored views, whose latents are cached once."""


class ControlSettings(Training):
    """The ControlNet of NeoGen (stage ``controlnet``)."""

    channels: Channels = (16, 32, 64)
    """Of the mask's embedding, level by level; one level more than halvings, so three for a factor of four."""
    flips: bool = False
    tumour_weight: float = Field(1.0, ge=1, allow_inf_nan=False)
    """As for the autoencoder, at the latents that the tumour's mask touches."""


class SynthSettings(Settings):
    """Drawing samples, and the masks of synthetic cases (stage ``synth``)."""

    sampler: Literal["ddpm", "ddim", "dpm-solver++"] = "ddpm"
    steps: int = Field(1000, gt=0)
    guidance: float = Field(1.0, ge=0, allow_inf_nan=False)
    """Weight of classifier-free guidance: 1 none, more: further towards the class. Needs ``ldm.class_embedding``."""
    batch_size: int = Field(4, gt=0)
    """Most samples drawn at once; fewer where memory is short."""
    flips: bool = True
    scale: tuple[Factor, Factor] = (0.9, 1.1)
    """Range of the factor by which a mask is enlarged."""
    elastic_mm: float = Field(2.0, ge=0, allow_inf_nan=False)
    """Standard deviation of the elastic displacement along each axis."""
    smoothness_mm: float = Field(12.0, gt=0, allow_inf_nan=False)
    """Over how far a displacement is alike."""
    evaluation_samples: int = Field(32, ge=0)
    """Samples on masks of held-out patients, from which table 4 is computed: with and without ControlNet each."""

    @field_validator("scale")
    @classmethod
    def _in_order(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if scale[0] > scale[1]:
            raise ValueError("the first number must not be above the second")
        return scale


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
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)] = ("seg", "vae", "cls")
    """What `neonet train` runs where ``--stages`` does not say."""
    models: tuple[str, ...] = ()
    """Networks that `neonet train` runs where ``--models`` does not say: segmentors and classifiers by name. None
    of a kind: ``seg.network``, and PattenNet."""
    ratios: Annotated[tuple[Percent, ...], Field(min_length=1)] = (0,)
    """Shares of synthetic cases in percent with which NeoCls is trained: 0 is R, 100 R+S with classes 1:1."""
    inner_fraction: float = Field(0.2, gt=0, lt=0.5)
    """Share of a fold's training patients on which the rigorous protocol stops early."""
    seg: SegSettings
    crop: CropSettings
    vae: VaeSettings
    vqvae: VqVaeSettings
    ldm: DiffusionSettings
    controlnet: ControlSettings
    synth: SynthSettings
    cls: ClsSettings
    baseline: BaselineSettings = PAPERS_BASELINE


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
