"""Every limit of the steward, in one place; the daemon's are in ``clawai.kernel.limits``.

Times are nanoseconds, sizes bytes.
"""

from clawai.kernel.limits import MIB, SECOND

# The door.
HANDSHAKE = 5 * SECOND
"""A connection that has not said hello by then is closed."""
EARLY = 64 * 1024
"""Bytes that a connection may send before it has said a proper hello."""
TOKEN_LIFE = 30 * SECOND

# Errands.
ERRANDS = 4
"""Models that are fetched or deleted for others at a time."""
ERRAND_SILENCE = 5 * SECOND
"""What nobody has looked at for so long is interrupted; what has ended is told of for so long."""
ERRAND_FAREWELL_S = 2.0
ERRAND_SAYS = 64 * 1024
"""Bytes that are kept of what a program prints besides its progress."""

# Memory.
PUNCH = 16 * MIB
"""Bytes that one turn of the loop gives back; it takes a millisecond."""
WATCHED = 128
"""Segments of one worker, the latest, that are watched for pages that come back."""

# Workers.
WORKER_SLACK = 64 * MIB
"""Private memory that a worker may map beyond what is charged for it."""
OUTPUT_RATE = MIB
"""Bytes a second of one worker's output that are read; then its writes wait."""
LOG_LINE = 4096
"""Bytes of one line of a worker's output in the log."""
LOG_RATE = 200
"""Lines a second that one worker may log."""
RESIDENT_LEAST = 64 * MIB
"""Private memory that a worker may hold whatever its manifest says: an interpreter needs some."""
CAGE_LOOK = SECOND // 4
CAGE_SCAN = 2 * SECOND
"""The same where all processes of the box must be gone through."""
CAGE_LASTING = 2
"""So many looks in a row must find a worker above its memory before it is killed."""
CAGE_LEAST_STOP = SECOND // 50
CAGE_SLACK = 64 * MIB
"""Of a worker's group: its stage, and what the system holds for it."""
CAGE_PROCESSES = 2
"""Of a worker's group, beside its threads: its stage, and the worker itself."""
