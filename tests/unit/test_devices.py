"""What a GPU refuses: tensors of two devices, operations without a deterministic version, more than its memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_determinism import experiment, small_run
from transformers import LlamaForCausalLM

from polychromic.errors import ModelError, PolychromicError, TrainingError, in_words
from polychromic.experiment import jobs, run
from polychromic.files import read_json
from polychromic.models.loading import load_base
from polychromic.sampling.vllm import pool, process
from polychromic.sampling.vllm.settings import VllmSettings
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
    trainer = ArmTrainer(small_run(tmp_path / "run", tiny_settings))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    trainer.step()
    trainer.save_adapter()
    assert read_json(tmp_path / "run" / "training.json")["nondeterministic_operation"] == "cuBLAS"
    assert "CUBLAS_WORKSPACE_CONFIG=:4096:8 in the environment" in caplog.text


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
