"""Asks a model for several different answers in one generation, and how likely it finds each.

Verbalized sampling (Zhang et al., 2025, arXiv:2510.01171) gets diversity out of a chat model without training it. The
answers of one reply know of each other, so they are a set rather than independent draws.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from polychromic.errors import ModelError
from polychromic.records import Generation, Message, Prompt, SamplingParameters
from polychromic.sampling.base import Sampler

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_REQUEST = """{content}

Give {n} different answers to the message above, each within its own <response> tag. Each <response> holds a <text> \
with nothing but the answer, and a <probability> between 0 and 1: how likely you would be to give this answer."""

_TOKENS_OF_FRAME = 24  # an answer's tags and probability
_MISSING = Generation("", (), "missing")

_TAGGED_TEXT = re.compile(r"<text>(.*?)(?:</text>|(?=<probability>|</response>|<response>|<text>)|\Z)", re.S | re.I)
_PROBABILITY = re.compile(r"<probability>\s*([\d.]+)\s*(%?)", re.I)
_NUMBERED = re.compile(r"^\s*(?:\(?\d{1,2}[.):]|[-*•])\s+(.*\S)\s*$")
_WORD = r"(?:probability|prob\.?|p)\s*[:=]?\s*"
_SHARE = r"0?\.\d+|1\.0+|\d{1,3}(?:\.\d+)?\s*%"
# "(0.3)", ", probability: 0.3" and " - 30 %"; a bare number at the end of an answer belongs to the answer.
_TRAILING_PROBABILITY = re.compile(
    rf"\s*(?:[\[(]\s*(?:{_SHARE}|{_WORD}(?:{_SHARE}|[01]))\s*[\])]|[\s,;:–—-]+{_WORD}(?:{_SHARE}|[01])|\s[–—|-]\s+(?:{_SHARE}))"
    r"\s*\.?\s*$",
    re.I,
)
_LONGEST_PROBABILITY = 40  # characters; bounds the search in a long line
_STATED_NUMBER = re.compile(r"\d*\.?\d+\s*%?")
_SURROGATE = re.compile("[\ud800-\udfff]")
_QUOTES = {'"': '"', "“": "”", "'": "'", "«": "»"}


@dataclass(frozen=True, slots=True)
class VerbalisedAnswer:
    """One answer that a reply holds, and the probability it claims (None where it gives none that can be read).

    `closed` says that the reply went on after it: the last answer of a reply that was cut off is not.
    """

    text: str
    probability: float | None
    closed: bool = True


class VerbalizedSampler:
    """Asks another sampler for `n_answers` answers a reply and hands out each as a generation.

    Raises ModelError for a model without a chat template: it continues texts and follows no request.
    """

    def __init__(self, sampler: Sampler, tokenizer: PreTrainedTokenizerBase, n_answers: int) -> None:
        require_chat_model(tokenizer)
        self.sampler = sampler
        self.tokenizer = tokenizer
        self.n_answers = n_answers

    def sample(
        self, prompts: Sequence[Prompt], num_samples: int, parameters: SamplingParameters, seeds: Sequence[int]
    ) -> list[list[Generation]]:
        """Draws generations for each prompt from as many replies as it takes; what a reply lacks is "missing".

        `parameters.max_new_tokens` is an answer's share: a reply may have that for each of its answers.
        """
        requests = [verbalised_prompt(prompt, self.n_answers) for prompt in prompts]
        most_tokens = reply_tokens(self.n_answers, parameters.max_new_tokens)
        n_replies = -(-num_samples // self.n_answers)
        replies = self.sampler.sample(requests, n_replies, replace(parameters, max_new_tokens=most_tokens), seeds)
        return [self._answers(group)[:num_samples] for group in replies]

    def _answers(self, replies: Sequence[Generation]) -> list[Generation]:
        """Returns `n_answers` generations for each reply: those it gave, then the missing ones."""
        answers: list[Generation] = []
        for reply in replies:
            whole = [
                answer
                for answer in parse_verbalised(reply.text, self.n_answers)
                if answer.closed or reply.finish == "stop"
            ]
            answers += [self._generation(answer.text) for answer in whole]
            answers += [_MISSING] * (self.n_answers - len(whole))
        return answers

    def _generation(self, text: str) -> Generation:
        return Generation(text, tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"]), "stop")


def reply_tokens(n_answers: int, max_new_tokens: int) -> int:
    """Returns the most tokens that a reply may have: each answer's, and those of its tags."""
    return n_answers * (max_new_tokens + _TOKENS_OF_FRAME)


def require_chat_model(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises ModelError where the model cannot be asked for several answers."""
    if not tokenizer.chat_template:
        raise ModelError(
            "verbalized sampling asks a chat model for several answers, and this model has no chat template; "
            "remove the arm with `verbalized`, or use an instruction-tuned model"
        )


def verbalised_prompt(prompt: Prompt, n_answers: int) -> Prompt:
    """Adds the request for several answers to the last message of the prompt."""
    last = prompt.messages[-1]
    request = Message(last.role, _REQUEST.format(content=last.content, n=n_answers))
    return replace(prompt, messages=(*prompt.messages[:-1], request))


def parse_verbalised(reply: str, n_answers: int) -> list[VerbalisedAnswer]:
    """Reads the first `n_answers` answers of a reply; none where it has none that can be told apart.

    Read are, in this order: <text> tags, a JSON list (or an object that holds one), and numbered or bulleted lines.
    Every text stands in the reply as it is (in JSON: with its escapes undone); empty ones are no answers.
    """
    for read in (_tagged, _as_json, _listed):
        answers = [answer for answer in read(reply) if answer.text]
        if answers:
            return answers[:n_answers]
    return []


def _tagged(reply: str) -> Iterator[VerbalisedAnswer]:
    matches = list(_TAGGED_TEXT.finditer(reply))
    ends = [*(match.start() for match in matches), len(reply)][1:]
    for match, end in zip(matches, ends, strict=True):
        stated = _PROBABILITY.search(reply, match.end(), end)
        probability = _probability(stated[1] + stated[2]) if stated else None
        yield VerbalisedAnswer(match[1].strip(), probability, closed=match.end(1) < len(reply))


def _as_json(reply: str) -> Iterator[VerbalisedAnswer]:
    for item in _json_items(reply):
        text = item
        if isinstance(item, dict):
            text = next((item[key] for key in ("text", "response", "answer") if key in item), None)
        if isinstance(text, str) and not _SURROGATE.search(text):  # JSON escapes can spell half a pair
            stated = item.get("probability") if isinstance(item, dict) else None
            yield VerbalisedAnswer(text.strip(), _probability(str(stated)))


def _json_items(reply: str) -> list[Any]:
    """Returns the items of the first JSON list, or (as in a list that was cut off) the objects that can be read."""
    objects = []
    end = 0
    for match in re.finditer(r"[\[{]", reply):
        if match.start() < end:
            continue
        try:
            value, end = json.JSONDecoder().raw_decode(reply, match.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(value, list):
            return value
        # {"responses": [...]}
        inner = next((item for item in value.values() if isinstance(item, list)), None)
        if inner:
            return inner
        objects.append(value)
    return objects


def _listed(reply: str) -> Iterator[VerbalisedAnswer]:
    lines = reply.splitlines()
    for number, line in enumerate(lines, start=1):
        match = _NUMBERED.match(line)
        if match is None:
            continue
        text, probability = match[1], None
        stated = _TRAILING_PROBABILITY.search(text, max(0, len(text) - _LONGEST_PROBABILITY))
        if stated and stated.start() > 0:
            text, probability = text[: stated.start()], _probability(_STATED_NUMBER.findall(stated[0])[-1])
        if len(text) > 1 and _QUOTES.get(text[0]) == text[-1]:
            text = text[1:-1].strip()
        yield VerbalisedAnswer(text, probability, closed=number < len(lines))


def _probability(text: str) -> float | None:
    """Reads a number from 0 to 1, or a percentage; None for anything else."""
    percent = text.strip().endswith("%")
    try:
        value = float(text.strip().rstrip("% "))
    except ValueError:
        return None
    value = value / 100 if percent else value
    return value if 0.0 <= value <= 1.0 else None
