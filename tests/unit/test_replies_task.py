import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polychromic.errors import DataError
from polychromic.records import Prompt, as_messages
from polychromic.tasks.base import Task
from polychromic.tasks.relevance import (
    Pairs,
    RelevanceChecker,
    RelevanceModel,
    echoes,
    fault,
    fit_relevance,
    mismatches,
    train_checker,
)
from polychromic.tasks.replies import HashedWords, RepliesTask, SifEncoder

# A post and its reply share two of ten words, so that spelling alone tells true pairs from shuffled ones.
_TOPICS = [
    f"{animal}s near {place}"
    for animal in (
        "badger",
        "heron",
        "lizard",
        "otter",
        "falcon",
        "donkey",
        "walrus",
        "magpie",
        "gecko",
        "moose",
    )
    for place in ("Lisbon", "Quito", "Tromso", "Hanoi", "Dakar", "Perth", "Osaka", "Cusco", "Malmo", "Tunis")
]


def _row(index: int) -> dict[str, object]:
    animals, _, place = _TOPICS[index % len(_TOPICS)].split()
    return {
        "prompt": f"Yesterday somebody told me about the {animals} that live around {place} ({index})",
        "references": [f"Honestly I would love to see {animals} if I ever travel to {place} again"],
    }


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> RepliesTask:
    folder = tmp_path_factory.mktemp("replies")
    sizes = {"train": range(160), "validation": range(160, 200), "test": range(200, 260)}
    for split, rows in sizes.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(_row(i)) + "\n" for i in rows))
    return _task(folder)


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYCHROMIC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def _task(folder: Path) -> RepliesTask:
    return RepliesTask(*(folder / f"{split}.jsonl" for split in ("train", "validation", "test")), embedder="hash")


def _rewards(task: RepliesTask, prompts: list[Prompt], texts: list[str]) -> list[float]:
    return [math.nan if check.reward is None else check.reward for check in task.check(prompts, texts)]


def test_it_is_a_task(task):
    as_task: Task = task
    assert as_task.name == "replies"
    assert as_task.cluster(task.prompts("test")[0], "a") is None


def test_building_it_reads_and_trains_nothing():
    task = RepliesTask(Path("missing"), Path("missing"), Path("missing"), embedder="no such model")
    with pytest.raises(DataError, match="missing: cannot be read"):
        task.prompts("train")


def test_true_replies_are_told_from_shuffled_ones_by_both_checkers(task):
    report = task.report()
    # 60 true and 300 shuffled pairs: 0.5 ± 0.04 would be chance.
    assert report["checker"]["auc"] > 0.85
    assert report["judge"]["auc"] > 0.85
    assert report["checker"]["pass_rates"]["shuffled"] < 0.25 < report["checker"]["pass_rates"]["references"]


def test_empty_copied_and_repeating_replies_never_pass(task):
    for checker in ("checker", "judge"):
        rates = task.report()[checker]["pass_rates"]
        assert rates["empty"] == rates["copy"] == rates["post and reply"] == 0
        assert rates["repeated word"] == rates["repeated reply"] == 0
    prompts = task.prompts("test")[:4]
    assert _rewards(task, prompts, ["", " ?!", prompts[2].text.upper(), "no no no no no"]) == [0, 0, 0, 0]


def test_one_reply_for_every_post_earns_what_shuffled_replies_earn(task):
    prompts = task.prompts("test")
    constant = np.mean(_rewards(task, prompts, [prompts[0].references[0]] * len(prompts)))
    true = np.mean(_rewards(task, prompts, [prompt.references[0] for prompt in prompts]))
    shuffled = np.mean(_rewards(task, prompts, [prompt.references[0] for prompt in prompts[7:] + prompts[:7]]))
    assert abs(constant - shuffled) < 0.5 * (true - shuffled)


def test_checker_and_judge_differ_and_learn_from_different_halves(task):
    first, second = task._halves
    assert not set(first.posts) & set(second.posts)
    assert len(first.posts) + len(second.posts) == 160
    prompts = task.prompts("test")
    texts = [prompt.references[0] for prompt in prompts]
    judged = [check.reward for check in task.judge(prompts, texts)]
    assert judged != _rewards(task, prompts, texts)


def test_the_seed_alone_decides_the_rewards(task, tmp_path):
    prompts = task.prompts("test")
    texts = [prompt.references[0] for prompt in prompts]
    files = [task._files[split] for split in ("train", "validation", "test")]
    assert _rewards(RepliesTask(*files, embedder="hash"), prompts, texts) == _rewards(task, prompts, texts)
    assert _rewards(RepliesTask(*files, embedder="hash", seed=1), prompts, texts) != _rewards(task, prompts, texts)


def test_distances_are_those_of_meaning(task):
    distances_NN = task.distances(["a red house", "a red house", "quick brown foxes"])
    assert distances_NN.shape == (3, 3)
    assert distances_NN[0, 1] == pytest.approx(0, abs=1e-6)
    assert 0.5 < distances_NN[0, 2] <= 1
    assert (distances_NN == distances_NN.T).all()


def test_too_few_pairs_are_an_error_with_the_numbers(tmp_path):
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(_row(i)) + "\n" for i in range(30)))
    with pytest.raises(DataError, match="the training half has 15 posts with a reference, expected at least 20"):
        _ = _task(tmp_path).pass_threshold


class _Toy:
    """Two dimensions: texts are numbers, the angle of a unit vector."""

    def encode(self, texts):
        angles_N = np.array([float(text) for text in texts], dtype=np.float32)
        return np.stack([np.cos(angles_N), np.sin(angles_N)], axis=1)


def test_probability_is_the_logistic_of_centred_similarity():
    model = RelevanceModel(np.float32([0.5, 0]), np.float32([0, 0.5]), (-1.0, 2.0, -4.0))
    posts_ND, replies_ND = np.float32([[1, 0]]), np.float32([[0.5, 0.5]])
    # z = (0.5, 0)·(0.5, 0) = 0.25 and -1 + 2/4 - 4/16 = -0.75
    assert model.similarity(posts_ND, replies_ND) == pytest.approx([0.25])
    assert model.probability(posts_ND, replies_ND) == pytest.approx([1 / (1 + math.exp(0.75))])


def test_any_reply_has_mean_similarity_zero_over_the_posts_it_was_centred_on():
    generator = np.random.default_rng(0)
    pairs = Pairs([str(x) for x in generator.uniform(0, 3, 200)], [str(x) for x in generator.uniform(0, 3, 200)])
    model = fit_relevance(_Toy(), pairs, generator)
    posts_ND = _Toy().encode(pairs.posts)
    one_ND = np.repeat(_Toy().encode(["1.0"]), 200, axis=0)
    assert model.similarity(posts_ND, one_ND).mean() == pytest.approx(0, abs=1e-6)


def test_the_threshold_lets_a_tenth_of_shuffled_replies_pass():
    generator = np.random.default_rng(0)
    angles = [str(x) for x in generator.uniform(0, 6, 400)]
    pairs = Pairs(angles, [str(float(x) + e) for x, e in zip(angles, generator.normal(0, 0.3, 400), strict=True)])
    checker = train_checker(_Toy(), pairs, pairs, generator)
    posts_ND, replies_ND = checker.encoder.encode(pairs.posts), checker.encoder.encode(pairs.replies)
    rates = [
        np.mean(checker.model.probability(posts_ND, replies_ND[other_N]) >= checker.pass_threshold)
        for other_N in mismatches(400, 20, np.random.default_rng(1))
    ]
    assert np.mean(rates) == pytest.approx(0.1, abs=0.01)


def test_scores_of_nothing_are_empty():
    checker = RelevanceChecker(_Toy(), RelevanceModel(np.float32([0, 0]), np.float32([0, 0]), (0, 1, 0)), 0.5)
    assert checker.scores([], []).shape == (0,)


@given(st.integers(2, 40), st.integers(1, 5), st.integers(0, 99))
def test_mismatches_move_every_index_and_stay_permutations(n, count, seed):
    found = list(mismatches(n, count, np.random.default_rng(seed)))
    assert len(found) == min(count, n - 1)
    for other_N in found:
        assert sorted(other_N) == list(range(n))
        assert (other_N != np.arange(n)).all()


@pytest.mark.parametrize(
    ("post", "reply", "expected"),
    [
        ("How are you?", "", "empty"),
        ("How are you?", "...!", "empty"),
        ("How are you?", "how are YOU", "echo"),
        ("I went to the old harbour", "I went to the old harbour with my brother today", "echo"),
        ("I really went to the old harbour today", "harbour the to went I", "echo"),
        ("How are you?", "so so so so", "repetition"),
        ("How are you?", "I am fine. I am fine. I am fine.", "repetition"),
        ("How are you?", "You too!", None),
        ("I went to the old harbour", "The beach is nicer", None),
        ("How are you?", "ha ha ha", None),
        ("What’s that?", "It’s a heron", None),
        ("", "Hello there", None),
    ],
)
def test_faults(post, reply, expected):
    assert fault(post, reply) == expected


@given(st.text(max_size=60))
def test_a_copy_is_never_sound(post):
    assert fault(post, post) is not None


def test_echoes_say_the_post_again():
    post = "one two three four five six"
    reordered, thinned, half = echoes([post] * 3, np.random.default_rng(0))
    assert sorted(reordered.split()) == sorted(post.split()) and reordered != post
    assert set(thinned.split()) < set(post.split())
    assert half == "one two three four"


def test_sif_weighs_rare_words_and_drops_what_all_texts_share():
    texts = [f"the the the {word}" for word in ("apple", "pear", "plum", "fig", "lime", "date", "kiwi", "melon")]
    encoder = SifEncoder.fit(HashedWords(), texts)
    vectors_ND = encoder.encode(["the apple", "apple the the", "the plum", ""])
    assert np.linalg.norm(vectors_ND, axis=1) == pytest.approx([1, 1, 1, 1], abs=1e-5)
    assert vectors_ND[0] @ vectors_ND[1] > 0.99
    assert vectors_ND[0] @ vectors_ND[2] < 0.3


def test_multi_turn_prompts_are_judged_by_their_last_turn(task):
    (prompt, *_) = task.prompts("test")
    longer = Prompt("x", (*as_messages("Something else entirely"), *prompt.messages), prompt.references)
    reply = prompt.references[0]
    assert _rewards(task, [longer], [reply]) == _rewards(task, [prompt], [reply])
