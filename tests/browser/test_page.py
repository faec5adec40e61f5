"""The page in a real browser, from a file, with the network off: the explorer works and hostile answers stay text."""

import shutil
import subprocess
from html.parser import HTMLParser
from urllib.parse import quote

import pytest

from polychromic.evaluation import Criterion, Resampling, compare, measure_arms
from polychromic.files import append_jsonl
from polychromic.records import GenerationRow, SamplingParameters
from polychromic.report.build import write_report

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: `apt-get install chromium`")

HOSTILE = [
    "</script><script>document.title='pwned'</script>",
    "<img src=x onerror=\"document.title='pwned'\">",
    "<svg onload=\"document.title='pwned'\">",
    "\x1b[31mred\x1b[0m %s {0} ${7*7}",
]


def rows(arm, texts):
    return [
        GenerationRow(
            f"prompt {p} & <b>", i, text, 3, "stop", SamplingParameters(1.0), 0,
            reward=float((i + p) % 3 == 0 or (arm == "diverse" and p == 5)), cluster=text,
        )
        for p in range(8) for i, text in enumerate(texts)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    by_arm = {"baseline": rows("baseline", ["same", "same", "same", *HOSTILE]),
              "diverse": rows("diverse", ["a b", "c d", "e f", *HOSTILE])}  # fmt: skip
    for arm, found in by_arm.items():
        append_jsonl(root / arm / "seed-0" / "generations.jsonl", [row.to_json() for row in found])
    tables = measure_arms({(arm, 0): found for arm, found in by_arm.items()}, pass_threshold=1.0)
    criteria = {"minimum": [Criterion("distinct_2", "higher", 0.12)]}
    comparison = compare(tables, baseline="baseline", criteria=criteria, resampling=Resampling())
    return write_report(root, comparison, arms=list(by_arm), seeds=[0], pass_threshold=1.0)


class Dom(HTMLParser):
    """Text by class name, and tags."""

    def __init__(self, source):
        super().__init__()
        self.open, self.texts, self.tags, self.title = [], {}, [], ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open.append(dict(attrs).get("class") or dict(attrs).get("id") or tag)

    def handle_endtag(self, tag):
        if self.open:
            self.open.pop()

    def handle_data(self, data):
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)


def browse(page, tmp_path, fragment="", script=""):
    """The document after the page's scripts have run, and what the console said. `script` is added to the page."""
    shown = page
    if script:
        shown = tmp_path / "driven.html"
        shown.write_text(page.read_text().replace("</body>", f"<script>{script}</script></body>"))
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
        "--virtual-time-budget=5000",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
        f"{shown.as_uri()}{fragment}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Dom(done.stdout), console


def test_the_first_prompt_is_shown_and_hostile_answers_stay_text(page, tmp_path):
    dom, console = browse(page, tmp_path)
    assert console == []
    shown = "".join(text for texts in dom.texts.values() for text in texts)
    assert "pwned" not in "".join(dom.texts.get("title", []))
    for text in HOSTILE[:3]:
        assert text in shown
    assert dom.tags.count("img") == 0
    assert "8 of 8 prompts" in "".join(dom.texts["summary"])


def test_a_link_leads_to_one_prompt(page, tmp_path):
    dom, console = browse(page, tmp_path, fragment="#prompt=" + quote("prompt 5 & <b>"))
    assert console == []
    assert dom.texts["figures"][1].startswith("7 of 7 pass")


LATER = "setTimeout(() => { %s }, 500);"


def test_search_narrows_and_order_brings_the_largest_gain_first(page, tmp_path):
    order = (
        "const o = document.getElementById('order'); o.value = 'gain'; o.dispatchEvent(new Event('change'));"
    )
    dom, console = browse(page, tmp_path, script=LATER % order)
    assert console == []
    assert dom.texts["figures"][1].startswith("7 of 7 pass")
    search = "const s = document.getElementById('search'); s.value = 'PROMPT 3'; "
    search += "s.dispatchEvent(new Event('input'));"
    dom, _ = browse(page, tmp_path, script=LATER % search)
    assert "1 of 8 prompts" in "".join(dom.texts["summary"])


def test_arrow_keys_go_from_prompt_to_prompt(page, tmp_path):
    press = "document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true}));"
    dom, console = browse(page, tmp_path, script=LATER % (press + "document.title = location.hash;"))
    assert console == []
    assert "prompt%201" in "".join(dom.texts["title"])
