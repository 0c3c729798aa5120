"""Tables 3 and 4: what the autoencoders give back, and how far synthetic patches are from real ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from neonet_core.experiment.reporting.paper import TABLE_3, TABLE_4
from neonet_core.experiment.reporting.tables import MISSING, Table

VIEWS = ("axial", "sagittal", "coronal", "mean")


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
        paper = TABLE_3[kind]
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
    for name, paper in TABLE_4.items():
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
