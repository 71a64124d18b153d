"""The one form of every benchmark: what was measured, on which box, beside which peer.

    {"bench", "version", "box": {...}, "settings": {...}, "figures": {...},
     "against": {PEER: {...}}}

Figures are flat numbers whose unit is the end of their key.
"""

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


class Report(msgspec.Struct):
    """What one benchmark found."""

    bench: str
    settings: dict[str, Any]
    figures: dict[str, float]
    against: dict[str, dict[str, float]] = {}

    def as_dict(self) -> dict[str, Any]:
        """The form above."""
        return {
            "bench": self.bench,
            "version": importlib.metadata.version("clawai"),
            "box": box(),
            "settings": self.settings,
            "figures": self.figures,
            "against": self.against,
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


def show(report: Report) -> None:
    """The table that a person reads: each figure beside its peers' and the ratio to the first."""
    found = report.as_dict()
    about = found["box"]
    print(f"{report.bench} on {about['processor']}, {about['cores']} cores ({about['system']})")
    print(", ".join(f"{key} {value}" for key, value in report.settings.items() if value != ""))
    print()
    peers = list(report.against)
    rows = []
    for key, value in report.figures.items():
        theirs = [report.against[peer].get(key) for peer in peers]
        row = [key, figure(key, value), *(figure(key, other) for other in theirs)]
        if peers:
            row.append(compared(key, value, theirs[0]))
        rows.append(row)
    columns = ("FIGURE", "CLAWAI", *(peer.upper() for peer in peers), *(("",) if peers else ()))
    output.table(columns, rows, right=range(1, 2 + len(peers)))
    if (busy := report.settings.get("others_busy_ratio", 0.0)) > neighbours.LIMIT:
        print(
            f"\nother processes used {busy:.0%} of this box meanwhile: measure again when it rests"
        )


def figure(key: str, value: float | None) -> str:
    """One figure for people."""
    if value is None:
        return "-"
    if key.endswith("_bytes"):
        return output.size(value)
    if key.endswith(("_tok_s", "_ratio")) or value < 100:
        return f"{value:.2f}" if value < 10 else f"{value:.1f}"
    return f"{value:.0f}"


def compared(key: str, ours: float, theirs: float | None) -> str:
    """How ours stands to theirs, where more is always better."""
    if not theirs or not ours:
        return ""
    ratio = theirs / ours if key.endswith(_LESS_IS_BETTER) else ours / theirs
    return f"{ratio:.2f}x" + (" faster" if ratio >= 1 and not key.endswith("_bytes") else "")
