"""`claw bench page`: how soon the gateway's page is seen in a browser, and how much comes for it.

A kernel of the benchmark's own serves the page to a headless Chromium. Each sample is a reader who
was never here: nothing of the page is kept. Needs Chromium and ``pip install playwright``.

    first_paint_p50_ms, first_paint_max_ms   from the request to the first pixels
    page_bytes                               bodies of the largest view, packed as they were sent
"""

import os
from contextlib import ExitStack
from typing import Any

import click

from clawai.sdk.cli import output
from clawai.sdk.cli.bench.browser import chromium, page_of
from clawai.sdk.cli.bench.command import finish
from clawai.sdk.cli.bench.gateway import free_port
from clawai.sdk.cli.bench.neighbours import Neighbours
from clawai.sdk.cli.bench.private import Private
from clawai.sdk.cli.bench.report import Bar, Report
from clawai.sdk.cli.bench.sampling import percentile

BARS = (Bar(key="first_paint_p50_ms", most=500.0), Bar(key="page_bytes", most=120_000))
VIEWS = ("now", "logs", "try")
SEEN = """() => {
  const all = ["navigation", "resource"].flatMap((kind) => performance.getEntriesByType(kind));
  const paint = performance.getEntriesByName("first-contentful-paint")[0];
  return [paint ? paint.startTime : null, all.reduce((sum, one) => sum + one.encodedBodySize, 0)];
}"""


def look(browser: Any, address: str) -> tuple[float, int]:
    """Milliseconds to the first paint of one who was never here, and bytes."""
    with browser.new_context() as reader:
        page = reader.new_page()
        page.goto(address, wait_until="load")
        while (seen := page.evaluate(SEEN))[0] is None:
            page.evaluate("() => new Promise(requestAnimationFrame)")
    return float(seen[0]), int(seen[1])


def measure(samples: int) -> Report:
    """Every view in turn.

    Raises:
        ClawError: unsupported_system, without a browser or its driver.
    """
    port, status = free_port(), output.Status()
    with ExitStack() as stack:
        stack.callback(status.clear)
        browser = chromium(stack)
        box = stack.enter_context(Private(f'[plugins]\nports = ["gateway:8080={port}"]\n'))
        pages = page_of(box, port)
        neighbours = Neighbours([os.getpid(), *box.processes()])
        paints, sizes = [], []
        for number in range(-1, samples):
            status.show(f"sample {max(number, 0)} of {samples}")
            seen = [look(browser, f"{pages}/{view}") for view in VIEWS]
            if number >= 0:  # the first one warms both
                paints += [paint for paint, _ in seen]
                sizes += [size for _, size in seen]
        busy = round(neighbours.share(), 3)
    figures = {
        "first_paint_p50_ms": round(percentile(paints, 50), 1),
        "first_paint_max_ms": round(max(paints), 1),
        "page_bytes": max(sizes),
    }
    settings = {"samples": samples, "views": list(VIEWS), "others_busy_ratio": busy}
    return Report("page", settings, figures, {})


@click.command("page")
@click.option("--samples", type=click.IntRange(1, 1000), default=10, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(samples: int, as_json: bool) -> None:
    """How soon the gateway's page is seen in a browser, and how much comes for it.

    \b
    Example:
      claw bench page
      claw bench page --json
    """
    finish(measure(samples), as_json)
