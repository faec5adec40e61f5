"""Starts an experiment: writes its file from data that is read, divided and probed, or takes one that ships with the
package."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from polychromic.errors import ConfigError, PolychromicError
from polychromic.evaluation.criteria import number
from polychromic.experiment.config import Experiment
from polychromic.experiment.starting.choices import SAMPLE_EVERY, Choices, choose
from polychromic.experiment.starting.probing import Probed, probe_model, rows_of
from polychromic.experiment.starting.splits import divide
from polychromic.files import write_text
from polychromic.records import Prompt
from polychromic.run_folder import folder_name
from polychromic.tasks.base import Split
from polychromic.tasks.data.formats import NO_KEYS, Keys
from polychromic.tasks.data.prompts import prompts_of
from polychromic.tasks.data.rows import read_splits

SHIPPED = Path(__file__).resolve().parents[2] / "shipped"
"""`experiments/` and `data/` of the repository: links there, copies in a wheel."""
EXAMPLES = ("quickstart", "replies", "code")
_CODE = re.compile(r"(?<![\w./])(\w+\.py):\w+")
_DATA = re.compile(r"\.\./(data/([\w.-]+))/[\w.-]+")
_COMMENT = re.compile(r"^(?! *#)(.*\S)  # (.*)$")
_COMMENT_COLUMN = 42
_PLAIN = re.compile(r"[A-Za-z][\w./-]*", re.ASCII)
_WORDS_OF_YAML = ("y", "n", "yes", "no", "on", "off", "true", "false", "null")
Say = Callable[[str], None]


def write_example(name: str, path: Path | None, say: Say) -> Path:
    """Writes the example's experiment file to `path` (`NAME.yaml` unless stated), its data into `data/` beside it, and
    the code that it names.

    Raises ConfigError for an unknown name, and before anything is written where something is in the way.
    """
    if name not in EXAMPLES:
        raise ConfigError(f"--example {name}: no such example; there are {', '.join(EXAMPLES)}")
    path = path or Path(f"{name}.yaml")
    text = (SHIPPED / "experiments" / f"{name}.yaml").read_text(encoding="utf-8")
    folders = dict.fromkeys(match[1] for match in _DATA.finditer(text))
    files = [file for file in dict.fromkeys(_CODE.findall(text)) if (SHIPPED / "experiments" / file).is_file()]
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}; make it first")
    for place in (path, *(path.parent / name for name in (*folders, *files))):
        if place.exists() or place.is_symlink():
            raise ConfigError(f"{place} exists already; name another file in another folder, or move it away")
    try:
        for folder in folders:
            shutil.copytree(SHIPPED / folder, path.parent / folder)
            say(f"wrote {path.parent / folder}/")
        for file in files:
            shutil.copyfile(SHIPPED / "experiments" / file, path.parent / file)
            say(f"wrote {path.parent / file}")
        write_text(path, _DATA.sub(lambda match: match[0].removeprefix("../"), text))
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written ({error.strerror}); name a file in a folder that is there and that you may "
            "write to"
        ) from error
    say(f"wrote {path}")
    return path


@dataclass(frozen=True, slots=True)
class Request:
    """The request of a person: the data, and where stated a checker, a model, keys and minutes."""

    data: str
    """A file, a folder that `datasets` saved, or a name of the hub."""
    path: Path
    """The experiment file to write."""
    model: str = "smollm2-135m-instruct"
    checker: str | None = None
    keys: Keys = NO_KEYS
    minutes: float = 2.0
    """Time that training and evaluation may take on this machine."""
    embedder: str = "minilm"


def start_experiment(request: Request, say: Say = lambda _: None) -> Experiment:
    """Writes the experiment file and its folder of splits, and returns the experiment as it is read from there.

    `say` gets a line for each thing found or done. Raises PolychromicError with a message for people, before anything
    is written where the data, the model or the checker cannot be used.
    """
    try:
        folder_name(request.path.stem)
    except ValueError as error:
        raise ConfigError(
            f"{request.path}: the file's name is the experiment's, {error}; name another: polychromic init FILE.yaml "
            f"--data {shlex.quote(request.data)}"
        ) from error
    folder = request.path.with_name(f"{request.path.stem}-data")
    for place in (request.path, folder):
        if place.exists() or place.is_symlink():
            raise ConfigError(f"{place} exists already; name another experiment file, or move it away")
    divided = divide(_read(request, say))
    for line in divided.lines:
        say(line)
    counts = ", ".join(f"{len(prompts)} to {_VERBS[split]}" for split, prompts in divided.splits.items())
    say(f"split: {counts}")
    checker = _checker(request)
    task: dict[str, object] = {"name": "custom", "checker": checker, "embedder": request.embedder}
    is_folder = request.model.startswith((".", "/", "~")) or Path(request.model).is_dir()
    source = str(Path(request.model).expanduser().resolve()) if is_folder else request.model
    content = {"name": request.path.stem, "task": task, "model": {"source": source}}
    say(f"probing {request.model}, for about a minute")
    probed = probe_model(content, divided.splits)
    train = divided.splits["train"]
    # The references of the checker regex are patterns, and no answers to learn.
    references = sum(bool(prompt.references) for prompt in train) / len(train) if checker != "regex" else 0.0
    chosen = choose(probed, len(train), len(divided.splits["test"]), references=references, minutes=request.minutes)
    if chosen.loss is None and not probed.chat:
        raise ConfigError(
            f"{request.data}: nothing says what a good answer is, and {request.model} has no chat template to be asked "
            "for several answers by; give references in the data, or a checker (--check FILE.py:NAME)"
        )
    for line in verdict_lines(probed, chosen):
        say(line)
    model = _beside(request.path, request.model) if is_folder else request.model
    checker = _beside(request.path, checker) if checker and ".py:" in checker else checker
    text = experiment_text(request.path.stem, folder.name, model, checker, probed, chosen)
    return _written(request.path, folder, text, divided.splits, say)


_VERBS: Mapping[Split, str] = {"train": "train", "validation": "validate", "test": "test"}


def _read(request: Request, say: Say) -> Mapping[str, Sequence[Prompt]]:
    """Reads the prompts by the splits that the data names, and says how many of which form there are."""
    stem = Path(request.data).stem or "prompt"
    by_split: dict[str, list[Prompt]] = {}
    for split, rows in read_splits(request.data).items():
        read = prompts_of(rows, request.data, f"{stem}-{split}" if split else stem, request.keys)
        by_split[split] = read.prompts
        with_references = sum(bool(prompt.references) for prompt in read.prompts)
        forms = "; ".join(read.forms)
        say(
            f"read {len(read.prompts)} prompts{f' of {split}' if split else ''}, {with_references} with references: "
            f"{forms}"
        )
    return by_split


def _checker(request: Request) -> str | None:
    """Returns the checker with an absolute path, so that it is found from anywhere."""
    if request.checker is None:
        return None
    place, _, function = request.checker.rpartition(":")
    return f"{Path(place).expanduser().resolve()}:{function}" if place.endswith(".py") else request.checker


def _beside(path: Path, value: str) -> str:
    """Returns a file as seen from the experiment file's folder; what is no file as it stands."""
    place, separator, function = value.rpartition(":") if ".py:" in value else (value, "", "")
    if separator and not place.endswith(".py"):
        return value
    relative = os.path.relpath(Path(place).expanduser().resolve(), path.resolve().parent)
    if separator:
        return f"{relative}:{function}"
    return relative if relative.startswith(".") else f"./{relative}"


def _written(path: Path, folder: Path, text: str, splits: Mapping[Split, Sequence[Prompt]], say: Say) -> Experiment:
    """Writes the splits, then the file, and reads it: what is written runs."""
    try:
        for split, prompts in splits.items():
            write_text(folder / f"{split}.jsonl", rows_of(prompts))
        write_text(path, text)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written ({error.strerror}); name a file in a folder that you may write to"
        ) from error
    try:
        experiment = Experiment.from_file(path)
    except PolychromicError as error:
        raise ConfigError(f"the file that was written cannot be read, which is a fault of init: {error}") from error
    say(f"wrote {path} and {folder}/")
    return experiment


def experiment_text(name: str, data: str, model: str, checker: str | None, probed: Probed, chosen: Choices) -> str:
    """Returns the YAML text. `data` is the folder of the three splits; folders, files and checkers are as seen from the
    file."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    environment.filters |= {"text": _quoted, "digits": _digits, "percent": _percent, "minutes": _in_minutes}
    template = resources.files("polychromic.experiment.starting").joinpath("experiment.yaml.j2")
    rendered = environment.from_string(template.read_text(encoding="utf-8")).render(
        name=name, data=data, model=model, checker=checker, probed=probed, chosen=chosen, sample_every=SAMPLE_EVERY
    )
    return "".join(f"{_aligned(line)}\n" for line in rendered.rstrip("\n").split("\n"))


def _percent(share: float) -> str:
    """Writes a share in percent; one that is not known as "–"."""
    return f"{100 * share:.0f} %" if math.isfinite(share) else "–"


def _in_minutes(minutes: float) -> str:
    """Writes a time in minutes, at least one."""
    rounded = max(1, math.ceil(minutes))
    return f"{rounded} minute{'s' * (rounded > 1)}"


def _digits(value: float) -> str:
    return number(value, 2)


def _quoted(value: str) -> str:
    """Quotes a text where YAML would read something else; JSON's quotes are YAML's."""
    is_plain = _PLAIN.fullmatch(value) and value.lower() not in _WORDS_OF_YAML
    return value if is_plain else json.dumps(value, ensure_ascii=False)


def _aligned(line: str) -> str:
    """Moves the comment behind a key to the column of all comments."""
    match = _COMMENT.match(line)
    return f"{match[1]:<{_COMMENT_COLUMN}} # {match[2]}" if match else line.rstrip()


def verdict_lines(probed: Probed, chosen: Choices) -> Iterator[str]:
    """Yields what a person should know about the choices before they run the file."""
    yield (
        f"untrained: {_digits(probed.metric('clusters'))} of {probed.n_samples} answers differ, "
        f"Distinct-2 {_digits(probed.metric('distinct_2'))}, {_percent(probed.truncated)} cut"
    )
    if probed.failures:
        yield f"the checker failed on {len(probed.failures)} answers: {probed.failures[0]:.200}"
    if chosen.loss is None:
        yield "nothing says what a good answer is, so nothing is trained: --check FILE.py:NAME"
    for key in ("loss", "pass_threshold"):
        if key in chosen.why:
            yield f"{key}: {chosen.why[key]}"
    for goal in chosen.goals:
        if goal.left_out:
            yield f"no criterion on {goal.criterion.metric}: {goal.left_out}"
    steps = f"{chosen.steps} steps, " if chosen.loss else ""
    yield (
        f"{steps}{chosen.num_prompts} prompts × {chosen.num_samples} answers: "
        f"about {_in_minutes(chosen.minutes)} after preflight"
    )
