"""Which code a journal was made by: only the same core can be expected to do the same again."""

import functools
import hashlib
from pathlib import Path

CORE = (
    *("core", "costs", "events", "families", "grants", "leases", "ledger", "limits", "pool"),
    *("queue", "shared", "state", "tasks", "workers"),
)
"""The modules of the pure core."""


def identity() -> str:
    """Of the core's files as they are now."""
    digest = hashlib.sha256()
    kernel = Path(__file__).parent.parent
    for path in [kernel / f"{name}.py" for name in CORE] + [kernel.parent / "sdk" / "wire.py"]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def ours() -> str:
    """Of the core's files when this process first asked."""
    return identity()
