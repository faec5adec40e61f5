"""Looks at the untrained model for about a minute: what it answers now, how varied, and how long an answer takes."""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from polychromic.errors import ModelError
from polychromic.files import strict_json, write_text
from polychromic.records import GenerationRow, Prompt, SamplingParameters
from polychromic.tasks.base import Split
from polychromic.tasks.partitions.settings import SameAnswer

if TYPE_CHECKING:
    from polychromic.experiment.preflight.probe import Probe

logger = logging.getLogger(__name__)

SAMPLES = 8
_MOST_PROMPTS, _LEAST_PROMPTS = 8, 2
_SECONDS = 25.0  # of sampling; the model is loaded, checked and scored besides
_MEASURED = 200  # prompts of a split whose tokens are counted
_OPEN_TOKENS = 64  # looked at where no reference says how long an answer is
_LEAST_TOKENS = 8  # where prompts leave less of the context, sampling says which
DISTINCT_CORRECT = f"distinct_correct@{SAMPLES}"
METRICS = ("distinct_2", "self_bleu", "clusters", "pass@1", DISTINCT_CORRECT)
NEARLY_ALL_DIFFER = 0.9
"""Share of answers that differ in spelling from which on wordings tell nothing apart."""


@dataclass(frozen=True, slots=True)
class Probed:
    """Measurements; rates and metrics are means over the probed prompts, nan where nothing could be measured."""

    n_prompts: int
    n_samples: int
    max_new_tokens: int
    """Tokens that an answer was allowed, which training and evaluation then allow too."""
    tokens: float
    """Mean length of an answer."""
    truncated: float
    seconds_per_generation: float
    metrics: Mapping[str, float]
    """Under `same_answer`."""
    wordings: float
    """Share of a prompt's answers that differ in spelling."""
    same_answer: str = "normalised"
    embedder: str = "minilm"
    rewards: tuple[tuple[float, ...], ...] = ()
    """By prompt, those that the checker gave; empty without a checker."""
    failures: tuple[str, ...] = ()
    """Reasons for which the checker gave none."""
    reference_perplexity: float = math.nan
    chat: bool = True
    """True where the model has a chat template."""

    @property
    def spread(self) -> float:
        """Returns the share of prompts whose answers do not all have one reward: those that a reward teaches from."""
        if not self.rewards:
            return math.nan
        return float(np.mean([max(group) > min(group) for group in self.rewards if group] or [math.nan]))

    def metric(self, key: str) -> float:
        """Returns a metric's mean; nan where it was not measured."""
        return self.metrics.get(key, math.nan)


def probe_model(content: Mapping[str, Any], splits: Mapping[Split, Sequence[Prompt]]) -> Probed:
    """Samples the untrained model on a few prompts of validation and training, never of the test split.

    `content` is the part of an experiment that is decided already: name, task and model. Raises ModelError where the
    model cannot be had, and CheckerError or ConfigError where the checker cannot be used.
    """
    from polychromic.experiment.config import Experiment
    from polychromic.experiment.preflight.probe import Probe
    from polychromic.models.chat import encode_prompt
    from polychromic.models.loading import load_limits, load_tokenizer
    from polychromic.models.settings import ModelSettings

    model = ModelSettings(**content["model"])
    tokenizer = load_tokenizer(model)
    looked_at = [*splits["validation"], *splits["train"]][:_MOST_PROMPTS]
    longest = max(
        len(encode_prompt(tokenizer, prompt)) for prompts in splits.values() for prompt in prompts[:_MEASURED]
    )
    room = max(_LEAST_TOKENS, load_limits(model).context - longest)
    max_new_tokens = min(room, _allowed_tokens(tokenizer, splits["train"]))
    with tempfile.TemporaryDirectory() as folder:
        files = {split: str(Path(folder) / f"{split}.jsonl") for split in ("train", "validation", "test")}
        for split in ("train", "test"):
            write_text(Path(files[split]), rows_of(looked_at))
        experiment = Experiment.from_mapping(
            {
                **content,
                "task": content["task"] | files,
                "training": {"loss": "rl", "steps": 1, "max_new_tokens": max_new_tokens},
                "arms": {"baseline": {"untrained": True}, "other": {"untrained": True}},
                "evaluation": {"num_prompts": 1, "num_samples": SAMPLES, "max_new_tokens": max_new_tokens},
                "comparison": {"minimum": [{"metric": "distinct_2", "relative_change": 0.0}]},
            }
        )
        probe = Probe(experiment, Path(folder))
        prompts = looked_at[: _affordable(probe, looked_at, max_new_tokens)]
        write_text(Path(files["validation"]), rows_of(prompts))
        return _seen(probe, prompts, max_new_tokens, Path(folder), chat=bool(tokenizer.chat_template))


def _seen(probe: Probe, prompts: Sequence[Prompt], max_new_tokens: int, folder: Path, *, chat: bool) -> Probed:
    rows = probe.generations.rows
    wordings = probe.metric("clusters") / SAMPLES
    measured, embedder = _measured(probe, wordings)
    groups: dict[str, list[GenerationRow]] = {}
    for row in rows:
        groups.setdefault(row.prompt_id, []).append(row)
    rewards = tuple(tuple(row.reward for row in group if row.reward is not None) for group in groups.values())
    has_checker = probe.experiment.task.has_checker
    return Probed(
        n_prompts=len(groups),
        n_samples=SAMPLES,
        max_new_tokens=max_new_tokens,
        tokens=float(np.mean([row.n_tokens for row in rows])),
        truncated=float(np.mean([row.finish == "length" for row in rows])),
        seconds_per_generation=probe.generations.seconds_each,
        metrics={key: measured.metric(key) for key in METRICS if has_checker or key in METRICS[:3]},
        wordings=wordings,
        same_answer="normalised" if measured is probe else "embedding",
        embedder=embedder,
        rewards=rewards if has_checker else (),
        failures=tuple(row.error or "" for row in rows if row.reward is None) if has_checker else (),
        reference_perplexity=_reference_perplexity(probe, prompts, folder),
        chat=chat,
    )


def _measured(probe: Probe, wordings: float) -> tuple[Probe, str]:
    """Returns the probe whose equivalence tells answers apart, by meaning where nearly all wordings differ, and the
    embedder that can be had."""
    from polychromic.experiment.preflight.probe import Probe

    by_meaning = probe.experiment.model_copy(
        update={"task": probe.experiment.task.model_copy(update={"same_answer": SameAnswer(kind="embedding")})}
    )
    other = Probe(by_meaning, probe.folder)
    other.generations = probe.generations
    try:
        other.metric("clusters")
    except ModelError as error:
        logger.warning("answers are told apart by wording, the embedder cannot be had: %s", error)
        return probe, "hash"
    return (other if wordings >= NEARLY_ALL_DIFFER else probe), str(probe.experiment.task.model_dump()["embedder"])


def _reference_perplexity(probe: Probe, prompts: Sequence[Prompt], folder: Path) -> float:
    """Returns the mean perplexity of the prompts' references, as evaluation measures it; nan without references."""
    from polychromic.experiment.references import read_perplexities, score_references

    path = folder / "references.jsonl"
    if not score_references(path, prompts, lambda: probe.language_model):
        return math.nan
    return float(np.mean(list(read_perplexities(path).values()) or [math.nan]))


def _allowed_tokens(tokenizer: Any, train: Sequence[Prompt]) -> int:
    """Returns room for nearly all references with their turn end, in steps of 8 tokens; a guess without references."""
    texts = [text for prompt in train[:_MEASURED] for text in prompt.references]
    if not texts:
        return _OPEN_TOKENS
    longest = float(np.percentile([len(tokenizer(text).input_ids) + 1 for text in texts], 95))
    return int(min(256, max(16, 8 * math.ceil((longest + 4) / 8))))


def _affordable(probe: Probe, prompts: Sequence[Prompt], max_new_tokens: int) -> int:
    """Returns how many prompts can be sampled in the time, from a few tokens sampled first."""
    from polychromic.sampling.base import build_sampler

    sampler = build_sampler(probe.experiment.sampling, probe.language_model, max_decode_batch=256, thinking="auto")
    n_tokens = min(8, max_new_tokens)
    sampler.sample(prompts[:1], 1, SamplingParameters(max_new_tokens=2), [0])  # the first call is slow
    started = time.perf_counter()
    sampler.sample(prompts[:1], SAMPLES, SamplingParameters(max_new_tokens=n_tokens), [0])
    seconds = (time.perf_counter() - started) * max_new_tokens / n_tokens
    return max(_LEAST_PROMPTS, min(len(prompts), int(_SECONDS / max(seconds, 1e-6))))


def rows_of(prompts: Sequence[Prompt]) -> str:
    """Writes prompts as JSON lines of the project's own form."""
    return "".join(strict_json(_row(prompt)) + "\n" for prompt in prompts)


def _row(prompt: Prompt) -> dict[str, Any]:
    row: dict[str, Any] = {"id": prompt.id}
    if len(prompt.messages) == 1 and prompt.messages[0].role == "user":
        row["prompt"] = prompt.text
    else:
        row["messages"] = [asdict(message) for message in prompt.messages]
    if prompt.references:
        row["references"] = list(prompt.references)
    return row | ({"meta": dict(prompt.meta)} if prompt.meta else {})
