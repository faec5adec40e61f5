"""Reads an experiment file, resolves its paths and explains all that is wrong with it at once."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from polychromic.errors import ConfigError
from polychromic.numerics import shown
from polychromic.tasks.settings import TASKS

# Keys of earlier versions, each with the name that replaced it.
_RENAMED = {
    "training.signal": "loss (rl for reward, sft for references)",
    "training.generations": "num_samples",
    "training.trainer": "engine",
    "training.micro_batch": "micro_batch_size",
    "training.cut_answers": "truncation_reward (checker for judge, zero for fail)",
    "early_stopping.every_n_steps": "check_every",
    "early_stopping.prompts": "num_prompts",
    "early_stopping.samples": "num_samples",
    "diversity.n_generations": "num_samples",
    "diversity.max_examples": "num_prompts",
    "diversity.every_n_steps": "sample_every",
    "diversity.stop_after_silent_steps": "max_zero_gradient_steps",
    "evaluation.prompts": "num_prompts",
    "evaluation.samples": "num_samples",
    "evaluation.max_sequences": "max_decode_batch",
    "evaluation.cluster_distance": "task.same_answer ({kind: embedding, distance: 0.25})",
}


Overrides = str | Sequence[str] | Mapping[str, Any]
"""Changes to an experiment file: "training.steps=20", several of these, or {"training.steps": 20}."""
_Model = TypeVar("_Model", bound=BaseModel)


def checked(model: type[_Model], content: Mapping[str, Any], source: str) -> _Model:
    """Returns the checked content of a file (or of what `source` names); raises ConfigError with all its problems."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = describe_problems(error, model)
    listed = "\n".join(f"  {problem}" for problem in problems)
    raise ConfigError(f"{source}: {len(problems)} problem{'s' * (len(problems) > 1)}\n{listed}")


def describe_problems(error: ValidationError, model: type[BaseModel], *, prefix: str = "") -> list[str]:
    """Writes one line per problem, such as `training.stepz: unknown key; did you mean steps?`."""
    lines = []
    for problem in error.errors(include_url=False):
        location = [part for part in problem["loc"] if isinstance(part, (str, int)) and part != "[key]"]
        key = ".".join([prefix, *map(str, location)] if prefix else map(str, location))
        lines.append(f"{key}: {_explain(problem, model, location)}" if key else _explain(problem, model, location))
    return lines


def _explain(problem: Any, model: type[BaseModel], location: Sequence[str | int]) -> str:
    kind, message = problem["type"], problem["msg"]
    if kind == "extra_forbidden":
        return _unknown_key(model, location)
    if kind == "missing":
        return "missing; this key is required"
    if kind == "union_tag_invalid":
        return f"unknown task {problem['ctx']['tag']!r}, expected one of {problem['ctx']['expected_tags']}"
    if kind == "union_tag_not_found":
        return f"missing key `name`, expected {', '.join(TASKS)}, path/to/file.py:name or module:name"
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    return _of_value(problem)


def _of_value(problem: Any) -> str:
    """Says what a value should have been, and what it is."""
    kind, message, value = problem["type"], problem["msg"], problem.get("input")
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    if kind in ("model_type", "dict_type"):
        return f"expected keys with their values, got {shown}"
    if kind == "list_type":
        return f"expected a list such as [{value if isinstance(value, str) else shown}], got {shown}"
    if kind == "string_type" and isinstance(value, int | float):
        return f"expected a text, got {shown}; put it in quotes"
    if kind == "too_short":
        return f"expected at least {problem['ctx']['min_length']}, got {problem['ctx']['actual_length']}"
    return f"{message[0].lower()}{message[1:]}, got {shown}"


def _unknown_key(model: type[BaseModel], location: Sequence[str | int]) -> str:
    if renamed := _RENAMED.get(".".join(map(str, location[-2:]))):
        return f"this key is called {renamed} now"
    expected = _known_keys(model, location[:-1])
    if close := difflib.get_close_matches(str(location[-1]), expected, n=1):
        return f"unknown key; did you mean {close[0]}?"
    return f"unknown key; expected one of {', '.join(expected)}" if expected else "unknown key"


def _known_keys(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Keys of the section at `location`, found by walking the field types."""
    sections: list[type[BaseModel]] = [model]
    for part in location:
        fields = [section.model_fields[part] for section in sections if part in section.model_fields]
        if not fields and TASKS.get(str(part)) in sections:  # a task's name stands in the location, and is no field
            sections = [TASKS[str(part)]]
        elif fields:
            sections = [section for field in fields for section in _models_in(field.annotation)]
    return sorted({name for section in sections for name in section.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for argument in get_args(annotation) for section in _models_in(argument)]


_MOST_BYTES = 100_000  # and what is slow to read grows with the square: 1:59:59:59:… is one number in base 60
_LONGEST_NUMBER_SHOWN = 40
_MOST_NODES = 20_000  # an experiment file has some hundred
# YAML 1.1 reads 010 as eight and 1:30 as ninety.
_OTHER_BASE = re.compile(r"[-+]?(0[0-7_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")
_INDEX = re.compile(r"\[(\d+)\]")
_LIKE_A_NUMBER = re.compile(r"^[-+]?[0-9._]+(?:[eE][-+]?[0-9]+)?$")


def yaml_text(content: Mapping[str, Any]) -> str:
    """Writes settings so that `read_yaml` takes them back as they are: a text such as "12345e6" is quoted, which
    PyYAML writes plain and omegaconf reads as a number."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Writes what `safe_dump` writes, with quotes around all texts that look like numbers."""

    Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _LIKE_A_NUMBER, list("-+0123456789."))
    return yaml.dump(content, Dumper=Dumper, sort_keys=False, allow_unicode=True)


def read_yaml(path: Path, overrides: Overrides) -> dict[str, Any]:
    """Reads the sections of an experiment file, not checked yet, with overrides such as `training.steps=20` put in.

    Raises ConfigError that names the file: missing, unreadable, not YAML, without sections, too large once its
    anchors are expanded, or with an override that does not fit.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    text = _read_text(path)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        size = 0 if root is None else _expanded_size(root, {}, set())
        if size > _MOST_NODES:  # ten anchors of ten aliases each are ten billion values
            raise ConfigError(
                f"{path}: {size} values once its anchors are expanded, expected at most {_MOST_NODES}; write them out"
            )
        _require_plain_numbers(root, str(path))
        # Asked first: omegaconf asserts that a file is not a single number.
        loaded = OmegaConf.create(text) if isinstance(root, yaml.MappingNode) else None
        if not OmegaConf.is_dict(loaded) or not loaded:
            raise ConfigError(f"{path}: expected sections (name, task, model, training, arms), found none")
        # Not resolved: a value is text, and never another value, the environment, or a bomb of ${a}${a}.
        content: Any = OmegaConf.to_container(loaded, resolve=False)
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply, expected a few levels of sections") from error
    except (
        yaml.YAMLError,
        OmegaConfBaseException,
        ValueError,
        TypeError,
        AttributeError,
        KeyError,
        AssertionError,
    ) as error:
        # The parser and omegaconf let errors of Python through on odd scalars, keys and interpolations.
        raise ConfigError(f"{path}: not a readable YAML file: {error}") from error
    content = {str(key): value for key, value in content.items()}
    for override in _as_strings(overrides):
        _put_in(content, override)
    for place, text in _texts(content):
        # No path or file can hold these.
        if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text):
            raise ConfigError(f"{path}: {place}: holds a NUL character or half a surrogate pair; remove it")
    return content


def _as_strings(overrides: Overrides) -> list[str]:
    """Returns overrides as the command line takes them; raises ConfigError for what is none."""
    if isinstance(overrides, Mapping):
        return [f"{key}={_as_yaml(key, value)}" for key, value in overrides.items()]
    if isinstance(overrides, str):
        return [overrides]
    for override in overrides:
        if not isinstance(override, str):
            raise ConfigError(
                f'override {shown(override)}: expected texts such as "training.steps=20", or a mapping such as '
                '{"training.steps": 20}'
            )
    return list(overrides)


def _as_yaml(key: str, value: Any) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"override {key}={shown(value)}: expected a number, a text, true or false, or a list or mapping of these"
        ) from error


def _read_text(path: Path) -> str:
    if path.is_dir():
        there = path / "experiment.yaml"
        hint = f"; {there} holds the settings of the run in it" if there.is_file() else ""
        raise ConfigError(f"{path}: is a folder, expected an experiment file{hint}")
    if not path.is_file():
        raise ConfigError(f"{path}: no such experiment file; `polychromic init` writes one to start from")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"{path}: {len(content)} bytes, expected an experiment file of at most {_MOST_BYTES}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start + 1} is not UTF-8; save the file as UTF-8") from error


def _expanded_size(node: Any, sizes: dict[int, int], above: set[int]) -> int:
    """Values below a node with every alias counted as often as it stands; raises RecursionError for a cycle."""
    if id(node) in above:
        raise RecursionError
    if id(node) not in sizes:
        above.add(id(node))
        sizes[id(node)] = 1 + sum(_expanded_size(below, sizes, above) for below in _nodes_below(node))
        above.remove(id(node))
    return sizes[id(node)]


def _nodes_below(node: Any) -> list[Any]:
    """Lists the items of a list, or the keys and values of a mapping; of a scalar nothing."""
    children = node.value if isinstance(node.value, list) else []
    return [part for child in children for part in (child if isinstance(child, tuple) else (child,))]


def _texts(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Yields every text below a value, keys too, with the dotted key that it stands at."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        for key, below in value.items():
            dotted = f"{place}.{key}" if place else str(key)
            yield dotted, str(key)
            yield from _texts(below, dotted)
    elif isinstance(value, str):
        yield place, value


def _require_plain_numbers(node: Any, place: str) -> None:
    """Refuses numbers that YAML reads in another base than people do."""
    import yaml

    for scalar in _scalars(node, set()):
        plain = scalar.style is None and scalar.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        if plain and _OTHER_BASE.fullmatch(scalar.value):
            short = len(scalar.value) <= _LONGEST_NUMBER_SHOWN
            read = yaml.safe_load(scalar.value) if short else "a number in base 60"
            shown = scalar.value if short else f"{scalar.value[:_LONGEST_NUMBER_SHOWN]}…"
            raise ConfigError(
                f"{place}: line {scalar.start_mark.line + 1}: {shown} is {read} in YAML; write the number "
                "without a leading 0 or a colon, or put a text in quotes"
            )


def _scalars(node: Any, seen: set[int]) -> Iterator[Any]:
    """Yields every scalar below a node, keys too, each once."""
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if not isinstance(node.value, list):
        yield node
    for below in _nodes_below(node):
        yield from _scalars(below, seen)


def _put_in(content: dict[str, Any], override: str) -> None:
    """Changes what `training.steps=20` or `evaluation.sampling.0.temperature=0.5` names; sections are merged, and the
    index after a list's last one adds to it. Raises ConfigError where the key leads nowhere."""
    dotted, separator, text = override.partition("=")
    left = _INDEX.sub(r".\1", dotted.strip()).split(".")
    if not separator or not all(left):
        raise ConfigError(f"override {override!r}: expected key=value, such as training.steps=20")
    above: Any = content
    passed: list[str] = []
    while True:
        key, left = _first_key(above, left)
        place = _place(above, key, f"override {override!r}: {'.'.join(passed)}")
        if not left:
            above[place] = _merged(above[place], _value(text, override))
            return
        if above[place] is None:
            above[place] = [] if left[0].isdecimal() else {}
        above = above[place]
        passed.append(key)


def _first_key(above: Any, keys: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Takes the first key off; one that has dots in it, such as the name of an arm `lambda0.5`, where it is there."""
    for n in range(len(keys), 1, -1):
        if isinstance(above, dict) and ".".join(keys[:n]) in above:
            return ".".join(keys[:n]), keys[n:]
    return keys[0], keys[1:]


def _place(above: Any, key: str, where: str) -> Any:
    """Finds the key or index of a section or list, made (with None) where it is missing."""
    if isinstance(above, dict):
        above.setdefault(key, None)
        return key
    if not isinstance(above, list):
        raise ConfigError(f"{where} is {above!r:.60}, which has no {key}")
    if not key.isdecimal() or int(key) > len(above):
        raise ConfigError(f"{where} is a list of {len(above)}, expected a number from 0 to {len(above)}, got {key}")
    if int(key) == len(above):
        above.append(None)
    return int(key)


def _value(text: str, override: str) -> Any:
    """Reads the value of an override as it would be read in the file."""
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        _require_plain_numbers(yaml.compose(text, Loader=yaml.SafeLoader), f"override {override!r}")
        read: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        raise ConfigError(f"override {override!r}: not a readable value: {error}") from error
    return read["value"]


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(old, dict) or not isinstance(new, Mapping):
        return new
    return old | {key: _merged(old.get(key), value) for key, value in new.items()}
