"""What a run's pictures show: held-out patients of its first fold that is done, as its own networks see them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure

from neonet_core.errors import NeoNetError
from neonet_core.experiment.graph import AUTOENCODERS, segmentor_settings
from neonet_core.experiment.images import real_patches, sample_paths
from neonet_core.experiment.reporting.pictures import overlay_gallery, patch_gallery, reconstruction_gallery
from neonet_core.experiment.reporting.results import Results
from neonet_core.experiment.trained import load_autoencoder, load_segmentor, own_segmentor_stage
from neonet_core.figures import png
from neonet_core.generation.synthesis import read_samples
from neonet_core.segmentation.inference import predict_probabilities
from neonet_core.training.files import read_json
from neonet_core.training.prepared import open_prepared

MOST_ROWS = 6
AUTOENCODER_NAMES = {"vae": "VAE", "vqvae": "VQ-VAE"}


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture of the report; without `data` the caption says why there is none."""

    name: str
    title: str
    caption: str
    data: bytes | None = None


def galleries(results: Results, device: torch.device) -> list[Picture]:
    """Label maps, reconstructions, real and synthetic patches."""
    return [
        _picture("labels", "Label maps of held-out patients", lambda: label_maps(results, device)),
        _picture("reconstructions", "Reconstructions of held-out patches", lambda: reconstructions(results, device)),
        _picture("patches", "Real and synthetic patches", lambda: patches(results)),
    ]


Drawn = tuple[Figure, str] | str
"""A figure and its caption, or why there is none."""


def _picture(name: str, title: str, draw: Callable[[], Drawn]) -> Picture:
    try:
        drawn = draw()
    except NeoNetError as error:
        if error.code != "NOT_PREPARED":
            raise
        drawn = f"No picture: {error.message} {error.hint}"
    except FileNotFoundError:  # a run may be kept without them
        drawn = "No picture: the weights or prepared images that it needs are not in the run folder."
    if isinstance(drawn, str):
        return Picture(name, title, drawn)
    return Picture(name, title, drawn[1], png(drawn[0], None))


def label_maps(results: Results, device: torch.device) -> Drawn:
    """Worst, middle and best held-out case of a segmentation network, by the Dice of the tumour."""
    preset, run = results.preset, results.run
    stage = own_segmentor_stage(run)
    if not results.stage(stage).figures:
        return "No picture: no segmentation network was run."
    fold, figures = next(iter(results.stage(stage).figures.items()))
    settings = segmentor_settings(stage, preset)
    network = load_segmentor(run, preset, fold, stage).to(device)
    ordered = sorted(figures["dice_by_case"], key=lambda case_id: np.nan_to_num(figures["dice_by_case"][case_id][1]))
    chosen = list(dict.fromkeys(ordered[index] for index in (0, len(ordered) // 2, -1)))
    spacing = read_json(run.stage_folder(fold, stage) / "inputs.json")["spacing"]
    cases = [open_prepared(run.folder / "prepared", spacing, case_id, None) for case_id in chosen]
    predictions = [predict_probabilities(network, np.asarray(case.image), settings, device).argmax(axis=0)
                   for case in cases]
    texts = ["Dice: liver {:.2f}, tumour {:.2f}".format(*figures["dice_by_case"][case_id]) for case_id in chosen]
    figure = overlay_gallery([np.asarray(case.image) for case in cases], [np.asarray(case.label_map) for case in cases],
                             predictions, [case.spacing for case in cases], texts, settings.network)
    return figure, (f"{settings.network} of fold {fold} on the held-out patients with the lowest, middle and highest "
                    "Dice of the tumour: annotated (left) and predicted (right), axial slice where the annotated "
                    "tumour is largest. Blue: liver with tumour; orange: tumour.")


def reconstructions(results: Results, device: torch.device) -> Drawn:
    """Held-out patches and what the autoencoders give back."""
    fold, kinds = _first_fold(results, lambda kind: kind)
    if not kinds:
        return "No picture: no autoencoder was run."
    real = real_patches(results.run, fold, kinds[0]).held_out
    cases = range(min(MOST_ROWS, len(real)))
    reconstructed = {}
    for kind in kinds:
        autoencoder = load_autoencoder(results.run, results.preset, fold, kind).to(device).eval()
        with torch.inference_mode():
            reconstructed[AUTOENCODER_NAMES[kind]] = np.concatenate([
                autoencoder.reconstruct(torch.from_numpy(real.images[case])[None].to(device)).float().cpu().numpy()
                for case in cases]).clip(0, 1)
    return reconstruction_gallery(real, cases, reconstructed), (
        f"Patches of held-out patients of fold {fold} (left), and what {' and '.join(reconstructed)} of that fold, "
        "which have not seen them, give back.")


def patches(results: Results) -> Drawn:
    """Held-out patches, their masks, and what each generator made of these masks."""
    run = results.run
    fold, kinds = _first_fold(results, lambda kind: f"synth-{kind}",
                              lambda fold, kind: bool(sample_paths(run, fold, kind, "evaluation")))
    drawn = {kind: {read_json(path)["mask_case"]: path for path in sample_paths(run, fold, kind, "evaluation")}
             for kind in kinds}
    names = [name for name in drawn[kinds[0]] if all(name in samples for samples in drawn.values())] if kinds else []
    if not names:
        return "No picture: no synthetic patches on masks of held-out patients were drawn."
    names = names[:MOST_ROWS]
    real = real_patches(run, fold, kinds[0])
    columns = {AUTOENCODERS[kind]: read_samples([samples[name] for name in names])[0]
               for kind, samples in drawn.items()}
    cases = [real.held_out_ids.index(name) for name in names]
    return patch_gallery(real.held_out, cases, columns, run.settings()["outcome"]), (
        f"Patches of held-out patients of fold {fold}, their masks, and what the generators of that fold drew on these "
        "masks: synthetic, of no patient. Blue: liver with tumour; orange: tumour.")


def _first_fold(results: Results, stage_of: Callable[[str], str],
                holds: Callable[[int, str], bool] = lambda fold, kind: True) -> tuple[int, list[str]]:
    """The first fold with such a stage of any autoencoder, and the autoencoders that have it there."""
    for fold in range(results.folds):
        kinds = [kind for kind in AUTOENCODERS if fold in results.stage(stage_of(kind)).figures and holds(fold, kind)]
        if kinds:
            return fold, kinds
    return 0, []
