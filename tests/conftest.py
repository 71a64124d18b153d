"""Fixtures of the whole suite: real kernels with a leak check, and the model that tests run."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clawai.sdk import catalogue, pull
from clawai.sdk.store import Store, check_file
from folder_times import pytest_runtest_logreport, pytest_terminal_summary
from support import Kernel, no_leak

__all__ = ["pytest_runtest_logreport", "pytest_terminal_summary"]

StartKernel = Callable[..., Kernel]

# A shell starts what it puts into the background with these ignored, and what tests start, and
# interrupt, would be so, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


@pytest.fixture
def start_kernel() -> Iterator[StartKernel]:
    """Start a daemon: ``start_kernel(config="...", env={...}, start=False)``.

    At the end each is stopped by SIGTERM, unless the test has ended it, and may have left nothing:
    no process, no memfd, no descriptor, no traceback.
    """
    kernels: list[Kernel] = []

    def start(config: str = "", env: dict[str, str] | None = None, start: bool = True) -> Kernel:
        kernel = Kernel(config, env)
        kernels.append(kernel)
        return kernel.start() if start else kernel

    try:
        with no_leak():
            yield start
            for kernel in kernels:
                _stop(kernel)
    finally:
        for kernel in kernels:
            kernel.remove()


def _stop(kernel: Kernel) -> None:
    if kernel.process is None:
        return
    ended = kernel.process.poll() is not None
    status = kernel.stop()
    kernel.check_gone()
    said = kernel.stderr()
    assert "Traceback" not in said, said
    assert ended or status == 0, f"the kernel ended with {status}: {said}"


@pytest.fixture
def kernel(start_kernel: StartKernel) -> Kernel:
    """A running daemon with an empty configuration."""
    return start_kernel()


@pytest.fixture(scope="module")
def shared_kernel() -> Iterator[Kernel]:
    """One running daemon for all tests of a module, which it has to outlive."""
    kernel = Kernel()
    try:
        with no_leak():
            yield kernel.start()
            _stop(kernel)
    finally:
        kernel.remove()


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The SmolLM2 file: CLAW_TEST_MODEL, else the test cache, filled by a real pull (98 MB)."""
    return _pulled("smollm2", os.environ.get("CLAW_TEST_MODEL"))


@pytest.fixture(scope="session")
def minilm_path() -> Path:
    """all-MiniLM-L6-v2, from the test cache, filled by a real pull (91 MB)."""
    return _pulled("minilm")


@pytest.fixture(scope="session")
def moonshine_path() -> Path:
    """Moonshine tiny, from the test cache, filled by a real pull (44 MB)."""
    return _pulled("moonshine")


def _pulled(name: str, given: str | None = None) -> Path:
    entry = catalogue.find(name)
    if given:
        path = Path(given)
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        store = Store(cache / "clawai-tests")
        path = pull.pull(entry, store, say=lambda text: None).path
    with path.open("rb") as file:
        check_file(file.fileno(), entry.bytes, entry.sha256, str(path))
    return path


@pytest.fixture
def smollm2_store(start_kernel: StartKernel, smollm2_path: Path, request: Any) -> Kernel:
    """A running daemon whose store holds ``smollm2``; ``indirect`` parametrisation: the config."""
    kernel = start_kernel(config=getattr(request, "param", ""), start=False)
    kernel.model("smollm2", smollm2_path)
    return kernel.start()


@pytest.fixture(scope="session")
def magika_path() -> Path:
    """The Magika file (3 MB), by a real pull into the test cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    store = Store(cache / "clawai-tests")
    return pull.pull(catalogue.find("magika"), store, say=lambda text: None).path
