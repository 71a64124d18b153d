"""The table of escape attempts by layer, for SECURITY.md: ``table.py [--write]``.

Without an option it prints what ``table.json`` says. With ``--write`` it measures everything anew,
as root and as an ordinary user (so it asks for root), in about a minute, and writes ``table.json``
and the table in SECURITY.md. The tests compare both with what they measure.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
COMMITTED = HERE / "table.json"
DOCUMENT = ROOT / "SECURITY.md"
BEGIN, END = "<!-- escapes: written by tests/escape/table.py -->\n", "<!-- /escapes -->\n"
LEVELS = ("full", "no-landlock", "no-userns")
# As run.py names them, in the order in which the stage applies them; what the table calls each.
LAYERS = {
    "handover": "hand-over",
    "identity": "identity",
    "namespaces": "namespaces",
    "limits": "limits",
    "capabilities": "capabilities",
    "landlock": "Landlock",
    "syscalls": "system calls",
    "code": "new code",
}
GROUPS = {
    "files": "Files, folders, devices",
    "sockets": "Sockets, and the environment of the parent",
    "memory": "Memory",
    "code": "New code",
    "processes": "Processes",
    "privileges": "Privileges and rare system calls",
    "resources": "More than its share",
}
# Not 65534: a root daemon's workers have that one.
ORDINARY_UID = 54_321
PATIENCE = 110.0

Found = dict[str, dict[str, Any]]
"""Way of run.py -> attempt -> what came of it."""


def identities() -> tuple[str, ...]:
    """Who can be tried here."""
    return ("root", "user") if os.geteuid() == 0 else ("user",)


def measure(ways: Iterable[str], patience: float = PATIENCE) -> dict[str, Found]:
    """Run run.py for those ways, as every identity at once."""
    with tempfile.TemporaryDirectory(prefix="claw-escape-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        compiled = subprocess.run(
            [sys.executable, "-c", _COMPILE], capture_output=True, timeout=PATIENCE, check=True
        )
        (folder / "bpf").write_bytes(compiled.stdout)
        subprocess.run([sys.executable, str(HERE / "build.py"), name], check=True)
        for file in folder.iterdir():
            file.chmod(0o755)
        running = {who: _start(who, folder, ways) for who in identities()}
        try:
            return {who: json.loads(_output(process, patience)) for who, process in running.items()}
        finally:
            for process in running.values():
                _end(process)


_COMPILE = (
    "import os, sys; from clawai.sandbox import seccomp;"
    "sys.stdout.buffer.write(seccomp.compile_filters(os.uname().machine))"
)


def _start(who: str, folder: Path, ways: Iterable[str]) -> "subprocess.Popen[str]":
    program = [sys.executable, str(HERE / "run.py"), str(folder / "bpf"), str(folder), *ways]
    if os.geteuid() == 0:
        uid = "0" if who == "root" else str(ORDINARY_UID)
        program = [sys.executable, str(ROOT / "tests/sandbox/as_user.py"), uid, *program]
    # A session of its own: one attempt signals its whole process group.
    return subprocess.Popen(
        program,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _output(process: "subprocess.Popen[str]", patience: float) -> str:
    said, errors = process.communicate(timeout=patience)
    if process.returncode:
        raise RuntimeError(f"run.py ended with {process.returncode}: {errors}")
    return said


def _end(process: "subprocess.Popen[str]") -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def committed() -> dict[str, Any]:
    """What ``table.json`` holds."""
    record: dict[str, Any] = json.loads(COMMITTED.read_text())
    return record


def tabulate(found: dict[str, Found]) -> dict[str, Any]:
    """The record that is committed, from a whole measurement."""
    sys.path.insert(0, str(HERE))
    import inside  # the list of attempts, with what each is

    rows = {}
    for name, attempt in inside.ATTEMPTS.items():
        counts = [who for who in found if found[who]["none"][name] == "WORKED"]
        rows[name] = {
            "group": attempt.group,
            "in": attempt.language,
            "counts for": counts,
            "works at": {
                level: [who for who in counts if found[who][level][name] == "WORKED"]
                for level in LEVELS
            },
            "stopped by": {
                layer: [who for who in counts if found[who][f"only:{layer}"][name] != "WORKED"]
                for layer in LAYERS
            },
        }
    return {"landlock": found["root"]["box"]["landlock"], "attempts": rows}


def dump(record: dict[str, Any]) -> str:
    """One line an attempt."""
    rows = ",\n".join(
        f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in record["attempts"].items()
    )
    return f'{{\n  "landlock": {record["landlock"]},\n  "attempts": {{\n{rows}\n  }}\n}}\n'


def render(record: dict[str, Any]) -> str:
    """The part of SECURITY.md between the markers."""
    rows: dict[str, Any] = record["attempts"]
    counts = {who: [n for n, r in rows.items() if who in r["counts for"]] for who in identity_names}
    counted = [name for name, row in rows.items() if row["counts for"]]
    in_c = sum(rows[name]["in"] == "C" for name in counted)
    lines = [
        f"{len(counted)} attempts count, {len(counted) - in_c} in Python and {in_c} in C: "
        f"{len(counts['root'])} under a daemon of root, {len(counts['user'])} under one of an "
        "ordinary user. What works at a level:",
        "",
        "| level | under root | under an ordinary user |",
        "| --- | --- | --- |",
    ]
    for level in LEVELS:
        cells = []
        for who in identity_names:
            worked = [f"`{n}`" for n, r in rows.items() if who in r["works at"][level]]
            cells.append(", ".join(worked) or f"none of {len(counts[who])}")
        lines.append(f"| `{level}` | {' | '.join(cells)} |")
    for group, title in GROUPS.items():
        members = {name: row for name, row in rows.items() if row["group"] == group}
        lines += ["", f"**{title}**", "", *_table(members)]
    uncounted = ", ".join(f"`{name}`" for name in rows if name not in counted)
    lines += ["", f"Not counted here, because they cannot work on this box at all: {uncounted}."]
    return "\n".join(lines) + "\n"


identity_names = ("root", "user")


def _table(rows: dict[str, Any]) -> Iterable[str]:
    yield f"| attempt | in | {' | '.join(LAYERS.values())} |"
    yield "| --- | --- |" + " --- |" * len(LAYERS)
    for name, row in rows.items():
        if row["counts for"]:
            cells = (_cell(row["counts for"], row["stopped by"][layer]) for layer in LAYERS)
            only = " (root)" if row["counts for"] == ["root"] else ""
            yield f"| `{name}`{only} | {row['in']} | {' | '.join(cells)} |"


def _cell(counts: list[str], stopped: list[str]) -> str:
    if not stopped:
        return " "
    return "●" if stopped == counts else stopped[0]


def replaced(document: str, part: str) -> str:
    """The document with that part between the markers."""
    before, found, rest = document.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not (found and closed):
        raise SystemExit(f"{DOCUMENT} lacks the line {BEGIN!r} or {END!r}")
    return f"{before}{BEGIN}{part}{END}{after}"


def main() -> None:
    """See the top of this module."""
    if sys.argv[1:] == ["--write"]:
        if os.geteuid() != 0:
            raise SystemExit("run this as root: it measures what root and an ordinary user can do")
        ways = ["none", *LEVELS, *(f"only:{layer}" for layer in LAYERS)]
        COMMITTED.write_text(dump(tabulate(measure(ways, patience=600))))
        DOCUMENT.write_text(replaced(DOCUMENT.read_text(), render(committed())))
    elif sys.argv[1:]:
        raise SystemExit(f"got {sys.argv[1:]}, allowed: nothing, or --write")
    else:
        print(render(committed()), end="")


if __name__ == "__main__":
    main()
