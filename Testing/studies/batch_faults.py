"""A batch among faults, as a user would give it: 60 simulated cases of which 12 are broken, and 20 kills.

    python Testing/studies/batch_faults.py [--cases 60] [--kills 20] [--workers 1] [--bundle demo]

1. The whole cohort at once must end with code 3, 48 results, 12 reasons and no traceback.
2. Of the first `--killed-cases` cases another batch is killed (SIGKILL to all its processes) at random moments, then
   run to its end: its files must be those of the first, byte for byte, and no case may be done twice.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))

from batch_cohorts import PATIENT, all_text, break_case, files_of, manifest_rows, table_of, write_manifest

from neonet_core.phantom import write_cohort

BROKEN = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=60)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--killed-cases", type=int, default=30)
    parser.add_argument("--longest", type=float, default=15, help="seconds until a kill; loading takes some of them")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--bundle", default="demo")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="neonet-faults-") as folder:
        run(Path(folder), options)


def run(folder: Path, options: argparse.Namespace) -> None:
    sound = manifest_rows(write_cohort(folder / "phantoms", options.cases - BROKEN, 0, seed=1, size="small"))
    broken = break_case(folder / "broken", Path(sound[0][1]), Path(sound[0][2]))
    failing = [(f"broken-{number:02d}", *paths) for number, paths in enumerate(broken.values())]
    common = ["--bundle", options.bundle, "--workers", str(options.workers), "--threads", "1"]
    everything = folder / "everything"
    begun = time.monotonic()
    ended = subprocess.run(command(write_manifest(folder / "all.csv", sound + failing), everything, common),
                           capture_output=True, text=True)
    assert ended.returncode == 3 and "Traceback" not in ended.stdout + ended.stderr, ended.stderr
    table = table_of(everything)
    print(f"{len(sound) + len(failing)} cases in {time.monotonic() - begun:.0f} s: exit code {ended.returncode}, "
          f"{sum(row['status'] == 'done' for row in table)} results, "
          f"{sum(bool(row['error_reason']) for row in table)} reasons: "
          f"{', '.join(sorted(row['error_code'] for row in table if row['error_code']))}")
    assert len(table) == options.cases and sum(row["status"] == "failed" for row in table) == BROKEN
    assert PATIENT not in all_text(everything) + ended.stdout + ended.stderr

    some = write_manifest(folder / "some.csv", sound[: options.killed_cases])
    wait = random.Random(options.seed)
    killed, kills, ends = folder / "killed", 0, 0
    while kills < options.kills:
        done = len(done_entries(killed))
        child = subprocess.Popen(command(some, killed, common), start_new_session=True, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL)
        try:
            child.wait(wait.uniform(0.5, options.longest))
            ends += 1
            if len(done_entries(killed)) == options.killed_cases == done:
                break  # nothing is left that a kill could harm
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            kills += 1
            print(f"kill {kills}: {len(done_entries(killed))} done", flush=True)
    last = subprocess.run(command(some, killed, common), capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    chosen = {row[0] for row in sound[: options.killed_cases]}
    assert table_of(killed) == [row for row in table if row["case_id"] in chosen]
    expected = {name: data for name, data in files_of(everything).items() if name.split("/")[1] in chosen}
    assert files_of(killed) == expected
    entries = done_entries(killed)
    assert len(entries) == len(set(entries)) == options.killed_cases
    print(f"{kills} kills ({ends} calls ended by themselves), then one call: identical, no case twice")


def command(manifest: Path, out: Path, common: list[str]) -> list[str]:
    return [sys.executable, "-m", "neonet_core", "batch", str(manifest), "--out", str(out), *common]


def done_entries(out: Path) -> list[str]:
    """Cases that the journal calls done, as often as it does."""
    journal = out / "journal.jsonl"
    lines = journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []
    return [entry["case"] for entry in map(json.loads, lines) if entry["event"] == "done"]


if __name__ == "__main__":
    main()
