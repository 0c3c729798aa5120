"""`neonet report RUN`: the tables of a training run and a picture of its patches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from neonet_core.bundle import RESEARCH_USE_ONLY
from neonet_core.errors import NeoNetError
from neonet_core.events import Events, Silent
from neonet_core.experiment.fold import AUTOENCODERS
from neonet_core.experiment.images import RealPatches, measure_images, real_patches, sample_paths
from neonet_core.experiment.pictures import patch_gallery
from neonet_core.experiment.run import Run
from neonet_core.experiment.tables import Table, generation_table, reconstruction_table
from neonet_core.figures import png
from neonet_core.generation.synthesis import read_samples
from neonet_core.training.device import choose_device
from neonet_core.training.files import write_bytes, write_text

MOST_IN_GALLERY = 6


def write_report(run: Run, out: Path | None = None, *, inception: Path | None = None, lpips: Path | None = None,
                 device: str = "auto", events: Events | None = None) -> Path:
    """Write ``report.md``, ``table3.csv``, ``table4.csv`` and ``patches.png``.

    Parameters
    ----------
    out : Path or None
        Folder; None: ``report`` in the run's.
    inception, lpips : Path or None
        Weights (safetensors) for FID and LPIPS; see `images.measure_images`.

    Returns
    -------
    Path
        ``report.md``.

    Raises
    ------
    NeoNetError
        ``NOT_A_RUN``; ``NOTHING_TRAINED`` where no autoencoder has been trained; ``BAD_WEIGHTS``, ``MISSING_PACKAGE``.
    """
    events, out = events or Silent(), out or run.folder / "report"
    chosen = choose_device(device)
    preset = run.preset()
    measured = {fold: figures for fold in run.fold_numbers()
                if (figures := measure_images(run, fold, chosen, events, inception, lpips))}
    if not measured:
        raise NeoNetError("NOTHING_TRAINED", f"{run.folder.name} holds no autoencoder to report on.",
                          "Run 'neonet train' with the stages vae, ldm, controlnet and synth first.")
    notes = [f"Preset {preset.name}, protocol {preset.protocol}, folds {', '.join(map(str, measured))} of "
             f"{preset.folds}; mean over the folds, ± standard deviation."]
    folds = list(measured.values())
    tables = [reconstruction_table(folds, notes), generation_table(folds, notes)]
    for table in tables:
        write_text(out / f"{table.name}.csv", table.csv())
    picture = _write_gallery(run, next(iter(measured)), out, chosen)
    write_text(out / "report.md", _markdown(run, tables, picture, folds))
    return out / "report.md"


def _markdown(run: Run, tables: Sequence[Table], picture: bool, folds: Sequence[dict]) -> str:
    parts = [f"# {run.settings()['outcome']}: reconstruction and generation", "", RESEARCH_USE_ONLY, ""]
    parts += [table.markdown() for table in tables]
    if picture:
        parts += ["## Real and synthetic patches", "", "![real and synthetic patches](patches.png)", ""]
    copies = [fold["copies"]["pixels"] for fold in folds if fold.get("copies")]
    if copies:
        parts += ["## Copies of training patients", "", *_copies_lines(copies), ""]
    return "\n".join(parts)


def _copies_lines(copies: Sequence[dict]) -> list[str]:
    lines = []
    for figures in copies:
        line = (f"- {len(figures['flagged'])} of {figures['samples']} samples lie nearer to a training patch than 1 % "
                "of the real patches do.")
        share = figures["nearer_training_without_mask_source"] or figures["nearer_training"]
        if share is not None:
            low, high = share["by_chance"]
            line += (f" Share nearer to a training than to a held-out patch: {share['share']:.2f} (0.5 without copies; "
                     f"by chance {low:.2f} to {high:.2f}, p = {share['p_value']:.2f}).")
        lines.append(line)
    return lines


def _write_gallery(run: Run, fold: int, out: Path, device: torch.device) -> bool:
    """A picture of held-out patches, their masks, and what each generator made of these masks."""
    trained = [kind for kind in AUTOENCODERS if sample_paths(run, fold, kind, "evaluation")]
    if not trained:
        return False
    real: RealPatches = real_patches(run, fold, trained[0])
    columns = {}
    lineages: list[dict] = []
    for kind in trained:
        samples, lineages = read_samples(sample_paths(run, fold, kind, "evaluation")[:MOST_IN_GALLERY])
        columns[AUTOENCODERS[kind]] = samples
    cases = [real.held_out_ids.index(lineage["mask_case"]) for lineage in lineages]
    write_bytes(out / "patches.png", png(patch_gallery(real.held_out, cases, columns), None))
    return True
