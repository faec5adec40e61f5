"""Set advantages for rows of any trainer: every objective and baseline, groups in any order and size, refusals."""

import logging

import numpy as np
import pytest
import torch

from polychromic.errors import ConfigError, DataError
from polychromic.integrations.answers import Answers
from polychromic.integrations.groups import AdvantageEstimator, Row, RowObjective, reading
from polychromic.objective import OBJECTIVES, set_advantages
from polychromic.training.settings import DiversitySettings

TEXTS = {"a": ["1", "1", "2", "3", "x"], "b": ["4", "4", "4", "5"]}
REWARDS = {"a": [1.0, 1.0, 0.0, 1.0, 0.25], "b": [1.0, 0.7, 0.5, 0.0]}


def distances(texts):
    codes = np.array([ord(text[0]) for text in texts], dtype=float)
    return np.minimum(np.abs(codes[:, None] - codes[None]) / 8, 1.0)


ANSWERS = Answers(same_answer=lambda prompt, text: text, distance=distances, pass_threshold=0.7)


def shuffled_rows(texts=True, reward=lambda one: one):
    """Both groups' rows in a fixed disorder, with each row's place (group, index)."""
    places = [(key, index) for key in TEXTS for index in range(len(TEXTS[key]))]
    order = np.random.default_rng(3).permutation(len(places))
    places = [places[index] for index in order]
    return places, [
        Row(key, reward(REWARDS[key][index]), TEXTS[key][index] if texts else None) for key, index in places
    ]


def by_hand(settings, key):
    """Advantages [N] of one group by `set_advantages` alone."""
    rewards = np.array(REWARDS[key])
    objective = OBJECTIVES[settings.objective]
    inputs = {
        "rewards": (rewards >= 0.7).astype(float) if "passing" in objective.reads else rewards,
        "clusters": np.array([ord(text) for text in TEXTS[key]]),
        "distances": distances(TEXTS[key]),
        "gates": rewards,
    }
    inputs = {name: value for name, value in inputs.items() if name == "rewards" or name in objective.reads}
    diversity = set_advantages(settings.objective, settings.set_size, baseline=settings.baseline, **inputs)
    return set_advantages("reward", 1, rewards=rewards) + settings.weight * diversity


@pytest.mark.parametrize("label", [lambda: None, lambda: float("nan")])
def test_answers_without_a_label_are_of_one_kind_and_earn_nothing_by_being_many(label):
    """Past bug: no nan equals another, so that answers without a number were as many kinds of answers."""
    answers = Answers(same_answer=lambda prompt, text: label() if text == "x" else int(text))
    settings = DiversitySettings(objective="coverage", set_size=2, weight=1.0)
    objective = RowObjective(settings, answers)
    objective.advantages([Row("a", 1.0, text) for text in ("x", "x", "x", "1")])
    assert objective.metrics["groups/clusters"] == 2


@pytest.mark.parametrize("baseline", ["leave_one_out", "leave_one_out_minus_one", "none"])
@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_rows_in_any_order_get_the_advantages_of_their_group(objective, baseline):
    settings = DiversitySettings(objective=objective, set_size=2, weight=1.5, baseline=baseline)
    places, rows = shuffled_rows()
    advantages = RowObjective(settings, ANSWERS).advantages(rows)
    groups = {key: by_hand(settings, key) for key in TEXTS}
    np.testing.assert_allclose(advantages, [len(rows) / 2 * groups[key][index] for key, index in places], atol=1e-12)


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_what_is_centred_by_the_trainer_stays_what_it_was(objective):
    settings = DiversitySettings(objective=objective, set_size=2, weight=1.5)
    places, rows = shuffled_rows()
    advantages = RowObjective(settings, ANSWERS, centring="a trainer").advantages(rows)
    for key in TEXTS:
        own = advantages[[index for index, place in enumerate(places) if place[0] == key]]
        np.testing.assert_allclose(own - own.mean(), own, atol=1e-12)


def test_a_mean_over_rows_is_a_mean_over_prompts():
    """Σ_rows A log π / B = Σ_prompts Σ_i A_i log π / P, also where groups differ in size."""
    settings = DiversitySettings(objective="coverage", set_size=2, weight=1.0)
    places, rows = shuffled_rows()
    logprobs = {key: np.linspace(-1.0, -3.0, len(TEXTS[key])) for key in TEXTS}
    advantages = RowObjective(settings, ANSWERS).advantages(rows)
    over_rows = np.mean([a * logprobs[key][index] for a, (key, index) in zip(advantages, places, strict=True)])
    over_prompts = np.mean([by_hand(settings, key) @ logprobs[key] for key in TEXTS])
    assert over_rows == pytest.approx(over_prompts, rel=1e-12)


def test_without_texts_an_objective_of_rewards_is_the_same_and_one_of_answers_is_refused():
    _, with_texts = shuffled_rows()
    _, without = shuffled_rows(texts=False)
    settings = DiversitySettings(objective="pass_at_k", set_size=3, weight=1.0)
    np.testing.assert_array_equal(
        RowObjective(settings, ANSWERS).advantages(without),
        RowObjective(settings, ANSWERS).advantages(with_texts),
    )
    for objective in ("coverage", "distance"):
        with pytest.raises(ConfigError, match=f"'{objective}' reads the answers, and this hook .* sees only rewards"):
            RowObjective(DiversitySettings(objective=objective, set_size=2, weight=1.0)).advantages(without)


def test_an_answer_without_a_reward_is_in_no_set():
    settings = DiversitySettings(objective="coverage", set_size=2, weight=1.0)
    rows = [Row("a", reward, text) for reward, text in zip([1.0, None, 1.0, 0.0], "1233", strict=True)]
    advantages = RowObjective(settings, ANSWERS).advantages(rows)
    kept = RowObjective(settings, ANSWERS).advantages([row for row in rows if row.reward is not None])
    assert advantages[1] == 0.0
    np.testing.assert_allclose(advantages[[0, 2, 3]] / 4, kept / 3, atol=1e-12)


def test_metrics_are_means_over_groups():
    settings = DiversitySettings(objective="coverage", set_size=2, weight=1.0)
    objective = RowObjective(settings, ANSWERS)
    _, rows = shuffled_rows()
    objective.advantages([*rows, Row("alone", 1.0, "7")])
    assert objective.metrics["groups/clusters"] == pytest.approx((4 + 2) / 2)
    assert objective.metrics["train/reward"] == pytest.approx((np.mean(REWARDS["a"]) + np.mean(REWARDS["b"])) / 2)
    assert objective.metrics["groups/too_small"] == pytest.approx(1 / 3)
    assert objective.metrics["groups/diversity_signal"] == 1.0


def test_a_group_too_small_to_rate_trains_nothing_and_many_in_a_row_stop(caplog):
    objective = RowObjective(DiversitySettings(objective="coverage", set_size=3, weight=1.0), ANSWERS)
    small = [Row("a", 1.0, "1"), Row("a", 0.0, "2"), Row("a", 1.0, "3")]
    with caplog.at_level(logging.WARNING):
        assert objective.advantages(small).tolist() == [0.0, 0.0, 0.0]
    assert "a group has 3 answers, and sets of 3 with baseline leave_one_out need 4" in caplog.text
    for _ in range(18):
        objective.advantages(small)
    objective.advantages([*small, Row("a", 0.0, "4")])  # one that is large enough begins the count anew
    for _ in range(19):
        objective.advantages(small)
    with pytest.raises(DataError, match="so had 20 groups in a row: sample more or lower set_size"):
        objective.advantages(small)


def test_a_fitted_baseline_learns_from_batch_to_batch():
    settings = DiversitySettings(objective="coverage", set_size=2, weight=1.0, baseline="fitted")
    objective = RowObjective(settings, ANSWERS)
    _, rows = shuffled_rows()
    before = objective.advantages(rows)
    for _ in range(12):
        after = objective.advantages(rows)
    for key in TEXTS:  # the groups differ in size, and each size has a baseline of its own
        own = [index for index, row in enumerate(rows) if row.group == key]
        assert not np.allclose(after[own], before[own]), key


@pytest.mark.parametrize("baseline", ["fitted", "leave_one_out_minus_one", "none"])
def test_what_a_mean_would_change_is_refused(baseline):
    settings = DiversitySettings(set_size=2, weight=1.0, baseline=baseline)
    with pytest.raises(ConfigError, match=f"'{baseline}'.*: tinker subtracts the group's mean"):
        RowObjective(settings, centring="tinker")


def test_a_weight_that_follows_gradients_is_refused():
    with pytest.raises(ConfigError, match=r"weight is 'auto'.*state λ"):
        RowObjective(DiversitySettings(weight="auto", mode="share", set_size=2))


def test_an_estimator_spreads_advantages_over_tokens_and_leaves_filling_rows_out():
    settings = DiversitySettings(objective="coverage", set_size=2, weight=1.5)
    objective = RowObjective(settings, ANSWERS)
    places, rows = shuffled_rows()
    rewards = torch.zeros(len(rows) + 2, 3)  # of float32, as trainers have them: 0.7 there is less than 0.7
    rewards[: len(rows), 1] = torch.tensor([row.reward for row in rows])
    mask = torch.ones_like(rewards)
    mask[:, 2] = 0
    index = np.array([key for key, _ in places] + ["pad0", "pad1"], dtype=object)
    with reading([*(row.text for row in rows), "", ""], [""] * len(index)) as given:
        advantages, returns = AdvantageEstimator(objective)(
            token_level_rewards=rewards, response_mask=mask, index=index, config=None
        )
    expected = RowObjective(settings, ANSWERS).advantages(rows)
    assert advantages is returns
    np.testing.assert_allclose(advantages[: len(rows), :2].numpy(), np.stack([expected, expected], axis=1), atol=1e-6)
    assert float(advantages[:, 2].abs().max()) == 0.0
    assert float(advantages[len(rows) :].abs().max()) == 0.0
    assert given.metrics["groups/clusters"] == pytest.approx(3.0)
    with pytest.raises(ConfigError, match="sees only rewards"):
        AdvantageEstimator(objective)(token_level_rewards=rewards, response_mask=mask, index=index)
