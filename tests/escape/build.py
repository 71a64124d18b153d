"""Compile the attempts in C into a folder: ``build.py FOLDER``; needs x86-64 and a C compiler."""

import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "c"
_FLAGS = ("-std=gnu11", "-O1", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror")


def build(folder: Path) -> None:
    """``libescape.so`` with all attempts, and ``payload.so``, which two of them try to load."""
    for name, sources in {
        "libescape.so": sorted(set(SOURCES.glob("*.c")) - {SOURCES / "payload.c"}),
        "payload.so": [SOURCES / "payload.c"],
    }.items():
        command = ["cc", *_FLAGS, "-shared", "-fPIC", "-o", str(folder / name), *map(str, sources)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"the attempts in C do not compile:\n{done.stderr}")


if __name__ == "__main__":
    build(Path(sys.argv[1]))
