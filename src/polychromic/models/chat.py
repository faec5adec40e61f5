"""Encodes conversations with a model's chat template and tells its thoughts from its answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

from polychromic.errors import DataError, ModelError
from polychromic.records import Finish, Message, Prompt, as_messages

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

_PROBE = "polychromic probe"

_answers: WeakKeyDictionary[PreTrainedTokenizerBase, dict[tuple[Any, ...], Any]] = WeakKeyDictionary()
"""Facts about each tokenizer and its template, which every prompt needs and which never change."""


class Example(NamedTuple):
    """T tokens; `loss_mask` is 1 where a token is learnt (those of the reply and its turn end), else 0."""

    input_ids: list[int]
    loss_mask: list[int]


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, **template_options: Any) -> list[int]:
    """Returns the tokens that generation starts from.

    With a chat template: the conversation and the opening of the answer, `template_options` (such as
    `enable_thinking=False`) passed to it. Without one: the contents of the messages, joined by line breaks,
    and nothing after them.

    Raises DataError when a message holds a token of structure as text, or when the template refuses the
    conversation or does not give every message of it to the model, whole (but for white space around it) and in order.
    """
    place = f"prompt {prompt.id!r}"
    for message in prompt.messages:
        _require_plain(tokenizer, message.content, f"{place}, {message.role} message", template_options)
    if tokenizer.chat_template:
        text = _render(
            tokenizer, prompt.messages, place, add_generation_prompt=True, tokenize=False, **template_options
        )
        _require_every_message(tokenizer, prompt.messages, text, place, template_options)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    ids = tokenizer("\n".join(message.content for message in prompt.messages))["input_ids"]
    # Some tokenizers close every text; an answer must not have to begin after the end.
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


def encode_pair(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, reference: str, **template_options: Any) -> Example:
    """Encodes the sequence of prompt, reference and turn end, however long.

    Raises DataError as `encode_prompt` does, also for the reference.
    """
    _require_plain(tokenizer, reference, f"prompt {prompt.id!r}, reference", template_options)
    prompt_ids = encode_prompt(tokenizer, prompt, **template_options)
    reply_ids = [
        *tokenizer(reference, add_special_tokens=False)["input_ids"],
        turn_end_id(tokenizer, **template_options),
    ]
    return Example(prompt_ids + reply_ids, [0] * len(prompt_ids) + [1] * len(reply_ids))


def encode_example(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, reference: str, max_length: int, **template_options: Any
) -> Example | None:
    """Encodes like `encode_pair`; None where that has more than `max_length` tokens: it is left out, never cut."""
    example = encode_pair(tokenizer, prompt, reference, **template_options)
    return example if len(example.input_ids) <= max_length else None


def turn_end_id(tokenizer: PreTrainedTokenizerBase, **template_options: Any) -> int:
    """Returns the token that ends an answer: the one the chat template puts after it, else the end-of-sequence token.

    Raises ModelError when there is neither.
    """
    if tokenizer.chat_template:
        after = _once(tokenizer, "turn end", template_options, lambda: _around_turns(tokenizer, template_options)[-1])
        if after is not None:
            return after
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "the tokenizer has no end-of-sequence token, so that no answer could ever end; "
            "set eos_token in its tokenizer_config.json"
        )
    return int(tokenizer.eos_token_id)  # type: ignore[arg-type]


def structure_tokens(tokenizer: PreTrainedTokenizerBase, **template_options: Any) -> dict[int, str]:
    """Returns tokens that data may not hold, by id: special ones of the added-token table, named ones, turn marks."""

    def tokens() -> dict[int, str]:
        added = tokenizer.added_tokens_decoder
        special = {token_id: token.content for token_id, token in added.items() if token.special}
        named = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
        around = _around_turns(tokenizer, template_options) if tokenizer.chat_template else ()
        return special | named | {token: added[token].content for token in around if token is not None}

    return _once(tokenizer, "structure", template_options, tokens)


def stop_token_ids(
    tokenizer: PreTrainedTokenizerBase, generation_config: GenerationConfig | None = None, **template_options: Any
) -> set[int]:
    """Lists the tokens that end a generation: the template's turn end, the tokenizer's EOS, the model's declared ones.

    Raises ModelError when there is none.
    """
    declared = generation_config.eos_token_id if generation_config is not None else None
    declared_ids = declared if isinstance(declared, list) else [declared]
    candidates = [turn_end_id(tokenizer, **template_options), tokenizer.eos_token_id, *declared_ids]
    return {int(token) for token in candidates if token is not None}


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Returns the text of generated tokens without special tokens, its white space as generated."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _render(tokenizer: PreTrainedTokenizerBase, conversation: Sequence[Message], place: str, **options: Any) -> Any:
    """Renders a conversation by the chat template; raises DataError where it refuses it."""
    from jinja2 import TemplateError

    turns = [{"role": message.role, "content": message.content} for message in conversation]
    try:
        return tokenizer.apply_chat_template(turns, return_dict=False, **options)
    except TemplateError as error:
        roles = ", ".join(message.role for message in conversation)
        raise DataError(f"{place}: the model's chat template refuses the roles {roles}: {error}") from error


def _require_every_message(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], text: str, place: str, options: dict[str, Any]
) -> None:
    """Raises DataError where a template leaves a message out, changes it, or puts it out of its order.

    A short content may stand in a template by chance, so each sequence of roles is tried with contents that cannot; a
    template may also cut by content (the thinking of earlier answers), so each prompt's own are looked for as well.
    """
    roles = tuple(message.role for message in messages)
    lost = _once(tokenizer, ("lost", roles), options, lambda: _lost_role(tokenizer, roles, options))
    template = f"the chat template of {tokenizer.name_or_path or 'the model'}"
    if lost is not None:
        raise DataError(
            f"{place}: {template} leaves out the {lost} message of a conversation of {', '.join(roles)} (or moves it "
            "behind a later one), so the model would never read it as it is; put its text into another message, or use "
            "a model whose template has that turn"
        )
    position = 0
    for number, message in enumerate(messages, start=1):
        content = message.content.strip()
        start = text.find(content, position)
        if start < 0:
            raise DataError(
                f"{place}, {message.role} message ({number} of {len(messages)}): {template} leaves out or changes a "
                "part of it (many take the thinking out of earlier answers); remove that part from the data, or use a "
                "model whose template keeps it"
            )
        position = start + len(content)


def _lost_role(tokenizer: PreTrainedTokenizerBase, roles: Sequence[str], options: dict[str, Any]) -> str | None:
    """Returns the role of the first message that the template loses or moves in a conversation of these roles."""
    markers = [f"{_PROBE} {number}." for number in range(len(roles))]
    turns = [Message(role, marker) for role, marker in zip(roles, markers, strict=True)]
    text = _render(tokenizer, turns, "a conversation", add_generation_prompt=True, tokenize=False, **options)
    position = 0
    for role, marker in zip(roles, markers, strict=True):
        position = text.find(marker, position)
        if position < 0:
            return role
    return None


def _require_plain(tokenizer: PreTrainedTokenizerBase, text: str, place: str, options: dict[str, Any]) -> None:
    """Raises DataError where data holds a token of structure as text: it would end or forge a turn."""
    match = _once(tokenizer, "pattern", options, lambda: _pattern(tokenizer, options)).search(text)
    if match is not None:
        raise DataError(
            f"{place}: holds the special token {match[0]!r} as text; expected plain text, since the chat template and "
            "the end of the turn are added here. Remove it from the data."
        )


def _pattern(tokenizer: PreTrainedTokenizerBase, options: dict[str, Any]) -> re.Pattern[str]:
    """Finds any token of structure in a text; much faster than tokenizing it."""
    tokens = filter(None, structure_tokens(tokenizer, **options).values())
    return re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)) or "(?!)")


def _around_turns(
    tokenizer: PreTrainedTokenizerBase, options: dict[str, Any]
) -> tuple[int | None, int | None, int | None]:
    """Returns added tokens next to a user and an assistant turn: before and after the first, after the second.

    Not those before an answer: a template may open it with <think>, which references may hold.
    """
    question, answer = f"{_PROBE} question", f"{_PROBE} answer"
    turns = (Message("user", question), Message("assistant", answer))
    text = _render(tokenizer, turns, "a user and an assistant turn", tokenize=False, **options)
    before, _, rest = text.partition(question)
    between, _, after = rest.rpartition(answer)
    added = tokenizer.added_tokens_decoder
    pieces = (before, between, after)
    pieces = [
        [token for token in tokenizer(piece, add_special_tokens=False)["input_ids"] if token in added]
        for piece in pieces
    ]
    first, second, last = pieces
    return first[-1] if first else None, second[0] if second else None, last[0] if last else None


def _once(tokenizer: PreTrainedTokenizerBase, question: Any, options: dict[str, Any], answer: Callable[[], Any]) -> Any:
    """Answers a question about a tokenizer as it stands now, once."""
    state = (repr(tokenizer.chat_template), len(tokenizer), tokenizer.eos_token_id, repr(sorted(options.items())))
    answers = _answers.setdefault(tokenizer, {})
    if (question, state) not in answers:
        answers[question, state] = answer()
    return answers[question, state]


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
    """Says whether thinking is told apart, and whether the prompt already opens it, as some chat templates do."""

    strips: bool
    opened: bool = False

    def read(self, text: str, finish: Finish) -> Answer:
        """Returns the answer of a text. One whose thinking never closes has an empty answer and counts as truncated."""
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
    """Tells how a model's thinking is read."""
    knows = _CLOSE in str(tokenizer.chat_template or "")
    if mode == "keep" or (mode == "auto" and not knows):
        return Thinking(False)
    if not knows:
        return Thinking(True)
    probe = Prompt("probe", as_messages("?"))
    start = str(tokenizer.decode(encode_prompt(tokenizer, probe, **template_options)))
    return Thinking(True, opened=start.rstrip().endswith(_OPEN))


def thinking_of_files(mode: ThinkingMode) -> Thinking:
    """Tells how thinking is read in texts of an unknown model: by `auto` it is told apart wherever it stands first."""
    return Thinking(mode != "keep")
