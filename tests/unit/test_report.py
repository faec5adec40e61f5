"""The reports: one self-contained page, the same bytes every time, hostile text stays text."""

import base64
import csv
import gzip
import io
import json
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from polychromic.evaluation import Criterion, Resampling, compare, measure_arms
from polychromic.files import append_jsonl
from polychromic.records import GenerationRow, SamplingParameters
from polychromic.report.build import write_report
from polychromic.report.terminal import show_comparison
from polychromic.report.work import spent, work_table

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\x1b[31m"


def rows(texts):
    return [
        GenerationRow(
            f"prompt-{p}<b>",
            i,
            text,
            3,
            "stop",
            SamplingParameters(1.0),
            0,
            reward=float(i % 2 == p % 2),
            cluster=text,
        )
        for p in range(8)
        for i, text in enumerate(texts)
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with two arms, and its comparison."""
    root = tmp_path_factory.mktemp("run")
    by_arm = {
        "baseline": rows(["same", "same", "same", HOSTILE]),
        "diverse": rows(["a b", "c d", "e f", HOSTILE]),
    }
    for arm, found in by_arm.items():
        append_jsonl(root / arm / "seed-0" / "generations.jsonl", [row.to_json() for row in found])
        metrics = [{"step": s, "train/reward": s / 9, "train/diversity_loss_share": 0.1} for s in range(1, 9)]
        append_jsonl(root / arm / "seed-0" / "metrics.jsonl", metrics)
    append_jsonl(
        root / "ledger.jsonl", [{"arm": "diverse", "stage": "train", "seconds": 90.0, "tokens": 1200}]
    )
    tables = measure_arms({(arm, 0): found for arm, found in by_arm.items()}, pass_threshold=1.0)
    criteria = {"minimum": [Criterion("distinct_2", "higher", 0.12)]}
    comparison = compare(tables, baseline="baseline", criteria=criteria, resampling=Resampling())
    write_report(root, comparison, arms=["baseline", "diverse"], seeds=[0], pass_threshold=1.0)
    return root, comparison


class Elements(HTMLParser):
    """Counts elements and collects every attribute that could make a request or run code."""

    def __init__(self):
        super().__init__()
        self.tags, self.dangerous = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.dangerous += [
            (tag, k, v) for k, v in attrs if k.startswith("on") or k in ("src", "action", "srcset")
        ]
        self.dangerous += [(tag, k, v) for k, v in attrs if k.endswith("href") and not v.startswith("#")]


def test_the_page_asks_for_nothing_and_hostile_text_stays_text(run):
    page = (run[0] / "report.html").read_text()
    elements = Elements()
    elements.feed(page)
    assert elements.dangerous == []
    assert elements.tags.count("script") == 4
    assert "alert(1)</script>" not in page


def test_the_explorer_holds_every_answer(run):
    page = (run[0] / "report.html").read_text()
    packed = re.search(r'id="samples" data-threshold="1.0">(.*?)</script>', page, re.DOTALL).group(1)
    samples = json.loads(gzip.decompress(base64.b64decode(packed)))["prompts"]
    assert len(samples) == 8
    diverse, baseline = (
        [one for group in samples[0]["arms"][arm] for one in group["wordings"]]
        for arm in ("diverse", "baseline")
    )
    assert {text for text, _, _ in diverse} == {"a b", "c d", "e f", HOSTILE}
    assert sum(count for _, count, _ in baseline) == 4


def test_reports_are_the_same_bytes_every_time(run):
    root, comparison = run
    before = {path.name: path.read_bytes() for path in [*root.glob("report.*"), *root.glob("figures/*")]}
    write_report(root, comparison, arms=["baseline", "diverse"], seeds=[0], pass_threshold=1.0)
    assert before == {
        path.name: path.read_bytes() for path in [*root.glob("report.*"), *root.glob("figures/*")]
    }
    assert {"pass.svg", "pass.pdf", "pass.csv"} <= set(before)


def drawn_rows(root, name):
    return csv.DictReader(io.StringIO((root / "figures" / f"{name}.csv").read_text()))


def test_the_data_of_a_figure_is_what_is_drawn(run):
    root, comparison = run
    rows = list(drawn_rows(root, "pass"))
    curve = next(one.curve for one in comparison.curves if (one.arm, one.name) == ("diverse", "pass"))
    drawn = [(float(row["x"]), float(row["y"])) for row in rows if row["series"] == "diverse"]
    assert [x for x, _ in drawn] == list(curve.k)
    assert [y for _, y in drawn] == pytest.approx(list(curve.mean))
    assert (root / "figures" / "pass.pdf").read_bytes().startswith(b"%PDF")


def test_shares_stand_side_by_side_and_paired_differences_are_sorted(run):
    root, _ = run
    panels = {row["panel"] for row in drawn_rows(root, "shares")}
    assert panels == {"share of the loss"}  # no gradient share was measured in this run
    rows = list(drawn_rows(root, "paired-differences"))
    differences = [float(row["y"]) for row in rows if row["series"] == "diverse"]
    assert differences == sorted(differences)
    assert len(differences) == 8


def test_time_and_money_stand_in_the_first_lines():
    row = {"arm": "a", "stage": "train", "seconds": 240.0, "tokens": 1}
    assert spent([{**row, "machine_seconds": 120.0, "dollars": 0.5}, row]) == "6 minutes, $0.50"
    assert spent([{**row, "seconds": 9000.0}]) == "2.5 hours"


def test_the_verdict_stands_first_everywhere(run, capsys):
    root, comparison = run
    sentence = comparison.verdict.sentence
    assert sentence.split(":")[0] in (root / "report.md").read_text()
    show_comparison(comparison)
    assert capsys.readouterr().out.startswith(sentence.split(":")[0])


def test_a_terminal_gets_no_control_codes_from_data(run):
    console = Console(force_terminal=True, color_system=None, width=200, record=True)
    show_comparison(run[1], console)
    assert "\x1b[31m" not in console.export_text()


def test_work_is_summed_over_seeds_and_restarts():
    ledger = [{"arm": "a", "stage": "train", "seconds": 60, "tokens": 1000}] * 2
    assert work_table(ledger)[1] == ["a", "train", "2.0", "2,000"]
