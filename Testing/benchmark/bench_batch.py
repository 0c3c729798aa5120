"""Throughput, overhead and memory of `neonet batch`, on an idle machine.

    python Testing/benchmark/bench_batch.py [--cases 8] [--size full] [--many 100] [--parts throughput,memory]
        [--bundle demo | --preset neonet]

Throughput: cases a minute by two workers of one thread each against one worker of one thread (the goal on two cores: at
least 1.6 times as many), from the first case that is done to the last, so that loading the models does not count.
Overhead: what is neither segmentation nor scoring, as a share of the networks' time (the goal on full-size cases: under
15 %). Memory: the highest sum over the batch's processes for 10 cases and for `--many`, which must be the same. The
simulated cases carry no label map: everything is segmented.

The built-in bundle `demo` works on a coarse grid, for which its networks take a second. `--preset neonet` measures with
untrained networks of a preset instead, one member: time does not depend on what the weights are.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import psutil
import torch

from neonet_core import __version__
from neonet_core.bundle import BundleRecord, Member, ModelCard
from neonet_core.classification.pattennet import PattenNet
from neonet_core.generation.autoencoder import FeatureEncoder, build_autoencoder
from neonet_core.phantom import write_cohort
from neonet_core.presets import load_preset
from neonet_core.segmentation.networks import build_segmentor
from neonet_core.training.checkpoint import save_weights
from neonet_core.training.files import sha256_of_file, write_json

SAMPLE_S = 0.2
FEW = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--size", choices=("small", "full"), default="full")
    parser.add_argument("--bundle", default="demo")
    parser.add_argument("--preset")
    parser.add_argument("--few", type=int, default=FEW)
    parser.add_argument("--many", type=int, default=100)
    parser.add_argument("--parts", default="throughput,memory")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="neonet-bench-") as folder:
        if options.preset:
            options.bundle = untrained_bundle(options.preset, Path(folder) / "untrained")
        if "throughput" in options.parts:
            throughput(Path(folder), options)
        if "memory" in options.parts:
            memory(Path(folder), options)


def throughput(folder: Path, options: argparse.Namespace) -> None:
    images = simulate(folder / "throughput", options.cases, options.size)
    paces = {}
    for workers in (1, 2):
        out = folder / f"workers-{workers}"
        run(images, out, options.bundle, workers)
        paces[workers] = pace(out)
        networks, rest = shares(out)
        print(f"{workers} x 1 thread: {paces[workers]:.2f} cases a minute; a case takes {networks + rest:.1f} s, of "
              f"which {networks:.1f} s in the networks; overhead {100 * rest / networks:.1f} % of that", flush=True)
    print(f"2 x 1 against 1 x 1: {paces[2] / paces[1]:.2f} times the cases (goal: 1.6)")


def memory(folder: Path, options: argparse.Namespace) -> None:
    images = simulate(folder / "memory", options.many, "small")
    peaks = {}
    for cases in (options.few, options.many):
        peaks[cases] = run(images, folder / f"memory-{cases}", options.bundle, 1, limit=cases)
        print(f"{cases} cases: at most {peaks[cases] / 2**20:.0f} MiB in all processes", flush=True)
    ratio = peaks[options.many] / peaks[options.few]
    print(f"{options.many} against {options.few} cases: {ratio:.3f} times the memory")


def untrained_bundle(preset_name: str, folder: Path) -> str:
    """A bundle of one member whose networks are those of a preset, with the weights that they begin with."""
    torch.manual_seed(0)
    preset = load_preset(preset_name)
    autoencoder = build_autoencoder(preset.vae)
    parts = {"seg": build_segmentor(preset.seg), "encoder": FeatureEncoder(autoencoder),
             "cls": PattenNet(2 * preset.vae.channels[-1], preset.cls)}
    files = {part: f"fold-0/{part}.safetensors" for part in parts}
    for part, network in parts.items():
        save_weights(folder / files[part], network, half=False)
    card = ModelCard(intended_use="To be timed.", training_data="None.", limits="Untrained.", only_phantoms=True)
    record = BundleRecord(name="untrained", version="0", neonet=__version__, outcome="pni", preset=preset, card=card,
                          members=(Member(fold=0, **files),),
                          hashes={file: sha256_of_file(folder / file) for file in files.values()})
    write_json(folder / "bundle.json", record.model_dump(mode="json"))
    return str(folder)


def simulate(folder: Path, cases: int, size: str) -> Path:
    write_cohort(folder, cases, cases // 3, seed=7, size=size)
    return folder / "images"


def run(images: Path, out: Path, bundle: str, workers: int, limit: int = 10**6) -> int:
    """Run a batch; returns the highest memory of all its processes together, in bytes (without what they share)."""
    child = psutil.Popen([sys.executable, "-m", "neonet_core", "batch", str(images), "--out", str(out),
                          "--bundle", bundle, "--workers", str(workers), "--threads", "1", "--limit", str(limit),
                          "--json"], stdout=subprocess.DEVNULL)
    peak = 0
    while child.poll() is None:
        peak = max(peak, sum(map(own_bytes, [child, *child.children(recursive=True)])))
        time.sleep(SAMPLE_S)
    assert child.returncode == 0, "the batch failed"
    return peak


def own_bytes(process: psutil.Process) -> int:
    """Memory of one process alone (USS); 0 once it has ended."""
    try:
        return process.memory_full_info().uss
    except psutil.Error:
        return 0


def pace(out: Path) -> float:
    """Cases a minute between the first and the last that the journal calls done."""
    entries = map(json.loads, (out / "journal.jsonl").read_text(encoding="utf-8").splitlines())
    times = [datetime.fromisoformat(entry["time"]).timestamp() for entry in entries if entry["event"] == "done"]
    return 60 * (len(times) - 1) / (max(times) - min(times))


def shares(out: Path) -> tuple[float, float]:
    """Mean seconds a case in the networks, and beside them."""
    with open(out / "results.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    networks = [sum(float(row[name] or 0) for name in ("seconds_segment", "seconds_classify")) for row in rows]
    whole = [float(row["seconds"]) for row in rows]
    return sum(networks) / len(rows), (sum(whole) - sum(networks)) / len(rows)


if __name__ == "__main__":
    main()
