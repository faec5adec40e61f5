"""Splits a step's prompts over the processes that `accelerate launch` or `torchrun` started, and joins what they made.

Every process holds the whole model and adapter. Whole groups go to a process, so that each samples, checks and
backpropagates its own; everything small (groups with their rewards) is then shared, and every process computes the same
advantages, metrics, λ and decisions from all of it. Gradients are summed: one all-reduce of an adapter a step.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
from torch import distributed

from polychromic.errors import ConfigError
from polychromic.processes import is_launched

T = TypeVar("T")

_PATIENCE = timedelta(days=7)
"""Longest wait of a process for the others: the first one evaluates while the rest have nothing to do."""


@dataclass(frozen=True, slots=True)
class Processes:
    """The place of this process among all; `group` carries objects, None where it is the only one."""

    rank: int = 0
    size: int = 1
    group: Any = None

    @property
    def is_first(self) -> bool:
        """Tells whether this process writes the run folder."""
        return self.rank == 0

    def own(self, items: Sequence[T]) -> list[T]:
        """Returns the items of this process: every `size`-th one, so that each item is of one process alone."""
        return list(items[self.rank :: self.size])

    def by_process(self, value: T) -> list[T]:
        """Returns what each process passed, by rank; values are pickled."""
        if self.size == 1:
            return [value]
        parts: list[Any] = [None] * self.size
        distributed.all_gather_object(parts, value, group=self.group)
        return parts

    def gather(self, own: Sequence[T]) -> list[T]:
        """Returns the items of all processes in the order that `own` split."""
        parts = self.by_process(list(own))
        total = sum(map(len, parts))
        return [parts[index % self.size][index // self.size] for index in range(total)]

    def from_first(self, value: T) -> T:
        """Returns what the first process passed, whatever the others did."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        """Sums tensors over the processes in place, in one message of float32 (float64 where one is)."""
        if self.size == 1 or not tensors:
            return
        dtype = torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
        flat = torch.cat([tensor.detach().to(dtype).flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        for tensor, summed in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(summed.view_as(tensor))

    def total(self, *values: float) -> list[float]:
        """Returns the sums of some numbers over the processes."""
        return [sum(column) for column in zip(*self.by_process(values), strict=True)]


ALONE = Processes()


def _own_gpu() -> int:
    """Returns the number of this process's GPU. Raises ConfigError where the launcher has started more than there
    are."""
    number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= there:
        raise ConfigError(
            f"the launcher started a process for GPU number {number} (LOCAL_RANK, counted from 0), and {there} can be "
            f"seen here: launch at most {there} processes on this machine, or look at CUDA_VISIBLE_DEVICES"
        )
    return number


@cache
def join_processes() -> Processes:
    """Joins the processes of the launcher, each on its own device; the only one where there is no launcher."""
    if not is_launched():
        return ALONE
    on_cuda = torch.cuda.is_available()
    if on_cuda:
        torch.cuda.set_device(_own_gpu())
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if on_cuda else "gloo", timeout=_PATIENCE)
    group = distributed.new_group(backend="gloo", timeout=_PATIENCE)
    return Processes(distributed.get_rank(), distributed.get_world_size(), group)
