"""The worker's host, its sockets held by the test."""

import os
import socket
import subprocess
import sys

import msgspec
import pytest

from clawai.kernel.control import ControlPage
from clawai.kernel.steward.memory import create
from clawai.sdk.errors import ClawError
from clawai.sdk.host import Host

ARGS = {
    "incarnation": 1,
    "plugin": "echo",
    "module": "clawai.plugins.echo",
    "operations": [],
    "drivers": [],
    "model": {},
    "slots": 1,
    "threads": 1,
    "context": 0,
}


def test_what_a_worker_imports_before_it_is_ready() -> None:
    """A restart must be quick: a plugin that uses no numpy does not wait for it."""
    program = "import sys; import clawai.sdk.host, clawai.plugins.echo; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True
    )
    slow = {"numpy", "zmq", "asyncio", "email", "http", "logging", "subprocess", "clawai.kernel"}
    assert not slow & set(done.stdout.split())


def test_a_segment_that_was_dropped_before_its_task_began_is_refused() -> None:
    """It used to be waited for, without end, by an operation that then heard no cancel."""
    wire_ours, wire_theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    lease_ours, lease_theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    control = ControlPage()
    fds = {
        "wire": wire_theirs.detach(),
        "leases": lease_theirs.detach(),
        "control": control.fd,
    }
    host = Host(fds, ARGS)
    for number in (3, 5):
        memfd = create(f"claw-test-{number}", 4096)
        header = msgspec.msgpack.encode({"segment": number, "bytes": 4096})
        socket.send_fds(lease_ours, [header], [memfd])
        os.close(memfd)
    assert len(host.segment(5)) == 4096
    host._drop(3)
    for gone in (3, 1):
        with pytest.raises(ClawError) as caught:
            host.segment(gone)
        assert caught.value.code == "no_lease"
    host._drop(5)
    host.control.release()
    host._sock.close()
    host._leases.close()
    control.close()
    wire_ours.close()
    lease_ours.close()
