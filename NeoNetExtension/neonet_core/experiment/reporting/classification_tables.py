"""Tables 2 and 5: AUC of the classifiers on real cases and with synthetic ones, and of PattenNet's parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from neonet_core.classification.names import BASELINE_NAMES, CONTROLS, VOLUME
from neonet_core.evaluation.auc import auc, bootstrap_interval, delong_interval
from neonet_core.experiment.reporting.paper import RATIOS, TABLE_2_MEAN, TABLE_5, auc_in_paper
from neonet_core.experiment.reporting.results import OF_PAPER, Results, folds_text
from neonet_core.experiment.reporting.tables import Interval, Missing, Table, paper_text

MODELS = (*BASELINE_NAMES, "PattenNet")
"""The rows of table 2, in the paper's order."""
NAMES = {"Swin": "Swin Transformer", "PattenNet-duplicated": "PattenNet, rarer class repeated",
         "PattenNet-weighted": "PattenNet, classes weighted", "PattenNet-masks": "PattenNet, masks alone",
         VOLUME: "Tumour volume alone"}
"""What a table calls a classifier that is not called by its own name."""
READING = (
    "First line: mean of the folds' AUCs ± standard deviation over the folds (what the paper gives). Second line: "
    "pooled, one AUC over all out-of-fold scores, with DeLong's 95 % interval; the CSV has the stratified bootstrap's "
    "too.",
    "A pooled out-of-fold AUC is biased low where there is no signal (below 0.5 on average for a model that has "
    "learned nothing): each fold's network leans to the prevalence of its training part, which is high where that of "
    "its held-out part is low. The mean of folds is free of this, but has no interval of its own.",
    "Held-out patients, too, are scored on crops cut with their annotated masks: this is not end to end, and errors of "
    "segmentation are not in these figures. From image to score a bundle is measured on unseen cases.",
    "The patient is the unit: of a patient's several cases the mean probability counts, and the highest outcome.",
)


def model_name(model: str) -> str:
    return NAMES.get(model, model)


def ratio_name(ratio: int) -> str:
    return f"R+S {ratio} %" if ratio else "R"


def classification_table(results: Results) -> Table:
    """Table 2: models by shares of synthetic cases; below them the mean of all models, and the controls."""
    ratios = results.ratios
    records = {(model, ratio): auc_record(results, model, ratio) for model in MODELS for ratio in ratios}
    controls = {model: auc_record(results, model, 0) for model in CONTROLS}
    rows = [[model_name(model), *(auc_cell(records[model, ratio]) for ratio in ratios)] for model in MODELS]
    rows.append(["Mean of the models above", *(_mean_cell([records[model, ratio] for model in MODELS], ratio)
                                               for ratio in ratios)])
    rows += [[f"Control: {model_name(model)}", auc_cell(record), *(Missing("real cases only") for _ in ratios[1:])]
             for model, record in controls.items()]
    every = [*records.values(), *controls.values()]
    notes = [*results.protocol_notes, *volume_notes(results), *READING,
             "R: real cases. R+S r %: with r % of the synthetic cases that make the classes 1:1. Controls balance the "
             "classes without synthetic cases, or see the masks' shape or the tumour's volume alone; no synthetic "
             "cases are added to them.",
             *synthetic_notes(results, ratios), *missing_notes(every), OF_PAPER]
    return Table("table2", "Table 2: AUC of the classifiers", ["Model", *map(ratio_name, ratios)], rows, notes, every,
                 digits=3)


def ablation_table(results: Results) -> Table:
    """Table 5: PattenNet's attention and number of dual attention blocks, at the highest share of synthetic cases."""
    ratio, blocks = results.highest_ratio, results.preset.cls.dual_attention_blocks
    itself = f"PattenNet-{blocks}"
    configurations = {itself: f"PattenNet, full model ({blocks_text(blocks)})",
                      "PattenNet-channel": "Channel attention only", "PattenNet-spatial": "Spatial attention only",
                      **{name: blocks_text(int(name[-1])) for name in TABLE_5 if name[-1].isdigit() and name != itself}}
    records, rows = [], []
    for name, words in configurations.items():
        record = {"configuration": words} | auc_record(results, "PattenNet" if name == itself else name, ratio)
        records.append(record | {"paper": TABLE_5.get(name)})
        rows.append([words, auc_cell(record | {"paper": None}), paper_text(TABLE_5.get(name))])
    notes = [*results.protocol_notes, *READING,
             f"All at {ratio_name(ratio)}, the highest share of synthetic cases in this run (the paper: R+S 100 %). "
             f"Attention alone: {blocks_text(blocks)}, as in the full model.",
             "The paper's 0 blocks equal its table 2's PattenNet on R to the last digit: take that figure with care.",
             *synthetic_notes(results, [ratio]), *missing_notes(records), OF_PAPER]
    return Table("table5", "Table 5: parts of PattenNet", ["Configuration", f"AUC, {ratio_name(ratio)}", "Paper: AUC"],
                 rows, notes, records, digits=3)


def blocks_text(count: int) -> str:
    return f"{count} dual attention block" + "s" * (count != 1)


def auc_record(results: Results, model: str, ratio: int) -> dict[str, Any]:
    """All that is known of one cell of table 2, as its CSV has it."""
    stage, scores = results.classifier(model, ratio), results.scores(model, ratio)
    areas = {} if scores is None else scores.fold_aucs()
    known = [area for area in areas.values() if area is not None]
    single = [fold for fold, area in areas.items() if area is None]
    missing = [stage.why] if stage.why else []
    missing += [f"{folds_text(single)} with one class only"] if single else []
    record: dict[str, Any] = {
        "model": model, "ratio": ratio, "protocol": results.preset.protocol, "folds_done": len(stage.figures),
        "folds": results.folds, "patients": 0 if scores is None else len(scores.truth),
        "positives": 0 if scores is None else int(scores.truth.sum()),
        "auc_mean_of_folds": float(np.mean(known)) if known else None,
        "auc_sd_of_folds": float(np.std(known, ddof=1)) if len(known) > 1 else None, "auc_pooled": None,
        "delong_low": None, "delong_high": None, "bootstrap_low": None, "bootstrap_high": None}
    if scores is not None and scores.has_both_classes:
        truth, score = scores.truth, scores.score
        record["auc_pooled"] = auc(truth, score)
        record["delong_low"], record["delong_high"] = delong_interval(truth, score)
        record["bootstrap_low"], record["bootstrap_high"] = bootstrap_interval(truth, score)
    record |= {f"auc_fold_{fold}": areas.get(fold) for fold in range(results.folds)}
    record |= {f"synthetic_fold_{fold}": stage.figures.get(fold, {}).get("synthetic") for fold in range(results.folds)}
    return record | {"paper": auc_in_paper(model, ratio), "missing": "; ".join(missing)}


def known_aucs(record: Mapping[str, Any]) -> list[float]:
    """The AUCs of the folds that have one."""
    return [area for fold in range(record["folds"]) if (area := record[f"auc_fold_{fold}"]) is not None]


def auc_cell(record: Mapping[str, Any]) -> Any:
    """A cell of table 2 or 5: mean of folds, pooled AUC with its interval, how many folds, the paper's figure."""
    paper = [] if record["paper"] is None else [f"paper {paper_text(record['paper'])}"]
    known = known_aucs(record)
    if record["auc_pooled"] is None:
        return (Missing(record["missing"] or "no predictions"), *paper)
    few = [f"{len(known)} of {record['folds']} folds"] if len(known) < record["folds"] else []
    return (known or Missing("one class in each fold"),
            Interval(record["auc_pooled"], record["delong_low"], record["delong_high"]), *few, *paper)


def synthetic_notes(results: Results, ratios: Sequence[int]) -> list[str]:
    """Where R+S has no synthetic case."""
    return [f"{ratio_name(ratio)} had no synthetic case in {folds_text(folds)}: the classes of the learning cases are "
            "even there without any, or so nearly that this share of what they lack is none. R+S is R there."
            for ratio in ratios if (folds := results.without_synthetic(ratio))]


def volume_notes(results: Results) -> list[str]:
    """How the volume's model differs from networks, where the epoch of these is picked on an inner part."""
    if results.preset.protocol == "paper" or not results.classifier(VOLUME).figures:
        return []
    return ["The tumour's volume alone has no epoch to pick: it learns from all training patients of its fold, the "
            f"networks from about {100 - round(100 * results.preset.inner_fraction)} % of them."]


def missing_notes(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is missing of cells that have a number; those without say it themselves."""
    return [f"{model_name(record['model'])}, {ratio_name(record['ratio'])}: {record['missing']}." for record in records
            if record["missing"] and record["auc_pooled"] is not None]


def _mean_cell(records: Sequence[Mapping[str, Any]], ratio: int) -> Any:
    known = [value for record in records if (value := record["auc_mean_of_folds"]) is not None]
    paper = [f"paper {paper_text(TABLE_2_MEAN[RATIOS.index(ratio)])}"] if ratio in RATIOS else []
    if not known:
        return (Missing("not run"), *paper)
    return (float(np.mean(known)), f"{len(known)} of {len(records)} models", *paper)
