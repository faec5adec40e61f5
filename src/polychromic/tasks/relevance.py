"""Tells relevant replies from irrelevant ones by word overlap, and reports how well."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np

from polychromic.errors import DataError
from polychromic.numerics import Float32Array, FloatArray, IntArray

if TYPE_CHECKING:
    from polychromic.tasks.replies import RepliesTask

Fault = Literal["empty", "echo", "repetition"]

ECHOED_SHARE = 0.75
"""An echo has at least this share of its words from the post, or of the post's words in it."""
FEWEST_ECHOED_WORDS = 4
"""Shorter texts share words by chance; they are echoes only when they are equal."""
REPEATED_SHARE = 0.5
"""A repetition has at least this share of its word pairs from earlier in the same reply."""
FEWEST_REPEATED_WORDS = 4

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def fault(post: str, reply: str) -> Fault | None:
    """Names what disqualifies a reply whatever it means, or None."""
    post_words, reply_words = words(post), words(reply)
    if not reply_words:
        return "empty"
    if _echoes(post_words, reply_words):
        return "echo"
    if _repeats(reply_words):
        return "repetition"
    return None


def words(text: str) -> list[str]:
    """Returns lower-cased words without punctuation."""
    return _WORD.findall(text.lower().replace("\u2019", "'"))


def _echoes(post: Sequence[str], reply: Sequence[str]) -> bool:
    if post == reply:
        return True
    shared = (Counter(post) & Counter(reply)).total()
    return any(len(side) >= FEWEST_ECHOED_WORDS and shared >= ECHOED_SHARE * len(side) for side in (post, reply))


def _repeats(reply: Sequence[str]) -> bool:
    pairs = list(pairwise(reply))
    repeated = len(pairs) - len(set(pairs))
    return len(reply) >= FEWEST_REPEATED_WORDS and repeated >= REPEATED_SHARE * len(pairs)


def echoes(posts: Sequence[str], generator: np.random.Generator) -> list[str]:
    """Says each post again in one of three ways: its words in another order, thinned, or cut in half."""
    ways = (_reordered, _thinned, _first_half)
    return [" ".join(ways[i % len(ways)](post.split(), generator)) for i, post in enumerate(posts)]


def _reordered(listed: list[str], generator: np.random.Generator) -> list[str]:
    return [listed[i] for i in generator.permutation(len(listed))]


def _thinned(listed: list[str], generator: np.random.Generator) -> list[str]:
    return [word for word in listed if generator.random() < 0.7] or listed


def _first_half(listed: list[str], _: np.random.Generator) -> list[str]:
    return listed[: len(listed) // 2 + 1]


FEWEST_PAIRS = 20
SHUFFLED_PASS_RATE = 0.1
"""Share of the validation split's shuffled replies that reach the pass threshold."""
_SHUFFLES = 3
_ECHO_WEIGHT = 0.03
"""Weight of all echoes together; true pairs weigh 1 and shuffled pairs weigh 1."""
_MOST_PAIRS = 1000
"""Pairs that the model is fitted on: three coefficients and two means gain nothing from more."""


class Encoder(Protocol):
    """Turns texts into unit vectors."""

    def encode(self, texts: Sequence[str]) -> Float32Array:
        """Returns unit vectors, float32 [n, d]."""
        ...


class Pairs(NamedTuple):
    """Posts and their true replies, in the same order."""

    posts: list[str]
    replies: list[str]

    def take(self, indices: IntArray) -> Pairs:
        """Returns some of the pairs."""
        return Pairs([self.posts[i] for i in indices], [self.replies[i] for i in indices])


@dataclass(frozen=True)
class RelevanceModel:
    """P(true pair | z) = sigmoid(c0 + c1 z + c2 z²) for z the inner product of the centred embeddings."""

    post_mean_D: Float32Array
    reply_mean_D: Float32Array
    coefficients: tuple[float, float, float]

    def similarity(self, posts_ND: Float32Array, replies_ND: Float32Array) -> FloatArray:
        """Computes z of each pair, [N]."""
        product_ND = (posts_ND - self.post_mean_D) * (replies_ND - self.reply_mean_D)
        return product_ND.sum(axis=1, dtype=np.float64)

    def probability(self, posts_ND: Float32Array, replies_ND: Float32Array) -> FloatArray:
        """Computes the relevance of each pair, [N] in (0, 1)."""
        z_N = self.similarity(posts_ND, replies_ND)
        c0, c1, c2 = self.coefficients
        return 1 / (1 + np.exp(-(c0 + c1 * z_N + c2 * z_N**2)))


@dataclass(frozen=True)
class RelevanceChecker:
    """A trained model with its encoder; a reply passes from `pass_threshold` on."""

    encoder: Encoder
    model: RelevanceModel
    pass_threshold: float

    def scores(self, posts: Sequence[str], replies: Sequence[str]) -> FloatArray:
        """Computes the relevance of each reply in [0, 1]; exactly 0 for empty replies, echoes and repetitions."""
        scores_N = np.zeros(len(posts))
        sound = [i for i, (post, reply) in enumerate(zip(posts, replies, strict=True)) if not fault(post, reply)]
        if sound:
            posts_ND = self.encoder.encode([posts[i] for i in sound])
            replies_ND = self.encoder.encode([replies[i] for i in sound])
            scores_N[sound] = self.model.probability(posts_ND, replies_ND)
        return scores_N


def train_checker(
    encoder: Encoder, training: Pairs, validation: Pairs, generator: np.random.Generator
) -> RelevanceChecker:
    """Fits the model on the training pairs and sets the threshold on the validation pairs.

    Raises DataError where either has fewer than 20 pairs.
    """
    for name, pairs in (("training half", training), ("validation split", validation)):
        if len(pairs.posts) < FEWEST_PAIRS:
            raise DataError(
                f"task replies: the {name} has {len(pairs.posts)} posts with a reference, "
                f"expected at least {FEWEST_PAIRS} to learn relevance from; add pairs"
            )
    model = fit_relevance(encoder, training.take(np.arange(len(training.posts))[:_MOST_PAIRS]), generator)
    posts_ND, replies_ND = encoder.encode(validation.posts), encoder.encode(validation.replies)
    shuffled = [
        model.probability(posts_ND, replies_ND[other_N]) for other_N in mismatches(len(posts_ND), 10, generator)
    ]
    threshold = np.quantile(np.concatenate(shuffled), 1 - SHUFFLED_PASS_RATE)
    return RelevanceChecker(encoder, model, float(threshold))


def fit_relevance(encoder: Encoder, pairs: Pairs, generator: np.random.Generator) -> RelevanceModel:
    """Fits a logistic regression on z and z²: true pairs against shuffled replies and echoes."""
    from sklearn.linear_model import LogisticRegression

    posts_ND, replies_ND = encoder.encode(pairs.posts), encoder.encode(pairs.replies)
    unfitted = RelevanceModel(posts_ND.mean(axis=0), replies_ND.mean(axis=0), (0.0, 0.0, 0.0))
    true_N = unfitted.similarity(posts_ND, replies_ND)
    shuffled = [
        unfitted.similarity(posts_ND, replies_ND[other_N])
        for other_N in mismatches(len(posts_ND), _SHUFFLES, generator)
    ]
    echoed = slice(None, None, 3)
    echo_M = unfitted.similarity(posts_ND[echoed], encoder.encode(echoes(pairs.posts[echoed], generator)))
    false_M = np.concatenate([*shuffled, echo_M])
    weights = np.concatenate(
        [
            np.full(len(true_N), 1 / len(true_N)),
            np.full(len(shuffled) * len(true_N), 1 / (len(shuffled) * len(true_N))),
            np.full(len(echo_M), _ECHO_WEIGHT / len(echo_M)),
        ]
    )
    z = np.concatenate([true_N, false_M])
    # Three coefficients on thousands of pairs need no shrinking; sklearn's default would flatten the curve.
    regression = LogisticRegression(C=np.inf).fit(
        np.stack([z, z**2], axis=1), np.arange(len(z)) < len(true_N), sample_weight=weights * len(z)
    )
    c1, c2 = (float(c) for c in regression.coef_[0])
    return RelevanceModel(unfitted.post_mean_D, unfitted.reply_mean_D, (float(regression.intercept_[0]), c1, c2))


def mismatches(n: int, count: int, generator: np.random.Generator) -> Iterator[IntArray]:
    """Yields at most `count` permutations of range(n), none of which leaves any index where it was."""
    order_N = generator.permutation(n)
    for shift in range(1, min(count, n - 1) + 1):
        others_N = np.empty(n, dtype=np.int64)
        others_N[order_N] = np.roll(order_N, shift)
        yield others_N


_REPORTED_SHUFFLES = 5
_STOCK_REPLY = "That's so cool! What do you like about it?"


def relevance_report(task: RepliesTask) -> dict[str, Any]:
    """Reports for checker and judge: AUC of true against shuffled test replies, threshold, and pass rate of each
    control.

    `correlation` is Spearman's between the two over true and shuffled test pairs. Numbers depend on the task's
    seed and files alone.
    """
    from scipy.stats import spearmanr

    test = task.pairs("test")
    controls = _controls(task, test)
    checkers = {"checker": task.checker, "judge": task.second_checker}
    scores = {name: _control_scores(checker, test, controls) for name, checker in checkers.items()}
    first, second = (np.concatenate([of["references"], of["shuffled"]]) for of in scores.values())
    correlation: Any = spearmanr(first, second)
    return {
        "embedder": task.embedder.name,
        "test_posts": len(test.posts),
        "references_refused_by_rule": float(
            np.mean([fault(post, reply) is not None for post, reply in zip(*test, strict=True)])
        ),
        "correlation": float(correlation.statistic),
        **{name: _summary(checkers[name], of) for name, of in scores.items()},
    }


def _controls(task: RepliesTask, test: Pairs) -> dict[str, list[list[str]]]:
    """Returns replies to every test post, by kind; a kind may answer the posts several times over."""
    generator = task.generator("controls")
    return {
        "references": [test.replies],
        "shuffled": [
            [test.replies[i] for i in other_N] for other_N in mismatches(len(test.posts), _REPORTED_SHUFFLES, generator)
        ],
        "stock": [[_STOCK_REPLY] * len(test.posts)],
        "empty": [["..."] * len(test.posts)],
        "copy": [test.posts],
        "echo": [echoes(test.posts, generator)],
        "post and reply": [[f"{post} {reply}" for post, reply in zip(*test, strict=True)]],
        "repeated word": [[" ".join(reply.split()[:1] * 8) for reply in test.replies]],
        "repeated reply": [[" ".join([reply] * 3) for reply in test.replies]],
    }


def _control_scores(
    checker: RelevanceChecker, test: Pairs, controls: dict[str, list[list[str]]]
) -> dict[str, FloatArray]:
    return {
        kind: np.concatenate([checker.scores(test.posts, replies) for replies in rounds])
        for kind, rounds in controls.items()
    }


def _summary(checker: RelevanceChecker, scores: dict[str, FloatArray]) -> dict[str, Any]:
    from sklearn.metrics import roc_auc_score

    true, shuffled = scores["references"], scores["shuffled"]
    labels = np.repeat([1, 0], [len(true), len(shuffled)])
    return {
        "auc": float(roc_auc_score(labels, np.concatenate([true, shuffled]))),
        "pass_threshold": checker.pass_threshold,
        "coefficients": list(checker.model.coefficients),
        "pass_rates": {kind: float(np.mean(of >= checker.pass_threshold)) for kind, of in scores.items()},
        "mean_scores": {kind: float(np.mean(of)) for kind, of in scores.items()},
    }
