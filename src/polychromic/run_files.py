"""What each file of a run folder holds, and the way on where one is damaged: the reader of files asks here by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Shape = Any
"""A type (`float` takes whole numbers too), None, a tuple of alternatives, a list of one shape, or an object: keys with
their shapes, of which "key?" may be missing and "*" stands for all others. What is not named may hold anything."""


@dataclass(frozen=True, slots=True)
class RunFile:
    """The shape of a file, of one row where it is JSON lines, and what a user can do about damage."""

    shape: Shape
    way_on: str


_MADE_AGAIN = "delete it; it is made again from the run's other files"
_TRAINED_AGAIN = (
    "put a copy back, or delete the folder that it lies in: the next run trains that arm and seed again"
)
_MAYBE = (float, None)
_TIMES = {
    "arm": str, "seed": (int, None), "stage": str, "seconds": float, "tokens": int,
    "machine_seconds?": float, "dollars?": _MAYBE, "reached?": _MAYBE, "interrupted?": bool,
}  # fmt: skip
_OUTCOME = {
    "arm": str,
    "criterion": {"metric": str, "direction": str},
    "evidence": ({"comparison": ({"relative_difference": _MAYBE}, None)}, None),
}
_WEIGHTS_OF = {"*": {"sha256?": {"*": str}}}

_MODEL_CHECK = {
    "path": {"layout": str, "head": str, "decoding": str}, "sampling": float, "training": float,
}  # fmt: skip

RUN_FILES: Mapping[str, RunFile] = {
    "comparison.json": RunFile({"verdict": {"levels": [{"outcomes": [_OUTCOME]}]}}, _MADE_AGAIN),
    "preflight.json": RunFile(
        {"passed?": bool, "checks": [{"name": str, "figures": {"seconds?": _MAYBE}}]},
        "delete it; the next run makes preflight's checks again",
    ),
    "provenance.json": RunFile(
        {
            "packages?": {"*": str}, "data_sha256": {"*": str}, "models?": _WEIGHTS_OF, "commit?": (str, None),
            "determinism?": {"threads": int},
        },
        "put a copy back, or delete it: the next run records what it finds then, not what the run began with",
    ),
    "ledger.jsonl": RunFile(_TIMES, "put a copy back, or delete the line: its time and money are then not counted"),
    ".running.json": RunFile([_TIMES], "delete it; what the killed start took is then not counted"),
    ".owner.json": RunFile({"pid": int, "host": str, "started": str}, "delete it"),
    "metrics.jsonl": RunFile({"step": int, "*": (float, str, None)}, _TRAINED_AGAIN),
    "model_check.json": RunFile({"*": _MODEL_CHECK}, "delete it; models are checked again when they are loaded"),
    "training.json": RunFile({"adapter_files?": {"*": str}}, _TRAINED_AGAIN),
    "references.jsonl": RunFile(
        {"prompt_id": str, "n_tokens": int, "cross_entropy": float},
        "delete it; the next `polychromic evaluate` makes it again",
    ),
    "adapter_config.json": RunFile({"r": int, "lora_alpha": float, "use_rslora?": (bool, None)}, _TRAINED_AGAIN),
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


def misfit(value: Any, shape: Shape, place: str = "") -> str:
    """Where a value first departs from a shape, and what was expected there; empty where it fits."""
    if isinstance(shape, tuple):
        misfits = [misfit(value, one, place) for one in shape]
        return "" if "" in misfits else max(misfits, key=len)  # of the alternative that got furthest
    if isinstance(shape, Mapping):
        return _misfit_of_object(value, shape, place)
    if isinstance(shape, list):
        if not isinstance(value, list):
            return _expected("a list", value, place)
        return _first(misfit(one, shape[0], f"{place}[{i}]") for i, one in enumerate(value))
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
