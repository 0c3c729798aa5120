"""The trained models (bundles) on this computer, read from their bundle.json alone: no torch, no pydantic.

They come with the library, were imported into the user's own folder, or lie in folders that the user has added, which
Slicer's settings keep.
"""

import contextlib
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from neonet_core.home import bundles_folder
from neonet_core.pretrained import IMPORTABLE
from NeoNetLib.python import coreFolder

FORMAT = 1  # the highest `format` of bundle.json that this version reads, as in neonet_core.bundle
FOLDERS_SETTING = "NeoNet/BundleFolders"
RECORD = "bundle.json"


@dataclass(frozen=True)
class BundleInfo:
    """What a panel needs to know of a bundle. Where `problem` is not empty, it can be named but not used."""

    name: str
    folder: Path
    problem: str = ""
    """Why it cannot be used: one sentence, or ""."""
    version: str = ""
    outcome: str = ""
    isDemo: bool = False
    canSegment: bool = False
    canClassify: bool = False
    canGenerate: bool = False
    cropSize: tuple = (96, 96, 48)
    """Voxels along R, A, S."""
    cropSpacing: tuple | None = None
    """mm along R, A, S; None: the image's own grid."""
    cropComponent: str = "all"
    outOfFold: tuple = ()
    """(outcome 0 or 1, score) of every training patient, scored by the model that had not seen the patient."""
    threshold: float | None = None
    card: dict = field(default_factory=dict)
    """What a reader must know: intended_use, training_data, limits, licence, attribution, only_phantoms."""
    metrics: dict = field(default_factory=dict)
    ranges: dict = field(default_factory=dict)
    hash: str = ""
    """`neonet_core.bundle.Bundle.hash`, which a result carries: SHA-256 of bundle.json."""


def bundles():
    """All bundles on this computer, the library's own first: list of BundleInfo. Damaged ones are among them."""
    found = {}
    for folder in _folders():
        info = read(folder)
        found.setdefault(info.name, info)  # as in the library: a built-in bundle cannot be replaced
    return list(found.values())


def read(folder):
    """The bundle in `folder`: BundleInfo, with a `problem` where it cannot be used. Never raises."""
    folder = Path(folder)
    try:
        text = (folder / RECORD).read_bytes()
        record = json.loads(text)
        if isinstance(record.get("format"), int) and record["format"] > FORMAT:
            return BundleInfo(folder.name, folder, _("It was made by a later version of NeoNet; update the extension."))
        info = _info(folder, record, hashlib.sha256(text).hexdigest())
    except OSError:
        return BundleInfo(folder.name, folder, _("Its bundle.json cannot be read; copy or import the model again."))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return BundleInfo(folder.name, folder, _("Its bundle.json is damaged; copy or import the model again."))
    return info


def importable():
    """Published models that have not been imported yet: list of str for `importArguments`."""
    return [name for name in IMPORTABLE if not (bundles_folder() / name / RECORD).is_file()]


def importArguments(name):
    """Arguments of the `NeoNetLib.job.Job` that fetches and imports the published model `name`."""
    return ["bundle", "import", name]


def addFolder(path):
    """Add the bundle in the folder `path`; Slicer's settings keep it, its files stay where they are.

    Returns
    -------
    BundleInfo

    Raises
    ------
    ValueError
        There is no bundle, one that cannot be used, or one whose name is taken; the text says so.
    """
    path = Path(path).expanduser().resolve()
    if not (path / RECORD).is_file():
        raise ValueError(_("There is no model in {folder}; choose the folder that holds bundle.json.").format(
            folder=path))
    added = read(path)
    if added.problem:
        raise ValueError(added.problem)
    if any(info.name == added.name and info.folder.resolve() != path for info in bundles()):
        raise ValueError(_("There is another model with the name '{name}'; remove that one first.").format(
            name=added.name))
    _setAddedFolders([*(folder for folder in addedFolders() if folder != path), path])
    return added


def removeFolder(path):
    """Forget a folder that was added; its files stay."""
    path = Path(path).expanduser().resolve()
    _setAddedFolders([folder for folder in addedFolders() if folder != path])


def addedFolders():
    """Folders that the user has added: list of pathlib.Path."""
    try:
        return [Path(folder) for folder in json.loads(slicer.app.settings().value(FOLDERS_SETTING) or "[]")]
    except (ValueError, TypeError):  # edited by hand
        return []


def _setAddedFolders(folders):
    slicer.app.settings().setValue(FOLDERS_SETTING, json.dumps([str(folder) for folder in folders]))


def _folders():
    """Every folder that holds a bundle; hidden ones are half imported."""
    for root in (coreFolder() / "neonet_core" / "resources" / "bundles", bundles_folder()):
        with contextlib.suppress(OSError):  # no permission, a network drive that is gone
            yield from sorted(path.parent for path in root.glob("[!.]*/" + RECORD))
    yield from addedFolders()


def _info(folder, record, digest):
    members, crop, card = record["members"], record["preset"]["crop"], dict(record["card"])
    threshold, spacing = record.get("threshold"), members[0].get("crop_spacing")
    lost = [file for file in record["hashes"] if not (folder / file).is_file()]
    return BundleInfo(
        name=str(record["name"]), folder=folder,
        problem=_("Its file {name} is missing; copy or import the model again.").format(name=lost[0]) if lost else "",
        version=str(record["version"]), outcome=str(record["outcome"]),
        isDemo=bool(card.get("only_phantoms", False)),
        canSegment=not lost and all(_has(member, "seg") for member in members),
        canClassify=not lost and all(_has(member, "cls", "encoder") for member in members),
        canGenerate=not lost and any(_has(member, "decoder", "ldm", "controlnet") for member in members),
        cropSize=_three(crop.get("size", BundleInfo.cropSize), int),
        cropSpacing=None if spacing is None else _three(spacing, float),
        cropComponent=str(crop.get("component", "all")),
        outOfFold=tuple((int(one["outcome"]), float(one["score"])) for one in record.get("out_of_fold", ())),
        threshold=None if threshold is None else float(threshold), card=card,
        metrics=dict(record.get("metrics", {})), ranges=dict(record.get("ranges", {})), hash=digest)


def _has(member, *parts):
    return all(member.get(part) is not None for part in parts)


def _three(values, kind):
    x, y, z = values
    return kind(x), kind(y), kind(z)
