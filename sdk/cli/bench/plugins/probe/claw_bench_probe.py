"""What `claw bench tensor` asks a worker to do with a large array, and the small echo beside it."""

from clawai.sdk.plugin import Context, Tensor, operation


@operation("probe.say")
def say(text: str) -> str:
    """Say ``text`` back."""
    return text


@operation("probe.read")
def read(ctx: Context, x: Tensor, offsets: list[int], flip: int) -> list[int]:
    """The bytes of ``x`` at ``offsets``; then the byte at ``flip`` is inverted."""
    memory = ctx.array(x).data
    found = [memory[offset] for offset in offsets]
    memory[flip] ^= 0xFF
    return found


@operation("probe.sum")
def add(ctx: Context, x: Tensor) -> int:
    """The sum of all bytes of ``x``."""
    return int(ctx.array(x).sum(dtype="u8"))
