"""One suite for both clients: what is asked again, what waits, what is held, what is refused.

The asynchronous one runs in a loop of its own that stands still between two calls of a test: a
client that does something else meanwhile.
"""

import asyncio
import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from clawai.sdk.aclient import AsyncClient, AsyncTask
from clawai.sdk.client import Client
from clawai.sdk.errors import ClawError
from clawai.sdk.session import WINDOW, Event
from support import PATIENCE, Kernel

FLAKY = """
import time
from clawai.sdk.errors import ClawError
from clawai.sdk.plugin import Context, operation

calls = {}

@operation("flaky.retry")
def retry(key: str, fails: int, streams: bool = False):
    calls[key] = calls.get(key, 0) + 1
    if calls[key] <= fails:
        raise ClawError("overloaded", "not yet", retry_after_ms=20)
    return calls[key]

@operation("flaky.once")
def once(key: str, fails: int) -> int:
    return retry(key, fails)

@operation("flaky.stream")
def stream(ctx: Context, chunks: int, size: int):
    ctx.progress(None, "begins")
    for number in range(chunks):
        yield {"number": number, "data": bytes(size)}

@operation("flaky.nap")
def nap(ctx: Context, seconds: float) -> str:
    ctx.progress(None, "naps")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ctx.checkpoint()
        time.sleep(0.001)
    return "slept"

@operation("flaky.doze")
def doze(ctx: Context, seconds: float) -> str:
    return nap(ctx, seconds)
"""
OPERATIONS = {
    "flaky.retry": "idempotent = true",
    "flaky.once": "",
    "flaky.stream": "stream = true\nidempotent = true",
    "flaky.nap": "idempotent = true",
    "flaky.doze": "",
}


class Waited:
    """A task of the asynchronous client, for who cannot await."""

    def __init__(self, run: Callable[..., Any], task: AsyncTask) -> None:
        self._run, self._task = run, task
        self._events = aiter(task)

    def __iter__(self) -> Iterator[Event]:
        while (event := self._run(anext(self._events, None))) is not None:
            yield event

    def result(self) -> Any:
        return self._run(self._task.result())

    def cancel(self) -> None:
        self._run(self._task.cancel())


class Blocking:
    """The asynchronous client, for who cannot await."""

    def __init__(self, **options: Any) -> None:
        self._runner = asyncio.Runner()
        try:
            self._client = self._run(_entered(AsyncClient(**options)))
        except BaseException:
            self._runner.close()
            raise

    def _run(self, waited: Any) -> Any:
        async def main() -> Any:
            return await waited

        return self._runner.run(main())

    def submit(self, *args: Any, **options: Any) -> Waited:
        return Waited(self._run, self._run(self._client.submit(*args, **options)))

    def call(self, *args: Any, **options: Any) -> Any:
        return self._run(self._client.call(*args, **options))

    def query(self, what: str) -> Any:
        return self._run(self._client.query(what))

    def close(self) -> None:
        self._run(self._client.close())
        self._runner.close()

    def __enter__(self) -> "Blocking":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def _entered(client: AsyncClient) -> AsyncClient:
    return await client.__aenter__()


Make = Callable[..., Any]


@pytest.fixture(scope="module")
def flaky() -> Iterator[Kernel]:
    """One daemon, which some tests end and start again."""
    kernel = Kernel()
    kernel.plugin("flaky", FLAKY, OPERATIONS, slots=2)
    try:
        yield kernel.start()
        assert kernel.stop() == 0
        kernel.check_gone()
    finally:
        kernel.remove()


@pytest.fixture(params=[Client, Blocking], ids=["sync", "async"])
def make(request: pytest.FixtureRequest, flaky: Kernel) -> Make:
    def made(**options: Any) -> Any:
        return request.param(**{"folder": flaky.folder, "timeout": PATIENCE} | options)

    return made


def both(kernel: Kernel) -> Callable[..., Any]:
    """Makes one of each, for what takes its time."""

    @contextlib.contextmanager
    def made(**options: Any) -> Iterator[list[Any]]:
        given = {"folder": kernel.folder, "timeout": PATIENCE} | options
        with Client(**given) as first, Blocking(**given) as second:
            yield [first, second]

    return made


def failed(task: Any) -> ClawError:
    with pytest.raises(ClawError) as caught:
        task.result()
    return caught.value


def test_streams_results_errors_and_cancel(make: Make) -> None:
    with make() as client:
        tasks = [client.submit("echo.count", {"upto": n}) for n in (30, 5, 1)]
        for task, upto in zip(reversed(tasks), (1, 5, 30), strict=True):
            assert [e.data for e in task if e.kind == "chunk"] == list(range(1, upto + 1))
            assert task.result().value == upto
        assert failed(client.submit("echo.say", {"text": 1})).code == "bad_params"
        task = client.submit("echo.count", {"upto": 10**6, "pause_ms": 5})
        next(event for event in task if event.kind == "chunk")
        task.cancel()
        assert failed(task).code == "cancelled"


# What is asked again.


def test_retries_when_asked_and_idempotent(make: Make) -> None:
    with make() as client:
        key = f"{id(client)}"
        params = {"key": f"{key} a", "fails": 2}
        assert client.call("flaky.retry", params, retries=2).value == 3
        error = failed(client.submit("flaky.retry", {"key": f"{key} b", "fails": 2}, retries=1))
        assert (error.code, error.retry_after_ms) == ("overloaded", 20)
        assert failed(client.submit("flaky.retry", {"key": f"{key} c", "fails": 1})).code
        assert client.call("flaky.retry", {"key": f"{key} c", "fails": 1}).value == 2, "asked twice"
        params = {"key": f"{key} d", "fails": 1}
        assert failed(client.submit("flaky.once", params, retries=9)).code == "overloaded"
        assert client.call("flaky.once", params).value == 2, "it was asked for once before"
        error = failed(client.submit("echo.say", {"text": 1}, retries=5))
        assert error.code == "bad_params", "which will never do"


def test_a_retry_that_would_come_after_the_deadline(make: Make) -> None:
    with make() as client:
        params = {"key": f"{id(client)} late", "fails": 10**6}
        error = failed(client.submit("flaky.retry", params, retries=10**6, deadline=0.4))
        assert error.code in ("overloaded", "deadline_passed", "deadline_unreachable")


def test_other_tasks_go_on_meanwhile(make: Make) -> None:
    with make() as client:
        slow = client.submit("flaky.retry", {"key": f"{id(client)} m", "fails": 4}, retries=4)
        for number in range(20):
            assert client.call("echo.say", {"text": str(number)}).value == str(number)
        assert slow.result().value == 5


# What waits for room.


def test_more_than_a_client_may_have_open(make: Make) -> None:
    with make() as client:
        for _ in range(2):
            client.submit("flaky.nap", {"seconds": 0.3})
        tasks = [client.submit("flaky.nap", {"seconds": 0}) for _ in range(260)]
        codes = []
        for task in tasks:
            try:
                task.result()
            except ClawError as error:
                codes.append(error.code)
        assert codes == ["queue_full"] * 6, "2 + 254 are the most"
        tasks = [client.submit("flaky.nap", {"seconds": 0}, wait=True) for _ in range(300)]
        assert [task.result().value for task in tasks] == ["slept"] * 300


# What is held.


def test_a_stream_waits_for_its_reader(make: Make, flaky: Kernel) -> None:
    """Nobody reads for a while: neither side holds more than a window, and nothing is lost."""
    with make() as client:
        task = client.submit("flaky.stream", {"chunks": 24, "size": 1 << 20})
        events = (event for event in task if event.kind == "chunk")
        assert next(events).data["number"] == 0
        before = flaky.held_kib()
        until = time.monotonic() + 0.2
        while time.monotonic() < until:  # the same client, and other tasks of the same worker
            assert client.call("echo.say", {"text": "x"}).value == "x"
            assert client.call("flaky.nap", {"seconds": 0}).value == "slept"
        assert flaky.held_kib() - before < 12 << 10
        assert [event.data["number"] for event in events] == list(range(1, 24))
        assert task.result().value is None


def test_clients_that_do_something_else_for_longer_than_is_waited(flaky: Kernel) -> None:
    """The kernel lets go of who does not take 4 MiB in 3 s; a stream never gets so far."""
    with both(flaky)() as clients:
        params = {"chunks": 40, "size": 1 << 18}
        tasks = [client.submit("flaky.stream", params) for client in clients]
        streams = [(event for event in task if event.kind == "chunk") for task in tasks]
        for events in streams:
            next(events)
        time.sleep(3.1)
        for events in streams:
            assert [event.data["number"] for event in events] == list(range(1, 40))


def test_the_result_of_a_stream_that_nobody_looks_at(make: Make) -> None:
    with make() as client:
        task = client.submit("flaky.stream", {"chunks": 64, "size": 1 << 18})
        assert task.result().value is None


READER = """
import asyncio, sys
from pathlib import Path
from clawai.sdk.aclient import AsyncClient
from clawai.sdk.client import Client

def memory(key):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1])

async def asynchronous(folder, params):
    async with AsyncClient(folder=folder) as client:
        await client.call("echo.say", {"text": "x"})
        before, got = memory("VmHWM"), 0
        async for event in await client.submit("flaky.stream", params):
            got += len(event.data["data"]) if event.kind == "chunk" else 0
        return before, got

def synchronous(folder, params):
    with Client(folder=folder) as client:
        client.call("echo.say", {"text": "x"})
        before, got = memory("VmHWM"), 0
        for event in client.submit("flaky.stream", params):
            got += len(event.data["data"]) if event.kind == "chunk" else 0
        return before, got

kind, folder, chunks, size = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
params = {"chunks": chunks, "size": size}
if kind == "sync":
    before, got = synchronous(folder, params)
else:
    before, got = asyncio.run(asynchronous(folder, params))
print(got, memory("VmHWM") - before)
"""


def grown_kib(kernel: Kernel, kind: str, chunks: int) -> int:
    """How much memory a client takes for a stream of so many quarters of a MiB."""
    size = 1 << 18
    command = [sys.executable, "-c", READER, kind, str(kernel.folder), str(chunks), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    got, grown = map(int, done.stdout.split())
    assert got == chunks * size
    return grown


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_long_stream_needs_little_memory(flaky: Kernel, kind: str) -> None:
    """128 MiB, of which the client holds a few."""
    assert grown_kib(flaky, kind, 512) < 20_000


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_gigabyte_needs_little_memory(flaky: Kernel, kind: str) -> None:
    """1 GiB, of which the client never holds 20 MB."""
    grown = grown_kib(flaky, kind, 4096)
    print(f"{kind}: 1 GiB streamed, {grown} KiB more at its most")
    assert grown < 20_000


# What outlives the kernel.


def restart(kernel: Kernel) -> None:
    """As an owner would: the kernel is there again a moment later."""
    assert kernel.process
    kernel.process.kill()
    kernel.process.wait()
    kernel.check_gone()
    kernel.start()


def begun(client: Any, op: str, **options: Any) -> Any:
    """A task that runs."""
    task = client.submit(op, {"seconds": 60}, **options)
    next(event for event in task if event.note == "naps")
    return task


def test_the_next_kernel_is_found(flaky: Kernel) -> None:
    """By those who were told to look for it; what they had asked for goes on if it can."""
    with both(flaky)() as plain, both(flaky)(reconnect=True) as clients:
        # One after the other, as the two slots of its plugin are few.
        naps = [client.submit("flaky.retry", {"key": "n", "fails": 0}) for client in clients]
        assert sorted(nap.result().value for nap in naps) == [1, 2]
        pid = clients[0].query("status")["pid"]
        lost = begun(plain[0], "flaky.nap")
        dozes = [begun(clients[0], "flaky.doze")]
        naps = [client.submit("flaky.retry", {"key": "n", "fails": 0}) for client in clients]
        dozes.append(clients[1].submit("flaky.doze", {"seconds": 0}))
        streams = [c.submit("echo.count", {"upto": 10**6, "pause_ms": 5}) for c in clients]
        for stream in streams:
            next(event for event in stream if event.kind == "chunk")
        thread = threading.Thread(target=restart, args=(flaky,))
        thread.start()
        assert sorted(nap.result().value for nap in naps) == [1, 2], "asked again, of the next one"
        thread.join()
        assert {failed(doze).code for doze in dozes} == {"connection_lost"}, "it may have been done"
        assert {failed(stream).code for stream in streams} == {"connection_lost"}, "it was seen"
        assert failed(lost).code == "no_kernel"
        assert not {client.query("status")["pid"] for client in clients} & {pid}
        for client in plain:
            with pytest.raises(ClawError) as caught:
                client.call("echo.say", {"text": "x"})
            assert caught.value.code == "no_kernel"
        # While nothing is open: whatever it is, it has not been asked for yet.
        restart(flaky)
        for client in clients:
            assert client.call("flaky.doze", {"seconds": 0}).value == "slept"


def test_for_how_long_it_is_looked_for(flaky: Kernel) -> None:
    with both(flaky)(reconnect=0.3) as clients, both(flaky)(reconnect=60) as patient:
        naps = [begun(client, "flaky.nap") for client in clients]
        bounded = [client.submit("echo.say", {"text": "x"}, deadline=30) for client in patient]
        assert [task.result().value for task in bounded] == ["x", "x"]
        bounded = [client.submit("flaky.nap", {"seconds": 0}, deadline=0.5) for client in patient]
        assert flaky.process
        flaky.process.kill()
        flaky.process.wait()
        codes = {failed(task).code for task in [*naps, *bounded]}
        assert codes <= {"no_kernel", "deadline_passed"}
        for client in clients:
            with pytest.raises(ClawError) as caught:
                client.call("echo.say", {"text": "x"})
            assert caught.value.code == "no_kernel"
        flaky.check_gone()
        thread = threading.Thread(target=flaky.start)
        thread.start()
        for client in patient:
            assert client.call("echo.say", {"text": "x"}).value == "x"
        thread.join()
        for client in clients:
            assert client.call("echo.say", {"text": "x"}).value == "x", "it may be asked again"


def test_a_cancel_while_there_is_no_kernel(flaky: Kernel) -> None:
    with both(flaky)(reconnect=60) as clients:
        tasks = []
        for client in clients:
            params = {"key": f"{id(client)} gone", "fails": 10**6}
            tasks.append(client.submit("flaky.retry", params, retries=10**6))
            client.call("echo.say", {"text": "x"})
        for task in tasks:
            task.cancel()
            assert failed(task).code in ("cancelled", "overloaded")


def test_wrong_patience(make: Make) -> None:
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ClawError) as caught:
            make(reconnect=wrong)
        assert caught.value.code == "bad_params"


# Who may use it.


def test_a_client_belongs_to_its_thread_or_loop(make: Make) -> None:
    with make() as client:
        said: list[str] = []

        def use() -> None:
            try:
                if isinstance(client, Client):
                    client.call("echo.say", {"text": "x"})
                else:
                    asyncio.run(client._client.call("echo.say", {"text": "x"}))
            except ClawError as error:
                said.append(error.code)

        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
        assert said == ["bad_state"]
        assert client.call("echo.say", {"text": "x"}).value == "x"


def test_the_window_is_smaller_than_what_the_kernel_holds() -> None:
    from clawai.kernel import limits

    assert WINDOW < limits.OUTBOX
