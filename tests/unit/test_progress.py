"""The lines of a run while it goes on: where each job is, how fast, and what is left in time and dollars."""

import io
import re

import pyte
import pytest
from rich.console import Console

from polychromic.experiment.jobs import JobEvent
from polychromic.experiment.progress import Projection
from polychromic.experiment.progress.display import Bars, PlainProgress, bar_line, counting, left, summary


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def event(done, total=10, arm="a", seed=0, stage="train", **metrics):
    return JobEvent(arm, seed, stage, done, total, metrics)


@pytest.fixture
def clock():
    return Clock()


def projection(clock, stages=("train", "evaluate"), seeds=(0, 1), workers=1):
    return Projection({("a", seed, stage) for seed in seeds for stage in stages}, workers, clock)


def go(follower, clock, *events):
    for now, one in events:
        clock.now = now
        follower(one)


def test_what_is_left_is_unknown_until_every_stage_has_been_timed(clock):
    run = projection(clock)
    go(run.on_event, clock, (0, event(1)), (9, event(10)))
    assert run.seconds_left() is None  # no sampling yet
    go(run.on_event, clock, (10, event(100, 200, stage="evaluate")), (15, event(200, 200, stage="evaluate")))
    # The second seed: ten steps of one second, two hundred generations of a twentieth.
    assert run.seconds_left() == pytest.approx(10 + 10)


def test_a_job_that_goes_on_counts_by_its_own_pace_and_workers_share(clock):
    run = projection(clock, stages=("train",), seeds=(0, 1, 2), workers=2)
    go(run.on_event, clock, (0, event(4)), (0, event(4, seed=1)), (4, event(8)), (8, event(6, seed=1)))
    # Seed 0: 2 steps of 1 s. Seed 1: 4 of 4 s. Seed 2: 10 of the mean, 2.5 s. Two workers, none idle.
    assert run.seconds_left() == pytest.approx(max((2 + 16 + 25) / 2, 25))


def test_what_a_step_could_not_measure_keeps_its_last_value(clock):
    """A step without a gradient to share showed "gradient share nan"."""
    run = projection(clock)
    share = "train/diversity_gradient_share"
    go(run.on_event, clock, (0, event(1, **{share: 0.25})), (1, event(2, **{share: float("nan"), "train/reward": 0.5})))
    assert summary(run.latest_metrics(event(2))) == ["reward 0.500", "gradient share 0.250"]


def test_what_an_earlier_start_finished_is_not_left(clock):
    run = Projection([], 1, clock)
    assert run.seconds_left() == 0
    assert left(run, lambda _: 1.0) == ""


def test_tokens_a_second_leave_out_the_first_step_with_its_loading(clock):
    run = projection(clock)
    run.on_event(event(1, **{"generation/total_tokens": 500.0}))
    assert run.tokens_per_second(event(1)) is None
    go(run.on_event, clock, (2, event(2, **{"generation/total_tokens": 600.0})))
    assert run.tokens_per_second(event(2)) == 300.0


def test_plain_lines_say_step_metrics_pace_time_and_dollars(clock, capsys):
    run = projection(clock, stages=("train",), seeds=(0, 1))
    show = PlainProgress(run, lambda seconds: seconds / 100).show
    metrics = {"train/reward": 0.25, "train/diversity_gradient_share": 0.5, "generation/total_tokens": 80.0}
    go(show, clock, (0, event(1, **metrics)), (18, event(10, **{"generation/total_tokens": 180.0})))
    assert capsys.readouterr().out == (
        "a seed 0 training: 10/10 steps  reward 0.250  gradient share 0.500  10 tokens/s  about 20.0 s, $0.20 left\n"
    )


def test_a_log_counts_what_is_checked_every_few_seconds(clock, monkeypatch, capsys):
    """Past bug: `evaluate --generations` said nothing for twenty minutes while 49,200 programs ran."""
    monkeypatch.setattr("polychromic.experiment.progress.display.time.monotonic", clock)
    with counting("checking", "answers") as show:
        for done, seconds in ((1024, 0), (2048, 16), (3072, 17), (4096, 40), (5000, 60)):
            clock.now = seconds
            show(done, 5000)
    assert capsys.readouterr().out == "checking: 2,048 of 5,000 answers\nchecking: 4,096 of 5,000 answers\n"


def test_a_log_says_when_a_model_is_loaded(clock, capsys):
    run = projection(clock, stages=("train",))
    show = PlainProgress(run, lambda _: None).show
    show(event(0, 0))
    assert capsys.readouterr().out == "a seed 0 training: loading the model\n"
    assert run.paces == {}  # loading is no step


def screen(bars, columns):
    """Returns what a terminal of so many columns shows, drawn by an emulator from the very bytes."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=columns, color_system=None)
    console.print(bars)
    shown = pyte.Screen(columns, 12)
    pyte.Stream(shown).feed(stream.getvalue().replace("\n", "\r\n"))
    return [line.rstrip() for line in shown.display if line.strip()]


METRICS = {
    "train/reward": 0.5, "train/quality_loss": -0.5, "train/diversity_score": 0.25,
    "train/diversity_gradient_share": 0.125, "generation/total_tokens": 9000.0,
}  # fmt: skip


@pytest.fixture
def bars(clock):
    run = projection(clock, stages=("train",), seeds=(0, 1))
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    bars = Bars(run, lambda seconds: seconds / 100, console)
    go(bars.show, clock, (0, event(1, 2_000)), (9, event(1_000, 2_000, **METRICS)))
    bars.show(event(0, 0, seed=1))
    return bars


def test_bars_of_200_columns_hold_everything(bars):
    whole, job, other = screen(bars, 200)
    assert whole.endswith("0/2  about 27.0 s, $0.27 left")
    assert job.startswith("a 0 training ")
    assert job.endswith("1,000/2,000  reward 0.500  diversity 0.250  gradient share 0.125  1,000 tokens/s")
    assert "━━━━━━━━━━━━────────────" in job
    assert other.endswith("loading")


@pytest.mark.parametrize("columns", [200, 100, 80, 60, 40, 24, 12])
def test_bars_are_one_line_each_and_no_number_is_cut(bars, columns):
    lines = screen(bars, columns)
    assert len(lines) == 3
    assert all(len(line) <= columns for line in lines)
    whole = screen(bars, 200)
    numbers = [set(re.findall(r"[\d,.]+", line)) for line in whole]
    for line, known in zip(lines, numbers, strict=True):
        assert set(re.findall(r"[\d,.]+", line)) <= known
    assert "1,000/2,000" in lines[1]
    assert "0/2" in lines[0]


def test_details_go_before_the_bar_and_the_bar_before_the_label():
    details = ["reward 0.500", "diversity 0.250"]
    assert bar_line(80, "a", 1, 2, details).endswith("1/2  reward 0.500  diversity 0.250")
    assert bar_line(60, "a", 1, 2, details).endswith("1/2  reward 0.500")
    assert bar_line(24, "a", 1, 2, details) == "a      ━━━━━━───────" + " 1/2"[:0] + " 1/2"
    assert bar_line(16, "a very long name", 1, 2) == "a very long… 1/2"


def test_a_stage_that_ends_leaves_a_line(clock):
    stream = io.StringIO()
    run = projection(clock, stages=("train",))
    bars = Bars(run, lambda _: None, Console(file=stream, force_terminal=True, width=80, color_system=None))
    go(bars.show, clock, (0, event(1)), (9, event(10, **{"train/reward": 0.5})))
    assert stream.getvalue() == "✓ a seed 0: 10 steps  reward 0.500\n"
    assert bars.running == {}


def test_nothing_is_said_to_be_left_where_less_than_a_second_is(clock):
    """It once said that 0.0 s were left."""
    run = projection(clock, stages=("train",), seeds=(0,))
    go(run.on_event, clock, (0, event(1)), (0.08, event(9)))
    assert run.seconds_left() == pytest.approx(0.01)
    assert left(run, lambda _: 0.0) == ""


def test_a_summary_without_metrics_is_empty():
    assert summary({}) == []


def test_a_loss_that_is_minus_the_reward_is_not_said_twice():
    assert summary({"train/reward": 0.5, "train/quality_loss": -0.5}) == ["reward 0.500"]
    assert summary({"train/quality_loss": 1.5}) == ["loss 1.500"]
