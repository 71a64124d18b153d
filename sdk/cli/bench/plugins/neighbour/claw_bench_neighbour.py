"""The least that an operation can do."""

from clawai.sdk.plugin import operation


@operation("neighbour.say")
def say(n: int) -> int:
    """Say ``n`` back."""
    return n
