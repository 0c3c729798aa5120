"""The catalogue of bundles: what the library says of a bundle, without the library; damage never raises."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import slicer

from neonet_core.bundle import BUNDLE_FORMAT, load_bundle
from neonet_core.bundle import catalogue as library
from NeoNetLib import catalogue
from NeoNetLib.python import coreFolder

DEMO = coreFolder() / "neonet_core" / "resources" / "bundles" / "demo"


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("NEONET_HOME", str(tmp_path / "home"))
    slicer.app.settings().remove(catalogue.FOLDERS_SETTING)
    yield tmp_path / "home" / "bundles"
    slicer.app.settings().remove(catalogue.FOLDERS_SETTING)


def copy(folder, name=None, **changes):
    """A copy of the demo bundle with another record."""
    shutil.copytree(DEMO, folder)
    record = json.loads((DEMO / "bundle.json").read_text())
    record.update({"name": name or folder.name, **changes})
    (folder / "bundle.json").write_text(json.dumps(record))
    return folder


def test_the_demo_bundle_is_described_as_the_library_does():
    info, = catalogue.bundles()
    bundle = load_bundle("demo")
    record = bundle.record
    assert (info.name, info.folder, info.version, info.problem) == ("demo", bundle.folder, record.version, "")
    assert info.outcome == "pni" and info.isDemo is bundle.is_demo is True
    assert (info.canSegment, info.canClassify, info.canGenerate) == (
        bundle.can_segment(), bundle.can_classify(), bundle.can_generate())
    assert info.cropSize == record.preset.crop.size and info.cropSpacing == record.members[0].crop_spacing
    assert info.cropComponent == record.preset.crop.component and info.threshold == record.threshold
    assert info.outOfFold == tuple((one.outcome, one.score) for one in record.out_of_fold)
    assert info.card == record.card.model_dump(mode="json")
    assert info.ranges == {name: list(values) for name, values in record.ranges.items()}
    assert info.hash == bundle.hash


def test_the_formats_known_are_those_of_the_library():
    assert catalogue.FORMAT == BUNDLE_FORMAT


def test_reading_is_quick_and_imports_neither_pydantic_nor_torch():
    code = ("import sys; sys.path[:0] = sys.argv[1:]\n"
            "import slicer_standin\n"
            "from NeoNetLib import catalogue, dependencies, job, messages, processtree, python\n"
            "print(len(catalogue.bundles()))\n"
            "print({name.split('.')[0] for name in sys.modules} & {'torch', 'pydantic', 'yaml', 'monai', 'psutil'})")
    testing = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code, str(coreFolder()), str(testing)], capture_output=True, text=True)
    assert done.stdout.splitlines()[-2:] == ["1", "set()"], done.stderr
    started = time.perf_counter()
    catalogue.bundles()
    assert time.perf_counter() - started < 0.1


def test_imported_bundles_are_there_and_half_imported_ones_are_not(own_home):
    copy(own_home / "mine")
    copy(own_home / ".half", name="half")
    assert [info.name for info in catalogue.bundles()] == ["demo", "mine"]
    assert set(library()) == {"demo", "mine"}


def test_a_built_in_bundle_cannot_be_replaced(own_home):
    copy(own_home / "demo", version="9")
    info, = catalogue.bundles()
    assert info.folder == DEMO == library()["demo"]


def test_abilities_follow_the_members(own_home):
    record = json.loads((DEMO / "bundle.json").read_text())
    members = [{**member, "cls": None, "ldm": None, "crop_spacing": None} for member in record["members"]]
    copy(own_home / "seg", members=members, threshold=None, out_of_fold=[])
    info = catalogue.read(own_home / "seg")
    assert (info.canSegment, info.canClassify, info.canGenerate) == (True, False, False)
    assert info.cropSpacing is None and info.threshold is None and info.outOfFold == () and info.problem == ""


@pytest.mark.parametrize("content", [
    b"", b"{", b"[]", b"3", b"\xff\xfe", b'{"format": 1}', b'{"format": 1, "members": []}',
    b'{"name": "x", "members": [3], "preset": {"crop": {"size": [1, 2]}}}'])
def test_a_damaged_record_is_listed_with_a_reason(own_home, content):
    (own_home / "broken").mkdir(parents=True)
    (own_home / "broken" / "bundle.json").write_bytes(content)
    info = catalogue.bundles()[-1]
    assert info.name == "broken" and "damaged" in info.problem
    assert not (info.canSegment or info.canClassify or info.canGenerate) and info.hash == ""


def test_a_bundle_of_a_later_version(own_home):
    copy(own_home / "later", format=2, members="another form")
    assert "later version" in catalogue.bundles()[-1].problem


def test_a_record_that_cannot_be_read(own_home):
    (own_home / "odd" / "bundle.json").mkdir(parents=True)
    assert catalogue.bundles()[-1].problem


def test_lost_weights_make_a_bundle_unusable(own_home):
    (copy(own_home / "lost") / "fold-0" / "seg.safetensors").unlink()
    info = catalogue.bundles()[-1]
    assert "seg.safetensors" in info.problem and not (info.canSegment or info.canClassify or info.canGenerate)


def test_a_folder_of_the_user_is_kept_by_slicers_settings(tmp_path):
    folder = copy(tmp_path / "über uns" / "ours")
    added = catalogue.addFolder(folder)
    assert added.name == "ours" and catalogue.addFolder(str(folder)) == added  # twice is once
    assert [info.name for info in catalogue.bundles()] == ["demo", "ours"]
    assert added.hash == load_bundle(folder).hash
    catalogue.removeFolder(folder)
    assert [info.name for info in catalogue.bundles()] == ["demo"] and folder.is_dir()


def test_a_folder_of_the_user_that_is_gone_is_listed_as_unusable(tmp_path):
    folder = copy(tmp_path / "ours")
    catalogue.addFolder(folder)
    shutil.rmtree(folder)
    assert catalogue.bundles()[-1].name == "ours" and catalogue.bundles()[-1].problem


def test_what_cannot_be_added_says_why(tmp_path):
    with pytest.raises(ValueError, match=r"bundle\.json"):
        catalogue.addFolder(tmp_path)
    with pytest.raises(ValueError, match="name 'demo'"):
        catalogue.addFolder(copy(tmp_path / "other", name="demo"))
    folder = copy(tmp_path / "later", format=99)
    with pytest.raises(ValueError, match="later version"):
        catalogue.addFolder(folder)
    assert catalogue.addedFolders() == []


def test_settings_edited_by_hand_do_no_harm():
    for value in ("not json", "3", '{"a": 1}'):
        slicer.app.settings().setValue(catalogue.FOLDERS_SETTING, value)
        assert catalogue.bundles()[0].name == "demo"


def test_importing(own_home):
    assert catalogue.importable() == ["pyliverlesionseg"]
    assert catalogue.importArguments("pyliverlesionseg") == ["bundle", "import", "pyliverlesionseg"]
    copy(own_home / "pyliverlesionseg")
    assert catalogue.importable() == []
