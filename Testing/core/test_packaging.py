"""What Slicer's build takes and its catalog shows: every file is listed, and the lists install a whole extension."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOME, STAGES = "NeoNetExtension", ("NeoNetSeg", "NeoNetGen", "NeoNetCls")
MODULES = (HOME, *STAGES)
PACKAGES = ("NeoNetLib", "neonet_core", "Scripts")
PNG = b"\x89PNG\r\n\x1a\n"

# Facts of slicer-extension-catalog-entry-schema-v1.0.1.json in Slicer's repository.
SCHEMA_URL = ("https://raw.githubusercontent.com/Slicer/Slicer/main/Schemas/"
              "slicer-extension-catalog-entry-schema-v1.0.1.json#")
ENTRY_REQUIRED = {"$schema", "category", "scm_url"}
ENTRY_FIELDS = {"$schema": str, "category": str, "scm_url": str, "scm_revision": str, "scm_type": str,
                "build_dependencies": list, "build_subdirectory": str, "enabled": bool, "tier": int}

WITHOUT_COMPILER = """
cmake_minimum_required(VERSION 3.16.3...3.31)
project(Build NONE)
macro(project)
endmacro()
add_subdirectory("{root}" extension)
"""
"""The extension needs none, and so do these tests not."""
SLICER_CONFIG = """
set(Slicer_USE_FILE ${CMAKE_CURRENT_LIST_DIR}/UseSlicer.cmake)
set(Slicer_EXTENSION_GENERATE_CONFIG ${CMAKE_CURRENT_LIST_DIR}/Nothing.cmake)
set(Slicer_EXTENSION_CPACK ${CMAKE_CURRENT_LIST_DIR}/Nothing.cmake)
set(BUILD_TESTING ON)
"""
USE_SLICER = """
function(slicer_add_python_unittest)
  cmake_parse_arguments(MY "" "SCRIPT" "" ${ARGN})
  if(MY_UNPARSED_ARGUMENTS OR NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${MY_SCRIPT})
    message(FATAL_ERROR "unit test ${ARGN}")
  endif()
endfunction()
function(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(MY "WITH_GENERIC_TESTS" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  if(MY_UNPARSED_ARGUMENTS OR NOT MY_NAME)
    message(FATAL_ERROR "module ${ARGN}")
  endif()
  foreach(file IN LISTS MY_SCRIPTS MY_RESOURCES)
    if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${file})
      message(FATAL_ERROR "${MY_NAME} lists ${file}, which does not exist")
    endif()
    if(EXISTS ${CMAKE_BINARY_DIR}/qt-scripted-modules/${file})
      message(FATAL_ERROR "two modules install ${file}")
    endif()
    get_filename_component(folder ${file} DIRECTORY)
    file(COPY ${CMAKE_CURRENT_SOURCE_DIR}/${file} DESTINATION ${CMAKE_BINARY_DIR}/qt-scripted-modules/${folder})
  endforeach()
endfunction()
"""
"""Stands for Slicer's build: what Slicer's macros check, and copying into the one folder that all modules share."""


def without_comments(path):
    return re.sub(r"(?m)#.*$", "", path.read_text(encoding="utf-8"))


def listed(module, variable):
    """The files of a list in a module's CMakeLists.txt."""
    content = re.search(rf"set\({variable}\s(.*?)\)", without_comments(ROOT / module / "CMakeLists.txt"), re.S)
    return content.group(1).replace("${MODULE_NAME}", module).split()


def in_tree(module, *folders):
    """What lies in these folders of a module, as CMake would name it."""
    return [path.relative_to(ROOT / module).as_posix() for folder in folders
            for path in (ROOT / module / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def meta(name):
    """Words of an EXTENSION_... variable."""
    return re.search(rf"set\(EXTENSION_{name} (.*)\)", without_comments(ROOT / "CMakeLists.txt")).group(1)


# --- the lists -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_every_script_is_listed(module):
    scripts = [f"{module}.py", *(file for file in in_tree(module, *PACKAGES) if file.endswith(".py"))]
    assert sorted(listed(module, "MODULE_PYTHON_SCRIPTS")) == sorted(scripts)


@pytest.mark.parametrize("module", MODULES)
def test_every_resource_is_listed(module):
    data = [file for file in in_tree(module, *PACKAGES) if not file.endswith(".py")]
    assert sorted(listed(module, "MODULE_PYTHON_RESOURCES")) == sorted(in_tree(module, "Resources") + data)


@pytest.mark.parametrize("module", MODULES)
def test_no_list_is_made_by_a_pattern(module):
    assert not re.search(r"\bGLOB|\*", without_comments(ROOT / module / "CMakeLists.txt"))


@pytest.mark.parametrize("module", MODULES)
def test_beside_a_module_lies_no_other_script(module):
    """Slicer loads every .py in a module's folder as a module."""
    assert [path.name for path in (ROOT / module).glob("*.py")] == [f"{module}.py"]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_has_its_panel_and_its_icon(module):
    assert (ROOT / module / f"Resources/UI/{module}.ui").is_file()
    assert (ROOT / module / f"Resources/Icons/{module}.png").read_bytes()[:8] == PNG


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_built_and_tested(module):
    assert f"add_subdirectory({module})" in without_comments(ROOT / "CMakeLists.txt")
    text = without_comments(ROOT / module / "CMakeLists.txt")
    assert f"set(MODULE_NAME {module})" in text and "slicer_add_python_unittest(SCRIPT ${MODULE_NAME}.py)" in text


@pytest.mark.parametrize("module", MODULES)
def test_a_library_is_imported_by_the_name_that_is_listed(module):
    """A folder with scripts is a package where it is installed, too."""
    for file in listed(module, "MODULE_PYTHON_SCRIPTS"):
        folder = Path(file).parent
        if folder.parts and folder.parts[0] != "Scripts":
            assert (folder / "__init__.py").as_posix() in listed(module, "MODULE_PYTHON_SCRIPTS"), file


# --- what is installed -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that Slicer's build would install the modules to."""
    if shutil.which("cmake") is None:
        pytest.skip("needs cmake")
    folder = tmp_path_factory.mktemp("slicer")
    for name, text in (("CMakeLists.txt", WITHOUT_COMPILER.format(root=ROOT.as_posix())), ("Nothing.cmake", ""),
                       ("SlicerConfig.cmake", SLICER_CONFIG), ("UseSlicer.cmake", USE_SLICER)):
        (folder / name).write_text(text)
    configured = subprocess.run(["cmake", "-S", folder, "-B", folder / "build", f"-DSlicer_DIR={folder}"],
                                capture_output=True, text=True)
    assert configured.returncode == 0, configured.stderr
    return folder / "build" / "qt-scripted-modules"


def python_in(folder, *arguments):
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)},
                          capture_output=True, text=True, timeout=120)


def test_slicer_loads_the_four_modules_and_nothing_else(installed):
    assert sorted(path.stem for path in installed.glob("*.py")) == sorted(MODULES)


def test_the_library_works_where_it_is_installed(installed):
    where = python_in(installed, "-c", "import neonet_core; print(neonet_core.__file__)")
    assert Path(where.stdout.strip()).is_relative_to(installed), where.stderr
    ended = python_in(installed, "-m", "neonet_core", "bundle", "verify", "demo", "--json")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1])["verified"] > 0


def test_the_modules_open_where_they_are_installed(installed):
    pytest.importorskip("PySide6")
    pytest.importorskip("slicer_core")
    code = f"""
import pathlib, sys
sys.path.insert(0, {str(ROOT / "Testing")!r})
import slicer_standin, slicer
for name in {MODULES}:
    slicer_standin.loadModule(str(pathlib.Path(name + ".py").resolve()))
for name in {MODULES}:
    slicer.util.selectModule(name)
assert not slicer_standin.slotErrors
import NeoNetLib, neonet_core
print(NeoNetLib.__file__, neonet_core.__file__, sep="\\n")
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=installed, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    for line in ended.stdout.splitlines()[-2:]:
        assert Path(line).is_relative_to(installed), line


@pytest.mark.parametrize("script", [path.name for path in (ROOT / HOME / "Scripts").glob("*.py")
                                    if path.name != "headless.py"])
def test_a_headless_script_works_where_it_is_installed(installed, script):
    ended = python_in(installed, f"Scripts/{script}", "--help")
    assert ended.returncode == 0 and f"neonet {Path(script).stem}" in ended.stdout, ended.stderr


# --- the catalog -----------------------------------------------------------------------------------------------------


def test_the_catalog_entry_is_valid():
    entry = json.loads((ROOT / "Resources" / f"{HOME}.json").read_text(encoding="utf-8"))
    assert entry.keys() >= ENTRY_REQUIRED and entry.keys() <= ENTRY_FIELDS.keys()
    for name, value in entry.items():
        assert type(value) is ENTRY_FIELDS[name], name
    assert entry["$schema"] == SCHEMA_URL
    assert entry.get("scm_type", "git") in ("git", "local") and entry.get("tier", 5) in (1, 3, 5)
    assert all(isinstance(name, str) for name in entry.get("build_dependencies", []))


def test_the_catalog_entry_says_what_the_build_says():
    entry = json.loads((ROOT / "Resources" / f"{HOME}.json").read_text(encoding="utf-8"))
    assert f"project({HOME})" in without_comments(ROOT / "CMakeLists.txt")
    assert entry["category"] == meta("CATEGORY").strip('"')
    assert entry["build_dependencies"] == meta("DEPENDS").strip('"').split() == ["PyTorch"]
    homepage = meta("HOMEPAGE").strip('"')
    assert entry["scm_url"] == f"{homepage}.git"
    assert "Research use only" in meta("DESCRIPTION") and meta("CONTRIBUTORS").strip('"')


def test_the_catalog_shows_pictures_that_exist():
    for url in (meta("ICONURL") + " " + meta("SCREENSHOTURLS")).replace('"', "").split():
        assert url.startswith("https://raw.githubusercontent.com/")
        assert (ROOT / url.split("/main/", 1)[1]).read_bytes()[:8] == PNG, url


def test_the_repository_stays_small():
    """Slicer's catalog takes extensions of less than 100 MB."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("needs git and its checkout")
    files = [ROOT / name for name in listing.stdout.split("\0") if name]
    assert sum(path.stat().st_size for path in files if path.is_file()) < 100e6
