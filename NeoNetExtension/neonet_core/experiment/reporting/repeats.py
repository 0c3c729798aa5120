"""Several runs of one cohort, with other seeds: how much of a figure is the seed's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neonet_core.bundle import RESEARCH_USE_ONLY
from neonet_core.classification.names import ABLATIONS, CONTROLS
from neonet_core.errors import NeoNetError
from neonet_core.experiment.graph import segmentor_stage
from neonet_core.experiment.reporting.classification_tables import MODELS, auc_record, model_name, ratio_name
from neonet_core.experiment.reporting.results import Results
from neonet_core.experiment.reporting.segmentation_table import mean_interval, patient_dice
from neonet_core.experiment.reporting.tables import Missing, Table, latex_document
from neonet_core.experiment.run import Run
from neonet_core.training.files import read_json, write_text

Values = tuple[float | None, float | None]
"""Mean of the folds, and the figure over all patients (pooled AUC, mean Dice)."""


def write_repeats(runs: Sequence[Run], out: Path) -> Path:
    """Write `repeats_table` as ``repeats.md``, ``repeats.csv`` and ``repeats.tex``.

    Returns
    -------
    Path
        ``repeats.md``.
    """
    table = repeats_table(runs)
    write_text(out / "repeats.csv", table.csv())
    write_text(out / "repeats.tex", latex_document("Repeated runs", RESEARCH_USE_ONLY, [table]))
    write_text(out / "repeats.md", f"{RESEARCH_USE_ONLY}\n\n{table.markdown()}")
    return out / "repeats.md"


def repeats_table(runs: Sequence[Run]) -> Table:
    """AUC of each model and ratio and Dice of each network: by run, and mean and spread over the runs.

    Parameters
    ----------
    runs : sequence of Run
        Two or more, of one cohort and with the same settings.

    Raises
    ------
    NeoNetError
        ``RUNS_DIFFER``; ``BAD_ARGUMENT`` for fewer than two; ``NOT_A_RUN``; ``NOTHING_TRAINED``.
    """
    _check(runs)
    every = [Results(run) for run in runs]
    ratios = sorted({ratio for results in every for ratio in results.ratios})
    figures: dict[tuple[str, str], list[Values]] = {
        ("Dice", network): [_dice(results, network) for results in every]
        for network in dict.fromkeys(network for results in every for network in results.segmentors)}
    figures |= {("AUC", f"{model_name(model)}, {ratio_name(ratio)}"): [_auc(results, model, ratio) for results in every]
                for model in (*MODELS, *CONTROLS, *ABLATIONS) for ratio in ratios}
    records = [_record(measure, model, values) for (measure, model), values in figures.items()
               if any(one is not None for pair in values for one in pair)]
    if not records:
        raise NeoNetError("NOTHING_TRAINED", "The runs hold no segmentor and no classifier that is done.",
                          "Run 'neonet train' first.")
    seeds = [run.settings()["seed"] for run in runs]
    preset = every[0].preset
    return Table(
        "repeats", f"{len(runs)} runs of one cohort",
        ["Figure", *(f"Run {index} (seed {seed})" for index, seed in enumerate(seeds, start=1)),
         "Mean of folds, over runs", "All patients, over runs"],
        [_row(record, len(runs)) for record in records],
        [f"Preset {preset.name}, protocol {preset.protocol}, {every[0].folds} folds.",
         "Of each run the mean of its folds, and the figure over all held-out patients (pooled out-of-fold AUC; mean "
         "Dice of patients). Then mean ± standard deviation over the runs.",
         "The runs share their patients: the spread is that of seed and split, not of drawing other patients, and no "
         "interval follows from it."], records, digits=3)


def _check(runs: Sequence[Run]) -> None:
    if len(runs) < 2:
        raise NeoNetError("BAD_ARGUMENT", f"{len(runs)} run is no repeat.", "Give two runs or more.")
    first, *others = [(sorted(read_json(run.folder / "quality.json")["included"]), run.settings()) for run in runs]
    for run, (cases, settings) in zip(runs[1:], others, strict=True):
        different = ("cases" if cases != first[0] else
                     next((key for key in ("outcome", "preset") if settings[key] != first[1][key]), None))
        if different:
            raise NeoNetError("RUNS_DIFFER", f"{run.folder.name} and {runs[0].folder.name} differ: {different}.",
                              "Repeats are runs of one cohort with the same settings and other seeds.")


def _auc(results: Results, model: str, ratio: int) -> Values:
    record = auc_record(results, model, ratio)
    return record["auc_mean_of_folds"], record["auc_pooled"]


def _dice(results: Results, network: str) -> Values:
    stage = results.stage(segmentor_stage(results.preset, network))
    over_patients = mean_interval(patient_dice(stage, results.patient_of())[:, 0])
    by_fold = [figures["dice"] for figures in stage.figures.values()]
    return float(np.mean(by_fold)) if by_fold else None, None if over_patients is None else over_patients.value


def _record(measure: str, model: str, values: Sequence[Values]) -> dict[str, Any]:
    record: dict[str, Any] = {"measure": measure, "model": model}
    for name, column in (("mean_of_folds", 0), ("all_patients", 1)):
        known = [value for pair in values if (value := pair[column]) is not None]
        record |= {f"{name}_run_{index}": pair[column] for index, pair in enumerate(values, start=1)}
        record |= {f"{name}_mean": float(np.mean(known)) if known else None,
                   f"{name}_sd": float(np.std(known, ddof=1)) if len(known) > 1 else None}
    return record


def _row(record: dict[str, Any], runs: int) -> list[Any]:
    of_folds, pooled = ([record[f"{name}_run_{index}"] for index in range(1, runs + 1)]
                        for name in ("mean_of_folds", "all_patients"))
    cells = [Missing("not run") if one is None and other is None else (one, other)
             for one, other in zip(of_folds, pooled, strict=True)]
    return [f"{record['measure']}: {record['model']}", *cells, _over_runs(of_folds), _over_runs(pooled)]


def _over_runs(values: Sequence[float | None]) -> Any:
    known = [value for value in values if value is not None]
    if not known:
        return Missing("not run")
    return known if len(known) == len(values) else (known, f"{len(known)} of {len(values)} runs")
