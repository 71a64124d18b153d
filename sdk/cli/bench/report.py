"""The one form of every benchmark: what was measured, on which box, beside which peer.

    {"bench", "version", "box": {...}, "settings": {...}, "figures": {...},
     "against": {PEER: {...}}, "ceilings": {...}, "shares": {...}}

Figures are flat numbers whose unit is the end of their key. What the project asks of a figure is a
``Bar`` of its module; the table for people shows it beside the figure. ``shares`` says of some
figures which part of the box's ``ceilings`` they are, measured in the same run (0 to 1, see
``roof``).
"""

import importlib
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import msgspec

from clawai.sdk.cli import doctor, output
from clawai.sdk.cli.bench import neighbours

UNITS = ("_ms", "_us", "_s", "_tok_s", "_rps", "_gb_s", "_gflop_s", "_gop_s", "_bytes", "_ratio")
_LESS_IS_BETTER = ("_ms", "_us", "_bytes")


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of one figure: at most, at least, or both.

    With ``of`` the limits are multiples of that peer's figure of the same key.
    """

    key: str
    most: float | None = None
    least: float | None = None
    of: str = ""


class Report(msgspec.Struct):
    """What one benchmark found."""

    bench: str
    settings: dict[str, Any]
    figures: dict[str, float]
    against: dict[str, dict[str, float]] = {}
    ceilings: dict[str, float] = {}
    shares: dict[str, float] = {}

    def as_dict(self) -> dict[str, Any]:
        """The form above."""
        return {
            "bench": self.bench,
            "version": importlib.metadata.version("clawai"),
            "box": box(),
            "settings": self.settings,
            "figures": self.figures,
            "against": self.against,
            "ceilings": self.ceilings,
            "shares": self.shares,
        }


def box() -> dict[str, Any]:
    """What a reader must know of this box to compare figures."""
    processor = doctor.processor()
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {
        "processor": processor.found.partition(", ")[0],
        "cores": processor.details["cores"],
        "isa": processor.details["isa"],
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "governor": governor.read_text().strip() if governor.exists() else "",
    }


def show(found: dict[str, Any]) -> None:
    """The table that a person reads: each figure beside its peers' and the bar it must reach."""
    about, against = found["box"], found["against"]
    print(f"{found['bench']} on {about['processor']}, {about['cores']} cores ({about['system']})")
    print(", ".join(f"{key} {value}" for key, value in found["settings"].items() if value != ""))
    shares = found.get("shares", {})
    if most := found.get("ceilings"):
        print("the box at most: " + ", ".join(f"{key} {most[key]:g}" for key in most))
    print()
    peers = list(against)
    bars = {bar.key: judged(bar, found) for bar in bars_of(found["bench"])}
    rows = []
    for key, value in found["figures"].items():
        theirs = [against[peer].get(key) for peer in peers]
        row = [key, figure(key, value)]
        row += [f"{shares[key]:.0%}" if key in shares else ""] if shares else []
        row += [figure(key, other) for other in theirs]
        if peers:
            row.append(compared(key, value, theirs[0]))
        if bars:
            row.append(bars.get(key, ""))
        rows.append(row)
    columns = ["FIGURE", "CLAWAI", *(["OF THE BOX"] if shares else [])]
    right = range(1, len(columns) + len(peers))
    columns += [*(peer.upper() for peer in peers), *([""] if peers else [])]
    columns += ["BAR"] if bars else []
    output.table(columns, rows, right=right)
    if (busy := found["settings"].get("others_busy_ratio", 0.0)) > neighbours.LIMIT:
        print(
            f"\nother processes used {busy:.0%} of this box meanwhile: measure again when it rests"
        )


def bars_of(bench: str) -> tuple[Bar, ...]:
    """What the module of a benchmark asks of its figures."""
    module = importlib.import_module(f"clawai.sdk.cli.bench.{bench}")
    bars: tuple[Bar, ...] = getattr(module, "BARS", ())
    return bars


def judged(bar: Bar, found: dict[str, Any]) -> str:
    """The bar in words and whether the figure reaches it; empty where its peer was not measured."""
    ours = found["figures"].get(bar.key)
    scale = found["against"].get(bar.of, {}).get(bar.key) if bar.of else 1.0
    if ours is None or not scale:
        return ""
    said, reached = [], True
    if bar.most is not None:
        said.append(f"at most {_limit(bar, bar.most)}")
        reached = ours <= bar.most * scale
    if bar.least is not None:
        said.append(f"at least {_limit(bar, bar.least)}")
        reached = reached and ours >= bar.least * scale
    return f"{', '.join(said)}: {'reached' if reached else 'MISSED'}"


def _limit(bar: Bar, value: float) -> str:
    if bar.of:
        return f"{value:g}x {bar.of}"
    return figure(bar.key, value) if bar.key.endswith("_bytes") else f"{value:g}"


def figure(key: str, value: float | None) -> str:
    """One figure for people."""
    if value is None:
        return "-"
    if key.endswith("_bytes"):
        return output.size(value)
    if value == int(value) and not key.endswith(UNITS):
        return f"{value:.0f}"
    if key.endswith(("_tok_s", "_ratio")) or value < 100:
        return f"{value:.2f}" if value < 10 else f"{value:.1f}"
    return f"{value:.0f}"


def compared(key: str, ours: float, theirs: float | None) -> str:
    """How ours stands to theirs, where more is always better."""
    counted = key.endswith(UNITS) or "rps" in key
    if not theirs or theirs < 0 or ours <= 0 or not counted:
        return ""
    ratio = theirs / ours if key.endswith(_LESS_IS_BETTER) else ours / theirs
    return f"{ratio:.2f}x" + (" faster" if ratio >= 1 and not key.endswith("_bytes") else "")
