"""Checks and conversion of what callers pass: one group [N] or a batch [P, N], numpy or torch, with values missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from polychromic.numerics import BoolArray, FloatArray, IntArray, from_tensor, is_tensor, label_codes
from polychromic.objective.registry import Objective, find_objective
from polychromic.objective.scores import GateRule, SetScore

_TOLERANCE = 1e-6
"""Distances computed in float32 are symmetric and within [0, 1] only up to rounding."""


@dataclass(frozen=True)
class Groups:
    """P checked groups of N generations. `valid_PN` is False where a reward, gate or label is missing."""

    objective: Objective
    gate: GateRule
    valid_PN: BoolArray
    arrays: dict[str, NDArray[Any]]
    """Arrays that the objective reads, by argument: [P, N], distances [P, N, N]. Gates that were not given are 1."""
    restore: Callable[[FloatArray], Any]
    """Turns a result whose first axis is P into the caller's kind: without P for one group, torch for torch."""

    def score(self, p: int, generator: np.random.Generator | None) -> SetScore:
        """Returns the set score of group p over its valid generations."""
        valid = self.valid_PN[p]
        arrays = {name: array[p] for name, array in self.arrays.items()}
        if not valid.all():
            arrays = {
                name: array[np.ix_(valid, valid)] if name == "distances" else array[valid]
                for name, array in arrays.items()
            }
        return self.objective.bind(arrays, self.gate, generator)


def read_groups(
    objective: str | Objective, *, rewards: Any, clusters: Any, distances: Any, gates: Any, gate: str
) -> Groups:
    """Checks the arrays that `objective` reads and brings them to [P, N] float64; the others are ignored.

    Raises ValueError that names the argument, its value and the fix.
    """
    entry = find_objective(objective)
    if gate not in get_args(GateRule):
        raise ValueError(f"gate is {gate!r}, expected one of {', '.join(get_args(GateRule))}")
    given = {"rewards": rewards, "clusters": clusters, "distances": distances, "gates": gates}
    given = {name: values for name, values in given.items() if name in entry.arguments}
    if gate == "none":
        given.pop("gates", None)
    _require_present(entry.name, gate, given)
    given = {name: values for name, values in given.items() if values is not None}
    restore = _restorer(list(given.values()))
    arrays = {name: _to_numpy(name, values) for name, values in given.items()}
    is_single = _check_shapes(arrays)
    if is_single:
        arrays = {name: array[None] for name, array in arrays.items()}
    _check_values(entry, gate, arrays)
    valid_PN = np.ones(next(iter(arrays.values())).shape[:2], dtype=bool)
    for name in ("rewards", "gates"):
        if name in arrays:
            valid_PN &= ~np.isnan(arrays[name])
    if "clusters" in arrays:
        valid_PN &= _has_label(arrays["clusters"])
        _check_labels(arrays["clusters"], valid_PN)
        arrays["clusters"] = _cluster_codes(arrays["clusters"], valid_PN)
    if "gates" in entry.reads and "gates" not in arrays:
        arrays["gates"] = np.ones(valid_PN.shape)
    return Groups(
        objective=entry,
        gate=gate,  # type: ignore[arg-type]
        valid_PN=valid_PN,
        arrays=arrays,
        restore=(lambda result: restore(result[0])) if is_single else restore,
    )


def _require_present(objective: str, gate: str, given: dict[str, Any]) -> None:
    for name, values in given.items():
        optional = name == "gates" and gate == "product"
        if values is None and not optional:
            reason = "with gate='passing' " if name == "gates" else ""
            raise ValueError(f"{name} is None, but objective {objective!r} {reason}reads it: pass {name}=")


def _to_numpy(name: str, values: Any) -> NDArray[Any]:
    """Converts numbers to float64; cluster labels keep their own type."""
    values = from_tensor(values)
    kind = "labels" if name == "clusters" else "numbers"
    try:
        return np.asarray(values, dtype=None if name == "clusters" else np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected an array of {kind} with rows of one length: {error}") from error


def _restorer(values: list[Any]) -> Callable[[FloatArray], Any]:
    tensors = [value for value in values if is_tensor(value)]
    if not tensors:
        return lambda result: result
    import torch

    floating = [tensor.dtype for tensor in tensors if tensor.is_floating_point()]
    dtype = torch.float64 if torch.float64 in floating or not floating else torch.float32
    return lambda result: torch.as_tensor(result).to(device=tensors[0].device, dtype=dtype)


def _check_shapes(arrays: dict[str, NDArray[Any]]) -> bool:
    """Returns True for one group, False for a batch; raises ValueError where the arrays disagree."""
    first, main = next(iter(arrays.items()))
    extra = 1 if first == "distances" else 0
    shape = main.shape[: main.ndim - extra]
    if len(shape) not in (1, 2) or 0 in shape or (extra and main.shape[-1] != main.shape[-2]):
        expected = "[N, N] or [P, N, N]" if extra else "[N] or [P, N]"
        raise ValueError(f"{first} has shape {main.shape}, expected {expected} with at least one generation")
    for name, array in arrays.items():
        expected = (*shape, shape[-1]) if name == "distances" else shape
        if array.shape != expected:
            raise ValueError(
                f"{name} has shape {array.shape}, but {first} is of {shape[-1]} generations: expected {expected}, "
                "one entry for each generation in the same order"
            )
    return len(shape) == 1


def _check_values(objective: Objective, gate: str, arrays: dict[str, NDArray[Any]]) -> None:
    if "rewards" in arrays:
        rewards_PN = arrays["rewards"]
        _check_range("rewards", rewards_PN, bounded=objective.rewards != "real")
        is_between = (rewards_PN > 0.0) & (rewards_PN < 1.0)
        if objective.rewards == "binary" and is_between.any():
            raise ValueError(
                f"rewards has {rewards_PN[is_between][0]:g} at {_first(is_between)}, but {objective.name} takes 0 and "
                "1 alone: pass reward >= threshold"
            )
    if "gates" in arrays:
        _check_range("gates", arrays["gates"], bounded=True)
        gates = arrays["gates"]
        if gate == "passing" and not np.isin(gates[~np.isnan(gates)], (0.0, 1.0)).all():
            odd = gates[~np.isnan(gates) & ~np.isin(gates, (0.0, 1.0))][0]
            raise ValueError(
                f"gates has {odd:g}, but gate='passing' asks who passes: pass 0 or 1 (reward >= threshold)"
            )
    if "distances" in arrays:
        _check_distances(arrays["distances"])


def _check_range(name: str, array_PN: FloatArray, *, bounded: bool) -> None:
    """Refuses values out of range; nan is a missing value and allowed."""
    wrong = np.isinf(array_PN)
    if bounded:
        wrong |= (array_PN < 0.0) | (array_PN > 1.0)
    if wrong.any():
        expected = "values in [0, 1]: rescale them" if bounded else "finite values"
        raise ValueError(f"{name} has {array_PN[wrong][0]:g} at {_first(wrong)}, expected {expected}")


def _has_label(labels_PN: NDArray[Any]) -> BoolArray:
    """Returns False where a label is None."""
    if labels_PN.dtype != object:
        return np.ones(labels_PN.shape, dtype=bool)
    return np.array([[label is not None for label in labels] for labels in labels_PN.tolist()])


def _check_labels(labels_PN: NDArray[Any], valid_PN: BoolArray) -> None:
    """Refuses nan, which equals nothing, itself included: every answer without a label would count as a new one."""
    unknown = np.not_equal(labels_PN, labels_PN) & valid_PN
    if np.any(unknown):
        raise ValueError(
            f"clusters has nan at {_first(unknown)}, expected a label for every generation that has a reward: give "
            "an answer that is like no other a label of its own, or make its reward nan"
        )


def _check_distances(distances_PNN: FloatArray) -> None:
    # A nan makes both comparisons false.
    if not (distances_PNN.min() >= -_TOLERANCE and distances_PNN.max() <= 1.0 + _TOLERANCE):
        wrong = ~((distances_PNN >= -_TOLERANCE) & (distances_PNN <= 1.0 + _TOLERANCE))
        raise ValueError(
            f"distances has {distances_PNN[wrong][0]:g} at {_first(wrong)}, expected values in [0, 1]: rescale them"
        )
    for distances_NN in distances_PNN:
        _check_symmetry(distances_NN)


def _check_symmetry(distances_NN: FloatArray) -> None:
    """Compares two products with one probe vector (entries ≥ 1), which show almost any asymmetry, and fast."""
    probe_N = 1.0 + np.random.default_rng(0).random(len(distances_NN))
    if np.abs(distances_NN @ probe_N - probe_N @ distances_NN).max() <= _TOLERANCE:
        return
    wrong = np.abs(distances_NN - distances_NN.T) > _TOLERANCE
    if wrong.any():
        i, j = np.argwhere(wrong)[0]
        raise ValueError(
            f"distances is not symmetric: [{i}, {j}] is {distances_NN[i, j]:g} and [{j}, {i}] is "
            f"{distances_NN[j, i]:g}; pass (d + d.T) / 2 if the difference means nothing"
        )


def _first(wrong: BoolArray) -> tuple[int, ...]:
    return tuple(int(index) for index in np.argwhere(wrong)[0])


def _cluster_codes(labels_PN: NDArray[Any], valid_PN: BoolArray) -> IntArray:
    """Labels of any hashable kind as 0..C−1 within each group; invalid generations get 0 and are not counted."""
    codes_PN = np.zeros(labels_PN.shape, dtype=np.int64)
    for p, (labels, valid) in enumerate(zip(labels_PN, valid_PN, strict=True)):
        codes_PN[p, valid] = label_codes(labels[valid].tolist())
    return codes_PN
