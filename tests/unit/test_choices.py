"""The choices of `init` follow from what the probe saw, and every criterion that it states can be met."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polychromic.evaluation.criteria import criterion_possible
from polychromic.experiment.config import Experiment
from polychromic.experiment.starting.choices import choose, passing
from polychromic.experiment.starting.probing import DISTINCT_CORRECT, Probed
from polychromic.experiment.starting.start import experiment_text, verdict_lines

VARIED = ((1.0, 0.0, 1.0), (0.0, 0.0, 1.0))


def probed(**changes):
    facts = {
        "n_prompts": 2,
        "n_samples": 8,
        "max_new_tokens": 24,
        "tokens": 14.0,
        "truncated": 0.1,
        "seconds_per_generation": 0.05,
        "metrics": {"distinct_2": 0.7, "self_bleu": 0.3, "clusters": 6.0},
        "wordings": 0.8,
        "reference_perplexity": 12.0,
    }
    return Probed(**facts | changes)


def chosen(seen, references=1.0, **sizes):
    return choose(seen, **{"n_train": 40, "n_test": 18, "minutes": 3.0, "references": references} | sizes)


def checked(*rewards, **metrics):
    values = {"distinct_2": 0.7, "self_bleu": 0.3, "clusters": 6.0, "pass@1": 0.4, DISTINCT_CORRECT: 2.0}
    return probed(rewards=rewards, metrics=values | metrics)


@pytest.mark.parametrize(
    ("seen", "references", "loss", "objective", "gate"),
    [
        (probed(), 1.0, "sft", "distance", "none"),
        (probed(), 0.0, None, "distance", "none"),
        (checked(*VARIED), 0.0, "rl", "coverage", "product"),
        (checked(*VARIED), 1.0, "rl", "coverage", "product"),
        (checked((0.0, 0.0)), 1.0, "sft", "distance", "none"),  # a reward that never varies teaches nothing
        (checked((0.0, 0.0)), 0.0, "rl", "distance", "product"),
        (checked((1.0, 1.0)), 0.0, "rl", "coverage", "product"),  # all pass: they may still differ
    ],
)
def test_loss_and_objective_follow_from_references_and_rewards(seen, references, loss, objective, gate):
    choice = chosen(seen, references)
    assert (choice.loss, choice.objective, choice.gate) == (loss, objective, gate)


def test_what_is_said_has_steps_only_where_something_is_trained():
    alone, learnt = (list(verdict_lines(probed(), chosen(probed(), references))) for references in (0.0, 1.0))
    assert alone[1] == "nothing says what a good answer is, so nothing is trained: --check FILE.py:NAME"
    assert "steps" not in alone[-1]
    assert re.fullmatch(r"\d+ steps, 18 prompts × \d+ answers: about .* after preflight", learnt[-1])


@pytest.mark.parametrize("rewards", [(0.1, 0.2, 0.3, 0.4), (0.6, 0.7, 0.8, 0.9)])
def test_a_threshold_that_would_part_nothing_is_moved_between_the_rewards(rewards):
    choice = chosen(checked(rewards))
    assert min(rewards) < choice.pass_threshold <= max(rewards)
    assert 0 < passing(checked(rewards), choice.pass_threshold) < 1
    assert "0.5 would part nothing" in choice.why["pass_threshold"]


def test_rewards_on_both_sides_of_a_half_keep_it():
    assert chosen(checked((0.2, 0.9))).pass_threshold == 0.5


@given(
    distinct=st.floats(0, 1),
    bleu=st.floats(0, 1),
    correct=st.floats(0, 8),
    perplexity=st.floats(1, 500) | st.just(math.nan),
    seconds=st.floats(1e-4, 30),
    has_checker=st.booleans(),
    references=st.sampled_from([0.0, 1.0]),
    n_train=st.integers(1, 5000),
    n_test=st.integers(1, 500),
    minutes=st.floats(0.1, 600),
)
def test_whatever_was_seen_the_file_can_be_read_and_its_criteria_can_be_met(
    distinct, bleu, correct, perplexity, seconds, has_checker, references, n_train, n_test, minutes
):
    values = {"distinct_2": distinct, "self_bleu": bleu, "clusters": 6.0}
    values |= {"pass@1": 0.4, DISTINCT_CORRECT: correct} if has_checker else {}
    seen = probed(
        metrics=values,
        rewards=VARIED if has_checker else (),
        reference_perplexity=perplexity,
        seconds_per_generation=seconds,
    )
    choice = choose(seen, n_train, n_test, references=references, minutes=minutes)
    assert choice.num_prompts <= n_test
    assert choice.prompts_per_step <= n_train
    for goal in choice.goals:
        now = values.get(goal.criterion.metric, perplexity)
        assert criterion_possible(goal.criterion, now).possible == (not goal.left_out)
    checker = "contains" if has_checker else None
    content = parsed(experiment_text("mine", "mine-data", "./model: a", checker, seen, choice))
    experiment = Experiment.from_mapping(content)
    assert experiment.model.source == "./model: a"
    assert len(experiment.comparison.minimum or ()) == sum(not goal.left_out for goal in choice.goals)


def parsed(text):
    import yaml

    return yaml.safe_load(text)


def test_time_is_kept_where_a_machine_is_fast_and_sizes_never_vanish():
    fast, slow = chosen(probed()), chosen(probed(seconds_per_generation=20.0))
    assert fast.minutes <= 3.0 and fast.steps >= 20 and fast.num_prompts == 18
    assert (slow.steps, slow.num_samples) == (4, 8) and slow.minutes > 3.0
    assert chosen(probed(seconds_per_generation=1e-3)).seeds == (0, 1, 2)


def test_what_cannot_rise_is_left_out_with_the_reason():
    choice = chosen(probed(metrics={"distinct_2": 0.97928, "self_bleu": 0.3, "clusters": 8.0}))
    (goal,) = [goal for goal in choice.goals if goal.left_out]
    assert goal.left_out == "Distinct-2 +5 % from 0.97928 needs 1.0282, and it cannot exceed 1"
    text = experiment_text("mine", "mine-data", "smollm2-135m-instruct", None, probed(), choice)
    assert f"    # distinct_2 is left out: {goal.left_out}\n" in text
