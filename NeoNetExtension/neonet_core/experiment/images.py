"""How good a fold's reconstructions and synthetic patches are: the figures of tables 3 and 4, and what guards them.

All figures are of held-out patients: reconstructions of their patches, and samples on their masks, none of which the
generators have seen. Real patches of training patients against those of held-out ones, at equal n, give the floor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neonet_core.bundle import load_bundle
from neonet_core.errors import NeoNetError
from neonet_core.evaluation.copies import copies_check
from neonet_core.evaluation.feature_distance import compare
from neonet_core.evaluation.features import FeatureExtractor, FeatureSet, InceptionFeatures, SegmentorFeatures
from neonet_core.evaluation.image_quality import reconstruction_quality
from neonet_core.evaluation.mask_agreement import mask_agreement
from neonet_core.evaluation.perceptual import Lpips, PerceptualMeasure, SegmentorDistance, perceptual_distance
from neonet_core.events import Events
from neonet_core.experiment.graph import AUTOENCODERS, segmentor_settings
from neonet_core.experiment.run import Run, outputs_hash
from neonet_core.experiment.trained import load_autoencoder, load_generator, load_segmentor, own_segmentor_stage
from neonet_core.generation.generator import Generator, batches
from neonet_core.generation.synthesis import read_samples
from neonet_core.presets import SynthSettings
from neonet_core.segmentation.inference import Segmentor, predict_probabilities
from neonet_core.segmentation.networks import size_multiple
from neonet_core.training.files import read_json, sha256_of_file, sha256_of_json, write_json
from neonet_core.training.patches import Patches, cut_patches
from neonet_core.training.prepared import open_prepared
from neonet_core.volume import Volume, resample_like, resample_to_spacing

ROWS = {"evaluation-dm": " DM", "evaluation": ""}
"""Folders of a synth stage with samples on held-out masks, and what the paper's table 4 adds to the generator's name:
without ControlNet it is "DM"."""
FORM = 2
"""Of ``images.json``; another one is computed anew."""
MOST_MOVED = 8
"""Samples that are drawn again with a moved tumour."""


@dataclass(frozen=True)
class Judges:
    """What looks at the images; each number carries its judge's name."""

    extractor: FeatureExtractor
    perceptual: PerceptualMeasure
    segmentor: Segmentor
    segmentor_name: str


@dataclass(frozen=True)
class RealPatches:
    """A fold's real patches, by the part that they are in."""

    learning: Patches
    held_out: Patches
    learning_ids: list[str]
    held_out_ids: list[str]


@dataclass(frozen=True)
class RealFeatures:
    """Features of a fold's real patches, extracted once for all that is compared with them."""

    learning: FeatureSet
    held_out: FeatureSet


def measure_images(run: Run, fold: int, device: torch.device, events: Events, inception: Path | None = None,
                   lpips: Path | None = None) -> dict[str, Any]:
    """Figures of all autoencoders and generators of a fold; kept in ``images.json`` and not computed twice.

    Parameters
    ----------
    inception, lpips : Path or None
        Local weights, for FID (safetensors) and LPIPS (safetensors or npz). Without them the features of NeoSeg stand
        in, and the figures are called so.

    Returns
    -------
    dict
        ``reconstruction``: for ``vae`` and ``vqvae``; ``samples``: for NeoGen, NeoGen DM, QNeoGen, QNeoGen DM;
        ``copies`` of NeoGen's samples. What has not been trained is not there.
    """
    stages = [stage for kind in AUTOENCODERS for stage in (kind, f"synth-{kind}")]
    done = {stage: record for stage in stages if (record := run.current(fold, stage)) is not None}
    if not done:
        return {}
    key = sha256_of_json({"form": FORM, "stages": {stage: outputs_hash(record) for stage, record in done.items()},
                          "weights": [path and sha256_of_file(path) for path in (inception, lpips)],
                          "seg": _output_of(run, fold, own_segmentor_stage(run)) or load_bundle("demo").hash})
    path = run.folder / f"fold-{fold}" / "images.json"
    if path.is_file() and (before := read_json(path)).get("key") == key:
        return before["figures"]
    judges = _judges(run, fold, device, inception, lpips)
    real = real_patches(run, fold, next(stage for stage in done if stage in AUTOENCODERS))
    features = None
    if any(stage not in AUTOENCODERS for stage in done):
        features = RealFeatures(*(judges.extractor.extract(patches.images, patches.spacings)
                                  for patches in (real.learning, real.held_out)))
    figures: dict[str, Any] = {"reconstruction": {}, "samples": {}, "judges": {
        "features": judges.extractor.name, "perceptual": judges.perceptual.name, "segmentor": judges.segmentor_name}}
    steps = len(done)
    for step, stage in enumerate(done):
        events.progress(f"fold {fold} images", step, steps)
        if stage in AUTOENCODERS:
            figures["reconstruction"][stage] = _reconstruction(run, fold, stage, real.held_out, judges, device)
        elif features is not None:
            figures["samples"] |= _samples(run, fold, stage.partition("-")[2], real, features, judges, device)
    if "synth-vae" in done and features is not None:
        figures["copies"] = _copies(run, fold, real, features, judges)
    events.progress(f"fold {fold} images", steps, steps)
    write_json(path, {"key": key, "figures": figures})
    return figures


def _reconstruction(run: Run, fold: int, kind: str, real: Patches, judges: Judges,
                    device: torch.device) -> dict[str, Any]:
    """Table 3: one autoencoder on held-out patches."""
    autoencoder = load_autoencoder(run, run.preset(), fold, kind).to(device).eval()
    with torch.inference_mode():
        images = np.concatenate([autoencoder.reconstruct(torch.from_numpy(image)[None].to(device)).float().cpu().numpy()
                                 for image in real.images]).clip(0, 1)
    quality = reconstruction_quality(real.images, images, real.masks)
    perceptual = perceptual_distance(judges.perceptual, real.images, images, real.spacings)
    return {"patches": quality["patches"], **quality["mean"], "perceptual": perceptual["mean"]}


def _samples(run: Run, fold: int, kind: str, real: RealPatches, of_real: RealFeatures, judges: Judges,
             device: torch.device) -> dict[str, Any]:
    """Table 4: the generator on one autoencoder, with and without ControlNet."""
    rows = {}
    for part, suffix in ROWS.items():
        paths = sample_paths(run, fold, kind, part)
        if len(paths) < 2:
            continue
        samples, lineages = read_samples(paths)
        features = judges.extractor.extract(samples.images, samples.spacings)
        agreement = mask_agreement(samples.images, samples.masks, real.learning.images, real.learning.masks,
                                   segmented_in_turn(samples, judges.segmentor, device))
        row = {**_distances(of_real.held_out, features, of_real.learning), "mask_agreement": agreement}
        if part == "evaluation":
            generator = load_generator(run, run.preset(), fold, kind, device)
            row["mask_response"] = mask_response(generator, samples, lineages, run.preset().synth)
        rows[AUTOENCODERS[kind] + suffix] = row
    return rows


def _distances(held_out: FeatureSet, samples: FeatureSet, learning: FeatureSet) -> dict[str, Any]:
    """`compare`; nothing where slices are empty: a model that draws black must not cost the whole report."""
    try:
        return compare(held_out, samples, learning)
    except NeoNetError as error:
        if error.code != "TOO_FEW_CASES":
            raise
        return {}


def segmented_in_turn(patches: Patches, segmentor: Segmentor,
                       device: torch.device) -> Callable[[np.ndarray], np.ndarray]:
    """A function that segments the patches in their order: their spacings differ, and it is given the image alone."""
    spacings = iter(patches.spacings)
    return lambda patch: label_patch(patch, next(spacings), segmentor, device)


def mask_response(generator: Generator, samples: Patches, lineages: Sequence[dict[str, Any]],
                  settings: SynthSettings) -> dict[str, Any]:
    """Move the tumour in the masks, draw again with the same seeds, and see where the samples have changed.

    Returns
    -------
    dict
        ``samples``; ``changed`` and ``unchanged``, the mean absolute difference of intensity where the mask has changed
        and where it has not; ``ratio`` of the two: 1 where the mask plays no part in where a sample changes.
    """
    count = min(len(samples), MOST_MOVED)
    moved = np.stack([move_tumour(mask) for mask in samples.masks[:count]])
    again = np.concatenate([
        generator.generate(moved[list(part)], [lineages[index]["outcome"] for index in part],
                           [lineages[index]["seed"] for index in part], sampler=settings.sampler,
                           steps=settings.steps, guidance=settings.guidance)
        for part in batches(count, generator.most_at_once(settings.batch_size))])
    difference = np.abs(again - samples.images[:count])[:, 0]
    where = (moved != samples.masks[:count]).any(axis=1)
    changed, unchanged = float(difference[where].mean()), float(difference[~where].mean())
    return {"samples": count, "changed": changed, "unchanged": unchanged, "ratio": changed / max(unchanged, 1e-9)}


def move_tumour(masks: np.ndarray) -> np.ndarray:
    """Masks (2, X, Y, Z) with the tumour moved by half its width along R, to the side where there is more liver.

    Where it was there is liver now; where it went, liver or tumour. To the other side where it would leave the patch.
    """
    whole, tumour = masks
    columns = np.flatnonzero(tumour.any(axis=(1, 2)))
    middle, step = int(columns.mean()), max(2, len(columns) // 2)
    shift = step if whole[middle:].sum() >= whole[:middle].sum() else -step
    moved = _shifted(tumour, shift)
    if not moved.any():
        moved = _shifted(tumour, -shift)
    return np.stack([whole | moved, moved])


def _shifted(mask: np.ndarray, shift: int) -> np.ndarray:
    """(X, Y, Z) moved by `shift` voxels (not 0) along the first axis; zeros follow."""
    moved = np.zeros_like(mask)
    if shift > 0:
        moved[shift:] = mask[:-shift]
    else:
        moved[:shift] = mask[-shift:]
    return moved


def _copies(run: Run, fold: int, real: RealPatches, of_real: RealFeatures, judges: Judges) -> dict[str, Any]:
    """Whether NeoGen's balancing samples, or else those on held-out masks, are copies of training patches."""
    part = next((part for part in ("samples", "evaluation") if sample_paths(run, fold, "vae", part)), None)
    if part is None:
        return {}
    paths = sample_paths(run, fold, "vae", part)
    samples, lineages = read_samples(paths)
    sources = np.array([real.learning_ids.index(lineage["mask_case"]) if lineage["mask_case"] in real.learning_ids
                        else -1 for lineage in lineages])
    features = judges.extractor.extract(samples.images, samples.spacings)
    return {"part": part, **copies_check(samples.images, real.learning.images, real.held_out.images,
                                         (features, of_real.learning, of_real.held_out), sources)}


def sample_paths(run: Run, fold: int, kind: str, part: str) -> list[Path]:
    """Lineage files of one part (``samples``, ``evaluation``, ``evaluation-dm``) of a synth stage."""
    return sorted((run.stage_folder(fold, f"synth-{kind}") / part).glob("sample-*.json"))


def label_patch(patch: np.ndarray, spacing: Sequence[float], segmentor: Segmentor, device: torch.device) -> np.ndarray:
    """Segment a patch (X, Y, Z) in [0, 1] as it is: its intensities are those of its whole image, not its own."""
    whole = Volume(patch.astype(np.float32), np.diag([*spacing, 1.0]))
    seen = whole if segmentor.spacing is None else resample_to_spacing(whole, segmentor.spacing)
    probabilities = predict_probabilities(segmentor.network, seen.array, segmentor.settings, device)
    on_patch = [resample_like(Volume(channel, seen.affine), whole).array for channel in probabilities]
    return np.argmax(on_patch, axis=0).astype(np.uint8)


def _judges(run: Run, fold: int, device: torch.device, inception: Path | None, lpips: Path | None) -> Judges:
    segmentor, name = _segmentor(run, fold, device)
    own = SegmentorFeatures(segmentor.network, segmentor.spacing,
                            size_multiple(segmentor.settings.network, segmentor.settings.channels), name, device)
    return Judges(InceptionFeatures(inception, device) if inception is not None else own,
                  Lpips(lpips, device=device) if lpips is not None else SegmentorDistance(own), segmentor, name)


def _segmentor(run: Run, fold: int, device: torch.device) -> tuple[Segmentor, str]:
    """The fold's own NeoSeg, which has seen its training patients alone, or else that of the built-in bundle."""
    stage = own_segmentor_stage(run)
    done = run.current(fold, stage)
    if done is None:
        segmentor = load_bundle("demo").segmentors(device)[0]
        return segmentor, f"NeoSeg {segmentor.settings.network} (bundle demo)"
    settings = segmentor_settings(stage, run.preset())
    network = load_segmentor(run, run.preset(), fold, stage).to(device)
    spacing = done["figures"]["spacing"]
    return (Segmentor(network, settings, None if spacing is None else tuple(spacing)),
            f"NeoSeg {settings.network} (fold {fold})")


def _output_of(run: Run, fold: int, stage: str) -> str | None:
    done = run.current(fold, stage)
    return None if done is None else outputs_hash(done)


def real_patches(run: Run, fold: int, stage: str) -> RealPatches:
    """The patches that a fold's autoencoder learned from, and those that it has not seen, from the run's own files."""
    inputs = read_json(run.stage_folder(fold, stage) / "inputs.json")
    crop = run.preset().crop

    def patches(part: str) -> Patches:
        try:
            return cut_patches([open_prepared(run.folder / "prepared", inputs["spacing"], case_id, outcome)
                                for case_id, (_, outcome, _) in inputs["cases"][part].items()], crop)
        except FileNotFoundError as error:
            raise NeoNetError("NOT_PREPARED", f"{run.folder.name} lacks the prepared images of fold {fold}.",
                              f"Give its 'neonet train' once more with --stages {stage}: that prepares them and trains "
                              "nothing anew.") from error

    return RealPatches(patches("learning"), patches("validation"), list(inputs["cases"]["learning"]),
                       list(inputs["cases"]["validation"]))
