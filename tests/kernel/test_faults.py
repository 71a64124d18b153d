"""Plugins that crash, hang, lie and attack, and kills: typed errors, and nothing is lost."""

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from clawai.kernel import limits
from clawai.sdk.client import Client
from clawai.sdk.errors import ClawError
from support import (
    PATIENCE,
    Kernel,
    cpu_ticks,
    memory_kib,
    session_of,
    wait_until,
)

EVIL = """
import ctypes, mmap, os, signal, stat, sys, threading, time
from clawai.sdk import wire
from clawai.sdk.errors import ClawError
from clawai.sdk.plugin import Context, Tensor, operation

def _sock(ctx):
    return ctx.outlet._sock

@operation("evil.fine")
def fine() -> str:
    return "fine"

@operation("evil.segfault")
def segfault() -> None:
    ctypes.string_at(8)

@operation("evil.quit")
def quit(code: int) -> None:
    os._exit(code)

@operation("evil.sysexit")
def sysexit() -> None:
    sys.exit(3)

@operation("evil.interrupt")
def interrupt() -> None:
    raise KeyboardInterrupt

@operation("evil.raise")
def raise_(text: str) -> None:
    raise ValueError(text)

@operation("evil.code")
def code() -> None:
    error = ClawError("worker_failed", "m")
    error.code, error.got = "nonsense", [[[[object()]]]]
    raise error

@operation("evil.nested")
def nested(levels: int) -> None:
    value = None
    for _ in range(levels):
        value = [value]
    error = wire.Error(id=0, code="bad_params", message="deep", got=None)
    raise ClawError("bad_params", "deep", got=value)

@operation("evil.hang")
def hang() -> None:
    while True:
        time.sleep(0.05)

@operation("evil.sleep")
def sleep(ctx: Context) -> None:
    while True:
        ctx.checkpoint()
        time.sleep(0.005)

@operation("evil.unpackable")
def unpackable() -> object:
    return object()

@operation("evil.large")
def large(size: int) -> str:
    return "x" * size

@operation("evil.largechunk")
def largechunk(size: int):
    yield "x" * size

@operation("evil.progress")
def progress(ctx: Context):
    ctx.progress("half", "note")

@operation("evil.endless")
def endless(ctx: Context) -> None:
    piece = b"\\x01\\xff" + b"x" * 255
    while True:
        _sock(ctx).sendall(piece * 100)

@operation("evil.halfmessage")
def halfmessage(ctx: Context) -> None:
    _sock(ctx).sendall(b"\\x02" + (8 << 20).to_bytes(8, "big") + b"x" * (7 << 20))
    time.sleep(1000)

@operation("evil.raw")
def raw(ctx: Context, data: bytes) -> None:
    _sock(ctx).sendall(data)
    time.sleep(1000)

@operation("evil.pings")
def pings(ctx: Context) -> None:
    ping = b"\\x04\\x17\\x04PING\\x00\\x00" + b"c" * 16
    for _ in range(300):
        _sock(ctx).sendall(ping * 1000)
    time.sleep(1000)

@operation("evil.close")
def close(ctx: Context) -> None:
    _sock(ctx).shutdown(2)
    time.sleep(1000)

@operation("evil.impostor")
def impostor(ctx: Context, what: str) -> None:
    me = ctx.outlet.incarnation
    messages = {
        "another incarnation": wire.Pong(seq=1, incarnation=me + 1),
        "another task": wire.Done(id=999, incarnation=me),
        "a drop": wire.Dropped(segment=1, incarnation=me),
        "ready again": wire.Ready(version=(1, 0), incarnation=me),
        "reserve": wire.Reserve(bytes=1, incarnation=me),
        "an order": wire.Stop(),
        "no id": wire.Error(code="x", message="y", incarnation=me),
    }
    ctx.outlet.send(messages[what])
    time.sleep(1000)

@operation("evil.deeperror")
def deeperror(ctx: Context, levels: int) -> None:
    header = (b"\\x85\\xa4type\\xa5error\\xa2id" + b"\\xce" + ctx.task.to_bytes(4, "big")
        + b"\\xa4code\\xa1x\\xabincarnation" + b"\\xce"
        + ctx.outlet.incarnation.to_bytes(4, "big"))
    header = header.replace(b"\\x85", b"\\x86", 1) + b"\\xa7message\\xa1m\\xa3got"
    header += b"\\x91" * levels + b"\\xc0"
    ctx.outlet._transmit([b"\\x02" + len(header).to_bytes(8, "big"), header])
    time.sleep(1000)

@operation("evil.badchunk")
def badchunk(ctx: Context) -> None:
    me = ctx.outlet.incarnation
    ctx.outlet.send(wire.Chunk(id=ctx.task, data=wire.Raw(b"\\xa2\\xff\\xfe"), incarnation=me))
    time.sleep(1000)

@operation("evil.badresult")
def badresult(ctx: Context) -> None:
    me = ctx.outlet.incarnation
    ctx.outlet.send(wire.Done(id=ctx.task, result=wire.Raw(b"\\xa2\\xff\\xfe"), incarnation=me))
    time.sleep(1000)

@operation("evil.talk")
def talk(lines: int, width: int) -> str:
    for _ in range(lines):
        print("x" * width)
    sys.stdout.flush()
    return "said"

@operation("evil.forge")
def forge() -> None:
    print("2026-01-01 00:00:00 error forged\\r\\x1b[31mred\\x07")
    sys.stdout.flush()

@operation("evil.control")
def control(ctx: Context) -> list[str]:
    found = []
    for fd in range(3, 64):
        try:
            status = os.fstat(fd)
        except OSError:
            continue
        if not stat.S_ISREG(status.st_mode) or status.st_size != 4096:
            continue
        for what, attempt in {
            "write": lambda: os.pwrite(fd, b"x", 0),
            "map": lambda: mmap.mmap(fd, 4096),
            "grow": lambda: os.ftruncate(fd, 8192),
            "shrink": lambda: os.ftruncate(fd, 0),
        }.items():
            try:
                attempt()
            except (OSError, PermissionError):
                found.append(what)
    return found

kept = []

@operation("evil.keep")
def keep(ctx: Context, x: Tensor) -> str:
    array = ctx.array(x)
    kept.append(array)
    return "kept"

@operation("evil.fill")
def fill(ctx: Context, x: Tensor) -> None:
    array = ctx.array(x)
    while True:
        array[...] = 7
        ctx.checkpoint()
        time.sleep(0.005)

@operation("evil.refill")
def refill(ctx: Context, x: Tensor) -> str:
    # Say that it is unmapped, and write to it later all the same.
    host, number = ctx.outlet, ctx.leases[x.lease].segment
    array = ctx.array(x)
    host._drop = lambda n: host.send(wire.Dropped(segment=n, incarnation=host.incarnation))
    def later():
        while True:
            array[...] = 9
            time.sleep(0.01)
    threading.Thread(target=later, daemon=True).start()
    return "ok"
"""
NAMES = [line.split('"')[1] for line in EVIL.splitlines() if line.startswith("@operation")]


@pytest.fixture
def evil(shared_kernel: Kernel) -> Iterator[Kernel]:
    """A daemon that has to outlive all of this, with a fresh worker of the evil plugin."""
    if not (shared_kernel.plugins_dir / "evil").exists():
        with_evil(shared_kernel)
    with shared_kernel.client() as client:
        client.admin("unload", "evil")
        wait_until(lambda: not client.query("tasks")["tasks"], "what ran before has ended")
        wait_until(lambda: "evil" not in workers(client), "its worker has ended")
    shared_kernel.mark()
    yield shared_kernel
    shared_kernel.close_clients()
    for folder in shared_kernel.plugins_dir.iterdir():
        if folder.name != "evil":
            shutil.rmtree(folder)


def workers(client: Client) -> set[str]:
    """The plugins that have a worker."""
    return {worker["plugin"] for worker in client.query("workers")["workers"]}


def with_evil(kernel: Kernel, slots: int = 2) -> Kernel:
    kernel.plugin("evil", EVIL, dict.fromkeys(NAMES, ""), slots=slots, memory_mib=256)
    return kernel


def failing(client: Client, op: str, /, **params: Any) -> ClawError:
    with pytest.raises(ClawError) as caught:
        client.call(op, params)
    return caught.value


# What plugins do to themselves.


@pytest.mark.parametrize(
    ("op", "params", "part"),
    [
        ("evil.segfault", {}, "killed by SIGSEGV"),
        ("evil.quit", {"code": 0}, "exited with code 0"),
        ("evil.quit", {"code": 7}, "exited with code 7"),
    ],
)
def test_death_names_its_cause_and_the_worker_comes_back(
    evil: Kernel, op: str, params: dict[str, Any], part: str
) -> None:
    client = evil.client()
    first = evil.worker_pid("evil")
    error = failing(client, op, **params)
    assert error.code == "worker_died"
    assert part in error.message
    assert client.call("evil.fine").value == "fine"
    assert evil.worker_pid("evil") != first


@pytest.mark.parametrize(
    ("op", "params", "code", "part"),
    [
        ("evil.raise", {"text": "boo"}, "worker_failed", "ValueError: boo"),
        ("evil.raise", {"text": "x" * 100_000}, "worker_failed", "xxx"),
        ("evil.sysexit", {}, "worker_failed", "SystemExit"),
        ("evil.interrupt", {}, "worker_failed", "KeyboardInterrupt"),
        ("evil.code", {}, "worker_failed", "m"),
        ("evil.nested", {"levels": 30}, "bad_params", "deep"),
        ("evil.nested", {"levels": 5000}, "bad_params", "deep"),
        ("evil.unpackable", {}, "worker_failed", "object"),
        ("evil.large", {"size": 5 << 20}, "too_large", "does not fit"),
        ("evil.large", {"size": 9 << 20}, "too_large", "does not fit"),
        ("evil.largechunk", {"size": 5 << 20}, "too_large", "does not fit"),
        ("evil.progress", {}, "worker_failed", "could not convert"),
    ],
)
def test_an_error_in_an_operation_ends_the_task_only(
    evil: Kernel, op: str, params: dict[str, Any], code: str, part: str
) -> None:
    client = evil.client()
    client.call("evil.fine")
    first = evil.worker_pid("evil")
    bystander = client.submit("evil.sleep")
    error = failing(client, op, **params)
    assert error.code == code
    assert part in error.message
    assert not bystander.done
    assert client.call("evil.fine").value == "fine"
    bystander.cancel()
    with pytest.raises(ClawError, match="cancelled"):
        bystander.result()
    assert evil.worker_pid("evil") == first


def test_a_plugin_that_ignores_a_cancel_is_killed(evil: Kernel) -> None:
    client = evil.client()
    task = client.submit("evil.hang")
    wait_until(lambda: client.query("tasks")["tasks"][0]["state"] == "running", "it runs")
    task.cancel()
    with pytest.raises(ClawError) as caught:
        task.result()
    assert caught.value.code == "cancelled"
    assert client.call("evil.fine").value == "fine"
    assert "did not let go" in evil.log()


def test_a_deadline_ends_a_running_task(evil: Kernel) -> None:
    client = evil.client()
    client.call("evil.fine")
    with pytest.raises(ClawError) as caught:
        client.call("evil.sleep", deadline=0.05)
    assert caught.value.code == "deadline_passed"


BROKEN: dict[str, tuple[str, str, str]] = {
    "syntax error": ("def (", "worker_failed", "SyntaxError"),
    "import error": ("import not_there_at_all", "worker_failed", "not_there_at_all"),
    "raises at import": ("raise ValueError('at import')", "worker_failed", "at import"),
    "system exit at import": ("import sys; sys.exit(4)", "worker_failed", "SystemExit"),
    "exits at import": ("import os; os._exit(5)", "quarantined", "exited with code 5"),
    "dies at import": (
        "import ctypes; ctypes.string_at(8)",
        "quarantined",
        "killed by SIGSEGV",
    ),
    "other operations": (
        "from clawai.sdk.plugin import operation\n@operation('broken.other')\n"
        "def other() -> str:\n    return ''\n",
        "bad_config",
        "operations differ",
    ),
    "fails at start": (
        "from clawai.sdk.plugin import operation, hookimpl\n@operation('broken.op')\n"
        "def op() -> str:\n    return ''\n@hookimpl\ndef claw_start(worker):\n"
        "    raise RuntimeError('no device')\n",
        "worker_failed",
        "no device",
    ),
    "a hook that is not ours": (
        "from clawai.sdk.plugin import operation, hookimpl\n@operation('broken.op')\n"
        "def op() -> str:\n    return ''\n@hookimpl\ndef claw_made_up():\n    pass\n",
        "worker_failed",
        "claw_made_up",
    ),
    "no annotation": (
        "from clawai.sdk.plugin import operation\n@operation('broken.op')\n"
        "def op(x):\n    return x\n",
        "worker_failed",
        "needs a type annotation",
    ),
    "wants too much": (
        "from clawai.sdk.plugin import operation, hookimpl\n@operation('broken.op')\n"
        "def op() -> str:\n    return ''\n@hookimpl\ndef claw_start(worker):\n"
        "    worker.reserve(1 << 47)\n",
        "never_fits",
        "more memory than the whole budget",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_plugin_that_cannot_start(evil: Kernel, name: str) -> None:
    code, expected, part = BROKEN[name]
    plugin = f"broken{list(BROKEN).index(name)}"
    evil.plugin(plugin, code.replace("broken.", f"{plugin}."), {f"{plugin}.op": ""})
    client = evil.client()
    error = failing(client, f"{plugin}.op")
    assert error.code == expected
    assert part in error.message
    assert client.call("echo.say", {"text": "x"}).value == "x"
    wait_until(lambda: plugin not in workers(client), "its worker is gone")


def test_quarantine_is_shown_and_lifted_by_its_owner(evil: Kernel) -> None:
    folder = evil.plugin("mended", "import os; os._exit(5)", {"mended.op": ""})
    client = evil.client()
    assert failing(client, "mended.op").code == "quarantined"
    assert failing(client, "mended.op").code == "quarantined"
    listed = {p["name"]: p for p in client.query("plugins")["plugins"]}
    assert listed["mended"]["quarantined"]
    assert listed["mended"]["started"] == limits.FAILED_STARTS
    (folder / "claw_test_mended.py").write_text(
        "from clawai.sdk.plugin import operation\n@operation('mended.op')\n"
        "def op() -> str:\n    return 'mended'\n"
    )
    client.admin("unload", "mended")
    assert client.call("mended.op").value == "mended"


def test_a_plugin_removed_while_its_worker_is_down(kernel: Kernel) -> None:
    evil = with_evil(kernel)
    client = evil.client()
    client.call("evil.fine")
    for file in (evil.plugins_dir / "evil").iterdir():
        if file.is_file():
            file.unlink()
    client.query("plugins")  # the registry reads the folders again
    os.kill(evil.worker_pid("evil"), signal.SIGKILL)
    wait_until(lambda: "was removed" in evil.log() or not evil.worker_pid("evil"), "its end")
    assert failing(client, "evil.fine").code in ("unknown_operation", "unknown_plugin")
    assert client.call("echo.say", {"text": "x"}).value == "x"


# Hostile workers.


@pytest.mark.parametrize(
    "what",
    [
        "another incarnation",
        "another task",
        "a drop",
        "ready again",
        "reserve",
        "an order",
        "no id",
    ],
)
def test_a_worker_that_breaks_the_protocol_is_ended(evil: Kernel, what: str) -> None:
    client = evil.client()
    error = failing(client, "evil.impostor", what=what)
    assert error.code == "bad_worker"
    assert client.call("evil.fine").value == "fine"


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\xc1",
        b"\x00\x00",
        b"\xff" * 100,
        b"\x02" + (1 << 62).to_bytes(8, "big"),
        b"\x06" + (1 << 20).to_bytes(8, "big"),
        b"\x00\x02\x91\x80",
        b"\x02" + (3 << 20).to_bytes(8, "big") + b"\x91" * (3 << 20),
    ],
    ids=["msgpack", "empty", "flags", "huge", "command", "type", "deep"],
)
def test_a_worker_that_sends_garbage_is_ended(evil: Kernel, data: bytes) -> None:
    client = evil.client()
    before = memory_kib(evil.pid)
    assert failing(client, "evil.raw", data=data).code == "bad_worker"
    assert client.call("evil.fine").value == "fine"
    assert memory_kib(evil.pid, "VmHWM") - before < 64 * 1024


@pytest.mark.parametrize("op", ["evil.endless", "evil.halfmessage"])
def test_a_worker_that_sends_without_end(evil: Kernel, op: str) -> None:
    client, other = evil.client(), evil.client()
    other.call("echo.say", {"text": "warm"})
    before = memory_kib(evil.pid)
    tasks = [client.submit(op) for _ in range(2)]
    assert other.call("echo.say", {"text": "x"}).value == "x"
    if op == "evil.endless":
        for task in tasks:
            with pytest.raises(ClawError) as caught:
                task.result()
            assert caught.value.code == "bad_worker"
    assert memory_kib(evil.pid, "VmHWM") - before < 64 * 1024


def test_a_worker_that_pings_without_reading(evil: Kernel) -> None:
    client = evil.client()
    client.call("evil.fine")
    before = memory_kib(evil.pid)
    task = client.submit("evil.pings")
    for _ in range(5):
        assert client.call("echo.say", {"text": "x"}).value == "x"
    assert memory_kib(evil.pid, "VmHWM") - before < 64 * 1024
    assert not task.done


def test_a_worker_that_closes_its_socket(evil: Kernel) -> None:
    client = evil.client()
    assert failing(client, "evil.close").code == "worker_died"
    assert client.call("evil.fine").value == "fine"


@pytest.mark.parametrize("levels", [10, 900, 975, 980, 985, 990, 995, 5000])
def test_an_error_of_great_depth(evil: Kernel, levels: int) -> None:
    """What can just be decoded cannot be encoded again a few calls further down."""
    client = evil.client()
    assert failing(client, "evil.deeperror", levels=levels).code in ("worker_failed", "bad_worker")
    assert client.call("echo.say", {"text": "x"}).value == "x"


@pytest.mark.parametrize("op", ["evil.badchunk", "evil.badresult"])
def test_an_answer_that_is_not_msgpack(evil: Kernel, op: str) -> None:
    """It ends its own task at the client, and no other."""
    client = evil.client()
    other = client.submit("evil.sleep")
    bad = client.submit(op)
    with pytest.raises(ClawError) as caught:
        bad.result()
    assert caught.value.code == "bad_worker"
    assert client.call("echo.say", {"text": "x"}).value == "x"
    assert not other.done


def test_the_control_page_cannot_be_changed(evil: Kernel) -> None:
    failed = evil.client().call("evil.control").value
    assert set(failed) == {"grow", "map", "shrink", "write"}
    assert len(failed) % 4 == 0, "each way fails on each descriptor of it"


def test_a_worker_that_fills_pages_after_the_drop_is_ended(evil: Kernel) -> None:
    other = evil.client()
    used = other.query("status")["used_bytes"]
    program = (
        "import sys, os\nfrom pathlib import Path\nfrom clawai.sdk.client import Client\n"
        "client = Client(folder=Path(sys.argv[1]), timeout=60)\n"
        "loan = client.borrow('evil.refill', 1 << 20)\n"
        "client.call('evil.refill', {'x': loan.tensor('<u1', (1 << 20,))}, leases=[loan])\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(evil.folder)], check=True)
    wait_until(lambda: "memory that was taken back" in evil.log(), "it is caught")
    wait_until(lambda: other.query("status")["segments"] == 0, "the segment is gone")
    other.call("evil.fine")
    assert other.query("status")["used_bytes"] == used + (256 << 20), "the memory is back"


def test_a_client_that_writes_on_after_it_has_left_harms_nobody(evil: Kernel) -> None:
    """Its memory is its own then; the worker is not blamed for it."""
    client, other = evil.client(), evil.client()
    loan = client.borrow("evil.fine", 1 << 20)
    other.call("evil.fine")
    pid = evil.worker_pid("evil")
    array = loan.array("<u1", (1 << 20,))
    client.close()
    wait_until(lambda: other.query("status")["segments"] == 0, "the segment is gone")
    for _ in range(20):
        array[...] = 5
        second = evil.client()
        second.give_back(second.borrow("evil.fine", 4096))
        second.close()
    wait_until(lambda: other.query("status")["segments"] == 0, "the segments are gone")
    assert evil.worker_pid("evil") == pid
    del array, loan


def test_an_honest_worker_outlives_a_client_that_dies_with_a_lease_in_use(evil: Kernel) -> None:
    """The operation still writes when the client goes: that is no breach, and costs nobody."""
    other = evil.client()
    bystander = other.submit("evil.sleep")
    program = (
        "import sys, os\nfrom pathlib import Path\nfrom clawai.sdk.client import Client\n"
        "client = Client(folder=Path(sys.argv[1]), timeout=60)\n"
        "loan = client.borrow('evil.fill', 1 << 20)\n"
        "task = client.submit('evil.fill', {'x': loan.tensor('<u1', (1 << 20,))}, leases=[loan])\n"
        "while not client.query('tasks')['tasks'][-1]['state'] == 'running': pass\n"
        "os._exit(0)\n"
    )
    for _ in range(3):
        subprocess.run([sys.executable, "-c", program, str(evil.folder)], check=True)
    wait_until(lambda: len(other.query("tasks")["tasks"]) == 1, "its tasks are cancelled")
    wait_until(lambda: other.query("status")["segments"] == 0, "its segments are gone")
    assert not bystander.done
    assert "died" not in evil.log()


def test_a_plugin_that_keeps_a_view_keeps_the_charge(evil: Kernel) -> None:
    client, other = evil.client(), evil.client()
    other.call("evil.fine")
    used = other.query("status")["used_bytes"]
    loan = client.borrow("evil.keep", 1 << 20)
    client.call("evil.keep", {"x": loan.tensor("<u1", (1 << 20,))}, leases=[loan])
    client.close()
    wait_until(lambda: other.query("status")["clients"] == 1, "the client is gone")
    assert other.call("evil.fine").value == "fine"
    assert other.query("status")["used_bytes"] == used + (1 << 20), "it can still be written to"
    other.admin("unload", "evil")
    left = used - (256 << 20)
    wait_until(lambda: other.query("status")["used_bytes"] == left, "it is back with the worker")
    del loan


def test_a_plugin_that_talks_without_end(evil: Kernel) -> None:
    client, other = evil.client(), evil.client()
    other.call("echo.say", {"text": "warm"})
    task = client.submit("evil.talk", {"lines": 200_000, "width": 200})
    for _ in range(5):
        assert other.call("echo.say", {"text": "x"}).value == "x"
    task.cancel()
    assert evil.log().count("xxxxx") < 100_000
    assert evil.log_file.stat().st_size < 9 << 20


def test_a_plugin_cannot_forge_a_line_of_the_log(evil: Kernel) -> None:
    client = evil.client()
    client.call("evil.forge")
    wait_until(lambda: "forged" in evil.log(), "it is logged")
    line = next(line for line in evil.log().splitlines() if "forged" in line)
    assert "evil[" in line
    assert "\x1b" not in evil.log()
    assert "\r" not in evil.log()


# Kills.


def test_the_worker_is_killed_in_mid_answer(evil: Kernel) -> None:
    client = evil.client()
    task = client.submit("echo.count", {"upto": 100_000, "pause_ms": 5})
    for event in task:
        if event.kind == "chunk" and event.data == 3:
            os.kill(evil.worker_pid(), signal.SIGKILL)
    with pytest.raises(ClawError) as caught:
        task.result()
    assert caught.value.code == "worker_died"
    assert "killed by SIGKILL" in caught.value.message
    assert not caught.value.callers_fault
    assert client.call("echo.say", {"text": "again"}).value == "again"


def test_an_idempotent_request_survives_a_kill(evil: Kernel) -> None:
    evil.plugin(
        "steady",
        "import time\nfrom clawai.sdk.plugin import operation\n"
        "@operation('steady.slow')\ndef slow() -> str:\n    time.sleep(0.5)\n    return 'done'\n",
        {"steady.slow": "idempotent = true"},
    )
    client = evil.client()
    task = client.submit("steady.slow")
    wait_until(lambda: client.query("tasks")["tasks"][0]["state"] == "running", "it runs")
    os.kill(evil.worker_pid("steady"), signal.SIGKILL)
    assert task.result().value == "done"


def test_a_client_is_killed_in_mid_stream(evil: Kernel) -> None:
    other = evil.client()
    other.call("echo.say", {"text": "warm"})
    before = other.query("status")["used_bytes"]
    program = (
        "import sys\nfrom pathlib import Path\nfrom clawai.sdk.client import Client\n"
        "client = Client(folder=Path(sys.argv[1]), timeout=60)\n"
        "loan = client.borrow('echo.tensor', 4 << 20)\n"
        "loan.array('<u1', (4 << 20,))[...] = 1\n"
        "for event in client.submit('echo.count', {'upto': 10**6, 'pause_ms': 5}):\n"
        "    if event.kind == 'chunk':\n"
        "        print(event.data, flush=True)\n"
    )
    command = [sys.executable, "-c", program, str(evil.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as victim:
        assert victim.stdout
        assert victim.stdout.readline() == b"1\n"
        status = other.query("status")
        assert (status["tasks"], status["segments"]) == (1, 1)
        assert status["used_bytes"] == before + (4 << 20)
        victim.kill()
    wait_until(lambda: other.query("status")["tasks"] == 0, "its task is cancelled")
    wait_until(lambda: other.query("status")["used_bytes"] == before, "its memory is back")
    assert other.query("status")["segments"] == 0


def test_the_daemon_is_killed(start_kernel: Callable[..., Kernel]) -> None:
    kernel = with_evil(start_kernel())
    client = kernel.client()
    client.call("echo.say", {"text": "x"})
    client.submit("evil.hang")
    wait_until(lambda: client.query("tasks")["tasks"][0]["state"] == "running", "it runs")
    assert len(kernel.processes()) >= 5
    os.kill(kernel.pid, signal.SIGKILL)
    wait_until(lambda: not session_of(kernel.pid), "no process of it is left", 5)
    with pytest.raises(ClawError) as caught:
        client.call("echo.say", {"text": "x"})
    assert caught.value.code == "no_kernel"


def test_a_stopped_daemon_says_so(start_kernel: Callable[..., Kernel]) -> None:
    kernel = start_kernel()
    client = kernel.client()
    task = client.submit("echo.count", {"upto": 10**6, "pause_ms": 5})
    next(iter(task))
    os.kill(kernel.pid, signal.SIGTERM)
    with pytest.raises(ClawError) as caught:
        task.result()
    assert caught.value.code == "kernel_stopped"
    assert kernel.process
    assert kernel.process.wait(PATIENCE) == 0


def test_an_answer_to_shutdown(start_kernel: Callable[..., Kernel]) -> None:
    kernel = start_kernel()
    assert kernel.client().admin("shutdown") == {"pid": kernel.pid}
    assert kernel.process
    assert kernel.process.wait(PATIENCE) == 0
    assert not list(kernel.folder.glob("*.sock"))


# The folder, the configuration and the disk.


def run_daemon(kernel: Kernel) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "clawai.kernel"]
    return subprocess.run(
        command, env=kernel.env, capture_output=True, timeout=PATIENCE, check=False
    )


def test_a_second_kernel_is_refused(kernel: Kernel) -> None:
    done = run_daemon(kernel)
    assert done.returncode == 1
    assert f"another kernel (process {kernel.pid})" in done.stderr.decode()
    assert "[address_in_use]" in done.stderr.decode()
    assert kernel.client().call("echo.say", {"text": "x"}).value == "x"


def test_what_a_killed_daemon_left_is_replaced(start_kernel: Callable[..., Kernel]) -> None:
    kernel = start_kernel()
    assert kernel.process
    kernel.process.kill()
    kernel.process.wait()
    kernel.check_gone()
    assert list(kernel.folder.glob("*.sock"))
    kernel.start()
    assert kernel.client().call("echo.say", {"text": "x"}).value == "x"


def test_a_folder_that_others_may_enter_is_refused(start_kernel: Callable[..., Kernel]) -> None:
    kernel = start_kernel(start=False)
    kernel.folder.mkdir(mode=0o755)
    kernel.folder.chmod(0o755)
    done = run_daemon(kernel)
    assert done.returncode == 1
    assert "drwxr-xr-x" in done.stderr.decode()
    assert "[not_permitted]" in done.stderr.decode()


def test_a_folder_that_is_a_link_is_refused(start_kernel: Callable[..., Kernel]) -> None:
    kernel = start_kernel(start=False)
    (kernel.base / "elsewhere").mkdir(mode=0o700)
    kernel.folder.symlink_to(kernel.base / "elsewhere")
    done = run_daemon(kernel)
    assert (done.returncode, b"[not_permitted]" in done.stderr) == (1, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder of another user")
def test_a_folder_of_another_user_is_refused(start_kernel: Callable[..., Kernel]) -> None:
    kernel = start_kernel(start=False)
    kernel.folder.mkdir(mode=0o700)
    os.chown(kernel.folder, 12345, 12345)
    done = run_daemon(kernel)
    assert (done.returncode, b"uid 12345" in done.stderr) == (1, True)


@pytest.mark.parametrize("kind", ["file", "long", "impossible"])
def test_a_folder_that_cannot_be_used(start_kernel: Callable[..., Kernel], kind: str) -> None:
    kernel = start_kernel(start=False)
    if kind == "file":
        kernel.folder.write_text("")
    else:
        bad = {"long": kernel.base / ("x" * 120), "impossible": "/proc/self/nothing/here"}
        kernel.env["CLAW_RUNTIME_DIR"] = str(bad[kind])
    done = run_daemon(kernel)
    assert done.returncode == 1
    text = done.stderr.decode()
    assert text.startswith("claw: ")
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[memory]\nbudget_mib = 'many'\n", "Expected `int`"),
        ("[memory]\nbudgte_mib = 5\n", "budgte_mib"),
        ("[memory\n", "config.toml"),
        ("[sandbox]\nminimum = 'none'\n", "sandbox.minimum"),
        ("\xff", "config.toml"),
    ],
)
def test_a_bad_configuration(start_kernel: Callable[..., Kernel], text: str, part: str) -> None:
    kernel = start_kernel(start=False)
    kernel.config.write_text(text, encoding="latin-1")
    done = run_daemon(kernel)
    assert done.returncode == 1
    assert part in done.stderr.decode()
    assert "[bad_config]" in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


def test_a_full_disk_costs_log_lines_only(start_kernel: Callable[..., Kernel]) -> None:
    kernel = with_evil(start_kernel())
    client = kernel.client()
    client.call("evil.fine")
    # To the daemon a limit on the size of its files is a disk that is full.
    size = kernel.log_file.stat().st_size + 100
    resource.prlimit(kernel.pid, resource.RLIMIT_FSIZE, (size, size))
    client.call("evil.talk", {"lines": 150, "width": 100})
    wait_until(lambda: client.query("status")["log_lines_lost"] > 0, "lines are lost")
    assert client.call("evil.fine").value == "fine"
    assert failing(client, "evil.raise", text="boo").code == "worker_failed"
    with pytest.raises(ClawError) as caught:
        client.borrow("evil.fine", 1 << 20)
    assert caught.value.code == "no_memory"
    assert kernel.log_file.stat().st_size <= size


def test_a_log_that_cannot_be_written(start_kernel: Callable[..., Kernel]) -> None:
    kernel = start_kernel(start=False)
    (kernel.base / "state").write_text("not a folder")
    kernel.start()
    client = kernel.client()
    assert client.call("echo.say", {"text": "x"}).value == "x"
    assert client.query("status")["log_lines_lost"] > 0


def test_the_log_is_kept_small(start_kernel: Callable[..., Kernel]) -> None:
    kernel = with_evil(start_kernel(config="[log]\nmax_mib = 1\n"))
    client = kernel.client()
    while not kernel.log_file.with_suffix(".log.1").exists():
        client.call("evil.talk", {"lines": 190, "width": 4000})
    assert kernel.log_file.stat().st_size <= 1 << 20


# Quiet when idle.


def test_no_processor_time_while_idle(kernel: Kernel) -> None:
    client = kernel.client()
    client.call("echo.say", {"text": "x"})
    time.sleep(1.2)  # the last tick of the task comes a second after it
    before = {pid: cpu_ticks(pid) for pid in kernel.processes()}
    woke = memory_kib(kernel.pid, "voluntary_ctxt_switches")
    time.sleep(2)
    assert {pid: cpu_ticks(pid) for pid in kernel.processes()} == before
    assert memory_kib(kernel.pid, "voluntary_ctxt_switches") <= woke + 1
    assert client.call("echo.say", {"text": "x"}).value == "x"


def test_requests_that_fit_the_queue_never_cost_the_worker(evil: Kernel) -> None:
    """Four large ones at once wait in the worker's outbox, which is no reason to end it."""
    client = evil.client()
    client.call("echo.say", {"text": "x"})
    pid = evil.worker_pid()
    pad = b"x" * 5_000_000
    sent = {"x": {"dtype": "<u1", "shape": [10], "frame": 0}}
    tasks = [client.submit("echo.tensor", sent, frames=[pad]) for _ in range(4)]
    for task in tasks:
        assert task.result().value["shape"] == [10]
    assert evil.worker_pid() == pid


def test_large_answers_all_reach_who_reads(evil: Kernel) -> None:
    """More than one client may leave unread, but on its way: nobody is disconnected for it."""
    client = evil.client()
    size = 4_190_000
    sent = {"x": {"dtype": "|u1", "shape": [size], "frame": 0}}
    for _ in range(3):
        tasks = [client.submit("echo.tensor", sent, frames=[bytes(size)]) for _ in range(4)]
        for task in tasks:
            assert len(task.result().frames[0]) == size


def test_output_without_end_is_read_at_a_bounded_rate(evil: Kernel) -> None:
    """A plugin that only prints waits in its write; the daemon does not spend its time on it."""
    client = evil.client()
    client.call("evil.fine")
    task = client.submit("evil.talk", {"lines": 10**9, "width": 1000})
    wait_until(lambda: evil.log().count("xxxxx") > 0, "it talks")
    time.sleep(1)  # the first second's share is read
    before = cpu_ticks(evil.pid)
    time.sleep(2)
    assert cpu_ticks(evil.pid) - before < 50, "a quarter of a processor"
    assert not task.done


def test_twenty_queued_requests_run_in_order(evil: Kernel) -> None:
    evil.plugin(
        "one",
        "import time\nfrom clawai.sdk.plugin import operation\nran = []\n"
        "@operation('one.mark')\ndef mark(name: str, nap: float = 0.0) -> None:\n"
        "    time.sleep(nap)\n    ran.append(name)\n"
        "@operation('one.ran')\ndef order() -> list[str]:\n    return ran\n",
        {"one.mark": "", "one.ran": ""},
    )
    client = evil.client()
    first = client.submit("one.mark", {"name": "first", "nap": 1.0})
    wait_until(lambda: client.query("tasks")["tasks"][0]["state"] == "running", "it runs")
    classes = ["batch", "critical", "normal", "interactive"] * 5
    tasks = [
        client.submit("one.mark", {"name": f"{c}{n}"}, priority=c) for n, c in enumerate(classes)
    ]
    for task in [first, *tasks]:
        task.result()
    expected = ["first"]
    for name in ("critical", "interactive", "normal", "batch"):
        expected += [f"{c}{n}" for n, c in enumerate(classes) if c == name]
    assert client.call("one.ran").value == expected


def test_a_dead_workers_segments_are_refused(evil: Kernel) -> None:
    client = evil.client()
    loan = client.borrow("echo.tensor", 4096)
    os.kill(evil.worker_pid(), signal.SIGKILL)
    wait_until(lambda: "died" in evil.log(), "the death is seen")
    with pytest.raises(ClawError) as caught:
        client.call("echo.tensor", {"x": loan.tensor("<u1", (1,))}, leases=[loan])
    assert caught.value.code == "no_lease"
    client.give_back(loan)
    wait_until(lambda: client.query("status")["segments"] == 0, "the segment is gone")


def test_a_socket_in_the_way(start_kernel: Callable[..., Kernel]) -> None:
    """A file with the socket's name, from whatever, is replaced."""
    kernel = start_kernel(start=False)
    kernel.folder.mkdir(mode=0o700)
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(kernel.folder / "kernel.sock"))
    stale.close()
    (kernel.folder / "lease.sock").write_text("")
    kernel.start()
    assert kernel.client().call("echo.say", {"text": "x"}).value == "x"
