"""A real browser, which `.ci/run` installs: where there is none a test is skipped, and in CI it fails."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

WAIT_MS = 100_000
"""A limit for what never comes; nothing is expected to take so long."""


@contextmanager
def running_chromium() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        if os.environ.get("CI") or os.environ.get("BROWSER_TESTS") == "required":
            pytest.fail("no Chromium is installed, and here the dashboard's tests must run")
        pytest.skip("no Chromium is installed: apt-get install chromium")
    with sync_playwright() as playwright:
        # Its own sandbox is not for the user root, and the pages are ours.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@contextmanager
def opened_page(browser: Browser, scheme: str = "light", width: int = 1280, height: int = 900) -> Iterator[Page]:
    """A page of a browser that knows nobody. Nothing may be refused by its policy, thrown, or popped up."""
    context = browser.new_context(
        color_scheme=scheme,  # type: ignore[arg-type]
        viewport={"width": width, "height": height},
        accept_downloads=True,
        reduced_motion="reduce",
        timezone_id="UTC",
    )
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    wrong: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        # What the service refuses is a line in the console, too; tests that provoke it look at the page.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            wrong.append(message.text)

    page.on("console", hear)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda sent: wrong.extend([sent.url] if not sent.url.startswith("http://127.0.0.1:") else []))
    yield page
    context.close()
    assert wrong == [], wrong
