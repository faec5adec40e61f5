"""Names every path of a run folder, what each file holds, and what to do where one is damaged.

`docs/run-folder.md` states the same contract for people who bring a trainer or an executor of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Shape = Any
"""A type (`float` takes whole numbers too), None, a tuple of alternatives, a list of one shape, or an object: keys with
their shapes, of which "key?" may be missing and "*" stands for all others. What is not named may hold anything."""


@dataclass(frozen=True, slots=True)
class RunFile:
    """A file: the shape of its content (of one row where it is JSON lines) and what a user can do about damage."""

    shape: Shape
    way_on: str


_MADE_AGAIN = "delete it; it is made again from the run's other files"
_TRAINED_AGAIN = "put a copy back, or delete the folder that it lies in: the next run trains that arm and seed again"
_MAYBE = (float, None)
_TIMES = {
    "arm": str, "seed": (int, None), "stage": str, "seconds": float, "tokens": int,
    "machine_seconds?": float, "dollars?": _MAYBE, "reached?": _MAYBE, "interrupted?": bool,
    "calls?": int, "call_tokens?": int, "call_dollars?": float,
}  # fmt: skip
_OUTCOME = {
    "arm": str,
    "criterion": {"metric": str, "direction": str},
    "evidence": ({"comparison": ({"relative_difference": _MAYBE}, None)}, None),
}
_FIGURES = {"seconds?": _MAYBE, "parameters?": int, "by_arm?": {"*": int}}
_WEIGHTS_OF = {"*": {"sha256?": {"*": str}}}

_MODEL_CHECK = {
    "path": {"layout": str, "head": str, "decoding": str}, "sampling": float, "training": float,
}  # fmt: skip

RUN_FILES: Mapping[str, RunFile] = {
    "comparison.json": RunFile({"verdict": {"levels": [{"outcomes": [_OUTCOME]}]}}, _MADE_AGAIN),
    "preflight.json": RunFile(
        {"passed?": bool, "checks": [{"name": str, "figures": _FIGURES}]},
        "delete it; the next run makes preflight's checks again",
    ),
    "provenance.json": RunFile(
        {
            "packages?": {"*": str}, "data_sha256": {"*": str}, "models?": _WEIGHTS_OF, "commit?": (str, None),
            "determinism?": {"threads": int}, "date?": str, "prompts?": {"*": int},
            "machine?": {"platform?": str, "device?": str},
            "polychromic_source?": ({"commit?": (str, None), "uncommitted_changes?": (str, None)}, None),
        },
        "put a copy back, or delete it: the next run records what it finds then, not what the run began with",
    ),
    "ledger.jsonl": RunFile(_TIMES, "put a copy back, or delete the line: its time and money are then not counted"),
    ".running.json": RunFile([_TIMES], "delete it; what the killed start took is then not counted"),
    ".owner.json": RunFile({"pid": int, "host": str, "started": str}, "delete it"),
    "metrics.jsonl": RunFile({"step": int, "*": (float, str, None)}, _TRAINED_AGAIN),
    "model_check.json": RunFile({"*": _MODEL_CHECK}, "delete it; models are checked again when they are loaded"),
    "tracking.json": RunFile({"*": str}, "delete it; trackers then show what follows as a run of its own"),
    "training.json": RunFile({"adapter_files?": {"*": str}}, _TRAINED_AGAIN),
    "references.jsonl": RunFile(
        {"prompt_id": str, "n_tokens": int, "cross_entropy": float},
        "delete it; the next `polychromic evaluate` makes it again",
    ),
    "adapter_config.json": RunFile(
        {"lora_alpha": float, "alpha_pattern?": ({"*": float}, None), "use_rslora?": (bool, None)}, _TRAINED_AGAIN
    ),
    "state.json": RunFile({"step": int, "state": dict, "sha256": {"*": str}}, _TRAINED_AGAIN),
    "generations.jsonl": RunFile(
        {
            "prompt_id": str, "index": int, "text": str, "n_tokens": int, "finish": str, "sampling_seed": int,
            "sampling": {"temperature": float, "top_p": float, "min_p": float, "max_new_tokens": int},
            "reward": _MAYBE, "judge?": _MAYBE, "cluster?": (str, None),
            "error?": (str, None), "judge_error?": (str, None),
        },
        "put a copy back, or delete it: the next `polychromic evaluate` samples it again",
    ),
}  # fmt: skip


class Place:
    """Makes the path of a file or folder below `root` an attribute: `adapter = Place("adapter")`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, owner: ArmFolder | RunFolder, _: type | None = None) -> Path:
        return owner.root / self.name


@dataclass(frozen=True)
class ArmFolder:
    """Paths of one arm with one seed, `ARM/seed-S`. A trainer fills it up to `training.json`, which it writes last."""

    root: Path
    adapter = Place("adapter")
    """The trained adapter as PEFT saves it; it appears whole, when training has ended."""
    ending = Place("training.json")
    """The ending of training and the hashes of the adapter's files; with this file the arm is trained."""
    below_floor = Place("below_floor.json")
    """The step at which a trial of `polychromic tune` was ended for its quality; such an arm stays untrained."""
    checkpoints = Place("checkpoints")
    metrics = Place("metrics.jsonl")
    """One row per step."""
    model_check = Place("model_check.json")
    """Distances of sampling and training from plain forward passes, by stage."""
    tracking = Place("tracking.json")
    """The runs of Weights & Biases and trackio that later starts go on with."""
    generations = Place("generations.jsonl")
    references = Place("references.jsonl")
    """Cross-entropy of the evaluation prompts' references."""

    @property
    def is_trained(self) -> bool:
        """Tells whether training has ended here. Whether the adapter is whole costs a hash: `artifacts.is_trained`."""
        return self.adapter.is_dir() and self.ending.exists()

    @property
    def has_training(self) -> bool:
        """Tells whether training has ended or begun here."""
        return any(path.exists() for path in (self.adapter, self.checkpoints, self.ending, self.metrics))


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run, `runs/NAME`."""

    root: Path
    experiment = Place("experiment.yaml")
    """The experiment with every value filled in."""
    provenance = Place("provenance.json")
    """Versions, commit and hashes."""
    preflight = Place("preflight.json")
    """Results of the checks before the work began."""
    diagnosis = Place("diagnosis.json")
    """Findings of `polychromic diagnose`."""
    ledger = Place("ledger.jsonl")
    """Time, tokens and dollars by arm, seed and stage."""
    heartbeat = Place(".running.json")
    """Ledger rows of what is running now; left behind by a kill."""
    lock = Place(".lock")
    """Lock that the working process holds; never deleted, because another would then make one of its own."""
    owner = Place(".owner.json")
    """The process that holds the folder's lock."""
    comparison = Place("comparison.json")
    """The comparison and the verdict."""
    report = Place("report.html")
    report_markdown = Place("report.md")
    latex = Place("results.tex")
    figures = Place("figures")

    def arm(self, name: str, seed: int) -> ArmFolder:
        """Returns the folder of one arm with one seed."""
        return ArmFolder(self.root / name / f"seed-{seed}")

    @property
    def arms(self) -> list[ArmFolder]:
        """Returns the folders of all arms and seeds that have been begun."""
        return [ArmFolder(path) for path in sorted(self.root.glob("*/seed-*"))]

    @property
    def has_work(self) -> bool:
        """Tells whether any arm was begun or anything compared; arms have folders, what comes before them are files."""
        return self.comparison.exists() or any(path.is_dir() for path in self.root.iterdir())

    @property
    def has_training(self) -> bool:
        """Tells whether any arm was trained or has begun to be."""
        return any(arm.has_training for arm in self.arms)

    @property
    def foreign_files(self) -> list[str]:
        """Names the files at the top that no run writes: somebody's notes or data."""
        own = {place.name for place in vars(RunFolder).values() if isinstance(place, Place)}
        return sorted(path.name for path in self.root.iterdir() if not path.is_dir() and path.name not in own)


AT_THE_TOP = tuple(
    place.name for place in vars(RunFolder).values() if isinstance(place, Place) and not place.name.startswith(".")
)
"""Names in a run folder beside the folders of its arms: an arm of such a name would be written over."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def folder_name(name: str, *, place: str = "") -> str:
    """Returns the name of a run or an arm, which names a folder too; raises ValueError where it cannot."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{place}expected letters, digits, '.', '_' and '-' of ASCII, at most 64 with a letter or a digit first "
            "(it names a folder)"
        )
    for file in AT_THE_TOP:
        # Some systems take upper and lower case for the same.
        if name.lower() == file or ("." in file and file in name.lower()):
            raise ValueError(f"{place}{name} names a folder, and {file} is a file of the run folder; choose another")
    return name


def require_folders_apart(names: Iterable[str], *, place: str) -> None:
    """Raises ValueError where two names differ in upper and lower case alone: on many systems their folders are one."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise ValueError(
                f"{place}.{name}: differs from {other} in upper and lower case alone, and each names a folder, which "
                "macOS and Windows take for the same one; rename one of them"
            )


def misfit(value: Any, shape: Shape, place: str = "") -> str:
    """Says where a value first departs from a shape, and what was expected there; empty where it fits."""
    if isinstance(shape, tuple):
        misfits = [misfit(value, part, place) for part in shape]
        return "" if "" in misfits else max(misfits, key=len)  # of the alternative that got furthest
    if isinstance(shape, Mapping):
        return _misfit_of_object(value, shape, place)
    if isinstance(shape, list):
        if not isinstance(value, list):
            return _expected("a list", value, place)
        return _first(misfit(part, shape[0], f"{place}[{i}]") for i, part in enumerate(value))
    kinds = {float: (int, float), None: type(None)}.get(shape, shape)
    fits = isinstance(value, kinds) and (shape is bool or not isinstance(value, bool))
    return "" if fits else _expected(_NAMES[shape], value, place)


_NAMES: Mapping[Any, str] = {
    str: "a text", int: "a whole number", float: "a number", bool: "true or false", dict: "an object", None: "null",
}  # fmt: skip


def _misfit_of_object(value: Any, shape: Mapping[str, Shape], place: str) -> str:
    if not isinstance(value, dict):
        return _expected("an object", value, place)
    named = {key.removesuffix("?"): below for key, below in shape.items() if key != "*"}
    missing = next((key for key in shape if key not in value and not key.endswith(("?", "*"))), None)
    if missing is not None:
        return f"{place}.{missing} is missing".removeprefix(".")
    others = {key: shape["*"] for key in value if key not in named} if "*" in shape else {}
    return _first(
        misfit(value[key], below, f"{place}.{key}".removeprefix("."))
        for key, below in (named | others).items()
        if key in value
    )


def _first(misfits: Iterable[str]) -> str:
    return next((text for text in misfits if text), "")


def _expected(what: str, value: Any, place: str) -> str:
    return f"{place or 'the content'}: expected {what}, found {repr(value)[:40]}"
