"""Shows a run on the terminal as it goes: bars that shorten gracefully; in a log, lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from polychromic.experiment.jobs import JobEvent, OnEvent
from polychromic.experiment.progress import Key, Projection
from polychromic.ledger import priced_duration
from polychromic.plain_text import in_lines, plain_text

_SECONDS_BETWEEN_LINES = 15.0
_WORDS = {"train": "training", "evaluate": "sampling"}
_UNITS = {"train": "steps", "evaluate": "answers"}
_LONGEST_BAR, _SHORTEST_BAR = 24, 6
_LONGEST_LABEL = 34
Price = Callable[[float], float | None]
"""Dollars of machine seconds, None where no price is stated."""


def width_of(console: Console) -> int | None:
    """Returns the columns of a terminal; None of a file or a pipe, whose lines nobody breaks."""
    return console.width if console.is_terminal else None


def say(text: str, console: Console | None = None) -> None:
    """Prints a sentence, on a terminal in lines that fit. Text from data is neither markup nor control codes."""
    console = console or Console()
    for line in in_lines(plain_text(text), width_of(console), indent=2, first=0):
        console.print(Text(line), soft_wrap=True)
    console.file.flush()


@contextmanager
def activity(text: str, console: Console | None = None) -> Iterator[None]:
    """Says what is done now: while it lasts on a terminal, in a log as a line."""
    console = console or Console()
    if not console.is_terminal:
        say(text, console)
        yield
        return
    with console.status(Text(f"{text} …")):
        yield


@contextmanager
def counting(what: str, unit: str, console: Console | None = None) -> Iterator[Callable[[int, int], None]]:
    """Yields a function that takes how many of how many are done, and shows it: on a terminal while it lasts, in a log
    as a line every few seconds."""
    console = console or Console()
    last_line = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last_line
        text = f"{what}: {done:,} of {total:,} {unit}"
        if status is not None:
            status.update(Text(text))
        elif done < total and time.monotonic() - last_line >= _SECONDS_BETWEEN_LINES:
            last_line = time.monotonic()
            say(text, console)

    with console.status(Text(f"{what} …")) if console.is_terminal else nullcontext() as status:
        yield show


@contextmanager
def open_progress(projection: Projection, price: Price) -> Iterator[OnEvent]:
    """Yields the function that takes events; bars where stdout is a terminal, lines where it is not."""
    console = Console()
    if not console.is_terminal:
        yield PlainProgress(projection, price).show
        return
    bars = Bars(projection, price, console)
    with Live(bars, console=console, refresh_per_second=4, transient=True) as live:
        bars.live = live
        yield bars.show


@dataclass
class _Bar:
    """One stage of one job that is going on."""

    done: int = 0
    total: int = 0
    details: tuple[str, ...] = ()


class Bars:
    """The whole run in one line, and one for every stage that is going on; a stage that ends leaves a line above."""

    def __init__(self, projection: Projection, price: Price, console: Console) -> None:
        self.projection = projection
        self.price = price
        self.console = console
        self.live: Live | None = None
        self.n_stages = len(projection.left)
        self.running: dict[Key, _Bar] = {}

    def show(self, event: JobEvent) -> None:
        """Moves the bar of an event's job."""
        key = (event.arm, event.seed, event.stage)
        if not event.total:  # its model is being loaded
            self.running[key] = _Bar()
            return
        self.projection.on_event(event)
        bar = self.running.setdefault(key, _Bar())
        bar.done, bar.total, bar.details = event.done, event.total, _details(self.projection, event)
        if event.done >= event.total:
            del self.running[key]
            self.console.print(Text(_ended(event, bar.details, width_of(self.console))), soft_wrap=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draws every line to the width that the terminal has now."""
        done = self.n_stages - len(self.projection.left)
        remaining = left(self.projection, self.price) if done or self.running else "starting"
        lines = [bar_line(options.max_width, "run", done, self.n_stages, [remaining])]
        for (arm, seed, stage), bar in sorted(self.running.items()):
            label = f"{plain_text(arm)} {seed} {_WORDS[stage]}"
            lines.append(bar_line(options.max_width, label, bar.done, bar.total, bar.details))
        yield from (Text(line, no_wrap=True, overflow="ignore") for line in lines)


class PlainProgress:
    """A line where a stage begins and ends, and every few seconds between."""

    def __init__(self, projection: Projection, price: Price) -> None:
        self.projection = projection
        self.price = price
        self.last_line: dict[Key, float] = {}

    def show(self, event: JobEvent) -> None:
        """Prints the event if it begins or ends a stage, or enough time has passed."""
        key = (event.arm, event.seed, event.stage)
        now = time.monotonic()
        head = f"{event.arm} seed {event.seed} {_WORDS[event.stage]}"
        if not event.total:
            self.last_line[key] = now
            self._write(f"{head}: loading the model")
            return
        self.projection.on_event(event)
        if event.done < event.total and now - self.last_line.setdefault(key, now) < _SECONDS_BETWEEN_LINES:
            return
        self.last_line[key] = now
        counts = f"{head}: {event.done:,}/{event.total:,} {_UNITS[event.stage]}"
        self._write(
            "  ".join(filter(None, [counts, *_details(self.projection, event), left(self.projection, self.price)]))
        )

    def _write(self, line: str) -> None:
        sys.stdout.write(plain_text(line) + "\n")
        sys.stdout.flush()


def bar_line(width: int, label: str, done: int, total: int, details: list[str] | tuple[str, ...] = ()) -> str:
    """Draws a label, a bar, the counts and what fits of the details, in at most `width` columns.

    Where there is less room the last details go first, then the bar becomes short and goes, then the label is cut.
    Counts and numbers are never cut. A total of 0 says that work has not begun: its model is being loaded.
    """
    counts = f"{done:,}/{total:,}" if total else "loading"
    label = label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 1]}…"
    padded = label.ljust(min(_LONGEST_LABEL, max(len(label), width // 4)))
    kept = [detail for detail in details if detail]
    while True:
        tail = "  ".join([counts, *kept])
        room = width - len(padded) - len(tail) - 2
        if room >= (_LONGEST_BAR // 2 if kept else _SHORTEST_BAR):
            length = min(room, _LONGEST_BAR)
            filled = length * done // total if total else 0
            return f"{padded} {'━' * filled}{'─' * (length - filled)} {tail}"
        if not kept:
            break
        kept.pop()
    label_room = width - len(counts) - 1
    if label_room < 2:
        return counts
    short = label if len(label) <= label_room else f"{label[: label_room - 1]}…"
    return f"{short} {counts}"


def _ended(event: JobEvent, details: tuple[str, ...], width: int | None) -> str:
    """Returns the line that a stage leaves, with as many details as fit."""
    kept = [f"✓ {plain_text(event.arm)} seed {event.seed}: {event.total:,} {_UNITS[event.stage]}", *details]
    while width is not None and len(kept) > 1 and len("  ".join(kept)) > width:
        kept.pop()
    return "  ".join(kept)


def _details(projection: Projection, event: JobEvent) -> tuple[str, ...]:
    return tuple(summary(projection.latest_metrics(event), projection.tokens_per_second(event)))


_SHOWN = (
    ("train/reward", "reward"),
    ("train/quality_loss", "loss"),
    ("train/diversity_score", "diversity"),
    ("train/diversity_gradient_share", "gradient share"),
)
_ROUNDING = 1e-6


def summary(metrics: Mapping[str, float], tokens_per_second: float | None = None) -> list[str]:
    """Returns the metrics worth a glance, the most telling first, such as "reward 0.410" and "4,100 tokens/s".

    A loss that is minus the reward says nothing more.
    """
    reward, loss = metrics.get("train/reward"), metrics.get("train/quality_loss")
    keys = {key for key, _ in _SHOWN if key in metrics}
    if reward is not None and loss is not None and abs(reward + loss) < _ROUNDING:
        keys.discard("train/quality_loss")
    shown = [f"{word} {metrics[key]:.3f}" for key, word in _SHOWN if key in keys]
    return [*shown, *([] if tokens_per_second is None else [f"{tokens_per_second:,.0f} tokens/s"])]


def left(projection: Projection, price: Price) -> str:
    """Times and dollars of all that is left, such as `about 5.2 min, $0.31 left`; empty while not known, and where it
    is less than a second."""
    seconds = projection.seconds_left()
    if seconds is None or seconds < 1.0:
        return ""
    return f"about {priced_duration(seconds, price(seconds))} left"
