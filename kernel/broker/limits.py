"""Every limit of the broker and of its log, in one place. Times are seconds, sizes bytes."""

from clawai.kernel.limits import MIB

# One worker.
CONNECTIONS = 64
"""Open at the same time."""
SERVED = 1280
"""The same, of one that listens and serves others (``on_behalf_of``)."""
WAITING = 16
"""Connections that are being made at the same time; further requests wait unread."""
RATE = 10.0
"""Connections a second, over a time; at once as many as ``BURST``."""
BURST = 300
TAKES_RATE, TAKES_BURST = 200.0, 1000
"""Connections that it accepts, in the same way; more wait at the port."""
LOOKS_RATE, LOOKS_BURST = TAKES_RATE, TAKES_BURST
"""Times that it asks whose a connection is, in the same way: once for each that it accepts."""
READS_RATE, READS_BURST = 10.0, 60
"""Of those, the ones for which all of the box's connections have to be looked through."""
TABLE = 1 << 20
"""Characters of these that are read."""
REQUEST = 2048
"""Of one request."""
UNSENT = 256
"""Answers that wait because the worker reads none; with more it is cut off."""

# All workers.
TOTAL = 2048
"""Connections of all together: two descriptors and up to two pieces of data each, of which
``MEMORY`` has room for."""
DESCRIPTORS = 4 * TOTAL

# One connection.
PIECE = 64 * 1024
"""Bytes of one direction that wait for the other side at most."""
TURN = 8
"""Pieces that are carried before others have their turn."""
RESOLVE = 10.0
CONNECT = 60.0
"""The longest that a plugin may wait for a connection; ``RESOLVE`` of that for the name."""
ADDRESSES = 4
"""Addresses of a name that are tried, one after the other."""
IDLE = 600.0
"""Without a byte in either direction."""
BYTES = 64 << 30
"""Both directions together."""
RESOLVERS = 16
"""Names that are asked for at the same time, ``RESOLVERS_EACH`` of them for one worker."""
RESOLVERS_EACH = 4

# Its process.
MEMORY = 512 * MIB

# Its end in the steward.
AGAIN_FIRST, AGAIN_LAST = 0.05, 10.0
"""Seconds until a broker that died is started again: at first, and at most when it goes on."""
FAREWELL = 1.0
"""A broker that is to end may say so much longer what has ended with it."""
STEADY = 60.0
"""A broker that lives so long is no sign of trouble any more."""
LISTENERS = 8
"""Ports of one plugin."""
BACKLOG = 64

# The log.
LOG_BYTES = 4 * MIB
LOG_FILES = 8
"""Files that are kept, the newest included."""
RECORDS_BURST = 240
RECORDS_RATE = 2.0
"""Lines a second of one plugin, over a time; what is more is counted in one line a minute."""
SUMMARY = 60.0
"""Seconds between two such lines."""
