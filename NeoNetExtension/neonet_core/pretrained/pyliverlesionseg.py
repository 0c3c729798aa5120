"""`neonet bundle import pyliverlesionseg`: the published networks for liver and liver lesions as a bundle."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from pathlib import Path

import torch

from neonet_core import __version__
from neonet_core.bundle import Bundle, BundleRecord, Member, ModelCard, load_bundle
from neonet_core.errors import NeoNetError
from neonet_core.home import bundles_folder
from neonet_core.presets import Preset, SegSettings, load_preset
from neonet_core.pretrained.keras_weights import load_keras_weights
from neonet_core.pretrained.wheel import Wheel, check, fetch, read
from neonet_core.segmentation.networks import TWO_STEP_SPACING
from neonet_core.segmentation.two_step import LIVER_SPACING, TwoStep
from neonet_core.training.checkpoint import save_weights
from neonet_core.training.files import sha256_of_file, write_json

NAME = "pyliverlesionseg"
WHEEL = Wheel(package=NAME, version="0.3", python="3.6",
              sha256="ffe1576aefff5922ea8d1cfa2c50864cda97798798559542b9517689fd290cb8")
LIVER_FILE = (f"{NAME}/trained_models/model_unet_ct_mr_liv_seg_resize_1.5mm_med_3_resize_3mm_20201011_dice_loss_val_"
              "binary_dice_mean.hdf5")
LESION_FILE = (f"{NAME}/trained_models/model_unet_ct_mr_lesion_seg_resize_1mm_1mm_3mm_20220207_dice_loss_val_"
               "binary_dice_mean.hdf5")
SEG_FILE = "fold-0/seg.safetensors"

CARD = ModelCard(
    intended_use="Research: a first label map of liver and liver lesions in abdominal MRI, for a reader to correct.",
    training_data="CT and MR of the abdomen, by the networks' authors (KU Leuven): about 196 volumes for the liver, "
                  "180 for its lesions, as the package's defaults say. Not chosen for cholangiocarcinoma, nor for the "
                  "hepatobiliary phase.",
    limits="NeoSeg only: no PNI model and no generator. Liver Dice 0.90 on one abdominal MRI, against the labels of "
           "another model; not measured on lesions. Invents lesions, and misses some: every label map must be looked "
           "at. A stack that holds a part of the liver only, diffusion images and artefacts lead it astray.",
    licence="Apache-2.0",
    attribution="Weights of the package pyliverlesionseg 0.3 by Xikai Tang and Georg Schramm, KU Leuven, converted "
                "unchanged. Tang X. et al., Whole liver segmentation based on deep learning and manual adjustment for "
                "clinical use in SIRT, Eur. J. Nucl. Med. Mol. Imaging 47, 2020 (10.1007/s00259-020-04800-3).")


def import_bundle(wheel: Path | None = None) -> Bundle:
    """Make a bundle of the published weights in the user's folder, where ``--bundle pyliverlesionseg`` finds it.

    Parameters
    ----------
    wheel : Path or None
        The package's wheel; None: pip fetches it.

    Returns
    -------
    Bundle
        That which is there already, if it is whole.

    Raises
    ------
    NeoNetError
        ``DOWNLOAD_FAILED``, ``FILE_NOT_FOUND``, ``WRONG_HASH``, ``MISSING_PACKAGE``, ``WRONG_WEIGHTS``.
    """
    out = bundles_folder() / NAME
    if wheel is None and (there := _whole_bundle(out)) is not None:
        return there
    with tempfile.TemporaryDirectory() as folder:
        path = fetch(WHEEL, Path(folder)) if wheel is None else wheel
        check(WHEEL, path)
        network = convert(read(path, LIVER_FILE), read(path, LESION_FILE))
    return write_bundle(network, out)


def convert(liver: bytes, lesion: bytes, channels: int = 20) -> TwoStep:
    """The two HDF5 files as one network, in evaluation mode. Raises ``MISSING_PACKAGE``, ``WRONG_WEIGHTS``."""
    network = TwoStep(channels)
    load_keras_weights(liver, network.liver, (LIVER_SPACING,) * 3)
    load_keras_weights(lesion, network.lesion, TWO_STEP_SPACING)
    return network.eval()


def write_bundle(network: torch.nn.Module, out: Path, channels: int = 20) -> Bundle:
    """Write the bundle's folder, whole or not at all; what was there is replaced."""
    temporary = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        save_weights(temporary / SEG_FILE, network)
        member = Member(fold=0, seg=SEG_FILE, seg_spacing=TWO_STEP_SPACING)
        record = BundleRecord(name=NAME, version=WHEEL.version, neonet=__version__, outcome="pni",
                              preset=_preset(channels), members=(member,), card=CARD,
                              hashes={SEG_FILE: sha256_of_file(temporary / SEG_FILE)})
        write_json(temporary / "bundle.json", record.model_dump(mode="json"))
        shutil.rmtree(out, ignore_errors=True)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return load_bundle(out)


def _preset(channels: int) -> Preset:
    """`neonet`, with this network as NeoSeg; what trains the other parts is not used by this bundle."""
    preset = load_preset("neonet")
    seg = SegSettings.model_validate(preset.seg.model_dump() | {
        "network": "TwoStep", "channels": (channels,), "spacing": TWO_STEP_SPACING})
    return preset.model_copy(update={"seg": seg})


def _whole_bundle(folder: Path) -> Bundle | None:
    try:
        bundle = load_bundle(folder)
        bundle.verify()
    except NeoNetError:  # none, or a damaged one, which is made anew
        return None
    return bundle
