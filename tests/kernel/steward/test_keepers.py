"""Weights that are locked in memory: by a process of their own, until they are dropped."""

import os
import resource
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clawai.kernel import limits
from clawai.kernel.loop import Loop
from clawai.kernel.steward.keepers import Keepers
from clawai.kernel.steward.log import LogFile
from clawai.kernel.steward.memory import create
from clawai.sandbox import syscalls as sc
from steward_parts import WEIGHTS
from support import Kernel, memory_kib, no_leak, parent_of, wait_until

SIZE = 4 * limits.MIB
PR_SET_DUMPABLE = 4


class Kept:
    """Keepers, driven by hand."""

    def __init__(self, folder: Path) -> None:
        self.loop = Loop(lambda _: None)
        self.path = folder / "log"
        self.log = LogFile(self.path, "debug", limits.MIB, False)
        self.log.write("info", "it begins")
        self.keepers = Keepers(self.loop, self.log, on=True)

    def keep(self, number: int, size: int = SIZE) -> str:
        """Keep an object of zeros; what is logged about that."""
        before = self.path.read_text()
        fd = create("claw-weights", size)
        os.posix_fallocate(fd, 0, size)
        self.keepers.keep(number, fd)
        os.close(fd)
        wait_until(lambda: self.loop.turn(0.05) or self.path.read_text() != before, "it is logged")
        return self.path.read_text()[len(before) :]

    def close(self) -> None:
        self.keepers.close()
        self.log.close()
        self.loop.poller.close()


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    with no_leak():
        found = Kept(tmp_path)
        yield found
        found.close()


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_an_object_is_locked_until_it_is_dropped(kept: Kept) -> None:
    assert "weights 1 are locked: 4 MiB" in kept.keep(1)
    pid = kept.keepers.pids[1]
    assert memory_kib(pid, "VmLck") == SIZE // 1024
    assert Path(f"/proc/{pid}/comm").read_text() == "claw-keeper\n"
    held = Path(f"/proc/{pid}/fd")
    wait_until(lambda: len(list(held.iterdir())) == 1, "it has nothing else of the steward's")
    kept.keepers.release(1)
    assert gone(pid)
    kept.keepers.release(1)


def test_each_has_its_own_and_all_end_together(kept: Kept) -> None:
    kept.keep(1)
    kept.keep(2)
    pids = list(kept.keepers.pids.values())
    kept.keepers.close()
    assert all(map(gone, pids))


def test_a_keeper_that_dies_is_no_harm(kept: Kept) -> None:
    kept.keep(1)
    os.kill(kept.keepers.pids[1], signal.SIGKILL)
    kept.keepers.release(1)
    assert "weights 2 are locked" in kept.keep(2)


def test_nobody_asked_for_it(kept: Kept) -> None:
    kept.keepers.on = False
    fd = create("claw-weights", SIZE)
    kept.keepers.keep(1, fd)
    os.close(fd)
    assert not kept.keepers.pids


def in_a_child(act: Callable[[], bool]) -> bool:
    """Whether ``act`` says so in a process that we can spoil."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = not act()
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0


def test_where_it_is_not_permitted_that_is_logged_with_the_limit(tmp_path: Path) -> None:
    def forbidden() -> bool:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 20, 1 << 20))
        if os.geteuid() == 0:
            os.chown(tmp_path, 65533, -1)
            for folder in tmp_path.parents:
                if Path(tempfile.gettempdir()) in folder.parents:
                    folder.chmod(0o755)
            os.setresuid(65533, 65533, 65533)
            sc.prctl(PR_SET_DUMPABLE, 1)
        kept = Kept(tmp_path)
        said = kept.keep(1)
        kept.close()
        return "weights 1 are not locked: mlock: " in said and "the limit is 1024 KiB" in said

    assert in_a_child(forbidden)


def keepers(kernel: Kernel) -> list[int]:
    """The processes of a daemon that do nothing but hold weights."""
    steward, found = kernel.steward(), []
    for pid in (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
        try:
            name = Path(f"/proc/{pid}/comm").read_text()
        except OSError:
            continue
        if name == "claw-keeper\n" and parent_of(pid) == steward:
            found.append(pid)
    return found


def test_the_daemon_keeps_the_weights_of_a_worker(start_kernel: Callable[..., Kernel]) -> None:
    kernel = start_kernel('device = "keeps"\n', start=False)
    profile = kernel.config.parent / "devices" / "keeps.json"
    profile.parent.mkdir(parents=True)
    profile.write_text(
        '{"name": "keeps", "description": "d", "up_to_gib": 1, "lock_weights": true}'
    )
    kernel.plugin("w", WEIGHTS, {"w.look": ""})
    kernel.start()
    client = kernel.client()
    assert client.call("w.look").value == [1, True, b"once"]
    wait_until(lambda: "are locked: 4 MiB" in kernel.log(), "they are locked")
    (keeper,) = keepers(kernel)
    assert memory_kib(keeper, "VmLck") == SIZE // 1024
    client.admin("unload", "w")
    wait_until(lambda: gone(keeper), "the keeper ends with the object")
