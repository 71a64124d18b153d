"""Runs what the kernel sends to a worker: one task, or several as a batch; and answers each.

Every task gets exactly one answer: done, error or yielded, whatever the plugin does (an operation
that calls ``sys.exit`` has failed, no more). A batch is answered in one piece. Nothing here waits
for the wire: the host's threads read it, and one of them runs the job that it read.
"""

import os
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from clawai.sdk import wire
from clawai.sdk.context import Batch, Cancelled, Context, Outlet, Yielded
from clawai.sdk.errors import ClawError
from clawai.sdk.home import Home
from clawai.sdk.plain import error_message
from clawai.sdk.plugin import Operation

RESULT = wire.MAX_HEADER - 4096
"""Bytes of a result that fits the header of its message."""
Answer = tuple[wire.Message, Sequence[bytes | memoryview]]


class Host(Outlet, Protocol):
    """What the runner needs of the worker's host."""

    incarnation: int
    control: memoryview
    threads: int
    home: Home

    def send_all(self, messages: Iterable[Answer]) -> None:
        """Send messages, each with its payload frames."""


@dataclass(slots=True)
class Job:
    """What one message of the kernel asks for: the tasks of one slot."""

    op: str
    batch: bool
    params: tuple[wire.Raw, ...]
    contexts: tuple[Context, ...]
    started: int = 0


class Runner:
    """The operations of one worker, and the tasks that it has not answered yet."""

    def __init__(self, host: Host, idempotent: Iterable[str] = ()) -> None:
        self.operations: dict[str, Operation] = {}
        self._host = host
        self._idempotent = frozenset(idempotent)
        self._open: dict[int, Context] = {}

    def job(self, message: wire.Run | wire.Batch, frames: list[bytes]) -> Job:
        """Take a message; ``frames`` are its payload. The clocks of its tasks begin here."""
        slot = self._host.control[message.slot : message.slot + 1]
        items = message.items if isinstance(message, wire.Batch) else (message,)
        contexts, at = [], 0
        for item in items:
            # A whole run has all frames; an item of a batch the next of them.
            end = at + item.frames if isinstance(item, wire.BatchItem) else len(frames)
            contexts.append(self._context(message.op, item, slot, tuple(frames[at:end])))
            at = end
        self._open.update((context.task, context) for context in contexts)
        params = tuple(item.params for item in items)
        return Job(message.op, isinstance(message, wire.Batch), params, tuple(contexts))

    def _context(
        self,
        op: str,
        item: wire.Run | wire.BatchItem,
        slot: memoryview,
        frames: tuple[bytes, ...],
    ) -> Context:
        remaining = item.remaining_ms
        return Context(
            task=item.id,
            outlet=self._host,
            control=slot,
            deadline=None if remaining is None else time.monotonic() + remaining / 1000,
            priority=item.priority,
            frames=frames,
            leases=item.leases,
            may_yield=op in self._idempotent,
            most_threads=self._host.threads,
            home=self._host.home,
            principal=getattr(item, "principal", ""),
        )

    def cancel(self, task: int) -> None:
        """The kernel wants no result of a task any more; for one of a batch its only sign."""
        if context := self._open.get(task):
            context.cancelled = True
            if context.line and self._host.home.children:
                self._host.home.children.wake()

    def run(self, job: Job) -> None:
        """Run a job and answer its tasks."""
        job.started = time.perf_counter_ns()
        operation = self.operations.get(job.op)
        if operation is None:
            error = ClawError("unknown_operation", "this worker does not offer it", got=job.op)
            answers: list[Answer] = [self._answer(job, each, error) for each in job.contexts]
        elif operation.batch:
            answers = self._batch(job, operation)
        elif job.batch:
            error = ClawError("bad_worker", f"{job.op} does not take batches", got=len(job.params))
            answers = [self._answer(job, each, error) for each in job.contexts]
        else:
            context = job.contexts[0]
            value = self._attempt(job.op, lambda: self._call(operation, job.params[0], context))
            answers = [self._answer(job, context, value)]
        # Before the answers: after them the kernel may use the numbers in any way.
        for context in job.contexts:
            self._open.pop(context.task, None)
            if context.line:
                context.line.close()
        self._host.send_all(answers)

    def _call(self, operation: Operation, raw: wire.Raw, context: Context) -> Any:
        if context.stopped:
            raise Cancelled
        if raw == wire.NIL:  # who asks with nil wants to know what it takes
            return operation.info()
        result = operation.function(**operation.arguments(raw, context))
        return self._stream(context, result) if isinstance(result, Generator) else result

    def _batch(self, job: Job, operation: Operation) -> list[Answer]:
        """The answers of a batch: what is wrong with one task does not touch the others."""
        ends: dict[int, Any] = {}
        items, contexts = [], []
        for raw, context in zip(job.params, job.contexts, strict=True):
            try:
                if context.stopped:
                    raise Cancelled
                if raw == wire.NIL:
                    ends[context.task] = operation.info()
                    continue
                items.append(operation.checked(raw))
                contexts.append(context)
            except (ClawError, Cancelled) as end:
                ends[context.task] = end
        if items:
            batch = Batch(contexts)
            results = self._attempt(job.op, lambda: operation.call_batch(items, batch))
            whole = isinstance(results, Exception)  # one end for all
            for place, context in enumerate(contexts):
                ends[context.task] = results if whole else results[place]
        return [self._answer(job, context, ends[context.task]) for context in job.contexts]

    def _attempt(self, op: str, call: Callable[[], Any]) -> Any:
        """What ``call`` returns, or as a value what it raised."""
        try:
            return call()
        except (Cancelled, Yielded, ClawError) as end:
            # Its frames hold the operation's arrays: views that would keep a segment mapped.
            return end.with_traceback(None)
        except BaseException as error:  # sys.exit in an operation must not end its thread
            _print(error)
            text = f"{op} raised {type(error).__name__}: {error}"[:4000]
            return ClawError("worker_failed", text, hint="`claw logs` shows the traceback")

    def _answer(self, job: Job, context: Context, end: Any) -> Answer:
        """The message that ends a task, made of its result or of what was raised."""
        incarnation = self._host.incarnation
        if isinstance(end, Yielded) and context.may_yield:
            return wire.Yielded(id=context.task, incarnation=incarnation), ()
        if isinstance(end, Cancelled) or context.cancelled:
            end = ClawError("cancelled", "the operation stopped as asked")
        elif isinstance(end, Yielded):
            text = "it gave a task back that cannot begin anew"
            end = ClawError("worker_failed", text, hint="raise Yielded only from ctx.checkpoint()")
        if not isinstance(end, ClawError):
            try:
                result = wire.pack(end)
                fits(result, context.reply_frames)
                compute = int(context.compute_us)
            except ClawError as error:
                end = error
            except (TypeError, ValueError, OverflowError, RecursionError) as error:
                end = ClawError("worker_failed", f"msgpack cannot carry the result: {error}")
        if isinstance(end, ClawError):
            return error_message(end, context.task, incarnation), ()
        total = (time.perf_counter_ns() - job.started) // 1000
        timings = {"compute_us": compute, "plugin_us": max(0, total - compute)}
        done = wire.Done(id=context.task, result=result, timings=timings, incarnation=incarnation)
        return done, context.reply_frames

    def _stream(self, context: Context, generator: Generator[Any, None, Any]) -> Any:
        """Send what the operation yields; its return value is the result."""
        try:
            while True:
                try:
                    piece = next(generator)
                except StopIteration as stop:
                    return stop.value
                data = wire.pack(piece)
                fits(data)
                context.may_yield = False  # the client has seen its beginning
                chunk = wire.Chunk(id=context.task, data=data, incarnation=self._host.incarnation)
                self._host.send_all([(chunk, ())])
                context.checkpoint()
        finally:
            generator.close()


def _print(error: BaseException) -> None:
    """The traceback, from where the plugin's own code begins."""
    ours, trace = os.path.dirname(__file__), error.__traceback__  # noqa: PTH120
    while trace and os.path.dirname(trace.tb_frame.f_code.co_filename) == ours:  # noqa: PTH120
        trace = trace.tb_next
    traceback.print_exception(type(error), error, trace or error.__traceback__)


def fits(result: wire.Raw, frames: Sequence[bytes | memoryview] = ()) -> None:
    """Refuse a result that the wire does not take.

    Raises:
        ClawError: too_large.
    """
    header = len(memoryview(result))
    size = header + sum(map(len, frames))
    if size > wire.MAX_MESSAGE - 4096 or header > RESULT:
        raise ClawError(
            "too_large",
            "the result does not fit one message",
            got=size,
            allowed=RESULT,
            hint="stream it in chunks, or return it in a lease",
        )
