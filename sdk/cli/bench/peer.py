"""One side of `decode` and `parallel`: a process of its own that loads a model and takes orders.

Orders and answers are lines of JSON, so that two sides can be measured in turn, round by round, and
neither's libraries are in the other's process:

    started              {"ready": {"name": ..., "isa": ...}}
    {"prefill": [ids]}   {"seconds": ...}   the prompt into an empty cache, up to the first token
    {"decode": N}        {"seconds": ...}   N more tokens after the prompt of the last order
    {"parallel": [[ids]], "count": N}
                         {"seconds": ...}   N more tokens after each of these prompts, all at once
    {"resident": true}   {"bytes": ...}     of this process

Our own side answers texts too (``speculate``):

    {"answer": TEXT, "count": N, "drafts": bool}
                         {"us": ..., "text": ..., "tokens": ..., "drafted": ..., "accepted": ...}
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from clawai.sdk.errors import ClawError


class Peer(Protocol):
    """A loaded model."""

    def prefill(self, tokens: Sequence[int]) -> float:
        """Seconds from an empty cache to the first token after ``tokens``."""
        ...

    def decode(self, count: int) -> float:
        """Seconds for ``count`` greedy tokens after the last prefill's."""
        ...

    def parallel(self, prompts: Sequence[Sequence[int]], count: int) -> float:
        """Seconds for ``count`` greedy tokens after each prompt's first, in sequences of their own.

        From when all prompts are read until the last one has its last token.
        """
        ...


Order = Callable[[Mapping[str, Any]], dict[str, Any]]


def serve(peer: Peer, facts: dict[str, Any], answering: Order | None = None) -> None:
    """Take orders from standard input until it ends.

    Args:
        peer: what is measured.
        facts: what it says of itself.
        answering: takes the orders with "answer".
    """
    print(json.dumps({"ready": facts}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        answer: dict[str, Any]
        if answering and "answer" in order:
            try:
                answer = answering(order)
            except ClawError as error:
                fail(error)
                continue
        elif "prefill" in order:
            answer = {"seconds": peer.prefill(order["prefill"])}
        elif "decode" in order:
            answer = {"seconds": peer.decode(order["decode"])}
        elif "parallel" in order:
            answer = {"seconds": peer.parallel(order["parallel"], order["count"])}
        else:
            answer = {"bytes": resident()}
        print(json.dumps(answer), flush=True)


def fail(error: ClawError) -> None:
    """Tell why this side cannot run."""
    fields = ("code", "message", "got", "allowed", "hint")
    told = {name: getattr(error, name) for name in fields}
    print(json.dumps({"error": told}, default=str), flush=True)


def resident() -> int:
    """Resident bytes of this process."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmRSS")
