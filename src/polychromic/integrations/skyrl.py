"""Set objectives in SkyRL: an advantage estimator for its registry (docs/integrations.md).

Written against skyrl 0.3: `register_advantage_estimator` of `skyrl.backends.skyrl_train.utils.ppo_utils`, and for
objectives that read answers `RayPPOTrainer.compute_advantages_and_returns`, whose estimators are handed rewards alone.
"""

from __future__ import annotations

from typing import Any

from polychromic.errors import ConfigError
from polychromic.integrations.answers import Answers
from polychromic.integrations.groups import AdvantageEstimator, RowObjective, reading
from polychromic.training.settings import DiversitySettings

__all__ = ["Answers", "DiversitySettings", "reading_answers", "register", "require_unbiased"]

UNBIASED_LOSS = "seq_mean_token_sum_norm"


def register(
    diversity: DiversitySettings, answers: Answers | None = None, *, name: str = "polychromic"
) -> RowObjective:
    """Registers and returns the objective as `trainer.algorithm.advantage_estimator=NAME`. Any baseline; λ is fixed."""
    from skyrl.backends.skyrl_train.utils import ppo_utils  # pyright: ignore[reportMissingImports]

    objective = RowObjective(diversity, answers)
    ppo_utils.register_advantage_estimator(name)(AdvantageEstimator(objective))
    return objective


def reading_answers(trainer: type) -> type:
    """Returns a trainer of SkyRL's that shows a batch's answers to its advantage estimator, and logs what it found.

    Return it from `BasePPOExp.get_trainer`. Raises ConfigError with the settings that would bias the
    gradient.
    """

    class ReadingAnswers(trainer):  # type: ignore[misc, valid-type]  # which one is known at run time only
        def compute_advantages_and_returns(self, data: Any) -> Any:
            require_unbiased(self.cfg)
            texts, prompts = _texts(self.tokenizer, data)
            with reading(texts, prompts) as given:
                data = super().compute_advantages_and_returns(data)
            self.all_metrics.update(given.metrics)
            return data

    return ReadingAnswers


def _texts(tokenizer: Any, data: Any) -> tuple[list[str], list[str]]:
    """Returns answers and prompts of a batch, which is padded on the left: [padding] prompt answer."""
    is_answer = data["response_mask"].bool()
    window = data["sequences"][:, -is_answer.shape[1] :]
    texts, prompts = [], []
    for tokens, chosen, sequence, attention in zip(
        window, is_answer, data["sequences"], data["attention_mask"].bool(), strict=True
    ):
        n_answer = int(chosen.sum())
        texts.append(tokenizer.decode(tokens[chosen].tolist(), skip_special_tokens=True))
        known = sequence[attention].tolist()
        prompts.append(tokenizer.decode(known[: len(known) - n_answer], skip_special_tokens=True))
    return texts, prompts


def require_unbiased(cfg: Any) -> None:
    """Raises ConfigError with every setting of SkyRL that would bias the gradient of a set objective."""
    algorithm, wrong = cfg.trainer.algorithm, []
    if algorithm.loss_reduction != UNBIASED_LOSS:
        wrong.append(
            f"trainer.algorithm.loss_reduction={algorithm.loss_reduction!r} divides by lengths, so that a token of a "
            f"long answer or batch counts less: {UNBIASED_LOSS!r}"
        )
    if algorithm.advantage_batch_normalize:
        wrong.append(
            "trainer.algorithm.advantage_batch_normalize divides set advantages by their standard deviation, which "
            "makes the estimator biased: false"
        )
    if algorithm.use_kl_in_reward:
        wrong.append("trainer.algorithm.use_kl_in_reward changes the rewards that are rated: use_kl_loss")
    if cfg.generator.step_wise_trajectories:
        wrong.append("generator.step_wise_trajectories makes several rows of one answer: false")
    if wrong:
        raise ConfigError("; ".join(wrong))
