"""Which device computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neonet_core.errors import NeoNetError

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda", "mps")


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name; ``auto`` prefers CUDA, then Apple's MPS, then the CPU. Raises ``NO_DEVICE``."""
    import torch

    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))
    if not available.get(name, False):
        raise NeoNetError("NO_DEVICE", f"The device '{name}' is not available on this machine.",
                          "Choose --device cpu, or install a build of PyTorch that supports it.")
    return torch.device(name)


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, of the machine or of the device.

    CUDA raises OutOfMemoryError (through Ray one that is called ``RayTaskError(OutOfMemoryError)``), or RuntimeError in
    the words of cuBLAS, cuDNN or the driver; a CPU raises RuntimeError with "can't allocate memory" or "bad_alloc".
    """
    if isinstance(error, MemoryError) or "OutOfMemoryError" in type(error).__name__:
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        sign in text for sign in ("out of memory", "alloc_failed", "allocate memory", "bad_alloc"))
