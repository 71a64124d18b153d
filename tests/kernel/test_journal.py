"""The event journal: what is in it, that it replays, and that it is refused when it was forged."""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clawai.kernel import events as ev
from clawai.kernel.journal import BATCH, QUIET, Journal
from clawai.kernel.limits import SECOND
from clawai.kernel.recorder.ring import Ring
from clawai.kernel.replay import thaw
from clawai.kernel.replay.code import ours
from clawai.kernel.replay.files import MAGIC, packed, parts, read, segments
from clawai.kernel.replay.freeze import head, snapshot
from clawai.kernel.replay.run import Replay
from clawai.kernel.sim.check import check
from clawai.kernel.sim.scenario import read as scenario
from clawai.kernel.sim.world import World
from clawai.sdk import wire
from clawai.sdk.errors import ClawError
from core_bench import WIDE, Bench, output


class Kept:
    """In the recorder's place: keeps what it is told, as one journal."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.begun = 0
        self.refuses = False

    def send(self, name: str, *data: bytes) -> bool:
        if self.refuses:
            return False
        if name == "begin":
            self.begun += 1
            self.data += MAGIC + packed(data[0]) + packed(data[1])
        elif name == "events":
            self.data += data[0]
        return True


class Tapped:
    """A core whose every event is journalled, as the daemon does it."""

    def __init__(self, core: Any, kept: Any, together: int = 1) -> None:
        self.core = core
        self.together = together
        """Events that are written down together, as those of one round are."""
        self.journal = Journal(core, (), kept.send, on=True)
        kept.send("begin", head(0, 0, 0), snapshot(core))
        self.journal.on, self.journal.due = True, SECOND

    def handle(self, event: ev.Event, now: int) -> list[ev.Instruction]:
        told = self.core.handle(event, now)
        self.journal.note(event, now, told)
        if len(self.journal.noted) == self.together:
            self.journal.write()
        return told

    def __getattr__(self, name: str) -> Any:
        return getattr(self.core, name)


def simulated(name: str, seed: int, tasks: int, kept: Any) -> Journal:
    """A whole run of a scenario, journalled."""
    world = World(scenario(name), seed, tasks)
    world.core = tapped = Tapped(world.core, kept, together=3)  # type: ignore[assignment]
    world.run()
    tapped.journal.flush(1 << 60)
    return tapped.journal


def replayed(path: Path, *words: str, seed: str = "1") -> dict[str, Any]:
    """What the program says of a journal, under another order of sets and dicts than ours."""
    command = [sys.executable, "-m", "clawai.kernel.replay", "--json", *words, str(path)]
    env = os.environ | {"PYTHONHASHSEED": seed}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if found.get("same") else 1)
    return found


@pytest.mark.parametrize("name", ["chaos", "rush-hour", "memory-squeeze"])
def test_a_run_with_faults_replays_bit_for_bit(name: str, tmp_path: Path) -> None:
    kept = Kept()
    journal = simulated(name, 3, 1500, kept)
    path = tmp_path / "run.journal"
    path.write_bytes(kept.data)
    for seed in ("1", "77"):
        found = replayed(path, seed=seed)
        assert found["same"], found
        assert found["events"] == found["last"] == journal.number > 1500
        assert found["checksum"] == f"{journal.sum:08x}"


def test_a_ring_that_has_wrapped_replays(tmp_path: Path) -> None:
    said: list[tuple[str, str]] = []

    class Ringed(Kept):
        def __init__(self) -> None:
            super().__init__()
            self.ring = Ring(tmp_path, 4 * BATCH, 3, lambda *line: said.append(line))

        def send(self, name: str, *data: bytes) -> bool:
            if name == "begin":
                self.ring.begin(data[0], data[1])
            else:
                self.ring.add(data[0])
            if self.ring.child and (name == "begin" or len(segments(tmp_path)) > 5):
                self.ring.child.wait()
                assert self.ring.reap()
            return True

    kept = Ringed()
    journal = simulated("chaos", 5, 6000, kept)
    while kept.ring.child:
        kept.ring.child.wait()
        assert kept.ring.reap()
    kept.ring.close()
    found = segments(tmp_path)
    assert list(found.values()) == [True] * 3
    assert min(found) > 3, "it has wrapped"
    result = replayed(tmp_path, seed="42")
    assert result["same"], result
    assert result["last"] == journal.number > result["events"]
    assert result["checksum"] == f"{journal.sum:08x}"
    # Each segment by itself too.
    alone = replayed(tmp_path / f"{min(found):08}.events", seed="43")
    assert alone["same"]
    assert alone["events"] < result["events"]
    assert not said


def test_a_difference_is_found_where_it_is(tmp_path: Path) -> None:
    kept = Kept()
    journal = simulated("quiet-office", 1, 200, kept)
    entries = read_entries(kept.data)
    chosen = next(n for n, e in enumerate(entries) if e[2][0] == "Submitted" and n > 50)
    entries[chosen][0] += 3600 * SECOND  # as if the core had been given another time
    start = bytes(kept.data[: len(kept.data) - sum(4 + len(e) for e in raw_entries(kept.data))])
    path = tmp_path / "other.journal"
    path.write_bytes(start + b"".join(packed(msgspec.msgpack.encode(e)) for e in entries))
    found = replayed(path)
    assert not found["same"]
    assert chosen + 1 <= found["difference"]["number"] <= journal.number
    assert "in the field: " in found["difference"]["text"]
    assert found["difference"]["events"][-1]["told"]


def raw_entries(data: bytes) -> list[bytes]:
    at, found = len(MAGIC), []
    for _ in range(2):
        at += 4 + int.from_bytes(data[at : at + 4], "little")
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        found.append(bytes(data[at + 4 : at + 4 + size]))
        at += 4 + size
    return found


def read_entries(data: bytes) -> list[Any]:
    return [msgspec.msgpack.decode(entry) for entry in raw_entries(data)]


SECRET = ev.Hidden(wire.pack({"prompt": "s3cret"}), (b"pl4yload",))
SECRETS = ("s3cret", "pl4yload", "r3sult", "ch0nk", "n0te", "g0t", "h1nt", "wh4t")


def secretive(bench: Bench, journal: Journal, tapped: Tapped) -> None:
    """Everything that a person or a plugin can write, with a secret in it."""
    bench.core = tapped  # type: ignore[assignment]
    bench.submit(1, body=SECRET)
    worker = bench.ready()
    task = next(iter(bench.core.state.tasks))
    for message in (
        wire.Progress(id=task, state="n0te", note="n0te"),
        wire.Chunk(id=task, data=wire.pack("ch0nk")),
        wire.Done(id=task, result=wire.pack("r3sult"), timings={"compute_us": 3, "wh4t": 5}),
    ):
        bench.do(output(worker, message, (b"ch0nk",)))
    bench.submit(2)
    error = wire.Error(
        id=next(iter(bench.core.state.tasks)), code="worker_failed", message="wh4t",
        got=wire.pack({"g0t": 1}), allowed=wire.pack(["g0t"]), hint="h1nt",
    )  # fmt: skip
    bench.do(output(worker, error))
    bench.submit(3)
    bench.do(ev.WorkerGone(worker, "killed by SIGSEGV"))
    bench.pass_time(5 * SECOND)
    bench.submit(4, WIDE, body=SECRET)
    wide = bench.core.state.services[WIDE.key].worker
    assert wide
    unready = wire.Unready(
        incarnation=wide.id, code="bad_model", message="wh4t", got="g0t", hint="h1nt"
    )
    bench.do(ev.WorkerUnready(wide.id, ev.Hidden(unready)))


def test_headers_only(tmp_path: Path) -> None:
    bench, kept = Bench(), Kept()
    tapped = Tapped(bench.core, kept)
    secretive(bench, tapped.journal, tapped)
    bench.submit(9, body=SECRET)
    tapped.journal.lose()
    bench.pass_time(20 * SECOND)  # so that a snapshot of all this is in it too
    tapped.journal.flush(bench.now)
    assert kept.begun == 2
    for secret in SECRETS:
        assert secret.encode() not in kept.data, secret
    path = tmp_path / "secret.journal"
    path.write_bytes(kept.data)
    found = replayed(path)
    assert found["same"], found
    assert found["runs"] == 2


@pytest.mark.parametrize("together", [1, 4])
def test_what_is_lost_begins_again_and_says_nothing_false(tmp_path: Path, together: int) -> None:
    bench, kept = Bench(), Kept()
    tapped = Tapped(bench.core, kept, together)
    bench.core = tapped  # type: ignore[assignment]
    bench.submit(1)
    tapped.journal.flush(bench.now)
    kept.refuses = True
    bench.submit(2)
    bench.pass_time(30 * SECOND)
    tapped.journal.write()
    assert not tapped.journal.on
    kept.refuses = False
    bench.ready()
    bench.pass_time(30 * SECOND)
    bench.submit(3)
    tapped.journal.flush(bench.now)
    path = tmp_path / "gap.journal"
    path.write_bytes(kept.data)
    found = replayed(path)
    assert found["same"], found
    assert found["runs"] == 2


def test_it_does_not_begin_while_many_wait() -> None:
    bench, kept = Bench(), Kept()
    tapped = Tapped(bench.core, kept)
    bench.core = tapped  # type: ignore[assignment]
    tapped.journal.lose()
    tapped.journal.due = 0
    for request in range(QUIET + 1):
        tapped.journal.due = 1 << 62
        bench.submit(request, client=1 + request // 100)
    tapped.journal.due = 0
    bench.submit(9999, client=99)
    assert not tapped.journal.on
    for request in range(100):
        bench.do(ev.CancelAsked(1, request))
    assert tapped.journal.on
    assert kept.begun == 2


def test_a_core_that_breaks_again(tmp_path: Path) -> None:
    bench, kept = Bench(), Kept()
    tapped = Tapped(bench.core, kept)
    bench.core = tapped  # type: ignore[assignment]
    bench.submit(1)
    name = tapped.journal.crash(ev.MemoryGone(99), bench.now)
    assert re.fullmatch(r"crash-[\d-]+\.journal", name)
    path = tmp_path / name
    path.write_bytes(kept.data)
    found = replayed(path)
    assert found["same"]
    assert found["broke"].startswith("KeyError")


class Evil:
    """What a pickle can do when it is loaded."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("/tmp/claw-this-must-not-be",)


@pytest.mark.parametrize(
    "thing",
    [Evil(), [Evil()], print, os.path.join, subprocess.Popen, thaw.core, Path("x"), {"a": 1}, 7],
)
def test_a_forged_snapshot_is_refused(thing: Any) -> None:
    with pytest.raises(ClawError) as caught:
        thaw.core(pickle.dumps(thing))
    assert caught.value.code == "bad_config"
    assert not Path("/tmp/claw-this-must-not-be").exists()


@pytest.mark.parametrize("name", ["Core.handle", "_timer", "ev.Timer", "Any", "nothing"])
def test_a_snapshot_names_classes_of_the_core_only(name: str) -> None:
    forged = b"\x80\x04cclawai.kernel.core\n" + name.encode() + b"\n."
    with pytest.raises(ClawError) as caught:
        thaw.core(forged)
    assert "which no core is made of" in caught.value.message


def test_a_snapshot_is_the_core_again() -> None:
    bench = Bench()
    bench.submit(1)
    bench.submit(2, WIDE, deadline=3 * SECOND)
    worker = bench.ready()
    other = thaw.core(snapshot(bench.core))
    check(other)
    for event in (ev.WorkerAnswered(worker), ev.Timer(), ev.ClientLeft(1), ev.ShutdownAsked()):
        bench.now += 5 * SECOND
        assert list(map(type, other.handle(event, bench.now))) == list(map(type, bench.do(event)))
        check(other)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {"Submitted": [1, 2]},
        ["Submitted"],
        ["Submitted", *[None] * 40],
        ["Output", 1, 2, "made up", None],
        ["Output", 1, "2", "done", None],
        ["Output", 1, 2, "done", msgspec.msgpack.Ext(2, b"os.system")],
        ["WorkerReady", "x", 1],
        ["Pressure", "a", 2],
        ["Spec", "a", "", 1, 1, 1],
        ["Reply", 1, None],
        ["Core"],
        ["__builtins__"],
    ],
)
def test_a_forged_event_is_refused(value: Any) -> None:
    with pytest.raises(ClawError) as caught:
        thaw.event(msgspec.msgpack.encode(value))
    assert caught.value.code == "bad_config"


def test_a_journal_cut_anywhere_is_read_to_there(tmp_path: Path) -> None:
    kept = Kept()
    simulated("quiet-office", 2, 30, kept)
    whole = list(read([_file(tmp_path, kept.data)]))
    entries = raw_entries(kept.data)
    start = len(kept.data) - sum(4 + len(entry) for entry in entries)
    for cut in range(start, len(kept.data), 97):
        found = list(read([_file(tmp_path, kept.data[:cut])]))
        assert found == whole[: len(found)]
    for cut in range(0, start, 211):
        assert list(read([_file(tmp_path, kept.data[:cut])])) == []


def _file(folder: Path, data: bytes | bytearray) -> Path:
    path = folder / "cut.journal"
    path.write_bytes(data)
    return path


def test_noise_is_refused(tmp_path: Path) -> None:
    kept = Kept()
    simulated("quiet-office", 2, 30, kept)
    start = len(kept.data) - sum(4 + len(entry) for entry in raw_entries(kept.data))
    for noise in (b"\xff" * 64, b"\x05\0\0\0hello" * 9, b"\x01\0\0\0\xc1", os.urandom(1 << 16)):
        for data in (noise, bytes(kept.data[:start]) + noise):
            path = _file(tmp_path, data)
            try:
                list(Replay().steps(read([path])))
            except ClawError as error:
                assert error.code == "bad_config"


def test_another_version_of_the_core_is_told(tmp_path: Path) -> None:
    kept = Kept()
    simulated("quiet-office", 2, 30, kept)
    path = _file(tmp_path, kept.data)
    assert replayed(path)["same_code"]
    path.write_bytes(kept.data.replace(ours().encode(), b"0" * 16))
    assert not replayed(path)["same_code"]


def test_a_folder_without_a_journal_says_so(tmp_path: Path) -> None:
    with pytest.raises(ClawError) as caught:
        parts(tmp_path)
    assert caught.value.code == "bad_params"


def test_a_segment_that_does_not_replay_is_kept_and_told(tmp_path: Path) -> None:
    kept, said = Kept(), []
    simulated("quiet-office", 4, 60, kept)
    entries = read_entries(kept.data)
    entries[-1][1][0] ^= 1  # another checksum than the core comes to
    data = b"".join(packed(msgspec.msgpack.encode(entry)) for entry in entries)
    ring = Ring(tmp_path, len(data), 2, lambda *line: said.append(line))
    blocks = [snapshot_block(kept.data, place) for place in (0, 1)]
    ring.begin(*blocks)
    ring.add(data)
    assert ring.child
    ring.child.wait()
    assert not ring.reap()
    ((level, text),) = said
    assert level == "error"
    (different,) = tmp_path.glob("different-*.journal")
    assert str(different) in text
    assert replayed(different)["difference"]["number"] == len(entries)
    ring.lose()
    ring.begin(*blocks)
    ring.add(data)
    assert ring.child, "the new chain is looked at, the broken one is not again"
    ring.close()
    ring.crash("../outside.journal")
    assert not (tmp_path.parent / "outside.journal").exists()


def snapshot_block(data: bytes | bytearray, place: int) -> bytes:
    """Head (0) or snapshot (1) of a journal."""
    at = len(MAGIC)
    for _ in range(place):
        at += 4 + int.from_bytes(data[at : at + 4], "little")
    return bytes(data[at + 4 : at + 4 + int.from_bytes(data[at : at + 4], "little")])
