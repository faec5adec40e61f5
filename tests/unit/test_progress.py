"""What a run says while it goes on: where each job is, how fast, and what is left in time and dollars."""

import pytest
from rich.console import Console
from rich.progress import Progress, TextColumn

from polychromic.experiment.jobs import JobEvent
from polychromic.experiment.progress import LiveProgress, PlainProgress, Projection, left, summary


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


def test_bars_hold_the_same_and_the_whole_run(clock):
    console = Console(force_terminal=True, width=120)
    run = projection(clock, stages=("train",))
    progress = Progress(
        TextColumn("{task.description}"), TextColumn("{task.fields[summary]}"), console=console
    )
    show = LiveProgress(progress, run, lambda _: None).show
    go(show, clock, (0, event(1)), (9, event(10, **{"train/reward": 0.5, "generation/total_tokens": 9.0})))
    whole, job = progress.tasks
    assert (whole.completed, whole.total, whole.fields["summary"]) == (1, 2, "about 10.0 s left")
    assert (job.description, job.completed) == ("a · seed 0 · training", 10)
    assert job.fields["summary"] == "reward 0.500  1 tokens/s"


def test_a_summary_without_metrics_is_empty():
    assert summary({}) == ""
