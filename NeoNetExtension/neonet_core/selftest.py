"""Does this machine compute? A real 3D convolution on the device, held against the CPU's, and why it is not the GPU."""

from __future__ import annotations

import platform
import sys
import time
import warnings
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from neonet_core import __version__
from neonet_core.events import Events, Silent

CHANNELS, EDGE, REPEATS = 8, 48, 3
"""A layer as in our networks; a hundred megabytes at most, so that a card with little memory passes."""
TOLERANCE = 1e-2
"""Largest difference from the CPU relative to the result's spread. TF32 (10 bits) gives about 1e-3."""
PACKAGES = ("torch", "monai", "numpy", "SimpleITK")


@dataclass(frozen=True)
class SelfTest:
    """What `selftest` found."""

    device: str
    """Where computing works: "cuda", "mps" or "cpu"."""
    device_name: str
    fell_back: bool
    """The CPU computes although another device was asked for, or none was."""
    reason: str
    """Why, in one sentence; "" where it did not fall back."""
    devices: tuple[str, ...]
    """All that passed: what ``--device`` can name."""
    free_memory_gb: float
    """Of the device."""
    seconds: float
    """For one convolution on the device, once it is warm."""
    versions: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def selftest(device: str = "auto", events: Events | None = None) -> SelfTest:
    """Run a 3D convolution on `device` ("auto", "cpu", "cuda", "mps"); where that fails, on the CPU.

    Never raises for a device that does not work: that is what is to be found out.
    """
    events = events or Silent()
    kinds = [device] if device in ("cuda", "mps") else ["cuda", "mps"] if device == "auto" else []
    reasons, passed = [], []
    for done, kind in enumerate([*kinds, "cpu"]):
        events.progress("self-test", done, len(kinds) + 1)
        reason, seconds = _try(kind)
        if reason:
            reasons.append(reason)
        else:
            passed.append((kind, seconds))
    events.progress("self-test", len(kinds) + 1, len(kinds) + 1)
    chosen, seconds = passed[0]
    fell_back = chosen == "cpu" and device != "cpu"
    return SelfTest(device=chosen, device_name=_name(chosen), fell_back=fell_back,
                    reason=_most_telling(reasons) if fell_back else "", devices=tuple(kind for kind, _ in passed),
                    free_memory_gb=round(_free_bytes(chosen) / 1e9, 1), seconds=round(seconds, 4),
                    versions={"neonet": __version__, "python": platform.python_version(), **_versions()})


def _try(kind: str) -> tuple[str, float]:
    """Why the device does not compute ("" where it does), and the seconds that one convolution took."""
    if kind != "cpu" and (reason := _unavailable(kind)):
        return reason, 0.0
    try:
        return _convolve(kind)
    except Exception as error:
        if kind == "cpu":
            raise
        return _explain(kind, error), 0.0


def _convolve(kind: str) -> tuple[str, float]:
    import torch

    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.Conv3d(CHANNELS, CHANNELS, 3, padding=1).requires_grad_(False)
    layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) / (27 * CHANNELS) ** 0.5)
    patch = torch.randn(1, CHANNELS, EDGE, EDGE, EDGE, generator=generator)
    expected = layer(patch)
    there, layer = patch.to(kind), layer.to(kind)
    found = layer(there).cpu()  # warms up
    started = time.perf_counter()
    for _ in range(REPEATS):
        found = layer(there)
    found = found.cpu()  # waits for the device
    seconds = (time.perf_counter() - started) / REPEATS
    if not bool(((found - expected).abs().max() <= TOLERANCE * expected.std()).item()):
        return f"{_title(kind)} computes wrong numbers; update its driver and PyTorch.", seconds
    return "", seconds


def _unavailable(kind: str) -> str:
    import torch

    if kind == "mps":
        if torch.backends.mps.is_available():
            return ""
        if sys.platform == "darwin":
            return "This PyTorch or this macOS does not support the graphics of Apple computers."
        return "Apple's graphics (mps) exist on Apple computers only."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return ""
    if torch.version.cuda is None and torch.version.hip is None:
        return (f"The installed PyTorch ({torch.__version__}) is a version for the CPU only; install one with CUDA if "
                "this computer has an NVIDIA graphics card.")
    if any("driver" in str(warning.message) and "too old" in str(warning.message) for warning in caught):
        return "The driver of the NVIDIA graphics card is too old for the installed PyTorch; update the driver."
    return "No NVIDIA graphics card with a working driver was found."


def _explain(kind: str, error: Exception) -> str:
    text = str(error)
    if "out of memory" in text.lower():
        return f"{_title(kind)} has too little free memory; close other programs that use it."
    if "no kernel image" in text or "not compatible" in text:
        return f"The installed PyTorch does not support {_title(kind)}; install another version of PyTorch."
    first = (text.splitlines() or [""])[0]
    return f"{_title(kind)} failed ({type(error).__name__}: {first[:200]}); update its driver and PyTorch."


def _title(kind: str) -> str:
    return f"The graphics card ({_name(kind)})" if kind != "cpu" else "The CPU"


def _most_telling(reasons: list[str]) -> str:
    """Of "cuda" and "mps" one does not exist on any computer: that one is left out where there is another."""
    return next((one for one in reasons if "Apple" in one), reasons[0]) if sys.platform == "darwin" else reasons[0]


def _name(kind: str) -> str:
    import torch

    try:
        return torch.cuda.get_device_name() if kind == "cuda" else platform.processor() or platform.machine()
    except Exception:  # a card that fails may not tell its name either
        return kind


def _free_bytes(kind: str) -> int:
    import psutil
    import torch

    return torch.cuda.mem_get_info()[0] if kind == "cuda" else psutil.virtual_memory().available


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # Slicer's own SimpleITK may have no metadata
            continue
    return found
