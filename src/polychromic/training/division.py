"""Divides sampled groups into same answers: a step's groups together, or behind a service while others are sampled."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from polychromic.diversity.equivalence import Equivalence, Exact, Normalised, Partition, TextGroup
from polychromic.ledger import Calls, calls_so_far
from polychromic.tasks.equivalence import TaskForms
from polychromic.training.parallel import ALONE, Processes

_MOST_AT_ONCE = 16


class Division:
    """Takes groups as they are sampled and gives their partitions once all are there; a `with` block ends its threads.

    Where the objective reads no clusters, an equivalence that costs something (a model, a service, a process of the
    user's own) is not asked; forms and spellings are, for the curve of different answers. One that `waits` for a
    service is asked at once, in a thread for each call of `add`, while the caller samples on; others are asked for all
    groups together, in `partitions`.
    """

    def __init__(self, equivalence: Equivalence, *, reads_clusters: bool) -> None:
        self._equivalence = equivalence
        self.is_asked = reads_clusters or isinstance(equivalence, TaskForms | Normalised | Exact)
        self.waits = self.is_asked and bool(getattr(equivalence, "waits", False))
        """Says if it pays to hand in groups bit by bit."""
        self._groups: list[TextGroup] = []
        self._started: list[Future[list[Partition]]] = []
        self._pool = ThreadPoolExecutor(_MOST_AT_ONCE) if self.waits else None
        self._calls_before = calls_so_far()
        self.seconds = 0.0
        """Spent in `partitions`: what the step has waited for labels."""

    def add(self, groups: Sequence[TextGroup]) -> None:
        """Takes further groups."""
        if self._pool is not None:
            self._started.append(self._pool.submit(self._equivalence.partitions, list(groups)))
        else:
            self._groups += groups

    def partitions(self) -> list[Partition] | None:
        """Returns the partitions of all groups, in the order in which they came; None where nothing is asked."""
        started = time.perf_counter()
        if not self.is_asked:
            return None
        if self._pool is None:
            partitions = self._equivalence.partitions(self._groups)
        else:
            partitions = [partition for future in self._started for partition in future.result()]
        self.seconds = time.perf_counter() - started
        return partitions

    def metrics(self, processes: Processes = ALONE) -> dict[str, float]:
        """Returns the seconds that this process waited for labels, and what calls of services cost in all of them; none
        where nothing was asked."""
        if not self.is_asked:
            return {}
        calls = calls_so_far() - self._calls_before
        if self.waits:
            n, tokens, dollars = processes.total(calls.n, calls.tokens, calls.dollars)
            calls = Calls(round(n), round(tokens), dollars)
        return {"time/partition_seconds": self.seconds, **calls.metrics}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ):
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
