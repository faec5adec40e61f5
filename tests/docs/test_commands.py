"""The pages can be followed: every command is one, every file is there, every link leads somewhere, code runs."""

import re
import shlex
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from markdown_it import MarkdownIt

from polychromic.cli import app
from polychromic.evaluation.criteria import WarningKind
from polychromic.experiment.config import Experiment
from polychromic.experiment.paths import with_absolute_paths
from polychromic.experiment.preflight.runner import CHECKS

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *ROOT.glob("docs/**/*.md")])
_NAMES = ("your-data", "choosing", "rented-gpu", "your-trainer")
GUIDES = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in _NAMES)]
RUN_VERBS = ("run", "train", "preflight")
# Named in guides before they are there: what the reader has, or what an earlier command of the page writes.
READERS_OWN = {
    "mine.yaml",
    "mine.jsonl",
    "slogans.yaml",
    "experiment.yaml",
    "task.yaml",
    "a.jsonl",
    "b.jsonl",
    "samples.jsonl",
    "sky.yaml",
}


def tokens(path):
    return MarkdownIt("commonmark").enable("table").parse(path.read_text(encoding="utf-8"))


def blocks(path, *kinds):
    return [one.content for one in tokens(path) if one.type in kinds]


def commands(path):
    """The lines of a page's code blocks that begin with `polychromic`, as words without comments."""
    text = "\n".join(blocks(path, "code_block", "fence"))
    lines = [line.strip() for line in text.replace("\\\n", " ").split("\n")]
    return [shlex.split(line, comments=True) for line in lines if re.match(r"polychromic [a-z-]", line)]


def verbs():
    return dict(typer.main.get_command(app).commands)  # pyright: ignore[reportAttributeAccessIssue] - of a group


WITH_COMMANDS = [path for path in PAGES if commands(path)]


@pytest.mark.parametrize("path", WITH_COMMANDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_of_a_page_is_one_and_its_options_are_known(path):
    for words in commands(path):
        _, verb, *arguments = words
        if verb == "init" and "|" in arguments:
            continue  # the list of verbs
        assert verb in verbs(), words
        command = verbs()[verb]
        known = {option for parameter in command.params for option in parameter.opts}
        given = [word.partition("=")[0] for word in arguments if word.startswith("--") and "[" not in word]
        assert set(given) <= known | {"--help"}, words


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.name)
def test_the_files_that_a_guide_names_are_there_and_its_overrides_are_keys(path):
    for words in commands(path):
        for word in words[2:]:
            if re.fullmatch(r"[\w./-]+\.(ya?ml|jsonl|py)(:\w+)?", word) and word not in READERS_OWN:
                assert (ROOT / word.partition(":")[0]).is_file(), words
        overrides = [word for word in words[2:] if re.match(r"[a-z_]+(\.\w+)*=", word)]
        if words[1] in RUN_VERBS and overrides:
            Experiment.from_file(ROOT / "experiments" / "quickstart.yaml", overrides)


def test_the_settings_that_a_guide_shows_can_be_read():
    import yaml

    start = yaml.safe_load((ROOT / "experiments" / "quickstart.yaml").read_text())
    tried = 0
    for path in GUIDES:
        for block in blocks(path, "code_block"):
            if re.match(r"(training|diversity|evaluation|arms):", block):
                shown = yaml.safe_load(block)
                arms = shown.pop("arms", {"baseline": {}, "other": shown.pop("diversity", {}) and {}})
                stated = {"steps": 1, "max_new_tokens": 8, "num_samples": 8} | shown.pop("training", {"loss": "rl"})
                content = start | shown | {"arms": arms, "training": stated}
                Experiment.from_mapping(with_absolute_paths(content, ROOT))
                tried += 1
    assert tried >= 2


def anchors(path):
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    found = tokens(path)
    titles = [found[i + 1].content for i, one in enumerate(found) if one.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(path):
    inline = [child for one in tokens(path) for child in one.children or ()]
    links = [child.attrGet("href") or child.attrGet("src") for child in inline if child.type in ("link_open", "image")]
    for link in links:
        if re.match(r"https?:|mailto:", str(link)):
            continue
        file, _, anchor = str(link).partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{path.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{path.name}: {link}"


def test_every_page_is_found_from_the_index():
    index = (ROOT / "docs" / "README.md").read_text()
    missing = [
        str(path.relative_to(ROOT / "docs"))
        for path in PAGES
        if path.is_relative_to(ROOT / "docs") and path.name != "README.md"
    ]
    assert [name for name in missing if f"({name})" not in index] == []
    assert "(docs/README.md)" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    "path", [path for path in GUIDES if "```python" in path.read_text()], ids=lambda path: path.name
)
def test_python_of_the_pages_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block in [one.content for one in tokens(path) if one.info == "python"]:
        names: dict[str, Any] = {"__name__": "page"}
        exec(compile(block, str(path), "exec"), names)  # the page's own code
        if "good" in names:
            assert names["good"](None, "Fresh before the sun is up.") is True
            assert names["good"](None, "one\ntwo") is False


def test_the_reference_of_keys_is_current():
    spec = spec_from_file_location("reference", ROOT / "tools" / "reference.py")
    assert spec and spec.loader
    reference = module_from_spec(spec)
    spec.loader.exec_module(reference)
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page(), "run: python tools/reference.py"


def test_every_kind_of_warning_is_explained():
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    _, _, rows = page.partition("## The warnings")
    explained = {kind.strip() for row in re.findall(r"^\| ([a-z ,]+) \|", rows, re.M) for kind in row.split(",")}
    assert set(get_args(WarningKind)) <= explained


def test_every_extra_that_is_named_is_one():
    import tomllib

    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    files = [
        *ROOT.glob("src/polychromic/**/*.py"),
        *ROOT.glob("src/polychromic/**/*.j2"),
        *PAGES,
        ROOT / "Makefile",
    ]
    named = {
        name
        for file in files
        for found in re.findall(r"(?:polychromic|\.)\[([a-z,]+)\]", file.read_text(encoding="utf-8"))
        for name in found.split(",")
    }
    assert named <= extras
    assert {"qlora", "puzzles"} <= named


def test_the_checks_that_a_guide_numbers_are_those_of_preflight():
    """Past bug: the page for rented machines sent readers to the checks 8, 9 and 12, which were others by then."""
    numbers = {row.name: number for number, row in enumerate(CHECKS, start=1)}
    named = re.findall(r"(\d+) \(`([a-z ]+)`", (ROOT / "docs" / "rented-gpu.md").read_text())
    assert {name for _, name in named} == {"longest batch", "diversity gradient", "time and money"}
    assert all(numbers[name] == int(number) for number, name in named)


def test_a_tunnel_leads_to_the_port_that_the_page_is_served_at():
    """Past bug: without --port any free port is taken, and a tunnel to 8000 ended nowhere."""
    page = (ROOT / "docs" / "rented-gpu.md").read_text().replace("\\\n", " ")
    for near, far, rest in re.findall(r"ssh .*-L (\d+):localhost:(\d+)(.*--watch.*)", page):
        assert near == far  # the server answers to its own name and port alone
        assert f"--port {far}" in rest
    assert "-L " in page
