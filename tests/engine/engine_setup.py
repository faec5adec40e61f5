"""Makes a model with an adapter, its sampler, short training runs, and a `vllm serve` that can be killed."""

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from urllib.request import urlopen

import torch

from polychromic.models.chat import encode_prompt
from polychromic.models.loading import load_language_model
from polychromic.models.logprobs import TokenSequence, plain_logprobs
from polychromic.models.settings import AdapterSettings, ModelSettings
from polychromic.models.sources import resolve_source
from polychromic.records import SamplingParameters
from polychromic.sampling.base import SamplerSettings, build_sampler
from polychromic.tasks.arithmetic import ArithmeticTask
from polychromic.training.base import ArmRun
from polychromic.training.settings import DiversitySettings, TrainingSettings
from polychromic.training.trainer import train_arm

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "auto")

TINY = ModelSettings(source="polychromic:arithmetic-tiny", adapter=AdapterSettings(rank=8, alpha=16))
OPTIONS = {"enforce_eager": True, "max_model_len": 64, "block_size": 32}
"""The prefix cache keeps blocks of tokens, 128 on a CPU where not stated: more than a prompt of ours has."""
IN_PROCESS = SamplerSettings(engine="vllm", options=OPTIONS)
PARAMETERS = SamplingParameters(0.8, max_new_tokens=16)
TASK = ArithmeticTask(train_problems=64)
PROMPTS = TASK.prompts("train")[:8]
LONG_PROMPTS = [
    dataclasses.replace(prompt, messages=(dataclasses.replace(message, content=message.content * 4),))
    for prompt in PROMPTS
    for message in prompt.messages
]
"""Of 40 tokens: the first 32 fill a block of the prefix cache."""
SEEDS = list(range(8))
HOSTILE = {"temperature": 0.2, "top_k": 1, "top_p": 0.1, "min_p": 0.9, "repetition_penalty": 3.0}
"""What generation_config.json may say: a server takes it for what a request leaves out."""
_START_SECONDS = 600


def fresh_model(settings=TINY, size=0.05):
    """A model whose adapter changes its output."""
    language_model = load_language_model(settings, seed=1)
    move(language_model, size)
    return language_model


def move(language_model, size=0.05, seed=0):
    """One update of the adapter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in language_model.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def vllm_sampler(language_model, settings=IN_PROCESS):
    return build_sampler(settings, language_model, max_decode_batch=256, thinking="auto")


def sample(sampler, n=4, parameters=PARAMETERS, seeds=SEEDS, prompts=PROMPTS):
    return sampler.sample(prompts, n, parameters, seeds)


def tokens(groups):
    return [one.token_ids for one in chain(*groups)]


def worst_difference(language_model, groups, temperature=PARAMETERS.temperature, prompts=PROMPTS):
    """Largest difference per token between the sampler's log-probabilities and a plain forward pass of PEFT's model."""
    worst = 0.0
    for prompt, group in zip(prompts, groups, strict=True):
        ids = tuple(encode_prompt(language_model.tokenizer, prompt))
        for one in group:
            with torch.inference_mode():
                trained = plain_logprobs(
                    language_model, TokenSequence(ids + one.token_ids, len(ids)), temperature=temperature
                )
            worst = max(worst, float((trained - torch.tensor(one.token_logprobs)).abs().max()))
    return worst


def run_of(folder, sampling, seed=0, **training):
    """Training that is over in seconds."""
    settings = {
        "loss": "rl", "steps": 10, "prompts_per_step": 8, "num_samples": 8, "max_new_tokens": 16,
        "learning_rate": 3e-3, "checkpoint_every": 5,
    }  # fmt: skip
    return ArmRun(
        experiment="engines",
        arm="diverse",
        seed=seed,
        folder=folder,
        task=TASK,
        model=TINY,
        training=TrainingSettings(**{**settings, **training}),
        diversity=DiversitySettings(weight=0.3, objective="coverage", set_size=3),
        sampling=sampling,
    )


def trained(run):
    """Trains to the end; returns the metrics of each step."""
    rows = []
    train_arm(run, lambda done, total, metrics: rows.append(metrics))
    return rows


def rewards_of(rows):
    return [row["train/reward"] for row in rows]


def serve_command(model):
    """`vllm serve MODEL`; vllm-cpu's own `vllm` looks itself up as `vllm`, finds nothing and stops."""
    try:
        version("vllm")
    except PackageNotFoundError:
        return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    return [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", model]


class Server:
    """A `vllm serve` of the tiny model that can be killed and started again on its port.

    Its folder's generation_config.json says other sampling than ours. loras: whether it takes adapters; updating:
    whether it loads them while it runs.
    """

    def __init__(self, folder: Path, *, loras=True, updating=True):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = folder / "server.log"
        self.model = folder / "model"
        shutil.copytree(resolve_source(TINY.source), self.model)
        (self.model / "generation_config.json").write_text(json.dumps(HOSTILE))
        self.environment = os.environ | {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": str(int(updating))}
        self.command = [
            *serve_command(str(self.model)), "--served-model-name", TINY.source, "--port", str(self.port),
            "--dtype", "float32", "--max-model-len", "64", "--block-size", "32", "--enforce-eager",
            "--logprobs-mode", "processed_logprobs",
        ]  # fmt: skip
        if loras:
            self.command += ["--enable-lora", "--max-lora-rank", "8"]
        self.process = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self):
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            try:
                with urlopen(f"{self.url}/health", timeout=5):
                    return
            except OSError:
                time.sleep(1)
        raise AssertionError(self.log.read_text()[-3000:])

    def answered(self):
        """Returns how many requests to sample it has answered."""
        return self.log.read_text().count('"POST /v1/completions HTTP/1.1" 200')

    def cached(self):
        """Returns how many tokens of prompts it has taken from its prefix cache."""
        with urlopen(f"{self.url}/metrics", timeout=30) as response:
            lines = response.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:prefix_cache_hits_total"))

    def kill(self):
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def running_server(folder, **keys):
    server = Server(folder, **keys)
    server.start()
    try:
        server.wait()
        yield server
    finally:
        server.process.terminate()  # gives its shared memory back, as SIGKILL cannot
        with suppress(subprocess.TimeoutExpired):
            server.process.wait(60)
        server.kill()
