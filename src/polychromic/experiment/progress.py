"""Progress of a run: live bars on a terminal, one plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from polychromic.experiment.cost_text import priced_duration
from polychromic.experiment.jobs import JobEvent, OnEvent
from polychromic.experiment.projection import Projection

_SECONDS_BETWEEN_LINES = 15.0
_WORDS = {"train": "training", "evaluate": "sampling"}
Price = Callable[[float], float | None]
"""Dollars of machine seconds, None where no price is stated."""


@contextmanager
def open_progress(projection: Projection, price: Price) -> Iterator[OnEvent]:
    """Yield the function that takes events; bars where stdout is a terminal, lines where it is not."""
    console = Console()
    if not console.is_terminal:
        yield PlainProgress(projection, price).show
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[summary]}", style="dim"),
    )
    with Progress(*columns, console=console) as progress:
        yield LiveProgress(progress, projection, price).show


class LiveProgress:
    """One bar a job and stage, and above them what is left of the run."""

    def __init__(self, progress: Progress, projection: Projection, price: Price) -> None:
        self.progress = progress
        self.projection = projection
        self.price = price
        self.n_stages = len(projection.left)
        self.whole = progress.add_task("run", total=self.n_stages, summary="")
        self.bars: dict[tuple[str, int, str], TaskID] = {}

    def show(self, event: JobEvent) -> None:
        """Move the bar of an event's job."""
        self.projection.on_event(event)
        key = (event.arm, event.seed, event.stage)
        if key not in self.bars:
            label = f"{event.arm} · seed {event.seed} · {_WORDS[event.stage]}"
            self.bars[key] = self.progress.add_task(label, total=event.total, summary="")
        self.progress.update(
            self.bars[key],
            completed=event.done,
            total=event.total,
            summary=summary(self.projection.latest_metrics(event), self.projection.tokens_a_second(event)),
        )
        self.progress.update(
            self.whole,
            completed=self.n_stages - len(self.projection.left),
            summary=left(self.projection, self.price),
        )


class PlainProgress:
    """A line at the end of each stage, and every few seconds between."""

    def __init__(self, projection: Projection, price: Price) -> None:
        self.projection = projection
        self.price = price
        self.last_line: dict[tuple[str, int, str], float] = {}

    def show(self, event: JobEvent) -> None:
        """Print the event if it ends a stage or enough time has passed."""
        self.projection.on_event(event)
        key = (event.arm, event.seed, event.stage)
        now = time.monotonic()
        if event.done < event.total and now - self.last_line.setdefault(key, now) < _SECONDS_BETWEEN_LINES:
            return
        self.last_line[key] = now
        unit = "steps" if event.stage == "train" else "generations"
        parts = [
            f"{event.arm} seed {event.seed} {_WORDS[event.stage]}: {event.done}/{event.total} {unit}",
            summary(self.projection.latest_metrics(event), self.projection.tokens_a_second(event)),
            left(self.projection, self.price),
        ]
        sys.stdout.write("  ".join(part for part in parts if part) + "\n")
        sys.stdout.flush()


_SHOWN = (
    ("train/quality_loss", "loss"),
    ("train/reward", "reward"),
    ("train/diversity_score", "diversity"),
    ("train/diversity_gradient_share", "gradient share"),
)


def summary(metrics: Mapping[str, float], tokens_a_second: float | None = None) -> str:
    """The metrics worth a glance, such as `loss -0.41  reward 0.41  diversity 0.22  4,100 tokens/s`."""
    shown = [f"{word} {metrics[key]:.3f}" for key, word in _SHOWN if key in metrics]
    return "  ".join([*shown, *([] if tokens_a_second is None else [f"{tokens_a_second:,.0f} tokens/s"])])


def left(projection: Projection, price: Price) -> str:
    """Time and dollars of all that is left, such as `about 5.2 min, $0.31 left`; empty while not known."""
    seconds = projection.seconds_left()
    return "" if not seconds else f"about {priced_duration(seconds, price(seconds))} left"
