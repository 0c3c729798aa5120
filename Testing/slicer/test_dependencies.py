"""Finding and installing packages: asks first, touches nothing of Slicer's own, and never when a module opens."""

import contextlib
import importlib.metadata
import itertools
import subprocess
import sys
import time
import tomllib
import types
from pathlib import Path

import pytest
import slicer

from NeoNetLib import dependencies
from NeoNetLib.python import coreFolder

PYPROJECT = coreFolder().parent / "pyproject.toml"


class Dialog:
    """A progress dialog that shows nothing."""

    def __init__(self, shown):
        self.shown = shown

    def __getattr__(self, name):
        return lambda *values: self.shown.append(name)


class Slicer:
    """What the installation calls in Slicer, recorded; `installs` says what pip makes available."""

    def __init__(self, monkeypatch):
        self.asked, self.pip, self.errors, self.shown, self.answer = [], [], [], [], True
        self.monkeypatch, self.gone, self.failure = monkeypatch, set(), None
        real = importlib.metadata.version

        def version(name):
            if name in self.gone:
                raise importlib.metadata.PackageNotFoundError(name)
            return real(name)

        def ask(text, windowTitle=None, parent=None, **options):
            self.asked.append((text, options.get("detailedText", "")))
            return self.answer

        patch = monkeypatch.setattr
        patch(importlib.metadata, "version", version)
        patch(slicer.util, "confirmOkCancelDisplay", ask, raising=False)
        patch(slicer.util, "errorDisplay", lambda text, **options: self.errors.append(text), raising=False)
        patch(slicer.util, "pip_install", self.install, raising=False)
        patch(slicer.util, "createProgressDialog", lambda **options: Dialog(self.shown), raising=False)
        monkeypatch.setitem(sys.modules, "slicer.packaging", None)  # Slicer 5.10

    def install(self, arguments):
        constraints = Path(arguments[arguments.index("--constraint") + 1]).read_text()
        self.pip.append((arguments, constraints))
        if self.failure:
            raise self.failure
        self.gone -= {dependencies._requirement(text).name for text in arguments if text[0] != "-" and "/" not in text}


@pytest.fixture
def fake(monkeypatch):
    return Slicer(monkeypatch)


def test_the_list_is_that_of_pyproject():
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    assert dependencies.requirements() == project["dependencies"]
    assert list(dependencies.IMPORT_PACKAGES) == project["optional-dependencies"]["pretrained"]


def test_windows_gets_no_torch_whose_paths_are_too_long_for_it(monkeypatch):
    plain = dependencies.requirements()
    monkeypatch.setattr(sys, "platform", "win32")
    torch, = set(dependencies.requirements()) - set(plain)
    allowed = dependencies._requirement(torch).specifier
    assert allowed.contains("2.12.1") and not allowed.contains("2.13.0") and not allowed.contains("2.9.0")


def test_a_mac_for_which_torch_is_not_made_is_told_so(fake, monkeypatch):
    fake.gone = {"torch"}
    monkeypatch.setattr(sys, "platform", "darwin")
    for machine, told in (("x86_64", True), ("arm64", False)):
        monkeypatch.setattr(dependencies.platform, "machine", lambda machine=machine: machine)
        fake.answer, fake.errors, fake.asked = False, [], []
        assert not dependencies.ensure()
        assert any("Apple silicon" in text for text in fake.errors) == told and bool(fake.asked) != told


def test_missing_is_quick_and_imports_nothing():
    code = ("import sys; sys.path[:0] = sys.argv[1:]\n"
            "import slicer_standin\n"
            "from NeoNetLib import dependencies\n"
            "before = set(sys.modules); print(dependencies.missing())\n"
            "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
            "print(new & {'torch', 'monai', 'psutil', 'pydantic', 'yaml', 'diffusers', 'SimpleITK', 'nibabel'})")
    testing = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code, str(coreFolder()), str(testing)], capture_output=True, text=True)
    assert done.stdout.splitlines()[-2:] == ["[]", "set()"], done.stderr
    dependencies.missing()  # imports `packaging` once
    times = [time.perf_counter()]
    for _ in range(3):  # on a busy machine the best counts
        dependencies.missing()
        times.append(time.perf_counter())
    assert min(after - before for before, after in itertools.pairwise(times)) < 0.05


def test_missing_names_what_is_absent_or_of_the_wrong_version(fake, monkeypatch):
    fake.gone = {"monai", "torch"}
    assert dependencies.missing() == ["monai>=1.5", "torch>=2.4,!=2.9.*"]
    assert dependencies.missing(["no-such-package>=1"])[-1] == "no-such-package>=1"
    fake.gone = set()
    for version, met in (("2.8.0+cu128", True), ("2.9.1", False), ("2.3", False), ("2.13.0.dev1", True)):
        monkeypatch.setattr(importlib.metadata, "version", lambda name, v=version: v if name == "torch" else "99")
        assert (dependencies.missing() == []) == met, version


def test_slicers_own_packages_are_never_asked_for_whatever_their_version(fake, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0.1.dev1")
    assert not {"numpy", "scipy", "SimpleITK"} & {dependencies._requirement(t).name for t in dependencies.missing()}


def test_nothing_missing_asks_nothing(fake):
    assert dependencies.ensure() is True and fake.asked == [] and fake.pip == []


def test_it_asks_first_and_says_what_and_how_much(fake):
    fake.gone, fake.answer = {"torch", "monai"}, False
    assert dependencies.ensure() is False and fake.pip == [] and fake.errors == []
    text, details = fake.asked[0]
    assert "monai, torch" in text and "MB" in text and "GB" in text and "extension PyTorch" in text
    assert details.splitlines()[0] == "monai>=1.5"


def test_pip_of_an_older_slicer_keeps_slicers_own_packages(fake):
    fake.gone = {"monai", "psutil"}
    assert dependencies.ensure() is True
    (arguments, constraints), = fake.pip
    assert arguments[:-2] == ["monai>=1.5", "psutil>=5.9"]
    assert f"numpy=={importlib.metadata.version('numpy')}\n" in constraints and "scipy==" in constraints
    assert not Path(arguments[-1]).exists()  # the constraints file is gone
    assert "show" in fake.shown and "close" in fake.shown


def test_packaging_of_a_newer_slicer_is_used(fake, monkeypatch):
    calls = []

    def pip_ensure(requirements, constraints=None, skip_packages=None, prompt_install=True, prompt_restart=True,
                   requester=None, skip_in_testing=True, show_progress=True):
        calls.append(([str(one) for one in requirements], Path(constraints).read_text(), prompt_install, show_progress))
        fake.gone.clear()

    fake.gone = {"monai"}
    monkeypatch.setitem(sys.modules, "slicer.packaging", types.SimpleNamespace(pip_ensure=pip_ensure))
    assert dependencies.ensure() is True and fake.pip == []
    (names, constraints, prompts, progress), = calls
    assert names == ["monai>=1.5"] and "numpy==" in constraints and not prompts and progress
    assert len(fake.asked) == 1  # once, by us


@contextlib.contextmanager
def pytorch_extension(fake, monkeypatch):
    calls = []

    class Logic:
        def installTorch(self, askConfirmation=False, forceComputationBackend=None, torchVersionRequirement=None,
                         torchvisionVersionRequirement=None):
            calls.append((askConfirmation, torchVersionRequirement))
            fake.gone.discard("torch")

    extension = types.ModuleType("PyTorchUtils")
    extension.PyTorchUtilsLogic = Logic
    extension.__spec__ = importlib.machinery.ModuleSpec("PyTorchUtils", None)
    monkeypatch.setitem(sys.modules, "PyTorchUtils", extension)
    yield calls


def test_torch_comes_through_the_pytorch_extension(fake, monkeypatch):
    fake.gone = {"torch", "monai"}
    with pytorch_extension(fake, monkeypatch) as calls:
        assert dependencies.ensure() is True
    assert calls == [(False, "!=2.9.*,>=2.4")] and fake.pip[0][0][:-2] == ["monai>=1.5"]


def test_torch_alone_needs_no_pip(fake, monkeypatch):
    fake.gone = {"torch"}
    with pytorch_extension(fake, monkeypatch):
        assert dependencies.ensure() is True
    assert fake.pip == []


def test_offline_from_a_folder_of_wheels(fake, monkeypatch, tmp_path):
    fake.gone = {"torch", "monai"}
    with pytorch_extension(fake, monkeypatch) as calls:
        assert dependencies.ensure(wheels=tmp_path) is True
    assert calls == []  # it would use the network
    arguments = fake.pip[0][0]
    assert arguments[:-2] == ["--no-index", "--find-links", str(tmp_path), "monai>=1.5", "torch>=2.4,!=2.9.*"]
    assert "nothing is downloaded" in fake.asked[0][0]


def test_offline_with_a_newer_slicer(fake, monkeypatch, tmp_path):
    calls = []

    def pip_install(requirements, constraints=None, no_deps_requirements=None, skip_packages=None, blocking=True,
                    show_progress=True, requester=None, parent=None, logCallback=None, completedCallback=None):
        calls.append((requirements, Path(constraints).is_file(), blocking, show_progress))
        fake.gone.clear()

    fake.gone = {"monai"}
    monkeypatch.setitem(sys.modules, "slicer.packaging", types.SimpleNamespace(pip_install=pip_install))
    assert dependencies.ensure(wheels=tmp_path) is True and fake.pip == []
    assert calls == [(["--no-index", "--find-links", str(tmp_path), "monai>=1.5"], True, True, True)]


def test_a_failure_is_one_sentence_and_the_next_try_is_possible(fake):
    fake.gone, fake.failure = {"monai"}, subprocess.CalledProcessError(1, "pip install")
    assert dependencies.ensure() is False and "folder of wheels" in fake.errors[0]
    assert "close" in fake.shown
    fake.failure = None
    assert dependencies.ensure() is True


def test_a_folder_that_is_gone(fake, tmp_path):
    fake.gone = {"monai"}
    assert dependencies.ensure(wheels=tmp_path / "no") is False and fake.pip == [] and len(fake.errors) == 1


def test_what_is_still_missing_afterwards_is_said(fake, monkeypatch):
    fake.gone = {"monai"}
    monkeypatch.setattr(slicer.util, "pip_install", lambda arguments: None)
    assert dependencies.ensure() is False and "restart Slicer" in fake.errors[0]


def test_a_second_click_while_pip_runs_does_nothing(fake, monkeypatch):
    inner = []
    fake.gone = {"monai"}
    monkeypatch.setattr(slicer.util, "pip_install", lambda arguments: inner.append(dependencies.ensure()))
    dependencies.ensure()
    assert inner == [False] and len(fake.asked) == 1


def test_in_testing_nothing_is_installed(fake, monkeypatch):
    fake.gone = {"monai"}
    slicer.app.commandOptions().testingEnabled = True
    try:
        assert dependencies.ensure() is False and fake.asked == [] and fake.pip == []
    finally:
        slicer.app.commandOptions().testingEnabled = False


def test_the_self_test_is_a_job():
    assert dependencies.selfTestJob("cuda") == ["selftest", "--device", "cuda"]


def test_real_pip_takes_our_arguments(tmp_path):
    """The constraints file and the requirements are what pip understands; nothing is installed."""
    with dependencies._constraints() as constraints:
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--no-index", "--find-links",
                   str(tmp_path), "--constraint", constraints, *dependencies.requirements()]
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
