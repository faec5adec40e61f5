"""The trainer of one arm with one seed: our prompts, checker, metrics and stops around TRL's steps."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOConfig  # pyright: ignore[reportMissingModuleSource]

from polychromic import stopping
from polychromic.errors import ModelError, TrainingError
from polychromic.integrations.sets import BatchAdvantages, SetObjective
from polychromic.integrations.trl.config import sum_scale
from polychromic.integrations.trl.observing import Batch
from polychromic.integrations.trl.trainer import SetGRPOTrainer
from polychromic.models.chat import decode, encode_prompt, thinking_of_model
from polychromic.models.loading import LanguageModel
from polychromic.records import Check, Generation, Group
from polychromic.training.base import ArmRun, OnStep
from polychromic.training.gradients import GradientMeasurement, StepOutcome
from polychromic.training.rollouts import checks_of
from polychromic.training.schedule import baseline_quality, diversity_controller, schedule_factor, step_prompts
from polychromic.training.trackers import MetricsFile, Tracker, open_trackers
from polychromic.training.watches import infinite_gradient

logger = logging.getLogger(__name__)


class ArmGRPOTrainer(SetGRPOTrainer):
    """Makes an arm's steps on the prompts that the local trainer would take, in its order and at its learning rates.

    The dataset's rows are ids of prompts: prompts are encoded and answers decoded as everywhere here.
    """

    def __init__(self, run: ArmRun, language_model: LanguageModel, args: GRPOConfig, on_step: OnStep | None) -> None:
        self.run = run
        self.language_model = language_model
        self.on_step = on_step
        prompts = run.task.prompts("train")
        self.prompts = {prompt.id: prompt for prompt in prompts}
        order = [prompt.id for step in range(args.max_steps) for prompt in step_prompts(run, prompts, step)]
        used = [self.prompts[prompt_id] for prompt_id in dict.fromkeys(order)]
        encoded = [encode_prompt(language_model.tokenizer, prompt, **language_model.chat_options) for prompt in used]
        language_model.require_room(used, encoded, run.training.max_new_tokens)
        self._encoded = {prompt.id: ids for prompt, ids in zip(used, encoded, strict=True)}
        self._thinking = thinking_of_model(run.thinking, language_model.tokenizer, language_model.chat_options)
        self._members: list[tuple[str, Generation, Check]] = []
        self._trackers: list[Tracker] = []
        self._metrics_file = MetricsFile(run.folder / "metrics.jsonl")
        objective = SetObjective(
            run.diversity,
            run.task,
            quality_baseline=run.training.quality_baseline,
            controller=diversity_controller(run.diversity, run.facts),
            names=(run.experiment, run.arm, run.seed),
            largest_failures=(run.training.max_checker_failures, run.training.max_unlabelled),
            always_divides=False,
        )
        super().__init__(
            model=language_model.model,
            reward_funcs=self._check,
            args=args,
            train_dataset=Dataset.from_dict({"prompt": order}),
            processing_class=language_model.tokenizer,
            callbacks=[_Safely(self)],
            diversity=run.diversity,
            objective=objective,
            scale=sum_scale(args),
            gradient_share_every=run.training.gradient_share_every,
        )
        self.remove_callback(PrinterCallback)

    def begin(self, steps_done: int) -> None:
        """Prepares metrics and trackers for going on after some steps."""
        if self.processes.is_first:
            self._metrics_file.rewind(steps_done)
            name = f"{self.run.arm}/seed-{self.run.seed}"
            self._trackers = open_trackers(
                self.run.tracking, self.run.folder, project=self.run.experiment, run_name=name, steps_done=steps_done
            )

    def close(self) -> None:
        """Ends the trackers."""
        for tracker in self._trackers:
            tracker.close()

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Makes the schedule of the experiment file."""
        if self.lr_scheduler is None:
            chosen = optimizer or self.optimizer
            assert chosen is not None
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                chosen, lambda step: schedule_factor(self.run.training, step, self.args.max_steps)
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [self._encoded[prompt_id] for prompt_id in prompts], None, {}

    def _generate_single_turn(self, *arguments: Any, **keys: Any) -> Any:
        try:
            return super()._generate_single_turn(*arguments, **keys)
        except RuntimeError as error:
            if "probability tensor" not in str(error):
                raise
            raise ModelError(
                f"{self.run.arm}/seed-{self.run.seed}: the model's logits are not numbers at step "
                f"{self.state.global_step + 1}: its weights hold nan or infinite values; lower training.learning_rate "
                "or use model.dtype=float32 (the last checkpoint is kept)"
            ) from error

    def _check(
        self, prompts: Sequence[str], completions: Sequence[str], completion_ids: Sequence[Sequence[int]], **_: Any
    ) -> list[float | None]:
        """Returns the task's rewards and keeps the generations for their groups."""
        generations = [self._generation(tuple(ids)) for ids in completion_ids]
        chosen = [self.prompts[prompt_id] for prompt_id in prompts]
        checks = checks_of(self.run.task, chosen, generations, self.run.training.truncation_reward)
        self._members = list(zip(prompts, generations, checks, strict=True))
        return [check.reward for check in checks]

    def _generation(self, token_ids: tuple[int, ...]) -> Generation:
        stopped = token_ids[-1] in self.language_model.stop_ids
        text = decode(self.language_model.tokenizer, token_ids[:-1] if stopped else token_ids)
        answer = self._thinking.read(text, "stop" if stopped else "length")
        return Generation(answer.text, token_ids, answer.finish, thinking=answer.thinking)

    def groups_of(self, inputs: Sequence[Mapping[str, Any]], batch: Batch) -> list[Group]:
        """Returns the groups of all processes, as checked."""
        members = [one for part in self.processes.by_process(self._members) for one in part]
        n = self.num_generations
        return [
            Group(
                self.prompts[members[start][0]],
                tuple(generation for _, generation, _ in members[start : start + n]),
                tuple(check for _, _, check in members[start : start + n]),
            )
            for start in range(0, len(members), n)
        ]

    def finish_update(self, batch: BatchAdvantages, measurement: GradientMeasurement | None) -> StepOutcome:
        """Moves λ; where the diversity term has had no gradient for too long, keeps a checkpoint and raises."""
        step = self.state.global_step
        try:
            return self.sets.finish_step(batch, measurement, baseline_quality(self.run, step))
        except TrainingError:
            self._save_checkpoint(self.model, None)
            raise

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Writes the row of an update, once TRL knows its norms and times."""
        super().log(logs, start_time)
        if self.outcome is None:
            return
        metrics = self.outcome.metrics | _of_trl(logs, self.outcome.metrics["generation/tokens"])
        self.outcome = None
        step = self.state.global_step
        if self.processes.is_first:
            self._metrics_file.log(metrics, step)
            for tracker in self._trackers:
                tracker.log(metrics, step)
        if self.on_step:
            self.on_step(step, self.args.max_steps, metrics)

    def require_finite_gradient(self) -> None:
        """Raises TrainingError before an update that would make the weights something else than numbers."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        total = torch.stack([gradient.detach().abs().sum().float() for gradient in gradients]).sum()
        if not bool(torch.isfinite(total)):
            raise infinite_gradient(self.run, self.state.global_step + 1, self.outcome)


def _of_trl(logs: Mapping[str, float], tokens: float) -> dict[str, float]:
    """Returns what TRL measured of an update, under our names: its KL is a mean over tokens, ours a generation's."""
    metrics = {"train/gradient_norm": float(logs["grad_norm"]), "time/step_seconds": float(logs["step_time"])}
    if logs.get("kl") is not None:
        metrics["train/kl"] = float(logs["kl"]) * tokens
    if logs.get("sampling/sampling_logp_difference/mean") is not None:
        metrics["train/sampler_mismatch"] = float(logs["sampling/sampling_logp_difference/mean"])
    return metrics


class _Safely(TrainerCallback):
    """Ends training at the next whole step where that is asked for, and before an update that is not finite."""

    def __init__(self, trainer: ArmGRPOTrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_keys: Any
    ) -> None:
        """Looks at the gradient."""
        self.trainer.require_finite_gradient()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_keys: Any) -> None:
        """Asks the first process whether to stop, so that all stop at one step."""
        if self.trainer.processes.from_first(stopping.requested()):
            control.should_save = True
            control.should_training_stop = True
