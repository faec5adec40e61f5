"""What training made of the untrained model: every arm against it, and from which k on it finds more right answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polychromic.evaluation.intervals import Resampling
from polychromic.evaluation.resampling import two_way_bootstrap_means
from polychromic.evaluation.seeds import LEAST_SEEDS
from polychromic.evaluation.study import Study

Floats = NDArray[np.float64]

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Overtaking:
    """The least k from which the untrained model's pass@k is above an arm's, with its interval over prompts, and over
    seeds from `LEAST_SEEDS` on.

    `k`, `low` and `high` are None beyond `most`, the largest k that was measured. 1: the untrained model is ahead from
    the first answer on.
    """

    arm: str
    k: int | None
    low: int | None
    high: int | None
    most: int

    @property
    def sentence(self) -> str:
        """Such as "pass@k of the untrained model overtakes ARM at k = 12 (95 % interval 8 to 21)"."""
        if self.high is None:
            interval = f"from {self.low} to beyond {self.most}" if self.low else f"beyond {self.most}"
        else:
            interval = f"{self.low} to {self.high}" if self.low != self.high else f"{self.low} alone"
        if self.k is None:
            said = f"does not overtake {self.arm} within k ≤ {self.most}"
        elif self.k == 1:
            said = f"is above that of {self.arm} from k = 1 on"
        else:
            said = f"overtakes {self.arm} at k = {self.k}"
        return f"pass@k of the untrained model {said} ({{confidence:g}} % interval of that k: {interval})"


def overtakings(
    study: Study, untrained: str, arms: Sequence[str], label: str, resampling: Resampling
) -> tuple[Overtaking, ...]:
    """One for every arm whose pass@k was measured; prompts that lack a k are left out."""
    found = []
    for arm in arms:
        arm_SPK, base_SPK = study.curves(arm, label, "pass"), study.curves(untrained, label, "pass")
        if arm_SPK is None or base_SPK is None:
            continue
        n_k = min(arm_SPK.shape[2], base_SPK.shape[2])
        # The untrained model was sampled once: its curve stands against every seed's.
        lead_SPK = base_SPK[..., :n_k].mean(axis=0) - arm_SPK[..., :n_k]
        lead_SPK = lead_SPK[:, ~np.isnan(lead_SPK).any(axis=(0, 2))]
        if lead_SPK.shape[1] > 1:
            found.append(_overtaking(arm, lead_SPK, resampling))
    return tuple(found)


def _overtaking(arm: str, lead_SPK: Floats, resampling: Resampling) -> Overtaking:
    n_k = lead_SPK.shape[2]
    drawn_SPK = lead_SPK if len(lead_SPK) >= LEAST_SEEDS else lead_SPK.mean(axis=0, keepdims=True)
    drawn_BK = two_way_bootstrap_means(drawn_SPK, n_resamples=resampling.bootstraps, seed=resampling.seed)
    tails = [resampling.alpha / 2, 1.0 - resampling.alpha / 2]
    low, high = np.quantile(_first_ahead(drawn_BK), tails, method="inverted_cdf").tolist()
    at = int(_first_ahead(lead_SPK.mean(axis=(0, 1))[None])[0])
    k, low, high = (int(one) if one <= n_k else None for one in (at, low, high))
    return Overtaking(arm, k, low, high, n_k)


def _first_ahead(lead_BK: Floats) -> NDArray[np.int64]:
    """[B] the least k with a lead, one more than the largest k where there is none."""
    ahead_BK = lead_BK > _ROUNDING
    return np.where(ahead_BK.any(axis=1), ahead_BK.argmax(axis=1) + 1, lead_BK.shape[1] + 1)
