"""A real headless Chromium, and what is held against every page that it shows.

Debian's own, driven by playwright: nothing is fetched. As root it cannot have its sandbox.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from doors_kit import Doors

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
SIZES = {"desk": (1280, 800), "phone": (390, 844)}
PATIENCE_MS = 20_000


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """The browser; whoever has none is told how to get it."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("no chromium: .ci/packages test")
    rights = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=program,
            args=[*rights, "--disable-dev-shm-usage", "--disable-gpu"],
        )
        try:
            yield browser
        finally:
            browser.close()


class Tab:
    """A page, and what it did that no page may do."""

    def __init__(self, context: BrowserContext) -> None:
        self.page: Page = context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.wrong: list[str] = []
        """Errors and warnings of the console, exceptions, refused requests."""
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.wrong.append(f"exception: {error}"))
        self.page.on("response", self._answered)

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.wrong.append(f"console: {message.text}")

    def _answered(self, response: Any) -> None:
        if response.status >= 400:
            self.wrong.append(f"{response.status} {response.url}")

    def go(self, address: str) -> "Tab":
        """Load a page; its streams are open then, but for what they send."""
        self.page.goto(address, wait_until="load")
        return self

    def violations(self) -> list[str]:
        """What axe finds, with the elements."""
        source = resources.files("axe_playwright_python") / "axe.min.js"
        if not self.page.evaluate("() => 'axe' in window"):
            self.page.evaluate(source.read_text("utf-8"))
        # What is out of sight and so not laid out is looked at, too.
        self.page.evaluate(
            "() => document.querySelectorAll('.panel')"
            ".forEach((each) => { each.style.contentVisibility = 'visible' })"
        )
        found = self.page.evaluate(
            "() => axe.run({resultTypes: ['violations']}).then((r) => r.violations)"
        )
        return [
            f"{each['id']}: {each['help']}: {[node['html'][:160] for node in each['nodes']][:4]}"
            for each in found
        ]

    def transferred(self) -> int:
        """Bytes of bodies that came over the wire for what is shown, as they were packed."""
        count: int = self.page.evaluate(
            "() => [...performance.getEntriesByType('navigation'),"
            " ...performance.getEntriesByType('resource')]"
            ".reduce((sum, each) => sum + each.encodedBodySize, 0)"
        )
        return count

    def close(self) -> None:
        self.page.close()


@dataclass
class Web:
    """A browser before a gateway that serves."""

    context: BrowserContext
    doors: Doors
    tab: Tab

    @property
    def page(self) -> Page:
        return self.tab.page

    def go(self, path: str) -> Page:
        """Load a page of the gateway's."""
        self.tab.go(f"{self.doors.address}{path}")
        return self.tab.page
