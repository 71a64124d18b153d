"""What goes between a client and the gateway in how many pieces, and between it and the kernel."""

import asyncio
import gc
import json
import socket
import weakref
from functools import partial
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from clawai.plugins.gateway.app import Gateway
from clawai.plugins.gateway.connection import Connection
from clawai.plugins.gateway.either import Either, _Named
from clawai.plugins.gateway.exchange import EXCHANGE, Exchange, Protocol
from clawai.plugins.gateway.keys import Keys
from clawai.plugins.gateway.regions import Regions
from clawai.sdk.errors import ClawError
from doors_kit import Doors

ASKED: dict[str, Any] = {"prompt": "the hello", "max_tokens": 9, "temperature": 0.0}


class Taken:
    """A transport that keeps what it is given, write by write."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.writes.append(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


def test_what_is_written_in_one_go_leaves_in_one_piece() -> None:
    async def main() -> None:
        taken = Taken()
        with socket.socket() as sock:
            named = _Named(taken, ("127.0.0.1", 1), Connection(sock))
        named.write(b"head")
        named.write(b"body")
        assert not taken.writes
        await asyncio.sleep(0)
        assert taken.writes == [b"headbody"], "when its writer waits"
        named.write(b"now")
        named.flush()
        named.write(b"last")
        named.close()
        await asyncio.sleep(0)
        assert (taken.writes[1:], taken.closed) == ([b"now", b"last"], True)
        named.write(b"too late")
        await asyncio.sleep(0)
        assert taken.writes[-1] == b"last"

    asyncio.run(main())


def test_nothing_of_a_request_stays_behind_its_answer() -> None:
    """The gateway looks for circles seldom, so that none may be left."""
    seen: list[weakref.ref[Exchange]] = []

    async def main() -> None:
        kernel: Any = None  # what is at no path asks it nothing
        none: Any = lambda *_: None  # noqa: E731
        gateway = Gateway(kernel, none, Keys([], False), Regions(none), none)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            seen.append(weakref.ref(scope[EXCHANGE]))
            await gateway(scope, receive, send)

        loop = asyncio.get_running_loop()
        config = uvicorn.Config(app, http=Protocol, ws="none", lifespan="off", log_config=None)
        config.load()
        http = partial(Protocol, config, ServerState(), {}, loop)
        ours, theirs = socket.socketpair()
        at = Connection(ours)
        await loop.connect_accepted_socket(
            lambda: Either(set(), http, http, ("127.0.0.1", 1), at), ours
        )
        reader, writer = await asyncio.open_connection(sock=theirs)
        for _ in range(3):
            writer.write(b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 404 " in head
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
            await reader.readexactly(length)
        writer.close()
        await asyncio.sleep(0.05)

    gc.collect()
    gc.disable()
    try:
        asyncio.run(main())
        assert len(seen) == 3 and [each() for each in seen[:2]] == [None, None]
    finally:
        gc.enable()


def test_bodies_in_pieces_and_requests_in_one(doors: Doors) -> None:
    """A body that comes behind its head, then two requests at once: each has its own answer."""
    body = json.dumps({"model": "tiny"} | ASKED).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{doors.port}\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", doors.port), 30) as sock:
        stream = sock.makefile("rb")
        texts = []
        for part in (head.encode(), body[:10], body[10:], 2 * (head.encode() + body)):
            sock.sendall(part)
        for _ in range(3):
            assert stream.readline().startswith(b"HTTP/1.1 200")
            size = 0
            while line := stream.readline().strip():
                name, _, value = line.lower().partition(b":")
                size = int(value) if name == b"content-length" else size
            texts.append(json.loads(stream.read(size))["choices"][0]["text"])
    assert texts[0] and len(set(texts)) == 1


def test_an_answer_that_is_wanted_whole_has_no_pieces(doors: Doors) -> None:
    def said(**more: Any) -> tuple[list[str], str]:
        task = doors.client.submit("llm.generate", ASKED | more, model="tiny")
        pieces = [event.data["text"] for event in task if event.kind == "chunk"]
        return pieces, task.result().value["text"]

    pieces, text = said()
    assert pieces and "".join(pieces) == text
    assert said(whole=True) == ([], text)
    with pytest.raises(ClawError, match="logprobs come with the pieces") as caught:
        said(whole=True, logprobs=1)
    assert caught.value.code == "bad_params"
    body = {"model": "tiny"} | ASKED
    status, _, answer = doors.ask("POST", "/v1/completions", body)
    assert (status, answer["choices"][0]["text"]) == (200, text)
