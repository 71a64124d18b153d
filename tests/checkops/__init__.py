"""checkops: every op of ``ops.def`` on targets that this processor may not have.

``checkops.c`` is built for an architecture together with the library's own sources, and run by an
emulator where it has to be; ``machines.py`` names the architectures and builds it, ``stream.py``
carries the cases there and the results back.
"""

from checkops.machines import MACHINES, Machine, build, why_not
from checkops.stream import SIDES, OpFailed, run_cases, write_cases

__all__ = [
    "MACHINES",
    "SIDES",
    "Machine",
    "OpFailed",
    "build",
    "run_cases",
    "why_not",
    "write_cases",
]
