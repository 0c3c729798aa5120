"""Every way in which a job can fail becomes one sentence that tells a radiologist what to do."""

import re

import pytest

from NeoNetLib import messages

FORBIDDEN = re.compile(r"(?<!\w)--\w|Traceback|\bneonet \w+|[A-Z]{4,}_[A-Z]|\.py\b|\bpip\b")


def is_advice(text):
    """One sentence, in plain words, with something to do."""
    assert text.endswith(".") and not re.search(r"[.!?] [A-Z]", text), text
    assert not FORBIDDEN.search(text), text
    assert ";" in text or "," in text, f"says what is wrong but not what to do: {text}"
    return text


@pytest.mark.parametrize("code", sorted(messages._sentences()))
def test_every_known_code_gives_one_sentence_of_advice(code):
    is_advice(messages.explain(code, "anything --out", "See 'neonet --help'."))


@pytest.mark.parametrize(("exit_code", "crashed", "log", "says"), [
    (11, True, ["Fatal Python error: Segmentation fault"], "ended unexpectedly"),
    (9, True, [], "memory ran out"),
    (137, False, "", "memory ran out"),
    (9, True, ["UserWarning: ImportError of something optional"], "memory ran out"),
    (6, True, ["terminate called after throwing an instance of 'std::bad_alloc'"], "not enough memory"),
    (1, False, ["torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"], "graphics card"),
    (1, False, ["RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory"], "not enough memory"),
    (1, False, ["OSError: [Errno 28] No space left on device: '/tmp/a.nii'"], "disk is full"),
    (1, False, ["OSError: [WinError 112] There is not enough space on the disk"], "disk is full"),
    (1, False, ["ModuleNotFoundError: No module named 'torch'"], "Install packages"),
    (1, False, ["ImportError: DLL load failed while importing _C"], "Install packages"),
    (1, False, ["/usr/bin/python: No module named neonet_core"], "could not be started"),
    (-1073741819, True, [], "ended unexpectedly"),
    (1, False, [], "ended unexpectedly"),
    # as Slicer's launcher says it
    (1, False, ["error: [/opt/Slicer/bin/python-real] exit abnormally - Report the problem."], "memory ran out"),
    (1, False, ["Fatal Python error: Segmentation fault", "error: [x] exit abnormally - Report the problem."],
     "ended unexpectedly"),
])
def test_an_end_without_an_error_event(exit_code, crashed, log, says):
    assert says in is_advice(messages.explainExit(exit_code, crashed, log))


def test_a_missing_bundle_is_told_without_its_code():
    text = messages.explain("UNKNOWN_BUNDLE", "There is no bundle 'x'.", "Give the folder of a bundle, or its name.")
    assert "choose another" in is_advice(text)


@pytest.mark.parametrize(("name", "says"), [
    ("ModuleNotFoundError", "Install packages"), ("RuntimeError", "send us the details")])
def test_a_fault_of_ours_is_told_by_its_kind(name, says):
    hint = "This is a fault of ours; the details are in /tmp/neonet-abc.log"
    assert says in is_advice(messages.explain("INTERNAL", f"NeoNet failed: {name}.", hint))


@pytest.mark.parametrize(("message", "hint", "expected"), [
    ("The samples need 8 GB.", "Ask for fewer, or choose another --out.", "The samples need 8 GB. Ask for fewer."),
    ("The seed -1 is negative.", "Give 0 or more with --seed.", "The seed -1 is negative."),
    ("The device is missing.", "Choose --device cpu, or install a build of PyTorch that supports it.",
     "The device is missing. Install a build of PyTorch that supports it."),
    ("There is no split.", "Make one with `neonet cohort split`.", "There is no split."),
    ("An image of 0.5-99.5 percent.", "Export it again. Run 'neonet crop' first.",
     "An image of 0.5-99.5 percent. Export it again."),
])
def test_an_unknown_code_falls_back_to_its_message_without_options(message, hint, expected):
    assert messages.explain("SOMETHING_NEW", message, hint) == expected


def test_nothing_to_say_still_gives_advice():
    is_advice(messages.explain("SOMETHING_NEW", "", ""))
    is_advice(messages.explain("SOMETHING_NEW", "--seed", "See 'neonet generate --help'."))


def test_every_code_of_the_library_that_a_panel_can_meet_is_known_or_readable():
    """What the library raises in `segment`, `classify`, `generate` and `selftest` has no option left in it."""
    from pathlib import Path

    core = Path(messages.__file__).parents[1] / "neonet_core"
    calls = []
    for name in ("bundle", "pipeline", "generate", "volume", "tlcr", "training/device"):
        text = (core / f"{name}.py").read_text(encoding="utf-8")
        calls += re.findall(r'NeoNetError\(\s*"([A-Z_0-9]+)",\s*f?"([^"]*)"', text)
    assert len(calls) > 20
    for code, template in calls:
        message = re.sub(r"\{[^}]*\}?", "7", template)
        assert not FORBIDDEN.search(messages.explain(code, message)), (code, message)
