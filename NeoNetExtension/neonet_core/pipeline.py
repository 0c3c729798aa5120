"""One case: volume -> label map -> TLCR patch -> PNI score with its spread and attention map."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neonet_core.bundle import Bundle, header_note, load_bundle, notice
from neonet_core.errors import NeoNetError
from neonet_core.events import Events, Silent
from neonet_core.flags import NO_SCORE_FLAGS, Flag, case_flags, comparable_facts
from neonet_core.measurements import Measurements, measure
from neonet_core.preprocessing import prepare_image, prepare_label_map
from neonet_core.presets import CropSettings
from neonet_core.tlcr import Crop, extract, image_channels, locate_crop, mask_patch, paste, world_to_voxel
from neonet_core.training.files import write_bytes, write_json
from neonet_core.volume import Volume, reorient_like, resample_like, write_volume

if TYPE_CHECKING:
    import torch

    from neonet_core.classification.pattennet import PattenNet
    from neonet_core.figures import Views

Point = tuple[float, float, float]

SCORE_FORMAT = 1
PATCH_FILES = tuple(f"crop/{name}" for name in ("image.nii.gz", "mask.nii.gz", "t1.nii.gz", "t2.nii.gz", "crop.json"))


@dataclass(frozen=True)
class TumourPatch:
    """The TLCR patch of a case, on a canonical grid.

    Attributes
    ----------
    image : Volume
        (X, Y, Z) float32 in [0, 1]; zero where the patch reaches beyond the volume.
    masks : np.ndarray
        (2, X, Y, Z) uint8: liver or tumour; tumour.
    crop : Crop
        Where it lies in `grid`.
    grid : Volume
        The whole prepared image that it was cut from.
    intensity_range : (float, float)
        The raw intensities that became 0 and 1.
    """

    image: Volume
    masks: np.ndarray
    crop: Crop
    grid: Volume
    intensity_range: tuple[float, float] = (0.0, 1.0)

    @property
    def channels(self) -> np.ndarray:
        """T1 and T2, (2, X, Y, Z) float32: image x mask."""
        return image_channels(self.image.array, self.masks)

    def describe(self) -> dict[str, Any]:
        """Where the patch lies, for ``crop.json``; positions in RAS millimetres."""
        center = self.grid.affine @ [*self.crop.center, 1]
        return {"size": list(self.crop.size), "start": list(self.crop.start),
                "spacing_mm": [round(value, 4) for value in self.grid.spacing],
                "center_ras_mm": [round(float(value), 3) for value in center[:3]],
                "intensity_range": list(self.intensity_range), "coverage": self.crop.coverage,
                "tumour_voxels": self.crop.tumour_voxels}


@dataclass(frozen=True)
class Score:
    """PNI probability of one case.

    Attributes
    ----------
    members : tuple of float
        Probability by each member of the bundle; `probability` is their mean, `spread` their standard deviation,
        unknown (None) for a single member.
    threshold : float or None
        The bundle's operating point.
    share_below : dict
        Share of the training cohort's out-of-fold scores that lie below this one: of all, positives, negatives.
    attention : Volume
        (X, Y, Z) float32 in [0, 1] on the grid of the input, zero outside the crop: the mean spatial attention of
        the members' dual attention blocks. It shows what the network weighted, not why.
    """

    members: tuple[float, ...]
    threshold: float | None
    share_below: dict[str, float]
    attention: Volume

    @property
    def probability(self) -> float:
        return float(np.mean(self.members))

    @property
    def spread(self) -> float | None:
        return float(np.std(self.members)) if len(self.members) > 1 else None


@dataclass(frozen=True)
class CaseResult:
    """All that `predict` found in a case; volumes lie on the grid of the input, but for the patch."""

    case: str
    image: Volume
    label_map: Volume
    label_source: str
    bundle: Bundle
    measurements: Measurements
    patch: TumourPatch | None
    score: Score | None
    flags: tuple[Flag, ...]
    seconds: dict[str, float] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)
    """What can be compared with the training cohort: see `flags.comparable_facts`."""

    @property
    def is_demonstration(self) -> bool:
        """A model that knows simulated images only had a part in it."""
        return any(flag.code == "DEMO_MODEL" for flag in self.flags)

    @property
    def notice(self) -> str:
        """What every output must say."""
        return notice(self.is_demonstration)

    @cached_property
    def views(self) -> Views:
        """What its pictures show, cut once for figure, report and thumbnail."""
        from neonet_core.figures import cut_views

        return cut_views(self)

    @property
    def note(self) -> str:
        """The notice in the 79 characters that a NIfTI header has room for."""
        return header_note(self.bundle.name, self.is_demonstration)

    def to_json(self) -> dict[str, Any]:
        """The content of ``score.json``."""
        record = self.bundle.record
        score = self.score
        content: dict[str, Any] = {
            "format": SCORE_FORMAT, "case": self.case, "notice": self.notice,
            "bundle": {"name": record.name, "version": record.version, "hash": self.bundle.hash},
            "outcome": record.outcome, "probability": None, "spread": None, "members": [], "threshold": None,
            "share_of_training_scores_below": {}, "label_source": self.label_source,
            "measurements": asdict(self.measurements), "crop": self.patch.describe() if self.patch else None,
            "flags": [asdict(flag) for flag in self.flags], "seconds": self.seconds}
        if score is not None:
            content |= {"probability": score.probability, "spread": score.spread, "members": list(score.members),
                        "threshold": score.threshold, "share_of_training_scores_below": score.share_below}
        return content


@dataclass(frozen=True)
class MaskPatch:
    """The masks of a TLCR patch, on a canonical grid.

    Attributes
    ----------
    masks : np.ndarray
        (2, X, Y, Z) uint8: liver or tumour; tumour.
    affine : np.ndarray
        (4, 4) voxels of the patch to RAS mm.
    crop : Crop
        Where it lies in the prepared label map.
    """

    masks: np.ndarray
    affine: np.ndarray
    crop: Crop


def cut_masks(label_map: Volume, settings: CropSettings, spacing: Sequence[float] | None = None, *,
              tumour_at: Point | None = None, crop_center: Point | None = None) -> MaskPatch:
    """Cut the masks of the TLCR patch (Algorithm 1); parameters and errors as `cut_patch`, which adds the image."""
    prepared = prepare_label_map(label_map, spacing)
    labels = prepared.array
    if not (labels == 2).any() and (label_map.array == 2).any():
        raise NeoNetError("EMPTY_TUMOUR", "The tumour is smaller than a voxel of the grid that the model works on "
                          f"({' x '.join(f'{value:.1f}' for value in prepared.spacing)} mm).", "Check the label map.")
    crop = locate_crop(labels, settings.size, component=settings.component, spacing=prepared.spacing,
                       tumour_at=_voxel(prepared, tumour_at), center=_voxel(prepared, crop_center))
    assert crop is not None, "locate_crop raises on an empty tumour"
    affine = prepared.affine.copy()
    affine[:3, 3] = (prepared.affine @ [*crop.start, 1])[:3]
    return MaskPatch(mask_patch(extract(labels, crop)), affine, crop)


def cut_patch(image: Volume, label_map: Volume, settings: CropSettings, spacing: Sequence[float] | None = None, *,
              tumour_at: Point | None = None, crop_center: Point | None = None) -> TumourPatch:
    """Cut the TLCR patch of a case (Algorithm 1).

    Parameters
    ----------
    image, label_map : Volume
        On the same grid, as read.
    spacing : sequence of float or None
        Grid in mm on which to cut; None: that of the image.
    tumour_at, crop_center : (R, A, S) in mm or None
        See `neonet_core.tlcr.locate_crop`.

    Raises
    ------
    NeoNetError
        ``GRID_MISMATCH``, ``EMPTY_TUMOUR``, ``BAD_ARGUMENT`` (a point outside the image), ``CONSTANT_IMAGE``.
    """
    label_map = reorient_like(label_map, image)
    prepared = prepare_image(image, spacing)
    grid = prepared.volume
    cut = cut_masks(label_map, settings, spacing, tumour_at=tumour_at, crop_center=crop_center)
    return TumourPatch(Volume(extract(grid.array, cut.crop), cut.affine), cut.masks, cut.crop, grid,
                       prepared.intensity_range)


def _voxel(grid: Volume, point: Point | None) -> tuple[float, ...] | None:
    return None if point is None else tuple(world_to_voxel(grid.affine, point))


def classify_patches(bundle: Bundle, patches: Sequence[TumourPatch], image: Volume, device: torch.device,
                     events: Events | None = None) -> Score:
    """Score a case by every member of the bundle; `patches` holds one patch a member (members may differ in grid)."""
    import torch

    from neonet_core.classification.pattennet import encode_channels, masks_at

    events = events or Silent()
    members: list[float] = []
    attention = np.zeros(image.shape, dtype=np.float32)
    classifiers = bundle.classifiers(device)
    for done, ((encoder, network), patch) in enumerate(zip(classifiers, patches, strict=True)):
        events.progress("classify", done, len(classifiers))
        with torch.inference_mode():
            features = encode_channels(encoder, torch.from_numpy(_seen_by(network, patch))[None].to(device))
            masks = masks_at(torch.from_numpy(patch.masks)[None], features.shape[2:]).to(device)
            logit, weights = network.score_and_attention(features.float(), masks)
            weights = torch.nn.functional.interpolate(weights.float(), size=patch.crop.size, mode="trilinear")
        members.append(float(torch.sigmoid(logit)[0]))
        whole = Volume(paste(weights[0, 0].cpu().numpy(), patch.crop), patch.grid.affine)
        attention += resample_like(whole, image, order=1).array / len(classifiers)
    events.progress("classify", len(classifiers), len(classifiers))
    return Score(tuple(members), bundle.record.threshold, _shares_below(bundle, float(np.mean(members))),
                 Volume(attention, image.affine))


def _seen_by(network: PattenNet, patch: TumourPatch) -> np.ndarray:
    """The classifier's input (2, X, Y, Z) float32: the TLCR channels, or the same of a constant image."""
    from neonet_core.classification.training import CONSTANT_INTENSITY

    if network.inputs == "image":
        return patch.channels
    return image_channels(np.full(patch.crop.size, CONSTANT_INTENSITY, np.float32), patch.masks)


def _shares_below(bundle: Bundle, probability: float) -> dict[str, float]:
    scores = bundle.record.out_of_fold
    groups = {"all": scores, "positive": [s for s in scores if s.outcome == 1],
              "negative": [s for s in scores if s.outcome == 0]}
    return {name: float(np.mean([s.score < probability for s in group])) for name, group in groups.items() if group}


def predict_case(image: Volume, *, label_map: Volume | None = None, bundle: str | Path | Bundle = "demo",
                 seg_bundle: str | Path | Bundle | None = None, case: str = "case", tumour_at: Point | None = None,
                 crop_center: Point | None = None, need_score: bool = False, device: str = "auto",
                 events: Events | None = None) -> CaseResult:
    """Take one case from the image to the PNI score.

    Parameters
    ----------
    image : Volume
        As read; any orientation and spacing.
    label_map : Volume or None
        The user's own segmentation on the image's grid, labels 0, 1, 2; it always replaces ours.
    bundle : str, Path or Bundle
        Folder or name of a bundle.
    seg_bundle : str, Path, Bundle or None
        Another bundle whose NeoSeg is used.
    case : str
        How the case is called in files and report; must not be a patient's name.
    tumour_at, crop_center : (R, A, S) in mm or None
        Which tumour, or where to crop.
    need_score : bool
        What leaves a case without a score (`flags.NO_SCORE_FLAGS`) is an error instead of a flag.

    Returns
    -------
    CaseResult
        Where a score would mean nothing (`flags.NO_SCORE_FLAGS`), `score` is None and a flag says why.

    Raises
    ------
    NeoNetError
        As `cut_patch` and the bundle's loading do; ``EMPTY_TUMOUR``, ``NO_LIVER``, ``NO_PNI_MODEL`` and
        ``WRONG_MODALITY`` only with `need_score`.
    """
    from neonet_core.training.device import choose_device

    events = events or Silent()
    chosen = choose_device(device)
    model = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    segmenting = model if seg_bundle is None else (
        seg_bundle if isinstance(seg_bundle, Bundle) else load_bundle(seg_bundle))
    seconds: dict[str, float] = {}
    label_map_given = label_map is not None
    if label_map is not None:
        label_map = reorient_like(label_map, image)  # raises GRID_MISMATCH
        source = "given by the user"
    else:
        from neonet_core.segmentation.inference import segment

        with _timed(seconds, "segment"):
            label_map = segment(image, segmenting.segmentors(chosen), chosen, events)
        source = f"NeoSeg of bundle {segmenting.name}"
    with _timed(seconds, "measure"):
        measurements = measure(label_map)
    patches: list[TumourPatch] = []
    score: Score | None = None
    settings = model.record.preset.crop
    if need_score and not model.can_classify():
        raise NeoNetError("NO_PNI_MODEL", f"The bundle '{model.name}' holds no PNI model.", "Use a bundle with NeoCls.")
    lost = ""
    if measurements.tumour_ml > 0 or need_score:  # cut_patch raises EMPTY_TUMOUR
        try:
            with _timed(seconds, "crop"):
                patches = _member_patches(model, image, label_map, settings, tumour_at, crop_center)
        except NeoNetError as error:
            if error.code != "EMPTY_TUMOUR" or need_score:
                raise
            lost = error.message
    patch = patches[0] if patches else None
    used = (model,) if label_map_given else (model, segmenting)
    facts = comparable_facts(image, label_map)
    flags = case_flags(image, label_map, measurements, patch.crop if patch else None, model,
                       demo=any(bundle.is_demo for bundle in used), facts=facts)
    if lost:
        flags = (*flags, Flag("NO_TUMOUR", f"{lost} So there is no score."))
    against = next((flag for flag in flags if flag.code in NO_SCORE_FLAGS), None)
    if against is None:
        with _timed(seconds, "classify"):
            score = classify_patches(model, patches, image, chosen, events)
    elif need_score:
        raise NeoNetError(against.code, against.message, "Check the image and the label map.")
    return CaseResult(case, image, label_map, source, model, measurements, patch, score, flags,
                      {name: round(value, 2) for name, value in seconds.items()}, facts)


def _member_patches(bundle: Bundle, image: Volume, label_map: Volume, settings: CropSettings,
                    tumour_at: Point | None, crop_center: Point | None) -> list[TumourPatch]:
    """One patch a member; members that work on the same grid share theirs."""
    by_spacing: dict[Any, TumourPatch] = {}
    for spacing in {member.crop_spacing: None for member in bundle.record.members}:
        by_spacing[spacing] = cut_patch(image, label_map, settings, spacing, tumour_at=tumour_at,
                                        crop_center=crop_center)
    return [by_spacing[member.crop_spacing] for member in bundle.record.members]


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds[name] = time.monotonic() - started


def write_patch(patch: TumourPatch, out: Path, note: str = "", **facts: Any) -> None:
    """Write a patch as ``image, mask, t1, t2`` (.nii.gz, canonical, [0, 1]) and ``crop.json``.

    The mask file holds 0, 1, 2 as a label map does. `note` goes into the images' headers, `facts` into the JSON.
    """
    masks = patch.masks
    t1, t2 = patch.channels
    affine = patch.image.affine
    write_volume(patch.image, out / "image.nii.gz", note)
    write_volume(Volume((masks[0] + masks[1]).astype(np.uint8), affine), out / "mask.nii.gz", note)
    write_volume(Volume(t1, affine), out / "t1.nii.gz", note)
    write_volume(Volume(t2, affine), out / "t2.nii.gz", note)
    write_json(out / "crop.json", patch.describe() | facts)


def write_case(result: CaseResult, out: Path) -> Path:
    """Write all outputs of a case and its report.

    ``label_map.nii.gz``, ``attention.nii.gz`` on the input's grid, ``crop/``, ``score.json``, ``report.html`` and
    its main figure as ``figure.png``.

    Returns
    -------
    Path
        The report.
    """
    from neonet_core.figures import case_figure, png
    from neonet_core.report import write_case_report

    out.mkdir(parents=True, exist_ok=True)
    for stale in ("attention.nii.gz", "score.json", "report.html", "figure.png", *PATCH_FILES):
        (out / stale).unlink(missing_ok=True)  # of an earlier call: a map of then must not lie beside a score of now
    note, content = result.note, result.to_json()
    write_volume(result.label_map, out / "label_map.nii.gz", note)
    if result.patch is not None:
        write_patch(result.patch, out / "crop", note, notice=content["notice"], flags=content["flags"])
    if result.score is not None:
        write_volume(result.score.attention, out / "attention.nii.gz", note)
    write_json(out / "score.json", content)
    write_bytes(out / "figure.png", png(case_figure(result), None))
    return write_case_report(result, out / "report.html")
