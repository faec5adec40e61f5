"""Tasks from the user's own files: prompts, references, checker and clusters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from polychromic.diversity.semantic import cosine_distances
from polychromic.errors import DataError
from polychromic.records import Check, Prompt
from polychromic.tasks.base import Split
from polychromic.tasks.checkers import BUILT_IN, run_checker
from polychromic.tasks.isolation import isolated_checker
from polychromic.tasks.lines import BadLineError, parse_line, shown

if TYPE_CHECKING:
    from polychromic.diversity.embedders import Embedder

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


class FileTask:
    """Prompts from three files and distances of meaning; subclasses add the checkers."""

    def __init__(self, train: Path, validation: Path, test: Path, embedder: str):
        self._files: dict[Split, Path] = {"train": train, "validation": validation, "test": test}
        self._embedder_name = embedder
        self._loaded: dict[Split, list[Prompt]] = {}

    def prompts(self, split: Split) -> list[Prompt]:
        """All prompts of a split; raises DataError that lists every bad line."""
        if split not in self._loaded:
            self._loaded[split] = load_prompts(self._files[split])
        return list(self._loaded[split])

    def cluster(self, prompt: Prompt, text: str) -> str | None:
        """None: which answers say the same is found from their embeddings."""
        return None

    def distances(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """1 − cosine of the embeddings, opposed meanings counted as 1."""
        return np.minimum(cosine_distances(self.embedder.encode(texts)), 1.0)

    @cached_property
    def embedder(self) -> Embedder:
        """The sentence embedder, loaded when first asked for."""
        from polychromic.diversity.embedders import load_embedder

        return load_embedder(self._embedder_name)


class CustomTask(FileTask):
    """Prompts with the checkers that the experiment file names.

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
    ):
        super().__init__(train, validation, test, embedder)
        self.pass_threshold = pass_threshold
        self._check, self._judge = (
            checker_runner(
                name, seconds=checker_seconds, memory_gb=checker_memory_gb, recheck=checker_recheck
            )
            if name
            else None
            for name in (checker, judge)
        )

    def check(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Check]:
        """The training checker's word; an exception or an impossible value is a Check with the reason."""
        if self._check is None:
            return [Check(None, "task.checker is not set")] * len(texts)
        return self._check(prompts, texts)

    def judge(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Check] | None:
        """The second checker's word, or None where none is named."""
        return self._judge(prompts, texts) if self._judge else None


def checker_runner(
    name: str, *, seconds: float, memory_gb: float, recheck: bool
) -> Callable[[Sequence[Prompt], Sequence[str]], list[Check]]:
    """Runs the named checker on pairs: built-in ones here, the user's own code in a process of its own."""
    if name in BUILT_IN:
        return partial(run_checker, BUILT_IN[name])
    return isolated_checker(name, seconds=seconds, memory_gb=memory_gb, recheck=recheck).run
