"""A bundle on an external cohort: scores and outcomes put together, nothing lost on the way."""

import csv
import math

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from neonet_core.batch.results import CASES_FOLDER, RESULT_COLUMNS, RESULTS_FILE
from neonet_core.cohort import read_manifest
from neonet_core.errors import NeoNetError
from neonet_core.external.cases import judge, patients_of, read_results
from neonet_core.external.report import evaluate
from neonet_core.external.tables import subgroups
from neonet_core.volume import Volume, write_volume


def write_table(path, rows):
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def read_table(path):
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def result(case_id, probability, **columns):
    usual = {"case_id": case_id, "status": "done", "probability": probability, "tumour_ml": "12.5", "threshold": "0.5",
             "bundle": "b", "bundle_hash": "f" * 64}
    return dict.fromkeys(RESULT_COLUMNS, "") | usual | columns


@pytest.fixture
def cohort(tmp_path):
    """120 patients, a score that tells something, sex and age; results.csv and manifest."""
    rng = np.random.default_rng(3)
    outcome = np.arange(120) % 3 == 0
    probability = 1 / (1 + np.exp(-(rng.normal(size=120) + 1.2 * outcome)))
    results = [result(f"c{i:03d}", repr(float(p)), tumour_ml=repr(float(rng.uniform(1, 90))),
                      flags="SPACING_FAR" if i % 5 == 0 else "") for i, p in enumerate(probability)]
    truth = [{"case_id": f"c{i:03d}", "image": f"{i}.nii", "pni": int(o), "sex": "fm"[i % 2], "age": 40 + i / 3}
             for i, o in enumerate(outcome)]
    folder = tmp_path / "batch"
    folder.mkdir()
    write_table(folder / RESULTS_FILE, results)
    return folder, write_table(tmp_path / "cases.csv", truth), outcome, probability


def test_figures_are_those_of_scikit_learn(cohort, tmp_path):
    folder, manifest, outcome, probability = cohort
    found = evaluate(folder, read_manifest(manifest), tmp_path / "out", by=["sex", "age"])
    assert found.auc == pytest.approx(roc_auc_score(outcome, probability), abs=1e-12)
    assert found.low < found.auc < found.high and (found.patients, found.positives) == (120, 40)
    table = read_table(tmp_path / "out" / "calibration.csv")[0]
    assert float(table["brier"]) == pytest.approx(brier_score_loss(outcome, probability), abs=1e-12)
    called = probability >= 0.5
    assert float(table["sensitivity"]) == pytest.approx(called[outcome].mean())
    assert float(table["specificity"]) == pytest.approx(1 - called[~outcome].mean())
    groups = {row["group"]: row for row in read_table(tmp_path / "out" / "subgroups.csv")}
    assert set(groups) == {"all patients", "no flag", "with a flag", "sex = f", "sex = m", "age ≤ 59.8333",
                           "age > 59.8333"}
    men = np.arange(120) % 2 == 1
    assert float(groups["sex = m"]["auc"]) == pytest.approx(roc_auc_score(outcome[men], probability[men]), abs=1e-12)


def test_the_page_says_what_it_is_and_holds_nothing_external(cohort, tmp_path):
    folder, manifest, _, _ = cohort
    page = evaluate(folder, read_manifest(manifest), tmp_path / "out").report.read_text(encoding="utf-8")
    assert "Research use only" in page and "<script" not in page and 'src="http' not in page
    assert page.count("data:image/png") == 3


def test_every_case_of_either_side_comes_out_once(tmp_path):
    results = [result("scored", "0.7"), result("failed", "", status="failed", error_code="NOT_AN_IMAGE"),
               result("empty", "", flags="NO_TUMOUR"), result("unknown", "0.2"), result("stranger", "0.9")]
    truth = [{"case_id": name, "image": "x.nii", "pni": outcome} for name, outcome in
             (("scored", 1), ("failed", 1), ("empty", 0), ("unknown", ""), ("missing", 0))]
    write_table(tmp_path / RESULTS_FILE, results)
    judged, left_out = judge(read_results(tmp_path), read_manifest(write_table(tmp_path / "cases.csv", truth)))
    assert [(one.case_id, one.outcome, one.probability) for one in judged] == [("scored", 1, 0.7)]
    assert {one.case_id: one.reason for one in left_out} == {
        "failed": "failed: NOT_AN_IMAGE", "empty": "no score (NO_TUMOUR)", "unknown": "outcome not known",
        "missing": "not in the results", "stranger": "not in the manifest"}


def test_a_patient_with_several_cases_counts_once(tmp_path):
    write_table(tmp_path / RESULTS_FILE, [result("a1", "0.2"), result("a2", "0.8"), result("b", "0.4")])
    truth = [{"case_id": "a1", "patient_id": "A", "image": "x", "pni": 0}, {"case_id": "a2", "patient_id": "A",
             "image": "x", "pni": 1}, {"case_id": "b", "patient_id": "B", "image": "x", "pni": 0}]
    judged, _ = judge(read_results(tmp_path), read_manifest(write_table(tmp_path / "cases.csv", truth)))
    assert [(one.patient_id, one.outcome, one.probability) for one in patients_of(judged)] == [("A", 1, 0.5),
                                                                                               ("B", 0, 0.4)]


def test_dice_is_that_of_the_label_maps_in_world_space(tmp_path):
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    annotated = np.zeros((20, 20, 10), np.uint8)
    annotated[4:16, 4:16, 2:8] = 1
    annotated[8:12, 8:12, 4:6] = 2
    ours = annotated.copy()
    ours[8:10, 8:12, 4:6] = 1  # half of the tumour missed
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = 19
    write_volume(Volume(annotated.astype(np.float32) * 7 + 1, affine), tmp_path / "image.nii.gz")
    write_volume(Volume(annotated, affine), tmp_path / "label.nii.gz")
    mirrored = Volume(np.ascontiguousarray(ours[::-1]), affine @ flip)  # the same place, stored the other way
    write_volume(mirrored, tmp_path / CASES_FOLDER / "a" / "label_map.nii.gz")
    write_table(tmp_path / RESULTS_FILE, [result("a", "0.3", label_source="segmented"),
                                          result("b", "0.6", label_source="given")])
    truth = [{"case_id": name, "image": "image.nii.gz", "label_map": "label.nii.gz", "pni": outcome}
             for name, outcome in (("a", 0), ("b", 1))]
    evaluate(tmp_path, read_manifest(write_table(tmp_path / "cases.csv", truth)), tmp_path / "out")
    rows = {row["structure"]: row for row in read_table(tmp_path / "out" / "dice.csv")}
    assert float(rows["tumour"]["dice"]) == pytest.approx(2 / 3) and int(rows["tumour"]["patients"]) == 1
    assert 0.9 < float(rows["liver"]["dice"]) < 1
    assert "1 cases were scored on label maps that the batch was given" in (
        tmp_path / "out" / "evaluation.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("rows", "truth", "code"), [
    ([result("a", "0.5")], [{"case_id": "z", "image": "x", "pni": 1}], "NO_COMMON_CASES"),
    ([result("a", "")], [{"case_id": "a", "image": "x", "pni": 1}], "NO_SCORES"),
    ([result("a", "high")], [{"case_id": "a", "image": "x", "pni": 1}], "BAD_RESULTS"),
    ([{"case_id": "a", "score": "0.5"}], [{"case_id": "a", "image": "x", "pni": 1}], "BAD_RESULTS"),
    ([result("a", "0.5"), result("a", "0.6")], [{"case_id": "a", "image": "x", "pni": 1}], "BAD_RESULTS"),
    ([result("a", "0.5"), result("b", "0.6", bundle_hash="0" * 64)],
     [{"case_id": name, "image": "x", "pni": 1} for name in "ab"], "MIXED_RESULTS"),
])
def test_wrong_input_is_said(tmp_path, rows, truth, code):
    write_table(tmp_path / RESULTS_FILE, rows)
    with pytest.raises(NeoNetError) as error:
        evaluate(tmp_path, read_manifest(write_table(tmp_path / "cases.csv", truth)), tmp_path / "out")
    assert error.value.code == code and error.value.hint


def test_one_class_gives_no_auc_and_no_crash(tmp_path):
    write_table(tmp_path / RESULTS_FILE, [result("a", "0.5"), result("b", "0.7")])
    truth = [{"case_id": name, "image": "x", "pni": 1} for name in "ab"]
    found = evaluate(tmp_path, read_manifest(write_table(tmp_path / "cases.csv", truth)), tmp_path / "out")
    assert found.auc is None and "one class only" in found.report.read_text(encoding="utf-8")


def test_a_column_of_many_words_is_refused_and_empty_values_are_a_group_of_their_own(cohort):
    folder, manifest, _, _ = cohort
    patients = patients_of(judge(read_results(folder), read_manifest(manifest))[0])
    with pytest.raises(NeoNetError, match="no column"):
        subgroups(patients, "scanner")
    named = [type(one)(**vars(one) | {"columns": {"centre": "" if i == 0 else f"centre {i}"}})
             for i, one in enumerate(patients)]
    with pytest.raises(NeoNetError, match="more than"):
        subgroups(named, "centre")
    few = [type(one)(**vars(one) | {"columns": {"centre": "" if i == 0 else f"{i % 2}"}})
           for i, one in enumerate(patients)]
    groups = dict(subgroups(few, "centre"))
    assert len(groups["centre not known"]) == 1 and sum(map(len, groups.values())) == len(patients)
    assert not any(math.isnan(one.probability) for one in patients)
