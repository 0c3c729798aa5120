"""The report of an external evaluation: one page, and the same apart."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neonet_core import __version__
from neonet_core.bundle import DEMO_WARNING, RESEARCH_USE_ONLY, notice
from neonet_core.cohort import Cohort
from neonet_core.errors import NeoNetError
from neonet_core.events import Events, Silent
from neonet_core.experiment.reporting.charts import Curve, decision_figure, reliability_figure, roc_figure
from neonet_core.experiment.reporting.gallery import Picture
from neonet_core.experiment.reporting.results import Scores
from neonet_core.experiment.reporting.tables import Table, markdown_text
from neonet_core.external.cases import JudgedCase, judge, overlaps, patients_of, read_results
from neonet_core.external.tables import (
    arrays,
    calibration_table,
    dice_table,
    discrimination_table,
    has_both_classes,
    left_out_table,
    subgroup_table,
)
from neonet_core.figures import NEGATIVE, POSITIVE, Outcome, png
from neonet_core.pages import page_environment
from neonet_core.training.files import write_bytes, write_text


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes
    ----------
    report : Path
        ``evaluation.html``.
    patients, positives : int
        That the figures rest on.
    auc, low, high : float or None
        With DeLong's 95 % interval; None where all patients are of one class.
    """

    report: Path
    patients: int
    positives: int
    auc: float | None
    low: float | None
    high: float | None


def evaluate(results: Path, truth: Cohort, out: Path, *, by: Sequence[str] = (),
             events: Events | None = None) -> Evaluation:
    """Judge what a batch has found in an external cohort.

    Writes ``evaluation.html``, ``evaluation.md``, a CSV for each table and ``cases.csv`` (score and outcome of each
    judged case).

    Parameters
    ----------
    results : Path
        Folder of a batch, or its ``results.csv``.
    truth : Cohort
        With the same case_id; label maps that the batch was not given are compared with the bundle's.
    by : sequence of str
        Columns of the manifest whose groups are looked at apart.

    Raises
    ------
    NeoNetError
        As `read_results`, `judge` and `subgroups` do; ``NO_SCORES`` where no case has both a score and an outcome.
    """
    events = events or Silent()
    found = read_results(results)
    bundle = f"{found.one('bundle')} ({found.one('bundle_hash')[:12]})"
    cases, left_out = judge(found, truth)
    if not cases:
        reasons = ", ".join(sorted({one.reason for one in left_out}))
        raise NeoNetError("NO_SCORES", f"No case has both a score and a known outcome: {reasons}.",
                          "See results.csv, and the manifest's outcome column.")
    patients = patients_of(cases)
    compared, not_compared = overlaps(found, truth, events)
    threshold = found.one("threshold")
    tables = [discrimination_table(patients),
              *([calibration_table(patients, float(threshold) if threshold else None)]
                if has_both_classes(patients) else []),
              dice_table(compared, given=sum(row["label_source"] == "given" for row in found.rows.values())),
              subgroup_table(patients, by),
              left_out_table([*left_out, *not_compared])]
    pictures = charts(patients)
    demo = any("DEMO_MODEL" in one.flags for one in cases)
    for table in tables:
        write_text(out / f"{table.name}.csv", table.csv())
    for picture in pictures:
        if picture.data is not None:
            write_bytes(out / f"{picture.name}.png", picture.data)
    write_text(out / "cases.csv", _cases_table(cases).csv())
    write_text(out / "evaluation.md", _markdown(truth, bundle, notice(demo), tables, pictures))
    write_text(out / "evaluation.html", _html(truth, bundle, demo, len(cases), patients, tables, pictures))
    record = tables[0].records[0]
    return Evaluation(out / "evaluation.html", len(patients), record["positives"], record["auc"],
                      record["delong_low"], record["delong_high"])


def charts(patients: Sequence[JudgedCase]) -> list[Picture]:
    """ROC curve, reliability and decision curve; none where all patients are of one class."""
    if not has_both_classes(patients):
        return []
    score = Curve("score of the bundle", _scores(patients, arrays(patients)[1]), POSITIVE)
    with_volume = [one for one in patients if one.tumour_ml is not None]
    shown = [score]
    if has_both_classes(with_volume):
        volume = np.array([one.tumour_ml for one in with_volume], dtype=float)
        shown.append(Curve("tumour volume alone", _scores(with_volume, volume), NEGATIVE, (4, 2)))
    return [
        Picture("roc", "ROC curves", "AUC with DeLong’s 95 % interval.", png(roc_figure(shown), None)),
        Picture("reliability", "Calibration", "Share of positives against predicted probability, in bins of equal "
                "count with Wilson’s 95 % interval; a calibrated model lies on the diagonal.",
                png(reliability_figure([score]), None)),
        Picture("decision", "Decision curve", "Net benefit, in true positives a patient, at each threshold "
                "probability: a model helps where it lies above both treating all and treating none.",
                png(decision_figure([score]), None))]


def _scores(patients: Sequence[JudgedCase], score: np.ndarray) -> Scores:
    count = len(patients)
    return Scores(tuple(one.patient_id for one in patients), np.zeros(count, dtype=int), arrays(patients)[0], score,
                  np.full(count, np.nan))


def _cases_table(cases: Sequence[JudgedCase]) -> Table:
    rows = [[one.case_id, one.patient_id, one.outcome, one.probability, one.tumour_ml, ";".join(one.flags)]
            for one in cases]
    return Table("cases", "Judged cases",
                 ["case_id", "patient_id", "outcome", "probability", "tumour_ml", "flags"], rows)


def _markdown(truth: Cohort, bundle: str, words: str, tables: Sequence[Table], pictures: Sequence[Picture]) -> str:
    parts = [f"# {markdown_text(Outcome.of(truth.outcome_name).name)}: a bundle on an external cohort", "", words, "",
             f"Bundle {markdown_text(bundle)}.", "", *(table.markdown() for table in tables)]
    for picture in pictures:
        parts += [f"## {picture.title}", "", f"![{picture.title}]({picture.name}.png)", "", picture.caption, ""]
    return "\n".join(parts)


def _html(truth: Cohort, bundle: str, demo: bool, cases: int, patients: Sequence[JudgedCase],
          tables: Sequence[Table], pictures: Sequence[Picture]) -> str:
    environment = page_environment()
    environment.filters["data_uri"] = lambda data: "data:image/png;base64," + base64.b64encode(data).decode("ascii")
    return environment.get_template("evaluation.html").render(
        notice=RESEARCH_USE_ONLY, demo=demo, demo_warning=DEMO_WARNING, outcome=Outcome.of(truth.outcome_name),
        bundle=bundle, cases=cases,
        patients=len(patients), positives=sum(one.outcome for one in patients), first=tables[0].records[0],
        tables=tables, pictures=pictures, neonet=__version__)
