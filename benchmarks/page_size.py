"""Megabytes of the page of 2,000 prompts × 4 arms × 64 samples, and seconds until a browser shows its answers.

python benchmarks/page_size.py [--prompts 2000] [--arms 4] [--samples 64]   (needs chromium and the test extra)

Texts are the shipped replies with words replaced at random, so that they compress as real ones do.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
import time
from pathlib import Path

from polychromic.evaluation import Criterion, Resampling, compare, measure_arms
from polychromic.evaluation.tables import Study
from polychromic.files import append_jsonl
from polychromic.records import GenerationRow, SamplingParameters
from polychromic.report.build import write_report

_REPLIES = Path(__file__).parent.parent / "data" / "replies" / "train.jsonl"


def make_rows(replies: list[str], words: list[str], arm: int, n_prompts: int, n: int) -> list[GenerationRow]:
    """Rows of one arm; every sixth answer repeats an earlier one of its prompt."""
    draw = random.Random(arm)
    rows: list[GenerationRow] = []
    for prompt in range(n_prompts):
        texts: list[str] = []
        for _ in range(n):
            if texts and draw.random() < 1 / 6:
                texts.append(draw.choice(texts))
                continue
            text = draw.choice(replies).split(" ")
            texts.append(" ".join(draw.choice(words) if draw.random() < 0.3 else word for word in text))
        rows += [
            GenerationRow(f"p{prompt:05d}", i, text, 20, "stop", SamplingParameters(), 0, float(draw.random() < 0.5))
            for i, text in enumerate(texts)
        ]
    return rows


def main() -> None:
    """Print the page's size and how long it takes to build and to open."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("prompts", 2000), ("arms", 4), ("samples", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    replies = [reply for line in _REPLIES.open() for reply in json.loads(line)["references"]]
    words = sorted({word for reply in replies for word in reply.split(" ")})
    by_arm = {
        f"arm{arm}": make_rows(replies, words, arm, options.prompts, options.samples) for arm in range(options.arms)
    }
    texts = [row.text for rows in by_arm.values() for row in rows]
    print(f"{len(texts):,} answers of {sum(map(len, texts)) / len(texts):.0f} characters on average")
    tables = measure_arms({(arm, 0): rows for arm, rows in by_arm.items()}, pass_threshold=1.0, workers=2)
    criteria = {"minimum": [Criterion("distinct_2", "higher", 0.12)]}
    comparison = compare(tables, baseline="arm0", criteria=criteria, resampling=Resampling())
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for arm, rows in by_arm.items():
            append_jsonl(root / arm / "seed-0" / "generations.jsonl", [row.to_json() for row in rows])
        started = time.perf_counter()
        page = write_report(root, comparison, arms=list(by_arm), seeds=[0], pass_threshold=1.0, study=Study.of(tables))
        print(f"built in {time.perf_counter() - started:.1f} s, {page.stat().st_size / 1e6:.1f} MB")
        print(f"answers shown after {_opening_seconds(page):.2f} s (median of 5, headless chromium)")


def _opening_seconds(page: Path) -> float:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    seconds = []
    with sync_playwright() as playwright:
        for _ in range(5):
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            tab = browser.new_page()
            started = time.perf_counter()
            tab.goto(page.as_uri())
            tab.wait_for_selector(".answers li")
            seconds.append(time.perf_counter() - started)
            browser.close()
    return sorted(seconds)[2]


if __name__ == "__main__":
    main()
