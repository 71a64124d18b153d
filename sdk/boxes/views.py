"""What the kernel's listing ``boxes`` shows: those that ship here, and pieces of what they said."""

import time
from typing import Any

from clawai.sdk import paths
from clawai.sdk.boxes import keys, shelf
from clawai.sdk.boxes.wire import SILENT
from clawai.sdk.errors import ClawError


def view(what: str) -> dict[str, Any]:
    """``boxes``: all of them; ``boxes:NAME:PLACE``: a piece of one's lines.

    Raises:
        ClawError: bad_params; not_permitted and bad_config, of the file of boxes.
    """
    _, _, asked = what.partition(":")
    if not asked:
        return {"boxes": listed()}
    name, _, place = asked.partition(":")
    if not keys.NAME.fullmatch(name):
        raise ClawError("bad_params", "there is no such box", name[:80], "a name of `claw boxes`")
    return shelf.read(paths.boxes_dir() / name, place)


def listed() -> list[dict[str, Any]]:
    """Each box with its latest word, by name; those that were removed as long as lines are kept.

    Raises:
        ClawError: not_permitted, bad_config.
    """
    known = {box.name: box.key for box in keys.read()}
    folder = paths.boxes_dir()
    kept = {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()
    names = sorted(known.keys() | {name for name in kept if keys.NAME.fullmatch(name)})
    return [_row(name, known.get(name, "")) for name in names[: 4 * keys.MOST]]


def _row(name: str, key: str) -> dict[str, Any]:
    seen = shelf.seen(paths.boxes_dir() / name)
    silent = max(0.0, time.time() - seen.arrived) if seen.arrived else None
    figures = {field: getattr(seen.figures, field) for field in seen.figures.__struct_fields__}
    return {
        "name": name,
        "key": key,
        "silent_s": silent,
        "heard": silent is not None and silent < SILENT,
        "ahead_s": seen.ahead,
        "end": seen.end,
        "lines": seen.lines,
        "lost": seen.lost,
        "lost_whole": seen.whole,
        **figures,
    }
