"""Whom the gateway does not answer, and what it does with what makes no sense."""

import asyncio
import socket
from typing import Any

import pytest
from starlette.requests import Request

from clawai.plugins.gateway import app
from clawai.plugins.gateway.fields import BadRequest
from doors_kit import Doors

CHAT = "/v1/chat/completions"


def test_a_name_that_is_not_this_box_is_refused(doors: Doors) -> None:
    """A page of somebody else's may have its own name resolve to 127.0.0.1."""
    for host in ("evil.example", f"evil.example:{doors.port}", "localhost.evil.example", "[", ""):
        status, _, said = doors.ask("GET", "/v1/models", headers={"Host": host})
        assert (status, said["error"]["type"]) == (403, "permission_error"), host
    for host in ("localhost", f"LOCALHOST:{doors.port}", "[::1]:1"):
        assert doors.ask("GET", "/v1/models", headers={"Host": host})[0] == 200


def test_other_peoples_pages_are_refused(doors: Doors) -> None:
    for origin in ("https://evil.example", "null", "http://localhost:1"):
        status, found, said = doors.ask("POST", "/api/chat", {}, {"Origin": origin})
        assert status == 403 and "may not ask this server" in said["error"]
        assert "access-control-allow-origin" not in found
    assert doors.ask("OPTIONS", CHAT, headers={"Origin": "https://evil.example"})[0] == 403
    own = {"Origin": doors.address, "Host": f"127.0.0.1:{doors.port}"}
    assert doors.ask("GET", "/v1/models", headers=own)[0] == 200


@pytest.mark.parametrize(
    "path", ["/nothing", "/v1/../etc/passwd", "/v1/models/../../x", "/%2e%2e/%2f", "//v1/models"]
)
def test_what_is_not_there_is_not_found(doors: Doors, path: str) -> None:
    assert doors.ask("GET", path)[0] == 404


def test_another_method_names_those_that_are(doors: Doors) -> None:
    status, _, said = doors.ask("DELETE", "/v1/models")
    assert status == 405 and "GET" in said["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"model": "tiny", "messages": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"model": 1}',
        b'{"model": "tiny"}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": null}]}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}',
    ],
)
def test_bodies_that_make_no_sense_are_refused(doors: Doors, body: bytes) -> None:
    for path in (CHAT, "/api/chat"):
        status, _, said = doors.ask("POST", path, body)
        assert status == 400 and said["error"], said


def test_names_of_fields_may_hold_anything(doors: Doors) -> None:
    body = {"model": "tiny", "prompt": "the", "max_tokens": 1}
    for name in ("", "\r\nx-evil: 1", "\0", " ", "\x0e\u00e9\u4f60", "a" * 5000):
        status, headers, _ = doors.ask("POST", "/v1/completions", body | {name: 1})
        assert status == 200 and "x-evil" not in headers, repr(name)
        assert "is ignored" in headers["x-claw-warning"]


def test_a_body_that_is_too_large_is_refused(doors: Doors) -> None:
    status, _, said = doors.ask("POST", CHAT, b"x" * (app.BODY + 1))
    assert status == 413 and "8 MiB" in said["error"]["message"]


def test_a_body_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "PATIENCE", 0.05)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    request = Request({"type": "http", "headers": []}, receive)
    with pytest.raises(BadRequest) as error:
        asyncio.run(app._body(request))
    assert error.value.status == 408


def test_what_is_no_http_hurts_nobody(doors: Doors) -> None:
    for data in (b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\0" * 65536):
        with socket.create_connection(("127.0.0.1", doors.port), timeout=30) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass
    assert doors.ask("GET", "/health")[::2] == (200, b"ok\n")
