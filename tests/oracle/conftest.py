"""The engine in this process, without kernel and sandbox: what is compared is the arithmetic."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from clawai.plugins.accelerator import claw_open_device
from clawai.plugins.engine.generate import Session
from clawai.plugins.engine.worker import Engine


class Worker:
    """What the worker's host would give to the engine."""

    model: dict[str, Any] = {}  # noqa: RUF012 - read only
    threads = 2
    context = 2048

    def __init__(self, model_fd: int, kv: str) -> None:
        self.model_fd = model_fd
        self.args = {"slots": 1, "weights": "private", "kv": kv}
        self.control = memoryview(bytearray(4096)).cast("I")

    def reserve(self, size: int) -> None:
        assert size > 0

    def notes(self) -> None:
        """Nobody was here before."""

    def driver(self, device: str) -> Any:
        return claw_open_device(device)

    def load_model(self) -> Any:
        return Engine().claw_load_model(self.model_fd)


@contextmanager
def loaded(path: Path, kv: str = "f16") -> Iterator[Session]:
    """A model, loaded by the engine's own start."""
    fd = os.open(path, os.O_RDONLY)
    engine = Engine()
    try:
        engine.claw_start(Worker(fd, kv))
    finally:
        os.close(fd)
    assert engine.session
    yield engine.session
    engine.session.plan.close()


@pytest.fixture(scope="module")
def engine_session(smollm2_path: Path) -> Iterator[Session]:
    """SmolLM2."""
    with loaded(smollm2_path) as session:
        yield session
