"""What changes the box: without a key only its owner does it, whatever door it comes by."""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import onnx_files
from broker_parts import free_port
from clawai.kernel.broker import limits
from clawai.plugins.gateway.connection import Connection
from clawai.plugins.gateway.keys import ASKER, Asker, Keys, principal, require_owner
from clawai.plugins.gateway.regions import Regions
from clawai.sdk.errors import ClawError
from clawai.sdk.httpkeys import Key, hashed
from clawai.sdk.net import Caller
from doors_kit import OTHER_UID, Doors, written
from gguf_files import tiny_llama
from support import Kernel, no_leak, wait_until

PEER = ("127.0.0.1", 5000)
JSON = {"content-type": "application/json"}
CHANGES = [
    ("POST", "/api/pull", {"model": "far", "stream": False}, "pull"),
    ("DELETE", "/api/delete", {"model": "tiny"}, "remove"),
    ("POST", "/v2/repository/models/half/unload", {}, "tensor.*"),
    ("POST", "/page/now/pin", {"name": "tiny", "pinned": True}, "page"),
    ("POST", "/page/now/stop", {"name": "tiny"}, "page"),
    ("POST", "/page/try/run", {"op": "echo.say", "params": {"text": "hello"}}, "page"),
    ("POST", "/page/graph/profile", {"model": "tiny", "live": False}, "page"),
]
KEYS = {
    "desk": ["page", "llm.*", "echo.*", "tensor.*", "model.*"],
    "store": ["pull", "remove"],
    "plain": ["llm.*"],
    "lends": ["tensor.*", "model.*", "shared_memory"],
}
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root asks as another user")


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """Nobody needs a key here; there are some."""
    port, folder = free_port(), tmp_path_factory.mktemp("models")
    kernel = Kernel(f'[plugins]\nports = ["gateway:8080={port}"]\n')
    kernel.model("tiny", written(folder / "tiny.gguf", tiny_llama(context=512)))
    kernel.model("half", written(folder / "half.onnx", onnx_files.half_plus(2.0)), "tensor")
    kernel.offer("far", "http://127.0.0.1:1/far", "0" * 64, 1000)
    keys = [
        {"name": name, "hash": hashed(f"claw-{name}"), "operations": scopes}
        for name, scopes in KEYS.items()
    ]
    try:
        with no_leak():
            client = kernel.start().client()
            task = client.submit("gateway.serve", {"keys": keys})
            assert any(event.note.startswith("http://") for event in task)
            yield Doors(kernel, client, task, port)
            assert kernel.stop() == 0, kernel.stderr()
            kernel.check_gone()
    finally:
        kernel.remove()


def message(said: Any) -> str:
    """Of an error, in whichever form a door tells it."""
    error = said["error"]
    return str(error["message"] if isinstance(error, dict) else error)


@only_root
@pytest.mark.parametrize(("method", "path", "body", "operation"), CHANGES)
def test_another_user_changes_nothing(
    doors: Doors, method: str, path: str, body: Any, operation: str
) -> None:
    before = doors.client.query("models")["models"], doors.client.query("workers")["workers"]
    status, said = doors.ask_as(OTHER_UID, method, path, body, JSON)
    assert status == 403, said
    text = message(said)
    assert "its owner's" in text and f"this connection is of uid {OTHER_UID}" in text
    assert "its owner (uid 0), root" in text
    assert f"claw http key add NAME --operations '{operation}'" in text
    after = doors.client.query("models")["models"], doors.client.query("workers")["workers"]
    assert [row["name"] for row in after[0]] == [row["name"] for row in before[0]]
    assert [row["pinned"] for row in after[1]] == [row["pinned"] for row in before[1]]


@only_root
def test_another_user_asks_models_as_ever(doors: Doors) -> None:
    asked = {"model": "tiny", "prompt": "the", "max_tokens": 2}
    assert doors.ask_as(OTHER_UID, "POST", "/v1/completions", asked)[0] == 200
    x = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}
    status, said = doors.ask_as(OTHER_UID, "POST", "/v2/models/half/infer", {"inputs": [x]})
    assert status == 200 and said["outputs"][0]["data"] == [2.5]
    # What the first question does by itself is no change.
    assert doors.ask_as(OTHER_UID, "POST", "/v2/repository/models/half/load", {})[0] == 200
    assert doors.ask_as(OTHER_UID, "GET", "/page/now", None, {"Accept": "text/html"})[0] == 200


@only_root
def test_a_key_does_it_for_whoever_has_it(doors: Doors) -> None:
    def ask(name: str, *asked: Any) -> tuple[int, Any]:
        return doors.ask_as(OTHER_UID, *asked, JSON | {"Authorization": f"Bearer claw-{name}"})

    for method, path, body, operation in CHANGES:
        name = "store" if operation in ("pull", "remove") else "desk"
        asked = {"model": "nobody"} if path == "/api/delete" else body
        status, said = ask(name, method, path, asked)
        assert status != 403, (path, said)
        if operation != "tensor.*":
            assert ask("plain", method, path, body)[0] == 403, path
    assert ask("desk", "POST", "/page/now/pin", {"name": "tiny", "pinned": False})[0] == 200


@pytest.fixture
def memory() -> Iterator[Path]:
    """Named memory of the user who tests: the number 8."""
    made = Path(f"/dev/shm/claw-test-owned-{os.getpid()}")
    made.write_bytes(struct.pack("<f", 8))
    made.chmod(0o600)
    yield made
    made.unlink()


def test_memory_that_one_lends_is_nobody_elses(doors: Doors, memory: Path) -> None:
    lent, part = "/v2/systemsharedmemory", {"shared_memory_region": "mine"}
    part |= {"shared_memory_byte_size": 4}
    x: dict[str, Any] = {"name": "x", "shape": [1], "datatype": "FP32"}
    taken = {"inputs": [x | {"parameters": part}]}
    put = {"inputs": [x | {"data": [1]}], "outputs": [{"name": "y", "parameters": part}]}
    register = {"key": memory.name, "offset": 0, "byte_size": 4}
    key = {"Authorization": "Bearer claw-lends"}

    def others() -> Iterator[Any]:
        yield lambda *asked: doors.ask(*asked, JSON | key)[::2]
        if os.geteuid() == 0:
            yield lambda *asked: doors.ask_as(OTHER_UID, *asked, JSON)

    assert doors.ask("POST", f"{lent}/region/mine/register", register)[0] == 200
    try:
        for ask in others():
            for asked in (taken, put):
                status, said = ask("POST", "/v2/models/half/infer", asked)
                assert status == 404 and "'mine'; there is: none" in message(said), said
            assert ask("GET", f"{lent}/status", None) == (200, [])
            assert ask("GET", f"{lent}/region/mine/status", None)[0] == 404
            assert ask("POST", f"{lent}/region/mine/unregister", {})[0] == 404
            assert ask("POST", f"{lent}/unregister", {})[0] == 200
        status, _, said = doors.ask("POST", "/v2/models/half/infer", taken)
        assert status == 200 and said["outputs"][0]["data"] == [6]
        assert doors.ask("POST", "/v2/models/half/infer", put)[0] == 200
        assert struct.unpack("<f", memory.read_bytes()) == (2.5,)
        # A name is free to everybody who has not used it.
        assert doors.ask("POST", f"{lent}/region/mine/register", register, key)[0] == 200
        assert len(doors.ask("GET", f"{lent}/status", None, key)[2]) == 1
        assert doors.ask("POST", f"{lent}/unregister", {}, key)[0] == 200
    finally:
        assert doors.ask("POST", f"{lent}/region/mine/unregister", {})[0] == 200


def test_the_owner_changes_it(doors: Doors) -> None:
    for method, path, body, _ in CHANGES[2:]:
        status, _, said = doors.ask(method, path, body, JSON)
        assert status == 200, (path, said)
    assert doors.ask("POST", "/page/now/pin", {"name": "tiny", "pinned": False}, JSON)[0] == 200
    status, _, said = doors.ask("POST", "/api/pull", {"model": "nobody", "stream": False})
    assert status == 404, said


GRPC = """
import sys, os
import tritonclient.grpc as triton
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
client = triton.InferenceServerClient(f"127.0.0.1:{sys.argv[1]}")
try:
    client.unload_model("half")
except triton.InferenceServerException as error:
    print(error.status(), error.message())
client.close()
"""


@only_root
def test_grpc_asks_whose_it_is_too(doors: Doors) -> None:
    for uid in (OTHER_UID, 0):
        command = [sys.executable, "-c", GRPC, str(doors.port), str(uid)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        if uid:
            assert done.stdout.startswith("StatusCode.PERMISSION_DENIED"), done
            assert f"of uid {uid};" in done.stdout and "tensor.*" in done.stdout
        else:
            assert done.stdout == ""


def test_a_connection_that_was_kept_open_is_asked_each_time(doors: Doors) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", doors.port, timeout=60)
    for _ in range(3):
        body = json.dumps({"name": "tiny", "pinned": False})
        connection.request("POST", "/page/now/pin", body, JSON)
        response = connection.getresponse()
        response.read()
        assert response.status == 200
    connection.close()


def unread(here: int, there: int) -> int:
    """Bytes that have come from port ``there`` to ``here`` and that nobody has read."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        if [int(end.partition(":")[2], 16) for end in (local, remote)] == [here, there]:
            return int(queues.partition(":")[2], 16)
    raise AssertionError("there is no such connection")


PIN = json.dumps({"name": "tiny", "pinned": True})
PRESS = f"POST /page/now/pin HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(PIN)}\r\n"
PRESS += f"Content-Type: application/json\r\n\r\n{PIN}"
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


def is_pinned(doors: Doors) -> bool:
    """Whether the model that ``PRESS`` pins is."""
    rows = doors.client.query("workers")["workers"]
    (row,) = (row for row in rows if row["model"] == "tiny")
    return bool(row["pinned"])


def calling(port: int, mine: int = 0) -> socket.socket:
    """A connection, from a port of one's own choice; its end leaves nothing of it behind."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.bind(("127.0.0.1", mine))
    sock.connect(("127.0.0.1", port))
    return sock


@pytest.mark.parametrize("behind", ["nothing", "at once", "later"])
def test_who_leaves_an_address_to_the_owner_changes_nothing(doors: Doors, behind: str) -> None:
    """The system says of the address that it is the owner's, when it is asked at last."""
    doors.client.call("llm.generate", {"prompt": "a", "max_tokens": 1}, model="tiny")
    doors.ask("POST", "/page/now/pin", {"name": "tiny", "pinned": False}, JSON)
    steward = doors.kernel.steward()
    for _ in range(5):
        sock = calling(doors.port)
        mine = sock.getsockname()[1]
        sock.sendall(HEALTH)
        while b"ok\n" not in sock.recv(4096):
            pass
        os.kill(steward, signal.SIGSTOP)  # which looks whose it is
        try:
            sock.sendall(PRESS.encode() + (HEALTH if behind == "at once" else b""))
            wait_until(lambda mine=mine: not unread(doors.port, mine), "the request is read")
            if behind == "later":
                sock.sendall(HEALTH)
                wait_until(lambda mine=mine: not unread(doors.port, mine), "so is the next")
            sock.close()
            heir = calling(doors.port, mine)
        finally:
            os.kill(steward, signal.SIGCONT)
        with heir:
            assert doors.ask("GET", "/health")[0] == 200
            done = doors.ask("POST", "/page/now/pin", {"name": "nobody", "pinned": True}, JSON)
            assert done[0] != 403, "a look after that one has been answered"
            assert not is_pinned(doors)


def test_who_ends_his_half_has_left(doors: Doors) -> None:
    doors.client.call("llm.generate", {"prompt": "a", "max_tokens": 1}, model="tiny")
    doors.ask("POST", "/page/now/pin", {"name": "tiny", "pinned": False}, JSON)
    steward = doors.kernel.steward()
    with calling(doors.port) as sock:
        sock.sendall(HEALTH)
        while b"ok\n" not in sock.recv(4096):
            pass
        os.kill(steward, signal.SIGSTOP)
        try:
            sock.sendall(PRESS.encode())
            mine = sock.getsockname()[1]
            wait_until(lambda: not unread(doors.port, mine), "the request is read")
            sock.shutdown(socket.SHUT_WR)
        finally:
            os.kill(steward, signal.SIGCONT)
        while sock.recv(4096):
            pass
        done = doors.ask("POST", "/page/now/pin", {"name": "nobody", "pinned": True}, JSON)
        assert done[0] != 403, "a look after that one has been answered"
    assert not is_pinned(doors)


MANY = """
import encodings.idna, http.client, json, os, sys  # before it is another user
port, uid, count = (int(each) for each in sys.argv[1:])
os.setgroups([])
os.setgid(uid)
os.setuid(uid)
connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
for _ in range(count):
    body = json.dumps({"name": "tiny", "pinned": True})
    connection.request("POST", "/page/now/pin", body, {"content-type": "application/json"})
    response = connection.getresponse()
    response.read()
    assert response.status == 403, response.status
print("done")
"""


@only_root
def test_who_is_refused_again_and_again_locks_nobody_out(doors: Doors) -> None:
    doors.client.call("llm.generate", {"prompt": "a", "max_tokens": 1}, model="tiny")
    count = limits.LOOKS_BURST + 500
    command = [sys.executable, "-c", MANY, *map(str, (doors.port, OTHER_UID, count))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout == "done\n"
    status, _, said = doors.ask("POST", "/page/now/pin", {"name": "tiny", "pinned": False}, JSON)
    assert status == 200, said


def test_the_owner_is_known_at_an_address_of_ipv6() -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as found:
            port = found.getsockname()[1]
    except OSError:
        pytest.skip("this box has no IPv6")
    kernel = Kernel(f'[plugins]\nports = ["gateway:8080=[::1]:{port}"]\n')
    try:
        task = kernel.start().client().submit("gateway.serve")
        assert any(event.note.startswith("http://") for event in task)
        connection = http.client.HTTPConnection("::1", port, timeout=60)
        connection.request("DELETE", "/api/delete", json.dumps({"model": "nobody"}))
        response = connection.getresponse()
        assert response.status == 404 and b"no model 'nobody'" in response.read()
        connection.close()
        assert kernel.stop() == 0
    finally:
        kernel.close_clients()
        kernel.remove()


# Without a gateway.


def refusal(asker: Asker | None) -> str:
    """Of a change that this one asks for; empty: there is none."""

    async def ask() -> str:
        if asker:
            ASKER.set(asker)
        try:
            await require_owner("pull", "pull")
        except ClawError as error:
            assert error.code == "not_permitted" and "key add" in error.hint
            return error.message
        return ""

    return asyncio.run(ask())


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both of one connection: the server's, and its client's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        with listener.accept()[0] as ours, theirs:
            yield ours, theirs


Ends = tuple[socket.socket, socket.socket]


@pytest.mark.parametrize("how", ["closed", "reset", "half", "here"])
def test_a_connection_is_open_until_either_side_ends_it(ends: Ends, how: str) -> None:
    ours, theirs = ends
    asked = Connection(ours)
    theirs.sendall(b"unread")
    assert asked.is_open()
    if how == "reset":
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if how == "half":
        theirs.shutdown(socket.SHUT_WR)
    else:
        (ours if how == "here" else theirs).close()
    assert not asked.is_open()


def test_it_is_the_system_who_says_whose_a_connection_is(ends: Ends) -> None:
    def look(found: Caller) -> Asker:
        said = Caller(None, 0)
        return Asker(PEER, lambda peer: found if peer == PEER else said, Connection(ends[0]))

    assert refusal(look(Caller(1000, 1000))) == refusal(look(Caller(0, 1000))) == ""
    assert "of uid 1001" in refusal(look(Caller(1001, 1000)))
    assert "of the plugin evil" in refusal(look(Caller(None, 1000, "evil")))
    for unknown in (look(Caller(None, 1000)), Asker(), Asker(PEER), None):
        assert "nobody whom the system can name" in refusal(unknown)


def test_an_address_that_was_left_may_be_the_owners_by_now(ends: Ends) -> None:
    def look(_: Any) -> Caller:
        ends[1].close()
        return Caller(1000, 1000)

    assert "nobody whom the system can name" in refusal(Asker(PEER, look, Connection(ends[0])))
    unknown = Asker(PEER, lambda _: Caller(1000, 1000))
    assert refusal(unknown), "where the connection is not known, nobody is"


def test_it_is_looked_up_once_and_not_for_a_key(ends: Ends) -> None:
    looked: list[Any] = []
    connection = Connection(ends[0])

    def look(peer: Any) -> Caller:
        looked.append(peer)
        return Caller(1000, 1000)

    asked = Asker(PEER, look, connection)
    assert refusal(asked) == refusal(asked) == "" and looked == [PEER]
    asked = Asker(PEER, look, connection)
    asked.held = Keys([Key(name="a", hash=hashed("claw-a"))], False).find("claw-a")
    assert refusal(asked) == "" and len(looked) == 1


def lending(asker: Asker, opener: Any) -> Regions:
    """What is registered after one who asks has registered, or was refused."""
    regions = Regions(opener)

    async def register() -> None:
        ASKER.set(asker)
        await (await regions.lent()).register("mine", "key", 0, 4, PEER)

    with contextlib.suppress(ClawError, TimeoutError):
        asyncio.run(asyncio.wait_for(register(), 0.3))
    return regions


def test_memory_that_was_opened_for_nobody_is_closed(ends: Ends, memory: Path) -> None:
    """Who leaves while it is opened may have left his address to whoever it belongs to."""
    opened: list[int] = []
    wait = [0.0, 0.0, 1.0]

    def opener(_: str, __: Any) -> int:
        opened.append(os.open(memory, os.O_RDWR))
        time.sleep(wait[len(opened) - 1])
        if len(opened) == 2:
            ends[1].close()
        return opened[-1]

    for number in range(3):
        connection = Connection(ends[0])
        connection.whose = "uid:1000"  # as an earlier request has found
        found = lending(Asker(PEER, lambda _: Caller(1000, 1000), connection), opener)
        assert len(found.all) == (1 if number == 0 else 0)
        found.close()
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(opened[-1])


def test_what_a_key_has_lent_is_not_that_of_the_next_key_of_its_name(ends: Ends) -> None:
    async def whose(said: str) -> str:
        asker = Asker(PEER, None, Connection(ends[0]))
        asker.held = Keys([Key(name="bob", hash=hashed(said))], False).find(said)
        ASKER.set(asker)
        return await principal()

    assert len({asyncio.run(whose(said)) for said in ("claw-a", "claw-b", "claw-a")}) == 2


def test_a_strangers_connection_is_looked_up_once(ends: Ends) -> None:
    looked: list[Any] = []
    connection, found = Connection(ends[0]), Caller(1001, 1000)

    def look(peer: Any) -> Caller:
        looked.append(peer)
        return found

    for _ in range(3):
        assert "of uid 1001" in refusal(Asker(PEER, look, connection))
    assert looked == [PEER]
    found = Caller(None, 1000)  # nobody was found, which the next look may see otherwise
    other = Connection(ends[0])
    for _ in range(2):
        assert "nobody" in refusal(Asker(PEER, look, other))
    assert len(looked) == 3
