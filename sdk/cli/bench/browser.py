"""A headless Chromium for benchmarks of the gateway's page. Needs ``pip install playwright``."""

import os
import shutil
from contextlib import ExitStack
from typing import Any

from clawai.sdk.cli.bench.private import Private
from clawai.sdk.errors import ClawError

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def chromium(stack: ExitStack) -> Any:
    """A browser of playwright, closed with ``stack``.

    Raises:
        ClawError: unsupported_system, without a browser or its driver.
    """
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        hint = "apt install chromium"
        raise ClawError("unsupported_system", "there is no Chromium", allowed=PROGRAMS, hint=hint)
    try:
        from playwright import sync_api
    except ImportError:
        hint = "pip install playwright"
        raise ClawError("unsupported_system", "playwright is missing", hint=hint) from None
    driver = stack.enter_context(sync_api.sync_playwright())
    rights = ["--no-sandbox"] if os.geteuid() == 0 else []
    browser = driver.chromium.launch(
        executable_path=program, args=[*rights, "--disable-dev-shm-usage"]
    )
    stack.callback(browser.close)
    return browser


def page_of(box: Private, port: int) -> str:
    """Start the gateway of a kernel whose settings give it ``port``; where its pages are."""
    serving = box.client(timeout=120).submit("gateway.serve")
    next(event for event in serving if event.note.startswith("http://"))
    return f"http://127.0.0.1:{port}/page"
