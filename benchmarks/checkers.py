"""Checks a second: a simple checker of one's own, one that executes answers in its process, and `run_isolated`.

    python benchmarks/checkers.py [--workers N] [--rounds N]

Prints the best and the median of the rounds, each of 128 answers to 8 prompts, for all workers together.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from polychromic.processes import open_worker_pool
from polychromic.records import Prompt, as_messages
from polychromic.tasks import run_isolated
from polychromic.tasks.checking.isolation import isolated_checker

PROMPTS = [Prompt(str(index), as_messages("Add two numbers. " * 6), ("5",)) for index in range(8) for _ in range(16)]
TEXTS = ["def add(a, b):\n    return a + b\n" if index % 3 else "x = 1\n" * 30 for index in range(len(PROMPTS))]
SOURCE = """
from polychromic.tasks import run_isolated
def compares(prompt, text):
    return text.strip() == prompt.references[0]
def executes(prompt, text):
    names = {}
    exec(text, names)
    return "add" in names and names["add"](2, 3) == 5
def isolates(prompt, text):
    return run_isolated(text, ["add(2, 3)"]).values == (5,)
"""


def seconds(name: str, rounds: int) -> list[float]:
    """Times how long each round takes this process, start-up excluded."""
    checker = isolated_checker(name, seconds=60.0, memory_gb=4.0)
    checker.run(PROMPTS, TEXTS)
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        checker.run(PROMPTS, TEXTS)
        taken.append(time.perf_counter() - started)
    checker.close()
    return taken


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, open_worker_pool(arguments.workers) as pool:
        file = Path(folder) / "mine.py"
        file.write_text(SOURCE)
        for function, rounds in (("compares", arguments.rounds), ("executes", 2), ("isolates", 2)):
            taken = measured(pool, f"{file}:{function}", rounds, arguments.workers)
            rates = [arguments.workers * len(TEXTS) / each for each in taken]
            print(f"{function}: best {max(rates):,.0f}, median {statistics.median(rates):,.0f} checks a second")
    run_isolated("")
    started = time.perf_counter()
    for _ in range(50):
        run_isolated("def add(a, b):\n    return a + b\n", ["add(2, 3)"])
    print(f"run_isolated: {(time.perf_counter() - started) / 50 * 1e3:.1f} ms")


def measured(pool: ProcessPoolExecutor, name: str, rounds: int, workers: int) -> list[float]:
    """Seconds of every round of every worker."""
    return [taken for each in [pool.submit(seconds, name, rounds) for _ in range(workers)] for taken in each.result()]


if __name__ == "__main__":
    main()
