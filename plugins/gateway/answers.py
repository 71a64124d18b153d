"""Questions to language models: one task of the kernel for each, ended with whoever asked."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self

from clawai.plugins.gateway import catalogue
from clawai.sdk import wire
from clawai.sdk.aclient import AsyncTask
from clawai.sdk.errors import ClawError
from clawai.sdk.front import Front

STATUS = {
    "bad_params": 400,
    "bad_model": 422,
    "prompt_too_long": 400,
    "too_large": 413,
    "unknown_model": 404,
    "unknown_operation": 404,
    "not_permitted": 403,
    "not_granted": 403,
    "bad_state": 409,
    "queue_full": 429,
    "overloaded": 429,
    "deadline_passed": 408,
    "deadline_unreachable": 408,
    "worker_hung": 504,
    "cancelled": 503,
    "no_memory": 503,
    "never_fits": 503,
    "quarantined": 503,
    "disk_full": 507,
    "no_kernel": 503,
    "connection_lost": 503,
    "kernel_stopped": 503,
}
"""Code of an error to the HTTP status; 502 for the others: something behind us has failed."""


def status_of(error: ClawError) -> int:
    """The HTTP status for an error of the kernel or of a worker."""
    return STATUS.get(error.code, 502)


def told(error: ClawError) -> str:
    """An error in one line: what, what is allowed, the next step."""
    parts = [error.message]
    if error.allowed not in (None, ""):
        parts.append(f"allowed: {error.allowed}")
    if error.hint:
        parts.append(error.hint)
    return "; ".join(parts)


@dataclass(slots=True)
class Ask:
    """What is asked of a model."""

    model: str
    params: dict[str, Any]
    """Of ``llm.generate``."""
    priority: wire.Priority = "interactive"
    deadline: float | None = None
    """Seconds from now."""
    behalf: str = ""
    keep_alive: float | None = None
    whole: bool = False
    """Nobody reads it piece by piece: every piece would wake the kernel, and us."""


@dataclass(slots=True)
class Piece:
    """Some of an answer."""

    text: str = ""
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    """Of its tokens, where they were asked for."""
    calls: list[dict[str, Any]] = field(default_factory=list)
    """News of calls of functions: an index with a name, with arguments, or with ``whole``."""

    def add(self, more: "Piece") -> None:
        """What comes behind it."""
        self.text += more.text
        self.logprobs += more.logprobs
        self.calls += more.calls


@dataclass(slots=True)
class Answer:
    """One that is being written."""

    task: AsyncTask
    model: str
    """Its name in the store."""
    heard: "Heard"
    whole: bool = False
    """It comes in one piece, at its end."""
    first: Piece = field(default_factory=Piece)
    ended: Any = None
    """What the operation returned; None until then."""
    timings: dict[str, int] = field(default_factory=dict)

    def __aiter__(self) -> Self:
        """What comes behind ``first``, once."""
        return self

    async def __anext__(self) -> Piece:
        """The next piece."""
        if self.ended is not None:
            raise StopAsyncIteration
        try:
            async for event in self.task:
                if event.kind == "chunk" and not self.whole and any(event.data.values()):
                    return Piece(**event.data)
            result = await self.task.result()
        except BaseException:
            self.drop()
            raise
        self.ended, self.timings = result.value, dict(result.timings)
        self.heard.ended(self.model, self)
        if self.whole and self.ended.get("text"):
            return Piece(self.ended["text"])
        raise StopAsyncIteration

    async def all(self) -> Piece:
        """The whole of it."""
        whole = self.first
        async for piece in self:
            whole.add(piece)
        return whole

    @property
    def reason(self) -> str:
        """Why it ended."""
        found: str = self.ended["finish_reason"]
        return found

    @property
    def usage(self) -> dict[str, int]:
        """Tokens, as the engine counts them."""
        found: dict[str, int] = self.ended["usage"]
        return found

    def drop(self) -> None:
        """Nobody waits for it any more; may be said at any time, by whoever is being cancelled."""
        drop(self.task)


def drop(task: AsyncTask) -> None:
    """Have a task end that nobody waits for any more, without waiting for that."""
    if not task.done:
        later(task.cancel())


_running: set[asyncio.Task[Any]] = set()


def later(what: Any) -> None:
    """Do something apart from the task that asks for it."""
    running = asyncio.ensure_future(_quietly(what))
    _running.add(running)
    running.add_done_callback(_running.discard)


async def _quietly(what: Any) -> None:
    with contextlib.suppress(ClawError):
        await what


class Heard(Protocol):
    """Who counts answers."""

    def began(self, model: str, seconds: float) -> None:
        """The first piece is there."""

    def ended(self, model: str, answer: Answer) -> None:
        """All of it is."""


async def ask(kernel: Front, question: Ask, heard: Heard) -> Answer:
    """Ask, and wait for the first piece: until then an error still can be a status.

    Raises:
        ClawError: what became of it.
    """
    began = time.perf_counter()
    try:
        answer = await _asked(kernel, question, heard)
    except ClawError as error:
        if error.code != "unknown_model":
            raise
        # Only now: to look first whether it is there would cost each request a listing.
        named = (await catalogue.model(kernel, question.model))["name"]
        answer = await _asked(kernel, replace(question, model=named), heard)
    # Of one that comes whole: its first token was there before the others were written.
    written = answer.ended.get("decode_us", 0) / 1e6 if answer.whole else 0.0
    heard.began(answer.model, time.perf_counter() - began - written)
    return answer


async def _asked(kernel: Front, question: Ask, heard: Heard) -> Answer:
    params = question.params
    # What is told besides text comes with the pieces only.
    whole = question.whole and params.get("logprobs") is None and not params.get("tools")
    task = await kernel.submit(
        "llm.generate",
        params | {"whole": True} if whole else params,
        model=question.model,
        priority=question.priority,
        deadline=question.deadline,
        keep_alive=question.keep_alive,
        behalf=question.behalf,
    )
    answer = Answer(task, question.model, heard, whole)
    try:
        answer.first = await answer.__anext__()
    except StopAsyncIteration:
        pass  # it says nothing
    return answer


async def ask_all(kernel: Front, questions: Sequence[Ask], heard: Heard) -> list[Answer]:
    """Ask several at once; all are dropped where one fails.

    Raises:
        ClawError: what became of it.
    """
    if len(questions) == 1:  # as nearly all are: a task of its own would be woken, and wake us
        return [await ask(kernel, questions[0], heard)]
    asking = [asyncio.ensure_future(ask(kernel, each, heard)) for each in questions]
    try:
        return list(await asyncio.gather(*asking))
    except BaseException:
        for each in asking:
            each.cancel()
        for found in await asyncio.gather(*asking, return_exceptions=True):
            if isinstance(found, Answer):
                found.drop()
        raise


async def merged(answers: Sequence[Answer]) -> AsyncIterator[tuple[int, Piece | None]]:
    """What comes behind the first pieces, as it comes, with whose it is; None: that one has ended.

    Raises:
        ClawError: one of them failed.
    """
    if len(answers) == 1:
        async for piece in answers[0]:
            yield 0, piece
        yield 0, None
        return
    coming: asyncio.Queue[tuple[int, Piece | BaseException | None]] = asyncio.Queue(len(answers))

    async def read(number: int, answer: Answer) -> None:
        try:
            async for piece in answer:
                await coming.put((number, piece))
            await coming.put((number, None))
        except Exception as error:
            await coming.put((number, error))

    reading = [asyncio.ensure_future(read(*each)) for each in enumerate(answers)]
    left = len(answers)
    try:
        while left:
            number, found = await coming.get()
            if isinstance(found, BaseException):
                raise found
            left -= found is None
            yield number, found
    finally:
        for each in reading:
            each.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
