"""A running daemon with the evil plugin."""

import shutil
from collections.abc import Iterator

import pytest

from evil_plugin import with_evil, workers
from support import (
    Kernel,
    wait_until,
)


@pytest.fixture
def evil(shared_kernel: Kernel) -> Iterator[Kernel]:
    """A daemon that has to outlive all of this, with a fresh worker of the evil plugin."""
    if not (shared_kernel.plugins_dir / "evil").exists():
        with_evil(shared_kernel)
    with shared_kernel.client() as client:
        client.admin("unload", "evil")
        wait_until(lambda: not client.query("tasks")["tasks"], "what ran before has ended")
        wait_until(lambda: "evil" not in workers(client), "its worker has ended")
    shared_kernel.mark()
    yield shared_kernel
    shared_kernel.close_clients()
    for folder in shared_kernel.plugins_dir.iterdir():
        if folder.name != "evil":
            shutil.rmtree(folder)


@pytest.fixture
def target(shared_kernel: Kernel) -> Iterator[Kernel]:
    """One daemon for all that should not harm it."""
    yield shared_kernel
    shared_kernel.close_clients()
