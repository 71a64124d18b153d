"""How long one decision of the core takes with many tasks queued.

    python -m clawai.kernel.sim.bench

A decision is one task in and one task out: ``handle(Submitted)`` and the ``handle(Output)`` that
ends the running task and dispatches the next. The queue stays as long as it was. One service with
one slot holds all the tasks, of all classes and many principals, some with deadlines: the worst
case for an ordered queue. What timers cost meanwhile is a figure of its own, by the decision.
Prints one JSON object. Processor time is counted, so that neighbours do not change it, and the
garbage collector is off: it is the core that is measured.
"""

import argparse
import gc
import json
import random
import sys
import time
from typing import Any

from clawai.kernel import events as ev
from clawai.kernel import limits
from clawai.kernel.core import Core
from clawai.sdk import wire

SIZES = {"100": 100, "10k": 10_000, "1m": 1_000_000}
PRINCIPALS = 64
PER_CLIENT = 100
SPEC = ev.Spec("tool", "", limits.MIB, 0, 1)
TIMER = ev.Timer()
SAID = ev.Hidden(None)
BLOCK = 50
"""Decisions that are timed together: to ask for the processor time costs a good part of one."""
GAP = limits.MS
"""Simulated time between two decisions."""


class Queue:
    """One core with ``size`` tasks queued behind one running task."""

    def __init__(self, size: int, seed: int = 1) -> None:
        self.core = Core(1 << 40, most_tasks=size + 1024)
        self.rng = random.Random(seed)
        self.now = 1000 * limits.SECOND
        self.request = 0
        self.running = 0
        self.worker = 0
        self.submit(self.next())
        self.happen(ev.WorkerReady(self.worker, 1))
        for _ in range(size):
            self.now += GAP  # or all of them would age in one moment
            self.submit(self.next())

    def next(self) -> ev.Submitted:
        """A task of a class, principal and deadline by chance."""
        self.request += 1
        late = self.rng.random() < 0.25
        return ev.Submitted(
            client=self.request // PER_CLIENT,
            request=self.request,
            spec=SPEC,
            op="tool.op",
            priority=self.rng.choices(wire.PRIORITIES, (1, 4, 8, 16))[0],
            # Far away: none expires while we measure, or the queue would not keep its length.
            deadline=self.now + self.rng.randrange(10**6, 10**7) * limits.SECOND if late else None,
            idempotent=True,
            payload=0,
            leases=(),
            principal=f"user {self.request % PRINCIPALS}",
        )

    def happen(self, event: ev.Event) -> None:
        """One event; note what runs."""
        self._note(self.core.handle(event, self.now))

    def submit(self, event: ev.Submitted) -> None:
        """One task more, untimed."""
        self.happen(event)

    def _note(self, said: list[ev.Instruction]) -> None:
        for told in said:
            if isinstance(told, ev.Start):
                self.worker = told.worker
            elif isinstance(told, ev.Dispatch):
                self.running = told.tasks[0][0]

    def decide(self, count: int, with_timers: bool = False) -> tuple[float, float, float]:
        """Mean seconds of a submit, of a done with the next dispatch, and of timers between."""
        submits = dones = timers = 0.0
        clock, handle = time.thread_time, self.core.handle
        for _ in range(count // BLOCK):
            events = [self.next() for _ in range(BLOCK)]
            began = clock()
            for event in events:
                self.now += GAP
                handle(event, self.now)
            middle = clock()
            for _ in range(BLOCK):
                said: list[Any] = handle(
                    ev.Output(self.worker, self.running, "done", SAID), self.now
                )
                self.running = said[-1].tasks[0][0]  # what it says last is whom it dispatches
            ended = clock()
            submits += middle - began
            dones += ended - middle
            self.happen(ev.WorkerAnswered(self.worker))
            began = clock()
            while with_timers and (due := self.core.next_timer()) is not None and due <= self.now:
                handle(TIMER, self.now)
            timers += clock() - began
        return submits / count, dones / count, timers / count


def measure(count: int, sizes: dict[str, int]) -> dict[str, float]:
    """The figures of ``claw bench sched``, without the simulated hour."""
    figures: dict[str, float] = {}
    for name, size in sizes.items():
        gc.collect()
        gc.disable()
        try:
            queue = Queue(size)
            queue.decide(min(count, 200))
            rounds = [queue.decide(count) for _ in range(3)]
            submit, done, _ = min(rounds, key=lambda times: times[0] + times[1])
            # Apart: they come in heaps, and leave nothing of the caches.
            timers = queue.decide(count, with_timers=True)[2]
        finally:
            gc.enable()
        figures[f"decision_{name}_us"] = round((submit + done) * 1e6, 2)
        figures[f"submit_{name}_us"] = round(submit * 1e6, 2)
        figures[f"dispatch_{name}_us"] = round(done * 1e6, 2)
        figures[f"timers_{name}_us"] = round(timers * 1e6, 2)
        del queue
    return figures


def main(arguments: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m clawai.kernel.sim.bench")
    parser.add_argument("--count", type=int, default=2000, help="decisions at each length")
    parser.add_argument("--sizes", default=",".join(SIZES), help="which lengths of the queue")
    options = parser.parse_args(arguments)
    names = options.sizes.split(",")
    if unknown := set(names) - set(SIZES):
        parser.error(f"no such length: {sorted(unknown)}; there are {', '.join(SIZES)}")
    chosen = {name: SIZES[name] for name in names}
    json.dump(measure(options.count, chosen), sys.stdout)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
