"""What the DICOM objects of a result have in common: which model made them, their UIDs, series, dates and words."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neonet_core import __version__
from neonet_core.bundle import notice
from neonet_core.dicom.source import Source, derived_uid
from neonet_core.training.files import write_atomic

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from neonet_core.pipeline import CaseResult

MANUFACTURER, PRODUCT = "NeoNet", "NeoNet (neonet_core)"
DEMO_WORDS = "DEMONSTRATION MODEL"
SERIES_NUMBERS = {"SEG": 9601, "SR": 9602, "SC": 9603}
"""High, so that they come after the scanner's; the standard does not ask for unique ones."""
KINDS = {"SEG": "segmentation", "SR": "report", "SC": "report page"}


@dataclass(frozen=True)
class SourceModel:
    """The model behind an object.

    Attributes
    ----------
    name, version, hash : str
        Of the bundle.
    is_demonstration : bool
        It knows simulated images only.
    segmented_by : str
        In words who made the label map, e.g. ``"NeoSeg of bundle demo"``; "" where a person or another program did.
    """

    name: str
    version: str
    hash: str
    is_demonstration: bool
    segmented_by: str = ""

    @staticmethod
    def of(result: CaseResult) -> SourceModel:
        """The model of a result."""
        given = result.label_source.startswith("given")
        return SourceModel(result.bundle.name, result.bundle.record.version, result.bundle.hash,
                           result.is_demonstration, "" if given else result.label_source)

    @property
    def notice(self) -> str:
        """What every object must say."""
        return notice(self.is_demonstration)

    @property
    def segmentor_version(self) -> str:
        """The bundle's version where it made the label map itself; of another bundle only the name is known."""
        return self.version if self.segmented_by.endswith(f" {self.name}") else "not recorded"


def instance_uid(kind: str, source: Source, model: SourceModel, content: bytes) -> str:
    """UID of an object: the same for the same source, model and content, so that no UID ever names two contents."""
    return derived_uid(kind, source.series_uid, model.hash, hashlib.sha256(content).hexdigest())


def series_uid(kind: str, source: Source, model: SourceModel) -> str:
    """UID of the series of all objects of a kind that a model makes of a source series."""
    return derived_uid(kind + " series", source.series_uid, model.hash)


def series_description(kind: str, model: SourceModel) -> str:
    """At most 64 characters; says research, and the demonstration model by its name."""
    return f"NeoNet research {DEMO_WORDS + ' ' if model.is_demonstration else ''}{KINDS[kind]}"


def common_attributes(kind: str, source: Source, model: SourceModel, uid: str) -> dict[str, Any]:
    """Arguments that highdicom's constructors share."""
    date, time = source.acquired
    return {"series_instance_uid": series_uid(kind, source, model), "series_number": SERIES_NUMBERS[kind],
            "sop_instance_uid": uid, "instance_number": 1, "manufacturer": MANUFACTURER,
            "manufacturer_model_name": PRODUCT, "software_versions": __version__,
            "device_serial_number": model.hash, "series_description": series_description(kind, model),
            "content_date": date, "content_time": time, "series_date": date, "series_time": time}


def settle(dataset: Dataset) -> Dataset:
    """Take the moment of writing and random numbers out, so that equal results give equal files.

    Content and series carry the date and time of the source's acquisition, which is what they are about; when a file
    was written is its file system's to say.
    """
    for name in ("InstanceCreationDate", "InstanceCreationTime", "DateOfSecondaryCapture", "TimeOfSecondaryCapture"):
        if name in dataset:
            delattr(dataset, name)
    organization = derived_uid("dimensions", str(dataset.SOPInstanceUID))
    for item in (*dataset.get("DimensionOrganizationSequence", []), *dataset.get("DimensionIndexSequence", [])):
        item.DimensionOrganizationUID = organization
    for equipment in dataset.get("ContributingEquipmentSequence", []):
        if "ContributionDateTime" in equipment:
            del equipment.ContributionDateTime
    return dataset


def save(dataset: Dataset, path: Path) -> Path:
    """Write an object, whole or not at all."""
    write_atomic(path, lambda temporary: dataset.save_as(temporary, enforce_file_format=True))
    return path


def result_content(result: CaseResult) -> bytes:
    """All of a result that its report says, as bytes for `instance_uid`: without timings and the case's name."""
    content = {key: value for key, value in result.to_json().items() if key not in ("seconds", "case")}
    return json.dumps(content, sort_keys=True, default=str).encode() + label_content(result.label_map.array)


def label_content(labels: Any) -> bytes:
    """A label map as bytes for `instance_uid`."""
    import numpy as np

    return repr(labels.shape).encode() + np.ascontiguousarray(labels, dtype=np.uint8).tobytes()
