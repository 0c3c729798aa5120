"""Manifest, quality control and folds."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neonet_core.cohort import (
    Case,
    Cohort,
    Folds,
    check_cohort,
    inner_split,
    load_case,
    read_manifest,
    stratified_folds,
)
from neonet_core.errors import NeoNetError
from neonet_core.volume import Volume, read_volume, to_canonical, write_volume

SARCOMA = Path(__file__).parents[3] / "shared" / "data" / "sarcoma_t1" / "cases.csv"
SHAPE = (12, 10, 8)


def code_of(call, *args, **kwargs):
    with pytest.raises(NeoNetError) as caught:
        call(*args, **kwargs)
    return caught.value.code


@pytest.fixture
def manifest(tmp_path):
    def write(text, name="cases.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_text(text, encoding=encoding)
        return path
    return write


# Manifest


def test_a_manifest_is_read_whole(manifest):
    path = manifest("case_id,image,label_map,pni,patient_id,age,liver_label,tumour_label\n"
                    "a,images/a.nii,labels/a.nii,1,p1,71,5|6,9\n"
                    "b,/abs/b.nii,labels/b.nii,0,p1,,,\n"
                    "c,c.nii,,,,66,,\n")
    a, b, c = read_manifest(path)
    assert a == Case("a", path.parent / "images/a.nii", path.parent / "labels/a.nii", 1, "p1", {5: 1, 6: 1, 9: 2},
                     {"age": "71"})
    assert b.image == Path("/abs/b.nii") and b.patient_id == "p1" and b.label_values is None and b.outcome == 0
    assert c.label_map is None and c.outcome is None and c.patient_id == "c"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_what_spreadsheets_write_is_read(manifest, separator, encoding, newline):
    rows = [["case_id", " image ", "label_map", "pni"], ["a ", " a.nii", "l.nii", " 1.0"], ["", "", "", ""],
            ["b", "b.nii", "l.nii", ""]]
    path = manifest(newline.join(separator.join(row) for row in rows), encoding=encoding)
    a, b = read_manifest(path)
    assert (a.case_id, a.image, a.outcome, b.outcome) == ("a", path.parent / "a.nii", 1, None)


def test_whole_numbers_that_pandas_wrote_as_fractions_are_read(manifest):
    path = manifest("case_id,image,pni,series,liver_label,tumour_label\na,a.nii,1.0,4.0,5.0|6,9.0\nb,b.nii,,,,\n")
    a, b = read_manifest(path)
    assert a.extra["series"] == "4" and a.label_values == {5: 1, 6: 1, 9: 2} and b.extra["series"] == ""


def test_any_column_can_be_the_outcome_and_none_too(manifest):
    path = manifest("case_id,image,label_map,pni,death\na,a.nii,l.nii,0,1\n")
    (case,) = read_manifest(path, "death")
    assert case.outcome == 1 and case.extra == {"pni": "0"}
    (case,) = read_manifest(path, None)
    assert case.outcome is None and case.extra == {"pni": "0", "death": "1"}


@pytest.mark.parametrize("text, said", [
    ("", "empty"),
    ("case_id,image,label_map,pni\n", "no rows"),
    ("case_id,label_map,pni\na,l,1\n", "column image"),
    ("case_id,image,label_map,outcome\na,i,l,1\n", "--outcome"),
    ("case_id,image,label_map,pni,pni\na,i,l,1,1\n", "pni twice"),
    ("case_id,image,label_map,pni\na,i,l,1\nb,i,l,yes\n", "row 3, column pni"),
    ("case_id,image,label_map,pni\na,i,l,2\n", "row 2, column pni"),
    ("case_id,image,label_map,pni\na,i,l,1\n\nA,i,l,0\n", "row 4, column case_id"),
    ("case_id,image,label_map,pni\n,i,l,1\n", "row 2, column case_id"),
    ("case_id,image,label_map,pni\n../a,i,l,1\n", "row 2, column case_id"),
    ("case_id,image,label_map,pni\n.a,i,l,1\n", "row 2, column case_id"),
    ("case_id,image,label_map,pni\na b,i,l,1\n", "row 2, column case_id"),
    ("case_id,image,label_map,pni\na\u00e9,i,l,1\n", "row 2, column case_id"),
    ("case_id,image,label_map,pni\na.,i,l,1\n", "row 2, column case_id"),
    ("case_id,image,label_map,pni\na,,l,1\n", "row 2, column image"),
    ("case_id,image,label_map,pni\na,i,l,1,more\n", "row 2"),
    ("case_id,image,label_map,pni,liver_label\na,i,l,1,liver\n", "row 2, column liver_label"),
    ("case_id,image,label_map,pni,liver_label,tumour_label\na,i,l,1,5,5\n", "row 2, column tumour_label"),
    ("case_id,image,label_map,pni,tumour_label\na,i,l,1,0\n", "row 2, column tumour_label"),
    ('case_id,image,label_map,pni\n"a"b,i,l,1\n', "not a CSV"),
])
def test_a_bad_manifest_is_refused_by_row_and_column(manifest, text, said):
    with pytest.raises(NeoNetError) as caught:
        read_manifest(manifest(text))
    assert caught.value.code == "BAD_MANIFEST"
    assert said in str(caught.value)


def test_a_manifest_that_is_no_text_or_not_there(manifest, tmp_path):
    assert code_of(read_manifest, manifest("case_id,\u00e4", encoding="latin-1")) == "BAD_MANIFEST"
    assert code_of(read_manifest, tmp_path / "none.csv") == "MANIFEST_NOT_FOUND"
    assert code_of(read_manifest, tmp_path) == "MANIFEST_NOT_FOUND"


# Quality control


@pytest.fixture
def study(tmp_path):
    """Writes a case's files; every image differs from every other unless told otherwise."""
    affine = np.diag([2.0, 2.0, 5.0, 1.0])

    def write(case_id, image=None, labels=None, outcome=1, label_affine=affine, **fields):
        if image is None:
            image = np.random.default_rng(sum(map(ord, case_id))).normal(100, 20, SHAPE)
        if labels is None:
            labels = np.zeros(SHAPE, np.uint8)
            labels[2:9, 2:9, 2:7], labels[3:6, 3:6, 3:6] = 1, 2
        files = tmp_path / f"{case_id}.nii.gz", tmp_path / f"{case_id}_label.nii.gz"
        write_volume(Volume(np.asarray(image, np.float32), affine), files[0])
        write_volume(Volume(np.asarray(labels), label_affine), files[1])
        return Case(case_id, *files, outcome, **{"patient_id": case_id, **fields})
    return write


def check(*cases, **options):
    return check_cohort(Cohort(tuple(cases), "pni", Path("cases.csv")), **options)


def reasons(report):
    return {exclusion.case_id: exclusion.code for exclusion in report.exclusions}


def test_each_fault_is_one_exclusion_and_ends_nothing(study, tmp_path):
    good = study("good")
    labels = np.zeros(SHAPE, np.uint8)
    shifted = np.diag([2.0, 2.0, 5.0, 1.0])
    shifted[0, 3] = 3.0
    with_liver, with_tumour, three = labels.copy(), labels.copy(), labels.copy()
    with_liver[3:6], with_tumour[3:6], three[0, 0, :4] = 1, 2, [0, 1, 2, 3]
    mostly_tumour = with_tumour.copy()
    mostly_tumour[6, :2] = 1
    saturated = np.minimum(np.random.default_rng(1).normal(100, 20, SHAPE), 100)
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(good.image.read_bytes()[:300])

    report = check(
        study("no_outcome", outcome=None),
        Case("no_label", good.image, None, 1, "no_label"),
        Case("absent", tmp_path / "absent.nii.gz", good.label_map, 1, "absent"),
        Case("label_absent", good.image, tmp_path / "absent.nii.gz", 1, "label_absent"),
        Case("broken", broken, good.label_map, 1, "broken"),
        study("grid", label_affine=shifted),
        study("shape", labels=np.pad(with_liver, ((0, 1), (0, 0), (0, 0)))),
        study("labels", labels=three),
        study("no_tumour", labels=with_liver),
        study("no_liver", labels=with_tumour),
        study("share", labels=mostly_tumour),
        study("constant", image=np.full(SHAPE, 7.0)),
        study("clipped", image=saturated),
        study("mask", image=with_liver),
        good,
        Case("copy", good.image, good.label_map, 1, "copy"),
    )
    codes = reasons(report)
    assert codes == {
        "no_outcome": "NO_OUTCOME", "no_label": "NO_LABEL_MAP", "absent": "FILE_NOT_FOUND",
        "label_absent": "FILE_NOT_FOUND", "broken": "UNREADABLE_FILE", "shape": "GRID_MISMATCH",
        "grid": "GRID_MISMATCH", "labels": "BAD_LABELS", "no_tumour": "NO_TUMOUR", "no_liver": "NO_LIVER",
        "share": "TUMOUR_SHARE", "constant": "CONSTANT_IMAGE", "clipped": "CLIPPED_IMAGE", "mask": "CLIPPED_IMAGE",
        "copy": "DUPLICATE_IMAGE",
    }
    assert [case.case_id for case in report.included] == ["good"]
    stored = json.loads(json.dumps(report.to_json()))
    assert stored["included"] == ["good"] and stored["cases"] == 16 and stored["positives"] == 1
    assert all(f"{case_id} " in report.table() for case_id in reasons(report))


def test_a_fault_that_no_reader_foresaw_ends_nothing_either(study, monkeypatch):
    odd, good = study("odd"), study("good")

    def fails_on_odd(path, series=None):
        if path == odd.image:
            raise RuntimeError("no such codec")
        return read_volume(path, series)

    monkeypatch.setattr("neonet_core.cohort.read_volume", fails_on_odd)
    report = check(odd, good)
    assert reasons(report) == {"odd": "UNREADABLE_FILE"} and "codec" in report.exclusions[0].reason


def test_prediction_needs_neither_labels_nor_outcome(study):
    full, bare = study("full", outcome=None), study("bare", outcome=None)
    bare = Case("bare", bare.image, None, None, "bare")
    assert len(check(full, bare, need_labels=False).included) == 2


def test_the_tumour_share_counts_from_over_the_limit(study):
    labels = np.zeros(SHAPE, np.uint8)
    labels[0, :, 0] = [2] * 7 + [1] * 3
    report = check(study("even", labels=labels))
    assert len(report.included) == 1
    assert report.facts["even"].tumour_share == pytest.approx(0.7)
    assert report.facts["even"].tumour_ml == pytest.approx(7 * 0.02)


def test_the_same_image_is_found_in_another_orientation_and_type(study, tmp_path):
    image = np.random.default_rng(5).integers(0, 200, SHAPE)
    first = study("first", image=image, outcome=1)
    volume = to_canonical(Volume(image.astype(np.int16), np.diag([2.0, 2.0, 5.0, 1.0])))
    flipped = Volume(volume.array[::-1, :, :].transpose(1, 0, 2),
                     np.array([[0, -2, 0, 22], [2, 0, 0, 0], [0, 0, 5, 0], [0, 0, 0, 1]], float))
    write_volume(flipped, tmp_path / "second.nrrd")
    second = Case("second", tmp_path / "second.nrrd", first.label_map, 0, "second")
    report = check(first, second)
    assert reasons(report) == {"second": "DUPLICATE_IMAGE"}
    assert "first" in report.exclusions[0].reason and "outcomes differ" in report.exclusions[0].reason
    assert "patient_id differs" in report.exclusions[0].reason


def test_an_excluded_case_does_not_take_its_duplicate_along(study):
    bad = study("bad", labels=np.ones(SHAPE, np.uint8))
    good = study("good")
    assert reasons(check(bad, Case("again", bad.image, good.label_map, 1, "again"))) == {"bad": "NO_TUMOUR"}


def test_percentile_clipped_images_are_kept(study):
    image = np.random.default_rng(2).gamma(2, 50, SHAPE)
    assert len(check(study("ours", image=np.clip(image, *np.percentile(image, [0.5, 99.5])))).included) == 1


def test_mapped_label_values(study):
    labels = np.zeros(SHAPE, np.int16)
    labels[2:9], labels[4:6, 4:6, 4:6], labels[10], labels[11] = 5, 300, 1, 2
    case = study("organs", labels=labels, label_values={5: 1, 300: 2})
    _, read = load_case(case)
    np.testing.assert_array_equal(read.array, np.select([labels == 5, labels == 300], [1, 2]))
    assert len(check(case).included) == 1
    assert code_of(load_case, Case("a", case.image, case.label_map, 1, "a")) == "BAD_LABELS"


def test_mapped_values_that_are_not_whole_are_refused(study):
    labels = np.zeros(SHAPE, np.float32)
    labels[2:9], labels[4:6, 4:6, 4:6], labels[9] = 5, 9, 5.2
    case = study("resampled", labels=labels, label_values={5: 1, 9: 2})
    assert code_of(load_case, case) == "BAD_LABELS"


def test_progress_counts_every_case(study):
    class Recorder:
        def __init__(self):
            self.seen = []

        def progress(self, stage, done, total):
            self.seen.append((done, total))

    recorder = Recorder()
    check(study("a"), study("b", outcome=None), events=recorder)
    assert recorder.seen == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.skipif(not SARCOMA.exists(), reason=f"the real data {SARCOMA} are not on this machine")
def test_the_real_cohort_passes():
    report = check_cohort(read_manifest(SARCOMA, "outcome"))
    assert len(report.included) == 39 and report.exclusions == ()
    folds = stratified_folds(report.included)
    assert sorted(len(part) for part in folds.validation) == [7, 8, 8, 8, 8]


# Folds


@st.composite
def cohorts(draw):
    """Patients of one to four rows, each row with an outcome of its own."""
    least = 5
    firsts = [0] * least + [1] * least + draw(st.lists(st.integers(0, 1), max_size=60))
    rows = []
    for number, first in enumerate(firsts):
        count = draw(st.sampled_from([1, 1, 1, 2, 4]))
        outcomes = [first] + [draw(st.integers(0, 1)) * first for _ in range(count - 1)]
        rows += [(f"p{number}", outcome) for outcome in draw(st.permutations(outcomes))]
    rows = draw(st.permutations(rows))
    return Cohort(tuple(Case(f"c{index}", Path("i"), None, outcome, patient)
                        for index, (patient, outcome) in enumerate(rows)), "pni", Path("cases.csv"))


def patients_of(cohort, case_ids):
    return {case.patient_id for case in cohort.subset(case_ids)}


def positives(cohort, patients):
    return {case.patient_id for case in cohort if case.patient_id in patients and case.outcome == 1}


@settings(max_examples=100, deadline=None)
@given(cohorts(), st.integers(2, 5), st.integers(0, 10))
def test_folds_are_a_stratified_partition_of_patients(cohort, count, seed):
    folds = stratified_folds(cohort, count, seed)
    assert len(folds) == count
    assert sorted(case_id for part in folds.validation for case_id in part) == sorted(case.case_id for case in cohort)
    everyone = {case.patient_id for case in cohort}
    for fold, part in enumerate(folds.validation):
        held_out, training = patients_of(cohort, part), patients_of(cohort, folds.training(fold))
        assert not held_out & training and held_out | training == everyone
        assert not set(part) & set(folds.training(fold))
        ideal = len(positives(cohort, everyone)) / count
        assert abs(len(positives(cohort, held_out)) - ideal) < 1
        assert abs(len(held_out) - len(everyone) / count) < 2


@settings(max_examples=50, deadline=None)
@given(cohorts(), st.integers(0, 10), st.randoms())
def test_folds_depend_on_seed_and_patients_not_on_the_order_of_rows(cohort, seed, random):
    folds = stratified_folds(cohort, 5, seed)
    shuffled = list(cohort.cases)
    random.shuffle(shuffled)
    again = stratified_folds(Cohort(tuple(shuffled), "pni", cohort.path), 5, seed)
    assert [set(part) for part in again.validation] == [set(part) for part in folds.validation]


def many(positive=20, negative=30):
    return Cohort(tuple(Case(f"c{index}", Path("i"), None, int(index < positive), f"p{index}")
                        for index in range(positive + negative)), "pni", Path("cases.csv"))


def test_another_seed_is_another_split():
    cohort = many()
    assert stratified_folds(cohort, seed=0) == stratified_folds(cohort, seed=0)
    assert stratified_folds(cohort, seed=0).validation != stratified_folds(cohort, seed=1).validation
    assert inner_split(cohort, seed=0) == inner_split(cohort, seed=0) != inner_split(cohort, seed=1)


@settings(max_examples=100, deadline=None)
@given(cohorts(), st.floats(0.01, 0.99), st.integers(0, 10))
def test_the_inner_split_keeps_patients_together_and_both_classes_on_both_sides(cohort, fraction, seed):
    train, stop = inner_split(cohort, fraction, seed)
    assert sorted(case.case_id for case in train + stop) == sorted(case.case_id for case in cohort)
    inside, aside = {case.patient_id for case in train}, {case.patient_id for case in stop}
    assert not inside & aside
    for group in (inside, aside):
        assert 0 < len(positives(cohort, group)) < len(group)
    all_positive = positives(cohort, inside | aside)
    assert abs(len(positives(cohort, aside)) - fraction * len(all_positive)) <= 1


def test_a_patient_with_both_outcomes_counts_as_positive():
    rows = [("a", 0), ("a", 1), ("b", 1), ("c", 0), ("d", 0)]
    cohort = Cohort(tuple(Case(f"c{index}", Path("i"), None, outcome, patient)
                          for index, (patient, outcome) in enumerate(rows)), "pni", Path("cases.csv"))
    folds = stratified_folds(cohort, 2)
    assert all(len(patients_of(cohort, part) & {"a", "b"}) == 1 for part in folds.validation)


def test_too_few_patients():
    few = many(positive=4)
    assert code_of(stratified_folds, few, 5) == "TOO_FEW_CASES"
    one_patient = Cohort(tuple(Case(f"c{index}", Path("i"), None, int(index < 8), "p" if index < 8 else f"q{index}")
                               for index in range(20)), "pni", Path("cases.csv"))
    assert code_of(stratified_folds, one_patient, 2) == "TOO_FEW_CASES"
    assert code_of(inner_split, one_patient) == "TOO_FEW_CASES"
    assert code_of(stratified_folds, few, 1) == "BAD_ARGUMENT"
    assert code_of(inner_split, few, 1.0) == "BAD_ARGUMENT"
    unknown = Cohort((*few.cases, Case("x", Path("i"), None, None, "x")), "pni", Path("cases.csv"))
    assert code_of(stratified_folds, unknown, 2) == "NO_OUTCOME"
    assert code_of(inner_split, unknown) == "NO_OUTCOME"


def test_folds_come_back_from_disk(tmp_path):
    cohort = many()
    folds = stratified_folds(cohort, seed=3)
    folds.write(tmp_path / "run" / "folds.json")
    assert Folds.read(tmp_path / "run" / "folds.json", cohort) == folds
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["folds.json"]


def test_folds_of_another_cohort_are_refused(tmp_path):
    cohort = many()
    folds = stratified_folds(cohort)
    path = tmp_path / "folds.json"
    folds.write(path)
    fewer = Cohort(cohort.cases[1:], "pni", cohort.path)
    assert code_of(Folds.read, path, fewer) == "FOLDS_MISMATCH"
    assert code_of(Folds.read, path, many(21)) == "FOLDS_MISMATCH"
    first, second = folds.validation[0][0], folds.validation[1][0]
    related = Cohort(tuple(Case(case.case_id, case.image, None, case.outcome,
                                "one" if case.case_id in (first, second) else case.patient_id) for case in cohort),
                     "pni", cohort.path)
    assert code_of(Folds.read, path, related) == "FOLDS_MISMATCH"
    Folds(0, "pni", (folds.validation[0], *folds.validation)).write(path)
    assert code_of(Folds.read, path, cohort) == "FOLDS_MISMATCH"
    assert code_of(Folds.read, tmp_path / "none.json", cohort) == "FOLDS_NOT_FOUND"
    for text in ("[]", "{", '{"format": 99}', '{"format": 1, "seed": 0}'):
        path.write_text(text)
        assert code_of(Folds.read, path, cohort) == "BAD_FOLDS"


def test_a_split_of_the_manifest_serves_the_cases_that_quality_control_keeps():
    cohort = many()
    kept = Cohort(cohort.cases[2:-2], "pni", cohort.path)
    folds = stratified_folds(cohort)
    restricted = folds.restrict(kept)
    assert {case_id for part in restricted.validation for case_id in part} == {case.case_id for case in kept}
    for before, after in zip(folds.validation, restricted.validation, strict=True):
        assert set(after) <= set(before)
