"""One side of `decode` and `parallel`: a process of its own that loads a model and takes orders.

Orders and answers are lines of JSON, so that two sides can be measured in turn, round by round, and
neither's libraries are in the other's process:

    started              {"ready": {"name": ..., "isa": ...}}
    {"prefill": [ids]}   {"seconds": ...}   the prompt into an empty cache, up to the first token
    {"decode": N}        {"seconds": ...}   N more tokens after the prompt of the last order
    {"parallel": [[ids]], "count": N}
                         {"seconds": ...}   N more tokens after each of these prompts, all at once
    {"resident": true}   {"bytes": ..., "peak": ..., "huge": ...}
                                            of this process: now, at most so far, in huge pages
    {"write": N}         {"tokens": [ids]}  the first N tokens after the last prompt
    {"judge": [ids]}     {"gaps": [...]}    how far each of these tokens after the last prompt is
                                            below the likeliest one, in logits
    {"reply": TEXT, "count": N, "drafts": bool}
                         {"us": ..., "text": ..., "tokens": ..., "drafted": ..., "accepted": ...}
                                            an answer to TEXT, and its time behind the first token

Each answer with seconds also has ``cpu``: the processor time of this process meanwhile, all of its
threads, in seconds. A side answers `write`, `judge` and `reply` if it can (``Writer``,
``Judge``, ``Talker``).
"""

import json
import sys
import time
from collections.abc import Sequence
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


class Writer(Protocol):
    """A side that tells what it wrote."""

    def write(self, count: int) -> list[int]:
        """The first ``count`` greedy tokens after the last prefill's prompt."""
        ...


class Judge(Protocol):
    """A side that tells how likely tokens are to it."""

    def judge(self, tokens: Sequence[int]) -> list[float]:
        """For each of ``tokens`` after the last prefill: the best logit less its own."""
        ...


class Talker(Protocol):
    """A side that answers texts, with drafts or without."""

    def reply(self, text: str, count: int, drafts: bool) -> dict[str, Any]:
        """An answer of up to ``count`` tokens, its microseconds, and what was drafted."""
        ...


def serve(peer: Any, facts: dict[str, Any]) -> None:
    """Take orders for a ``Peer`` from standard input until it ends."""
    print(json.dumps({"ready": facts}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        start = time.process_time()
        try:
            answer = answered(peer, order)
        except ClawError as error:
            fail(error)
            continue
        if "seconds" in answer:
            answer["cpu"] = time.process_time() - start
        print(json.dumps(answer), flush=True)


def answered(peer: Any, order: dict[str, Any]) -> dict[str, Any]:
    """What a side says to one order."""
    if "prefill" in order:
        return {"seconds": peer.prefill(order["prefill"])}
    if "decode" in order:
        return {"seconds": peer.decode(order["decode"])}
    if "parallel" in order:
        return {"seconds": peer.parallel(order["parallel"], order["count"])}
    if "write" in order:
        return {"tokens": peer.write(order["write"])}
    if "judge" in order:
        return {"gaps": peer.judge(order["judge"])}
    if "reply" in order:
        return dict(peer.reply(order["reply"], order["count"], order["drafts"]))
    return memory()


def fail(error: ClawError) -> None:
    """Tell why this side cannot run."""
    fields = ("code", "message", "got", "allowed", "hint")
    told = {name: getattr(error, name) for name in fields}
    print(json.dumps({"error": told}, default=str), flush=True)


def memory() -> dict[str, int]:
    """Bytes of this process: resident, the most that ever was, and what lies in huge pages."""
    return {
        "bytes": _kilobytes("status", "VmRSS:"),
        "peak": _kilobytes("status", "VmHWM:"),
        "huge": _kilobytes("smaps_rollup", "AnonHugePages:"),
    }


def _kilobytes(name: str, key: str) -> int:
    """An entry of proc(5) about this process, in bytes; 0 where the system does not count it."""
    for line in Path(f"/proc/self/{name}").read_text(encoding="ascii").splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    return 0
