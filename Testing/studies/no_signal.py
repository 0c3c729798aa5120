"""What each protocol reports where there is nothing to find: simulated cohorts with the PNI signal's strength at zero.

    python Testing/studies/no_signal.py OUT [--seeds 10] [--cases 48] [--positives 16]

Each seed is another cohort, split and initialisation; both protocols train on the same cohorts and splits. Prints, and
writes to OUT/no_signal.json, the mean over the seeds of the mean AUC of five folds, with its standard error: 0.5 is the
truth. (The pooled out-of-fold AUC is given too: it is biased low without a signal, since a fold with more positives
among its held-out patients has fewer to learn from.) Resumes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from neonet_core.cohort import read_manifest
from neonet_core.events import Terminal, track
from neonet_core.experiment.summary import summarise
from neonet_core.experiment.train import train
from neonet_core.phantom import write_cohort
from neonet_core.presets import load_preset

CHANGES = ["folds=5", "inner_fraction=0.2", "cls.epochs=60", "cls.patience=20", "cls.batch_size=8"]
"""To the preset `tiny`: PattenNet trains as long as in the preset `smoke`."""
PROTOCOLS = ("rigorous", "paper")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--cases", type=int, default=48)
    parser.add_argument("--positives", type=int, default=16)
    options = parser.parse_args()
    rows = [measure(options.out / f"seed-{seed}", seed, options.cases, options.positives)
            for seed in track(range(options.seeds), "seeds", Terminal())]
    summary = {protocol: {figure: spread([row[protocol][figure] for row in rows]) for figure in ("mean", "pooled")}
               for protocol in PROTOCOLS}
    (options.out / "no_signal.json").write_text(json.dumps({"seeds": rows, "summary": summary}, indent=2) + "\n")
    for protocol, figures in summary.items():
        print(protocol, {name: f"{mean:.3f} +- {error:.3f} (SE)" for name, (mean, error) in figures.items()})


def measure(folder: Path, seed: int, cases: int, positives: int) -> dict[str, dict[str, float]]:
    manifest = folder / "cohort" / "cases.csv"
    if not manifest.is_file():
        write_cohort(folder / "cohort", cases, positives, seed=1000 + seed, size="small", strength=0.0)
    figures = {}
    for protocol in PROTOCOLS:
        run = train(read_manifest(manifest), load_preset("tiny", [*CHANGES, f"protocol={protocol}"]),
                    folder / protocol, seed=seed, stages=("vae", "cls"))
        metrics = summarise(run).metrics
        figures[protocol] = {"mean": metrics["auc_mean_of_folds"]["mean"],
                             "pooled": metrics["auc_out_of_fold"]["value"]}
    return figures


def spread(values: list[float]) -> tuple[float, float]:
    """Mean and its standard error."""
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))


if __name__ == "__main__":
    main()
