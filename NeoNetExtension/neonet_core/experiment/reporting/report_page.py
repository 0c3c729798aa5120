"""The page of a run: one self-contained HTML file, no script, nothing external, no path and no patient in it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from neonet_core import __version__
from neonet_core.bundle import RESEARCH_USE_ONLY
from neonet_core.experiment.graph import segmentor_stage
from neonet_core.experiment.reporting.classification_tables import auc_record, known_aucs, ratio_name
from neonet_core.experiment.reporting.gallery import Picture
from neonet_core.experiment.reporting.paper import TABLE_1
from neonet_core.experiment.reporting.results import PROTOCOLS, Results, folds_text
from neonet_core.experiment.reporting.tables import Table
from neonet_core.experiment.trained import own_segmentor
from neonet_core.figures import Outcome
from neonet_core.pages import page_environment
from neonet_core.training.files import read_json

SECTIONS = (
    ("Segmentation (NeoSeg)", ("table1",), ("labels",)),
    ("Classification (NeoCls)", ("table2", "table2b"), ("roc",)),
    ("Calibration and thresholds", ("table2c",), ("reliability", "decision")),
    ("Generation (NeoGen)", ("table3", "table4"), ("reconstructions", "patches")),
    ("Parts of PattenNet", ("table5",), ()),
)
"""Headings, and the tables and pictures that stand below them."""


def run_html(results: Results, tables: Sequence[Table], pictures: Sequence[Picture], copies: Sequence[str],
             checklists: Sequence[Table]) -> str:
    """The page; all text is escaped."""
    environment = page_environment()
    environment.filters["data_uri"] = lambda data: "data:image/png;base64," + base64.b64encode(data).decode("ascii")
    by_name, drawn = {table.name: table for table in tables}, {picture.name: picture for picture in pictures}
    settings, quality = results.run.settings(), read_json(results.run.folder / "quality.json")
    return environment.get_template("run.html").render(
        notice=RESEARCH_USE_ONLY, outcome=Outcome.of(settings["outcome"]), preset=results.preset, settings=settings,
        protocol=PROTOCOLS[results.preset.protocol], cases=len(quality["included"]), quality=quality,
        folds=results.folds, key_figures=_key_figures(results), copies=copies, checklists=checklists,
        environment=settings["environment"], neonet=__version__,
        sections=[(title, [by_name[name] for name in its_tables], [drawn[name] for name in its_pictures])
                  for title, its_tables, its_pictures in SECTIONS])


def _key_figures(results: Results) -> list[dict[str, Any]]:
    """What a reader looks for first: Dice of the run's network, AUC without and with synthetic cases."""
    network = own_segmentor(results.run)
    segmentation = results.stage(segmentor_stage(results.preset, network))
    dice = [figures["dice"] for figures in segmentation.figures.values()]
    shown = [{"name": f"Dice, {network}", "value": f"{sum(dice) / len(dice):.3f}" if dice else None,
              "why": segmentation.why, "details": [f"mean of {len(dice)} of {results.folds} folds"],
              "paper": f"{TABLE_1[network]:.4f}" if network in TABLE_1 else None}]
    for ratio in dict.fromkeys((0, results.highest_ratio)):
        record = auc_record(results, "PattenNet", ratio)
        value, pooled = record["auc_mean_of_folds"], record["auc_pooled"]
        details = [f"mean of {len(known_aucs(record))} of {record['folds']} folds"]
        if pooled is not None:
            details.append(f"pooled {pooled:.3f}, 95 % interval {record['delong_low']:.3f} to "
                           f"{record['delong_high']:.3f}")
        if folds := results.without_synthetic(ratio):
            details.append(f"no synthetic case in {folds_text(folds)}")
        shown.append({"name": f"AUC, PattenNet, {ratio_name(ratio)}",
                      "value": None if value is None else f"{value:.3f}", "why": record["missing"], "details": details,
                      "paper": None if record["paper"] is None else f"{record['paper']:.4f}"})
    return shown
