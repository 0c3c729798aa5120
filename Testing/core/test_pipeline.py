"""One case from image to score: geometry, the user's own label map, flags, files."""

import json
import shutil
from itertools import permutations, product

import numpy as np
import pytest

from neonet_core.bundle import ModelCard, load_bundle
from neonet_core.errors import NeoNetError
from neonet_core.experiment.export import export_bundle
from neonet_core.experiment.run import Run
from neonet_core.phantom import simulate_case
from neonet_core.pipeline import cut_patch, predict_case, write_case
from neonet_core.preprocessing import prepare_label_map
from neonet_core.presets import CropSettings
from neonet_core.tlcr import tlcr
from neonet_core.training.files import read_json, write_json
from neonet_core.volume import Volume, read_volume, resample_like, same_grid, to_canonical

DEMO_SPACING = load_bundle("demo").record.members[0].crop_spacing
SETTINGS = CropSettings(size=(48, 48, 24), component="largest")


@pytest.fixture(scope="module")
def phantom():
    return simulate_case(1, 11, size="small")


@pytest.fixture(scope="module")
def tiny_bundle(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline") / "tiny"
    return export_bundle(tiny_run, folder, name="tiny",
                         card=ModelCard(intended_use="tests", training_data="phantoms", limits="all"))


def reoriented(volume, order, flips):
    """The same image, stored along other axes: the world position of every voxel stays."""
    array, affine = volume.array.transpose(order), volume.affine[:, [*order, 3]].copy()
    for axis, flip in enumerate(flips):
        if flip:
            array = np.flip(array, axis)
            affine[:3, 3] += affine[:3, axis] * (array.shape[axis] - 1)
            affine[:3, axis] *= -1
    return Volume(np.ascontiguousarray(array), affine)


ORIENTATIONS = list(product(permutations(range(3)), product((False, True), repeat=3)))


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS[::5])
def test_the_patch_does_not_depend_on_the_stored_orientation(phantom, order, flips):
    expected = cut_patch(phantom.image, phantom.label_map, SETTINGS)
    found = cut_patch(reoriented(phantom.image, order, flips), reoriented(phantom.label_map, order, flips), SETTINGS)
    np.testing.assert_array_equal(found.image.array, expected.image.array)
    np.testing.assert_array_equal(found.masks, expected.masks)
    np.testing.assert_allclose(found.image.affine, expected.image.affine, atol=1e-6)


def test_the_patch_shows_what_lies_there_in_world_space(phantom):
    patch = cut_patch(phantom.image, phantom.label_map, SETTINGS)
    labels = resample_like(phantom.label_map, patch.image, order=0).array
    np.testing.assert_array_equal(patch.masks[1], labels == 2)
    np.testing.assert_array_equal(patch.masks[0], labels > 0)


def test_channels_are_those_of_algorithm_1(phantom):
    patch = cut_patch(phantom.image, phantom.label_map, SETTINGS)
    image, labels = patch.grid.array, to_canonical(phantom.label_map).array
    t1, t2, _ = tlcr(image, labels, SETTINGS.size, component="largest")
    np.testing.assert_array_equal(patch.channels[0], t1)
    np.testing.assert_array_equal(patch.channels[1], t2)


def test_crop_center_is_given_in_world_space_and_found_again(phantom):
    patch = cut_patch(phantom.image, phantom.label_map, SETTINGS)
    center = patch.describe()["center_ras_mm"]
    again = cut_patch(phantom.image, phantom.label_map, SETTINGS, crop_center=tuple(center))
    assert again.crop.start == patch.crop.start
    moved = cut_patch(phantom.image, phantom.label_map, SETTINGS, crop_center=(center[0] - 6, center[1], center[2]))
    step = round(6 / phantom.image.spacing[0])
    assert moved.crop.start == (patch.crop.start[0] - step, *patch.crop.start[1:])


def test_the_users_label_map_always_replaces_ours(phantom, tiny_bundle):
    result = predict_case(phantom.image, label_map=phantom.label_map, bundle=tiny_bundle)
    np.testing.assert_array_equal(result.label_map.array, phantom.label_map.array)
    assert result.label_source == "given by the user"
    assert len(result.score.members) == len(tiny_bundle.record.members)
    assert result.score.probability == pytest.approx(np.mean(result.score.members))


@pytest.mark.parametrize(("order", "flips"), [((2, 0, 1), (True, False, True)), ((1, 0, 2), (False, True, False))])
def test_outputs_lie_on_the_inputs_grid_and_the_score_does_not_depend_on_it(phantom, tiny_bundle, order, flips):
    expected = predict_case(phantom.image, label_map=phantom.label_map, bundle=tiny_bundle)
    image = reoriented(phantom.image, order, flips)
    found = predict_case(image, label_map=reoriented(phantom.label_map, order, flips), bundle=tiny_bundle)
    assert found.score.members == pytest.approx(expected.score.members, abs=1e-6)
    assert found.score.attention.shape == image.shape
    np.testing.assert_allclose(found.score.attention.affine, image.affine)
    np.testing.assert_allclose(found.score.attention.array,
                               reoriented(expected.score.attention, order, flips).array, atol=1e-5)
    segmented = predict_case(image, bundle=tiny_bundle).label_map
    assert same_grid(segmented, image) and segmented.shape == image.shape


def test_attention_is_zero_outside_the_crop(phantom, tiny_bundle):
    result = predict_case(phantom.image, label_map=phantom.label_map, bundle=tiny_bundle)
    attention = to_canonical(result.score.attention).array
    outside = np.ones(attention.shape, bool)
    outside[result.patch.crop.inside] = False
    assert attention.max() <= 1 and attention[~outside].mean() > 0
    assert not attention[outside].any()


def test_no_tumour_is_a_flag_in_predict_and_an_error_in_classify(phantom, tiny_bundle, tmp_path):
    healthy = Volume(np.minimum(phantom.label_map.array, 1), phantom.label_map.affine)
    result = predict_case(phantom.image, label_map=healthy, bundle=tiny_bundle)
    assert result.score is None and "NO_TUMOUR" in {flag.code for flag in result.flags}
    write_case(result, tmp_path)
    content = json.loads((tmp_path / "score.json").read_text())
    assert content["probability"] is None and (tmp_path / "label_map.nii.gz").is_file()
    assert not (tmp_path / "attention.nii.gz").exists()
    with pytest.raises(NeoNetError) as caught:
        predict_case(phantom.image, label_map=healthy, bundle=tiny_bundle, need_score=True)
    assert caught.value.code == "EMPTY_TUMOUR"


def test_a_label_map_on_another_grid_is_refused(phantom, tiny_bundle):
    shifted = phantom.label_map.affine.copy()
    shifted[0, 3] += 5
    with pytest.raises(NeoNetError) as caught:
        predict_case(phantom.image, label_map=Volume(phantom.label_map.array, shifted), bundle=tiny_bundle)
    assert caught.value.code == "GRID_MISMATCH"


def flags_of(image, label_map, bundle):
    return {flag.code for flag in predict_case(image, label_map=label_map, bundle=bundle).flags}


def test_flags_say_what_is_out_of_scope(phantom, tiny_bundle):
    image, label_map = phantom.image, phantom.label_map
    assert not flags_of(image, label_map, tiny_bundle) - {"TUMOUR_LARGER_THAN_CROP"}
    hounsfield = Volume(image.array.astype(np.float32) - 1000, image.affine)
    assert "WRONG_MODALITY" in flags_of(hounsfield, label_map, tiny_bundle)
    shrunk = image.affine @ np.diag([0.3, 0.3, 0.3, 1])
    assert {"SPACING_FAR", "WRONG_BODY_PART"} <= flags_of(Volume(image.array, shrunk), Volume(label_map.array, shrunk),
                                                          tiny_bundle)
    inverted = Volume(image.array.max() - image.array, image.affine)
    assert "INTENSITIES_FAR" in flags_of(inverted, label_map, tiny_bundle)
    swallowed = Volume(np.where(label_map.array > 0, 2, 0).astype(np.uint8), image.affine)
    swallowed.array[60, 60, 25] = 1
    assert {"TUMOUR_SHARE", "TUMOUR_LARGER_THAN_CROP"} <= flags_of(image, swallowed, tiny_bundle)


def test_the_demo_bundle_flags_every_output(phantom, tmp_path):
    result = predict_case(phantom.image, label_map=phantom.label_map, bundle="demo")
    report = write_case(result, tmp_path)
    assert result.flags[0].code == "DEMO_MODEL"
    assert "DEMO_MODEL" in report.read_text(encoding="utf-8")
    content = json.loads((tmp_path / "score.json").read_text())
    assert content["flags"][0]["code"] == "DEMO_MODEL" and "simulated" in content["notice"]


def test_written_files_say_the_same_as_the_result(phantom, tiny_bundle, tmp_path):
    result = predict_case(phantom.image, label_map=phantom.label_map, bundle=tiny_bundle, case="case-7")
    write_case(result, tmp_path)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()) == [
        "attention.nii.gz", "crop/crop.json", "crop/image.nii.gz", "crop/mask.nii.gz", "crop/t1.nii.gz",
        "crop/t2.nii.gz", "figure.png", "label_map.nii.gz", "report.html", "score.json"]
    content = json.loads((tmp_path / "score.json").read_text())
    assert content["probability"] == result.score.probability
    assert content["bundle"] == {"name": "tiny", "version": "1.0", "hash": tiny_bundle.hash}
    mask = read_volume(tmp_path / "crop" / "mask.nii.gz")
    np.testing.assert_array_equal(mask.array, result.patch.masks.sum(axis=0))
    t1 = read_volume(tmp_path / "crop" / "t1.nii.gz")
    np.testing.assert_allclose(t1.array, result.patch.channels[0], atol=1e-6)
    np.testing.assert_allclose(t1.affine, result.patch.image.affine, atol=1e-4)


def test_a_bundle_without_pni_model_still_gives_label_map_and_crop(tiny_run, phantom, tmp_path):
    shutil.copytree(tiny_run.folder, tmp_path / "run")
    for fold in (0, 1):
        for stage in ("vae", "cls-pattennet"):
            (tmp_path / "run" / f"fold-{fold}" / stage / "done.json").unlink()
    bundle = export_bundle(Run(tmp_path / "run"), tmp_path / "seg-only", name="seg-only",
                           card=ModelCard(intended_use="tests", training_data="phantoms", limits="all"))
    result = predict_case(phantom.image, label_map=phantom.label_map, bundle=bundle)
    assert result.score is None and result.patch is not None
    assert bundle.record.members[0].crop_spacing == pytest.approx(tiny_run.parts(0)["spacing"]["crop"])
    assert "NO_PNI_MODEL" in {flag.code for flag in result.flags}
    with pytest.raises(NeoNetError) as caught:
        predict_case(phantom.image, label_map=phantom.label_map, bundle=bundle, need_score=True)
    assert caught.value.code == "NO_PNI_MODEL"


def test_a_tumour_that_is_lost_on_the_models_grid_costs_the_score_alone(phantom):
    """A voxel of 0.9 mm, on the demonstration model's grid of 1.5 mm and more."""
    affine = phantom.image.affine @ np.diag([0.3, 0.3, 0.3, 1])
    liver = np.minimum(phantom.label_map.array, 1)

    def with_tumour(place):
        array = liver.copy()
        array[tuple(place)] = 2
        return Volume(array, affine)

    label_map = next(label_map for label_map in map(with_tumour, np.argwhere(liver == 1)[::997])
                     if not (prepare_label_map(label_map, DEMO_SPACING).array == 2).any())
    image = Volume(phantom.image.array, affine)
    result = predict_case(image, label_map=label_map, bundle="demo")
    assert result.score is None and result.patch is None and result.measurements.tumour_ml > 0
    assert "smaller than a voxel" in next(flag.message for flag in result.flags if flag.code == "NO_TUMOUR")
    with pytest.raises(NeoNetError) as caught:
        predict_case(image, label_map=label_map, bundle="demo", need_score=True)
    assert caught.value.code == "EMPTY_TUMOUR"


def test_a_model_of_masks_alone_does_not_see_the_image(phantom, tiny_bundle, tmp_path):
    shutil.copytree(tiny_bundle.folder, tmp_path / "masks")
    record = read_json(tmp_path / "masks" / "bundle.json")
    record["preset"]["cls"]["inputs"] = "masks"
    write_json(tmp_path / "masks" / "bundle.json", record)
    other = Volume(np.sqrt(phantom.image.array.astype(np.float32))[::-1], phantom.image.affine)
    for bundle, equal in ((load_bundle(tmp_path / "masks"), True), (tiny_bundle, False)):
        scores = [predict_case(image, label_map=phantom.label_map, bundle=bundle).score.members
                  for image in (phantom.image, other)]
        assert (scores[0] == scores[1]) == equal


def test_same_case_same_score(phantom, tiny_bundle):
    first = predict_case(phantom.image, bundle=tiny_bundle)
    second = predict_case(phantom.image, bundle=load_bundle(tiny_bundle.folder))
    np.testing.assert_array_equal(first.label_map.array, second.label_map.array)
    if first.score is not None:
        assert first.score.members == second.score.members
