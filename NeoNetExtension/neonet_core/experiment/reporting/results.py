"""What a run has reached, read once for all tables: figures by fold, and classifiers' scores by patient."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from neonet_core.classification.names import CLASSIFIERS
from neonet_core.evaluation.auc import auc
from neonet_core.experiment.graph import classifier_stage, segmentor_stage
from neonet_core.experiment.predictions import Prediction, by_patient
from neonet_core.experiment.reporting.paper import TABLE_1
from neonet_core.experiment.run import Run
from neonet_core.segmentation.networks import NETWORKS
from neonet_core.training.files import read_json

NOT_RUN = "not run"
PROTOCOLS = {
    "paper": "The epoch of each segmentation network and classifier was picked on the very fold whose figures stand "
             "here: they are optimistic (simulated with the paper's cohort, a true AUC of 0.70 comes out as 0.78 to "
             "0.83).",
    "rigorous": "The epoch of each network was picked on an inner part of the fold's training patients; the held-out "
                "patients were scored once.",
}
LAST_EPOCH = ("Autoencoder, diffusion model and ControlNet keep their last epoch: in this protocol none is picked for "
              "them.")
"""Of the protocol ``paper``, whose generators are not picked on held-out patients."""
OF_PAPER = "The paper's figures are of another cohort: they stand here for orientation, not for comparison."


@dataclass(frozen=True)
class StageResults:
    """One stage over the folds.

    Attributes
    ----------
    figures : mapping of int to dict
        By fold, where the stage is done and belongs to the run (`Run.current`).
    missing : mapping of int to str
        Why not, for every other fold.
    """

    figures: Mapping[int, dict[str, Any]]
    missing: Mapping[int, str]

    @property
    def why(self) -> str:
        """Why folds are missing: ``"not run"`` where all are, else ``"fold 2 not run"``; empty where none is."""
        if not self.figures and len(set(self.missing.values())) == 1:
            return next(iter(self.missing.values()))
        by_reason: dict[str, list[int]] = {}
        for fold, reason in self.missing.items():
            by_reason.setdefault(reason, []).append(fold)
        return "; ".join(f"{folds_text(folds)} {reason}" for reason, folds in by_reason.items())


@dataclass(frozen=True, eq=False)
class Scores:
    """Out-of-fold scores of a classifier, one for each patient.

    A patient with several cases counts once (`predictions.by_patient`).

    Attributes
    ----------
    patients : tuple of str
    fold, truth : np.ndarray
        (N,) int.
    score : np.ndarray
        (N,) mean probability of outcome 1.
    threshold : np.ndarray
        (N,) of the patient's fold, chosen on its training patients; NaN where there is none.
    """

    patients: tuple[str, ...]
    fold: np.ndarray
    truth: np.ndarray
    score: np.ndarray
    threshold: np.ndarray

    @property
    def has_both_classes(self) -> bool:
        return len(set(self.truth.tolist())) == 2

    def fold_aucs(self) -> dict[int, float | None]:
        """AUC of each fold; None where its patients are of one class."""
        areas: dict[int, float | None] = {}
        for fold in np.unique(self.fold).tolist():
            truth = self.truth[self.fold == fold]
            areas[fold] = auc(truth, self.score[self.fold == fold]) if len(set(truth.tolist())) == 2 else None
        return areas


class Results:
    """The results of a run.

    Attributes
    ----------
    run : Run
    preset : Preset
    folds : int
        Of the split, whether they are done or not.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.preset = run, run.preset()
        self.folds = len(read_json(run.folder / "folds.json")["validation"])
        self._stages: dict[str, StageResults] = {}
        self.ratios = self._ratios()

    def stage(self, name: str) -> StageResults:
        """The figures of a stage in all folds."""
        if name not in self._stages:
            done = {fold: self.run.current(fold, name) for fold in range(self.folds)}
            self._stages[name] = StageResults(
                {fold: record["figures"] for fold, record in done.items() if record is not None},
                {fold: self._why_missing(fold, name) for fold, record in done.items() if record is None})
        return self._stages[name]

    def classifier(self, model: str, ratio: int = 0) -> StageResults:
        return self.stage(classifier_stage(model, ratio))

    def scores(self, model: str, ratio: int = 0) -> Scores | None:
        """Of all folds that are done; None where none is."""
        figures = self.classifier(model, ratio).figures
        patients = by_patient([Prediction(**row) for one in figures.values() for row in one.get("predictions", ())])
        if not patients:
            return None
        thresholds = {fold: one.get("threshold") for fold, one in figures.items()}
        return Scores(tuple(one.patient_id for one in patients), np.array([one.fold for one in patients]),
                      np.array([one.outcome for one in patients]), np.array([one.probability for one in patients]),
                      np.array([thresholds[one.fold] for one in patients], dtype=float))  # None becomes NaN

    def without_synthetic(self, ratio: int) -> list[int]:
        """The folds in which R+S `ratio` % got no synthetic case: its classifiers there are those of R."""
        return sorted({fold for model in CLASSIFIERS for fold, figures in self.classifier(model, ratio).figures.items()
                       if figures.get("synthetic") == 0}) if ratio else []

    def patient_of(self) -> dict[str, str]:
        """The patient of each case, as far as a classifier's predictions tell."""
        return {row["case_id"]: row["patient_id"] for model in CLASSIFIERS for ratio in self.ratios
                for figures in self.classifier(model, ratio).figures.values() for row in figures.get("predictions", ())}

    @property
    def segmentors(self) -> list[str]:
        """The rows of table 1: the paper's networks, and what else the run has trained."""
        return list(dict.fromkeys([*TABLE_1, *self._trained_segmentors]))

    @property
    def _trained_segmentors(self) -> list[str]:
        return [name for name in NETWORKS if self.stage(segmentor_stage(self.preset, name)).figures]

    @property
    def any_model(self) -> bool:
        """Whether any segmentation network or classifier is done in any fold."""
        return bool(self._trained_segmentors) or any(
            self.classifier(model, ratio).figures for model in CLASSIFIERS for ratio in self.ratios)

    @property
    def protocol_notes(self) -> list[str]:
        """By which preset and protocol the figures of a table came about, in words."""
        return [f"Preset {self.preset.name}, protocol {self.preset.protocol}, split into {self.folds} folds. "
                + PROTOCOLS[self.preset.protocol]]

    @property
    def highest_ratio(self) -> int:
        return max(self.ratios)

    def _ratios(self) -> tuple[int, ...]:
        """Shares of synthetic cases with which any classifier has been trained; 0 is always among them."""
        names = (re.fullmatch(r"cls-.+-rs(\d+)", path.name) for path in self.run.folder.glob("fold-*/cls-*"))
        found = {int(name[1]) for name in names if name}
        return (0, *sorted(ratio for ratio in found if ratio
                           and any(self.classifier(model, ratio).figures for model in CLASSIFIERS)))

    def _why_missing(self, fold: int, stage: str) -> str:
        folder = self.run.stage_folder(fold, stage)
        if (folder / "done.json").is_file():
            return "trained with other settings, or on other inputs, than the last call's"
        return "not finished" if folder.is_dir() else NOT_RUN


def folds_text(folds: list[int]) -> str:
    """``"fold 2"``, ``"folds 0, 1"``."""
    return f"fold{'s' if len(folds) > 1 else ''} {', '.join(map(str, folds))}"
