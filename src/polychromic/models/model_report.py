"""Describes a model for `polychromic check`: one row per question, each with an answer from the model itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from polychromic.models.agreement import ModelCheck, tolerance_of
from polychromic.models.chat import decode, encode_prompt, turn_end_id
from polychromic.models.decoding import decode_rows, decoding
from polychromic.models.loading import LanguageModel
from polychromic.models.logprobs import TokenSequence, answer_logprobs, plain_logprobs
from polychromic.models.selfcheck import NEW_TOKENS, self_check
from polychromic.records import Message, Prompt, as_messages

Status = Literal["right", "note", "wrong"]

PROBES = (
    "Name a use for a brick.",
    "Write one sentence about rain that a child would like to hear before going to sleep.",
    "Hello!",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what was looked at, how it stands, and the answer with its numbers."""

    name: str
    status: Status
    answer: str


def describe_model(language_model: LanguageModel, length: int, *, trains: bool) -> Iterator[Row]:
    """Yields the rows of the table, one after another. Raises ModelError where the model cannot be used at all.

    length: tokens of the longest prompt with its answer; trains: the adapter is one to be trained.
    """
    prompts = [Prompt(f"probe-{number}", as_messages(text)) for number, text in enumerate(PROBES)]
    encoded = [encode_prompt(language_model.tokenizer, prompt, **language_model.chat_options) for prompt in prompts]
    yield _model_row(language_model)
    check = self_check(language_model, encoded, length, trains=trains)
    yield from _check_rows(check)
    yield _greedy_row(language_model, encoded)
    yield _independence_row(language_model, encoded[0])
    yield _template_row(language_model)
    yield _end_row(language_model)
    yield _limits_row(language_model, length)


def _model_row(language_model: LanguageModel) -> Row:
    causal, parameters = language_model.causal_model, list(language_model.model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    return Row(
        "model",
        "right",
        f"{type(causal).__name__}, {sum(p.numel() for p in parameters) / 1e6:.2f} M parameters, {trained / 1e6:.2f} M "
        f"trained, {str(language_model.dtype).removeprefix('torch.')}, attention: {causal.config._attn_implementation}",
    )


def _check_rows(check: ModelCheck) -> Iterator[Row]:
    path, lengths = check.path, f"{min(check.lengths)} to {max(check.lengths)} tokens"
    slower = "; not faster because " + "; ".join(check.refused) if check.refused else ""
    yield Row("causality", "right", f"a later token moves no earlier one ({check.causality:.1e} nats)")
    yield Row(
        "sampling",
        "right",
        f"{check.sampling:.1e} nats per token from a plain forward pass ({path.decoding.replace('_', ' ')} decoding, "
        f"{lengths})",
    )
    gradient = "" if check.gradient != check.gradient else f", gradient {check.gradient:.1e} off"
    yield Row(
        "training",
        "note" if slower else "right",
        f"{check.training:.1e} nats per token{gradient} ({path.layout} answers, {path.head} head{slower})",
    )


def _greedy_row(language_model: LanguageModel, encoded: Sequence[Sequence[int]]) -> Row:
    """Compares the likeliest tokens, one after another, with those of transformers' `generate`."""

    def likeliest(logits_BV: torch.Tensor, rows_B: torch.Tensor, step: int) -> torch.Tensor:
        return logits_BV.argmax(dim=-1)

    with decoding(language_model):
        rows = decode_rows(language_model, encoded, 1, likeliest, NEW_TOKENS, language_model.stop_ids)
    different = []
    for number, (prompt, row) in enumerate(zip(encoded, rows, strict=True), start=1):
        theirs = _generated(language_model, prompt)
        pairs = zip(row.token_ids, theirs, strict=False)
        at = next((place for place, (ours, token) in enumerate(pairs) if ours != token), None)
        if at is None and len(theirs) == len(row.token_ids):
            continue
        if at is None or not _is_tie(language_model, [*prompt, *theirs[:at]], (row.token_ids[at], theirs[at])):
            different.append(
                f"prompt {number} at token {min(len(theirs), len(row.token_ids)) if at is None else at + 1}"
            )
    if different:
        return Row("greedy", "wrong", f"other tokens than `generate` of transformers: {', '.join(different)}")
    return Row("greedy", "right", f"the same tokens as `generate` on {len(encoded)} prompts")


def _generated(language_model: LanguageModel, prompt: Sequence[int]) -> list[int]:
    from transformers import GenerationConfig

    input_ids = torch.tensor([list(prompt)], device=language_model.device)
    plain = GenerationConfig(
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        eos_token_id=sorted(language_model.stop_ids),
        pad_token_id=language_model.pad_id,
        use_cache=language_model.path.decoding != "uncached",
    )
    # What a model's own configuration adds, such as a repetition penalty or a forced end, is not the policy.
    causal = language_model.causal_model
    own, causal.generation_config = causal.generation_config, plain
    try:
        with torch.inference_mode():
            output = causal.generate(
                input_ids=input_ids, attention_mask=torch.ones_like(input_ids), generation_config=plain
            )
    finally:
        causal.generation_config = own
    return output[0, len(prompt) :].tolist()


def _is_tie(language_model: LanguageModel, ids: Sequence[int], tokens: tuple[int, int]) -> bool:
    """Compares two tokens' log-probabilities after `ids`: within rounding either may be the likeliest."""
    with torch.inference_mode():
        first, second = (
            float(plain_logprobs(language_model, TokenSequence((*ids, token), len(ids)))[0]) for token in tokens
        )
    return abs(first - second) <= tolerance_of(language_model.dtype).largest


def _independence_row(language_model: LanguageModel, prompt: Sequence[int]) -> Row:
    """Changes one answer of a group and looks whether another's log-probabilities move."""
    answers = [tuple(prompt[:4]), tuple(prompt[-4:]), tuple(reversed(prompt[-4:]))]
    first, second, changed = (TokenSequence((*prompt, *answer), len(prompt)) for answer in answers)
    with torch.inference_mode():
        before, after = (answer_logprobs(language_model, [first, other]).logprobs_BT[0] for other in (second, changed))
    moved = float((before - after).abs().max())
    right = moved <= tolerance_of(language_model.dtype).largest
    return Row(
        "independence", "right" if right else "wrong", f"one answer of a group moves another by {moved:.1e} nats"
    )


def _template_row(language_model: LanguageModel) -> Row:
    """Renders a conversation and looks for every message in it."""
    tokenizer = language_model.tokenizer
    if not tokenizer.chat_template:
        return Row("template", "note", "no chat template: messages are joined by line breaks, nothing after them")
    turns = (
        Message("user", "first question"),
        Message("assistant", "first answer"),
        Message("user", "second question"),
    )
    text = decode(tokenizer, encode_prompt(tokenizer, Prompt("round trip", turns), **language_model.chat_options))
    missing = [turn.content for turn in turns if turn.content not in text]
    if missing:
        return Row("template", "wrong", f"the chat template drops {', '.join(map(repr, missing))}")
    return Row("template", "right", "every message of a conversation is in the rendered prompt")


def _end_row(language_model: LanguageModel) -> Row:
    tokenizer = language_model.tokenizer
    end = turn_end_id(tokenizer, **language_model.chat_options)
    stops = ", ".join(repr(tokenizer.convert_ids_to_tokens(token)) for token in sorted(language_model.stop_ids))
    name = tokenizer.convert_ids_to_tokens(end)
    if end not in language_model.stop_ids:
        return Row("end of answer", "wrong", f"training ends answers with {name!r}, sampling stops at {stops} only")
    return Row("end of answer", "right", f"{name!r} in training; sampling stops at {stops}")


def _limits_row(language_model: LanguageModel, length: int) -> Row:
    context = language_model.context_length
    embeddings: Any = language_model.model.get_input_embeddings()
    rows, tokens = embeddings.weight.shape[0], len(language_model.tokenizer)
    most = f"{context} tokens" if context < 1 << 30 else "any length"
    text = f"context of {most}; {tokens} tokens in the tokenizer, {rows} in the embedding"
    if length > context:
        return Row("limits", "wrong", f"{text}: --length {length} is longer")
    if tokens > rows:
        return Row("limits", "wrong", f"{text}: some tokens have no embedding")
    return Row("limits", "right", text)
