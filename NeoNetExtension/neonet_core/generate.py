"""`neonet generate`: label maps -> synthetic image patches that follow their masks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neonet_core.bundle import Bundle, Member, load_bundle
from neonet_core.errors import NeoNetError
from neonet_core.events import Events, Silent, track
from neonet_core.pipeline import Point, cut_masks
from neonet_core.presets import SynthSettings
from neonet_core.volume import Volume

SYNTHETIC = "SYNTHETIC"
MOST_SAMPLES = 10_000
"""Of a label map: their names have four digits."""


def generate(label_maps: Sequence[Volume], out: Path, *, bundle: str | Path | Bundle = "demo", count: int = 1,
             seed: int = 0, outcome: int = 1, vary: bool = False, tumour_at: Point | None = None,
             crop_center: Point | None = None, changes: Mapping[str, Any] | None = None, device: str = "auto",
             events: Events | None = None) -> list[Path]:
    """Draw synthetic patches and write each at its label map's place in the world.

    An interrupted call goes on where it stopped: finished samples are neither lost nor drawn again. Where the bundle
    has several generators, they take turns.

    Parameters
    ----------
    label_maps : sequence of Volume
        0 background, 1 liver, 2 tumour; any grid.
    out : Path
        Receives ``label-01-sample-0000.nii.gz`` (image, 0 to 1), ``..._mask.nii.gz`` and ``....json``, its lineage.
    count : int
        Samples for each label map, at most `MOST_SAMPLES`.
    outcome : int
        Class to be drawn; read only by a model with class embedding.
    vary : bool
        Mirror, scale and bend the masks, each sample its own; else they are taken as they are.
    tumour_at, crop_center : (R, A, S) in mm or None
        As in `pipeline.cut_patch`.
    changes : mapping
        `SynthSettings` in place of the bundle's, e.g. ``{"steps": 25}``.

    Returns
    -------
    list of Path
        The images.

    Raises
    ------
    NeoNetError
        ``NO_GENERATOR``, ``EMPTY_TUMOUR``, ``BAD_ARGUMENT``, ``EXISTS`` (other samples lie in `out`), ``DISK_FULL``.
    """
    from neonet_core.generation.synthesis import write_samples
    from neonet_core.training.device import choose_device

    events = events or Silent()
    if count < 1:
        raise NeoNetError("BAD_ARGUMENT", f"{count} samples cannot be drawn.", "Ask for 1 or more with --count.")
    if count > MOST_SAMPLES:
        raise NeoNetError("BAD_ARGUMENT", f"{count} samples of a label map are more than the {MOST_SAMPLES} that one "
                          "call draws.", "Ask for fewer with --count, and again with another --seed and --out.")
    if seed < 0:
        raise NeoNetError("BAD_ARGUMENT", f"The seed {seed} is negative.", "Give 0 or more with --seed.")
    model = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    settings = _settings(model, changes or {})
    generators = model.generators(choose_device(device))
    origin = {"bundle": model.name, "bundle_hash": model.hash, "notice": model.notice,
              "flags": [SYNTHETIC, *(["DEMO_MODEL"] if model.is_demo else [])]}
    images: list[Path] = []
    for turn, (member, generator) in enumerate(generators):
        requests = [request for number, label_map in enumerate(label_maps)
                    for request in _requests(label_map, number, range(turn, count, len(generators)), model, member,
                                             settings, seed, outcome, vary, tumour_at, crop_center, events)]
        if requests:
            paths = write_samples(generator, requests, out, settings, origin | {"fold": member.fold}, events,
                                  "generate", note=f"{SYNTHETIC}. {model.note}"[:79])
            images += [path.with_suffix(".nii.gz") for path in paths]
    return sorted(images)


def _settings(model: Bundle, changes: Mapping[str, Any]) -> SynthSettings:
    from pydantic import ValidationError

    try:
        return SynthSettings.model_validate(model.record.preset.synth.model_dump() | dict(changes))
    except ValidationError as error:
        first = error.errors()[0]
        raise NeoNetError("BAD_ARGUMENT", f"{first['loc'][0]}: {first['msg']} (given: {first.get('input')!r}).",
                          "See 'neonet generate --help'.") from error


def _requests(label_map: Volume, number: int, samples: range, model: Bundle, member: Member, settings: SynthSettings,
              seed: int, outcome: int, vary: bool, tumour_at: Point | None, crop_center: Point | None,
              events: Events) -> list[Any]:
    """What is to be drawn for one label map."""
    from neonet_core.generation.synthesis import SampleRequest, draw_transform
    from neonet_core.training.loop import derive_seed

    patch = cut_masks(label_map, model.record.preset.crop, member.crop_spacing, tumour_at=tumour_at,
                      crop_center=crop_center)
    if patch.crop.coverage < 1:
        events.log(f"Label map {number + 1}: the patch holds {patch.crop.coverage:.0%} of the tumour.", "warning")
    spacing = np.linalg.norm(patch.affine[:3, :3], axis=0)
    # by its content: a file's name may be a patient's
    origin = hashlib.sha256(np.ascontiguousarray(patch.masks).tobytes()).hexdigest()[:16]
    requests = []
    # varying a mask of 96 x 96 x 48 takes about a second
    for sample in track(samples, "vary masks", events) if vary else samples:
        transform = draw_transform(patch.masks, spacing, settings, derive_seed(seed, number, sample, 0)) if vary else {}
        requests.append(SampleRequest(f"label-{number + 1:02d}-sample-{sample:04d}", origin, patch.masks, outcome,
                                      derive_seed(seed, number, sample, 1), patch.affine, transform))
    return requests
