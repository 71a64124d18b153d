"""The pool's figures that need the kernel's own code: `claw bench pool` runs this as a program.

    python -m clawai.kernel.poolbench trace|whole SEED...
        the trace through the production core; a line of JSON for each seed; whole: as it was before
        small leases shared segments
    python -m clawai.kernel.poolbench fit LENGTH SEED...
        how many models there is room for in a trace of so many mean lifetimes
    python -m clawai.kernel.poolbench small SEED...
        only the small leases, in slabs kept by the bitmap and by TLSF

In the trace the world around the core does what honest holders do: each pair has a worker that is
ready, and who is asked to unmap a segment has unmapped it at once. The daemon does not load this.
"""

import json
import sys
import time
from collections import deque
from typing import Any

from clawai.kernel import events as ev
from clawai.kernel import limits, pooltrace
from clawai.kernel.core import Core
from clawai.kernel.pool import PAGE, find
from clawai.kernel.pooltlsf import Tlsf
from clawai.sdk import wire


class Bitmap:
    """The pages of one segment as the pool keeps them."""

    def __init__(self, pages: int) -> None:
        self.free = (1 << pages) - 1

    def take(self, pages: int) -> int:
        """The first page of so many, or -1."""
        if (first := find(self.free, pages)) >= 0:
            self.free &= ~(((1 << pages) - 1) << first)
        return first

    def give(self, begin: int, pages: int) -> None:
        """Bring pages back."""
        self.free |= ((1 << pages) - 1) << begin


def small(seed: int, kind: type[Bitmap] | type[Tlsf]) -> dict[str, float]:
    """The small leases of all pairs as if they were of one: slabs beyond what was held, time."""
    steps = pooltrace.trace(seed, 4 * pooltrace.PAIRS)
    sizes = {step.lease: -(-step.size // PAGE) for step in steps if step.size}
    steps = [step for step in steps if sizes[step.lease] <= limits.SMALL // PAGE]
    slabs: list[Bitmap | Tlsf] = []
    held: dict[int, tuple[Bitmap | Tlsf, int]] = {}
    live = most = 0
    began = time.process_time()
    for step in steps:
        pages = sizes[step.lease]
        if not step.size:
            slab, first = held.pop(step.lease)
            slab.give(first, pages)
            live -= pages
            continue
        for slab in slabs:
            if (first := slab.take(pages)) >= 0:
                break
        else:
            slab = kind(limits.SLAB // PAGE)
            slabs.append(slab)
            first = slab.take(pages)
        held[step.lease] = slab, first
        live += pages
        most = max(most, live)
    took = 1e6 * (time.process_time() - began) / len(steps)
    return {"beyond_ratio": len(slabs) * limits.SLAB / PAGE / most - 1, "step_us": took}


class Pairs:
    """A core with one client and one worker for each pair, and a budget that is all the pool's."""

    def __init__(self, budget: int, pairs: int) -> None:
        self.core = Core(budget)
        self.live = 0
        """Bytes asked for in all leases that are held."""
        self._sizes: dict[int, int] = {}
        self._held: dict[int, wire.Lease] = {}
        self.specs = [ev.Spec("pair", str(number), 0, 0, 1) for number in range(pairs)]
        for number, spec in enumerate(self.specs):
            self._do(ev.Borrowed(number + 1, 1, spec, 1))
            worker = self.core.state.services[spec.key].worker
            assert worker
            told = self._do(ev.WorkerReady(worker.id, 1))
            assert isinstance(told, wire.Leased)
            self._do(ev.Returned(number + 1, told.lease.segment, told.lease.generation))

    def _do(self, event: Any) -> Any:
        """One event and all that follows from it; what the client is told of its request."""
        told = None
        follow = deque([event])
        while follow:
            for said in self.core.handle(follow.popleft(), 0):
                match said:
                    case ev.Reply(message=wire.Drop(segment=number)):
                        follow.append(ev.Unmapped(said.client, number))
                    case ev.Reply():
                        told = said.message
                    case ev.Tell(message=wire.Drop(segment=number)):
                        follow.append(ev.WorkerDropped(said.worker, number))
                    case ev.FreeMemory():
                        follow.append(ev.MemoryGone(said.memory))
        return told

    def borrow(self, pair: int, lease: int, size: int) -> bool:
        """Whether the pair got what it asked for."""
        told = self._do(ev.Borrowed(pair + 1, lease, self.specs[pair], size))
        if not isinstance(told, wire.Leased):
            return False
        self._held[lease], self._sizes[lease] = told.lease, size
        self.live += size
        return True

    def give_back(self, pair: int, lease: int) -> None:
        """The end of a lease."""
        held = self._held.pop(lease)
        self.live -= self._sizes.pop(lease)
        self._do(ev.Returned(pair + 1, held.segment, held.generation))


def run(steps: list[pooltrace.Step], budget: int, pairs: int) -> dict[str, float] | None:
    """The pool at the first refusal; None if it refuses nothing."""
    world = Pairs(budget, pairs)
    state = world.core.state
    borrows, first = 0, state.last["memory"]
    for step in steps:
        if not step.size:
            world.give_back(step.pair, step.lease)
        elif world.borrow(step.pair, step.lease, step.size):
            borrows += 1
        else:
            # Idle segments were asked back before the refusal: what is charged now is in use.
            return {
                "utilisation_ratio": world.live / budget,
                "fragmentation_ratio": 1 - world.live / state.ledger.used,
                "reused_ratio": 1 - (state.last["memory"] - first) / borrows,
                "segments": len(state.memory),
            }
    return None


def models_fit(seed: int, length: float) -> tuple[float, float]:
    """Models without a refusal where one arena for each, of its own peak, holds ``PAIRS``.

    The pool's, and that of an allocator that wastes no byte and moves everything at will.
    """
    own = [sorted(pooltrace.of_pair(seed, pair, length)) for pair in range(pooltrace.PAIRS)]
    budget = sum(map(pooltrace.peak, own))
    models = pooltrace.PAIRS
    while pooltrace.peak(pooltrace.trace(seed, models + 1, length)) <= budget:
        models += 1
    ideal = models
    while run(pooltrace.trace(seed, models, length), budget, models) is not None:
        models -= 1
    return models / pooltrace.PAIRS, ideal / pooltrace.PAIRS


def whole_segments() -> None:
    """From now on every lease has a segment of its own, and one of any size is lent again."""
    limits.SMALL, limits.LEFT_OVER = 0, 1.0


def main(words: list[str]) -> None:
    """See the module."""
    if words[0] == "whole":
        whole_segments()
    length = float(words.pop(1)) if words[0] == "fit" else 0.0
    for seed in map(int, words[1:]):
        began = time.process_time()
        if words[0] == "small":
            kinds = {"bitmap": small(seed, Bitmap), "tlsf": small(seed, Tlsf)}
            print(json.dumps(kinds | {"seed": seed}))
            continue
        if words[0] == "fit":
            pool, ideal = models_fit(seed, length)
            found: dict[str, float] | None = {"models_fit_ratio": pool, "ideal_ratio": ideal}
        else:
            steps = pooltrace.trace(seed)
            found = run(steps, pooltrace.BUDGET, pooltrace.PAIRS)
        assert found, "the demand is above the budget"
        print(json.dumps(found | {"seed": seed, "cpu_s": time.process_time() - began}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
