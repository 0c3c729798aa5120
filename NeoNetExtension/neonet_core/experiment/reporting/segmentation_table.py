"""Table 1: Dice of the segmentation networks on held-out patients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from neonet_core.experiment.graph import segmentor_stage
from neonet_core.experiment.reporting.paper import TABLE_1
from neonet_core.experiment.reporting.results import OF_PAPER, Results, StageResults
from neonet_core.experiment.reporting.tables import Interval, Missing, Table, paper_text

STRUCTURES = ("dice", "dice_liver", "dice_tumour")
BOOTSTRAPS = 2000


def segmentation_table(results: Results) -> Table:
    """Table 1: mean of the folds with their spread, and an interval over patients, beside the paper."""
    patient_of = results.patient_of()
    records = [_record(results, network, patient_of) for network in results.segmentors]
    rows = [[record["network"], *(_cell(record, name) for name in STRUCTURES), paper_text(record["paper"])]
            for record in records]
    notes = [*results.protocol_notes, "First line: mean of the folds ± standard deviation over them. Second line: mean "
             f"over all held-out patients with its 95 % percentile interval over {BOOTSTRAPS:,} resampled cohorts of "
             "patients.",
             "Dice on the network's own grid, without post-processing; the mean is that of liver and tumour."]
    if not patient_of:
        notes.append("Each case counts as a patient of its own: only a classifier's predictions tell which belong "
                     "together.")
    notes += [f"{record['network']}: {record['missing']}." for record in records
              if record["missing"] and record["patients"]]
    return Table("table1", "Table 1: Dice of the segmentation networks",
                 ["Network", "Mean", "Liver", "Tumour", "Paper: mean"], rows, [*notes, OF_PAPER], records, digits=3)


def _record(results: Results, network: str, patient_of: Mapping[str, str]) -> dict[str, Any]:
    stage = results.stage(segmentor_stage(results.preset, network))
    by_patient = patient_dice(stage, patient_of)
    record: dict[str, Any] = {"network": network, "protocol": results.preset.protocol, "folds_done": len(stage.figures),
                              "folds": results.folds, "patients": len(by_patient)}
    for column, name in enumerate(STRUCTURES):
        by_fold = [figures[name] for figures in stage.figures.values()]
        interval = mean_interval(by_patient[:, column]) if len(by_patient) else None
        record |= {f"{name}_mean_of_folds": float(np.mean(by_fold)) if by_fold else None,
                   f"{name}_sd_of_folds": float(np.std(by_fold, ddof=1)) if len(by_fold) > 1 else None,
                   f"{name}_patients": interval and interval.value,
                   f"{name}_low": interval and interval.low, f"{name}_high": interval and interval.high}
        record |= {f"{name}_fold_{fold}": stage.figures.get(fold, {}).get(name) for fold in range(results.folds)}
    return record | {"paper": TABLE_1.get(network), "missing": stage.why}


def _cell(record: Mapping[str, Any], name: str) -> Any:
    by_fold = [record[f"{name}_fold_{fold}"] for fold in range(record["folds"])]
    known = [value for value in by_fold if value is not None]
    if not known:
        return Missing(record["missing"])
    few = [f"{len(known)} of {record['folds']} folds"] if len(known) < record["folds"] else []
    return (known, Interval(record[f"{name}_patients"], record[f"{name}_low"], record[f"{name}_high"]), *few)


def patient_dice(stage: StageResults, patient_of: Mapping[str, str]) -> np.ndarray:
    """Dice of each patient, the mean of the patient's cases: (N, 3), mean, liver, tumour. NaN where there is nothing to
    find and nothing found."""
    by_patient: dict[str, list[tuple[float, float]]] = {}
    for figures in stage.figures.values():
        for case_id, scores in figures["dice_by_case"].items():
            by_patient.setdefault(patient_of.get(case_id, case_id), []).append(scores)
    if not by_patient:
        return np.empty((0, 3))
    parts = np.array([_mean_of_known(np.array(cases, dtype=float)) for cases in by_patient.values()])
    return np.column_stack([parts.mean(axis=1), parts])


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis without NaN, NaN where nothing is left: nanmean without its warning."""
    known = np.isfinite(values)
    counts = known.sum(axis=0)
    return np.where(counts, np.where(known, values, 0).sum(axis=0) / np.maximum(counts, 1), np.nan)


def mean_interval(values: np.ndarray, seed: int = 0) -> Interval | None:
    """Mean of patients' values (N,) with its percentile bootstrap interval; NaN is left out."""
    known = values[np.isfinite(values)]
    if not known.size:
        return None
    drawn = np.random.default_rng(seed).integers(len(known), size=(BOOTSTRAPS, len(known)))
    low, high = np.quantile(known[drawn].mean(axis=1), [0.025, 0.975])
    return Interval(float(known.mean()), float(low), float(high))
