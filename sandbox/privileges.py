"""Give up identity and capabilities: uid, gid, groups, bounding set, no_new_privs.

Refuses to go on as uid 0: in a user namespace without a setuid first, the kernel's uid 0 still
reads what root owns, with no capability at all.
"""

import os
from collections.abc import Collection

from clawai.sandbox import syscalls as sc

# NOROOT, NO_SETUID_FIXUP, KEEP_CAPS off, NO_CAP_AMBIENT_RAISE, each with its lock bit.
_SECUREBITS = 0b1110_1111


def drop_root(uid: int, groups: Collection[int] = ()) -> None:
    """Become ``uid`` with the group of the same number; does nothing for a user.

    ``groups`` are those of declared devices; it keeps no other.
    """
    if os.geteuid() != 0:
        return
    if uid <= 0:
        raise OSError(1, f"a root daemon must give its worker an unprivileged uid; got {uid}")
    drop_bounding_set()
    os.setgroups(sorted(groups))
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def drop_bounding_set() -> None:
    """Empty the bounding and ambient sets; without CAP_SETPCAP only no_new_privs protects."""
    for capability in range(64):
        try:
            sc.prctl(sc.PR_CAPBSET_DROP, capability)
        except OSError:
            break  # past the last capability, or no right to drop: none held then
    sc.prctl(sc.PR_CAP_AMBIENT, sc.PR_CAP_AMBIENT_CLEAR_ALL)


def drop_capabilities() -> None:
    """Lock the secure bits, empty every set, forbid gaining privileges, hide from ptrace."""
    drop_bounding_set()
    try:
        sc.prctl(sc.PR_SET_SECUREBITS, _SECUREBITS)
    except PermissionError:
        pass  # an ordinary user outside a user namespace holds no capability to lock
    sc.clear_capabilities()
    sc.prctl(sc.PR_SET_NO_NEW_PRIVS, 1)
    sc.prctl(sc.PR_SET_DUMPABLE, 0)
