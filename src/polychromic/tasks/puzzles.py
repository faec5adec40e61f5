"""Puzzles of the package `reasoning-gym` (Apache-2.0): problems with many right answers, judged by its own scorers.

Problems are made from a seed; a scorer runs in a process of its own, as checkers of the user's do. Wrong answers may
earn a trace there (0.01 or 0.05 for trying): only a score of at least `pass_score` is a reward.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polychromic.errors import ConfigError
from polychromic.records import Check, Prompt, as_messages
from polychromic.tasks.base import Split
from polychromic.tasks.checking.isolation import isolated_checker
from polychromic.tasks.expressions import canonical, parse_signed

EXTRA = "reasoning-gym is not installed; `pip install 'polychromic[puzzles]'` brings it"
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_DRAWN = 4  # problems drawn for each that is asked for: some datasets repeat themselves
_SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class PuzzleTask:
    """Problems of one dataset of `reasoning-gym`, split by content: no question is in two splits.

    Raises ConfigError where the package, the dataset or one of its options is not known, or where it has too few
    different problems.
    """

    name = "reasoning_gym"
    pass_threshold = 1.0

    def __init__(
        self,
        dataset: str,
        sizes: Mapping[Split, int],
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
        pass_score: float = 1.0,
        seconds: float = 10.0,
        prompt: str | None = None,
    ) -> None:
        self._dataset, self._sizes, self._seed, self._prompt = dataset, sizes, seed, prompt
        self._options, self._pass_score, self._seconds = dict(options or {}), pass_score, seconds
        self._made_of = (dataset, json.dumps(self._options, sort_keys=True), seed, _DRAWN * sum(sizes.values()))
        made_dataset(*self._made_of)
        self._facts: dict[str, Mapping[str, Any]] = {}

    def prompts(self, split: Split) -> list[Prompt]:
        """Returns the different problems of a split; its sample answer, where it has one, is the reference."""
        return list(self._by_split[split])

    def check(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Check]:
        """Returns 1 where the dataset's scorer gives at least `pass_score`, else 0."""
        return isolated_checker(
            "polychromic.tasks.puzzle_scorer:scored", seconds=self._seconds, memory_gb=8.0, recheck=False
        ).run(prompts, texts)

    def judge(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Check] | None:
        """Returns None: the scorer decides alone."""
        return None

    def cluster(self, prompt: Prompt, text: str) -> str | None:
        """Returns the canonical form of the answer where its dataset has one, else the answer itself."""
        self.prompts("train")  # the puzzles' facts are there from here on
        return form_of(self._dataset, answer_in(text), self._facts.get(prompt.id))

    def distances(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Returns 0 between answers of one form, else 1."""
        forms = [form_of(self._dataset, answer_in(text)) for text in texts]
        return np.array([[float(form != other) for other in forms] for form in forms])

    def _text(self, entry: Mapping[str, Any]) -> str:
        """Returns what the model sees: the dataset's question, or the stated prompt with the problem's facts."""
        if self._prompt is None:
            return entry["question"]
        facts = {
            key: ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value
            for key, value in entry["metadata"].items()
        }
        try:
            return self._prompt.format_map({"question": entry["question"], **facts})
        except (KeyError, IndexError, ValueError) as error:
            expected = ", ".join(["question", *facts])
            raise ConfigError(
                f"task.prompt: {error} is no fact of {self._dataset}, expected {expected} in braces"
            ) from error

    @cached_property
    def _by_split(self) -> dict[Split, list[Prompt]]:
        wanted = sum(self._sizes.values())
        problems: dict[str, Prompt] = {}
        for index, entry in enumerate(made_dataset(*self._made_of)):
            if len(problems) == wanted:
                break
            meta = {"dataset": self._made_of, "index": index, "pass_score": self._pass_score}
            answer = entry["answer"]
            references = (str(answer),) if answer is not None else ()
            text, name = self._text(entry), f"{self._dataset}-{index:06d}"
            if text not in problems and self._dataset in _FORMS_OF_PUZZLES:
                self._facts[name] = entry["metadata"]["puzzle"]
            problems.setdefault(text, Prompt(name, as_messages(text), references, meta))
        if len(problems) < wanted:
            raise ConfigError(
                f"task.dataset: {self._dataset} gave {len(problems)} different problems of {wanted}; lower "
                "task.train_problems and the others, or widen task.options"
            )
        rest = iter(problems.values())
        return {split: [next(rest) for _ in range(self._sizes[split])] for split in _SPLITS}


def answer_in(text: str) -> str:
    """Returns what stands in the last `<answer>` of a text, or all of it, without white space around."""
    return (_TAGGED.findall(text) or [text])[-1].strip()


@cache
def made_dataset(name: str, options: str, seed: int, size: int) -> Any:
    """Returns the dataset; its problems are made when they are asked for."""
    try:
        import reasoning_gym  # pyright: ignore[reportMissingImports]
        from reasoning_gym.factory import DATASETS  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(EXTRA) from error
    if name not in DATASETS:
        raise ConfigError(f"task.dataset: {name!r} is not known, expected one of {', '.join(sorted(DATASETS))}")
    try:
        return reasoning_gym.create_dataset(name, size=size, seed=seed, **json.loads(options))
    except (TypeError, AssertionError, ValueError) as error:
        raise ConfigError(f"task.options: {name} does not take them: {error}") from error


def form_of(dataset: str, answer: str, facts: Mapping[str, Any] | None = None) -> str:
    """Returns one text for answers that are the same solution; an answer that cannot be read is its own form.

    `facts` of the puzzle say which parts of an answer are part of it.
    """
    try:
        if facts is not None and dataset in _FORMS_OF_PUZZLES:
            return _FORMS_OF_PUZZLES[dataset](answer, facts)
        return _FORMS.get(dataset, str.strip)(answer)
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
        return f"unreadable: {answer}"


def _expression(answer: str) -> str:
    return canonical(parse_signed(answer.replace("−", "-").replace("×", "*")))


def _board(answer: str) -> str:
    return "/".join("".join(line.split()) for line in answer.splitlines() if line.strip())


def _coloring(answer: str) -> str:
    """Colors are named by the order in which vertices first show them: renaming them makes no other solution."""
    return _colored({int(vertex): color for vertex, color in json.loads(answer).items()})


def _coloring_of(answer: str, puzzle: Mapping[str, Any]) -> str:
    """What is said of other vertices, which the scorer passes over, makes no other solution."""
    colors = json.loads(answer)
    return _colored({int(vertex): colors[str(vertex)] for vertex in puzzle["vertices"]})


def _colored(colors: Mapping[int, Any]) -> str:
    names: dict[Any, int] = {}
    return ",".join(f"{vertex}:{names.setdefault(colors[vertex], len(names))}" for vertex in sorted(colors))


def _words(answer: str) -> str:
    return ",".join(_without_loops(word.strip().upper() for word in answer.split(",")))


def _without_loops(places: Iterable[Any]) -> list[Any]:
    """Returns a way without what it does between two visits of one place."""
    way: list[Any] = []
    for place in places:
        del way[way.index(place) if place in way else len(way) :]
        way.append(place)
    return way


def _moves(answer: str) -> str:
    if answer.strip().lower() == "no":
        return "no"
    return json.dumps(["".join(str(move).split()).upper() for move in _listed(answer)])


def _listed(answer: str) -> list[Any]:
    try:
        return list(json.loads(answer))
    except json.JSONDecodeError:
        return list(json.loads(answer.replace("'", '"')))


def _pouring(answer: str) -> str:
    return json.dumps(["".join(step).upper() for step in _steps(answer)])


def _steps(answer: str) -> list[list[str]]:
    """Returns verb and jugs of each move; further words are passed over, as the scorer does."""
    return [re.sub(r"\s*->\s*", "->", str(move)).split()[:2] for move in _listed(answer)]


def _pouring_of(answer: str, puzzle: Mapping[str, Any]) -> str:
    """Two solutions are one where the jugs hold the same on the way to the target, detours and moves without effect
    left out."""
    room, target = puzzle["jug_capacities"], puzzle["target"]
    held = [0] * len(room)
    states = [tuple(held)]
    for verb, jugs in _steps(answer):
        first, *others = (ord(jug) - ord("A") for jug in jugs.split("->"))
        if verb == "pour":
            amount = min(held[first], room[others[0]] - held[others[0]])
            held[others[0]] += amount
            held[first] -= amount
        else:
            held[first] = {"fill": room[first], "empty": 0}[verb]
        states.append(tuple(held))
        if target in held:
            break
    return json.dumps(_without_loops(states))


_FORMS: dict[str, Callable[[str], str]] = {
    "countdown": _expression,
    "puzzle24": _expression,
    "n_queens": _board,
    "graph_color": _coloring,
    "word_ladder": _words,
    "jugs": _pouring,
    "knight_swap": _moves,
    "palindrome_generation": str.lower,
}
_FORMS_OF_PUZZLES: dict[str, Callable[[str, Mapping[str, Any]], str]] = {
    "graph_color": _coloring_of,
    "jugs": _pouring_of,
}
