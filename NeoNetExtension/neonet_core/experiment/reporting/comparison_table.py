"""Table 2b: paired comparisons of classifiers on the same patients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from neonet_core.classification.names import BASELINE_NAMES, CONTROLS, VOLUME
from neonet_core.evaluation.auc import auc
from neonet_core.evaluation.comparison import delong_test, holm
from neonet_core.experiment.reporting.classification_tables import (
    MODELS,
    model_name,
    ratio_name,
    synthetic_notes,
)
from neonet_core.experiment.reporting.results import Results, Scores
from neonet_core.experiment.reporting.tables import Interval, PValue, Table


@dataclass(frozen=True)
class Arm:
    """A classifier and the share of synthetic cases that it was trained with."""

    model: str
    ratio: int

    def __str__(self) -> str:
        return f"{model_name(self.model)}, {ratio_name(self.ratio)}"


def comparison_table(results: Results) -> Table:
    """Differences of AUCs within folds with DeLong's paired test, adjusted over the table by Holm's method."""
    pairs = list(dict.fromkeys(planned_comparisons(results.highest_ratio)))
    scores = {arm: results.scores(arm.model, arm.ratio) for arm in {arm for pair in pairs for arm in pair}}
    records = [record for pair in pairs if (record := _record(*pair, scores[pair[0]], scores[pair[1]])) is not None]
    for record, adjusted in zip(records, holm([record["p_value"] for record in records]), strict=True):
        record |= {"p_holm": adjusted, "protocol": results.preset.protocol}
    rows = [[*(record[name] for name in ("first", "second", "patients", "first_auc_within_folds",
                                         "second_auc_within_folds")),
             Interval(record["difference"], record["low"], record["high"]), PValue(record["p_value"]),
             PValue(record["p_holm"])]
            for record in records]
    notes = [*results.protocol_notes,
             "AUC within folds: only patients of the same fold are compared with each other, and each fold counts by "
             "its pairs of a positive and a negative patient; a fold of one class counts for nothing. It is not table "
             "2's pooled AUC, in which it also tells how far apart the levels of the folds' networks lie.",
             "Difference: first less second, on the patients whom both have scored; 95 % interval and two-sided "
             "p-value by DeLong's paired test within folds. p (Holm): adjusted over all rows here.",
             "The test sees the patients' chance alone, not that of training: another seed may turn a small "
             "difference around.",
             *synthetic_notes(results, [results.highest_ratio])]
    if len(records) < len(pairs):
        notes.append(f"{len(pairs) - len(records)} of the {len(pairs)} planned comparisons are not here: one of the "
                     "two was not run, or the patients whom both have scored are of one class in "
                     "each fold.")
    return Table("table2b", "Table 2b: paired comparisons",
                 ["First", "Second", "Patients", "AUC within folds, first", "AUC within folds, second",
                  "Difference (95 % interval)", "p", "p (Holm)"], rows, notes, records, digits=3)


def planned_comparisons(highest: int) -> Iterator[tuple[Arm, Arm]]:
    """What is asked: do synthetic cases help, is there more than volume, is PattenNet better than each other model?"""
    ours = Arm("PattenNet", highest)
    if highest:
        yield from ((Arm(model, highest), Arm(model, 0)) for model in (MODELS[-1], *MODELS[:-1]))
    yield Arm("PattenNet", 0), Arm(VOLUME, 0)
    yield from ((ours, Arm(model, highest)) for model in BASELINE_NAMES)
    yield from ((ours, Arm(model, 0)) for model in CONTROLS)


def _record(first: Arm, second: Arm, of_first: Scores | None, of_second: Scores | None) -> dict[str, Any] | None:
    if of_first is None or of_second is None:
        return None
    common = sorted(set(of_first.patients) & set(of_second.patients))
    one, other = (scores.score[[scores.patients.index(name) for name in common]] for scores in (of_first, of_second))
    truth, folds = (values[[of_first.patients.index(name) for name in common]]
                    for values in (of_first.truth, of_first.fold))
    if not any(len(set(truth[folds == fold].tolist())) == 2 for fold in set(folds.tolist())):
        return None
    test = delong_test(truth, one, other, strata=folds)
    return {"first": str(first), "second": str(second), "patients": len(common), "positives": int(truth.sum()),
            "first_auc_within_folds": auc(truth, one, folds), "second_auc_within_folds": auc(truth, other, folds),
            "difference": test.difference, "low": test.low, "high": test.high, "p_value": test.p_value}
