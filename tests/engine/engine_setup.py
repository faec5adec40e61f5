"""Makes a model with an adapter, its sampler, and a `vllm serve` that can be killed."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import torch

from polychromic.models.loading import load_language_model
from polychromic.models.settings import AdapterSettings, ModelSettings
from polychromic.models.sources import resolve_source
from polychromic.sampling.base import SamplerSettings, build_sampler

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "auto")

TINY = ModelSettings(source="polychromic:arithmetic-tiny", adapter=AdapterSettings(rank=8, alpha=16))
OPTIONS = {"enforce_eager": True, "max_model_len": 64}
IN_PROCESS = SamplerSettings(engine="vllm", options=OPTIONS)
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


class Server:
    """A `vllm serve` of the tiny model that can be killed and started again on its port."""

    def __init__(self, folder: Path, rank: int = 8, settings: ModelSettings = TINY):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = folder / "server.log"
        self.command = [
            sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(resolve_source(settings.source)),
            "--port", str(self.port), "--dtype", "float32", "--max-model-len", "64", "--enforce-eager",
            "--enable-lora", "--max-lora-rank", str(rank), "--logprobs-mode", "processed_logprobs",
        ]  # fmt: skip
        self.process = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self.command,
                env=os.environ | {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"},
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

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def running_server(folder):
    server = Server(folder)
    server.start()
    try:
        server.wait()
        yield server
    finally:
        server.kill()
