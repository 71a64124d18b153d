"""The invariants of the core: the tests check them after every event, the simulator often."""

from clawai.kernel.core import Core


def check(core: Core) -> None:
    """Raise AssertionError if an invariant is broken."""
    state = core.state
    ledger = state.ledger
    total = sum(worker.holds for worker in state.workers.values())
    total += sum(held.size for held in state.memory.values())
    assert total == ledger.used, f"{total} held, {ledger.used} used"
    assert 0 <= total <= ledger.budget, f"{total} held of {ledger.budget}"
    for task in state.tasks.values():
        queued = task.service.queue.classes[task.rank].tasks
        worker = state.workers.get(task.worker)
        batch = task.slot.tasks if task.slot and worker else {}
        running = task.state in ("running", "cancelling", "expiring")
        assert (task.id in queued) == (task.state == "queued"), f"{task} is lost"
        assert (batch.get(task.id) is task) == running, f"{task} is lost"
        for child in task.children.values():
            assert state.tasks.get(child.id) is child, f"{child} is over, and {task} waits for it"
            assert child.asked.parent == task.id, f"{child} is not of {task}"
        parent = state.tasks.get(task.asked.parent)
        assert parent is None or task.id in parent.children, f"{task} is not known to {parent}"
    owned = sum(len(mine) for mine in state.requests.values())
    assert len(state.tasks) == owned, "a request without a task"
    assert state.payload == sum(task.asked.payload for task in state.tasks.values())
    for worker in state.workers.values():
        busy = {slot.number: slot for slot in worker.slots if slot.tasks}
        assert worker.running == busy, f"{worker.id} runs something else"
        assert worker.service.worker is worker
    workers = {("worker", number) for number in state.workers}
    for held in state.memory.values():
        assert held.maps <= workers | {("client", held.client)}, f"who is gone maps {held}"
        assert held.state != "freeing" or not held.maps, f"{held} is freed, and mapped"
