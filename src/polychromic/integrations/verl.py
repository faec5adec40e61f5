"""Set objectives in verl: an advantage estimator, loaded by VERL_USE_EXTERNAL_MODULES (docs/integrations.md).

Written against verl 0.9: `register_adv_est` and `compute_advantage` of `verl.trainer.ppo`, and for objectives that read
answers `PPOTrainer._compute_advantage` of `verl.trainer.ppo.v1`, whose estimators are handed rewards alone.
"""

from __future__ import annotations

from typing import Any

from polychromic.errors import ConfigError
from polychromic.integrations.answers import Answers
from polychromic.integrations.groups import AdvantageEstimator, RowObjective, reading
from polychromic.training.settings import DiversitySettings

__all__ = ["Answers", "DiversitySettings", "reading_answers", "register", "require_unbiased"]

UNBIASED_LOSSES = ("seq-mean-token-sum", "seq-mean-token-sum-norm")


def register(
    diversity: DiversitySettings, answers: Answers | None = None, *, name: str = "polychromic"
) -> RowObjective:
    """Registers the objective as `algorithm.adv_estimator=NAME` and returns it. Any baseline will do; λ is fixed."""
    from verl.trainer.ppo.core_algos import register_adv_est  # pyright: ignore[reportMissingImports]

    objective = RowObjective(diversity, answers)
    register_adv_est(name)(AdvantageEstimator(objective))
    return objective


def reading_answers(trainer: type) -> type:
    """Returns a trainer of verl's that shows the answers of a batch to its advantage estimator, and logs what it found.

    Decorate with verl's `register_trainer(MODE)` and choose it by `trainer.v1.trainer_mode=MODE`. Raises ConfigError
    with the settings that would bias the gradient.
    """

    class ReadingAnswers(trainer):  # type: ignore[misc, valid-type]  # which one is known at run time only
        def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
            import transfer_queue  # pyright: ignore[reportMissingImports]

            require_unbiased(self.config)
            fields = transfer_queue.kv_batch_get(
                keys=batch.keys, partition_id=batch.partition_id, select_fields=["prompts", "responses"]
            )
            texts, prompts = (
                [self.tokenizer.decode(ids, skip_special_tokens=True) for ids in fields[name].unbind()]
                for name in ("responses", "prompts")
            )
            with reading(texts, prompts) as given:
                batch = super()._compute_advantage(batch, metrics)
            metrics.update(given.metrics)
            return batch

    return ReadingAnswers


def require_unbiased(config: Any) -> None:
    """Raises ConfigError with every setting of verl that would bias the gradient of a set objective."""
    wrong = []
    mode = config.actor_rollout_ref.actor.loss_agg_mode
    if mode not in UNBIASED_LOSSES:
        wrong.append(
            f"actor_rollout_ref.actor.loss_agg_mode={mode!r} divides by lengths, so that a token of a long answer or "
            f"batch counts less: {' or '.join(UNBIASED_LOSSES)}"
        )
    if config.algorithm.use_kl_in_reward:
        wrong.append(
            "algorithm.use_kl_in_reward changes the rewards that are rated: actor_rollout_ref.actor.use_kl_loss"
        )
    if wrong:
        raise ConfigError("; ".join(wrong))
