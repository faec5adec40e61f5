"""Seconds to measure and compare 1,000 prompts × 64 samples × 4 arms × 3 seeds, after embedding.

python benchmarks/evaluation_speed.py [--prompts 1000] [--samples 64] [--arms 4] [--seeds 3] [--workers 2] [--longer 0]
`--longer 10` makes the texts of all arms but the first ten words longer, so that all are measured at equal length too.
"""

from __future__ import annotations

import argparse
import random
import resource
import time

import numpy as np

from polychromic.evaluation import at_equal_length, compare, measure_arms
from polychromic.files import strict_json
from polychromic.records import GenerationRow, SamplingParameters

_WORDS = [f"word{index}" for index in range(2000)]
_DIMENSIONS = 384


class _StoredEmbeddings:
    """Stands for an embedder whose cache is warm: a fixed random direction for each of 512 kinds of text."""

    name = "stored"

    def __init__(self) -> None:
        rows = np.random.default_rng(0).standard_normal((512, _DIMENSIONS)).astype(np.float32)
        self._rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def encode(self, texts):
        return self._rows[[len(text) % 512 for text in texts]]


def make_rows(arm: int, seed: int, n_prompts: int, n_samples: int, n_words: int) -> list[GenerationRow]:
    """Rows of one arm and seed: texts of `n_words` words of which arms repeat more or fewer, binary rewards."""
    draw = random.Random(1000 * arm + seed)
    sampling = SamplingParameters()
    rows = []
    for prompt in range(n_prompts):
        words = draw.sample(_WORDS, 60 + 40 * arm)
        for index in range(n_samples):
            text = " ".join(draw.choices(words, k=draw.randint(n_words - 10, n_words + 10)))
            reward = float(draw.random() < 0.2 + 0.6 * prompt / n_prompts)
            form = str(draw.randrange(5 + 10 * arm))
            rows.append(
                GenerationRow(f"p{prompt:05d}", index, text, n_words, "stop", sampling, seed, reward, cluster=form)
            )
    return rows


def main() -> None:
    """Print the seconds of each stage."""
    options = _parse()
    started = time.perf_counter()
    rows = {
        (f"arm{arm}", seed): make_rows(
            arm, seed, options.prompts, options.samples, options.words + (options.longer if arm else 0)
        )
        for arm in range(options.arms)
        for seed in range(options.seeds)
    }
    n_texts = sum(map(len, rows.values()))
    print(f"{n_texts:,} texts made in {time.perf_counter() - started:.1f} s")
    marks = [time.perf_counter()]
    embedder = _StoredEmbeddings() if options.embeddings else None
    tables = measure_arms(rows, pass_threshold=1.0, embedder=embedder, workers=options.workers)
    marks.append(time.perf_counter())
    equal = at_equal_length(rows, baseline="arm0", primary_sampling="T=1", workers=options.workers)
    marks.append(time.perf_counter())
    comparison = compare(tables, baseline="arm0", equal_length=equal)
    marks.append(time.perf_counter())
    content = strict_json(comparison.to_json())
    marks.append(time.perf_counter())
    for name, start, end in zip(("measured", "cut", "compared", "written"), marks, marks[1:], strict=False):
        print(f"{name:>9}: {end - start:6.1f} s")
    print(f"    total: {marks[-1] - marks[0]:6.1f} s wall, {_cpu_seconds():.1f} s of processor in all processes")
    print(f"comparison.json: {len(content) / 1e6:.1f} MB; {len(comparison.contrasts)} contrasts")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB in the main process")
    print(comparison.verdict.sentence)


def _cpu_seconds() -> float:
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in parts)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (
        ("prompts", 1000),
        ("samples", 64),
        ("arms", 4),
        ("seeds", 3),
        ("words", 40),
        ("workers", 2),
        ("longer", 0),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--embeddings", action="store_true", help="also semantic distance and Vendi score")
    return parser.parse_args()


if __name__ == "__main__":
    main()
