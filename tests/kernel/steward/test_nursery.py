"""The zygote of a launcher, in a real kernel: who is forked, and what happens when it dies."""

import os
import signal
from pathlib import Path

from clawai.kernel.loop import Loop
from clawai.kernel.steward.nursery import Nursery
from clawai.sandbox.forking import Zygote
from support import GREET, Kernel, cpu_ticks, memory_kib, parent_of, wait_until


def by_name(kernel: Kernel, name: str) -> list[int]:
    """Processes of a kernel by the name that ps shows."""
    found = []
    for pid in kernel.processes():
        try:
            if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                found.append(pid)
        except FileNotFoundError:
            continue
    return found


def test_bundled_workers_are_forked_and_a_strangers_is_not(kernel: Kernel) -> None:
    assert not by_name(kernel, "claw-zygote"), "nobody needs one yet"
    client = kernel.client()
    kernel.plugin("greet", GREET)
    assert client.call("greet.hello").value == "Hello, world!"
    assert not by_name(kernel, "claw-zygote")
    assert client.call("echo.say", {"text": "a"}).value == "a"
    (zygote,) = by_name(kernel, "claw-zygote")
    launcher = kernel.launchers()["main"]
    assert parent_of(zygote) == launcher
    assert os.getsid(zygote) == os.getsid(launcher)
    for plugin, module in (("echo", "zygote"), ("greet", "stage")):
        worker = kernel.worker_pid(plugin)
        stage = parent_of(worker)
        assert parent_of(stage) == launcher
        line = Path(f"/proc/{stage}/cmdline").read_text()
        assert f"clawai.sandbox.{module}" in line, plugin
    # The libraries of engines are loaded when one is asked for, not before.
    assert "numpy" not in Path(f"/proc/{zygote}/maps").read_text()
    assert memory_kib(zygote) < 32 * 1024
    before = cpu_ticks(zygote)
    assert client.call("echo.say", {"text": "b"}).value == "b"
    assert cpu_ticks(zygote) == before, "it sleeps until it is asked"


def test_its_death_ends_no_worker_and_another_one_follows(kernel: Kernel) -> None:
    client = kernel.client()
    assert client.call("echo.say", {"text": "a"}).value == "a"
    worker = kernel.worker_pid()
    (zygote,) = by_name(kernel, "claw-zygote")
    os.kill(zygote, signal.SIGKILL)
    wait_until(lambda: "zygote of this launcher ended" in kernel.log(), "the launcher sees it")
    assert client.call("echo.say", {"text": "b"}).value == "b"
    assert kernel.worker_pid() == worker
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: kernel.worker_pid() != worker, "the kernel sees that its worker died")
    assert client.call("echo.say", {"text": "c"}).value == "c"
    (second,) = by_name(kernel, "claw-zygote")
    assert second != zygote


def test_workers_that_crash_come_back_from_the_same_zygote(kernel: Kernel) -> None:
    client = kernel.client()
    seen: set[int] = set()
    for text in ("a", "b", "c"):
        assert client.call("echo.say", {"text": text}).value == text
        wait_until(lambda: kernel.worker_pid() not in {0, *seen}, "the kernel starts it anew")
        seen.add(kernel.worker_pid())
        os.kill(kernel.worker_pid(), signal.SIGKILL)
    wait_until(lambda: kernel.worker_pid() not in {0, *seen}, "the kernel starts it anew")
    (zygote,) = by_name(kernel, "claw-zygote")
    assert Path(f"/proc/{zygote}/task/{zygote}/children").read_text() == ""
    stage = parent_of(kernel.worker_pid())
    wait_until(lambda: by_name(kernel, "claw-stage") == [stage], "those of the dead are reaped")


def test_everybody_who_waits_is_told() -> None:
    """Those that came while it loaded get it; when it dies they are told that there is none."""
    said: list[str] = []
    got: list[Zygote | None] = []
    loop = Loop(lambda _: None)
    nursery = Nursery(loop, lambda level, text: said.append(text))
    try:
        nursery.want(["json"], got.append)
        nursery.want(["decimal"], got.append)
        nursery.want(["json"], got.append)
        assert got == []
        while len(got) < 3:
            loop.turn(30)
        assert got[0] is not None
        assert got == [got[0]] * 3
        nursery.want(["decimal", "json"], got.append)
        assert len(got) == 4, "what is loaded is had at once"
        os.kill(got[0].pid, signal.SIGSTOP)  # so that it is still loading when it dies
        nursery.want(["fractions"], got.append)
        os.kill(got[0].pid, signal.SIGKILL)
        while len(got) < 5:
            loop.turn(30)
        assert got[4] is None
        assert said == ["the zygote of this launcher ended"]
        nursery.want(["json"], got.append)
        while len(got) < 6:
            loop.turn(30)
        assert got[5] not in (None, got[0])
    finally:
        nursery.close()
        loop.poller.close()
