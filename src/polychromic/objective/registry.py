r'''Registers set scores: what each reads, its smallest set, its bounds and how it is averaged over subsets.

Adding one takes a function and its decorator, in this package or in a file of one's own:

    from polychromic.objective import objective

    @objective(smallest_set=2)
    def spread(rewards, clusters):
        """Clusters of the set, per member, where its mean reward is above one half."""
        return len(set(clusters)) / len(clusters) if rewards.mean() > 0.5 else 0.0

An experiment file names it `diversity.objective: spread.py:spread`.
'''

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import comb
from typing import Any, Literal, get_args

import numpy as np

from polychromic import registry
from polychromic.errors import ConfigError
from polychromic.numerics import FloatArray, IntArray
from polychromic.objective import kernel_scores
from polychromic.objective.kernel_scores import EnumeratedScore, logdet_scores, vendi_scores
from polychromic.objective.scores import (
    BestOfClusters,
    GateRule,
    MeanReward,
    PairwiseDistance,
    PassingDistance,
    RewardTimesClusters,
    SetScore,
)

READABLE = ("rewards", "passing", "clusters", "distances", "gates")
"""Inputs that a score may read. `passing` is the rewards of training: 1 where a generation passes, else 0."""

Rewards = Literal["real", "unit", "binary"]
"""The rewards that a score is defined for: any finite ones, those in [0, 1], or 0 and 1 alone."""

Bind = Callable[[Mapping[str, Any], GateRule, np.random.Generator | None], SetScore]
"""Builds the score of one group from the arrays of its valid generations; gates that were not given are 1."""


@dataclass(frozen=True)
class Objective:
    """A set score f(S) and the facts that settings, checks, audits and tests ask of it."""

    name: str
    reads: tuple[str, ...]
    """Names out of `READABLE`."""
    sentence: str
    bind: Bind
    closed_form: str = ""
    """Functions that average it over all subsets; empty where subsets are enumerated, or sampled where many."""
    smallest_set: int = 1
    """Smaller sets score 0."""
    bounds: tuple[float, float] = (0.0, 1.0)
    """Of f, for rewards and gates in [0, 1]."""
    rewards: Rewards = "unit"
    pairwise: bool = False
    """True where f is a mean over pairs of g_i g_j d_ij: advantages split into a gate's and a distance's part."""

    @property
    def arguments(self) -> tuple[str, ...]:
        """Returns the arguments of `set_advantages` that it reads: `passing` comes as `rewards`."""
        return tuple("rewards" if name == "passing" else name for name in self.reads)

    @property
    def gate_rules(self) -> tuple[GateRule, ...]:
        """Returns the gate rules that make a difference."""
        return get_args(GateRule) if "gates" in self.reads else ("product",)

    def reads_rewards(self, gate: GateRule) -> bool:
        """Tells whether the score needs a checker's word on each generation: as a value, or as a gate."""
        return "rewards" in self.arguments or ("gates" in self.reads and gate != "none")


def _distance(arrays: Mapping[str, Any], gate: GateRule, generator: np.random.Generator | None) -> SetScore:
    if gate == "passing":
        return PassingDistance(arrays["distances"], arrays["gates"].astype(bool))
    return PairwiseDistance(arrays["distances"], arrays["gates"])


def _kernel(rate: Callable[[FloatArray, FloatArray, GateRule, IntArray], FloatArray], name: str) -> Bind:
    def bind(arrays: Mapping[str, Any], gate: GateRule, generator: np.random.Generator | None) -> SetScore:
        distances_NN, gates_N = arrays["distances"], arrays["gates"]
        return EnumeratedScore(
            len(gates_N), lambda sets_MK: rate(distances_NN, gates_N, gate, sets_MK), name, generator
        )

    return bind


OBJECTIVES: dict[str, Objective] = {
    entry.name: entry
    for entry in (
        Objective(
            "reward",
            ("rewards",),
            "mean reward of the set: RLOO",
            lambda arrays, *_: MeanReward(arrays["rewards"]),
            closed_form="sum over rows",
            rewards="real",
        ),
        Objective(
            "pass_at_k",
            ("passing",),
            "best reward of the set, for binary rewards whether any passes: PKPO",
            lambda arrays, *_: BestOfClusters(
                arrays["rewards"], np.zeros(len(arrays["rewards"]), dtype=np.int64), per_member=False
            ),
            closed_form="hypergeometric",
            rewards="real",
        ),
        Objective(
            "distance",
            ("distances", "gates"),
            "mean distance over the pairs of the set, weighed by the gates of both",
            _distance,
            closed_form="sum over rows; with gate `passing` hypergeometric",
            smallest_set=2,
            pairwise=True,
        ),
        Objective(
            "coverage",
            ("passing", "clusters"),
            "distinct clusters among those that pass, per member: many different correct answers",
            lambda arrays, *_: BestOfClusters(arrays["rewards"], arrays["clusters"], per_member=True),
            closed_form="hypergeometric",
        ),
        Objective(
            "polychromic",
            ("rewards", "clusters"),
            "mean reward times distinct clusters, per member: Poly-EPO",
            lambda arrays, *_: RewardTimesClusters(arrays["rewards"], arrays["clusters"]),
            closed_form="hypergeometric",
        ),
        Objective(
            "vendi",
            ("distances", "gates"),
            "effective number of different generations (Vendi score), per member",
            _kernel(vendi_scores, "vendi"),
        ),
        Objective(
            "logdet",
            ("distances", "gates"),
            "log-volume of the set's kernel: a determinantal point process with quality",
            _kernel(logdet_scores, "logdet"),
        ),
    )
}
"""By name; `@objective` adds to it."""
_BUILT_IN = frozenset(OBJECTIVES)


def objective(
    *, smallest_set: int = 1, bounds: tuple[float, float] = (0.0, 1.0), rewards: Rewards | None = None
) -> Callable[[Callable[..., float]], Objective]:
    """Registers a function that scores one set of K generations, under its own name.

    Its parameters say what it reads, out of `READABLE`: `rewards` or `passing` [K], `clusters` [K] (codes of labels),
    `distances` [K, K], `gates` [K]. It returns a float within `bounds` and must not depend on the order of the set.
    All subsets are scored where there are few, sampled ones where many (`sampled_subsets`); either way advantages are
    unbiased. rewards: what it is defined for; by default `binary` where it reads `passing`, else `unit`.
    The first line of its docstring is the sentence that explains it. Raises ValueError for other parameters.
    """

    def register(function: Callable[..., float]) -> Objective:
        name, reads = function.__name__, tuple(inspect.signature(function).parameters)
        unreadable = [parameter for parameter in reads if parameter not in READABLE]
        if unreadable or set(reads) <= {"gates"} or {"rewards", "passing"} <= set(reads):
            raise ValueError(
                f"objective {name} reads {', '.join(reads) or 'nothing'}, expected parameters out of "
                f"{', '.join(READABLE)}: not gates alone, and one of rewards and passing at most"
            )
        if name in _BUILT_IN:
            raise ValueError(f"objective {name} is built in; give yours another name")
        entry = Objective(
            name,
            reads,
            (inspect.getdoc(function) or name).partition("\n")[0],
            _enumerated(function, name, reads, smallest_set, bounds),
            smallest_set=smallest_set,
            bounds=bounds,
            rewards=rewards or ("binary" if "passing" in reads else "unit"),
        )
        OBJECTIVES[name] = entry
        return entry

    return register


def _enumerated(
    function: Callable[..., float], name: str, reads: tuple[str, ...], smallest_set: int, bounds: tuple[float, float]
) -> Bind:
    """Builds scores that call `function` once for each set; a value outside `bounds` is a ValueError."""
    lowest, highest = bounds

    def of_set(arrays: Mapping[str, Any], members_K: IntArray) -> float:
        value = float(
            function(
                **{
                    read: arrays["distances"][np.ix_(members_K, members_K)]
                    if read == "distances"
                    else arrays["rewards" if read == "passing" else read][members_K]
                    for read in reads
                }
            )
        )
        if not (math.isfinite(value) and lowest <= value <= highest):
            raise ValueError(f"objective {name} returned {value:g}, expected a number in [{lowest:g}, {highest:g}]")
        return value

    def bind(arrays: Mapping[str, Any], gate: GateRule, generator: np.random.Generator | None) -> SetScore:
        n = len(next(iter(arrays.values())))
        return EnumeratedScore(
            n,
            lambda sets_MK: np.array([of_set(arrays, members_K) for members_K in sets_MK], dtype=np.float64),
            name,
            generator,
            smallest_set,
        )

    return bind


def find_objective(objective: str | Objective) -> Objective:
    """Returns the entry of a registered name or of an import path (`file.py:name`, `module:name`), whose code it runs.

    Code of an import path is run once in a process: no run may change its objective half-way. Raises ValueError that
    says what is missing.
    """
    if isinstance(objective, Objective):
        return objective
    require_objective_name(objective)
    return OBJECTIVES.get(objective) or _imported(objective)


@lru_cache(maxsize=64)
def _imported(objective: str) -> Objective:
    try:
        entry = registry.resolve(objective, {}, "objective")
    except ConfigError as error:
        raise ValueError(str(error)) from error
    if not isinstance(entry, Objective):
        raise ValueError(f"objective {objective!r} is not decorated with @objective (polychromic.objective)")
    return entry


def require_objective_name(name: str) -> None:
    """Raises ValueError unless `name` is registered or has the form of an import path, whose code is not run."""
    if name not in OBJECTIVES and not registry.is_import_path(name):
        raise ValueError(
            f"objective is {name!r}, expected one of {', '.join(OBJECTIVES)}, or your own as path/to/file.py:name or "
            "module:name"
        )


def sampled_subsets(objective: str | Objective, set_size: int, num_samples: int) -> int:
    """Returns how many random subsets stand for all; 0 where few are enumerated, or where there is a closed form."""
    few = comb(num_samples, set_size) <= kernel_scores.MAX_SUBSETS
    return 0 if few or find_objective(objective).closed_form else kernel_scores.SAMPLED_SUBSETS
