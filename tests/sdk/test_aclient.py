"""The asynchronous client against a real kernel: the same protocol core, another shell."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from clawai.sdk import AsyncClient
from clawai.sdk.errors import ClawError
from support import PATIENCE, Kernel


def test_many_streams_of_one_connection_do_not_mix(kernel: Kernel) -> None:
    async def one(client: AsyncClient, upto: int) -> tuple[list[int], int]:
        task = await client.submit("echo.count", {"upto": upto, "pause_ms": 1})
        got = [event.data async for event in task if event.kind == "chunk"]
        return got, (await task.result()).value

    async def main() -> None:
        async with AsyncClient(folder=kernel.folder) as client:
            sizes = list(range(5, 17))
            results = await asyncio.gather(*(one(client, size) for size in sizes))
        assert results == [(list(range(1, size + 1)), size) for size in sizes]

    asyncio.run(main())


def test_cancel_and_errors(kernel: Kernel) -> None:
    async def main() -> None:
        async with AsyncClient(folder=kernel.folder) as client:
            assert client.welcome.pid == kernel.pid
            task = await client.submit("echo.count", {"upto": 100_000, "pause_ms": 1})
            async for event in task:
                if event.kind == "chunk":
                    await task.cancel()
                    break
            with pytest.raises(ClawError) as caught:
                await task.result()
            assert caught.value.code == "cancelled" and task.done
            with pytest.raises(ClawError) as caught:
                await client.call("echo.say", {"text": 1})
            assert caught.value.code == "bad_params"
            assert (await client.query("status"))["pid"] == kernel.pid

    asyncio.run(main())


def test_a_kernel_that_dies_ends_every_task(kernel: Kernel) -> None:
    async def main() -> None:
        async with AsyncClient(folder=kernel.folder) as client:
            task = await client.submit("echo.count", {"upto": 100_000, "pause_ms": 1})
            async for event in task:
                if event.kind == "chunk":
                    os.kill(kernel.pid, signal.SIGKILL)
                    break
            with pytest.raises(ClawError) as caught:
                await task.result()
            assert caught.value.code == "no_kernel"
            with pytest.raises(ClawError):
                await client.call("echo.say", {"text": "x"})

    asyncio.run(main())
    assert kernel.process
    kernel.process.wait(PATIENCE)


def test_no_kernel(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(ClawError) as caught:
            async with AsyncClient(folder=tmp_path):
                pass
        assert caught.value.code == "no_kernel"

    asyncio.run(main())
