"""Thinking text: what a model writes between `<think>` and `</think>` before its answer, told apart from the answer.

One function does it for training rewards, evaluation and generations made elsewhere, so that they never judge or
measure different things.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from polychromic.models.chat import encode_prompt
from polychromic.records import Finish, Prompt, as_messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ThinkingMode = Literal["auto", "keep", "strip", "apart"]
"""`keep`: thinking is part of the text. `strip`: only the answer is checked and measured. `apart`: as `strip`, and the
thinking is measured too, for itself. `auto`: `strip` for models whose chat template knows thinking, else `keep`."""

_OPEN, _CLOSE = "<think>", "</think>"


class Answer(NamedTuple):
    """A text told apart: the answer, the thinking before it (None where there is none), and how the text ended."""

    text: str
    thinking: str | None
    finish: Finish


@dataclass(frozen=True, slots=True)
class Thinking:
    """Whether thinking is told apart, and whether the prompt already opens it, as some chat templates do."""

    strips: bool
    opened: bool = False

    def read(self, text: str, finish: Finish) -> Answer:
        """The answer of a text. One whose thinking never closes has an empty answer and counts as truncated."""
        if not self.strips or finish == "missing":
            return Answer(text, None, finish)
        before, closed, after = text.partition(_CLOSE)
        begins = before.lstrip().startswith(_OPEN)
        # A template that opens the thinking leaves a generation that only closes it.
        if not (self.opened or begins or (closed and _OPEN not in before)):
            return Answer(text, None, finish)
        thinking = before.lstrip().removeprefix(_OPEN).strip()
        if not closed:
            return Answer("", thinking, "length")
        if not after.lstrip().startswith(_OPEN):
            return Answer(after.lstrip(), thinking, finish)
        rest = Thinking(True).read(after, finish)
        return Answer(rest.text, f"{thinking}\n{rest.thinking}", rest.finish)


def thinking_of_model(
    mode: ThinkingMode, tokenizer: PreTrainedTokenizerBase, template_options: Mapping[str, Any]
) -> Thinking:
    """How a model's thinking is read."""
    knows = _CLOSE in str(tokenizer.chat_template or "")
    if mode == "keep" or (mode == "auto" and not knows):
        return Thinking(False)
    if not knows:
        return Thinking(True)
    probe = Prompt("probe", as_messages("?"))
    start = str(tokenizer.decode(encode_prompt(tokenizer, probe, **template_options)))
    return Thinking(True, opened=start.rstrip().endswith(_OPEN))


def thinking_of_files(mode: ThinkingMode) -> Thinking:
    """How thinking is read in texts of an unknown model: by `auto` it is told apart wherever it stands first."""
    return Thinking(mode != "keep")
