"""Boxes that ship to one another: two kernels, a collector and agents, over real CURVE."""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest
import zmq

from boxes_kit import Collecting, Peer, Shipping, claw, collecting, key
from clawai.sdk.boxes import wire
from clawai.sdk.boxes.collector import MEMORY
from clawai.sdk.errors import ClawError
from support import Kernel, memory_kib, no_leak, wait_until

TALK = '''
from clawai.sdk import Context, operation

@operation("talk.say")
def say(ctx: Context, first: int, count: int) -> None:
    """Write lines to the log."""
    for number in range(first, first + count):
        ctx.log("info", f"word {number}")
'''


@pytest.fixture
def one() -> Iterator[Kernel]:
    """The folders of a box that collects; no kernel runs in it."""
    kernel = Kernel()
    yield kernel
    kernel.remove()


@pytest.fixture
def two() -> Iterator[Kernel]:
    """Another box, with a kernel that runs."""
    kernel = Kernel()
    kernel.plugin("talk", TALK, {"talk.say": ""})
    try:
        with no_leak():
            yield kernel.start()
            assert kernel.stop() == 0
    finally:
        kernel.remove()


def talk(kernel: Kernel, first: int, count: int) -> None:
    with_ = kernel.client()
    with_.call("talk.say", {"first": first, "count": count})


def log(kernel: Kernel) -> list[str]:
    return kernel.log_file.read_text().splitlines()


def successor(where: Collecting) -> int:
    """What the command has started after it died."""
    parent = where.process.pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return next((int(pid) for pid in children if int(pid) != where.pid), 0)


def same(where: Collecting, kernel: Kernel) -> bool:
    return where.lines("two") == log(kernel)


def test_a_box_ships_its_whole_log_and_how_it_is(one: Kernel, two: Kernel) -> None:
    talk(two, 0, 50)
    with collecting(one) as where:
        claw(one.env, "boxes", "add", "two", key(two.env))
        agent = Shipping(two.env, where)
        wait_until(lambda: same(where, two), "all lines are there", 20)
        talk(two, 50, 50)
        wait_until(lambda: same(where, two), "the new ones, too")
        wait_until(lambda: where.rows()["two"]["busy"] is not None, "two figures")
        row = where.rows()["two"]
        status = two.client().query("status")
        assert row["heard"] and row["kernel"] and abs(row["ahead_s"]) < 2
        assert row["budget_bytes"] == status["budget_bytes"] and row["workers"] == 1
        assert row["lines"] == len(log(two)) and row["lost"] == 0 and row["lost_whole"]
        assert "two" in claw(one.env, "boxes")
        # The kernel goes, and its last words are shipped all the same.
        assert two.stop() == 0
        two.check_gone()
        wait_until(lambda: same(where, two), "its last words")
        wait_until(lambda: not where.rows()["two"]["kernel"], "it is said that there is no kernel")
        two.start()
        wait_until(lambda: where.rows()["two"]["kernel"], "the next one is found")
        assert agent.stop() == 130
        assert "ships as two" in agent.said() and "no longer" not in agent.said()


def test_kills_at_any_moment_double_nothing_and_lose_nothing(one: Kernel, two: Kernel) -> None:
    claw(one.env, "boxes", "add", "two", key(two.env))
    with collecting(one) as where:
        agents = [Shipping(two.env, where)]
        for turn in range(6):
            talk(two, 40 * turn, 40)
            if turn % 2:
                # What listens is killed; the command that started it starts another one.
                os.kill(where.pid, signal.SIGKILL)
                where.pid = wait_until(partial(successor, where), "another one is started")
            else:
                assert agents[-1].stop(signal.SIGKILL) == -signal.SIGKILL
                agents.append(Shipping(two.env, where))
            time.sleep(0.1 * turn)
        wait_until(lambda: same(where, two), "all lines, each once", 40)
        # The whole command at once, too; nothing of it goes on.
        where.stop(signal.SIGKILL)
        talk(two, 1000, 20)
        where.start()
        wait_until(lambda: same(where, two), "those of meanwhile, too", 60)
        assert where.rows()["two"]["lost"] == 0
        agents[-1].stop()


def test_who_is_not_known_is_told_so_and_leaves_nothing(one: Kernel, two: Kernel) -> None:
    with collecting(one) as where:
        stranger = Shipping(two.env, where)
        wait_until(lambda: "does not know this box" in stranger.said(), "it is told")
        wait_until(lambda: key(two.env) in where.said(), "and here its key is")
        assert "claw boxes add NAME" in where.said()
        stranger.stop()
        real, where.key = where.key, "12" * 32
        fooled = Shipping(two.env, where)
        wait_until(lambda: "as with a wrong --server-key" in fooled.said(), "it is another one", 30)
        fooled.stop()
        where.key = real
        assert list(where.folder.glob("*/*")) == [] and where.rows() == {}
        claw(one.env, "boxes", "add", "two", key(two.env))
        agent = Shipping(two.env, where)
        wait_until(lambda: where.rows()["two"]["heard"], "now it is let in", 40)
        # Removed while it is connected, and let in again under another name.
        claw(one.env, "boxes", "remove", "two")
        wait_until(lambda: "may ship here no more" in agent.said(), "it is told")
        count = len(where.lines("two"))
        talk(two, 0, 5)
        time.sleep(1)
        assert len(where.lines("two")) == count
        agent.stop()
        assert where.rows()["two"]["key"] == ""
    absent = Shipping(two.env, where)
    wait_until(lambda: "nobody listens there" in absent.said(), "nobody is there")
    absent.stop()


def test_two_agents_of_one_box_do_not_both_ship(one: Kernel, two: Kernel) -> None:
    claw(one.env, "boxes", "add", "two", key(two.env))
    with collecting(one) as where:
        first = Shipping(two.env, where)
        wait_until(lambda: "ships as two" in first.said(), "the first ships")
        second = Shipping(two.env, where)
        assert first.process.wait(20) == 1
        assert "another agent" in first.said()
        wait_until(lambda: same(where, two), "the second one ships")
        second.stop()


def test_lines_that_are_lost_are_counted(one: Kernel, two: Kernel) -> None:
    claw(one.env, "boxes", "add", "two", key(two.env))
    with collecting(one) as where:
        agent = Shipping(two.env, where)
        wait_until(lambda: same(where, two), "all lines are there", 20)
        before = len(log(two))
        where.stop(signal.SIGKILL)
        # The log starts anew again and again, as the kernel does it, while nobody takes it.
        count = 0
        for turn in range(6):
            text = "".join(
                f"2027-01-15 08:00:00 info filler {count + number}\n" for number in range(100)
            )
            with two.log_file.open("a") as file:
                file.write(text)
            count += 100
            time.sleep(0.6)
            if turn < 5:
                two.log_file.rename(two.log_file.with_suffix(".log.1"))
                two.log_file.touch()
                time.sleep(0.6)
        where.start()
        wait_until(lambda: any("filler 599" in line for line in where.lines("two")), "the end", 60)
        lines = where.lines("two")
        kept = [line for line in lines if "filler" in line]
        (said,) = [line for line in lines if "are missing here" in line]
        row = where.rows()["two"]
        assert row["lost"] == 600 - len(kept) > 0 and row["lost_whole"]
        assert f" {row['lost']} lines of this box are missing" in said
        assert lines.index(said) == before, "where they would have been"
        assert [line.split()[-1] for line in kept] == [str(n) for n in range(row["lost"], 600)]
        agent.stop()


def test_a_known_box_that_means_harm_ends_nothing_but_itself(one: Kernel, two: Kernel) -> None:
    claw(one.env, "boxes", "add", "two", key(two.env))
    with collecting(one, "--max-mib", "4") as where:
        agent = Shipping(two.env, where)
        wait_until(lambda: same(where, two), "all lines are there", 20)
        peer = Peer(where, "evil")
        peer.hello()
        assert peer.ship("<b>fine</b>") == wire.Taken(1)
        link = peer.connect()
        link.ask(wire.Hello())
        raw = link._socket
        # Not a batch, too many frames, too much in one: each is refused, or ends the connection.
        raw.send(b"\xc1" * 1000)
        assert wire.from_collector.decode(raw.recv()).why == "wrong"  # type: ignore[union-attr]
        raw.send_multipart([b"x"] * 50)
        assert wire.from_collector.decode(raw.recv()).why == "wrong"  # type: ignore[union-attr]
        raw.send(bytes(wire.MESSAGE + 1))
        with pytest.raises((ClawError, zmq.ZMQError, msgspec.MsgspecError)):
            link.ask(wire.Hello())
        link.close()
        # One message of frames and frames: libzmq takes them all, so the system has to end it.
        link = peer.connect()
        link.ask(wire.Hello())
        link._socket.send_multipart([bytes(256 << 10)] * 1500)
        now = largest = 0
        until = time.monotonic() + 40
        while largest < 150 << 10 or now > 100 << 10:
            assert time.monotonic() < until, (largest, where.said())
            with contextlib.suppress(FileNotFoundError, AssertionError):
                now = memory_kib(where.pid)  # it has lost that connection, or died and come back
                largest = max(largest, now)
            if "started again" in where.said():
                break
            time.sleep(0.01)
        assert largest <= MEMORY >> 10
        link.close()
        talk(two, 0, 10)
        wait_until(lambda: same(where, two), "the other box goes on", 60)
        assert where.lines("evil")[0].endswith("<b>fine</b>")
        peer.close()
        agent.stop()


def test_bytes_of_chance_at_the_port_do_no_harm(one: Kernel, two: Kernel) -> None:
    claw(one.env, "boxes", "add", "two", key(two.env))
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00CURVE".ljust(23, b"\0") + bytes(32)
    with collecting(one) as where:
        agent = Shipping(two.env, where)
        wait_until(lambda: same(where, two), "all lines are there", 20)
        for size in range(0, len(greeting) + 1, 3):
            for rest in (b"", os.urandom(300)):
                with socket.create_connection(("127.0.0.1", where.port), 5) as sock:
                    sock.sendall(greeting[:size] + rest)
        null = greeting.replace(b"CURVE", b"NULL\0")
        with socket.create_connection(("127.0.0.1", where.port), 5) as sock:
            sock.sendall(null)
        talk(two, 0, 10)
        wait_until(lambda: same(where, two), "the box goes on")
        assert where.process.poll() is None and "started again" not in where.said()
        agent.stop()


def test_one_collects_and_a_port_that_is_taken_is_said(one: Kernel) -> None:
    with collecting(one) as where:
        said = claw(one.env, "boxes", "collect", "--listen", "127.0.0.1:0", code=1)
        assert "collects already" in said and "end the other" in said
        other = {**one.env, "XDG_STATE_HOME": str(one.base / "other")}
        place = f"127.0.0.1:{where.port}"
        assert "address_in_use" in claw(other, "boxes", "collect", "--listen", place, code=1)
        assert "no address" in claw(one.env, "boxes", "collect", "--listen", "here", code=1)
    words = "boxes", "ship", "tcp://127.0.0.1:1", "--server-key"
    assert "64 hexadecimal" in claw(one.env, *words, "nonsense", code=1)
    assert "nobody listens" in claw(one.env, *words, key(one.env), "--once", code=1)


def test_once_ships_what_there_is_and_ends(one: Kernel, two: Kernel) -> None:
    talk(two, 0, 90)
    with collecting(one) as where:
        claw(one.env, "boxes", "add", "two", key(two.env))
        for turn in range(2):
            words = where.address, "--server-key", where.key, "--once"
            claw(two.env, "boxes", "ship", *words)
            assert same(where, two)
            talk(two, 100 * turn, 5)
