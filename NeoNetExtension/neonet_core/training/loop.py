"""The one training loop, for every stage.

A stage brings a model, its batches, a loss and, where it has one, a validation; the loop brings AdamW on accelerate,
bf16 on CUDA, EMA, the learning-rate schedule, early stopping, checkpoints and the log.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from neonet_core.errors import NeoNetError
from neonet_core.events import Events
from neonet_core.presets import Training
from neonet_core.training.checkpoint import load_checkpoint, load_weights, save_checkpoint, save_weights
from neonet_core.training.files import write_text

Batch = Any
PROGRESS_INTERVAL_S = 0.5
CHECKPOINT_INTERVAL_S = 20.0
"""Epochs on cached latents take a second, and writing a large network's state takes as long: an interruption may cost
this much, or an epoch where that is longer."""


@dataclass(frozen=True)
class Validation:
    """How a stage is validated.

    Attributes
    ----------
    measure : callable
        Takes the model in evaluation mode, returns named figures.
    monitor : str
        The figure by which the best epoch is chosen.
    better : "higher" or "lower"
    """

    measure: Callable[[torch.nn.Module], dict[str, float]]
    monitor: str
    better: Literal["higher", "lower"]

    def improves(self, value: float, best: float | None) -> bool:
        if math.isnan(value):
            return False
        return best is None or (value > best if self.better == "higher" else value < best)


@dataclass(frozen=True)
class Fit:
    """What a training ended with. `best_epoch` is the last one where nothing was monitored."""

    epochs: int
    best_epoch: int
    best_value: float | None
    history: list[dict[str, float]]


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def derive_seed(*parts: int) -> int:
    """One 32-bit seed from several numbers (run seed, fold, epoch, index, ...), well mixed."""
    # the length too: SeedSequence pads with zeros, so that (a, b) and (a, b, 0) would be the same
    return int(np.random.SeedSequence([len(parts), *parts]).generate_state(1)[0])


def learning_rate(settings: Training, epoch: int) -> float:
    """Learning rate of an epoch (0-based): constant, or cosine after 5 % of linear warm-up."""
    if settings.schedule == "constant":
        return settings.learning_rate
    warm_up = max(1, round(0.05 * settings.epochs))
    if epoch < warm_up:
        return settings.learning_rate * (epoch + 1) / warm_up
    done = (epoch - warm_up) / max(1, settings.epochs - warm_up)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def fit(model: torch.nn.Module, *, stage: str, settings: Training, batches: Callable[[int], Iterable[Batch]],
        steps_per_epoch: int, loss: Callable[[torch.nn.Module, Batch], torch.Tensor],
        validation: Validation | None, folder: Path, seed: int, device: torch.device, events: Events,
        channels_last: bool = False) -> Fit:
    """Train `model` in place and leave it, in evaluation mode, with the weights that were chosen.

    Resumes from ``folder/checkpoint.safetensors`` where there is one: on a CPU the outcome is the same to the bit as
    without the interruption, provided that `batches(epoch)` depends on the epoch and on fixed seeds alone.

    Parameters
    ----------
    model : torch.nn.Module
        Its trainable parameters are optimised.
    stage : str
        Name under which progress is reported.
    batches : callable
        Takes the epoch (0-based), returns that epoch's batches.
    loss : callable
        Takes the model and a batch, returns a scalar tensor to be minimised.
    validation : Validation or None
        None: the last epoch's weights are kept.
    folder : Path
        Receives ``checkpoint.safetensors``, ``best.safetensors`` and ``log.jsonl``.
    seed : int
        Seeds the global generators (dropout, reparametrisation) at the first epoch.
    channels_last : bool
        On a CPU, compute with the channels as the innermost axis: 1.3 to 1.4 times faster for the U-Net and the
        autoencoder, slower for others (DESIGN, section 6).

    Returns
    -------
    Fit

    Raises
    ------
    NeoNetError
        ``DIVERGED`` where the loss is no longer finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, best, log = folder / "checkpoint.safetensors", folder / "best.safetensors", folder / "log.jsonl"
    on_cuda = device.type == "cuda"
    AcceleratorState._reset_state(reset_partial_state=True)  # each training has its own device
    accelerator = Accelerator(cpu=device.type == "cpu",
                              mixed_precision="bf16" if on_cuda and _has_bf16() else "no")
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay,
                                  fused=on_cuda)
    model.to(device)
    if channels_last and device.type == "cpu":
        model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    ema = None
    if settings.ema_decay is not None:
        ema = AveragedModel(model, multi_avg_fn=_moving_average(settings.ema_decay), use_buffers=True)
    # the model is not prepared: accelerate would leave a forward in bf16 on it, and the figures of a run would not be
    # those of its bundle; the training steps have their autocast below
    prepared_optimizer = accelerator.prepare(optimizer)
    evaluated = ema.module if ema is not None else model

    progress: dict[str, Any] = {"epoch": 0, "best_epoch": None, "best_value": None, "history": []}
    if checkpoint.is_file():
        progress = load_checkpoint(checkpoint, model, optimizer, ema)
        events.log(f"{stage}: resumed after epoch {progress['epoch']} of {settings.epochs}")
    else:
        seed_everything(seed)
    _write_log(log, progress["history"])

    last_report, last_checkpoint = 0.0, time.monotonic()
    while progress["epoch"] < settings.epochs and not _out_of_patience(progress, settings):
        epoch = progress["epoch"]
        started = time.monotonic()
        rate = learning_rate(settings, epoch)
        for group in optimizer.param_groups:
            group["lr"] = rate
        model.train()
        # summed on the device: reading the loss at each step would make the host wait for it
        total, steps = torch.zeros((), device=device), 0
        for step, batch in enumerate(batches(epoch)):
            prepared_optimizer.zero_grad(set_to_none=True)
            with accelerator.autocast():
                value = loss(model, batch)
            accelerator.backward(value)
            if settings.clip_gradient is not None:
                accelerator.clip_grad_norm_(parameters, settings.clip_gradient)
            prepared_optimizer.step()
            if ema is not None:
                ema.update_parameters(model)
            total += value.detach()
            steps += 1
            if time.monotonic() - last_report > PROGRESS_INTERVAL_S:
                last_report = time.monotonic()
                events.progress(stage, round(epoch + (step + 1) / max(steps_per_epoch, step + 2), 3), settings.epochs)
        record: dict[str, float] = {"epoch": epoch + 1, "loss": (total / max(steps, 1)).item(), "learning_rate": rate}
        if not math.isfinite(record["loss"]):
            raise NeoNetError("DIVERGED", f"{stage}: the loss became {record['loss']} in epoch {epoch + 1}.",
                              "Choose a lower learning rate, or set clip_gradient, in the stage's settings.")
        improved = False
        if validation is not None and ((epoch + 1) % settings.validate_every == 0 or epoch + 1 == settings.epochs):
            evaluated.eval()
            with torch.no_grad():
                record |= validation.measure(evaluated)
            improved = validation.improves(record[validation.monitor], progress["best_value"])
            if improved:
                progress |= {"best_value": record[validation.monitor], "best_epoch": epoch + 1}
                save_weights(best, evaluated)
        record["seconds"] = round(time.monotonic() - started, 3)
        progress["epoch"] = epoch + 1
        progress["history"].append(record)
        finished = progress["epoch"] == settings.epochs or _out_of_patience(progress, settings)
        # with the best weights, too: both must be of one history
        if finished or improved or time.monotonic() - last_checkpoint >= CHECKPOINT_INTERVAL_S:
            save_checkpoint(checkpoint, model, optimizer, ema, progress)
            last_checkpoint = time.monotonic()
        _append_log(log, record)
        events.progress(stage, epoch + 1, settings.epochs)

    if progress["best_epoch"] is not None:
        load_weights(best, model)
    elif ema is not None:
        model.load_state_dict(ema.module.state_dict())
    model.eval()
    accelerator.free_memory()
    if progress["epoch"] < settings.epochs:
        events.progress(stage, settings.epochs, settings.epochs)  # stopped early
    return Fit(progress["epoch"], progress["best_epoch"] or progress["epoch"], progress["best_value"],
               progress["history"])


def _moving_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """Of the weights; whole numbers (counts, a window's table of indices) have no mean, and are taken as they are."""
    of_floats = get_ema_multi_avg_fn(decay)

    def update(averaged: Any, current: Any, count: Any) -> None:
        if averaged[0].is_floating_point():
            of_floats(averaged, current, count)
            return
        for kept, now in zip(averaged, current, strict=True):
            kept.copy_(now)

    return update


def _has_bf16() -> bool:
    """Whether this GPU computes in bf16 itself: those before Ampere emulate it, slower than fp32."""
    return torch.cuda.get_device_capability() >= (8, 0) if torch.version.hip is None else torch.cuda.is_bf16_supported()


def _out_of_patience(progress: dict[str, Any], settings: Training) -> bool:
    if settings.patience is None or progress["best_epoch"] is None:
        return False
    return progress["epoch"] - progress["best_epoch"] >= settings.patience


def _write_log(path: Path, history: list[dict[str, float]]) -> None:
    """The log holds just the epochs of the checkpoint: an epoch that a kill cut off is not in it twice."""
    write_text(path, "".join(json.dumps(record) + "\n" for record in history))


def _append_log(path: Path, record: dict[str, float]) -> None:
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(record) + "\n")
