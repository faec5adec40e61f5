"""The adapters inside the real packages of verl, SkyRL and tinker-cookbook, and the records of what they are written
against held to whatever is installed (`make integrations`)."""

import ast
import asyncio
import importlib
import importlib.util
import inspect
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from polychromic.integrations import skyrl, tinker, verl
from polychromic.integrations.answers import Answers
from polychromic.integrations.groups import Row, RowObjective, reading
from polychromic.training.settings import DiversitySettings

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("default")]

# verl's wheel brings a package `tests` of its own: nothing is taken from other files of ours.
COVERAGE = DiversitySettings(objective="coverage", set_size=2, weight=1.5)
ANSWERS = Answers(same_answer=lambda prompt, text: text)
UIDS = ["p", "q"] * 4
TEXTS = ["1", "2", "1", "x", "2", "3", "x", "3"]
REWARDS = [1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0]


def expected():
    rows = [Row(*row) for row in zip(UIDS, REWARDS, TEXTS, strict=True)]
    return RowObjective(COVERAGE, ANSWERS).advantages(rows)


def on_last_token(mask):
    rewards = torch.zeros(mask.shape)
    rewards[torch.arange(len(mask)), mask.sum(-1).long() - 1] = torch.tensor(REWARDS)
    return rewards


RECORDS = {
    "verl": {
        "trainer/ppo/core_algos.py": {
            "register_adv_est": "name_or_enum",
            "get_adv_estimator_fn": "name_or_enum",
        },
        "trainer/ppo/ray_trainer.py": {
            "compute_advantage": "data, adv_estimator, gamma, lam, num_repeat, norm_adv_by_std_in_grpo, config",
        },
        "trainer/ppo/v1/trainer_base.py": {
            "register_trainer": "name",
            "PPOTrainer._compute_advantage": "self, batch, metrics",
        },
    },
    "skyrl": {
        "backends/skyrl_train/utils/ppo_utils.py": {
            "register_advantage_estimator": "name",
            "compute_advantages_and_returns": "token_level_rewards, response_mask, index, adv_estimator, config, "
            "values, grpo_norm_by_std, gamma, lambd, kwargs",
        },
        "train/trainer.py": {"RayPPOTrainer.compute_advantages_and_returns": "self, data"},
        "train/entrypoints/main_base.py": {
            "BasePPOExp.get_trainer": "self, cfg, tracker, tokenizer, train_dataset, eval_dataset, "
            "inference_engine_client, generator, colocate_pg",
        },
    },
    "tinker_cookbook": {
        "rl/types.py": {
            "EnvGroupBuilder.make_envs": "self",
            "EnvGroupBuilder.compute_group_rewards": "self, trajectory_group, env_group",
            "EnvGroupBuilder.cleanup": "self",
            "EnvGroupBuilder.logging_tags": "self",
        },
        "rl/data_processing.py": {"compute_advantages": "trajectory_groups_P"},
    },
    "verifiers": {
        "v1/trace.py": {"Trace.reward": "self", "Trace.last_reply": "self", "Trace.has_error": "self"},
    },
    "slime": {
        "utils/types.py": {"Sample.get_reward_value": "self, args"},
        "ray/rollout.py": {"RolloutManager._post_process_rewards": "self, samples"},
        "backends/megatron_utils/loss.py": {"compute_advantages_and_returns": "args, rollout_data"},
    },
    "prime_rl": {
        "orchestrator/algo/base.py": {
            "iter_trainable_traces": "episodes",
            "Algorithm.score_group": "self, episodes",
        },
        "orchestrator/algo/routing.py": {"assign_advantages": "trace, values"},
    },
}
"""Parameters by package, file and function, as read on 26 November 2026: verl 0.9.1, skyrl 0.3.0, tinker-cookbook
0.6.1, verifiers 0.4.0, and the main branches of slime and prime-rl, which are on no package index."""


def parameters_of(file, name):
    """Returns the parameters of a function, read from its source: importing a whole trainer takes its GPU packages."""
    body = ast.parse(file.read_text()).body
    for part in name.split("."):
        found = [node for node in body if getattr(node, "name", None) == part]
        assert found, f"{file} has no {name} any more"
        body = found[-1].body
    arguments = found[-1].args
    names = [one.arg for one in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]]
    return ", ".join(names + [one.arg for one in (arguments.vararg, arguments.kwarg) if one])


@pytest.mark.parametrize("package", RECORDS)
def test_what_is_installed_has_the_signatures_that_the_adapters_are_written_against(package):
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    root = Path(spec.submodule_search_locations[0])
    for file, functions in RECORDS[package].items():
        for name, parameters in functions.items():
            assert parameters_of(root / file, name) == parameters, f"{package}/{file}: {name}"


def needs(name):
    return pytest.importorskip(name, exc_type=ImportError)


PLUGIN = """
from polychromic.integrations.verl import Answers, DiversitySettings, reading_answers, register

register(DiversitySettings(set_size=2, weight=1.5), Answers(same_answer=lambda prompt, text: text))

from verl.trainer.ppo.v1 import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

register_trainer("polychromic")(reading_answers(PPOTrainerSync))
"""


def test_verl_loads_estimator_and_trainer_from_an_external_module(tmp_path):
    needs("verl")
    (tmp_path / "my_objective.py").write_text(PLUGIN)
    command = (
        "from verl.trainer.ppo.core_algos import get_adv_estimator_fn; "
        "from verl.trainer.ppo.v1 import get_trainer_cls; "
        "print(type(get_adv_estimator_fn('polychromic')).__name__, get_trainer_cls('polychromic').__mro__[1].__name__)"
    )
    environment = os.environ | {
        "VERL_USE_EXTERNAL_MODULES": "my_objective",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["AdvantageEstimator", "PPOTrainerSync"]


def test_verls_own_computation_gives_the_advantages():
    needs("verl")
    ray_trainer = needs("verl.trainer.ppo.ray_trainer")
    from verl import DataProto

    verl.register(COVERAGE, ANSWERS, name="polychromic_test")
    mask = torch.ones(8, 3)
    mask[::2, 2] = 0
    data = DataProto.from_dict(
        {"token_level_rewards": on_last_token(mask), "response_mask": mask},
        non_tensors={"uid": np.array(UIDS, dtype=object)},
    )
    with reading(TEXTS, UIDS):
        data = ray_trainer.compute_advantage(data, "polychromic_test", config={})
    wanted = torch.tensor(expected(), dtype=torch.float32)[:, None] * mask
    torch.testing.assert_close(data.batch["advantages"], wanted, rtol=1e-6, atol=1e-6)


class Keys:
    """Holds what verl's trainer is handed of a batch: the rows' names in its store."""

    partition_id = "train"

    def __init__(self, keys):
        self.keys = keys

    def __len__(self):
        return len(self.keys)


def test_verls_trainer_shows_the_answers_to_the_estimator(monkeypatch):
    needs("verl")
    sync = needs("verl.trainer.ppo.v1.trainer_sync")
    tq = needs("transfer_queue")
    from omegaconf import OmegaConf
    from tensordict import TensorDict

    def nested(rows):
        return torch.nested.as_nested_tensor(rows, layout=torch.jagged)

    verl.register(COVERAGE, ANSWERS, name="polychromic_v1")
    mask = torch.ones(8, 2)
    stored = {
        "responses": nested([torch.tensor([ord(text), 0]) for text in TEXTS]),
        "prompts": nested([torch.tensor([ord(uid)]) for uid in UIDS]),
        "response_mask": nested(list(mask)),
        "rm_scores": nested(list(on_last_token(mask))),
        "uid": None,
    }
    written = {}
    monkeypatch.setattr(tq, "kv_batch_put", lambda keys, partition_id, fields: written.update(fields.items()))

    def get(keys, partition_id, select_fields):
        from tensordict.tensorclass import NonTensorStack

        chosen = {name: stored[name] for name in select_fields if stored.get(name) is not None}
        if "uid" in select_fields:
            chosen["uid"] = NonTensorStack(*UIDS)
        return TensorDict(chosen, batch_size=len(keys))

    monkeypatch.setattr(tq, "kv_batch_get", get)
    trainer = object.__new__(verl.reading_answers(sync.PPOTrainerSync))
    trainer.tokenizer = SimpleNamespace(
        decode=lambda ids, skip_special_tokens: "".join(chr(int(one)) for one in ids if int(one))
    )
    trainer.config = OmegaConf.create(
        {
            "algorithm": {
                "adv_estimator": "polychromic_v1",
                "gamma": 1.0,
                "lam": 1.0,
                "use_kl_in_reward": False,
            },
            "actor_rollout_ref": {"actor": {"loss_agg_mode": "seq-mean-token-sum"}, "rollout": {"n": 4}},
        }
    )
    metrics = {}
    trainer._compute_advantage(Keys([f"{uid}_{index}_0" for index, uid in enumerate(UIDS)]), metrics)
    advantages = torch.stack(list(written["advantages"].unbind()))
    wanted = torch.tensor(expected(), dtype=torch.float32)[:, None].expand(8, 2)
    torch.testing.assert_close(advantages, wanted, rtol=1e-6, atol=1e-6)
    assert metrics["groups/clusters"] == 3.0


@pytest.fixture
def skyrl_utils(monkeypatch):
    """SkyRL's real estimators; its packages above them import all backends, one of which takes Python 3.12."""
    root = Path(needs("skyrl").__file__).parent
    monkeypatch.syspath_prepend(str(root.parent / "skyrl-gym"))
    backends = ModuleType("skyrl.backends")
    backends.__path__ = [str(root / "backends")]
    monkeypatch.setitem(sys.modules, "skyrl.backends", backends)
    return needs("skyrl.backends.skyrl_train.utils.ppo_utils")


def test_skyrls_own_computation_gives_the_advantages(skyrl_utils):
    skyrl.register(COVERAGE, ANSWERS, name="polychromic_test")
    mask = torch.ones(8, 3)
    mask[::2, 0] = 0
    rewards = torch.zeros_like(mask)
    rewards[:, -1] = torch.tensor(REWARDS)
    with reading([*TEXTS, "", ""], [*UIDS, "", ""]) as given:
        advantages, _ = skyrl_utils.compute_advantages_and_returns(
            torch.cat([rewards, torch.zeros(2, 3)]), torch.cat([mask, torch.ones(2, 3)]), [*UIDS, "pad0", "pad1"],
            "polychromic_test", config=None,
        )  # fmt: skip
    wanted = torch.tensor(expected(), dtype=torch.float32)[:, None] * mask
    torch.testing.assert_close(advantages, torch.cat([wanted, torch.zeros(2, 3)]), rtol=1e-6, atol=1e-6)
    assert given.metrics["groups/clusters"] == 3.0


def test_skyrls_registry_takes_the_estimator_to_other_processes(skyrl_utils):
    """It pickles functions by value: what arrives still sees the answers of the process that it is in."""
    import cloudpickle

    skyrl.register(COVERAGE, ANSWERS, name="polychromic_pickled")
    kept = skyrl_utils.AdvantageEstimatorRegistry._functions["polychromic_pickled"]
    arrived = cloudpickle.loads(cloudpickle.dumps(kept))
    mask = torch.ones(8, 1)
    with reading(TEXTS, UIDS):
        advantages, _ = arrived(token_level_rewards=on_last_token(mask), response_mask=mask, index=UIDS)
    np.testing.assert_allclose(advantages[:, 0].numpy(), expected(), rtol=1e-6)


def test_tinkers_own_rollout_and_centring_give_the_advantages():
    types = needs("tinker_cookbook.rl.types")
    processing = needs("tinker_cookbook.rl.data_processing")
    settings = DiversitySettings(objective="polychromic", set_size=2, weight=1.5)

    class Graded(types.EnvGroupBuilder):
        async def make_envs(self):
            return []

        async def compute_group_rewards(self, trajectory_group, env_group):
            return [(0.5, {}) for _ in trajectory_group]

    def trajectory(text, reward):
        step = SimpleNamespace(reward=reward, text=text)
        return SimpleNamespace(transitions=[step])

    rewards, texts = [0.5, 0.5, 0.0, 0.5], ["1", "2", "2", "3"]
    group = [trajectory(text, reward) for text, reward in zip(texts, rewards, strict=True)]
    objective = tinker.set_objective(settings, ANSWERS)
    builder = tinker.SetRewards(Graded(), objective, lambda one: one.transitions[-1].text)
    finals = asyncio.run(builder.compute_group_rewards(group, []))
    trajectories = types.TrajectoryGroup(group, [final for final, _ in finals], [metrics for _, metrics in finals])
    (advantages,) = processing.compute_advantages([trajectories])
    rows = [Row("", reward + 0.5, text) for reward, text in zip(rewards, texts, strict=True)]
    np.testing.assert_allclose(advantages.numpy(), RowObjective(settings, ANSWERS).advantages(rows), atol=1e-6)
    asked = {name for name in vars(types.EnvGroupBuilder) if not name.startswith("_")}
    assert asked <= set(dir(tinker.SetRewards)), "a builder is asked for more than SetRewards passes on"
    for name in asked:
        theirs, ours = getattr(types.EnvGroupBuilder, name), getattr(tinker.SetRewards, name)
        assert inspect.iscoroutinefunction(theirs) == inspect.iscoroutinefunction(ours), name
