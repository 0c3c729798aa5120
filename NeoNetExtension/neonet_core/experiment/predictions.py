"""Out-of-fold predictions: one row for each case and model, from the fold in which the patient was held out."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass, fields
from typing import Any

from neonet_core.experiment.run import Run
from neonet_core.training.files import read_json, write_text


@dataclass(frozen=True)
class Prediction:
    """One out-of-fold prediction; `probability` is that of outcome 1."""

    case_id: str
    patient_id: str
    fold: int
    model: str
    outcome: int
    probability: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def read_predictions(run: Run, model: str = "cls-pattennet") -> list[Prediction]:
    """The predictions of all folds in which the model is trained.

    A fold of an earlier split, whose cohort has changed since, is left out until it is trained again: its patients
    may be held out in another fold now, and would count twice.
    """
    predictions = []
    for fold, held_out in enumerate(read_json(run.folder / "folds.json")["validation"]):
        done = run.done(fold, model)
        rows = done["figures"]["predictions"] if done is not None else []
        if {row["case_id"] for row in rows} == set(held_out):
            predictions += [Prediction(**row) for row in rows]
    return predictions


def write_predictions(run: Run) -> None:
    """Gather the folds' predictions in ``predictions.csv`` of the run folder."""
    table = io.StringIO()
    writer = csv.DictWriter(table, [field.name for field in fields(Prediction)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(prediction.to_json() for prediction in read_predictions(run))
    write_text(run.folder / "predictions.csv", table.getvalue())
