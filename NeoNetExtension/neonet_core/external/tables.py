"""The tables of an external evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from neonet_core.errors import NeoNetError
from neonet_core.evaluation.auc import auc, bootstrap_interval, delong_interval
from neonet_core.evaluation.calibration import brier_score, calibration_intercept_slope
from neonet_core.evaluation.comparison import delong_test, permutation_test
from neonet_core.evaluation.operating_point import sensitivity_specificity
from neonet_core.experiment.reporting.segmentation_table import mean_interval
from neonet_core.experiment.reporting.tables import Interval, Missing, Table
from neonet_core.external.cases import JudgedCase, LeftOut, Overlap

PERMUTATIONS = 10_000
MOST_GROUPS = 8
"""A column of numbers with more values than this is cut at its median; one of words is refused."""
ALL = "all patients"

Group = tuple[str, list[JudgedCase]]


def arrays(patients: Sequence[JudgedCase]) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes and probabilities, (N,) each."""
    return np.array([one.outcome for one in patients]), np.array([one.probability for one in patients])


def discrimination_table(patients: Sequence[JudgedCase]) -> Table:
    """AUC of the score, and of the tumour's volume alone on the same patients, with their paired difference."""
    record = auc_record(ALL, patients)
    rows = [["Score of the bundle", *_auc_cells(record)]]
    records = [record]
    with_volume = [one for one in patients if one.tumour_ml is not None]
    notes = ["AUC with DeLong’s 95 % interval, then with that of 2,000 stratified bootstrap cohorts. Each patient "
             "counts once: the mean score of several cases."]
    if has_both_classes(with_volume):
        truth, score = arrays(with_volume)
        volume = np.array([one.tumour_ml for one in with_volume], dtype=float)
        of_volume = auc_record("tumour volume alone", with_volume, volume)
        records.append(of_volume)
        rows.append(["Tumour volume alone", *_auc_cells(of_volume)])
        difference = delong_test(truth, score, volume)
        notes.append(f"Score less volume, on the same {len(with_volume)} patients: {difference.difference:+.3f} "
                     f"({difference.low:+.3f} to {difference.high:+.3f}), DeLong’s paired test p = "
                     f"{difference.p_value:.3f}.")
    if record["auc"] is not None:
        p = permutation_test(*arrays(patients), PERMUTATIONS)
        records[0] = record | {"p_permutation": p}
        notes.append(f"One-sided permutation test of the score’s AUC being above chance: p "
                     f"{'< 0.001' if p < 0.001 else f'= {p:.3f}'} ({PERMUTATIONS:,} permutations).")
    return Table("discrimination", "Discrimination", ["", "Patients", "Positive", "AUC (DeLong)", "AUC (bootstrap)"],
                 rows, notes, records, digits=3)


def auc_record(name: str, patients: Sequence[JudgedCase], score: np.ndarray | None = None) -> dict[str, Any]:
    """What is known of the AUC of a group, as the CSV has it; `score` in place of the bundle's."""
    truth, own = arrays(patients)
    record: dict[str, Any] = {"group": name, "patients": len(patients), "positives": int(truth.sum()), "auc": None,
                              "delong_low": None, "delong_high": None, "bootstrap_low": None, "bootstrap_high": None}
    if has_both_classes(patients):
        score = own if score is None else score
        record["auc"] = auc(truth, score)
        record["delong_low"], record["delong_high"] = delong_interval(truth, score)
        record["bootstrap_low"], record["bootstrap_high"] = bootstrap_interval(truth, score)
    return record


def has_both_classes(patients: Sequence[JudgedCase]) -> bool:
    return len({one.outcome for one in patients}) == 2


def _auc_cells(record: Mapping[str, Any]) -> list[Any]:
    if record["auc"] is None:
        return [record["patients"], record["positives"], Missing("one class only"), Missing("one class only")]
    return [record["patients"], record["positives"],
            *(Interval(record["auc"], record[f"{name}_low"], record[f"{name}_high"])
              for name in ("delong", "bootstrap"))]


def calibration_table(patients: Sequence[JudgedCase], threshold: float | None) -> Table:
    """Brier score, recalibration, and the calls at the bundle's own threshold."""
    truth, probability = arrays(patients)
    prevalence = float(truth.mean())
    intercept, slope = calibration_intercept_slope(truth, probability)
    record: dict[str, Any] = {"patients": len(patients), "positives": int(truth.sum()),
                              "brier": brier_score(truth, probability),
                              "brier_of_prevalence": prevalence * (1 - prevalence), "intercept": intercept,
                              "slope": slope, "threshold": threshold}
    cells: list[Any] = [Missing("no threshold")] * 4
    if threshold is not None:
        point = sensitivity_specificity(truth, probability >= threshold)
        record |= {name: getattr(point, name) for name in
                   ("sensitivity", "specificity", "ppv", "npv", "true_positives", "false_positives", "true_negatives",
                    "false_negatives")}
        cells = [Interval(point.sensitivity, *point.sensitivity_interval),
                 Interval(point.specificity, *point.specificity_interval),
                 *(Missing("none so called") if value is None else value for value in (point.ppv, point.npv))]
    notes = ["Brier score: 0 is best; knowing this cohort’s prevalence alone gives "
             f"{record['brier_of_prevalence']:.3f}. Calibration on the logit scale: intercept 0 and slope 1 are right; "
             "a slope below 1 says that probabilities are too extreme, an intercept below 0 that they are too high.",
             "Sensitivity and specificity with Wilson’s 95 % intervals at the bundle’s own threshold"
             + (f" ({threshold:.3f})" if threshold is not None else "")
             + ", which was chosen on its training patients and not on these. PPV and NPV at this cohort’s prevalence."]
    row = [record["patients"], record["brier"], intercept, Missing("not estimable") if slope is None else slope, *cells]
    return Table("calibration", "Calibration and operating point",
                 ["Patients", "Brier ↓", "Intercept", "Slope", "Sensitivity", "Specificity", "PPV", "NPV"], [row],
                 notes, [record], digits=3)


def dice_table(found: Sequence[Overlap], given: int = 0) -> Table:
    """Dice of liver and tumour over patients; `given` label maps were the user's own and not compared."""
    records, rows = [], []
    for structure in ("liver", "tumour"):
        by_patient: dict[str, list[float]] = {}
        for one in found:
            value = getattr(one, structure)
            if np.isfinite(value):
                by_patient.setdefault(one.patient_id, []).append(value)
        values = np.array([np.mean(own) for own in by_patient.values()])
        interval = mean_interval(values)
        records.append({"structure": structure, "patients": len(values), "dice": interval and interval.value,
                        "low": interval and interval.low, "high": interval and interval.high,
                        "median": float(np.median(values)) if values.size else None,
                        "worst": float(values.min()) if values.size else None})
        rows.append([structure.capitalize(), len(values), interval or Missing("no label map to compare"),
                     records[-1]["median"], records[-1]["worst"]])
    notes = ["The bundle’s label maps against the manifest’s, on each image’s own grid; mean over patients with its "
             "95 % bootstrap interval. Not counted: structures that neither label map holds."]
    if given:
        notes.append(f"{given} cases were scored on label maps that the batch was given, not on the bundle’s own: "
                     "‘neonet batch --segment-all’ has the bundle segment every image.")
    return Table("dice", "Segmentation", ["Structure", "Patients", "Mean Dice", "Median", "Worst"], rows, notes,
                 records, digits=3)


def subgroups(patients: Sequence[JudgedCase], column: str) -> list[Group]:
    """Divide patients by a column of the manifest: by its values, or, where these are many numbers, at their median.

    Raises
    ------
    NeoNetError
        ``UNKNOWN_COLUMN``, ``TOO_MANY_GROUPS``.
    """
    if not all(column in one.columns for one in patients):
        columns = ", ".join(sorted({name for one in patients for name in one.columns})) or "no further columns"
        raise NeoNetError("UNKNOWN_COLUMN", f"The manifest has no column '{column}'.", f"It has: {columns}.")
    known = [one for one in patients if one.columns[column]]
    unknown = [one for one in patients if not one.columns[column]]
    values = sorted({one.columns[column] for one in known})
    if len(values) <= MOST_GROUPS:
        groups = [(f"{column} = {value}", [one for one in known if one.columns[column] == value]) for value in values]
    else:
        groups = _halves(known, column)
    return groups + ([(f"{column} not known", unknown)] if unknown else [])


def _halves(patients: Sequence[JudgedCase], column: str) -> list[Group]:
    try:
        number: Callable[[JudgedCase], float] = lambda one: float(one.columns[column])  # noqa: E731
        middle = float(np.median([number(one) for one in patients]))
    except ValueError:
        raise NeoNetError("TOO_MANY_GROUPS", f"The column '{column}' has more than {MOST_GROUPS} values that are no "
                          "numbers.", "Name a column of few values, or of numbers.") from None
    return [(f"{column} ≤ {middle:g}", [one for one in patients if number(one) <= middle]),
            (f"{column} > {middle:g}", [one for one in patients if number(one) > middle])]


def subgroup_table(patients: Sequence[JudgedCase], columns: Sequence[str]) -> Table:
    """AUC and Brier score of patients without flags and with them, and of the groups of each column."""
    flagged = [one for one in patients if set(one.flags) - {"DEMO_MODEL"}]
    groups: list[Group] = [(ALL, list(patients))]
    if 0 < len(flagged) < len(patients):
        groups += [("no flag", [one for one in patients if one not in flagged]), ("with a flag", flagged)]
    for column in columns:
        groups += subgroups(patients, column)
    records = []
    for name, members in groups:
        truth, probability = arrays(members)
        brier = brier_score(truth, probability) if has_both_classes(members) else None
        records.append(auc_record(name, members) | {"brier": brier})
    rows = [[record["group"], *_auc_cells(record)[:3], record["brier"]] for record in records]
    return Table("subgroups", "Subgroups", ["Patients with", "Patients", "Positive", "AUC (DeLong)", "Brier ↓"], rows,
                 ["Groups overlap and are looked at without adjustment for their number: differences between them are "
                  "questions, not findings."], records, digits=3)


def left_out_table(left_out: Sequence[LeftOut]) -> Table:
    """Each case that the figures do not hold, and why."""
    return Table("left_out", "Cases not judged", ["Case", "Why"], [[one.case_id, one.reason] for one in left_out],
                 [] if left_out else ["None."])


