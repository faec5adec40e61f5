"""The relevance checkers of the replies task on held-out posts: AUC, controls, time, and a wider model beside them.

Run: python benchmarks/relevance_checker.py [FOLDER_WITH_THE_THREE_SPLITS]
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from polychromic.tasks.relevance import mismatches
from polychromic.tasks.replies import RepliesTask

CONSTANT_REPLIES = 400
TRAINING_PAIRS = 1000


def main() -> None:
    """Print the task's own report, then times, then the comparison."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "data/replies")
    task = RepliesTask(*(folder / f"{split}.jsonl" for split in ("train", "validation", "test")))
    times = {
        "train checker, s": _seconds(lambda: task.checker),
        "train judge, s": _seconds(lambda: task.second_checker),
    }
    print(json.dumps(task.report(), indent=2))
    posts, replies = task.pairs("test")
    new_texts = [f"{reply} {reply[::-1]}" for reply in replies]  # not in the cache
    times["new replies checked per second"] = len(posts) / _seconds(lambda: task.checker.scores(posts, new_texts))
    times["cached replies checked per second"] = len(posts) / _seconds(lambda: task.checker.scores(posts, new_texts))
    times["replies judged per second"] = len(posts) / _seconds(lambda: task.second_checker.scores(posts, new_texts))
    print(json.dumps(times, indent=2))
    print(json.dumps(_against_wide_regression(task), indent=2))


def _seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _against_wide_regression(task: RepliesTask) -> dict[str, dict[str, float]]:
    """The task's model and a logistic regression on [u, v, |u − v|, u·v], fitted on pairs of the same half."""
    training = task._halves[0].take(np.arange(TRAINING_PAIRS))
    train_ND, train_replies_ND = (task.embedder.encode(texts) for texts in training)
    wide = _fit_wide(train_ND, train_replies_ND)
    test_ND, test_replies_ND = (task.embedder.encode(texts) for texts in task.pairs("test"))
    models = {"z and z²": task.checker.model.probability, "[u, v, |u − v|, u·v]": wide}
    return {
        name: {
            "auc": _auc(model, test_ND, test_replies_ND),
            "best constant reply passes": _best_constant(model, test_ND, test_replies_ND, train_replies_ND),
        }
        for name, model in models.items()
    }


def _fit_wide(posts_ND, replies_ND):
    generator = np.random.default_rng(0)
    others = list(mismatches(len(posts_ND), 3, generator))
    all_posts = np.concatenate([posts_ND] * (len(others) + 1))
    all_replies = np.concatenate([replies_ND, *(replies_ND[other_N] for other_N in others)])
    labels = np.arange(len(all_posts)) < len(posts_ND)
    model = LogisticRegression(C=1e-3, class_weight="balanced", max_iter=500)
    model.fit(_wide_features(all_posts, all_replies), labels)
    return lambda posts, replies: model.predict_proba(_wide_features(posts, replies))[:, 1]


def _wide_features(posts_ND, replies_ND):
    parts = [posts_ND, replies_ND, np.abs(posts_ND - replies_ND), posts_ND * replies_ND]
    return np.hstack(parts) * np.sqrt(posts_ND.shape[1])


def _shuffled_scores(model, posts_ND, replies_ND):
    others = mismatches(len(posts_ND), 10, np.random.default_rng(1))
    return np.concatenate([model(posts_ND, replies_ND[other_N]) for other_N in others])


def _auc(model, posts_ND, replies_ND) -> float:
    true, shuffled = model(posts_ND, replies_ND), _shuffled_scores(model, posts_ND, replies_ND)
    return float(roc_auc_score(np.repeat([1, 0], [len(true), len(shuffled)]), np.concatenate([true, shuffled])))


def _best_constant(model, posts_ND, replies_ND, candidates_MD) -> float:
    """Share of posts at which the luckiest of some replies passes, where a tenth of shuffled replies pass."""
    threshold = np.quantile(_shuffled_scores(model, posts_ND, replies_ND), 0.9)
    shares = [
        np.mean(model(posts_ND, np.repeat(candidate_D[None], len(posts_ND), axis=0)) >= threshold)
        for candidate_D in candidates_MD[:CONSTANT_REPLIES]
    ]
    return float(np.max(shares))


if __name__ == "__main__":
    main()
