"""What a GPU refuses: tensors of two devices, operations without a deterministic version, more than its memory."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_determinism import experiment, small_run
from transformers import LlamaForCausalLM, TrainingArguments

from polychromic.diversity import vendi_score
from polychromic.errors import ConfigError, ModelError, PolychromicError, TrainingError, in_words
from polychromic.experiment import executors, jobs, run
from polychromic.experiment.cluster.ray_tasks import warn_of_hidden_gpus
from polychromic.experiment.preflight import model
from polychromic.experiment.preflight.probe import Probe
from polychromic.experiment.settings import RaySettings
from polychromic.files import read_json
from polychromic.integrations.trl.engine import on_one_gpu
from polychromic.models.loading import load_base
from polychromic.objective import set_advantages, surprisal_gram
from polychromic.sampling.vllm import pool, process
from polychromic.sampling.vllm.settings import VllmSettings
from polychromic.training import parallel, trainer
from polychromic.training.trainer import ArmTrainer

PRETENDED = Path(__file__).with_name("pretended_gpu.py")


def test_training_on_a_device_of_its_own_is_that_of_the_cpu_and_as_strict(tmp_path):
    """Past bug: the KL's cumulative sum has no deterministic version on CUDA, so that training with KL gave up on all
    others too, among them attention's backward pass."""
    child = subprocess.run(
        [sys.executable, PRETENDED, tmp_path], capture_output=True, text=True, check=False,
        env={**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-3000:]
    found = json.loads(child.stdout.splitlines()[-1])
    assert "deterministic" not in child.stderr
    for name, of_cpu in found["cpu"].items():
        assert found["gpu"][name]["ending"].keys() == of_cpu["ending"].keys()
        for row, wanted in zip(found["gpu"][name]["metrics"], of_cpu["metrics"], strict=True):
            assert row.keys() == wanted.keys()
            for key in wanted:
                same = row[key] == (wanted[key] if wanted[key] is None else pytest.approx(wanted[key], 1e-3, 1e-5))
                assert same or key.startswith("time/"), (name, key)


CUBLAS_REFUSES = (
    "Deterministic behavior was enabled with either `torch.use_deterministic_algorithms(True)` or "
    "`at::Context::setDeterministicAlgorithms(true)`, but this operation is not deterministic because it uses CuBLAS "
    "and you have CUDA >= 10.2. To enable deterministic behavior in this case, you must set an environment variable "
    "before running your PyTorch application: CUBLAS_WORKSPACE_CONFIG=:4096:8 or CUBLAS_WORKSPACE_CONFIG=:16:8."
)


def test_matrix_products_made_before_in_this_process_end_no_training(tmp_path, tiny_settings, monkeypatch, caplog):
    """Past bug: torch looks at cuBLAS's workspace at the first product of a process, in a notebook one of the user's
    own, and training ended with its RuntimeError."""

    def make(self):
        if not torch.is_deterministic_algorithms_warn_only_enabled():
            raise RuntimeError(CUBLAS_REFUSES)
        return plain(self)

    plain = ArmTrainer._make
    monkeypatch.setattr(ArmTrainer, "_make", make)
    made = ArmTrainer(small_run(tmp_path / "run", tiny_settings))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    made.step()
    made.save_adapter()
    assert read_json(tmp_path / "run" / "training.json")["nondeterministic_operation"] == "cuBLAS"
    assert "CUBLAS_WORKSPACE_CONFIG=:4096:8 in the environment" in caplog.text


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_agree_on_what_torch_refuses_before_the_first_step(tmp_path, tiny_settings, monkeypatch, rank):
    """Past bug: a process whose prompts had no signal met no refused operation, and the others made their step again
    without it."""

    def refused(*_):
        torch.zeros(3).put_(torch.tensor([0]), torch.tensor([1.0]))

    def by_process(self, value):
        return [value, ""] if rank == 0 else ["put_", value]

    made = ArmTrainer(small_run(tmp_path, tiny_settings))
    assert made._refused_in_a_pass() == ""
    made.processes = parallel.Processes(rank, 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(parallel.Processes, "by_process", by_process)
    if rank == 0:
        monkeypatch.setattr(trainer, "answer_logprobs", refused)
    made._agree_on_determinism()
    assert made.nondeterministic == "put_"


GPU_IS_FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of …")


def fails(error):
    def fail(*_, **__):
        raise error

    return fail


@pytest.mark.parametrize(
    "error", [GPU_IS_FULL, RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")]
)
def test_a_full_gpu_ends_a_job_with_what_takes_less(tmp_path, monkeypatch, error):
    """Past bug: a traceback of torch's."""
    monkeypatch.setattr(jobs, "_train", fails(error))
    with pytest.raises(TrainingError, match=r"baseline/seed-0 train: out of memory .*CUDA.*training.micro_batch_size"):
        jobs.carry_out(jobs.Job(experiment(), "baseline", 0, tmp_path), lambda event: None)
    with pytest.raises(PolychromicError, match=r"out of memory .*CUDA.*free memory"), in_words():
        raise error


def test_other_errors_of_torch_are_not_taken_for_a_full_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "_train", fails(RuntimeError("shape '[2, 3]' is invalid")))
    with pytest.raises(RuntimeError, match="is invalid"), in_words():
        jobs.carry_out(jobs.Job(experiment(), "baseline", 0, tmp_path), lambda event: None)


def test_a_base_model_that_the_gpu_cannot_hold_is_a_sentence(tiny_settings, monkeypatch):
    """Past bug: the base was moved to the GPU outside of what puts errors of loading into words."""
    monkeypatch.setattr(LlamaForCausalLM, "to", fails(GPU_IS_FULL))
    with pytest.raises(ModelError, match="arithmetic-tiny does not fit into memory: CUDA out of memory"):
        load_base(tiny_settings)


def test_what_preflight_took_of_the_gpu_is_given_back_to_workers_and_engines(tmp_path, monkeypatch, tiny_settings):
    """Past bug: torch kept it for this process, so that a worker, a Ray task or vLLM had that much less."""
    order = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: order.append("given back"))
    monkeypatch.setattr(run, "build_executor", lambda name: lambda *_: order.append("jobs"))
    run._run_jobs(experiment(), tmp_path, [], lambda event: None, None)
    monkeypatch.setattr(process, "ProcessEngine", lambda *_: order.append("vLLM"))
    pool._engine(tiny_settings, VllmSettings(), 0)
    assert order == ["given back", "jobs", "given back", "vLLM"]


def test_a_launcher_with_more_processes_than_gpus_is_refused_with_both_numbers(monkeypatch):
    """Past bug: "invalid device ordinal", with a traceback of torch's."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert parallel._own_gpu() == 1
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match=r"GPU number 2 .* and 2 can be seen here: launch at most 2 processes"):
        parallel._own_gpu()


def test_a_gpu_that_torch_does_not_see_is_told_before_the_cpu_does_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(model, "_DRIVER", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = model.versions_and_device(Probe(experiment(), tmp_path))
    assert (found.status, "all work is the CPU's" in found.result) == ("warned", True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert model.versions_and_device(Probe(experiment(), tmp_path)).status == "passed"


def test_gpus_that_ray_hides_from_tasks_are_told(monkeypatch, caplog):
    warn_of_hidden_gpus(RaySettings())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    warn_of_hidden_gpus(RaySettings(gpus=1))
    assert not caplog.records
    warn_of_hidden_gpus(RaySettings())
    assert "set run.ray.gpus=1" in caplog.text


def test_through_trl_a_process_that_sees_several_gpus_makes_the_steps_of_one(tmp_path):
    """Past bug: transformers makes each step of as many times the prompts, spread over all GPUs."""
    args = TrainingArguments(output_dir=str(tmp_path), per_device_train_batch_size=4, use_cpu=True)
    assert args.n_gpu < 2
    args._n_gpu = 2
    assert args.train_batch_size == 8
    assert on_one_gpu(args).train_batch_size == 4


@pytest.mark.parametrize("values", [torch.eye(3, dtype=torch.bfloat16), torch.eye(3, requires_grad=True)])
def test_tensors_that_numpy_cannot_read_by_itself_are_arrays(values):
    """As those of a GPU. Past bug: "expected … of numbers, with rows of one length"."""
    assert vendi_score(values) == pytest.approx(3.0)
    same = values[:1, :1].flatten()
    assert surprisal_gram(same, ["a"]).tolist() == [[[1.0]]]
    advantages = {
        kind: set_advantages(
            "reward", 1, rewards=[0.0, 1.0, 1.0], baseline="fitted", coefficients={1: coefficient}
        )
        for kind, coefficient in (("tensor", same), ("number", 1.0))
    }  # fmt: skip
    assert advantages["tensor"].tolist() == advantages["number"].tolist()


def _names_its_gpu(job):
    (job.root / job.arm).write_text(os.environ["CUDA_VISIBLE_DEVICES"])
    while len(list(job.root.iterdir())) < 2:  # until the other worker has its job
        time.sleep(0.01)
    return []


def test_workers_take_one_gpu_each_in_turn(tmp_path, monkeypatch):
    """Past bug: all workers trained on the first GPU of the machine, and the others stood idle."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(executors, "_work", _names_its_gpu)  # found by name in the workers
    one = experiment(2)
    work = [jobs.Job(one, arm, 0, tmp_path) for arm in one.arms]
    executors.processes(work, 2, lambda event: None, lambda job, rows: None)
    assert {file.read_text() for file in tmp_path.iterdir()} == {"0", "1"}


@pytest.mark.parametrize(
    ("there", "stated", "gpus"),
    [
        (0, None, [None, None, None]),
        (1, None, [None, None, None]),
        (2, None, ["0", "1", "0"]),
        (2, "GPU-a,GPU-b", ["GPU-a", "GPU-b", "GPU-a"]),
        (3, "5,6,7", ["5", "6", "7"]),
    ],
)
def test_gpus_are_named_as_this_process_sees_them(monkeypatch, there, stated, gpus):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if stated is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", stated)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    assert [executors._gpu_of(worker) for worker in range(3)] == gpus
