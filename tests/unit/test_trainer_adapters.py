"""The adapters for verl, SkyRL, tinker-cookbook, slime and prime-rl against what each of them calls.

Here stand-ins have the recorded signatures; `make integrations` holds the same records to the real packages.
"""

import asyncio
import inspect
import pickle
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from polychromic.errors import ConfigError, DataError
from polychromic.integrations import prime_rl, skyrl, slime, tinker, verl
from polychromic.integrations.answers import Answers
from polychromic.integrations.groups import Row, RowObjective
from polychromic.training.settings import DiversitySettings

COVERAGE = DiversitySettings(objective="coverage", set_size=2, weight=1.5)
TEXTS = ["1", "2", "1", "x", "2", "3", "x", "3"]
REWARDS = [1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0]
UIDS = ["p", "q", "p", "q", "p", "q", "p", "q"]


def label(prompt, text):
    return text


ANSWERS = Answers(same_answer=label)


def expected(settings=COVERAGE, texts=TEXTS):
    rows = [Row(uid, reward, text) for uid, reward, text in zip(UIDS, REWARDS, texts, strict=True)]
    return RowObjective(settings, ANSWERS).advantages(rows)


class Characters:
    """A tokenizer of characters, 0 being padding."""

    def decode(self, ids, skip_special_tokens=False):
        assert skip_special_tokens
        return "".join(chr(int(one)) for one in ids if int(one))


def on_last_token(mask):
    rewards = torch.zeros(mask.shape, dtype=torch.float32)
    rewards[torch.arange(len(mask)), mask.sum(-1).long() - 1] = torch.tensor(REWARDS)
    return rewards


@pytest.fixture
def module(monkeypatch):
    """Puts a module of some attributes where an absent package has it."""

    def put(name, **attributes):
        for parent in [name.rsplit(".", cut)[0] for cut in range(name.count("."), 0, -1)]:
            if parent not in sys.modules:
                monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
        one = ModuleType(name)
        vars(one).update(attributes)
        monkeypatch.setitem(sys.modules, name, one)
        parent, _, last = name.rpartition(".")
        if parent:
            monkeypatch.setattr(sys.modules[parent], last, one, raising=False)
        return one

    return put


def registry():
    kept = {}
    return kept, lambda name: lambda function: kept.setdefault(name, function)


def test_verl_gets_the_advantages_and_its_trainer_shows_the_answers(module):
    kept, register_adv_est = registry()
    module("verl.trainer.ppo.core_algos", register_adv_est=register_adv_est)
    fields = {
        name: torch.nested.nested_tensor([torch.tensor([ord(c) for c in text]) for text in texts], layout=torch.jagged)
        for name, texts in {"responses": TEXTS, "prompts": UIDS}.items()
    }
    asked = []
    module("transfer_queue", kv_batch_get=lambda **keys: asked.append(keys) or fields)
    verl.register(COVERAGE, ANSWERS)
    mask = torch.ones(8, 2)

    class Trainer:
        """Does what verl 0.9's PPOTrainer does between the reward and the loss."""

        config = SimpleNamespace(
            actor_rollout_ref=SimpleNamespace(actor=SimpleNamespace(loss_agg_mode="seq-mean-token-sum")),
            algorithm=SimpleNamespace(use_kl_in_reward=False),
        )
        tokenizer = Characters()

        def _compute_advantage(self, batch, metrics):
            self.advantages, _ = kept["polychromic"](
                token_level_rewards=on_last_token(mask), response_mask=mask, config=None, index=np.array(UIDS)
            )
            return batch

    trainer, metrics = verl.reading_answers(Trainer)(), {}
    batch = SimpleNamespace(keys=["k"], partition_id="train")
    assert trainer._compute_advantage(batch, metrics) is batch
    np.testing.assert_allclose(trainer.advantages[:, 0].numpy(), expected(), rtol=1e-6)
    np.testing.assert_array_equal(trainer.advantages[:, 0], trainer.advantages[:, 1])
    assert metrics["groups/clusters"] == 3.0
    assert asked == [{"keys": ["k"], "partition_id": "train", "select_fields": ["prompts", "responses"]}]
    with pytest.raises(ConfigError, match="sees only rewards"):
        Trainer()._compute_advantage(batch, {})
    Trainer.config.actor_rollout_ref.actor.loss_agg_mode = "token-mean"
    Trainer.config.algorithm.use_kl_in_reward = True
    with pytest.raises(ConfigError, match=r"loss_agg_mode='token-mean' divides by lengths.*use_kl_in_reward changes"):
        trainer._compute_advantage(batch, {})


def left_padded():
    """Makes rows as SkyRL does: [padding] prompt answer, and the answer's mask in the last columns."""
    rows = [
        [ord(c) for c in uid + text + ("!" if index % 2 else "")]
        for index, (uid, text) in enumerate(zip(UIDS, TEXTS, strict=True))
    ]
    sequences = torch.tensor([[0] * (3 - len(row)) + row for row in rows])
    response_mask = torch.tensor([[float(index % 2), 1.0] for index in range(len(rows))])
    return sequences, response_mask


def skyrl_cfg(loss_reduction="seq_mean_token_sum_norm", normalize=False, step_wise=False):
    algorithm = SimpleNamespace(
        loss_reduction=loss_reduction, advantage_batch_normalize=normalize, use_kl_in_reward=normalize
    )
    return SimpleNamespace(
        trainer=SimpleNamespace(algorithm=algorithm),
        generator=SimpleNamespace(step_wise_trajectories=step_wise),
    )


def test_skyrl_gets_the_advantages_and_its_trainer_shows_the_answers(module):
    kept, register_advantage_estimator = registry()
    module(
        "skyrl.backends.skyrl_train.utils.ppo_utils",
        register_advantage_estimator=register_advantage_estimator,
    )
    skyrl.register(COVERAGE, ANSWERS)
    sequences, response_mask = left_padded()
    data = {"sequences": sequences, "attention_mask": (sequences > 0).long(), "response_mask": response_mask}

    class Trainer:
        tokenizer = Characters()

        def __init__(self):
            self.cfg, self.all_metrics = skyrl_cfg(), {}

        def compute_advantages_and_returns(self, data):
            data["advantages"], _ = kept["polychromic"](
                token_level_rewards=torch.tensor(REWARDS)[:, None] * torch.tensor([0.0, 1.0]),
                response_mask=data["response_mask"], index=UIDS, values=None, grpo_norm_by_std=True, gamma=1.0,
                lambd=1.0, config=None,
            )  # fmt: skip
            return data

    trainer = skyrl.reading_answers(Trainer)()
    advantages = trainer.compute_advantages_and_returns(data)["advantages"]
    texts = [text + ("!" if index % 2 else "") for index, text in enumerate(TEXTS)]
    np.testing.assert_allclose(advantages[:, 1].numpy(), expected(texts=texts), rtol=1e-6)
    np.testing.assert_array_equal(advantages[:, 0], advantages[:, 1] * response_mask[:, 0])
    assert trainer.all_metrics["groups/diversity_signal"] == 1.0
    assert skyrl._texts(Characters(), data) == (texts, UIDS)
    trainer.cfg = skyrl_cfg("token_mean", normalize=True, step_wise=True)
    with pytest.raises(
        ConfigError,
        match=r"loss_reduction='token_mean' .*advantage_batch_normalize .*use_kl_in_reward.*several rows",
    ):
        trainer.compute_advantages_and_returns(data)


def trajectory(text, *rewards):
    return SimpleNamespace(text=text, transitions=[SimpleNamespace(reward=reward) for reward in rewards])


def text_of(one):
    return one.text


class Builder:
    async def make_envs(self):
        return ["env"] * 4

    async def compute_group_rewards(self, trajectory_group, env_group):
        return [(0.5 if one.text == "1" else 0.0, {"graded": 1.0}) for one in trajectory_group]

    async def cleanup(self):
        self.cleaned = True

    def logging_tags(self):
        return ["tag"]


@pytest.mark.parametrize("objective", ["coverage", "pass_at_k", "polychromic"])
def test_tinkers_centred_totals_are_the_advantages(objective):
    settings = DiversitySettings(objective=objective, set_size=2, weight=2.0)
    rewards = tinker.set_objective(settings, ANSWERS)
    builder = pickle.loads(pickle.dumps(tinker.SetRewards(Builder(), rewards, text_of)))
    group = [
        trajectory("1", 0.25, 0.25),
        trajectory("2", 0.5, 0.5),
        trajectory("2", 0.0),
        trajectory("3", 1.0),
    ]
    envs = asyncio.run(builder.make_envs())
    finals = asyncio.run(builder.compute_group_rewards(group, envs))
    totals = np.array([sum(step.reward for step in one.transitions) for one in group])
    totals += [final for final, _ in finals]
    quality = [1.0, 1.0, 0.0, 1.0]
    rows = [Row("", reward, one.text) for reward, one in zip(quality, group, strict=True)]
    np.testing.assert_allclose(totals - totals.mean(), RowObjective(settings, ANSWERS).advantages(rows), atol=1e-12)
    assert [metrics["quality"] for _, metrics in finals] == quality
    assert all(metrics["graded"] == 1.0 for _, metrics in finals)
    asyncio.run(builder.cleanup())
    assert builder.builder.cleaned
    assert builder.logging_tags() == ["tag"]


def slime_args(**changes):
    values = {
        "normalize_advantages": False, "custom_pg_loss_reducer_function_path": "a.reducer", "kl_coef": 0.0,
        "reward_key": None,
    }  # fmt: skip
    return SimpleNamespace(**(values | changes))


class Sample:
    """Stands for slime's Sample, as far as it is read."""

    def __init__(self, group, reward, response, *, remove_sample=False):
        self.group_index, self.reward, self.response = group, reward, response
        self.prompt, self.label, self.metadata, self.remove_sample = "a question", "42", {}, remove_sample

    def get_reward_value(self, args):
        return self.reward if not args.reward_key else self.reward[args.reward_key]


def test_slime_gets_rewards_that_are_the_advantages_of_every_token():
    seen = []
    answers = Answers(same_answer=lambda prompt, text: seen.append((prompt.text, prompt.meta["label"])) or text)
    samples = [Sample(uid, reward, text) for uid, reward, text in zip(UIDS, REWARDS, TEXTS, strict=True)]
    raw, rewards = slime.reward_post_process(COVERAGE, answers)(slime_args(), samples)
    assert raw == REWARDS
    np.testing.assert_allclose(rewards, expected(), atol=1e-12)
    assert set(seen) == {("a question", "42")}
    data = {"kl": [torch.zeros(2), torch.zeros(3)], "rewards": rewards[:2]}
    slime.spread(slime_args(), data)
    assert [one.tolist() for one in data["advantages"]] == [
        pytest.approx([rewards[0]] * 2), pytest.approx([rewards[1]] * 3)
    ]  # fmt: skip
    assert data["returns"] is data["advantages"]


def test_a_sample_of_slime_without_a_group_is_refused():
    with pytest.raises(DataError, match="no group_index"):
        slime.reward_post_process(COVERAGE, ANSWERS)(slime_args(), [Sample(None, 1.0, "1")] * 4)


def test_what_slime_takes_out_is_in_no_set():
    samples = [Sample("p", 1.0, text) for text in "1223"]
    kept = slime.reward_post_process(COVERAGE, ANSWERS)(slime_args(), samples)[1]
    out = [*samples, Sample("p", 1.0, "4", remove_sample=True)]
    rewards = slime.reward_post_process(COVERAGE, ANSWERS)(slime_args(), out)[1]
    assert rewards[-1] == 0.0
    np.testing.assert_allclose(np.array(rewards[:-1]) / 5, np.array(kept) / 4, atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"normalize_advantages": True},
            "--normalize-advantages divides set advantages by their standard deviation",
        ),
        ({"custom_pg_loss_reducer_function_path": None}, "slime's loss divides by lengths"),
        ({"kl_coef": 0.1}, "--kl-coef changes rewards of tokens"),
    ],
)
def test_settings_of_slime_that_would_bias_are_refused(changes, reason):
    with pytest.raises(ConfigError, match=reason):
        slime.reward_post_process(COVERAGE, ANSWERS)(slime_args(**changes), [])
    with pytest.raises(ConfigError, match=reason):
        slime.spread(slime_args(**changes), {})


def test_prime_rl_gets_the_advantages_of_the_traces_that_it_trains_on(module):
    class Algorithm:
        def __init__(self, config, clients):
            self.clients = clients

    def iter_trainable_traces(episodes):
        for episode in episodes:
            yield from ((episode, trace) for trace in episode.traces if not trace.has_error)

    given = {}
    module("prime_rl.orchestrator.algo.base", Algorithm=Algorithm, iter_trainable_traces=iter_trainable_traces)
    module(
        "prime_rl.orchestrator.algo.routing",
        assign_advantages=lambda trace, values: given.update({trace.id: values}),
    )
    traces = [
        SimpleNamespace(
            id=index,
            reward=reward,
            last_reply=text,
            has_error=index == 4,
            task=SimpleNamespace(data={"answer": "7"}),
        )
        for index, (reward, text) in enumerate(zip(REWARDS[:5], TEXTS[:5], strict=True))
    ]
    seen = []
    answers = Answers(same_answer=lambda prompt, text: seen.append(prompt.meta["task"]["answer"]) or text)
    algorithm = prime_rl.set_algorithm(COVERAGE, answers)("config", "clients")
    asyncio.run(algorithm.score_group([SimpleNamespace(traces=[one]) for one in traces]))
    rows = [Row("", one.reward, one.last_reply) for one in traces[:4]]
    assert list(given) == [0, 1, 2, 3]
    assert all(isinstance(value, float) for value in given.values())
    np.testing.assert_allclose(list(given.values()), RowObjective(COVERAGE, ANSWERS).advantages(rows), atol=1e-12)
    assert set(seen) == {"7"}
    assert algorithm.clients == "clients"
    assert inspect.iscoroutinefunction(algorithm.score_group)


ALONE = """
import sys
for name in ("transformers", "peft", "accelerate", "datasets", "tokenizers", "sentence_transformers", "sklearn", "trl",
             "omegaconf", "matplotlib", "rich", "typer", "pyarrow", "rapidfuzz", "gguf", "jinja2"):
    sys.modules[name] = None  # an import of it fails
from polychromic.integrations import prime_rl, skyrl, slime, tinker, verl
from polychromic.integrations.groups import Row, RowObjective
settings = verl.DiversitySettings(objective="coverage", set_size=2, weight=1.0)
rows = [Row("p", 1.0, text) for text in "aab"]
print(RowObjective(settings, verl.Answers()).advantages(rows).round(9).tolist())
"""


def test_adapters_work_where_versions_of_transformers_and_peft_are_another_trainers():
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    # Two of the three pairs have two answers: the rare one is in both, so its mean of 1 stands against one of 1/2.
    assert done.stdout.strip() == "[-0.5, -0.5, 1.0]"
