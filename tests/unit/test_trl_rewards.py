"""The parts of the TRL integration that need no TRL: rewards that are advantages, refusals, checkpoints."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from polychromic.errors import ConfigError, DataError
from polychromic.integrations.groups import float64_of
from polychromic.integrations.sets import SetObjective
from polychromic.integrations.trl import Answers, group_reward
from polychromic.integrations.trl.checkpoints import STATE, checkpoint_hashes, latest_whole
from polychromic.integrations.trl.config import require_unbiased, reward_scale, sum_scale
from polychromic.integrations.trl.engine import micro_batches
from polychromic.integrations.trl.observing import Completion, groups_of, rewards_of, text_of
from polychromic.objective import OBJECTIVES, set_advantages
from polychromic.training.settings import DiversitySettings, TrainingSettings

N = 5
PROMPTS = ["a", "b", "a"]
TEXTS = [["1", "1", "2", "3", "x"], ["4", "4", "4", "4", "5"], ["6", "7", "x", "x", "8"]]
REWARDS = [[1.0, 1.0, 0.0, 1.0, 0.25], [1.0, None, 1.0, 0.5, 1.0], [0.7, 0.0, 0.0, 0.0, 0.0]]


def grpo_args(**changes):
    """Stands for GRPOConfig(scale_rewards="none", loss_type="dr_grpo", num_generations=N), as far as it is read."""
    values = {
        "scale_rewards": "none", "loss_type": "dr_grpo", "multi_objective_aggregation": "sum_then_normalize",
        "importance_sampling_level": "token", "mask_truncated_completions": False, "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None, "top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0,
        "num_generations": N, "num_generations_eval": None, "max_completion_length": 8,
        "temperature": 1.0, "generation_kwargs": None,
    }  # fmt: skip
    return SimpleNamespace(**(values | changes))


def distances(texts):
    """Half the difference of the first letters' codes, up to 1."""
    codes = np.array([ord(text[0]) for text in texts], dtype=float)
    return np.minimum(np.abs(codes[:, None] - codes[None]) / 8, 1.0)


def called(reward, prompts, texts, **columns):
    completions = [text for group in texts for text in group]
    rows = [prompt for prompt in prompts for _ in range(N)]
    return reward(prompts=rows, completions=completions, completion_ids=[[1]] * len(rows), **columns)


def quality(prompts, completions, completion_ids, worth=None, **_columns):
    return list(worth)


def flat(values):
    return [one for group in values for one in group]


def expected(settings):
    rewards = np.array([[np.nan if one is None else one for one in group] for group in REWARDS])
    clusters = np.array([[ord(text) for text in group] for group in TEXTS])
    spread = np.stack([distances(group) for group in TEXTS])
    passing = np.where(np.isnan(rewards), np.nan, rewards >= 0.7)
    reads = OBJECTIVES[settings.objective].reads
    inputs = {
        "rewards": passing if "passing" in reads else rewards,
        "clusters": clusters,
        "distances": spread,
    }
    if "gates" in reads:
        inputs["gates"] = rewards
    diversity = set_advantages(settings.objective, settings.set_size, **inputs)
    return set_advantages("reward", 1, rewards=rewards) + settings.weight * diversity


def test_a_floor_that_follows_a_baseline_is_refused_where_there_is_none():
    """λ rose to its bound, 10,000, at any reward: 0 lies above −0.03."""
    floor = {"objective": "coverage", "set_size": 2, "weight": "auto", "mode": "floor"}
    with pytest.raises(ConfigError, match=r"measured from the baseline arm .* state quality_floor"):
        SetObjective(DiversitySettings(**floor, floor_margin=0.03), Answers())
    own = SetObjective(DiversitySettings(**floor, quality_floor=0.4), Answers())
    following = SetObjective(DiversitySettings(**floor, floor_margin=0.03), Answers(), controller=own.controller)
    assert following.controller is own.controller


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_centred_rewards_are_the_advantages_of_every_objective(objective):
    settings = DiversitySettings(objective=objective, set_size=2, weight=1.5)
    answers = Answers(same_answer=lambda prompt, text: text, distance=distances, pass_threshold=0.7)
    reward = group_reward(grpo_args(), quality, settings, answers)
    got = np.reshape(called(reward, PROMPTS, TEXTS, worth=flat(REWARDS)), (3, N))

    np.testing.assert_allclose(got, N * expected(settings), atol=1e-12)
    np.testing.assert_allclose(got - got.mean(axis=1, keepdims=True), got, atol=1e-12)
    assert np.abs(got).max() > 0.1


def test_a_group_that_lies_on_two_processes_is_gathered(on_threads):
    settings = DiversitySettings(objective="coverage", set_size=2, weight=1.0)
    prompts, texts, rewards = ["a", "b"], TEXTS[:2], flat(REWARDS[:2])

    def share(processes):
        args = grpo_args()
        reward = group_reward(args, quality, settings, Answers(same_answer=lambda _, text: text), processes=processes)
        # Three rows here and seven there; TRL gives equal shares, but nothing rests on that.
        start, end = ((0, 3), (3, 10))[processes.rank]
        rows = [prompt for prompt in prompts for _ in range(N)][start:end]
        return reward(
            prompts=rows, completions=flat(texts)[start:end], completion_ids=[[1]] * len(rows), worth=rewards[start:end]
        )  # fmt: skip

    whole = group_reward(grpo_args(), quality, settings, Answers(same_answer=lambda _, text: text))
    first, second = on_threads(2, share)
    assert first + second == called(whole, prompts, texts, worth=rewards)


def test_what_is_measured_is_logged_by_trl():
    logged = {}
    reward = group_reward(grpo_args(), quality, DiversitySettings(weight=1.0, set_size=2))
    called(reward, PROMPTS, TEXTS, worth=flat(REWARDS), log_metric=logged.__setitem__)
    assert logged["train/reward"] == pytest.approx(np.nanmean([one for one in flat(REWARDS) if one is not None]))
    assert logged["groups/clusters"] == pytest.approx((4 + 2 + 4) / 3)
    assert 0 < logged["train/diversity_score"] < 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"scale_rewards": "group"},
            "divides set advantages by their standard deviation.*scale_rewards='none'",
        ),
        ({"scale_rewards": "batch"}, "divides set advantages"),
        ({"loss_type": "grpo"}, "a token of a long answer counts less: loss_type='dr_grpo'"),
        ({"loss_type": "dapo"}, "a batch of long answers counts less"),
        ({"loss_type": "new"}, "is a loss that this version does not know"),
        ({"mask_truncated_completions": True}, "keep their part in the baselines of the others"),
        (
            {"top_p": 0.9},
            "the policy that is sampled would not be the one whose gradient is taken: top_p=1.0",
        ),
        ({"top_k": 50}, "top_k=0"),
        (
            {"multi_objective_aggregation": "normalize_then_sum"},
            "divides rewards by their standard deviation",
        ),
        ({"generation_kwargs": {"top_p": 0.9, "cache_implementation": None}}, r"generation_kwargs\['top_p'\]=0.9: the"),
        ({"generation_kwargs": {"temperature": 0.5, "top_k": 0}}, r"generation_kwargs\['temperature'\]=0.5: the"),
        ({"num_generations_eval": 2}, "groups cannot be told apart"),
    ],
)
def test_settings_that_bias_the_gradient_are_refused_with_the_reason(changes, reason):
    with pytest.raises(ConfigError, match=reason):
        require_unbiased(grpo_args(**changes))
    with pytest.raises(ConfigError, match=reason):
        group_reward(grpo_args(**changes), quality, DiversitySettings(weight=1.0, set_size=2))


@pytest.mark.parametrize("given", [[1.0] * N, [1.0] * (2 * N + 1)])
def test_rewards_that_are_too_few_or_too_many_are_refused_in_words(given):
    reward = group_reward(grpo_args(), lambda **_: given, DiversitySettings(weight=1.0, set_size=2))
    with pytest.raises(DataError, match=f"gave {len(given)} rewards for {2 * N} completions"):
        reward(prompts=["p"] * 2 * N, completions=["a"] * 2 * N, completion_ids=[[1]] * 2 * N)


def test_all_reasons_stand_in_one_message():
    with pytest.raises(ConfigError) as caught:
        require_unbiased(grpo_args(scale_rewards="group", loss_type="grpo", top_k=20))
    assert str(caught.value).count(";") == 2
    require_unbiased(grpo_args(loss_type="luspo", top_k=None, min_p=0.0))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"baseline": "fitted"}, "do not sum to zero in a group.*SetGRPOTrainer"),
        ({"baseline": "leave_one_out_minus_one"}, "do not sum to zero in a group"),
        ({"weight": "auto", "mode": "share"}, "follows gradients or a floor .*SetGRPOTrainer"),
        ({"set_size": N}, f"num_generations is {N}, and leave-one-out advantages of sets of {N} need more"),
    ],
)
def test_what_a_reward_cannot_carry_is_refused(settings, reason):
    with pytest.raises(ConfigError, match=reason):
        group_reward(grpo_args(), quality, DiversitySettings(**{"weight": 1.0, "set_size": 2} | settings))


def test_the_scales_turn_means_over_generations_into_the_gradient():
    assert reward_scale(grpo_args()) == N
    assert sum_scale(grpo_args()) == N * 8
    assert sum_scale(grpo_args(loss_type="luspo")) == N


def row(prompt, text):
    return Completion(prompt, text, (1, 2), "stop", {"id": "q7", "target": 3})


def test_a_weighted_sum_of_full_rewards_is_a_full_reward():
    # 0.9 and 0.1 are less than 1 together in float32, and 0.7, 0.2 and 0.1 in float64: nothing passed, all along.
    for weights in ([0.9, 0.1], [0.7, 0.2, 0.1], [0.3, 0.3, 0.4]):
        names = [f"f{number}" for number in range(len(weights))]
        trainer = SimpleNamespace(
            reward_func_names=names,
            reward_weights=torch.tensor(weights),
            _logs={"rewards": {name: [1.0, float("nan")] for name in names}},
        )
        np.testing.assert_array_equal(rewards_of(trainer, 2), [1.0, np.nan])


def test_rows_become_groups_with_their_columns_and_missing_rewards():
    rows = [row("a", "1"), row("a", [{"role": "assistant", "content": "2"}])]
    (group,) = groups_of(rows, np.array([0.5, np.nan]), 2)
    assert group.texts == ["1", "2"]
    assert (group.prompt.id, group.prompt.text, group.prompt.meta["target"]) == ("q7", "a", 3)
    assert [check.reward for check in group.checks] == [0.5, None]


@pytest.mark.parametrize("prompts", [["a", "b"], ["a"]])
def test_rows_that_are_no_whole_group_are_refused(prompts):
    with pytest.raises(DataError, match="rows 0 to 1 of the batch are not 2 answers to one prompt"):
        groups_of([row(prompt, "1") for prompt in prompts], np.ones(len(prompts)), 2)


def test_texts_of_conversations_and_parts():
    assert text_of("plain") == "plain"
    assert text_of([]) == ""
    assert text_of([{"role": "tool", "content": "no"}, {"role": "assistant", "content": None}]) == ""
    parts = [{"type": "image"}, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert text_of([{"role": "assistant", "content": parts}]) == "ab"


def test_float32_rewards_pass_the_thresholds_that_they_were():
    """Past bug: 0.7 as float32 is less than 0.7, and no longer passed a threshold of 0.7."""
    rewards = np.array([0.7, 0.1, 1 / 3, 1.0, np.nan])
    assert float(np.float32(0.7)) < 0.7
    back = float64_of(rewards.astype(np.float32))
    assert back[:2].tolist() == [0.7, 0.1]
    assert back[3] == 1.0
    assert np.isnan(back[4])
    np.testing.assert_allclose(back[:4], rewards[:4], atol=1e-7)


@pytest.mark.parametrize(
    ("sequences", "processes", "largest", "shares"),
    [(128, 1, 256, (128, 1)), (128, 1, 48, (32, 4)), (12, 2, 4, (3, 2)), (7, 1, 3, (1, 7))],
)
def test_a_step_is_shared_evenly_in_micro_batches(sequences, processes, largest, shares):
    size, often = micro_batches(sequences, processes, largest)
    assert (size, often) == shares
    assert size * often * processes == sequences


@pytest.mark.parametrize(("sequences", "processes"), [(12, 5), (2, 4)])
def test_a_step_that_does_not_divide_is_refused(sequences, processes):
    with pytest.raises(ConfigError, match=f"which {processes} processes cannot share evenly"):
        micro_batches(sequences, processes, 8)


def checkpoint(folder, step):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "adapter_model.safetensors").write_bytes(b"weights")
    (path / "optimizer.pt").write_bytes(b"moments")
    (path / STATE).write_text(json.dumps({"sha256": checkpoint_hashes(path)}))
    return path


def damaged(path):
    (path / "optimizer.pt").write_bytes(b"momen")


def without_state(path):
    (path / STATE).unlink()


def torn_state(path):
    (path / STATE).write_text('{"sha256": {"opt')


@pytest.mark.parametrize("harm", [damaged, without_state, torn_state])
def test_a_checkpoint_that_a_kill_left_half_written_is_passed_over_and_removed(tmp_path, harm, caplog):
    whole, newest = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)
    assert latest_whole(tmp_path) == newest
    harm(newest)
    assert latest_whole(tmp_path) == whole
    assert not newest.exists()
    assert "half written or damaged" in caplog.text
    assert latest_whole(tmp_path / "nothing") is None


def test_an_experiment_file_asks_trl_only_for_what_it_does():
    base = {"loss": "rl", "steps": 1, "engine": "trl"}
    assert TrainingSettings(**base, engine_options={"use_vllm": True}).engine_options == {"use_vllm": True}
    for changes, reason in [
        ({"loss": "sft"}, "engine: trl trains on rewards"),
        ({"early_stopping": {}}, "early_stopping is not offered with engine: trl"),
        ({"engine": "local", "engine_options": {"use_vllm": True}}, "engine local takes none, got use_vllm"),
        ({"engine": "tlr"}, "engine 'tlr' is not known, expected one of local, trl"),
    ]:
        with pytest.raises(ValueError, match=reason):
            TrainingSettings(**(base | changes))
