"""The reports: one self-contained page, the same bytes every time, hostile text stays text."""

import base64
import csv
import gzip
import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from unittest.mock import patch

import pytest
from matplotlib.figure import Figure
from rich.console import Console

from polychromic.evaluation import Criterion, Resampling, compare, measure_arms
from polychromic.files import append_jsonl
from polychromic.ledger import ArmWork, spent, work_table
from polychromic.records import GenerationRow, SamplingParameters
from polychromic.report.build import write_report
from polychromic.report.figures import comparison_figures
from polychromic.report.terminal import show_comparison
from polychromic.report.text import escape_markdown
from polychromic.report.training_figures import training_figures

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
        "baseline": rows(["the same", "the same", "the same", HOSTILE]),
        "diverse": rows(["a b", "c d", "e f", HOSTILE]),
    }
    for arm, found in by_arm.items():
        append_jsonl(root / arm / "seed-0" / "generations.jsonl", [row.to_json() for row in found])
        metrics = [{"step": s, "train/reward": s / 9, "train/diversity_loss_share": 0.1} for s in range(1, 9)]
        append_jsonl(root / arm / "seed-0" / "metrics.jsonl", metrics)
    append_jsonl(
        root / "ledger.jsonl",
        [{"arm": "diverse", "seed": 0, "stage": "train", "seconds": 90.0, "tokens": 1200}],
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
        self.dangerous += [(tag, k, v) for k, v in attrs if k.startswith("on") or k in ("src", "action", "srcset")]
        self.dangerous += [(tag, k, v) for k, v in attrs if k.endswith("href") and not v.startswith("#")]


def test_the_page_asks_for_nothing_and_hostile_text_stays_text(run):
    page = (run[0] / "report.html").read_text()
    elements = Elements()
    elements.feed(page)
    assert elements.dangerous == []
    assert elements.tags.count("script") == 5
    assert "alert(1)</script>" not in page


def test_the_explorer_holds_every_answer(run):
    page = (run[0] / "report.html").read_text()
    index, part = (
        json.loads(gzip.decompress(base64.b64decode(re.search(pattern, page, re.DOTALL).group(1))))
        for pattern in (r'id="samples" data-threshold="1.0">(.*?)</script>', r'class="part">(.*?)</script>')
    )
    assert len(index["prompts"]) == len(part) == 8
    diverse, baseline = (
        [one for group in part[0][arm] for one in group["wordings"]] for arm in ("diverse", "baseline")
    )
    assert {text for text, _, _ in diverse} == {"a b", "c d", "e f", HOSTILE}
    assert sum(count for _, count, _ in baseline) == 4


def test_reports_are_the_same_bytes_every_time(run):
    root, comparison = run
    before = {path.name: path.read_bytes() for path in [*root.glob("report.*"), *root.glob("figures/*")]}
    write_report(root, comparison, arms=["baseline", "diverse"], seeds=[0], pass_threshold=1.0)
    assert before == {path.name: path.read_bytes() for path in [*root.glob("report.*"), *root.glob("figures/*")]}
    assert {"pass.svg", "pass.csv"} <= set(before)


def drawn_rows(root, name):
    return csv.DictReader(io.StringIO((root / "figures" / f"{name}.csv").read_text()))


def test_the_data_of_a_figure_is_what_is_drawn(run):
    root, comparison = run
    rows = list(drawn_rows(root, "pass"))
    curve = next(one.curve for one in comparison.curves if (one.arm, one.name) == ("diverse", "pass"))
    drawn = [(float(row["x"]), float(row["y"])) for row in rows if row["series"] == "diverse"]
    assert [x for x, _ in drawn] == list(curve.k)
    assert [y for _, y in drawn] == pytest.approx(list(curve.mean))
    for edge in ("low", "high"):
        band = [float(row["y"]) for row in rows if row["series"] == f"diverse: {edge}"]
        assert band == pytest.approx(list(getattr(curve, edge)))


def test_shares_stand_side_by_side_and_paired_differences_are_sorted(run):
    root, _ = run
    panels = {row["panel"] for row in drawn_rows(root, "shares")}
    assert panels == {"share of the loss"}  # no gradient share was measured in this run
    rows = list(drawn_rows(root, "paired-differences"))
    differences = [float(row["y"]) for row in rows if row["series"] == "diverse"]
    assert differences == sorted(differences)
    assert len(differences) == 8


def curves(rows_by_seed, key="train/reward"):
    """Points of the drawn curves by series: training rows of one arm by seed."""
    rows = {seed: [{"step": step, key: value} for step, value in of] for seed, of in rows_by_seed.items()}
    figure = next(one for one in training_figures({"a": rows}, {"a": "#0072B2"}) if key in _keys(one))
    drawn = {}
    for row in csv.DictReader(io.StringIO(figure.data)):
        drawn.setdefault(row["series"], []).append((float(row["x"]), float(row["y"])))
    return drawn


def _keys(figure):
    return {
        "train-reward": ["train/reward"],
        "shares": ["train/diversity_gradient_share", "train/diversity_loss_share"],
    }[figure.name]


def test_what_is_measured_rarely_is_not_smoothed_and_seeds_keep_their_names():
    """Gradient shares, measured every 25 steps, were once averaged over 375 of them."""
    rare = curves({3: [(1, 0.0), (26, 1.0), (51, 0.5)]}, "train/diversity_gradient_share")
    assert rare["a seed 3"] == [(1.0, 0.0), (26.0, 1.0), (51.0, 0.5)]
    often = curves({7: [(step, float(step)) for step in range(1, 301)]})
    assert often["a seed 7"][29] == (30.0, pytest.approx(30.0))  # mean of 23 … 37
    assert often["a seed 7"][-1] == (300.0, pytest.approx(296.5))  # mean of 293 … 300


def test_the_first_step_is_no_spike_and_a_short_training_is_drawn_as_it_was():
    """The mean of the last 15 steps was that of one at the first: one lucky batch stood out as a peak."""
    lucky = curves({0: [(1, 1.0), *((step, 0.0) for step in range(2, 301))]})
    assert lucky["a seed 0"][0] == (1.0, pytest.approx(1 / 8))
    short = curves({0: [(step, float(step)) for step in range(1, 13)]})
    assert short["a seed 0"] == [(float(step), float(step)) for step in range(1, 13)]


def test_the_mean_curve_holds_the_steps_that_all_seeds_have():
    drawn = curves({0: [(1, 0.0), (2, 0.0), (3, 0.0)], 1: [(1, 1.0), (2, 1.0)], 2: []})
    assert drawn["a"] == [(1.0, 0.5), (2.0, 0.5)]


def test_shares_of_loss_and_gradient_have_the_same_steps_on_the_same_place():
    rows = [{"step": step, "train/diversity_loss_share": 0.5} for step in range(1, 101)]
    rows[0]["train/diversity_gradient_share"] = 0.0
    with patch("polychromic.report.training_figures.draw") as draw:
        training_figures({"a": {0: rows}}, {"a": "#0072B2"})
    panels = Figure().subplots(1, 2)
    draw.call_args.args[3](*panels)
    limits = [axes.get_xlim() for axes in panels]
    assert limits[0] == limits[1]
    assert limits[0][1] >= 100


def test_a_gain_points_up_where_lower_is_better(tmp_path):
    """The axis says gain, and a fall of Self-BLEU is one."""
    by_arm = {
        "baseline": rows(["a b c d"] * 4),
        "diverse": rows(["a b c d", "e f g h", "i j k l", "m n o p"]),
    }
    tables = measure_arms({(arm, 0): found for arm, found in by_arm.items()}, pass_threshold=1.0)
    comparison = compare(tables, baseline="baseline", criteria={"minimum": [Criterion("self_bleu", "lower", 0.1)]})
    work = {arm: ArmWork(1.0, 2.0) for arm in by_arm}
    figures = comparison_figures(comparison, work, {"baseline": "#767676", "diverse": "#0072B2"})
    cost = next(one for one in figures if one.name == "cost-gain")
    points = {row["series"]: row for row in csv.DictReader(io.StringIO(cost.data))}
    assert cost.title == "Dollars against gain"
    assert float(points["diverse"]["x"]) == 2.0
    assert float(points["diverse"]["y"]) > 50


def test_a_gain_whose_share_has_no_end_is_drawn_in_its_own_unit(run):
    """Its interval was not drawn at all, as if the gain were certain: a line to infinity has no picture."""
    _, comparison = run
    metric = comparison.sensitivity[0].metric
    contrasts = tuple(
        replace(one, comparison=replace(one.comparison, relative_ci_high=math.inf)) if one.metric == metric else one
        for one in comparison.contrasts
    )
    work = {arm: ArmWork(30.0, 2.0) for arm in ("baseline", "diverse")}
    figures = comparison_figures(replace(comparison, contrasts=contrasts), work, dict.fromkeys(work, "#0072B2"))
    cost = next(one for one in figures if one.name == "cost-gain")
    ends = [float(row["y"]) for row in csv.DictReader(io.StringIO(cost.data)) if row["series"] == "diverse: interval"]
    contrast = comparison.contrast("diverse", metric)
    assert ends == pytest.approx([contrast.ci_low, contrast.ci_high]) and "(%)" not in cost.data


def test_time_and_money_stand_in_the_first_lines():
    row = {"arm": "a", "stage": "train", "seconds": 240.0, "tokens": 1}
    assert spent([{**row, "machine_seconds": 120.0, "dollars": 0.5}, row]) == (
        "6.0 machine minutes, $0.50 (without 4.0 machine minutes that have no price)"
    )
    assert spent([{**row, "seconds": 9000.0}]) == "2.5 machine hours"
    assert spent([{**row, "seconds": 38.0}]) == "38 machine seconds"
    assert spent([]) == ""  # files made elsewhere took nothing here


def test_the_table_of_time_adds_up_to_what_the_first_lines_say():
    """Workers that share a machine once made its minutes count twice in the table."""
    row = {"arm": "a", "seed": 0, "stage": "train", "seconds": 120.0, "machine_seconds": 60.0, "tokens": 5}
    table = work_table([row, {**row, "arm": "b"}])
    assert table[1:] == [["a", "train", "1.0", "5"], ["b", "train", "1.0", "5"], ["all", "", "2.0", "10"]]


def test_the_verdict_stands_first_in_files_and_last_on_the_terminal(run, capsys):
    root, comparison = run
    assert (root / "report.md").read_text().startswith(f"# {root.name}\n\n**Yes: diverse does what was asked of it.")
    show_comparison(comparison, details=True)
    told = capsys.readouterr().out
    assert told.startswith(comparison.verdict.sentence.split(":")[0])
    assert told.rindex("Yes: diverse does what was asked of it.") > told.index("how each measure was made")


def test_a_terminal_gets_no_control_codes_from_data(run):
    console = Console(force_terminal=True, color_system=None, width=200, record=True)
    show_comparison(run[1], console)
    assert "\x1b[31m" not in console.export_text()


def test_work_is_summed_over_seeds_and_restarts():
    ledger = [{"arm": "a", "stage": "train", "seconds": 60, "tokens": 1000}] * 2
    assert work_table(ledger)[1] == ["a", "train", "2.0", "2,000"]


def test_report_md_holds_what_the_page_says(run):
    root, comparison = run
    text = (root / "report.md").read_text()
    for part in (
        "## Before you believe it",
        "## What to see",
        "## All measures at T=1",
        "## Time and money",
        "## How it was measured",
        "8 prompts · 4 answers each · 1 training seed · sampled at T=1 · 1.5 machine minutes · no price stated",
        "Figure 1. Pass@k.",
        "Paired by prompt; sign-flip permutation test",
        "estimator:1-C(n-c,k)/C(n,k)",
    ):
        assert part.replace("|", "\\|") in text, part
    for signature in comparison.signatures.values():
        assert escape_markdown(signature) in text


def test_the_report_of_the_folder_one_stands_in_has_its_name(run, monkeypatch):
    root, comparison = run
    monkeypatch.chdir(root)
    write_report(Path(), comparison, arms=["baseline", "diverse"], seeds=[0], pass_threshold=1.0)
    assert f"<h1>{root.name}</h1>" in (root / "report.html").read_text()
