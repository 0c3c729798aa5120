"""The tables of a run: rows of figures over its folds, beside the paper's, as Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

PAPER_TABLE_3 = {"vqvae": {"LPIPS": 0.3003, "SSIM": 0.4958, "PSNR": 15.22},
                 "vae": {"LPIPS": 0.2010, "SSIM": 0.7408, "PSNR": 22.74}}
PAPER_TABLE_4 = {"QNeoGen DM": (18.98, 22.19, 39.23, 26.80), "QNeoGen": (14.58, 18.41, 28.69, 20.56),
                 "NeoGen DM": (7.63, 10.86, 17.82, 12.10), "NeoGen": (2.94, 4.83, 8.22, 5.33)}
VIEWS = ("axial", "sagittal", "coronal", "mean")
MISSING = "–"


@dataclass(frozen=True)
class Table:
    """A table that is ready to be written.

    Attributes
    ----------
    name : str
        Of its file, e.g. ``table3``.
    title : str
    columns : sequence of str
    rows : sequence of sequences
        A cell is a text, a number, or a list of numbers (one for each fold: written as mean and spread), or None.
    notes : sequence of str
        What the numbers are: protocol, who measured, what is missing and why.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    notes: Sequence[str] = field(default_factory=tuple)

    def markdown(self) -> str:
        """The table in Markdown, notes below."""
        lines = [f"## {self.title}", "", "| " + " | ".join(self.columns) + " |",
                 "|" + "|".join([" --- "] + [" ---: "] * (len(self.columns) - 1)) + "|"]
        lines += ["| " + " | ".join(_text(cell) for cell in row) + " |" for row in self.rows]
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes), ""])

    def csv(self) -> str:
        """The table as CSV; a list becomes its mean."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([[_plain(cell) for cell in row] for row in self.rows])
        return stream.getvalue()


def reconstruction_table(folds: Sequence[dict[str, Any]], notes: Sequence[str]) -> Table:
    """Table 3: how well the autoencoders give patches back that they have not seen."""
    judge = _all_of(fold["judges"]["perceptual"] for fold in folds) or "LPIPS"
    columns = ["Autoencoder", "LPIPS ↓" if judge.startswith("LPIPS") else "perceptual ↓", "SSIM ↑", "PSNR ↑",
               "SSIM in liver ↑", "PSNR in liver ↑", "SSIM in tumour ↑", "PSNR in tumour ↑",
               "Paper: LPIPS / SSIM / PSNR"]
    rows = []
    for kind, name in (("vqvae", "VQ-VAE"), ("vae", "VAE")):
        found = [fold["reconstruction"][kind] for fold in folds if kind in fold["reconstruction"]]
        keys = ("perceptual", "ssim", "psnr", "ssim_liver_or_tumour", "psnr_liver_or_tumour", "ssim_tumour",
                "psnr_tumour")
        paper = PAPER_TABLE_3[kind]
        rows.append([name, *([figures[key] for figures in found] or None for key in keys),
                     f"{paper['LPIPS']:.4f} / {paper['SSIM']:.4f} / {paper['PSNR']:.2f}"])
    return Table("table3", "Table 3: reconstruction of held-out patches", columns, rows,
                 [*notes, f"Perceptual: {judge}. Liver: liver or tumour.", *_missing(rows), _paper_note()])


def generation_table(folds: Sequence[dict[str, Any]], notes: Sequence[str]) -> Table:
    """Table 4: how far synthetic patches are from real ones of held-out patients."""
    every = [row for fold in folds for row in fold["samples"].values()]
    measured = [row for row in every if "frechet" in row]
    columns = ["Generator", *(f"{view} ↓" for view in VIEWS), "mean, kernel ↓", "floor, mean",
               "in the mask's intensities", "tumour Dice ↑", "response to the mask ↑", "Paper: A / S / C / mean"]
    rows = []
    for name, paper in PAPER_TABLE_4.items():
        found = [fold["samples"][name] for fold in folds if name in fold["samples"]]
        agreement = [figures["mask_agreement"] for figures in found]
        near = [figures for figures in found if "frechet" in figures]
        rows.append([name, *([figures["frechet"][view] for figures in near] or None for view in VIEWS),
                     [figures["kernel"]["mean"] for figures in near] or None,
                     [figures["frechet_floor"]["mean"] for figures in near] or None,
                     _known([one["share_within_all"] for one in agreement]),
                     _known([one["dice"]["tumour"]["mean"] for one in agreement]),
                     _known([figures.get("mask_response", {}).get("ratio") for figures in found]),
                     " / ".join(f"{value:.2f}" for value in paper)])
    notes = list(notes)
    if measured:
        notes += [f"Distances: {_all_of(row['frechet_name'] for row in measured)}; "
                  f"{_all_of(row['kernel_name'] for row in measured)}.",
                  f"Floor: {_all_of(row['floor'] for row in measured)} (learning against held-out patients); the "
                  "distances are of as many."]
    if len(measured) < len(every):
        notes.append(f"{len(every) - len(measured)} of {len(every)} sets of samples have no distance: they are empty.")
    if every:
        notes += ["In the mask's intensities: share of samples whose mean intensity in tumour, liver and background "
                  "each lies within 2 standard deviations of real patches.",
                  "Tumour Dice: the sample segmented again by "
                  f"{_all_of(fold['judges']['segmentor'] for fold in folds)}, against its mask.",
                  "Response to the mask: the tumour is moved in the mask and the sample drawn again with the same "
                  "seed; how many times more the intensities change where the mask has changed than elsewhere."]
    return Table("table4", "Table 4: synthetic against real patches of held-out patients", columns, rows,
                 [*notes, *_missing(rows), _paper_note()])


def _known(values: Sequence[float | None]) -> list[float] | None:
    return [value for value in values if value is not None] or None


def _missing(rows: Sequence[Sequence[Any]]) -> list[str]:
    names = [row[0] for row in rows if all(cell is None for cell in row[1:-1])]
    return ([f"{MISSING}: not trained in this run with the settings of its last call, or without samples "
             f"({', '.join(names)})."] if names else [])


def _all_of(names: Iterable[str]) -> str:
    """Each name once: folds may have other judges."""
    return ", ".join(dict.fromkeys(names))


def _paper_note() -> str:
    return ("The paper's figures are of another cohort and, where they are FID or LPIPS, of other features: they stand "
            "here for orientation, not for comparison.")


def _plain(cell: Any) -> Any:
    if isinstance(cell, list):
        return float(np.mean(cell))
    return "" if cell is None else cell


def _text(cell: Any) -> str:
    if cell is None:
        return MISSING
    if isinstance(cell, list):
        spread = f" ± {_number(float(np.std(cell, ddof=1)))}" if len(cell) > 1 else ""
        return _number(float(np.mean(cell))) + spread
    return _number(cell) if isinstance(cell, float) else str(cell)


def _number(value: float) -> str:
    """Four significant figures, no exponent for what a table holds."""
    return f"{value:.4g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.1e}"
