"""Child tasks: which are refused because waiting for them could never end.

A task that runs may submit others and wait for them, and holds its slot meanwhile. What it asks of
the same service, or of one that waits for it in the end, may then wait for that very slot.
"""

from clawai.kernel import events as ev
from clawai.kernel import limits
from clawai.kernel.state import Service, State, Task


def objection(state: State, event: ev.Submitted, service: Service) -> ev.Fault | None:
    """Why a child task cannot be had, if so."""
    parent = state.tasks.get(event.parent)
    if parent is None or parent.state != "running":
        return ev.Fault("no_parent", got=event.parent)
    if event.job:
        return ev.Fault("durable_child")
    line = [parent]
    while above := state.tasks.get(line[-1].asked.parent):
        line.append(above)
    chain = [*(task.asked.op for task in reversed(line)), event.op]
    if len(chain) > limits.FAMILY:
        return ev.Fault("too_deep", got=chain, allowed=limits.FAMILY)
    if _locks(state, parent, service):
        return ev.Fault("would_lock", service.title, got=chain)
    holders = {task.slot.worker.id: task.slot.worker for task in line if task.slot}
    need, held = event.spec.base_bytes + event.spec.model_bytes, 0
    for worker in holders.values():  # they stay while they wait
        held += worker.holds
    if service.worker is None and need + held > state.ledger.budget:
        return ev.Fault("no_room_beside", service.title, need // limits.MIB, held // limits.MIB)
    return None


def _locks(state: State, parent: Task, service: Service) -> bool:
    """Whether ``parent`` would wait for a slot that nobody gives back before it.

    The largest set of tasks is looked for that all wait for one of the set: at first, all that
    have children; who waits for somebody who goes on is taken out until nobody is.
    """
    blocked = {task.id for task in state.tasks.values() if task.children} | {parent.id}

    def full(service: Service) -> bool:
        slots = service.worker.slots if service.worker else []
        return bool(slots) and all(slot.tasks.keys() & blocked for slot in slots)

    def stuck(child: Task) -> bool:
        return full(child.service) if child.state == "queued" else child.id in blocked

    while full(service):
        others = blocked - {parent.id}
        free = {n for n in others if not any(map(stuck, state.tasks[n].children.values()))}
        if not free:
            return True
        blocked -= free
    return False
