"""Out-of-fold predictions: one row for each case and model, from the fold in which the patient was held out."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from neonet_core.experiment.graph import classifier_stage
from neonet_core.experiment.run import Run
from neonet_core.training.files import write_text


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


def read_predictions(run: Run, stage: str | None = None) -> list[Prediction]:
    """A classifier's predictions in all folds in which it belongs to the run (`Run.current`); without a stage those of
    PattenNet on real cases."""
    predictions = []
    for fold in run.fold_numbers():
        done = run.current(fold, stage or classifier_stage())
        if done is not None:
            predictions += [Prediction(**row) for row in done["figures"]["predictions"]]
    return predictions


def by_patient(predictions: Sequence[Prediction]) -> list[Prediction]:
    """One prediction for each patient: of several cases the mean probability, and the highest outcome, by which folds
    are stratified. Intervals and tests take their rows for independent, which cases of one patient are not."""
    cases: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        cases.setdefault(prediction.patient_id, []).append(prediction)
    return [replace(own[0], outcome=max(one.outcome for one in own),
                    probability=sum(one.probability for one in own) / len(own)) for own in cases.values()]


def write_predictions(run: Run) -> None:
    """Gather the folds' predictions in ``predictions.csv`` of the run folder."""
    table = io.StringIO()
    writer = csv.DictWriter(table, [field.name for field in fields(Prediction)], lineterminator="\n")
    writer.writeheader()
    models = {path.name for fold in run.fold_numbers() for path in (run.folder / f"fold-{fold}").glob("cls-*")
              if ".before-" not in path.name}
    for model in sorted(models):
        writer.writerows(prediction.to_json() for prediction in read_predictions(run, model))
    write_text(run.folder / "predictions.csv", table.getvalue())
