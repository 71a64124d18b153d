"""How the tests of plugins in C and C++ compile."""

import subprocess
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
HERE = ROOT / "tests" / "native"
INCLUDE = ROOT / "sdk" / "include"
STRICT = ["-pedantic", "-Wall", "-Wextra", "-Werror"]
C = ["cc", "-std=c99", *STRICT]
CPP = ["c++", "-std=c++17", *STRICT, "-Wshadow"]

Build = Callable[..., Path]


def compiled(*command: str | Path) -> None:
    """Run a compiler; what it says is the failure."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
