"""The table of ops in docs/ops.md, made from what the library says that it holds.

    python tests/ops_table.py          # writes it into the document

A test compares the two, so that the document stays true.
"""

import re
from collections import Counter
from pathlib import Path

from clawai.plugins.accelerator.listing import set_of
from clawai.plugins.accelerator.native import ISAS
from clawai.plugins.accelerator.tuned import rows

DOCUMENT = Path(__file__).parent.parent / "docs" / "ops.md"
PART = re.compile(r"(<!-- table of ops -->\n).*?(<!-- end of the table -->)", re.DOTALL)


def table() -> str:
    """Families against instruction sets, with sums, as Markdown."""
    counts: dict[str, Counter[str]] = {}
    dtypes: dict[str, list[str]] = {}
    for row in rows():
        own = [isa for isa in ISAS if set_of(row, isa) == isa]
        counts.setdefault(row.family, Counter()).update(own)
        if row.dtype not in dtypes.setdefault(row.family, []):
            dtypes[row.family].append(row.dtype)
    lines = [
        f"| family | data types | {' | '.join(ISAS)} |",
        f"| --- | --- |{' ---: |' * len(ISAS)}",
    ]
    for family, found in counts.items():
        cells = " | ".join(str(found[isa] or "-") for isa in ISAS)
        lines.append(f"| {family} | {'; '.join(dtypes[family])} | {cells} |")
    sums = sum(counts.values(), Counter())
    lines.append(f"| **all** | | {' | '.join(str(sums[isa]) for isa in ISAS)} |")
    rvv, every = sums["rvv"], sums.total() - sums["scalar"]
    lines.append("")
    lines.append(
        f"**{every - rvv} ops on x86 and NEON without the scalar references, {every} with RVV** "
        "(op x data type x instruction set, each counted once)."
    )
    return "\n".join(lines) + "\n"


def renewed(text: str) -> str:
    """The document with the table of now."""
    return PART.sub(lambda found: found[1] + table() + found[2], text)


if __name__ == "__main__":
    DOCUMENT.write_text(renewed(DOCUMENT.read_text()))
