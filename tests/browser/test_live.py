"""The live page in a real browser: it renews itself when the run goes on, and says nothing to the console."""

import threading

import pytest
from playwright.sync_api import expect

from polychromic.experiment.config import Experiment
from polychromic.experiment.progress.watch import page_server
from polychromic.experiment.resuming.continuing import open_run_folder
from polychromic.files import append_jsonl


@pytest.fixture
def folder(tmp_path):
    experiment = Experiment.from_file("experiments/quickstart.yaml", ["seeds=[0]"])
    return open_run_folder(experiment, tmp_path)


def test_the_page_renews_itself(folder, looking_at):
    metrics = folder.arm("baseline", 0).root / "metrics.jsonl"
    append_jsonl(metrics, [{"step": 1, "train/reward": 0.25}, {"step": 2, "train/reward": 0.5}])
    with page_server(folder.root) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with looking_at(server.address, offline=False, wait_for="figure svg") as seen:
            steps = seen.page.get_by_role("region", name="Progress").locator("tbody tr").first.locator("td").nth(2)
            expect(steps).to_have_text("2")
            append_jsonl(metrics, [{"step": 3, "train/reward": 0.75}])
            expect(steps).to_have_text("3", timeout=20_000)
            assert seen.console == []
            assert all(url.startswith(server.address) for url in seen.requests)
        server.shutdown()
