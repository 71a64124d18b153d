"""A plugin that listens: the kernel binds the port of plugin.toml, the plugin can only accept."""

from collections.abc import Iterator

from clawai.sdk import Context, operation


@operation("listen.lines")
def lines(ctx: Context, count: int = 1) -> Iterator[str]:
    """The lines that come, one connection after the other, until ``count`` have come."""
    listener = ctx.listener(8098)
    listener.settimeout(0.1)  # so that a cancel is heard
    while count > 0:
        ctx.checkpoint()
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        with connection, connection.makefile(encoding="utf-8", errors="replace") as sent:
            for line in sent:
                yield line.rstrip("\n")[:1000]
                count -= 1
                if count <= 0:
                    return
