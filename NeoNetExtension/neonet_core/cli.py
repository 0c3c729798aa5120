"""The commands: one for each user task, each a thin layer over the library.

Everything heavy is imported inside the command that needs it, so that ``neonet --help`` answers at once.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from neonet_core import __version__
from neonet_core.errors import NeoNetError
from neonet_core.events import Events, JsonLines, Terminal
from neonet_core.pretrained import IMPORTABLE
from neonet_core.training.device import DEVICES, is_out_of_memory

if TYPE_CHECKING:
    from neonet_core.volume import Volume

DONE, OUR_FAULT, WRONG_INPUT, FAILED_CASES = 0, 1, 2, 3
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
IMAGE_HELP = ".nii, .nii.gz, .nrrd, .mha/.mhd, a DICOM folder or a .zip of one"
LABEL_HELP = "label map on the image's grid: 0 background, 1 liver, 2 tumour"
POINT_OPTIONS = ("--tumour-at", "--crop-center")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code (0 done, 1 a fault of ours, 2 wrong input or usage, 3 a batch with failed
    cases)."""
    argv = _join_negative_points(list(sys.argv[1:] if arguments is None else arguments))
    events: Events = JsonLines() if "--json" in argv else Terminal()
    try:
        options = _parser().parse_args(argv)
        return options.run(options, events) or DONE
    except NeoNetError as error:
        events.error(error)
        return WRONG_INPUT
    except KeyboardInterrupt:
        events.error(NeoNetError("INTERRUPTED", "Stopped.", "The same command goes on where it can, else begins anew."))
        return INTERRUPTED
    except Exception as error:
        known = _environment_fault(error)
        if known is not None:
            events.error(known)
            return WRONG_INPUT
        events.error(NeoNetError("INTERNAL", f"NeoNet failed: {type(error).__name__}.",
                                 f"This is a fault of ours; the details are in {_write_traceback()}"))
        return OUR_FAULT


def _environment_fault(error: Exception) -> NeoNetError | None:
    """What the machine and not the program is to blame for, in words."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return NeoNetError("DISK_FULL", "The disk is full.", "Free some space, or choose another --out.")
    if isinstance(error, PermissionError):
        return NeoNetError("NO_PERMISSION", f"No permission for {error.filename}.",
                           "Check the rights, or choose another --out.")
    if isinstance(error, FileExistsError | NotADirectoryError | IsADirectoryError):
        return NeoNetError("NOT_WRITABLE", f"{error.filename} is a file where a folder is needed, or the reverse.",
                           "Choose another --out.")
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return NeoNetError("NO_PERMISSION", f"{error.filename or 'The disk'} can only be read.",
                           "Choose another --out.")
    if isinstance(error, OSError) and error.errno in (getattr(errno, "EDQUOT", None), errno.EFBIG):
        return NeoNetError("DISK_FULL", "The disk's quota is used up.", "Free some space, or choose another --out.")
    if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.EIO, getattr(errno, "ESTALE", None)):
        return NeoNetError("NOT_WRITABLE", f"{error.filename or 'A file'}: {error.strerror}.",
                           "Check the disk and the path.")
    if is_out_of_memory(error):
        return NeoNetError("OUT_OF_MEMORY", "There is not enough memory for this.",
                           "Close other programs, choose --device cpu, or a smaller batch (--set ...batch_size=1).")
    return None


def _write_traceback() -> Path:
    handle, name = tempfile.mkstemp(prefix="neonet-", suffix=".log")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        traceback.print_exc(file=stream)
    return Path(name)


def _join_negative_points(argv: list[str]) -> list[str]:
    """Let ``--crop-center -20,5,30`` pass: argparse would take a value that begins with a minus for an option."""
    joined: list[str] = []
    for argument in argv:
        if joined and joined[-1] in POINT_OPTIONS and re.match(r"-[\d.]", argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


class _Parser(argparse.ArgumentParser):
    """Reports wrong usage as every other error is reported; options are given in full."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise NeoNetError("USAGE", f"{message[:1].upper()}{message[1:]}.", f"See '{self.prog} --help'.")


# --- what the options' texts become -----------------------------------------------------------------------------


def _point(text: str) -> tuple[float, float, float]:
    try:
        x, y, z = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a point R,A,S in millimetres") from None
    return x, y, z


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of numbers such as 0,1") from None


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 1 on")
    return int(text)


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


# --- the parser --------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    common = _Parser(add_help=False)
    common.add_argument("--json", action="store_true", help="one JSON event a line on stdout")
    common.add_argument("--device", choices=DEVICES, default="auto", help="where to compute (default: auto)")

    parser = _Parser(prog="neonet", description="Predicts perineural invasion of cholangiocarcinoma from one "
                     "hepatobiliary-phase T1 MRI. Research use only.")
    parser.add_argument("--version", action="version", version=f"neonet {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)

    def command(name: str, run: Callable[[argparse.Namespace, Events], int | None], text: str,
                group: argparse._SubParsersAction = commands) -> argparse.ArgumentParser:
        added = group.add_parser(name, parents=[common], help=text, description=text[:1].upper() + text[1:] + ".")
        added.set_defaults(run=run)
        return added

    def image_and_series(added: argparse.ArgumentParser) -> None:
        added.add_argument("image", metavar="IMAGE", type=Path, help=IMAGE_HELP)
        added.add_argument("--series", help="which series of a DICOM folder: its number in the list, or its UID")

    def bundle(added: argparse.ArgumentParser, default: str | None = "demo") -> None:
        added.add_argument("--bundle", default=default, metavar="B", help="folder or name of a bundle"
                           + (f" (default: {default})" if default else ""))

    def crop_place(added: argparse.ArgumentParser) -> None:
        added.add_argument("--tumour-at", type=_point, metavar="R,A,S", help="the tumour at or nearest to this point")
        added.add_argument("--crop-center", type=_point, metavar="R,A,S", help="centre of the crop, in mm")

    demo = command("demo", _demo, "a simulated case through the built-in demonstration model, with its report")
    demo.add_argument("--out", type=Path, default=Path("neonet-demo"), help="folder (default: neonet-demo)")
    demo.add_argument("--train", type=Path, metavar="FOLDER", help="instead, train the built-in model anew there "
                      "(about one and a half hours; resumes)")

    phantom = command("phantom", _phantom, "simulate a cohort with a known PNI signal")
    phantom.add_argument("out", metavar="OUT", type=Path)
    phantom.add_argument("--cases", type=int, default=128)
    phantom.add_argument("--positives", type=int, default=44)
    phantom.add_argument("--seed", type=int, default=0)
    phantom.add_argument("--size", choices=("small", "full"), default="full",
                         help="240 x 240 x 100 voxels (full) or half of that along each axis")
    phantom.add_argument("--strength", type=float, default=1.0, help="of the PNI signal; 0: none (default: 1)")

    cohort = commands.add_parser("cohort", help="check, split or make a cohort").add_subparsers(
        metavar="ACTION", required=True, parser_class=_Parser)
    check = command("check", _cohort_check, "quality control of a manifest, with a reason for each exclusion", cohort)
    check.add_argument("--out", type=Path, metavar="REPORT.json", help="write the report, with each case's facts")
    split = command("split", _cohort_split, "stratified folds by patient, written once and reused", cohort)
    split.add_argument("--folds", type=int, default=5)
    split.add_argument("--seed", type=int, default=0)
    split.add_argument("--out", type=Path, required=True, metavar="FOLDS.json")
    from_dicom = command("from-dicom", _cohort_from_dicom, "a manifest of the hepatobiliary phases in a tree of DICOM "
                         "studies, under pseudonyms and with the reason of each choice", cohort)
    from_dicom.add_argument("tree", metavar="TREE", type=Path, help="folder of studies, unpacked or in zips")
    from_dicom.add_argument("--out", type=Path, required=True, metavar="CASES.csv")
    from_dicom.add_argument("--series-choice", type=Path, metavar="CHOICE.csv", help="your own choices: columns "
                            "case_id and series, as in the CASES-series.csv that is written beside --out")
    for added in (check, split):
        added.add_argument("cases", metavar="CASES.csv", type=Path)
        added.add_argument("--outcome", default="pni", help="outcome column (default: pni)")

    segment = command("segment", _segment, "label map of liver and tumour")
    image_and_series(segment)
    bundle(segment)
    segment.add_argument("--out", type=Path, required=True, metavar="LABEL.nii.gz")

    crop = command("crop", _crop, "the tumour-localised crop (TLCR): image, mask, t1, t2 and crop.json")
    image_and_series(crop)
    crop.add_argument("label", metavar="LABEL", type=Path, help=LABEL_HELP)
    bundle(crop, default=None)
    crop.add_argument("--component", choices=("all", "largest"), help="the box of all tumours (default), or of the "
                      "largest; with --bundle: as the bundle has it")
    crop_place(crop)
    crop.add_argument("--out", type=Path, required=True, metavar="DIR")

    classify = command("classify", _classify, "PNI score of an image with its label map")
    image_and_series(classify)
    classify.add_argument("label", metavar="LABEL", type=Path, help=LABEL_HELP)
    bundle(classify)
    crop_place(classify)
    classify.add_argument("--out", type=Path, required=True, metavar="SCORE.json")

    predict = command("predict", _predict, "the whole case: label map, crop, score, attention map and report")
    image_and_series(predict)
    predict.add_argument("--label", type=Path, metavar="LABEL", help=LABEL_HELP + "; replaces ours")
    bundle(predict)
    predict.add_argument("--seg-bundle", metavar="B", help="another bundle whose segmentation is used")
    predict.add_argument("--case", default="case", metavar="NAME", help="name in the report; no patient's name")
    crop_place(predict)
    predict.add_argument("--out", type=Path, required=True, metavar="DIR")

    batch = command("batch", _batch, "a cohort through a bundle, unattended; resumes after a stop")
    batch.add_argument("cases", metavar="CASES.csv|DIR", type=Path, help="manifest, of which case_id and image are "
                       "needed; or a folder of NIfTI, NRRD or MetaImage files or of DICOM studies")
    bundle(batch)
    batch.add_argument("--seg-bundle", metavar="B", help="another bundle whose segmentation is used")
    batch.add_argument("--out", type=Path, required=True, metavar="DIR")
    batch.add_argument("--engine", choices=("local", "ray"), default="local", help="processes of this machine, or "
                       "actors of the Ray cluster that RAY_ADDRESS names, or of this machine (default: local)")
    batch.add_argument("--workers", type=_positive, metavar="N", help="cases at once, each with models of its own in "
                       "memory (default: 1; with ray as many as there is room for)")
    batch.add_argument("--threads", type=_positive, metavar="N", help="CPU threads of each worker (default: the cores, "
                       "shared out)")
    batch.add_argument("--limit", type=_positive, metavar="N", help="run at most so many cases now")
    batch.add_argument("--retry-failed", action="store_true", help="run cases again that have failed before")
    batch.add_argument("--segment-all", action="store_true", help="leave out the manifest's label maps: the bundle "
                       "segments every image")
    batch.add_argument("--keep-names", action="store_true", help="write names.csv: which file each pseudonym stands "
                       "for")
    batch.add_argument("--dry-run", action="store_true", help="print what would be run and the disk that it needs; "
                       "write nothing")

    generate = command("generate", _generate, "synthetic image patches that follow the masks of label maps")
    generate.add_argument("labels", metavar="LABEL", type=Path, nargs="+", help="label map: 0 background, 1 liver, "
                          "2 tumour")
    bundle(generate)
    generate.add_argument("--count", type=int, default=1, help="samples for each label map (default: 1)")
    generate.add_argument("--seed", type=int, default=0, help="the same seed gives the same patches (default: 0)")
    generate.add_argument("--outcome", type=int, choices=(0, 1), default=1, help="class to be drawn (default: 1)")
    generate.add_argument("--sampler", choices=("ddpm", "ddim", "dpm-solver++"), help="default: as the bundle says")
    generate.add_argument("--steps", type=int, help="of the sampler (default: as the bundle says)")
    generate.add_argument("--guidance", type=float, help="1: none; more: further towards the class")
    generate.add_argument("--batch-size", type=int, help="most samples drawn at once")
    generate.add_argument("--vary", action="store_true", help="mirror, scale and bend the masks, each sample its own")
    crop_place(generate)
    generate.add_argument("--out", type=Path, required=True, metavar="DIR")

    train = command("train", _train, "train the models of a cohort, fold by fold; resumes after a stop")
    train.add_argument("cases", metavar="CASES.csv", type=Path)
    train.add_argument("--preset", required=True, metavar="NAME|FILE",
                       help="demo, neonet, paper, quick, smoke, tiny, or a .yaml file")
    train.add_argument("--out", type=Path, required=True, metavar="RUN")
    train.add_argument("--outcome", default="pni", help="outcome column (default: pni)")
    train.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes",
                       help="change a setting, e.g. seg.epochs=20; may be repeated")
    train.add_argument("--folds", type=_numbers, metavar="0,1", help="folds to run (default: all)")
    train.add_argument("--split", type=Path, metavar="FOLDS.json", help="folds from 'neonet cohort split'")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--seeds", type=_numbers, metavar="0,1,2", help="repeat the whole with each of these seeds, in "
                       "RUN/seed-0, ...; 'neonet report RUN' gives mean and spread")
    train.add_argument("--stages", type=_names, metavar="vae,ldm,...", help="out of seg, vae, vqvae, ldm, controlnet, "
                       "synth and cls (default: as the preset says)")
    train.add_argument("--ratios", type=_numbers, metavar="0,100", help="percent of synthetic cases for NeoCls "
                       "(default: as the preset says)")
    train.add_argument("--models", type=_names, metavar="UNet,PattenNet,...", help="segmentation networks and "
                       "classifiers (default: as the preset says)")
    train.add_argument("--init", metavar="B", help="start NeoSeg from the weights of this bundle, with its network and "
                       "grid; never from a bundle that was trained on these patients")
    train.add_argument("--protocol", choices=("paper", "rigorous"), help="instead of the preset's")
    train.add_argument("--engine", choices=("local", "ray"), default="local", help="one stage after the other, or as "
                       "tasks of the Ray cluster that RAY_ADDRESS names, or of this machine (default: local)")
    train.add_argument("--threads", type=_positive, metavar="N", help="CPU threads of a stage; with equal numbers both "
                       "engines give equal results")
    train.add_argument("--dry-run", action="store_true", help="print the stages, what is done and what is left, with "
                       "the estimated time; write nothing")
    train.add_argument("--benchmark", type=Path, metavar="BENCHMARK.json", help="of 'neonet benchmark': times the "
                       "stages of --dry-run that have not been run yet")

    report = command("report", _report, "a training run's five tables, curves, pictures and checklists as one page")
    report.add_argument("folder", metavar="RUN", type=Path)
    report.add_argument("--out", type=Path, metavar="DIR", help="default: RUN/report")
    report.add_argument("--weights", type=Path, metavar="INCEPTION.safetensors", help="for FID and KID; without it, "
                        "the distances are on features of NeoSeg and are called so")
    report.add_argument("--lpips", type=Path, metavar="ALEX.npz", help="for LPIPS (.npz or .safetensors); "
                        "likewise")

    evaluate = command("evaluate", _evaluate, "judge what a batch has found in an external cohort")
    evaluate.add_argument("results", metavar="RESULTS", type=Path, help="folder of 'neonet batch', or its results.csv")
    evaluate.add_argument("--truth", type=Path, required=True, metavar="CASES.csv", help="manifest with the "
                          "outcome, and label maps where there are any")
    evaluate.add_argument("--outcome", default="pni", help="outcome column (default: pni)")
    evaluate.add_argument("--by", type=_names, default=[], metavar="COLUMN,...", help="columns of the manifest whose "
                          "groups are looked at apart")
    evaluate.add_argument("--out", type=Path, metavar="DIR", help="default: RESULTS/evaluation")

    benchmark = command("benchmark", _benchmark, "time each stage of a preset here, and project the whole protocol's "
                        "hours")
    benchmark.add_argument("--preset", default="paper", metavar="NAME|FILE", help="default: paper")
    benchmark.add_argument("--stages", type=_names, metavar="vae,ldm,...", help="default: all of the preset")
    benchmark.add_argument("--models", type=_names, metavar="UNet,PattenNet,...", help="likewise")
    benchmark.add_argument("--cases", type=int, default=128, help="of the cohort to project for (default: 128)")
    benchmark.add_argument("--positives", type=int, default=44, help="of these (default: 44)")
    benchmark.add_argument("--threads", type=_positive, metavar="N", help="CPU threads")
    benchmark.add_argument("--out", type=Path, metavar="BENCHMARK.json", help="for 'neonet train --dry-run'")

    command("selftest", _selftest, "run a 3D convolution on the device, and say why it is the CPU where it is")

    bundles = commands.add_parser("bundle", help="export, import, inspect or verify a trained model").add_subparsers(
        metavar="ACTION", required=True, parser_class=_Parser)
    export = command("export", _bundle_export, "make a bundle of a training run", bundles)
    export.add_argument("folder", metavar="RUN", type=Path)
    export.add_argument("out", metavar="OUT", type=Path)
    export.add_argument("--name", help="the bundle's name (default: that of its folder)")
    export.add_argument("--half", action="store_true", help="store the weights in half precision")
    export.add_argument("--ratio", type=int, default=0, help="NeoCls as trained with this percentage of synthetic "
                        "cases (default: 0)")
    export.add_argument("--intended-use", default="Research on the kind of images that it was trained on.")
    export.add_argument("--training-data", default="Not described by whoever exported the bundle.")
    export.add_argument("--limits", default="Not validated on data of other scanners or hospitals.")
    imported = command("import", _bundle_import, "make a bundle of published weights, which pip fetches", bundles)
    imported.add_argument("name", metavar="NAME", choices=IMPORTABLE, help=", ".join(IMPORTABLE))
    imported.add_argument("--wheel", type=Path, metavar="FILE", help="the package's wheel, fetched elsewhere")
    for name, action, text in (("info", _bundle_info, "what a bundle holds"),
                               ("verify", _bundle_verify, "check every file of a bundle against its hash")):
        command(name, action, text, bundles).add_argument("bundle", metavar="B")
    return parser


def _read_image(options: argparse.Namespace) -> Volume:
    from neonet_core.volume import read_volume

    if options.series is not None and not (options.image.is_dir() or options.image.suffix.lower() == ".zip"):
        raise NeoNetError("USAGE", f"--series chooses from a DICOM folder or .zip; {options.image.name} is neither.",
                          "Leave --series out.")
    return read_volume(options.image, options.series)


def _check_out(folder: Path) -> None:
    """Say that nothing can be written there before the work, not after it."""
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, "not writable", str(folder))


# --- the commands ------------------------------------------------------------------------------------------------


def _demo(options: argparse.Namespace, events: Events) -> None:
    from neonet_core import demo

    if options.train:
        bundle = demo.train_demo_bundle(options.train, options.device, events)
        events.result(bundle=bundle.folder, metrics=bundle.record.metrics)
    else:
        events.result(report=demo.run_demo(options.out, options.device, events).resolve())


def _phantom(options: argparse.Namespace, events: Events) -> None:
    from neonet_core.phantom import write_cohort

    path = write_cohort(options.out, options.cases, options.positives, options.seed, options.size, options.strength,
                        events)
    events.result(cases=path)


def _cohort_check(options: argparse.Namespace, events: Events) -> None:
    from neonet_core.cohort import check_cohort, read_manifest
    from neonet_core.training.files import write_json

    report = check_cohort(read_manifest(options.cases, options.outcome), events)
    events.log(report.table())
    if options.out:
        write_json(options.out, report.to_json())
    facts = report.to_json()
    events.result(cases=facts["cases"], usable=len(facts["included"]), excluded=len(facts["exclusions"]),
                  **({"exclusions": facts["exclusions"]} if options.json else {}))


def _cohort_split(options: argparse.Namespace, events: Events) -> None:
    from neonet_core.cohort import read_manifest, stratified_folds

    folds = stratified_folds(read_manifest(options.cases, options.outcome), options.folds, options.seed)
    folds.write(options.out)
    events.result(folds=options.out)


def _cohort_from_dicom(options: argparse.Namespace, events: Events) -> None:
    from neonet_core.dicom.from_dicom import read_choices, write_cases

    choices = read_choices(options.series_choice) if options.series_choice else None
    written = write_cases(options.tree, options.out, choices, events)
    events.log(written.scan.summary + ".")
    events.result(cases=written.cases, count=written.count, left_out=sorted(written.left_out), series=written.series,
                  not_dicom=written.scan.not_dicom, damaged=written.scan.damaged)


def _segment(options: argparse.Namespace, events: Events) -> None:
    from neonet_core.bundle import DEMO_WARNING, load_bundle
    from neonet_core.segmentation.inference import segment
    from neonet_core.training.device import choose_device
    from neonet_core.volume import check_writable_format, write_volume

    check_writable_format(options.out)
    _check_out(options.out.parent)
    device = choose_device(options.device)
    bundle = load_bundle(options.bundle)
    label_map = segment(_read_image(options), bundle.segmentors(device), device, events)
    write_volume(label_map, options.out, bundle.note)
    if bundle.is_demo:
        events.log(f"DEMO_MODEL: {DEMO_WARNING}", "warning")
    events.result(label_map=options.out, bundle=bundle.name, flags=["DEMO_MODEL"] if bundle.is_demo else [],
                  notice=bundle.notice)


def _crop(options: argparse.Namespace, events: Events) -> None:
    from neonet_core.bundle import RESEARCH_USE_ONLY, load_bundle
    from neonet_core.pipeline import cut_patch, write_patch
    from neonet_core.presets import CropSettings
    from neonet_core.volume import read_label_map

    settings, spacing, note, facts = CropSettings(), None, RESEARCH_USE_ONLY, {"notice": RESEARCH_USE_ONLY}
    if options.bundle:
        bundle = load_bundle(options.bundle)
        settings, spacing = bundle.record.preset.crop, bundle.record.members[0].crop_spacing
        note, facts = bundle.note, {"notice": bundle.notice, "bundle": bundle.name}
    if options.component:
        settings = settings.model_copy(update={"component": options.component})
    patch = cut_patch(_read_image(options), read_label_map(options.label), settings, spacing,
                      tumour_at=options.tumour_at, crop_center=options.crop_center)
    write_patch(patch, options.out, note, **facts)
    if patch.crop.coverage < 1:
        events.log(f"The crop holds {patch.crop.coverage:.0%} of the tumour.", "warning")
    events.result(crop=options.out, coverage=patch.crop.coverage)


def _classify(options: argparse.Namespace, events: Events) -> None:
    from neonet_core.pipeline import predict_case
    from neonet_core.training.files import write_json
    from neonet_core.volume import read_label_map

    _check_out(options.out.parent)
    result = predict_case(_read_image(options), label_map=read_label_map(options.label),
                          bundle=options.bundle, tumour_at=options.tumour_at, crop_center=options.crop_center,
                          need_score=True, device=options.device, events=events)
    content = result.to_json()
    write_json(options.out, content)
    _report_case(content, events, score=options.out)


def _predict(options: argparse.Namespace, events: Events) -> None:
    from neonet_core.pipeline import predict_case, write_case
    from neonet_core.volume import read_label_map

    _check_out(options.out)
    image = _read_image(options)
    label_map = read_label_map(options.label) if options.label else None
    result = predict_case(image, label_map=label_map, bundle=options.bundle, seg_bundle=options.seg_bundle,
                          case=options.case, tumour_at=options.tumour_at, crop_center=options.crop_center,
                          device=options.device, events=events)
    report = write_case(result, options.out)
    _report_case(result.to_json(), events, report=report.resolve())


def _report_case(content: dict, events: Events, **files: Path) -> None:
    for flag in content["flags"]:
        events.log(f"{flag['code']}: {flag['message']}", "warning")
    events.result(probability=content["probability"], spread=content["spread"], bundle=content["bundle"]["name"],
                  flags=[flag["code"] for flag in content["flags"]], notice=content["notice"], **files)


def _batch(options: argparse.Namespace, events: Events) -> int | None:
    from neonet_core.batch.run import plan_batch, run_batch, table

    if options.dry_run:
        plan = plan_batch(options.cases, options.out, bundle=options.bundle, seg_bundle=options.seg_bundle,
                          limit=options.limit, retry_failed=options.retry_failed, segment_all=options.segment_all,
                          events=events)
        events.log(table(plan, options.out))
        events.result(cases=len(plan.cases), done=plan.done, failed=plan.failed, to_run=len(plan.todo),
                      bytes_needed=len(plan.todo) * plan.case_bytes,
                      **({"plan": [case.case_id for case in plan.todo]} if options.json else {}))
        return None
    summary = run_batch(options.cases, options.out, bundle=options.bundle, seg_bundle=options.seg_bundle,
                        engine=options.engine, workers=options.workers, threads=options.threads, limit=options.limit,
                        retry_failed=options.retry_failed, segment_all=options.segment_all,
                        keep_names=options.keep_names, device=options.device, events=events)
    events.result(results=summary.results, report=summary.report, done=summary.done, failed=summary.failed,
                  left=summary.left, notice=summary.notice, flags=summary.flags if options.json else
                  [f"{flag} {count}" for flag, count in summary.flags.items()])
    return None if summary.complete else FAILED_CASES


def _generate(options: argparse.Namespace, events: Events) -> None:
    from neonet_core.generate import generate
    from neonet_core.volume import read_label_map

    changes = {name: getattr(options, name) for name in ("sampler", "steps", "guidance", "batch_size")
               if getattr(options, name) is not None}
    samples = generate([read_label_map(path) for path in options.labels], options.out, bundle=options.bundle,
                       count=options.count, seed=options.seed, outcome=options.outcome, vary=options.vary,
                       tumour_at=options.tumour_at, crop_center=options.crop_center, changes=changes,
                       device=options.device, events=events)
    events.result(folder=options.out, samples=len(samples), images=samples)


def _train(options: argparse.Namespace, events: Events) -> None:
    from dataclasses import asdict

    from neonet_core.cohort import read_manifest
    from neonet_core.experiment.benchmark import Benchmark
    from neonet_core.experiment.plan import plan, table
    from neonet_core.experiment.run import seed_folder
    from neonet_core.experiment.summary import summarise
    from neonet_core.experiment.train import experiment
    from neonet_core.presets import load_preset

    changes = [*options.changes, *([f"protocol={options.protocol}"] if options.protocol else [])]
    cohort, preset = read_manifest(options.cases.resolve(), options.outcome), load_preset(options.preset, changes)
    benchmark = Benchmark.read(options.benchmark) if options.benchmark else None
    out = options.out.resolve()
    if options.seeds and (out / "settings.json").is_file():
        raise NeoNetError("RUN_EXISTS", f"{options.out} holds a single run.", "Choose another folder with --out.")
    runs = {seed: seed_folder(out, seed) for seed in options.seeds} if options.seeds else {options.seed: out}
    planned = {seed: experiment(cohort, preset, folder, seed=seed, folds=options.folds, split=options.split,
                                stages=options.stages, models=options.models, ratios=options.ratios,
                                init=options.init, engine=options.engine, device=options.device, events=events)
               for seed, folder in runs.items()}
    if options.dry_run:
        stages = plan([task for one in planned.values() for task in one.tasks], benchmark)
        events.log(table(stages))
        events.result(stages=len(stages), done=sum(one.progress.state == "done" for one in stages),
                      **({"plan": [asdict(one) for one in stages]} if options.json else {}))
        return
    metrics = {seed: summarise(one.train(options.engine, options.device, options.threads, events)).metrics
               for seed, one in planned.items()}
    if options.seeds:
        events.result(run=options.out, metrics={f"seed {seed}": figures for seed, figures in metrics.items()})
    else:
        events.result(run=options.out, predictions=options.out / "predictions.csv", metrics=metrics[options.seed])


def _report(options: argparse.Namespace, events: Events) -> None:
    from neonet_core.experiment.reporting.repeats import write_repeats
    from neonet_core.experiment.reporting.report import write_report
    from neonet_core.experiment.run import runs_in

    runs = runs_in(options.folder)
    repeated = runs[0].folder != options.folder
    reports = [write_report(run, options.out / run.folder.name if options.out and repeated else options.out,
                            inception=options.weights, lpips=options.lpips, device=options.device, events=events)
               for run in runs]
    if len(runs) > 1:
        events.result(repeats=write_repeats(runs, options.out or options.folder / "report"), reports=reports)
    else:
        events.result(report=reports[0])


def _evaluate(options: argparse.Namespace, events: Events) -> None:
    from neonet_core.cohort import read_manifest
    from neonet_core.external.report import evaluate

    folder = options.results if options.results.is_dir() else options.results.parent
    truth = read_manifest(options.truth, options.outcome)
    found = evaluate(options.results, truth, options.out or folder / "evaluation", by=options.by, events=events)
    events.result(report=found.report, patients=found.patients, positives=found.positives, auc=found.auc,
                  auc_95=None if found.auc is None else [found.low, found.high])


def _benchmark(options: argparse.Namespace, events: Events) -> None:
    from neonet_core.experiment.benchmark import run_benchmark
    from neonet_core.presets import load_preset

    benchmark, projection = run_benchmark(
        load_preset(options.preset), stages=options.stages, models=options.models, cases=options.cases,
        positives=options.positives, device=options.device, threads=options.threads, out=options.out, events=events)
    events.result(hours=projection.total, benchmark=options.out, failed=list(benchmark.failures))


def _selftest(options: argparse.Namespace, events: Events) -> None:
    from neonet_core.selftest import selftest

    events.result(**selftest(options.device, events).to_json())


def _bundle_export(options: argparse.Namespace, events: Events) -> None:
    from neonet_core.bundle import ModelCard
    from neonet_core.experiment.export import export_bundle
    from neonet_core.experiment.run import runs_in

    run, *others = runs_in(options.folder)
    if others:
        raise NeoNetError("SEVERAL_RUNS", f"{options.folder} holds {len(others) + 1} runs, one of each seed.",
                          f"Export one of them: {run.folder}.")
    card = ModelCard(intended_use=options.intended_use, training_data=options.training_data, limits=options.limits)
    bundle = export_bundle(run, options.out, name=options.name or options.out.name, card=card,
                           half=options.half, ratio=options.ratio)
    events.result(bundle=bundle.folder, hash=bundle.hash, members=len(bundle.record.members))


def _bundle_import(options: argparse.Namespace, events: Events) -> None:
    from neonet_core.pretrained.pyliverlesionseg import import_bundle

    bundle = import_bundle(options.wheel)
    events.log(f"{bundle.record.card.attribution} Licence: {bundle.record.card.licence}.")
    events.result(bundle=bundle.name, folder=bundle.folder, hash=bundle.hash, licence=bundle.record.card.licence,
                  notice=bundle.notice)


def _bundle_info(options: argparse.Namespace, events: Events) -> None:
    from neonet_core.bundle import load_bundle

    bundle = load_bundle(options.bundle)
    record = bundle.record.model_dump(mode="json", exclude={"preset", "hashes", "out_of_fold", "members"})
    events.result(**record, hash=bundle.hash, preset=bundle.record.preset.name, members=len(bundle.record.members),
                  notice=bundle.notice)


def _bundle_verify(options: argparse.Namespace, events: Events) -> None:
    from neonet_core.bundle import load_bundle

    bundle = load_bundle(options.bundle)
    bundle.verify()
    events.result(bundle=bundle.name, verified=len(bundle.record.hashes), hash=bundle.hash)
