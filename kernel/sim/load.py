"""Who asks for what and when: streams of requests by seeded chance."""

import random
from collections.abc import Iterator

from clawai.kernel.limits import SECOND
from clawai.kernel.sim.scenario import Stream


def arrivals(stream: Stream, rng: random.Random, start: int, end: int) -> Iterator[int]:
    """The moments, in nanoseconds, at which requests of a stream arrive; in bursts if it has any.

    A Poisson process has no memory, so a gap that crosses the end of a burst is drawn anew there.
    """
    now, bursting = start, False
    changes = end
    if stream.bursts_s:
        bursting = rng.random() < stream.bursts_s[0] / sum(stream.bursts_s)
        changes = now + _phase(stream, rng, bursting)
    while now < end:
        rate = stream.burst_rate if bursting else stream.rate
        then = now + int(rng.expovariate(rate) * SECOND) + 1
        if stream.bursts_s and then > changes:
            now, bursting = changes, not bursting
            changes = now + _phase(stream, rng, bursting)
            continue
        now = then
        if now < end:
            yield now


def _phase(stream: Stream, rng: random.Random, bursting: bool) -> int:
    assert stream.bursts_s
    return int(rng.expovariate(1.0 / stream.bursts_s[0 if bursting else 1]) * SECOND) + 1
