"""OpenAI's newer door: `/v1/responses`, whole or as its stream of named events.

Nothing is stored: a conversation is sent whole, as `input`.
"""

import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from clawai.plugins.gateway import openai
from clawai.plugins.gateway.answers import Answer, Ask, Heard, ask, told
from clawai.plugins.gateway.door import Door, Said, streamed, unless_gone, warned, who
from clawai.plugins.gateway.fields import BadRequest, Form
from clawai.sdk import wire
from clawai.sdk.errors import ClawError
from clawai.sdk.front import Front

_ITEMS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]}


class Respond(msgspec.Struct, kw_only=True):
    """``/v1/responses``"""

    model: str
    input: Annotated[openai.Text | list[dict[str, Any]], msgspec.Meta(extra_json_schema=_ITEMS)]
    instructions: openai.Text | None = None
    max_output_tokens: openai.Tokens | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = 1.0
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = 1.0
    top_k: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)] | None = 0
    """Not OpenAI's."""
    seed: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)] | None = None
    """Not OpenAI's."""
    stream: bool | None = False
    priority: wire.Priority | None = None
    """Not OpenAI's; see ``openai``."""
    deadline_ms: Annotated[int, msgspec.Meta(ge=1, le=1 << 40)] | None = None
    """Not OpenAI's; see ``openai``."""


class Item(msgspec.Struct):
    """One of ``input``."""

    role: Literal["system", "developer", "user", "assistant"]
    content: openai.Text | list[dict[str, Any]]
    type: str = "message"


_TEXT = "only text is written yet"
FORM = Form(
    Respond,
    {
        "user": "it names nobody here",
        "safety_identifier": "it names nobody here",
        "metadata": "nothing is stored",
        "prompt_cache_key": "what is kept of a prompt needs no name",
        "prompt_cache_retention": "it is kept as long as there is room",
        "service_tier": "priority says how urgent it is",
        "include": "there is no more to tell",
        "stream_options": "nothing is padded on this box",
        "parallel_tool_calls": "there are no tools yet",
        "reasoning": "the models here know nothing of it",
        "store": "nothing is stored",
    },
    {
        "background": ("send a durable task over the wire", (False,)),
        "conversation": ("nothing is stored: send the conversation", ()),
        "previous_response_id": ("nothing is stored: send the conversation", ()),
        "prompt": ("there are no stored prompts", ()),
        "max_tool_calls": (_TEXT, ()),
        "text": (_TEXT, ({}, {"format": {"type": "text"}})),
        "tools": (_TEXT, ([],)),
        "tool_choice": (_TEXT, ("none", "auto")),
        "top_logprobs": ("the engine does not tell them yet", (0,)),
        "truncation": ("a prompt that does not fit is refused", ("disabled",)),
    },
)
ITEM = Form(
    Item,
    {
        "id": "nothing is stored",
        "status": "it is no part of the conversation",
        "phase": "it is no part of the conversation",
    },
)


def doors(kernel: Front, heard: Heard) -> Iterator[tuple[str, Door]]:
    """Paths and what answers them."""
    here = _Responses(kernel, heard)
    media = ("application/json", openai.EVENTS)
    yield "/v1/responses", Door("POST", here.respond, FORM, ITEM, media=media)


class _Responses:
    def __init__(self, kernel: Front, heard: Heard) -> None:
        self._kernel, self._heard = kernel, heard

    async def respond(self, request: Request, body: bytes) -> Response:
        """An answer to a text or a conversation."""
        asked, warnings = FORM.read(body)
        turns = _turns(asked, warnings)
        params = openai.sampled(asked.temperature, asked.top_p, asked.top_k, asked.seed)
        params |= {"messages": turns, "max_tokens": asked.max_output_tokens}
        priority, deadline = openai.urgency(request, asked.priority, asked.deadline_ms)
        question = Ask(asked.model, params, priority, deadline, who(request))
        answer = await unless_gone(request, ask(self._kernel, question, self._heard))
        said = _Said(asked)
        if asked.stream:
            return streamed(_events(answer, said), openai.EVENTS, warnings)
        try:
            text = await unless_gone(request, answer.all())
        finally:
            answer.drop()
        return Said(said.ended(text, answer), headers=warned(warnings))


def _turns(asked: Respond, warnings: list[str]) -> list[dict[str, str]]:
    """The conversation, as the engine takes it.

    Raises:
        BadRequest: it holds something else than text.
    """
    turns = []
    if asked.instructions:
        turns.append({"role": "system", "content": asked.instructions})
    if isinstance(asked.input, str):
        return [*turns, {"role": "user", "content": asked.input}]
    for at, given in enumerate(asked.input):
        where = f"input[{at}]."
        item, more = ITEM.take(given, where)
        warnings += more
        if item.type != "message":
            text = f"{where}type is {item.type[:40]!r}: only messages are read here"
            raise BadRequest(text, f"{where}type")
        kinds = ("input_text", "output_text", "text")
        role = "system" if item.role == "developer" else item.role
        content = openai.text_of(item.content, where, kinds, warnings)
        turns.append({"role": role, "content": content})
    if not turns:
        raise BadRequest("input is empty: there is nothing to answer", "input")
    return turns


class _Said:
    """The response, as it comes to be."""

    def __init__(self, asked: Respond) -> None:
        self.item = f"msg_{os.urandom(16).hex()}"
        self._head = {
            "id": f"resp_{os.urandom(16).hex()}",
            "object": "response",
            "created_at": int(time.time()),
            "model": asked.model,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "temperature": asked.temperature,
            "top_p": asked.top_p,
            "parallel_tool_calls": False,
            "tool_choice": "none",
            "tools": [],
            "metadata": {},
            "store": False,
            "error": None,
            "incomplete_details": None,
            "text": {"format": {"type": "text"}},
        }

    def begun(self) -> dict[str, Any]:
        """Before there is anything."""
        return self._head | {"status": "in_progress", "output": [], "usage": None}

    def part(self, text: str) -> dict[str, Any]:
        """The text as a part of the message."""
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def message(self, text: str | None, whole: bool = True) -> dict[str, Any]:
        """The message; without a text while there is none."""
        return {
            "id": self.item,
            "type": "message",
            "role": "assistant",
            "status": "completed" if whole else "in_progress" if text is None else "incomplete",
            "content": [] if text is None else [self.part(text)],
        }

    def ended(self, text: str, answer: Answer) -> dict[str, Any]:
        """All of it."""
        usage, whole = answer.usage, answer.ended["finish_reason"] == "stop"
        prompt, written = usage["prompt_tokens"], usage["completion_tokens"]
        return self._head | {
            "status": "completed" if whole else "incomplete",
            "incomplete_details": None if whole else {"reason": "max_output_tokens"},
            "output": [self.message(text, whole)],
            "usage": {
                "input_tokens": prompt,
                "input_tokens_details": {"cached_tokens": usage["cached_tokens"]},
                "output_tokens": written,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": prompt + written,
            },
        }

    def failed(self, wrong: ClawError) -> dict[str, Any]:
        """It ended in the middle."""
        error = {"code": "server_error", "message": told(wrong)}
        return self._head | {"status": "failed", "output": [], "error": error, "usage": None}


async def _events(answer: Answer, said: _Said) -> AsyncIterator[bytes]:
    """Named server-sent events, numbered."""
    number = -1

    def event(kind: str, **fields: Any) -> bytes:
        nonlocal number
        number += 1
        data = msgspec.json.encode({"type": kind, "sequence_number": number} | fields)
        return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"

    place: dict[str, Any] = {"item_id": said.item, "output_index": 0, "content_index": 0}
    try:
        yield event("response.created", response=said.begun())
        yield event("response.in_progress", response=said.begun())
        item = said.message(None, whole=False)
        yield event("response.output_item.added", output_index=0, item=item)
        yield event("response.content_part.added", **place, part=said.part(""))
        text = answer.first
        if text:
            yield event("response.output_text.delta", **place, delta=text, logprobs=[])
        async for piece in answer.pieces:
            text += piece
            yield event("response.output_text.delta", **place, delta=piece, logprobs=[])
        ended = said.ended(text, answer)
        yield event("response.output_text.done", **place, text=text, logprobs=[])
        yield event("response.content_part.done", **place, part=said.part(text))
        yield event("response.output_item.done", output_index=0, item=ended["output"][0])
        yield event(f"response.{ended['status']}", response=ended)
    except ClawError as wrong:
        yield event("response.failed", response=said.failed(wrong))
    finally:
        answer.drop()
