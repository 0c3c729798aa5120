"""The reporting checklists TRIPOD+AI and CLAIM, filled in as far as a run knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from neonet_core.classification.names import CONTROLS
from neonet_core.experiment.graph import segmentor_stage
from neonet_core.experiment.reporting.checklist_items import CLAIM, TRIPOD_AI, Item
from neonet_core.experiment.reporting.classification_tables import MODELS, auc_record, model_name, ratio_name
from neonet_core.experiment.reporting.results import LAST_EPOCH, PROTOCOLS, Results
from neonet_core.experiment.reporting.tables import Table
from neonet_core.training.files import read_json

TO_FILL_IN = "To be filled in by the authors."
REST = " The rest: by the authors."


def checklists(results: Results) -> list[Table]:
    """One table a guideline: number, what to report, and what the run knows of it."""
    known = facts(results)
    sources = {"TRIPOD+AI": (TRIPOD_AI, "Collins et al., BMJ 2024;385:e078378"),
               "CLAIM 2024": (CLAIM, "Tejani et al., Radiol Artif Intell 2024;6(4):e240300")}
    return [_table(name, items, source, known) for name, (items, source) in sources.items()]


def _table(name: str, items: tuple[Item, ...], source: str, known: Mapping[str, str]) -> Table:
    rows = [[number, what, known[key] if key else TO_FILL_IN] for number, what, key in items]
    return Table(name.split()[0].lower().replace("+", "-"), name, ["Item", "What to report", "In this run"], rows,
                 [f"Numbers of {source}; the items are put in our own words, the guideline holds them in full.",
                  f"{sum(bool(key) for *_, key in items)} of {len(items)} items are answered from the run, in part."])


def facts(results: Results) -> dict[str, str]:
    """What a run knows, by the keys of `checklist_items`; no case and no patient is named."""
    settings, quality = results.run.settings(), read_json(results.run.folder / "quality.json")
    return {**_of_cohort(quality, results), **_of_method(settings, results), **_of_outcome(results),
            "imbalance": imbalance(quality, results)}


def _of_cohort(quality: Mapping[str, Any], results: Results) -> dict[str, str]:
    included, cases = len(quality["included"]), quality["cases"]
    reasons = Counter(exclusion["code"] for exclusion in quality["exclusions"])
    left_out = ", ".join(f"{count} {code}" for code, count in sorted(reasons.items())) or "none"
    patients = len(set(results.patient_of().values()))
    facts = [quality["facts"][case_id] for case_id in quality["included"]]
    spacings = "; ".join(f"{low:g} to {high:g} mm along {axis}" for axis, values in
                         zip("RAS", zip(*(fact["spacing"] for fact in facts), strict=True), strict=True)
                         for low, high in [(min(values), max(values))])
    classes = f"{quality['positives']} with outcome 1, {quality['negatives']} with outcome 0"
    return {
        "outcome": f"Column {quality['outcome']} of the manifest, 0 or 1." + REST,
        "eligibility": "Quality control left out cases without image, label map, tumour, liver or outcome, with "
                       "mismatched grids, clipped intensities, or a tumour over 70 % of liver and tumour." + REST,
        "flow": f"{cases} cases listed, {cases - included} left out ({left_out}), {included} used: {classes}"
                + (f"; {patients} patients." if patients else "."),
        "events": f"{included} cases: {classes}, each held out once in {results.folds} folds. Table 2's CSV gives the "
                  "patients and positives behind every figure.",
        "size": f"{included} cases, {quality['positives']} of them positive: what there was; the run makes no "
                "calculation. Intervals in table 2 show how little such a number can tell apart." + REST,
        "missing": f"Cases without outcome, image or label map are left out ({left_out}); nothing is imputed.",
        "acquisition": f"Voxel spacing {spacings}." + REST,
    }


def _of_method(settings: Mapping[str, Any], results: Results) -> dict[str, str]:
    preset, environment = results.preset, settings["environment"]
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    crop = " × ".join(map(str, preset.crop.size))
    networks = [name for name in results.segmentors if results.stage(segmentor_stage(preset, name)).figures]
    classifiers = [model_name(model) for model in (*MODELS, *CONTROLS)
                   if any(results.classifier(model, ratio).figures for ratio in results.ratios)]
    shares = ", ".join(map(ratio_name, results.ratios))
    return {
        "use": "Research use only." + REST,
        "aim": "Development with internal validation." + REST,
        "preparation": "Intensities: 0.5th to 99.5th percentile of each volume to [0, 1]. Grid: segmentation "
                       f"{preset.seg.spacing}, crop {preset.crop.spacing} spacing. Quality checks in quality.json.",
        "predictors": "One MRI volume: its crop around the tumour, once masked by liver or tumour, once by tumour; no "
                      "clinical variable. Masks are the annotated ones, for training and for held-out patients: tables "
                      "2 and 5 are not end to end. From image to score a bundle is measured on unseen cases.",
        "crop": f"Tumour-localised crop (TLCR) of {crop} voxels, component: {preset.crop.component}.",
        "split": f"{results.folds}-fold cross-validation by patient, stratified by outcome, seed {settings['seed']}; "
                 f"the split is folds.json. {PROTOCOLS[preset.protocol]}",
        "disjoint": "Patient: all cases of a patient are in one fold.",
        "model": f"Segmentation: {', '.join(networks) or 'not run'}. Classification: "
                 f"{', '.join(classifiers) or 'not run'}, at {shares}. Every setting is in settings.json (preset "
                 f"{preset.name}); the software searched no hyperparameters.",
        "software": f"NeoNet {environment['neonet']}, Python {environment['python']}, {packages}; "
                    f"{environment['system']} {environment['machine']}, GPU: {environment['gpu'] or 'none'}.",
        "initial": f"At random, seed {settings['seed']}; PattenNet's encoder is that of its fold's VAE, frozen.",
        "training": "AdamW. Epochs, batch, learning rate, augmentation: settings.json; the course of each training: "
                    "log.jsonl of its stage.",
        "chosen": PROTOCOLS[preset.protocol] + (f" {LAST_EPOCH}" if preset.protocol == "paper" else ""),
        "ensemble": "None in these tables: each patient is scored by the one fold that held the patient out.",
        "threshold": "Probability of outcome 1. Threshold: Youden's index on each fold's training patients (table 2c).",
        "measures": "Dice; AUC (mean of folds, pooled), Brier score, calibration intercept and slope, reliability "
                    "plot, decision curve, sensitivity, specificity, PPV, NPV; SSIM, PSNR, distances of features. "
                    "Models are compared by DeLong's paired test within folds.",
        "uncertainty": "95 % intervals: DeLong and stratified bootstrap for AUC, bootstrap over patients for Dice, "
                       "Wilson for sensitivity and specificity. Paired tests within folds, adjusted by Holm's method; "
                       "permutation test against chance within folds.",
        "robustness": "Standard deviation over folds here; repeats with other seeds are separate runs." + REST,
        "explanation": "Attention maps come with each case's report; what they show has not been validated.",
        "updating": "None.",
        "predictions": "predictions.csv holds every out-of-fold prediction; the code of NeoNet "
                       f"{environment['neonet']} made them.",
        "internal": "Cross-validation within one cohort: training and held-out patients do not differ by design.",
        "external": "None in this run." + REST,
        "code": f"NeoNet {environment['neonet']}, Apache 2.0." + REST,
        "weights": "Weights and settings lie in the run folder; 'neonet bundle export' makes a bundle of them." + REST,
        "details": "settings.json, folds.json, quality.json and predictions.csv of the run folder." + REST,
        "input": "Flags name a wrong modality or body part, spacing or intensities far from training, and tumours that "
                 "do not fit; without a tumour there is no score.",
        "limits": "One cohort, no external test; intervals as wide as its size makes them; synthetic cases add no "
                  "patients." + REST,
    }


def imbalance(quality: Mapping[str, Any], results: Results) -> str:
    """What was done about unequal classes, of all that can be."""
    rarer = int(quality["positives"] <= quality["negatives"])
    shares = ", ".join(ratio_name(ratio) for ratio in results.ratios if ratio)
    run = {model for model in CONTROLS if results.classifier(model).figures}
    done = ([f"Synthetic cases of the rarer outcome ({rarer}) are added ({shares}; 100 %: classes even)."]
            if shares else [])
    done += [f"Control: cases of the rarer outcome ({rarer}) are repeated."] if "PattenNet-duplicated" in run else []
    done += ["Control: classes are weighted."] if "PattenNet-weighted" in run else []
    return " ".join([*(done or ["Nothing was done about it."]), "Nothing is recalibrated: table 2c shows calibration."])


def _of_outcome(results: Results) -> dict[str, str]:
    parts = []
    for ratio in dict.fromkeys((0, results.highest_ratio)):
        record = auc_record(results, "PattenNet", ratio)
        if record["auc_pooled"] is not None:
            parts.append(f"PattenNet, {ratio_name(ratio)}: pooled AUC {record['auc_pooled']:.3f} "
                         f"({record['delong_low']:.3f} to {record['delong_high']:.3f})")
    found = "; ".join(parts)
    protocol = f" Protocol {results.preset.protocol}."
    return {"performance": (f"{found}.{protocol} All in tables 1 to 5. Subgroups: by the authors." if found else
                            "Tables 1 to 5. No classifier's scores are there yet."),
            "accuracy": f"Table 2c: sensitivity and specificity with intervals.{protocol}"}
