"""The wire under mutated input, by seed, for about a minute (an hour: ``make fuzz``)."""

import random
import time

import pytest

from fuzz.fuzzer import Daemon, Run, clients, corpus, decoders, workers
from fuzz.mutate import mutate

SEED = 0


@pytest.fixture
def daemon(start_kernel) -> Daemon:
    return Daemon(start_kernel())


def run(seconds: float) -> Run:
    return Run(SEED, time.monotonic() + seconds)


def test_decoders_refuse_or_return() -> None:
    it = run(8)
    decoders(it)
    print(f"{it.done} inputs")


def test_the_daemon_answers_or_closes_whatever_a_client_says(daemon: Daemon) -> None:
    it = run(32)
    clients(daemon, it)
    print(f"{it.done} inputs")


def test_the_daemon_outlives_whatever_a_worker_says(daemon: Daemon) -> None:
    it = run(20)
    workers(daemon, it)
    print(f"{it.done} inputs")


def test_a_seed_gives_the_same_input_again() -> None:
    for kind in ("client-stream", "worker-header"):
        files = corpus(kind)
        first, again = (mutate(files[0], files, random.Random(7)) for _ in range(2))
        assert first == again
