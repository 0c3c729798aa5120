"""What a running command reports."""

import io
import json
from pathlib import Path

import pytest

from neonet_core import events as module
from neonet_core.errors import NeoNetError
from neonet_core.events import JsonLines, RemainingTime, Silent, Terminal, track

SCHEMA = {
    "progress": {"event", "stage", "done", "total", "seconds_left"},
    "log": {"event", "level", "message"},
    "error": {"event", "code", "message", "hint"},
}


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_json_lines_follow_the_schema():
    stream = io.StringIO()
    events = JsonLines(stream)
    events.progress("train", 0, 4)
    events.progress("train", 1.5, 4)
    events.log("two\nlines – and 中文", "warning")
    events.log("plain")
    events.result(report=Path("a/b"), value=0.5, nothing=None)
    events.error(NeoNetError("CODE", "what", "do"))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 6, "one object a line, whatever a message holds"
    objects = [json.loads(line) for line in lines]
    for found in objects:
        assert found["event"] == "result" or set(found) == SCHEMA[found["event"]]
    assert objects[0]["seconds_left"] is None
    assert objects[2] == {"event": "log", "level": "warning", "message": "two\nlines – and 中文"}
    assert objects[3]["level"] == "info"
    assert objects[4] == {"event": "result", "report": str(Path("a/b")), "value": 0.5, "nothing": None}
    assert objects[5] == {"event": "error", "code": "CODE", "message": "what", "hint": "do"}
    assert stream.getvalue().isascii(), "a console of any encoding can print it"


def test_seconds_left_follow_the_pace(clock):
    left = RemainingTime()
    assert left("train", 0, 10) is None
    clock.now = 20.0
    assert left("train", 2, 10) == 80.0
    clock.now = 100.0
    assert left("train", 10, 10) == 0.0


def test_seconds_left_of_a_resumed_training_count_only_what_was_done_since(clock):
    left = RemainingTime()
    assert left("train", 90, 100) is None
    clock.now = 10.0
    assert left("train", 91, 100) == 90.0


def test_a_stage_that_begins_again_is_timed_anew(clock):
    left = RemainingTime()
    left("prepare cases", 0, 5)
    clock.now = 1.0
    left("prepare cases", 5, 5)
    clock.now = 1000.0
    assert left("prepare cases", 0, 5) is None
    clock.now = 1001.0
    assert left("prepare cases", 1, 5) == 4.0


def test_track_yields_everything_and_counts(capsys):
    seen = []

    class Record(Silent):
        def progress(self, stage, done, total):
            seen.append((stage, done, total))

    assert list(track("abc", "letters", Record())) == ["a", "b", "c"]
    assert seen == [("letters", done, 3) for done in range(4)]
    assert list(track(iter("ab"), "letters", Silent(), total=2)) == ["a", "b"]


def test_the_terminal_needs_no_terminal(capsys):
    events = Terminal()
    events.progress("one", 0, 0)
    events.progress("two", 0, 3)
    events.log("in between", "warning")
    events.progress("two", 1.5, 3)
    events.progress("three", 1, 4)  # the stage before it was not finished
    events.progress("three", 0.5, 4)
    events.progress("three", 4, 4)
    events.log("after")
    events.result(label_map="x.nii", value=1)
    events.error(NeoNetError("CODE", "What.", "Do."))
    said = capsys.readouterr()
    assert said.out == "label map: x.nii\nvalue: 1\n", "results alone on stdout"
    assert "warning: in between" in said.err and "after" in said.err and "neonet: What. Do. [CODE]" in said.err
    assert "Traceback" not in said.err
