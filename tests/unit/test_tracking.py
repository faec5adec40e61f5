"""A tracker that is slow, refused or broken neither stops a run nor holds it up."""

import os
import sys
import threading
from types import SimpleNamespace

import pytest

from polychromic.errors import ConfigError
from polychromic.files import read_jsonl
from polychromic.training import trackers
from polychromic.training.trackers import BackgroundTracker, HostedTracker, MetricsFile, open_trackers


class Recorder:
    """Keeps what it is given; may fail or wait."""

    def __init__(self, failing=False, gate=None):
        self.failing, self.gate = failing, gate
        self.seen, self.closed = [], False

    def log(self, metrics, step):
        if self.gate is not None:
            self.gate.wait()
        if self.failing:
            raise ConnectionError("500 Internal Server Error")
        self.seen.append((step, metrics))

    def close(self):
        self.closed = True


def test_numbers_arrive_in_order_and_the_tracker_is_closed():
    recorder = Recorder()
    tracker = BackgroundTracker("probe", lambda: recorder)
    for step in range(50):
        tracker.log({"x": float(step)}, step)
    tracker.close()
    assert recorder.seen == [(step, {"x": float(step)}) for step in range(50)]
    assert recorder.closed


def test_a_tracker_that_hangs_holds_nothing_up(monkeypatch, caplog):
    monkeypatch.setattr(trackers, "_SECONDS_TO_CLOSE", 0.05)
    gate = threading.Event()
    tracker = BackgroundTracker("slow", lambda: Recorder(gate=gate))
    for step in range(3000):  # more than the queue holds
        tracker.log({"x": 1.0}, step)
    tracker.close()
    assert "tracker slow did not finish in time" in caplog.text
    gate.set()


def test_a_tracker_that_fails_is_said_once_and_given_up(caplog):
    recorder = Recorder(failing=True)
    tracker = BackgroundTracker("broken", lambda: recorder)
    for step in range(100):
        tracker.log({"x": 1.0}, step)
    tracker.close()
    assert [record.getMessage() for record in caplog.records] == [
        f"tracker broken failed {n} times in a row: 500 Internal Server Error" for n in (1, 20)
    ]
    assert recorder.closed


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ConnectionRefusedError("connection refused"), "connection refused"), (TimeoutError(), "TimeoutError")],
)
def test_a_tracker_that_cannot_start_is_said(caplog, error, reason):
    """Past bug: an error without a message was reported as "could not start ()"."""

    def refuse():
        raise error

    tracker = BackgroundTracker("refused", refuse)
    tracker.log({"x": 1.0}, 1)
    tracker.close()
    assert f"tracker refused could not start ({reason})" in caplog.text


@pytest.mark.parametrize(
    ("known", "mode"),
    [
        ({}, "offline"),
        ({"NETRC": "machine api.wandb.ai\n  login user\n  password k\n"}, None),
        ({"NETRC": "machine api.wandb.ai\n  login user\n  password k\n", "WANDB_BASE_URL": "https://w.org"}, "offline"),
        ({"NETRC": "machine w.org login user password k", "WANDB_BASE_URL": "https://w.org:8080"}, None),
        ({"NETRC": "machine {"}, "offline"),
        ({"WANDB_API_KEY": "k"}, None),
        ({"WANDB_MODE": "online"}, None),
    ],
)
def test_an_account_that_wandb_login_wrote_down_is_used(tmp_path, monkeypatch, known, mode):
    """Whoever had used `wandb login`, and set no WANDB_API_KEY, found every run offline."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    (tmp_path / "netrc").write_text(known.get("NETRC", ""))
    for name, value in (known | {"NETRC": str(tmp_path / "netrc")}).items():
        monkeypatch.setenv(name, value)
    started = {}
    wandb = SimpleNamespace(Settings=dict, init=started.update)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    HostedTracker("wandb", tmp_path, "project", "arm/seed-0")
    assert started["mode"] == mode


def test_a_missing_package_is_known_at_once(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"pip install 'polychromic\[wandb\]'"):
        open_trackers(["wandb"], tmp_path, project="p", run_name="r", steps_done=0)


def started_runs(monkeypatch, package, folders, step=0):
    """What a tracker's package is started with in each of the folders, and the steps that it is then given."""
    starts, given = [], []
    module = SimpleNamespace(
        Settings=dict,
        init=lambda **options: starts.append(options) or SimpleNamespace(step=step),
        log=lambda metrics, step: given.append(step),
    )
    monkeypatch.setitem(sys.modules, package, module)
    for folder in folders:
        tracker = HostedTracker(package, folder, "project", "arm/seed-0")
        for number in range(1, 6):
            tracker.log({"x": 0.5}, number)
    return starts, given


def test_a_later_start_goes_on_with_the_run_of_wandb_and_trackio(tmp_path, monkeypatch):
    """A run that was killed and continued stood there twice under one name; another folder's run is another."""
    folders = [tmp_path / name for name in ("one", "one", "other")]
    starts, _ = started_runs(monkeypatch, "wandb", folders)
    ids = [start["id"] for start in starts]
    assert ids[0] == ids[1] != ids[2]
    assert {start["resume"] for start in starts} == {"allow"}
    starts, _ = started_runs(monkeypatch, "trackio", folders)
    assert [start["resume"] for start in starts] == ["never", "allow", "never"]


def test_steps_that_wandb_has_already_are_not_sent_again(tmp_path, monkeypatch):
    """It takes no step twice, and warns of each."""
    assert started_runs(monkeypatch, "wandb", [tmp_path], step=4)[1] == [4, 5]


def test_a_damaged_record_of_trackers_is_said_and_made_again(tmp_path, monkeypatch, caplog):
    (tmp_path / "tracking.json").write_text('{"wandb": 7}')
    starts, _ = started_runs(monkeypatch, "wandb", [tmp_path, tmp_path])
    assert "tracking.json: damaged (wandb: expected a text, found 7); delete it" in caplog.text
    assert starts[0]["id"] == starts[1]["id"]


def test_rows_after_a_checkpoint_are_dropped_on_resuming(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for step in range(1, 6):
        file.log({"x": step}, step)
    file.rewind(3)
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [1, 2, 3]
