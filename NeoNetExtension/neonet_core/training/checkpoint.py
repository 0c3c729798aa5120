"""A training's whole state in one safetensors file: model, optimiser, EMA, random states, history.

The file is written atomically, so that a kill at any moment leaves the last whole one. Scalars and
the states of Python's and NumPy's generators travel as JSON in the file's header; nothing is pickled.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load, load_file, save

from neonet_core.training.files import write_bytes


def save_weights(path: Path, module: torch.nn.Module, half: bool = False) -> None:
    """Write a module's parameters and buffers, floating-point ones in half precision where `half`.

    A tensor that the module has under several names (MONAI's DynUNet has each of its blocks under two) is written once,
    under the first of them.
    """
    first = _first_names(module)
    state = {name: t.detach().cpu().contiguous() for name, t in module.state_dict().items() if first[name] == name}
    if half:
        state = {name: t.half() if t.is_floating_point() else t for name, t in state.items()}
    write_bytes(path, save(state))


def load_weights(path: Path, module: torch.nn.Module) -> None:
    """Read what `save_weights` wrote; every tensor must be there and fit (strict)."""
    state, own = load_file(path), module.state_dict()
    state |= {name: state[first] for name, first in _first_names(module).items() if first in state}
    module.load_state_dict({name: t.to(own[name].dtype) if name in own else t for name, t in state.items()})


def _first_names(module: torch.nn.Module) -> dict[str, str]:
    """For each name in a module's state the first one of the same tensor."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in module.state_dict(keep_vars=True).items()}


def save_checkpoint(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer,
                    ema: torch.nn.Module | None, progress: dict[str, Any]) -> None:
    """Write all that `load_checkpoint` needs to go on as if nothing had happened.

    Parameters
    ----------
    progress : dict
        What the loop keeps beside tensors (epoch, best value, history); JSON-able.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    if ema is not None:
        tensors |= {f"ema.{name}": tensor for name, tensor in ema.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
    tensors["random.torch"] = torch.get_rng_state()
    if _on_cuda(model):
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    numpy_state = np.random.get_state(legacy=False)
    header = {
        "progress": json.dumps(progress),
        "random.python": json.dumps(random.getstate()),
        "random.numpy": json.dumps(numpy_state, default=lambda array: array.tolist()),
    }
    # clone(): safetensors refuses tensors that share memory
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(tensors, metadata=header))


def load_checkpoint(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer,
                    ema: torch.nn.Module | None) -> dict[str, Any]:
    """Restore what `save_checkpoint` wrote, the random states included; returns `progress`."""
    # from bytes, not mapped: Windows does not replace a file that is mapped, and the next epoch will
    tensors = load(path.read_bytes())
    with safe_open(path, framework="pt") as stream:
        header = stream.metadata()

    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    model.load_state_dict(part("model."))
    if ema is not None:
        ema.load_state_dict(part("ema."))
    optimizer_state = optimizer.state_dict()
    states: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in part("optimizer.").items():
        index, key = name.split(".", 1)
        states.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": states, "param_groups": optimizer_state["param_groups"]})
    for parameter, moments in optimizer.state.items():  # CUDA's fused AdamW wants them laid out as the parameter is
        moments |= {name: torch.empty_like(parameter).copy_(moment) for name, moment in moments.items()
                    if name != "step"}

    torch.set_rng_state(tensors["random.torch"])
    if _on_cuda(model) and "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"])
    version, internal, gauss = json.loads(header["random.python"])
    random.setstate((version, tuple(internal), gauss))
    numpy_state = json.loads(header["random.numpy"])
    numpy_state["state"]["key"] = np.array(numpy_state["state"]["key"], dtype=np.uint32)
    np.random.set_state(numpy_state)
    return json.loads(header["progress"])


def _on_cuda(model: torch.nn.Module) -> bool:
    return any(parameter.is_cuda for parameter in model.parameters())
