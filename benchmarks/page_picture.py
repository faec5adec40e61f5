"""A picture of a report's first screen. (The README shows the slide of `polychromic report runs/quickstart --figure`.)

python benchmarks/page_picture.py runs/quickstart report.png [--dark] [--width 1000] [--height 1320]
(needs chromium and the test extra)
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path


def main() -> None:
    """Open RUN/report.html without a network and keep what is seen."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--width", type=int, default=1000)
    parser.add_argument("--height", type=int, default=1320)
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(
            viewport={"width": options.width, "height": options.height},
            color_scheme="dark" if options.dark else "light",
        )
        tab.context.set_offline(True)
        tab.goto((options.run / "report.html").resolve().as_uri())
        tab.wait_for_selector(".answers li", state="attached")
        tab.screenshot(path=options.picture)
        browser.close()


if __name__ == "__main__":
    main()
