"""Data parallel training, threads standing for processes: the gradient, metrics and decisions of one process."""

import dataclasses
import math
import multiprocessing

import pytest
import torch
from torch import distributed

from polychromic.errors import ConfigError
from polychromic.models.settings import AdapterSettings
from polychromic.records import Prompt, as_messages
from polychromic.sampling.base import SamplerSettings
from polychromic.sampling.local import LocalSampler
from polychromic.tasks.arithmetic import ArithmeticTask
from polychromic.training.base import ArmRun
from polychromic.training.parallel import Processes
from polychromic.training.settings import DiversitySettings, TrainingSettings
from polychromic.training.trainer import ArmTrainer


class WithReferences(ArithmeticTask):
    def prompts(self, split):
        answers = ("(1+2)*3-4", "1*2*3*4", "3+4-2")
        return [
            Prompt(
                f"{split}-{i}",
                as_messages(f"1,2,3,{i}=5:"),
                answers[: 1 + i % 3],
                {"numbers": [1, 2, 3, i], "target": 5},
            )
            for i in range(8)
        ]


def arm(folder, tiny_settings, loss, diversity, **training):
    settings = TrainingSettings(
        loss=loss, steps=2, prompts_per_step=5, num_samples=4, max_new_tokens=12, learning_rate=1e-3,
        gradient_share_every=2, **training,
    )  # fmt: skip
    return ArmRun(
        experiment="parallel", arm="arm", seed=0, folder=folder, task=WithReferences(16, 16, 16),
        model=tiny_settings.model_copy(update={"adapter": AdapterSettings(rank=2, alpha=4)}),
        training=settings,
        diversity=DiversitySettings(**{"set_size": 2, "num_samples": 4, "num_prompts": 3} | diversity),
    )  # fmt: skip


def steps_made(run, processes):
    """Makes the run's steps and returns each one's gradient before clipping, and its metrics without times."""
    trainer = ArmTrainer(run, processes)
    gradients, metrics = [], []
    make = trainer.maker.make

    def keep(*arguments, **keys):
        outcome = make(*arguments, **keys)
        gradients.append(torch.cat([p.grad.flatten().clone() for p in trainer.parameters if p.grad is not None]))
        return outcome

    trainer.maker.make = keep
    while not trainer.finished:
        row = trainer.step()
        metrics.append({key: value for key, value in row.items() if not key.startswith("time/")})
    trainer.save_adapter()
    return gradients, metrics


CASES = {
    "references": ("sft", {"weight": 0.7, "objective": "coverage", "sample_every": 1}, {}),
    "references, a gated distance": ("sft", {"weight": 2.0, "objective": "distance", "sample_every": 1}, {}),
    "a reward with KL and a fitted baseline": ("rl", {"weight": 1.0, "baseline": "fitted"}, {"kl_weight": 0.1}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_two_processes_make_the_steps_of_one(tmp_path, tiny_settings, on_threads, case, monkeypatch):
    loss, diversity, training = CASES[case]
    whole, metrics = steps_made(arm(tmp_path / "one", tiny_settings, loss, diversity, **training), Processes())
    sampled = []
    sample = LocalSampler.sample
    monkeypatch.setattr(
        LocalSampler,
        "sample",
        lambda self, prompts, *others: sampled.append([one.id for one in prompts]) or sample(self, prompts, *others),
    )
    run = arm(tmp_path / "two", tiny_settings, loss, diversity, **training)
    results = on_threads(2, lambda processes: steps_made(run, processes))

    assert all(float(one.norm()) > 0 for one in whole)
    for gradients, shared in results:
        for one, other in zip(whole, gradients, strict=True):
            assert float((one - other).abs().max()) < 1e-5 * float(one.abs().max())
        for row, expected in zip(shared, metrics, strict=True):
            assert row.keys() == expected.keys()
            for key, value in expected.items():
                assert row[key] == pytest.approx(value, rel=1e-3, abs=1e-6, nan_ok=True), key
    # Both sampled, and no prompt of a step was sampled by both.
    per_step = 3 if loss == "sft" else 5
    assert sum(map(len, sampled)) == 2 * per_step
    assert {len(ids) for ids in sampled} == {per_step // 2, per_step - per_step // 2}
    assert len({*sampled[0], *sampled[1]}) == per_step


def test_a_process_without_a_prompt_of_the_diversity_term_makes_the_step_too(tmp_path, tiny_settings, on_threads):
    """Past bug: with fewer sampled prompts than processes those without any ended with a ValueError of `range`."""

    def steps(processes):
        run = arm(tmp_path / f"of-{processes.size}", tiny_settings, "sft", {"weight": 2.0, "num_prompts": 1})
        sampling = SamplerSettings(importance_correction="truncated", importance_level="group")
        return steps_made(dataclasses.replace(run, sampling=sampling), processes)[0]

    whole = steps(Processes())
    for gradients in on_threads(2, steps):
        for one, other in zip(whole, gradients, strict=True):
            assert float((one - other).abs().max()) < 1e-5 * float(one.abs().max())


@pytest.mark.slow
def test_two_processes_make_the_step_of_one_in_bfloat16(tmp_path, tiny_settings, on_threads):
    """As near as its eight bits allow: a batch of other sequences rounds otherwise."""
    half = tiny_settings.model_copy(update={"dtype": "bfloat16"})

    def gradient(processes):
        run = arm(tmp_path / f"of-{processes.size}", half, "sft", {"weight": 0.0})
        first = dataclasses.replace(run, training=run.training.model_copy(update={"steps": 1}))
        return steps_made(first, processes)[0][0]

    whole = gradient(Processes())
    assert float(whole.norm()) > 0
    assert whole.dtype == torch.float32  # the adapter's, whatever the model's
    for one in on_threads(2, gradient):
        assert float((whole - one).abs().max()) < 2e-2 * float(whole.abs().max())


def over_gloo(rank, run, folder):
    """Makes the run's steps as one of two processes that talk over gloo, and keeps what they were."""
    torch.set_num_threads(1)  # OpenMP's threads do not live on in a forked process
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(steps_made(run, Processes(rank, 2, distributed.group.WORLD)), folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_two_real_processes_make_the_steps_of_one_on_references(tmp_path, tiny_settings):
    loss, diversity, training = CASES["references"]
    run = arm(tmp_path / "two", tiny_settings, loss, diversity, **training)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=over_gloo, args=(rank, run, tmp_path)) for rank in range(2)]
    for worker in workers:
        worker.start()
    whole, metrics = steps_made(arm(tmp_path / "one", tiny_settings, loss, diversity, **training), Processes())
    for worker in workers:
        worker.join(timeout=120)
        worker.kill()
    assert [worker.exitcode for worker in workers] == [0, 0]
    for rank in range(2):
        gradients, shared = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        for one, other in zip(whole, gradients, strict=True):
            assert float((one - other).abs().max()) < 1e-5 * float(one.abs().max())
        assert [row["train/quality_loss"] for row in shared] == pytest.approx(
            [row["train/quality_loss"] for row in metrics], rel=1e-5
        )


def test_one_process_writes_and_the_others_continue_from_what_it_wrote(tmp_path, tiny_settings, on_threads):
    run = arm(tmp_path / "shared", tiny_settings, "sft", {"weight": 0.0}, checkpoint_every=1)
    written = []

    def work(processes):
        # A folder of its own for each: a machine without the first one's disk.
        mine = dataclasses.replace(run, folder=tmp_path / f"rank-{processes.rank}")
        trainer = ArmTrainer(mine, processes)
        trainer.step()
        again = ArmTrainer(mine, processes)
        written.append((again.steps_done, processes.rank))
        same = [torch.equal(one, other) for one, other in zip(trainer.parameters, again.parameters, strict=True)]
        return all(same)

    assert on_threads(2, work) == [True, True]
    assert sorted(written) == [(1, 0), (1, 1)]
    assert (tmp_path / "rank-0" / "checkpoints").is_dir()
    assert not (tmp_path / "rank-1").exists()


def test_more_processes_than_prompts_are_refused(tmp_path, tiny_settings):
    run = arm(tmp_path / "run", tiny_settings, "sft", {"weight": 0.0})
    with pytest.raises(ConfigError, match="6 processes were launched, but a step has 5 prompts"):
        ArmTrainer(run, Processes(0, 6))


def test_a_parameter_that_no_process_has_a_gradient_of_is_left_to_the_optimizer(on_threads):
    """Adam moves a parameter with a gradient of zeros by its momentum, and one without a gradient not at all."""
    from polychromic.training.gradients import GradientAccumulator

    def work(processes):
        parameters = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
        accumulator = GradientAccumulator(parameters, separate=False, processes=processes)
        if processes.rank == 1:
            accumulator.add({"quality": 3.0 * parameters[0].sum()})
        accumulator.finish(1)
        return [None if one.grad is None else one.grad.tolist() for one in parameters]

    assert on_threads(2, work) == [[[3.0, 3.0], None]] * 2


def test_items_come_back_in_their_order(on_threads):
    items = list("abcdefg")
    assert on_threads(3, lambda processes: processes.gather(processes.own(items))) == [items] * 3
    assert on_threads(3, lambda processes: processes.total(1.0, processes.rank)) == [[3.0, 3.0]] * 3
    assert on_threads(2, lambda processes: processes.from_first(processes.rank + 5)) == [5, 5]
    assert math.isclose(sum(Processes().total(2.0, 3.0)), 5.0)
