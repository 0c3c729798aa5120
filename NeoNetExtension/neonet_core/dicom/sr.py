"""A result as a DICOM Structured Report: TID 1500, machine-readable measurements with their model and their doubts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neonet_core import __version__
from neonet_core.bundle import RESEARCH_USE_ONLY
from neonet_core.dicom.objects import (
    MANUFACTURER,
    PRODUCT,
    SourceModel,
    common_attributes,
    instance_uid,
    result_content,
    save,
    settle,
)
from neonet_core.dicom.seg import present_labels, tracking
from neonet_core.dicom.source import Source, derived_uid, quiet, read_source, required
from neonet_core.figures import Outcome, with_spread
from neonet_core.flags import NO_SCORE_FLAGS
from neonet_core.report import why_no_score

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from neonet_core.pipeline import CaseResult, Score

SCHEME = "99NEONET"
"""Our own codes, for what no public scheme has a code that means just this: a model's output is no pathologist's
finding of perineural invasion."""


def write_sr(result: CaseResult, source_files: Sequence[Path], path: Path, *, segmentation: Dataset | None) -> Path:
    """Write the structured report of a result.

    Parameters
    ----------
    result : CaseResult
    source_files : sequence of Path
        All files of the source series, in any order.
    path : Path
        The file to be written.
    segmentation : pydicom Dataset or None
        The segmentation (`make_seg`) that it refers to; None for an empty label map.

    Raises
    ------
    NeoNetError
        As `read_source`.
    """
    return save(make_sr(result, read_source(source_files), segmentation), path)


def make_sr(result: CaseResult, source: Source, segmentation: Dataset | None) -> Dataset:
    """The report as a Comprehensive SR: complete, preliminary, unverified."""
    from pydicom.sr.codedict import codes

    library = required("highdicom")
    sr, model = library.sr, SourceModel.of(result)
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=derived_uid("device", __version__), name="NeoNet", manufacturer_name=MANUFACTURER, model_name=PRODUCT,
        serial_number=model.hash)
    context = sr.ObservationContext(observer_device_context=sr.ObserverContext(
        observer_type=codes.DCM.Device, observer_identifying_attributes=device))
    with quiet():
        groups = [*_segment_groups(result, source, model, segmentation), _score_group(result, source, model)]
        report = sr.MeasurementReport(observation_context=context, procedure_reported=codes.SCT.ImagingProcedure,
                                      imaging_measurements=groups, title=codes.DCM.ImagingMeasurementReport)
        report[0].ContentSequence.append(_remarks(result, model))
        uid = instance_uid("SR", source, model, result_content(result))
        dataset = sr.ComprehensiveSR(
            evidence=[*source.headers, *([] if segmentation is None else [segmentation])], content=report,
            is_complete=True, is_final=False, is_verified=False, content_qualification="RESEARCH",
            coding_schemes=[library.coding_schemes.CodingSchemeIdentificationItem(designator=SCHEME, name="NeoNet")],
            **common_attributes("SR", source, model, uid))
    return settle(dataset)


def remarks(result: CaseResult) -> list[tuple[str, str]]:
    """What a reader must know, as (name, text): notice, result in words, why there is no score, flags, model."""
    record, score = result.bundle.record, result.score
    texts = [("Notice", result.notice), ("Result", result_in_words(result))]
    if not present_labels(result.label_map):
        texts.append(("Segmentation", "The label map is empty: there is no segmentation object."))
    if score is not None and len(score.members) > 1:
        texts.append(("Members", "Scores by member: " + "; ".join(f"{member:.3f}" for member in score.members)))
    if score is not None and score.threshold is not None:
        texts.append(("Threshold", f"Operating threshold of the bundle: {score.threshold:.3f}."))
    texts += [(f"Flag {flag.code}", flag.message) for flag in result.flags]
    texts += [("Model", f"Bundle {record.name}, version {record.version}, SHA-256 {result.bundle.hash}; "
                        f"NeoNet {__version__}; {len(record.members)} members."),
              ("Label map", result.label_source),
              ("Intended use", record.card.intended_use), ("Limits", record.card.limits)]
    return [(name, text) for name, text in texts if text.strip()]


def result_in_words(result: CaseResult) -> str:
    """One sentence; research and demonstration are said in it, so that it cannot be quoted without them."""
    outcome = Outcome.of(result.bundle.record.outcome)
    if result.score is None:
        return f"No score for {outcome.name}: {' '.join(why_no_score(result))} {RESEARCH_USE_ONLY}"
    kind = "Demonstration score, not about a patient," if result.is_demonstration else "Research score"
    spread = " (mean ± standard deviation of the members)" if result.score.spread is not None else ""
    return f"{kind} for {outcome.name}: {with_spread(result.score.members)}{spread}. {RESEARCH_USE_ONLY}"


# --- measurement groups -----------------------------------------------------------------------------------------------


def _segment_groups(result: CaseResult, source: Source, model: SourceModel, segmentation: Dataset | None) -> list[Any]:
    """Volume of liver and tumour and the tumour's diameter (TID 1411), each with its segment."""
    from pydicom.sr.codedict import codes

    if segmentation is None:
        return []
    sr, groups, measured = required("highdicom").sr, [], result.measurements
    millilitres = _code("mL", "UCUM", "milliliter")
    for number, label in enumerate(present_labels(result.label_map), start=1):
        name, uid = tracking(label, source, model)
        measurements = [sr.Measurement(name=codes.SCT.Volume, unit=millilitres,
                                       value=_decimal(measured.tumour_ml if label == 2 else measured.liver_ml))]
        if label == 2:
            measurements.append(sr.Measurement(
                name=_code("L0JK", "IBSI", "Maximum 3D diameter"), value=_decimal(measured.tumour_diameter_mm),
                unit=codes.UCUM.Millimeter))
            measurements.append(sr.Measurement(name=_code("tumours", SCHEME, "Number of tumours"),
                                               value=measured.tumours, unit=codes.UCUM.NoUnits))
        groups.append(sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(uid=uid, identifier=name),
            referenced_segment=sr.ReferencedSegment(
                sop_class_uid=segmentation.SOPClassUID, sop_instance_uid=segmentation.SOPInstanceUID,
                segment_number=number, source_series=sr.SourceSeriesForSegmentation(source.series_uid)),
            finding_category=codes.SCT.MorphologicallyAbnormalStructure if label == 2 else
            codes.SCT.AnatomicalStructure,
            finding_type=codes.SCT.Neoplasm if label == 2 else codes.SCT.Liver,
            finding_sites=[sr.FindingSite(anatomic_location=codes.SCT.Liver)],
            algorithm_id=_algorithm(model.segmented_by, model.segmentor_version, model) if model.segmented_by else None,
            measurements=measurements))
    return groups


def _score_group(result: CaseResult, source: Source, model: SourceModel) -> Any:
    """The probability and its spread (TID 1501); without a score, that there is none."""
    sr = required("highdicom").sr
    outcome, score = Outcome.of(result.bundle.record.outcome), result.score
    name = _code("outcome", SCHEME, f"{'Demonstration ' if model.is_demonstration else ''}model score for "
                                    f"{outcome.short}"[:64])
    evaluations = [sr.QualitativeEvaluation(name=_code("use", SCHEME, "Permitted use"),
                                            value=_code("research", SCHEME, "Research use only, not for diagnosis"))]
    if model.is_demonstration:
        evaluations.append(sr.QualitativeEvaluation(
            name=_code("model", SCHEME, "Kind of model"),
            value=_code("demo", SCHEME, "DEMONSTRATION MODEL, simulated data, not about a patient")))
    if score is None:
        evaluations.append(sr.QualitativeEvaluation(
            name=name, value=_code(_no_score_code(result), SCHEME, "No score was made")))
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=derived_uid("score", source.series_uid, model.hash), identifier="NeoNet score"),
        finding_type=name,
        algorithm_id=_algorithm(f"NeoCls of bundle {model.name}", model.version, model),
        measurements=[] if score is None else _score_measurements(score),
        qualitative_evaluations=evaluations)


def _score_measurements(score: Score) -> list[Any]:
    from pydicom.sr.codedict import codes

    sr = required("highdicom").sr
    probability = _code("probability", SCHEME, "Probability by the model")
    several = score.spread is not None
    found = [sr.Measurement(name=probability, value=_decimal(score.probability), unit=codes.UCUM.NoUnits,
                            derivation=codes.SCT.Mean if several else None)]
    if score.spread is not None:
        found.append(sr.Measurement(name=probability, value=_decimal(score.spread), unit=codes.UCUM.NoUnits,
                                    derivation=codes.SCT.StandardDeviation))
    if score.threshold is not None:
        found.append(sr.Measurement(name=_code("threshold", SCHEME, "Operating threshold"),
                                    value=_decimal(score.threshold), unit=codes.UCUM.NoUnits))
    return found


def _no_score_code(result: CaseResult) -> str:
    codes = {flag.code for flag in result.flags}
    return next((code for code in NO_SCORE_FLAGS if code in codes), "NO_SCORE")


def _remarks(result: CaseResult, model: SourceModel) -> Any:
    """The texts, in the container that TID 1500 has for evaluations that are no numbers."""
    sr = required("highdicom").sr
    container = sr.ContainerContentItem(name=_code("C0034375", "UMLS", "Qualitative Evaluations"),
                                        relationship_type=sr.RelationshipTypeValues.CONTAINS)
    container.ContentSequence = sr.ContentSequence([
        sr.TextContentItem(name=_code(_code_value(name), SCHEME, name), value=text,
                           relationship_type=sr.RelationshipTypeValues.CONTAINS)
        for name, text in remarks(result)])
    return container


def _algorithm(name: str, version: str, model: SourceModel) -> Any:
    return required("highdicom").sr.AlgorithmIdentification(
        name=name, version=version[:64], manufacturer=MANUFACTURER,
        parameters=[f"bundle {model.name}", f"SHA-256 {model.hash}"])


def _code(value: str, scheme: str, meaning: str) -> Any:
    return required("highdicom").sr.CodedConcept(value=value, scheme_designator=scheme, meaning=meaning)


def _code_value(name: str) -> str:
    """At most the 16 characters that a code value has."""
    return name.removeprefix("Flag ").upper().replace(" ", "_")[:16]


def _decimal(value: float) -> float:
    """Six significant digits: as many as mean anything, and they fit the 16 characters of a decimal string."""
    return float(f"{value:.6g}")
