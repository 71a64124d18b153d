"""Work like a model's on an accelerator: a call costs 5 ms, and each item of it 0.1 ms more.

It waits for exactly so long after its start, however late the box wakes it.
"""

import time

from clawai.sdk.plugin import Params, batched

CALL_S, ITEM_S = 0.005, 0.0001


class Number(Params):
    """One item."""

    n: int


@batched("batched.work")
def work(numbers: list[Number]) -> list[int]:
    """The square of each, and one."""
    until = time.perf_counter() + CALL_S + ITEM_S * len(numbers)
    results = [number.n * number.n + 1 for number in numbers]
    while (left := until - time.perf_counter()) > 0:
        # The last stretch by looking at the clock: a sleep overshoots by up to 0.1 ms.
        if left > 0.0003:
            time.sleep(left - 0.0002)
    return results
