"""Every control of the page, used in a real browser; and what the page may not do."""

import json
import re
import struct
import subprocess
import sys
import wave
import zlib
from io import BytesIO
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from browser_kit import SIZES, Web
from clawai.plugins.gateway.web.site import VIEWS
from clawai.sdk import wire
from doors_kit import Doors
from support import wait_until

PAGES = (*VIEWS, "try?op=form.fill", "try?op=echo.tensor", "nothing")
LIMIT = 120_000
"""Bytes of a page with all that it needs."""


def workers(doors: Doors) -> dict[str, dict[str, Any]]:
    rows = doors.client.query("workers")["workers"]
    return {row["model"] or row["plugin"]: row for row in rows}


# The frame.


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_page_is_sound_in_both_colours_and_fits_a_phone(web: Web, language: str) -> None:
    web.doors.client.call("echo.say", {"text": "here"})
    web.page.goto(f"{web.doors.address}/page/now?lang={language}")
    for name in PAGES:
        page = web.go(f"/page/{name}")
        assert page.locator("html").get_attribute("lang") == language
        for colours in ("light", "dark"):
            page.emulate_media(color_scheme=colours)
            assert web.tab.violations() == [], (name, colours)
        assert 0 < web.tab.transferred() <= LIMIT, name
        page.set_viewport_size(dict(zip(("width", "height"), SIZES["phone"], strict=True)))
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZES["phone"][0], name
        page.set_viewport_size(dict(zip(("width", "height"), SIZES["desk"], strict=True)))
    missing = [each for each in web.tab.wrong if "404" in each]
    assert len(missing) == 2, "the page that is not there, and the console's word of it"
    web.tab.wrong[:] = [each for each in web.tab.wrong if "404" not in each]


def test_colours_and_language_are_chosen_and_stay(web: Web) -> None:
    page = web.go("/")
    html = page.locator("html")
    assert page.url.endswith("/page/now") and html.get_attribute("lang") == "en"
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("link", name="Dark").click()
    expect(html).to_have_attribute("data-theme", "dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != ground
    page.get_by_role("link", name="中文").click()
    expect(html).to_have_attribute("lang", "zh")
    page.get_by_role("link", name="日志").click()
    expect(page).to_have_title("日志 · ClawAI")
    expect(html).to_have_attribute("data-theme", "dark")
    page.get_by_role("link", name="自动").click()
    page.get_by_role("link", name="English").click()
    expect(html).to_have_attribute("data-theme", "auto")
    assert page.url.endswith("/page/logs"), "what was chosen is not in the address"


def test_the_keyboard_reaches_everything_and_one_sees_where_it_is(web: Web) -> None:
    page = web.go("/page/try")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    expect(page.locator(".skip")).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    page.evaluate("document.activeElement.blur()")
    wanted = page.locator("a, button:enabled, select, input, textarea, summary").count()
    seen = page.evaluate_handle("new Set()")
    for _ in range(wanted + 8):
        page.keyboard.press("Tab")
        outline = page.evaluate(
            "(seen) => { const it = document.activeElement; seen.add(it);"
            " return it === document.body || getComputedStyle(it).outlineStyle; }",
            seen,
        )
        assert outline not in ("none", ""), page.evaluate("document.activeElement.outerHTML")
    script = (
        "(seen) => [...document.querySelectorAll("
        "'a, button:enabled, select, input, textarea, summary')]"
        ".filter((it) => !seen.has(it) && it.checkVisibility()).map((it) => it.outerHTML)"
    )
    assert page.evaluate(script, seen) == []


# Now.


def test_now_shows_what_runs_and_pins_and_stops_it(web: Web) -> None:
    doors = web.doors
    page = web.go("/page/now")
    expect(page.locator("#link")).to_have_text("live")
    row = page.locator("#models tr", has_text="tiny")
    expect(row).to_contain_text("stored")
    asked = {"prompt": "a", "max_tokens": 4}
    doors.client.call("llm.generate", asked, model="tiny")
    doors.client.call("echo.say", {"text": "x"})
    expect(row).to_contain_text("ready")
    expect(page.locator("#ledger")).to_contain_text("tiny")
    pin = row.get_by_role("button", name="Pin tiny")
    pin.focus()
    page.keyboard.press("Space")
    wait_until(lambda: workers(doors)["tiny"]["pinned"], "it is pinned")
    expect(pin).to_have_attribute("aria-pressed", "true")
    expect(pin).to_be_focused()
    pin.click()
    wait_until(lambda: not workers(doors)["tiny"]["pinned"], "it is pinned no more")
    row.get_by_role("button", name="Stop tiny").click()
    expect(page.get_by_role("dialog")).to_contain_text("Stop tiny?")
    page.get_by_role("button", name="Keep it").click()
    assert "tiny" in workers(doors)
    row.get_by_role("button", name="Stop tiny").click()
    page.get_by_role("dialog").get_by_role("button", name="Stop").click()
    expect(row).to_contain_text("stored")
    wait_until(lambda: "tiny" not in workers(doors), "it is unloaded")
    tools = page.locator("#plugins tr", has_text="echo")
    tools.get_by_role("button", name="Stop echo").click()
    page.get_by_role("dialog").get_by_role("button", name="Stop").click()
    expect(tools).to_contain_text("not running")
    assert page.locator("#plugins tr", has_text="gateway").get_by_role("button").count() == 0


def test_now_shows_the_queue_the_machine_and_what_plugins_may(web: Web) -> None:
    page = web.go("/page/now")
    mine = page.locator("#plugins tr", has_text="gateway")
    mine.locator("summary").click()
    expect(mine).to_contain_text("read the log of the kernel")
    tasks = [
        web.doors.client.submit("echo.count", {"upto": 10**9, "pause_ms": 20}, priority="batch")
        for _ in range(6)
    ]
    rows = page.locator("#queue tr", has_text="echo.count")
    expect(rows).to_have_count(6)
    expect(rows.first).to_contain_text("running")
    expect(page.locator("#machine tr", has_text="batch").locator("td").first).to_have_text("2")
    expect(mine.locator("details")).to_have_attribute("open", "")
    for task in tasks:
        task.cancel()
    expect(rows).to_have_count(0)
    percent = page.locator("#machine .big").first
    expect(percent).to_have_text(re.compile(r"^\d+%$"))
    expect(page.locator("dd", has_text="cgroup").or_(page.locator(".facts"))).to_be_visible()


# Logs.


def test_rows_that_stay_as_they_are_are_not_sent_again_and_stay(web: Web) -> None:
    web.doors.client.call("echo.say", {"text": "here"})
    page = web.go("/page/now")
    page.evaluate(
        """() => {
          document.rows = [];
          const row = (name) => document.querySelector(`#plugins tr[data-key="${name}"]`);
          document.talker = row("talker");
          const source = new EventSource("/page/now/live");
          source.addEventListener("pieces", (event) => {
            const {plugins} = JSON.parse(event.data);
            if (plugins) document.rows.push(plugins);
          });
        }"""
    )
    rows = page.locator("#plugins tbody tr")
    count, texts = rows.count(), page.locator("#plugins tr[data-key=talker]").inner_text()
    web.doors.client.call("form.talk", {"lines": 0})  # this row changes, talker's does not
    try:
        expect(page.locator("#plugins tr[data-key=form]")).to_contain_text("Stop")
        page.wait_for_function("() => document.rows.length > 1")
        first, *later = page.evaluate("() => document.rows")
        assert "<td" in first.split('data-key="talker"')[1].split("</tr>")[0]
        assert all('<tr data-key="talker" data-same></tr>' in each for each in later)
        row = page.locator("#plugins tr[data-key=talker]")
        assert row.inner_text() == texts and rows.count() == count
        assert page.evaluate("() => document.talker.isConnected")
    finally:
        web.doors.client.admin("unload", "form")


def test_a_page_that_nobody_sees_asks_for_nothing_and_catches_up(web: Web) -> None:
    web.doors.client.call("form.talk", {"lines": 0})
    page = web.go("/page/now")
    row = page.locator("#plugins tr[data-key=form]")
    expect(row).to_contain_text("Stop")
    expect(page.locator("#link")).to_have_attribute("data-is", "live")
    turn = """hidden => {
      Object.defineProperty(document, "hidden", { get: () => hidden, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }"""
    with page.expect_event("requestfailed", lambda each: each.url.endswith("/now/live")):
        page.evaluate(turn, True)
    web.doors.client.admin("unload", "form")
    assert "Stop" in row.inner_text()
    with page.expect_request("**/now/live"):
        page.evaluate(turn, False)
    expect(row).not_to_contain_text("Stop")


def test_logs_come_live_and_are_chosen_by_every_filter(web: Web) -> None:
    page = web.go("/page/logs?source=form")
    lines = page.locator("#lines p")
    client = web.doors.client
    client.call("form.talk", {"lines": 3})
    expect(lines).to_have_count(3)
    expect(lines.last).to_contain_text("line 2 of 3")
    client.call("form.talk", {"lines": 2, "level": "error"})
    expect(lines).to_have_count(5)
    page.get_by_label("At least").select_option("warning")
    expect(lines).to_have_count(2)
    page.get_by_label("At least").select_option("debug")
    expect(lines).to_have_count(5)
    page.get_by_label("Search").fill("LINE 1")
    expect(lines).to_have_count(2)
    number = lines.first.locator("em").inner_text().removeprefix("task ")
    page.get_by_label("Task").fill(number)
    expect(lines).to_have_count(1)
    page.get_by_label("Task").fill("x")
    expect(page.locator("#wanted input:invalid")).to_have_count(1)
    page.get_by_label("Task").fill("")
    page.get_by_label("Search").fill("no such line anywhere")
    expect(lines).to_have_count(0)
    expect(page.locator("#no-lines")).to_be_visible()
    page.get_by_label("Search").fill("")
    expect(lines).to_have_count(5)
    pause = page.get_by_role("button", name="Pause")
    pause.click()
    client.call("form.talk", {"lines": 1})
    client.call("form.fill", {"kind": "one", "data": b"12345"})
    page.reload()
    expect(lines).to_have_count(7)
    expect(lines.last).to_contain_text("filled one <i>5</i>")
    pause.click()
    client.call("form.talk", {"lines": 1})
    assert lines.count() == 7
    pause.click()
    expect(lines).to_have_count(8)
    # Of four workers, as no one may say so much in a second; one has said some lines just now.
    for name in ("form.talk", "talker.talk"):
        for priority in ("batch", "normal"):
            client.call(name, {"lines": 90, "pad": 580}, priority=priority)
    older = page.get_by_role("button", name="Older")
    expect(older).to_be_hidden()
    page.get_by_label("From").select_option("")
    page.get_by_label("Search").fill("of 90")
    expect(older).to_be_visible()
    expect(lines.last).to_be_in_viewport()
    assert 275 <= lines.count() < 360
    older.click()
    expect(lines).to_have_count(360)
    expect(lines.first).to_contain_text("line 0 of")
    expect(older).to_be_hidden()
    page.get_by_label("Search").fill("")
    page.get_by_label("From").select_option("kernel")
    expect(lines.first).to_contain_text("kernel")
    expect(page.locator("#lines", has_text="line 1 of")).to_have_count(0)


# Try.


def png(width: int, height: int) -> bytes:
    """A picture of one colour, which a browser reads without loss."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        whole = kind + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    rows = (b"\0" + bytes((200, 100, 50)) * width) * height
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def sound(samples: int) -> bytes:
    file = BytesIO()
    with wave.open(file, "wb") as made:
        made.setnchannels(1)
        made.setsampwidth(2)
        made.setframerate(16000)
        made.writeframes(struct.pack("<h", 16384) * samples)
    return file.getvalue()


def drop(page: Page, name: str, media: str, data: bytes) -> None:
    """Drop a file on the first place that takes one."""
    script = """([name, type, bytes]) => {
        const held = new DataTransfer();
        held.items.add(new File([new Uint8Array(bytes)], name, { type }));
        const place = document.querySelector(".takes");
        for (const kind of ["dragover", "drop"]) {
          place.dispatchEvent(new DragEvent(kind, { dataTransfer: held, cancelable: true }));
        }
    }"""
    page.evaluate(script, [name, media, list(data)])


def test_an_operation_is_asked_by_a_form_that_its_worker_describes(web: Web) -> None:
    page = web.go("/page/try")
    page.get_by_role("link", name="form.fill").click()
    expect(page.locator("form")).to_contain_text("<b>which</b>")
    page.get_by_role("button", name="Run").click()
    expect(page.locator("#said")).to_contain_text("data")
    expect(page.locator("#f-data")).to_be_focused()
    page.locator("#f-kind").select_option("two")
    page.locator("#f-data").set_input_files(
        {"name": "a.bin", "mimeType": "application/octet-stream", "buffer": b"\0\1\2\3\4"}
    )
    expect(page.locator("output")).to_contain_text("a.bin")
    page.locator("#f-sure").check()
    page.locator("#f-more").fill("{not JSON")
    page.get_by_role("button", name="Run").click()
    expect(page.locator("#f-more")).to_have_attribute("aria-invalid", "true")
    page.locator("#f-more").fill('{"deep": [1, null]}')
    page.locator("#priority").select_option("batch")
    page.get_by_role("button", name="Run").click()
    expect(page.locator("#state")).to_contain_text("done in")
    said = json.loads(page.locator("#answer").inner_text())
    more = {"deep": [1, None]}
    assert said == {"kind": "two", "first": "00010203", "size": 5, "sure": True, "more": more}


def test_pictures_and_sounds_are_dropped_on_what_takes_an_array(web: Web) -> None:
    page = web.go("/page/try?op=echo.tensor")
    drop(page, "a.png", "image/png", png(6, 4))
    expect(page.locator("output")).to_have_text("a.png → |u1 [4, 6, 3]")
    page.get_by_role("button", name="Run").click()
    expect(page.locator("#seen canvas")).to_have_attribute("aria-label", "6 × 4")
    pixel = "(canvas) => [...canvas.getContext('2d').getImageData(5, 3, 1, 1).data]"
    assert page.locator("#seen canvas").evaluate(pixel) == [200, 100, 50, 255]
    drop(page, "a.wav", "audio/wav", sound(1600))
    expect(page.locator("output")).to_have_text("a.wav → <f4 [1600]")
    page.get_by_role("button", name="Run").click()
    expect(page.locator("#answer")).to_have_text('{"dtype":"<f4","shape":[1600],"frame":0}')
    drop(page, "broken.png", "image/png", b"none")
    expect(page.locator("#said")).to_contain_text("broken.png")
    expect(page.locator("output")).to_contain_text("drop a file")


def test_a_stream_is_shown_and_cancelled_and_an_error_is_told(web: Web) -> None:
    page = web.go("/page/try?op=echo.count")
    page.locator("#f-upto").fill("1000000000")
    page.locator("#f-pause_ms").fill("5")
    page.get_by_role("button", name="Run").click()
    expect(page.locator("#answer")).to_contain_text("3")
    assert "echo.count" in web.doors.running()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#state")).to_have_text("stopped")
    wait_until(lambda: "echo.count" not in web.doors.running(), "its task is cancelled")
    page = web.go("/page/try?op=llm.generate")
    page.locator("#model").select_option("tiny")
    page.locator("#f-max_tokens").fill("3")
    page.get_by_role("button", name="Run").click()
    expect(page.locator("#answer")).to_contain_text("bad_params")


def test_a_chat_streams_is_stopped_and_begins_anew(web: Web) -> None:
    page = web.go("/page/try")
    page.get_by_label("Model").select_option("tiny")
    page.get_by_label("Tokens at most").fill("8")
    page.get_by_label("Temperature").fill("0.5")
    page.get_by_label("Class").select_option("normal")
    page.get_by_label("Message").fill("aaa")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("b")
    page.keyboard.press("Enter")
    expect(page.locator("#state")).to_contain_text("tokens/s")
    assert page.locator(".said.you div").inner_text() == "aaa\nb"
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator(".said")).to_have_count(0)
    page.get_by_label("Model").select_option("long")
    page.get_by_label("Tokens at most").fill("9000")
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Message").fill("aaa")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".said.model div")).not_to_be_empty()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#state")).to_have_text("stopped")
    wait_until(lambda: "llm.generate" not in web.doors.running(), "its task is cancelled")


def shown(page: Page, name: str) -> str:
    """The code of the page, as it is copied."""
    page.get_by_role("button", name=f"Copy {name}").click()
    expect(page.get_by_role("button", name=f"Copy {name}")).to_have_text("Copied")
    copied: str = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.locator(f"#code-{name.split(',')[0].lower()}").text_content()
    return copied


def ran(command: list[str], code: str, env: dict[str, str]) -> str:
    done = subprocess.run(
        command, input=code, env=env, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("op", ["form.fill", "echo.tensor", "chat"])
def test_the_request_as_code_does_the_same_when_it_is_run(web: Web, op: str) -> None:
    web.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = web.go("/page/try" + (f"?op={op}" if op != "chat" else ""))
    page.locator("#code summary").click()
    if op == "chat":
        page.get_by_label("Model").select_option("tiny")
        page.get_by_label("Tokens at most").fill("5")
        page.get_by_label("Message").fill('it\'s "quoted" $HOME `x` \\ é')
        expected = '"finish_reason"'
    elif op == "form.fill":
        page.locator("#f-more").fill('{"it\'s": "$HOME é"}')
        drop(page, "a.bin", "", b"\xff\0\1\2\3")
        expected = "ff000102"
    else:
        drop(page, "a.bin", "", b"\xff\0\1\2\3")
        expected = "|u1"
    page.locator("#priority").select_option("normal")
    expect(page.locator("#code-curl")).to_contain_text("normal")
    kernel = web.doors.kernel
    assert expected in ran(["sh"], shown(page, "curl"), kernel.env)
    assert ran([sys.executable, "-"], shown(page, "Python"), kernel.env).strip()
    frames = [bytes.fromhex(line) for line in shown(page, "msgpack, a frame a line").split()]
    assert wire.decode(frames, wire.FromClient).priority == "normal"
    with kernel.raw().hello() as peer:
        peer.send_raw(frames)
        while not isinstance(said := peer.message(), wire.Done | wire.Error):
            pass
        assert isinstance(said, wire.Done), said


# What the page may not do.


def test_only_our_own_page_changes_anything(filled: Doors) -> None:
    own = {"content-type": "application/json"}
    for path, body in (
        ("/page/now/pin", {"name": "echo", "pinned": True}),
        ("/page/now/stop", {"name": "echo"}),
        ("/page/try/run", {"op": "echo.say", "params": {"text": "x"}}),
        ("/page/try/code", {"op": "echo.say", "params": {"text": "x"}}),
    ):
        for status, headers in (
            (403, own | {"Origin": "https://evil.example"}),
            (403, own | {"Origin": "null"}),
            (403, own | {"Sec-Fetch-Site": "same-site"}),
            (403, own | {"Sec-Fetch-Site": "cross-site"}),
            (403, own | {"Host": "evil.example"}),
            (415, {"content-type": "text/plain"}),
            (415, {"content-type": "application/x-www-form-urlencoded"}),
            (415, {}),
        ):
            assert filled.ask("POST", path, body, headers)[0] == status, (path, headers)
        assert filled.ask("GET", path)[0] == 405
        for broken in (b"", b"{", b"[]", b'{"more": 1}', b"[" * 10_000, b"\xff"):
            assert filled.ask("POST", path, broken, own)[0] == 400, broken
        assert filled.ask("POST", path, body, own)[0] == 200
    said = filled.ask("POST", "/page/try/run", {"op": "gateway.serve"}, own)
    assert said[0] == 400 and "this server itself" in said[2]["error"]["message"]
    assert filled.ask("POST", "/page/try/run", {"op": "no.such"}, own)[0] == 404


def test_documents_say_what_a_browser_may_do_with_them(filled: Doors) -> None:
    read = {"Accept": "text/html", "Accept-Encoding": "gzip"}
    status, found, said = filled.ask("GET", "/page/now", headers=read)
    assert status == 200 and found["content-encoding"] == "gzip"
    policy = found["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy and found["x-content-type-options"] == "nosniff"
    page = zlib.decompress(said, wbits=31).decode()
    assert not re.search(r"<script(?![^>]*\ssrc=)|\son\w+=|\sstyle=|https?://", page)
    (style,) = re.findall(r'href="(/page/static/\w+/page\.css)"', page)
    status, found, _ = filled.ask("GET", style)
    assert status == 200 and "immutable" in found["cache-control"]
    for path in (style.replace("page.css", "..%2f..%2fapp.py"), "/page/static/0/page.css"):
        assert filled.ask("GET", path)[0] == 404
    for path in ("/page/logs?level=x", "/page/logs?task=x", "/page/logs/live?at=-1"):
        assert filled.ask("GET", path)[0] == 400
    assert filled.ask("GET", "/")[2] == b"Ollama is running"
    status, found, _ = filled.ask("GET", "/", headers=read)
    assert (status, found["location"]) == (303, "/page")


def test_an_open_page_does_not_keep_the_gateway(web: Web) -> None:
    """The last one: it ends the gateway."""
    page = web.go("/page/now")
    expect(page.locator("#link")).to_have_text("live")
    web.doors.task.cancel()
    expect(page.locator("#link")).to_have_text("no connection")
    web.tab.wrong[:] = [each for each in web.tab.wrong if "ERR_CONNECTION" not in each]
