"""`neonet batch`: the folder of a batch, what is left to do in it, and doing it.

Layout::

    settings.json journal.jsonl results.csv report.html     .pseudonyms.key [names.csv] [faults/]
    cases/<case_id>/                                         as `neonet predict` writes it, and a thumbnail

A case's folder appears whole or not at all; then its row is appended to the journal, from which ``results.csv`` is
made. So a case is done if the journal says so, and whatever a kill leaves between the two is done again.
"""

from __future__ import annotations

import csv
import io
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from neonet_core import __version__
from neonet_core.batch.backlog import Backlog
from neonet_core.batch.inputs import BatchCase, read_cases
from neonet_core.batch.journal import Journal
from neonet_core.batch.progress import Display, display_for
from neonet_core.batch.results import RESULTS_FILE, Row, row_of_failure, write_results
from neonet_core.batch.storage import free_bytes, is_disk_full, remove_unfinished
from neonet_core.batch.worker import Job, Outcome
from neonet_core.bundle import Bundle, load_bundle, notice
from neonet_core.dicom.identity import KEY_FILE, SECRET_BYTES, Pseudonyms
from neonet_core.errors import NeoNetError
from neonet_core.events import Events, Silent
from neonet_core.training.files import read_json, relative_path, write_json, write_text

BATCH_FORMAT = 1
REPORT_FILE, NAMES_FILE, JOURNAL_FILE, SETTINGS_FILE = "report.html", "names.csv", "journal.jsonl", "settings.json"
RESULTS_EVERY_S = 20.0
"""How often ``results.csv`` is brought up to date while the batch runs."""
PICTURES_BYTES = 5 << 20
"""What report, figure and label map of a case take at most, by 1.8 MB of pictures in base64 and 2 MB of figure."""
PATCH_FILES = 5
"""Volumes of a crop's size that a case may have, with the attention map, which is zero elsewhere."""
SPARE_CASES = 2
"""Space for so many cases must be free before another is begun."""


@dataclass(frozen=True)
class Plan:
    """The cases of a batch and which of them this call runs.

    Attributes
    ----------
    cases : tuple of BatchCase
        All of the input.
    todo : tuple of BatchCase
        To be run now.
    done, failed : int
        Cases that are not run again.
    case_bytes : int
        What a case takes on the disk: the mean of those that are done, or an estimate.
    fingerprints : dict of str to str
        Of all cases, as the journal has them.
    """

    cases: tuple[BatchCase, ...]
    todo: tuple[BatchCase, ...]
    done: int
    failed: int
    case_bytes: int
    fingerprints: dict[str, str] = field(repr=False)


@dataclass(frozen=True)
class Summary:
    """What a batch has come to; the counts are those of the input's cases.

    Attributes
    ----------
    left : int
        Cases without an outcome: not run yet (`--limit`).
    stopped : int
        Of these, cases that a full disk has kept from being run.
    """

    results: Path
    report: Path
    done: int
    failed: int
    left: int
    stopped: int
    flags: dict[str, int]
    notice: str

    @property
    def complete(self) -> bool:
        """Whether nothing failed and nothing was stopped."""
        return self.failed == 0 and self.stopped == 0


def run_batch(source: Path, out: Path, *, bundle: str | Path = "demo", seg_bundle: str | Path | None = None,
              engine: str = "local", workers: int | None = None, threads: int | None = None, limit: int | None = None,
              retry_failed: bool = False, segment_all: bool = False, keep_names: bool = False, device: str = "auto",
              events: Events | None = None) -> Summary:
    """Take all cases of a cohort through a bundle, or go on with it.

    Parameters
    ----------
    source : Path
        See `inputs.read_cases`.
    out : Path
        The batch's folder. The same call goes on there.
    bundle, seg_bundle : str or Path
        See `pipeline.predict_case`.
    engine : {"local", "ray"}
    workers : int or None
        Processes or actors; None: one (local), as many as there is room for (ray).
    threads : int or None
        CPU threads of each worker; None: the cores that there are, shared out (local), or four (ray).
    limit : int or None
        Run at most so many cases now.
    retry_failed : bool
        Run cases again that have failed before.
    segment_all : bool
        Leave out the manifest's label maps: the bundle segments every image.
    keep_names : bool
        Write ``names.csv``, which says whose pseudonym is whose.

    Raises
    ------
    NeoNetError
        ``BATCH_EXISTS``: `out` holds the batch of another input or bundle, or foreign files; ``BATCH_BUSY``; what
        `read_cases`, `load_bundle` and the engines raise. A case that fails is no error.
    """
    events, source, out = events or Silent(), source.resolve(), out.resolve()
    run = ENGINES.get(engine)
    if run is None:
        raise NeoNetError("BAD_ARGUMENT", f"There is no engine '{engine}'.", f"Choose {' or '.join(ENGINES)}.")
    models = _models(bundle, seg_bundle)
    _check_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".lock", timeout=0):  # the system frees it when a process ends, however it ends
            pseudonyms = Pseudonyms.in_folder(out)
            _begin(out, _settings(source, models, pseudonyms))
            remove_unfinished(out)
            journal = Journal(out / JOURNAL_FILE)
            plan = _plan(source, out, models, pseudonyms, journal, limit, retry_failed, segment_all, events)
            if keep_names:
                _write_names(out, source, plan.cases)
            record = _Record(out, plan, journal, models)
            if plan.todo:
                job = Job(out, models[0].folder.resolve(), models[1].folder.resolve(), device,
                          threads or _threads(engine, workers), SPARE_CASES * plan.case_bytes)
                journal.append({"event": "session", "time": _now(), "neonet": __version__, "engine": engine,
                                "device": device, "threads": job.threads, "cases": len(plan.todo)})
                display = display_for(events, len(plan.todo))
                try:
                    run(Backlog(plan.todo, record.failed), job, workers, _Watcher(display, record))
                finally:
                    display.close()
                    remove_unfinished(out)
                    record.write_table()
            return record.close(events)
    except Timeout:
        raise NeoNetError("BATCH_BUSY", f"Another process works in {out}.", "Wait for it, or choose another --out."
                          ) from None


def plan_batch(source: Path, out: Path, *, bundle: str | Path = "demo", seg_bundle: str | Path | None = None,
               limit: int | None = None, retry_failed: bool = False, segment_all: bool = False,
               events: Events | None = None) -> Plan:
    """What `run_batch` would run; nothing is written. The pseudonyms of a batch that has not begun are other ones then.

    Raises
    ------
    NeoNetError
        As `run_batch`, before it runs the first case.
    """
    source, out, models = source.resolve(), out.resolve(), _models(bundle, seg_bundle)
    begun = (out / KEY_FILE).is_file()
    pseudonyms = Pseudonyms.in_folder(out) if begun else Pseudonyms(secrets.token_bytes(SECRET_BYTES))
    _check_folder(out)
    if begun and (out / SETTINGS_FILE).is_file():
        _check_settings(out, _settings(source, models, pseudonyms))
    return _plan(source, out, models, pseudonyms, Journal(out / JOURNAL_FILE), limit, retry_failed, segment_all,
                 events or Silent())


def table(plan: Plan, out: Path) -> str:
    """A plan as text for people."""
    width = max(len(case.case_id) for case in plan.cases)
    lines = [f"  {case.case_id:{width}}  {case.note or (case.error.message if case.error else '')}".rstrip()
             for case in plan.todo]
    needed, free = len(plan.todo) * plan.case_bytes, free_bytes(out)
    lines.append(f"{len(plan.cases)} cases: {plan.done} done, {plan.failed} failed before, {len(plan.todo)} to run "
                 "now.")
    lines.append(f"They need about {_gigabytes(needed)} on the disk; {_gigabytes(free)} are free."
                 + ("" if needed < free else " That is too little."))
    return "\n".join(lines)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


# --- before the run ---------------------------------------------------------------------------------------------------

Models = tuple[Bundle, Bundle]
"""The bundle, and the one that segments, which may be the same."""


def _models(bundle: str | Path, seg_bundle: str | Path | None) -> Models:
    """Both bundles, their files checked once for all workers. Raises ``BUNDLE_DAMAGED``."""
    model = load_bundle(bundle)
    segmenting = model if seg_bundle is None else load_bundle(seg_bundle)
    for one in {id(model): model, id(segmenting): segmenting}.values():
        one.verify()
    return model, segmenting


def _settings(source: Path, models: Models, pseudonyms: Pseudonyms) -> dict[str, Any]:
    """What must stay the same throughout a batch. The input's path may hold a name: it is kept as a pseudonym."""
    model, segmenting = models
    return {"format": BATCH_FORMAT, "input": pseudonyms.patient("", str(source)),
            "bundle": {"name": model.name, "hash": model.hash},
            "seg_bundle": {"name": segmenting.name, "hash": segmenting.hash}}


def _check_folder(out: Path) -> None:
    """Raise ``BATCH_EXISTS`` where a folder holds anything but a batch."""
    # hidden files do not count: the lock and the key of an earlier call, a Mac's .DS_Store
    if out.is_dir() and not (out / SETTINGS_FILE).is_file() and any(
            path.suffix != ".part" and not path.name.startswith(".") for path in out.iterdir()):
        raise NeoNetError("BATCH_EXISTS", f"{out} is not empty and holds no batch.",
                          "Choose another folder with --out.")


def _check_settings(out: Path, settings: dict[str, Any]) -> None:
    before = read_json(out / SETTINGS_FILE)
    if not isinstance(before, dict) or before.get("format") != BATCH_FORMAT:
        raise NeoNetError("BATCH_EXISTS", f"{out} holds something else, or a batch of another version of NeoNet.",
                          "Choose another folder with --out.")
    for key, what in (("input", "input"), ("bundle", "bundle"), ("seg_bundle", "bundle for the segmentation")):
        if before[key] != settings[key]:
            name = f" ({before[key]['name']}, {before[key]['hash'][:12]})" if isinstance(before[key], dict) else ""
            raise NeoNetError("BATCH_EXISTS", f"{out} holds a batch of another {what}{name}.",
                              "Choose another folder with --out: results of two models must not be mixed."
                              if key != "input" else "Choose another folder with --out.")


def _begin(out: Path, settings: dict[str, Any]) -> None:
    if (out / SETTINGS_FILE).is_file():
        _check_settings(out, settings)
    else:
        write_json(out / SETTINGS_FILE, settings)


def _plan(source: Path, out: Path, models: Models, pseudonyms: Pseudonyms, journal: Journal, limit: int | None,
          retry_failed: bool, segment_all: bool, events: Events) -> Plan:
    """Compare the input with the journal. A case whose files have changed is run again, whatever became of it."""
    cases = read_cases(source, out, pseudonyms, events)
    if segment_all:
        cases = [replace(case, label_map=None, label_values=None) for case in cases]
    model, segmenting = models
    if not segmenting.can_segment() and any(case.label_map is None for case in cases):
        raise NeoNetError("NO_SEG_MODEL", f"The bundle '{segmenting.name}' holds no segmentation model.",
                          "Give every case a label map, or name a --seg-bundle.")
    fingerprints = {case.case_id: case.fingerprint() for case in cases}
    todo, counts = [], Counter[str]()
    for case in cases:
        status = _status(journal, case.case_id, fingerprints[case.case_id])
        if status is None or (status == "failed" and retry_failed):
            todo.append(case)
        else:
            counts[status] += 1
    sizes = [entry["size"] for entry in journal.last.values() if entry.get("size")]
    return Plan(tuple(cases), tuple(todo[:limit]), counts["done"], counts["failed"],
                sum(sizes) // len(sizes) if sizes else _estimated_bytes(model), fingerprints)


def _status(journal: Journal, case_id: str, fingerprint: str) -> str | None:
    """``done``, ``failed``, or None for a case that was not run as it is now."""
    entry = journal.last.get(case_id)
    return entry["event"] if entry is not None and entry["fingerprint"] == fingerprint else None


def _estimated_bytes(bundle: Bundle) -> int:
    x, y, z = bundle.record.preset.crop.size
    return PICTURES_BYTES + PATCH_FILES * 4 * x * y * z


def _threads(engine: str, workers: int | None) -> int | None:
    """Local workers share the cores; on a cluster the engine decides."""
    return max((os.cpu_count() or 1) // (workers or 1), 1) if engine == "local" else None


def _write_names(out: Path, source: Path, cases: Sequence[BatchCase]) -> None:
    """Whose pseudonym is whose, for the eyes of whoever asked for it."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["case_id", "image", "series"])
    root = source if source.is_dir() else source.parent
    for case in cases:
        writer.writerow([case.case_id, relative_path(case.image, root), case.series or ""])
    path = out / NAMES_FILE
    path.touch(mode=0o600)
    write_text(path, stream.getvalue())
    os.chmod(path, 0o600)


# --- the run ----------------------------------------------------------------------------------------------------------


class _Record:
    """Takes down what becomes of the cases."""

    def __init__(self, out: Path, plan: Plan, journal: Journal, models: Models) -> None:
        self._out, self._plan, self._journal, self._models = out, plan, journal, models
        self._stopped: set[str] = set()
        self._written = time.monotonic()

    def failed(self, case: BatchCase, error: NeoNetError) -> Outcome:
        return Outcome(case.case_id, "failed", row_of_failure(*self._models, error))

    def note(self, outcome: Outcome) -> Outcome:
        """Write an outcome down; what a full disk does not let it write is left for the next call."""
        if outcome.status != "left":
            try:
                self._journal.append({"event": outcome.status, "case": outcome.case_id,
                                      "fingerprint": self._plan.fingerprints[outcome.case_id], "time": _now(),
                                      "size": outcome.size, "row": outcome.row})
            except OSError as error:
                if not is_disk_full(error):
                    raise
                full = NeoNetError("DISK_FULL", "The disk is full: it is not noted down.",
                                   "Free some space, then give the same command again.")
                outcome = Outcome(outcome.case_id, "left", row_of_failure(*self._models, full))
        if outcome.status == "left":
            self._stopped.add(outcome.case_id)
        if time.monotonic() - self._written > RESULTS_EVERY_S:
            self.write_table()
        return outcome

    def write_table(self) -> bool:
        """Bring ``results.csv`` up to date; False where the disk is full."""
        try:
            write_results(self._out, self._rows())
        except OSError as error:
            if not is_disk_full(error):
                raise
            return False
        finally:
            self._written = time.monotonic()
        return True

    def _rows(self) -> dict[str, Row]:
        return {case_id: entry["row"] for case_id, entry in self._journal.last.items()}

    def close(self, events: Events) -> Summary:
        """Write table and page, and sum up."""
        from neonet_core.batch.cohort_page import write_cohort_page

        rows = self._rows()
        try:
            whole = self.write_table()
            write_cohort_page(self._out / REPORT_FILE, rows, *self._models)
        except OSError as error:
            if not is_disk_full(error):
                raise
            whole = False
        if not whole:
            events.log("The disk is full: results.csv or the report lacks the last cases. The journal has them; give "
                       "the same command again.", "warning")
        status = Counter(_status(self._journal, case.case_id, self._plan.fingerprints[case.case_id])
                         for case in self._plan.cases)
        flags = Counter(flag for case in self._plan.cases if case.case_id in rows
                        for flag in rows[case.case_id]["flags"].split(";") if flag)
        demo = any(model.is_demo for model in self._models)
        return Summary(self._out / RESULTS_FILE, self._out / REPORT_FILE, status["done"], status["failed"],
                       status[None], len(self._stopped) + (not whole), dict(sorted(flags.items())), notice(demo))


class _Watcher:
    """Shows what the workers do, and takes down what becomes of the cases."""

    def __init__(self, display: Display, record: _Record) -> None:
        self._display, self._record = display, record

    def ready(self, worker: int) -> None:
        self._display.ready(worker)

    def started(self, worker: int, case_id: str) -> None:
        self._display.started(worker, case_id)

    def finished(self, worker: int, outcome: Outcome) -> None:
        self._display.finished(worker, self._record.note(outcome))

    def lost(self, worker: int) -> None:
        self._display.lost(worker)

    def tick(self) -> None:
        self._display.tick()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _local(*arguments: Any) -> None:
    from neonet_core.batch.local import run_local

    run_local(*arguments)


def _ray(*arguments: Any) -> None:
    from neonet_core.batch.cluster import run_ray

    run_ray(*arguments)


ENGINES: dict[str, Callable[..., None]] = {"local": _local, "ray": _ray}
