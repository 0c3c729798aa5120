"""All DICOM objects of a result: segmentation, structured report and report page, in the study of their source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neonet_core.dicom.capture import make_capture
from neonet_core.dicom.objects import SourceModel, save
from neonet_core.dicom.seg import make_seg
from neonet_core.dicom.source import read_source
from neonet_core.dicom.sr import make_sr

if TYPE_CHECKING:
    from neonet_core.pipeline import CaseResult

SEG_FILE, SR_FILE, SC_FILE = "label.seg.dcm", "report.sr.dcm", "report.sc.dcm"


def write_dicom_outputs(result: CaseResult, source_files: Sequence[Path], out: Path) -> list[Path]:
    """Write ``label.seg.dcm``, ``report.sr.dcm`` and ``report.sc.dcm``.

    They carry the identity of the source's patient and study, as the standard asks, and are the only files of a case
    that do. Equal results on the same source give byte for byte equal files.

    Parameters
    ----------
    result : CaseResult
    source_files : sequence of Path
        All files of the source series, in any order (`neonet_core.dicom_series.series_files`).
    out : Path
        Folder.

    Returns
    -------
    list of Path
        What was written; without the segmentation where the label map is empty, which the report then says.

    Raises
    ------
    NeoNetError
        ``MISSING_PACKAGE`` without highdicom, ``GRID_MISMATCH`` where the result is of another series; as
        `read_source`. Nothing is written then.
    """
    source = read_source(source_files)
    segmentation = make_seg(result.label_map, source, SourceModel.of(result))
    objects = {SEG_FILE: segmentation, SR_FILE: make_sr(result, source, segmentation),
               SC_FILE: make_capture(result, source)}
    for name in objects:
        (out / name).unlink(missing_ok=True)  # of an earlier call: it must not lie beside a report of now
    return [save(dataset, out / name) for name, dataset in objects.items() if dataset is not None]
