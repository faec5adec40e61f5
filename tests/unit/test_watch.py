"""The page of a run that goes on: served to this machine only, reading only, new when there is something new."""

import socket
import threading
from contextlib import closing
from http.client import HTTPConnection

import pytest

from polychromic.errors import ConfigError
from polychromic.experiment.config import Experiment
from polychromic.experiment.progress.watch import page_server, progress_table
from polychromic.experiment.resuming.continuing import open_run_folder
from polychromic.files import append_jsonl
from polychromic.report import server as serving
from polychromic.report.server import MOST_CONNECTIONS
from polychromic.run_folder import RunFolder


@pytest.fixture
def run(tmp_path):
    """A run folder whose first arm has trained three of its steps."""
    experiment = Experiment.from_file("experiments/quickstart.yaml", ["seeds=[0]"])
    folder = open_run_folder(experiment, tmp_path)
    train(folder, 3)
    return experiment, folder


def train(folder, steps, first=1):
    rows = [{"step": step, "train/reward": 0.1 * step} for step in range(first, first + steps)]
    append_jsonl(folder.arm("baseline", 0).root / "metrics.jsonl", rows)


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
        ["baseline", "0", "3", "0 of 6,400"],
        ["coverage", "0", "0", "0 of 6,400"],
        ["untrained", "0", "–", "0 of 6,400"],
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
    with socket.socket() as gone:
        try:
            raise ValueError("a real one")
        except ValueError:
            server.handle_error(gone, ("127.0.0.1", 1))
    assert "a real one" in capfd.readouterr().err


def answer_of(connection):
    with closing(connection):
        return b"".join(iter(lambda: connection.recv(4096), b""))


def test_hundreds_of_slow_clients_keep_few_threads_and_no_one_from_the_page(server):
    """Past bug: 300 clients that sent half a request kept 300 threads, for ever."""
    before = threading.active_count()
    slow = []
    for _ in range(300):
        slow.append(socket.create_connection(("127.0.0.1", server.server_port), timeout=30))
        slow[-1].sendall(b"GET / HT")
    assert ask(server, f"/{server.token}/version")[0] == 200
    assert threading.active_count() - before <= MOST_CONNECTIONS + 1  # one may be ending
    assert len(server._connections) <= MOST_CONNECTIONS
    made_room = [answer_of(connection) for connection in slow[: 300 - MOST_CONNECTIONS]]
    assert all(answer.startswith(b"HTTP/1.0 408 Request Timeout") for answer in made_room)
    for connection in slow[300 - MOST_CONNECTIONS :]:
        connection.close()


def test_a_client_that_says_nothing_is_told_so(server, monkeypatch):
    monkeypatch.setattr(serving._Handler, "timeout", 0.1)
    answer = answer_of(socket.create_connection(("127.0.0.1", server.server_port), timeout=30))
    assert answer.startswith(b"HTTP/1.0 408 Request Timeout")
    assert server._connections == {} or not any(server._connections.values())


def test_an_error_while_the_page_is_made_is_an_answer_too(server, capsys):
    """Past bug: the connection was closed without a word."""

    def broken():
        raise KeyError("step")

    server.version = broken
    status, text = ask(server, f"/{server.token}/version")
    assert (status, text) == (500, "the page cannot be made: KeyError('step')\n")
    assert "KeyError" in capsys.readouterr().err


def test_connections_that_are_all_being_answered_leave_no_room(server, monkeypatch):
    monkeypatch.setattr(serving, "MOST_CONNECTIONS", 0)
    assert ask(server, f"/{server.token}/version")[0] == 503
