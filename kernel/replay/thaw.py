"""From what a journal holds back to the core and its events.

A snapshot is a pickle, which as such could run anything; here it may name only classes of the core,
and what they are made of, so that a file from a stranger can at most be refused.
"""

import functools
import io
import pickle
import sys
import types
import typing
from typing import Any

import msgspec

from clawai.kernel import events as ev
from clawai.kernel.core import Core
from clawai.kernel.journal import TIMINGS, fields, whole
from clawai.kernel.replay.code import CORE
from clawai.sdk import wire
from clawai.sdk.errors import ClawError

_NAMES = frozenset(f"clawai.kernel.{name}" for name in CORE) | {"clawai.sdk.wire"}
_OTHERS = frozenset(
    (
        ("collections", "deque"),
        ("collections", "OrderedDict"),
        ("collections", "defaultdict"),
        ("clawai.sdk.errors", "ClawError"),
        ("msgspec", "Raw"),
        ("msgspec._utils", "rebuild"),
        ("builtins", "frozenset"),
        ("builtins", "set"),
    )
)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _OTHERS:
            return super().find_class(module, name)
        found = None
        if module in _NAMES and "." not in name:
            found = getattr(sys.modules.get(module), name, None)
        if not isinstance(found, type) or found.__module__ != module:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no core is made of")
        return found


def core(data: bytes) -> Core:
    """The core of a snapshot.

    Raises:
        ClawError: bad_config.
    """
    try:
        found = _Unpickler(io.BytesIO(data)).load()
    except Exception as error:  # a pickle that was tampered with can fail in any way
        raise ClawError("bad_config", f"the snapshot cannot be read: {error}"[:500]) from None
    if type(found) is not Core or not hasattr(found, "state"):
        raise ClawError("bad_config", "the snapshot is not one of a core", type(found).__name__)
    return found


_EVENTS: dict[str, type] = {
    name: kind
    for name, kind in vars(ev).items()
    if isinstance(kind, type)
    and issubclass(kind, msgspec.Struct)
    and kind.__module__ == ev.__name__
}
_MESSAGES: dict[str, type] = {
    name: kind
    for name, kind in vars(wire).items()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
}


def event(name: str, value: Any) -> Any:
    """An event of its name and blanked value.

    Raises:
        ClawError: bad_config.
    """
    kind = _EVENTS.get(name)
    if kind is None:
        raise ClawError("bad_config", "an event that this kernel does not know", got=name[:80])
    try:
        return _thaw(kind, value)
    except (msgspec.MsgspecError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise ClawError("bad_config", f"an event {name} cannot be read: {error}"[:500]) from None


def _thaw(kind: type, value: Any) -> Any:
    """One of ours: what ``journal.blank`` made of it."""
    if whole(kind):
        return msgspec.convert(value, kind)
    kept, hidden = _plan(kind)
    pairs = zip(kept.items(), value[kind.__name__], strict=True)
    return kind(**hidden, **{name: _field(hint, each) for (name, hint), each in pairs})


@functools.cache
def _plan(kind: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """The types of the fields that are kept, and the blanks of the others."""
    hints = typing.get_type_hints(kind, include_extras=True)
    found = fields(kind)
    kept = {name: hints[name] for name, hidden in found.items() if hidden is fields}
    return kept, {name: hidden for name, hidden in found.items() if hidden is not fields}


def _field(hint: Any, value: Any) -> Any:
    kinds = typing.get_args(hint) if _union(hint) else (hint,)
    if isinstance(value, dict) and len(value) == 1:
        name = next(iter(value))
        if name == "ClawError":
            (code,) = value[name]
            return ClawError(msgspec.convert(code, str), "-")
        kind = _MESSAGES.get(name)
        if kind is not None and kind in kinds:
            return _thaw(kind, value)
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return msgspec.convert(value, kind)
    if hint == tuple[bytes, ...]:
        return tuple(bytes(_size(each)) for each in value)
    if typing.get_origin(hint) is dict:
        pairs = zip(TIMINGS, value, strict=True)
        return {name: each for name, each in pairs if each is not None}
    return msgspec.convert(value, hint)


def _union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _size(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= wire.MAX_MESSAGE:
        raise ValueError(f"not the size of a frame: {value!r}")
    return value
