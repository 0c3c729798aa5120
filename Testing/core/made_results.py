"""Stages with made-up results in a real run folder: tables can then be checked against numbers computed otherwise."""

import json
from pathlib import Path

import numpy as np

from neonet_core.experiment.graph import classifier_stage, segmentor_stage, settings_of
from neonet_core.experiment.run import Run
from neonet_core.training.files import read_json, sha256_of_json, write_json


def add_stage(run: Run, fold: int, stage: str, figures: dict) -> None:
    """A stage that is done and belongs to the run (`Run.current`)."""
    parts = read_json(run.folder / "parts.json")[str(fold)]
    inputs = {"seed": parts["seed"], "fold": fold, "settings": settings_of(stage, run.preset()),
              "cases": parts["cases"], "spacing": parts["spacing"]["seg" if stage.startswith("seg-") else "crop"]}
    folder = run.stage_folder(fold, stage)
    write_json(folder / "inputs.json", inputs)
    write_json(folder / "done.json", {"inputs": sha256_of_json(json.loads(json.dumps(inputs))), "outputs": {},
                                      "figures": {"protocol": run.preset().protocol, **figures}, "seconds": 1.0})


def add_classifier(run: Run, model: str, ratio: int = 0, signal: float = 1.0, seed: int = 0, folds=None,
                   outcomes: dict | None = None, patients: dict | None = None, threshold: float | None = 0.5,
                   synthetic: dict | None = None) -> None:
    """Predictions of a classifier: normal logits, those of positives higher by `signal`; by fold how many synthetic
    cases it has learned from, if not one for each 10 % of `ratio`."""
    rng = np.random.default_rng(seed)
    stage = classifier_stage(model, ratio)
    for fold, names in enumerate(read_json(run.folder / "folds.json")["validation"]):
        rows = []
        for index, name in enumerate(names):
            outcome = outcomes[name] if outcomes else index % 2
            logit = rng.normal(signal * (outcome - 0.5), 1)
            rows.append({"case_id": name, "patient_id": (patients or {}).get(name, f"patient of {name}"), "fold": fold,
                         "model": stage, "outcome": outcome, "probability": float(1 / (1 + np.exp(-logit)))})
        if folds is None or fold in folds:
            add_stage(run, fold, stage, {"auc": None, "model": model, "ratio": ratio,
                                         "synthetic": (synthetic or {}).get(fold, ratio // 10), "epochs": 3,
                                         "best_epoch": 1, "predictions": rows, "threshold": threshold})


def add_segmentor(run: Run, network: str, seed: int = 0, folds=None) -> None:
    """Dice of a network in each fold."""
    rng = np.random.default_rng(seed)
    for fold, names in enumerate(read_json(run.folder / "folds.json")["validation"]):
        scores = {name: [float(rng.uniform(0.9, 0.98)), float(rng.uniform(0.6, 0.95))] for name in names}
        liver, tumour = np.mean(list(scores.values()), axis=0)
        if folds is None or fold in folds:
            add_stage(run, fold, segmentor_stage(run.preset(), network), {
                "dice_liver": float(liver), "dice_tumour": float(tumour), "dice": float(liver + tumour) / 2,
                "dice_by_case": scores, "spacing": None})


def made_run(folder: Path, preset, cases: int = 40, positives: int = 14, seed: int = 0, outcome: str = "pni") -> Run:
    """A run of made-up cases on which nothing has been trained yet."""
    names = [f"case-{index:03d}" for index in range(cases)]
    order = np.random.default_rng(0).permutation(cases)  # the same patients for every seed
    outcomes = {names[index]: int(rank < positives) for rank, index in enumerate(order)}
    ranked = sorted(names, key=lambda name: (outcomes[name], np.random.default_rng([seed, names.index(name)]).random()))
    split = [[name for rank, name in enumerate(ranked) if rank % preset.folds == fold] for fold in range(preset.folds)]
    run = Run(folder)
    write_json(folder / "settings.json", {
        "format": 1, "preset": preset.model_dump(), "cohort": "cases.csv", "outcome": outcome, "seed": seed,
        "device": "cpu", "environment": {"neonet": "0.1", "python": "3.11", "system": "Linux", "machine": "x86_64",
                                         "threads": 1, "packages": {"torch": "2.8"}, "gpu": None}})
    write_json(folder / "quality.json", {
        "cases": cases + 2, "included": names, "outcome": outcome, "positives": positives,
        "negatives": cases - positives, "exclusions": [
            {"case_id": "secret-1", "code": "NO_TUMOUR", "reason": "The label map holds no tumour."},
            {"case_id": "secret-2", "code": "NO_TUMOUR", "reason": "The label map holds no tumour."}],
        "facts": {name: {"shape": [8, 8, 8], "spacing": [1.0 + 0.01 * index, 1.2, 3.0], "sha256": "x",
                         "intensity_range": [0, 1]} for index, name in enumerate(names)}})
    write_json(folder / "folds.json", {"format": 1, "seed": seed, "outcome": outcome, "validation": split})
    write_json(folder / "parts.json", {str(fold): {
        "seed": seed, "spacing": {"seg": None, "crop": None},
        "cases": {"learning": {}, "stopping": {}, "validation": {name: ["x", outcomes[name], name] for name in part}}}
        for fold, part in enumerate(split)})
    (folder / "outcomes.json").write_text(json.dumps(outcomes), encoding="utf-8")
    return run


def outcomes_of(run: Run) -> dict[str, int]:
    return read_json(run.folder / "outcomes.json")
