"""The folder of a training run: settings, cohort, folds, and one folder for each fold and stage.

A stage's ``done.json`` says what went in (hashed) and what came out. A stage whose inputs have not changed is not run
again; one whose inputs have changed starts anew; one that was cut off goes on from its checkpoint.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from neonet_core import __version__
from neonet_core.errors import NeoNetError
from neonet_core.events import Events
from neonet_core.experiment.graph import section_of, settings_of
from neonet_core.presets import Preset, parse_preset
from neonet_core.training.files import read_json, sha256_of_file, sha256_of_json, write_json

RUN_FORMAT = 1


@dataclass(frozen=True)
class Run:
    """A run folder.

    Layout::

        settings.json  quality.json  folds.json  parts.json  predictions.csv  prepared/
        fold-0/seg-unet/  fold-0/vae/  fold-0/cls-pattennet/
            inputs.json  log.jsonl  checkpoint.safetensors  weights.safetensors  done.json
    """

    folder: Path

    def stage_folder(self, fold: int, stage: str) -> Path:
        return self.folder / f"fold-{fold}" / stage

    def fold_numbers(self) -> list[int]:
        """Folds of which at least one stage has begun."""
        names = (re.fullmatch(r"fold-(\d+)", path.name) for path in self.folder.glob("fold-*") if path.is_dir())
        return sorted(int(name[1]) for name in names if name)

    def done(self, fold: int, stage: str) -> dict[str, Any] | None:
        """What the stage's ``done.json`` says, or None where it is not done."""
        path = self.stage_folder(fold, stage) / "done.json"
        return read_json(path) if path.is_file() else None

    def current(self, fold: int, stage: str) -> dict[str, Any] | None:
        """The stage's ``done.json`` if it still belongs to the run: trained with the settings of the last call, on the
        cases, outcomes and parts in ``parts.json`` and on the outputs of earlier stages that lie beside it. Else None.

        Folds may be trained in several calls; figures and bundles must not mix what does not belong together.
        """
        done = self.done(fold, stage)
        if done is None:
            return None
        inputs = read_json(self.stage_folder(fold, stage) / "inputs.json")
        preset, parts = self.preset(), self.parts(fold)
        held_out = read_json(self.folder / "folds.json")["validation"]
        belongs = (parts is not None and same_json(inputs["cases"], parts["cases"]) and inputs["seed"] == parts["seed"]
                   and fold < len(held_out) and set(inputs["cases"]["validation"]) == set(held_out[fold])
                   and inputs["spacing"] == parts["spacing"]["seg" if section_of(stage) == "seg" else "crop"]
                   and same_json(inputs["settings"], settings_of(stage, preset))
                   and ("crop" not in inputs or same_json(inputs["crop"], preset.crop.model_dump()))
                   and done["figures"]["protocol"] == preset.protocol
                   and all(self._is_output(fold, earlier, output)
                           for earlier, output in inputs.get("after", {}).items()))
        return done if belongs else None

    def parts(self, fold: int) -> dict[str, Any] | None:
        """What the stages of a fold have to be trained on, as `fold.FoldTraining.data` has written it."""
        path = self.folder / "parts.json"
        return read_json(path).get(str(fold)) if path.is_file() else None

    def _is_output(self, fold: int, stage: str, output: str) -> bool:
        done = self.current(fold, stage)
        return done is not None and outputs_hash(done, stage) == output

    def settings(self) -> dict[str, Any]:
        """What ``settings.json`` holds. Raises ``NOT_A_RUN``."""
        path = self.folder / "settings.json"
        content = read_json(path) if path.is_file() else None
        if not isinstance(content, dict) or content.get("format") != RUN_FORMAT:
            raise NeoNetError("NOT_A_RUN", f"{self.folder} is not the folder of a training run.",
                              "Give the folder that was named with --out in 'neonet train'.")
        return content

    def preset(self) -> Preset:
        return parse_preset(self.settings()["preset"])

    def trained_so_far(self, fold: int, stage: str) -> tuple[int, float]:
        """Epochs in a stage's log, and the seconds that they took."""
        path = self.stage_folder(fold, stage) / "log.jsonl"
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []  # the last may be cut off
        return len(lines), sum(json.loads(line)["seconds"] for line in lines)

    def check(self, settings: dict[str, Any]) -> None:
        """See that a run with these settings may be written, or goes on, here.

        Raises
        ------
        NeoNetError
            ``RUN_EXISTS`` where the folder holds another run (other cohort file, outcome or seed) or foreign files;
            ``NOT_A_RUN``.
        """
        path = self.folder / "settings.json"
        if path.is_file():
            before = self.settings()
            for key in ("cohort", "outcome", "seed"):
                if before[key] != settings[key]:
                    raise NeoNetError("RUN_EXISTS", f"{self.folder} holds a run with another {key} ({before[key]}).",
                                      "Choose another folder with --out.")
        elif self.folder.exists() and any(
                entry.suffix != ".part" and not entry.name.startswith(".") for entry in self.folder.iterdir()):
            raise NeoNetError("RUN_EXISTS", f"{self.folder} is not empty and holds no training run.",
                              "Choose another folder with --out.")

    def begin(self, settings: dict[str, Any]) -> None:
        """Write ``settings.json`` with the versions that are running. Raises what `check` does."""
        self.check(settings)
        write_json(self.folder / "settings.json", {"format": RUN_FORMAT, **settings, "environment": environment()})


def seed_folder(folder: Path, seed: int) -> Path:
    """Where the run of one seed lies among repeats."""
    return folder / f"seed-{seed}"


def runs_in(folder: Path) -> list[Run]:
    """The run of a folder, or the repeats in it, by seed. Raises ``NOT_A_RUN``."""
    repeats = [Run(path.parent) for path in folder.glob("seed-*/settings.json")]
    if repeats and not (folder / "settings.json").is_file():
        return sorted(repeats, key=lambda run: run.settings()["seed"])
    Run(folder).settings()
    return [Run(folder)]


def same_json(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two settings are the same once they are written: a tuple and a list are."""
    return sha256_of_json(first) == sha256_of_json(second)


def outputs_hash(done: dict[str, Any], stage: str = "") -> str:
    """One hash of what a stage has put out, from its ``done.json``. Named ``synth-...``: of what other stages take from
    it, the samples that balance; not of those by which the generator is judged."""
    outputs = done["outputs"]
    if section_of(stage) == "synth":
        outputs = {file: digest for file, digest in outputs.items() if file.startswith("samples/")}
    return sha256_of_json(outputs)


def run_stage(folder: Path, inputs: dict[str, Any], work: Callable[[], dict[str, Any]], events: Events,
              name: str, wait_s: float = 0.0) -> dict[str, Any]:
    """Run a stage unless it is done, and record it.

    A finished stage of other inputs is not removed: its folder stays as ``<stage>.before-<hash>``, and is taken back
    when its inputs come back.

    Parameters
    ----------
    folder : Path
        The stage's own folder; `work` writes into it.
    inputs : dict
        All that shapes the outcome: settings, seed, the cases' contents, the hashes of earlier stages' outputs.
    work : callable
        Does it and returns the stage's figures (JSON-able).
    wait_s : float
        How long to wait for another process that is at it.

    Returns
    -------
    dict
        The content of ``done.json``.

    Raises
    ------
    NeoNetError
        ``STAGE_BUSY`` where another process is at it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        # the system frees the lock when a process ends, however it ends
        with FileLock(folder.with_name(f".{folder.name}.lock"), timeout=wait_s):
            return _run_stage(folder, inputs, work, events, name)
    except Timeout:
        raise NeoNetError("STAGE_BUSY", f"{name}: another process is training it.",
                          "Wait for it, or give each process its own --folds.") from None


def _run_stage(folder: Path, inputs: dict[str, Any], work: Callable[[], dict[str, Any]], events: Events,
               name: str) -> dict[str, Any]:
    done_path, inputs_path = folder / "done.json", folder / "inputs.json"
    key = sha256_of_json(inputs)
    if done_path.is_file():
        done = read_json(done_path)
        if done["inputs"] == key and all((folder / file).is_file() for file in done["outputs"]):
            events.log(f"{name}: done before, not run again")
            return done
    begun = inputs_path.is_file()
    if begun and sha256_of_json(read_json(inputs_path)) != key:
        begun = False
        if done_path.is_file():
            kept = folder.with_name(f"{folder.name}.before-{read_json(done_path)['inputs'][:8]}")
            shutil.rmtree(kept, ignore_errors=True)
            folder.rename(kept)
            events.log(f"{name}: its inputs have changed, starting anew; what was trained is kept in {kept.name}")
        else:
            events.log(f"{name}: its inputs have changed, starting anew")
    earlier = folder.with_name(f"{folder.name}.before-{key[:8]}")
    if not begun and earlier.is_dir() and read_json(earlier / "done.json")["inputs"] == key:
        shutil.rmtree(folder, ignore_errors=True)
        earlier.rename(folder)
        return _run_stage(folder, inputs, work, events, name)
    if not begun and folder.is_dir():  # without inputs.json: what a kill has left of a folder that was being removed
        shutil.rmtree(folder)
    for unfinished in folder.glob(".*.part"):
        unfinished.unlink()
    write_json(inputs_path, inputs)
    started = time.monotonic()
    figures = work()
    outputs = sorted([*folder.glob("weights*.safetensors"), *folder.rglob("*.nii.gz")])
    done = {"inputs": key, "outputs": {path.relative_to(folder).as_posix(): sha256_of_file(path) for path in outputs},
            "figures": figures,
            "seconds": round(time.monotonic() - started, 1)}
    write_json(done_path, done)
    return done


def environment() -> dict[str, Any]:
    """Versions and hardware, for the record: no user and no host name."""
    import torch

    packages = {}
    for name in ("torch", "monai", "accelerate", "numpy", "scipy", "SimpleITK", "nibabel"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "?"
    return {"neonet": __version__, "python": platform.python_version(), "system": platform.system(),
            "machine": platform.machine(), "threads": torch.get_num_threads(), "packages": packages,
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None}
