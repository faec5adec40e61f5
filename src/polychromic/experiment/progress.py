"""Progress of a run: live bars on a terminal, one plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from polychromic.experiment.jobs import Job, JobEvent, OnEvent

_SECONDS_BETWEEN_LINES = 15.0
_WORDS = {"train": "training", "evaluate": "sampling"}


@contextmanager
def open_progress(jobs: Sequence[Job]) -> Iterator[OnEvent]:
    """Yield the function that takes events; bars where stdout is a terminal, lines where it is not."""
    console = Console()
    if not console.is_terminal:
        yield PlainProgress(len(jobs)).show
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[summary]}", style="dim"),
    )
    with Progress(*columns, console=console) as progress:
        yield LiveProgress(progress).show


class LiveProgress:
    """One bar a job and stage."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.bars: dict[tuple[str, int, str], TaskID] = {}

    def show(self, event: JobEvent) -> None:
        """Move the bar of an event's job."""
        key = (event.arm, event.seed, event.stage)
        if key not in self.bars:
            label = f"{event.arm} · seed {event.seed} · {_WORDS[event.stage]}"
            self.bars[key] = self.progress.add_task(label, total=event.total, summary="")
        self.progress.update(
            self.bars[key], completed=event.done, total=event.total, summary=summary(event.metrics)
        )


class PlainProgress:
    """A line at the end of each stage, and every few seconds between."""

    def __init__(self, n_jobs: int) -> None:
        self.n_jobs = n_jobs
        self.last_line: dict[tuple[str, int, str], float] = {}

    def show(self, event: JobEvent) -> None:
        """Print the event if it ends a stage or enough time has passed."""
        key = (event.arm, event.seed, event.stage)
        now = time.monotonic()
        if event.done < event.total and now - self.last_line.setdefault(key, now) < _SECONDS_BETWEEN_LINES:
            return
        self.last_line[key] = now
        unit = "steps" if event.stage == "train" else "generations"
        text = f"{event.arm} seed {event.seed} {_WORDS[event.stage]}: {event.done}/{event.total} {unit}"
        details = summary(event.metrics)
        sys.stdout.write(f"{text}  {details}\n" if details else f"{text}\n")
        sys.stdout.flush()


_SHOWN = (
    ("train/quality_loss", "loss"),
    ("train/reward", "reward"),
    ("train/diversity_score", "diversity"),
    ("train/diversity_gradient_share", "gradient share"),
)


def summary(metrics: Mapping[str, float]) -> str:
    """The metrics worth a glance, such as `loss -0.41  reward 0.41  diversity 0.22`."""
    return "  ".join(f"{word} {metrics[key]:.3f}" for key, word in _SHOWN if key in metrics)
