"""Tests of the panels on the stand-in."""

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
for _folder in (REPOSITORY / "NeoNetExtension", REPOSITORY / "Testing"):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

import pytest  # noqa: E402
import slicer_standin  # noqa: E402


@pytest.fixture(autouse=True)
def standin():
    """An empty scene before each test; no error in a slot or an observer after it."""
    slicer_standin.reset()
    yield slicer_standin
    errors = list(slicer_standin.slotErrors)
    slicer_standin.slotErrors.clear()
    assert errors == []
