"""A gateway that serves, for tests."""

import http.client
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker_parts import free_port
from clawai.sdk.client import Client, Task
from support import Kernel, no_leak

OTHER_UID = 54_321
"""A user who owns nothing."""
ASKS = """
import encodings.idna, encodings.latin_1, email.parser, http.client, json, os, sys
uid, port, method, path, body, headers = json.loads(sys.argv[1])
os.setgroups([])
os.setgid(uid)
os.setuid(uid)
connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
connection.request(method, path, body, headers)
response = connection.getresponse()
said = response.read().decode()
if response.getheader("content-type", "").startswith("application/json"):
    said = json.loads(said)
print(json.dumps([response.status, said]))
"""
"""All that it needs is imported before it is another user, who may not be able to read it."""


@dataclass
class Doors:
    """A gateway that serves."""

    kernel: Kernel
    client: Client
    task: Task
    port: int

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers and what the JSON says, if it is JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method, path, data, headers or {})
        response = connection.getresponse()
        said: Any = response.read()
        connection.close()
        found = {name.lower(): value for name, value in response.getheaders()}
        if found.get("content-type", "").startswith("application/json"):
            said = json.loads(said)
        return response.status, found, said

    def ask_as(
        self, uid: int, method: str, path: str, body: Any = None, headers: Any = None
    ) -> tuple[int, Any]:
        """Status and JSON, as a program of another user is answered; only root can."""
        asked = [uid, self.port, method, path, json.dumps(body), headers or {}]
        command = [sys.executable, "-I", "-S", "-c", ASKS, json.dumps(asked)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        status, said = json.loads(done.stdout)
        return status, said

    def running(self) -> list[str]:
        """Operations of the tasks that have not ended."""
        return [row["op"] for row in self.client.query("tasks")["tasks"]]


def served(kernel: Kernel, port: int) -> Doors:
    """Have the gateway of a kernel serve."""
    client = kernel.client()
    task = client.submit("gateway.serve")
    for event in task:
        if event.note.startswith("http://"):
            assert event.note == f"http://127.0.0.1:{port}"
            return Doors(kernel, client, task, port)
    task.result()
    raise AssertionError("it never served")


@contextmanager
def gateway(store: Callable[[Kernel], None], config: str = "") -> Iterator[Doors]:
    """A gateway of a kernel of its own, which leaves nothing behind.

    Args:
        store: puts the models into the kernel's store.
        config: more of its configuration.
    """
    port = free_port()
    kernel = Kernel(f'[plugins]\nports = ["gateway:8080={port}"]\n{config}')
    store(kernel)
    try:
        with no_leak():
            yield served(kernel.start(), port)
            assert kernel.stop() == 0, kernel.stderr()
            kernel.check_gone()
    finally:
        kernel.remove()


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
