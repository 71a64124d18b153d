"""Plugins in C and C++ through a real kernel, in the real sandbox: what they do, and their faults.

One kernel for all, and a neighbour in another plugin that is asked without a pause meanwhile: not
one of its requests may be lost.
"""

import collections
import itertools
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clawai.sdk.client import Client
from clawai.sdk.errors import ClawError
from evil_plugin import failing, workers
from native_build import ROOT, Build
from support import Kernel, wait_until


def install(
    kernel: Kernel, library: Path, *operations: str, name: str = "", extra: str = ""
) -> None:
    """Put a shared object into a plugin's folder of its own."""
    name = name or library.stem
    folder = kernel.plugins_dir / name
    folder.mkdir(exist_ok=True)
    if library.exists():
        shutil.copy(library, folder / "plugin.so")
    entries = "".join(f'[[operation]]\nname = "{each}"\n' for each in operations)
    identity = f'name = "{name}"\nversion = "1"\nlanguage = "c"\nmodule = "plugin.so"\n'
    draft = folder / "draft"
    draft.write_text(f"[plugin]\n{identity}{entries}[limits]\nmemory_mib = 64\n{extra}")
    draft.rename(folder / "plugin.toml")


class Neighbour(threading.Thread):
    """Asks echo without a pause; ``lost`` is what did not come back as it should."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(daemon=True)
        self.folder, self.served, self.lost = kernel.folder, 0, list[str]()
        self._going = True

    def run(self) -> None:
        with Client(folder=self.folder) as client:  # it belongs to this thread
            while self._going and len(self.lost) < 10:
                try:
                    assert client.call("echo.say", {"text": "x"}).value == "x"
                    self.served += 1
                except Exception as error:  # of any kind: this is what the test is about
                    self.lost.append(repr(error))

    def stop(self) -> None:
        self._going = False
        self.join(60)


@pytest.fixture(scope="module")
def native(shared_kernel: Kernel, build: Build, examples: Path) -> Kernel:
    """A kernel with the examples and the plugins of these tests."""
    for name in ("plugin_c", "plugin_cpp"):
        shutil.copytree(examples / name, shared_kernel.plugins_dir / name)
    install(shared_kernel, build("faults.c"), "faults.do")
    install(shared_kernel, build("throws.cpp"), "throws.raise", "throws.typed", "throws.through")
    return shared_kernel


@pytest.fixture
def client(native: Kernel) -> Iterator[Client]:
    with native.client() as client:
        yield client


@pytest.fixture
def neighbour(native: Kernel) -> Iterator[Neighbour]:
    neighbour = Neighbour(native)
    neighbour.start()
    wait_until(lambda: neighbour.served, "it is served")
    yield neighbour
    neighbour.stop()
    assert not neighbour.lost


# The examples.


def code_lines(path: Path) -> int:
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", path.read_text(), flags=re.S)
    return sum(bool(line.strip()) for line in text.splitlines())


def test_the_examples_are_short() -> None:
    for name in ("plugin_c/grey.c", "plugin_cpp/ngrams.cpp"):
        assert code_lines(ROOT / "examples" / name) <= 40, name
    for name in ("plugin_c", "plugin_cpp"):
        assert len((ROOT / "examples" / name / "Makefile").read_text().splitlines()) == 5


def grey(picture: "np.ndarray[Any, Any]", gamma: float) -> "np.ndarray[Any, Any]":
    """What plugin_c computes, in numpy."""
    shade = np.floor(255.0 * (np.arange(256) / 255.0) ** gamma + 0.5).astype("u1")
    return shade[(picture.astype(int) @ [299, 587, 114] + 500) // 1000]


def test_the_example_in_c_is_what_numpy_says(client: Client) -> None:
    picture = np.random.default_rng(3).integers(0, 256, (97, 131, 3), dtype="u1")
    tensor = {"dtype": "|u1", "shape": list(picture.shape), "frame": 0}
    expected = grey(picture, 2.2)
    params = {"picture": tensor, "gamma": 2.2}
    result = client.call("grey.convert", params, frames=[picture.tobytes()])
    assert (np.frombuffer(result.frames[0], "u1").reshape(97, 131) == expected).all()
    assert result.value["histogram"] == np.bincount(expected.ravel(), minlength=256).tolist()
    assert result.timings["compute_us"] > 0


def test_the_example_in_c_works_in_memory_that_is_lent(client: Client) -> None:
    picture = np.random.default_rng(4).integers(0, 256, (64, 512, 3), dtype="u1")
    loan = client.borrow("grey.convert", picture.nbytes)
    loan.array("|u1", picture.shape)[...] = picture
    tensor = loan.tensor("|u1", picture.shape)
    params = {"picture": tensor, "into": tensor}
    result = client.call("grey.convert", params, leases=[loan])
    assert result.value["grey"]["lease"] == 0
    assert result.frames == ()
    assert (loan.array("|u1", (64, 512)) == grey(picture, 1.0)).all()
    client.give_back(loan)


def test_a_lease_for_reading_is_answered_in_a_frame(client: Client) -> None:
    picture = np.full((8, 8, 3), 9, dtype="u1")
    loan = client.borrow("grey.convert", picture.nbytes, rights="r")
    loan.array("|u1", picture.shape)[...] = picture
    tensor = loan.tensor("|u1", picture.shape)
    params = {"picture": tensor, "into": tensor}
    result = client.call("grey.convert", params, leases=[loan])
    assert result.value["grey"]["frame"] == 0
    assert set(result.frames[0]) == {9}
    client.give_back(loan)


def test_the_example_in_cpp_is_what_python_says(client: Client) -> None:
    words = ("so it goes and so it ends " * 700).split()
    task = client.submit("ngrams.count", {"text": " ".join(words), "size": 2, "every": 1000})
    chunks = [event.data for event in task if event.kind == "chunk"]
    pairs = [f"{a} {b}" for a, b in itertools.pairwise(words)]
    assert task.result().value == dict(collections.Counter(pairs))
    assert [chunk["words"] for chunk in chunks] == [1000, 2000, 3000, 4000]


def test_a_cancel_reaches_the_code_in_cpp(native: Kernel, client: Client) -> None:
    task = client.submit("throws.raise", {"how": "stop"})
    wait_until(
        lambda: [t["state"] for t in client.query("tasks")["tasks"]] == ["running"], "it runs"
    )
    before = native.worker_pid("throws")
    task.cancel()
    with pytest.raises(ClawError, match="cancelled"):
        task.result()
    assert client.call("throws.raise").value == "none"
    assert native.worker_pid("throws") == before, "it stopped by itself"


# Faults.

FAULTS = {
    "stack": r"killed by SIGSEGV \(stack overflow suspected: a (write|read|call) .*faults\.do\)",
    "frame": r"killed by SIGSEGV \(stack overflow suspected: a (write|read) .*faults\.do\)",
    "wild": r"killed by SIGSEGV \(a write at 0x123456789000: no memory is there, in faults\.do\)",
    "impossible": r"killed by SIGSEGV \(an access through a pointer that cannot be one",
    "null": r"killed by SIGSEGV \(a read at 0x10: a NULL pointer, in faults\.do\)",
    "text": r"killed by SIGSEGV \(a read at 0x8: a NULL pointer, in faults\.do\)",
    "constant": r"killed by SIGSEGV \(a write at 0x\w+: memory that does not permit that",
    "call": r"killed by SIGSEGV \(a call of code at 0x\w+: memory that does not permit that",
    "forks": r"\(fork\(\) was called 64 times; a plugin may not start processes.*, in faults\.do\)",
    "abort": r"killed by SIGABRT \(abort\(\) was called, in faults\.do",
    "exit": r"exited with code 3 \(exit\(\) was called, in faults\.do\)",
    "_exit": r"exited with code 4$",
    "free": r"killed by SIGABRT \(abort\(\) was called, in faults\.do; it had printed 'free\(\): d",
    "divide": r"killed by SIGFPE \(a division by zero",
    "illegal": r"killed by SIGILL \(an instruction that this processor does not have",
}


@pytest.mark.parametrize("how", FAULTS)
def test_a_fault_is_reported_with_its_cause(
    native: Kernel, client: Client, neighbour: Neighbour, how: str
) -> None:
    assert client.call("faults.do").value == {"how": ""}
    before = native.worker_pid("faults")
    error = failing(client, "faults.do", how=how)
    assert error.code == "worker_died"
    assert re.search(FAULTS[how], error.message), error.message
    assert client.call("faults.do").value == {"how": ""}, "another worker serves"
    assert native.worker_pid("faults") != before
    assert not neighbour.lost


def test_an_endless_loop_is_ended_by_its_cancel(
    native: Kernel, client: Client, neighbour: Neighbour
) -> None:
    client.call("faults.do")
    before = native.worker_pid("faults")
    native.mark()
    task = client.submit("faults.do", {"how": "loop"})
    assert next(event for event in task if event.note == "loop"), "it runs"
    task.cancel()
    with pytest.raises(ClawError, match="cancelled"):
        task.result()
    assert client.call("faults.do").value == {"how": ""}
    assert native.worker_pid("faults") != before
    assert "it did not let go of a task" in native.log()
    assert not neighbour.lost


def test_one_fork_fails_and_is_logged(native: Kernel, client: Client) -> None:
    native.mark()
    assert client.call("faults.do", {"how": "fork"}).value == {"pid": -1, "how": "fork"}
    wait_until(lambda: "fork() was called; a plugin may not" in native.log(), "it is logged")


def test_an_exception_thrown_through_c_ends_the_worker_only(
    client: Client, neighbour: Neighbour
) -> None:
    error = failing(client, "throws.through")
    assert error.code == "worker_died"
    assert "killed by SIGABRT" in error.message
    assert "thrown through C" in error.message
    assert failing(client, "throws.raise", how="standard").code == "worker_failed"


def test_a_plugin_that_dies_while_it_is_loaded(
    native: Kernel, client: Client, build: Build, neighbour: Neighbour
) -> None:
    install(native, build("faults.c", "-DAT_LOAD", name="atload.so"), "faults.load", name="atload")
    error = failing(client, "faults.load")
    assert error.code == "quarantined"
    assert "killed by SIGABRT (abort() was called, in its load" in error.message


def test_what_cannot_be_loaded_is_told_to_the_client(
    native: Kernel, client: Client, build: Build
) -> None:
    install(native, Path("nowhere.so"), "missing.run", name="missing")
    error = failing(client, "missing.run")
    assert (error.code, error.hint[:17]) == ("bad_config", "build it: make -C")
    install(native, build("garbage.c", "-DGARBAGE=21", name="g21.so"), "garbage.a", name="g21")
    error = failing(client, "garbage.a")
    assert error.code == "bad_config" and "where nothing can be read" in error.message
    install(native, build("garbage.c"), "garbage.other", name="other")
    error = failing(client, "garbage.other")
    assert error.code == "bad_config" and "operations differ" in error.message
    wait_until(lambda: not workers(client) & {"missing", "g21", "other"}, "their workers are gone")


def test_a_strict_profile_loads_it_and_permits_no_new_code(
    native: Kernel, client: Client, build: Build
) -> None:
    assert client.call("faults.do", {"how": "code"}).value["executable"]
    native.plugins_dir.joinpath("faults", "plugin.toml").unlink()
    client.query("plugins")
    profile = '[permissions]\nprofile = "strict"\n'
    install(native, build("faults.c"), "faults.do", name="strict", extra=profile)
    assert not client.call("faults.do", {"how": "code"}).value["executable"]
    error = failing(client, "faults.do", how="wild")
    assert "a write at 0x123456789000" in error.message
