"""Keys of the HTTP gateway: who may ask for what, how urgently, and how much of it.

``http-keys.json`` beside ``config.toml`` holds the SHA-256 of each key and never the key, which is
32 random bytes: nothing that could be guessed, so a slow hash would protect nothing more. ``claw
http key`` writes the file; a gateway is told of all keys when it begins to serve, and of each
change.
"""

import contextlib
import hashlib
import json
import re
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec

from clawai.sdk import paths, private, wire
from clawai.sdk.errors import ClawError

PREFIX = "claw-"
"""Of every key: whoever finds one somewhere knows what it opens."""
MOST = 256
"""Keys at a time."""
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One key."""

    name: str
    """Whose it is: tasks that are asked for with it belong to this name."""
    hash: str
    """SHA-256 of the key, in hexadecimal."""
    models: tuple[str, ...] = ("*",)
    """Names of the models that it may ask, or patterns such as ``smol*``."""
    operations: tuple[str, ...] = ("llm.*", "metrics")
    """Operations that it may ask for, or patterns; ``metrics`` is ``/metrics``."""
    priority: wire.Priority = "interactive"
    """The highest class; what asks for more is lowered to it."""
    per_minute: Count = 0
    """Requests; 0: any number."""
    tokens_per_minute: Count = 0
    """Tokens of questions and answers; 0: any number."""
    open: Count = 0
    """Requests at the same time; 0: any number."""
    created: str = ""
    expires: str = ""
    """When it stops opening anything, as ``2027-01-31T00:00:00+00:00``; empty: never."""

    def has_expired(self, now: datetime) -> bool:
        """Whether it opens nothing any more."""
        return bool(self.expires) and now >= datetime.fromisoformat(self.expires)


class Certificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a server proves by who it is."""

    chain: str
    """Certificates in PEM, its own first."""
    key: str
    """The private key in PEM."""


class _Book(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: tuple[Key, ...] = ()
    format: int = 1


def hashed(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def read() -> tuple[Key, ...]:
    """All keys.

    Raises:
        ClawError: not_permitted, if others may write the file; bad_config.
    """
    path = paths.config_dir() / "http-keys.json"
    try:
        book = msgspec.json.decode(private.load(path), type=_Book)
        for key in book.keys:
            key.has_expired(datetime.now(UTC))
    except FileNotFoundError:
        return ()
    except (ValueError, TypeError, RecursionError) as error:  # msgspec's, and of a date
        hint = "mend it by hand; or delete it, and every key with it"
        raise ClawError("bad_config", f"{path}: {error}", hint=hint) from error
    if book.format != 1:
        raise ClawError("bad_config", f"{path} is of another format", book.format, 1)
    return book.keys


def _save(keys: Iterable[Key]) -> tuple[Key, ...]:
    book = _Book(tuple(sorted(keys, key=lambda key: key.name)))
    text = json.dumps(msgspec.to_builtins(book), indent=2)
    private.save(paths.config_dir() / "http-keys.json", f"{text}\n".encode())
    return book.keys


def _locked() -> contextlib.AbstractContextManager[None]:
    return private.locked(paths.config_dir() / "http-keys.lock")


def add(name: str, expires: datetime | None = None, **scopes: Any) -> tuple[str, tuple[Key, ...]]:
    """Make a key: itself, which is nowhere else, and all keys that there are now.

    Args:
        scopes: fields of ``Key``.

    Raises:
        ClawError: bad_params.
    """
    if not NAME.fullmatch(name):
        allowed = "1 to 64 of a-z 0-9 . _ -, a letter or digit first"
        raise ClawError("bad_params", "the name of a key", name[:80], allowed)
    text = PREFIX + secrets.token_urlsafe(32)
    now = datetime.now(UTC)
    if expires and expires <= now:
        raise ClawError("bad_params", "the key would have expired already", expires.isoformat())
    made = Key(
        name=name,
        hash=hashed(text),
        created=now.isoformat(timespec="seconds"),
        expires=expires.isoformat(timespec="seconds") if expires else "",
        **scopes,
    )
    with _locked():
        keys = read()
        if any(key.name == name for key in keys):
            hint = f"another name; or first: claw http key revoke {name}"
            raise ClawError("bad_params", "there is a key of that name", name, hint=hint)
        if len(keys) >= MOST:
            raise ClawError("too_large", "keys of this gateway", len(keys), MOST, "revoke some")
        return text, _save([*keys, made])


def revoke(name: str) -> tuple[Key, ...]:
    """Take a key back; those that are left.

    Raises:
        ClawError: bad_params, with the names that there are.
    """
    with _locked():
        keys = read()
        left = [key for key in keys if key.name != name]
        if len(left) == len(keys):
            allowed = [key.name for key in keys]
            raise ClawError("bad_params", "there is no key of that name", name[:80], allowed)
        return _save(left)
