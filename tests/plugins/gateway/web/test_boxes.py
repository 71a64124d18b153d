"""The page of a box where another one ships its log: merged, filtered, live, and honest."""

import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect
from prometheus_client.parser import text_string_to_metric_families

from boxes_kit import Collecting, Peer, Shipping, claw, collecting, key
from browser_kit import SIZES, Web
from clawai.sdk.boxes import wire
from clawai.sdk.boxes.wire import Figures, Gap, Line
from doors_kit import Doors
from support import Kernel, wait_until


@pytest.fixture(scope="module")
def where(filled: Doors) -> Iterator[Collecting]:
    """The gateway's box collects."""
    with collecting(filled.kernel) as made:
        yield made


@pytest.fixture(scope="module")
def other(filled: Doors, where: Collecting) -> Iterator[Kernel]:
    """A second kernel, whose log comes."""
    kernel = Kernel()
    try:
        kernel.start()
        claw(where.env, "boxes", "add", "attic", key(kernel.env))
        agent = Shipping(kernel.env, where)
        wait_until(lambda: where.rows()["attic"]["busy"] is not None, "it ships", 30)
        yield kernel
        agent.stop()
        assert kernel.stop() == 0
    finally:
        kernel.remove()


@pytest.fixture(scope="module")
def peer(where: Collecting) -> Iterator[Peer]:
    """A box whose clock is an hour ahead, and that has been silent since."""
    made = Peer(where, "cellar")
    made.hello()
    figures = Figures(kernel=True, cores=4, busy=0.25, memory_bytes=8 << 30, running=3)
    now = int(time.time())
    words = (
        Line(now + 3600, "warning", "echo[7] task 12 <img src=x onerror=alert(1)>"),
        Line(now + 3601, "error", "the fan stands still"),
    )
    fields = {"lines": words, "sent": time.time() + 3600, "figures": figures, "gap": Gap(5)}
    assert made.ship(**fields) == wire.Taken(1)
    yield made
    made.close()


def metrics(doors: Doors) -> dict[tuple[str, str], float]:
    said = doors.ask("GET", "/metrics")[2].decode()
    return {
        (sample.name, sample.labels["box"]): sample.value
        for family in text_string_to_metric_families(said)
        for sample in family.samples
        if "box" in sample.labels
    }


def test_without_other_boxes_the_page_is_as_it_was(web: Web) -> None:
    page = web.go("/page/logs")
    expect(page.locator("select[name=box]")).to_have_count(0)
    expect(page.locator("#lines p").last).to_be_visible()
    page = web.go("/page/now")
    expect(page.locator("#boxes")).to_be_hidden()
    assert metrics(web.doors) == {}


def test_lines_of_all_boxes_come_by_time_and_are_filtered(
    web: Web, other: Kernel, where: Collecting
) -> None:
    page = web.go("/page/logs")
    lines = page.locator("#lines p")
    box = page.locator("select[name=box]")
    expect(box).to_have_value("")
    assert page.locator("#lines u").count() == 0, "only of this box"
    box.select_option("attic")
    expect(lines.first).to_contain_text("attic")
    expect(page.locator("#lines")).to_contain_text(str(other.folder))
    other.client().call("echo.say", {"text": "x"})
    expect(page.locator("#lines p", has_text="echo starts").last).to_contain_text("attic")
    # Both, each in its turn.
    box.select_option("*")
    expect(page.locator("#lines u", has_text="this box").first).to_be_visible()
    page.get_by_label("Search").fill("filled")
    expect(lines).to_have_count(0)
    web.doors.client.call("form.fill", {"kind": "one", "data": b"1"})
    expect(lines).to_have_count(1)
    expect(lines).to_contain_text("this box")
    page.get_by_label("Search").fill("")
    expect(lines.nth(11)).to_be_visible()
    shown = page.evaluate(
        "() => [...document.querySelectorAll('#lines time')]"
        ".map((it) => `${it.title.slice(0, 10)} ${it.textContent}`)"
    )
    assert shown == sorted(shown) and len(shown) > 10
    names = page.locator("#lines u").all_inner_texts()
    assert {"attic", "this box"} == set(names)
    box.select_option("-")
    page.get_by_label("From").select_option("kernel")
    page.get_by_label("At least").select_option("info")
    expect(page.locator("#lines u", has_text="this box")).to_have_count(0)
    assert "box=-" in page.url
    page.reload()
    expect(box).to_have_value("-")
    expect(lines.first).to_contain_text("attic")
    wanted = where.lines("attic")
    expect(lines).to_have_count(len([line for line in wanted if " debug " not in line]))


def test_older_lines_of_several_boxes_come_each_once(
    web: Web, other: Kernel, where: Collecting
) -> None:
    made = Peer(where, "loft")
    made.hello()
    start = int(time.time()) - 90_000
    for first in range(0, 1000, 250):
        words = tuple(
            Line(start + number, "info", f"drip {number}") for number in range(first, first + 250)
        )
        assert isinstance(made.ship(lines=words), wire.Taken)
    page = web.go("/page/logs?box=*&text=drip")
    lines = page.locator("#lines p")
    older = page.get_by_role("button", name="Older")
    for count in (300, 600, 900):
        expect(lines).to_have_count(count)
        older.click()
    expect(lines).to_have_count(1000)
    expect(older).to_be_hidden()
    texts = page.locator("#lines p > span").all_inner_texts()
    assert [int(text.split()[-1]) for text in texts] == list(range(1000))
    assert "arrived" in texts[0], "it was written long before it came"
    made.close()


def test_what_cannot_be_trusted_is_said(web: Web, other: Kernel, peer: Peer) -> None:
    page = web.go("/page/logs?box=cellar")
    lines = page.locator("#lines p")
    expect(lines).to_have_count(3)
    expect(lines.first).to_contain_text("5 lines of this box are missing here")
    expect(lines.nth(1)).to_contain_text("<img src=x")
    expect(lines.nth(1)).to_contain_text("arrived")
    expect(page.locator("#boxes")).to_contain_text("The clock of cellar is 1 h 00 min ahead")
    expect(page.locator("#boxes")).to_contain_text("5 lines of cellar are lost")
    expect(page.locator("#boxes")).to_contain_text(
        "cellar was not heard of for", timeout=2000 * wire.SILENT
    )
    assert metrics(web.doors)["claw_box_up", "cellar"] == 0
    page.get_by_label("Task").fill("12")
    expect(lines).to_have_count(1)
    page.locator("select[name=box]").select_option("attic")
    expect(page.locator("#boxes li")).to_have_count(0)
    page = web.go("/page/now")
    row = page.locator("#boxes tr", has_text="cellar")
    expect(row).to_contain_text("silent for")
    expect(page.locator("#boxes tr", has_text="attic")).to_contain_text("heard of")
    expect(page.locator("#boxes tr", has_text="attic")).to_contain_text("%")
    expect(page.locator("#boxes tr", has_text="attic")).to_contain_text("as here")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_it_is_sound_with_boxes_too(web: Web, other: Kernel, peer: Peer, language: str) -> None:
    web.page.goto(f"{web.doors.address}/page/now?lang={language}")
    for path in ("now", "logs?box=*"):
        page = web.go(f"/page/{path}")
        for colours in ("light", "dark"):
            page.emulate_media(color_scheme=colours)
            assert web.tab.violations() == [], (path, colours)
        assert 0 < web.tab.transferred() <= 120_000
        page.set_viewport_size(dict(zip(("width", "height"), SIZES["phone"], strict=True)))
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZES["phone"][0], path
        page.set_viewport_size(dict(zip(("width", "height"), SIZES["desk"], strict=True)))
    box = page.locator("select[name=box]")
    box.focus()
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    expect(page.locator("#lines u").first).not_to_be_empty()


def test_a_box_that_was_added_just_now_is_there(web: Web, where: Collecting) -> None:
    for number in range(3):
        assert web.doors.ask("GET", "/page/logs/older?box=*")[0] == 200
        claw(where.env, "boxes", "add", f"new-{number}", f"{number:064x}")
        status, _, said = web.doors.ask("GET", f"/page/logs/older?box=new-{number}")
        assert status == 200 and said["lines"] == ""
        claw(where.env, "boxes", "remove", f"new-{number}")


def test_what_a_front_may_not_ask_and_what_makes_no_sense(web: Web, other: Kernel) -> None:
    doors = web.doors
    for path in ("logs?box=none", "logs/older?box=../attic", "logs/live?at=attic:x"):
        assert doors.ask("GET", f"/page/{path}")[0] == 400
    for path in ("logs/older?box=attic&at=attic:99999999999", "logs/older?at=:5,none:7"):
        assert doors.ask("GET", f"/page/{path}")[0] == 200


def test_metrics_tell_of_each_box(web: Web, other: Kernel, where: Collecting) -> None:
    wait_until(lambda: where.rows()["attic"]["heard"], "it is heard of")
    found = metrics(web.doors)
    assert found["claw_box_up", "attic"] == 1
    assert 0 <= found["claw_box_busy_ratio", "attic"] <= 1
    assert found["claw_box_memory_bytes", "attic"] > found["claw_box_available_bytes", "attic"] > 0
    assert found["claw_box_lines_lost_total", "attic"] == 0
    assert found["claw_box_silent_seconds", "attic"] < wire.SILENT


def test_a_spoiled_file_of_boxes_spoils_nothing_else(
    web: Web, other: Kernel, where: Collecting
) -> None:
    path = where.kernel.config.parent / "boxes.json"
    kept = path.read_bytes()
    try:
        path.write_bytes(b"{")
        time.sleep(1.1)
        expect(web.go("/page/now").locator("#machine")).to_be_visible()
        expect(web.go("/page/logs").locator("#lines p").last).to_be_visible()
        assert web.doors.ask("GET", "/metrics")[0] == 200
    finally:
        path.write_bytes(kept)
