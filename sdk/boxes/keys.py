"""Which boxes may ship here.

``boxes.json`` beside ``config.toml`` holds their public keys, each under the name that the owner
has given it: what a box says of itself is never its name. People see keys in hexadecimal, as the
Z85 of ZeroMQ has characters that a shell obeys.
"""

import contextlib
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from clawai.sdk import paths, private
from clawai.sdk.errors import ClawError

MOST = 64
"""Boxes that may ship here."""
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
KEY = re.compile(r"[0-9a-f]{64}")


class Box(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One that may ship here."""

    name: str
    key: str
    """Its public key, in hexadecimal."""
    added: str = ""
    """When, as ``2027-01-31T00:00:00+00:00``."""


class _Book(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    boxes: tuple[Box, ...] = ()
    format: int = 1


def parsed(text: str, whose: str) -> bytes:
    """The bytes of a public key.

    Raises:
        ClawError: bad_params.
    """
    if not KEY.fullmatch(text.strip().lower()):
        hint = "`claw boxes key` prints it on that box"
        allowed = "64 hexadecimal digits"
        raise ClawError("bad_params", f"no key of {whose}", text[:80], allowed, hint)
    return bytes.fromhex(text)


def book() -> Path:
    """The file of those that may ship here."""
    return paths.config_dir() / "boxes.json"


def read() -> tuple[Box, ...]:
    """Those that may ship here.

    Raises:
        ClawError: not_permitted, if others may write the file; bad_config.
    """
    path = book()
    try:
        found = msgspec.json.decode(private.load(path), type=_Book)
    except FileNotFoundError:
        return ()
    except (ValueError, RecursionError) as error:  # msgspec's, too
        hint = "mend it by hand; or delete it, and add every box anew"
        raise ClawError("bad_config", f"{path}: {error}", hint=hint) from error
    wrong = [box.name for box in found.boxes if not _fits(box)]
    if found.format != 1 or wrong or len(found.boxes) > MOST:
        raise ClawError("bad_config", f"{path} is not as it was written", wrong[:4] or found.format)
    return found.boxes


def _fits(box: Box) -> bool:
    return bool(NAME.fullmatch(box.name) and KEY.fullmatch(box.key))


def _save(boxes: Iterable[Box]) -> tuple[Box, ...]:
    made = _Book(tuple(sorted(boxes, key=lambda box: box.name)))
    private.save(book(), msgspec.json.format(msgspec.json.encode(made), indent=2) + b"\n")
    return made.boxes


def _locked() -> contextlib.AbstractContextManager[None]:
    return private.locked(paths.config_dir() / "boxes.lock")


def add(name: str, key: str) -> tuple[Box, ...]:
    """Let a box ship here; all that may now.

    Raises:
        ClawError: bad_params, too_large.
    """
    if not NAME.fullmatch(name):
        allowed = "1 to 32 of a-z 0-9 -, a letter or digit first"
        raise ClawError("bad_params", "the name of a box", name[:80], allowed)
    public = parsed(key, "a box").hex()
    with _locked():
        boxes = read()
        for box in boxes:
            if name == box.name or public == box.key:
                hint = f"first: claw boxes remove {box.name}"
                text = f"the box {box.name} has this {'name' if name == box.name else 'key'}"
                raise ClawError("bad_params", text, name, hint=hint)
        if len(boxes) >= MOST:
            raise ClawError("too_large", "boxes that may ship here", len(boxes), MOST)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return _save([*boxes, Box(name, public, now)])


def remove(name: str) -> tuple[Box, ...]:
    """Let a box ship here no more; those that still may.

    Raises:
        ClawError: bad_params, with the names that there are.
    """
    with _locked():
        boxes = read()
        left = [box for box in boxes if box.name != name]
        if len(left) == len(boxes):
            allowed = [box.name for box in boxes]
            raise ClawError("bad_params", "there is no such box", name[:80], allowed)
        return _save(left)
