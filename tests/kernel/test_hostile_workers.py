"""Workers that lie, flood and attack: each is ended, and the daemon serves on."""

import subprocess
import sys

import pytest

from clawai.sdk.errors import ClawError
from evil_plugin import failing
from steward_parts import WEIGHTS
from support import (
    Kernel,
    memory_kib,
    wait_until,
)


@pytest.mark.parametrize(
    "what",
    [
        "another incarnation",
        "another task",
        "a drop",
        "ready again",
        "filled",
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


@pytest.mark.parametrize("how", ["while it maps them", "twice", "without end"])
def test_a_worker_that_says_too_early_that_its_weights_are_filled(kernel: Kernel, how: str) -> None:
    """They are sealed before it is believed, and it is asked once."""
    said = {"while it maps them": 1, "twice": 2, "without end": 20_000}[how]
    word = "wire.Filled(incarnation=self.worker.incarnation)"
    lie = f"for _ in range({said}): self.worker.send({word})"
    wait = "time.sleep(1000)" if how == "while it maps them" else "pass"
    start = "    def claw_start(self, worker):\n"
    code = WEIGHTS.replace("import os, signal\n", "import time\nfrom clawai.sdk import wire\n")
    code = code.replace(start, start + "        self.worker = worker\n")
    code = code.replace("        self.filled += 1\n", f"        {lie}\n        {wait}\n")
    kernel.plugin("w", code, {"w.look": ""})
    client = kernel.client()
    assert failing(client, "w.look").code == "quarantined", "it was tried again in vain"
    assert client.call("echo.say", {"text": "x"}).value == "x"
    assert "its weights could still be written, or it had none to fill" in kernel.log()


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
