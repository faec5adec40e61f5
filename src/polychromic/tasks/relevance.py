"""How well a reply fits its post, learnt from true pairs against shuffled ones and against echoes of the post.

The only feature is the similarity z of the centred embeddings of post and reply, and the model is logistic in z
and z². Both limits are deliberate, because a policy will be trained against it. Centring makes the mean similarity
of any reply over all posts zero, so no reply can be relevant everywhere. The square lets relevance fall again where
a reply is more similar to its post than true replies are, which is where echoes and paraphrases of the post lie.
A logistic regression on [u, v, |u − v|, u·v] tells shuffled replies about as well, and one constant reply passes
it at far more posts (docs/results/relevance-checker.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from polychromic.errors import DataError
from polychromic.tasks.reply_faults import echoes, fault

FEWEST_PAIRS = 20
SHUFFLED_PASS_RATE = 0.1
"""Share of the validation split's shuffled replies that reach the pass threshold."""
_SHUFFLES = 3
_ECHO_WEIGHT = 0.03
"""Weight of all echoes together; true pairs weigh 1 and shuffled pairs weigh 1."""
_MOST_PAIRS = 1000
"""Pairs that the model is fitted on: three coefficients and two means gain nothing from more."""

Floats = NDArray[np.float64]


class Encoder(Protocol):
    """Turns texts into unit vectors."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Float32 [n, d]."""
        ...


class Pairs(NamedTuple):
    """Posts and their true replies, in the same order."""

    posts: list[str]
    replies: list[str]

    def take(self, indices: NDArray[np.int64]) -> Pairs:
        """Some of the pairs."""
        return Pairs([self.posts[i] for i in indices], [self.replies[i] for i in indices])


@dataclass(frozen=True)
class RelevanceModel:
    """P(true pair | z) = sigmoid(c0 + c1 z + c2 z²) for z the inner product of the centred embeddings."""

    post_mean_D: NDArray[np.float32]
    reply_mean_D: NDArray[np.float32]
    coefficients: tuple[float, float, float]

    def similarity(self, posts_ND: NDArray[np.float32], replies_ND: NDArray[np.float32]) -> Floats:
        """z of each pair, [N]."""
        product_ND = (posts_ND - self.post_mean_D) * (replies_ND - self.reply_mean_D)
        return product_ND.sum(axis=1, dtype=np.float64)

    def probability(self, posts_ND: NDArray[np.float32], replies_ND: NDArray[np.float32]) -> Floats:
        """Relevance of each pair, [N] in (0, 1)."""
        z_N = self.similarity(posts_ND, replies_ND)
        c0, c1, c2 = self.coefficients
        return 1 / (1 + np.exp(-(c0 + c1 * z_N + c2 * z_N**2)))


@dataclass(frozen=True)
class RelevanceChecker:
    """A trained model with its encoder; a reply passes from `pass_threshold` on."""

    encoder: Encoder
    model: RelevanceModel
    pass_threshold: float

    def scores(self, posts: Sequence[str], replies: Sequence[str]) -> Floats:
        """Relevance of each reply in [0, 1]; exactly 0 for empty replies, echoes and repetitions."""
        scores_N = np.zeros(len(posts))
        sound = [
            i for i, (post, reply) in enumerate(zip(posts, replies, strict=True)) if not fault(post, reply)
        ]
        if sound:
            posts_ND = self.encoder.encode([posts[i] for i in sound])
            replies_ND = self.encoder.encode([replies[i] for i in sound])
            scores_N[sound] = self.model.probability(posts_ND, replies_ND)
        return scores_N


def train_checker(
    encoder: Encoder, training: Pairs, validation: Pairs, generator: np.random.Generator
) -> RelevanceChecker:
    """Fit the model on the training pairs and set the threshold on the validation pairs.

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
        model.probability(posts_ND, replies_ND[other_N])
        for other_N in mismatches(len(posts_ND), 10, generator)
    ]
    threshold = np.quantile(np.concatenate(shuffled), 1 - SHUFFLED_PASS_RATE)
    return RelevanceChecker(encoder, model, float(threshold))


def fit_relevance(encoder: Encoder, pairs: Pairs, generator: np.random.Generator) -> RelevanceModel:
    """Logistic regression on z and z²: true pairs against shuffled replies and echoes."""
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
    return RelevanceModel(
        unfitted.post_mean_D, unfitted.reply_mean_D, (float(regression.intercept_[0]), c1, c2)
    )


def mismatches(n: int, count: int, generator: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """At most `count` permutations of range(n), none of which leaves any index where it was."""
    order_N = generator.permutation(n)
    for shift in range(1, min(count, n - 1) + 1):
        others_N = np.empty(n, dtype=np.int64)
        others_N[order_N] = np.roll(order_N, shift)
        yield others_N
