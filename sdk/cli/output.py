"""What people see: tables, error blocks, notices, progress; and JSON for programs.

Text of models, plugins and files is untrusted: control characters, which could drive the terminal,
never reach it. Colours are left out when the stream is no terminal or ``NO_COLOR`` is set. Results
go to standard output and everything else to standard error.
"""

import base64
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, TextIO

from clawai.sdk.errors import ClawError

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_CONTROLS = {number: None for number in (*range(32), *range(127, 160)) if chr(number) not in "\n\t"}
_CONTROLS |= dict.fromkeys((0x61C, 0x200B, 0x200E, 0x200F, 0xFEFF, *range(0xE0000, 0xE0080)))
_CONTROLS |= dict.fromkeys((*range(0x2028, 0x202F), *range(0x2060, 0x206A)))
"""C0 and C1 controls, separators of lines, marks of direction, and what is not seen: all that can
drive a terminal or disguise a text. Joiners stay: some alphabets are not written without them."""


def clean(text: str) -> str:
    """``text`` without the characters that could drive a terminal."""
    return text.translate(_CONTROLS)


def _colourful(stream: TextIO) -> bool:
    return (
        stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "") != "dumb"
    )


def style(text: str, *names: str, stream: TextIO | None = None) -> str:
    """``text`` in colour, if the stream (standard output) shows colours."""
    if not _colourful(stream or sys.stdout):
        return text
    return f"\033[{';'.join(_CODES[name] for name in names)}m{text}\033[0m"


def note(text: str) -> None:
    """A sentence on the side, on standard error."""
    print(style(clean(text), "dim", stream=sys.stderr), file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    print(json.dumps(plain(value), indent=2, ensure_ascii=False, default=str))


def print_line(value: Any) -> None:
    """The same as one line, now: one of several."""
    print(json.dumps(plain(value), ensure_ascii=False, default=str), flush=True)


def plain(value: Any) -> Any:
    """``value`` with what JSON lacks replaced: bytes as base64, NaN and the infinities as null."""
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def print_error(error: ClawError, as_json: bool = False) -> None:
    """What went wrong, what was got, what is allowed, the next step."""
    if as_json:
        fields = ("code", "message", "got", "allowed", "hint", "retry_after_ms")
        print_json({"error": {name: getattr(error, name) for name in fields}})
        return
    err = sys.stderr
    lines = [f"{style('error:', 'red', 'bold', stream=err)} {clean(error.message)}"]
    got = _short(error.got)
    if got and got not in error.message:
        lines.append(f"  {style('got', 'dim', stream=err)}      {got}")
    if error.allowed not in (None, [], ""):
        lines.append(f"  {style('allowed', 'dim', stream=err)}  {_short(error.allowed)}")
    if error.hint:
        lines.append(f"  {style('next', 'dim', stream=err)}     {clean(error.hint)}")
    if error.retry_after_ms is not None:
        after = f"in {duration(error.retry_after_ms / 1000)} it may fare better"
        lines.append(f"  {style('retry', 'dim', stream=err)}    {after}")
    lines.append(f"  {style('code', 'dim', stream=err)}     {error.code}")
    print("\n".join(lines), file=err, flush=True)


def _short(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        text = ", ".join(str(item) for item in value[:12])
        text += f", ... ({len(value)} in all)" if len(value) > 12 else ""
    elif isinstance(value, (str, int, float)):
        text = str(value)
    else:
        text = repr(value)
    text = clean(text).replace("\n", " ")
    return text if len(text) <= 400 else text[:400] + " ..."


def size(count: float) -> str:
    """Bytes for people: 98.4 MB (powers of ten, as disks and downloads are sold)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" or count >= 99.5 else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def duration(seconds: float) -> str:
    """Seconds for people: 350 ms, 4.2 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], right: Iterable[int] = ()) -> None:
    """Aligned columns on standard output; ``right`` numbers the columns of figures.

    On a terminal the last column is wrapped to fit, and if it would become too narrow the widest
    is cut; on a small one each row becomes a block of names and values. Into a pipe everything is
    written, a row a line.
    """
    cells = [[" ".join(clean(str(cell)).split()) for cell in row] for row in rows]
    widths = [
        max(_width(name), *(_width(row[place]) for row in cells)) if cells else _width(name)
        for place, name in enumerate(columns)
    ]
    if sys.stdout.isatty():
        screen = shutil.get_terminal_size().columns
        spare = screen - sum(widths) - 2 * (len(widths) - 1)
        if spare < 0 and screen < _SMALL:
            _blocks(columns, cells, screen)
            return
        if widths[-1] + spare >= _NARROW:
            widths[-1] += min(0, spare)
        else:
            widest = max(range(len(widths)), key=widths.__getitem__)
            widths[widest] = max(8, widths[widest] + min(0, spare))
    figures = set(right)
    print(style(_line(columns, widths, figures).rstrip(), "bold"))
    for row in cells:
        first, *more = wrap(row[-1], widths[-1]) if widths[-1] >= _NARROW else [row[-1]]
        print(_line([*row[:-1], first], widths, figures).rstrip())
        for rest in more:
            print(_line(["" for _ in row[:-1]] + [rest], widths, figures).rstrip())


def _blocks(columns: Sequence[str], rows: Iterable[Sequence[str]], screen: int) -> None:
    """Each row as lines ``name: value``, wrapped to the screen."""
    for place, row in enumerate(rows):
        if place:
            print()
        for name, value in zip(columns, row, strict=True):
            first, *more = wrap(f"{name.lower()}: {value}", screen - 2)
            print("\n".join([first, *(f"  {line}" for line in more)]))


_SMALL = 60
"""Columns below which a table that does not fit is no table any more."""
_NARROW = 24
"""Columns that a wrapped text needs at least."""


def wrap(text: str, width: int) -> list[str]:
    """``text`` in lines of at most ``width`` columns, at least one."""
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and _width(lines[-1]) + 1 + _width(word) > width:
            lines.append(word)
        else:
            lines[-1] += f" {word}" if lines[-1] else word
    return lines


def wrapped(text: str, indent: int) -> str:
    """``text`` to print ``indent`` columns in, wrapped if standard output is a terminal."""
    width = shutil.get_terminal_size().columns - indent if sys.stdout.isatty() else 1 << 20
    return ("\n" + " " * indent).join(wrap(text, max(_NARROW, width)))


def _line(cells: Sequence[str], widths: Sequence[int], figures: set[int]) -> str:
    out = []
    for place, (whole, width) in enumerate(zip(cells, widths, strict=True)):
        cell, kept = whole, len(whole)
        while _width(cell) > width:
            kept -= 1
            cell = whole[:kept] + "…"
        pad = " " * (width - _width(cell))
        out.append(pad + cell if place in figures else cell + pad)
    return "  ".join(out)


def _width(text: str) -> int:
    """Columns that a terminal needs for ``text``."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def facts(pairs: Iterable[tuple[str, Any]]) -> None:
    """Names and values, one a line, aligned; empty values are left out."""
    shown = [(name, clean(str(value))) for name, value in pairs if value not in (None, "")]
    wide = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        print(f"{style(name.ljust(wide), 'dim')}  {value}")


class Status:
    """One changing line on a terminal's standard error; silent elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty() and os.environ.get("TERM", "") != "dumb"
        self._shown = ""

    def show(self, text: str) -> None:
        """Replace the line."""
        if self._live and text != self._shown:
            self._shown = text
            width = max(10, shutil.get_terminal_size().columns - 1)
            line = style(clean(text).replace("\n", " ")[:width], "dim", stream=sys.stderr)
            print(f"\r\033[2K{line}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            self._shown = ""
            print("\r\033[2K", end="", file=sys.stderr, flush=True)


class DownloadBar:
    """Progress of a pull: a bar on a terminal, else a plain line now and then."""

    _EVERY_S = 5.0

    def __init__(self, name: str, quiet: bool = False) -> None:
        self._name = name
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._last = time.monotonic()
        self._done = self._total = 0

    def __enter__(self) -> "DownloadBar":
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self._name, total=None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        self._done, self._total = done, total
        if self._bar:
            self._bar.update(self._task, completed=done, total=total or None)
        elif not self._quiet and time.monotonic() - self._last >= self._EVERY_S:
            self._last = time.monotonic()
            whole = f" of {size(total)}" if total else ""
            print(f"{self._name}: {size(done)}{whole}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """A sentence beside the bar."""
        if self._bar:
            self._bar.console.print(f"{self._name}: {text}", style="dim", markup=False)
        elif not self._quiet:
            print(f"{self._name}: {text}", file=sys.stderr, flush=True)
