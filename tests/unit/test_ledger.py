"""Time, tokens and dollars are counted across stops and kills; jobs side by side add up to wall time."""

import itertools

import pytest

from polychromic import stopping
from polychromic.experiment.config import Experiment
from polychromic.experiment.costs import cost_lines, projected_seconds, run_cost
from polychromic.experiment.jobs import Job, JobEvent, carry_out
from polychromic.experiment.progress import BUDGET, Ledger, paid
from polychromic.experiment.resuming.continuing import open_run_folder
from polychromic.experiment.resuming.folder import read_resolved
from polychromic.files import append_jsonl, read_json, read_jsonl, write_json
from polychromic.ledger import BudgetSettings, spent, spent_seconds, work_table
from polychromic.run_folder import RunFolder


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def event(arm, tokens=0, stage="train"):
    return JobEvent(arm, 0, stage, 1, 9, {"generation/total_tokens": tokens})


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


@pytest.fixture(autouse=True)
def no_wish():
    with stopping.listening():
        yield


def row(arm, seconds, stage="train"):
    return {"arm": arm, "seed": 0, "stage": stage, "seconds": seconds, "tokens": 7}


def job(arm):
    return Job(None, arm, 0, None)


def test_jobs_side_by_side_share_the_machine(folder):
    clock = Clock()
    ledger = Ledger(folder, BudgetSettings(dollars_per_hour=3600.0), clock)
    ledger.on_event(event("a"))
    clock.now = 10.0
    ledger.on_event(event("b"))  # a alone for 10 s
    clock.now = 30.0
    ledger.on_done(job("a"), [row("a", 30.0)])  # both for 20 s
    clock.now = 50.0
    ledger.on_done(job("b"), [row("b", 40.0)])  # b alone for 20 s
    rows = read_jsonl(folder.ledger)
    assert [(one["arm"], one["machine_seconds"], one["dollars"]) for one in rows] == [
        ("a", 20, 20),
        ("b", 30, 30),
    ]
    assert ledger.seconds == spent_seconds(rows) == 50.0


def test_a_stage_that_ended_takes_no_share_of_the_next_ones_time(folder):
    """Past bug: while a job sampled, its training still counted as running, and the machine's time was split."""
    clock = Clock()
    ledger = Ledger(folder, BudgetSettings(dollars_per_hour=3600.0), clock)
    ledger.on_event(event("a"))
    clock.now = 10.0
    ledger.on_event(event("a", stage="evaluate"))
    clock.now = 16.0
    ledger.on_done(job("a"), [row("a", 10.0), row("a", 6.0, stage="evaluate")])
    assert [one["machine_seconds"] for one in read_jsonl(folder.ledger)] == [10.0, 6.0]


def test_an_event_that_comes_after_its_job_has_ended_begins_no_work(folder):
    """Past bug: a worker's last event could come after its result, and was work that went on to the end of the run."""
    clock = Clock()
    ledger = Ledger(folder, BudgetSettings(), clock)
    ledger.on_event(event("a"))
    clock.now = 10.0
    ledger.on_done(job("a"), [row("a", 10.0)])
    ledger.on_event(event("a", tokens=7))
    clock.now = 100.0
    ledger.close()
    assert [(one["arm"], one["seconds"]) for one in read_jsonl(folder.ledger)] == [("a", 10.0)]


def test_a_kill_loses_at_most_the_time_since_the_last_heartbeat(folder):
    clock = Clock()
    first = Ledger(folder, BudgetSettings(), clock)
    for clock.now in (0.0, 4.0, 11.0, 15.0):
        first.on_event(event("a", tokens=100))
    assert read_json(folder.heartbeat)[0]["seconds"] == 11.0
    second = Ledger(folder, BudgetSettings(), clock)  # the first one was killed
    assert second.seconds == 11.0
    [kept] = read_jsonl(folder.ledger)
    assert (kept["tokens"], kept["interrupted"]) == (300, True)
    assert not folder.heartbeat.exists()


def test_a_heartbeat_is_counted_once_though_its_recovery_was_killed(folder):
    rows = [row("a", 11.0), row("b", 12.0)]
    append_jsonl(folder.ledger, [row("c", 1.0), *rows])
    write_json(folder.heartbeat, rows)
    assert Ledger(folder, BudgetSettings(), Clock()).seconds == 24.0
    assert not folder.heartbeat.exists()


def test_work_that_is_stopped_is_written_down_whole(folder):
    clock = Clock()
    ledger = Ledger(folder, BudgetSettings(), clock)
    ledger.on_event(event("a", tokens=5))
    clock.now = 3.0
    ledger.close()
    ledger.close()
    assert [(one["seconds"], one["tokens"]) for one in read_jsonl(folder.ledger)] == [(3.0, 5)]


@pytest.mark.parametrize("caps", [{"max_hours": 0.01}, {"max_dollars": 0.02, "dollars_per_hour": 2.0}])
def test_a_cap_asks_the_run_to_stop(folder, caps):
    clock = Clock()
    append_jsonl(folder.ledger, [row("a", 30.0)])  # of an earlier start, before machine seconds were kept
    ledger = Ledger(folder, BudgetSettings(**caps), clock)
    ledger.on_event(event("b"))
    clock.now = 5.9
    ledger.on_event(event("b"))
    assert not stopping.requested()
    clock.now = 6.0
    ledger.on_event(event("b"))
    assert stopping.requested()
    with pytest.raises(stopping.StoppedError, match=rf"stopped by {BUDGET} \(budget.{next(iter(caps))} = "):
        stopping.stop_if_requested("kept")


def test_work_of_no_arm_is_paid_for_too(folder, monkeypatch):
    """Past bug: preflight, minutes on a rented machine, was in no sum."""
    ticks = itertools.chain([0.0, 90.0, 100.0, 100.2], itertools.repeat(200.0))
    monkeypatch.setattr("polychromic.experiment.progress.follow.time.monotonic", lambda: next(ticks))
    budget = BudgetSettings(dollars_per_hour=40.0)
    with pytest.raises(KeyError), paid(folder, budget, "preflight"):
        raise KeyError
    with paid(folder, budget, "preflight"):  # passed already: no work
        pass
    [kept] = read_jsonl(folder.ledger)
    assert (kept["stage"], kept["machine_seconds"], kept["dollars"]) == ("preflight", 90.0, 1.0)
    cost = run_cost(experiment(), folder)
    assert cost.seconds == Ledger(folder, budget).seconds == 90.0
    assert any(line.split()[0] == "preflight" for line in cost_lines(cost))


def test_loading_a_model_is_paid_for_by_starts_that_are_killed(folder, tiny_settings, monkeypatch):
    """Past bug: a start counted from its first step, so that loading weights again and again cost nothing."""
    begun = []

    def load(*_, **__):
        begun.append("loads")
        raise KeyboardInterrupt

    monkeypatch.setattr("polychromic.training.trainer.load_language_model", load)
    small = experiment()
    with pytest.raises(KeyboardInterrupt):
        carry_out(Job(small, "baseline", 0, folder.root), begun.append)
    assert begun == [JobEvent("baseline", 0, "train", 0, 0, {}, folder.root), "loads"]


def test_dollars_need_a_price():
    with pytest.raises(ValueError, match="max_dollars needs dollars_per_hour"):
        BudgetSettings(max_dollars=3.0)


def experiment():
    return Experiment.from_mapping({
        "name": "priced", "task": {"name": "arithmetic"}, "model": {"source": "polychromic:arithmetic-tiny"},
        "training": {"loss": "rl", "steps": 9}, "arms": {"baseline": {}, "other": {}}, "seeds": [0, 1],
        "evaluation": {"num_prompts": 2, "num_samples": 2}, "budget": {"dollars_per_hour": 36.0},
    })  # fmt: skip


def test_what_is_left_is_priced_from_what_was_done(folder):
    append_jsonl(folder.ledger, [row("baseline", 100.0), row("baseline", 20.0, "evaluate")])
    write_json(folder.heartbeat, [{**row("other", 50.0), "interrupted": True}])
    folder.arm("baseline", 0).adapter.mkdir(parents=True)
    folder.arm("baseline", 0).ending.write_text("{}")
    folder.arm("baseline", 0).generations.write_text("{}\n" * 4)
    cost = run_cost(experiment(), folder)
    assert cost.seconds == 170.0
    assert cost.money.dollars == pytest.approx(1.7)
    assert len(cost.left) == 7  # training and evaluation of baseline/1, other/0, other/1; of untrained/0 evaluation
    assert cost.left_seconds == 3 * 100.0 + 4 * 20.0
    lines = cost_lines(cost)
    assert "spent: 2.8 min, $1.70 (at today's price: none was recorded)" in lines
    assert any(line.startswith("left: 6.3 min, $3.80, whole run 9.2 min, $5.50") for line in lines)


def test_a_stage_that_never_ended_is_not_projected():
    assert projected_seconds([("a", 0, "evaluate")], [row("a", 5.0)]) is None
    assert projected_seconds([("a", 0, "train")], [{**row("a", 5.0), "interrupted": True}]) is None
    assert projected_seconds([("b", 0, "train")], [row("a", 5.0)]) == 5.0
    assert projected_seconds([], []) == 0.0


def begun(arm, seconds, reached, **more):
    return {**row(arm, seconds), "reached": reached, "interrupted": True, **more}


def test_work_that_was_stopped_is_projected_from_how_far_it_came():
    """Past bug: a run that its cap had stopped in its first job could not say what the rest would cost."""
    halfway = [begun("a", 30.0, 0.25), begun("a", 40.0, 0.5)]  # two starts
    assert projected_seconds([("a", 0, "train")], halfway) == 70.0
    assert projected_seconds([("a", 0, "train"), ("b", 1, "train")], halfway) == 70.0 + 140.0
    assert projected_seconds([("a", 0, "train")], [begun("a", 9.0, 0.0)]) is None  # still loading
    finished = {**row("a", 70.0), "seed": 1}
    assert projected_seconds([("a", 0, "train")], [*halfway, finished]) == pytest.approx(0.5 * 140.0 / 1.5)


def test_the_ledger_says_how_far_a_stage_came(folder):
    clock = Clock()
    ledger = Ledger(folder, BudgetSettings(), clock)
    for done, total in ((0, 0), (1, 8), (2, 8)):
        ledger.on_event(JobEvent("a", 0, "train", done, total, {}))
        clock.now += 5.0
    ledger.close()
    [kept] = read_jsonl(folder.ledger)
    assert (kept["seconds"], kept["reached"]) == (15.0, 0.25)


def test_what_was_never_timed_is_preflights_estimate(folder):
    append_jsonl(folder.ledger, [begun("baseline", 100.0, 0.5)])
    figures = {"name": "time and money", "figures": {"seconds": 1000.0}}
    write_json(folder.preflight, {"checks": [{"name": "data", "figures": {}}, figures]})
    cost = run_cost(experiment(), folder)
    assert (cost.left_seconds, cost.left_dollars) == (900.0, pytest.approx(9.0))
    assert any("left: 15.0 min, $9.00 (preflight's estimate), whole run 16.7 min" in line for line in cost_lines(cost))


def test_starts_at_other_prices_keep_theirs(folder):
    """Past bug: all seconds were priced at the last start's price, or at none."""
    append_jsonl(folder.ledger, [{**begun("a", 3600.0, 0.5), "dollars": 4.0}, begun("a", 1800.0, 0.6)])
    assert Ledger(folder, BudgetSettings(dollars_per_hour=2.0), Clock()).dollars == 4.0 + 1.0
    assert Ledger(folder, BudgetSettings(), Clock()).dollars == 4.0
    capped = Ledger(folder, BudgetSettings(dollars_per_hour=2.0, max_dollars=4.5), Clock())
    assert capped.reached_cap == "budget.max_dollars = 4.5 is reached ($5 spent)"


def test_page_and_cost_give_one_sum_and_say_what_is_missing_from_it(folder):
    """Past bug: a row without a price was left out on the page and priced by `polychromic cost`."""
    rows = [{**row("baseline", 3600.0), "dollars": 2.0}, row("baseline", 1800.0, "evaluate")]
    append_jsonl(folder.ledger, rows)
    for price, stated in ((4.0, "$4.00 ($2.00 of it at today's price: none was recorded)"),
                          (None, "$2.00 (without 30.0 machine minutes that have no price)")):  # fmt: skip
        priced = experiment().model_copy(update={"budget": BudgetSettings(dollars_per_hour=price)})
        assert spent(rows, price) == f"90 machine minutes, {stated}"
        assert work_table(rows, price)[-1][-1] == stated.removeprefix("$")
        lines = cost_lines(run_cost(priced, folder))
        assert f"spent: 90.0 min, {stated}" in lines
        assert priced.budget.spent_dollars(rows) == run_cost(priced, folder).money.dollars
    assert work_table(rows)[2][-1] == "–"


def test_a_run_folder_knows_the_last_price(tmp_path):
    """Past bug: a price given to a later start was not known to `polychromic cost`."""
    first = experiment()
    folder = open_run_folder(first, tmp_path)
    priced = first.model_copy(update={"budget": BudgetSettings(dollars_per_hour=9.0)})
    open_run_folder(priced, tmp_path)
    assert Experiment.from_mapping(read_resolved(folder.experiment)).budget.dollars_per_hour == 9.0


def test_gain_is_priced_by_the_arms_own_share(folder):
    append_jsonl(folder.ledger, [row("baseline", 100.0), row("other", 60.0)])
    outcome = {
        "arm": "other", "criterion": {"metric": "distinct_2", "direction": "higher"},
        "evidence": {"comparison": {"relative_difference": 0.12}},
    }  # fmt: skip
    worse = {**outcome, "criterion": {"metric": "self_bleu", "direction": "lower"}}
    # Past bug: a criterion whose metric was not measured stopped `polychromic cost` and the live page.
    missing = {**outcome, "evidence": None}
    outcomes = [missing, outcome, worse]
    write_json(folder.comparison, {"verdict": {"levels": [{"outcomes": outcomes}]}})
    [gain] = run_cost(experiment(), folder).gains
    assert (gain.metric, gain.percent) == ("distinct_2", pytest.approx(12.0))
    assert gain.seconds_per_percent == pytest.approx(5.0)
    assert gain.dollars_per_percent == pytest.approx(0.05)
