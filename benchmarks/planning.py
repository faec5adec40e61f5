"""Peak memory and time of real training steps and real decoding beside what `experiment/planning` computes.

python benchmarks/planning.py [--only NAME] [--out FILE.json]

Each case is a process of its own with one thread: it builds a model with its adapter (SmolLM2-135M, or random weights
of another shape), makes two steps (forward, backward with the terms of the gradient kept apart, AdamW), then decodes.
Memory is the resident peak of each part (VmHWM, reset between them). Time is processor time, which a busy machine
stretches less than wall time. `planning/time.py` has its three constants of this core from here, so that a case is
predicted, and not only fitted, where it was left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Case:
    """A shape with its load: `prompts` prompts of `prompt` tokens, `samples` answers of `answer` tokens to each."""

    kind: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    prompts: int
    prompt: int
    samples: int
    answer: int
    dtype: str = "float32"
    checkpointing: bool = False
    dropout: float = 0.0


# Blocks of 128 KB and more go back to the system when they are freed: what is measured is what is in use, and not what
# glibc keeps for later.
_HEAP = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}

CASES = {
    "smollm2": Case("smollm2", 576, 30, 9, 3, 1536, 49_152, 2, 100, 8, 48),
    "smollm2 checkpointed": Case("smollm2", 576, 30, 9, 3, 1536, 49_152, 2, 100, 8, 48, checkpointing=True),
    "wide": Case("llama", 1024, 6, 8, 8, 4096, 8_192, 2, 150, 8, 40),
    "deep": Case("qwen3", 384, 24, 6, 2, 1024, 4_096, 4, 200, 8, 40),
    "dropout": Case("llama", 512, 12, 8, 4, 1536, 32_768, 4, 100, 4, 48, dropout=0.1),
    "many answers": Case("llama", 512, 8, 8, 8, 2048, 16_384, 1, 64, 32, 96),
    "bfloat16": Case("llama", 256, 8, 4, 2, 1024, 8_192, 4, 120, 8, 40, dtype="bfloat16"),
}


class _Tokenizer:
    """Stands for a tokenizer: token ids are given, and the model asks for the padding token alone."""

    pad_token_id = 0


def settings_of(case: Case) -> Any:
    """Returns the `model` section of a case."""
    from polychromic.models.settings import AdapterSettings, ModelSettings

    return ModelSettings(
        source="smollm2-135m-instruct" if case.kind == "smollm2" else "random/weights",
        dtype=case.dtype,  # type: ignore[arg-type]
        gradient_checkpointing=case.checkpointing,
        adapter=AdapterSettings(rank=16, dropout=case.dropout),
    )


def build(case: Case) -> tuple[Any, Any]:
    """Returns the language model with its adapter, and its shape."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from polychromic.experiment.planning.shapes import shape_from_config
    from polychromic.models.adapters import attach_fresh
    from polychromic.models.loading import LanguageModel, load_language_model

    settings = settings_of(case)
    if case.kind == "smollm2":
        language_model = load_language_model(settings, seed=1)
        return language_model, shape_from_config(language_model.model.config, case.kind)
    config = AutoConfig.for_model(
        case.kind,
        hidden_size=case.hidden,
        num_hidden_layers=case.layers,
        num_attention_heads=case.heads,
        num_key_value_heads=case.kv_heads,
        head_dim=case.hidden // case.heads,
        intermediate_size=case.intermediate,
        vocab_size=case.vocabulary,
        tie_word_embeddings=True,
    )
    base = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, case.dtype))
    base.requires_grad_(requires_grad=False)
    model = attach_fresh(base, settings.adapter, quantized=False).eval()
    return LanguageModel(model, _Tokenizer(), frozenset({1}), {}), shape_from_config(config, case.kind)  # type: ignore[arg-type]


def measure(case: Case) -> dict[str, float]:
    """Measures one case in this process: resident bytes and processor seconds."""
    import torch

    torch.set_num_threads(1)
    language_model, shape = build(case)
    started_with = _resident()
    trained = _train(language_model, shape, case)
    _reset_peak()
    decoded = _decode(language_model, case)
    return {
        "before": started_with,
        "training_bytes": trained[0],
        "training_seconds": trained[1],
        "decoding_bytes": decoded[0],
        "decoding_seconds": decoded[1],
        "matrix_flops": _matrix_flops(),
    }


def _train(language_model: Any, shape: Any, case: Case) -> tuple[float, float]:
    import torch

    from polychromic.models.logprobs import TokenSequence, answer_logprobs
    from polychromic.objective.losses import policy_gradient_loss
    from polychromic.training.gradients import GradientAccumulator

    parameters = [p for p in language_model.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    draw = torch.Generator().manual_seed(0)

    def tokens(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(2, shape.vocabulary, (n,), generator=draw).tolist())

    _reset_peak()
    seconds = []
    for _ in range(2):
        prompts = [tokens(case.prompt) for _ in range(case.prompts)]
        sequences = [
            TokenSequence(prompt + tokens(case.answer), case.prompt) for prompt in prompts for _ in range(case.samples)
        ]
        accumulator = GradientAccumulator(parameters, separate=True)
        began = time.process_time()
        with language_model.training_pass(dropout=case.dropout > 0):
            answers = answer_logprobs(language_model, sequences)
            loss = policy_gradient_loss(answers.logprobs_BT, answers.mask_BT, torch.ones(len(sequences)))
            accumulator.add({"quality": loss})
        seconds.append(time.process_time() - began)
        accumulator.finish(case.prompts)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return _peak(), min(seconds)


def _decode(language_model: Any, case: Case) -> tuple[float, float]:
    import torch

    from polychromic.models.decoding import decode_samples, decoding
    from polychromic.records import SamplingParameters

    prompts = [[2 + i] * case.prompt for i in range(case.prompts)]
    endless = type(language_model)(**{**vars(language_model), "stop_ids": frozenset({-1})})
    uniforms = torch.rand(case.prompts * case.samples, case.answer, dtype=torch.float64)
    began = time.process_time()
    with decoding(endless):
        decode_samples(endless, prompts, case.samples, SamplingParameters(max_new_tokens=case.answer), uniforms)
    return _peak(), time.process_time() - began


def _matrix_flops() -> float:
    """Measures this core's own float32 matrix product, in operations per second."""
    import torch

    one = torch.randn(1024, 1024)
    best = 1e9
    for _ in range(5):
        began = time.process_time()
        one @ one
        best = min(best, time.process_time() - began)
    return 2 * 1024**3 / best


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _status(key: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return float(line.split()[1]) * 1024


def _peak() -> float:
    return _status("VmHWM:")


def _resident() -> float:
    return _status("VmRSS:")


def planned(case: Case) -> dict[str, float]:
    """Computes what `measure` measures."""
    from polychromic.experiment.planning.memory import SamplingLoad, TrainingLoad, plan_memory
    from polychromic.experiment.planning.shapes import ModelShape
    from polychromic.experiment.planning.time import (
        CPU_CORE,
        decoding_flops,
        decoding_seconds,
        training_flops,
        training_seconds,
    )

    kind = "llama" if case.kind == "smollm2" else case.kind
    head_dim = case.hidden // case.heads
    shape = ModelShape(
        kind, case.hidden, case.layers, case.heads, case.kv_heads, head_dim, case.intermediate, case.vocabulary, True
    )  # fmt: skip
    n = case.prompts * case.samples
    training = TrainingLoad(case.prompts, case.prompt + case.samples * case.answer, n * case.answer)
    sampling = SamplingLoad(n, case.prompt + case.answer)
    memory = plan_memory(shape, settings_of(case), training, sampling, on_gpu=False)
    return {
        "training_bytes": memory.training,
        "decoding_bytes": memory.decoding,
        "training_flops": training_flops(shape, settings_of(case), training),
        "training_seconds": training_seconds(shape, settings_of(case), training, CPU_CORE),
        "decoding_seconds": decoding_seconds(shape, settings_of(case), sampling, case.prompt, case.prompts, CPU_CORE),
        "decoding_flops": decoding_flops(shape, sampling, case.prompt, case.prompts),
    }


def main() -> None:
    """Measures every case in a process of its own and prints it beside the plan."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=list(CASES))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", choices=list(CASES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(CASES[arguments.child])))
        return
    results = {}
    for name in [arguments.only] if arguments.only else CASES:
        child = subprocess.run(
            [sys.executable, __file__, "--child", name],
            capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1", **_HEAP},
        )  # fmt: skip
        measured, plan = json.loads(child.stdout.splitlines()[-1]), planned(CASES[name])
        results[name] = {"measured": measured, "planned": plan}
        ratios = [plan[f"{part}_bytes"] / measured[f"{part}_bytes"] for part in ("training", "decoding")]
        work = [
            plan[f"{part}_flops"] / measured[f"{part}_seconds"] / measured["matrix_flops"]
            for part in ("training", "decoding")
        ]
        sizes = [measured[f"{part}_bytes"] / 1e9 for part in ("training", "decoding")]
        print(
            f"{name:<20} training {sizes[0]:.2f} GB, planned {ratios[0]:.2f} times; decoding {sizes[1]:.2f} GB, "
            f"planned {ratios[1]:.2f} times; {work[0]:.2f} and {work[1]:.2f} of {measured['matrix_flops'] / 1e9:.0f} "
            f"GFLOP/s; before any step {measured['before'] / 1e9:.2f} GB",
            flush=True,
        )
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
