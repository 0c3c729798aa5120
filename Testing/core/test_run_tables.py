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
from neonet_core.training.files import read_json, write_json

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
            "ResNet-50, R+S 100 %", "Swin Transformer, R+S 100 %", "PattenNet, rarer class repeated, R",
            "Tumour volume alone, R"))}
    raw = [float(row["p_value"]) for row in records]
    for row, p_value in zip(records, raw, strict=True):
        expected = max(min(1, other * sum(one >= other for one in raw)) for other in raw if other <= p_value)
        assert float(row["p_holm"]) == pytest.approx(expected)


def test_a_comparison_is_made_on_the_patients_of_both(run, results):
    row = next(row for row in records_of(comparison_table(results)) if row["second"] == "ResNet-50, R+S 100 %")
    _, truth, second = scores_of(run, "ResNet-50", 100)
    fold, _, first = scores_of(run, "PattenNet", 100)
    first, fold = first[fold != 2], fold[fold != 2]
    assert int(row["patients"]) == len(truth)
    areas, differences, pairs, variances = [], [], [], []
    for one in np.unique(fold):
        positive, negative = (fold == one) & (truth == 1), (fold == one) & (truth == 0)
        wins = [(score[positive][:, None] > score[negative]).astype(float) for score in (first, second)]
        apart = wins[0] - wins[1]
        areas.append([of_model.mean() for of_model in wins])
        differences.append(apart.mean())
        pairs.append(apart.size)
        variances.append(apart.mean(1).var(ddof=1) / apart.shape[0] + apart.mean(0).var(ddof=1) / apart.shape[1])
    weights = np.array(pairs) / sum(pairs)
    difference, error = weights @ differences, math.sqrt(weights ** 2 @ variances)
    assert float(row["difference"]) == pytest.approx(difference)
    assert [float(row[f"{which}_auc_within_folds"]) for which in ("first", "second")] == pytest.approx(weights @ areas)
    assert float(row["p_value"]) == pytest.approx(2 * norm.sf(abs(difference) / error))
    assert float(row["low"]) == pytest.approx(difference - norm.isf(0.025) * error)


def shifted(run, model, levels):
    """Move the made-up logits of each fold's network by a level of its own; the order within folds stays."""
    for fold, level in enumerate(levels):
        path = run.stage_folder(fold, classifier_stage(model)) / "done.json"
        done = read_json(path)
        for row in done["figures"]["predictions"]:
            odds = row["probability"] / (1 - row["probability"]) * math.exp(level)
            row["probability"] = odds / (1 + odds)
        write_json(path, done)


def test_levels_of_the_folds_networks_are_neither_a_difference_nor_a_signal(tmp_path):
    run = made_run(tmp_path / "run", load_preset("paper"))
    for model in ("PattenNet", "Swin"):
        add_classifier(run, model, seed=3, outcomes=outcomes_of(run))
    before = records_of(calibration_table(Results(run)))
    shifted(run, "Swin", (3, -3, 0, 2, -2))
    results = Results(run)
    pooled = [float(row["auc_pooled"]) for row in records_of(classification_table(results)) if row["auc_pooled"]]
    assert max(pooled) - min(pooled) > 0.05
    (row,) = records_of(comparison_table(results))
    assert float(row["difference"]) == 0 and float(row["p_value"]) == 1
    assert row["first_auc_within_folds"] == row["second_auc_within_folds"]
    notes = " ".join(comparison_table(results).notes)
    assert "only patients of the same fold are compared" in notes and "not table 2's pooled AUC" in notes
    after = records_of(calibration_table(results))
    assert [row["p_permutation"] for row in after] == [row["p_permutation"] for row in before]
    assert any("same fold" in note for note in calibration_table(results).notes)


def test_folds_of_one_class_each_compare_nothing(tmp_path):
    run = made_run(tmp_path / "run", load_preset("paper"))
    split = read_json(run.folder / "folds.json")["validation"]
    outcomes = {name: int(fold < 2) for fold, names in enumerate(split) for name in names}
    for model in ("PattenNet", "Swin"):
        add_classifier(run, model, outcomes=outcomes)
    results = Results(run)
    table = comparison_table(results)
    assert not table.rows and any("of one class in each fold" in note for note in table.notes)
    assert cell(calibration_table(results), "PattenNet, R", "p (signal)") == Missing("one class in each fold")


def test_a_fold_without_synthetic_cases_is_named(tmp_path):
    run = made_run(tmp_path / "run", load_preset("paper"))
    for ratio in (0, 50, 100):
        for model in ("PattenNet", "Swin"):
            add_classifier(run, model, ratio, seed=ratio, outcomes=outcomes_of(run),
                           synthetic={1: 0, 3: 0} if ratio == 50 else {3: 0})
    results = Results(run)
    at_50, at_100 = ("R+S 50 % had no synthetic case in folds 1, 3:", "R+S 100 % had no synthetic case in fold 3:")
    tables = {build: " ".join(build(results).notes) for build in
              (classification_table, comparison_table, calibration_table, ablation_table)}
    assert at_50 in tables[classification_table] and all(at_100 in notes for notes in tables.values())
    record = next(row for row in records_of(classification_table(results))
                  if (row["model"], row["ratio"]) == ("PattenNet", "50"))
    assert [record[f"synthetic_fold_{fold}"] for fold in range(5)] == ["5", "0", "5", "0", "5"]


def test_folds_with_synthetic_cases_need_no_note(results):
    assert not any("had no synthetic case" in note for note in classification_table(results).notes)


def test_table_2_says_that_it_is_not_end_to_end(results):
    assert any("annotated masks" in note and "not end to end" in note for note in classification_table(results).notes)


@pytest.mark.parametrize("preset, said", [("smoke", True), ("paper", False)])
def test_the_volume_learns_from_more_patients_than_a_network(tmp_path, preset, said):
    run = made_run(tmp_path / "run", load_preset(preset, [] if preset == "paper" else ["inner_fraction=0.25"]))
    add_classifier(run, "PattenNet", outcomes=outcomes_of(run))
    assert not any("volume alone has no epoch" in note for note in classification_table(Results(run)).notes)
    add_classifier(run, "Volume", outcomes=outcomes_of(run))
    results = Results(run)
    notes = [" ".join(build(results).notes) for build in (classification_table, calibration_table)]
    more = "all training patients of its fold, the networks from about 75 % of them"
    assert all((more in text) == said for text in notes)
    assert ("threshold is chosen on patients whom it has learned from" in notes[1]) == said


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
    tp, fp, tn, fn = (int(((score >= 0.5) == call)[truth == outcome].sum())
                      for call, outcome in ((True, 1), (True, 0), (False, 0), (False, 1)))
    assert [int(row[f"{name}s"]) for name in ("true_positive", "false_positive", "true_negative")] == [tp, fp, tn]
    assert (float(row["ppv"]), float(row["npv"])) == (pytest.approx(tp / (tp + fp)), pytest.approx(tn / (tn + fn)))
    assert table.lines(cell(table, "PattenNet, R+S 100 %", "PPV, NPV")) == [f"{tp / (tp + fp):.3f}",
                                                                            f"{tn / (tn + fn):.3f}"]
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
    table = calibration_table(Results(run))
    for column in ("Sensitivity", "PPV, NPV"):
        assert cell(table, "PattenNet, R", column) == Missing("no threshold in the run")


def test_where_nobody_is_called_positive_there_is_no_ppv(tmp_path):
    run = made_run(tmp_path / "run", load_preset("paper"))
    add_classifier(run, "PattenNet", outcomes=outcomes_of(run), threshold=2.0)
    table = calibration_table(Results(run))
    assert cell(table, "PattenNet, R", "PPV, NPV") == (Missing("none so called"), pytest.approx(26 / 40))


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
    assert "2 of 5 folds" in cell(table, "SwinUNETR", "Mean")


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
