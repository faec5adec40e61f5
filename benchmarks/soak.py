"""Does a long run grow? Memory and file handles over thousands of training steps, and what a failing tracker costs.

    python benchmarks/soak.py growth [--steps 2000]     # resident memory and open files while training
    python benchmarks/soak.py outage [--steps 300]      # steps with trackers: refused, slow, or answered 500

Trains a small arithmetic arm of the packaged model on one thread. The outages are real: a tracker that posts every
step to a server of another process on this machine.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import socket
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import torch

from polychromic.models.settings import AdapterSettings, ModelSettings
from polychromic.tasks.arithmetic import ArithmeticTask
from polychromic.training.base import ArmRun
from polychromic.training.settings import DiversitySettings, TrainingSettings
from polychromic.training.trackers import BackgroundTracker
from polychromic.training.trainer import ArmTrainer

SETTLED_AFTER = 200


SLOW_SECONDS = 20.0
CLIENT_SECONDS = 5.0  # how long a client waits for an answer, as hosted trackers do


class HttpTracker:
    """Posts every step as JSON, as hosted trackers do."""

    def __init__(self, url: str) -> None:
        self.url = url

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Send one step. Raises OSError where the server cannot be reached, is too slow or says no."""
        content = json.dumps({"step": step, **metrics}).encode()
        request = urllib.request.Request(self.url, content, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=CLIENT_SECONDS) as answer:
            answer.read()

    def close(self) -> None:
        """Nothing is kept open."""


class Broken(BaseHTTPRequestHandler):
    """Says 500 at once, or to /slow after a long while."""

    def do_POST(self) -> None:
        """Answer, after reading what was sent."""
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/slow":
            time.sleep(SLOW_SECONDS)
        with suppress(BrokenPipeError):  # the client has gone
            self.send_error(500)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


def serve(ports: Any) -> None:
    """Serve until the process is ended; the port goes into the queue."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Broken)
    server.daemon_threads = True
    ports.put(server.server_port)
    server.serve_forever()


@contextmanager
def broken_server() -> Iterator[int]:
    """The port of a server in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ports = context.Queue()
    process = context.Process(target=serve, args=(ports,), daemon=True)
    process.start()
    try:
        yield ports.get(timeout=60)
    finally:
        process.terminate()
        process.join()


def closed_port() -> int:
    """A port at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main() -> None:
    """Run the chosen measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["growth", "outage"])
    parser.add_argument("--steps", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if options.what == "growth":
            growth(Path(folder), options.steps or 2000)
        else:
            outage(Path(folder), options.steps or 300)


def trainer(folder: Path, steps: int) -> ArmTrainer:
    """A small reward arm with a diversity term."""
    run = ArmRun(
        experiment="soak",
        arm="coverage",
        seed=0,
        folder=folder,
        task=ArithmeticTask(512, 16, 16),
        model=ModelSettings(source="polychromic:arithmetic-tiny", adapter=AdapterSettings(rank=8)),
        training=TrainingSettings(
            loss="rl",
            steps=steps,
            prompts_per_step=4,
            num_samples=6,
            max_new_tokens=16,
            learning_rate=2e-4,
        ),
        diversity=DiversitySettings(weight=1.0, set_size=3, max_zero_gradient_steps=10**9),
    )
    return ArmTrainer(run)


def growth(folder: Path, steps: int) -> None:
    """Print resident memory and open files now and then, and the growth since things have settled."""
    process, training = psutil.Process(), trainer(folder, steps)
    memory: dict[int, int] = {}
    files: set[int] = set()
    while not training.finished:
        training.step()
        if training.steps_done % 100 == 0:
            memory[training.steps_done] = process.memory_info().rss
            files.add(process.num_fds())
        if training.steps_done % 400 == 0:
            print(
                f"step {training.steps_done}: {memory[training.steps_done] / 2**20:.1f} MiB, {process.num_fds()} files"
            )
    settled = memory[SETTLED_AFTER]
    print(f"growth from step {SETTLED_AFTER} to {steps}: {100 * (memory[max(memory)] / settled - 1):+.2f} %")
    print(f"most in between: {100 * (max(memory.values()) / settled - 1):+.2f} %; open files: {sorted(files)}")


def outage(folder: Path, steps: int) -> None:
    """Print the median step of four equal runs that differ in their tracker, in turn step by step.

    CPU seconds of the whole process, the trackers' threads among them: a busy machine does not change these. Waiting
    would not show there, so what the call of a tracker takes by the wall clock is printed too.
    """
    with broken_server() as port:
        address = f"http://127.0.0.1:{port}"
        urls = {"refused": f"http://127.0.0.1:{closed_port()}", "slow": f"{address}/slow", "500": address}
        trackers = {name: BackgroundTracker(name, partial(HttpTracker, url)) for name, url in urls.items()}
        runs = {name: trainer(folder / name, steps) for name in ["none", *urls]}
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        calls: dict[str, list[float]] = {name: [] for name in trackers}
        for step in range(steps):
            for name, training in runs.items():
                started = time.process_time()
                metrics = training.step()
                called = time.perf_counter()
                if name in trackers:
                    trackers[name].log(metrics, step)
                    calls[name].append(time.perf_counter() - called)
                seconds[name].append(time.process_time() - started)
        for name, tracker in trackers.items():
            started = time.perf_counter()
            tracker.close()
            print(f"{name}: closed in {time.perf_counter() - started:.1f} s")
    plain = statistics.median(seconds["none"])
    for name, taken in seconds.items():
        median = statistics.median(taken)
        call = f", call {1000 * max(calls[name]):.2f} ms at most" if name in calls else ""
        print(f"{name}: {1000 * median:.1f} ms CPU a step, {100 * (median / plain - 1):+.1f} %{call}")


if __name__ == "__main__":
    main()
