"""The models that are stored, as the doors name them."""

import difflib
from datetime import UTC, datetime
from typing import Any

from clawai.plugins.gateway.fields import BadRequest
from clawai.sdk.front import Front

LATEST = ":latest"
"""Ollama's clients put it behind names without a tag."""


async def models(kernel: Front) -> list[dict[str, Any]]:
    """Rows of ``claw models`` whose files are whole."""
    rows = (await kernel.query("models"))["models"]
    return [row for row in rows if "problem" not in row]


async def model(kernel: Front, name: str) -> dict[str, Any]:
    """One row.

    Raises:
        BadRequest: 404, with the nearest names.
    """
    rows = {row["name"]: row for row in await models(kernel)}
    found = rows.get(name) or rows.get(name.removesuffix(LATEST))
    if found is None:
        near = difflib.get_close_matches(name, rows, 3, 0.5) or sorted(rows)[:20]
        there = f"stored here: {', '.join(near)}" if near else "none is stored here"
        text = f"the model {name[:80]!r} is not stored here; {there}; `claw pull NAME` fetches one"
        raise BadRequest(text, "model", status=404)
    return found


def pulled(row: dict[str, Any]) -> datetime:
    """When a model came; 1970 if nobody noted it."""
    try:
        found = datetime.fromisoformat(row["pulled_at"])
    except ValueError:
        return datetime.fromtimestamp(0, UTC)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
