"""The simulated cohort: anatomy that holds together, a signal that is real, a mask that does not tell."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt, label
from sklearn.metrics import roc_auc_score

from neonet_core.errors import NeoNetError
from neonet_core.phantom import (
    SIZES,
    PhantomCase,
    draw_severity,
    simulate_case,
    visibility,
    write_cohort,
)
from neonet_core.phantom_anatomy import Anatomy, Ellipsoid, Tube, Tumour
from neonet_core.volume import read_volume, same_grid


@pytest.fixture(scope="module")
def cases() -> list[PhantomCase]:
    """40 small cases, every second one positive."""
    return [simulate_case(index % 2, (17, index)) for index in range(40)]


def shell(case: PhantomCase, near: float, far: float) -> np.ndarray:
    """Liver voxels from `near` to `far` mm outside the tumour."""
    labels = case.label_map.array
    distance = distance_transform_edt(labels != 2, sampling=case.label_map.spacing)
    return (labels == 1) & (distance > near) & (distance <= far)


def test_equal_seeds_give_equal_cases_and_other_seeds_others(cases):
    again = simulate_case(1, (17, 1))
    assert np.array_equal(again.image.array, cases[1].image.array)
    assert again.parameters == cases[1].parameters
    assert not np.array_equal(cases[1].label_map.array, cases[3].label_map.array)


def test_image_and_label_map_share_a_grid_centred_on_the_body(cases):
    case = cases[0]
    shape, spacing = SIZES["small"]
    assert case.image.array.shape == case.label_map.array.shape == shape
    assert case.image.array.dtype == np.int16 and case.label_map.array.dtype == np.uint8
    assert same_grid(case.image, case.label_map)
    assert np.allclose(case.image.spacing, spacing)
    middle = case.image.affine @ [*((np.array(shape) - 1) / 2), 1]
    assert np.allclose(middle[:3], 0)


def test_label_map_is_one_liver_with_one_tumour_wholly_inside(cases):
    for case in cases:
        labels = case.label_map.array
        assert set(np.unique(labels)) == {0, 1, 2}
        assert label(labels == 2)[1] == 1
        pieces = np.bincount(label(labels > 0)[0].ravel())[1:]
        assert pieces.max() > 0.999 * pieces.sum()
        to_outside = distance_transform_edt(labels > 0, sampling=case.label_map.spacing)
        assert to_outside[labels == 2].min() >= min(case.label_map.spacing)  # never on the liver's surface


def test_sizes_are_those_of_patients(cases):
    for case in cases:
        truth = case.parameters
        assert 18 < truth.tumour_diameter_mm < 58
        assert 1000 < truth.liver_volume_ml < 2800
        assert truth.tumour_volume_ml < 0.7 * truth.liver_volume_ml
        assert truth.tumour_centre[0] > -60  # RAS: the liver lies on the patient's right


def test_liver_touches_no_border_of_the_field_of_view(cases):
    for case in cases:
        inside = case.label_map.array[1:-1, 1:-1, 1:-1]
        assert np.count_nonzero(inside) == np.count_nonzero(case.label_map.array)


def test_hepatobiliary_contrast_is_duct_over_liver_over_tumour_and_surroundings(cases):
    for case in cases:
        image, labels = case.image.array.astype(float), case.label_map.array
        liver = np.median(image[labels == 1])
        assert 400 < liver < 1200
        assert np.percentile(image[shell(case, 10, 400)], 99.8) > 1.2 * liver  # ducts
        assert np.median(image[labels == 2]) < 0.62 * liver
        gap = distance_transform_edt(labels == 0, sampling=case.image.spacing)
        beside = (gap > 4) & (gap < 15)
        assert np.median(image[beside]) < 0.6 * liver


def test_label_map_and_everything_measured_on_it_is_the_same_with_and_without_pni():
    for index in range(6):
        without, with_pni = simulate_case(0, (5, index)), simulate_case(1, (5, index))
        assert np.array_equal(without.label_map.array, with_pni.label_map.array)
        assert not np.array_equal(without.image.array, with_pni.image.array)
        assert with_pni.parameters.severity > without.parameters.severity


def test_mask_does_not_separate_the_classes_of_a_cohort(cases):
    outcome = [case.parameters.pni for case in cases]
    assert outcome.count(1) == 20
    # With the mask exactly independent of the label, 20 + 20 cases leave chance alone: within 3 standard errors.
    for name in ("tumour_volume_ml", "liver_volume_ml", "tumour_diameter_mm"):
        auc = roc_auc_score(outcome, [getattr(case.parameters, name) for case in cases])
        assert 0.5 - 0.28 < auc < 0.5 + 0.28


@pytest.mark.parametrize(("strength", "auc"), [(1.0, 0.95), (0.0, 0.5)])
def test_oracle_reaches_the_auc_the_strength_promises(strength, auc):
    outcome = np.arange(8000) % 2
    severity = [draw_severity(int(pni), (3, index), strength) for index, pni in enumerate(outcome)]
    assert roc_auc_score(outcome, severity) == pytest.approx(auc, abs=0.02)


def test_severity_of_a_case_is_that_of_the_cheap_draw(cases):
    assert cases[7].parameters.severity == draw_severity(1, (17, 7))


def test_signs_show_more_with_severity():
    shown = [visibility(s) for s in np.linspace(-4, 6, 50)]
    assert np.all(np.diff(shown) > 0)
    assert shown[0] < 0.01 and shown[-1] > 0.99


def test_liver_next_to_the_tumour_darkens_and_roughens_with_severity(cases):
    severity = [case.parameters.severity for case in cases]
    near = [case.image.array[shell(case, 0, 8)] / np.median(case.image.array[shell(case, 25, 400)]) for case in cases]
    assert np.corrcoef(severity, [values.mean() for values in near])[0, 1] < -0.5
    # the quartiles, beyond the voxels that share the border: vessels and ducts, in every case, make the extremes
    rim = [case.image.array[shell(case, 3, 8)] / np.median(case.image.array[shell(case, 25, 400)]) for case in cases]
    assert np.corrcoef(severity, [np.subtract(*np.percentile(values, (75, 25))) for values in rim])[0, 1] > 0.5


def test_cords_reach_beyond_the_rim_in_severe_cases_only():
    def dark(case: PhantomCase) -> float:
        image = case.image.array
        return float(np.mean(image[shell(case, 10, 25)] < 0.68 * np.median(image[shell(case, 25, 400)])))

    # the same patient without and with PNI: vessels, dark too, are the same
    pairs = [[simulate_case(pni, (9, seed), size="small") for pni in (0, 1)] for seed in range(20)]
    more = [dark(severe) / dark(mild) for mild, severe in pairs
            if severe.parameters.visible - mild.parameters.visible > 0.5]
    assert len(more) >= 8 and min(more) > 1 and np.median(more) > 1.4


def test_small_and_full_size_show_the_same_patient():
    small, full = simulate_case(1, 23, "small"), simulate_case(1, 23, "full")
    assert full.image.array.shape == (240, 240, 100)
    assert np.allclose(small.parameters.tumour_centre, full.parameters.tumour_centre, atol=3)
    assert small.parameters.tumour_volume_ml == pytest.approx(full.parameters.tumour_volume_ml, rel=0.1)
    assert small.parameters.severity == full.parameters.severity
    binned = full.image.array.reshape(120, 2, 120, 2, 50, 2).mean((1, 3, 5))
    assert np.corrcoef(binned.ravel(), small.image.array.ravel())[0, 1] > 0.97


def test_cohort_is_a_manifest_with_as_many_positives_as_asked(tmp_path):
    manifest = write_cohort(tmp_path / "cohort", cases=5, positives=2, seed=4, size="small")
    assert manifest == tmp_path / "cohort" / "cases.csv"
    rows = read_rows(manifest)
    assert list(rows[0]) == ["case_id", "image", "label_map", "pni"]
    assert sum(int(row["pni"]) for row in rows) == 2
    hidden = {row["case_id"]: row for row in read_rows(manifest.with_name("hidden.csv"))}
    for row in rows:
        image, labels = (read_volume(manifest.parent / row[name]) for name in ("image", "label_map"))
        assert same_grid(image, labels)
        assert hidden[row["case_id"]]["pni"] == row["pni"]
        assert float(hidden[row["case_id"]]["tumour_volume_ml"]) > 0


def test_interrupted_cohort_goes_on_and_is_the_same(tmp_path):
    whole = write_cohort(tmp_path / "whole", cases=3, positives=1, seed=8, size="small")
    resumed = write_cohort(tmp_path / "resumed", cases=3, positives=1, seed=8, size="small")
    kept = resumed.parent / "images" / "phantom-0000.nii.gz"
    os.utime(kept, (1, 1))
    for lost in ("cases.csv", "images/phantom-0002.nii.gz", "labels/phantom-0001.nii.gz"):
        (resumed.parent / lost).unlink()
    write_cohort(resumed.parent, cases=3, positives=1, seed=8, size="small")
    assert kept.stat().st_mtime == 1  # not written again
    assert resumed.read_bytes() == whole.read_bytes()
    assert resumed.with_name("hidden.csv").read_bytes() == whole.with_name("hidden.csv").read_bytes()
    for row in read_rows(whole):
        for name in ("image", "label_map"):
            a, b = (read_volume(manifest.parent / row[name]) for manifest in (whole, resumed))
            assert np.array_equal(a.array, b.array)
    assert not [path for path in resumed.parent.rglob("*") if "partial" in path.name]


def test_folder_of_another_cohort_is_left_alone(tmp_path):
    write_cohort(tmp_path / "a", cases=1, positives=0, size="small")
    with pytest.raises(NeoNetError) as caught:
        write_cohort(tmp_path / "a", cases=1, positives=1, size="small")
    assert caught.value.code == "OTHER_COHORT"
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "cases.csv").write_text("case_id,image,label_map,pni\n", encoding="utf-8")
    with pytest.raises(NeoNetError) as caught:
        write_cohort(tmp_path / "real", cases=1, positives=1, size="small")
    assert caught.value.code == "OTHER_COHORT"


@pytest.mark.parametrize("wrong", [
    {"cases": 0, "positives": 0}, {"cases": 3, "positives": 4}, {"cases": 3, "positives": -1}, {"size": "huge"},
    {"strength": -0.1}, {"strength": float("nan")}, {"seed": -1},
])
def test_wrong_arguments_are_said_before_anything_is_written(tmp_path, wrong):
    with pytest.raises(NeoNetError) as caught:
        write_cohort(tmp_path / "cohort", **wrong)
    assert caught.value.code == "BAD_ARGUMENT"
    assert caught.value.hint
    assert not (tmp_path / "cohort").exists()


def test_wrong_arguments_of_a_case():
    for wrong in ({"pni": 2, "seed": 0}, {"pni": 0, "seed": 0, "size": "tiny"}, {"pni": 0, "seed": (1, -2)}):
        with pytest.raises(NeoNetError) as caught:
            simulate_case(**wrong)
        assert caught.value.code == "BAD_ARGUMENT"


def test_ellipsoid_distance_is_zero_on_its_surface_and_about_a_millimetre_per_millimetre():
    shape = Ellipsoid((5, -3, 8), (30, 20, 40), (0, 0, 90))  # turned by 90 degrees: x and y radii change places
    at = np.array([[25, -3, 8], [26, -3, 8], [24, -3, 8], [5, 27, 8]], np.float32)
    assert shape.distance(*at.T) == pytest.approx([0, 1, -1, 0], abs=0.05)


def test_sheaths_leave_the_tumour_in_every_case():
    for index in range(10):
        rng = np.random.default_rng(index)
        tumour = Tumour.draw(rng, Anatomy.draw(rng))
        assert len(tumour.sheaths) >= 4
        for course in tumour.sheaths:
            reach = np.linalg.norm(course - tumour.centre, axis=1)
            assert reach[0] < tumour.radius < reach[-1]


def test_tube_passes_through_its_nodes():
    tube = Tube.through([(0, 0, 0), (10, 5, 0), (20, 0, 0)], 3, 1, step=1)
    assert np.allclose(tube.points[[0, -1]], [(0, 0, 0), (20, 0, 0)])
    assert np.min(np.linalg.norm(tube.points - (10, 5, 0), axis=1)) < 0.6
    assert tube.radii[0] == 3 and tube.radii[-1] == 1


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))
