"""examples/plugin_fetch and plugin_listen: one each way, with ports that are free here."""

import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from broker_parts import free_port, server
from clawai.sdk.errors import ClawError
from support import Kernel, wait_until

EXAMPLES = Path(__file__).parents[2] / "examples"
PAGE = b"<html><title> A page </title></html>"


def serve(sock: socket.socket) -> None:
    while sock.recv(65536):
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(PAGE), PAGE))


def install(kernel: Kernel, name: str, port: str, other: int) -> None:
    """Copy an example, with another port in place of its own."""
    draft = kernel.base / name
    shutil.copytree(EXAMPLES / name, draft, ignore=shutil.ignore_patterns("__pycache__"))
    for file in draft.iterdir():
        text = file.read_text()
        assert port in text
        file.write_text(text.replace(port, str(other)))
    draft.rename(kernel.plugins_dir / name)
    kernel.grant(kernel.plugins_dir / name)


def test_fetch_reads_the_granted_host_and_no_other(kernel: Kernel) -> None:
    with server(serve) as port, kernel.client() as client:
        install(kernel, "plugin_fetch", "8099", port)
        assert client.call("fetch.title").value == "A page"
        with pytest.raises(ClawError) as caught:
            client.call("fetch.title", {"url": "https://example.org/"})
        assert caught.value.code == "not_permitted"
        client.admin("unload", "fetch")  # it keeps its connection open for a while


def test_listen_streams_the_lines_that_come(kernel: Kernel) -> None:
    port = free_port()
    install(kernel, "plugin_listen", "8098", port)

    def connected() -> Any:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            return None

    with kernel.client() as client:
        task = client.submit("listen.lines", {"count": 3})
        with wait_until(connected, "it listens") as sock:
            sock.sendall(b"one\ntwo\n")
        with connected() as sock:
            sock.sendall("drei \u00e4\n".encode())
        assert [event.data for event in task if event.kind == "chunk"] == ["one", "two", "drei ä"]
        waiting = client.submit("listen.lines")
        waiting.cancel()
        with pytest.raises(ClawError, match="cancelled"):
            waiting.result()


def test_the_document_shows_the_examples_as_they_are() -> None:
    text = (EXAMPLES.parent / "docs" / "network.md").read_text()
    for name in ("plugin_fetch", "plugin_listen"):
        assert f"```toml\n{(EXAMPLES / name / 'plugin.toml').read_text()}```" in text
        assert f"```python\n{(EXAMPLES / name / f'{name}.py').read_text()}```" in text
