"""Tables 1, 2 and 5: their numbers against numbers computed otherwise from the same predictions."""

import csv
import io
import itertools
import math

import numpy as np
import pytest
from made_results import add_classifier, add_segmentor, add_stage, made_run, outcomes_of
from scipy.stats import norm
from sklearn.metrics import brier_score_loss, roc_auc_score

from neonet_core.classification.names import BASELINE_NAMES, CONTROLS
from neonet_core.experiment.graph import classifier_stage
from neonet_core.experiment.predictions import read_predictions
from neonet_core.experiment.reporting.calibration_table import calibration_table
from neonet_core.experiment.reporting.classification_tables import ablation_table, classification_table
from neonet_core.experiment.reporting.comparison_table import comparison_table
from neonet_core.experiment.reporting.results import Results
from neonet_core.experiment.reporting.segmentation_table import segmentation_table
from neonet_core.experiment.reporting.tables import Interval, Missing, PValue, Table
from neonet_core.presets import load_preset
from neonet_core.training.files import read_json

MODELS = ("PattenNet", "ResNet-50", "Swin")
ABLATIONS = ("PattenNet-channel", "PattenNet-0")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three models at R and R+S 50 and 100 %, two controls, two ablations, two networks; ResNet-50 lacks a fold."""
    run = made_run(tmp_path_factory.mktemp("made") / "run", load_preset("paper"))
    outcomes = outcomes_of(run)
    for seed, (model, ratio) in enumerate(itertools.product(MODELS, (0, 50, 100))):
        folds = (0, 1, 3, 4) if model == "ResNet-50" else None
        add_classifier(run, model, ratio, 1 + ratio / 100, seed, folds, outcomes)
    for seed, model in enumerate(("PattenNet-duplicated", "Volume"), start=50):
        add_classifier(run, model, 0, 0.5, seed, outcomes=outcomes)
    for seed, model in enumerate(ABLATIONS, start=60):
        add_classifier(run, model, 100, 0.8, seed, outcomes=outcomes)
    add_segmentor(run, "UNet", 1)
    add_segmentor(run, "SwinUNETR", 2, (0, 1))
    return run


@pytest.fixture(scope="module")
def results(run):
    return Results(run)


def scores_of(run, model, ratio=0):
    rows = read_predictions(run, classifier_stage(model, ratio))
    return (np.array([row.fold for row in rows]), np.array([row.outcome for row in rows]),
            np.array([row.probability for row in rows]))


def records_of(table):
    return list(csv.DictReader(io.StringIO(table.csv())))


def cell(table, row, column):
    return next(cells for cells in table.rows if cells[0] == row)[list(table.columns).index(column)]


def delong_by_pairs(truth, score):
    """AUC and standard error from the matrix of all pairs."""
    wins = (score[truth == 1][:, None] > score[truth == 0]) + 0.5 * (score[truth == 1][:, None] == score[truth == 0])
    m, n = wins.shape
    return wins.mean(), math.sqrt(wins.mean(1).var(ddof=1) / m + wins.mean(0).var(ddof=1) / n)


# --- table 2 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("ratio", [0, 50, 100])
def test_aucs_of_table_2_are_those_of_the_predictions(run, results, model, ratio):
    table = classification_table(results)
    record = next(row for row in records_of(table) if (row["model"], row["ratio"]) == (model, str(ratio)))
    fold, truth, score = scores_of(run, model, ratio)
    by_fold = [roc_auc_score(truth[fold == one], score[fold == one]) for one in np.unique(fold)]
    assert float(record["auc_mean_of_folds"]) == pytest.approx(np.mean(by_fold))
    assert float(record["auc_sd_of_folds"]) == pytest.approx(np.std(by_fold, ddof=1))
    assert float(record["auc_pooled"]) == pytest.approx(roc_auc_score(truth, score))
    area, error = delong_by_pairs(truth, score)
    for name, sign in (("delong_low", -1), ("delong_high", 1)):
        logit = math.log(area / (1 - area)) + sign * norm.isf(0.025) * error / (area * (1 - area))
        assert float(record[name]) == pytest.approx(1 / (1 + math.exp(-logit)))
    assert float(record["bootstrap_low"]) < area < float(record["bootstrap_high"])
    assert (int(record["patients"]), int(record["positives"])) == (len(truth), truth.sum())
    shown = table.lines(cell(table, {"Swin": "Swin Transformer"}.get(model, model), f"R+S {ratio} %" if ratio else "R"))
    assert shown[0] == f"{np.mean(by_fold):.3f} ± {np.std(by_fold, ddof=1):.3f}"
    assert shown[1].startswith(f"{area:.3f} (")


def test_only_ratios_of_the_run_are_columns_and_all_models_are_rows(results):
    table = classification_table(results)
    assert table.columns == ["Model", "R", "R+S 50 %", "R+S 100 %"]
    assert len(table.rows) == len(BASELINE_NAMES) + 1 + 1 + len(CONTROLS)
    assert cell(table, "DenseNet-121", "R") == (Missing("not run"), "paper 0.6788")


def test_a_missing_fold_is_said_in_the_cell_and_named_below(results):
    table = classification_table(results)
    assert "4 of 5 folds" in cell(table, "ResNet-50", "R")
    assert "ResNet-50, R: fold 2 not run." in table.notes and not any("Swin" in note for note in table.notes)


def test_the_mean_row_is_the_mean_of_the_models_that_were_run(run, results):
    means = []
    for model in MODELS:
        fold, truth, score = scores_of(run, model, 100)
        means.append(np.mean([roc_auc_score(truth[fold == one], score[fold == one]) for one in np.unique(fold)]))
    value, count, paper = cell(classification_table(results), "Mean of the models above", "R+S 100 %")
    assert value == pytest.approx(np.mean(means)) and count == "3 of 14 models" and paper == "paper 0.7417"


def test_controls_have_no_synthetic_cases(results):
    table = classification_table(results)
    assert cell(table, "Control: Tumour volume alone", "R+S 100 %") == Missing("real cases only")
    assert isinstance(cell(table, "Control: Tumour volume alone", "R")[1], Interval)
    assert cell(table, "Control: PattenNet, masks alone", "R") == (Missing("not run"),)


def test_the_protocol_stands_beside_each_table(run, results, tmp_path):
    builders = (segmentation_table, classification_table, comparison_table, calibration_table, ablation_table)
    for build in builders:
        assert any("protocol paper" in note and "optimistic" in note for note in build(results).notes)
    rigorous = Results(made_run(tmp_path / "run", load_preset("smoke")))
    for build in builders:
        notes = build(rigorous).notes
        assert any("protocol rigorous" in note for note in notes) and not any("optimistic" in note for note in notes)


def test_a_fold_of_one_class_is_left_out_and_said(tmp_path):
    run = made_run(tmp_path / "run", load_preset("paper"))
    split = read_json(run.folder / "folds.json")["validation"]
    add_classifier(run, "PattenNet", outcomes=outcomes_of(run) | dict.fromkeys(split[1], 0))
    table = classification_table(Results(run))
    record = next(row for row in records_of(table) if row["model"] == "PattenNet")
    assert record["auc_fold_1"] == "" and record["missing"] == "fold 1 with one class only"
    assert "4 of 5 folds" in cell(table, "PattenNet", "R")


def test_a_run_of_one_class_has_reasons_and_no_numbers(tmp_path):
    run = made_run(tmp_path / "run", load_preset("paper"))
    add_classifier(run, "PattenNet", outcomes=dict.fromkeys(outcomes_of(run), 1))
    results = Results(run)
    assert "one class only" in cell(classification_table(results), "PattenNet", "R")[0].reason
    assert not comparison_table(results).rows and not calibration_table(results).rows


def test_a_patient_counts_once(tmp_path):
    run = made_run(tmp_path / "run", load_preset("paper"))
    outcomes = outcomes_of(run)
    first, second, third = read_json(run.folder / "folds.json")["validation"][0][:3]
    add_classifier(run, "PattenNet", outcomes=outcomes | {first: 0, second: 1},
                   patients={first: "anna", second: "anna", third: "bert"})
    rows = {row.case_id: row for row in read_predictions(run, "cls-pattennet")}
    scores = Results(run).scores("PattenNet")
    assert len(scores.patients) == len(outcomes) - 1
    index = scores.patients.index("anna")
    assert scores.truth[index] == 1
    assert scores.score[index] == pytest.approx((rows[first].probability + rows[second].probability) / 2)


def test_what_was_trained_with_other_settings_is_not_shown(tmp_path):
    run = made_run(tmp_path / "run", load_preset("paper"))
    add_classifier(run, "PattenNet", outcomes=outcomes_of(run))
    other = made_run(run.folder, load_preset("paper", ["cls.epochs=7"]))
    reason = cell(classification_table(Results(other)), "PattenNet", "R")[0].reason
    assert "other settings" in reason


def test_a_stage_that_was_cut_off_is_not_finished(tmp_path):
    run = made_run(tmp_path / "run", load_preset("paper"))
    add_classifier(run, "PattenNet", folds=(0,), outcomes=outcomes_of(run))
    run.stage_folder(1, "cls-pattennet").mkdir(parents=True)
    assert Results(run).classifier("PattenNet").why == "fold 1 not finished; folds 2, 3, 4 not run"


# --- tables 2b, 2c and 5 ----------------------------------------------------------------------------------------------


def test_comparisons_are_those_planned_and_adjusted_by_holm(run, results):
    records = records_of(comparison_table(results))
    pairs = [(row["first"], row["second"]) for row in records]
    assert pairs[0] == ("PattenNet, R+S 100 %", "PattenNet, R")
    assert set(pairs) == {
        *((f"{name}, R+S 100 %", f"{name}, R") for name in ("PattenNet", "ResNet-50", "Swin Transformer")),
        ("PattenNet, R", "Tumour volume alone, R"),
        *(("PattenNet, R+S 100 %", other) for other in (
            "ResNet-50, R+S 100 %", "Swin Transformer, R+S 100 %", "PattenNet, positives repeated, R",
            "Tumour volume alone, R"))}
    raw = [float(row["p_value"]) for row in records]
    for row, p_value in zip(records, raw, strict=True):
        expected = max(min(1, other * sum(one >= other for one in raw)) for other in raw if other <= p_value)
        assert float(row["p_holm"]) == pytest.approx(expected)


def test_a_comparison_is_made_on_the_patients_of_both(run, results):
    row = next(row for row in records_of(comparison_table(results)) if row["second"] == "ResNet-50, R+S 100 %")
    _, truth, second = scores_of(run, "ResNet-50", 100)
    fold, _, first = scores_of(run, "PattenNet", 100)
    first = first[fold != 2]
    assert int(row["patients"]) == len(truth)
    difference = roc_auc_score(truth, first) - roc_auc_score(truth, second)
    assert float(row["difference"]) == pytest.approx(difference)
    wins = [(score[truth == 1][:, None] > score[truth == 0]).astype(float) for score in (first, second)]
    apart = wins[0] - wins[1]
    error = math.sqrt(apart.mean(1).var(ddof=1) / apart.shape[0] + apart.mean(0).var(ddof=1) / apart.shape[1])
    assert float(row["p_value"]) == pytest.approx(2 * norm.sf(abs(difference) / error))
    assert float(row["low"]) == pytest.approx(difference - norm.isf(0.025) * error)


def test_without_synthetic_cases_models_are_compared_on_real_ones(tmp_path):
    run = made_run(tmp_path / "run", load_preset("paper"))
    for seed, model in enumerate(("PattenNet", "Swin", "Volume")):
        add_classifier(run, model, seed=seed, outcomes=outcomes_of(run))
    table = comparison_table(Results(run))
    assert [row[:2] for row in table.rows] == [["PattenNet, R", "Tumour volume alone, R"],
                                               ["PattenNet, R", "Swin Transformer, R"]]


def test_calibration_and_operating_point_are_those_of_the_predictions(run, results):
    table = calibration_table(results)
    row = next(row for row in records_of(table) if (row["model"], row["ratio"]) == ("PattenNet", "100"))
    _, truth, score = scores_of(run, "PattenNet", 100)
    assert float(row["brier"]) == pytest.approx(brier_score_loss(truth, score))
    for name, value in (("sensitivity", (score >= 0.5)[truth == 1]), ("specificity", (score < 0.5)[truth == 0])):
        share, n, z = value.mean(), len(value), norm.isf(0.025)
        assert float(row[name]) == pytest.approx(share)
        middle, half = share + z**2 / (2 * n), z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
        assert float(row[f"{name}_low"]) == pytest.approx((middle - half) / (1 + z**2 / n))
        assert float(row[f"{name}_high"]) == pytest.approx((middle + half) / (1 + z**2 / n))
    assert 0 < float(row["p_permutation"]) < 0.05


def test_each_fold_is_called_at_its_own_threshold(tmp_path):
    run = made_run(tmp_path / "run", load_preset("paper"))
    outcomes = outcomes_of(run)
    for fold in range(5):
        threshold = None if fold == 4 else 0.3 + fold / 10
        add_classifier(run, "PattenNet", folds=(fold,), outcomes=outcomes, threshold=threshold)
    table = calibration_table(Results(run))
    fold, truth, score = scores_of(run, "PattenNet")
    known = fold != 4
    called = score >= 0.3 + fold / 10
    assert float(records_of(table)[0]["sensitivity"]) == pytest.approx(called[known & (truth == 1)].mean())
    assert f"{known.sum()} of {len(truth)} patients" in cell(table, "PattenNet, R", "Sensitivity")


def test_thresholds_that_an_older_run_lacks_are_said(tmp_path):
    run = made_run(tmp_path / "run", load_preset("paper"))
    add_classifier(run, "PattenNet", outcomes=outcomes_of(run), threshold=None)
    assert cell(calibration_table(Results(run)), "PattenNet, R", "Sensitivity") == Missing("no threshold in the run")


def test_table_5_takes_the_full_model_for_its_own_number_of_blocks(run, results):
    table = ablation_table(results)
    assert len(table.rows) == 6 and table.columns[1] == "AUC, R+S 100 %"
    for row, model in (("PattenNet, full model (2 dual attention blocks)", "PattenNet"),
                       ("Channel attention only", "PattenNet-channel"), ("0 dual attention blocks", "PattenNet-0")):
        fold, truth, score = scores_of(run, model, 100)
        by_fold = [roc_auc_score(truth[fold == one], score[fold == one]) for one in range(5)]
        assert cell(table, row, "AUC, R+S 100 %")[0] == pytest.approx(by_fold)
    assert cell(table, "3 dual attention blocks", "AUC, R+S 100 %")[0] == Missing("not run")
    assert [row[2] for row in table.rows] == ["0.7903", "0.7276", "0.7410", "0.7001", "0.7589", "0.7713"]


def test_table_5_follows_the_presets_number_of_blocks(tmp_path):
    run = made_run(tmp_path / "run", load_preset("paper", ["cls.dual_attention_blocks=3"]))
    add_classifier(run, "PattenNet", 25, outcomes=outcomes_of(run))
    table = ablation_table(Results(run))
    assert table.rows[0][0] == "PattenNet, full model (3 dual attention blocks)" and table.rows[0][2] == "0.7713"
    assert any(row[0] == "2 dual attention blocks" for row in table.rows) and table.columns[1] == "AUC, R+S 25 %"


# --- table 1 ----------------------------------------------------------------------------------------------------------


def test_dice_is_the_mean_of_folds_with_an_interval_over_patients(run, results):
    table = segmentation_table(results)
    record = next(row for row in records_of(table) if row["network"] == "UNet")
    by_fold = [run.current(fold, "seg-unet")["figures"] for fold in range(5)]
    cases = np.array([scores for figures in by_fold for scores in figures["dice_by_case"].values()])
    tumour = [one["dice_tumour"] for one in by_fold]
    assert float(record["dice_tumour_mean_of_folds"]) == pytest.approx(np.mean(tumour))
    assert float(record["dice_tumour_sd_of_folds"]) == pytest.approx(np.std(tumour, ddof=1))
    assert float(record["dice_tumour_patients"]) == pytest.approx(cases[:, 1].mean())
    half = norm.isf(0.025) * cases[:, 1].std() / math.sqrt(len(cases))
    assert float(record["dice_tumour_low"]) == pytest.approx(cases[:, 1].mean() - half, abs=0.2 * half)
    assert float(record["dice_tumour_high"]) == pytest.approx(cases[:, 1].mean() + half, abs=0.2 * half)
    assert cell(table, "SegResNet", "Mean") == Missing("not run")
    assert "SwinUNETR: folds 2, 3, 4 not run." in table.notes


def test_a_patients_cases_make_one_dice(tmp_path):
    run = made_run(tmp_path / "run", load_preset("paper"))
    names = read_json(run.folder / "folds.json")["validation"][0]
    add_classifier(run, "PattenNet", outcomes=outcomes_of(run), patients=dict.fromkeys(names[:2], "anna"))
    scores = {name: [0.9, 0.5] for name in names} | {names[0]: [0.9, math.nan], names[1]: [0.7, 0.8]}
    add_stage(run, 0, "seg-unet", {"dice_liver": 0.9, "dice_tumour": 0.6, "dice": 0.75, "dice_by_case": scores})
    record = records_of(segmentation_table(Results(run)))[0]
    assert int(record["patients"]) == len(names) - 1
    assert float(record["dice_liver_patients"]) == pytest.approx((0.8 + 0.9 * (len(names) - 2)) / (len(names) - 1))
    assert float(record["dice_tumour_patients"]) == pytest.approx((0.8 + 0.5 * (len(names) - 2)) / (len(names) - 1))


# --- how a table is written -------------------------------------------------------------------------------------------


def test_every_form_of_a_table_holds_the_same_numbers():
    table = Table("t", "50 % & more_of|it", ["name", "x", "p"],
                  [["a_b|c", (Interval(0.5, -0.25, 1.0), [0.25, 0.75]), PValue(0.0004)],
                   ["<b>", Missing("not run"), PValue(0.04)]], ["100 % {sure}"], digits=3)
    markdown, latex = table.markdown(), table.latex()
    for text in (markdown, latex):
        for number in ("0.500 (-0.250 to 1.000)", "0.354", "0.040", "not run"):
            assert number in text
    assert r"a\_b\|c" in markdown and r"\<b>" in markdown and "\\< 0.001" in markdown
    assert r"a\_b\textbar{}c" in latex and r"50 \% \& more\_of" in latex and r"\{sure\}" in latex
    assert table.csv().splitlines()[1:] == ["a_b|c,0.5,0.0004", "<b>,,0.04"]


def test_what_rounds_to_nothing_has_no_sign():
    assert Table("t", "T", ["x"], [[-0.0002]], digits=3).lines(-0.0002) == ["0.000"]
