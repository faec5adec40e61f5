"""Kills a run at random moments until it is done, again and again, and compares it with an untouched run.

    python -m tests.faults.storm --kills 50 [--size small|quickstart] [--seed 0] [--workers 1]
                                 [--folder DIR --minutes 9]    # in pieces: the same command goes on

SIGKILL in three of four cases, else SIGTERM (which has to leave with exit code 143 and a sentence). Closes with
`killed N, identical N, lost 0`: a kill counts as identical when the run it belonged to ended bit-identical in adapters,
training metrics, generations and comparison, without a row twice or missing. Exit code 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

SIZES = {
    "small": (
        "seeds=[0,1]", "training.steps=4", "training.prompts_per_step=4", "training.num_samples=6",
        "training.checkpoint_every=2", "evaluation.num_prompts=12", "evaluation.num_samples=16",
        "evaluation.max_decode_batch=48", "evaluation.sampling=[{temperature: 0.6}, {temperature: 1.0}]",
        "task.train_problems=64", "task.test_problems=12", "run.preflight=false",
        # Twelve problems may all be solved: then "pass@16 higher" is rightly refused.
        "comparison.minimum=[{metric: distinct_correct, direction: higher, relative_change: 0.1}]",
    ),
    "quickstart": ("seeds=[0,1]", "run.preflight=false"),
}  # fmt: skip
KILLS_A_RUN = {"small": 8, "quickstart": 25}
MARK = "POLYCHROMIC_STORM"
# Written before any work, or by the clock.
STARTING = {".lock", ".owner.json", "experiment.yaml", "provenance.json", ".running.json", "ledger.jsonl"}
DOING = {"metrics.jsonl": "training", "generations.jsonl": "sampling"}
# Runs are compared to the last bit, which depends on how many threads a sum is split over, and a new run gives each of
# its workers a share of them: in tests, a run and the one that it is compared with have as many workers.
WORKERS = 2
PATIENCE = 1800.0  # seconds: the machine may be busy with other work
LEAVES_CLEANLY = {143, -signal.SIGTERM}  # the latter before the run has begun to listen


@dataclass
class Tally:
    """Kills by outcome of the run that they hit, and by what the run was doing."""

    kills: int = 0
    identical: int = 0
    lost: int = 0
    moments: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return f"killed {self.kills}, identical {self.identical}, lost {self.lost}"


def start(out: Path, workers: int, size: str = "small") -> subprocess.Popen[str]:
    """The run, in a process group of its own."""
    command = [sys.executable, "-m", "polychromic", "run", "experiments/quickstart.yaml", *SIZES[size]]
    return subprocess.Popen(
        [*command, f"run.workers={workers}", "--out", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {MARK: str(out)},  # with as many threads as a user has
    )  # fmt: skip


def artefacts(root: Path) -> dict[str, bytes]:
    """Returns what must be the same however the run came about."""
    found = [
        *root.rglob("adapter/*"),
        *root.rglob("generations.jsonl"),
        *root.rglob("references.jsonl"),
        *(root / name for name in ("comparison.json", "results.tex")),
    ]
    same = {str(path.relative_to(root)): path.read_bytes() for path in sorted(found)}
    return same | {str(path.relative_to(root)): _untimed(path) for path in root.rglob("metrics.jsonl")}


def _untimed(path: Path) -> bytes:
    """Training metrics without what a clock measured."""
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    return json.dumps([{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]).encode()


def doing(out: Path, since: float) -> str:
    """Returns what a run was last seen to do, from the newest file written since a moment of the clock."""
    work = [path for path in out.rglob("*") if path.is_file() and path.name not in STARTING]
    times = {path: path.stat().st_mtime for path in work}
    newest = max(times, key=lambda path: times[path], default=None)
    if newest is None or times[newest] < since:
        return "starting"
    return DOING.get(newest.name, "reporting" if newest.parent.name in ("figures", "quickstart") else "saving")


def leftovers(out: Path) -> list[Path]:
    """Unfinished writes that nobody removed."""
    return [path for path in out.rglob(".*") if path.name not in (".lock",)]


def whole_run(out: Path, workers: int, size: str = "small") -> tuple[dict[str, bytes], float]:
    """Artefacts of an untouched run, and its seconds."""
    started = time.monotonic()
    process = start(out, workers, size)
    _, errors = process.communicate(timeout=PATIENCE)
    if process.returncode:
        raise RuntimeError(f"the untouched run failed: {errors}")
    return artefacts(out / "quickstart"), time.monotonic() - started


@dataclass
class Victim:
    """A run that is started over and over, at most `most` times cut short within `reach` seconds."""

    out: Path
    workers: int
    size: str
    reach: float
    most: int
    kills: int = 0

    def start_once(self, chance: random.Random, moments: Counter[str]) -> bool:
        """One start, cut short at a random moment while kills are left; whether the run came to its end."""
        since = time.time()
        process = start(self.out, self.workers, self.size)
        number = chance.choices([signal.SIGKILL, signal.SIGTERM], [3, 1])[0]
        try:
            process.communicate(timeout=chance.uniform(0.0, self.reach) if self.kills < self.most else PATIENCE)
        except subprocess.TimeoutExpired:
            moments[doing(self.out, since)] += 1
            self.kills += 1
            cut_short(process, number, self.out)
            return False
        if process.returncode:
            raise RuntimeError(f"the run failed after {self.kills} kills with code {process.returncode}")
        return True


def cut_short(process: subprocess.Popen[str], number: int, out: Path) -> None:
    """Ends a run by a signal, and waits until nothing of it is left."""
    process.send_signal(number)
    process.wait(PATIENCE)
    _wait_for_workers(out)  # one that lives on would hold the pipe that is read next
    _, errors = process.communicate(timeout=PATIENCE)
    _check_ending(number, process.returncode, errors)


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
    size: str = "small",
    minutes: float = float("inf"),
) -> Tally:
    """Whole runs cut short until `kills` kills have hit; `whole` is what `whole_run` returned.

    After `minutes` it leaves off with `folder/storm.json`, from which the next call goes on.
    """
    expected, seconds = whole
    # Long enough to get past the start, short enough for all kills of a run to fall within its work.
    reach = min(seconds, max(40.0, 2 * seconds / KILLS_A_RUN[size]))
    number, tally, hits = _recall(folder)
    deadline = time.monotonic() + 60 * minutes
    while tally.kills < kills and time.monotonic() < deadline:
        most = min(KILLS_A_RUN[size], kills - tally.kills)
        victim = Victim(folder / f"killed-{number}", workers, size, reach, most, hits)
        # A generator for each start, so that moments do not depend on where a piece left off.
        ended = victim.start_once(random.Random(f"{seed}/{number}/{hits}"), tally.moments)
        hits = victim.kills
        if ended:
            same = artefacts(victim.out / "quickstart") == expected and not leftovers(victim.out)
            tally.kills += hits
            tally.identical += hits if same else 0
            tally.lost += 0 if same else hits
            print(f"{hits} kills: {'identical' if same else 'DIFFERENT'}", flush=True)
            number, hits = number + 1, 0
        (folder / "storm.json").write_text(json.dumps([number, vars(tally), hits]))
    return tally


def _recall(folder: Path) -> tuple[int, Tally, int]:
    """Number of the run at hand, the tally of those before it, and the kills that have hit it."""
    if not (folder / "storm.json").exists():
        return 1, Tally(), 0
    number, tally, hits = json.loads((folder / "storm.json").read_text())
    return number, Tally(**tally | {"moments": Counter(tally["moments"])}), hits


def untouched(folder: Path, workers: int, size: str) -> tuple[dict[str, bytes], float]:
    """The untouched run of this folder, made where there is none yet."""
    record = folder / "whole.json"
    if record.exists():
        return artefacts(folder / "whole" / "quickstart"), json.loads(record.read_text())
    found = whole_run(folder / "whole", workers, size)
    record.write_text(json.dumps(found[1]))
    return found


def main() -> int:
    """Run the storm and print its tally."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--folder", type=Path, help="keep everything here and go on from it")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="leave off after so long")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        whole = untouched(folder, options.workers, options.size)
        tally = storm(
            options.kills, options.seed, options.workers, folder, whole,
            size=options.size, minutes=options.minutes,
        )  # fmt: skip
    print("while", ", ".join(f"{what}: {count}" for what, count in tally.moments.most_common()))
    print(tally)
    return 1 if tally.lost else 0


if __name__ == "__main__":
    sys.exit(main())
