"""Every limit of the kernel, in one place. Times are nanoseconds, sizes bytes.

What the steward alone keeps to is in ``clawai.kernel.steward.limits``.
"""

from clawai.sdk.wire import MAX_OPEN

MS = 1_000_000
SECOND = 1000 * MS
MIB = 1 << 20

# Clients.
CLIENTS = 256
TASKS_PER_CLIENT = MAX_OPEN
TASKS = 4096
PAYLOAD_TOTAL = 20 * MIB
"""Bytes of all requests that wait in the queue."""
PARTIAL_TOTAL = 16 * MIB
"""Bytes of messages that have not arrived whole, over all connections."""
OUTBOX = 4 * MIB
STUCK = 3 * SECOND
"""So many bytes waiting, and none taken for so long: the client does not read, and is let go."""
OUTBOX_TOTAL = 24 * MIB
"""Bytes waiting for all clients. The three totals bound what strangers can make us hold."""
SEGMENTS_PER_CLIENT = 64
LEASES_PER_CLIENT = 1024
SLAB = 2 * MIB
"""A segment of so many bytes or fewer holds several leases."""
SMALL = MIB // 2
"""A lease of so many bytes or fewer shares a segment with others."""
LEFT_OVER = 1 / 8
"""So much of a larger segment may stay unused while it is lent."""
UNMAP = 2 * SECOND
"""For so long, memory that its holders were asked to unmap counts as on its way."""

# Tasks.
TICK = 1 * SECOND
"""So often every owner hears where its task stands."""
PART = 128
"""Where there are many tasks, the news are of about so many at a time."""
CANCEL_GRACE = 3 * SECOND
"""A worker that has not ended a cancelled task by then is killed."""
ATTEMPTS = 2
"""Runs of an idempotent task that dies with its worker before it has streamed anything."""
PROMOTE = {"critical": 0, "interactive": 60 * SECOND, "normal": 30 * SECOND, "batch": 30 * SECOND}
"""Waiting this long counts as one class higher, which bounds starvation."""
QUANTUM = 20 * MS
"""Run time that a principal gets at its turn, and what a task costs it at least."""
SAMPLES = 32
"""Runs that the learned cost of an operation looks back on."""
COSTS = 1024
"""Costs that are kept, of so many (operation, model, size)."""
FORGET = 1.02
"""So much longer the shortest run time of a batch is taken to be with each that took longer."""
LINGER = 1 * MS
"""A batch that is worth waiting for waits so long for the next of its tasks."""
NEWS = 50 * MS
"""That a task was accepted is said after so long, or with its first news. One that has ended by
then needs no such message, which would cost its client and us a tenth of the whole request."""
EAGER = MS * 3 // 10
"""So long the loop does not sleep after a critical or interactive request has come or ended."""
FEW = 2
"""With more tasks than that it sleeps as ever."""
RETRY_MS = 1000
"""When to try again what found the queue full."""
PATIENCE = 30 * SECOND
"""Among equals a task without a deadline sorts as if it had this one."""

FAMILY = 8
"""Tasks that may wait for one another: a request, its child task, the child of that, and so on."""

# Workers.
START = 20 * SECOND
"""From the launch to the first message."""
LOAD = 300 * SECOND

HUNG = 20 * SECOND
"""A busy worker that answers no ping for so long is killed."""
BULK_PATIENCE = 9
"""So many times longer a bulk worker may be silent, and take to start: it stands back, so beside
other busy programs it waits for the processor, and what waits does not hang. What the steward sees
it wait (``WorkerWaited``) is not counted at all; this is for what it cannot see."""
MISSED = 4
"""Pings sent in that time."""
PING = HUNG // MISSED
STOP_GRACE = 1 * SECOND
DEATHS = 3
"""So many deaths within ``DEATH_WINDOW`` without an answer put a plugin in quarantine."""
DEATH_WINDOW = 60 * SECOND
QUARANTINE = 2 * SECOND
"""The first; each further one without an answer between them lasts twice as long."""
QUARANTINE_MAX = 256 * SECOND
SQUEEZED = 0.4
"""With fewer processors than that left to us by others, bulk workers are suspended."""
TURN = 100 * MS
"""How long a worker computes when there are more of its class than processors."""
WORKER_OUTBOX = PAYLOAD_TOTAL + 8 * MIB
"""More than all requests together hold: only a worker that answers unread ones gets there."""
RETIRED = 32
"""Segments whose pages a worker gave back but could still map; then it is renewed when idle."""
DEPTH = 800
"""Calls within each other in the daemon, msgpack's own among them: what it passes on unread is not
so deep that others cannot read it, who have Python's 1000 and are deeper in calls of their own."""
