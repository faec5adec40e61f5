"""What the relevance checkers are worth, measured on held-out posts with replies that must and must not pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from polychromic.tasks.relevance import Floats, Pairs, RelevanceChecker, mismatches
from polychromic.tasks.reply_faults import echoes, fault

if TYPE_CHECKING:
    from polychromic.tasks.replies import RepliesTask

_REPORTED_SHUFFLES = 5
_STOCK_REPLY = "That's so cool! What do you like about it?"


def relevance_report(task: RepliesTask) -> dict[str, Any]:
    """For checker and judge: AUC of true against shuffled test replies, threshold, and pass rate of each control.

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
    """Replies to every test post, by kind; a kind may answer the posts several times over."""
    generator = task.generator("controls")
    return {
        "references": [test.replies],
        "shuffled": [
            [test.replies[i] for i in other_N]
            for other_N in mismatches(len(test.posts), _REPORTED_SHUFFLES, generator)
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
) -> dict[str, Floats]:
    return {
        kind: np.concatenate([checker.scores(test.posts, replies) for replies in rounds])
        for kind, rounds in controls.items()
    }


def _summary(checker: RelevanceChecker, scores: dict[str, Floats]) -> dict[str, Any]:
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
