"""The engines `local` and `vllm` side by side: same model, adapter, prompts, number of samples and token limit.

    VLLM_CPU_KVCACHE_SPACE=2 .venv-vllm/bin/python benchmarks/engines.py [--model smollm2-135m-instruct]
        [--prompts 8] [--samples 8] [--new-tokens 64] [--rounds 3] [--url http://localhost:8000]

Run it in the environment that `make vllm` sets up. Alternates the two in rounds and moves the adapter before each, as
a training step does, so that vLLM's rate with the hand-over and the probe stands beside its rate of sampling alone.
Tokens a second of the clock, and of processor time (which other work on the machine changes less): of this process
for `local`, with the processes that it has started for `vllm`. With --url the server's own processor time is not seen.
Every generated token up to and with the end of the turn counts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import psutil
import torch

from polychromic.models.loading import LanguageModel, load_language_model
from polychromic.models.settings import AdapterSettings, ModelSettings
from polychromic.records import Generation, SamplingParameters
from polychromic.sampling.base import SamplerSettings, build_sampler, close_engines, taken_metrics
from sampling import make_prompts


def main() -> None:
    """Prints the rates of both, and what a hand-over costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--url")
    options = parser.parse_args()
    settings = ModelSettings(source=options.model, adapter=AdapterSettings(rank=16))
    language_model = load_language_model(settings, seed=0)
    keys = {"url": options.url} if options.url else {"options": {"enforce_eager": True, "max_model_len": 512}}
    if "arithmetic" in options.model and not options.url:
        keys["options"]["max_model_len"] = 64
    samplers = {
        engine: build_sampler(settings_of, language_model, max_decode_batch=256, thinking="auto")
        for engine, settings_of in (
            ("local", SamplerSettings()),
            ("vllm", SamplerSettings(engine="vllm", **keys)),
        )
    }
    prompts = make_prompts(options.model, options.prompts)
    parameters = SamplingParameters(max_new_tokens=options.new_tokens)
    rows: dict[str, list[tuple[float, float, int]]] = {engine: [] for engine in samplers}
    handovers: list[dict[str, float]] = []
    for number in range(options.rounds + 1):
        move_adapter(language_model, number)
        for engine, sampler in samplers.items():
            seeds = [number * len(prompts) + index for index in range(len(prompts))]
            draw = partial(sampler.sample, prompts, options.samples, parameters, seeds)
            row = timed(draw, with_started=engine == "vllm")
            measured = taken_metrics(sampler)
            if number:  # the first round warms up
                rows[engine].append(row)
                handovers += [measured] if measured else []
    shape = f"{options.prompts} prompts × {options.samples} samples, up to {options.new_tokens} tokens"
    print(f"{options.model}, rank 16, {shape}, float32, {torch.get_num_threads()} threads, {options.rounds} rounds")
    for engine, measured_rows in rows.items():
        clock = statistics.median(tokens / seconds for seconds, _, tokens in measured_rows)
        processor = statistics.median(tokens / cpu for _, cpu, tokens in measured_rows)
        print(f"{engine}: {clock:.0f} tokens a second, {processor:.0f} a second of processor time")
    for number, name in ((0, "of the clock"), (1, "of processor time")):
        ratios = [
            (vllm[2] / vllm[number]) / (local[2] / local[number])
            for local, vllm in zip(rows["local"], rows["vllm"], strict=True)
        ]
        print(f"vllm over local, {name}: {statistics.median(ratios):.2f} ({', '.join(f'{r:.2f}' for r in ratios)})")
    for key in (
        "engine/tokens_per_second",
        "engine/handover_seconds",
        "engine/probe_seconds",
        "engine/probe_mismatch",
    ):
        print(f"vllm {key}: {statistics.median(row[key] for row in handovers):.3g}")
    close_engines()


def move_adapter(language_model: LanguageModel, number: int) -> None:
    """Changes the adapter's weights a little, as an update does."""
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for name, parameter in language_model.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.002 * torch.randn(parameter.shape, generator=generator))


def timed(sample: Callable[[], list[list[Generation]]], *, with_started: bool) -> tuple[float, float, int]:
    """Returns seconds of the clock, of the processor, and the tokens that were sampled.

    with_started: whether the processor time of the processes that this one has started counts too.
    """
    started, cpu = time.perf_counter(), processor_seconds(with_started)
    groups = sample()
    seconds, used = time.perf_counter() - started, processor_seconds(with_started) - cpu
    return seconds, used, sum(len(one.token_ids) for group in groups for one in group)


def processor_seconds(with_started: bool) -> float:
    """Returns the processor time of this process, maybe with all that it has started."""
    this = psutil.Process()
    started = this.children(recursive=True) if with_started else []
    times = [process.cpu_times() for process in (this, *started)]
    return sum(one.user + one.system for one in times)


if __name__ == "__main__":
    main()
