"""The arithmetic task: disjoint splits, solvable problems, an exact checker."""

from itertools import islice

import numpy as np
import pytest

from polychromic.errors import ConfigError
from polychromic.records import Prompt, as_messages
from polychromic.tasks import arithmetic, base
from polychromic.tasks.arithmetic import ArithmeticTask, random_problems
from polychromic.tasks.base import build_task
from polychromic.tasks.settings import ArithmeticSettings


def problem(numbers, target):
    text = f"{','.join(map(str, numbers))}={target}:"
    return Prompt("p", as_messages(text), meta={"numbers": numbers, "target": target})


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("(8-4)*6*1", 1.0),
        ("6*(8-4)*1", 1.0),
        (" 6 * ( 8 - 4 ) / 1 ", 1.0),
        ("8*4-6-1", 0.0),  # uses the numbers, misses the target
        ("8*3", 0.0),  # hits the target with other numbers
        ("(8-4)*6", 0.0),  # leaves a number out
        ("(8-4)*6*1*1", 0.0),  # uses one twice
        ("4/(6-6)", 0.0),
        ("24", 0.0),
        ("", 0.0),
        ("__import__('os').getcwd()", 0.0),
    ],
)
def test_the_checker_is_exact(text, reward):
    task = ArithmeticTask()
    [check] = task.check([problem([1, 4, 6, 8], 24)], [text])
    assert check.reward == reward


def test_splits_share_no_problem_whatever_the_seed():
    texts = {
        split: {prompt.text for seed in (0, 1) for prompt in ArithmeticTask(300, 100, 100, seed).prompts(split)}
        for split in ("train", "validation", "test")
    }
    assert not texts["train"] & texts["test"]
    assert not texts["train"] & texts["validation"]
    assert not texts["validation"] & texts["test"]


def test_prompts_are_distinct_and_the_same_every_time():
    first, second = (ArithmeticTask(200).prompts("train") for _ in range(2))
    assert first == second
    assert len({prompt.text for prompt in first}) == 200


def test_every_problem_comes_with_a_solution_that_the_checker_accepts():
    task = ArithmeticTask()
    for found, solution in islice(random_problems("train", "test"), 300):
        assert task.check([problem(list(found.numbers), found.target)], [solution])[0].reward == 1.0


def test_distances_see_through_commuted_operands():
    distances = ArithmeticTask().distances(["1+2", "2+1", "2*1"])
    np.testing.assert_array_equal(distances, [[0, 0, 1], [0, 0, 1], [1, 1, 0]])


def test_regrouped_writings_are_one_answer_or_two_as_asked():
    texts = ["8-3+2", "2+8-3"]
    assert ArithmeticTask().distances(texts)[0, 1] == 0
    settings = ArithmeticSettings(name="arithmetic", same_answer="commuted")
    assert build_task(settings).distances(texts)[0, 1] == 1


def test_a_size_of_zero_is_refused_by_key():
    with pytest.raises(ConfigError, match="train_problems"):
        ArithmeticTask(train_problems=0)


def test_more_problems_than_there_are_is_an_error_and_no_endless_search(monkeypatch):
    """Past bug, found by fuzzing: a file that asked for ten thousand test problems hung for ever."""
    for module in (base, arithmetic):
        monkeypatch.setattr(module, "FRUITLESS_DRAWS", 50)
    with pytest.raises(ConfigError, match=r"task: 5000 test problems asked for, and the 50 draws"):
        ArithmeticTask(test_problems=5000).prompts("test")
    with pytest.raises(ValueError, match="less than or equal to 600"):
        ArithmeticSettings(name="arithmetic", test_problems=5000)
