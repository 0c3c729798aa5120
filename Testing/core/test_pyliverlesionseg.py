"""The published networks: the same numbers as their HDF5 files give, nothing read that is not what it should be, and a
bundle like any other. The package's wheel is that which NEONET_TEST_WHEEL names, or else pip fetches it; offline what
needs it is skipped."""

import json
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from keras_files import CUBE, PLANE, keras_file, layer_shapes, numpy_forward

pytest.importorskip("h5py")

from neonet_core.bundle import load_bundle
from neonet_core.cli import main
from neonet_core.errors import NeoNetError
from neonet_core.evaluation.dice import dice
from neonet_core.home import home
from neonet_core.pipeline import predict_case
from neonet_core.pretrained import keras_weights, pyliverlesionseg, wheel
from neonet_core.pretrained.keras_weights import load_keras_weights
from neonet_core.pretrained.pyliverlesionseg import LESION_FILE, LIVER_FILE, WHEEL, convert, import_bundle, write_bundle
from neonet_core.segmentation.inference import segment
from neonet_core.segmentation.pathway_unet import LESION, LIVER, PathwayUNet
from neonet_core.training.files import sha256_of_file
from neonet_core.volume import Volume, read_volume, same_grid

CPU = torch.device("cpu")
FIRST = 2
"""Channels of the made-up networks' first convolution; 20 in the published ones."""
KINDS = {"liver": (LIVER, (3.0, 3.0, 3.0), {"factor": 3, "padded": True, "residual": False}, (CUBE, CUBE),
                   (81, 54, 54)),
         "lesion": (LESION, (1.0, 1.0, 3.0), {"factor": 2, "padded": False, "residual": True}, (PLANE, CUBE),
                    (100, 92, 54))}
ABDOMEN = Path(__file__).parents[3] / "shared" / "data" / "abdomen_mr"


def code_of(call):
    with pytest.raises(NeoNetError) as caught:
        call()
    return caught.value.code


def made_up(kind, first=FIRST, seed=0):
    _, voxel, rules, deepest, _ = KINDS[kind]
    return keras_file(layer_shapes(first, rules["residual"], deepest), voxel, seed)


@pytest.fixture(scope="session")
def real_wheel(tmp_path_factory):
    given = os.environ.get("NEONET_TEST_WHEEL")
    try:
        path = Path(given) if given else wheel.fetch(WHEEL, tmp_path_factory.mktemp("wheel"))
    except NeoNetError as error:
        pytest.skip(f"{error}")
    wheel.check(WHEEL, path)
    return path


@pytest.fixture
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("NEONET_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def small_bundle(tmp_path_factory):
    """A bundle of made-up weights, in a home of its own."""
    folder = tmp_path_factory.mktemp("home") / "bundles" / "pyliverlesionseg"
    return write_bundle(convert(made_up("liver", 1), made_up("lesion", 1), 1), folder, 1)


# --- the same network --------------------------------------------------------------------------------------------


def assert_same_numbers(kind, content, first, size):
    design, voxel, rules, _, _ = KINDS[kind]
    network = PathwayUNet(design, first)
    load_keras_weights(content, network, voxel)
    image = np.random.default_rng(5).uniform(-0.5, 0.5, size)
    expected = numpy_forward(content, image, **rules)
    for grad in (False, True):  # in place and not
        with torch.set_grad_enabled(grad):
            found = network.eval()(torch.from_numpy(image.astype(np.float32))[None, None])[0, 0].detach().numpy()
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("kind", KINDS)
def test_torch_and_numpy_agree_on_made_up_weights(kind):
    assert_same_numbers(kind, made_up(kind), FIRST, KINDS[kind][4])


@pytest.mark.parametrize("kind", KINDS)
def test_torch_and_numpy_agree_on_the_published_weights(kind, real_wheel):
    content = wheel.read(real_wheel, {"liver": LIVER_FILE, "lesion": LESION_FILE}[kind])
    size = {"liver": (54, 54, 54), "lesion": (92, 92, 54)}[kind]
    assert_same_numbers(kind, content, 20, size)


@pytest.mark.parametrize("design", [LIVER, LESION], ids=["liver", "lesion"])
def test_the_trainings_window_gives_logits_for_its_middle(design):
    with torch.device("meta"):
        network = PathwayUNet(design, 20)
        assert network(torch.empty(1, 1, *design.window)).shape == (1, 1, *design.seen)
    count = sum(weights.numel() for weights in network.parameters())
    assert count == {LIVER: 3_874_961, LESION: 3_464_221}[design]


# --- what is refused ---------------------------------------------------------------------------------------------


def changed(content, change):
    import io

    import h5py

    stream = io.BytesIO(content)
    with h5py.File(stream, "r+") as file:
        change(file)
    return stream.getvalue()


def drop_last(file):
    file.attrs["layer_names"] = [name for name in file.attrs["layer_names"] if not name.endswith("conv3d_15")]


def one_more(file):
    group = file.create_group("conv3d_99")
    group["conv3d_99/kernel:0"], group["conv3d_99/bias:0"] = np.zeros((1, 1, 1, 1, 1)), np.zeros(1)
    group.attrs["weight_names"] = [b"conv3d_99/kernel:0", b"conv3d_99/bias:0"]
    file.attrs["layer_names"] = [*file.attrs["layer_names"], "conv3d_99"]


def other_shape(file):
    del file["conv3d_3/conv3d_3/kernel:0"]
    file["conv3d_3/conv3d_3/kernel:0"] = np.zeros((3, 3, 3, 4, 4))


def not_finite(file):
    file["conv3d_2/conv3d_2/bias:0"][0] = np.nan


def other_grid(file):
    file["header/voxel_size"][0] = 2.0


def no_header(file):
    del file["header"]


@pytest.mark.parametrize("change", [drop_last, one_more, other_shape, not_finite, other_grid, no_header])
def test_weights_that_do_not_fit_are_refused_and_change_nothing(change):
    network = PathwayUNet(LIVER, FIRST)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    content = changed(made_up("liver"), change)
    assert code_of(lambda: load_keras_weights(content, network, (3.0, 3.0, 3.0))) == "WRONG_WEIGHTS"
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_a_file_that_is_no_hdf5_is_refused():
    network = PathwayUNet(LIVER, FIRST)
    assert code_of(lambda: load_keras_weights(b"no hdf5", network, (3.0, 3.0, 3.0))) == "WRONG_WEIGHTS"


def test_without_h5py_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(NeoNetError) as caught:
        load_keras_weights(b"", PathwayUNet(LIVER, FIRST), (3.0, 3.0, 3.0))
    assert caught.value.code == "MISSING_PACKAGE" and "[pretrained]" in caught.value.hint


def test_a_wheel_with_another_hash_is_not_opened(tmp_path, own_home, monkeypatch, capsys):
    path = tmp_path / WHEEL.file
    path.write_bytes(b"not the wheel")
    monkeypatch.setattr(zipfile, "ZipFile", lambda *arguments: pytest.fail("it was opened"))
    assert main(["bundle", "import", "pyliverlesionseg", "--wheel", str(path)]) == 2
    said = capsys.readouterr().err
    assert "[WRONG_HASH]" in said and "pip download" in said and "--wheel" in said
    assert not own_home.exists()


def test_offline_the_command_to_run_elsewhere_is_said(own_home, monkeypatch, capsys):
    # pip fails at once: there is no package index in an empty folder
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    assert main(["bundle", "import", "pyliverlesionseg"]) == 2
    said = capsys.readouterr().err
    assert "[DOWNLOAD_FAILED]" in said and "pip download --no-deps" in said and "--wheel" in said
    assert not own_home.exists()


def test_a_missing_wheel_is_said(own_home, capsys):
    assert main(["bundle", "import", "pyliverlesionseg", "--wheel", "nowhere.whl"]) == 2
    assert "[FILE_NOT_FOUND]" in capsys.readouterr().err


# --- the import --------------------------------------------------------------------------------------------------


@pytest.fixture
def made_up_wheel(tmp_path, monkeypatch):
    """A wheel of the published form with small random networks, whose hash is the one that is expected."""
    path = tmp_path / WHEEL.file
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(LIVER_FILE, made_up("liver", 20))
        archive.writestr(LESION_FILE, made_up("lesion", 20))
        archive.writestr("../outside.txt", "must not be unpacked")
    monkeypatch.setattr(pyliverlesionseg, "WHEEL", wheel.Wheel(WHEEL.package, WHEEL.version, WHEEL.python,
                                                               sha256_of_file(path)))
    return path


def test_import_makes_a_bundle_that_its_name_finds(made_up_wheel, own_home, capsys):
    assert code_of(lambda: load_bundle("pyliverlesionseg")) == "UNKNOWN_BUNDLE"
    assert main(["bundle", "import", "pyliverlesionseg", "--wheel", str(made_up_wheel), "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["licence"] == "Apache-2.0" and "Research use only" in result["notice"]
    bundle = load_bundle("pyliverlesionseg")
    bundle.verify()
    assert bundle.can_segment() and not bundle.can_classify() and not bundle.can_generate()
    card = bundle.record.card
    assert "Tang" in card.attribution and card.intended_use and card.limits
    assert sorted(path.name for path in own_home.rglob("*") if path.is_file()) == ["bundle.json", "seg.safetensors"]
    assert not (own_home.parent / "outside.txt").exists()


def test_a_damaged_import_is_made_anew_and_a_whole_one_is_kept(made_up_wheel, own_home, monkeypatch):
    bundle = import_bundle(made_up_wheel)
    monkeypatch.setattr(pyliverlesionseg, "fetch", lambda *arguments: pytest.fail("it was there"))
    assert import_bundle().hash == bundle.hash
    weights = bundle.folder / "fold-0" / "seg.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    monkeypatch.setattr(pyliverlesionseg, "fetch", lambda *arguments: made_up_wheel)
    import_bundle().verify()


@pytest.mark.parametrize(("platform", "variables", "expected"), [
    ("linux", {"NEONET_HOME": "/somewhere"}, "/somewhere"), ("linux", {"XDG_DATA_HOME": "/data"}, "/data/neonet"),
    ("win32", {"LOCALAPPDATA": "/local"}, "/local/NeoNet"), ("darwin", {}, "Application Support/NeoNet")])
def test_the_users_folder_is_where_the_system_has_such(monkeypatch, platform, variables, expected):
    for name in ("NEONET_HOME", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert home().as_posix().endswith(expected)


# --- a case ------------------------------------------------------------------------------------------------------


def test_a_case_gets_label_map_and_crop_and_a_plain_word_about_the_score(small_bundle):
    image = Volume(np.random.default_rng(0).random((60, 50, 20)).astype(np.float32), np.diag([-4.0, -4, 6, 1]))
    labels = np.zeros(image.shape, np.uint8)
    labels[10:50, 10:40, 5:15], labels[20:26, 20:26, 8:12] = 1, 2
    result = predict_case(image, label_map=Volume(labels, image.affine), bundle=small_bundle)
    assert result.score is None and result.patch is not None
    assert "No PNI model in this bundle" in {flag.code: flag.message for flag in result.flags}["NO_PNI_MODEL"]


def test_the_label_map_lies_on_the_images_grid(small_bundle):
    image = Volume(np.random.default_rng(0).random((40, 20, 50)).astype(np.float32),
                   np.array([[0, 0, 5, 0], [-5, 0, 0, 9], [0, 8, 0, 0], [0, 0, 0, 1.0]]))
    label_map = segment(image, small_bundle.segmentors(CPU), CPU)
    assert same_grid(label_map, image) and label_map.shape == image.shape
    assert label_map.array.dtype == np.uint8 and label_map.array.max() <= 2


def test_the_liver_of_a_real_mri_is_found(tmp_path, real_wheel):
    if not ABDOMEN.is_dir():
        pytest.skip("../shared/data/abdomen_mr is absent")
    network = convert(wheel.read(real_wheel, LIVER_FILE), wheel.read(real_wheel, LESION_FILE))
    bundle = write_bundle(network, tmp_path / "pyliverlesionseg")
    label_map = segment(read_volume(ABDOMEN / "example_mr_sm.nii.gz"), bundle.segmentors(CPU), CPU)
    reference = read_volume(ABDOMEN / "example_seg_mr.nii.gz").array == 5
    assert dice(label_map.array > 0, reference) >= 0.85


def test_convolutions_are_numbered_as_keras_numbers_them():
    names = [name for name, _ in keras_weights.convolutions(PathwayUNet(LESION, FIRST))]
    assert names[:4] == ["down.0.first", "down.0.second", "down.0.shortcut", "down.1.first"]
    assert len(names) == 21 and "down.3.shortcut" not in names and names[-1] == "last"
