"""Checks and conversion of what callers pass: one group [N] or a batch [P, N], numpy or torch, with values missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from polychromic.numerics import BoolArray, FloatArray, IntArray, label_codes
from polychromic.objective.kernel_scores import GateRule, KernelScore
from polychromic.objective.scores import (
    BestOfClusters,
    MeanReward,
    PairwiseDistance,
    PassingDistance,
    RewardTimesClusters,
    SetScore,
)

Objective = Literal["reward", "pass_at_k", "distance", "coverage", "polychromic", "vendi", "logdet"]

_READS: dict[str, tuple[str, ...]] = {
    "reward": ("rewards",),
    "pass_at_k": ("rewards",),
    "distance": ("distances", "gates"),
    "coverage": ("rewards", "clusters"),
    "polychromic": ("rewards", "clusters"),
    "vendi": ("distances", "gates"),
    "logdet": ("distances", "gates"),
}
_TOLERANCE = 1e-6
"""Distances computed in float32 are symmetric and within [0, 1] only up to rounding."""


@dataclass(frozen=True)
class Groups:
    """P checked groups of N generations. `valid_PN` is False where a reward or gate is missing."""

    objective: Objective
    gate: GateRule
    valid_PN: BoolArray
    rewards_PN: FloatArray | None
    clusters_PN: IntArray | None
    distances_PNN: FloatArray | None
    gates_PN: FloatArray | None
    restore: Callable[[FloatArray], Any]
    """Turns a result whose first axis is P into the caller's kind: without P for one group, torch for torch."""

    @property
    def n_groups(self) -> int:
        """P."""
        return self.valid_PN.shape[0]

    @property
    def num_samples(self) -> int:
        """N, missing ones included."""
        return self.valid_PN.shape[1]

    @property
    def smallest_set(self) -> int:
        """The smallest set size at which the objective can differ from 0."""
        return 2 if self.objective == "distance" else 1

    def score(self, p: int, generator: np.random.Generator | None) -> SetScore:
        """The set score of group p over its valid generations."""
        valid = self.valid_PN[p]
        rewards, clusters, gates = (
            None if array is None else array[p][valid]
            for array in (self.rewards_PN, self.clusters_PN, self.gates_PN)
        )
        if self.distances_PNN is not None:
            distances = self.distances_PNN[p]
            distances = distances if valid.all() else distances[np.ix_(valid, valid)]
            return _distance_score(self.objective, self.gate, distances, gates, generator)
        assert rewards is not None
        return _reward_score(self.objective, rewards, clusters)


def _reward_score(objective: str, rewards_N: FloatArray, clusters_N: IntArray | None) -> SetScore:
    if objective == "reward":
        return MeanReward(rewards_N)
    if objective == "pass_at_k":
        return BestOfClusters(rewards_N, np.zeros(len(rewards_N), dtype=np.int64), per_member=False)
    assert clusters_N is not None
    if objective == "coverage":
        return BestOfClusters(rewards_N, clusters_N, per_member=True)
    return RewardTimesClusters(rewards_N, clusters_N)


def _distance_score(
    objective: str,
    gate: GateRule,
    distances_NN: FloatArray,
    gates_N: FloatArray | None,
    generator: np.random.Generator | None,
) -> SetScore:
    gates_N = np.ones(len(distances_NN)) if gates_N is None or gate == "none" else gates_N
    if objective != "distance":
        return KernelScore(distances_NN, gates_N, objective, gate, generator)  # type: ignore[arg-type]
    if gate == "passing":
        return PassingDistance(distances_NN, gates_N.astype(bool))
    return PairwiseDistance(distances_NN, gates_N)


def read_groups(
    objective: str, *, rewards: Any, clusters: Any, distances: Any, gates: Any, gate: str
) -> Groups:
    """Check the arrays that `objective` reads and bring them to [P, N] float64; the others are ignored.

    Raises ValueError that names the argument, its value and the mend.
    """
    if objective not in _READS:
        raise ValueError(f"objective is {objective!r}, expected one of {', '.join(get_args(Objective))}")
    if gate not in get_args(GateRule):
        raise ValueError(f"gate is {gate!r}, expected one of {', '.join(get_args(GateRule))}")
    given = {"rewards": rewards, "clusters": clusters, "distances": distances, "gates": gates}
    given = {name: given[name] for name in _READS[objective]}
    if gate == "none":
        given.pop("gates", None)
    _require_present(objective, gate, given)
    given = {name: values for name, values in given.items() if values is not None}
    restore = _restorer(list(given.values()))
    arrays = {name: _to_numpy(name, values) for name, values in given.items()}
    is_single = _check_shapes(arrays)
    if is_single:
        arrays = {name: array[None] for name, array in arrays.items()}
    _check_values(objective, gate, arrays)
    main = next(iter(arrays.values()))
    valid_PN = np.ones(main.shape[:2], dtype=bool)
    for name in ("rewards", "gates"):
        if name in arrays:
            valid_PN &= ~np.isnan(arrays[name])
    if "clusters" in arrays:
        _check_labels(arrays["clusters"], valid_PN)
    return Groups(
        objective=objective,  # type: ignore[arg-type]
        gate=gate,  # type: ignore[arg-type]
        valid_PN=valid_PN,
        rewards_PN=arrays.get("rewards"),
        clusters_PN=_cluster_codes(arrays["clusters"], valid_PN) if "clusters" in arrays else None,
        distances_PNN=arrays.get("distances"),
        gates_PN=arrays.get("gates"),
        restore=(lambda result: restore(result[0])) if is_single else restore,
    )


def _require_present(objective: str, gate: str, given: dict[str, Any]) -> None:
    for name, values in given.items():
        optional = name == "gates" and gate == "product"
        if values is None and not optional:
            reason = "with gate='passing' " if name == "gates" else ""
            raise ValueError(f"{name} is None, but objective {objective!r} {reason}reads it: pass {name}=")


def _to_numpy(name: str, values: Any) -> NDArray[Any]:
    """float64 for numbers; cluster labels keep their own type."""
    if _is_torch(values):
        values = values.detach().cpu()
        values = (values.double() if values.is_floating_point() else values).numpy()
    kind = "labels" if name == "clusters" else "numbers"
    try:
        return np.asarray(values, dtype=None if name == "clusters" else np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected an array of {kind} with rows of one length: {error}") from error


def _restorer(values: list[Any]) -> Callable[[FloatArray], Any]:
    tensors = [value for value in values if _is_torch(value)]
    if not tensors:
        return lambda result: result
    import torch

    floating = [tensor.dtype for tensor in tensors if tensor.is_floating_point()]
    dtype = torch.float64 if torch.float64 in floating or not floating else torch.float32
    return lambda result: torch.as_tensor(result).to(device=tensors[0].device, dtype=dtype)


def _is_torch(value: Any) -> bool:
    """Without importing torch, which numpy-only callers need not have loaded."""
    return type(value).__module__.partition(".")[0] == "torch"


def _check_shapes(arrays: dict[str, NDArray[Any]]) -> bool:
    """Whether one group was passed rather than a batch; ValueError where the arrays disagree."""
    first, main = next(iter(arrays.items()))
    extra = 1 if first == "distances" else 0
    shape = main.shape[: main.ndim - extra]
    if len(shape) not in (1, 2) or 0 in shape or (extra and main.shape[-1] != main.shape[-2]):
        expected = "[N, N] or [P, N, N]" if extra else "[N] or [P, N]"
        raise ValueError(f"{first} has shape {main.shape}, expected {expected} with at least one generation")
    for name, array in arrays.items():
        if name != first and array.shape != shape:
            raise ValueError(
                f"{name} has shape {array.shape}, but {first} is of {shape[-1]} generations: expected {shape}, "
                "one entry for each generation in the same order"
            )
    return len(shape) == 1


def _check_values(objective: str, gate: str, arrays: dict[str, NDArray[Any]]) -> None:
    if "rewards" in arrays:
        _check_range("rewards", arrays["rewards"], bounded=objective in ("coverage", "polychromic"))
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
    """nan is a missing value and allowed."""
    wrong = np.isinf(array_PN)
    if bounded:
        wrong |= (array_PN < 0.0) | (array_PN > 1.0)
    if wrong.any():
        expected = "values in [0, 1]: rescale them" if bounded else "finite values"
        raise ValueError(f"{name} has {array_PN[wrong][0]:g} at {_first(wrong)}, expected {expected}")


def _check_labels(labels_PN: NDArray[Any], valid_PN: BoolArray) -> None:
    """A nan equals nothing, itself included: every answer without a label would count as a new one."""
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
    """Two products with one probe vector (entries ≥ 1) show almost any asymmetry, far faster than a transpose."""
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
