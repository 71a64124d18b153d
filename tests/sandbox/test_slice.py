"""``slice_us`` of a profile: what the scheduler itself says of a worker that has one."""

import ctypes
import os
import select
import struct
from pathlib import Path
from typing import Any

import pytest

from clawai.sandbox.policy import Policy

WAIT_S = 30
ATTRIBUTES = struct.Struct("=IIQiIQQQ")
"""struct sched_attr of linux/sched/types.h, as of its first version: size, policy, flags, nice,
priority, runtime, deadline, period."""
GET = {"x86_64": 315, "aarch64": 275}
RUNTIME = 5
"""Of a thread that is no real-time one: its slice in nanoseconds, from Linux 6.12 on; before, 0."""


def slice_of(thread: int) -> int:
    """What sched_getattr(2) tells of a thread, in nanoseconds."""
    libc = ctypes.CDLL(None, use_errno=True)
    found = ctypes.create_string_buffer(ATTRIBUTES.size)
    numbers = [ctypes.c_long(each) for each in (GET[os.uname().machine], thread)]
    size = ctypes.c_long(ATTRIBUTES.size)
    if libc.syscall(*numbers, found, size, ctypes.c_long(0)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    runtime: int = ATTRIBUTES.unpack(found.raw)[RUNTIME]
    return runtime


@pytest.fixture(autouse=True)
def told() -> None:
    """Skip where nobody could tell."""
    if os.uname().machine not in GET:
        pytest.skip(f"no number of sched_getattr is known here for {os.uname().machine}")
    try:
        own = slice_of(0)
    except PermissionError:
        pytest.skip("a container's filter refuses sched_getattr")
    if not own:
        pytest.skip(f"Linux {os.uname().release} gives no slices: that begins with 6.12")


def slices(start: Any, policy: Policy) -> list[int]:
    """Those of all threads of a worker, in nanoseconds."""
    worker = start("wait", policy, args={"threads": 2})
    assert worker.wire.recv(6) == b"ready\n"
    select.select([worker.spawned.status_fd], [], [], WAIT_S)
    worker.spawned.read_status()
    threads = Path(f"/proc/{worker.spawned.worker_pid}/task").iterdir()
    return [slice_of(int(each.name)) for each in threads]


def test_a_front_has_the_slice_of_its_profile(start: Any) -> None:
    policy = Policy.load("front")
    assert policy.slice_us == 100
    assert slices(start, policy) == [1000 * policy.slice_us] * 3


def test_who_asks_for_none_has_that_of_everybody(start: Any) -> None:
    policy = Policy.load("network")
    assert policy.slice_us == 0
    assert slices(start, policy) == [slice_of(0)] * 3
