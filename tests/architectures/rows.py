"""One row of the table of architectures: a tiny model checked, trained in both ways, saved, loaded by plain PEFT."""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.architectures.zoo import build

from polychromic.errors import PolychromicError
from polychromic.files import read_json, read_jsonl
from polychromic.models.adapters import known_peft_warnings
from polychromic.models.chat import encode_pair
from polychromic.models.loading import load_language_model
from polychromic.models.model_report import describe_model
from polychromic.models.settings import AdapterSettings, ModelSettings
from polychromic.records import Check, Prompt, as_messages
from polychromic.training.base import ArmRun
from polychromic.training.settings import DiversitySettings, TrainingSettings
from polychromic.training.trainer import train_arm

QUESTIONS = (
    "What is a brick good for?",
    "Old books?",
    "Say one use of an anvil, and then another one.",
    "A door?",
)
ANSWERS = ("a door stop", "an anvil", "book end, or a good old brick")


@dataclass(frozen=True)
class Row:
    """Holds what was found; differences in nats, nan where a step was not reached."""

    name: str
    kind: str = ""
    training: str = ""
    sampling: str = ""
    sampling_difference: float = math.nan
    training_difference: float = math.nan
    gradient_difference: float = math.nan
    greedy: str = ""
    saved_difference: float = math.nan
    """Between the cross-entropy that training logged and that of the saved adapter under plain PEFT, per token."""
    mismatch: float = math.nan
    refused: str = ""

    @property
    def is_right(self) -> bool:
        """Everything that was reached agrees, and everything was reached."""
        return not self.refused and self.greedy == "right" and self.saved_difference <= 1e-4 and self.mismatch <= 1e-4


class Questions:
    """A task in memory: the reward of an answer is the share of its letters that are vowels, so that answers differ."""

    name = "questions"
    pass_threshold = 0.3

    def prompts(self, split: str) -> list[Prompt]:
        """The same few questions in every split."""
        return [
            Prompt(f"q{number}", as_messages(text), ANSWERS[: 1 + number % len(ANSWERS)])
            for number, text in enumerate(QUESTIONS)
        ]

    def check(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Check]:
        """Share of vowels, doubled and cut at 1."""
        return [Check(min(1.0, 2 * sum(c in "aeiou" for c in text) / max(1, len(text)))) for text in texts]

    def judge(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> None:
        """No second checker."""

    def cluster(self, prompt: Prompt, text: str) -> str:
        """Answers with the same text are the same."""
        return text

    def distances(self, texts: Sequence[str]) -> np.ndarray:
        """1 between different texts."""
        return np.array([[float(one != other) for other in texts] for one in texts])


def examine(name: str, folder: Path, *, dtype: str = "float32", **adapter: Any) -> Row:
    """Build the architecture in `folder`, check it, train three steps in both ways, and compare what was saved."""
    source = build(name, folder / "model")
    settings = ModelSettings(source=str(source), dtype=dtype, adapter=AdapterSettings(rank=4, alpha=8, **adapter))  # type: ignore[arg-type]
    row = Row(name, kind=read_json(source / "config.json")["architectures"][0])
    try:
        language_model = load_language_model(settings, seed=0)
        statuses = {found.name: found.status for found in describe_model(language_model, 48, trains=True)}
        trained = train_arm(_run(settings, folder / "references", "sft", steps=3))
        row = replace(row, **_found(folder / "references"), greedy=statuses["greedy"])
        row = replace(row, saved_difference=_saved_difference(settings, trained, folder / "again"))
        train_arm(_run(settings, folder / "reward", "rl", steps=3))
        mismatches = [step["train/sampler_mismatch"] for step in read_jsonl(folder / "reward" / "metrics.jsonl")]
        return replace(row, mismatch=max(mismatches))
    except PolychromicError as error:
        return replace(row, refused=str(error).replace(f"{source}: ", "").replace(str(source), name))


def examine_quietly(name: str) -> Row:
    """The same in a folder that is removed afterwards, without the bars and warnings of an architecture's own code."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        return examine(name, Path(folder))


def _run(settings: ModelSettings, folder: Path, loss: Any, steps: int) -> ArmRun:
    return ArmRun(
        experiment="zoo",
        arm="diverse",
        seed=0,
        folder=folder,
        task=Questions(),
        model=settings,
        training=TrainingSettings(
            loss=loss,
            steps=steps,
            prompts_per_step=len(QUESTIONS),
            num_samples=4,
            max_new_tokens=12,
            learning_rate=1e-2,
            max_length=64,
        ),
        diversity=DiversitySettings(weight=1.0, objective="distance", set_size=2, num_samples=4, sample_every=1),
    )


def _found(folder: Path) -> dict[str, Any]:
    check = read_json(folder / "model_check.json")["train"]
    path = check["path"]
    return {
        "training": f"{path['layout']}, {path['head']} head",
        "sampling": path["decoding"].replace("_", " "),
        "sampling_difference": check["sampling"],
        "training_difference": check["training"],
        "gradient_difference": check["gradient"],
    }


def _saved_difference(settings: ModelSettings, adapter: Path, folder: Path) -> float:
    """Continue from the adapter for one step: what is logged is the cross-entropy of the adapter as it was saved."""
    start = settings.model_copy(update={"adapter": settings.adapter.model_copy(update={"start_from": str(adapter)})})
    train_arm(_run(start, folder, "sft", steps=1))
    logged = read_jsonl(folder / "metrics.jsonl")[0]["train/quality_loss"]
    return abs(logged - plain_cross_entropy(settings.source, adapter, settings.dtype))


def plain_cross_entropy(source: str, adapter: Path, dtype: str) -> float:
    """Nats per token of all answers, by transformers and PEFT alone: one sequence at a time."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, dtype))
    with known_peft_warnings():
        model = PeftModel.from_pretrained(base, str(adapter)).eval()
    tokenizer = AutoTokenizer.from_pretrained(source)
    nats, n_tokens = 0.0, 0
    for prompt in Questions().prompts("train"):
        for reference in prompt.references:
            example = encode_pair(tokenizer, prompt, reference)
            ids, start = torch.tensor([example.input_ids]), example.loss_mask.index(1)
            with torch.inference_mode():
                logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].float()
            logprobs = torch.log_softmax(logits[start - 1 : -1], -1).gather(-1, ids[0, start:, None])
            nats -= float(logprobs.sum())
            n_tokens += len(example.input_ids) - start
    return nats / n_tokens


def as_mapping(row: Row) -> dict[str, Any]:
    """Plain mapping of a row."""
    return asdict(row)
