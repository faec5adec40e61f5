"""Times dividing one group of answers by each kind of equivalence: `python benchmarks/partitions.py 64 minilm`."""

import random
import sys
import tempfile
import time
from pathlib import Path

from polychromic.diversity.embedders import load_embedder
from polychromic.diversity.equivalence import Embedded, Exact, Normalised
from polychromic.records import Prompt, as_messages
from polychromic.tasks.equivalence import FunctionEquivalence

GROUPS, WORDS = 20, 20
FUNCTIONS = """
def form(prompt, text):
    return text[:3]

def pair(prompt, a, b):
    return a[:3] == b[:3]

def labels(prompt, texts):
    return [text[:3] for text in texts]
"""


def main(n: int, embedder: str) -> None:
    """Prints milliseconds a group, from the second group on, for answers that are all different."""
    generator = random.Random(0)
    vocabulary = ["".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(500)]
    prompt = Prompt("p", as_messages("Write."))
    groups = [
        (prompt, [" ".join(generator.choices(vocabulary, k=WORDS)) for _ in range(n)])
        for _ in range(GROUPS + 1)
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mine.py"
        file.write_text(FUNCTIONS)
        cache = Path(folder) / "cache"
        kinds = {
            "exact": Exact(),
            "normalised": Normalised(),
            "f(prompt, text) -> str": FunctionEquivalence(f"{file}:form", 10.0),
            "f(prompt, a, b) -> bool": FunctionEquivalence(f"{file}:pair", 10.0),
            "f(prompt, texts) -> labels": FunctionEquivalence(f"{file}:labels", 10.0),
            "embedding": Embedded(load_embedder(embedder, cache_folder=cache), 0.25),
        }
        for name, equivalence in kinds.items():
            equivalence.partitions(groups[:1])
            started = time.perf_counter()
            equivalence.partitions(groups[1:])
            print(f"{name:28} {1000 * (time.perf_counter() - started) / GROUPS:8.2f} ms a group of {n}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 64, sys.argv[2] if len(sys.argv) > 2 else "minilm")
