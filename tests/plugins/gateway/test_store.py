"""Ollama's pull and delete, with its own client and a real kernel, from a server of this box."""

import hashlib
import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ollama
import pytest

from broker_parts import free_port
from clawai.sdk.httpkeys import hashed
from doors_kit import Doors, gateway, written
from gguf_files import tiny_llama
from support import Kernel, no_leak, wait_until
from web_files import WebFile, serve

DATA = tiny_llama(context=512) + bytes(3_000_000)
SHA = hashlib.sha256(DATA).hexdigest()
PULLING = f"pulling {SHA[:12]}"


@pytest.fixture(scope="module")
def web() -> Iterator[WebFile]:
    with serve(DATA) as served:
        yield served


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory, web: WebFile) -> Iterator[Doors]:
    """A gateway whose kernel's catalogue has ``far``, and ``false`` with the wrong digest."""
    folder = tmp_path_factory.mktemp("models")

    def store(kernel: Kernel) -> None:
        kernel.model("tiny", written(folder / "tiny.gguf", tiny_llama(context=512)))
        large = tiny_llama(layers=4, width=256, hidden=1024, context=4096)
        kernel.model("long", written(folder / "long.gguf", large))
        kernel.offer("far", web.url, SHA, len(DATA))
        kernel.offer("false", web.url, "0" * 64, len(DATA))
        kernel.offer("vast", web.url, SHA, 1 << 47)

    with gateway(store) as served:
        yield served


@pytest.fixture
def peer(doors: Doors, web: WebFile) -> Iterator[ollama.Client]:
    web.asked.clear()
    with ollama.Client(host=doors.address) as client:
        yield client


def names(peer: ollama.Client) -> set[str]:
    return {str(row.model) for row in peer.list().models}


def test_a_pull_streams_what_ollama_streams(peer: ollama.Client, web: WebFile) -> None:
    told = list(peer.pull("far", stream=True))
    assert told[0].status == "pulling manifest"
    pieces = [each for each in told if each.status == PULLING]
    assert [each.status for each in told[1:]] == [
        *[PULLING] * len(pieces),
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ]
    assert {(each.digest, each.total) for each in pieces} == {(f"sha256:{SHA}", len(DATA))}
    amounts = [each.completed or 0 for each in pieces]
    assert amounts == sorted(amounts) and amounts[-1] == len(DATA)
    assert "far:latest" in names(peer) and len(web.asked) == 1
    answer = peer.generate("far", "hello", options={"num_predict": 2})
    assert answer.done and answer.eval_count
    again = [each.status for each in peer.pull("far:latest", stream=True)]
    assert again == ["pulling manifest", PULLING, "success"], "it is stored"
    assert len(web.asked) == 1
    assert peer.delete("far").status == "success", "though it is loaded"
    assert "far:latest" not in names(peer)
    assert "far:latest" not in {row.model for row in peer.ps().models}


def test_a_pull_is_answered_whole(peer: ollama.Client) -> None:
    assert peer.pull("far").status == "success"
    assert peer.delete("far:latest").status == "success"


def test_progress_is_seen_while_it_comes(peer: ollama.Client, web: WebFile) -> None:
    go_on = threading.Event()
    web.during = lambda: go_on.wait(60)
    try:
        lines = peer.pull("far", stream=True)
        half = next(each.completed for each in lines if each.completed)
        assert half and half < len(DATA)
        go_on.set()
        assert [each.status for each in lines][-1] == "success"
    finally:
        go_on.set()
        web.during = None
    peer.delete("far")


@pytest.mark.parametrize("stream", [True, False])
def test_who_hangs_up_stops_it_and_it_goes_on_later(
    doors: Doors, peer: ollama.Client, web: WebFile, stream: bool
) -> None:
    go_on = threading.Event()
    web.during = lambda: go_on.wait(60)
    part = doors.kernel.models_dir / ".staging" / "far" / "000.part"
    try:
        connection = http.client.HTTPConnection("127.0.0.1", doors.port, timeout=60)
        body = json.dumps({"model": "far", "stream": stream})
        connection.request("POST", "/api/pull", body)
        wait_until(part.exists, "half of it is here")
        connection.close()
        wait_until(lambda: "was not fetched" in doors.kernel.log(), "it is stopped")
    finally:
        go_on.set()
        web.during = None
        doors.kernel.mark()
    half = part.stat().st_size
    assert "far:latest" not in names(peer)
    assert peer.pull("far").status == "success"
    assert web.asked[-1]["Range"] == f"bytes={half}-"
    peer.delete("far")


def test_the_wrong_file_is_refused(peer: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="sha256 differs") as refused:
        peer.pull("false")
    assert refused.value.status_code == 502
    with pytest.raises(ollama.ResponseError, match="sha256 differs"):
        list(peer.pull("false", stream=True))
    assert "false:latest" not in names(peer)


def test_a_full_disk_is_told_before_anything_comes(peer: ollama.Client, web: WebFile) -> None:
    with pytest.raises(ollama.ResponseError, match="no room for vast") as refused:
        peer.pull("vast")
    assert refused.value.status_code == 507 and web.asked == []


@pytest.mark.parametrize("name", ["llama3:8b", "hf.co/a/b", "/etc/passwd", "https://a.org/b", SHA])
def test_only_the_catalogue_is_fetched(peer: ollama.Client, name: str) -> None:
    for stream in (True, False):
        with pytest.raises(ollama.ResponseError) as refused:
            list(peer.pull(name, stream=stream))
        assert refused.value.status_code == 404
        for part in (name[:80], "'far'", "'smollm2'", "by hand: claw pull"):
            assert part in refused.value.error


def test_nothing_is_unsafe(doors: Doors) -> None:
    asked = {"model": "far", "insecure": True}
    status, _, said = doors.ask("POST", "/api/pull", asked)
    assert status == 400 and "insecure is not supported" in said["error"]
    assert doors.ask("POST", "/api/pull", {})[0] == 400
    assert doors.ask("DELETE", "/api/delete", {})[0] == 400


def test_delete_spares_what_is_needed(doors: Doors, peer: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError) as refused:
        peer.delete("nobody")
    assert refused.value.status_code == 404
    assert "no model 'nobody' is stored here; allowed: ['long', 'tiny']" in refused.value.error
    with pytest.raises(ollama.ResponseError) as refused:
        peer.delete("../tiny")
    assert refused.value.status_code == 400
    task = doors.client.submit("llm.generate", {"prompt": "a", "max_tokens": 4000}, model="long")
    wait_until(lambda: peer.ps().models, "it is loaded")
    with pytest.raises(ollama.ResponseError, match="in use") as refused:
        peer.delete("long")
    assert refused.value.status_code == 409
    doors.client.admin("pin", "long")
    task.cancel()
    wait_until(lambda: "llm.generate" not in doors.running(), "nobody uses it")
    with pytest.raises(ollama.ResponseError, match=r"pinned.*claw unpin long") as refused:
        peer.delete("long")
    assert refused.value.status_code == 409 and "long:latest" in names(peer)
    doors.client.admin("unpin", "long")
    assert peer.delete("long").status == "success"
    assert names(peer) == {"tiny:latest"}


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "evil.example"},
    ],
)
def test_no_page_of_somebody_else_changes_the_store(
    doors: Doors, peer: ollama.Client, web: WebFile, headers: dict[str, str]
) -> None:
    for method, path, model in (("DELETE", "/api/delete", "tiny"), ("POST", "/api/pull", "far")):
        assert doors.ask(method, path, {"model": model}, headers)[0] == 403
    assert doors.ask("OPTIONS", "/api/delete", None, headers)[0] in (403, 405)
    assert doors.ask("GET", "/api/delete?model=tiny")[0] == 405
    assert "tiny:latest" in names(peer) and web.asked == []


def test_the_page_has_no_such_button(doors: Doors) -> None:
    for path in ("/page/now/pull", "/page/now/remove", "/page/now/delete"):
        assert (
            doors.ask("POST", path, {"name": "tiny"}, {"content-type": "application/json"})[0]
            == 404
        )


KEYS = {
    "plain": {},
    "all": {"operations": ["*"]},
    "fetch": {"operations": ["llm.*", "pull"], "models": ["far", "tiny"]},
    "narrow": {"operations": ["pull", "remove"], "models": ["other"]},
    "both": {"operations": ["pull", "remove"]},
}


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory, web: WebFile) -> Iterator[Doors]:
    """The same where keys are needed."""
    port, folder = free_port(), tmp_path_factory.mktemp("keyed")
    kernel = Kernel(f'[plugins]\nports = ["gateway:8080={port}"]\n')
    kernel.model("tiny", written(folder / "tiny.gguf", tiny_llama(context=512)))
    kernel.offer("far", web.url, SHA, len(DATA))
    keys = [{"name": name, "hash": hashed(f"claw-{name}"), **may} for name, may in KEYS.items()]
    try:
        with no_leak():
            client = kernel.start().client()
            task = client.submit("gateway.serve", {"keys": keys, "required": True})
            assert any(event.note.startswith("http://") for event in task)
            yield Doors(kernel, client, task, port)
            assert kernel.stop() == 0, kernel.stderr()
            kernel.check_gone()
    finally:
        kernel.remove()


def asks(doors: Doors, name: str, method: str, path: str, model: str) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer claw-{name}"}
    status, _, said = doors.ask(method, path, {"model": model, "stream": False}, headers)
    return status, said


def test_a_key_has_to_name_what_it_changes(keyed: Doors, web: WebFile) -> None:
    pull, delete = ("POST", "/api/pull", "far"), ("DELETE", "/api/delete", "tiny")
    web.asked.clear()
    assert keyed.ask(pull[0], pull[1], {"model": "far"})[0] == 401
    for name in ("plain", "all"):
        for change in (pull, delete):
            status, said = asks(keyed, name, *change)
            assert status == 403 and f"the key {name} may not" in said["error"], name
            assert "--operations" in said["error"]
    for change in (pull, delete):
        status, said = asks(keyed, "narrow", *change)
        assert status == 403 and "models: other" in said["error"]
    assert asks(keyed, "fetch", *delete)[0] == 403
    assert web.asked == []
    assert asks(keyed, "fetch", *pull) == (200, {"status": "success"})
    assert asks(keyed, "both", *delete) == (200, {"status": "success"})
    rows = keyed.client.query("models")["models"]
    assert [row["name"] for row in rows] == ["far"]


@pytest.mark.parametrize("setting", ["pull", "keep"])
def test_the_owner_says_what_programs_may(tmp_path: Path, web: WebFile, setting: str) -> None:
    def store(kernel: Kernel) -> None:
        kernel.model("tiny", written(tmp_path / "tiny.gguf", tiny_llama(context=512)))
        kernel.offer("far", web.url, SHA, len(DATA))
        folder = kernel.config.parent / "plugins"
        folder.mkdir()
        (folder / "gateway.toml").write_text(f'models = "{setting}"\n')

    with gateway(store) as doors, ollama.Client(host=doors.address) as peer:
        with pytest.raises(ollama.ResponseError, match="lets no program remove") as refused:
            peer.delete("tiny")
        assert refused.value.status_code == 403
        if setting == "pull":
            assert peer.pull("far").status == "success"
            return
        with pytest.raises(ollama.ResponseError, match="claw plugin config gateway"):
            peer.pull("far")
