"""Steps of a replay as text and as plain values."""

from typing import Any

import msgspec

from clawai.kernel import events as ev
from clawai.kernel.core import Core
from clawai.kernel.replay.run import Step

_WIDE = 2000


def value(thing: Any) -> Any:
    """``thing`` as plain values: fields that are empty are left out."""
    if isinstance(thing, ev.Hidden | msgspec.Raw):
        return "..."
    if isinstance(thing, tuple | list):
        return [value(each) for each in thing]
    if isinstance(thing, msgspec.Struct):
        found = {name: getattr(thing, name) for name in thing.__struct_fields__}
        shown = {k: value(v) for k, v in found.items() if v not in ("", (), None, {})}
        return {"is": type(thing).__name__, **shown}
    return thing if isinstance(thing, int | float | str | bool | None | dict) else repr(thing)


def line(thing: Any) -> str:
    """One event or instruction on one line."""
    return _text(value(thing))[:_WIDE]


def _text(shown: Any) -> str:
    if isinstance(shown, dict) and "is" in shown:
        inside = ", ".join(f"{k}={_text(v)}" for k, v in shown.items() if k != "is")
        return f"{shown['is']}({inside})"
    if isinstance(shown, list):
        return f"[{', '.join(map(_text, shown))}]"
    return str(shown)


def step(one: Step) -> str:
    """An event and the core's answer."""
    lines = [f"#{one.number} at {one.now / 1e9:.6f} s: {line(one.event)}"]
    lines += [f"    -> {line(told)}" for told in one.told]
    if one.broke:
        lines.append(f"    !! {one.broke}")
    return "\n".join(lines)


def as_plain(one: Step) -> dict[str, Any]:
    """The same as plain values."""
    return {
        "number": one.number,
        "now": one.now,
        "event": value(one.event),
        "told": [value(told) for told in one.told],
        "broke": one.broke or None,
        "same": one.same,
    }


def difference(one: Step) -> str:
    """Both sides of a step that is not the same."""
    if one.recorded is None:
        return "in the field the core broke here; now it did not"
    recorded, now = one.recorded[1], one.names
    lines = [
        f"in the field: {', '.join(recorded) or 'nothing'} (checksum {one.recorded[0]:08x})",
        f"now:          {one.broke or ', '.join(now) or 'nothing'} (checksum {one.sum:08x})",
    ]
    if recorded == now and not one.broke:
        lines.append("the same kinds of instructions, with other contents")
    return "\n".join(lines)


def state(core: Core) -> dict[str, Any]:
    """What the core holds, in figures."""
    held = core.state
    return {
        "tasks": len(held.tasks),
        "queued": sum(task.state == "queued" for task in held.tasks.values()),
        "workers": {str(each.id): each.state for each in held.workers.values()},
        "segments": sum(each.client > 0 for each in held.memory.values()),
        "budget_bytes": held.ledger.budget,
        "used_bytes": held.ledger.used,
        "timers": len(held.timers),
        "stopping": held.stopping,
    }
