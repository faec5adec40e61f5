"""The words of a report: facts, example, the prompts it opens on, differences with their marks, no folder of ours."""

import csv
import dataclasses
import gzip
import io
import json
import re
import shutil
import subprocess
from base64 import b64decode
from functools import partial
from importlib.resources import files

import pytest

from polychromic.evaluation import Criterion, compare, measure_arms
from polychromic.evaluation.criteria import ResultWarning
from polychromic.evaluation.tables import Study
from polychromic.experiment.about import about_run
from polychromic.experiment.config import Experiment
from polychromic.experiment.model_card import base_model, model_card
from polychromic.files import append_jsonl, write_json
from polychromic.records import GenerationRow, SamplingParameters
from polychromic.report.about import About, Example, own_folders
from polychromic.report.build import write_report
from polychromic.report.drawing import arm_colors, draw, keep_within, legend_above, line
from polychromic.report.latex import results_latex
from polychromic.report.tables import folded_metrics, means_groups, means_header
from polychromic.report.training_figures import training_figures
from polychromic.run_folder import RunFolder
from polychromic.tasks.base import build_task

FOLDER = "/home/somebody/project"


def rows(arm, texts):
    """Eight prompts; `diverse` gains on prompt 5 alone and loses on prompt 2 alone."""
    passes = {"baseline": {2: 2}, "diverse": {5: 3}}.get(arm, {})
    return [
        GenerationRow(
            f"prompt-{p}", i, text, 3, "stop", SamplingParameters(1.0), 0,
            reward=float(i < passes.get(p, 1)), cluster=text,
        )
        for p in range(8) for i, text in enumerate(texts)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with a baseline, an arm and the untrained model, made for print."""
    root = tmp_path_factory.mktemp("run") / "mine"
    texts = {"baseline": ["a b", "a b", "a c", "a b"], "diverse": ["e f", "g h", "i j", "k l"]}
    texts["untrained"] = ["m n", "o p", "q r", "s t"]
    by_arm = {arm: rows(arm, found) for arm, found in texts.items()}
    for arm, found in by_arm.items():
        append_jsonl(root / arm / "seed-0" / "generations.jsonl", [row.to_json() for row in found])
    tables = measure_arms({(arm, 0): found for arm, found in by_arm.items()}, pass_threshold=1.0)
    criteria = {"minimum": [Criterion("pass@2", "higher", 0.1), Criterion("distinct_2", "higher", 0.1)]}
    comparison = compare(tables, baseline="baseline", criteria=criteria, untrained="untrained")
    about = About(
        (
            ("model", "tiny (1.0 M parameters)"),
            ("task", "letters: say two"),
            ("data", f"{FOLDER}/train.jsonl"),
        ),
        Example("Question 5?", "", ""),
        {FOLDER: "project", f"{FOLDER}/train.jsonl": "train.jsonl"},
    )
    write_report(
        root, comparison, arms=["baseline", "diverse"], seeds=[0], pass_threshold=1.0, study=Study.of(tables),
        prompt_texts={f"prompt-{p}": f"Question {p}?" for p in range(8)}, about=about, for_print=True,
    )  # fmt: skip
    return root, comparison, about


def index_of(page):
    packed = re.search(r'id="samples" data-threshold="1.0">(.*?)</script>', page, re.DOTALL).group(1)
    return json.loads(gzip.decompress(b64decode(packed)))


def test_without_a_checker_the_page_says_nothing_of_passing(run, tmp_path):
    """Past fault: a page of answers that nobody judges said that 0 of 8 pass and that all rewards are missing."""
    texts = {"baseline": ["a b", "a b", "a c", "a b"], "diverse": ["e f", "g h", "i j", "k l"]}
    by_arm = {arm: [dataclasses.replace(row, reward=None) for row in rows(arm, found)] for arm, found in texts.items()}
    for arm, found in by_arm.items():
        append_jsonl(tmp_path / arm / "seed-0" / "generations.jsonl", [row.to_json() for row in found])
    tables = measure_arms({(arm, 0): found for arm, found in by_arm.items()}, pass_threshold=1.0)
    criteria = {"minimum": [Criterion("distinct_2", "higher", 0.12)]}
    comparison = compare(tables, baseline="baseline", criteria=criteria)
    write_report(tmp_path, comparison, arms=list(by_arm), seeds=[0], pass_threshold=1.0)
    bare, judged = ((folder / "report.html").read_text() for folder in (tmp_path, run[0]))
    for words in ("Passing ones are marked", "Share of rewards missing"):
        assert (words in bare, words in judged) == (False, True)


def test_groups_of_spelling_are_not_taken_for_those_that_are_counted(run, tmp_path):
    """The page showed near-duplicates as "the same" beside numbers that a distance of embeddings had counted."""
    texts = {"baseline": ["a b", "a b", "a c", "a b"], "diverse": ["e f", "g h", "i j", "k l"]}
    by_arm = {arm: [dataclasses.replace(row, cluster=None) for row in rows(arm, found)] for arm, found in texts.items()}
    for arm, found in by_arm.items():
        append_jsonl(tmp_path / arm / "seed-0" / "generations.jsonl", [row.to_json() for row in found])
    tables = measure_arms({(arm, 0): found for arm, found in by_arm.items()}, pass_threshold=1.0)
    comparison = compare(tables, baseline="baseline", criteria={"minimum": [Criterion("distinct_2")]})
    for clusters in ("embedding distance up to 0.25 (minilm)", comparison.clusters):
        named = dataclasses.replace(comparison, clusters=clusters)
        write_report(tmp_path, named, arms=list(by_arm), seeds=[0], pass_threshold=1.0)
        said = (
            f"the numbers count as the same what {clusters} takes for the same"
            in (tmp_path / "report.html").read_text()
        )
        assert said == (clusters != "same text")
    assert "groups are of spelling" not in (run[0] / "report.html").read_text()


@pytest.mark.parametrize(
    ("clusters", "said"),
    [
        ("normalised", "Answers are told apart by wording alone, case, spaces and punctuation aside."),
        ("exact", "Answers are told apart by every character."),
        ("the task's canonical form", "Answers are told apart by the task&#39;s canonical form."),
    ],
)
def test_what_tells_answers_apart_is_a_sentence(run, tmp_path, clusters, said):
    """It read "Equal answers are found by normalised."."""
    named = dataclasses.replace(run[1], clusters=clusters)
    write_report(tmp_path, named, arms=["baseline", "diverse"], seeds=[0], pass_threshold=1.0)
    assert said in (tmp_path / "report.html").read_text()


def test_the_explorer_opens_on_the_largest_gain_the_largest_loss_and_one_at_random(run):
    index = index_of((run[0] / "report.html").read_text())
    gain, loss, drawn = index["openings"]
    assert (gain["prompt"], gain["why"]) == ("prompt-5", "largest gain in Pass@2 (+0.5, diverse)")
    assert (loss["prompt"], loss["why"].partition(" (")[0]) == ("prompt-2", "largest loss in Pass@2")
    assert drawn["why"] == "one at random"
    assert drawn["prompt"] == "prompt-6"  # the smallest hash: the same prompt every time


def test_the_page_says_what_it_is_of_with_an_example_and_no_folder_of_ours(run):
    root, _, _ = run
    page = (root / "report.html").read_text()
    assert "tiny · letters" in page
    assert "<dt>data</dt><dd>train.jsonl</dd>" in page
    assert "Question 5?" in page
    assert re.search(r'class="answered">a b</span> <span class="soft">\(of baseline, passes\)', page)
    assert not [path for path in root.glob("*.*") if FOLDER in path.read_text()]


def test_every_link_of_the_contents_leads_somewhere(run):
    page = (run[0] / "report.html").read_text()
    links = re.findall(r'<a href="#([^"]+)"', page)
    assert {"about", "answers", "figures", "measures", "methods"} <= set(links)
    assert not [link for link in links if f'id="{link}"' not in page]
    assert page.index('id="answers"') < page.index('id="figures"')


def test_differences_have_a_column_with_marks_beside_every_judged_arm(run):
    _, comparison, _ = run
    assert means_header(comparison) == ["measure", "baseline", "diverse", "diverse − baseline", "untrained"]
    cells = {row[0].text: row for group in means_groups(comparison) for row in group.rows}
    assert cells["Distinct-2"][3].text.startswith("▲ +")
    assert cells["Distinct-2"][3].tone == "better"
    assert cells["Pass@2"][3].tone == "unclear"
    assert not cells["Pass@2"][3].text.startswith(("▲", "▼"))


def test_equal_measures_are_one_row_under_both_names(run):
    names = folded_metrics(run[1])
    assert "Reward = Pass@1" in names["reward"]
    assert "pass@1" not in names
    # Constants are equal by chance: each stays.
    assert names["truncated"] == "Share truncated"
    assert names["missing"] == "Share of rewards missing"


def test_a_reward_that_is_minus_the_loss_is_drawn_once():
    row = {"step": 1, "train/reward": 0.25, "train/quality_loss": -0.25}
    names = [one.name for one in training_figures({"a": {0: [row]}}, {"a": "#0072B2"})]
    assert names == ["train-reward"]
    row["train/quality_loss"] = -0.2
    names = [one.name for one in training_figures({"a": {0: [row]}}, {"a": "#0072B2"})]
    assert names == ["train-reward", "train-quality_loss"]


def test_a_single_point_is_marked_and_no_axis_goes_beyond_its_bound():
    def paint(axes):
        line(axes, [1], [0.5])
        assert axes.get_lines()[0].get_marker() == "o"
        line(axes, [1, 2], [0.0, 1.0])
        assert axes.get_lines()[1].get_marker() == "None"
        assert axes.get_ylim()[0] == pytest.approx(-0.05)  # what the usual margin does
        keep_within(axes, 0.0, 1.0)
        assert axes.get_ylim() == (0.0, 1.0)

    assert "<svg" in draw("one", "One", "", paint).svg


def test_a_curve_of_one_step_is_seen():
    drawn = training_figures({"a": {0: [{"step": 1, "train/reward": 0.25}]}}, {"a": "#0072B2"})[0]
    assert next(iter(csv.DictReader(io.StringIO(drawn.data))))["y"] == "0.25"
    # A marker is a <use> of its shape; a line alone has none.
    assert len(re.findall(r'<use [^>]*style="fill: #0072b2', drawn.svg)) == 3  # the seed, the mean, and the legend's


def test_many_arms_have_colours_of_their_own_and_a_panel_as_high_as_few_have():
    """The seventh arm of a sweep had the first one's colour; nine lines of a legend left a third of the panel."""
    arms = [f"lambda-{n}" for n in range(12)]
    colors = arm_colors(["base", *arms, "untrained"], "base", "untrained")
    assert len(set(colors.values())) == 14
    shades = files("polychromic.report").joinpath("assets/report.css").read_text(encoding="utf-8")
    assert all(f"--c-{color[1:].upper()}: #" in shades for color in colors.values())

    def paint(axes, number):
        for arm in arms[:number]:
            line(axes, [1, 2], [0.0, 1.0], label=f"{arm}: +0.5 [+0.25, +0.75] at T=0.7,min_p=0.1")
        legend_above(axes)

    sizes = [
        [float(size) for size in re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawn.svg).groups()]
        for drawn in (draw("one", "One", "", partial(paint, number=number)) for number in (3, 12))
    ]
    assert sizes[0] == [374.4, 230.4] and sizes[1] == pytest.approx([374.4, 230.4 + 9 * 0.21 * 72])


def test_figures_for_print_and_a_slide_come_on_request(run):
    figures = run[0] / "figures"
    assert (figures / "poster.png").read_bytes().startswith(b"\x89PNG")
    assert (figures / "poster.pdf").read_bytes().startswith(b"%PDF")
    slide = (figures / "poster.svg").read_text()
    assert "tiny · letters" in slide
    assert "Pass@2" in slide
    assert (figures / "pass.pdf").read_bytes().startswith(b"%PDF")


def test_the_tables_of_a_paper_have_captions_labels_and_intervals(run):
    latex = results_latex(*run[1:])
    assert latex.count(r"\caption{") == latex.count(r"\toprule") == 3
    assert r"\label{tab:criteria}" in latex
    assert "8 prompts, 1 training seed, sampled at T=1; 95 \\% intervals in brackets" in latex
    assert re.search(r"Distinct-2 \+10 \\% & diverse & .* {\[}\+\d", latex)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex: apt-get install texlive-latex-recommended")
def test_the_tables_of_a_paper_compile_and_no_cell_is_cut(run, tmp_path):
    (tmp_path / "results.tex").write_text((run[0] / "results.tex").read_text())
    (tmp_path / "paper.tex").write_text(
        r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{results.tex}\end{document}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
    assert (tmp_path / "paper.pdf").read_bytes().startswith(b"%PDF")


EXPERIMENT = {
    "name": "small",
    "task": {"name": "arithmetic", "train_problems": 64, "validation_problems": 20, "test_problems": 12},
    "model": {"source": "polychromic:arithmetic-tiny", "adapter": {"rank": 4}},
    "training": {"loss": "rl", "steps": 20, "prompts_per_step": 4, "num_samples": 8},
    "diversity": {"objective": "coverage", "set_size": 4},
    "arms": {"baseline": {}, "coverage": {"diversity": {"weight": 1.5}}},
    "evaluation": {"num_prompts": 12, "num_samples": 16},
}


def test_a_run_is_told_in_words(tmp_path):
    experiment = Experiment.from_mapping(EXPERIMENT)
    folder = RunFolder(tmp_path)
    record = {
        "date": "2026-11-26T04:10+00:00", "commit": "abcdef0123456789", "packages": {"polychromic": "0.1.0"},
        "data_sha256": {},
    }  # fmt: skip
    write_json(folder.provenance, record)
    facts = dict(about_run(experiment, folder, build_task(experiment.task)).facts)
    assert facts["model"] == "polychromic:arithmetic-tiny (float32)"
    assert facts["adapter"] == "LoRA, rank 4, alpha 32, dropout 0"
    assert facts["arm baseline"] == "reward alone (λ = 0)"
    assert facts["arm coverage"].startswith("reward + 1.5 × coverage (distinct clusters among those that pass")
    assert "sets of 4 among 8 answers" in facts["arm coverage"]
    assert facts["training"].startswith("20 steps of 4 prompts × 8 answers, learning rate ")
    assert (facts["seeds"], facts["date"]) == ("0", "2026-11-26 04:10+00:00")
    assert facts["code"] == "polychromic 0.1.0, commit abcdef0123"
    assert "machine" not in facts  # not recorded: left out, not guessed


def test_each_model_is_told_with_its_own_parameters(tmp_path):
    """Past bug: an arm of another model stood there with the number of the baseline's."""
    other = {"model": {"source": "polychromic:functions-tiny"}}
    experiment = Experiment.from_mapping(EXPERIMENT | {"arms": EXPERIMENT["arms"] | {"other": other}})
    folder, task = RunFolder(tmp_path), build_task(experiment.task)
    checks = [{"name": "model", "figures": {"parameters": 1_000_000}}]
    for more, said in ([], "float32"), ([{"other": 2_500_000}], "2.5 M parameters with its adapter, float32"):
        checks += [{"name": "other models", "figures": {"by_arm": figures}} for figures in more]
        write_json(folder.preflight, {"passed": True, "checks": checks})
        assert dict(about_run(experiment, folder, task).facts)["model"] == (
            "polychromic:arithmetic-tiny (1.0 M parameters with its adapter, float32); "
            f"polychromic:functions-tiny ({said})"
        )


def test_paths_of_settings_are_found_and_nothing_else():
    settings = {"a": f"{FOLDER}/mine.py:check", "b": ["/", "/tmp", "a/b.py"], "c": 3, "d": f"{FOLDER}/data"}
    assert own_folders(settings) == {f"{FOLDER}/mine.py": "mine.py", f"{FOLDER}/data": "data"}


def test_a_card_names_its_base_in_the_hubs_form_and_no_folder_of_ours(run, tmp_path):
    assert base_model("HuggingFaceTB/SmolLM2-360M") == "HuggingFaceTB/SmolLM2-360M"
    assert base_model("smollm2-135m-instruct") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert base_model("polychromic:arithmetic-tiny") == "arithmetic-tiny"
    write_json(tmp_path / "qwen" / "config.json", {"_name_or_path": "Qwen/Qwen3-8B"})
    assert base_model(str(tmp_path / "qwen")) == "Qwen/Qwen3-8B"
    write_json(tmp_path / "my model" / "config.json", {"_name_or_path": "/home/somebody/base"})
    assert base_model(str(tmp_path / "my model")) == "my-model"
    own = {**EXPERIMENT, "model": {"source": str(tmp_path / "qwen")}}
    experiment = Experiment.from_mapping(own)
    warned = dataclasses.replace(
        run[1], warnings=(ResultWarning("leakage", "", "one prompt"), ResultWarning("length", "other", "long"))
    )
    card = model_card(experiment, experiment.arm("baseline"), 0, warned, {})
    assert "- leakage: one prompt" in card and "length: long" not in card  # what holds for all arms holds for this one
    assert "base_model: Qwen/Qwen3-8B" in card
    assert str(tmp_path) not in card
