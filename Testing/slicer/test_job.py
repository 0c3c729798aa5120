"""A job in a real process: what it reports, how it ends, and that nothing of it is left."""

import gc
import json
import os
import signal
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
import qt
import slicer
from slicer_standin import slotErrors

from NeoNetLib import job as module
from NeoNetLib import processtree, python
from NeoNetLib.job import Job

SILENT_S = 30
POSIX = sys.platform != "win32"


@pytest.fixture(autouse=True)
def temporary_path(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_temporaryPath", lambda: tmp_path)
    slotErrors.clear()
    yield tmp_path
    module.endRunningJobs()
    assert slotErrors == []


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Let jobs run this text in place of neonet_core; `sys.argv[1:]` are their arguments."""
    def use(text):
        folder = tmp_path / "core"
        (folder / "neonet_core").mkdir(parents=True, exist_ok=True)
        (folder / "neonet_core" / "__init__.py").touch()
        (folder / "neonet_core" / "__main__.py").write_text(textwrap.dedent(text), encoding="utf-8")
        monkeypatch.setattr(python, "coreFolder", lambda: folder)

    return use


class Watched:
    """A job and what it has reported."""

    def __init__(self, *arguments, process=None):
        self.progress, self.log, self.outcomes = [], [], []
        self.job = Job(list(arguments), onProgress=lambda *values: self.progress.append(values),
                       onLog=self.log.append, onFinished=self.outcomes.append, process=process)

    def start(self):
        self.job.start()
        return self

    @property
    def outcome(self):
        assert len(self.outcomes) == 1
        return self.outcomes[0]

    def wait(self):
        spin_until(lambda: self.outcomes)
        spin(50)  # whatever might come after the end
        return self.outcome


def spin(milliseconds):
    loop = qt.QEventLoop()
    qt.QTimer.singleShot(milliseconds, loop.quit)
    loop.exec_()


def spin_until(condition, seconds=SILENT_S):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        spin(10)


def longest_gap(condition):
    """Longest time in seconds in which a timer of 5 ms was not served while `condition` was awaited."""
    gaps, last = [0.0], [time.monotonic()]

    def tick():
        now = time.monotonic()
        gaps.append(now - last[0])
        last[0] = now

    timer = qt.QTimer()
    timer.setInterval(5)
    timer.connect("timeout()", tick)
    timer.start()
    loop = qt.QEventLoop()
    timer.connect("timeout()", lambda: loop.quit() if condition() else None)
    loop.exec_()
    timer.stop()
    return max(gaps)


# --- what is reported ----------------------------------------------------------------------------------------------


def test_progress_log_and_result(program):
    program("""
        import json, sys
        def say(**event): print(json.dumps(event), flush=True)
        say(event="log", level="info", message="Überblick")
        say(event="progress", stage="seg", done=1, total=4, seconds_left=None)
        print("a word on stderr", file=sys.stderr, flush=True)
        say(event="result", arguments=sys.argv[1:], folder="x")
    """)
    watched = Watched("segment", "a b.nrrd").start()
    assert watched.job.running
    outcome = watched.wait()
    assert outcome.ok and not outcome.cancelled and outcome.message == "" and outcome.code == ""
    assert outcome.result == {"arguments": ["segment", "a b.nrrd", "--json"], "folder": "x"}
    assert watched.progress == [("seg", 1, 4, None)]
    assert set("\n".join(watched.log).splitlines()) == {"Überblick", "a word on stderr"} == set(watched.job.logTail)
    assert not watched.job.running


def test_lines_in_pieces_and_what_is_no_event(program):
    program("""
        import sys, time
        out = sys.stdout
        for piece in ('{"event": "prog',
                      'ress", "stage": "s", "done": 1, "total": 2, "seconds_left": 3}\\n{"event": "resu',
                      'lt", "a": "\\\\u00e4"}\\n{broken\\n[1, 2]\\n{"event": 3}\\n{"no": "event"}\\r\\n\\n',
                      'no end of line'):
            out.write(piece); out.flush(); time.sleep(0.05)
        sys.stdout.buffer.write(b"\\xff\\xfe broken bytes")
    """)
    outcome = (watched := Watched().start()).wait()
    assert outcome.ok and outcome.result == {"a": "ä"} and watched.progress == [("s", 1, 2, 3)]
    assert watched.job.logTail[:4] == ["{broken", "[1, 2]", '{"event": 3}', '{"no": "event"}']
    assert watched.job.logTail[4].startswith("no end of line")


def test_events_with_fields_missing_do_no_harm(program):
    program("""
        for line in ('{"event": "progress"}', '{"event": "log"}', '{"event": "error"}', '{"event": "result"}'):
            print(line)
        raise SystemExit(2)
    """)
    outcome = Watched().start().wait()
    assert not outcome.ok and outcome.message


def test_huge_output_neither_blocks_the_window_nor_fills_the_memory(program):
    program("""
        import json, sys
        for number in range(100_000):
            print(json.dumps({"event": "log", "message": f"line {number}"}))
            if number % 10 == 0:
                print(json.dumps({"event": "progress", "stage": "s", "done": number, "total": 100_000}))
        print("x" * 20_000_000)
        print(json.dumps({"event": "result", "done": True}))
    """)
    gaps = []
    for _attempt in range(3):  # on a busy machine the system itself may let the window wait
        watched = Watched().start()
        gaps.append(longest_gap(lambda watched=watched: watched.outcomes))
        assert watched.outcome.ok and watched.outcome.result == {"done": True}
        assert len(watched.job.logTail) == module.LOG_LINES and len(watched.outcome.details) < 500_000
        if gaps[-1] < 0.1:
            break
    print("longest time without the event loop:", gaps)
    assert min(gaps) < 0.1, f"the event loop stood still for {min(gaps):.3f} s"


def test_several_jobs_at_once(program):
    program("""
        import json, sys, time
        for step in range(5):
            print(json.dumps({"event": "progress", "stage": sys.argv[1], "done": step, "total": 5}), flush=True)
            time.sleep(0.02)
        print(json.dumps({"event": "result", "name": sys.argv[1]}))
    """)
    watched = [Watched(name).start() for name in "abcd"]
    assert len({each.job.folder for each in watched}) == 4
    for each, name in zip(watched, "abcd", strict=True):
        assert each.wait().result == {"name": name} and {values[0] for values in each.progress} == {name}


def test_the_environment_of_a_job(program, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    program("""
        import json, os, sys, tempfile
        print(json.dumps({"event": "result", "first": sys.path[0], "utf8": sys.flags.utf8_mode, "path": sys.path,
                          "user": sys.flags.no_user_site, "temporary": tempfile.gettempdir(),
                          "parent": os.environ["NEONET_PARENT"]}))
    """)
    watched = Watched().start()
    result = watched.wait().result
    assert result["first"] == str(python.coreFolder()) and "elsewhere" in " ".join(result["path"])
    assert result["utf8"] == 1 and result["user"] == 1 and result["parent"] == str(os.getpid())
    assert Path(result["temporary"]).resolve() == watched.job.folder.resolve()


def test_the_python_of_the_jobs(tmp_path, monkeypatch):
    assert Path(python.pythonExecutable()).name.lower().startswith("python")
    home = tmp_path / "Slicer"
    own = home / "bin" / ("PythonSlicer" if POSIX else "PythonSlicer.exe")
    own.parent.mkdir(parents=True)
    own.touch()
    monkeypatch.setattr(slicer, "app", type("App", (), {"slicerHome": str(home)})())
    assert python.pythonExecutable() == str(own)
    own.unlink()
    monkeypatch.setattr(sys, "executable", str(home / "SlicerApp-real"))
    with pytest.raises(RuntimeError, match="Python"):
        python.pythonExecutable()


# --- how it ends -----------------------------------------------------------------------------------------------------

def error_event(code):
    event = json.dumps({"event": "error", "code": code, "message": "m", "hint": "h --x"})
    return f"print({event!r}); raise SystemExit(2)"


ENDS = {
    "error event": (error_event("EMPTY_TUMOUR"), "EMPTY_TUMOUR", "tumour segment is empty"),
    "missing bundle": (error_event("UNKNOWN_BUNDLE"), "UNKNOWN_BUNDLE", "choose another"),
    "full disk": (error_event("DISK_FULL"), "DISK_FULL", "disk is full"),
    "full disk in a library": ("raise RuntimeError('write failed: No space left on device')", "DISK_FULL",
                               "disk is full"),
    "no torch": ("import no_such_package_at_all", "MISSING_PACKAGES", "Install packages"),
    "out of memory in C++": ("import os, sys; print('std::bad_alloc', file=sys.stderr, flush=True); os.abort()",
                             "OUT_OF_MEMORY", "not enough memory"),
    "exit 137": ("raise SystemExit(137)", "KILLED", "memory ran out"),
    "no result": ("pass", "NO_RESULT", "without a result"),
    "result, then a fault": ("""print('{"event": "result", "a": 1}'); raise SystemExit(1)""", "CRASHED",
                             "ended unexpectedly"),
}
if POSIX:
    ENDS["crash"] = ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "CRASHED", "ended unexpectedly")
    ENDS["killed"] = ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "KILLED", "memory ran out")


@pytest.mark.parametrize("name", ENDS)
def test_every_end_is_one_sentence_and_leaves_no_folder(program, name):
    text, code, says = ENDS[name]
    program(text)
    watched = Watched().start()
    outcome = watched.wait()
    assert not outcome.ok and not outcome.cancelled and (outcome.code, outcome.result) == (code, {})
    assert says in outcome.message and outcome.message.endswith(".")
    assert not watched.job.folder.exists()


def test_a_fault_of_ours_takes_its_traceback_along(program):
    program("""
        import json, pathlib, tempfile
        log = pathlib.Path(tempfile.mkstemp(prefix="neonet-", suffix=".log")[1])
        log.write_text("Traceback: MemoryError in line 3")
        print(json.dumps({"event": "error", "code": "INTERNAL", "message": "NeoNet failed: X.", "hint": str(log)}))
        raise SystemExit(1)
    """)
    outcome = Watched().start().wait()
    assert "in line 3" in outcome.details and outcome.code == "OUT_OF_MEMORY" and "not enough memory" in outcome.message


def test_a_batch_with_failed_cases_has_a_result(program):
    program("""
        print('{"event": "result", "failed": 2}')
        raise SystemExit(3)
    """)
    assert Watched().start().wait().result == {"failed": 2}


def test_a_program_that_cannot_start(monkeypatch):
    monkeypatch.setattr(python, "pythonExecutable", lambda: os.path.join("no", "such", "python"))
    watched = Watched().start()
    outcome = watched.wait()
    assert not outcome.ok and outcome.code == "NOT_STARTED" and "restart Slicer" in outcome.message
    assert not watched.job.folder.exists() and not watched.job.running


def test_no_python_at_all(monkeypatch):
    def none():
        raise RuntimeError("Slicer's own Python was not found.")

    monkeypatch.setattr(python, "pythonExecutable", none)
    outcome = Watched().start().wait()
    assert outcome.code == "NOT_STARTED" and "was not found" in outcome.details


def test_a_job_starts_once(program):
    program("print('{\"event\": \"result\"}')")
    watched = Watched().start()
    with pytest.raises(RuntimeError):
        watched.job.start()
    watched.wait()
    with pytest.raises(RuntimeError):
        watched.job.start()


# --- Cancel ----------------------------------------------------------------------------------------------------------

FAMILY = """
    import json, os, signal, subprocess, sys, time
    if os.name != "nt":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    grandchild = ("import os, signal, sys, time\\n"
                  "for number in ((signal.SIGTERM, signal.SIGINT, signal.SIGHUP) if os.name != 'nt' else ()):\\n"
                  "    signal.signal(number, signal.SIG_IGN)\\n"
                  "print(os.getpid(), flush=True); time.sleep(600)")
    child = ("import os, subprocess, sys, time\\n"
             f"subprocess.Popen([sys.executable, '-c', {grandchild!r}], start_new_session=os.name != 'nt')\\n"
             "print(os.getpid(), flush=True); time.sleep(600)")
    started = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, text=True)
    pids = [int(started.stdout.readline()), int(started.stdout.readline())]
    with open(os.path.join(os.environ["TMPDIR"], "open.bin"), "wb") as held:
        held.write(b"x"); held.flush()
        family = ",".join(map(str, [os.getpid(), *pids]))
        print(json.dumps({"event": "progress", "stage": family, "done": 0, "total": 1}), flush=True)
        while True:
            print("working", flush=True); time.sleep(0.001)
"""


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("with_psutil", [True, False])
def test_cancel_ends_the_whole_tree_and_cleans_up(program, monkeypatch, with_psutil):
    program(FAMILY)
    if not with_psutil:
        monkeypatch.setattr(module, "endTree", processtree._endWithoutPsutil)
    watched = Watched().start()
    spin_until(lambda: watched.progress)
    family = [int(pid) for pid in watched.progress[0][0].split(",")]
    assert len(family) == 3 and all(map(alive, family))
    started = time.monotonic()
    watched.job.cancel()
    blocked = time.monotonic() - started
    gap = longest_gap(lambda: watched.outcomes and not any(map(alive, family)))
    ended = time.monotonic() - started
    assert watched.outcome.cancelled and not watched.outcome.ok and watched.outcome.result == {}
    assert "Cancelled" in watched.outcome.message
    spin_until(lambda: not watched.job.folder.exists(), 2)
    print(f"cancel: {blocked:.3f} s in the call, all gone after {ended:.3f} s, longest gap {gap:.3f} s")
    assert ended < 2 and gap < 0.5 and blocked < 0.1


def test_a_family_that_keeps_growing_is_ended_too(program):
    program("""
        import json, os, subprocess, sys, time
        print(json.dumps({"event": "progress", "stage": str(os.getpid()), "done": 0, "total": 1}), flush=True)
        while True:
            subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)  # neonet-grower"])
            time.sleep(0.05)
    """)
    watched = Watched().start()
    spin_until(lambda: watched.progress)
    spin(300)
    watched.job.cancel()
    watched.wait()

    def growers():
        found = []
        for one in psutil.process_iter(["cmdline", "status"]):
            if "neonet-grower" in " ".join(one.info["cmdline"] or []) and one.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(one)
        return found

    spin_until(lambda: not growers(), 2)


def test_cancel_twice_after_the_end_and_before_the_start(program):
    program("print('{\"event\": \"result\"}')")
    watched = Watched().start()
    watched.wait()
    watched.job.cancel()
    assert watched.outcome.ok and not watched.job.cancelled

    early = Watched()
    early.job.cancel()
    early.job.cancel()
    with pytest.raises(RuntimeError):
        early.job.start()
    assert early.wait().cancelled and not early.job.folder.exists()


def test_cancel_at_once(program):
    program("import time; time.sleep(600)")
    watched = Watched().start()
    watched.job.cancel()
    assert watched.wait().cancelled


def test_a_result_that_came_before_cancel_is_not_used(program):
    program("""
        import time
        print('{"event": "result", "a": 1}', flush=True)
        time.sleep(600)
    """)
    watched = Watched().start()
    spin(500)
    watched.job.cancel()
    assert watched.wait().cancelled and watched.outcome.result == {}


def test_cancel_in_a_callback(program):
    program("""
        import time
        print('{"event": "progress", "stage": "s", "done": 0, "total": 1}', flush=True)
        time.sleep(600)
    """)
    outcomes = []
    job = Job([], onProgress=lambda *values: job.cancel(), onFinished=outcomes.append)
    job.start()
    spin_until(lambda: outcomes)
    assert outcomes[0].cancelled


# --- owners and folders -----------------------------------------------------------------------------------------------


def test_the_folder_is_there_for_inputs_and_goes_with_close(program):
    program("""
        import pathlib, sys
        print(pathlib.Path(sys.argv[1]).read_text())
        print('{"event": "result"}')
    """)
    job = Watched().job
    (job.folder / "input.txt").write_text("hello")
    job.arguments.append(job.folder / "input.txt")
    outcomes = []
    job._callbacks["finished"] = outcomes.append
    job.start()
    spin_until(lambda: outcomes)
    assert outcomes[0].ok and "hello" in job.logTail and job.folder.is_dir()  # results are still to be loaded
    job.close()
    job.close()
    assert not job.folder.exists()


def test_a_job_that_nobody_holds_runs_to_its_end(program, temporary_path):
    program("""
        import time
        time.sleep(0.3)
        print('{"event": "result"}')
    """)
    outcomes = []
    Job([], onFinished=outcomes.append).start()
    gc.collect()
    spin_until(lambda: outcomes)
    assert outcomes[0].ok
    spin(50)
    gc.collect()
    assert not list(temporary_path.glob("NeoNet-*"))  # it took its folder along


def test_an_owner_that_is_gone_does_not_stop_the_job(program):
    program("""
        import json
        for event in ("log", "progress", "result"):
            print(json.dumps({"event": event, "message": "m", "stage": "s", "done": 1, "total": 1}), flush=True)
    """)
    calls = []

    def gone(*values):
        calls.append(values)
        raise ValueError("Trying to access a deleted widget")

    job = Job([], onProgress=gone, onLog=gone, onFinished=gone)
    job.start()
    spin_until(lambda: len(calls) == 3)
    assert calls[-1][0].ok and not job.running


def test_close_while_running_says_nothing_more(program):
    program(FAMILY)
    watched = Watched().start()
    spin_until(lambda: watched.progress)
    family = [int(pid) for pid in watched.progress[0][0].split(",")]
    logged = len(watched.log)
    watched.job.close()
    spin_until(lambda: not any(map(alive, family)) and not watched.job.folder.exists(), 2)
    spin(100)
    assert watched.outcomes == [] and len(watched.log) == logged


def test_quitting_slicer_ends_every_job(program):
    program("import time; time.sleep(600)")
    watched = [Watched().start() for _ in range(3)]
    spin(100)
    pids = [each.job._process.processId() for each in watched]
    module.endRunningJobs()
    limit = time.monotonic() + 2
    while any(map(alive, pids)):
        assert time.monotonic() < limit
        time.sleep(0.01)
    assert not any(each.job.folder.exists() for each in watched)
    spin(100)
    assert all(each.outcomes == [] for each in watched)


def test_a_job_ends_where_slicer_dies(tmp_path):
    """The real neonet_core, started by a parent that is killed."""
    core = Path(module.__file__).parents[1]
    script = tmp_path / "parent.py"
    script.write_text(textwrap.dedent(f"""
        import os, subprocess, sys, time
        environment = dict(os.environ, NEONET_PARENT=str(os.getpid()), PYTHONPATH={str(core)!r})
        code = "import time; from neonet_core.parent import end_with_parent; end_with_parent(); time.sleep(600)"
        print(subprocess.Popen([sys.executable, "-c", code], env=environment).pid, flush=True)
        time.sleep(600)
    """))
    import subprocess

    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    time.sleep(1.5)
    assert alive(child)
    parent.kill()
    parent.wait()
    limit = time.monotonic() + 5
    while alive(child):
        assert time.monotonic() < limit, "the job outlived Slicer"
        time.sleep(0.05)


def test_a_process_that_was_none_of_ours_is_no_error():
    processtree.endTree(2**22 + 1)


class FakeProcess:
    """The methods of qt.QProcess that a Job uses."""

    def __init__(self):
        self.slots, self.out, self.started = {}, b"", None

    def connect(self, signal_name, slot):
        self.slots[signal_name] = slot
        return True

    def setProcessEnvironment(self, environment):
        assert environment.value("PYTHONNOUSERSITE") == "1"

    def setWorkingDirectory(self, folder):
        self.workingDirectory = folder

    def start(self, program, arguments):
        self.started = program, arguments

    def processId(self):
        return 0

    def state(self):
        return qt.QProcess.NotRunning

    def readAllStandardOutput(self):
        data, self.out = self.out, b""
        return qt.QByteArray(data)

    def readAllStandardError(self):
        return qt.QByteArray(b"")

    def kill(self):
        pass

    def deleteLater(self):
        pass


def test_a_fake_process_for_tests_of_modules():
    process = FakeProcess()
    watched = Watched("segment", process=process).start()
    assert process.started[1] == ["-m", "neonet_core", "segment", "--json"]
    process.out = json.dumps({"event": "result", "label_map": "x"}).encode() + b"\n"
    process.slots["readyReadStandardOutput()"]()
    process.slots["finished(int,QProcess::ExitStatus)"](0, 0)
    assert watched.wait().result == {"label_map": "x"}


def test_paths_in_the_jobs_own_folder_are_told_without_it():
    """The temporary folder holds the user's name, which may not be ASCII; SimpleITK on Windows cannot read below it."""
    process = FakeProcess()
    job = Job(["segment", "--bundle", Path("/models/démo")], process=process)
    job.arguments += [job.folder / "image.nrrd", "--out", job.folder / "a" / "label.nrrd"]
    job.start()
    told = [Path(argument) for argument in process.started[1][3:-1]]
    assert told == [Path("--bundle"), Path("/models/démo"), Path("image.nrrd"), Path("--out"), Path("a/label.nrrd")]
    assert Path(process.workingDirectory) == job.folder
    job.close()


def test_the_real_library_answers():
    outcome = Watched("selftest", "--device", "cpu").start().wait()
    assert outcome.ok and outcome.result["device"] == "cpu"


@pytest.mark.skipif(not POSIX, reason="no SIGKILL")
def test_the_systems_kill_of_the_real_library():
    watched = Watched("selftest").start()
    spin(300)
    os.kill(watched.job._process.processId(), signal.SIGKILL)
    outcome = watched.wait()
    assert outcome.code == "KILLED" and not outcome.cancelled
