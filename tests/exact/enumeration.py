"""Exact expectations by summing over every outcome tuple of a softmax policy, and set scores by their definition."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from math import factorial, prod

import numpy as np

from polychromic.objective import set_advantages


@dataclass(frozen=True, eq=False)
class ToyPolicy:
    """A softmax policy over M outcomes, each with a reward, a cluster, a gate and distances to the others."""

    probabilities_M: np.ndarray
    rewards_M: np.ndarray
    clusters_M: np.ndarray
    distances_MM: np.ndarray
    gates_M: np.ndarray

    @property
    def scores_MM(self) -> np.ndarray:
        """Row y: gradient of log π(y) with respect to the M logits."""
        return np.eye(len(self.probabilities_M)) - self.probabilities_M

    def tuples(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Every ordered tuple of n outcomes [M^n, n] and its probability [M^n]."""
        outcomes = np.array(list(itertools.product(range(len(self.probabilities_M)), repeat=n)))
        return outcomes, self.probabilities_M[outcomes].prod(axis=1)

    def multisets(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Every multiset of n outcomes [Q, n] with the probability [Q] of all tuples that are an order of it.

        For functions that treat the members of a group alike the sum over these is the sum over all tuples.
        """
        m = len(self.probabilities_M)
        outcomes = np.array(list(itertools.combinations_with_replacement(range(m), n)))
        orders = [factorial(n) // prod(map(factorial, np.bincount(row).tolist())) for row in outcomes]
        return outcomes, self.probabilities_M[outcomes].prod(axis=1) * np.array(orders)

    def arrays(self, outcomes_QN: np.ndarray) -> dict[str, np.ndarray]:
        """Holds what `set_advantages` reads, for Q groups."""
        return {
            "rewards": self.rewards_M[outcomes_QN],
            "clusters": self.clusters_M[outcomes_QN],
            "distances": self.distances_MM[outcomes_QN[:, :, None], outcomes_QN[:, None, :]],
            "gates": self.gates_M[outcomes_QN],
        }

    def passing(self) -> ToyPolicy:
        """The same policy with gates of 0 or 1."""
        return replace(self, gates_M=(self.gates_M > 0.5).astype(float))


def random_policy(m: int, seed: int, *, binary: bool = False, sharpness: float = 1.0) -> ToyPolicy:
    """A policy with no symmetry that could hide a bias; some outcomes share a cluster."""
    rng = np.random.default_rng(seed)
    probabilities = np.exp(sharpness * rng.standard_normal(m))
    points = rng.random((m, 3))
    distances = np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1)) / np.sqrt(3.0)
    rewards = rng.random(m)
    return ToyPolicy(
        probabilities / probabilities.sum(),
        np.round(rewards) if binary else rewards,
        rng.integers(0, max(2, m - 1), m),
        distances,
        rng.random(m),
    )


def set_score(objective: str, members: tuple[int, ...], policy: ToyPolicy, gate: str = "product") -> float:
    """f(S) from its definition, one set at a time."""
    chosen = list(members)
    size = len(chosen)
    rewards, clusters = policy.rewards_M[chosen], policy.clusters_M[chosen]
    if size == 0:
        return 0.0
    if objective == "reward":
        return rewards.mean()
    if objective == "pass_at_k":
        return rewards.max()
    if objective == "coverage":
        return sum(rewards[clusters == one].max() for one in set(clusters)) / size
    if objective == "polychromic":
        return rewards.mean() * len(set(clusters)) / size
    gates = policy.gates_M if gate != "none" else np.ones_like(policy.gates_M)
    return _kernel_or_distance_score(objective, chosen, policy.distances_MM, gates, gate)


def _kernel_or_distance_score(objective, chosen, distances, gates, gate) -> float:
    size = len(chosen)
    kept = [y for y in chosen if gates[y] == 1.0] if gate == "passing" else chosen
    if objective == "distance":
        pairs = [gates[a] * gates[b] * distances[a, b] for a, b in itertools.combinations(kept, 2)]
        return float(np.mean(pairs)) if pairs else 0.0
    kernel = 1.0 - distances[np.ix_(kept, kept)]
    if objective == "logdet":
        weighted = kernel * np.outer(gates[kept], gates[kept])
        return float(np.linalg.slogdet(np.eye(len(kept)) + weighted)[1] / (size * np.log(2.0)))
    if not kept:
        return 0.0
    shares = np.linalg.eigvalsh(kernel / len(kept))
    shares = shares[shares > 1e-15]
    vendi = float(np.exp(-(shares * np.log(shares)).sum())) / size
    return vendi * gates[chosen].mean() if gate == "product" else vendi


def objective_value(objective: str, set_size: int, policy: ToyPolicy, gate: str = "product") -> float:
    """J_K = E[f(y_1..y_K)]."""
    outcomes, weights = policy.tuples(set_size)
    return float(weights @ [set_score(objective, tuple(row), policy, gate) for row in outcomes])


def analytic_gradient(objective: str, set_size: int, policy: ToyPolicy, gate: str = "product") -> np.ndarray:
    """∇J_K with respect to the logits: Σ over tuples of probability × f × Σ_k ∇log π(y_k)."""
    outcomes, weights = policy.tuples(set_size)
    scores = np.array([set_score(objective, tuple(row), policy, gate) for row in outcomes])
    return (weights * scores) @ policy.scores_MM[outcomes].sum(axis=1)


def gradient_estimates(advantages_QN: np.ndarray, outcomes_QN: np.ndarray, policy: ToyPolicy) -> np.ndarray:
    """[Q, M]: Σ_i A_i ∇log π(y_i) of every group."""
    return np.einsum("qn,qnm->qm", advantages_QN, policy.scores_MM[outcomes_QN])


def expected_estimate(objective: str, set_size: int, n: int, policy: ToyPolicy, **options) -> np.ndarray:
    """E[Σ_i A_i ∇log π(y_i)] over every group of n."""
    outcomes, weights = policy.tuples(n)
    advantages = set_advantages(objective, set_size, **policy.arrays(outcomes), **options)
    return weights @ gradient_estimates(advantages, outcomes, policy)


def relative_variance(estimates_QM: np.ndarray, weights_Q: np.ndarray) -> float:
    """Trace of the covariance over the squared norm of the mean."""
    mean = weights_Q @ estimates_QM
    return float(weights_Q @ (estimates_QM**2).sum(axis=1) / (mean @ mean) - 1.0)
