"""Recognises the form of a row by its keys: the project's own, TRL, OpenAI, Alpaca, ShareGPT, question and answer.

Every form is turned into the turns to be answered, the answers known to be good, and the keys that are left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from polychromic.records import Message
from polychromic.tasks.data.lines import BadLineError, filled_text, hint, identifier, kind, one_key, shown, value_of

Role = Literal["system", "developer", "user", "assistant", "tool"]
_SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "observation": "tool"}
ID_KEYS = ("id", "task_id")
QUESTION_KEYS = ("prompt", "messages")
REFERENCE_KEYS = ("references", "reference", "completion", "chosen")
KNOWN_KEYS = (*ID_KEYS, *QUESTION_KEYS, *REFERENCE_KEYS, "meta")
_ASKED_KEYS = ("question", "query", "problem", "prompt")
ANSWER_KEYS = ("answer", "answers", "response", "responses", "output", "solution")
_FOREIGN_KEYS = ("instruction", "conversations", *_ASKED_KEYS[:3])


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys that hold the prompt and its references in rows of another form; None where the form is recognised."""

    prompt: str | None = None
    reference: str | None = None

    def __bool__(self) -> bool:
        return self.prompt is not None or self.reference is not None


NO_KEYS = Keys()


@dataclass(frozen=True, slots=True)
class Question:
    """A row's turns (the answer to the last one may stand behind it), its references, and all other keys."""

    turns: Sequence[Message]
    references: tuple[str, ...]
    others: Mapping[str, Any]
    meta: Mapping[str, Any]


Reader = Callable[[Mapping[str, Any], Keys], Question]


@dataclass(frozen=True, slots=True)
class Form:
    """One form of rows: its name with the keys that it reads, and what reads it."""

    name: str
    read: Reader


_Text = Annotated[str, BeforeValidator(filled_text)]
_Identifier = Annotated[str, BeforeValidator(identifier)]


class _Turn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    role: Role
    content: _Text


class _Line(BaseModel):
    """The keys of a line that are not kept in the meta; of each group it has one at most."""

    prompt: _Text = ""
    messages: list[_Turn] = Field(default=[], min_length=1)
    references: list[_Text] = []
    reference: _Text = ""
    completion: _Text = ""
    chosen: _Text = ""
    id: _Identifier = ""
    task_id: _Identifier = ""
    meta: dict[Any, Any] = {}


def form_of(row: Mapping[str, Any], keys: Keys = NO_KEYS) -> Form:
    """Returns the form of a row: that of the stated keys, else the first that has its keys; the project's own, which
    says what is missing, where none has."""
    if keys:
        return MAPPED
    return next((form for fits, form in _FORMS if fits(row)), OWN)


def _own(row: Mapping[str, Any], keys: Keys) -> Question:
    question, reference = one_key(row, QUESTION_KEYS), one_key(row, REFERENCE_KEYS)
    if question is None:
        raise BadLineError(
            "prompt: is missing, expected a text, or a list of messages"
            f"{hint(row, (*QUESTION_KEYS, *_FOREIGN_KEYS), KNOWN_KEYS)} (the keys are {_keys_of(row)}; prompt_key and "
            "reference_key name others)"
        )
    try:
        read = _Line.model_validate(row)
    except ValidationError as error:
        raise BadLineError(_sentence(error.errors(include_url=False)[0], row)) from error
    references = tuple(read.references) if reference in (None, "references") else (getattr(read, reference),)
    turns = [Message(turn.role, turn.content) for turn in read.messages] or [Message("user", read.prompt)]
    if reference == "completion" and _is_bad(row):
        references = ()
    if reference is None:
        references = _answer_beside(row, turns)
    return Question(turns, references, _without(row, *KNOWN_KEYS), read.meta)


def _sentence(problem: Any, row: Mapping[str, Any]) -> str:
    """Says what a line's schema refuses, in the words of the file."""
    key, *within = problem["loc"]
    place = key + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in within)
    value = problem["input"]
    match problem["type"]:
        case "value_error":
            return f"{place}: {problem['ctx']['error']}"
        case "literal_error":
            return f"{place}: {shown(value)}, expected one of {', '.join(get_args(Role))}"
        case _ if within:
            turn = shown(row[key][within[0]])
            return f"{key}[{within[0]}]: {turn}, expected an object with role and content and nothing else"
        case _ if key == "messages":
            return f'messages: {shown(value)}, expected a list such as [{{"role": "user", "content": "Hi"}}]'
    wanted = "an object" if key == "meta" else "a list of texts"
    mend = f"; write [{shown(value)}], or name the key reference" if key != "meta" and isinstance(value, str) else ""
    return f"{place}: {shown(value)} is {kind(value)}, expected {wanted}{mend}"


def _trl(row: Mapping[str, Any], keys: Keys) -> Question:
    """Reads TRL's conversational rows: prompt, completion and chosen are lists of turns; `chosen` may hold the prompt
    too."""
    turns = turns_of("prompt", row["prompt"]) if "prompt" in row else []
    reference = one_key(row, REFERENCE_KEYS)
    if reference == "references":
        raise BadLineError("references: the prompt is a list of turns; write one completion as a list of turns")
    if reference is not None and not (reference == "completion" and _is_bad(row)):
        turns = [*turns, *_turns(row, reference, "assistant")]
    references = _answer_beside(row, turns) if reference is None else ()
    return Question(turns, references, _without(row, *KNOWN_KEYS), _meta(row))


def _messages(row: Mapping[str, Any], keys: Keys) -> Question:
    """Reads OpenAI's messages, whose contents may be lists of parts, and which may name their author."""
    turns = turns_of("messages", row["messages"])
    reference = one_key(row, REFERENCE_KEYS)
    references = _answer_beside(row, turns) if reference is None else answers_of(reference, row[reference])
    return Question(turns, references, _without(row, *KNOWN_KEYS), _meta(row))


def _answer_beside(row: Mapping[str, Any], turns: Sequence[Message]) -> tuple[str, ...]:
    """Returns the answer that stands beside turns under a key of its own, as in data for rewards; none where the turns
    end with one, or where it could be several."""
    named = [key for key in ANSWER_KEYS if isinstance(row.get(key), str | int | float) and _is_filled(row, key)]
    is_answered = not turns or turns[-1].role == "assistant"
    return answers_of(named[0], row[named[0]]) if len(named) == 1 and not is_answered else ()


def _alpaca(row: Mapping[str, Any], keys: Keys) -> Question:
    # Dolly calls it context.
    given = next((key for key in ("input", "context") if isinstance(row.get(key), str) and _is_filled(row, key)), None)
    parts = [_text(row, key) for key in ("instruction", given) if key]
    turns = [Message("system", _text(row, "system"))] if _is_filled(row, "system") else []
    for number, pair in enumerate(row.get("history") or []):
        if not (isinstance(pair, list) and len(pair) == 2):
            raise BadLineError(f"history[{number}]: {shown(pair)}, expected a question and its answer")
        question, answer = (value_of(f"history[{number}]", text, filled_text) for text in pair)
        turns += [Message("user", question), Message("assistant", answer)]
    references = _answers(row, one_key(row, ("output", "response", "references")))
    read = ("instruction", "input", "system", "history", "output", "response", "references", "text", *ID_KEYS, "meta")
    return Question([*turns, Message("user", "\n\n".join(parts))], references, _without(row, *read), _meta(row))


def _sharegpt(row: Mapping[str, Any], keys: Keys) -> Question:
    conversation = row["conversations"]
    if not isinstance(conversation, list) or not conversation:
        raise BadLineError(
            f'conversations: {shown(conversation)}, expected a list such as [{{"from": "human", "value": "Hi"}}]'
        )
    system = [{"role": "system", "content": row["system"]}] if _is_filled(row, "system") else []
    turns = turns_of("conversations", [*system, *conversation])
    return Question(turns, (), _without(row, "conversations", "system", *ID_KEYS, "meta"), _meta(row))


def _asked(row: Mapping[str, Any], keys: Keys) -> Question:
    key = one_key(row, _ASKED_KEYS, ", or name one with prompt_key")
    answer = one_key(row, (*ANSWER_KEYS, *REFERENCE_KEYS), ", or name one with reference_key")
    assert key is not None
    # SQuAD keeps the text that a question is about beside it.
    context = [_text(row, "context")] if isinstance(row.get("context"), str) and _is_filled(row, "context") else []
    text = "\n\n".join([*context, _text(row, key)])
    # The answer stays in the meta as well: a checker looks for it under its own name.
    others = _without(row, key, *ID_KEYS, *REFERENCE_KEYS, "meta")
    return Question([Message("user", text)], _answers(row, answer), others, _meta(row))


def _mapped(row: Mapping[str, Any], keys: Keys) -> Question:
    name = keys.prompt
    if name is None:  # the row's own form says what is asked, with what stands beside it
        answers = {key: value for key, value in row.items() if key in (keys.reference, *ANSWER_KEYS, *REFERENCE_KEYS)}
        asked = _without(row, *answers)
        question = form_of(asked).read(asked, NO_KEYS)
        others = _without(answers, *filter(None, [keys.reference]))
        return Question(question.turns, _answers(row, keys.reference), {**question.others, **others}, question.meta)
    if not _is_filled(row, name):
        raise BadLineError(f"{name}: is missing, and task.prompt_key names it; the row's keys are {_keys_of(row)}")
    used = (name, *ID_KEYS, "meta", *filter(None, [keys.reference]))
    return Question(_turns(row, name, "user"), _answers(row, keys.reference), _without(row, *used), _meta(row))


def _turns(row: Mapping[str, Any], key: str, role: str) -> list[Message]:
    """Reads turns, or a text as one turn of that role."""
    return turns_of(key, row[key]) if isinstance(row[key], list) else [Message(role, _text(row, key))]


def _answers(row: Mapping[str, Any], key: str | None) -> tuple[str, ...]:
    return answers_of(key, row[key]) if key is not None and _is_filled(row, key) else ()


def _text(row: Mapping[str, Any], key: str) -> str:
    return value_of(key, row[key], filled_text)


def _keys_of(row: Mapping[str, Any]) -> str:
    return ", ".join(map(shown, list(row)[:8])) or "none"


def turns_of(key: str, value: Any) -> list[Message]:
    """Reads turns of OpenAI (role, content) or of ShareGPT (from, value)."""
    if not isinstance(value, list) or not value:
        raise BadLineError(f'{key}: {shown(value)}, expected a list such as [{{"role": "user", "content": "Hi"}}]')
    return [_turn(f"{key}[{number}]", turn) for number, turn in enumerate(value)]


def _turn(place: str, turn: Any) -> Message:
    names = ("role", "content") if isinstance(turn, dict) and "role" in turn else ("from", "value")
    if not isinstance(turn, dict) or not set(names) <= set(turn):
        raise BadLineError(f"{place}: {shown(turn)}, expected an object with role and content (or from and value)")
    speaker, content = turn[names[0]], turn[names[1]]
    role = _SHAREGPT_ROLES.get(speaker, speaker) if isinstance(speaker, str) else speaker
    if role not in get_args(Role):
        roles = [*get_args(Role), *(() if names[0] == "role" else _SHAREGPT_ROLES)]
        raise BadLineError(f"{place}.{names[0]}: {shown(speaker)}, expected one of {', '.join(roles)}")
    if isinstance(content, list):
        content = _joined_parts(f"{place}.{names[1]}", content)
    return Message(role, value_of(f"{place}.{names[1]}", content, filled_text))


def _joined_parts(place: str, parts: Sequence[Any]) -> str:
    for number, part in enumerate(parts):
        if not (isinstance(part, dict) and part.get("type") == "text"):
            raise BadLineError(f"{place}[{number}]: {shown(part)}, expected a part of text: other kinds are not learnt")
    return "\n".join(value_of(f"{place}[{n}].text", part.get("text"), filled_text) for n, part in enumerate(parts))


def answers_of(key: str, value: Any) -> tuple[str, ...]:
    """Reads one answer or several: a text, a number, a list of these, turns that end with it, or SQuAD's texts."""
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        value = value["text"]
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        value = turns_of(key, value)[-1].content
    values = value if isinstance(value, list) else [value]
    places = [f"{key}[{number}]" for number in range(len(values))] if isinstance(value, list) else [key]
    texts = [_answer(place, item) for place, item in zip(places, values, strict=True)]
    return tuple(dict.fromkeys(texts))


def _answer(place: str, value: Any) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number else value_of(place, value, filled_text)


def _is_filled(row: Mapping[str, Any], key: str) -> bool:
    """Returns False for a key that foreign files leave out, or fill with null, an empty text or an empty list."""
    value = row.get(key)
    return not (value is None or value == [] or (isinstance(value, str) and not value.strip()))


def _is_bad(row: Mapping[str, Any]) -> bool:
    """Tells whether KTO's label marks the completion as a bad answer; in CSV it is a text."""
    label = row.get("label")
    return (label.strip().lower() in ("false", "0")) if isinstance(label, str) else label in (False, 0)


def _without(row: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in keys}


def _meta(row: Mapping[str, Any]) -> Mapping[str, Any]:
    meta = row.get("meta", {})
    if not isinstance(meta, dict):
        raise BadLineError(f"meta: {shown(meta)} is {kind(meta)}, expected an object")
    return meta


def _is_openai(row: Mapping[str, Any]) -> bool:
    """Tells messages that only OpenAI's form has: contents in parts, or turns with further keys, beside role and
    content."""
    turns = row.get("messages")
    return isinstance(turns, list) and any(
        isinstance(turn, dict) and ((isinstance(turn.get("content"), list) and "role" in turn) or "name" in turn)
        for turn in turns
    )


OWN = Form("prompt or messages, with references", _own)
MAPPED = Form("the keys that you named", _mapped)
TRL = Form("TRL (prompt, completion, chosen)", _trl)
OPENAI = Form("OpenAI (messages)", _messages)
ALPACA = Form("Alpaca (instruction, input, output)", _alpaca)
SHAREGPT = Form("ShareGPT (conversations)", _sharegpt)
ASKED = Form("question and answer", _asked)

_FORMS: tuple[tuple[Callable[[Mapping[str, Any]], bool], Form], ...] = (
    (lambda row: isinstance(row.get("prompt"), list), TRL),
    (lambda row: isinstance(row.get("chosen"), list) and not set(QUESTION_KEYS) & set(row), TRL),
    (lambda row: isinstance(row.get("completion"), list), TRL),
    (_is_openai, OPENAI),
    (lambda row: "messages" in row, OWN),
    (lambda row: "prompt" in row and not set(REFERENCE_KEYS) & set(row) and bool(set(ANSWER_KEYS) & set(row)), ASKED),
    (lambda row: "prompt" in row, OWN),
    (lambda row: "conversations" in row, SHAREGPT),
    (lambda row: "instruction" in row, ALPACA),
    (lambda row: bool(set(_ASKED_KEYS) & set(row)), ASKED),
)
