"""`neonet report RUN`: the five tables of a training run beside the paper's, with pictures and checklists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neonet_core.bundle import RESEARCH_USE_ONLY
from neonet_core.errors import NeoNetError
from neonet_core.events import Events, Silent
from neonet_core.experiment.images import measure_images
from neonet_core.experiment.reporting.calibration_table import calibration_table
from neonet_core.experiment.reporting.charts import charts
from neonet_core.experiment.reporting.checklist import checklists
from neonet_core.experiment.reporting.classification_tables import ablation_table, classification_table
from neonet_core.experiment.reporting.comparison_table import comparison_table
from neonet_core.experiment.reporting.gallery import Picture, galleries
from neonet_core.experiment.reporting.image_tables import generation_table, reconstruction_table
from neonet_core.experiment.reporting.report_page import run_html
from neonet_core.experiment.reporting.results import Results
from neonet_core.experiment.reporting.segmentation_table import segmentation_table
from neonet_core.experiment.reporting.tables import Table, latex_document, markdown_text
from neonet_core.experiment.run import Run
from neonet_core.training.device import choose_device
from neonet_core.training.files import write_bytes, write_text


def write_report(run: Run, out: Path | None = None, *, inception: Path | None = None, lpips: Path | None = None,
                 device: str = "auto", events: Events | None = None) -> Path:
    """Write ``report.html`` with all tables and pictures, and the same apart.

    ``report.md``, ``report.tex``, a CSV for each table, a PNG for each picture, ``checklist.md``. What has not been run
    is said where it would stand.

    Parameters
    ----------
    out : Path or None
        Folder; None: ``report`` in the run's.
    inception, lpips : Path or None
        Weights (safetensors) for FID and LPIPS; see `images.measure_images`.

    Returns
    -------
    Path
        ``report.html``.

    Raises
    ------
    NeoNetError
        ``NOT_A_RUN``; ``NOTHING_TRAINED`` where no stage is done that a table could show; ``BAD_WEIGHTS``,
        ``MISSING_PACKAGE``.
    """
    events, out = events or Silent(), out or run.folder / "report"
    chosen = choose_device(device)
    results = Results(run)
    measured = {fold: figures for fold in range(results.folds)
                if (figures := measure_images(run, fold, chosen, events, inception, lpips))}
    if not measured and not results.any_model:
        raise NeoNetError("NOTHING_TRAINED", f"{run.folder.name} holds no model that was trained with the settings of "
                          "its last 'neonet train'.", "Run 'neonet train' with these settings first.")
    tables, pictures = _tables(results, measured), [*charts(results), *galleries(results, chosen)]
    copies = copies_lines([figures["copies"] for figures in measured.values() if figures.get("copies")])
    lists = checklists(results)
    for picture in pictures:
        (out / f"{picture.name}.png").unlink(missing_ok=True)  # that of an earlier report
        if picture.data is not None:
            write_bytes(out / f"{picture.name}.png", picture.data)
    for table in tables:
        write_text(out / f"{table.name}.csv", table.csv())
    write_text(out / "report.tex", latex_document(_title(results), RESEARCH_USE_ONLY, tables))
    write_text(out / "report.md", _markdown(results, tables, pictures, copies))
    write_text(out / "checklist.md", "\n".join(["# Reporting checklists", "", RESEARCH_USE_ONLY, "",
                                                *(table.markdown() for table in lists)]))
    write_text(out / "report.html", run_html(results, tables, pictures, copies, lists))
    return out / "report.html"


def _tables(results: Results, measured: Mapping[int, dict[str, Any]]) -> list[Table]:
    return [segmentation_table(results), classification_table(results), comparison_table(results),
            calibration_table(results), reconstruction_table(results, measured), generation_table(results, measured),
            ablation_table(results)]


def _title(results: Results) -> str:
    return f"{results.run.settings()['outcome']}: report of a training run"


def _markdown(results: Results, tables: Sequence[Table], pictures: Sequence[Picture], copies: Sequence[str]) -> str:
    parts = [f"# {markdown_text(_title(results))}", "", RESEARCH_USE_ONLY, "", *(table.markdown() for table in tables)]
    for picture in pictures:
        shown = [] if picture.data is None else [f"![{picture.title}]({picture.name}.png)", ""]
        parts += [f"## {picture.title}", "", *shown, markdown_text(picture.caption), ""]
    if copies:
        parts += ["## Copies of training patients", "", *(f"- {line}" for line in copies), ""]
    return "\n".join([*parts, "## Reporting checklists", "", "[checklist.md](checklist.md)", ""])


def copies_lines(copies: Sequence[dict]) -> list[str]:
    """What the check for copies of training patients has found, one line a fold."""
    lines = []
    for check in copies:
        figures = check["pixels"]
        line = (f"{len(figures['flagged'])} of {figures['samples']} samples lie nearer to a training patch than 1 % "
                "of the real patches do.")
        share = figures["nearer_training_without_mask_source"] or figures["nearer_training"]
        if check["part"] == "evaluation":
            line += (" They follow masks of held-out patients, to whom that draws them: how often the nearest patch is "
                     "a training one says nothing here.")
        elif share is not None:
            low, high = share["by_chance"]
            line += (f" Share nearer to a training than to a held-out patch: {share['share']:.2f} (0.5 without copies; "
                     f"by chance {low:.2f} to {high:.2f}, p = {share['p_value']:.2f}).")
        lines.append(line)
    return lines
