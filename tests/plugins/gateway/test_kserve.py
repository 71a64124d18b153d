"""The Open Inference Protocol and TensorFlow Serving's, by KServe's own clients.

They run in a process of their own: their messages of gRPC have the names that those of Triton's
client have, and protobuf takes each name once in a process. ``kserve_checks`` says what is checked.
"""

import importlib.util
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from doors_kit import Doors

PROGRAM = Path(__file__).parents[2] / "kserve_checks.py"
ANSWER_S = 60


def checks() -> list[str]:
    """All that there are; the client, which takes a second to be imported, is not."""
    found, kind = [], ""
    for line in PROGRAM.read_text("utf-8").splitlines():
        if named := re.match(r"class (\w+)", line):
            kind = named[1]
        elif named := re.match(r"    async def (\w+)", line):
            found.append(f"{kind}.{named[1]}")
    return found


@pytest.fixture(scope="module")
def peer(tensors: Doors) -> Iterator[subprocess.Popen[str]]:
    if importlib.util.find_spec("kserve") is None:
        pytest.skip("KServe's client is not installed: there is none for this Python")
    ours = [sys.executable, "-W", "error", str(PROGRAM), str(tensors.port)]
    with subprocess.Popen(
        ours, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    ) as made:
        try:
            yield made
            assert made.stdin
            made.stdin.close()
            assert made.wait(30) == 0
        finally:
            made.kill()  # the end of the block waits for it, however long


def answer(peer: subprocess.Popen[str]) -> str:
    """Its next line, which must come in time; one that gave none is killed."""
    assert peer.stdout
    late = threading.Timer(ANSWER_S, peer.kill)
    late.start()
    try:
        return peer.stdout.readline()
    finally:
        late.cancel()


@pytest.mark.parametrize("check", checks())
def test_as_its_client_sees_it(peer: subprocess.Popen[str], check: str) -> None:
    assert peer.stdin
    print(check, file=peer.stdin, flush=True)
    line = answer(peer)
    assert line, f"its client ended, or did not answer within {ANSWER_S} s"
    said = json.loads(line)
    assert not said, said
