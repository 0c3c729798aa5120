"""What a newcomer sees first holds together: the README's pictures, its commands, the package lists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from neonet_core.presets import preset_names

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_is_finished_and_its_pictures_are_there():
    assert "@@" not in README and "TODO" not in README
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", README)
    assert pictures
    for picture in pictures:
        assert (ROOT / picture).is_file(), picture


def test_the_readme_says_research_use_only_before_all_else():
    assert "Research use only" in "".join(README.splitlines()[:4])


def test_every_command_of_the_readme_is_one():
    usage = subprocess.run([sys.executable, "-m", "neonet_core", "--help"], capture_output=True, text=True,
                           check=True).stdout
    for command in set(re.findall(r"neonet ([a-z]+)", README)):
        assert re.search(rf"^ +{command}\b", usage, re.M), command


def test_every_preset_is_in_the_readme():
    for name in preset_names():
        assert f"`{name}`" in README


def test_the_library_imports_nothing_of_slicer():
    for path in (ROOT / "NeoNetExtension" / "neonet_core").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^\s*(import|from) (slicer|qt|ctk|vtk)\b", text, re.M), path


def test_nothing_is_unpickled_or_evaluated():
    for path in (ROOT / "NeoNetExtension").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"pickle\.|torch\.load\(|allow_pickle=True|(?<![.\w])(eval|exec)\(|shell=True", text), path


@pytest.mark.parametrize("line", (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
def test_constraints_pin_exact_versions(line):
    assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.]+", line)


def test_wheel_holds_presets_templates_and_the_demo_bundle(tmp_path):
    import zipfile

    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=ROOT,
                   check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = wheel.namelist()
    packaged = {path.relative_to(ROOT / "NeoNetExtension").as_posix()
                for path in (ROOT / "NeoNetExtension" / "neonet_core").rglob("*")
                if path.is_file() and "__pycache__" not in path.parts}
    assert packaged <= set(names)
    assert any(name.endswith("bundles/demo/bundle.json") for name in names)
