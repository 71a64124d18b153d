"""Echo: the smallest real plugin. It says back what it was told, and measures the path."""

import time

from clawai.sdk.plugin import Context, Tensor, operation


@operation("echo.say")
def say(text: str) -> str:
    """Say ``text`` back."""
    return text


@operation("echo.count")
def count(ctx: Context, upto: int, pause_ms: float = 0.0):  # type: ignore[no-untyped-def]
    """Stream the numbers from 1 to ``upto``, ``pause_ms`` milliseconds apart."""
    for number in range(1, upto + 1):
        ctx.checkpoint()
        yield number
        if pause_ms:
            time.sleep(pause_ms / 1000)
    return upto


@operation("echo.tensor")
def tensor(ctx: Context, x: Tensor) -> Tensor:
    """Send an array back, in the lease that it came in or in a frame."""
    return ctx.reply(ctx.array(x), into=x)
