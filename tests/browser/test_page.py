"""The page in a real browser, from a file, with the network off: it works, is accessible, and runs nothing hostile."""

import dataclasses
import json
import os
import re
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import expect

from polychromic.evaluation import Criterion, Resampling, compare, measure_arms
from polychromic.evaluation.tables import Study
from polychromic.files import append_jsonl
from polychromic.records import GenerationRow, SamplingParameters
from polychromic.report.build import write_report

HOSTILE = [
    "</script><script>document.title='pwned'</script>",
    "<img src=x onerror=\"document.title='pwned'\">",
    "<svg onload=\"document.title='pwned'\">",
    "\x1b[31mred\x1b[0m %s {0} ${7*7}",
    "a" + "\u0903" * 300,  # one letter, thousands of pixels wide
]


def rows(arm, texts):
    return [
        GenerationRow(
            f"prompt {p} & <b>", i, text, 3, "stop", SamplingParameters(temperature), 0,
            reward=float((i + p) % 3 == 0 or (arm == "diverse" and p == 5)), cluster=None,
        )
        for temperature in (0.7, 1.0) for p in range(8) for i, text in enumerate(texts)
    ]  # fmt: skip


SEEDS = (3, 5)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    by_arm = {
        "baseline": rows("baseline", ["the same answer", "the same answer", "The same  answer!", *HOSTILE]),
        "diverse": rows("diverse", ["nothing alike", "quite another", "0123456789", *HOSTILE]),
    }
    for arm, found in by_arm.items():
        for seed in SEEDS:
            append_jsonl(root / arm / f"seed-{seed}" / "generations.jsonl", [row.to_json() for row in found])
            metrics = [{"step": step, "train/reward": step / 9} for step in range(1, 9)]
            append_jsonl(root / arm / f"seed-{seed}" / "metrics.jsonl", metrics)
        work = {"arm": arm, "seed": 3, "stage": "train", "seconds": 90.0, "tokens": 1200, "dollars": 0.5}
        append_jsonl(root / "ledger.jsonl", [work])
    tables = measure_arms({(arm, seed): found for arm, found in by_arm.items() for seed in SEEDS}, pass_threshold=1.0)
    criteria = {"minimum": [Criterion("distinct_2", "higher", 0.12), Criterion("pass@2", "higher", 0.1)]}
    comparison = compare(tables, baseline="baseline", criteria=criteria, resampling=Resampling())
    return write_report(
        root, comparison, arms=list(by_arm), seeds=SEEDS, pass_threshold=1.0, study=Study.of(tables),
        prompt_texts={f"prompt {p} & <b>": f"Question {p}? {HOSTILE[p % 4]}" for p in range(8)},
    )  # fmt: skip


VIEWS = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"width": 390, "height": 844, "has_touch": True, "is_mobile": True},
}


@pytest.mark.parametrize("view", VIEWS)
def test_it_opens_without_a_network_fits_and_asks_for_nothing(page, looking_at, view, tmp_path):
    with looking_at(page.as_uri(), **VIEWS[view]) as seen:
        assert seen.console == []
        assert seen.requests == [page.as_uri()]
        assert seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        picture = Path(os.environ.get("SCREENSHOTS", tmp_path)) / f"page-{view}.png"
        seen.page.screenshot(path=picture, full_page=True)
        assert picture.stat().st_size > 20_000


@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_no_serious_fault(page, looking_at, view):
    from axe_playwright_python.sync_playwright import Axe

    with looking_at(page.as_uri(), **VIEWS[view]) as seen:
        seen.page.locator(".number").first.focus()
        found = Axe().run(seen.page).response
    assert len(found["passes"]) > 20
    serious = [one for one in found["violations"] if one["impact"] in ("serious", "critical")]
    assert serious == []


def test_hostile_answers_stay_text(page, looking_at):
    with looking_at(page.as_uri()) as seen:
        shown = seen.page.locator("#arms").inner_text()
        assert all(text in shown for text in HOSTILE[:3])
        assert seen.page.locator("#asked").inner_text() == f"Question 0? {HOSTILE[0]}"
        assert seen.page.locator("main img, main object, main iframe").count() == 0
        assert "pwned" not in seen.page.title()
        assert seen.console == []


def test_a_link_leads_to_one_prompt(page, looking_at):
    with looking_at(page.as_uri() + "#prompt=" + quote("prompt 5 & <b>")) as seen:
        assert seen.page.locator("#asked").inner_text().startswith("Question 5?")
        assert seen.page.locator(".figures").nth(1).inner_text().startswith("8 of 8 pass")
    with looking_at(page.as_uri() + "#prompt=%E0%A4%A") as seen:  # no valid escape
        assert seen.page.locator("#asked").inner_text().startswith("Question 0?")
        assert seen.console == []


def test_a_link_to_another_part_leaves_the_prompt_that_is_looked_at(page, looking_at):
    with looking_at(page.as_uri()) as seen:
        seen.page.select_option("#prompt", value="3")
        expect(seen.page.locator("#asked")).to_contain_text("Question 3?")
        seen.page.click(".contents a[href='#measures']")
        seen.page.wait_for_timeout(200)
        assert seen.page.locator("#asked").inner_text().startswith("Question 3?")
        seen.page.locator(".scroll").last.focus()
        seen.page.keyboard.press("ArrowRight")  # scrolls the table
        seen.page.wait_for_timeout(200)
        assert seen.page.locator("#asked").inner_text().startswith("Question 3?")
        seen.page.go_back()
        seen.page.go_back()
        expect(seen.page.locator("#asked")).to_contain_text("Question 0?")


def test_without_javascript_the_page_says_where_the_answers_are(page, looking_at):
    with looking_at(page.as_uri(), wait_for=".criteria", java_script_enabled=False) as seen:
        words = seen.page.locator("noscript").all_inner_texts()
        assert "report.md" in words[0] and "generations.jsonl" in words[1]


def test_answers_that_nobody_judged_are_counted_and_not_called_failed(tmp_path, looking_at):
    by_arm = {
        arm: [dataclasses.replace(row, reward=None) for row in rows(arm, [arm, "the same", *HOSTILE])]
        for arm in ("baseline", "diverse")
    }
    for arm, found in by_arm.items():
        append_jsonl(tmp_path / arm / "seed-3" / "generations.jsonl", [row.to_json() for row in found])
    tables = measure_arms({(arm, 3): found for arm, found in by_arm.items()}, pass_threshold=1.0)
    comparison = compare(tables, baseline="baseline", criteria={"minimum": [Criterion("distinct_2")]})
    bare = write_report(tmp_path, comparison, arms=list(by_arm), seeds=[3], pass_threshold=1.0)
    with looking_at(bare.as_uri()) as seen:
        assert seen.page.locator(".figures").first.inner_text() == "7 answers, 7 different"
        assert seen.console == []


def test_an_answer_that_the_checker_could_not_judge_did_not_fail(tmp_path, looking_at):
    """It read "2 of 6 pass" where Pass@1 was 0.4: two of the five that were judged."""
    rewards = [1.0, 1.0, 0.0, 0.0, 0.0, None]
    by_arm = {
        arm: [dataclasses.replace(row, reward=rewards[row.index]) for row in rows(arm, list("abcdef"))]
        for arm in ("baseline", "diverse")
    }
    for arm, found in by_arm.items():
        append_jsonl(tmp_path / arm / "seed-3" / "generations.jsonl", [row.to_json() for row in found])
    tables = measure_arms({(arm, 3): found for arm, found in by_arm.items()}, pass_threshold=1.0)
    comparison = compare(tables, baseline="baseline", criteria={"minimum": [Criterion("pass@1")]})
    written = write_report(
        tmp_path, comparison, arms=list(by_arm), seeds=[3], pass_threshold=1.0, study=Study.of(tables)
    )
    with looking_at(written.as_uri()) as seen:
        first = seen.page.locator(".arms section").first
        assert first.locator(".figures").inner_text() == "2 of 5 pass (1 not judged); 6 different, 2 of them pass"
        assert seen.page.locator("#values tbody td").first.inner_text() == "0.4"
        assert first.locator("li", has_text="f").locator(".mark").get_attribute("aria-label") == "not judged"
        assert first.locator("li", has_text="c").locator(".mark").get_attribute("aria-label") is None


def test_search_narrows_and_order_brings_the_largest_gain_first(page, looking_at):
    with looking_at(page.as_uri()) as seen:
        seen.page.select_option("#order", label="largest gain in Pass@2")
        gains = json.loads(
            seen.page.evaluate("JSON.stringify([...document.querySelectorAll('#prompt option')].map(o => o.text))")
        )
        assert len(gains) == 8
        assert gains[0].startswith("prompt 5 & <b>: Question 5? ")
        seen.page.select_option("#order", label="largest loss in Pass@2")
        assert seen.page.locator("#prompt option").last.inner_text().startswith("prompt 5 & <b>")
        seen.page.fill("#search", "QUESTION 3")
        expect(seen.page.locator("#found")).to_have_text("1 of 8 prompts")
        assert seen.page.locator("#asked").inner_text().startswith("Question 3?")
        seen.page.fill("#search", "no such thing")
        expect(seen.page.locator("#arms")).to_have_text("")
        assert seen.console == []


def test_near_duplicates_share_a_group_and_show_their_wordings(page, looking_at):
    with looking_at(page.as_uri()) as seen:
        group = seen.page.locator("#arms section").first.locator("li", has_text="the same answer").first
        assert group.locator(".count").inner_text() == "3×"
        group.locator("summary").click()
        assert "The same  answer!" in group.locator("details").text_content()


def test_everything_can_be_reached_by_keyboard(page, looking_at):
    with looking_at(page.as_uri()) as seen:
        seen.page.keyboard.press("ArrowRight")
        seen.page.keyboard.press("ArrowRight")
        seen.page.keyboard.press("ArrowLeft")
        expect(seen.page.locator("#asked")).to_contain_text("Question 1?")
        seen.page.keyboard.press("/")
        assert seen.page.evaluate("document.activeElement.id") == "search"
        seen.page.keyboard.press("ArrowRight")  # moves in the field, not between prompts
        assert seen.page.locator("#asked").inner_text().startswith("Question 1?")


def test_what_stands_behind_a_number_is_one_hover_tap_or_tab_away(page, looking_at):
    with looking_at(page.as_uri()) as seen:
        number = seen.page.locator(".criteria td .number", has_text=re.compile("%")).first
        detail = seen.page.get_by_role("tooltip")
        number.hover()
        text = detail.inner_text()
        assert "8 prompts" in text
        assert "2 training seeds" in text
        assert "95 % interval" in text
        assert "sign-flip permutation test" in text
        seen.page.mouse.move(0, 0)
        assert detail.count() == 0  # hidden elements have no role
        number.focus()
        assert detail.is_visible()
        assert number.get_attribute("aria-describedby") == "detail"
        seen.page.keyboard.press("Escape")
        assert detail.count() == 0
    with looking_at(page.as_uri(), **VIEWS["phone"]) as seen:
        seen.page.locator(".number").first.tap()
        assert seen.page.get_by_role("tooltip").is_visible()


def test_the_first_screen_answers_in_words_and_says_what_it_took(page, looking_at):
    with looking_at(page.as_uri()) as seen:
        verdict = seen.page.locator(".verdict").inner_text()
        assert verdict.startswith(("Yes: ", "No: ", "Not decided: ", "It cannot be: "))
        assert "the chance that one of 2 answers passes" in verdict
        facts = seen.page.locator(".facts").first
        assert facts.inner_text().startswith("8 prompts · 8 answers each · 2 training seeds · sampled at T=0.7")
        assert "3.0 machine minutes, $1.00" in facts.inner_text()
        facts.locator(".number", has_text="machine minutes").hover()
        assert "baseline train 1.5" in seen.page.get_by_role("tooltip").inner_text()
        for shown in (".verdict", ".criteria", ".facts >> nth=0"):
            box = seen.page.locator(shown).bounding_box()
            assert box["y"] + box["height"] < 900  # without scrolling


def test_a_number_beyond_the_screen_tells_when_the_keyboard_scrolls_to_it(page, looking_at):
    """The scrolling itself once closed what the focus had opened."""
    with looking_at(page.as_uri()) as seen:
        number = seen.page.locator("#values .number").first
        number.evaluate("one => one.focus()")
        seen.page.wait_for_timeout(300)
        assert seen.page.get_by_role("tooltip").is_visible()
        box, at = seen.page.locator("#detail").bounding_box(), number.bounding_box()
        assert abs(box["y"] - at["y"]) < 250
        seen.page.evaluate("scrollTo(0, 0)")
        expect(seen.page.locator("#detail")).to_be_hidden()


def test_every_number_of_a_prompt_says_its_seeds(page, looking_at):
    with looking_at(page.as_uri()) as seen:
        seen.page.locator("#values .number").first.hover()
        assert "seed 3" in seen.page.get_by_role("tooltip").inner_text()
        assert "seed 5" in seen.page.get_by_role("tooltip").inner_text()


def test_a_group_pointed_at_is_marked_in_every_arm_and_has_one_colour(page, looking_at):
    with looking_at(page.as_uri()) as seen:
        answers = seen.page.locator(".answers > li", has_text="7*7")
        assert answers.count() == 2  # one an arm
        answers.first.hover()
        marked = seen.page.locator(".answers > li.same")
        expect(marked).to_have_count(2)
        groups = marked.evaluate_all("all => all.map(one => [one.dataset.group, one.style.cssText])")
        assert groups[0] == groups[1]
        assert "--group" in groups[0][1]


def test_on_paper_nothing_is_cut_and_what_needs_a_screen_is_left_out(page, looking_at):
    with looking_at(page.as_uri(), width=700) as seen:
        seen.page.emulate_media(media="print")
        assert seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert not seen.page.locator(".explorer").is_visible()
        assert seen.page.locator("figcaption").first.is_visible()
        assert seen.page.pdf(format="A4").startswith(b"%PDF")


def test_arms_have_one_colour_everywhere_light_and_dark(page, looking_at):
    shades = {}
    for scheme in ("light", "dark"):
        with looking_at(page.as_uri(), color_scheme=scheme) as seen:
            color = "one => getComputedStyle(one).backgroundColor"
            swatch = seen.page.locator(".criteria .swatch").first.evaluate(color)
            title = seen.page.locator(".arms h3").nth(1).evaluate("one => getComputedStyle(one).borderBottomColor")
            line = seen.page.locator("#figure-pass path").evaluate_all(
                "all => all.map(one => getComputedStyle(one).stroke)"
            )
            assert swatch == title
            assert swatch in line
            shades[scheme] = swatch
    assert shades["light"] == "rgb(0, 114, 178)"
    assert shades["dark"] != shades["light"]


def test_a_prompt_is_copied_as_json(page, looking_at):
    with looking_at(page.as_uri(), permissions=["clipboard-read", "clipboard-write"]) as seen:
        seen.page.click("#copy")
        expect(seen.page.locator("#found")).to_have_text("copied")
        copied = json.loads(seen.page.evaluate("navigator.clipboard.readText()"))
    assert copied["prompt"] == "prompt 0 & <b>"
    assert set(copied["arms"]) == {"baseline", "diverse"}
    baseline = copied["arms"]["baseline"]
    assert len(baseline["measures"]["pass@2"]["seeds"]) == 2
    assert sum(one["count"] for one in baseline["answers"]) == 8
    assert {"group", "text", "count", "reward"} == set(baseline["answers"][0])
