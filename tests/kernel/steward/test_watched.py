"""The running kernel notices who else uses the box, and the means of preemption that it has."""

import os
import subprocess
import sys
from pathlib import Path

from clawai.kernel.steward.means import PREFIX, own_folder
from support import Kernel, wait_until

MIB = 1 << 20
AUTO = '[preemption]\nmeans = "auto"\n'
HOLD = """
import sys
held = bytearray(300 << 20)
held[::4096] = b"x" * len(held[::4096])
print("held", flush=True)
sys.stdin.read()
"""


def available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no MemAvailable")


def test_a_hog_of_memory_is_told_while_there_are_workers(start_kernel):
    """The budget is a little less than what is there, until somebody else takes 300 MiB of it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    budget = (available() - total // 50) // MIB - 100
    kernel = start_kernel(config=f'[memory]\nbudget_mib = {budget}\n[log]\nlevel = "debug"\n')
    with kernel.client() as client:
        assert client.call("echo.say", {"text": "x"}).value == "x"
        hog = subprocess.Popen(
            [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            assert hog.stdout and hog.stdout.readline() == b"held\n"
            wait_until(lambda: "others leave us" in kernel.log(), "the loss is told")
            assert client.call("echo.say", {"text": "y"}).value == "y"
        finally:
            hog.communicate()


def folders() -> set[str]:
    base = own_folder("cgroup1")
    if base is None or not base.is_dir():
        return set()
    return {path.name for path in base.iterdir() if path.name.startswith(PREFIX)}


def report(kernel: Kernel) -> dict:
    """What the kernel says of its ladder, once it knows."""
    with kernel.client() as client:
        found = wait_until(lambda: client.query("status").get("preemption"), "a verdict")
    kernel._clients.pop()
    return found


def test_bulk_workers_are_lowered_and_others_are_not(start_kernel):
    kernel = start_kernel(config=AUTO)
    with kernel.client() as client:
        client.call("echo.say", {"text": "x"})
        client.call("echo.say", {"text": "x"}, priority="batch")

        def known():
            found = {w["lane"]: w["pid"] for w in client.query("workers")["workers"]}
            return found if all(found.values()) else None

        # A worker may answer before its launcher has said which process it is.
        workers = wait_until(known, "a process for each worker")
    assert set(workers) == {"main", "bulk"}
    kind = report(kernel)["means"]["kind"]
    group = {lane: Path(f"/proc/{pid}/cgroup").read_text() for lane, pid in workers.items()}
    session = {lane: os.getsid(pid) for lane, pid in workers.items()}
    if kind == "none":  # nothing works here, and `claw doctor` says so
        return
    assert session["main"] != session["bulk"]
    if kind.startswith("cgroup"):
        assert f"/{PREFIX}{kernel.pid}\n" in group["bulk"]
        assert PREFIX not in group["main"] or kind == "cgroup2"
    if kind == "autogroup":
        weights = {
            lane: Path(f"/proc/{pid}/autogroup").read_text() for lane, pid in workers.items()
        }
        assert weights["bulk"].split()[-1] == "19"
        assert weights["main"].split()[-1] == "0"


def test_without_means_all_share_one_session(start_kernel):
    kernel = start_kernel(config='[preemption]\nmeans = "none"\n')
    with kernel.client() as client:
        client.call("echo.say", {"text": "x"})
        client.call("echo.say", {"text": "x"}, priority="batch")

        def workers() -> list[int]:
            return [w["pid"] for w in client.query("workers")["workers"]]

        # An answer may come before the pid of who gave it: 0, which would be this process.
        wait_until(lambda: all(workers()), "the pids of the workers are known")
        pids = workers()
    assert len(pids) == 2
    assert len({os.getsid(pid) for pid in (*pids, kernel.pid)}) == 1
    assert report(kernel)["means"]["kind"] == "none"


def test_no_group_stays_behind(start_kernel):
    kernel = start_kernel(config=AUTO)
    report(kernel)
    kernel.stop()
    assert f"{PREFIX}{kernel.pid}" not in folders()


def test_what_a_killed_kernel_leaves_is_removed_by_the_next(start_kernel):
    killed = start_kernel(config=AUTO)
    report(killed)
    killed.stop(9)
    killed.check_gone()
    following = start_kernel(config=AUTO)
    report(following)
    assert f"{PREFIX}{killed.pid}" not in folders()
