"""Defines the records that flow between stages: prompts, generations, and the rows a run leaves on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

Finish = Literal["stop", "length", "missing"]
"""Endings of a generation: with the end-of-sequence token, or at its token limit. "missing": the model was asked for
several answers at once and gave fewer; such a generation has no text and no tokens."""
NO_CHECKER = "task.checker is not set"
NOT_GIVEN = "the model gave fewer answers than it was asked for"
NO_REASON = "no reason given"
"""Reasons why a reward is missing that tell of no failure of a checker."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, in the form chat templates read."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question to a model.

    `messages` ends with the turn to be answered; `references` are answers known to be good (may be empty);
    `meta` is free and belongs to the task (arithmetic keeps its numbers and target there).
    """

    id: str
    messages: tuple[Message, ...]
    references: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """Returns the content of the last message."""
        return self.messages[-1].content


@dataclass(frozen=True, slots=True)
class Generation:
    """One sampled answer. `token_ids` are the generated tokens, the end-of-sequence token included.

    `thinking` is what the model wrote before the answer and `text` leaves out (None where nothing was told apart).
    `logprob` is their summed log-probability under the tempered policy, nan where the sampler does not tell, and
    `token_logprobs` is that of each token, None where it does not tell.
    """

    text: str
    token_ids: tuple[int, ...]
    finish: Finish
    logprob: float = float("nan")
    thinking: str | None = None
    token_logprobs: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """A checker's answer on one generation: a reward in [0, 1], or None and the reason it could not tell.

    `protection` says in words what kept an answer that was executed from the rest of the system; None of others.
    """

    reward: float | None
    error: str | None = None
    protection: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """N generations of one prompt with what the checker said of each."""

    prompt: Prompt
    generations: tuple[Generation, ...]
    checks: tuple[Check, ...]

    @property
    def texts(self) -> list[str]:
        """Returns the generated texts in order."""
        return [generation.text for generation in self.generations]

    @property
    def rewards(self) -> list[float]:
        """Returns the rewards in order, nan where the checker failed."""
        return [float("nan") if check.reward is None else check.reward for check in self.checks]


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """The way in which tokens are drawn. temperature > 0; top_p in (0, 1]; min_p in [0, 1); max_new_tokens ≥ 1.

    `others` are settings that only other tools have, such as (("top_k", "40"),), sorted by name.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    min_p: float = 0.0
    max_new_tokens: int = 64
    others: tuple[tuple[str, str], ...] = ()

    @property
    def label(self) -> str:
        """Returns the short name used in tables and file keys, such as `T=0.7` or `T=1,top_p=0.9`."""
        parts = [f"T={self.temperature:g}"]
        if self.top_p < 1.0:
            parts.append(f"top_p={self.top_p:g}")
        if self.min_p > 0.0:
            parts.append(f"min_p={self.min_p:g}")
        parts += [f"{name}={value}" for name, value in self.others]
        return ",".join(parts)


@dataclass(frozen=True, slots=True)
class GenerationRow:
    """One line of generations.jsonl.

    `index` counts the generations of one prompt under one set of sampling parameters from 0.
    `reward` is the training checker's (None where it failed, with the reason in `error`), `judge` the
    evaluation-only checker's where the task names one. `cluster` is the task's canonical form of the answer
    (answers with one label count as the same), None where the task has none and clusters are found later.
    `thinking` is what stood before the answer and is no part of `text`; `n_tokens` counts it.
    `of` is how many answers the prompt was to have when this one was drawn, together with all others of that `of`, and
    `adapter` begins the SHA-256 of the adapter's weights; None of an untrained model, and in rows made elsewhere.
    `protection` is the check's, where the answer was executed.
    """

    prompt_id: str
    index: int
    text: str
    n_tokens: int
    finish: Finish
    sampling: SamplingParameters
    sampling_seed: int
    reward: float | None
    error: str | None = None
    judge: float | None = None
    judge_error: str | None = None
    cluster: str | None = None
    thinking: str | None = None
    of: int | None = None
    adapter: str | None = None
    protection: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns a plain mapping for JSON; `from_json` is its inverse."""
        fields = asdict(self)
        if not self.sampling.others:
            del fields["sampling"]["others"]
        for name in ("thinking", "protection"):
            if fields[name] is None:
                del fields[name]
        return fields

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> GenerationRow:
        """Rebuilds a row; raises KeyError, TypeError or ValueError on a mapping that `to_json` did not make."""
        fields = dict(data)
        sampling = dict(fields["sampling"])
        others = tuple((name, value) for name, value in sampling.pop("others", ()))
        fields["sampling"] = SamplingParameters(**sampling, others=others)
        row = cls(**fields)
        row._require_possible()
        return row

    def _require_possible(self) -> None:
        for name in ("index", "n_tokens"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0:
                raise ValueError(f"{name} is {value!r:.60}, expected a whole number of at least 0")
        for name in ("reward", "judge"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and 0 <= value <= 1):
                raise ValueError(f"{name} is {value!r:.60}, expected a number from 0 to 1 or null")
        if not isinstance(self.prompt_id, str) or not isinstance(self.text, str):
            raise TypeError("prompt_id and text are texts, and one of them is not")
        if self.finish not in get_args(Finish):
            raise ValueError(f"finish is {self.finish!r:.60}, expected one of {', '.join(get_args(Finish))}")


def as_messages(turns: str | Sequence[Message]) -> tuple[Message, ...]:
    """Turns a plain string into one user turn; keeps a sequence of messages."""
    if isinstance(turns, str):
        return (Message("user", turns),)
    return tuple(turns)
