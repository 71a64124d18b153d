"""Run a command on a box that lacks something: ``degraded.py WHAT,WHAT CMD...``.

The kernel itself refuses, by a system call filter that is loaded first; nothing of the sandbox is
replaced. ``landlock``: the calls do not exist. ``userns``: creating a user namespace is forbidden,
as AppArmor does on some systems. ``unshare``: no namespace at all, as in many containers.
``listener``: a supervisor listens for system calls already, as some containers have it.
"""

import errno
import os
import struct
import sys

import pyseccomp as seccomp

from clawai.sandbox import filters
from clawai.sandbox import syscalls as sc

CLONE_NEWUSER = 0x1000_0000


def listen() -> None:
    """Take the one place for a listener, with a filter that allows everything."""
    allow = struct.pack("<HBBI", 0x06, 0, 0, filters.RET_ALLOW)
    sc.prctl(sc.PR_SET_NO_NEW_PRIVS, 1)
    program = filters._Program(1, allow)
    fd = sc.syscall("seccomp", filters.SET_MODE_FILTER, filters.NEW_LISTENER, program)
    os.set_inheritable(fd, True)


def main() -> None:
    """See the top of this module."""
    rules = seccomp.SyscallFilter(seccomp.ALLOW)
    for what in sys.argv[1].split(","):
        if what == "landlock":
            rules.add_rule(seccomp.ERRNO(errno.ENOSYS), "landlock_create_ruleset")
        elif what == "userns":
            flag = seccomp.Arg(0, seccomp.MASKED_EQ, CLONE_NEWUSER, CLONE_NEWUSER)
            rules.add_rule(seccomp.ERRNO(errno.EACCES), "unshare", flag)
        elif what == "unshare":
            rules.add_rule(seccomp.ERRNO(errno.EPERM), "unshare")
        elif what == "listener":
            listen()
    rules.load()
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
