"""Follows a GRPOTrainer: the groups that it sampled, and the gradients of both terms on them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from polychromic.integrations.groups import float64_of
from polychromic.integrations.trl.rows import Completion, groups_of
from polychromic.numerics import FloatArray
from polychromic.records import Group
from polychromic.training.gradients import TERMS, GradientAccumulator, GradientMeasurement, Term
from polychromic.training.parallel import Processes

if TYPE_CHECKING:
    from trl import GRPOTrainer  # pyright: ignore[reportMissingImports]

Batch = dict[str, Any]
"""The batch that TRL trains on: tensors [B, …] by name, which it shuffles and splits into micro-batches along B."""

COLUMN = "polychromic_{}"
"""Name of the advantages [B] of one term in a batch."""


def sampled_rows(trainer: GRPOTrainer, inputs: Sequence[Mapping[str, Any]], batch: Batch) -> list[Completion]:
    """Returns this process's rows of a batch that TRL has just sampled; `inputs` are the dataset's rows."""
    completions = list(trainer._logs["completion"])[-len(inputs) * trainer.accelerator.num_processes :]
    start = trainer.accelerator.process_index * len(inputs)
    masks, ids = batch["completion_mask"].bool().cpu(), batch["completion_ids"].cpu()
    logprobs = batch.get("sampling_per_token_logps")
    rows = []
    for index, row in enumerate(inputs):
        tokens = tuple(ids[index][masks[index]].tolist())
        stopped = bool(tokens) and tokens[-1] in trainer.eos_token_ids
        rows.append(
            Completion(
                row["prompt"],
                completions[start + index],
                tokens,
                "stop" if stopped else "length",
                {key: value for key, value in row.items() if key not in ("prompt", "image", "images")},
                float("nan") if logprobs is None else float(logprobs[index].cpu()[masks[index]].double().sum()),
            )
        )
    return rows


def rewards_of(trainer: GRPOTrainer, n_rows: int) -> FloatArray:
    """Returns the weighted sum of TRL's reward functions [B] for the latest rows of all processes, nan where none of
    them gave one."""
    names = trainer.reward_func_names
    columns = [float64_of(np.array(list(trainer._logs["rewards"][name])[-n_rows:])) for name in names]
    weights = trainer.reward_weights.double().tolist()
    given_FB = np.stack([weight * column for weight, column in zip(weights, columns, strict=True)])
    return np.where(np.isnan(given_FB).all(axis=0), np.nan, np.nansum(given_FB, axis=0))


def sampled_groups(
    trainer: GRPOTrainer, inputs: Sequence[Mapping[str, Any]], batch: Batch, processes: Processes
) -> list[Group]:
    """Returns the groups of all processes in the order of TRL's rows, also those that lie on several."""
    parts = processes.by_process(sampled_rows(trainer, inputs, batch))
    rows = [row for part in parts for row in part]
    return groups_of(rows, rewards_of(trainer, len(rows)), trainer.num_generations)


def put_terms(trainer: GRPOTrainer, batch: Batch, terms: Mapping[str, FloatArray], scale: float) -> None:
    """Adds this process's slice of each term's advantages, times `scale`, to a batch as tensors of its own."""
    n = len(batch["advantages"])
    start = trainer.accelerator.process_index * n
    for term, values_B in terms.items():
        batch[COLUMN.format(term)] = batch["advantages"].new_tensor(scale * values_B[start : start + n])


def latest_entropy(trainer: GRPOTrainer) -> float:
    """Returns TRL's mean entropy per token, in nats, over the micro-batches of the latest update; nan before one."""
    values = trainer._metrics["train"].get("entropy", [])[-trainer.args.gradient_accumulation_steps :]
    return sum(values) / len(values) if values else float("nan")


def is_sharded(trainer: GRPOTrainer) -> bool:
    """Tells whether parameters lie in pieces on several devices, where no process can take a gradient by itself."""
    return bool(trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)


class TermGradients:
    """Measures the gradients of both terms on the micro-batches of one update, beside the update itself.

    The loss is TRL's own, asked once for each term; the KL and all else that has no advantage counts as quality.
    """

    def __init__(self, trainer: GRPOTrainer, processes: Processes) -> None:
        self.trainer = trainer
        self.processes = processes
        self.model = trainer.accelerator.unwrap_model(trainer.model)
        self.parameters = [one for one in self.model.parameters() if one.requires_grad]
        self._accumulator: GradientAccumulator | None = None

    def add(self, batch: Batch) -> None:
        """Adds one micro-batch. `parameter.grad` is left alone."""
        gate = COLUMN.format("diversity_gate") in batch
        if self._accumulator is None:
            gradients = [one.grad for one in self.parameters]
            self._accumulator = GradientAccumulator(self.parameters, separate=True, processes=self.processes)
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                parameter.grad = gradient
            if gate:
                self._accumulator.open_gate()
        terms: tuple[Term, ...] = (*TERMS, "diversity_gate") if gate else TERMS
        for term in terms:
            self._accumulator.add({term: self._loss(batch, term)})

    def _loss(self, batch: Batch, term: Term) -> torch.Tensor:
        given = {**batch, "advantages": batch[COLUMN.format(term)]}
        with _without(self.trainer, regularisers=term != "quality"):
            loss = self.trainer._compute_loss(self.model, given)
        # TRL averages over the processes what it averages over their rows.
        return loss / self.processes.size

    def finish(self, n_prompts: int) -> GradientMeasurement | None:
        """Returns the measurement of the update, None where it had no micro-batch; the next one begins anew."""
        if self._accumulator is None:
            return None
        measurement = self._accumulator.measurement(n_prompts)
        self._accumulator = None
        return measurement


@contextmanager
def _without(trainer: GRPOTrainer, *, regularisers: bool) -> Iterator[None]:
    """Keeps what a loss is asked for out of TRL's metrics and, with `regularisers`, leaves KL, entropy bonus and
    routers' loss out."""
    names = ("_metrics", "use_adaptive_entropy", "beta", "entropy_coef", "aux_loss_enabled")
    before = {name: getattr(trainer, name) for name in names}
    trainer._metrics = {mode: defaultdict(list) for mode in before["_metrics"]}
    trainer.use_adaptive_entropy = False
    if regularisers:
        trainer.beta, trainer.entropy_coef, trainer.aux_loss_enabled = 0.0, 0.0, False
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(trainer, name, value)
