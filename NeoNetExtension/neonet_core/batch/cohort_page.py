"""The page of a batch: scores against the training cohort, a worklist by score, flags, drift, and what failed.

Thumbnails and reports are linked, not held, so that the page of a thousand cases opens at once; it holds no path but
those of the batch's own folder, no date and no script, and equal results give equal pages.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neonet_core import __version__
from neonet_core.batch.results import CASES_FOLDER, Row
from neonet_core.batch.worker import THUMBNAIL
from neonet_core.bundle import DEMO_WARNING, RESEARCH_USE_ONLY, Bundle
from neonet_core.figures import INK, NEGATIVE, POSITIVE, QUIET, Outcome, png, probability
from neonet_core.flags import NO_SCORE_FLAGS
from neonet_core.pages import page_environment
from neonet_core.training.files import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 20
FACTS = {
    "spacing_x": ("Voxel spacing, right to left", "mm"), "spacing_y": ("Voxel spacing, front to back", "mm"),
    "spacing_z": ("Voxel spacing, feet to head", "mm"), "liver_ml": ("Liver without tumour", "ml"),
    "tumour_ml": ("Tumour", "ml"), "liver_intensity": ("Mean intensity of the liver", "of the image’s range"),
    "tumour_intensity": ("Mean intensity of the tumour", "of the image’s range"),
}
"""What can drift, by the names of `BundleRecord.ranges` and of the columns of results.csv."""
MUCH_DRIFT = 0.2
"""Share of cases outside the training cohort's range from which on the page says so."""
FLAG_WORDS = {
    "DEMO_MODEL": "the model knows simulated images only", "NO_TUMOUR": "no tumour was found",
    "NO_LIVER": "a tumour without a liver", "NO_PNI_MODEL": "the bundle holds no PNI model",
    "WRONG_MODALITY": "not an MRI", "WRONG_BODY_PART": "no liver, or not a whole one",
    "SPACING_FAR": "voxel spacing far from the training cohort’s",
    "INTENSITIES_FAR": "intensities far from the training cohort’s",
    "TUMOUR_LARGER_THAN_CROP": "a part of the tumour was not looked at",
    "TUMOUR_SHARE": "the tumour is most of the liver",
}


def write_cohort_page(path: Path, rows: Mapping[str, Row], bundle: Bundle, segmenting: Bundle) -> Path:
    """Write the page of a batch, whole or not at all.

    Parameters
    ----------
    path : Path
        In the batch's folder, as it links to the cases there.
    rows : mapping of str to dict
        Rows of ``results.csv`` by case_id.
    bundle, segmenting : Bundle
        Which may be the same.
    """
    write_text(path, cohort_html(rows, bundle, segmenting))
    return path


def cohort_html(rows: Mapping[str, Row], bundle: Bundle, segmenting: Bundle) -> str:
    """The page; all text is escaped."""
    demo = bundle.is_demo or segmenting.is_demo
    done = {case_id: row for case_id, row in sorted(rows.items()) if row["status"] == "done"}
    failed = {case_id: row for case_id, row in sorted(rows.items()) if row["status"] == "failed"}
    scored = [row for row in done.values() if row["probability"] is not None]
    drift = _drift(list(done.values()), bundle)
    return page_environment().get_template("cohort.html").render(
        notice=RESEARCH_USE_ONLY, demo=demo, demo_warning=DEMO_WARNING, neonet=__version__, record=bundle.record,
        hash=bundle.hash, segmenting=None if segmenting is bundle else segmenting,
        outcome=Outcome.of(bundle.record.outcome), key_figures=_key_figures(done, scored, failed, bundle),
        chart=_data_uri(png(score_distribution(scored, bundle, demo))) if scored else None, scored=len(scored),
        training=len(bundle.record.out_of_fold), worklist=_worklist(done), flags=_flags(done), drift=drift,
        drifted=[fact["name"] for fact in drift if fact["much"]], failed=_failures(failed))


def _key_figures(done: Mapping[str, Row], scored: Sequence[Row], failed: Mapping[str, Row],
                 bundle: Bundle) -> list[dict[str, Any]]:
    threshold = bundle.record.threshold
    above = "" if threshold is None or not scored else (
        f"{sum(row['probability'] >= threshold for row in scored)} at or above the threshold of {threshold:.2f}")
    doubtful = sum(bool(_doubts(row)) for row in done.values())
    return [{"name": "Cases", "value": len(done) + len(failed), "detail": f"{len(failed)} failed"},
            {"name": "Scored", "value": len(scored), "detail": above},
            {"name": "Without score", "value": len(done) - len(scored), "detail": "a flag says why"},
            {"name": "With a quality flag", "value": doubtful, "detail": "look at these first"}]


def _doubts(row: Row) -> list[str]:
    """The flags that say something about the case, not about the model."""
    return [flag for flag in row["flags"].split(";") if flag and flag not in ("DEMO_MODEL", "NO_PNI_MODEL")]


def _worklist(done: Mapping[str, Row]) -> list[dict[str, Any]]:
    """All cases that were run, highest score first, those without score last."""
    ordered = sorted(done.items(), key=lambda item: (item[1]["probability"] is None, -(item[1]["probability"] or 0)))
    return [{"case": case_id, "folder": f"{CASES_FOLDER}/{case_id}",
             "thumbnail": f"{CASES_FOLDER}/{case_id}/{THUMBNAIL}",
             "score": None if row["probability"] is None else probability(row["probability"]),
             "spread": None if row["spread"] is None else f"{row['spread']:.2f}",
             "above": None not in (row["probability"], row["threshold"]) and row["probability"] >= row["threshold"],
             "tumour": f"{row['tumour_ml']:.1f} ml" if row["tumour_ml"] else "–",
             "diameter": f"{row['tumour_diameter_mm']:.0f} mm" if row["tumour_ml"] else "",
             "liver": f"{row['liver_ml']:.0f} ml",
             "flags": [(flag, flag in NO_SCORE_FLAGS) for flag in row["flags"].split(";")
                       if flag and flag != "DEMO_MODEL"], "series": row["series"]}
            for case_id, row in ordered]


def _flags(done: Mapping[str, Row]) -> list[tuple[str, str, int, str]]:
    """Code, meaning, number of cases and share of each flag, the most frequent first."""
    counts = Counter(flag for row in done.values() for flag in row["flags"].split(";") if flag)
    return [(code, FLAG_WORDS.get(code, ""), count, f"{100 * count / len(done):.0f} %")
            for code, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


def _failures(failed: Mapping[str, Row]) -> list[dict[str, Any]]:
    """By code, the most frequent first; each with its cases and their reasons."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for case_id, row in failed.items():
        groups.setdefault(row["error_code"], []).append((case_id, row["error_reason"]))
    return [{"code": code, "cases": cases}
            for code, cases in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))]


def _drift(done: Sequence[Row], bundle: Bundle) -> list[dict[str, Any]]:
    """Each fact that the bundle knows the training cohort's range of, with the values of the cases that have it."""
    facts = []
    for name, (words, unit) in FACTS.items():
        values = np.array([row[name] for row in done if row.get(name)], dtype=float)  # a volume of 0 is flagged
        if name in bundle.record.ranges and len(values):
            low, high = bundle.record.ranges[name]
            outside = float(np.mean((values < low) | (values > high)))
            digits = 0 if high >= 100 else 2
            first, median, last = (f"{value:.{digits}f}" for value in np.percentile(values, [0, 50, 100]))
            facts.append({"name": words, "unit": unit, "training": f"{low:.{digits}f} to {high:.{digits}f}",
                          "median": median, "range": f"{first} to {last}", "outside": f"{100 * outside:.0f} %",
                          "much": outside >= MUCH_DRIFT,
                          "strip": _data_uri(png(drift_strip(values, low, high)))})
    return facts


# --- pictures ---------------------------------------------------------------------------------------------------------


def score_distribution(scored: Sequence[Row], bundle: Bundle, demo: bool) -> Figure:
    """This cohort's scores as bars, the training cohort's out-of-fold scores by outcome as lines, as shares."""
    from matplotlib.figure import Figure

    record, outcome = bundle.record, Outcome.of(bundle.record.outcome)
    figure = Figure(figsize=(8.4, 3.2), dpi=130, facecolor="white")
    axes = figure.add_axes((0.075, 0.17, 0.905, 0.71))
    edges = np.linspace(0, 1, BINS + 1)

    def shares(values: Sequence[float]) -> np.ndarray:
        return 100 * np.histogram(np.clip(values, 0, 1), edges)[0] / len(values)

    axes.stairs(shares([row["probability"] for row in scored]), edges, fill=True, color=INK, alpha=0.22,
                label=f"these {len(scored)} cases")
    for value, colour in ((0, NEGATIVE), (1, POSITIVE)):
        known = [one.score for one in record.out_of_fold if one.outcome == value]
        if known:
            axes.stairs(shares(known), edges, color=colour, linewidth=1.8, linestyle="-" if value else "--",
                        label=f"training cohort, {outcome.group(value)} ({len(known)})".replace("$", r"\$"))
    if record.threshold is not None:
        axes.axvline(record.threshold, color=QUIET, linewidth=1.4, linestyle=(0, (4, 3)))
        axes.text(record.threshold + 0.006, 0.97, f"threshold {record.threshold:.2f}", color=QUIET, fontsize=9,
                  va="top", transform=axes.get_xaxis_transform())
    axes.set(xlim=(0, 1), ylabel="percent of cases")
    axes.set_xlabel(f"{'demonstration ' if demo else ''}score for {outcome.short}".replace("$", r"\$"))
    axes.legend(frameon=False, fontsize=8.5, ncols=3, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2)
    for side in ("right", "top"):
        axes.spines[side].set_visible(False)
    return figure


def drift_strip(values: np.ndarray, low: float, high: float) -> Figure:
    """A mark for each case on a line, over the training cohort's range; what lies far outside is put at the end."""
    from matplotlib.figure import Figure

    width = (high - low) or max(abs(low), 1e-6) * 0.1
    figure = Figure(figsize=(2.6, 0.34), dpi=130, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axvspan(0, 1, color="#009E73", alpha=0.18, linewidth=0)
    places = np.clip((values - low) / width, -0.95, 1.95)
    outside = (values < low) | (values > high)
    for chosen, colour in ((~outside, INK), (outside, POSITIVE)):
        axes.plot(places[chosen], np.zeros(chosen.sum()), "|", markersize=16, color=colour, alpha=0.55)
    axes.set(xlim=(-1, 2), ylim=(-1, 1))
    axes.set_axis_off()
    return figure


def _data_uri(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode("ascii")
