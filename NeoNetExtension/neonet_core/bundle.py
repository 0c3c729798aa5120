"""A trained model as a folder: its record, verifying and loading it (`experiment.export` makes one).

Layout::

    bundle.json                                  format, model card, preset, members, figures, ranges, hashes
    fold-0/seg.safetensors  encoder.safetensors  cls.safetensors
           decoder.safetensors  ldm.safetensors  controlnet.safetensors

Weights are safetensors; a network is built from the preset's typed settings through the table of known constructors,
so nothing in a bundle is executed. Every file's SHA-256 is checked before it is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from neonet_core import __version__
from neonet_core.errors import NeoNetError
from neonet_core.home import bundles_folder
from neonet_core.presets import Preset
from neonet_core.pretrained import IMPORTABLE
from neonet_core.training.files import read_json, sha256_of_file

if TYPE_CHECKING:
    import torch

    from neonet_core.classification.pattennet import PattenNet
    from neonet_core.generation.autoencoder import FeatureEncoder
    from neonet_core.generation.generator import Generator
    from neonet_core.segmentation.inference import Segmentor

BUNDLE_FORMAT = 1
"""The highest `format` that this version reads."""
RESEARCH_USE_ONLY = "Research use only. Not a medical device; not for diagnosis or treatment."
DEMO_WARNING = ("DEMONSTRATION MODEL, trained on simulated images only: what it finds in a real image means nothing. "
                "No statement here is about a patient.")

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}"

Range = tuple[float, float]


class Record(BaseModel):
    """Base of what `bundle.json` holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Member(Record):
    """The models of one fold; a part that was not trained is None. Paths are relative to the bundle."""

    fold: int
    seg: str | None = None
    encoder: str | None = None
    """The part of the autoencoder that PattenNet reads; the decoder is the generator's."""
    cls: str | None = None
    decoder: str | None = None
    ldm: str | None = None
    controlnet: str | None = None
    """NeoGen: decoder, diffusion model and ControlNet. A member may lack them where others have them."""
    seg_spacing: tuple[float, float, float] | None = None
    """mm along R, A, S; None: each case's own grid."""
    crop_spacing: tuple[float, float, float] | None = None
    figures: dict[str, Any] = Field(default_factory=dict)
    """Figures of the fold's held-out patients, e.g. dice_liver, dice_tumour, auc."""

    @property
    def files(self) -> tuple[str, ...]:
        """Its weights files."""
        parts = (self.seg, self.encoder, self.cls, self.decoder, self.ldm, self.controlnet)
        return tuple(file for file in parts if file is not None)

    @property
    def can_generate(self) -> bool:
        return None not in (self.decoder, self.ldm, self.controlnet)


class OutOfFoldScore(Record):
    """Score of a training patient by the model of the fold that held the patient out. No identity."""

    outcome: int = Field(ge=0, le=1)
    score: float


class ModelCard(Record):
    """What a reader must know before using the model."""

    intended_use: str
    training_data: str
    limits: str
    licence: str = "Apache-2.0"
    attribution: str = ""
    only_phantoms: bool = False
    """The model knows simulated images only (the built-in bundle `demo`)."""


class BundleRecord(Record):
    """The content of ``bundle.json``."""

    format: Literal[1] = 1
    name: str = Field(pattern=f"^{NAME_PATTERN}$")
    version: str
    neonet: str
    outcome: str
    preset: Preset
    members: tuple[Member, ...] = Field(min_length=1)
    out_of_fold: tuple[OutOfFoldScore, ...] = ()
    threshold: float | None = None
    """Operating point: the out-of-fold scores' Youden threshold; a score at or above it counts as positive."""
    metrics: dict[str, Any] = Field(default_factory=dict)
    """Figures with their intervals, each with the protocol and the cases that it comes from."""
    ranges: dict[str, Range] = Field(default_factory=dict)
    """Lowest and highest value of the training cohort: spacing_x/y/z in mm, liver_ml, tumour_ml, intensities."""
    card: ModelCard
    hashes: dict[str, str]
    """SHA-256 of each weights file."""


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose record was read; its weights load on demand, after their hash was checked."""

    folder: Path
    record: BundleRecord

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def hash(self) -> str:
        """SHA-256 of ``bundle.json``, which holds the hashes of all weights: it names the model exactly."""
        return sha256_of_file(self.folder / "bundle.json")

    @property
    def is_demo(self) -> bool:
        return self.record.card.only_phantoms

    @property
    def notice(self) -> str:
        """What every output of this bundle must say."""
        return notice(self.is_demo)

    @property
    def note(self) -> str:
        """The notice in the 79 characters that a NIfTI header has room for."""
        return header_note(self.name, self.is_demo)

    def can_segment(self) -> bool:
        return all(member.seg is not None for member in self.record.members)

    def can_classify(self) -> bool:
        return all(member.cls is not None and member.encoder is not None for member in self.record.members)

    def can_generate(self) -> bool:
        return any(member.can_generate for member in self.record.members)

    def segmentors(self, device: torch.device) -> list[Segmentor]:
        """NeoSeg of every member, on `device`. Raises ``NO_SEG_MODEL``, ``BUNDLE_DAMAGED``."""
        from neonet_core.segmentation.inference import Segmentor
        from neonet_core.segmentation.networks import build_segmentor

        if not self.can_segment():
            raise NeoNetError("NO_SEG_MODEL", f"The bundle '{self.name}' holds no segmentation model.",
                              "Give a label map, or a bundle with NeoSeg.")
        loaded = []
        for member in self.record.members:
            network = build_segmentor(self.record.preset.seg)
            self._load(member.seg, network)
            loaded.append(Segmentor(network.to(device).eval(), self.record.preset.seg, member.seg_spacing))
        return loaded

    def classifiers(self, device: torch.device) -> list[tuple[FeatureEncoder, PattenNet]]:
        """Frozen encoder and PattenNet of every member, on `device`. Raises ``NO_PNI_MODEL``, ``BUNDLE_DAMAGED``."""
        from neonet_core.classification.pattennet import PattenNet
        from neonet_core.generation.autoencoder import FeatureEncoder, build_autoencoder

        if not self.can_classify():
            raise NeoNetError("NO_PNI_MODEL", f"The bundle '{self.name}' holds no PNI model.",
                              "Use a bundle with NeoCls.")
        preset, loaded = self.record.preset, []
        for member in self.record.members:
            encoder = FeatureEncoder(build_autoencoder(preset.vae))
            self._load(member.encoder, encoder)
            network = PattenNet(2 * preset.vae.channels[-1], preset.cls)
            self._load(member.cls, network)
            loaded.append((encoder.to(device).eval(), network.to(device).eval()))
        return loaded

    def generators(self, device: torch.device) -> list[tuple[Member, Generator]]:
        """NeoGen of every member that has one, on `device`. Raises ``NO_GENERATOR``, ``BUNDLE_DAMAGED``."""
        from neonet_core.generation.autoencoder import LatentDecoder, build_autoencoder
        from neonet_core.generation.controlnet import build_control
        from neonet_core.generation.diffusion import LatentDiffusion
        from neonet_core.generation.generator import Generator

        if not self.can_generate():
            raise NeoNetError("NO_GENERATOR", f"The bundle '{self.name}' holds no generator.",
                              "Use a bundle with NeoGen (stages vae, ldm and controlnet).")
        preset, loaded = self.record.preset, []
        for member in self.record.members:
            if not member.can_generate:
                continue
            decoder = LatentDecoder(build_autoencoder(preset.vae))
            diffusion = LatentDiffusion(decoder.latent_channels, preset.ldm)
            control = build_control(decoder.latent_channels, preset.ldm, preset.controlnet, decoder.factor)
            for file, network in ((member.decoder, decoder), (member.ldm, diffusion), (member.controlnet, control)):
                self._load(file, network)
            loaded.append((member, Generator(decoder, diffusion, control, preset.crop.size, device)))
        return loaded

    def verify(self) -> None:
        """Check every weights file against its hash. Raises ``BUNDLE_DAMAGED``."""
        for file in self.record.hashes:
            self._checked(file)

    def _checked(self, file: str | None) -> Path:
        if file is None or file not in self.record.hashes:
            raise _damaged(self.folder, f"it names a file without a hash ({file})")
        path = self.folder / file
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise _damaged(self.folder, f"{file} lies outside the bundle")
        if not path.is_file():
            raise _damaged(self.folder, f"{file} is missing")
        if sha256_of_file(path) != self.record.hashes[file]:
            raise _damaged(self.folder, f"{file} is not the file that the bundle was saved with")
        return path

    def _load(self, file: str | None, network: torch.nn.Module) -> None:
        from safetensors import SafetensorError

        from neonet_core.training.checkpoint import load_weights

        try:
            load_weights(self._checked(file), network)
        except (RuntimeError, SafetensorError) as error:
            raise _damaged(self.folder, f"{file} does not fit the network in its settings") from error


def notice(demo: bool) -> str:
    """What every output must say."""
    return f"{RESEARCH_USE_ONLY} {DEMO_WARNING}" if demo else RESEARCH_USE_ONLY


def header_note(name: str, demo: bool) -> str:
    """The notice, short enough for an image header, with the bundle's name."""
    return f"{'DEMO_MODEL: simulated data only. ' if demo else ''}Research use only. NeoNet {name}"


def _damaged(folder: Path, why: str) -> NeoNetError:
    return NeoNetError("BUNDLE_DAMAGED", f"The bundle {folder.name} cannot be used: {why}.",
                       "Export or copy it again.")


def built_in_bundles() -> dict[str, Path]:
    """Bundles that come with the library, by name."""
    folder = Path(str(files("neonet_core") / "resources" / "bundles"))
    return {path.parent.name: path.parent for path in sorted(folder.glob("*/bundle.json"))}


def catalogue() -> dict[str, Path]:
    """All bundles that have a name: those that the user has imported, and those that come with the library."""
    imported = {path.parent.name: path.parent for path in sorted(bundles_folder().glob("[!.]*/bundle.json"))}
    return imported | built_in_bundles()


def load_bundle(name_or_folder: str | Path = "demo") -> Bundle:
    """Read a bundle's record; weights are read, and their hashes checked, where they are used.

    Raises
    ------
    NeoNetError
        ``UNKNOWN_BUNDLE``; ``BUNDLE_DAMAGED``; ``BUNDLE_TOO_NEW`` for a format of a later NeoNet.
    """
    folder = catalogue().get(str(name_or_folder), Path(name_or_folder))
    path = folder / "bundle.json"
    if not path.is_file():
        if str(name_or_folder) in IMPORTABLE:
            raise NeoNetError("UNKNOWN_BUNDLE", f"The bundle '{name_or_folder}' has not been imported yet.",
                              f"Run 'neonet bundle import {name_or_folder}'.")
        known = ", ".join(catalogue()) or "none"
        raise NeoNetError("UNKNOWN_BUNDLE", f"There is no bundle '{name_or_folder}'.",
                          f"Give the folder of a bundle (it holds bundle.json), or a name: {known}.")
    try:
        content = read_json(path)
        if isinstance(content, dict) and isinstance(content.get("format"), int) and content["format"] > BUNDLE_FORMAT:
            raise NeoNetError("BUNDLE_TOO_NEW", f"The bundle {folder.name} has format {content['format']}; this NeoNet "
                              f"({__version__}) reads up to {BUNDLE_FORMAT}.", "Update NeoNet.")
        return Bundle(folder, BundleRecord.model_validate(content))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise _damaged(folder, f"bundle.json, {place}: {first['msg']}") from error
    except (ValueError, OSError) as error:
        raise _damaged(folder, "bundle.json is not readable JSON") from error
