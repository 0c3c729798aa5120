"""What a running batch shows, in a terminal and to programs."""

import io
import json

from batch_workers import outcome_of

from neonet_core.batch.progress import EventLines, LiveTable, clock
from neonet_core.batch.worker import Outcome
from neonet_core.events import JsonLines

FAILED = Outcome("b", "failed", {"error_code": "NOT_3D", "error_reason": "A 2D image."})


def screen(text):
    """What a terminal shows after these characters."""
    lines = [""]
    for part in text.replace("\x1b[J", "\0").split("\n"):
        while part.startswith("\x1b["):
            count, part = part[2:].split("F", 1)
            lines = [*lines[: -int(count) - 1], ""]
            part = part.lstrip("\0")
        lines[-1] = part
        lines.append("")
    return [line for line in lines if line]


def test_the_table_shows_what_is_done_and_at_work_and_keeps_failures():
    stream = io.StringIO()
    table = LiveTable(stream, 4)
    table.ready(1)
    table.started(1, "a")
    table.started(2, "b")
    table.finished(1, outcome_of("a"))
    table.finished(2, FAILED)
    table.started(1, "c")
    table._draw()
    shown = screen(stream.getvalue())
    assert shown[0] == "b: failed. A 2D image. [NOT_3D]"
    assert "2 of 4 cases" in shown[1] and "1 failed" in shown[1] and "left" in shown[1]
    assert "worker 1" in shown[2] and "c" in shown[2] and "waits" in shown[3] and len(shown) == 4
    table.close()
    assert screen(stream.getvalue()) == ["b: failed. A 2D image. [NOT_3D]"]


def test_events_say_the_same_to_programs():
    stream = io.StringIO()
    display = EventLines(JsonLines(stream), 2)
    display.ready(1)
    display.finished(1, outcome_of("a"))
    display.finished(1, FAILED)
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    progress = [event for event in events if event["event"] == "progress"]
    assert [event["done"] for event in progress] == [0, 0, 1, 2] and progress[-1]["seconds_left"] == 0
    assert [event["level"] for event in events if event["event"] == "log"] == ["info", "warning"]


def test_clock():
    assert [clock(seconds) for seconds in (7, 750, 11100)] == ["0:07", "12:30", "3:05:00"]
