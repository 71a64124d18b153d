"""Sends arrays back: all that had to wait while the last ones were sent, in one call."""

from clawai.sdk.plugin import Batch, Params, Tensor, batched


class Item(Params):
    """One array."""

    x: Tensor


@batched("mirror.echo")
def echo(items: list[Item], batch: Batch) -> list[Tensor]:
    """Each array, in a frame of its own."""
    pairs = zip(items, batch, strict=True)
    return [context.reply(context.array(item.x)) for item, context in pairs]
