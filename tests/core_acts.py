"""What may happen in ``core_shell.World``, and some things that may not.

Each action takes ``choose``, a function that picks one of a list, so that Hypothesis and a seeded
generator drive the same world. ``drain`` ends a world: nothing may be left behind.
"""

from collections.abc import Callable
from typing import Any

from clawai.kernel import events as ev
from clawai.kernel import limits
from clawai.sdk import wire
from core_bench import output
from core_shell import BUDGET, CORES, KIB, MADE_UP, SPECS, WIDE, Asked, Choose, Proc, World

BROKEN = wire.Error(code="bad_model", message="broken")
NAMES = ("tool", "small", "engine", "wide", "nothing")


# What clients and the owner do.


def _new(world: World) -> int:
    world.requests += 1
    return world.requests


def submit(world: World, choose: Choose) -> None:
    """A task of any kind, with proper, stale or forged leases."""
    spec, client = choose(SPECS), choose(world.clients)
    leases = [lease for m in world.memory.values() for lease in m.leases.values()]
    forged = wire.Lease(segment=choose((1, 2, 99)), offset=0, length=8192, generation=1)
    chosen = choose([(), (), (), (forged,), *((lease,) for lease in leases)])
    deadline = choose((None, None, -1, 0, 5 * limits.MS, 2 * limits.SECOND, 3600 * limits.SECOND))
    request = _new(world)
    event = ev.Submitted(
        client=client,
        request=request,
        spec=spec,
        op=choose(("op", "op", "other op")),
        priority=choose(wire.PRIORITIES),
        deadline=None if deadline is None else world.now + deadline,
        idempotent=choose((True, False)),
        payload=choose((10, 100, 5 << 20)),
        leases=chosen,
        body=ev.Hidden(wire.EMPTY_MAP),
        principal=choose(("a", "b")),
        batch=4 if spec is WIDE else 1,
        job=choose(("", "", "", f"job {request}")),
        keep_ns=choose((None, None, None, 0, 5 * limits.SECOND)),
    )
    world.asked[client, request] = Asked("submit", event)
    world.do(event)


def child(world: World, choose: Choose) -> None:
    """A task that runs asks for another one; or says so of one that does not run."""
    running = [number for proc in world.procs.values() for number in proc.tasks]
    parent = choose([*running, *running, *world.core.state.tasks, 1 << 40])
    task = world.core.state.tasks.get(parent)
    spec, request = choose(SPECS), _new(world)
    event = ev.Submitted(
        client=world.clients[0],
        request=request,
        spec=spec,
        op="op",
        priority=task.asked.priority if task else "normal",
        deadline=task.asked.deadline if task else None,
        idempotent=choose((True, False)),
        payload=10,
        leases=(),
        body=ev.Hidden(wire.EMPTY_MAP),
        principal=task.asked.principal if task else "a",
        batch=4 if spec is WIDE else 1,
        job=choose(("", "", "", "", f"job {request}")),
        parent=parent,
        window=choose((0, 1)),
    )
    world.asked[event.client, request] = Asked("submit", event)
    world.do(event)


def take(world: World, choose: Choose) -> None:
    """A client has taken what a task streamed, or says so of anything."""
    mine = [key for key in world.asked if key[0] in world.clients]
    client, request = choose([*mine, (world.clients[0], 0)])
    world.do(ev.Taken(client, request, choose((0, 1, 1 << 40))))


def cancel(world: World, choose: Choose) -> None:
    """Any request of a living client, open, ended, never made, or another client's."""
    mine = [key for key in world.asked if key[0] in world.clients]
    client, request = choose([*mine, (world.clients[0], 0), (world.clients[0], world.requests)])
    world.do(ev.CancelAsked(client, request))


def leave(world: World, choose: Choose) -> None:
    """A client goes; another comes."""
    world.client_leaves(choose(world.clients))
    while world.follow_ups:
        world.do(world.follow_ups.pop(0))


def borrow(world: World, choose: Choose) -> None:
    """A segment of a size that fits, or not."""
    client, spec = choose(world.clients), choose(SPECS)
    request = _new(world)
    world.asked[client, request] = Asked("borrow")
    size = choose((0, 1, 4096, 100 * KIB, 400 * KIB, 2048 * KIB))
    world.do(ev.Borrowed(client, request, spec, size))


def give_back(world: World, choose: Choose) -> None:
    """A lease, or one that is over, or one that is not the client's."""
    mine = [(m, lease) for m in world.memory.values() for lease in m.leases.values()]
    if not mine:
        return
    segment, lease = choose(mine)
    generation = lease.generation + choose((0, 0, 0, 1))
    client = choose((segment.client, segment.client, world.clients[0]))
    if client == segment.client:
        segment.leases.pop(generation, None)
    world.do(ev.Returned(client, segment.id, generation))


def unmap(world: World, choose: Choose) -> None:
    """A client unmaps what it is asked to, or says so of something else."""
    client = choose(world.clients)
    number = choose([*(m.id for m in world.memory.values() if m.asked_back), 0, 1])
    if segment := world.memory.get(number):
        if segment.asked_back and choose((True, True, False)):
            client = segment.client
        if segment.asked_back and client == segment.client:
            segment.client_maps = segment.asked_back = False
    world.do(ev.Unmapped(client, number))


def command(world: World, choose: Choose) -> None:
    """The owner says something to what runs under a name."""
    what = choose(("unload", "pin", "unpin", "suspend", "suspend", "resume", "resume"))
    _order(world, what, choose(NAMES), choose(world.clients))


def _order(world: World, what: str, name: str, client: int) -> None:
    request = _new(world)
    world.asked[client, request] = Asked("command")
    for proc in world.procs.values():
        proc.may_stop_busy |= what == "unload" and name in proc.spec.key
    world.do(ev.Commanded(client, request, what, name))


def press(world: World, choose: Choose) -> None:
    """Others take processors and memory, or give them back."""
    cores = choose((CORES, CORES, 2, 0.3))
    world.do(ev.Pressure(cores, choose((BUDGET, BUDGET, BUDGET // 2, 300 * KIB))))


def fail_next_segment(world: World, choose: Choose) -> None:
    """The system has no memory for the next segment."""
    world.fail_segments = choose(("", "fail", "leave"))


def shutdown(world: World, choose: Choose) -> None:
    """The end begins."""
    for proc in world.procs.values():
        proc.may_stop_busy = True
    world.stopping = True
    world.do(ev.ShutdownAsked())


# What workers do.


def _pick(world: World, choose: Choose, fits: Callable[[Proc], Any]) -> Proc | None:
    found = [proc for proc in world.procs.values() if not proc.suspended_at and fits(proc)]
    return choose(found) if found else None


def reserve(world: World, choose: Choose) -> None:
    """An engine says what its model needs, with a weights object or without."""
    if proc := _pick(world, choose, lambda p: p.spec.model and p.wanted < 0 and not p.ready):
        size = choose((proc.spec.model_bytes, proc.spec.model_bytes, 900 * KIB, 1 << 40))
        layout, weights = choose((("", 0), ("layout", 64 * KIB), ("layout", 64 * KIB), ("x", 0)))
        if size + weights + proc.spec.base_bytes > BUDGET:
            proc.may_stop_busy = True
        counts = not proc.told_to_stop and world.heard(proc)
        proc.wanted = size if counts else -1
        world.do(ev.WorkerReserved(proc.id, size, layout, weights))


def fill(world: World, choose: Choose) -> None:
    """A worker has written its weights; the system forbids every write, or finds it cannot."""
    if proc := _pick(world, choose, lambda p: p.weights < 0):
        held, good = world.weights[-proc.weights], choose((True, True, False))
        held.sealed = good and world.heard(proc)
        proc.may_stop_busy |= not good
        world.do(ev.WorkerFilled(proc.id, good))


def melt(world: World, choose: Choose) -> None:
    """The pages of weights come back."""
    if freeing := [number for number in world.freeing if number in world.weights]:
        _melted(world, choose(freeing))


def _melted(world: World, number: int) -> None:
    if number in world.freeing:
        world.freeing.remove(number)
    (world.memory if number in world.memory else world.weights).pop(number)
    world.do(ev.MemoryGone(number))


def ready(world: World, choose: Choose) -> None:
    """A worker has loaded."""

    def may(proc: Proc) -> bool:
        loaded = (proc.granted and proc.weights >= 0) or not proc.spec.model
        return not proc.ready and loaded

    if proc := _pick(world, choose, may):
        if world.heard(proc) and not proc.told_to_stop:
            proc.ready = True
            proc.slots = min(choose((1, 4)), proc.spec.slots)
        world.do(ev.WorkerReady(proc.id, 4 if proc.slots > 1 else 1))


def unready(world: World, choose: Choose) -> None:
    """A worker cannot serve."""
    if proc := _pick(world, choose, lambda p: True):
        proc.may_stop_busy = True
        world.do(ev.WorkerUnready(proc.id, ev.Hidden(BROKEN)))


def say(world: World, choose: Choose) -> None:
    """A worker streams or ends a task that it runs."""
    proc = _pick(world, choose, lambda p: p.tasks)
    if proc is None:
        return
    task = choose(list(proc.tasks))
    message = choose(
        (
            wire.Progress(id=task, fraction=0.5),
            wire.Chunk(id=task),
            wire.Done(id=task, timings={"compute_us": 10**18, "plugin_us": -5}),
            wire.Done(id=task),
            wire.Error(id=task, code="cancelled", message="as asked"),
            wire.Error(id=task, code=MADE_UP, message="a code that is not ours"),
        )
    )
    if isinstance(message, wire.Chunk):
        proc.streamed.add(task)
    elif isinstance(message, wire.Done | wire.Error) and world.heard(proc):
        proc.let_go(task)
    world.do(output(proc.id, message))


def give_way(world: World, choose: Choose) -> None:
    """A worker gives a task back as it was told to."""

    def may(proc: Proc) -> bool:
        return bool(proc.yielding & set(proc.tasks) - proc.streamed)

    if proc := _pick(world, choose, may):
        task = choose(sorted(proc.yielding & set(proc.tasks) - proc.streamed))
        if world.heard(proc):
            world.requeue(proc, task)
            proc.let_go(task)
        world.do(ev.Output(proc.id, task, "yielded"))


def together(world: World, choose: Choose) -> None:
    """Requests and answers that the core hears in one event."""
    world.gathered = []
    for _ in range(choose((2, 3, 6))):
        choose((submit, submit, say, give_way))(world, choose)
    events, world.gathered = world.gathered, None
    if events:
        world.do(ev.Together(tuple(events)))


def pong(world: World, choose: Choose) -> None:
    """A worker lives."""
    if proc := _pick(world, choose, lambda p: True):
        world.do(ev.WorkerAnswered(proc.id))


def wait(world: World, choose: Choose) -> None:
    """A worker waited for a processor."""
    if proc := _pick(world, choose, lambda p: True):
        world.do(ev.WorkerWaited(proc.id, choose((1, 3, 60)) * limits.PING))


def drop(world: World, choose: Choose) -> None:
    """A worker unmaps what it was told to."""
    if proc := _pick(world, choose, lambda p: p.drops):
        _dropped(world, proc)


def _dropped(world: World, proc: Proc) -> None:
    number = proc.drops.pop()
    if world.heard(proc):
        world.memory[number].worker_maps = False
    world.do(ev.WorkerDropped(proc.id, number))


def die(world: World, choose: Choose) -> None:
    """A process ends, for any reason or none."""
    if world.procs:
        _end(world, choose(list(world.procs.values())), "killed by SIGSEGV")


def obey(world: World, choose: Choose) -> None:
    """A process ends that was told to, or is killed."""
    found = [proc for proc in world.procs.values() if proc.told_to_stop or proc.killed]
    if found:
        _end(world, choose(found), "exited with code 0")


def _end(world: World, proc: Proc, why: str) -> None:
    for number in proc.tasks:
        world.requeue(proc, number)
    del world.procs[proc.id]
    for segment in world.memory.values():
        segment.worker_maps = segment.worker_maps and segment.worker != proc.id
    if proc.suspended_at:  # what it ran had its clocks stopped until now
        world.resumed(proc)
    world.do(ev.WorkerGone(proc.id, why))


def lose_steward(world: World, choose: Choose) -> None:
    """The process that holds all memory dies, and every worker with it."""
    for proc in list(world.procs.values()):
        _end(world, proc, "its launcher died")
    for number in [*world.freeing]:
        _melted(world, number)
    for number in list(world.weights):  # those that were kept for the next worker
        _melted(world, number)


def broke(world: World, choose: Choose) -> None:
    """The shell sees a breach of the protocol."""
    if proc := _pick(world, choose, lambda p: True):
        proc.may_stop_busy = True
        world.do(ev.WorkerBroke(proc.id, "garbage"))


def free(world: World, choose: Choose) -> None:
    """Pages come back; or the worker that still maps them fills them again, and is caught."""
    freeing = [number for number in world.freeing if number in world.memory]
    if not freeing:
        return
    number = choose(freeing)
    segment = world.memory[number]
    proc = world.procs.get(segment.worker)
    if proc and choose((False, False, True)):
        segment.refilled = proc.may_stop_busy = True
        world.do(ev.WorkerBroke(segment.worker, "it wrote to memory that was taken back"))
        assert proc.killed
    elif not (proc and segment.refilled):  # else they come back when it is gone
        _melted(world, number)


def hostile(world: World, choose: Choose) -> None:
    """What a worker may say and should not; it must be refused without harm."""
    proc = _pick(world, choose, lambda p: True)
    if proc is None:
        return
    others = [task for p in world.procs.values() if p is not proc for task in p.tasks]
    queued = [task for task in world.core.state.tasks if task not in proc.tasks]
    task = choose([0, 1 << 61, *others, *queued])
    said = [
        wire.Done(id=task),
        wire.Chunk(id=task),
        wire.Progress(id=task),
        wire.Error(id=task, code="x", message=""),
        wire.Error(id=None, code="x", message=""),
    ]
    events: list[ev.Event] = [output(proc.id, message) for message in said]
    segments = [m for m in world.memory if m not in proc.drops]
    events += [ev.WorkerDropped(proc.id, number) for number in [*segments, 0, 1 << 61]]
    to_keep = set(proc.tasks) - proc.yielding
    events += [ev.Output(proc.id, number, "yielded") for number in (task, *to_keep)]
    if proc.ready or (proc.wanted >= 0 and not proc.granted) or proc.weights < 0:
        events.append(ev.WorkerReady(proc.id, 64))
    if proc.wanted >= 0 or proc.ready:
        events.append(ev.WorkerReserved(proc.id, 1))
    if proc.weights >= 0:
        events.append(ev.WorkerFilled(proc.id, False))
    proc.may_stop_busy = True
    was_over = proc.killed or proc.told_to_stop
    world.do(choose(events))
    assert proc.killed or was_over, "a breach of the protocol went unpunished"


# Time.


def advance(world: World, choose: Choose) -> None:
    """Time passes; timers run when they are due, or later."""
    world.now += choose((limits.MS, 100 * limits.MS, limits.SECOND, 25 * limits.SECOND))
    if choose((True, True, False)):
        run_timers(world)


def run_timers(world: World) -> None:
    """What the loop does when the next timer is due."""
    turns = 0
    while (due := world.core.next_timer()) is not None and due <= world.now:
        for proc in world.procs.values():
            worker = world.core.state.workers[proc.id]
            proc.may_stop_busy |= worker.state in ("starting", "loading")
        world.do(ev.Timer())
        # A worker whose time is over but that is in use may be due once more for what woke it.
        turns += 1
        assert turns < 20, "a timer that stays due would spin"


# The end.


def _first(options: Any) -> Any:
    return options[0]


def drain(world: World) -> None:
    """Everybody leaves, everything that was begun ends; nothing may be left behind."""
    for name in NAMES:
        _order(world, "resume", name, world.clients[0])
        _order(world, "unpin", name, world.clients[0])
    world.do(ev.Pressure(CORES, BUDGET))
    for client in list(world.clients):
        leave(world, lambda _, client=client: client)
    for _ in range(400):
        state = world.core.state
        if not (world.procs or world.memory or world.asked or state.tasks):
            break
        for proc in list(world.procs.values()):
            if proc.id in world.procs:
                _wind_up(world, proc)
        for number in [*world.freeing]:
            _melted(world, number)
        for act in (reserve, fill, ready):
            act(world, _first)
        world.now += 30 * limits.SECOND
        run_timers(world)
        if world.stopping:
            _jobs_go_on(world)
    _nothing_left(world)


def _wind_up(world: World, proc: Proc) -> None:
    if proc.told_to_stop or proc.killed:
        _end(world, proc, "ended")
    elif proc.drops:
        _dropped(world, proc)
    elif proc.tasks and world.heard(proc) and not proc.suspended_at:
        task = next(iter(proc.tasks))
        proc.let_go(task)
        world.do(output(proc.id, wire.Error(id=task, code="cancelled", message="x")))


def _jobs_go_on(world: World) -> None:
    """Jobs that the end of the kernel cut short are not told: they go on when it is back."""
    for key, asked in list(world.asked.items()):
        if asked.kind == "submit" and asked.submitted.job and not world.core.state.tasks:
            assert "end" not in world.journal[asked.submitted.job]
            del world.asked[key]


def _nothing_left(world: World) -> None:
    state = world.core.state
    assert not world.procs, world.procs
    assert not world.memory, world.memory
    assert not world.asked, world.asked
    assert not state.tasks
    assert not state.requests
    assert not any(held.client for held in state.memory.values())
    assert not state.workers
    assert not state.computing
    assert state.ledger.used == sum(held.size for held in world.weights.values())
    assert state.payload == 0
    assert len(state.timers) < 100, "timers pile up"


ACTIONS = (
    submit,
    child,
    take,
    together,
    cancel,
    leave,
    borrow,
    give_back,
    unmap,
    command,
    press,
    fail_next_segment,
    reserve,
    fill,
    melt,
    ready,
    unready,
    say,
    give_way,
    pong,
    wait,
    drop,
    die,
    obey,
    broke,
    free,
    hostile,
    advance,
    lose_steward,
    shutdown,
)
WEIGHTS = (
    *(30, 8, 4, 8, 6, 2, 8, 6, 4, 6, 3, 2),
    *(8, 6, 4, 16, 1, 30, 12, 2, 2, 8, 2, 8, 1, 8, 1),
    *(16, 0.2, 0.05),
)
