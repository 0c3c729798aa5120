"""A result as one picture that every viewer shows: a Secondary Capture of a report page."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neonet_core import __version__
from neonet_core.bundle import DEMO_WARNING, RESEARCH_USE_ONLY
from neonet_core.dicom.objects import SourceModel, common_attributes, instance_uid, save, settle
from neonet_core.dicom.source import Source, quiet, read_source, required
from neonet_core.dicom.sr import result_in_words
from neonet_core.figures import INK, QUIET, case_figure
from neonet_core.report import key_facts

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pydicom.dataset import Dataset

    from neonet_core.pipeline import CaseResult

PAGE_DPI = 120
"""1200 pixels wide: text of 9 points stays readable on a screen that shows the page in full height."""
LINE, LETTERS = 0.19, 125  # inches a line, characters a line


def write_capture(result: CaseResult, source_files: Sequence[Path], path: Path) -> Path:
    """Write the report page of a result as a Secondary Capture; parameters and errors as `write_sr`."""
    return save(make_capture(result, read_source(source_files)), path)


def make_capture(result: CaseResult, source: Source) -> Dataset:
    """The page as a Secondary Capture (RGB, uncompressed), with the patient of the source in its header alone."""
    library, model, first = required("highdicom"), SourceModel.of(result), source.headers[0]
    pixels = page(result)
    uid = instance_uid("SC", source, model, pixels.tobytes())
    with quiet():
        dataset = library.sc.SCImage(
            pixel_array=pixels, photometric_interpretation="RGB", bits_allocated=8, coordinate_system="PATIENT",
            patient_orientation=("L", "F"), study_instance_uid=source.study_uid, patient_id=first.PatientID,
            patient_name=first.PatientName, patient_birth_date=first.PatientBirthDate, patient_sex=first.PatientSex,
            accession_number=first.AccessionNumber, study_id=first.StudyID, study_date=first.StudyDate,
            study_time=first.StudyTime, referring_physician_name=first.ReferringPhysicianName,
            specific_character_set=first.SpecificCharacterSet, content_qualification="RESEARCH",
            **common_attributes("SC", source, model, uid))
        dataset.copy_patient_and_study_information(first)
    dataset.PatientOrientation = None  # a page of several planes has none
    dataset.BodyPartExamined = "LIVER"
    dataset.ConversionType = "WSD"
    # The page names nobody: neither patient nor case.
    dataset.BurnedInAnnotation, dataset.RecognizableVisualFeatures = "NO", "NO"
    dataset.ImageComments = dataset.DerivationDescription = model.notice
    return settle(dataset)


def page(result: CaseResult) -> np.ndarray:
    """The page, (rows, columns, 3) uint8: result, notice, flags and model in words above the figure of the case."""
    return np.concatenate([_rendered(_words(result)), _rendered(case_figure(result))])


def _words(result: CaseResult) -> Figure:
    from matplotlib.figure import Figure

    record = result.bundle.record
    lines = [("NeoNet research report" + (" – DEMONSTRATION MODEL" if result.is_demonstration else ""), 15, "bold",
              INK), (RESEARCH_USE_ONLY, 10, "bold", INK)]
    if result.is_demonstration:
        lines.append((DEMO_WARNING, 9, "bold", INK))
    lines += [(result_in_words(result).removesuffix(RESEARCH_USE_ONLY).strip(), 11, "bold", INK),
              (key_facts(result), 10, "normal", INK)]
    lines += [(f"{flag.code}: {flag.message}", 9, "normal", INK) for flag in result.flags if flag.code != "DEMO_MODEL"]
    lines.append((f"Bundle {record.name}, version {record.version}, SHA-256 {result.bundle.hash}; NeoNet "
                  f"{__version__}. Label map: {result.label_source}.", 8, "normal", QUIET))
    wrapped = [(part, size, weight, colour, number == 0) for text, size, weight, colour in lines
               for number, part in enumerate(textwrap.wrap(text, int(LETTERS * 9 / max(size, 8))))]
    heights = [LINE * size / 9 + 0.08 * first for _, size, _, _, first in wrapped]
    total = sum(heights) + 0.35
    figure = Figure(figsize=(10, total), facecolor="white")
    top = 0.2
    for (text, size, weight, colour, first), height in zip(wrapped, heights, strict=True):
        figure.text(0.02, 1 - (top + 0.08 * first) / total, text.replace("$", r"\$"), fontsize=size, fontweight=weight,
                    color=colour, va="top")
        top += height
    return figure


def _rendered(figure: Figure) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(PAGE_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]
