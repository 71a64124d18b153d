"""Runs a plugin for the tests of its author in the real sandbox, by a kernel of its own.

    with SandboxKernel("examples/hello") as kernel:
        assert kernel.call("hello.greet", {"name": "Ada"}).value == "Hello, Ada!"

The interface is that of ``clawai.sdk.testing.FakeKernel``, so that one suite does for both.
"""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clawai.sdk import develop, wire
from clawai.sdk.errors import ClawError
from clawai.sdk.manifest import Plugin, read_plugin
from clawai.sdk.session import Result
from clawai.sdk.testing import FakeTask, RealClock

if TYPE_CHECKING:
    from clawai.sdk import schema

__all__ = ["SandboxKernel"]


class SandboxKernel:
    """Runs the plugin in the real sandbox, by a kernel of its own; as ``FakeKernel`` else.

    What only a fake can do is refused: a control word, a number of threads. ``cancel_at`` cancels
    as soon as the task runs, and tasks of a batch come together or not, as the kernel decides.

    Args:
        granted: let the plugin have what it asks for; whoever runs its tests trusts it that far.
    """

    sandboxed = True

    def __init__(self, folder: str | Path, granted: bool = True) -> None:
        from clawai.sdk.cli.bench.private import Private

        self.folder = Path(folder).resolve()
        self.clock = RealClock()
        self.manifest: Plugin = read_plugin(self.folder)
        self._open = contextlib.ExitStack()
        try:
            self.kernel = self._open.enter_context(Private('[preemption]\nmeans = "none"\n'))
            if not develop.is_bundled(self.folder):
                session = develop.Session(self.folder, self.kernel.folder, granted)
                self._open.enter_context(session)
            self.client = self.kernel.client()
            listed = self.client.query("plugins")
            if problem := listed["problems"].get(str(self.folder)):
                raise ClawError("bad_config", problem)
        except BaseException:
            self.close()
            raise

    def submit(
        self,
        op: str,
        params: Mapping[str, Any] | None = None,
        *,
        frames: Sequence[bytes] = (),
        deadline: float | None = None,
        stop_after: int | None = None,
        cancel_at: int | None = None,
        word: int = wire.GO,
        threads: int = 1,
    ) -> FakeTask:
        """Run an operation to its end; see ``FakeKernel.submit``."""
        if word not in (wire.GO, wire.STOP) or threads != 1:
            raise ClawError(
                "bad_params",
                "only the fake kernel sets a control word or threads",
                hint="mark the test with @pytest.mark.claw_fake",
            )
        left = None if deadline is None else deadline - self.clock.monotonic()
        task = self.client.submit(op, params, frames=frames, deadline=left)
        if stop_after == 0 or word == wire.STOP:
            task.cancel()
        return self._follow(task, stop_after, cancel_at is not None)

    def _follow(self, task: Any, stop_after: int | None, at_once: bool) -> FakeTask:
        seen = FakeTask()
        for event in task:
            if event.kind == "chunk" or event.fraction is not None or event.note:
                seen.events.append(event)
            runs = event.kind == "chunk" or event.state == "running"
            if (at_once and runs) or (stop_after is not None and len(seen.chunks) == stop_after):
                task.cancel()
        try:
            seen.end = task.result()
        except ClawError as error:
            seen.end = error
        return seen

    def batch(
        self,
        op: str,
        params: Sequence[Mapping[str, Any]],
        *,
        frames: Sequence[Sequence[bytes]] = (),
    ) -> list[FakeTask]:
        """Run several tasks at the same time."""
        tasks = [
            self.client.submit(op, each, frames=frames[place] if frames else ())
            for place, each in enumerate(params)
        ]
        return [self._follow(task, None, False) for task in tasks]

    def call(self, op: str, params: Mapping[str, Any] | None = None, **options: Any) -> Result:
        """Run an operation and return its result; see ``submit``."""
        return self.submit(op, params, **options).result()

    def describe(self, op: str) -> "schema.Described":
        """What an operation says of itself."""
        from clawai.sdk.cli.arguments import ask

        return ask(self.client, op)

    def log(self) -> str:
        """What kernel and plugin have said so far."""
        return self.kernel.log()

    def close(self) -> None:
        """End the plugin and the kernel, and remove its folders."""
        self._open.close()

    def __enter__(self) -> "SandboxKernel":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
