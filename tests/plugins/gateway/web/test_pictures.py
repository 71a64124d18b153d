"""The timeline and the graph in a real browser: every control, by mouse and by keys."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from browser_kit import Tab
from clawai.sdk import graphs
from doors_kit import Doors
from timeline_kit import assert_perfetto

MANY = 10_000


@pytest.fixture
def tab(browser: Browser) -> Iterator[Tab]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    made = Tab(context)
    yield made
    assert not made.wrong, made.wrong
    context.close()


def pressed(page: Page, name: str) -> bool:
    return page.get_attribute(f"#{name}", "aria-pressed") == "true"


def figure(page: Page, name: str) -> float:
    return float(page.get_attribute("#picture", f"data-{name}") or 0)


def downloaded(page: Page, selector: str) -> Any:
    with page.expect_download() as waited:
        page.click(selector)
    return json.loads(Path(waited.value.path()).read_text())


def test_the_timeline(tab: Tab, doors: Doors) -> None:
    page = tab.page
    long = doors.client.submit("echo.count", {"upto": 10**6, "pause_ms": 1}, priority="batch")
    next(event for event in long if event.kind == "chunk")
    tab.go(f"{doors.address}/page/timeline")
    table = page.locator("#tasks")
    expect(table).to_contain_text("echo.count")
    page.wait_for_selector("#picture[data-tasks]")
    # What happens is seen without a hand: a new task, and how the first one ends.
    assert doors.client.call("echo.say", {"text": "s3cret"}).value == "s3cret"
    expect(table).to_contain_text("echo.say")
    long.cancel()
    list(long)
    expect(table).to_contain_text("cancelled")
    assert "s3cret" not in page.content()
    assert tab.violations() == []

    page.focus("#picture")
    page.keyboard.press("ArrowDown")
    chosen = page.locator("#chosen")
    expect(chosen).to_contain_text("gateway.serve")
    assert not pressed(page, "follow"), "who looks at something is not led away from it"
    page.keyboard.press("ArrowDown")
    expect(chosen).to_contain_text(re.compile(r"echo\.count.*batch.*cancelled"))
    expect(chosen).to_contain_text("for a worker to start")
    page.keyboard.press("Escape")
    expect(chosen).to_contain_text("Pick a task")
    place = page.locator("#picture").bounding_box()
    assert place
    page.mouse.click(place["x"] + place["width"] - 60, place["y"] + place["height"] - 40)
    expect(chosen).to_contain_text("gateway.serve")

    page.click("#whole")
    all_of_it = figure(page, "span")
    page.click("#closer")
    page.keyboard.press("Tab")
    assert figure(page, "span") < all_of_it
    page.click("#farther")
    page.focus("#picture")
    for key in ("+", "-", "ArrowLeft", "ArrowRight", "ArrowUp"):
        page.keyboard.press(key)
    page.mouse.move(place["x"] + 300, place["y"] + 60)
    page.mouse.wheel(0, -300)
    page.mouse.down()
    page.mouse.move(place["x"] + 200, place["y"] + 50, steps=3)
    page.mouse.up()
    page.focus("#picture")
    page.keyboard.press("Home")
    expect(page.locator("#picture")).to_have_attribute("data-span", f"{all_of_it:.0f}")
    page.click("#follow")
    assert pressed(page, "follow")

    page.select_option("#seconds", "60")
    trace = downloaded(page, "#trace")
    assert_perfetto(trace)
    assert any("echo.count" in event["name"] for event in trace["traceEvents"])
    page.click("text=中文")
    expect(page.locator("#tasks")).to_contain_text("等待工作进程启动")
    assert doors.ask("GET", "/page/timeline/bars?seconds=7")[0] == 400


def test_the_graph(tab: Tab, doors: Doors, tmp_path: Path) -> None:
    page = tab.page
    tab.go(f"{doors.address}/page/graph?model=tiny")
    assert page.input_value("#model") == "tiny"
    page.click("#measure")
    expect(page.locator("#picture")).to_have_attribute("data-steps", re.compile("[0-9]+"))
    sums, chosen, rows = (page.locator(each) for each in ("#sums", "#chosen", "#rows tr"))
    expect(sums).to_contain_text(re.compile(r"tiny: \d+ steps · one token .* longest chain"))
    assert rows.count() == figure(page, "steps")
    page.click("#rows tr:first-child button")
    first = page.inner_text("#rows tr:first-child button")
    expect(chosen).to_contain_text(first)
    expect(chosen).to_contain_text("cpu")
    assert tab.violations() == []
    for heat in ("rate", "bytes", "dtype", "time"):
        page.select_option("#heat", heat)
        expect(page.locator("#legend")).to_be_visible()
    page.select_option("#phase", "prefill")
    page.select_option("#phase", "decode")
    page.focus("#picture")
    for key in ("Escape", "n"):
        page.keyboard.press(key)
    expect(chosen).to_contain_text("embed")
    page.keyboard.press("n")
    page.keyboard.press("p")
    expect(chosen).to_contain_text("embed")
    for key in ("+", "-", "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home"):
        page.keyboard.press(key)
    picture = page.locator("#picture")
    page.click("#fold")
    assert pressed(page, "fold")
    page.click("#fold")
    whole = page.get_attribute("#picture", "data-scale")
    page.click("#closer")
    expect(picture).not_to_have_attribute("data-scale", str(whole))
    page.click("#farther")
    page.click("#whole")

    # What is saved is what another run is compared with.
    saved = downloaded(page, "#save")
    profile = graphs.read(saved)
    assert profile.model == "tiny" and len(profile.nodes) == figure(page, "steps")
    file = tmp_path / "before.json"
    for name in saved["decode"]["ns"]:
        saved["decode"]["ns"][name] *= 2
    file.write_text(json.dumps(saved))
    page.set_input_files("#before", file)
    expect(sums).to_contain_text("before")
    assert page.input_value("#heat") == "change"
    expect(page.locator("#rows")).to_contain_text("-50 %")
    wrong = tmp_path / "wrong.json"
    wrong.write_text("{")
    page.set_input_files("#before", wrong)
    expect(page.locator("#said")).to_contain_text("no profile")

    # Live: nothing is run for it.
    answer = {"model": "tiny", "prompt": "the sea", "max_tokens": 4}
    assert doors.ask("POST", "/v1/completions", answer)[0] == 200
    with page.expect_response(lambda response: "graph/profile" in response.url) as waited:
        page.click("#live")
    assert waited.value.request.post_data_json == {"model": "tiny", "live": True}
    page.click("#live")
    assert not pressed(page, "live")
    expect(sums).to_contain_text("one token")


def many() -> dict[str, Any]:
    """A profile of very many steps."""
    nodes = [
        {"name": f"blk.{place // 20}.step{place}", "ops": ["matmul"], "layer": place // 20,
         "shape": ["tokens", 64], "dtype": "Q4_0", "bytes": 4096,
         "inputs": [each for each in (place - 1, place - 7) if each >= 0]}
        for place in range(MANY)
    ]  # fmt: skip
    ns = {node["name"]: 1000 + 37 * place % 5000 for place, node in enumerate(nodes)}
    head = {"format": 1, "device": "cpu", "isa": "x", "layers": MANY // 20, "context": 64}
    return head | {"nodes": nodes, "decode": {"tokens": 1, "ns": ns}, "model": "large"}


def test_ten_thousand_steps_stay_usable(tab: Tab, doors: Doors, tmp_path: Path) -> None:
    page = tab.page
    file = tmp_path / "large.json"
    file.write_text(json.dumps(many()))
    tab.go(f"{doors.address}/page/graph")
    page.set_input_files("#before", file)
    picture = page.locator("#picture")
    expect(picture).to_have_attribute("data-steps", str(MANY))
    expect(page.locator("#sums")).to_contain_text(f"large: {MANY} steps")
    page.select_option("#heat", "time")
    far = page.get_attribute("#picture", "data-scale")
    page.focus("#picture")
    for _ in range(4):
        page.keyboard.press("n")
    expect(page.locator("#chosen")).to_contain_text("step3")
    expect(picture).not_to_have_attribute("data-scale", str(far))
    page.keyboard.press("Home")
    page.click("#fold")
    expect(picture).not_to_have_attribute("data-scale", str(far))
    assert page.locator("#rows tr").count() == 100, "the table stays small"


def test_what_is_no_profile_and_whose_page_it_is_not(doors: Doors) -> None:
    ours = {"content-type": "application/json"}
    bodies: list[Any] = [{"profile": {}, "before": None}, {"profile": many(), "before": [1]}, b"{"]
    for body in bodies:
        status, _, said = doors.ask("POST", "/page/graph/show", body, ours)
        assert status == 400, said
    status, _, said = doors.ask("POST", "/page/graph/profile", {"model": "gone"}, ours)
    assert status in (400, 404) and "gone" in said["error"]["message"]
    theirs = ours | {"sec-fetch-site": "cross-site"}
    assert doors.ask("POST", "/page/graph/profile", {"model": "tiny"}, theirs)[0] == 403
