"""OpenAI's newer door: `/v1/responses`, whole or as its stream of named events.

Nothing is stored: a conversation is sent whole, as `input`.
"""

import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from clawai.plugins.gateway import catalogue, formats, openai
from clawai.plugins.gateway.answers import Answer, Ask, Heard, Piece, ask, told
from clawai.plugins.gateway.choices import likely
from clawai.plugins.gateway.door import Door, streamed, unless_gone, warned, who
from clawai.plugins.gateway.fields import BadRequest, Form
from clawai.sdk import wire
from clawai.sdk.errors import ClawError
from clawai.sdk.front import Front

_ITEMS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]}
_OPTIONS = {"$ref": "#/components/schemas/TextOptions"}


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
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    """Told where ``include`` has ``message.output_text.logprobs``."""
    include: list[str] | None = None
    text: Annotated[dict[str, Any], msgspec.Meta(extra_json_schema=_OPTIONS)] | None = None
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
LOGPROBS = "message.output_text.logprobs"
"""In ``include``: what the likeliest tokens were."""
FORM = Form(
    Respond,
    {
        "user": "it names nobody here",
        "safety_identifier": "it names nobody here",
        "metadata": "nothing is stored",
        "prompt_cache_key": "what is kept of a prompt needs no name",
        "prompt_cache_retention": "it is kept as long as there is room",
        "service_tier": "priority says how urgent it is",
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
        "tools": (_TEXT, ([],)),
        "tool_choice": (_TEXT, ("none", "auto")),
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
    forms = FORM, ITEM, formats.TEXT, formats.TEXT_FORMAT
    yield "/v1/responses", Door("POST", here.respond, *forms, media=media)


class _Responses:
    def __init__(self, kernel: Front, heard: Heard) -> None:
        self._kernel, self._heard = kernel, heard

    async def respond(self, request: Request, body: bytes) -> Response:
        """An answer to a text or a conversation."""
        asked, warnings = FORM.read(body)
        turns = _turns(asked, warnings)
        name = await catalogue.known(self._kernel, asked.model)
        params = openai.sampled(asked.temperature, asked.top_p, asked.top_k, asked.seed)
        params |= {"schema": formats.of_response(asked.text, warnings)}
        params |= {"messages": turns, "max_tokens": asked.max_output_tokens}
        params["logprobs"] = _logprobs(asked, warnings)
        priority, deadline = openai.urgency(request, asked.priority, asked.deadline_ms)
        question = Ask(name, params, priority, deadline, who(request))
        answer = await unless_gone(request, ask(self._kernel, question, self._heard))
        said = _Said(asked)
        if asked.stream:
            return streamed(_events(answer, said), openai.EVENTS, warnings)
        try:
            whole = await unless_gone(request, answer.all())
        finally:
            answer.drop()
        return JSONResponse(said.ended(whole, answer), headers=warned(warnings))


def _logprobs(asked: Respond, warnings: list[str]) -> int | None:
    """How many of the likeliest tokens are told; None: no probabilities at all.

    Raises:
        BadRequest: some are asked for, but not included.
    """
    wanted = asked.include or []
    for name in wanted:
        if name != LOGPROBS:
            warnings.append(f"include has {name[:64]!r}, which is ignored: there is none")
    if LOGPROBS in wanted:
        return asked.top_logprobs or 0
    if asked.top_logprobs:
        raise BadRequest(f"top_logprobs needs {LOGPROBS} in include", "top_logprobs")
    return None


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
            "text": {"format": (asked.text or {}).get("format") or {"type": "text"}},
        }

    def begun(self) -> dict[str, Any]:
        """Before there is anything."""
        return self._head | {"status": "in_progress", "output": [], "usage": None}

    def part(self, said: Piece) -> dict[str, Any]:
        """The text as a part of the message."""
        known = {"text": said.text, "logprobs": likely(said.logprobs)}
        return {"type": "output_text", "annotations": []} | known

    def message(self, said: Piece | None, whole: bool = True) -> dict[str, Any]:
        """The message; without a text while there is none."""
        return {
            "id": self.item,
            "type": "message",
            "role": "assistant",
            "status": "completed" if whole else "in_progress" if said is None else "incomplete",
            "content": [] if said is None else [self.part(said)],
        }

    def ended(self, said: Piece, answer: Answer) -> dict[str, Any]:
        """All of it."""
        usage, whole = answer.usage, answer.reason == "stop"
        prompt, written = usage["prompt_tokens"], usage["completion_tokens"]
        return self._head | {
            "status": "completed" if whole else "incomplete",
            "incomplete_details": None if whole else {"reason": "max_output_tokens"},
            "output": [self.message(said, whole)],
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
        yield event("response.content_part.added", **place, part=said.part(Piece()))
        whole = Piece()

        def delta(piece: Piece) -> bytes:
            whole.add(piece)
            known = {"delta": piece.text, "logprobs": likely(piece.logprobs)}
            return event("response.output_text.delta", **place, **known)

        if answer.first.text:
            yield delta(answer.first)
        async for piece in answer.pieces:
            yield delta(piece)
        ended = said.ended(whole, answer)
        part = said.part(whole)
        known = {"text": whole.text, "logprobs": part["logprobs"]}
        yield event("response.output_text.done", **place, **known)
        yield event("response.content_part.done", **place, part=part)
        yield event("response.output_item.done", output_index=0, item=ended["output"][0])
        yield event(f"response.{ended['status']}", response=ended)
    except ClawError as wrong:
        yield event("response.failed", response=said.failed(wrong))
    finally:
        answer.drop()
