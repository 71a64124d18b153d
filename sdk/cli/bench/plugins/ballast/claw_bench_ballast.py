"""A stand-in for an engine: reserves what its model needs, and holds it while it works."""

import mmap
import time

from clawai.sdk.plugin import Context, Start, Tensor, hookimpl, operation

PAGE = mmap.PAGESIZE
held: list[mmap.mmap] = []


@hookimpl
def claw_start(worker: Start) -> None:
    """Reserve, then allocate and write every page."""
    size = int(worker.model["bytes"])
    worker.reserve(size)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, size, PAGE):
        memory[at] = at // PAGE % 251
    held.append(memory)


@operation("ballast.work")
def work(ctx: Context, pause_ms: int, page: int) -> int:
    """Take a while, in steps; the byte of a page."""
    until = time.monotonic() + pause_ms / 1000
    while time.monotonic() < until:
        ctx.checkpoint()
        time.sleep(0.002)
    memory = held[0]
    return memory[page * PAGE % (len(memory) // PAGE * PAGE)]


@operation("ballast.look")
def look(ctx: Context, x: Tensor, pause_ms: int) -> int:
    """Take a while, then add up an array of bytes that came in a lease."""
    time.sleep(pause_ms / 1000)
    return int(ctx.array(x).sum())
