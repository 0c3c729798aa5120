"""`neonet report RUN`: the tables of a training run and a picture of its patches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
from neonet_core.training.files import read_json, write_bytes, write_text

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
        raise NeoNetError("NOTHING_TRAINED", f"{run.folder.name} holds no autoencoder that was trained with the "
                          "settings of its last 'neonet train'.",
                          "Run it with these settings and the stages vae, ldm, controlnet and synth first.")
    notes = [f"Preset {preset.name}, protocol {preset.protocol}, folds {', '.join(map(str, measured))} of "
             f"{preset.folds}; mean over the folds, ± standard deviation."]
    folds = list(measured.values())
    tables = [reconstruction_table(folds, notes), generation_table(folds, notes)]
    for table in tables:
        write_text(out / f"{table.name}.csv", table.csv())
    picture = any(_write_gallery(run, fold, out) for fold in measured)
    write_text(out / "report.md", _markdown(run, tables, picture, folds))
    return out / "report.md"


def _markdown(run: Run, tables: Sequence[Table], picture: bool, folds: Sequence[dict]) -> str:
    parts = [f"# {run.settings()['outcome']}: reconstruction and generation", "", RESEARCH_USE_ONLY, ""]
    parts += [table.markdown() for table in tables]
    if picture:
        parts += ["## Real and synthetic patches", "", "![real and synthetic patches](patches.png)", ""]
    copies = [fold["copies"] for fold in folds if fold.get("copies")]
    if copies:
        parts += ["## Copies of training patients", "", *_copies_lines(copies), ""]
    return "\n".join(parts)


def _copies_lines(copies: Sequence[dict]) -> list[str]:
    lines = []
    for check in copies:
        figures = check["pixels"]
        line = (f"- {len(figures['flagged'])} of {figures['samples']} samples lie nearer to a training patch than 1 % "
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


def _write_gallery(run: Run, fold: int, out: Path) -> bool:
    """A picture of held-out patches, their masks, and what each generator made of these masks."""
    trained = [kind for kind in AUTOENCODERS
               if run.current(fold, f"synth-{kind}") is not None and sample_paths(run, fold, kind, "evaluation")]
    if not trained:
        return False
    real: RealPatches = real_patches(run, fold, trained[0])
    drawn = {kind: {read_json(path)["mask_case"]: path for path in sample_paths(run, fold, kind, "evaluation")}
             for kind in trained}
    names = [name for name in drawn[trained[0]] if all(name in samples for samples in drawn.values())]
    names = names[:MOST_IN_GALLERY]
    if not names:
        return False
    columns = {AUTOENCODERS[kind]: read_samples([samples[name] for name in names])[0]
               for kind, samples in drawn.items()}
    cases = [real.held_out_ids.index(name) for name in names]
    write_bytes(out / "patches.png", png(patch_gallery(real.held_out, cases, columns, run.settings()["outcome"]), None))
    return True
