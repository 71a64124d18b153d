"""From what a journal holds back to the core and its events.

A snapshot is a pickle, which as such could run anything; here it may name only classes of the core,
and what they are made of, so that a file from a stranger can at most be refused.
"""

import io
import pickle
import sys
import typing
from typing import Any

import msgspec

from clawai.kernel import events as ev
from clawai.kernel.core import Core
from clawai.kernel.replay.code import CORE
from clawai.sdk.errors import ClawError

_NAMES = frozenset(f"clawai.kernel.{name}" for name in CORE) | {"clawai.sdk.wire"}
_OTHERS = frozenset(
    (
        ("collections", "deque"),
        ("collections", "OrderedDict"),
        ("collections", "defaultdict"),
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


def _hidden(code: int, data: memoryview) -> ev.Hidden:
    if code != 1:
        raise ValueError(f"an extension {code}, which no journal has")
    return ev.Hidden(None)


_EVENTS = tuple(
    kind
    for kind in vars(ev).values()
    if isinstance(kind, type) and issubclass(kind, ev.Event) and kind is not ev.Event
)
_decode = msgspec.msgpack.Decoder(typing.Union[_EVENTS], ext_hook=_hidden).decode  # noqa: UP007


def event(data: bytes | msgspec.Raw) -> ev.Event:
    """An event as the journal holds it.

    Raises:
        ClawError: bad_config.
    """
    try:
        found: ev.Event = _decode(data)
        return found
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, ValueError) as error:
        raise ClawError("bad_config", f"an event cannot be read: {error}"[:500]) from None
