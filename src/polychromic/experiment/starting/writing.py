"""Writes the commented experiment file from the choices."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from importlib import resources

from polychromic.evaluation.criteria import number
from polychromic.experiment.starting.choices import Choices
from polychromic.experiment.starting.probing import Probed

_COMMENT = re.compile(r"^(?! *#)(.*\S)  # (.*)$")
_COMMENT_COLUMN = 42
_PLAIN = re.compile(r"[A-Za-z][\w./-]*", re.ASCII)
_WORDS_OF_YAML = ("y", "n", "yes", "no", "on", "off", "true", "false", "null")


def experiment_text(name: str, data: str, model: str, checker: str | None, probed: Probed, chosen: Choices) -> str:
    """Returns the YAML text. `data` is the folder of the three splits; folders, files and checkers are as seen from the
    file."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    environment.filters |= {"text": _quoted, "digits": _digits, "percent": percent, "minutes": in_minutes}
    template = (
        resources.files("polychromic.experiment.starting").joinpath("experiment.yaml.j2").read_text(encoding="utf-8")
    )
    rendered = environment.from_string(template).render(
        name=name, data=data, model=model, checker=checker, probed=probed, chosen=chosen
    )
    return "".join(f"{_aligned(line)}\n" for line in rendered.rstrip("\n").split("\n"))


def percent(share: float) -> str:
    """Writes a share in percent; one that is not known as "–"."""
    return f"{100 * share:.0f} %" if math.isfinite(share) else "–"


def in_minutes(minutes: float) -> str:
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
        f"Distinct-2 {_digits(probed.metric('distinct_2'))}, {percent(probed.truncated)} cut"
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
        f"about {in_minutes(chosen.minutes)} after preflight"
    )
