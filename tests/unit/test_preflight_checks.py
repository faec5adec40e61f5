"""Single checks of preflight, each against a planted fault: model, turn end, memory, trackers, rare rewards."""

import dataclasses
import importlib.machinery
import json
import socket
import time
from types import SimpleNamespace

import pytest
import torch

from polychromic.errors import ModelError
from polychromic.experiment.config import Experiment
from polychromic.experiment.preflight import data, model, training
from polychromic.experiment.preflight import model as memory
from polychromic.experiment.preflight.generations import sample_untrained
from polychromic.experiment.preflight.probe import Finding, Probe, TimeLimit
from polychromic.experiment.preflight.runner import Row, carry_out
from polychromic.records import Check
from polychromic.tasks.arithmetic import ArithmeticTask

SMALL = {
    "name": "small",
    "task": {"name": "arithmetic", "train_problems": 64, "validation_problems": 20, "test_problems": 12},
    "model": {"source": "polychromic:arithmetic-tiny", "adapter": {"rank": 4}},
    "training": {"loss": "rl", "steps": 20, "prompts_per_step": 4, "num_samples": 8, "max_new_tokens": 16},
    "diversity": {"objective": "coverage", "set_size": 4},
    "arms": {"baseline": {}, "coverage": {"diversity": {"weight": 1.0}}},
    "evaluation": {"num_prompts": 12, "num_samples": 16, "max_new_tokens": 20},
}  # fmt: skip


@pytest.fixture
def probe(tmp_path):
    return Probe(Experiment.from_mapping(SMALL), tmp_path / "runs" / "small")


def test_a_model_that_cannot_be_used_fails_the_check_with_its_sentence(probe, monkeypatch):
    def refuse(language_model, *_, **__):
        raise ModelError(f"{language_model.source} is not causal")

    monkeypatch.setattr("polychromic.experiment.preflight.probe.check_on_prompts", refuse)
    [result] = carry_out([Row(1, "model", model.model_loads)], probe, lambda _: None).checks
    assert (result.status, result.result) == ("failed", "polychromic:arithmetic-tiny is not causal")


def test_the_way_a_model_is_computed_is_told(probe):
    found = model.model_loads(probe)
    assert found.status == "passed"
    assert "packed, product head, merged decoding; at most" in found.result
    assert found.figures["check"]["path"] == {"layout": "packed", "head": "product", "decoding": "merged"}


def test_an_answer_end_that_sampling_does_not_know_is_a_fault(probe):
    assert model.answers_begin_and_end(probe).status == "passed"
    probe._language_model = dataclasses.replace(probe.language_model, stop_ids=frozenset({7}))
    found = model.answers_begin_and_end(probe)
    assert found.status == "failed"
    assert "sampling does not stop there" in found.result
    assert "eos_token_id" in found.fix


def test_the_longest_batches_are_trained_on_and_sampled_to_their_limit(probe, monkeypatch):
    sampled = []
    sample = memory.LocalSampler.sample

    def seen(self, prompts, n, parameters, seeds):
        sampled.extend(one for group in sample(self, prompts, n, parameters, seeds) for one in group)
        return [sampled]

    monkeypatch.setattr(memory.LocalSampler, "sample", seen)
    found = memory.longest_batch_fits(probe)
    assert found.status == "passed"
    assert "32 sampled answers of up to 2" in found.result  # 4 × 8, prompt of 10 or 11 tokens and 16 new ones
    assert "forward and backward" in found.result
    # 12 test prompts × 16 at the end are more than the 4 × 8 of a training step, and none ends early.
    assert "192 generations of 20 tokens" in found.result
    # A few tokens tell how long all of them take.
    assert [len(one.token_ids) for one in sampled] == [4] * 192 + [20] * 192
    assert all(parameter.grad is None for parameter in probe.language_model.model.parameters())


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
@pytest.mark.parametrize("where", ["answer_logprobs", "LocalSampler"])
def test_a_batch_that_does_not_fit_is_a_failed_check_on_any_device(probe, monkeypatch, error, where):
    """Past bug: only CUDA's error was known, and sampling was not tried at all."""

    def full(*args, **kwargs):
        raise error

    monkeypatch.setattr(memory, where, full if where == "answer_logprobs" else lambda *_: SimpleNamespace(sample=full))
    found = memory.longest_batch_fits(probe)
    assert found.status == "failed"
    assert "do not fit" in found.result
    assert "micro_batch_size" in found.fix
    monkeypatch.setattr(memory, "answer_logprobs", lambda *args, **kwargs: (_ for _ in ()).throw(RuntimeError("shape")))
    with pytest.raises(RuntimeError, match="shape"):
        memory.longest_batch_fits(probe)


def test_the_longest_batch_may_be_another_arms(tmp_path):
    """Past bug: the baseline's batches alone were tried, and an arm with longer or more answers ran out of memory."""
    larger = {"num_samples": 12, "max_new_tokens": 100, "max_decode_batch": 48}
    apart = {"training": {"max_new_tokens": 900}, "model": {"gradient_checkpointing": True}}
    arms = {"baseline": {}, "larger": {"training": larger, "diversity": {"weight": 1.0}}, "apart": apart}
    probe = Probe(Experiment.from_mapping(SMALL | {"arms": arms}), tmp_path / "runs" / "small")
    [(words, batch)] = memory._training_batches(probe).items()
    assert words.startswith("48 sampled answers of up to 11")
    assert [one.n_answer for one in batch] == [100] * 48
    assert memory._longest_sampling(probe)[:2] == (48, 100)  # more than the 192 × 20 of the end


def with_another_model(tmp_path, source, **keys):
    arms = {"baseline": {}, "other": {"model": {"source": source}, **keys}}
    return Probe(Experiment.from_mapping(SMALL | {"arms": arms}), tmp_path / "runs" / "small")


@pytest.mark.parametrize("keys", [{}, {"untrained": True}])
def test_a_model_that_only_another_arm_starts_from_is_loaded_and_tried_too(tmp_path, keys):
    """Past bug: preflight passed, and the run ended hours later, when the arm's turn came."""
    probe = with_another_model(tmp_path, str(tmp_path), **keys)  # a folder that holds no model
    found, *_ = carry_out([Row(1, "other models", model.other_models)], probe, lambda _: None).checks
    assert found.status == "failed"
    assert found.result.startswith(f"arm other: model.source: '{tmp_path}' holds no config.json")


def test_other_models_are_tried_one_at_a_time_with_their_own_arms(tmp_path):
    probe = with_another_model(tmp_path, "polychromic:functions-tiny", training={"max_new_tokens": 40})
    baseline = probe.language_model
    found = model.other_models(probe)
    assert found.status == "passed"
    assert "other: polychromic:functions-tiny" in found.result
    assert "32 sampled answers of up to" in found.result
    assert found.figures["by_arm"].keys() == {"other"}
    assert "_language_model" not in vars(probe), "both at once may be more than there is memory for"
    assert probe.language_model is not baseline
    assert probe.language_model.source == "polychromic:arithmetic-tiny"


def references(tmp_path, **training):
    for split in ("train", "validation", "test"):
        rows = [
            {"id": f"{split}-{i}", "prompt": f"1,2,3,{i}=9:", "references": ["1+2+3" + "+1" * i]} for i in range(1, 9)
        ]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "name": "custom",
        **{split: str(tmp_path / f"{split}.jsonl") for split in ("train", "validation", "test")},
    }
    changes = {
        "task": {**task, "checker": "contains"},
        "training": {**SMALL["training"], "loss": "sft", **training},
        "evaluation": {**SMALL["evaluation"], "num_prompts": 8},
        "arms": {
            "baseline": {},
            "floor": {"diversity": {"weight": "auto", "floor_margin": 0.1}},
            "fixed": {"diversity": {"weight": 1.0}},
        },
    }
    return Probe(Experiment.from_mapping({**SMALL, **changes}), tmp_path / "runs" / "small")


def test_the_longest_references_are_tried_where_they_are_learnt(tmp_path):
    """Past bug: beside references, only sampled answers were tried, which may be far shorter."""
    probe = references(tmp_path)
    batches = memory._training_batches(probe)
    # The longest four references: 1,2,3,8=9: and 1+2+3 with eight times +1, and the end.
    assert [len(batch) for batch in batches.values()] == [4, 20]
    first = next(iter(batches.values()))
    assert [one.n_answer for one in first] == [22, 20, 18, 16]


def test_looking_at_validation_references_is_priced_where_a_floor_does(tmp_path):
    probe = references(tmp_path, validation_every=5)
    assert probe.arms["floor"].held_out_seconds > 0
    assert probe.arms["baseline"].held_out_seconds > 0
    assert probe.arms["fixed"].held_out_seconds == 0


class RareRewards(ArithmeticTask):
    """Nothing passes in the first batches that are looked at."""

    def __init__(self, silent_calls):
        super().__init__(64, 20, 12)
        self.calls, self.silent_calls = 0, silent_calls

    def check(self, prompts, texts):
        self.calls += 1
        return [Check(float(self.calls > self.silent_calls and index % 2)) for index in range(len(texts))]


@pytest.mark.parametrize(("silent_calls", "status"), [(2, "passed"), (10**6, "failed")])
def test_one_batch_without_any_reward_does_not_fail_the_gradient_probe(probe, silent_calls, status):
    """Past bug: where rewards are rare, the first batch alone decided that the gate was closed."""
    probe.experiment = probe.experiment.model_copy(
        update={"arms": {"coverage": SMALL["arms"]["coverage"]} | SMALL["arms"]}
    )
    probe.task = RareRewards(silent_calls)
    probe.trained_arms = [probe.experiment.arm("coverage")]
    found = training.diversity_gradient_reaches_the_weights(probe)
    assert found.status == status
    assert ("gate is closed" in found.result) == (status == "failed")


def test_a_metric_that_nobody_knows_is_no_edge():
    """Past bug: without any verdict of the checker there is no pass@1, and looking for it ended preflight."""
    assert data._at_an_edge({"distinct_2": 0.5}, "pass@16") == []
    assert data._at_an_edge({"pass@1": 0.99, "pass@16": 1.0}, "pass@16") == [
        "pass@1 is 0.990, which cannot rise",
        "pass@16 is 1.000, which cannot rise",
    ]
    assert "hardly any reward" in data._at_an_edge({"pass@1": 0.0, "pass@16": 0.01}, "pass@16")[0]


@pytest.fixture
def wandb(probe, monkeypatch):
    probe.experiment = Experiment.from_mapping({**SMALL, "run": {"tracking": ["wandb"]}})
    monkeypatch.setattr(data, "find_spec", lambda name: importlib.machinery.ModuleSpec(name, None))
    for name in ("WANDB_MODE", "WANDB_API_KEY", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "no such file")
    return probe


def test_a_tracker_without_an_account_logs_offline(wandb, monkeypatch):
    assert "offline (no WANDB_API_KEY and no `wandb login`)" in data.trackers(wandb).result
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert "offline (WANDB_MODE=offline)" in data.trackers(wandb).result


def test_a_tracker_is_reached_or_named_as_out_of_reach(wandb, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("WANDB_BASE_URL", address)
        found = data.trackers(wandb)
    assert (found.status, f"{address} answers" in found.result) == ("passed", True)
    found = data.trackers(wandb)  # the server is gone
    assert found.status == "warned"
    assert "cannot be reached" in found.result
    assert "WANDB_MODE=offline" in found.fix
    monkeypatch.setenv("WANDB_BASE_URL", "nowhere")
    assert data.trackers(wandb).status == "warned"
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:1")
    assert "behind a proxy and was not tried" in data.trackers(wandb).result


def test_a_tracker_that_is_not_installed_fails_with_its_command(probe, monkeypatch):
    probe.experiment = Experiment.from_mapping({**SMALL, "run": {"tracking": ["trackio"]}})
    monkeypatch.setattr(data, "find_spec", lambda name: None)
    found = data.trackers(probe)
    assert found.status == "failed"
    assert "pip install 'polychromic[trackio]'" in found.fix


def test_a_sampling_engine_that_is_not_there_fails_one_check_and_is_not_waited_for_again(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        engine = {"engine": "vllm", "url": url, "retry_seconds": 0}
        probe = Probe(Experiment.from_mapping({**SMALL, "sampling": engine}), tmp_path / "runs")
        checks = [
            Row(1, "feasibility", data.feasibility),
            Row(1, "gradient", training.diversity_gradient_reaches_the_weights),
            Row(1, "longest batch", memory.longest_batch_fits),
        ]
        feasible, gradient, longest = carry_out(checks, probe, lambda _: None).checks
    assert feasible.status == "failed"
    assert f"sampling.url: {url}: does not answer" in feasible.result
    assert (gradient.status, gradient.result) == ("skipped", "needs the engine")
    assert longest.status == "passed"
    assert longest.result.startswith("sampling is vLLM's, which plans its own memory")


def test_counts_are_lowered_to_the_time_that_is_left_and_it_is_said():
    now = [0.0]
    limit = TimeLimit(2.0, lambda: now[0])
    assert limit.most(100, 1.0, part=0.25) == 30  # a quarter of 120 seconds
    assert limit.most(10, 1.0, part=0.25) == 10
    assert limit.lowered(30, 100, "prompts") == "; 30 of 100 prompts, to keep preflight.minutes = 2"
    assert limit.lowered(10, 10, "prompts") == ""
    now[0] = 110.0
    assert limit.most(100, 1.0, part=0.25) == 10  # no more than is left
    now[0] = 500.0
    assert limit.most(100, 1.0, part=0.25) == 1
    assert limit.left == 0.0


def test_a_slow_checker_is_asked_less(probe):
    class Slow(ArithmeticTask):
        asked = 0

        def check(self, prompts, texts):
            Slow.asked += len(texts)
            time.sleep(0.02)
            return super().check(prompts, texts)

    probe.task = Slow(64, 20, 12)
    assert "preflight.minutes" not in data.checker_tells_good_from_bad(probe).result
    asked_before, Slow.asked = Slow.asked, 0
    probe.limit = TimeLimit(3 * 0.02 * 4 / 60 / 0.15)  # room for about four prompts of three texts
    assert "of 20 prompts, to keep preflight.minutes" in data.checker_tells_good_from_bad(probe).result
    assert Slow.asked < asked_before / 2


def test_generations_of_the_untrained_model_are_those_of_the_run(probe):
    """Nothing that the run needs is done twice: the first batches are sampled as the run would."""
    found = probe.generations
    assert found.of_the_run
    assert {row.prompt_id.partition("-")[0] for row in found.rows} == {"test"}
    assert len(found.rows) == 12 * 16
    again = sample_untrained(Probe(probe.experiment, probe.folder))
    assert [(row.prompt_id, row.index, row.text) for row in again.rows] == [
        (row.prompt_id, row.index, row.text) for row in found.rows
    ]


def test_without_an_untrained_arm_the_test_split_is_not_looked_at(tmp_path):
    evaluation = {**SMALL["evaluation"], "untrained": False}
    probe = Probe(Experiment.from_mapping({**SMALL, "evaluation": evaluation}), tmp_path)
    assert not probe.generations.of_the_run
    assert {row.prompt_id.partition("-")[0] for row in probe.generations.rows} == {"validation"}


def test_answers_are_held_against_the_prompts_that_were_sampled(tmp_path, monkeypatch):
    """Past bug: where two splits have the same ids, answers to validation prompts were held against test prompts."""
    files = {}
    for number, split in enumerate(("train", "validation", "test"), start=1):
        rows = [{"id": str(i), "prompt": f"{number},{i}=9:", "references": [split]} for i in range(1, 5)]
        files[split] = str(tmp_path / f"{split}.jsonl")
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluation = {"num_prompts": 4, "num_samples": 2, "max_new_tokens": 4, "untrained": False}
    changes = {"task": {"name": "custom", "checker": "contains", **files}, "evaluation": evaluation}
    probe = Probe(Experiment.from_mapping(SMALL | changes), tmp_path)
    held = []
    monkeypatch.setattr(data, "audit_partition", lambda _, prompts, *others, **keys: held.extend(prompts))
    data.same_answers_are_found(probe)
    assert [prompt.references for prompt in held] == [("validation",)] * 4


def test_where_time_is_short_fewer_generations_and_steps_are_made(tmp_path):
    short = Experiment.from_mapping({**SMALL, "preflight": {"minutes": 0.001}})
    probe = Probe(short, tmp_path)
    assert not probe.generations.of_the_run
    assert len(probe.generations.rows) == 16
    assert probe.generations.lowered == "; 1 of 20 prompts, to keep preflight.minutes = 0.001"
    found = training.diversity_gradient_reaches_the_weights(probe)
    assert "1 of 4 prompts of a step" in found.result


def test_a_step_cut_short_for_time_decides_nothing(tmp_path):
    """One prompt without any reward is chance: it must not stop a run."""
    probe = Probe(Experiment.from_mapping({**SMALL, "preflight": {"minutes": 0.001}}), tmp_path)
    assert len(probe.generations.rows) == 16  # timed with the true checker
    probe.task = RareRewards(10**6)
    found = training.diversity_gradient_reaches_the_weights(probe)
    assert found.status == "warned"
    assert "raise preflight.minutes" in found.fix


def test_a_failed_stage_leaves_out_the_later_ones_and_says_so(probe):
    ran = []

    def passes(name):
        return lambda _: ran.append(name) or Finding("passed", "well")

    checks = [
        Row(1, "first", passes("first")),
        Row(2, "broken", lambda _: Finding("failed", "broken", "mend it")),
        Row(2, "beside", passes("beside")),
        Row(3, "later", passes("later")),
    ]
    started = []
    report = carry_out(checks, probe, lambda _: None, lambda *what: started.append(what))
    assert ran == ["first", "beside"]
    assert started == [(1, 4, "first"), (2, 4, "broken"), (3, 4, "beside")]
    assert [(one.name, one.status) for one in report.checks][-1] == ("later", "skipped")
    assert report.checks[-1].result == "not run: broken failed"
