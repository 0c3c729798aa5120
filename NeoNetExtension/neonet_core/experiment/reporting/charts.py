"""Charts of a run's classifiers: ROC curves, reliability, decision curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from neonet_core.classification.names import BASELINE_NAMES, VOLUME
from neonet_core.evaluation.auc import auc, delong_interval
from neonet_core.evaluation.calibration import decision_curve, reliability
from neonet_core.experiment.reporting.classification_tables import model_name, ratio_name
from neonet_core.experiment.reporting.gallery import Picture
from neonet_core.experiment.reporting.results import Results, Scores
from neonet_core.figures import INK, NEGATIVE, POSITIVE, QUIET, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BASELINES_SHOWN = 2
BASELINE_COLOURS = ("#009E73", "#CC79A7")  # Okabe and Ito
BEHIND_TEXT = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.5}
THRESHOLDS = np.linspace(0.01, 0.99, 99)


@dataclass(frozen=True, eq=False)
class Curve:
    """A classifier as it is drawn."""

    name: str
    scores: Scores
    colour: str
    dashes: tuple[int, int] | None = None


def charts(results: Results) -> list[Picture]:
    """ROC curves, reliability and decision curves of what was run."""
    every = curves(results)
    ours = [curve for curve in every if curve.name.startswith("PattenNet")]
    with_volume = [*ours, *(curve for curve in every if curve.name == model_name(VOLUME))]
    protocol = f"Protocol {results.preset.protocol}."
    return [
        _picture("roc", "ROC curves", roc_figure, every, "Pooled out-of-fold scores; AUC with DeLong’s 95 % interval. "
                 "Beside PattenNet: the tumour’s volume alone, and the two baselines with the highest pooled AUC, "
                 f"picked by that very figure. {protocol}"),
        _picture("reliability", "Calibration", reliability_figure, ours, "Share of positives against predicted "
                 "probability, in bins of equal count with Wilson’s 95 % interval; a calibrated model lies on the "
                 f"diagonal. {protocol}"),
        _picture("decision", "Decision curve", decision_figure, with_volume, "Net benefit, in true positives a "
                 "patient, at each threshold probability: a model helps where it lies above both treating all and "
                 f"treating none. {protocol}"),
    ]


def curves(results: Results) -> list[Curve]:
    """PattenNet with and without synthetic cases, the best baselines, the volume: those that were run."""
    highest = results.highest_ratio
    found = [_curve(results, "PattenNet", ratio, colour) for ratio, colour in {highest: POSITIVE, 0: NEGATIVE}.items()]
    baselines = [curve for model in BASELINE_NAMES for ratio in dict.fromkeys((highest, 0))
                 if (curve := _curve(results, model, ratio, QUIET)) is not None]
    best = sorted(baselines, key=lambda curve: -auc(curve.scores.truth, curve.scores.score))[:BASELINES_SHOWN]
    found += [Curve(curve.name, curve.scores, colour)
              for curve, colour in zip(best, BASELINE_COLOURS, strict=False)]
    found.append(_curve(results, VOLUME, 0, QUIET, (4, 2)))
    return [curve for curve in found if curve is not None]


def _curve(results: Results, model: str, ratio: int, colour: str,
           dashes: tuple[int, int] | None = None) -> Curve | None:
    scores = results.scores(model, ratio)
    if scores is None or not scores.has_both_classes:
        return None
    name = model_name(model) if model == VOLUME else f"{model_name(model)}, {ratio_name(ratio)}"
    return Curve(name, scores, colour, dashes)


def _picture(name: str, title: str, draw, shown: Sequence[Curve], caption: str) -> Picture:
    if not shown:
        return Picture(name, title, "No picture: the classifiers that it shows were not run, or their held-out "
                       "patients are of one class.")
    return Picture(name, title, caption, png(draw(shown), None))


def roc_figure(shown: Sequence[Curve]) -> Figure:
    """Pooled out-of-fold ROC curves, each with a number on it and its AUC in the empty corner."""
    figure, axes = _square("1 − specificity", "sensitivity")
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=(0, (1, 2)))
    for index, curve in enumerate(shown):
        truth, score = curve.scores.truth, curve.scores.score
        false_rate, true_rate, _ = roc_curve(truth, score, drop_intermediate=False)
        _line(axes, false_rate, true_rate, curve)
        at = (index + 1) / (len(shown) + 2)  # along the curve, so that numbers do not lie on each other
        way = (false_rate + true_rate) / 2
        _tag(axes, float(np.interp(at, way, false_rate)), float(np.interp(at, way, true_rate)), index, curve)
        low, high = delong_interval(truth, score)
        _entry(axes, 0.995, 0.04 + 0.058 * (len(shown) - 1 - index), index, curve,
               f"{curve.name}: {auc(truth, score):.2f} ({low:.2f} to {high:.2f})", "right")
    return figure


def reliability_figure(shown: Sequence[Curve]) -> Figure:
    """Observed against predicted probability."""
    figure, axes = _square("predicted probability", "share of positives")
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=(0, (1, 2)))
    for index, curve in enumerate(shown):
        bins = reliability(curve.scores.truth, curve.scores.score)
        x, y, low, high = (np.array([getattr(one, part) for one in bins])
                           for part in ("predicted", "observed", "low", "high"))
        axes.errorbar(x, y, yerr=[y - low, high - y], fmt="none", ecolor=curve.colour, elinewidth=1, alpha=0.6)
        _line(axes, x, y, curve)
        for one, other in zip(x, y, strict=True):
            _tag(axes, one, other, index, curve)
        _entry(axes, 0.03, 0.96 - 0.062 * index, index, curve, curve.name)
    return figure


def decision_figure(shown: Sequence[Curve]) -> Figure:
    """Net benefit over the threshold probability."""
    figure, axes = _square("threshold probability", "net benefit")
    prevalence = float(shown[0].scores.truth.mean())
    for index, curve in enumerate(shown):
        found = decision_curve(curve.scores.truth, curve.scores.score, THRESHOLDS)
        if index == 0:
            axes.plot(THRESHOLDS, found.treat_all, color=QUIET, linewidth=1, linestyle=(0, (1, 1.5)))
        _line(axes, THRESHOLDS, found.model, curve)
        at = prevalence + 0.08 * index
        _tag(axes, at, float(np.interp(at, THRESHOLDS, found.model)), index, curve)
        _entry(axes, 0.45, 0.95 - 0.062 * index, index, curve, curve.name)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set(ylim=(-0.25 * prevalence, 1.15 * prevalence), aspect="auto")
    for x, y, text in ((0.99, -0.02, "treat none"), (prevalence + 0.01, -0.19, "treat all")):
        axes.text(x, y * prevalence, text, ha="right", va="top", fontsize=8.5, color=QUIET, bbox=BEHIND_TEXT)
    return figure


def _square(across: str, up: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.0, 4.7), dpi=160, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.set_xlabel(across, fontsize=9.5, color=INK)
    axes.set_ylabel(up, fontsize=9.5, color=INK)
    axes.tick_params(labelsize=9, colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _line(axes: Axes, x: np.ndarray, y: np.ndarray, curve: Curve) -> None:
    axes.plot(x, y, color=curve.colour, linewidth=1.8, linestyle=(0, curve.dashes) if curve.dashes else "-")


def _tag(axes: Axes, x: float, y: float, index: int, curve: Curve) -> None:
    """The curve's number on the curve itself."""
    axes.text(x, y, str(index + 1), color="white", fontsize=7, fontweight="bold", ha="center", va="center",
              bbox={"boxstyle": "circle,pad=0.22", "facecolor": curve.colour, "edgecolor": "white", "linewidth": 0.8},
              zorder=5 + index, clip_on=True)


def _entry(axes: Axes, x: float, y: float, index: int, curve: Curve, text: str, side: str = "left") -> None:
    """The curve's number and name, in its colour, where no curve should run."""
    axes.text(x, y, f"{index + 1}  {text}".replace("$", r"\$"), transform=axes.transAxes, color=curve.colour,
              fontsize=8, fontweight="bold", ha=side, va="center", bbox=BEHIND_TEXT)
