"""What others leave us: the rules on written counters, and real hogs on this box."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clawai.kernel.steward import container
from clawai.kernel.steward.container import MemoryLimit
from clawai.kernel.steward.pressure import RESERVE, Watch
from support import no_leak, wait_until

SECOND = 1_000_000_000
MIB = 1 << 20
TOTAL = 8192 * MIB
TICKS = os.sysconf("SC_CLK_TCK")
CORES = 4


class Box:
    """A /proc of counters that a test moves, and a clock."""

    def __init__(self, folder: Path, budget: int = 4096 * MIB, cores: float = CORES) -> None:
        self.folder = folder
        self.now = 0
        self.total = {"user": 0.0, "steal": 0.0}
        self.processes: dict[int, float] = {}
        self.memory: dict[int, tuple[int, int]] = {}
        self.free, self.shared, self.stalled_us = TOTAL, 0, 0
        (folder / "pressure").mkdir()
        self.watch = Watch(budget, lambda: list(self.processes), folder, cores, limit=None)
        self.write()

    def write(self) -> None:
        """Put the counters where the watch reads them; in place, as its files stay open."""
        user, steal = (int(self.total[key] * TICKS) for key in ("user", "steal"))
        idle = int(self.now / SECOND * CORES * TICKS) - user - steal
        (self.folder / "stat").write_text(
            f"cpu  {user} 0 0 {max(0, idle)} 0 0 0 {steal} 0 0\ncpu0 1 2 3\n"
        )
        kib = {"MemTotal": TOTAL, "MemAvailable": self.free, "Shmem": self.shared}
        lines = [f"{key}: {value // 1024} kB\n" for key, value in kib.items()]
        (self.folder / "meminfo").write_text("".join(lines))
        (self.folder / "pressure" / "memory").write_text(
            f"some avg10=0.00 total=9\nfull avg10=0.00 total={self.stalled_us}\n"
        )
        for pid, used in self.processes.items():
            own = self.folder / str(pid)
            own.mkdir(exist_ok=True)
            fields = ["S", *["0"] * 10, str(int(used * TICKS)), "0", *["0"] * 20]
            (own / "stat").write_text(f"{pid} (a ) b) {' '.join(fields)}\n")
            private, mapped = self.memory.get(pid, (0, 0))
            (own / "status").write_text(
                f"RssAnon: {private // 1024} kB\nRssShmem: {mapped // 1024} kB\n"
            )

    def run(
        self,
        seconds: float,
        ours: float = 0.0,
        others: float = 0.0,
        steal: float = 0.0,
        stall: float = 0.0,
    ) -> list[tuple[float, int]]:
        """Let time pass with so many processors used; what was told meanwhile."""
        told = []
        step = SECOND // 8
        for _ in range(round(seconds * 8)):
            self.now += step
            self.total["user"] += (ours + others) / 8
            self.total["steal"] += steal / 8
            self.stalled_us += int(stall * 1e6 / 8)
            for pid in self.processes:
                self.processes[pid] += ours / 8 / len(self.processes)
            self.write()
            due = self.watch.next_timer()
            if due is not None and due <= self.now and (found := self.watch.look(self.now)):
                told.append(found)
        return told


@pytest.fixture
def box(tmp_path: Path):
    with no_leak():
        made = Box(tmp_path)
        made.watch.attend(True, 0)
        yield made
        made.watch.close()


def test_a_quiet_box_is_all_ours(box: Box):
    box.processes = {7: 0.0, 8: 0.0}
    assert box.run(5, ours=3.9, others=0.1) == []
    assert box.watch.told == (4, 4096 * MIB)


def test_a_hog_is_told_within_a_second_and_given_back(box: Box):
    box.processes = {7: 0.0}
    box.run(2, ours=2)
    assert box.run(1, ours=2, others=2)[-1] == (2, 4096 * MIB)
    assert box.run(3, ours=2, others=2) == []
    assert box.run(1.5, ours=2)[-1] == (4, 4096 * MIB)


def test_stolen_time_is_not_ours(box: Box):
    box.processes = {7: 0.0}
    assert box.run(2, ours=1, steal=1)[-1][0] == 3


def test_one_thread_is_always_ours(box: Box):
    assert box.run(5, others=4)[-1][0] == 1


def test_less_than_a_core(tmp_path: Path):
    box = Box(tmp_path, cores=0.5)
    box.watch.attend(True, 0)
    box.run(5, others=1)
    assert box.watch.told[0] == 0.5
    box.watch.close()


def test_noise_changes_nothing(box: Box):
    """Half a second of work now and then is no hog."""
    box.processes = {7: 0.0}
    for _ in range(6):
        assert box.run(1.5, ours=1, others=0.2) == []
        assert box.run(0.25, ours=1, others=1) == []


def test_a_new_worker_is_not_a_hog(box: Box):
    """Its processor time from before we knew it belongs to nobody else's account."""
    box.processes = {7: 0.0}
    box.run(1, ours=1)
    box.processes[8] = 500.0
    assert box.run(2, ours=3.5) == []
    del box.processes[7]
    assert box.run(2, ours=3.5) == []


def test_a_memory_hog_is_told_at_once_and_given_back_when_it_lasts(box: Box):
    box.processes = {7: 0.0}
    box.memory = {7: (512 * MIB, 256 * MIB)}
    box.free, box.shared = 4500 * MIB, 300 * MIB
    assert box.run(1, ours=1) == []
    box.free = 1000 * MIB
    (_, memory), *rest = box.run(0.5, ours=1)
    assert memory == (1768 * MIB - int(TOTAL * RESERVE)) // MIB * MIB
    assert rest == []
    box.free = 6000 * MIB
    assert box.run(0.5, ours=1) == []
    assert box.run(0.5, ours=1) == [(4, 4096 * MIB)]


def test_shared_pages_count_once(box: Box):
    """Two workers that map the same weights do not hold them twice."""
    box.processes = {7: 0.0, 8: 0.0}
    box.memory = {7: (0, 1024 * MIB), 8: (0, 1024 * MIB)}
    box.free, box.shared = 1024 * MIB, 1024 * MIB
    _, memory = box.run(0.5)[-1]
    assert memory == (2048 * MIB - int(TOTAL * RESERVE)) // MIB * MIB


def test_a_box_that_stalls_for_memory_is_cut_further(box: Box):
    box.free = 1200 * MIB
    before = box.run(1)[-1][1]
    stalled = box.run(3, stall=0.5)[-1][1]
    assert before // 2 <= stalled < before * 9 // 10
    calm = box.run(20)[-1][1]
    assert calm > stalled


def test_a_stall_with_memory_left_is_somebody_elses(box: Box):
    """Another container at its own limit stalls, and we have room."""
    box.free = 3000 * MIB
    box.run(1)
    assert box.run(3, stall=0.9) == []


def test_attention(box: Box):
    """Without workers nothing is read; while they are idle it is read once a second."""
    box.free = 1000 * MIB
    box.watch.attend(False, box.now)
    assert box.watch.next_timer() is None
    assert box.run(3, others=4) == []
    assert not box.watch._files
    box.watch.attend(True, box.now)
    box.watch.attend(True, box.now)
    ((cores, memory),) = box.run(1)
    assert cores == CORES and memory < 1000 * MIB
    box.run(1)
    due = box.watch.next_timer()
    assert due is not None and due - box.now > SECOND // 4
    box.processes = {7: 0.0}
    box.run(1, ours=1)
    due = box.watch.next_timer()
    assert due is not None and due - box.now <= SECOND // 4


def test_memory_that_comes_back_is_told_although_no_worker_lives(box: Box):
    """The last worker had to go for it, and tasks wait: nobody else would look again."""
    box.free = 100 * MIB
    assert box.run(1)[-1][1] < 100 * MIB
    box.watch.attend(False, box.now)
    assert box.watch.next_timer() is not None
    assert box.run(2) == []
    box.free = TOTAL
    assert box.run(6)[-1][1] == 4096 * MIB
    box.watch.attend(False, box.now)
    assert box.watch.next_timer() is None


def test_a_box_without_pressure_files(box: Box):
    (box.folder / "pressure" / "memory").unlink()
    box.free = 1000 * MIB
    assert len(box.run(1)) == 1


def test_the_limit_of_a_container_counts(tmp_path: Path):
    usage, details = tmp_path / "usage", tmp_path / "details"
    usage.write_text(f"{900 * MIB}\n")
    details.write_text(f"cache 5\ntotal_inactive_file {100 * MIB}\n")
    limit = MemoryLimit(1024 * MIB, usage, details)
    assert limit.room() == 224 * MIB
    usage.unlink()
    details.unlink()
    assert limit.room() == 1024 * MIB
    (tmp_path / "box").mkdir()
    box = Box(tmp_path / "box")
    box.watch.limit = limit
    box.watch.attend(True, 0)
    assert box.run(0.5)[-1][1] == (1024 * MIB - int(TOTAL * RESERVE)) // MIB * MIB
    box.watch.close()


def test_this_box():
    assert 0 < container.available_cores() <= len(os.sched_getaffinity(0))
    limit = container.memory_limit()
    assert limit is None or limit.room() >= 0


BURN = "while True: pass"
HOLD = """
import sys
held = bytearray(300 << 20)
held[::4096] = b"x" * len(held[::4096])
print("held", flush=True)
sys.stdin.read()
"""


def looks(*watches: Watch) -> None:
    """One look of each, at nearly the same moment."""
    for watch in watches:
        due = watch.next_timer()
        assert due is not None
        time.sleep(max(0, due - time.monotonic_ns()) / 1e9)
        watch.look(time.monotonic_ns())


def test_a_real_hog_of_the_processor():
    """The same process counts as ours in one watch and as a stranger in the other."""
    burner = subprocess.Popen([sys.executable, "-c", BURN])
    with_it = Watch(1 << 40, lambda: [os.getpid(), burner.pid])
    without = Watch(1 << 40, lambda: [os.getpid()])
    try:
        for watch in (with_it, without):
            watch.attend(True, time.monotonic_ns())

        def seen() -> bool:
            looks(with_it, without)
            return without.outside > with_it.outside + 0.15

        wait_until(seen, "a hog is seen only where it is a stranger")
    finally:
        burner.kill()
        burner.wait()
        with_it.close()
        without.close()


def test_a_real_hog_of_memory():
    hog = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with_it = Watch(1 << 50, lambda: [os.getpid(), hog.pid])
    without = Watch(1 << 50, lambda: [os.getpid()])
    try:
        assert hog.stdout and hog.stdout.readline() == b"held\n"
        for watch in (with_it, without):
            watch.attend(True, time.monotonic_ns())
        looks(with_it, without)
        assert with_it.told[1] - without.told[1] > 200 * MIB
    finally:
        hog.communicate()
        with_it.close()
        without.close()


def test_looking_is_cheap(capsys: pytest.CaptureFixture[str]):
    """Printed, not judged: `python -m clawai.kernel.steward.pressure` tells it on a quiet box."""
    from clawai.kernel.steward import pressure

    pressure.main(1.0)
    said = capsys.readouterr().out
    assert "looks" in said and "% of a core" in said
    with capsys.disabled():
        print(f"\n{said.splitlines()[-1]}")
