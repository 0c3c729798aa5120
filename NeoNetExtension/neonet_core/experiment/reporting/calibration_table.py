"""Table 2c: whether probabilities are right, what a threshold makes of them, and whether there is any signal."""

from __future__ import annotations

from typing import Any

import numpy as np

from neonet_core.classification.names import CONTROLS
from neonet_core.evaluation.calibration import brier_score, calibration_intercept_slope
from neonet_core.evaluation.comparison import permutation_test
from neonet_core.evaluation.operating_point import sensitivity_specificity
from neonet_core.experiment.reporting.classification_tables import (
    MODELS,
    model_name,
    ratio_name,
    synthetic_notes,
    volume_notes,
)
from neonet_core.experiment.reporting.results import Results, Scores
from neonet_core.experiment.reporting.tables import Interval, Missing, PValue, Table

PERMUTATIONS = 10_000
RATES = ("sensitivity", "specificity")
CALLS = ("ppv", "npv", "true_positives", "false_positives", "true_negatives", "false_negatives")
CHOSEN_ON = {"paper": "the fold's training patients, whom its network has learned from",
             "rigorous": "the inner part of the fold's training patients that picked the epoch"}


def calibration_table(results: Results) -> Table:
    """Each model that was run, on real cases and at the highest share of synthetic ones."""
    arms = [(model, ratio) for model in MODELS for ratio in dict.fromkeys((0, results.highest_ratio))]
    arms += [(model, 0) for model in CONTROLS]
    records = [_record(model, ratio, scores, results.preset.protocol) for model, ratio in arms
               if (scores := results.scores(model, ratio)) is not None and scores.has_both_classes]
    prevalence = (f" Knowing the prevalence alone gives {records[-1]['brier_of_prevalence']:.3f} here."
                  if records else "")
    notes = [*results.protocol_notes,
             f"Brier score: 0 is best.{prevalence} Calibration on the logit scale: intercept 0 and slope 1 are right; "
             "a slope below 1 says that probabilities are too extreme, an intercept below 0 that they are too high.",
             f"Sensitivity and specificity with Wilson's 95 % intervals at each fold's own threshold (Youden's index), "
             f"chosen on {CHOSEN_ON[results.preset.protocol]}: never on those counted here. PPV, NPV: share of right "
             "calls among the positive and among the negative ones, at this cohort's own prevalence.",
             *(f"{note} So its threshold is chosen on patients whom it has learned from."
               for note in volume_notes(results)),
             "Signal: one-sided permutation test of the AUC within folds being above chance: outcomes are exchanged "
             f"between patients of the same fold, who alone are compared with each other ({PERMUTATIONS:,} "
             "permutations), not adjusted for the number of models.",
             "The networks are not recalibrated. Training with balanced classes makes probabilities too high for the "
             "cohort's own prevalence.",
             *synthetic_notes(results, [results.highest_ratio]),
             *([] if records else ["No classifier was run, or its held-out patients are of one class."])]
    rows = [[f"{model_name(record['model'])}, {ratio_name(record['ratio'])}", record["patients"], record["brier"],
             record["intercept"], Missing("not estimable") if record["slope"] is None else record["slope"],
             *(_operating_cell(record, name) for name in RATES), _calls_cell(record),
             Missing("one class in each fold") if record["p_permutation"] is None else PValue(record["p_permutation"])]
            for record in records]
    return Table("table2c", "Table 2c: calibration, operating point and signal",
                 ["Model", "Patients", "Brier ↓", "Intercept", "Slope", "Sensitivity", "Specificity",
                  "PPV, NPV", "p (signal)"],
                 rows, notes, records, digits=3)


def _record(model: str, ratio: int, scores: Scores, protocol: str) -> dict[str, Any]:
    intercept, slope = calibration_intercept_slope(scores.truth, scores.score)
    prevalence = float(scores.truth.mean())
    record: dict[str, Any] = {
        "model": model, "ratio": ratio, "protocol": protocol, "patients": len(scores.truth),
        "positives": int(scores.truth.sum()), "brier": brier_score(scores.truth, scores.score),
        "brier_of_prevalence": prevalence * (1 - prevalence), "intercept": intercept, "slope": slope,
        "p_permutation": None, "with_threshold": 0}
    if any(area is not None for area in scores.fold_aucs().values()):
        record["p_permutation"] = permutation_test(scores.truth, scores.score, PERMUTATIONS, strata=scores.fold)
    called = np.isfinite(scores.threshold)
    record["with_threshold"] = int(called.sum())
    point = None
    if len(set(scores.truth[called].tolist())) == 2:
        point = sensitivity_specificity(scores.truth[called], scores.score[called] >= scores.threshold[called])
    for name in RATES:
        low, high = getattr(point, f"{name}_interval", (None, None))
        record |= {name: getattr(point, name, None), f"{name}_low": low, f"{name}_high": high}
    return record | {name: getattr(point, name, None) for name in CALLS}


def _operating_cell(record: dict[str, Any], name: str) -> Any:
    if record[name] is None:
        return Missing("no threshold in the run")
    interval = Interval(record[name], record[f"{name}_low"], record[f"{name}_high"])
    few = record["with_threshold"] < record["patients"]
    return (interval, f"{record['with_threshold']} of {record['patients']} patients") if few else interval


def _calls_cell(record: dict[str, Any]) -> Any:
    """PPV, and NPV on a line of its own."""
    if record["sensitivity"] is None:
        return Missing("no threshold in the run")
    return tuple(Missing("none so called") if record[name] is None else record[name] for name in ("ppv", "npv"))
