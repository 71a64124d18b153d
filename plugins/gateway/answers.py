"""Questions to language models: one task of the kernel for each, ended with whoever asked."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Protocol

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
    "queue_full": 429,
    "overloaded": 429,
    "deadline_passed": 408,
    "deadline_unreachable": 408,
    "worker_hung": 504,
    "cancelled": 503,
    "no_memory": 503,
    "never_fits": 503,
    "quarantined": 503,
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


@dataclass(slots=True)
class Answer:
    """One that is being written."""

    task: AsyncTask
    first: str = ""
    ended: dict[str, Any] = field(default_factory=dict)
    """What the operation returned; empty until then."""
    timings: dict[str, int] = field(default_factory=dict)
    pieces: AsyncIterator[str] = field(init=False)
    """What comes behind ``first``."""

    async def all(self) -> str:
        """The whole text."""
        return self.first + "".join([piece async for piece in self.pieces])

    @property
    def usage(self) -> dict[str, int]:
        """Tokens, as the engine counts them."""
        found: dict[str, int] = self.ended["usage"]
        return found

    def drop(self) -> None:
        """Nobody waits for it any more; may be said at any time, by whoever is being cancelled."""
        if not self.task.done:
            later(self.task.cancel())


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
    task = await kernel.submit(
        "llm.generate",
        question.params,
        model=question.model,
        priority=question.priority,
        deadline=question.deadline,
        keep_alive=question.keep_alive,
        behalf=question.behalf,
    )
    answer = Answer(task)
    answer.pieces = _pieces(answer, question.model, heard)
    try:
        answer.first = await anext(answer.pieces, "")
        heard.began(question.model, time.perf_counter() - began)
    except BaseException:
        answer.drop()
        raise
    return answer


async def _pieces(answer: Answer, model: str, heard: Heard) -> AsyncIterator[str]:
    try:
        async for event in answer.task:
            if event.kind == "chunk" and event.data.get("text"):
                yield event.data["text"]
        result = await answer.task.result()
        answer.ended, answer.timings = result.value, dict(result.timings)
        heard.ended(model, answer)
    finally:
        answer.drop()
