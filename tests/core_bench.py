"""A core with a clock, and shorthands to speak to it, for the directed tests of the core."""

from typing import Any

import msgspec

from clawai.kernel import events as ev
from clawai.kernel import limits, mail
from clawai.kernel.core import Core
from clawai.kernel.sim.check import check
from clawai.sdk import wire

MIB = limits.MIB
SECOND = limits.SECOND
TOOL = ev.Spec("tool", "", 100 * MIB, 0, 1)
WIDE = ev.Spec("wide", "", 100 * MIB, 0, 4)


class Bench:
    """A core, a clock, and shorthands."""

    def __init__(self, budget: int = 1000 * MIB, idle_ns: int = 0, **options: Any) -> None:
        self.core = Core(budget, idle_ns, **options)
        self.now = 1000 * SECOND
        self.said: list[ev.Instruction] = []

    def do(self, event: ev.Event, after: int = 0) -> list[ev.Instruction]:
        self.now += after
        said = self.core.handle(event, self.now)
        check(self.core)
        self.said += said
        return said

    def submit(
        self, request: int, spec: ev.Spec = TOOL, deadline: int | None = None, **fields: Any
    ) -> list[ev.Instruction]:
        """``deadline`` counts from now."""
        values: dict[str, Any] = {
            "client": 1,
            "op": "tool.op",
            "priority": "interactive",
            "deadline": None if deadline is None else self.now + deadline,
            "idempotent": False,
            "payload": 10,
            "leases": (),
            "body": ev.Hidden(wire.EMPTY_MAP),
        }
        return self.do(ev.Submitted(request=request, spec=spec, **(values | fields)))

    def ready(self, spec: ev.Spec = TOOL, slots: int = 1) -> int:
        """Make the worker of ``spec`` ready; its number."""
        worker = self.core.state.services[spec.key].worker
        assert worker
        self.do(ev.WorkerReady(worker.id, slots))
        return worker.id

    def pass_time(self, span: int) -> list[ev.Instruction]:
        """Let time pass, each timer at its own moment."""
        until, said = self.now + span, []
        while (due := self.core.next_timer()) is not None and due <= until:
            self.now = max(self.now, due)
            said += self.do(ev.Timer())
        self.now = until
        return said


def output(worker: int, message: Any, frames: tuple[bytes, ...] = ()) -> ev.Event:
    """What the core is told when a worker has sent a message of its task."""
    named = msgspec.structs.replace(message, incarnation=worker)
    return mail.from_worker(worker, [bytes(frame) for frame in wire.encode(named, frames)])


def message(told: ev.Instruction) -> Any:
    """What somebody is sent of an instruction; None if it sends nothing."""
    if isinstance(told, ev.Pass):
        return mail.to_client(told)[0]
    if isinstance(told, ev.Dispatch):
        return mail.to_worker(told)[0]
    return getattr(told, "message", None)


def answers(said: list[ev.Instruction], client: int | None = None) -> list[Any]:
    """The messages to clients, or to one of them."""
    told = [each for each in said if isinstance(each, ev.Reply | ev.Pass)]
    return [message(each) for each in told if client in (None, each.client)]


def runs(said: list[ev.Instruction]) -> list[wire.Run]:
    return [found for told in said if isinstance(found := message(told), wire.Run)]


def ends(said: list[ev.Instruction]) -> dict[int, str]:
    """Request to the code of its end, ``done`` if it succeeded."""
    found: dict[int, str] = {}
    for answer in answers(said):
        if isinstance(answer, wire.Done | wire.Error):
            assert answer.id is not None
            assert answer.id not in found
            found[answer.id] = getattr(answer, "code", "done")
    return found


def kinds(said: list[ev.Instruction], kind: type) -> list[Any]:
    return [told for told in said if isinstance(told, kind)]


def served(bench: Bench, worker: int) -> list[int]:
    """Finish each task as it comes; the requests in the order in which they ran."""
    state, order = bench.core.state, []
    while state.workers[worker].running:
        task = next(iter(state.workers[worker].running[0].tasks.values()))
        order.append(task.asked.request)
        bench.do(output(worker, wire.Done(id=task.id)))
    return order
