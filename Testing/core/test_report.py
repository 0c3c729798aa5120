"""The report of a case: what must stand in it, what must not, and pictures that do not depend on the file's axes."""

import re
import tempfile
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest

from neonet_core.bundle import (
    DEMO_WARNING,
    RESEARCH_USE_ONLY,
    Bundle,
    BundleRecord,
    Member,
    ModelCard,
    OutOfFoldScore,
)
from neonet_core.figures import (
    PLANE_PIXELS,
    PLANES,
    TILE_PIXELS,
    Slice,
    attention_colours,
    attention_range,
    case_figure,
    orthogonal_slices,
    patch_slices,
    png,
    slice_figure,
    tilt_degrees,
)
from neonet_core.flags import Flag
from neonet_core.measurements import measure
from neonet_core.phantom import simulate_case
from neonet_core.pipeline import CaseResult, Score, cut_patch
from neonet_core.presets import load_preset
from neonet_core.report import case_html, metric_rows, write_case_report
from neonet_core.volume import Volume

HOME = tempfile.TemporaryDirectory()  # where the bundles of these tests lie
MEMBERS = (0.71, 0.64, 0.78)
ALL_FLAGS = ("DEMO_MODEL", "NO_TUMOUR", "NO_PNI_MODEL", "WRONG_MODALITY", "WRONG_BODY_PART", "SPACING_FAR",
             "INTENSITIES_FAR", "TUMOUR_LARGER_THAN_CROP", "TUMOUR_SHARE")


def make_bundle(outcome="pni", demo=False, scores=60):
    rng = np.random.default_rng(0)
    truth = np.arange(scores) < scores // 3
    card = ModelCard(intended_use="Tests.", training_data="None.", limits="All.", only_phantoms=demo)
    record = BundleRecord(
        name="liver-a", version="1.2", neonet="0.1", outcome=outcome, preset=load_preset("smoke"), card=card,
        members=tuple(Member(fold=fold) for fold in range(3)), hashes={}, threshold=0.46,
        out_of_fold=tuple(OutOfFoldScore(outcome=int(y), score=float(s))
                          for y, s in zip(truth, rng.random(scores), strict=True)),
        metrics={"protocol": "rigorous",
                 "auc_out_of_fold": {"value": 0.861, "cases": 60, "positives": 20, "delong_95": [0.79, 0.912],
                                     "bootstrap_95": [0.8, 0.9]},
                 "dice_liver": {"mean": 0.962, "by_fold": [0.96, 0.964]}})
    folder = Path(tempfile.mkdtemp(prefix=f"secret-{outcome}-", dir=HOME.name))
    (folder / "bundle.json").write_text(record.model_dump_json())
    return Bundle(folder, record)


def blob(image, patch):
    """A smooth map that is highest beside the tumour and zero outside the crop, as the pipeline gives it."""
    to_grid = np.linalg.inv(patch.grid.affine) @ image.affine
    index = np.stack(np.meshgrid(*map(np.arange, image.shape), indexing="ij"), axis=-1)
    at = index @ to_grid[:3, :3].T + to_grid[:3, 3]
    start, size = np.array(patch.crop.start), np.array(patch.crop.size)
    inside = ((at > start - 0.5) & (at < start + size - 0.5)).all(axis=-1)
    far = ((at - np.array(patch.crop.center) - (4, 2, 1)) * patch.grid.spacing) ** 2
    return Volume((inside * (0.3 + 0.4 * np.exp(-far.sum(axis=-1) / 1000))).astype(np.float32), image.affine)


def make_result(image, label_map, bundle, flags=(), name="case-1"):
    measured = measure(label_map)
    patch = cut_patch(image, label_map, bundle.record.preset.crop) if measured.tumour_ml else None
    score = None if patch is None else Score(MEMBERS, 0.46, {"all": 0.7, "positive": 0.4, "negative": 0.83},
                                             blob(image, patch))
    return CaseResult(name, image, label_map, "given by the user", bundle, measured, patch, score, tuple(flags),
                      {"measure": 0.04, "classify": 1.25})


@pytest.fixture(scope="module")
def case():
    return simulate_case(1, 3, size="small")


@pytest.fixture(scope="module")
def result(case):
    return make_result(case.image, case.label_map, make_bundle())


@pytest.fixture(scope="module")
def page(result):
    return case_html(result)


def words(page):
    """What a reader sees or hears: text and alternative texts, without pictures and style sheet."""
    page = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]*", "", page)
    return re.sub(r"<style>.*</style>", "", page, flags=re.S)


def without_tumour(case):
    return Volume(np.minimum(case.label_map.array, 1), case.label_map.affine)


# --- what stands in the page ------------------------------------------------------------------------------------------


def test_notice_bundle_and_score_stand_in_the_page(result, page):
    text = words(page)
    assert RESEARCH_USE_ONLY in text and "liver-a" in text and result.bundle.hash in text
    assert "0.71" in text and "± 0.06" in text and all(f"{member:.2f}" in text for member in MEMBERS)
    assert "perineural invasion (PNI)" in text
    assert "83 % of the training cohort’s 40 PNI-negative scores" in text
    assert "operating threshold of 0.46" in text
    assert "0.790 to 0.912" in text and "“rigorous”" in text and "0.960, 0.964" in text
    assert f"{result.measurements.tumour_ml:.1f} ml" in text and "1.25 s" in text


def test_every_flag_stands_in_the_page(result):
    flags = [Flag(code, f"Because of <{code.lower()}>.") for code in ALL_FLAGS]
    text = words(case_html(replace(result, flags=tuple(flags))))
    for flag in flags:
        assert f">{flag.code}<" in text and f"Because of &lt;{flag.code.lower()}&gt;." in text


@pytest.mark.parametrize("scored", [True, False])
def test_a_demonstration_says_so_everywhere_and_nothing_else_does(case, result, page, scored):
    labels = case.label_map if scored else without_tumour(case)
    demo = words(case_html(make_result(case.image, labels, make_bundle(demo=True), [Flag("DEMO_MODEL", DEMO_WARNING)])))
    assert demo.count(DEMO_WARNING) >= 2 and "Demonstration. Not about a patient." in demo
    assert "emonstration score for perineural" in demo
    # Wherever a heading or a caption names the score or the attention, it names the demonstration too.
    for shown in re.findall(r"<(?:h\d|figcaption|title)[^>]*>(.*?)</(?:h\d|figcaption|title)>", demo, flags=re.S):
        if re.search(r"score|attention|report", shown, flags=re.I):
            assert "emonstration" in shown, shown
    assert "demonstration" not in words(page).lower() and "simulated" not in words(page)


def test_without_score_the_flags_say_why_and_the_rest_is_shown(case):
    flags = [Flag("NO_TUMOUR", "No tumour was found, so there is no score.")]
    text = words(case_html(make_result(case.image, without_tumour(case), make_bundle(), flags)))
    assert '<p class="none">No tumour was found' in text and 'class="number"' not in text
    assert "ttention" not in text and "out-of-fold scores" not in text
    assert "Input image" in text and "through the liver’s centre" in text and "Measurements" in text


def test_no_model_shows_the_crop_without_attention(result):
    text = words(case_html(replace(result, score=None, flags=(Flag("NO_PNI_MODEL", "No PNI model."),))))
    assert '<p class="none">No PNI model.' in text and "The crop" in text and "ttention" not in text


def test_another_outcome_is_never_called_pni(case):
    flags = (Flag("SPACING_FAR", "Far."),)
    text = words(case_html(make_result(case.image, case.label_map, make_bundle("r_$tatus"), flags)))
    assert "Score for r_$tatus" in text and "r_$tatus = 0" in text
    assert "pni" not in text.lower() and "perineural" not in text.lower()


def test_one_member_has_no_spread(result):
    text = words(case_html(replace(result, score=replace(result.score, members=(0.998,)))))
    assert "&gt; 0.99" in text and "±" not in text.split("<figcaption>")[0] and "spread is not known" in text


def test_a_bundle_without_figures_has_a_page(result):
    record = result.bundle.record.model_copy(update={"out_of_fold": (), "metrics": {}, "threshold": None})
    score = replace(result.score, threshold=None, share_below={})
    text = words(case_html(replace(result, bundle=replace(result.bundle, record=record), score=score)))
    assert "no out-of-fold scores" in text and "names no operating threshold" in text and "Protocol not named" in text


def test_a_user_cannot_write_html(result):
    text = case_html(replace(result, case="<b>x</b>", label_source='"><script>'))
    assert "<b>x</b>" not in text and "&lt;b&gt;x&lt;/b&gt;" in text and "<script" not in text


def test_the_page_stands_alone_and_names_nobody(result, page, tmp_path):
    sources = re.findall(r"(?:src|href|srcset|action|data)\s*=\s*\"([^\"]{0,20})", page)
    assert sources and all(source.startswith(("data:image/png;base64,"[:20], "#")) for source in sources)
    for forbidden in ("<script", "url(", "@import", "http://", "https://", "<link", HOME.name, "secret",
                      str(Path.cwd())):
        assert forbidden not in page
    assert '<html lang="en">' in page and result.case not in re.search(r"<title>(.*?)</title>", page)[1]
    assert all(alt for alt in re.findall(r"<img [^>]*alt=\"([^\"]*)\"", page))
    assert page.count("<img ") == page.count(" alt=")
    out = write_case_report(result, tmp_path / "deep" / "report.html")
    assert out.read_text(encoding="utf-8") == page == case_html(result)  # equal results give equal pages
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]


def test_a_page_of_pure_noise_stays_below_2_mb(page):
    rng = np.random.default_rng(0)
    size = 0
    for pixels, count, weights in ((PLANE_PIXELS, 3, None), (TILE_PIXELS, 5, None), (TILE_PIXELS, 5, (0, 1))):
        noise = rng.random((pixels, pixels))
        shown = Slice("axial", 0, noise, noise > 2, noise > 2, (1, 1), None, np.sort(noise, axis=0))
        size += count * len(png(slice_figure(shown, (0, 1), pixels, weights)))
    rest = len(page) - sum(map(len, re.findall(r"base64,[A-Za-z0-9+/=]*", page)))
    assert size * 4 / 3 + rest + 100_000 < 2_000_000  # 100 kB for the chart
    assert len(page.encode()) < 2_000_000


def test_metrics_of_any_kind_have_rows():
    rows = metric_rows({"unseen_phantoms": {"small": {"cases": 120, "auc": {"value": 0.91, "delong_95": [0.8, 0.95]},
                                                      "note": "text", "nothing": None, "many": [0.5] * 40}}})
    assert rows == [(0, "unseen phantoms", "", ""), (1, "small", "", "120 cases"),
                    (2, "AUC", "0.910", "95 % interval (DeLong) 0.800 to 0.950"), (2, "note", "text", ""),
                    (2, "nothing", "–", ""), (2, "many", "40 values from 0.500 to 0.500", "")]


# --- pictures ---------------------------------------------------------------------------------------------------------


def stored_as(volume, order, flips, turn=None):
    """The same voxels in the same place, in another order of axes and senses; `turn` moves the patient."""
    to_old = np.zeros((4, 4))
    to_old[3, 3] = 1
    for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
        to_old[old, new] = -1 if flip else 1
        to_old[old, 3] = volume.shape[old] - 1 if flip else 0
    array = volume.array.transpose(order)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    return Volume(array, (np.eye(4) if turn is None else turn) @ volume.affine @ to_old)


def assert_same(slices, others):
    assert [one.name for one in slices] == [other.name for other in others]
    for one, other in zip(slices, others, strict=True):
        for name in ("image", "liver", "tumour", "attention"):
            left, right = getattr(one, name), getattr(other, name)
            assert left is right is None or np.allclose(left, right, atol=1e-6), (one.name, name)
        assert np.allclose(one.pixel_mm, other.pixel_mm)
        assert one.box_mm is other.box_mm is None or np.allclose(one.box_mm, other.box_mm, atol=1e-6)


def test_slices_do_not_depend_on_how_the_file_is_stored(case, result):
    planes = orthogonal_slices(case.image, case.label_map, result.patch)
    for order, flips in product(permutations(range(3)), product((False, True), repeat=3)):
        image, labels = stored_as(case.image, order, flips), stored_as(case.label_map, order, flips)
        assert_same(planes, orthogonal_slices(image, labels, result.patch))


def test_patch_and_attention_of_an_oblique_left_handed_file_look_the_same(case, result):
    angle = np.radians(20)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    image, labels = (stored_as(one, (2, 0, 1), (False, True, False), turn) for one in (case.image, case.label_map))
    assert np.linalg.det(image.affine[:3, :3]) < 0 and tilt_degrees(image) == pytest.approx(20)
    oblique = make_result(image, labels, make_bundle())
    assert_same(patch_slices(result.patch, result.score.attention),
                patch_slices(oblique.patch, oblique.score.attention))
    assert "tilted by up to 20°" in words(case_html(oblique))


def test_radiological_convention():
    array = np.zeros((6, 7, 8))
    array[5, 6, 7] = 1  # right, anterior, superior
    array[0, 0, 0] = 2  # left, posterior, inferior
    mip = {plane: array.max(axis=axis)[::-1, ::-1].T for plane, (axis, _) in PLANES.items()}
    for plane in orthogonal_slices(Volume(array, np.diag([1, 2, 3, 1])), Volume(np.zeros((6, 7, 8), np.uint8),
                                                                              np.diag([1, 2, 3, 1])), None):
        assert plane.image.shape == mip[plane.plane].shape
        assert mip[plane.plane][0, 0] == 1 and mip[plane.plane][-1, -1] == 2
    # One voxel of tumour, right-anterior-superior of the liver's only other voxel, lies up and left of it.
    labels = np.zeros((6, 7, 8), np.uint8)
    labels[4, 4, 4], labels[4, 4, 3], labels[3, 4, 4], labels[4, 3, 4] = 2, 1, 1, 1
    axial, coronal, sagittal = orthogonal_slices(Volume(array, np.eye(4)), Volume(labels, np.eye(4)), None)
    for plane in (axial, coronal, sagittal):
        (row, column), liver = np.argwhere(plane.tumour)[0], plane.liver & ~plane.tumour
        assert liver[row + 1, column] and liver[row, column + 1] and liver.sum() == 2
    assert axial.name == "axial, S 4 mm" and sagittal.name == "sagittal, R 4 mm"


def test_planes_cut_the_tumour_and_the_box_is_the_crop(case, result):
    patch = result.patch
    for plane in orthogonal_slices(case.image, case.label_map, patch):
        axis = PLANES[plane.plane][0]
        area = plane.tumour.sum()
        assert area == (case.label_map.array == 2).sum(axis=tuple({0, 1, 2} - {axis})).max()
        left, right, top, bottom = plane.box_mm
        rows, columns = np.nonzero(plane.tumour)
        assert left < columns.min() * plane.pixel_mm[0] and (columns.max() + 1) * plane.pixel_mm[0] < right
        assert top < rows.min() * plane.pixel_mm[1] and (rows.max() + 1) * plane.pixel_mm[1] < bottom
        size = [extent * step for k, (extent, step) in enumerate(zip(patch.crop.size, patch.grid.spacing, strict=True))
                if k != axis]
        assert np.allclose([right - left, bottom - top], size)


def test_of_two_tumours_the_one_in_the_crop_is_shown(case):
    labels = case.label_map.array.copy()
    labels[2:14, 2:14, 2:8] = 2  # larger, and far from the first
    two = Volume(labels, case.label_map.affine)
    center = tuple(float(value) for value in case.parameters.tumour_centre)
    patch = cut_patch(case.image, two, load_preset("smoke").crop, tumour_at=center)
    for plane, other in zip(orthogonal_slices(case.image, two, patch),
                            orthogonal_slices(case.image, case.label_map, patch), strict=True):
        assert plane.name == other.name


def test_attention_is_shown_within_its_own_range(result):
    low, high = attention_range(result.score.attention)
    assert 0.29 < low < high <= 0.7
    opacity = attention_colours(np.array([0, low, (low + high) / 2, high]), (low, high))[:, 3]
    assert opacity[0] == opacity[1] == 0 < opacity[2] < opacity[3]
    assert np.isfinite(attention_colours(np.full((2, 2), 0.5), (0.5, 0.5))).all()


def test_patch_slices_run_from_head_to_feet_through_the_tumour(result):
    slices = patch_slices(result.patch, count=3)
    heights = [one.position_mm for one in slices]
    assert heights == sorted(heights, reverse=True) and 1 <= len(slices) <= 3
    assert all(one.tumour.any() for one in slices)


def test_case_figure_is_drawn_without_global_state(result, case):
    import sys

    for one in (result, replace(result, score=None), make_result(case.image, without_tumour(case), make_bundle())):
        assert png(case_figure(one), None).startswith(b"\x89PNG")
    state = sys.modules.get("matplotlib.pyplot")
    assert state is None or not state.get_fignums()
