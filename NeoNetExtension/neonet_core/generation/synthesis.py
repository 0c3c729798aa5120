"""Samples on disk: what is to be drawn, drawing it in batches, and where each sample comes from.

A sample is three files: ``NAME.nii.gz`` (image, 0 to 1), ``NAME_mask.nii.gz`` (label map 0, 1, 2) and ``NAME.json``,
its lineage, which is written last: a sample with its lineage is whole, and is neither drawn again nor overwritten.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from neonet_core import __version__
from neonet_core.errors import NeoNetError
from neonet_core.events import Events
from neonet_core.generation.generator import Generator, batches
from neonet_core.generation.masks import apply_transform, vary_anatomy
from neonet_core.presets import SynthSettings
from neonet_core.training.device import is_out_of_memory
from neonet_core.training.files import read_json, write_json
from neonet_core.training.loop import derive_seed
from neonet_core.training.patches import Patches
from neonet_core.volume import Volume, read_label_map, read_volume, write_volume

LINEAGE_FORMAT = 1


@dataclass(frozen=True)
class SampleRequest:
    """A sample that is to be drawn.

    Attributes
    ----------
    name : str
        Of its files.
    mask_case : str
        Whose mask it follows.
    source : np.ndarray
        (2, X, Y, Z) uint8: that case's masks.
    outcome : int or None
        Class of the sample: that of the patient whose mask conditions it.
    seed : int
    affine : np.ndarray
        (4, 4) voxels of the patch to RAS mm.
    transform : mapping
        How the mask is varied (`masks.vary_anatomy`); empty: not at all.
    """

    name: str
    mask_case: str
    source: np.ndarray
    outcome: int | None
    seed: int
    affine: np.ndarray
    transform: Mapping[str, Any] = field(default_factory=dict)

    @property
    def masks(self) -> np.ndarray:
        """(2, X, Y, Z) uint8 that the sample follows; made when it is drawn: thousands would fill the memory."""
        if not self.transform:
            return self.source
        spacing = np.linalg.norm(self.affine[:3, :3], axis=0)
        return apply_transform(self.source, spacing, dict(self.transform))


def minority(outcomes: Sequence[int] | np.ndarray) -> tuple[int, int]:
    """The rarer outcome and how many cases it lacks for 1:1 (PNI-positive in the paper's cohort)."""
    counts = np.bincount(np.asarray(outcomes)[np.asarray(outcomes) >= 0], minlength=2)
    rarer = int(counts[0] < counts[1]) ^ 1
    return rarer, int(counts.max() - counts.min())


def draw_transform(masks: np.ndarray, spacing: Sequence[float], settings: SynthSettings, seed: int) -> dict[str, Any]:
    """How a mask is varied, within the settings' ranges; see `masks.vary_anatomy`."""
    return vary_anatomy(masks, spacing, np.random.default_rng(seed), flips=settings.flips, scale=settings.scale,
                        elastic_mm=settings.elastic_mm, smoothness_mm=settings.smoothness_mm)[1]


def balancing_requests(patches: Patches, case_ids: Sequence[str], settings: SynthSettings,
                       seed: int) -> list[SampleRequest]:
    """The samples that make a fold's learning cases 1:1, on varied masks of the rarer class's own cases.

    The first r % of them make R+S r % (DESIGN, section 6). Each case of the rarer class lends its mask equally often.
    """
    outcome, lacking = minority(patches.outcomes)
    donors = np.flatnonzero(patches.outcomes == outcome)
    if not len(donors):
        return []
    order = np.random.default_rng(derive_seed(seed, 0)).permutation(donors)
    requests = []
    for number in range(lacking):
        donor = int(order[number % len(order)])
        transform = draw_transform(patches.masks[donor], patches.spacings[donor], settings,
                                   derive_seed(seed, 1, number))
        requests.append(SampleRequest(f"sample-{number:04d}", case_ids[donor], patches.masks[donor], outcome,
                                      derive_seed(seed, 2, number), np.diag([*patches.spacings[donor], 1.0]),
                                      transform))
    return requests


def evaluation_requests(patches: Patches, case_ids: Sequence[str], count: int, seed: int) -> list[SampleRequest]:
    """Samples on the unchanged masks of held-out patients, in random order, `count` at most."""
    chosen = np.random.default_rng(derive_seed(seed, 3)).permutation(len(patches))[:count]
    return [SampleRequest(f"sample-{number:04d}", case_ids[case], patches.masks[case],
                          int(patches.outcomes[case]) if patches.outcomes[case] >= 0 else None,
                          derive_seed(seed, 4, number), np.diag([*patches.spacings[case], 1.0]))
            for number, case in enumerate(int(index) for index in chosen)]


def share_of(count: int, percent: int) -> int:
    """How many of the `count` balancing samples R+S `percent` % takes."""
    return round(count * percent / 100)


def write_samples(generator: Generator, requests: Sequence[SampleRequest], folder: Path, settings: SynthSettings,
                  origin: Mapping[str, Any], events: Events, stage: str, note: str = "") -> list[Path]:
    """Draw what is not there yet, batch by batch, and write each batch as soon as it is drawn.

    Parameters
    ----------
    origin : mapping
        What the samples come from: hashes of the weights, run or bundle; goes into each lineage. A sample of another
        origin, seed, mask or sampler under the same name is an error, not overwritten.
    note : str
        For the headers of the images.

    Returns
    -------
    list of Path
        The lineage file of each request, in order.

    Raises
    ------
    NeoNetError
        ``BAD_MASK``, ``EMPTY_TUMOUR``, ``DISK_FULL``, ``EXISTS``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{request.name}.json" for request in requests]
    lineages = [_lineage(request, settings, origin) for request in requests]
    missing = [index for index, path in enumerate(paths) if not _is_there(path, lineages[index])]
    if not missing:
        return paths
    _check_disk(folder, len(missing) * int(np.prod(generator.patch_size)) * 5)
    if len(missing) < len(requests):
        events.log(f"{stage}: {len(requests) - len(missing)} of {len(requests)} samples are there already")
    for run in batches(len(missing), generator.most_at_once(settings.batch_size)):
        chosen = [requests[missing[position]] for position in run]

        def progress(done: int, total: int, start: int = run.start, size: int = len(chosen)) -> None:
            events.progress(stage, round(start + size * done / (total + 1), 3), len(missing))

        images = _generate(generator, chosen, settings, progress)
        for position, request, image in zip(run, chosen, images, strict=True):
            _write(folder, request, image[0], lineages[missing[position]], note)
        events.progress(stage, run.stop, len(missing))
    return paths


def read_samples(paths: Sequence[Path]) -> tuple[Patches, list[dict[str, Any]]]:
    """Samples as patches, with their lineages, from the lineage files."""
    lineages = [read_json(path) for path in paths]
    images, masks, spacings = [], [], []
    for path in paths:
        image = read_volume(path.with_suffix(".nii.gz"))
        labels = read_label_map(path.with_name(f"{path.stem}_mask.nii.gz")).array
        images.append(image.array.astype(np.float32)[None])
        masks.append(np.stack([labels >= 1, labels == 2]).astype(np.uint8))
        spacings.append(image.spacing)
    outcomes = [-1 if lineage["outcome"] is None else lineage["outcome"] for lineage in lineages]
    if not paths:
        raise ValueError("no samples to read")
    return Patches(np.stack(images), np.stack(masks), np.array(outcomes, dtype=np.int64), np.array(spacings)), lineages


def _generate(generator: Generator, requests: Sequence[SampleRequest], settings: SynthSettings,
              progress: Any) -> np.ndarray:
    """(N, 1, X, Y, Z); in halves where the device's memory is too small for the batch."""
    try:
        return generator.generate(np.stack([request.masks for request in requests]),
                                  [request.outcome for request in requests], [request.seed for request in requests],
                                  sampler=settings.sampler, steps=settings.steps, guidance=settings.guidance,
                                  progress=progress)
    except (MemoryError, RuntimeError) as error:
        if len(requests) == 1 or not is_out_of_memory(error):
            raise
    middle = len(requests) // 2
    return np.concatenate([_generate(generator, part, settings, progress)
                           for part in (requests[:middle], requests[middle:])])



def _lineage(request: SampleRequest, settings: SynthSettings, origin: Mapping[str, Any]) -> dict[str, Any]:
    return {"format": LINEAGE_FORMAT, "kind": "synthetic", "sample": request.name, "mask_case": request.mask_case,
            "outcome": request.outcome, "seed": request.seed, "transform": dict(request.transform),
            "sampler": settings.sampler, "steps": settings.steps, "guidance": settings.guidance, **origin,
            "neonet": __version__}


def _is_there(path: Path, lineage: Mapping[str, Any]) -> bool:
    """Whether a sample lies there whole."""
    parts = (path, path.with_suffix(".nii.gz"), path.with_name(f"{path.stem}_mask.nii.gz"))
    if not all(part.is_file() for part in parts):
        return False
    before = read_json(path)
    if {**before, "neonet": ""} != {**lineage, "neonet": ""}:
        raise NeoNetError("EXISTS", f"{path.parent} holds a {path.stem} of another mask, seed, sampler or model.",
                          "Choose another folder, or remove this one.")
    return True


def _check_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise NeoNetError("DISK_FULL", f"The samples need up to {needed / 1e9:.1f} GB; {free / 1e9:.1f} GB are free.",
                          "Ask for fewer, or choose another --out.")


def _write(folder: Path, request: SampleRequest, image: np.ndarray, lineage: Mapping[str, Any], note: str) -> None:
    labels = request.masks.sum(axis=0).astype(np.uint8)  # liver or tumour + tumour: 0, 1, 2
    write_volume(Volume(image, request.affine), folder / f"{request.name}.nii.gz", note)
    write_volume(Volume(labels, request.affine), folder / f"{request.name}_mask.nii.gz", note)
    write_json(folder / f"{request.name}.json", lineage)
