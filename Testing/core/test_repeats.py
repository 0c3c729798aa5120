"""Several runs of one cohort: mean and spread over the runs, computed again from the predictions."""

import numpy as np
import pytest
from made_results import add_classifier, add_segmentor, made_run, outcomes_of
from sklearn.metrics import roc_auc_score
from test_run_tables import cell, records_of, scores_of

from neonet_core.cli import main
from neonet_core.errors import NeoNetError
from neonet_core.experiment.reporting.repeats import repeats_table, write_repeats
from neonet_core.experiment.reporting.tables import Missing
from neonet_core.presets import load_preset


@pytest.fixture(scope="module")
def repeats(tmp_path_factory):
    folder, runs = tmp_path_factory.mktemp("repeats"), []
    for seed in range(3):
        run = made_run(folder / f"run-{seed}", load_preset("paper"), seed=seed)
        for ratio in (0, 100):
            add_classifier(run, "PattenNet", ratio, seed=10 * seed + ratio, outcomes=outcomes_of(run))
        add_segmentor(run, "UNet", seed)
        runs.append(run)
    add_classifier(runs[0], "Swin", outcomes=outcomes_of(runs[0]))
    return runs


def test_repeats_give_mean_and_spread_over_the_runs(repeats):
    table = repeats_table(repeats)
    records = {(row["measure"], row["model"]): row for row in records_of(table)}
    pooled, of_folds = [], []
    for run in repeats:
        fold, truth, score = scores_of(run, "PattenNet", 100)
        pooled.append(roc_auc_score(truth, score))
        of_folds.append(np.mean([roc_auc_score(truth[fold == one], score[fold == one]) for one in range(5)]))
    record = records["AUC", "PattenNet, R+S 100 %"]
    assert float(record["all_patients_mean"]) == pytest.approx(np.mean(pooled))
    assert float(record["all_patients_sd"]) == pytest.approx(np.std(pooled, ddof=1))
    assert float(record["mean_of_folds_mean"]) == pytest.approx(np.mean(of_folds))
    assert float(record["mean_of_folds_run_2"]) == pytest.approx(of_folds[1])
    dice = [np.mean([run.current(fold, "seg-unet")["figures"]["dice"] for fold in range(5)]) for run in repeats]
    assert float(records["Dice", "UNet"]["mean_of_folds_mean"]) == pytest.approx(np.mean(dice))
    assert cell(table, "AUC: Swin Transformer, R", "Run 2 (seed 1)") == Missing("not run")
    assert "1 of 3 runs" in cell(table, "AUC: Swin Transformer, R", "Mean of folds, over runs")
    assert any("protocol paper" in note for note in table.notes)


def test_repeats_are_written(repeats, tmp_path):
    path = write_repeats(repeats, tmp_path)
    assert "Research use only" in path.read_text(encoding="utf-8")
    assert {one.name for one in tmp_path.iterdir()} == {"repeats.md", "repeats.csv", "repeats.tex"}


@pytest.mark.parametrize("difference", ["cases", "preset", "outcome"])
def test_runs_that_are_no_repeats_are_refused(repeats, tmp_path, difference):
    other = made_run(tmp_path / "run", load_preset("paper", ["cls.epochs=7"] if difference == "preset" else []),
                     cases=30 if difference == "cases" else 40, outcome="other" if difference == "outcome" else "pni")
    with pytest.raises(NeoNetError) as caught:
        repeats_table([repeats[0], other])
    assert caught.value.code == "RUNS_DIFFER" and difference in caught.value.message


def test_one_run_is_no_repeat(repeats):
    with pytest.raises(NeoNetError) as caught:
        repeats_table(repeats[:1])
    assert caught.value.code == "BAD_ARGUMENT"


def test_seeds_are_repeated_and_reported_by_two_commands(blob_cohort, tmp_path, capsys):
    out = tmp_path / "run"
    train = ["train", str(blob_cohort), "--preset", "tiny", "--stages", "cls", "--models", "Volume", "--device", "cpu"]
    assert main([*train, "--seeds", "3,4", "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["seed-3", "seed-4"]
    splits = [(out / f"seed-{seed}" / "folds.json").read_text(encoding="utf-8") for seed in (3, 4)]
    assert splits[0] != splits[1]
    assert main(["report", str(out), "--device", "cpu"]) == 0
    text = (out / "report" / "repeats.md").read_text(encoding="utf-8")
    assert "Tumour volume alone" in text
    for seed in (3, 4):
        assert (out / f"seed-{seed}" / "report" / "report.html").is_file()
    capsys.readouterr()
    assert main(["bundle", "export", str(out), str(tmp_path / "bundle")]) == 2
    assert "holds 2 runs" in (said := capsys.readouterr().err) and "seed-3" in said
