"""Names to addresses, in threads: the system's resolver waits, and the broker's loop must not.

A thread that hangs in the resolver cannot be ended; the one who asked is answered all the same, and
each worker may occupy only some of the threads. ``HostsFile`` stands in for name servers in tests.
"""

import ipaddress
import os
import queue
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from clawai.kernel.broker import limits
from clawai.kernel.loop import Loop
from clawai.sdk.netrules import Address

Answer = Sequence[Address] | str
"""Addresses, or why there are none."""
Lookup = Callable[[str], Answer]


def system(host: str) -> Answer:
    """Ask the system's resolver."""
    try:
        # Bytes: text would go through the codec for international names once more.
        found = socket.getaddrinfo(host.encode("ascii"), None, type=socket.SOCK_STREAM)
    except OSError as error:
        return error.strerror or str(error)
    # A zone ("%eth0") names one of our interfaces; without it a link-local address leads nowhere.
    texts = dict.fromkeys(str(sockaddr[0]) for _, _, _, _, sockaddr in found)
    return [ipaddress.ip_address(text) for text in texts if "%" not in text]


class HostsFile:
    """Answers from lines ``NAME ADDRESS ...`` of a file: the n-th question gets the n-th line.

    After the last line of a name the first comes again, as name servers do that want to be asked
    twice. The file is read at each question.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._asked: dict[str, int] = defaultdict(int)

    def __call__(self, host: str) -> Answer:
        lines = [line.split() for line in self._path.read_text().splitlines()]
        mine = [words[1:] for words in lines if words and words[0] == host]
        if not mine:
            return "Name or service not known"
        number = self._asked[host]
        self._asked[host] += 1
        return [ipaddress.ip_address(text) for text in mine[number % len(mine)]]


class Resolver:
    """The threads, and who waits for them. ``ask`` and ``_answered`` run in the loop's thread."""

    def __init__(self, loop: Loop, lookup: Lookup) -> None:
        self._lookup = lookup
        self._waiting: dict[int, Callable[[Answer], None]] = {}
        self._owners: dict[int, int] = {}
        """Of every question that occupies a thread, also of one that nobody waits for any more."""
        self._later: list[tuple[int, int, str]] = []
        self._asked: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
        self._found: queue.SimpleQueue[tuple[int, Answer]] = queue.SimpleQueue()
        self._last = 0
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        loop.watch(self._event, self._answered)
        for number in range(limits.RESOLVERS):
            threading.Thread(target=self._work, name=f"resolve-{number}", daemon=True).start()

    def ask(self, owner: int, host: str, then: Callable[[Answer], None]) -> int:
        """Have ``then`` called with the answer, unless ``forget`` is called with this number."""
        self._last += 1
        self._waiting[self._last] = then
        self._later.append((self._last, owner, host))
        self._hand_out()
        return self._last

    def forget(self, number: int) -> None:
        """Nobody waits for it any more."""
        self._waiting.pop(number, None)

    def _hand_out(self) -> None:
        later, self._later = self._later, []
        for number, owner, host in later:
            held = list(self._owners.values())
            if number not in self._waiting:
                continue
            if held.count(owner) >= limits.RESOLVERS_EACH:
                self._later.append((number, owner, host))
            else:
                self._owners[number] = owner
                self._asked.put((number, host))

    def _work(self) -> None:
        while True:
            number, host = self._asked.get()
            try:
                answer = self._lookup(host)
            except Exception as error:  # a name must not cost a thread
                answer = str(error)
            self._found.put((number, answer))
            os.eventfd_write(self._event, 1)

    def _answered(self, _: int) -> None:
        os.eventfd_read(self._event)
        while not self._found.empty():
            number, answer = self._found.get()
            del self._owners[number]
            if then := self._waiting.pop(number, None):
                then(answer)
        self._hand_out()
