"""A command of neonet_core in a background process: its progress, its log, and its end in one plain sentence.

Nothing waits: the process reports through Slicer's event loop, which stays free for the user.
"""

import collections
import json
import logging
import shutil
import tempfile
import weakref
from dataclasses import dataclass, field
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from NeoNetLib import messages, python
from NeoNetLib.processtree import endTree

LOG_LINES = 200
LONGEST_LINE = 1024 * 1024  # bytes; what is longer is no event of ours and is cut
LONGEST_LOGGED = 2000  # characters
CANCEL_MS = 1500  # the tree is ended at once; this is how long Qt may take to notice
DONE, SOME_CASES_FAILED = 0, 3  # exit codes with a result

_running = set()  # a job lives until its process has ended, whoever else has forgotten it
_quitHandler = []


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    ok: bool
    result: dict = field(default_factory=dict)
    """Fields of the result event."""
    cancelled: bool = False
    code: str = ""
    """Of the error event, or what the end was taken for (`messages.diagnose`); "" where all is well."""
    message: str = ""
    """One sentence that says what to do; "" where all is well."""
    details: str = ""
    """Last lines of the log, for whoever helps."""


class Job:
    """One ``python -m neonet_core ...`` in the background.

    Parameters
    ----------
    arguments : list of str
        What follows ``python -m neonet_core``, without ``--json``. `self.arguments` may be completed until `start`,
        because paths in `self.folder` are known only now.
    onProgress : callable (stage, done, total, secondsLeft), optional
        `secondsLeft` is None while it is not known.
    onLog : callable (text), optional
        One or several lines.
    onFinished : callable (Outcome), optional
        Called once and always, except after `close`.
    process : object, optional
        In place of a qt.QProcess, for tests.

    Attributes
    ----------
    folder : pathlib.Path
        The job's own temporary folder, for its inputs and outputs; removed by `close`, after a failure or Cancel by
        itself, and at the latest when the job is forgotten or Slicer ends.
    cancelled : bool
    """

    def __init__(self, arguments, onProgress=None, onLog=None, onFinished=None, process=None):
        self.arguments = list(arguments)
        self.cancelled = False
        self._callbacks = {"progress": onProgress, "log": onLog, "finished": onFinished}
        self.folder = Path(tempfile.mkdtemp(prefix="NeoNet-", dir=_temporaryPath()))
        self._removeFolder = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self._process = process
        self._started = self._ended = False
        self._exit = None  # (exit code, crashed)
        self._startError = ""
        self._result = self._error = None
        self._log = collections.deque(maxlen=LOG_LINES)
        self._output, self._errorOutput = _Lines(), _Lines()

    @property
    def running(self):
        """It was started, and `onFinished` is still to come."""
        return self._started and not self._ended

    @property
    def logTail(self):
        """The last lines of the log: list of str."""
        return list(self._log)

    def start(self):
        """Start the process. A failure to start is reported by `onFinished` too. Raises RuntimeError when repeated."""
        if self._started or self._ended or self.cancelled:
            raise RuntimeError("A job starts once.")
        self._started = True
        _running.add(self)
        _endJobsOnQuit()
        try:
            program, environment = python.pythonExecutable(), python.environment()
            for name in ("TMPDIR", "TEMP", "TMP"):  # what the command leaves there goes with the folder
                environment.insert(name, str(self.folder))
            if self._process is None:
                self._process = qt.QProcess()
            self._process.connect("readyReadStandardOutput()", self._onOutput)
            self._process.connect("readyReadStandardError()", self._onErrorOutput)
            self._process.connect("finished(int,QProcess::ExitStatus)", self._onProcessFinished)
            self._process.connect("errorOccurred(QProcess::ProcessError)", self._onProcessError)
            self._process.setProcessEnvironment(environment)
            self._process.setWorkingDirectory(str(self.folder))
            self._process.start(program, ["-m", "neonet_core", *map(self._told, self.arguments), "--json"])
        except Exception as error:
            logging.exception("NeoNet: a job could not be started")
            self._startError = str(error)
            self._concludeSoon()

    def cancel(self):
        """End the process and all that it has started, within two seconds; `onFinished` says `cancelled`.

        Does nothing once the job has ended.
        """
        if self._ended or self.cancelled:
            return
        self.cancelled = True
        if self._started and self._exit is None:
            self._endProcess()
            qt.QTimer.singleShot(CANCEL_MS, self._conclude)
        else:
            self._concludeSoon()

    def close(self):
        """Remove the folder. A job that still runs is cancelled, and its owner hears no more of it."""
        self._callbacks.clear()
        if self.running:
            self.cancel()
        else:
            self._ended = True
            self._clean()

    # --- what the process says ---------------------------------------------------------------------------------

    def _onOutput(self):
        if not self._ended:
            self._take(self._output.add(self._process.readAllStandardOutput().data()), mayHoldEvents=True)

    def _onErrorOutput(self):
        if not self._ended:
            self._take(self._errorOutput.add(self._process.readAllStandardError().data()), mayHoldEvents=False)

    def _take(self, lines, mayHoldEvents):
        """One pipeful of lines: its log in one call, and of its progress the last, so that the window keeps up."""
        if self.cancelled:
            return
        texts, progress = [], None
        for line in lines:
            event = _event(line) if mayHoldEvents else None
            kind = event["event"] if event else ""
            if kind == "progress":
                progress = event
            elif kind == "result":
                self._result = {name: value for name, value in event.items() if name != "event"}
            elif kind == "error":
                self._error = [str(event.get(name) or "") for name in ("code", "message", "hint")]
                texts.append(" ".join(self._error[1:]))
            elif kind == "log":
                texts.append(str(event.get("message")))
            else:
                texts.append(line[:LONGEST_LOGGED])
        if texts:
            self._log.extend(texts[-LOG_LINES:])
            self._tell("log", "\n".join(texts[-LOG_LINES:]))
        if progress is not None:
            self._tell("progress", str(progress.get("stage")), progress.get("done") or 0, progress.get("total") or 0,
                       progress.get("seconds_left"))

    def _told(self, argument):
        """Of a path in the job's folder what comes after it: on Windows, Slicer's Python passes other names of folders
        than ASCII to SimpleITK wrongly, and the temporary folder holds the user's name."""
        if isinstance(argument, Path) and self.folder in argument.parents:
            return str(argument.relative_to(self.folder))
        return str(argument)

    def _tell(self, name, *values):
        """Call back. The owner may be gone (its widget deleted, its scene closed): that must not stop the job."""
        callback = self._callbacks.get(name)
        if callback is not None:
            try:
                callback(*values)
            except Exception:
                logging.exception("NeoNet: the owner of a job failed to take its %s", name)

    # --- its end -----------------------------------------------------------------------------------------------

    def _onProcessFinished(self, exitCode, exitStatus):
        if self._ended:  # long after Cancel
            qt.QTimer.singleShot(0, self._release)  # not inside a signal of the process that is then deleted
        else:
            self._exit = int(exitCode), int(exitStatus) != 0
            self._concludeSoon()

    def _onProcessError(self, *_error):
        if not self._ended and self._process.error() == qt.QProcess.FailedToStart:  # the others lead to `finished`
            self._startError = str(self._process.errorString())
            self._concludeSoon()

    def _concludeSoon(self):
        """In the next turn of the event loop: not inside a signal of the process that is then given up."""
        qt.QTimer.singleShot(0, self._conclude)

    def _conclude(self):
        if self._ended:
            return
        if self._exit is not None and not self.cancelled:
            self._onOutput()
            self._onErrorOutput()
            self._take(self._output.rest(), mayHoldEvents=True)
            self._take(self._errorOutput.rest(), mayHoldEvents=False)
        self._ended = True
        _running.discard(self)
        outcome = self._outcome()
        if not outcome.ok:
            self._clean()
        self._tell("finished", outcome)
        self._callbacks.clear()
        self._release()

    def _outcome(self):
        details = "\n".join(self._log)
        if self.cancelled:
            return Outcome(False, cancelled=True, code="CANCELLED", message=_("Cancelled; nothing was changed."),
                           details=details)
        exitCode, crashed = self._exit or (1, False)
        if self._result is not None and not crashed and exitCode in (DONE, SOME_CASES_FAILED):
            return Outcome(True, result=self._result, details=details)
        details = "\n".join(filter(None, (details, self._startError, *self._tracebacks())))
        if self._exit is None:
            code, message = "NOT_STARTED", messages.explain("NOT_STARTED")
        elif self._error is not None and self._error[0] != "INTERNAL":
            code, message = self._error[0], messages.explain(*self._error)
        else:
            code = messages.diagnose(details, exitCode, crashed)
            code = code or ("INTERNAL" if self._error is not None else "NO_RESULT" if exitCode == DONE else "CRASHED")
            message = messages.explain(code)
        return Outcome(False, code=code, message=message, details=details)

    def _tracebacks(self):
        """What neonet_core wrote of a fault of its own into the job's folder, which is removed."""
        return [path.read_text(encoding="utf-8", errors="replace") for path in self.folder.glob("neonet-*.log")]

    def _release(self):
        """Give the process up, unless it still runs: Qt would wait for its end."""
        if self._process is not None and self._process.state() == qt.QProcess.NotRunning:
            self._process.deleteLater()
            self._process = None

    def _endProcess(self):
        pid = int(self._process.processId() or 0)
        if pid:
            endTree(pid)
        self._process.kill()

    def _clean(self, tries=20):
        """Remove the folder; Windows lets go of a file only some time after its process has ended."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if not self.folder.exists():
            self._removeFolder.detach()
        elif tries:
            qt.QTimer.singleShot(200, lambda: self._clean(tries - 1))


class _Lines:
    """Whole lines out of a stream that comes in pieces."""

    def __init__(self):
        self._partial = b""

    def add(self, data):
        """The lines that `data` completes: list of str without blank ones."""
        lines = (self._partial + bytes(data)).replace(b"\r", b"\n").split(b"\n")
        self._partial = lines.pop()
        if len(self._partial) > LONGEST_LINE:
            lines.append(self._partial[:LONGEST_LOGGED])
            self._partial = b""
        return [line.decode("utf-8", "replace") for line in lines if line.strip()]

    def rest(self):
        """What is left where the stream ends without a line's end: a list of one line, or none."""
        partial, self._partial = self._partial, b""
        return [partial.decode("utf-8", "replace")] if partial.strip() else []


def _event(line):
    """The event that a line of stdout holds, or None."""
    if not line.startswith("{"):
        return None
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None


def _temporaryPath():
    """Slicer's own temporary folder, which the user can move in the settings."""
    path = Path(slicer.app.temporaryPath)
    path.mkdir(parents=True, exist_ok=True)
    return path


def endRunningJobs():
    """End every job with its process tree: what Slicer does when it quits."""
    for job in list(_running):
        job._callbacks.clear()
        job.cancel()
        shutil.rmtree(job.folder, ignore_errors=True)


def _endJobsOnQuit():
    if not _quitHandler:
        _quitHandler.append(slicer.app.connect("aboutToQuit()", endRunningJobs))
