"""The demonstration: one simulated case through the built-in bundle, and how that bundle was trained.

Everything here is about simulated images; nothing is about a patient.
"""

from __future__ import annotations

import csv
import io
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from neonet_core.bundle import Bundle, BundleRecord, ModelCard, load_bundle
from neonet_core.cohort import Cohort, load_case, read_manifest
from neonet_core.errors import NeoNetError
from neonet_core.evaluation.auc import auc, bootstrap_interval, delong_interval
from neonet_core.evaluation.dice import dice
from neonet_core.events import Events, Silent, track
from neonet_core.phantom import simulate_case, write_cohort
from neonet_core.pipeline import predict_case, write_case
from neonet_core.presets import load_preset
from neonet_core.training.files import write_json, write_text
from neonet_core.volume import write_volume

DEMO_CASE_SEED = 7
DEMO_CASE_PNI = 1
TRAINING_CASES = 300  # of each size, half of them PNI-positive
TRAINING_SEEDS = {"small": 20361, "full": 20362}
TRAINED_FOLDS = (0, 1)  # of the preset's three: two members are enough to show a spread
GENERATOR_FOLD = 0  # one generator: the bundle must stay below 8 MB
GENERATED = 16  # samples in each size, on the masks of test cases, by which the generator is judged
UNSEEN = {"small": (120, 80261), "full": (100, 80262)}  # number of cases and seed of the test cohorts

CARD = ModelCard(
    intended_use="Demonstration and tests of NeoNet. Not for research on patients, let alone for their care.",
    training_data="600 simulated hepatobiliary-phase images (300 of 240 x 240 x 100 and 300 of 120 x 120 x 50 voxels), "
                  "half of them with simulated perineural invasion.",
    limits="Has never seen a real image. What it finds in one means nothing.",
    attribution="The NeoNet engineers.",
    only_phantoms=True,
)


def run_demo(out: Path, device: str = "auto", events: Events | None = None) -> Path:
    """Simulate a case, take it through the built-in bundle and write its report.

    Returns
    -------
    Path
        ``out/report.html``.
    """
    events = events or Silent()
    events.log("Simulating a hepatobiliary-phase MRI (240 x 240 x 100)")
    phantom = simulate_case(DEMO_CASE_PNI, DEMO_CASE_SEED, size="full")
    write_volume(phantom.image, out / "image.nii.gz")
    write_volume(phantom.label_map, out / "true_label_map.nii.gz")
    result = predict_case(phantom.image, bundle="demo", case="simulated-case", device=device, events=events)
    return write_case(result, out)


def train_demo_bundle(out: Path, device: str = "auto", events: Events | None = None) -> Bundle:
    """Train the built-in bundle anew: about one and a half hours on two CPU cores; resumes where it was stopped.

    Simulates the training cohorts, trains two of the preset's three folds and the generator of one, exports the
    bundle in half precision and measures it on cohorts of other seeds, whose figures go into its record.

    Parameters
    ----------
    out : Path
        Receives ``small/``, ``full/``, ``cases.csv``, ``run/``, the test cohorts and ``demo/``, the bundle.
    """
    from neonet_core.experiment.export import export_bundle
    from neonet_core.experiment.train import train

    events = events or Silent()
    cohort, preset = _training_cohort(out, events), load_preset("demo")
    run = train(cohort, preset, out / "run", seed=1, folds=TRAINED_FOLDS, device=device, events=events)
    train(cohort, preset, out / "run", seed=1, folds=(GENERATOR_FOLD,), stages=("ldm", "controlnet"), device=device,
          events=events)
    folder = out / "demo"
    if folder.exists():
        shutil.rmtree(folder)
    bundle = export_bundle(run, folder, name="demo", card=CARD, half=True)
    unseen: dict[str, Any] = {}
    for size, (cases, seed) in UNSEEN.items():
        write_cohort(out / f"unseen-{size}", cases, cases // 2, seed=seed, size=size, events=events)
        cohort = read_manifest(out / f"unseen-{size}" / "cases.csv")
        unseen[size] = measure_on_cohort(bundle, cohort, device, events)
        unseen[size]["generator"] = measure_generator(bundle, cohort, device, events)
    record = BundleRecord.model_validate(
        bundle.record.model_dump() | {"metrics": bundle.record.metrics | {"unseen_phantoms": unseen}})
    write_json(folder / "bundle.json", record.model_dump(mode="json"))
    return load_bundle(folder)


def _training_cohort(out: Path, events: Events) -> Cohort:
    """Both sizes in one manifest."""
    rows = []
    for size, seed in TRAINING_SEEDS.items():
        path = write_cohort(out / size, TRAINING_CASES, TRAINING_CASES // 2, seed=seed, size=size, events=events)
        with open(path, encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                rows.append({"case_id": f"{size}-{row['case_id']}", "image": f"{size}/{row['image']}",
                             "label_map": f"{size}/{row['label_map']}", "pni": row["pni"]})
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(out / "cases.csv", table.getvalue())
    return read_manifest(out / "cases.csv")


def measure_on_cohort(bundle: Bundle, cohort: Cohort, device: str = "auto",
                      events: Events | None = None) -> dict[str, Any]:
    """Figures of a bundle on labelled cases that it has not seen, from image to score with its own segmentation.

    Returns
    -------
    dict
        Mean Dice of liver and tumour on the images' own grid; AUC of the score, and of the true tumour volume alone,
        each with DeLong and bootstrap intervals; the number of cases without score.
    """
    events = events or Silent()
    rows = []
    for case in track(cohort.cases, f"test {bundle.name}", events):
        image, truth = load_case(case)
        result = predict_case(image, bundle=bundle, case=case.case_id, device=device)
        found = result.label_map.array
        rows.append((case.outcome, result.score.probability if result.score else np.nan,
                     float((truth.array == 2).sum()) * truth.voxel_volume_ml,
                     dice(found > 0, truth.array > 0), dice(found == 1, truth.array == 1),
                     dice(found == 2, truth.array == 2)))
    outcome, score, volume, whole_liver, liver, tumour = np.array(rows, dtype=float).T
    scored = ~np.isnan(score)
    if len(set(outcome[scored].tolist())) < 2:
        raise NeoNetError("ONE_CLASS", "The scored cases are all of one outcome.", "Give cases of both outcomes.")

    def area(values: np.ndarray) -> dict[str, Any]:
        truth, values = outcome[scored].astype(int), values[scored]
        return {"value": auc(truth, values), "delong_95": list(delong_interval(truth, values)),
                "bootstrap_95": list(bootstrap_interval(truth, values))}

    return {"cases": len(rows), "positives": int(outcome.sum()), "not_scored": int((~scored).sum()),
            "dice_liver": float(np.nanmean(liver)), "dice_liver_and_tumour": float(np.nanmean(whole_liver)),
            "dice_tumour": float(np.nanmean(tumour)), "auc": area(score), "auc_of_tumour_volume": area(volume)}


def measure_generator(bundle: Bundle, cohort: Cohort, device: str = "auto",
                      events: Events | None = None) -> dict[str, Any]:
    """Whether samples on the masks of cases that the generator has not seen follow these masks.

    Returns
    -------
    dict
        ``samples``; for tumour, liver and background the mean intensity of real patches and samples, and the share of
        samples within 2 standard deviations of the real mean (``share_within``); ``share_within_all``; the mean Dice of
        the samples, segmented again by the bundle's own NeoSeg, against their masks, and the same of the real patches:
        a patch shows less than the whole image that NeoSeg was trained on.
    """
    from neonet_core.evaluation.mask_agreement import mask_agreement, resegmentation_dice
    from neonet_core.experiment.images import segmented_in_turn
    from neonet_core.pipeline import cut_patch
    from neonet_core.training.device import choose_device
    from neonet_core.training.patches import Patches

    events, chosen = events or Silent(), choose_device(device)
    preset = bundle.record.preset
    member, generator = bundle.generators(chosen)[0]
    segmentor = bundle.segmentors(chosen)[0]
    cases = cohort.cases[:GENERATED]
    cut = [cut_patch(*load_case(case), preset.crop, member.crop_spacing) for case in cases]
    real = Patches(np.stack([patch.image.array[None] for patch in cut]), np.stack([patch.masks for patch in cut]),
                   np.array([case.outcome for case in cases]), np.array([patch.image.spacing for patch in cut]))
    samples = replace(real, images=np.concatenate([
        generator.generate(patch.masks[None], [case.outcome], [number], sampler=preset.synth.sampler,
                           steps=preset.synth.steps, guidance=preset.synth.guidance)
        for number, (patch, case) in enumerate(track(list(zip(cut, cases, strict=True)),
                                                     f"test the generator of {bundle.name}", events))]))
    agreement = mask_agreement(samples.images, samples.masks, real.images, real.masks,
                               segmented_in_turn(samples, segmentor, chosen))
    of_real = resegmentation_dice(real.images, real.masks, segmented_in_turn(real, segmentor, chosen))
    regions = {name: {"real": agreement["regions"][name]["real"]["mean"],
                      "samples": agreement["regions"][name]["synthetic"]["mean"],
                      "share_within": agreement["regions"][name]["share_within"]}
               for name in ("tumour", "liver", "background")}
    return {"samples": len(samples), **regions, "share_within_all": agreement["share_within_all"],
            "dice_tumour": agreement["dice"]["tumour"]["mean"], "dice_liver": agreement["dice"]["liver"]["mean"],
            "dice_tumour_of_real": of_real["tumour"]["mean"], "dice_liver_of_real": of_real["liver"]["mean"]}
