"""The report of one case: a self-contained HTML page for a radiologist with 20 seconds and an auditor with an hour.

The page holds no patient identity but the case's name, no path, no date, no script and nothing external; equal
results give equal pages.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neonet_core import __version__
from neonet_core.bundle import DEMO_WARNING, RESEARCH_USE_ONLY
from neonet_core.figures import (
    LIVER,
    TILE_PIXELS,
    TUMOUR,
    Outcome,
    Slice,
    attention_bar,
    lay_attention_over,
    plane_shares,
    png,
    probability,
    score_figure,
    slice_figure,
    tilt_degrees,
    with_spread,
)
from neonet_core.flags import NO_SCORE_FLAGS
from neonet_core.pages import page_environment
from neonet_core.pipeline import CaseResult, Score, TumourPatch
from neonet_core.training.files import write_text
from neonet_core.volume import Volume

if TYPE_CHECKING:
    from jinja2 import Template

TILT_TO_MENTION = 5.0
"""Degrees between the image's axes and the patient's from which on the page says so."""
LITTLE_ATTENTION = 0.05
"""A range of attention weights below this is called next to none: the map's colours are stretched to its range."""
LONG_LIST = 10

PROTOCOLS = {
    "rigorous": "each fold stopped training on an inner part of its training cases; the held-out cases were "
                "scored once",
    "paper": "each fold picked its best epoch on the very cases that it reports, which makes these figures too good",
}
METRIC_NAMES = {
    "auc_out_of_fold": "AUC, out of fold", "auc": "AUC", "auc_of_tumour_volume": "AUC of the tumour's volume alone",
    "dice": "Dice, mean of liver and tumour", "dice_liver": "Dice, liver", "dice_tumour": "Dice, tumour",
    "dice_liver_and_tumour": "Dice, liver with tumour", "delong_95": "95 % interval (DeLong)",
    "bootstrap_95": "95 % interval (bootstrap)", "positives": "positive", "by_fold": "by fold",
}
STEPS = {"segment": "Segmentation", "measure": "Measurements", "crop": "Crop", "classify": "Score"}

Row = tuple[str, str]


def write_case_report(result: CaseResult, out: Path) -> Path:
    """Write the report of a case as one HTML file, whole or not at all.

    Parameters
    ----------
    result : CaseResult
    out : Path
        The file, e.g. ``report.html``.

    Returns
    -------
    Path
        `out`.
    """
    write_text(out, case_html(result))
    return out


def case_html(result: CaseResult) -> str:
    """The page of a case; all text is escaped."""
    return _template().render(_content(result))


@cache
def _template() -> Template:
    """The page's template, compiled once for a whole batch (0.014 s)."""
    environment = page_environment()
    environment.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:]
    return environment.get_template("case.html")


def _content(result: CaseResult) -> dict[str, Any]:
    """All that the template shows."""
    record, demo = result.bundle.record, result.is_demonstration
    planes = result.views.planes
    return {
        "notice": RESEARCH_USE_ONLY, "demo": demo, "demo_warning": DEMO_WARNING, "case": result.case,
        "outcome": Outcome.of(record.outcome), "record": record, "hash": result.bundle.hash, "neonet": __version__,
        "flags": result.flags, "key_facts": key_facts(result),
        "score": None if result.score is None else _score(result, result.score),
        "no_score": why_no_score(result), "planes": _planes(result), "shares": plane_shares(planes),
        "tilt": _tilt(result.image), "seen": _what_is_seen(result, planes),
        "patch": None if result.patch is None else _patch(result, result.patch),
        "measurements": _measurements(result), "grid": _grid(result.image),
        "label_source": result.label_source, "protocol": _protocol(record.metrics),
        "metrics": metric_rows({key: value for key, value in record.metrics.items() if key != "protocol"}),
        "seconds": [(STEPS.get(step, _words(step)), f"{value:.2f} s") for step, value in result.seconds.items()],
        "members": ", ".join(str(member.fold) for member in record.members),
        "colours": {"liver": LIVER, "tumour": TUMOUR}}


# --- the score --------------------------------------------------------------------------------------------------------


def _score(result: CaseResult, score: Score) -> dict[str, Any]:
    record = result.bundle.record
    outcome, cohort = Outcome.of(record.outcome), "simulated training cohort" if result.is_demonstration else (
        "training cohort")
    value, _, spread = with_spread(score.members).partition(" ± ")
    return {"value": value, "spread": spread, "members": [probability(member) for member in score.members],
            "threshold": _against_threshold(score), "standing": _standing(result, score, outcome, cohort),
            "cohort": cohort, "chart": _data_uri(png(score_figure(result))),
            "alt": f"Score {with_spread(score.members)} on a line from 0 to 1, above the out-of-fold scores of "
                   f"{len(record.out_of_fold)} cases of the {cohort} by outcome."}


def _against_threshold(score: Score) -> str:
    if score.threshold is None:
        return "The bundle names no operating threshold."
    threshold, members = f"{score.threshold:.2f}", score.members
    side = "at or above" if score.probability >= score.threshold else "below"
    text = f"The score lies {side} the operating threshold of {threshold}"
    above = sum(member >= score.threshold for member in members)
    if 0 < above < len(members):
        return f"{text}, but the members disagree: {above} of {len(members)} lie at or above it."
    return f"{text}, as do all members." if len(members) > 1 else f"{text}."


def _standing(result: CaseResult, score: Score, outcome: Outcome, cohort: str) -> str:
    """Where the score stands among the out-of-fold scores, in words."""
    parts, owner = [], f"the {cohort}’s"
    for group, value in (("negative", 0), ("positive", 1)):
        count = sum(one.outcome == value for one in result.bundle.record.out_of_fold)
        if count and group in score.share_below:
            share = score.share_below[group]
            amount = "none" if share == 0 else "all" if share == 1 else f"{100 * min(max(share, 0.01), 0.99):.0f} %"
            parts.append(f"{amount} of {owner} {count} {outcome.group(value)} scores")
            owner = "its"
    if not parts:
        return "The bundle keeps no out-of-fold scores to compare with."
    return f"Higher than {' and '.join(parts)}."


def why_no_score(result: CaseResult) -> list[str]:
    """In words why a result has no score; empty where it has one."""
    if result.score is not None:
        return []
    return [flag.message for flag in result.flags if flag.code in NO_SCORE_FLAGS] or ["No score was made."]


# --- pictures ---------------------------------------------------------------------------------------------------------


def _data_uri(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode("ascii")


def _planes(result: CaseResult) -> list[dict[str, Any]]:
    return [{"name": plane.name, "alt": f"Slice of the input image, {plane.name}, {_seen(plane)}.",
             "source": _data_uri(png(slice_figure(plane, result.views.limits)))} for plane in result.views.planes]


def _what_is_seen(result: CaseResult, planes: Sequence[Slice]) -> dict[str, Any]:
    """Which contours the planes show, and why they lie where they do."""
    tumour, liver = any(one.tumour.any() for one in planes), any(one.liver.any() for one in planes)
    where = ("where the tumour’s area is largest" if tumour else "through the crop’s centre" if result.patch else
             f"through the {'liver' if result.measurements.liver_ml else 'volume'}’s centre")
    return {"tumour": tumour, "liver": liver, "where": where}


def _seen(plane: Slice) -> str:
    parts = [name for name, mask in (("liver", plane.liver), ("tumour", plane.tumour)) if mask.any()]
    found = f"with the contours of {' and '.join(parts)}" if parts else "without liver or tumour"
    return found + (" and the outline of the crop" if plane.box_mm else "")


def _patch(result: CaseResult, patch: TumourPatch) -> dict[str, Any]:
    weights = result.views.weights
    word = "demonstration attention map" if result.is_demonstration else "attention map"
    tiles = []
    for shown in result.views.tiles:
        figure = slice_figure(shown, (0, 1), TILE_PIXELS)
        tiles.append({"name": shown.name, "alt": f"Slice of the crop, {shown.name}, {_seen(shown)}.",
                      "source": _data_uri(png(figure)), "attention": None,
                      "attention_alt": f"The same slice with the {word} laid over it."})
        if weights is not None:  # on the figure that stands already: a new one would cost 6 ms more
            lay_attention_over(figure.axes[0], shown, weights)
            tiles[-1]["attention"] = _data_uri(png(figure))
    facts = patch.describe()
    crop = [("Size", f"{_times(facts['size'])} voxels"), ("Spacing", f"{_times(facts['spacing_mm'], 2)} mm"),
            ("Centre", f"R {facts['center_ras_mm'][0]:.1f}, A {facts['center_ras_mm'][1]:.1f}, "
                       f"S {facts['center_ras_mm'][2]:.1f} mm"),
            ("Tumour inside the crop", f"{100 * facts['coverage']:.1f} % of {facts['tumour_voxels']:,} voxels")]
    return {"tiles": tiles, "crop": crop, "weights": None if weights is None else {
        "low": f"{weights[0]:.3f}", "high": f"{weights[1]:.3f}", "little": weights[1] - weights[0] < LITTLE_ATTENTION,
        "bar": _data_uri(png(attention_bar(), None))}}


def _tilt(image: Volume) -> str | None:
    tilt = tilt_degrees(image)
    return f"{tilt:.0f}°" if tilt >= TILT_TO_MENTION else None


# --- tables -----------------------------------------------------------------------------------------------------------


def key_facts(result: CaseResult) -> str:
    """Sizes of tumour and liver in one line."""
    measured = result.measurements
    if measured.tumour_ml == 0:
        return f"No tumour · liver {_millilitres(measured.liver_ml)}"
    many = f"{measured.tumours} tumours, " if measured.tumours > 1 else "Tumour "
    return (f"{many}{_millilitres(measured.tumour_ml)}, largest diameter {measured.tumour_diameter_mm:.0f} mm · "
            f"liver {_millilitres(measured.liver_ml)}")


def _measurements(result: CaseResult) -> list[Row]:
    measured = result.measurements
    return [("Liver without tumour", _millilitres(measured.liver_ml)), ("Tumour", _millilitres(measured.tumour_ml)),
            ("Tumour’s share of liver and tumour", f"{100 * measured.tumour_share:.1f} %"),
            ("Largest diameter of the largest tumour",
             f"{measured.tumour_diameter_mm:.1f} mm" if measured.tumours else "–"),
            ("Number of tumours", str(measured.tumours)), ("Label map", result.label_source)]


def _grid(image: Volume) -> list[Row]:
    return [("Size", f"{_times(image.shape)} voxels"), ("Spacing", f"{_times(image.spacing, 2)} mm"),
            ("Axes run towards", ", ".join({"R": "right", "L": "left", "A": "anterior", "P": "posterior",
                                            "S": "superior", "I": "inferior"}[letter] for letter in image.orientation)
             + f" ({image.orientation})"),
            ("Tilt against the patient’s axes", f"{tilt_degrees(image):.1f}°")]


def _millilitres(value: float) -> str:
    digits = 0 if value >= 100 or value == 0 else 1 if value >= 1 else 3
    return f"{value:.{digits}f} ml"


def _times(values: Sequence[float], digits: int = 0) -> str:
    return " × ".join(f"{value:.{digits}f}" for value in values)


def _protocol(metrics: Mapping[str, Any]) -> str:
    name = metrics.get("protocol")
    if not isinstance(name, str):
        return "not named"
    return f"“{name}”: {PROTOCOLS[name]}" if name in PROTOCOLS else f"“{name}”"


def metric_rows(metrics: Mapping[str, Any], level: int = 0) -> list[tuple[int, str, str, str]]:
    """Rows of a table of metrics, whatever is in them.

    Parameters
    ----------
    metrics : mapping
        Numbers, strings, lists, mappings with `value` or `mean` and what belongs to it (intervals, counts), or groups
        of these.

    Returns
    -------
    list of (level, name, value, details)
        Level 1 stands under the group before it, and so on; a group has no value, its counts are its details.
    """
    rows = []
    for key, value in metrics.items():
        name = METRIC_NAMES.get(key, _words(key))
        if isinstance(value, Mapping):
            main = next((part for part in ("value", "mean") if part in value), None)
            if main is None:
                counts = {part: count for part, count in value.items() if type(count) is int}
                rows.append((level, name, "", "; ".join(_detail(*count) for count in counts.items())))
                rows += metric_rows({part: one for part, one in value.items() if part not in counts}, level + 1)
            else:
                rest = [_detail(part, content) for part, content in value.items() if part != main]
                rows.append((level, name + ", mean" * (main == "mean" and key != "dice"), _text(value[main]),
                             "; ".join(rest)))
        else:
            rows.append((level, name, _text(value), ""))
    return rows


def _detail(key: str, value: Any) -> str:
    name = METRIC_NAMES.get(key, _words(key))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value} {name}"
    if isinstance(value, list) and len(value) == 2 and key not in ("by_fold",):
        return f"{name} {_text(value[0])} to {_text(value[1])}"
    return f"{name} {_text(value)}"


def _text(value: Any) -> str:
    """A value of unknown kind, for people."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}" if np.isfinite(value) and abs(value) < 1000 else f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        if len(value) > LONG_LIST and all(isinstance(one, (int, float)) for one in value):
            return f"{len(value)} values from {_text(min(value))} to {_text(max(value))}"
        return ", ".join(map(_text, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(str(key))} {_text(one)}" for key, one in value.items())
    return str(value)


def _words(key: str) -> str:
    words = key.replace("_", " ").strip()
    return words[:1].lower() + words[1:]
