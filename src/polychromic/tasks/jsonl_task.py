"""Tasks from the user's own files: prompts and references as JSON lines, checkers by name.

A line is an object with
  `prompt` (a text) or `messages` (a list of {"role", "content"}, ending with the turn to be answered);
  optionally `references` (a list of texts), or one `reference` or `completion`; a last assistant turn in
  `messages` is a reference too;
  optionally `id` or `task_id` (unique in the file) and `meta` (an object). Other keys are kept in the meta.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from polychromic.diversity.embedders import Embedder, load_embedder
from polychromic.diversity.semantic import cosine_distances
from polychromic.errors import DataError
from polychromic.files import parse_json
from polychromic.records import Check, Message, Prompt, as_messages
from polychromic.tasks.base import NORMALISED, SameAnswer, Split
from polychromic.tasks.checking.checkers import BUILT_IN, run_checker
from polychromic.tasks.checking.isolation import isolated_checker
from polychromic.tasks.equivalence import build_equivalence

MAX_LINE_BYTES = 16 * 2**20
_LISTED = 20
_QUESTION_KEYS = ("prompt", "messages")
_REFERENCE_KEYS = ("references", "reference", "completion")
_ID_KEYS = ("id", "task_id")
_KNOWN_KEYS = (*_ID_KEYS, *_QUESTION_KEYS, *_REFERENCE_KEYS, "meta")
_Role = Literal["system", "developer", "user", "assistant", "tool"]
_KINDS = {str: "a text", bool: "true or false", list: "a list", dict: "an object"}


class BadLineError(ValueError):
    """A line that cannot be used; says the key, its value, what was expected and the fix."""


def any_text(value: Any) -> str:
    """Returns a text as a model may have made it; raises BadLineError for another type and what UTF-8 cannot carry."""
    if not isinstance(value, str):
        raise BadLineError(f"{shown(value)} is {kind(value)}, expected a text; put it in quotes")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadLineError(
            f"holds half a surrogate pair at position {error.start + 1}, which is no text; remove it"
        ) from error
    return value


def _filled_text(value: Any) -> str:
    text = any_text(value)
    if "\0" in text:
        raise BadLineError(f"holds a NUL character at position {text.index(chr(0)) + 1}; remove it")
    if not text.strip():
        raise BadLineError("is empty, expected a text; fill it in or remove it")
    return text


def identifier(value: Any) -> str:
    """Returns a prompt's id, a text or a whole number, as text; raises BadLineError for anything else."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if is_number else _filled_text(value)


_Text = Annotated[str, BeforeValidator(_filled_text)]
_Identifier = Annotated[str, BeforeValidator(identifier)]


class _Turn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    role: _Role
    content: _Text


class _Line(BaseModel):
    """The keys of a line that are not kept in the meta; of each group it has one at most."""

    prompt: _Text = ""
    messages: list[_Turn] = Field(default=[], min_length=1)
    references: list[_Text] = []
    reference: _Text = ""
    completion: _Text = ""
    id: _Identifier = ""
    task_id: _Identifier = ""
    meta: dict[Any, Any] = {}


def load_prompts(path: Path) -> list[Prompt]:
    """Reads all prompts of a file, in its order; blank lines are skipped.

    A line without an id gets the file's stem and its line number, such as `train-00007`.
    Raises DataError for a file that is missing or empty, and one DataError for all bad lines together.
    """
    prompts: list[Prompt] = []
    problems: list[str] = []
    line_of_id: dict[str, int] = {}
    for number, line in filled_lines(path):
        try:
            prompt = parse_line(line, default_id=f"{path.stem}-{number:05d}")
            first = line_of_id.setdefault(prompt.id, number)
            if first != number:
                raise BadLineError(
                    f"id: {shown(prompt.id)} is the id of line {first}, expected unique ids; rename one"
                )
            prompts.append(prompt)
        except BadLineError as error:
            problems.append(f"{path}:{number}: {error}")
    if problems:
        raise DataError(listing(str(path), problems))
    if not prompts:
        raise DataError(
            f'{path}: holds no prompts; expected one JSON object per line, such as {{"prompt": "Hi"}}'
        )
    return prompts


def parse_line(line: bytes, default_id: str) -> Prompt:
    """Reads the prompt of a line; `default_id` is used where it names none. Raises BadLineError."""
    row = decode_object(line)
    question, reference, identifier_key = (
        one_key(row, keys) for keys in (_QUESTION_KEYS, _REFERENCE_KEYS, _ID_KEYS)
    )
    if question is None:
        raise BadLineError(
            f"prompt: is missing, expected a text, or a list of messages{hint(row, _QUESTION_KEYS)}"
        )
    if isinstance(row.get("prompt"), list):
        raise BadLineError("prompt: is a list, expected a text; a list of turns is written as messages")
    try:
        read = _Line.model_validate(row)
    except ValidationError as error:
        raise BadLineError(_sentence(error.errors(include_url=False)[0], row)) from error
    references = tuple(read.references) if reference in (None, "references") else (getattr(read, reference),)
    turns = [Message(turn.role, turn.content) for turn in read.messages] or as_messages(read.prompt)
    if turns[-1].role == "assistant":
        if len(turns) == 1:
            raise BadLineError(
                "messages: holds an assistant turn only, expected the turn it answers before it"
            )
        if references:
            raise BadLineError(
                "messages: ends with an assistant turn while references are given too; keep one of the two"
            )
        *turns, answer = turns
        references = (answer.content,)
    elif turns[-1].role not in ("user", "tool"):
        raise BadLineError(
            f"messages: ends with a {turns[-1].role} turn, expected the turn to be answered last"
        )
    prompt_id = default_id if identifier_key is None else getattr(read, identifier_key)
    return Prompt(prompt_id, tuple(turns), references, _joined_meta(row, read.meta))


def _sentence(problem: Any, row: Mapping[str, Any]) -> str:
    """Says what a line's schema refuses, in the words of the file."""
    key, *within = problem["loc"]
    place = key + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in within)
    value = problem["input"]
    match problem["type"]:
        case "value_error":
            return f"{place}: {problem['ctx']['error']}"
        case "literal_error":
            return f"{place}: {shown(value)}, expected one of {', '.join(get_args(_Role))}"
        case _ if within:
            turn = shown(row[key][within[0]])
            return f"{key}[{within[0]}]: {turn}, expected an object with role and content and nothing else"
        case _ if key == "messages":
            return f'messages: {shown(value)}, expected a list such as [{{"role": "user", "content": "Hi"}}]'
    wanted = "an object" if key == "meta" else "a list of texts"
    return f"{place}: {shown(value)} is {kind(value)}, expected {wanted}"


def _joined_meta(row: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the keys that the schema does not know to the line's meta; refuses misspelt and repeated ones."""
    others = {key: value for key, value in row.items() if key not in _KNOWN_KEYS}
    for key in others:
        if key in meta:
            raise BadLineError(f"{key}: stands in the line and in its meta; remove one of them")
        if close := hint([key], _KNOWN_KEYS):
            raise BadLineError(f"{key}: is not a known key{close}; rename it, or put it under meta")
    return {**meta, **others}


def filled_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yields the lines of a file that hold something, with their numbers; raises DataError where it cannot be read."""
    try:
        # A pipe would hang, and a device never end.
        if path.exists() and not path.is_file():
            raise DataError(f"{path}: is not a file, expected JSON lines; check the path")
        content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")  # the mark some editors put before UTF-8
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            yield number, line


def listing(place: str, problems: Sequence[str]) -> str:
    """Words the error for bad lines: how many there are in `place`, then the first of them."""
    count = "1 bad line" if len(problems) == 1 else f"{len(problems)} bad lines"
    more = [f"... and {len(problems) - _LISTED} more"] if len(problems) > _LISTED else []
    return "\n".join([f"{place}: {count}, nothing was loaded", *problems[:_LISTED], *more])


def decode_object(line: bytes) -> Mapping[str, Any]:
    """Reads the JSON object of a line; raises BadLineError that says what the line is instead."""
    if len(line) > MAX_LINE_BYTES:
        raise BadLineError(
            f"the line has {len(line)} bytes, expected at most {MAX_LINE_BYTES}; write one object per line"
        )
    try:
        row = parse_json(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadLineError(
            f"byte {error.start + 1} (0x{line[error.start]:02x}) is not UTF-8; save the file as UTF-8"
        ) from error
    except json.JSONDecodeError as error:
        raise BadLineError(
            f"not JSON: {error.msg} at character {error.pos + 1}; expected one JSON object per line"
        ) from error
    except RecursionError as error:
        raise BadLineError("nested too deeply; expected one flat JSON object a line") from error
    except (
        ValueError
    ) as error:  # a key that stands twice, a number that JSON does not know or that is too long
        raise BadLineError(f"not JSON: {error}") from error
    if not isinstance(row, dict):
        raise BadLineError(f'{shown(row)} is {kind(row)}, expected an object such as {{"prompt": "Hi"}}')
    return row


def one_key(row: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """Returns the one of the keys that the line uses, if any; two are refused, since one would have to be ignored."""
    used = [key for key in keys if key in row]
    if len(used) > 1:
        raise BadLineError(
            f"{used[1]}: {used[0]} is given too, expected one of {', '.join(keys)}; remove the other"
        )
    return used[0] if used else None


def value_of(key: str, value: Any, read: Callable[[Any], str]) -> str:
    """Reads one value by `any_text` or `identifier`; raises BadLineError that names its key."""
    try:
        return read(value)
    except BadLineError as error:
        raise BadLineError(f"{key}: {error}") from error


def shown(value: Any) -> str:
    """Writes a value for a message: JSON, cut to 60 characters."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def kind(value: Any) -> str:
    """Names the type of a JSON value."""
    return "null" if value is None else _KINDS.get(type(value), "a number")


def hint(keys: Sequence[str] | Mapping[str, Any], known: Sequence[str]) -> str:
    """Returns `; did you mean …?` where one of the line's own keys looks like a misspelt known one."""
    for key in keys:
        close = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.85)
        if key not in _KNOWN_KEYS and close:
            return f"; {shown(key)}: did you mean {close[0]}?"
    return ""


class FileTask:
    """Reads prompts from three files and measures distances of meaning; subclasses add the checkers."""

    def __init__(self, train: Path, validation: Path, test: Path, embedder: str, same: SameAnswer):
        self._files: dict[Split, Path] = {"train": train, "validation": validation, "test": test}
        self._embedder_name = embedder
        self._loaded: dict[Split, list[Prompt]] = {}
        self.equivalence = build_equivalence(same, self)

    def prompts(self, split: Split) -> list[Prompt]:
        """Reads all prompts of a split; raises DataError that lists every bad line."""
        if split not in self._loaded:
            self._loaded[split] = load_prompts(self._files[split])
        return list(self._loaded[split])

    def cluster(self, prompt: Prompt, text: str) -> str | None:
        """Returns None: which answers are the same is the `equivalence`'s to say."""
        return None

    def distances(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Returns 1 − cosine of the embeddings, opposed meanings counted as 1."""
        return np.minimum(cosine_distances(self.embedder.encode(texts)), 1.0)

    @cached_property
    def embedder(self) -> Embedder:
        """Loads the sentence embedder when it is first used."""
        return load_embedder(self._embedder_name)


class CustomTask(FileTask):
    """Joins the prompts with the checkers that the experiment file names.

    Without a checker no generation has a reward, which training from references without a gate does not need.
    Raises CheckerError at once where a checker cannot be loaded.
    """

    name = "custom"

    def __init__(
        self,
        train: Path,
        validation: Path,
        test: Path,
        checker: str | None = None,
        judge: str | None = None,
        pass_threshold: float = 0.5,
        embedder: str = "minilm",
        checker_seconds: float = 10.0,
        checker_memory_gb: float = 8.0,
        checker_recheck: bool = True,
        same: SameAnswer = NORMALISED,
    ):
        super().__init__(train, validation, test, embedder, same)
        self.pass_threshold = pass_threshold
        isolated = partial(
            isolated_checker, seconds=checker_seconds, memory_gb=checker_memory_gb, recheck=checker_recheck
        )
        built_in = {name: partial(run_checker, function) for name, function in BUILT_IN.items()}
        self._check, self._judge = (
            None if not name else built_in.get(name) or isolated(name).run for name in (checker, judge)
        )

    def check(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Check]:
        """Runs the training checker; an exception or an impossible value is a Check with the reason."""
        if self._check is None:
            return [Check(None, "task.checker is not set")] * len(texts)
        return self._check(prompts, texts)

    def judge(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Check] | None:
        """Runs the second checker, where one is named."""
        return self._judge(prompts, texts) if self._judge else None
