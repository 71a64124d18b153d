"""Weights objects: filled once, sealed, and mapped by every worker after that."""

import os
from pathlib import Path

import pytest

from clawai.kernel.steward.memory import create
from clawai.sdk import wire
from host_process import HostProcess, WeightsObject

SIZE = 3 << 20
CODE = """
import mmap, os
from clawai.sdk import operation
from clawai.sdk.hookspecs import hookimpl

class Plugin:
    kept = []

    def fill(self, view):
        self.filled = True
        view[:4] = b"head"
        view[-4:] = b"tail"
        if os.path.exists({flag!r}):
            exec(open({flag!r}).read())

    @hookimpl
    def claw_start(self, worker):
        self.filled = False
        self.weights = worker.weights("layout-1", {size}, 4096, self.fill)

    @hookimpl
    def claw_operations(self):
        return []

claw_plugin = Plugin()

@operation("w.look")
def look() -> list:
    view = claw_plugin.weights
    if view is None:
        return [claw_plugin.filled]
    return [claw_plugin.filled, view.readonly, len(view), bytes(view[:4]), bytes(view[-4:])]
"""


def start(folder: Path, fill: str = "") -> HostProcess:
    flag = folder / "fill.txt"
    if fill:
        flag.write_text(fill)
    code = CODE.format(flag=str(flag), size=SIZE)
    host = HostProcess(folder, "w_plugin", code, ["w.look"], ready=False)
    asked = host.next(wire.Reserve)
    assert (asked.bytes, asked.weights, asked.weights_bytes) == (4096, "layout-1", SIZE)
    return host


def look(host: HostProcess) -> list[object]:
    assert host.next(wire.Ready)
    host.send(host.run(1, "w.look"))
    value = host.value(1)
    assert isinstance(value, list)
    return value


def test_filled_once_then_mapped(tmp_path: Path) -> None:
    with WeightsObject(SIZE) as weights:
        with start(tmp_path) as first:
            first.give({"weights": 7, "bytes": SIZE}, weights.fd)
            first.send(wire.Granted(weights="fill"))
            assert first.next(wire.Filled)
            weights.seal()  # raises if the worker still maps it for writing
            first.send(wire.Sealed())
            assert look(first) == [True, True, SIZE, b"head", b"tail"]
        assert weights.content()[:4] == b"head"
        with start(tmp_path) as second:
            # The descriptor may also come late, and behind a segment.
            second.send(wire.Granted(weights="map"))
            segment = create("claw-segment-3", 4096)
            second.give({"segment": 3, "bytes": 4096}, segment)
            os.close(segment)
            second.give({"weights": 7, "bytes": SIZE}, weights.fd)
            assert look(second) == [False, True, SIZE, b"head", b"tail"]
            second.send(wire.Drop(segment=3))
            assert second.next(wire.Dropped).segment == 3


def test_without_an_object_the_plugin_uses_its_own_memory(tmp_path: Path) -> None:
    with start(tmp_path) as host:
        host.send(wire.Granted())
        assert look(host) == [False]


def test_a_worker_of_other_code_asks_for_memory_of_its_own(tmp_path: Path) -> None:
    code, other = CODE.format(flag="none", size=SIZE), {"shares": False}
    with HostProcess(tmp_path, "w_plugin", code, ["w.look"], ready=False, more=other) as host:
        asked = host.next(wire.Reserve)
        assert (asked.bytes, asked.weights, asked.weights_bytes) == (4096 + SIZE, "", 0)
        host.send(wire.Granted())
        assert look(host) == [False]


@pytest.mark.parametrize(
    ("fill", "says"),
    [
        ("self.kept.append(view[8:])", "kept a view of the weights"),
        ("import numpy; self.kept.append(numpy.frombuffer(view, 'u1'))", "kept a view"),
        ("raise ValueError('the file is torn')", "the file is torn"),
    ],
)
def test_a_fill_that_fails_says_why(tmp_path: Path, fill: str, says: str) -> None:
    with WeightsObject(SIZE) as weights, start(tmp_path, fill) as host:
        host.give({"weights": 7, "bytes": SIZE}, weights.fd)
        host.send(wire.Granted(weights="fill"))
        told = host.next(wire.Unready)
        assert told.code == "worker_failed"
        assert says in told.message


def test_a_view_in_a_cycle_is_no_view_that_was_kept(tmp_path: Path) -> None:
    fill = "cycle = [view[8:]]; cycle.append(cycle); del cycle"
    with WeightsObject(SIZE) as weights, start(tmp_path, fill) as host:
        host.give({"weights": 7, "bytes": SIZE}, weights.fd)
        host.send(wire.Granted(weights="fill"))
        assert host.next(wire.Filled)
        weights.seal()
        host.send(wire.Sealed())
        assert look(host)[0] is True


def test_an_object_that_is_too_small_is_refused(tmp_path: Path) -> None:
    with WeightsObject(SIZE // 2) as weights, start(tmp_path) as host:
        host.give({"weights": 7, "bytes": SIZE // 2}, weights.fd)
        host.send(wire.Granted(weights="fill"))
        assert "too small" in host.next(wire.Unready).message
