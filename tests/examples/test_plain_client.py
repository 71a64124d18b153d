"""examples/02: a client of ZeroMQ and msgpack only."""

import ast
import subprocess
import sys
from pathlib import Path

from support import Kernel

EXAMPLE = Path(__file__).parents[2] / "examples" / "02_plain_client.py"


def test_it_imports_nothing_of_ours() -> None:
    tree = ast.parse(EXAMPLE.read_text())
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert names == {"os", "pathlib", "msgpack", "zmq"}


def test_it_streams_and_cancels(kernel: Kernel) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)],
        env=kernel.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert lines[0] == f"kernel {kernel.pid} speaks [1, 0]"
    assert lines[1:6] == [f"chunk {number}" for number in range(1, 6)]
    assert lines[6].startswith("done 5 ") and "queue_us" in lines[6]
    assert lines[7] == "ended: cancelled"
