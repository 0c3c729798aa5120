"""Tables 3 and 4: what the autoencoders give back, and how far synthetic patches are from real ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from neonet_core.experiment.graph import AUTOENCODERS
from neonet_core.experiment.reporting.paper import TABLE_3, TABLE_4
from neonet_core.experiment.reporting.results import LAST_EPOCH, PROTOCOLS, Results, StageResults, folds_text
from neonet_core.experiment.reporting.tables import Table

VIEWS = ("axial", "sagittal", "coronal", "mean")
RECONSTRUCTION = ("perceptual", "ssim", "psnr", "ssim_liver_or_tumour", "psnr_liver_or_tumour", "ssim_tumour",
                  "psnr_tumour")
GENERATION = (*(f"frechet_{view}" for view in VIEWS), "kernel_mean", "floor_mean", "share_within", "dice_tumour",
              "mask_response")
PICKED_ON = {"paper": LAST_EPOCH, "rigorous": PROTOCOLS["rigorous"]}

Figures = Mapping[str, float | None]
"""What one fold has measured of a row, by column."""


def reconstruction_table(results: Results, measured: Mapping[int, dict[str, Any]]) -> Table:
    """Table 3: how well the autoencoders give patches back that they have not seen.

    Parameters
    ----------
    measured : mapping of int to dict
        By fold: see `images.measure_images`.
    """
    judge = _all_of(figures["judges"]["perceptual"] for figures in measured.values()) or "LPIPS"
    records = []
    for kind, name in (("vqvae", "VQ-VAE"), ("vae", "VAE")):
        found: dict[int, Figures] = {fold: figures["reconstruction"][kind] for fold, figures in measured.items()
                                     if kind in figures["reconstruction"]}
        missing = [*_missing_folds(results.stage(kind), found, "not measured"),
                   *_without(found, RECONSTRUCTION, "without figures inside masks that are empty")]
        records.append(_record(results, name, RECONSTRUCTION, found) | {"perceptual_name": judge} | {
            f"paper_{measure.lower()}": value for measure, value in TABLE_3[kind].items()} | {
            "missing": "; ".join(missing)})
    columns = ["Autoencoder", "LPIPS ↓" if judge.startswith("LPIPS") else "perceptual ↓", "SSIM ↑", "PSNR ↑",
               "SSIM in liver ↑", "PSNR in liver ↑", "SSIM in tumour ↑", "PSNR in tumour ↑",
               "Paper: LPIPS / SSIM / PSNR"]
    rows = [[*_cells(record, RECONSTRUCTION),
             f"{record['paper_lpips']:.4f} / {record['paper_ssim']:.4f} / {record['paper_psnr']:.2f}"]
            for record in records]
    return Table("table3", "Table 3: reconstruction of held-out patches", columns, rows,
                 [_protocol_note(results, measured), f"Perceptual: {judge}. Liver: liver or tumour.",
                  *_missing_notes(records), _paper_note()], records)


def generation_table(results: Results, measured: Mapping[int, dict[str, Any]]) -> Table:
    """Table 4: how far synthetic patches are from real ones of held-out patients.

    Parameters
    ----------
    measured : mapping of int to dict
        By fold: see `images.measure_images`.
    """
    kinds = {name: kind for kind, name in AUTOENCODERS.items()}
    near = [row for figures in measured.values() for row in figures["samples"].values() if "frechet" in row]
    records = []
    for name, paper in TABLE_4.items():
        found = {fold: _sample_figures(figures["samples"][name]) for fold, figures in measured.items()
                 if name in figures["samples"]}
        missing = [*_missing_folds(results.stage(f"synth-{kinds[name.removesuffix(' DM')]}"), found, "without samples"),
                   *_without(found, GENERATION[:6], "without distances: its samples are empty"),
                   *_without(found, GENERATION[6:8], "without agreement with the mask: nothing to compare")]
        names = {f"{measure}_name": _all_of(row[f"{measure}_name"] for figures in measured.values()
                                            if f"{measure}_name" in (row := figures["samples"].get(name, {})))
                 for measure in ("frechet", "kernel")}
        records.append(_record(results, name, GENERATION, found) | names | {
            f"paper_{view}": value for view, value in zip(VIEWS, paper, strict=True)} | {
            "missing": "; ".join(missing)})
    columns = ["Generator", *(f"{view} ↓" for view in VIEWS), "mean, kernel ↓", "floor, mean",
               "in the mask's intensities", "tumour Dice ↑", "response to the mask ↑", "Paper: A / S / C / mean"]
    rows = [[*_cells(record, GENERATION), " / ".join(f"{record[f'paper_{view}']:.2f}" for view in VIEWS)]
            for record in records]
    return Table("table4", "Table 4: synthetic against real patches of held-out patients", columns, rows,
                 [_protocol_note(results, measured), *_measure_notes(measured, near),
                  *_missing_notes(records), _paper_note()], records)


def _sample_figures(row: Mapping[str, Any]) -> Figures:
    """A fold's figures of one generator, by column; None where there is none."""
    frechet, agreement = row.get("frechet", {}), row["mask_agreement"]
    return {**{f"frechet_{view}": frechet.get(view) for view in VIEWS},
            "kernel_mean": row.get("kernel", {}).get("mean"), "floor_mean": row.get("frechet_floor", {}).get("mean"),
            "share_within": agreement["share_within_all"], "dice_tumour": agreement["dice"]["tumour"]["mean"],
            "mask_response": row.get("mask_response", {}).get("ratio")}


def _measure_notes(measured: Mapping[int, dict[str, Any]], near: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the columns of table 4 are."""
    notes = []
    if near:
        notes += [f"Distances: {_all_of(row['frechet_name'] for row in near)}; "
                  f"{_all_of(row['kernel_name'] for row in near)}.",
                  f"Floor: {_all_of(row['floor'] for row in near)} (learning against held-out patients); the "
                  "distances are of as many."]
    if any(figures["samples"] for figures in measured.values()):
        notes += ["In the mask's intensities: share of samples whose mean intensity in tumour, liver and background "
                  "each lies within 2 standard deviations of real patches.",
                  "Tumour Dice: the sample segmented again by "
                  f"{_all_of(figures['judges']['segmentor'] for figures in measured.values())}, against its mask.",
                  "Response to the mask: the tumour is moved in the mask and the sample drawn again with the same "
                  "seed; how many times more the intensities change where the mask has changed than elsewhere. Without "
                  "ControlNet (DM) there is none."]
    return notes


def _record(results: Results, name: str, measures: Sequence[str], found: Mapping[int, Figures]) -> dict[str, Any]:
    """What the CSV holds of a row: mean, spread and every fold of each measure."""
    record: dict[str, Any] = {"name": name, "protocol": results.preset.protocol, "folds_done": len(found),
                              "folds": results.folds}
    for measure in measures:
        by_fold = {f"{measure}_fold_{fold}": found.get(fold, {}).get(measure) for fold in range(results.folds)}
        known = [value for value in by_fold.values() if value is not None]
        record |= {f"{measure}_mean_of_folds": float(np.mean(known)) if known else None,
                   f"{measure}_sd_of_folds": float(np.std(known, ddof=1)) if len(known) > 1 else None, **by_fold}
    return record


def _cells(record: Mapping[str, Any], measures: Sequence[str]) -> list[Any]:
    """The row's name and figures; how many folds there are, where it is not all, once for the row, and again only where
    a cell has fewer."""
    done, folds = record["folds_done"], record["folds"]
    cells: list[Any] = [(record["name"], f"{done} of {folds} folds") if 0 < done < folds else record["name"]]
    for measure in measures:
        known = [value for fold in range(folds) if (value := record[f"{measure}_fold_{fold}"]) is not None]
        cells.append(None if not known else known if len(known) == done else (known, f"{len(known)} of {folds} folds"))
    return cells


def _missing_folds(stage: StageResults, found: Mapping[int, Figures], otherwise: str) -> list[str]:
    """Why folds have no figures; `otherwise` where their stage is done."""
    lost = [fold for fold in stage.figures if fold not in found]
    return [*([stage.why] if stage.why else []), *([f"{folds_text(lost)} {otherwise}"] if lost else [])]


def _without(found: Mapping[int, Figures], measures: Sequence[str], words: str) -> list[str]:
    lost = [fold for fold, figures in found.items() if any(figures[measure] is None for measure in measures)]
    return [f"{folds_text(lost)} {words}"] if lost else []


def _missing_notes(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is missing and why, rows of one reason together."""
    names: dict[str, list[str]] = {}
    for record in records:
        if record["missing"]:
            names.setdefault(record["missing"], []).append(record["name"])
    return [f"{', '.join(rows)}: {reason}." for reason, rows in names.items()]


def _protocol_note(results: Results, measured: Mapping[int, dict[str, Any]]) -> str:
    preset, numbers = results.preset, ", ".join(map(str, measured)) or "none"
    return (f"Preset {preset.name}, protocol {preset.protocol}, folds {numbers} of {results.folds}; mean over the "
            f"folds, ± standard deviation. {PICKED_ON[preset.protocol]}")


def _all_of(names: Iterable[str]) -> str:
    """Each name once: folds may have other judges."""
    return ", ".join(dict.fromkeys(names))


def _paper_note() -> str:
    return ("The paper's figures are of another cohort and, where they are FID or LPIPS, of other features: they stand "
            "here for orientation, not for comparison.")
