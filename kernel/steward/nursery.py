"""The zygote of one launcher: started with the first bundled worker, told what to import.

The first worker waits until it has imported what that worker would have imported itself, so nobody
pays twice; every later one is forked within milliseconds, after a crash above all. Where it cannot
be had, the worker is started afresh, which takes longer and is all the same otherwise.

Costs the memory of one idle interpreter a launcher, which its workers share with it.
"""

from collections.abc import Callable, Iterable

from clawai.kernel.loop import Loop
from clawai.sandbox.forking import Zygote

Then = Callable[[Zygote | None], None]


class Nursery:
    """At most one zygote, and who waits for it."""

    def __init__(self, loop: Loop, log: Callable[[str, str], None]) -> None:
        self._loop = loop
        self._log = log
        self._zygote: Zygote | None = None
        self._loaded: set[str] = set()
        self._waiting: list[tuple[set[str], Then]] = []
        self._loading: set[str] = set()
        self._useless = False
        """One ended before it had loaded anything: another would too."""

    def want(self, modules: Iterable[str], then: Then) -> None:
        """Call ``then`` with a zygote that has imported ``modules``, or with None; now or later."""
        wanted = set(modules)
        if self._zygote is None and not self._useless:
            self._begin()
        if self._zygote is None:
            then(None)
        elif not self._loading and wanted <= self._loaded:
            then(self._zygote)
        else:
            self._waiting.append((wanted, then))
            self._load()

    def drop(self, why: str) -> None:
        """The zygote is of no use; the next worker gets another one."""
        self._log("warning", why)
        self._end()

    def close(self) -> None:
        """End it, and wait for that."""
        self._end()

    def _begin(self) -> None:
        try:
            self._zygote = Zygote()
        except OSError as error:
            self._log("warning", f"no zygote could be started: {error}")
            return
        self._loop.watch(self._zygote.fileno(), self._said)

    def _load(self) -> None:
        """Have it import what is wanted and not there yet."""
        assert self._zygote
        if self._loading:
            return
        self._loading = {name for wanted, _ in self._waiting for name in wanted} - self._loaded
        try:
            self._zygote.load(sorted(self._loading))
        except OSError:
            pass  # it is gone, and its socket says so next

    def _said(self, _: int) -> None:
        assert self._zygote
        if not self._zygote.receive():
            self._useless = not self._loaded
            self.drop("the zygote of this launcher ended")
            return
        self._loaded |= self._loading
        self._loading = set()
        ready = [each for each in self._waiting if each[0] <= self._loaded]
        self._waiting = [each for each in self._waiting if not each[0] <= self._loaded]
        for each in ready:
            each[1](self._zygote)
        if self._waiting and self._zygote:
            self._load()

    def _end(self) -> None:
        """Those that wait for it are started without."""
        if self._zygote:
            self._loop.unwatch(self._zygote.fileno())
            self._zygote.close()
        self._zygote = None
        self._loaded, self._loading = set(), set()
        waiting, self._waiting = self._waiting, []
        for _, then in waiting:
            then(None)
