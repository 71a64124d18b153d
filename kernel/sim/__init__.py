"""The simulator: the kernel's own state machine in a world of seeded chance.

See ``docs/simulator.md``. Never loaded by the daemon. It imports the core and the standard
library, nothing else of ours but the wire types.
"""
