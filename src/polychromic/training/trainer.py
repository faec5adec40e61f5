"""Trains one arm with one seed: resumable at any checkpoint, bit-identical whether or not it was interrupted."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from polychromic import stopping
from polychromic.errors import ConfigError, EngineError, StoppedError, TrainingError
from polychromic.files import atomic_folder
from polychromic.models.adapters import save_adapter
from polychromic.models.loading import LanguageModel, load_language_model
from polychromic.models.logprobs import TokenSequence, answer_logprobs
from polychromic.models.selfcheck import check_on_prompts
from polychromic.objective import FittedBaseline
from polychromic.seeding import CUBLAS, CUBLAS_SETTING, child_seed, deterministic, refused_operation
from polychromic.training.artifacts import add_model_check, is_trained, write_ending
from polychromic.training.base import ArmRun, Artifacts, OnStep
from polychromic.training.checkpoint import (
    Checkpoint,
    latest_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    restore_weights,
    save_checkpoint,
    trainable_weights,
)
from polychromic.training.gradients import StepOutcome
from polychromic.training.parallel import ALONE, Processes, join_processes
from polychromic.training.schedule import (
    after_step,
    baseline_quality,
    diversity_controller,
    schedule_factor,
    step_prompts,
    total_steps,
)
from polychromic.training.steps import build_step
from polychromic.training.trackers import MetricsFile, open_trackers
from polychromic.training.watches import ValidationState, ValidationWatch, ZeroGradientWatch, infinite_gradient

logger = logging.getLogger(__name__)

_LONGEST_BETWEEN_CHECKPOINTS = 600.0  # seconds


class LocalTrainer:
    """Trains in this process: a torch model, sampled by its own decode loop."""

    def train(self, run: ArmRun, on_step: OnStep | None = None) -> Artifacts:
        """Trains until done; continues from the last whole checkpoint. Raises TrainingError with the cause."""
        return Artifacts(train_arm(run, on_step))


def train_arm(run: ArmRun, on_step: OnStep | None = None) -> Path:
    """Trains until done and returns the adapter's folder; continues from the last whole checkpoint.

    Raises TrainingError where training cannot go on, naming the cause; the last checkpoint is kept.
    """
    if is_trained(run.folder):
        return run.adapter
    trainer = ArmTrainer(run, join_processes())
    first = trainer.processes.is_first
    trackers = open_trackers(
        run.tracking if first else (),
        run.folder,
        project=run.experiment,
        run_name=f"{run.arm}/seed-{run.seed}",
        steps_done=trainer.steps_done,
    )
    try:
        while not trainer.finished:
            metrics = trainer.step()
            for tracker in trackers:
                tracker.log(metrics, trainer.steps_done)
            if on_step:
                on_step(trainer.steps_done, trainer.total_steps, metrics)
            if trainer.processes.from_first(stopping.requested()):
                trainer.save_checkpoint()
                if not first:
                    stopping.request("the first process")
                stopping.stop_if_requested(f"{run.arm}/seed-{run.seed} is kept after step {trainer.steps_done}")
    finally:
        for tracker in trackers:
            tracker.close()
    trainer.save_adapter()
    return run.adapter


class ArmTrainer:
    """The state of one training run; `step()` makes one update."""

    def __init__(self, run: ArmRun, processes: Processes = ALONE) -> None:
        self.run = run
        self.processes = processes
        _require_prompts_for_all(run, processes)
        # The adapter's start and the order of prompts are shared by all arms of a seed: arms differ by what they are.
        self.language_model: LanguageModel = load_language_model(
            run.model, seed=child_seed(run.experiment, "adapter", run.seed) % 2**31
        )
        self._check_model()
        model = self.language_model.model
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=run.training.learning_rate, weight_decay=run.training.weight_decay
        )
        self.controller = diversity_controller(run.diversity, run.facts)
        self.zero_gradient = ZeroGradientWatch(run.diversity)
        self.validation = ValidationWatch(run, self.language_model, processes) if run.training.early_stopping else None
        self.maker = build_step(run, self.language_model, processes)
        self.prompts = self.maker.prompts
        self.total_steps = total_steps(run.training, len(self.prompts))
        self.metrics_file = MetricsFile(run.folder / "metrics.jsonl")
        self.steps_done = 0
        self._last_checkpoint = time.monotonic()
        self.nondeterministic = ""
        """An operation that torch has no deterministic version of on this device; empty while none was met."""
        self._agree_on_determinism()
        self._resume()

    def _check_model(self) -> None:
        """Compares sampling and training with plain forward passes and leaves what was found in model_check.json."""
        settings = self.run.training
        check = check_on_prompts(
            self.language_model,
            self.run.task.prompts("train"),
            max_new_tokens=settings.max_new_tokens,
            reference_tokens=self.run.facts.reference_tokens,
            trains=True,
        )
        if self.processes.is_first:
            add_model_check(self.run.folder, "train", check)

    @property
    def finished(self) -> bool:
        """Tells whether no further step is due."""
        stopped = self.validation is not None and self.validation.should_stop
        return stopped or self.steps_done >= self.total_steps

    def step(self) -> dict[str, Any]:
        """Makes one update: samples, backpropagates, moves the weights, writes the metrics, maybe a checkpoint."""
        started = time.perf_counter()
        self._set_learning_rate()
        self._seed_dropout()
        outcome = self._make_deterministically()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.run.training.max_gradient_norm)
        if not math.isfinite(float(norm)):
            raise infinite_gradient(self.run, self.steps_done + 1, outcome)
        self.optimizer.step()
        self.controller = after_step(self.controller, outcome, baseline_quality(self.run, self.steps_done))
        self.steps_done += 1
        metrics = dict(outcome.metrics)
        if self.validation is not None:
            metrics |= self.validation.check(self.steps_done)
        metrics |= {"train/gradient_norm": float(norm), "time/step_seconds": time.perf_counter() - started}
        if self.processes.is_first:
            self.metrics_file.log(metrics, self.steps_done)
        if self._is_checkpoint_due:
            self.save_checkpoint()
        return metrics

    @property
    def _is_checkpoint_due(self) -> bool:
        """Tells whether a checkpoint is to be written after this step: fifty slow ones may take hours."""
        is_old = time.monotonic() - self._last_checkpoint >= _LONGEST_BETWEEN_CHECKPOINTS
        return is_old or self.steps_done % self.run.training.checkpoint_every == 0 or self.finished

    def _make_deterministically(self) -> StepOutcome:
        """Makes the step, the same bits at any load; as far as torch can where an operation has no such version."""
        fitted = self.maker.fitted
        try:
            with deterministic(strict=not self.nondeterministic):
                return self._make()
        except RuntimeError as error:
            refused = refused_operation(error)
            if self.nondeterministic or not refused:
                raise
            self._give_up_determinism(refused)
        self.maker.fitted = fitted
        self._seed_dropout()
        with deterministic():
            return self._make()

    def _give_up_determinism(self, refused: str) -> None:
        """Trains on with an operation that has no deterministic version, and says so."""
        self.nondeterministic = refused
        logger.warning(
            "%s/seed-%d: torch has no deterministic version of %s on this device, so a repeated run may differ in "
            "the last bits; training.json says so%s", self.run.arm, self.run.seed, refused,
            f" (for one start with {CUBLAS_SETTING} in the environment)" if refused == CUBLAS else "",
        )  # fmt: skip

    def _agree_on_determinism(self) -> None:
        """Gives up determinism in all processes where the model's passes are refused in one.

        A step that is refused is made again. That must not begin in one process alone, as where the others' prompts
        have no signal and need no pass: they would take its new messages for those of the old step.
        """
        if self.processes.size > 1 and torch.cuda.is_available():
            refused = next(filter(None, self.processes.by_process(self._refused_in_a_pass())), "")
            if refused:
                self._give_up_determinism(refused)

    def _refused_in_a_pass(self) -> str:
        """Returns the operation that torch refuses in a forward and backward pass; empty where it refuses none."""
        sequence = TokenSequence((self.language_model.pad_id,) * 4, 2)
        try:
            with deterministic(strict=True), self.language_model.training_pass():
                answer_logprobs(self.language_model, [sequence]).logprobs_BT.sum().backward()
        except RuntimeError as error:
            if refused := refused_operation(error):
                return refused
            raise
        finally:
            self.optimizer.zero_grad()
        return ""

    def _seed_dropout(self) -> None:
        """Seeds dropout, the only randomness without a named generator of its own: each process drops its own."""
        names = (self.run.experiment, self.run.arm, self.run.seed, "dropout", self.steps_done)
        torch.manual_seed(child_seed(*names, *([self.processes.rank] if self.processes.rank else [])))

    def _make(self) -> StepOutcome:
        """Makes the step; where no engine answers or diversity has long had no gradient, raises after a checkpoint."""
        fitted = self.maker.fitted
        try:
            outcome = self.maker.make(
                self.steps_done, step_prompts(self.run, self.prompts, self.steps_done), self.controller.weight
            )
        except (EngineError, StoppedError):
            self._keep_state_before(fitted)
            stopping.stop_if_requested(f"it is kept after step {self.steps_done}")  # Ctrl-C ends engines too
            raise
        try:
            self.zero_gradient.observe(outcome)
        except TrainingError:
            self._keep_state_before(fitted)
            raise
        return outcome

    def _keep_state_before(self, fitted: FittedBaseline) -> None:
        """Writes a checkpoint of before the step that cannot be made. fitted: the baseline as it was then."""
        self.maker.fitted = fitted
        self.save_checkpoint()

    def save_adapter(self) -> None:
        """Writes the adapter (the best one where early stopping chose) and how training ended."""
        if self.processes.is_first:
            self._write_adapter()
        self.processes.from_first(None)  # the others go on when it is there

    def _write_adapter(self) -> None:
        best = self.validation.best_weights() if self.validation is not None else None
        if best is not None:
            restore_weights(self.language_model.model, best)
        ending = {
            "steps": self.steps_done,
            "stopped_early": self.steps_done < self.total_steps,
            "references_too_long": self.maker.references_too_long,
        }
        if self.nondeterministic:
            ending["nondeterministic_operation"] = self.nondeterministic
        if self.validation is not None:
            ending["best_step"] = self.validation.state.best_step
        with atomic_folder(self.run.adapter) as staging:
            save_adapter(self.language_model.model, staging)  # type: ignore[arg-type]
        write_ending(self.run.folder, ending)

    def _set_learning_rate(self) -> None:
        factor = schedule_factor(self.run.training, self.steps_done, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.run.training.learning_rate * factor

    def save_checkpoint(self) -> None:
        """Writes where training stands; again at the same step changes nothing."""
        if not self.processes.is_first:
            return
        model = self.language_model.model
        state = {
            "controller": asdict(self.controller),  # type: ignore[call-overload]  # every controller is a dataclass
            "zero_gradient": self.zero_gradient.state(),
            "fitted_baseline": self.maker.fitted.to_state(),
            "validation": asdict(self.validation.state) if self.validation is not None else None,
        }
        checkpoint = Checkpoint(
            self.steps_done, trainable_weights(model), optimizer_tensors(model, self.optimizer), state
        )
        save_checkpoint(self.run.folder / "checkpoints", checkpoint, keep=self.run.training.keep_checkpoints)
        self._last_checkpoint = time.monotonic()

    def _resume(self) -> None:
        first = self.processes.is_first
        checkpoint = self.processes.from_first(latest_checkpoint(self.run.folder / "checkpoints") if first else None)
        if checkpoint is not None:
            model = self.language_model.model
            restore_weights(model, checkpoint.weights)
            restore_optimizer(model, self.optimizer, checkpoint.optimizer)
            self.controller = type(self.controller)(**checkpoint.state["controller"])
            self.zero_gradient.restore(checkpoint.state["zero_gradient"])
            self.maker.fitted = FittedBaseline.from_state(checkpoint.state["fitted_baseline"])
            if self.validation is not None:
                self.validation.state = ValidationState(**checkpoint.state["validation"])
            self.steps_done = checkpoint.step
            logger.info("%s/seed-%d: continues after step %d", self.run.arm, self.run.seed, self.steps_done)
        if first:
            self.metrics_file.rewind(self.steps_done)


def _require_prompts_for_all(run: ArmRun, processes: Processes) -> None:
    """Raises ConfigError where a process would have no prompt of a step."""
    prompts = min(run.training.prompts_per_step, len(run.task.prompts("train")))
    if prompts < processes.size:
        raise ConfigError(
            f"{processes.size} processes were launched, but a step has {prompts} prompts, and whole groups go to a "
            "process: launch fewer, or raise training.prompts_per_step"
        )
