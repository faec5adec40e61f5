"""Kills a small run at random moments until it is done, again and again, and compares it with an untouched run.

    python -m tests.faults.storm --kills 50 [--seed 0] [--workers 1]

SIGKILL in three of four cases, else SIGTERM (which has to leave with exit code 143 and a sentence). Closes with
`killed N, identical N, lost 0`: a kill counts as identical when the run it belonged to ended bit-identical in adapters,
generations and comparison, without a row twice or missing. Exit code 1 otherwise.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

SMALL = (
    "seeds=[0,1]", "training.steps=4", "training.prompts_per_step=4", "training.generations=6",
    "training.checkpoint_every=2", "evaluation.prompts=12", "evaluation.samples=16", "evaluation.max_sequences=48",
    "task.train_problems=64", "task.test_problems=12", "run.preflight=false",
    # Twelve problems may all be solved: then "pass@16 higher" is rightly refused.
    "comparison.minimum=[{metric: distinct_correct, direction: higher, relative_change: 0.1}]",
)  # fmt: skip
MARK = "POLYCHROMIC_STORM"
PATIENCE = 1800.0  # seconds: the machine may be busy with other work
LEAVES_CLEANLY = {143, -signal.SIGTERM}  # the latter before the run has begun to listen


@dataclass
class Tally:
    """Kills by outcome of the run that they hit."""

    kills: int = 0
    identical: int = 0
    lost: int = 0

    def __str__(self) -> str:
        return f"killed {self.kills}, identical {self.identical}, lost {self.lost}"


def start(out: Path, workers: int) -> subprocess.Popen[str]:
    """The run, in a process group of its own."""
    command = [sys.executable, "-m", "polychromic", "run", "experiments/quickstart.yaml", *SMALL]
    return subprocess.Popen(
        [*command, f"run.workers={workers}", "--out", str(out)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", MARK: str(out)},
    )  # fmt: skip


def artefacts(root: Path) -> dict[str, bytes]:
    """What must be the same however the run came about."""
    found = [*root.rglob("adapter/adapter_*"), *root.rglob("generations.jsonl"), root / "comparison.json"]
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(found)}


def leftovers(out: Path) -> list[Path]:
    """Unfinished writes that nobody removed."""
    return [path for path in out.rglob(".*") if path.name not in (".lock",)]


def whole_run(out: Path, workers: int) -> tuple[dict[str, bytes], float]:
    """Artefacts of an untouched run, and its seconds."""
    started = time.monotonic()
    process = start(out, workers)
    _, errors = process.communicate(timeout=PATIENCE)
    if process.returncode:
        raise RuntimeError(f"the untouched run failed: {errors}")
    return artefacts(out / "quickstart"), time.monotonic() - started


def killed_run(out: Path, workers: int, seconds: float, chance: random.Random, most: int) -> int:
    """Start the run over and over, at most `most` times cut short at a random moment; the number of kills that hit."""
    kills = 0
    while True:
        process = start(out, workers)
        number = chance.choices([signal.SIGKILL, signal.SIGTERM], [3, 1])[0]
        try:
            process.communicate(timeout=chance.uniform(0.0, seconds) if kills < most else PATIENCE)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            _, errors = process.communicate(timeout=PATIENCE)
            kills += 1
            _check_ending(number, process.returncode, errors)
            _wait_for_workers(out)
            continue
        if process.returncode == 0:
            return kills
        raise RuntimeError(f"the run failed after {kills} kills with code {process.returncode}")


def _check_ending(number: int, code: int, errors: str) -> None:
    if number == signal.SIGTERM and code not in (LEAVES_CLEANLY | {0}):
        raise RuntimeError(f"SIGTERM ended with code {code}: {errors}")
    if code == 143 and "run the same command again to continue" not in errors:
        raise RuntimeError(f"SIGTERM left without a word on how to continue: {errors}")


def _wait_for_workers(out: Path) -> None:
    """No process of the killed run may live on and write."""
    deadline = time.monotonic() + 10.0
    while left := _processes(f"{MARK}={out}\0".encode()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes {left} outlived the run")
        time.sleep(0.05)


def _processes(mark: bytes) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # A zombie's environment is empty: it writes nothing any more.
            if mark in (folder / "environ").read_bytes() + b"\0" and int(folder.name) != os.getpid():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def storm(
    kills: int,
    seed: int,
    workers: int,
    folder: Path,
    whole: tuple[dict[str, bytes], float],
    *,
    kills_a_run: int = 8,
) -> Tally:
    """Whole runs cut short until `kills` kills have hit; `whole` is what `whole_run` returned."""
    chance = random.Random(seed)
    expected, seconds = whole
    tally = Tally()
    number = 0
    while tally.kills < kills:
        number += 1
        out = folder / f"killed-{number}"
        hits = killed_run(out, workers, seconds, chance, min(kills_a_run, kills - tally.kills))
        same = artefacts(out / "quickstart") == expected and not leftovers(out)
        tally.kills += hits
        tally.identical += hits if same else 0
        tally.lost += 0 if same else hits
        print(f"{hits} kills: {'identical' if same else 'DIFFERENT'}", flush=True)  # noqa: T201
    return tally


def main() -> int:
    """Run the storm and print its tally."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        whole = whole_run(Path(folder) / "whole", options.workers)
        tally = storm(options.kills, options.seed, options.workers, Path(folder), whole)
    print(tally)  # noqa: T201
    return 1 if tally.lost else 0


if __name__ == "__main__":
    sys.exit(main())
