"""A plugin that reads the web: the broker connects it to the host of plugin.toml, and no other."""

import re

from clawai.sdk import ClawError, Context, operation


@operation("fetch.title")
def title(ctx: Context, url: str = "http://localhost:8099/") -> str:
    """The title of the page at ``url``."""
    page = ctx.http.get(url).raise_for_status().text
    found = re.search(r"<title>(.*?)</title>", page, re.IGNORECASE | re.DOTALL)
    if not found:
        raise ClawError("bad_params", "the page has no title", got=url)
    return found[1].strip()
