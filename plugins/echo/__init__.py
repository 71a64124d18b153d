"""Echo: the smallest real plugin. It says back what it was told, and measures the path."""

import itertools
import time
from collections.abc import Generator

from clawai.sdk.hookspecs import hookimpl
from clawai.sdk.plugin import Context, Start, Tensor, operation

_counted = itertools.count()
"""Steps at every answer, from any thread."""
_began = time.monotonic()


@hookimpl
def claw_start(worker: Start) -> None:
    """Begin to count the time; what was spent on the start is not echo's."""
    global _began
    _began = time.monotonic()


@hookimpl
def claw_stop() -> None:
    """Say in the log what this worker has done."""
    print(f"answered {next(_counted)} tasks in {time.monotonic() - _began:.1f} s")


@operation("echo.say")
def say(text: str) -> str:
    """Say ``text`` back.

    Args:
        text: what is said.
    """
    next(_counted)
    return text


@operation("echo.count")
def count(ctx: Context, upto: int, pause_ms: float = 0.0) -> Generator[int, None, int]:
    """Stream the numbers from 1 to ``upto``, ``pause_ms`` milliseconds apart.

    Args:
        upto: the last number.
        pause_ms: milliseconds between two numbers.
    """
    next(_counted)
    for number in range(1, upto + 1):
        ctx.checkpoint()
        yield number
        if pause_ms:
            time.sleep(pause_ms / 1000)
    return upto


@operation("echo.tensor")
def tensor(ctx: Context, x: Tensor) -> Tensor:
    """Send an array back, in the lease that it came in or in a frame.

    Args:
        x: the array.
    """
    next(_counted)
    return ctx.reply(ctx.array(x), into=x)
