"""Reads one line of a file of generations: texts, how they were sampled and how they ended, in any tool's words.

A line is an object with
  `prompt_id`, `id` or `task_id`: a prompt of the task;
  `text`, `completion`, `generation` or `response`: one generation, which may be empty; or `texts`, `completions`,
  `generations` or `responses`: a list of them; where none of them stands, `solution` or `solutions` (EvalPlus);
  optionally `temperature` and other sampling settings (or an object `sampling`, `sampling_params` or
  `generation_config` with these), `seed` (of training: lines of several seeds may share a file), `n_tokens`,
  `finish`, `finish_reason` or `stop_reason` (one for all texts, or a list with one for each), and what a model thought
  before its answer as `thinking` or `reasoning_content`, where the text does not hold it in `<think>` tags.
Other keys are left alone, so that the generations.jsonl of a run and HumanEval's samples can be read as they are.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from polychromic.records import SamplingParameters
from polychromic.tasks.data.formats import KNOWN_KEYS
from polychromic.tasks.data.lines import (
    BadLineError,
    any_text,
    decode_object,
    hint,
    identifier,
    kind,
    one_key,
    shown,
    value_of,
)

Ending = Literal["finished", "limit", "interrupted", "missing"]
"""Endings of a text: by itself, at a limit of tokens, stopped by something else before its end (a filter, an error), or
never given at all."""

_ID_KEYS = ("prompt_id", "id", "task_id")
_TEXT_KEYS = ("text", "completion", "generation", "response", "texts", "completions", "generations", "responses")
_TEXT_KEYS_IF_ALONE = ("solution", "solutions")  # elsewhere a `solution` is a reference
_FINISH_KEYS = ("finish", "finish_reason", "finishReason")
# Beside finish_reason, vLLM's stop_reason is the stop string that was met; alone it is Anthropic's word for the ending.
_FINISH_KEYS_IF_ALONE = ("stop_reason", "stopReason", "done_reason", "stop_type")
_SAMPLING_KEYS = ("sampling", "sampling_params", "sampling_parameters", "generation_config", "generationConfig")

_WORDS: dict[Ending, str] = {
    "finished": "stop end_turn stop_sequence eos eos_token end completed complete finished word stop_token "
    "tool_calls tool_call tool_use function_call",
    "limit": "length max_tokens max_output_tokens max_new_tokens max_completion_tokens max_length limit token_limit "
    "model_length model_context_window_exceeded context_length_exceeded error_limit incomplete",
    "interrupted": "content_filter content_filtered guardrail_intervened refusal safety image_safety recitation "
    "blocklist prohibited_content spii language error_toxic malformed_function_call pause_turn abort cancelled "
    "user_cancel error other",
    "missing": "missing",
}
ENDINGS: dict[str, Ending] = {word: ending for ending, words in _WORDS.items() for word in words.split()}
"""Endings as named by OpenAI, Anthropic, Gemini, Cohere, Mistral, Bedrock, vLLM, SGLang, TGI, llama.cpp and Ollama."""

_RANGES = {"temperature": (0.0, float("inf")), "top_p": (0.0, 1.0), "min_p": (0.0, 1.0)}
_NEUTRAL: dict[str, tuple[float, ...]] = {
    "top_k": (0, -1), "typical_p": (0, 1), "tfs_z": (1,), "top_a": (0,), "epsilon_cutoff": (0,), "eta_cutoff": (0,),
    "xtc_probability": (0,), "repetition_penalty": (1,), "presence_penalty": (0,), "frequency_penalty": (0,),
    "no_repeat_ngram_size": (0,), "dry_multiplier": (0,), "mirostat": (0,), "num_beams": (1,), "penalty_alpha": (0,),
    "do_sample": (1,), "reasoning_effort": (),
}  # fmt: skip
"""Further settings that may stand in the line itself, with the values that do nothing: they are as good as absent."""
_OTHER_NAMES = {"repeat_penalty": "repetition_penalty", "typical": "typical_p", "typ_p": "typical_p"}
_CUTS_OF_THE_TAIL = ("top_k", "typical_p", "tfs_z", "top_a", "epsilon_cutoff", "eta_cutoff", "xtc_probability")
_NOT_HOW = re.compile(
    r"_.*|max_.*|min_(new_)?(tokens|length)|num_predict|n_predict|n_ctx|num_ctx|seed|n|num_return_sequences|best_of|"
    r"stop.*|.*token_ids?|(top_|prompt_)?logprobs?|echo|stream.*|user|model.*|response_.*|skip_.*|use_cache|"
    r"candidate_count|transformers_version|num_(samples|generations)"
)
"""In an object of sampling settings: limits, counts and bookkeeping, which do not change how a token is drawn."""
_SETTING_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,39}")
_LONGEST_VALUE = 40
_LARGEST = 1e300  # a JSON number may be larger than any float


@dataclass(frozen=True, slots=True)
class ExternalText:
    """Holds one generation of a file. `seed`, `sampling` and `ending` are None where the line does not state them."""

    prompt_id: str
    text: str
    seed: int | None
    sampling: SamplingParameters | None
    n_tokens: int | None
    ending: Ending | None
    thinking: str | None = None


def parse_line(line: bytes) -> list[ExternalText]:
    """Returns the generations of one line. Raises BadLineError that names the key and the fix."""
    row = decode_object(line)
    id_key = _required(row, _ID_KEYS, "the id of a prompt")
    text_key = one_key(row, _TEXT_KEYS) or one_key(row, _TEXT_KEYS_IF_ALONE)
    text_key = text_key or _required(row, _TEXT_KEYS, "a generation, or a list of them")
    value = row[text_key]
    values = value if isinstance(value, list) else [value]
    names = [f"{text_key}[{i}]" for i in range(len(values))] if isinstance(value, list) else [text_key]
    if not values:
        raise BadLineError(f"{text_key}: is an empty list, expected at least one text; fill it in or remove the line")
    n_tokens = _whole(row, "n_tokens")
    if n_tokens is not None and len(values) > 1:
        raise BadLineError(f"n_tokens: is one number for {len(values)} texts; write one text a line, or remove it")
    seed, sampling, prompt_id = _whole(row, "seed"), _sampling(row), value_of(id_key, row[id_key], identifier)
    thinking = _thinking(row) if len(values) == 1 else None
    return [
        ExternalText(prompt_id, value_of(name, text, any_text), seed, sampling, n_tokens, ending, thinking)
        for text, name, ending in zip(values, names, _endings(row, len(values)), strict=True)
    ]


def _required(row: Mapping[str, Any], keys: Sequence[str], meaning: str) -> str:
    key = one_key(row, keys)
    if key is None:
        raise BadLineError(
            f"{keys[0]}: is missing, expected {meaning} ({', '.join(keys)}){hint(row, keys, KNOWN_KEYS)}"
        )
    return key


def _whole(row: Mapping[str, Any], key: str) -> int | None:
    value = row.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise BadLineError(f"{key}: {shown(value)}, expected a whole number of at least 0; correct or remove it")
    return value


def _thinking(row: Mapping[str, Any]) -> str | None:
    """Returns what an API hands out beside the answer: `reasoning_content` of vLLM and DeepSeek, or a run's own
    `thinking`."""
    stated = (row.get(key) for key in ("thinking", "reasoning_content", "reasoning"))
    return next((value for value in stated if isinstance(value, str) and value), None)


def _endings(row: Mapping[str, Any], n_texts: int) -> list[Ending | None]:
    """Returns how each text of a line ended."""
    key = one_key(row, _FINISH_KEYS) or one_key(row, _FINISH_KEYS_IF_ALONE)
    value = row.get(key) if key else None
    details = row.get("incomplete_details")
    if key is None and isinstance(details, Mapping):  # the Responses API, which has no other word for it
        key, value = "incomplete_details.reason", details.get("reason")
    if not isinstance(value, list):
        return [_ending(value, key or "")] * n_texts
    if len(value) != n_texts:
        raise BadLineError(f"{key}: has {len(value)} entries for {n_texts} texts, expected one for each text")
    return [_ending(ending, f"{key}[{index}]") for index, ending in enumerate(value)]


def _ending(value: Any, place: str) -> Ending | None:
    """Returns the ending that a tool's word names: `FinishReason.MAX_TOKENS`, `MAX_TOKENS` and `max-tokens` are one."""
    if isinstance(value, Mapping) and "type" in value:  # SGLang: {"type": "length", "length": 512}
        value = value["type"]
    if value is None:
        return None
    word = (
        value.rpartition(".")[2].strip().lower().replace("-", "_").replace(" ", "_") if isinstance(value, str) else ""
    )
    if word not in ENDINGS:
        finished, limit, interrupted = (", ".join(words.split()) for words in list(_WORDS.values())[:3])
        raise BadLineError(
            f"{place}: {shown(value)} is not known; expected a word for a finished text ({finished}), for one cut at a "
            f"limit ({limit}) or for one stopped otherwise ({interrupted}); correct it, or remove it where nobody "
            "knows how the texts ended"
        )
    return ENDINGS[word]


def _sampling(row: Mapping[str, Any]) -> SamplingParameters | None:
    """Returns how the line says that it was sampled: settings that come to the same are equal, whoever writes them
    how."""
    settings = _settings(row)
    if not settings:
        return None
    numbers = {key: _number(*settings.pop(key, ("", None)), key) for key in _RANGES}
    temperature, top_p, min_p = numbers["temperature"], numbers["top_p"], numbers["min_p"]
    values = {key: _value(value) for key, (_, value) in settings.items()}
    greedy = temperature == 0 or values.pop("do_sample", "1") == "0" or values.get("top_k") == "1"
    if greedy:
        temperature, top_p, min_p = 0.0, None, None
    kept = [
        (key, value)
        for key, value in sorted(values.items())
        if value not in [f"{neutral:g}" for neutral in _NEUTRAL.get(key, ())]
        and not (greedy and key in _CUTS_OF_THE_TAIL)
    ]
    return SamplingParameters(
        1.0 if temperature is None else temperature, 1.0 if top_p is None else top_p, min_p or 0.0, others=tuple(kept)
    )


def _settings(row: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """Returns name → (where it stands, its value) of every sampling setting in the line and in its object of
    settings."""
    own_key = one_key(row, _SAMPLING_KEYS)
    own = row.get(own_key) if own_key else None
    if own is not None and not isinstance(own, dict):
        raise BadLineError(f'{own_key}: {shown(own)} is {kind(own)}, expected an object such as {{"temperature": 1}}')
    recognised = _RANGES.keys() | _NEUTRAL.keys() | _OTHER_NAMES.keys()
    stated = [(key, key, value) for key, value in row.items() if _plain_name(key) in recognised]
    for key, value in (own or {}).items():
        name = _plain_name(key)
        if own_key == "sampling" and key == "others" and _are_pairs(value):  # a run's own rows
            stated += [(f"sampling.{pair[0]}", str(pair[0]), pair[1]) for pair in value]
        elif not _NOT_HOW.fullmatch(name):
            stated.append((f"{own_key}.{key}", key, value))
    settings: dict[str, tuple[str, Any]] = {}
    for place, key, value in stated:
        name = _OTHER_NAMES.get(_plain_name(key), _plain_name(key))
        if not _SETTING_NAME.fullmatch(name):
            raise BadLineError(f"{shown(place)}: is no name of a sampling setting; rename or remove it")
        if value is None:
            continue
        other_place, other = settings.setdefault(name, (place, value))
        if other != value:
            raise BadLineError(f"{place}: {shown(value)}, but {other_place} is {shown(other)}; remove one of them")
    return settings


def _are_pairs(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value)


def _plain_name(key: str) -> str:
    """Returns a key in snake case: `topP` and `top_p` are one."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", key).lower()


def _number(place: str, value: Any, key: str) -> float | None:
    if value is None:
        return None
    low, high = _RANGES[key]
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= min(high, _LARGEST):
        wanted = f"from {low:g} to {high:g}" if high < float("inf") else f"of at least {low:g}"
        raise BadLineError(f"{place}: {shown(value)}, expected a number {wanted}; correct or remove it")
    return float(f"{value:.6g}")  # 0.7 that went through float32 is 0.7 still


def _value(value: Any) -> str:
    """Returns a setting's value as it stands in the name of a sampling setting."""
    if isinstance(value, (int, float)) and abs(value) <= _LARGEST:
        return f"{value:.6g}"
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= _LONGEST_VALUE else f"#{hashlib.sha256(text.encode()).hexdigest()[:8]}"
