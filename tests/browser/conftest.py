"""A real browser without a network; where there is none these tests are skipped with the reason."""

import shutil
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@cache
def chromium():
    """The system's Chromium, else the one that `playwright install chromium` brings; None where there is neither."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).is_file() else None


def pytest_collection_modifyitems(items):
    ours = [item for item in items if "/browser/" in str(item.path)]
    if ours and chromium() is None:
        for item in ours:
            reason = "no chromium here: `apt-get install chromium` or `.venv/bin/playwright install chromium`"
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="module")
def browser():
    """Chromium for one file: while it is open an event loop runs in this thread, and other files start their own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield launched
        launched.close()


class Seen:
    """Holds what a page said and asked for while it was looked at."""

    def __init__(self, page):
        self.page, self.console, self.requests = page, [], []
        page.on("console", lambda message: self.console.append(message.text))
        page.on("pageerror", lambda error: self.console.append(str(error)))
        page.on("dialog", lambda dialog: (self.console.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: self.requests.append(request.url))


@pytest.fixture
def looking_at(browser):
    """A function that opens an address in a fresh context and yields what is seen there."""

    @contextmanager
    def look(address, *, offline=True, width=1100, height=900, wait_for=".answers li", **options):
        context = browser.new_context(offline=offline, viewport={"width": width, "height": height}, **options)
        seen = Seen(context.new_page())
        seen.page.goto(address)
        seen.page.wait_for_selector(wait_for)
        try:
            yield seen
        finally:
            context.close()

    return look
