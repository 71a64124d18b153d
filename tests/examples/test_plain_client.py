"""examples/02_plain_client.py: what WIRE.md promises to a client without our SDK."""

import ast
import subprocess
import sys
from pathlib import Path

from clawai.sdk import wire
from support import PATIENCE, Kernel

EXAMPLE = Path(__file__).parents[2] / "examples" / "02_plain_client.py"


def test_it_needs_zmq_and_msgpack_only() -> None:
    tree = ast.parse(EXAMPLE.read_text())
    imported = {
        name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names
    } | {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported - set(sys.stdlib_module_names) == {"zmq", "msgpack"}


def test_it_runs(kernel: Kernel) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)],
        env=kernel.env,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert f"wire {list(wire.VERSION)}" in first, "a client of an older minor is understood"
    assert rest == [
        "chunk 1",
        "chunk 2",
        "chunk 3",
        "done 3",
        "error cancelled",
        "unknown_operation - did you mean 'echo.say'?",
    ]
