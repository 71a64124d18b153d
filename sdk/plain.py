"""What lies inside of messages, for those who look there: clients, workers, steward and recorder.

The kernel passes parameters, results and the details of errors on as they are and loads none of
this. What a stranger put there may be garbage, deep or large: it is a typed error, or is cut.
"""

from typing import Any

import msgspec

from clawai.sdk import wire
from clawai.sdk.codes import CODES
from clawai.sdk.errors import ClawError

LEVELS = 8
"""Of lists and maps within each other in the detail of an error."""


def unpack(raw: wire.Raw | bytes) -> Any:
    """Plain values from a field of type Raw.

    Raises:
        ClawError: bad_message.
    """
    try:
        return msgspec.msgpack.decode(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, ValueError) as error:
        raise ClawError("bad_message", f"not msgpack: {error}"[:1000]) from None


def error_fields(error: ClawError) -> list[Any]:
    """What a ``ClawError`` is made of, as msgpack can carry it.

    A code that is not in the list, which may come from a plugin's author, is ``worker_failed``.
    """
    return [
        error.code if error.code in CODES else "worker_failed",
        error.message[:8000],
        _plain(error.got),
        _plain(error.allowed),
        error.hint[:8000],
        error.retry_after_ms,
    ]


def error_message(error: ClawError, id: int | None = None, incarnation: int = 0) -> wire.Error:  # noqa: A002
    """A ``ClawError`` as its message; any details can be sent."""
    whole = ClawError(*error_fields(error))
    return msgspec.structs.replace(wire.error_message(whole, id), incarnation=incarnation)


def error_from(message: wire.Error | wire.Unready) -> ClawError:
    """The message as a ``ClawError``; a code that is not in the list becomes ``worker_failed``."""
    return ClawError(
        message.code if message.code in CODES else "worker_failed",
        message.message,
        _inside(message.got),
        _inside(message.allowed),
        message.hint,
        getattr(message, "retry_after_ms", None),
    )


def _inside(raw: wire.Raw) -> Any:
    """The detail of an error, which is not worth another error."""
    try:
        return _plain(unpack(raw))
    except ClawError:
        return None


def _plain(value: Any, levels: int = LEVELS) -> Any:
    """``value`` cut to what is small, shallow and msgpack can carry, else its representation.

    Shallow, because what was just decoded may be too deep to encode a few calls further down.
    """
    if isinstance(value, dict):
        plain: Any = {str(key): _below(each, levels) for key, each in value.items()}
    elif isinstance(value, list | tuple | set | frozenset):
        plain = [_below(each, levels) for each in value]
    elif value is None or isinstance(value, bool | int | float | str | bytes):
        plain = value
    else:
        return repr(value)[:2000]
    try:
        if len(msgspec.msgpack.encode(plain)) <= wire.DETAIL:
            return plain
    except (ValueError, OverflowError):  # half a surrogate, or an integer beyond 64 bits
        pass
    return repr(plain)[:2000].encode("utf-8", "replace").decode()


def _below(value: Any, levels: int) -> Any:
    return _plain(value, levels - 1) if levels else "..."
