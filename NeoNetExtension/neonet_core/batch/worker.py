"""A worker: holds the models, and takes one case after the other to its folder."""

from __future__ import annotations

import gc
import os
import tempfile
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from neonet_core.batch.inputs import BatchCase, no_series
from neonet_core.batch.results import CASES_FOLDER, STEPS, Row, row_of_failure, row_of_result
from neonet_core.batch.storage import SCRATCH, free_bytes, is_disk_full, size_of, whole_folder
from neonet_core.bundle import Bundle, load_bundle
from neonet_core.errors import NeoNetError
from neonet_core.pipeline import CaseResult, predict_case, write_case
from neonet_core.training.files import write_bytes, write_text
from neonet_core.volume import Volume, read_volume

if TYPE_CHECKING:
    import torch

    from neonet_core.classification.pattennet import PattenNet
    from neonet_core.generation.autoencoder import FeatureEncoder
    from neonet_core.segmentation.inference import Segmentor

THUMBNAIL = "thumbnail.png"
THUMBNAIL_PIXELS = 160
FAULTS_FOLDER = "faults"
"""Of the batch's folder: tracebacks of faults of ours, a file for each case."""


@dataclass(frozen=True)
class Job:
    """What all workers of a batch are told.

    Attributes
    ----------
    out : Path
        The batch's folder.
    bundle, seg_bundle : Path
        Folders of the bundles; equal where one does both.
    device : str
    threads : int or None
        CPU threads of each worker; None: as torch has it.
    reserve : int
        Bytes that must be free before a case is begun.
    """

    out: Path
    bundle: Path
    seg_bundle: Path
    device: str
    threads: int | None
    reserve: int


@dataclass(frozen=True)
class Outcome:
    """What has become of a case.

    Attributes
    ----------
    status : str
        ``done``; ``failed``; ``left`` where the machine is to blame (a full disk): another call tries it again.
    row : dict
        Its row in ``results.csv``, with its seconds.
    size : int
        Bytes of its folder.
    """

    case_id: str
    status: str
    row: Row
    size: int = 0


@dataclass(frozen=True)
class ResidentBundle(Bundle):
    """A bundle whose networks were loaded once and stay where they are."""

    loaded_segmentors: tuple[Segmentor, ...] = ()
    loaded_classifiers: tuple[tuple[FeatureEncoder, PattenNet], ...] = ()

    @staticmethod
    def load(bundle: Bundle, device: torch.device, *, segments: bool, classifies: bool) -> ResidentBundle:
        """Load what is needed and there. Raises ``BUNDLE_DAMAGED``."""
        return ResidentBundle(
            bundle.folder, bundle.record,
            tuple(bundle.segmentors(device)) if segments and bundle.can_segment() else (),
            tuple(bundle.classifiers(device)) if classifies and bundle.can_classify() else ())

    def segmentors(self, device: torch.device) -> list[Segmentor]:
        return list(self.loaded_segmentors) or super().segmentors(device)  # super() says why there are none

    def classifiers(self, device: torch.device) -> list[tuple[FeatureEncoder, PattenNet]]:
        return list(self.loaded_classifiers) or super().classifiers(device)


class Worker:
    """Loads the models on its device and works within its threads.

    Raises
    ------
    NeoNetError
        ``NO_DEVICE``, ``BUNDLE_DAMAGED``, ``UNKNOWN_BUNDLE``.
    """

    def __init__(self, job: Job) -> None:
        from neonet_core.training.device import choose_device

        if job.threads is not None:
            _limit_threads(job.threads)
        scratch = job.out / SCRATCH
        scratch.mkdir(exist_ok=True)
        tempfile.tempdir = str(scratch)
        self._job, self._device = job, choose_device(job.device)
        self._same = job.bundle == job.seg_bundle
        self.bundle = ResidentBundle.load(load_bundle(job.bundle), self._device, segments=self._same, classifies=True)
        self.segmenting = self.bundle if self._same else ResidentBundle.load(
            load_bundle(job.seg_bundle), self._device, segments=True, classifies=False)
        gc.collect()
        gc.freeze()  # libraries and models stay: to look through them again took 0.26 s in every third case

    def run(self, case: BatchCase) -> Outcome:
        """Take a case from its files to its folder; whatever goes wrong with it is its outcome."""
        begun = time.monotonic()
        seconds: dict[str, float] = {}
        try:
            if case.error is not None:
                raise case.error
            if free_bytes(self._job.out) < self._job.reserve:
                raise NeoNetError("DISK_FULL", "There is too little space on the disk for another case.",
                                  "Free some space, then give the same command again.")
            row, size, status = *self._run(case, seconds), "done"
        except Exception as error:  # one bad case must not end a batch of hundreds
            fault = self._fault(error, case)
            row, size = row_of_failure(self.bundle, self.segmenting, fault), 0
            status = "left" if fault.code == "DISK_FULL" else "failed"
        row["seconds"] = round(time.monotonic() - begun, 2)
        row |= {f"seconds_{step}": round(seconds[step], 2) for step in STEPS if step in seconds}
        return Outcome(case.case_id, status, row, size)

    def _run(self, case: BatchCase, seconds: dict[str, float]) -> tuple[Row, int]:
        begun = time.monotonic()
        case, image, label_map = read_case(case)
        seconds["read"] = time.monotonic() - begun
        result = predict_case(image, label_map=label_map, bundle=self.bundle,
                              seg_bundle=None if self._same else self.segmenting, case=case.case_id,
                              device=self._device.type)
        seconds |= result.seconds
        begun = time.monotonic()
        # without the times, which stand in results.csv, equal cases give equal files
        result, final = replace(result, seconds={}), self._job.out / CASES_FOLDER / case.case_id
        with whole_folder(final) as folder:
            write_case(result, folder)
            write_bytes(folder / THUMBNAIL, thumbnail(result))
            lacking = _write_dicom(case, result, folder) if case.is_dicom else ""
        seconds["write"] = time.monotonic() - begun
        note = "; ".join(filter(None, (case.note, case.anonymous(lacking))))
        return row_of_result(result, self.segmenting, label_map is not None, note), size_of(final)

    def _fault(self, error: Exception, case: BatchCase) -> NeoNetError:
        """What went wrong in words for the user, without the names of the case's files."""
        from neonet_core.training.device import is_out_of_memory

        if is_disk_full(error):
            return NeoNetError("DISK_FULL", "The disk is full.", "Free some space, then give the same command again.")
        # their own messages list the series' descriptions, in which names are found
        wrong_series = {"SEVERAL_SERIES": f"It holds several series {case.series}.",
                        "SERIES_NOT_FOUND": f"It holds no series {case.series}."}
        if isinstance(error, NeoNetError) and error.code in wrong_series:
            return NeoNetError(error.code, wrong_series[error.code],
                               "'neonet cohort from-dicom' lists the series of each case.")
        if isinstance(error, NeoNetError):
            return NeoNetError(error.code, case.anonymous(error.message), case.anonymous(error.hint))
        if is_out_of_memory(error):
            return NeoNetError("OUT_OF_MEMORY", "There was not enough memory for this case.",
                               "Run it with fewer --workers, or with --device cpu: --retry-failed.")
        path = self._job.out / FAULTS_FOLDER / f"{case.case_id}.txt"
        write_text(path, case.anonymous("".join(traceback.format_exception(error))))
        return NeoNetError("INTERNAL", f"NeoNet failed: {type(error).__name__}.",
                           f"This is a fault of ours; the details are in {FAULTS_FOLDER}/{case.case_id}.txt")


def read_case(case: BatchCase) -> tuple[BatchCase, Volume, Volume | None]:
    """A case with its series chosen, its image and the label map that it was given."""
    from neonet_core.cohort import read_case_labels

    try:
        image = read_volume(case.image, case.series)
    except NeoNetError as error:
        if error.code != "SEVERAL_SERIES" or case.series:  # what the user has chosen is not chosen anew
            raise
        case = _with_series(case)
        image = read_volume(case.image, case.series)
    return case, image, None if case.label_map is None else read_case_labels(case.label_map, case.label_values)


def _with_series(case: BatchCase) -> BatchCase:
    """The case with the series that looks like the hepatobiliary phase. Raises ``NO_SERIES``."""
    from neonet_core.dicom.studies import find_studies

    studies = find_studies(case.image)
    if len(studies) > 1:
        raise NeoNetError("NO_SERIES", f"There are {len(studies)} studies, not one.", "Give each a row of its own.")
    study = studies[0]
    if study.chosen is None:
        raise no_series(study.reason)
    return replace(case, series=study.chosen.selector or None, note=study.reason)


def _write_dicom(case: BatchCase, result: CaseResult, folder: Path) -> str:
    """The results as DICOM objects of the patient's study; no other output carries its identity.

    Returns
    -------
    str
        Why there are none: headers of which no valid object can be made cost no score.
    """
    from neonet_core.dicom.outputs import write_dicom_outputs
    from neonet_core.dicom_series import series_files
    from neonet_core.training.device import is_out_of_memory

    try:
        with series_files(case.image, case.series) as files:
            write_dicom_outputs(result, files, folder)
    except Exception as error:
        if is_disk_full(error) or is_out_of_memory(error):
            raise
        for path in folder.glob("*.dcm"):
            path.unlink()
        # the words of others may quote a header
        return f"no DICOM objects: {error.message if isinstance(error, NeoNetError) else type(error).__name__}"
    return ""


def thumbnail(result: CaseResult) -> bytes:
    """A small axial slice through the tumour with the contours, as PNG."""
    from matplotlib.figure import Figure

    from neonet_core.figures import DPI, draw_slice, png

    shown = result.views.planes[0]
    width, height = shown.size_mm
    unit = THUMBNAIL_PIXELS / max(width, height) / DPI
    figure = Figure(figsize=(max(width * unit, 0.3), max(height * unit, 0.3)), dpi=DPI, facecolor="black")
    draw_slice(figure.add_axes((0, 0, 1, 1)), shown, result.views.limits, letters=6, line=1)
    return png(figure)


def _limit_threads(threads: int) -> None:
    import torch

    from neonet_core.volume import simpleitk

    torch.set_num_threads(threads)
    simpleitk().ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def be_quiet() -> None:
    """Send what libraries print to nowhere: it would disturb the table, and may quote a patient's header."""
    import warnings

    warnings.simplefilter("ignore")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)
