"""What a run has reached so far, from its out-of-fold predictions: figures with intervals, threshold, ranges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from neonet_core.bundle import OutOfFoldScore, Range
from neonet_core.evaluation.auc import auc, bootstrap_interval, delong_interval, youden_threshold
from neonet_core.experiment.predictions import by_patient, read_predictions
from neonet_core.experiment.run import Run
from neonet_core.experiment.trained import own_segmentor_stage
from neonet_core.training.files import read_json


@dataclass(frozen=True)
class Summary:
    """Figures of a run.

    Attributes
    ----------
    out_of_fold : tuple of OutOfFoldScore
    threshold : float or None
        Youden's threshold of the out-of-fold scores.
    metrics : dict
        Each with its protocol and interval; AUCs count patients, of whose cases the mean probability counts.
    ranges : dict
        See `neonet_core.experiment.ranges`, and spacing_x/y/z of the cohort's images in mm.
    """

    out_of_fold: tuple[OutOfFoldScore, ...]
    threshold: float | None
    metrics: dict[str, Any]
    ranges: dict[str, Range]


def summarise(run: Run, classifier: str = "cls-pattennet") -> Summary:
    """Gather the figures of all finished folds; those of NeoCls from the stage `classifier`."""
    preset = run.preset()
    predictions = read_predictions(run, classifier)
    patients = by_patient(predictions)
    truth = np.array([patient.outcome for patient in patients])
    score = np.array([patient.probability for patient in patients])
    metrics: dict[str, Any] = {"protocol": preset.protocol}
    threshold = None
    if len(set(truth.tolist())) == 2:
        threshold = youden_threshold(truth, score)
        metrics["auc_out_of_fold"] = {
            "value": auc(truth, score), "patients": len(truth), "positives": int(truth.sum()),
            "delong_95": list(delong_interval(truth, score)), "bootstrap_95": list(bootstrap_interval(truth, score))}
        fold = np.array([patient.fold for patient in patients])
        by_fold = [auc(truth[fold == number], score[fold == number]) for number in sorted(set(fold.tolist()))
                   if len(set(truth[fold == number].tolist())) == 2]
        if by_fold:
            metrics["auc_mean_of_folds"] = {"mean": float(np.mean(by_fold)), "by_fold": by_fold}
    segmentations = _figures(run, own_segmentor_stage(run))
    for name in ("dice_liver", "dice_tumour", "dice"):
        if segmentations:
            values = [figures[name] for figures in segmentations]
            metrics[name] = {"mean": float(np.mean(values)), "by_fold": values}
    scores = tuple(OutOfFoldScore(outcome=p.outcome, score=p.probability) for p in predictions)
    return Summary(scores, threshold, metrics, _ranges(run, classifier))


def _ranges(run: Run, classifier: str) -> dict[str, Range]:
    """Ranges over the training cohort: spacings from quality control, the rest from each fold's classifier stage."""
    quality = read_json(run.folder / "quality.json")
    spacings = np.array([quality["facts"][case_id]["spacing"] for case_id in quality["included"]])
    merged: dict[str, Range] = {f"spacing_{axis}": (float(values.min()), float(values.max()))
                                for axis, values in zip("xyz", spacings.T, strict=True)}
    for figures in _figures(run, classifier):
        for name, (low, high) in figures["ranges"].items():
            before = merged.get(name, (low, high))
            merged[name] = (min(before[0], low), max(before[1], high))
    return merged


def _figures(run: Run, stage: str) -> list[dict[str, Any]]:
    """Figures of a stage in the folds in which it is done and belongs to the run."""
    done = (run.current(fold, stage) for fold in run.fold_numbers())
    return [record["figures"] for record in done if record is not None]
