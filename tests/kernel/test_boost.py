"""Critical tasks pass ordinary programs for a moment: real workers, and the class that the system
says they are in."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clawai.kernel import boost
from clawai.kernel.boost import LINGER, SAVED, SHARE, Boost
from clawai.kernel.limits import MS, SECOND
from clawai.sdk.cli.bench.private import Private
from clawai.sdk.client import Client
from support import wait_until

FIFO, OTHER = os.SCHED_FIFO, os.SCHED_OTHER
BULK_UNITS = 1 << 20


def may() -> bool:
    """Whether the system lets us; asked in a process that ends."""
    code = "from clawai.kernel.boost import Boost; print(Boost(1, bool).ns == 1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip() == "True"


granted = pytest.mark.skipif(not may(), reason="the system lets us raise nobody")


def alone(code: str) -> str:
    """Run code whose process may be raised; what it prints."""
    start = "import os, time; from clawai.kernel.boost import Boost, MS\n"
    program = [sys.executable, "-c", start + textwrap.dedent(code)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def classes(pid: int) -> set[int]:
    """Of the threads of a process, with the flag that forks do not inherit it."""
    return {os.sched_getscheduler(int(each.name)) for each in Path(f"/proc/{pid}/task").iterdir()}


def states(pid: int) -> set[str]:
    """Of the threads of a process."""
    files = Path(f"/proc/{pid}/task").glob("*/stat")
    return {each.read_text().rpartition(") ")[2][0] for each in files}


def computes(pid: int) -> bool:
    """Whether a process uses a processor just now."""
    before = boost.used(pid)
    time.sleep(0.2)
    return boost.used(pid) > before + 50 * MS


def raised(pid: int) -> bool:
    """Whether a thread of a process is in the real-time class."""
    return any(each & ~os.SCHED_RESET_ON_FORK == FIFO for each in classes(pid))


@contextmanager
def sleeper(user: int = 0) -> Iterator[int]:
    """A process with two threads that do nothing."""
    code = "from threading import *; import os, time; Timer(600, print).start()\n"
    code += (f"os.setuid({user})\n" if user else "") + "time.sleep(600)"
    with subprocess.Popen([sys.executable, "-S", "-c", code]) as made:
        try:
            tasks = Path(f"/proc/{made.pid}/task")
            wait_until(lambda: len(list(tasks.iterdir())) == 2, "two threads")
            wait_until(lambda: states(made.pid) == {"S"}, "both wait")
            yield made.pid
        finally:
            made.kill()


def raising(pid: int) -> Boost:
    """One whose daemon counts as raised, and is not looked at; on a box of two processors."""
    made = Boost(10 * MS, lambda: True, 2)
    made.started(1, pid)
    made.raised, made._due = True, 1 << 62
    return made


@granted
def test_every_thread_is_raised_and_put_back() -> None:
    with sleeper() as pid:
        ours = raising(pid)
        ours.grant(1, 0)
        assert classes(pid) == {FIFO | os.SCHED_RESET_ON_FORK}, "what it forks is not raised"
        assert ours.next_timer() == 10 * MS
        ours.expire(10 * MS - 1)
        assert classes(pid) == {FIFO | os.SCHED_RESET_ON_FORK}
        ours.expire(10 * MS)
        assert classes(pid) == {OTHER | os.SCHED_RESET_ON_FORK}
        assert ours.next_timer() is None


@granted
def test_who_has_answered_waits_for_the_next_task() -> None:
    with sleeper() as pid:
        ours = raising(pid)
        ours.grant(1, 0)
        ours.done(1, MS)
        assert ours.next_timer() == MS + LINGER
        ours.grant(1, 2 * MS)
        assert ours.next_timer() == 12 * MS
        ours.done(1, 3 * MS)
        ours.expire(3 * MS + LINGER)
        assert classes(pid) == {OTHER | os.SCHED_RESET_ON_FORK}
        ours.done(1, 3 * MS + LINGER)
        assert ours.next_timer() is None


@granted
@pytest.mark.parametrize("threads", [1, 2, 8])
def test_a_crowd_of_critical_tasks_leaves_others_their_part(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many come, and even if a worker computes while it has nothing to do."""
    clock, raised_for = [0, 0], 0
    monkeypatch.setattr(boost, "used", lambda _: clock[1])
    with sleeper() as pid:
        ours = raising(pid)
        while clock[0] < 20 * SECOND:
            ours.grant(1, clock[0])
            ours.done(1, clock[0] + MS)
            raised_for += 10 * MS * threads * (1 in ours.lifts)
            clock[0] += 10 * MS
            clock[1] += 10 * MS * threads
            ours.expire(clock[0])
    most = 20 * SECOND * 2 * SHARE + SAVED
    assert 0.95 * most <= raised_for <= most + 10 * MS * threads


@granted
def test_short_tasks_are_raised_always() -> None:
    with sleeper() as pid:
        ours = raising(pid)
        for now in range(0, 5 * SECOND, 4 * MS):
            ours.grant(1, now)
            assert 1 in ours.lifts
            ours.done(1, now + MS)
            ours.expire(now + MS)


@granted
def test_answers_alone_keep_nobody_raised() -> None:
    """Of tasks that are not critical, or of many that came with one message."""
    with sleeper() as pid:
        ours = raising(pid)
        ours.grant(1, 0)
        for now in range(5 * MS, 200 * MS, 5 * MS):
            ours.done(1, now)
            ours.expire(now)
            assert (1 in ours.lifts) == (now < 10 * MS + LINGER), now
        assert classes(pid) == {OTHER | os.SCHED_RESET_ON_FORK}


@granted
def test_a_thread_of_later_is_raised_too() -> None:
    code = "from threading import *; input(); Timer(600, print).start()"
    program = [sys.executable, "-S", "-c", code]
    with subprocess.Popen(program, stdin=subprocess.PIPE) as made:
        assert made.stdin
        try:
            wait_until(lambda: states(made.pid) == {"S"}, "it waits")
            ours = raising(made.pid)
            ours.grant(1, 0)
            assert classes(made.pid) == {FIFO | os.SCHED_RESET_ON_FORK}
            made.stdin.write(b"\n")
            made.stdin.flush()
            wait_until(lambda: len(classes(made.pid)) == 2, "a thread is born, an ordinary one")
            wait_until(lambda: states(made.pid) == {"S"}, "all wait")
            ours.grant(1, 10 * MS)
            assert len(classes(made.pid)) == 2
            ours.grant(1, SECOND)
            assert classes(made.pid) == {FIFO | os.SCHED_RESET_ON_FORK}
            ours.expire(2 * SECOND)
            assert classes(made.pid) == {OTHER | os.SCHED_RESET_ON_FORK}
        finally:
            made.kill()


@granted
def test_who_computes_already_is_not_raised() -> None:
    """The system counts its time from its last wake-up on, and would end it for many boosts."""
    with subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) as made:
        try:
            wait_until(
                lambda: states(made.pid) == {"R"} and boost.used(made.pid) > 100 * MS, "it runs"
            )
            ours = raising(made.pid)
            ours.grant(1, 0)
            assert classes(made.pid) == {OTHER} and not ours.lifts
        finally:
            made.kill()


@granted
def test_who_ends_while_raised_is_charged_for_all_that_it_can_have_computed() -> None:
    with sleeper() as pid:
        ours, got = raising(pid), 0
        for now in range(0, 20 * SECOND, 60 * MS):
            ours.started(1, pid)
            ours.grant(1, now)
            got += 1 in ours.lifts
            ours.gone(1, now + 60 * MS)
            for thread in Path(f"/proc/{pid}/task").iterdir():  # the next one is not born raised
                os.sched_setscheduler(int(thread.name), OTHER, os.sched_param(0))
    assert 80 <= got <= 95, "a second saved and ten earned, 120 ms each"


@granted
def test_without_a_descriptor_to_spare_who_is_raised_is_put_back() -> None:
    with sleeper() as pid:
        said = alone(
            f"""
            import resource
            ours = Boost(10 * MS, lambda: True)
            ours.started(1, {pid})
            ours.raised, ours._due = True, 1 << 62
            ours.grant(1, 0)
            found = [os.sched_getscheduler({pid}) & 0xff]
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
            ours.expire(10 * MS)
            found.append(os.sched_getscheduler({pid}) & 0xff)
            ours.grant(1, 20 * MS)
            ours.started(2, {pid})
            print(found, ours.lifts, os.sched_getscheduler({pid}) & 0xff)
            """
        )
    assert said == f"[{FIFO}, {OTHER}] {{}} {OTHER}"


def test_what_a_process_has_computed() -> None:
    before = boost.used(os.getpid()), time.process_time_ns()
    while time.process_time_ns() < before[1] + 50 * MS:
        pass
    after = boost.used(os.getpid()), time.process_time_ns()
    assert after[0] - before[0] == pytest.approx(after[1] - before[1], rel=0.2)


@granted
def test_nobody_is_raised_by_a_daemon_that_is_not() -> None:
    with sleeper() as pid:
        ours = raising(pid)
        ours.raised, ours.crowded = False, lambda: False
        ours.grant(1, 0)
        assert classes(pid) == {OTHER} and not ours.lifts


@granted
def test_one_with_many_threads_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boost, "THREADS", 1)
    with sleeper() as pid:
        ours = raising(pid)
        ours.grant(1, 0)
        assert classes(pid) == {OTHER} and not ours.lifts


def test_one_that_has_ended_is_forgotten() -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as made:
        made.wait()
        ours = raising(made.pid)
        ours.grant(1, 0)
        ours.gone(1, MS)
        ours.gone(1, MS)
        ours.grant(1, 2 * MS)
        assert not ours.lifts and ours.next_timer() is None


@granted
def test_the_daemon_is_raised_while_there_is_a_crowd() -> None:
    said = alone(
        """
        crowd = []
        ours = Boost(10 * MS, lambda: bool(crowd))
        def seen(at):
            ours.attend(at * MS)
            return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
        found = [seen(1000)]
        crowd.append(1)
        found += [seen(1001), seen(1100)]
        crowd.clear()
        found += [seen(1101), seen(1200)]
        crowd.append(1)
        ours.started(1, 1)
        ours._homes = {1: (1 << 22, 0)}  # nobody
        ours.grant(1, 1201 * MS)  # a critical task does not wait for the next look
        found.append(ours.raised)
        print(found)
        """
    )
    assert said == str([OTHER, OTHER, FIFO, FIFO, OTHER, True])


@granted
def test_a_daemon_that_computes_much_pauses() -> None:
    said = alone(
        """
        ours = Boost(10 * MS, lambda: True)
        ours.attend(1000 * MS)
        found = [ours.raised]
        end = time.thread_time_ns() + 51 * MS
        while time.thread_time_ns() < end:
            pass
        ours._homes = {1: (1 << 22, 0)}  # nobody
        for at in (1100, 2099, 2100, 2200):
            ours.attend(at * MS)
            ours.grant(1, at * MS)  # a critical task ends no pause
            found.append(ours.raised)
        print(found, os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK)
        """
    )
    assert said == f"[True, False, False, True, True] {FIFO}"


@granted
def test_one_that_the_means_has_raised_stays_so() -> None:
    said = alone(
        """
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(2))
        crowd = [1]
        ours = Boost(10 * MS, lambda: bool(crowd))
        ours.attend(1000 * MS)
        crowd.clear()
        ours.attend(1100 * MS)
        print(ours.ns, ours.raised, os.sched_getscheduler(0))
        """
    )
    assert said == f"0 False {FIFO}"


@granted
def test_one_whom_the_means_raises_later_stays_so() -> None:
    said = alone(
        """
        crowd = [1]
        ours = Boost(10 * MS, lambda: bool(crowd))
        ours.attend(1000 * MS)
        found = [ours.raised]
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(2))
        crowd.clear()
        ours.attend(1100 * MS)
        print(found, ours.ns, ours.raised, os.sched_getscheduler(0))
        """
    )
    assert said == f"[True] 0 False {FIFO}"


@granted
def test_at_the_end_all_are_put_back() -> None:
    with sleeper() as pid:
        said = alone(
            f"""
            ours = Boost(10 * MS, lambda: True)
            ours.started(1, {pid})
            ours.grant(1, 1000 * MS)
            found = [each & 0xff for each in map(os.sched_getscheduler, (0, {pid}))]
            ours.close()
            print(found, [each & 0xff for each in map(os.sched_getscheduler, (0, {pid}))])
            """
        )
    assert said == f"[{FIFO}, {FIFO}] [{OTHER}, {OTHER}]"


def test_without_a_grant_nobody_is_raised() -> None:
    said = alone(
        """
        import resource
        os.setgroups([]) if os.getuid() == 0 else None
        resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
        os.setuid(os.getuid() or 65534)
        ours = Boost(10 * MS, lambda: True)
        ours.attend(1000 * MS)
        print(ours.raised, ours.ns, os.sched_getscheduler(0))
        """
    )
    assert said == f"False 0 {OTHER}"


@granted
def test_a_daemon_that_may_raise_itself_only_is_put_back() -> None:
    """As with RLIMIT_RTPRIO, which a worker does not have."""
    with sleeper(user=65534) as pid:
        said = alone(
            f"""
            ours = Boost(10 * MS, lambda: True)
            ours.attend(1000 * MS)
            found = [ours.raised]
            os.setuid(65534)
            ours.started(1, {pid})
            ours.grant(1, 1001 * MS)
            ours.attend(1200 * MS)
            print(found, ours.raised, ours.ns, os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK)
            """
        )
    assert said == f"[True] False 0 {OTHER}"


# Through a kernel.


@contextmanager
def box(boost_ms: int) -> Iterator[tuple[Private, Client, int]]:
    """A kernel whose bulk worker computes all the time, its client, and the urgent worker."""
    with Private(f"[preemption]\nboost_ms = {boost_ms}\n") as made:
        made.plugin("urgent")
        made.plugin("bulk")
        client = made.client()
        before = set(made.processes())
        client.call("urgent.work", {"cpu_us": 1}, priority="critical")
        born = sorted(set(made.processes()) - before)
        client.call("bulk.sum", {"units": 1}, priority="batch")
        end = threading.Event()

        ready = threading.Event()

        def fill() -> None:
            with Client(folder=made.folder) as other:
                ready.set()
                while not end.is_set():
                    other.call("bulk.sum", {"units": BULK_UNITS}, priority="batch")

        filler = threading.Thread(target=fill)
        filler.start()
        try:
            assert ready.wait(30)
            yield made, client, born[-1]
        finally:
            end.set()
            filler.join()


def seen_raised(
    made: Private, client: Client, worker: int, cpu_ms: int, op: str = "urgent.work"
) -> bool:
    """Whether the worker is ever raised while it runs critical tasks, for two seconds."""
    until = time.monotonic() + 2
    while time.monotonic() < until:
        task = client.submit(op, {"cpu_us": cpu_ms * 1000}, priority="critical")
        for _ in range(50):
            if raised(worker):
                assert classes(made.pid) == {FIFO | os.SCHED_RESET_ON_FORK}
                task.result()
                return True
        task.result()
    return False


@granted
def test_a_worker_is_raised_for_its_critical_task_and_put_back() -> None:
    with box(100) as (made, client, worker):
        assert "Max realtime timeout      2000000" in Path(f"/proc/{worker}/limits").read_text()
        assert seen_raised(made, client, worker, 50)
        wait_until(lambda: not raised(worker), "it is put back")
        # A long one goes on as an ordinary program.
        task = client.submit("urgent.work", {"cpu_us": 1_000_000}, priority="critical")
        time.sleep(0.3)
        assert not raised(worker)
        task.result()
        assert client.query("status")["preemption"]["boost_ms"] == 100


@granted
def test_only_critical_tasks_are() -> None:
    with box(100) as (_, client, worker):
        for _ in range(20):
            task = client.submit("urgent.work", {"cpu_us": 20_000}, priority="interactive")
            assert not raised(worker)
            task.result()


@granted
def test_switched_off_nobody_is_raised() -> None:
    with box(0) as (made, client, worker):
        assert not seen_raised(made, client, worker, 20)
        assert classes(made.pid) == {OTHER}
        assert not client.query("status")["preemption"].get("boost_ms")


@granted
def test_one_whose_processor_time_is_bounded_is_not() -> None:
    """Its bound would be no bound."""
    code = """
        import time
        from clawai.sdk import operation

        @operation("slow.work")
        def work(cpu_us: int) -> int:
            end = time.process_time_ns() + cpu_us * 1000
            while time.process_time_ns() < end:
                pass
            return cpu_us
    """
    with box(100) as (made, client, free):
        before = set(made.processes())
        made.write_plugin("slow", code, "slow.work", limits="cpu = 1.0")
        client.call("slow.work", {"cpu_us": 1})
        bounded = sorted(set(made.processes()) - before)[-1]
        assert not seen_raised(made, client, bounded, 20, "slow.work")
        assert seen_raised(made, client, free, 20)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@granted
def test_an_ordinary_user_with_the_capability_is_enough() -> None:
    """As with AmbientCapabilities= of a unit; and no worker has it."""
    here = Path(__file__).parent
    code = f"""
        import sys
        sys.path[:0] = [{str(here)!r}, {str(here.parent)!r}]
        from pathlib import Path
        from test_boost import box, seen_raised
        with box(100) as (made, client, worker):
            found = seen_raised(made, client, worker, 20)
            status = Path(f"/proc/{{worker}}/status").read_text()
            print(found, [each for each in status.splitlines() if each.startswith("Cap")])
    """
    command = [sys.executable, str(here.parent / "sandbox/as_user.py"), "1234+sys_nice"]
    command += [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stdout.replace("0", "")
    assert said.startswith("True") and said.count(r"\t'") == 5, done.stdout + done.stderr


@granted
def test_a_raised_worker_does_not_outlast_a_stopped_daemon() -> None:
    """Nobody puts it back, so the system ends it, and the box is its owner's again."""
    with box(100) as (made, client, worker):
        for _ in range(20):
            # More than it may compute so, and an end if we are too late and it is put back.
            task = client.submit("urgent.work", {"cpu_us": 4_000_000}, priority="critical")
            until = time.monotonic() + 1
            while not raised(worker) and time.monotonic() < until:
                pass
            os.kill(made.pid, signal.SIGSTOP)
            if raised(worker) and computes(worker):  # it has got the task
                break
            os.kill(made.pid, signal.SIGCONT)
            task.result()
        else:
            pytest.fail("it was never raised")
        try:
            wait_until(lambda: not Path(f"/proc/{worker}/exe").exists(), "it has ended", 30)
        finally:
            os.kill(made.pid, signal.SIGCONT)
        task.result()  # by a new worker
        assert worker not in made.processes()
