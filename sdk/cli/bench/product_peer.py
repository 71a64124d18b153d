"""One side of `claw bench gemm`: a process of its own that takes orders, line by line, as JSON.

    started                                        {"ready": {...}}
    {"run": KIND, "isa": ISA, "rounds": N}         {"seconds": median of the rounds}
    {"peak": ISA}                                  {"gop_s": ...}   of byte products, ours only
    {"check": KIND}                                {"digest": ...} or {"error_ratio": ...}

``check`` is about the last result of that kind: int8 sums as a digest, int4 by their distance from
float64.
"""

import json
import statistics
import sys
from typing import Any, Protocol

from clawai.sdk.cli.bench import peer
from clawai.sdk.cli.bench.product_case import Case, digest
from clawai.sdk.errors import ClawError

KINDS = ("int8", "int4_symmetric", "int4_asymmetric")


class Products(Protocol):
    """The products of one case."""

    case: Case
    results: dict[str, Any]
    """The last of each kind."""

    def run(self, kind: str, isa: str, rounds: int) -> list[float]:
        """Seconds of each round."""
        ...

    def peak(self, isa: str) -> float:
        """What a loop of nothing but byte products reaches, in operations a nanosecond."""
        ...


def check(products: Products, kind: str) -> dict[str, Any]:
    """How right the last result of a kind is."""
    y = products.results[kind]
    if kind == "int8":
        return {"digest": digest(y)}
    return {"error_ratio": products.case.error(y, kind == "int4_symmetric")}


def serve(products: Products, facts: dict[str, Any]) -> None:
    """Take orders from standard input until it ends."""
    print(json.dumps({"ready": facts}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        try:
            if "run" in order:
                times = products.run(order["run"], order.get("isa", ""), order["rounds"])
                answer = {"seconds": statistics.median(times)}
            elif "peak" in order:
                answer = {"gop_s": products.peak(order["peak"])}
            else:
                answer = check(products, order["check"])
        except ClawError as error:
            peer.fail(error)
            return
        print(json.dumps(answer), flush=True)
