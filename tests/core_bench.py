"""A core with a clock, and shorthands to speak to it, for the directed tests of the core."""

from typing import Any

from clawai.kernel import events as ev
from clawai.kernel import limits
from clawai.kernel.core import Core
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
        self.core.check()
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
            "params": wire.EMPTY_MAP,
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


def runs(said: list[ev.Instruction]) -> list[wire.Run]:
    return [s.message for s in said if isinstance(s, ev.Tell) and isinstance(s.message, wire.Run)]


def ends(said: list[ev.Instruction]) -> dict[int, str]:
    """Request to the code of its end, ``done`` if it succeeded."""
    found: dict[int, str] = {}
    for told in said:
        if isinstance(told, ev.Reply) and isinstance(told.message, wire.Done | wire.Error):
            assert told.message.id is not None
            assert told.message.id not in found
            found[told.message.id] = getattr(told.message, "code", "done")
    return found


def kinds(said: list[ev.Instruction], kind: type) -> list[Any]:
    return [told for told in said if isinstance(told, kind)]


def served(bench: Bench, worker: int) -> list[int]:
    """Finish each task as it comes; the requests in the order in which they ran."""
    state, order = bench.core.state, []
    while state.workers[worker].running:
        task = next(iter(state.workers[worker].running[0].values()))
        order.append(task.asked.request)
        bench.do(ev.Output(worker, wire.Done(id=task.id)))
    return order
