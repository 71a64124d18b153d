"""Figures as people read them; the widths of columns do not jump with them."""

from collections.abc import Callable
from typing import Any

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(count: float) -> str:
    """Bytes: ``3.4 GiB``."""
    place = 0
    while count >= 1000 and place + 1 < len(UNITS):
        count /= 1024
        place += 1
    return f"{count:.0f} {UNITS[place]}" if place < 3 else f"{count:.1f} {UNITS[place]}"


def span(seconds: float) -> str:
    """A time: ``850 ms``, ``12 s``, ``3 min 05 s``, ``2 h 10 min``, ``3 d 4 h``."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def took(seconds: float) -> str:
    """A time that was measured: ``85.1 ms``, ``3.96 s``; a minute and more as ``span``."""
    if seconds < 1:
        return f"{1000 * seconds:.1f} ms"
    return f"{seconds:.2f} s" if seconds < 60 else span(seconds)


def percent(part: float) -> str:
    """A ratio: ``42 %``."""
    return f"{100 * part:.0f} %"


def about(seconds: float) -> str:
    """A time that goes on, in steps that can be read: ``40 s``, ``3 min 00 s``."""
    return span(5 * round(seconds / 5) if seconds >= 10 else int(seconds))


FILTERS: dict[str, Callable[..., Any]] = {
    "size": size,
    "span": span,
    "about": about,
    "took": took,
    "percent": percent,
}
