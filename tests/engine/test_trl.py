"""Set objectives inside TRL's real trainer: its advantages and gradients are ours, in one process and in two."""

import ast
import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("trl")

from tests.engine.trl_runs import (
    ANSWERS,
    PROMPTS,
    REWARDS,
    TEXTS,
    GRPOConfig,
    GRPOTrainer,
    N,
    build,
    config,
    give_completions,
    language_model,
    one_update,
    quality,
)

from polychromic.errors import ConfigError, TrainingError
from polychromic.integrations.sets import SetObjective
from polychromic.integrations.trl import Answers, SetGRPOTrainer, group_reward, watch_diversity
from polychromic.objective import OBJECTIVES, set_advantages
from polychromic.training.settings import DiversitySettings

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("default")]


def distances(texts):
    lengths = np.array([len(text) for text in texts], dtype=float)
    return np.minimum(np.abs(lengths[:, None] - lengths[None]) / 10, 1.0)


def expected(settings, coefficients=None):
    """Advantages [P, N] by `set_advantages` alone."""
    rewards = np.array([[REWARDS.get(text, 0.0) for text in TEXTS[prompt]] for prompt in PROMPTS])
    clusters = [list(TEXTS[prompt]) for prompt in PROMPTS]
    codes = np.array([[sorted(set(group)).index(text) for text in group] for group in clusters])
    spread = np.stack([distances(group) for group in clusters])
    passing = (rewards >= 0.7).astype(float)
    reads = OBJECTIVES[settings.objective].reads
    inputs = {"rewards": passing if "passing" in reads else rewards, "clusters": codes, "distances": spread}
    if "gates" in reads:
        inputs["gates"] = rewards
    diversity = set_advantages(
        settings.objective, settings.set_size, baseline=settings.baseline, coefficients=coefficients, **inputs
    )
    return set_advantages("reward", 1, rewards=rewards) + settings.weight * diversity


def test_what_pyright_is_told_of_trl_is_there():
    """typings/trl stands for TRL's own annotations; a name that TRL no longer has would pass every check of types."""
    tree = ast.parse((Path(__file__).parents[2] / "typings" / "trl" / "__init__.pyi").read_text(encoding="utf-8"))
    fields = {field.name for field in dataclasses.fields(GRPOConfig)}
    source = "".join(inspect.getsource(kind) for kind in GRPOTrainer.__mro__ if "Trainer" in kind.__name__)
    for kind in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for part in kind.body:
            if isinstance(part, ast.FunctionDef):
                assert hasattr(GRPOTrainer, part.name)
            elif kind.name == "GRPOConfig":
                assert part.target.id in fields
            else:
                assert f"self.{part.target.id} = " in source


def sampled(trainer):
    """Returns the advantages [P, N] that TRL would train on."""
    trainer.model.train()
    inputs = [{"prompt": prompt} for prompt in PROMPTS for _ in range(N)]
    return trainer._generate_and_score_completions(inputs)["advantages"].reshape(len(PROMPTS), N).numpy()


@pytest.fixture(scope="module")
def model():
    return language_model()


@pytest.fixture(scope="module")
def set_trainer(model, tmp_path_factory):
    trainer = build(
        SetGRPOTrainer, config(tmp_path_factory.mktemp("trl")), model=model,
        diversity=DiversitySettings(weight=1.0, set_size=2), answers=ANSWERS,
    )  # fmt: skip
    give_completions(trainer, model.tokenizer)
    return trainer


WITH_DISTANCES = Answers(same_answer=lambda prompt, text: text, distance=distances, pass_threshold=0.7)


@pytest.mark.parametrize("baseline", ["leave_one_out", "leave_one_out_minus_one", "none"])
@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_the_trainer_gives_the_advantages_of_every_objective_and_baseline(set_trainer, objective, baseline):
    settings = DiversitySettings(objective=objective, set_size=2, weight=1.5, baseline=baseline)
    set_trainer.sets = SetObjective(settings, WITH_DISTANCES)
    np.testing.assert_allclose(sampled(set_trainer) / N, expected(settings), atol=1e-6)


def test_a_fitted_baseline_that_has_learnt_gives_its_own_advantages(set_trainer):
    settings = DiversitySettings(objective="coverage", set_size=2, weight=1.5, baseline="fitted")
    set_trainer.sets = SetObjective(settings, WITH_DISTANCES)
    mixes = []
    for _ in range(8):
        mixes.append(set_trainer.sets.fitted.coefficients)
        np.testing.assert_allclose(sampled(set_trainer) / N, expected(settings, mixes[-1]), atol=1e-6)
    assert mixes[0] != mixes[-1]


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_a_reward_function_gives_an_unmodified_trainer_the_same_advantages(model, tmp_path, objective):
    settings = DiversitySettings(objective=objective, set_size=2, weight=1.5)
    args = config(tmp_path)
    trainer = build(GRPOTrainer, args, group_reward(args, quality, settings, WITH_DISTANCES), model)
    give_completions(trainer, model.tokenizer)
    np.testing.assert_allclose(sampled(trainer) / N, expected(settings), atol=1e-6)


@pytest.fixture(scope="module")
def of_one_process(tmp_path_factory):
    """Gradient and metrics of one update, by how the objective comes in."""
    folder = tmp_path_factory.mktemp("one")
    return {how: one_update(how, 1, folder) for how in ("reward", "trainer", "watch")}


def test_the_gradient_is_that_of_the_sum_of_log_probabilities(of_one_process):
    """∇J / max_completion_length = Σ A ∇log π / (prompts · max_completion_length), computed by hand."""
    settings = DiversitySettings(objective="coverage", set_size=2, weight=1.5)
    loaded, total = language_model(), 0.0
    stop = loaded.tokenizer.eos_token_id
    for prompt, advantages_N in zip(PROMPTS, expected(settings), strict=True):
        ids = loaded.tokenizer(prompt)["input_ids"]
        for text, advantage in zip(TEXTS[prompt], advantages_N.tolist(), strict=True):
            answer = [*loaded.tokenizer(text, add_special_tokens=False)["input_ids"], stop]
            logits = loaded.model(torch.tensor([ids + answer])).logits[0, len(ids) - 1 : -1]
            logprobs = logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None])
            total = total - advantage * logprobs.sum() / len(PROMPTS) / 12
    total.backward()
    by_hand = torch.cat([p.grad.flatten() for p in loaded.model.parameters() if p.requires_grad])
    for how in ("reward", "trainer"):
        gradient, _ = of_one_process[how]
        assert float((gradient - by_hand).abs().max()) < 1e-5 * float(by_hand.abs().max()), how


def test_the_measured_parts_add_up_to_the_gradient(of_one_process):
    gradient, logged = of_one_process["trainer"]
    quality_norm, diversity_norm = (
        logged["train/quality_gradient_norm"],
        logged["train/diversity_gradient_norm"],
    )
    squared = quality_norm**2 + diversity_norm**2 + 2 * logged["train/gradient_cosine"] * quality_norm * diversity_norm
    assert squared**0.5 == pytest.approx(float(gradient.norm()), rel=1e-4)
    assert logged["train/diversity_gradient_share"] == pytest.approx(diversity_norm / (quality_norm + diversity_norm))
    assert logged["train/reward"] == pytest.approx(np.mean([REWARDS.get(t, 0.0) for g in TEXTS.values() for t in g]))


@pytest.mark.parametrize("how", ["reward", "trainer", "watch"])
def test_two_processes_give_the_gradient_of_one(of_one_process, tmp_path, how):
    """Six rows on each: the middle prompt's group lies on both."""
    file = tmp_path / "found.pt"
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    launch += [
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "localhost:0",
        "-m",
        "tests.engine.trl_runs",
        how,
        str(file),
    ]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (gradient, logged), (alone, logged_alone) = torch.load(file, weights_only=False), of_one_process[how]
    assert float((gradient - alone).abs().max()) < 1e-5 * float(alone.abs().max())
    ours = [key for key in logged_alone if key.startswith(("train/", "watch/", "groups/")) and key != "train_loss"]
    assert ours
    for key in ours:
        assert logged[key] == pytest.approx(logged_alone[key], rel=1e-4, abs=1e-6), key


def by_length(completions, **_columns):
    return [float(len(text) % 3 == 0) for text in completions]


def always(completions, **_columns):
    return [1.0] * len(completions)


def test_a_watched_run_trains_as_it_would_alone(tmp_path):
    weights = []
    for watched in (False, True):
        loaded = language_model()
        args = config(tmp_path, max_steps=2, loss_type="dapo", scale_rewards="group")
        trainer = build(GRPOTrainer, args, by_length, loaded)
        if watched:
            watch = watch_diversity(trainer, ANSWERS, gradient_share_every=1, folder=tmp_path / "watched")
        trainer.train()
        weights.append(torch.cat([p.detach().flatten().clone() for p in loaded.model.parameters() if p.requires_grad]))
    assert torch.equal(*weights)
    assert [row["step"] for row in watch.rows] == [1, 2]
    assert 0 < watch.rows[0]["watch/diversity_gradient_share"] < 1
    assert watch.rows[0]["groups/clusters"] > 1
    assert "train/diversity_weight" not in watch.rows[0]
    assert len((tmp_path / "watched" / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_watch_says_what_diagnose_finds(tmp_path, caplog):
    loaded = language_model()
    trainer = build(GRPOTrainer, config(tmp_path, max_steps=21, learning_rate=0.0), always, loaded)
    watch = watch_diversity(trainer, ANSWERS, gradient_share_every=0)
    give_completions(trainer, loaded.tokenizer)
    trainer.train()
    kinds = [finding.kind for finding in watch.findings]
    assert kinds[0] == "checker-passes-everything"
    assert "reward-without-signal" in kinds
    assert sum("checker-passes-everything" in record.message for record in caplog.records) == 1


def test_a_share_is_followed_and_a_checkpoint_goes_on_from_it(tmp_path):
    settings = DiversitySettings(objective="coverage", set_size=2, weight="auto", mode="share", target_share=0.5)

    def trainer(steps):
        loaded = language_model()
        built = build(
            SetGRPOTrainer, config(tmp_path, max_steps=steps, save_strategy="steps", save_steps=2), model=loaded,
            diversity=settings, answers=ANSWERS, gradient_share_every=1,
        )  # fmt: skip
        give_completions(built, loaded.tokenizer)
        return built

    whole = trainer(4)
    whole.train()
    again = trainer(4)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert again.sets.controller == whole.sets.controller
    shares = [row["train/diversity_gradient_share"] for row in whole.state.log_history if "grad_norm" in row]
    assert abs(shares[-1] - 0.5) < abs(shares[0] - 0.5)
    assert whole.sets.controller.weight != 1.0


def test_a_term_without_any_gradient_stops_training(tmp_path):
    loaded = language_model()
    settings = DiversitySettings(set_size=2, weight=1.0, max_zero_gradient_steps=2)
    trainer = build(SetGRPOTrainer, config(tmp_path, max_steps=5), model=loaded, diversity=settings, answers=ANSWERS)
    give_completions(trainer, loaded.tokenizer, dict.fromkeys(PROMPTS, ("1+1",) * N))
    with pytest.raises(TrainingError, match="no gradient for 2 diversity steps in a row: all generations"):
        trainer.train()
    assert trainer.state.global_step == 1


@pytest.mark.parametrize(
    ("changes", "settings", "reason"),
    [
        ({"loss_type": "grpo"}, {}, "a token of a long answer counts less"),
        ({}, {"set_size": N}, "num_generations is 4, but sets of 4 with baseline leave_one_out need 5"),
        ({"steps_per_generation": 1, "gradient_accumulation_steps": 2}, {}, "an update needs whole groups"),
    ],
)
def test_what_the_trainer_cannot_do_is_refused(model, tmp_path, changes, settings, reason):
    with pytest.raises(ConfigError, match=reason):
        build(
            SetGRPOTrainer, config(tmp_path, **changes), model=model,
            diversity=DiversitySettings(**{"weight": 1.0, "set_size": 2} | settings),
        )  # fmt: skip
