"""Follows a GRPOTrainer: what it sampled as groups of this project, and the gradients of both terms on them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from polychromic.errors import DataError
from polychromic.integrations.groups import float64_of
from polychromic.numerics import FloatArray
from polychromic.records import Check, Finish, Generation, Group, Message, Prompt
from polychromic.training.gradients import TERMS, GradientAccumulator, GradientMeasurement, Term
from polychromic.training.parallel import Processes

if TYPE_CHECKING:
    from trl import GRPOTrainer  # pyright: ignore[reportMissingModuleSource]

Batch = dict[str, Any]
"""The batch that TRL trains on: tensors [B, …] by name, which it shuffles and splits into micro-batches along B."""

COLUMN = "polychromic_{}"
"""Name of the advantages [B] of one term in a batch."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One row of what TRL sampled; the rows of all processes in order make a batch of whole groups."""

    prompt: str | Sequence[Mapping[str, Any]]
    completion: str | Sequence[Mapping[str, Any]]
    token_ids: tuple[int, ...]
    finish: Finish
    columns: Mapping[str, Any]
    logprob: float = float("nan")


def groups_of(rows: Sequence[Completion], rewards_B: FloatArray, num_samples: int) -> list[Group]:
    """Divides B rows into groups of `num_samples`, in order; rewards_B is nan where there is none.

    Raises DataError where a group holds answers to different prompts.
    """
    groups = []
    for start in range(0, len(rows), num_samples):
        members = rows[start : start + num_samples]
        prompt = prompt_of(members[0], start // num_samples)
        if any(member.prompt != members[0].prompt for member in members) or len(members) != num_samples:
            raise DataError(
                f"rows {start} to {start + num_samples - 1} of the batch are not {num_samples} answers to one prompt: "
                "set advantages need groups as GRPOTrainer's own sampler makes them"
            )
        generations = tuple(
            Generation(text_of(one.completion), one.token_ids, one.finish, one.logprob) for one in members
        )
        checks = tuple(
            Check(None, "no reward") if np.isnan(reward) else Check(float(reward))
            for reward in rewards_B[start : start + num_samples]
        )
        groups.append(Group(prompt, generations, checks))
    return groups


def prompt_of(row: Completion, number: int) -> Prompt:
    """Returns a row's prompt, with the dataset's other columns as `meta`."""
    messages = (
        (Message("user", row.prompt),)
        if isinstance(row.prompt, str)
        else tuple(Message(str(turn["role"]), text_of([turn])) for turn in row.prompt)
    )
    return Prompt(str(row.columns.get("id", number)), messages, meta=row.columns)


def text_of(completion: str | Sequence[Mapping[str, Any]]) -> str:
    """Returns the text of a plain or conversational completion: of its last turn, parts of other kinds left out."""
    if isinstance(completion, str):
        return completion
    content = completion[-1].get("content") if completion else None
    if isinstance(content, str) or content is None:
        return content or ""
    return "".join(str(part.get("text", "")) for part in content)


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
    weights_F = float64_of(trainer.reward_weights.float().cpu().numpy())
    given_FB = np.stack([weight * column for weight, column in zip(weights_F, columns, strict=True)])
    # 0.9 · 1 + 0.1 · 1 has to reach a threshold of 1, in float32 and whatever the sum rounds to.
    total_B = np.nansum(given_FB, axis=0).round(12)
    return np.where(np.isnan(given_FB).all(axis=0), np.nan, total_B)


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
