"""Run something without a network: ``python tests/offline.py [--exec COMMAND ... | PYTEST ...]``.

A network namespace of its own with nothing but loopback; as an ordinary user inside of a user
namespace of its own. Without ``--exec`` the tests run in it (all, or what is named), and the last
line says which share of them passed. The project asks for 95 %.
"""

import fcntl
import os
import socket
import struct
import sys
from collections import Counter
from pathlib import Path
from typing import Any

SHARE = 0.95
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


def leave_the_network() -> None:
    """Go on in a namespace with loopback only.

    Raises:
        OSError: the system does not permit it.
    """
    from clawai.sandbox import syscalls as sc

    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        sc.unshare(sc.CLONE_NEWNET)
    else:
        sc.unshare(sc.CLONE_NEWUSER | sc.CLONE_NEWNET)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        asked = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16xh14x", fcntl.ioctl(any_socket, SIOCGIFFLAGS, asked))[0]
        up = struct.pack("16sh14x", b"lo", flags | IFF_UP)
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, up)


class Share:
    """Counts the outcomes of pytest: a test that fails anywhere has failed."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Called by pytest after each phase of a test."""
        if report.outcome != "passed" or report.nodeid not in self.found:
            self.found[report.nodeid] = report.outcome

    def told(self) -> tuple[str, bool]:
        """The last line, and whether the share is reached. What was skipped counts as neither."""
        counts = Counter(self.found.values())
        ran = counts["passed"] + counts["failed"]
        share = counts["passed"] / ran if ran else 0.0
        text = f"without a network {counts['passed']} of {ran} tests passed: {share:.1%}"
        return f"{text} ({counts['skipped']} left out; asked for: {SHARE:.0%})", share >= SHARE


def main() -> int:
    """See the top of this module."""
    try:
        leave_the_network()
    except OSError as error:
        print(f"no namespace without a network can be had here: {error}", file=sys.stderr)
        return 1
    if sys.argv[1:2] == ["--exec"]:
        os.execvp(sys.argv[2], sys.argv[2:])
    import pytest

    share = Share()
    pytest.main(["-q", *sys.argv[1:]], plugins=[share])
    text, reached = share.told()
    print(text)
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
