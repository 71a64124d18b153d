"""Once a second every owner hears that its task lives and where it stands.

That is no decision of the core: the steward, which makes listings too, says it from raw rows
(``clawai.kernel.steward.news``). Where there are many tasks, of a part of them at a time: nothing
urgent is to wait for this. A steward that is busy or dies delays the news, and nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from clawai.kernel import events as ev
from clawai.kernel import limits
from clawai.kernel.child import Child
from clawai.kernel.core import Core
from clawai.kernel.rows import news
from clawai.sdk import wire
from clawai.sdk.errors import ClawError


@dataclass
class News:
    """Of all tasks of a core."""

    core: Core
    steward: Child
    reply: Callable[[ev.Reply], None]
    due: int = 0
    """When the next part is to hear; 0 while there are no tasks."""
    phase: int = -1
    """The part that was asked about last."""
    asked: bool = False

    def next_timer(self) -> int | None:
        """When ``ask`` is to be called."""
        state = self.core.state
        if not state.tasks:
            self.due = 0
            return None
        self.due = self.due or state.now + limits.TICK
        return None if self.asked else self.due

    def ask(self, now: int) -> None:
        """Have it said of the next part of the tasks where they stand."""
        tasks = self.core.state.tasks
        parts = 1 + len(tasks) // limits.PART
        self.phase = (self.phase + 1) % parts
        self.due = now + limits.TICK // parts
        part = [task for number, task in tasks.items() if number % parts == self.phase]
        self.asked = True
        self.steward.ask("news", self.phase, parts, *news(self.core, part, now), then=self._told)

    def _told(self, answer: Any) -> None:
        self.asked = False
        if isinstance(answer, ClawError):
            self.phase = -1  # another steward, which has to hear of every part
            return
        for number, was, now, position, estimate in answer:
            task = self.core.state.tasks.get(number)
            if task and task.state == was:
                client, request = task.asked.client, task.asked.request
                told = wire.Progress(id=request, state=now, position=position, estimate_ms=estimate)
                self.reply(ev.Reply(client, told))
