"""Weights that stay in memory: a process for each locked object, which does nothing but hold it.

A page of a memfd can be swapped out like any other, and a model that has to come back from a disk
answers seconds late. Where the device profile says ``lock_weights``, a child maps each sealed
object and locks it (``mlock``): in the steward itself that would stop everything else for as long
as the pages are walked. It ends when the object is dropped, and with the steward. Where the system
does not permit it, that is logged, and the weights are used as they are.
"""

import os
import resource
import signal
from dataclasses import dataclass, field
from functools import partial

from clawai.kernel.limits import MIB
from clawai.kernel.loop import Loop
from clawai.kernel.steward.log import LogFile
from clawai.sandbox import syscalls as sc

GOOD = b"locked"


@dataclass
class Keepers:
    """The keepers of this steward, by the number of their object."""

    loop: Loop
    log: LogFile
    on: bool
    """The device profile asks for it."""
    pids: dict[int, int] = field(default_factory=dict)

    def keep(self, number: int, fd: int) -> None:
        """Begin to lock an object; how that went is logged."""
        if not self.on:
            return
        try:
            reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            self.log.write("warning", f"weights {number} are not locked: {error.strerror}")
            return
        steward, size = os.getpid(), os.fstat(fd).st_size
        try:
            child = os.fork()
        except OSError as error:
            os.close(reading)
            os.close(writing)
            self.log.write("warning", f"weights {number} are not locked: {error.strerror}")
            return
        if child == 0:
            _hold(steward, fd, size, writing)
        os.close(writing)
        self.pids[number] = child
        self.loop.watch(reading, partial(self._said, number, child, size, reading))

    def _said(self, number: int, child: int, size: int, reading: int, _: int) -> None:
        self.loop.unwatch(reading)
        said = os.read(reading, 200)
        os.close(reading)
        if said == GOOD:
            self.log.write("info", f"weights {number} are locked: {size // MIB} MiB")
            return
        if self.pids.get(number) == child:  # else it was ended meanwhile
            self.release(number)
            why = said.decode(errors="replace") or "its keeper died"
            limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
            advice = f"the limit is {limit // 1024} KiB (LimitMEMLOCK= of a service, ulimit -l)"
            self.log.write("warning", f"weights {number} are not locked: {why}; {advice}")

    def release(self, number: int) -> None:
        """Let go of an object, if it is kept."""
        if child := self.pids.pop(number, 0):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)

    def close(self) -> None:
        """Let go of everything."""
        for number in list(self.pids):
            self.release(number)


def _hold(steward: int, fd: int, size: int, writing: int) -> None:
    """Be a keeper: lock, say how it went, and wait for the end."""
    try:
        sc.close_all_but([fd, writing])
        sc.set_name("claw-keeper")
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, signal.SIG_IGN)
        sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == steward:
            # By a descriptor that cannot write: the system maps a sealed file through no other.
            sc.lock_file(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC), size)
            os.close(fd)
            os.write(writing, GOOD)
            os.close(writing)
            while True:
                signal.pause()
    except OSError as error:
        os.write(writing, str(error.strerror).encode()[:200])
    finally:
        os._exit(1)
