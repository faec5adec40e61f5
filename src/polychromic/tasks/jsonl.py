"""Prompts from JSON lines. Every bad line of a file is reported at once, with its number, key and mend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from polychromic.errors import DataError
from polychromic.records import Prompt
from polychromic.tasks.lines import BadLineError, parse_line, shown

_LISTED = 20


def load_prompts(path: Path) -> list[Prompt]:
    """All prompts of a file, in its order; blank lines are skipped. `lines.py` says what a line may hold.

    A line without an id gets the file's stem and its line number, such as `train-00007`.
    Raises DataError for a file that is missing or empty, and one DataError for all bad lines together.
    """
    prompts: list[Prompt] = []
    problems: list[str] = []
    line_of_id: dict[str, int] = {}
    for number, line in filled_lines(path):
        try:
            prompt = parse_line(line, default_id=f"{path.stem}-{number:05d}")
            _require_new(prompt.id, number, line_of_id)
        except BadLineError as error:
            problems.append(f"{path}:{number}: {error}")
        else:
            prompts.append(prompt)
    if problems:
        raise DataError(listing(str(path), problems))
    if not prompts:
        raise DataError(
            f'{path}: holds no prompts; expected one JSON object a line, such as {{"prompt": "Hi"}}'
        )
    return prompts


def filled_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that hold something, with their numbers; raises DataError where it cannot be read."""
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


def _require_new(prompt_id: str, number: int, line_of_id: dict[str, int]) -> None:
    first = line_of_id.setdefault(prompt_id, number)
    if first != number:
        raise BadLineError(
            f"id: {shown(prompt_id)} is the id of line {first}, expected unique ids; rename one"
        )


def listing(place: str, problems: Sequence[str]) -> str:
    """The message for bad lines: how many there are in `place`, then the first of them."""
    count = "1 bad line" if len(problems) == 1 else f"{len(problems)} bad lines"
    rest = len(problems) - _LISTED
    more = [f"... and {rest} more"] if rest > 0 else []
    return "\n".join([f"{place}: {count}, nothing was loaded", *problems[:_LISTED], *more])
