"""Two runs of one arm and seed on one machine: the same adapter and the same generations, bit for bit."""

import pytest
import torch

from polychromic.evaluation.collect import CollectionPlan, collect
from polychromic.models.loading import load_language_model
from polychromic.records import SamplingParameters
from polychromic.sampling.local import LocalSampler
from polychromic.tasks.arithmetic import ArithmeticTask
from polychromic.training.base import ArmRun
from polychromic.training.settings import DiversitySettings, TrainingSettings
from polychromic.training.trainer import train_arm


def train_and_sample(folder, tiny_settings, **adapter):
    """Bytes of the adapter's and of the generations' file."""
    model = tiny_settings.model_copy(update={"adapter": tiny_settings.adapter.model_copy(update=adapter)})
    run = ArmRun(
        experiment="twice", arm="arm", seed=3, folder=folder, task=ArithmeticTask(64, 16, 16), model=model,
        training=TrainingSettings(
            loss="rl", steps=4, prompts_per_step=4, num_samples=6, max_new_tokens=16, learning_rate=1e-2
        ),
        diversity=DiversitySettings(weight=1.0, set_size=3, baseline="fitted"),
    )  # fmt: skip
    trained = load_language_model(model, adapter=train_arm(run), trainable=False)
    ways = (SamplingParameters(max_new_tokens=16),)
    plan = CollectionPlan(
        prompts=tuple(run.task.prompts("test")[:8]),
        samples=4,
        sampling_settings=ways,
        names=("twice", 3),
        max_decode_batch=32,
    )
    collect(plan, lambda: LocalSampler(trained, 32), run.task, folder / "generations.jsonl")
    return {name: (folder / name).read_bytes() for name in ("adapter/adapter_model.safetensors", "generations.jsonl")}


@pytest.mark.parametrize("adapter", [{}, {"dropout": 0.3}])
def test_two_runs_of_one_arm_and_seed_are_bit_identical(tmp_path, tiny_settings, adapter):
    first = train_and_sample(tmp_path / "first", tiny_settings, **adapter)
    torch.manual_seed(12345)  # whatever else the process drew in between
    torch.rand(7)
    assert train_and_sample(tmp_path / "second", tiny_settings, **adapter) == first
    other = train_and_sample(tmp_path / "third", tiny_settings, **adapter | {"rank": 2})
    assert all(other[name] != content for name, content in first.items())


def test_lora_is_created_after_seeding(tiny_settings):
    """The origin created it before: two runs of one seed then started from different adapters."""
    starts = []
    for seed, before in ((5, 1), (5, 2), (6, 2)):
        torch.manual_seed(before)
        torch.rand(before)
        model = load_language_model(tiny_settings, seed=seed).model
        starts.append({name: p.clone() for name, p in model.named_parameters() if "lora_A" in name})
    first, again, other = starts
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(not torch.equal(first[name], other[name]) for name in first)
