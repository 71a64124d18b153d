"""What a plugin asks for beyond what every plugin gets, as the owner is asked for it.

An ``Ask`` is one permission with its reason. ``asks`` lists those of a manifest, ``words`` says one
in plain words, ``grown`` what is new since an owner last said yes.
"""

from collections.abc import Iterable, Sequence

import msgspec

from clawai.sdk.manifest import UNASKED, Plugin
from clawai.sdk.netrules import LAN, LOCALHOST, network_rule

KINDS = (
    "read", "write", "network", "listen", "programs", "devices", "operations", "models",
    "shared_memory", "kernel", "secrets", "data", "memory", "cpu", "threads", "on_behalf_of",
)  # fmt: skip
_QUANTITIES = ("data", "memory", "cpu", "threads")
_MEMORY = ("data", "memory")
"""Of these quantities, those in MiB."""
_RIGHTS = {
    "logs": "read the log of the kernel, with what every plugin prints",
    "boxes": "read what other boxes ship here: their logs, and how they are",
    "timeline": "see which tasks ran in the last minutes, for whom, and why they waited",
    "pin": "keep models and plugins loaded, and let them go again",
    "unload": "unload models and plugins: their tasks end with an error",
    "pull": "fetch models that the catalogue lists",
    "remove": "delete stored models that are neither pinned nor in use",
}


class Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One permission that a plugin asks for."""

    kind: str
    """One of ``KINDS``."""
    what: str
    """A path, host, port, name or number; empty for ``on_behalf_of``."""
    reason: str
    """May be empty for ``data``."""


def asks(plugin: Plugin) -> tuple[Ask, ...]:
    """Everything that a plugin asks for; nothing if it is content with what every plugin gets."""
    wanted = plugin.permissions
    found = [
        Ask(kind, what, reason)
        for kind in KINDS[:10]
        for what, reason in sorted(getattr(wanted, kind).items())
    ]
    found += [Ask("secrets", name, why) for name, why in sorted(plugin.secrets.items())]
    if plugin.limits.data_mib:
        found.append(Ask("data", f"{plugin.limits.data_mib}", wanted.limits.get("data", "")))
    for kind, had in UNASKED.items():
        number = getattr(plugin.limits, "memory_mib" if kind == "memory" else kind)
        if number > had:
            found.append(Ask(kind, f"{number:g}", wanted.limits[kind]))
    if wanted.on_behalf_of:
        found.append(Ask("on_behalf_of", "", wanted.on_behalf_of))
    return tuple(found)


def words(ask: Ask) -> str:
    """The permission in plain words, without its reason."""
    what = ask.what
    match ask.kind:
        case "read":
            return f"read {what} and what is in it"
        case "write":
            return f"read and change {what} and what is in it"
        case "network":
            return _network(what)
        case "listen":
            where = "any machine" if what.startswith("lan:") else "this machine"
            return f"accept connections from {where} on TCP port {what.removeprefix('lan:')}"
        case "programs":
            return f"start the program {what}, in the same sandbox"
        case "devices":
            return f"use the device {what}"
        case "operations":
            some = what.removesuffix("*")
            return (
                f"call any operation{f' that begins with {some}' if some else ''}"
                if (what.endswith("*"))
                else f"call the operation {what}"
            )
        case "models":
            return "have any model used" if what == "*" else f"have the model {what} used"
        case "shared_memory":
            named = f"whose name begins with {what[:-1]}" if what.endswith("*") else f"named {what}"
            said = "" if what == "*" else f" {named}"
            return f"read and change shared memory{said} of programs that ask it to"
        case "kernel":
            return _RIGHTS.get(what, f"ask the kernel for {what}")
        case "secrets":
            return f"be told its secret {what}, once you have typed it in"
        case "data":
            return f"keep files of its own, {what} MiB at most, that stay when it ends"
        case "memory":
            return f"hold {what} MiB of memory"
        case "cpu":
            return f"use {what} processors at once"
        case "threads":
            return f"run {what} threads"
        case _:
            return "act for other users of this kernel"


def _network(what: str) -> str:
    rule = network_rule(what)
    where = rule.host
    if where == LAN:
        where = "any machine of the local network"
    elif where == LOCALHOST:
        where = "this machine"
    elif where.startswith("*."):
        where = f"any host below {where[2:]}"
    return f"connect to {where}, port {' or '.join(map(str, rule.ports))}"


def grown(new: Iterable[Ask], old: Sequence[Ask]) -> list[Ask]:
    """Those of ``new`` that ``old`` does not cover; another reason for the same is no growth."""
    return [ask for ask in new if not any(_covers(before, ask) for before in old)]


def _covers(before: Ask, ask: Ask) -> bool:
    if before.kind != ask.kind:
        return False
    if ask.kind in _QUANTITIES:
        return float(before.what) >= float(ask.what)
    return before.what == ask.what


def short(wanted: Iterable[Ask]) -> str:
    """All in a few words, for a table: ``read 2, network, memory 1024 MiB``."""
    kinds: dict[str, list[str]] = {}
    for ask in wanted:
        kinds.setdefault(ask.kind, []).append(ask.what)
    told = []
    for kind, whats in kinds.items():
        if kind in _MEMORY:
            told.append(f"{kind} {whats[0]} MiB")
        elif kind in _QUANTITIES:
            told.append(f"{kind} {whats[0]}")
        else:
            told.append(kind.replace("_", " ") + (f" {len(whats)}" if len(whats) > 1 else ""))
    return ", ".join(told)
