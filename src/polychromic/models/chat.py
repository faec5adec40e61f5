"""The one place where text becomes token sequences: training, sampling and evaluation all build them here.

A reply in training is exactly the tokens that a sampler would have to produce: the prompt tokens are those
that sampling starts from, then the reply, then the token that ends the turn. So no template can put anything
between prompt and reply in training that is missing in sampling, and the end of the turn is always learnt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from polychromic.errors import DataError, ModelError
from polychromic.records import Message, Prompt

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

_PROBE = "polychromic probe"


class Example(NamedTuple):
    """T tokens; `loss_mask` is 1 where a token is learnt (those of the reply and its turn end), else 0."""

    input_ids: list[int]
    loss_mask: list[int]


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, **template_options: Any) -> list[int]:
    """Tokens that generation starts from.

    With a chat template: the conversation and the opening of the answer, `template_options` (such as
    `enable_thinking=False`) passed to it. Without one: the contents of the messages, joined by line breaks,
    and nothing after them.

    Raises DataError when a message holds one of the tokenizer's special tokens as text, or when the template
    refuses the conversation.
    """
    for message in prompt.messages:
        _require_no_special_tokens(
            tokenizer, message.content, f"prompt {prompt.id!r}, {message.role} message"
        )
    if tokenizer.chat_template:
        place = f"prompt {prompt.id!r}"
        return list(
            _render(tokenizer, prompt.messages, place, add_generation_prompt=True, **template_options)
        )
    ids = tokenizer("\n".join(message.content for message in prompt.messages))["input_ids"]
    # Some tokenizers close every text; an answer must not have to begin after the end.
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


def encode_pair(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, reference: str, **template_options: Any
) -> Example:
    """The sequence of prompt, reference and turn end, however long.

    Raises DataError as `encode_prompt` does, also for the reference.
    """
    _require_no_special_tokens(tokenizer, reference, f"prompt {prompt.id!r}, reference")
    prompt_ids = encode_prompt(tokenizer, prompt, **template_options)
    reply_ids = [
        *tokenizer(reference, add_special_tokens=False)["input_ids"],
        turn_end_id(tokenizer, **template_options),
    ]
    return Example(prompt_ids + reply_ids, [0] * len(prompt_ids) + [1] * len(reply_ids))


def encode_example(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    reference: str,
    max_length: int,
    **template_options: Any,
) -> Example | None:
    """`encode_pair`, or None where the sequence has more than `max_length` tokens: it is left out, never cut."""
    example = encode_pair(tokenizer, prompt, reference, **template_options)
    return example if len(example.input_ids) <= max_length else None


def turn_end_id(tokenizer: PreTrainedTokenizerBase, **template_options: Any) -> int:
    """The token that ends an answer: the one the chat template puts after it, else the end-of-sequence token.

    Raises ModelError when there is neither.
    """
    if tokenizer.chat_template:
        conversation = (Message("user", "?"), Message("assistant", _PROBE))
        text = _render(
            tokenizer, conversation, "a user and an assistant turn", tokenize=False, **template_options
        )
        after = tokenizer(text.rpartition(_PROBE)[2], add_special_tokens=False)["input_ids"]
        added = tokenizer.added_tokens_decoder.keys()
        for token in after:
            if token in added:
                return token
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "the tokenizer has no end-of-sequence token, so that no answer could ever end; "
            "set eos_token in its tokenizer_config.json"
        )
    return int(tokenizer.eos_token_id)  # type: ignore[arg-type]


def stop_token_ids(
    tokenizer: PreTrainedTokenizerBase, generation_config: GenerationConfig | None = None
) -> set[int]:
    """What ends a generation: the template's turn end, the tokenizer's EOS and those the model declares.

    Raises ModelError when there is none.
    """
    declared = generation_config.eos_token_id if generation_config is not None else None
    declared_ids = declared if isinstance(declared, list) else [declared]
    candidates = [turn_end_id(tokenizer), tokenizer.eos_token_id, *declared_ids]
    return {int(token) for token in candidates if token is not None}


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of generated tokens without special tokens, its white space as generated."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _render(
    tokenizer: PreTrainedTokenizerBase, conversation: Sequence[Message], place: str, **options: Any
) -> Any:
    """What the chat template makes of a conversation; raises DataError where it refuses it."""
    from jinja2 import TemplateError

    turns = [{"role": message.role, "content": message.content} for message in conversation]
    try:
        return tokenizer.apply_chat_template(turns, return_dict=False, **options)
    except TemplateError as error:
        roles = ", ".join(message.role for message in conversation)
        raise DataError(f"{place}: the model's chat template refuses the roles {roles}: {error}") from error


def _require_no_special_tokens(tokenizer: PreTrainedTokenizerBase, text: str, place: str) -> None:
    """Special tokens written as text would be read as the real ones and end or forge turns."""
    found = [token for token in tokenizer.all_special_tokens if token in text]
    if found:
        raise DataError(
            f"{place}: holds the special token {found[0]!r} as text; expected plain text, since the chat "
            "template and the end of the turn are added here. Remove it from the data."
        )
