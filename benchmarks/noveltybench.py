"""Compares partitions with NoveltyBench's published one: `python benchmarks/noveltybench.py [minilm|hash]`.

`benchmarks/data/noveltybench.jsonl` holds 19 prompts with ten answers each, the published partition, scores and
utility (github.com/novelty-bench/novelty-bench, MIT licence, evaluation/2025-11-21_CrPO-llama-3.1-8b-instruct-cre,
metric version 1.0: a DeBERTa classifier), and for 13 of them `named`: our own reading of which thing each answer names.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.metrics import adjusted_rand_score

from polychromic.diversity.embedders import load_embedder
from polychromic.diversity.equivalence import Embedded, Equivalence, Exact, Normalised
from polychromic.evaluation import paired_comparison, utility_k
from polychromic.evaluation.statistics.intervals import Resampling, mean_intervals
from polychromic.records import Prompt, as_messages

DATA = Path(__file__).parent / "data" / "noveltybench.jsonl"
DISTANCES = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
Labels = list[np.ndarray]


def main(embedder: str) -> None:
    """Prints two tables: against the published partition, and against what the answers name."""
    cases = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    published = [np.array(case["partition"]) for case in cases]
    for case in cases:
        assert abs(utility_k(case["partition"], case["generation_scores"]) - case["utility"]) < 1e-6, case["id"]
    encoder = load_embedder(embedder)
    kinds: dict[str, Equivalence] = {"exact": Exact(), "normalised": Normalised()}
    kinds |= {f"embedding at {distance:g}": Embedded(encoder, distance) for distance in DISTANCES}
    found = {name: divide(one, cases) for name, one in kinds.items()}

    print(f"Against the published partition, {len(cases)} prompts of ten answers ({encoder.name})\n")
    show(cases, published, found)
    named = [case for case in cases if case["named"]]
    kept = [i for i, case in enumerate(cases) if case["named"]]
    print(f"\nAgainst what the answers name, {len(named)} prompts\n")
    everything = {"published": published, **found}
    show(
        named,
        [np.array(case["named"]) for case in named],
        {n: [all_[i] for i in kept] for n, all_ in everything.items()},
    )


def divide(equivalence: Equivalence, cases: list[dict]) -> Labels:
    """Returns the labels of each case's answers."""
    groups = [(Prompt(case["id"], as_messages(case["prompt"])), case["generations"]) for case in cases]
    return [one.labels_N for one in equivalence.partitions(groups)]


def show(cases: list[dict], reference: Labels, found: dict[str, Labels]) -> None:
    """Prints, for each partition, agreement with the reference and the differences of distinct_10 and utility_10."""
    print("| partition | adjusted Rand index | of its merged pairs | others merged | distinct − its | utility − its |")
    print("|---|---|---|---|---|---|")
    for name, labels in found.items():
        rand = np.array([adjusted_rand_score(a, b) for a, b in zip(reference, labels, strict=True)])
        both, theirs, ours = np.sum([pairs(a, b) for a, b in zip(reference, labels, strict=True)], axis=0)
        low, high = mean_intervals([rand[None]], Resampling())[0]
        print(
            f"| {name} | {rand.mean():.2f} ({low:.2f} to {high:.2f}) | {both} of {theirs} | {ours - both} | "
            f"{difference(cases, labels, reference, lambda case, one: float(len(np.unique(one))))} | "
            f"{difference(cases, labels, reference, utility)} |"
        )


def pairs(reference_N: np.ndarray, labels_N: np.ndarray) -> tuple[int, int, int]:
    """Counts the pairs that both merge, that the reference does, and that the labels do."""
    upper = np.triu_indices(len(labels_N), 1)
    theirs, ours = (np.equal.outer(one, one)[upper] for one in (reference_N, labels_N))
    return int((theirs & ours).sum()), int(theirs.sum()), int(ours.sum())


def utility(case: dict, labels_N: np.ndarray) -> float:
    """Returns utility_10 with the published scores; an answer that was given none has that of its published class."""
    scores = [case["generation_scores"][case["partition"].index(label)] for label in case["partition"]]
    return utility_k(labels_N, scores)


def difference(cases: list[dict], ours: Labels, theirs: Labels, value: Callable[[dict, np.ndarray], float]) -> str:
    """Returns the mean difference with its paired interval over prompts."""
    a, b = ([value(case, one) for case, one in zip(cases, side, strict=True)] for side in (ours, theirs))
    compared = paired_comparison(a, b)
    return f"{compared.difference:+.2f} ({compared.ci_low:+.2f} to {compared.ci_high:+.2f})"


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "minilm")
