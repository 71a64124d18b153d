"""What a manifest may say: its texts are shown to the owner, its permissions become rules.

A stranger wrote them, and the owner decides by what the terminal shows. So a text has no character
that a terminal obeys or that disguises what is written, a path is absolute and means one place, and
each permission has a reason. Whether one is too dangerous to be had at all, the sandbox says.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import PurePosixPath

from clawai.sdk.errors import ClawError
from clawai.sdk.netrules import listen_rule, network_rule

REASON = 200
"""Characters of a reason at most."""
DESCRIPTION = 1000
PERMISSIONS = 64
"""Of one plugin at most: nobody reads more."""
CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
"""C0 and C1 controls, separators of lines, marks of direction, invisible characters. Joiners and
variants of signs are none: some alphabets are not written without them."""
VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,5}([-+.]?[A-Za-z][0-9A-Za-z.+-]*)?")
OPERATIONS = re.compile(r"\*|([a-z][a-z0-9_]{0,31}\.){1,3}([a-z][a-z0-9_]{0,31}|\*)")
MODEL = re.compile(r"\*|[a-z0-9][a-z0-9._-]{0,63}")
SHARED_MEMORY = re.compile(r"\*|[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}\*?")
QUANTITIES = ("memory", "cpu", "threads", "data")

RIGHTS = ("logs", "timeline", "pin", "unload", "pull", "remove", "boxes")
"""Of a front beyond asking for tasks: a listing that tells more than what runs, a command."""

Refuse = Callable[[str, object, object], Exception]
"""Makes the error for a key, from what was got and what is allowed."""


def text(what: str, limit: int, lines: bool = False) -> str:
    """What is wrong with a text that people read; empty if nothing is."""
    if CONTROLS.search(what.replace("\n", "") if lines else what):
        return "a control character or an invisible one"
    return f"{len(what)} characters" if len(what) > limit else ""


def path(what: str) -> bool:
    """Whether it is an absolute path, or one below the home (``~/``), in its shortest form."""
    pure = PurePosixPath(what)
    parts = pure.parts[1:]
    rooted = what.startswith(("/", "~/")) and bool(parts)
    return (
        rooted
        and str(pure) == what
        and not what.startswith("//")
        and ".." not in parts
        and len(what.encode("utf-8", "replace")) <= 4096
        and not CONTROLS.search(what)
    )


def _means(rule: Callable[[str], object]) -> Callable[[str], object]:
    """Whether a rule of the network can be made of a key."""

    def good(what: str) -> bool:
        try:
            rule(what)
        except ClawError:
            return False
        return True

    return good


ALLOWED: dict[str, tuple[Callable[[str], object], str]] = {
    "read": (path, "an absolute path, or one that begins with ~/, without . and .."),
    "write": (path, "an absolute path, or one that begins with ~/, without . and .."),
    "network": (_means(network_rule), "lan, HOST, HOST:PORT, *.DOMAIN or localhost:PORT"),
    "listen": (_means(listen_rule), "a port from 1 to 65535, or lan: and a port"),
    "programs": (path, "the absolute path of a program"),
    "devices": (lambda what: path(what) and what.startswith("/dev/"), "a path below /dev/"),
    "operations": (OPERATIONS.fullmatch, "an operation, as in llm.generate or llm.*"),
    "models": (MODEL.fullmatch, "the name of a model, or *"),
    "shared_memory": (
        SHARED_MEMORY.fullmatch,
        "*, or a name in /dev/shm, which may end with *",
    ),
    "limits": (QUANTITIES.__contains__, f"one of {', '.join(QUANTITIES)}"),
    "kernel": (RIGHTS.__contains__, f"one of {', '.join(RIGHTS)}"),
}
"""Of each table of ``[permissions]``: what its keys must be, and that in words."""


def permissions(tables: Mapping[str, Mapping[str, str]], on_behalf_of: str, refuse: Refuse) -> None:
    """Check every key and every reason; ``tables`` by their names in ``ALLOWED``.

    Raises:
        ClawError: what ``refuse`` makes.
    """
    for table, entries in tables.items():
        good, allowed = ALLOWED[table]
        for what, why in entries.items():
            if not good(what):
                raise refuse(f"permissions.{table}: this cannot be asked for", what[:200], allowed)
            reason(f"permissions.{table}.{what}", why, refuse)
    if on_behalf_of:
        reason("permissions.on_behalf_of", on_behalf_of, refuse)
    elif tables["kernel"]:
        allowed = "with on_behalf_of, as only a front asks the kernel itself"
        raise refuse("permissions.kernel", sorted(tables["kernel"]), allowed)
    if (count := sum(map(len, tables.values()))) > PERMISSIONS:
        raise refuse("permissions: too many", count, PERMISSIONS)


def reason(key: str, why: str, refuse: Refuse) -> None:
    """Check the reason for which something is asked.

    Raises:
        ClawError: what ``refuse`` makes.
    """
    if not why.strip():
        raise refuse(f"{key}: it needs a reason that its owner can read", why, "a sentence")
    if wrong := text(why, REASON):
        allowed = f"at most {REASON} characters that a terminal shows as they are"
        raise refuse(f"{key}: its reason cannot be shown", wrong, allowed)


def texts(shown: Iterable[tuple[str, str, int]], refuse: Refuse) -> None:
    """Check texts that people will read: key, text, and how long it may be.

    Raises:
        ClawError: what ``refuse`` makes.
    """
    for key, what, limit in shown:
        if wrong := text(what, limit, lines=key.endswith("description")):
            raise refuse(
                key, wrong, f"at most {limit} characters that a terminal shows as they are"
            )


def within(key: str, value: object) -> Iterator[tuple[str, str, int]]:
    """Every text in a value of TOML, for ``texts``."""
    if isinstance(value, str):
        yield key, value, DESCRIPTION
    elif isinstance(value, dict):
        for name, each in value.items():
            yield f"a name in {key}", name, REASON
            yield from within(key, each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from within(key, each)


def refusal(where: object) -> Refuse:
    """How a manifest at ``where`` is refused."""
    return lambda what, got, allowed: ClawError("bad_config", f"{where}: {what}", got, allowed)
