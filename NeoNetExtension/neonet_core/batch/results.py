"""``results.csv``: one row a case, as the journal has it.

Every row begins with the version of its format, so that the file has one header line and nothing above it, as pandas
and Excel read it. Columns that begin with ``seconds`` differ from run to run; all others do not.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from neonet_core.bundle import Bundle, notice
from neonet_core.errors import NeoNetError
from neonet_core.pipeline import CaseResult
from neonet_core.training.files import write_text

RESULTS_FORMAT = 1
RESULTS_FILE = "results.csv"
CASES_FOLDER = "cases"
"""Of the batch's folder: holds a folder for each case."""

STEPS = ("read", "segment", "measure", "crop", "classify", "write")
RESULT_COLUMNS = (
    "format", "case_id", "status", "probability", "spread", "threshold", "liver_ml", "tumour_ml", "tumour_share",
    "tumour_diameter_mm", "tumours", "coverage", "flags", "notice", "label_source", "series",
    "spacing_x", "spacing_y", "spacing_z", "liver_intensity", "tumour_intensity",
    "bundle", "bundle_version", "bundle_hash", "seg_bundle", "seg_bundle_hash", "error_code", "error_reason",
    "seconds", *(f"seconds_{step}" for step in STEPS))
"""`flags` are codes joined by ``;``; `series` says why this one of a DICOM study was taken."""

Row = dict[str, Any]


def bundle_fields(bundle: Bundle, segmenting: Bundle) -> Row:
    """Which models a row comes from; the second only where it is another."""
    record = bundle.record
    row = {"bundle": record.name, "bundle_version": record.version, "bundle_hash": bundle.hash}
    if segmenting is not bundle:
        row |= {"seg_bundle": segmenting.name, "seg_bundle_hash": segmenting.hash}
    return row


def row_of_result(result: CaseResult, segmenting: Bundle, label_given: bool, series: str) -> Row:
    """The row of a case that was run, without its seconds."""
    score, patch, measured = result.score, result.patch, result.measurements
    return bundle_fields(result.bundle, segmenting) | {
        "status": "done", "probability": score and score.probability, "spread": score and score.spread,
        "threshold": score and score.threshold, "liver_ml": round(measured.liver_ml, 3),
        "tumour_ml": round(measured.tumour_ml, 3), "tumour_share": round(measured.tumour_share, 4),
        "tumour_diameter_mm": round(measured.tumour_diameter_mm, 2), "tumours": measured.tumours,
        "coverage": patch and round(patch.crop.coverage, 4), "flags": ";".join(flag.code for flag in result.flags),
        "notice": result.notice, "label_source": "given" if label_given else "segmented", "series": series,
        **{name: round(value, 4) for name, value in result.facts.items() if not name.endswith("_ml")}}


def row_of_failure(bundle: Bundle, segmenting: Bundle, error: NeoNetError) -> Row:
    """The row of a case that failed."""
    demo = bundle.is_demo or segmenting.is_demo
    return bundle_fields(bundle, segmenting) | {
        "status": "failed", "flags": "DEMO_MODEL" if demo else "", "notice": notice(demo),
        "error_code": error.code, "error_reason": str(error).removesuffix(f" [{error.code}]")}


def write_results(folder: Path, rows: Mapping[str, Row]) -> Path:
    """Write ``results.csv`` by case_id, whole or not at all."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, RESULT_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for case_id in sorted(rows):
        writer.writerow({"format": RESULTS_FORMAT, "case_id": case_id, **rows[case_id]})
    write_text(folder / RESULTS_FILE, stream.getvalue())
    return folder / RESULTS_FILE


def is_results_header(columns: Sequence[str] | Iterable[str]) -> bool:
    """Whether a CSV with these columns is the results of a batch."""
    return set(RESULT_COLUMNS) <= set(columns)
