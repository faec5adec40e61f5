"""The fitted baseline while training: coefficients come from earlier steps, never from the groups they serve."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from polychromic.objective import FittedBaseline, baseline_equations, surprisal_gram
from polychromic.records import Group
from polychromic.training.groups import GroupSignals, objective_inputs
from polychromic.training.settings import DiversitySettings


def learn_from(
    baseline: FittedBaseline,
    groups: Sequence[Group],
    signals: GroupSignals,
    settings: DiversitySettings,
    generator: np.random.Generator | None = None,
) -> FittedBaseline:
    """The baseline for the next step, once this step's groups have had their advantages.

    The Gram matrix of the scores is stood in for by the surprisal of the sampled tokens, which costs nothing: a worse
    stand-in would cost variance, never bias.
    """
    logprobs_PN = np.array([[one.logprob for one in group.generations] for group in groups])
    texts_PN = np.array([[str(one.token_ids) for one in group.generations] for group in groups])
    equations = baseline_equations(
        settings.objective,
        settings.set_size,
        score_gram=surprisal_gram(logprobs_PN, texts_PN),
        set_sizes=baseline.set_sizes or None,  # a resumed run keeps the mix that it began with
        generator=generator,
        **objective_inputs(signals, settings),
    )
    return baseline.update(equations)
