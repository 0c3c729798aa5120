"""A label map as a DICOM Segmentation on the grid of its source series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neonet_core.dicom.objects import (
    DEMO_WORDS,
    MANUFACTURER,
    SourceModel,
    common_attributes,
    instance_uid,
    label_content,
    save,
    settle,
)
from neonet_core.dicom.source import Source, derived_uid, quiet, read_source, required
from neonet_core.errors import NeoNetError
from neonet_core.figures import LIVER, TUMOUR
from neonet_core.volume import Volume, reorient_like

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SEGMENT_NAMES = {1: "liver without tumour", 2: "tumour"}


def write_seg(label_map: Volume, source_files: Sequence[Path], path: Path, *, model: SourceModel) -> Path | None:
    """Write a label map as a DICOM Segmentation.

    Parameters
    ----------
    label_map : Volume
        0, 1 liver, 2 tumour, on the grid of the source series, its axes in any order and direction.
    source_files : sequence of Path
        All files of the source series, in any order.
    path : Path
        The file to be written.
    model : SourceModel

    Returns
    -------
    Path or None
        None, and no file, where the label map is empty: a segmentation without segment is not allowed.

    Raises
    ------
    NeoNetError
        ``GRID_MISMATCH``; as `read_source`.
    """
    dataset = make_seg(label_map, read_source(source_files), model)
    return None if dataset is None else save(dataset, path)


def make_seg(label_map: Volume, source: Source, model: SourceModel) -> Dataset | None:
    """The Segmentation (BINARY, segments 1 liver and 2 tumour, those that there are); None for an empty label map."""
    library = required("highdicom")
    labels = on_source_grid(label_map, source)
    present = present_labels(label_map)
    if not present:
        return None
    frames = np.zeros(labels.shape[::-1], np.uint8)  # (slices, rows, columns) in the order of the files' frames
    places: Any = list(source.grid.frames) if len(source.headers) == 1 else slice(None)
    frames[places] = labels.T
    stacked = np.stack([frames == label for label in present], axis=-1).astype(np.uint8)
    uid = instance_uid("SEG", source, model, label_content(labels))
    with quiet():
        dataset = library.seg.Segmentation(
            source_images=source.headers, pixel_array=stacked,
            segmentation_type=library.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[_segment(number, label, source, model)
                                  for number, label in enumerate(present, start=1)],
            content_label="NEONET_DEMO" if model.is_demonstration else "NEONET_RESEARCH",
            content_description=("Research use only" + (f". {DEMO_WORDS}: simulated data" if model.is_demonstration
                                                        else "")),
            content_qualification="RESEARCH",
            **common_attributes("SEG", source, model, uid))
    return settle(dataset)


def on_source_grid(label_map: Volume, source: Source) -> np.ndarray:
    """Labels as (columns, rows, slices) of the source. Raises ``GRID_MISMATCH``."""
    grid = Volume(np.broadcast_to(np.uint8(0), source.grid.shape), source.grid.affine)
    return np.asarray(reorient_like(label_map, grid).array, dtype=np.uint8)


def present_labels(label_map: Volume) -> list[int]:
    """Which of the labels 1 and 2 occur; segment numbers follow this order. Raises ``BAD_LABELS``."""
    found = set(np.unique(label_map.array).tolist())
    if not found <= {0, 1, 2}:
        raise NeoNetError("BAD_LABELS", "A label map holds 0, 1 and 2 alone.", "Map other values first.")
    return [label for label in (1, 2) if label in found]


def tracking(label: int, source: Source, model: SourceModel) -> tuple[str, str]:
    """Tracking identifier and UID of a segment, the same in segmentation and report."""
    return f"NeoNet {SEGMENT_NAMES[label]}", derived_uid("segment", str(label), source.series_uid, model.hash)


def _segment(number: int, label: int, source: Source, model: SourceModel) -> Any:
    from pydicom.sr.codedict import codes

    library = required("highdicom")
    name, uid = tracking(label, source, model)
    algorithm = None
    if model.segmented_by:
        algorithm = library.AlgorithmIdentificationSequence(
            name=model.segmented_by, family=codes.DCM.ArtificialIntelligence, version=model.segmentor_version[:64],
            source=MANUFACTURER, parameters={"bundle": model.name, "sha256": model.hash})
    category, kind, colour = {
        1: (codes.SCT.AnatomicalStructure, codes.SCT.Liver, LIVER),
        2: (codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Neoplasm, TUMOUR)}[label]
    values = library.seg.SegmentAlgorithmTypeValues
    description = library.seg.SegmentDescription(
        segment_number=number,
        segment_label=SEGMENT_NAMES[label].capitalize() + (f" ({DEMO_WORDS})" if model.is_demonstration else ""),
        segmented_property_category=category, segmented_property_type=kind,
        algorithm_type=values.AUTOMATIC if algorithm else values.MANUAL, algorithm_identification=algorithm,
        tracking_uid=uid, tracking_id=name, anatomic_regions=[codes.SCT.Liver] if label == 2 else None,
        display_color=library.color.CIELabColor.from_string(colour))
    description.SegmentDescription = model.notice
    return description
