"""One browser for the tests of a module, and a gateway beside plugins that have much to show."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from browser_kit import SIZES, Tab, Web, chromium
from doors_kit import Doors

FORM = '''
from typing import Literal
from clawai.sdk import Context, operation

@operation("form.fill")
def fill(
    ctx: Context, kind: Literal["one", "two"], data: bytes, sure: bool = False, more: dict = {}
) -> dict:
    """Say back what came.

    Args:
        kind: <b>which</b>.
        data: a file.
        sure: or not.
        more: anything.
    """
    ctx.log("warning", f"filled {kind} <i>{len(data)}</i>")
    return {"kind": kind, "first": data[:4].hex(), "size": len(data), "sure": sure, "more": more}

@operation("form.talk")
def talk(ctx: Context, lines: int, level: str = "info", pad: int = 0) -> int:
    """Write lines to the log."""
    for number in range(lines):
        ctx.log(level, f"line {number} of {lines}" + pad * ".")
    return lines
'''


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def filled(browser: Browser, doors: Doors) -> Doors:
    """With a plugin more; the browser is older, so that it is no leak."""
    operations = {"form.fill": "", "form.talk": ""}
    doors.kernel.plugin("form", FORM, operations)
    doors.kernel.plugin(
        "talker", FORM.replace("form.", "talker."), {"talker.fill": "", "talker.talk": ""}
    )
    return doors


@pytest.fixture
def web(browser: Browser, filled: Doors) -> Iterator[Web]:
    """A browser of an English reader, who has never been here; nothing may be wrong at the end."""
    width, height = SIZES["desk"]
    context = browser.new_context(
        viewport={"width": width, "height": height}, locale="en", color_scheme="light"
    )
    context.set_default_timeout(20_000)
    tab = Tab(context)
    yield Web(context, filled, tab)
    assert tab.wrong == []
    context.close()
