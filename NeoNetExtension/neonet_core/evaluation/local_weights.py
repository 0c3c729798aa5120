"""Weights of published 2D networks (Inception, LPIPS) from a local file: nothing is downloaded, nothing unpickled."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from neonet_core.errors import NeoNetError


def import_package(name: str, purpose: str) -> Any:
    """Import an optional package. Raises ``MISSING_PACKAGE`` where it, or what it needs, does not import."""
    try:
        importlib.import_module(name.partition(".")[0])  # a failed try leaves parts that would import the next time
        return importlib.import_module(name)
    # torchvision, which these packages import, raises RuntimeError where it does not fit the installed torch
    except (ImportError, RuntimeError, OSError) as error:
        raise NeoNetError("MISSING_PACKAGE", f"{purpose} needs the package {name}, which cannot be imported here "
                          f"({error}).", 'Install it with: pip install "neonet-core[metrics]", and a torchvision that '
                          "fits the installed torch; or leave out --weights: our own segmentor's features are used "
                          "then.") from error


def weights_file(path: Path, purpose: str, suffixes: tuple[str, ...] = (".safetensors",)) -> Path:
    """The path, checked. Raises ``FILE_NOT_FOUND``; ``BAD_WEIGHTS`` for another kind of file."""
    path = Path(path)
    if path.suffix not in suffixes:
        raise NeoNetError("BAD_WEIGHTS", f"{path.name}: the weights of {purpose} must be in a {' or '.join(suffixes)} "
                          "file.",
                          "A .pth or .pt file can run code when it is read. Convert one that you trust: read it with "
                          "PyTorch (weights_only=True) and write its state with safetensors.torch.save_file.")
    if not path.is_file():
        raise NeoNetError("FILE_NOT_FOUND", f"There is no file {path.name}.", f"Give the weights of {purpose}.")
    return path


def unfit(path: Path, purpose: str, error: Exception) -> NeoNetError:
    """The error for a file whose tensors are damaged or belong to another network."""
    return NeoNetError("BAD_WEIGHTS", f"{path.name} does not hold the weights of {purpose}: "
                       f"{str(error).splitlines()[0]}", "Give the whole network's state in one file.")
