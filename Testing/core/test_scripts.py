"""The headless entry points: under plain Python, and executed as Slicer's --python-script executes them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from neonet_core.experiment.run import Run

SCRIPTS = Path(__file__).parents[2] / "NeoNetExtension" / "Scripts"
AS_SLICER = """
import sys
script = sys.argv[1]
sys.argv = sys.argv[1:]
exec(compile(open(script).read(), script, "exec"), {"__name__": "__main__", "__file__": script})
print("Slicer would go on for ever")
"""
"""Slicer runs a script in its own globals and goes on after it, unless it ends with SystemExit."""


@pytest.fixture(params=["python", "slicer"])
def start(request, tmp_path):
    """Runs a script in a folder from which `neonet_core` is not found by itself."""
    def run(script, *arguments):
        launcher = [] if request.param == "python" else ["-c", AS_SLICER]
        return subprocess.run([sys.executable, *launcher, str(SCRIPTS / script), *map(str, arguments)], cwd=tmp_path,
                              capture_output=True, text=True, timeout=300)
    return run


def test_wrong_usage_ends_with_2(start):
    ended = start("train.py", "nosuch.csv", "--preset", "tiny")
    assert ended.returncode == 2
    assert "--out" in ended.stderr and "for ever" not in ended.stdout


def test_it_is_the_command_of_that_name(start, blob_cohort, tmp_path):
    ended = start("train.py", blob_cohort, "--preset", "tiny", "--stages", "cls", "--models", "Volume", "--folds", "0",
                  "--json", "--out", tmp_path / "run")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1])["event"] == "result"
    assert Run(tmp_path / "run").done(0, "cls-volume") is not None
