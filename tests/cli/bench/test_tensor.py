"""`claw bench tensor`: it measures shared memory, and notices when it is not shared."""

import os
import time

import numpy
import pytest

from clawai.sdk.cli.bench import tensor
from clawai.sdk.cli.bench.private import Private
from clawai.sdk.errors import ClawError


def test_the_form_of_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor, "SIZES", {"4mb": 65_536, "64mb": 131_072})
    monkeypatch.setattr(tensor, "WARM", 2)
    report = tensor.measure(rounds=6)
    keys = {"echo_p50_us", "lease_4mb_p50_us", "lease_64mb_p50_us", "cpu_64mb_over_4mb_us"}
    assert keys <= set(report.figures)
    assert {bar.key for bar in tensor.BARS} <= set(report.figures)
    assert all(report.figures[key] > 0 for key in keys if key.endswith("p50_us"))


def test_memory_that_is_not_shared_is_noticed() -> None:
    with Private(tensor.SETTINGS) as kernel:
        kernel.plugin("probe")
        client = kernel.client()
        side = tensor.Lent(client, [], numpy.random.default_rng(), 65_536)
        side.prepare()
        side.once()
        side.read_all()
        side.prepare()
        shared, side.bytes = side.bytes, side.bytes.copy()
        with pytest.raises(ClawError) as caught:
            side.once()
        assert caught.value.code == "bad_worker"
        side.bytes[...] = 0
        with pytest.raises(ClawError) as caught:
            side.read_all()
        assert caught.value.code == "bad_worker"
        del shared


def test_the_clock_of_a_process() -> None:
    before = time.clock_gettime(tensor.clock_of(os.getpid()))
    while time.process_time() < before + 0.01:
        pass
    assert time.clock_gettime(tensor.clock_of(os.getpid())) > before
