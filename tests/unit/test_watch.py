"""The page of a run that goes on: served to this machine only, reading only, new when there is something new."""

import threading
from http.client import HTTPConnection

import pytest

from polychromic.errors import ConfigError
from polychromic.experiment.config import Experiment
from polychromic.experiment.continuing import open_run_folder
from polychromic.experiment.folder import RunFolder
from polychromic.experiment.watch import page_server, progress_table
from polychromic.files import append_jsonl


@pytest.fixture
def run(tmp_path):
    """A run folder whose first arm has trained three of its steps."""
    experiment = Experiment.from_file("experiments/quickstart.yaml", ["seeds=[0]"])
    folder = open_run_folder(experiment, tmp_path)
    train(folder, 3)
    return experiment, folder


def train(folder, steps, first=1):
    rows = [{"step": step, "train/reward": 0.1 * step} for step in range(first, first + steps)]
    append_jsonl(folder.job("baseline", 0) / "metrics.jsonl", rows)


@pytest.fixture
def server(run):
    with page_server(run[1].root) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server, path, method="GET", **headers):
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    content = answer.read().decode()
    connection.close()
    return answer.status, content


def test_the_page_shows_curves_and_what_is_left(run, server):
    status, page = ask(server, f"/{server.token}/")
    assert status == 200
    assert "This run goes on" in page
    assert "Mean reward of the sampled groups." in page
    assert progress_table(*run)[1:] == [
        ["baseline", "0", "3", "0 of 38,400"],
        ["coverage", "0", "0", "0 of 38,400"],
        ["left", "", "", "not known yet"],
    ]


def test_nothing_is_answered_without_the_token_or_under_another_name(server):
    assert ask(server, "/")[0] == 404
    assert ask(server, "/wrong-token/")[0] == 404
    assert ask(server, f"/{server.token}/../metrics.jsonl")[0] == 404
    assert ask(server, f"/{server.token}/", Host="evil.example")[0] == 404  # DNS rebinding
    assert ask(server, f"/{server.token}/", "POST")[0] == 501
    assert ask(server, f"/{server.token}/", "DELETE")[0] == 501
    assert server.server_address[0] == "127.0.0.1"


def test_the_version_changes_when_the_run_goes_on_and_the_page_with_it(run, server):
    before = ask(server, f"/{server.token}/version")
    assert before == ask(server, f"/{server.token}/version")
    train(run[1], 4, first=4)
    assert ask(server, f"/{server.token}/version") != before
    assert "<td>7</td>" in ask(server, f"/{server.token}/")[1]


def test_two_servers_have_two_tokens(run, server):
    with page_server(run[1].root) as other:
        assert other.token != server.token


def test_watching_writes_nothing(run, server):
    folder: RunFolder = run[1]
    before = sorted(path.relative_to(folder.root) for path in folder.root.rglob("*"))
    ask(server, f"/{server.token}/")
    assert sorted(path.relative_to(folder.root) for path in folder.root.rglob("*")) == before


def test_a_folder_that_is_no_run_and_a_port_that_is_taken_are_errors_for_people(tmp_path, run, server):
    with pytest.raises(ConfigError, match="not a run folder"):
        page_server(tmp_path / "nothing")
    with pytest.raises(ConfigError, match=f"--port {server.server_port}: .*; choose another"):
        page_server(run[1].root, server.server_port)


def test_a_browser_that_goes_away_is_no_error(server, capfd):
    """Closing the tab in the middle of an answer once printed a traceback."""
    for error in (BrokenPipeError(), ConnectionResetError()):
        try:
            raise error
        except OSError:
            server.handle_error(None, ("127.0.0.1", 1))
    assert capfd.readouterr().err == ""
    try:
        raise ValueError("a real one")
    except ValueError:
        server.handle_error(None, ("127.0.0.1", 1))
    assert "a real one" in capfd.readouterr().err
