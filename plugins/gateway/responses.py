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

from clawai.plugins.gateway import formats, functions, openai
from clawai.plugins.gateway.answers import Answer, Ask, Heard, ask
from clawai.plugins.gateway.door import Door, streamed, unless_gone, warned, who
from clawai.plugins.gateway.door import Said as Whole
from clawai.plugins.gateway.fields import BadRequest, Form
from clawai.plugins.gateway.response import Events, Said
from clawai.sdk import wire
from clawai.sdk.errors import ClawError
from clawai.sdk.front import Front

_ITEMS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]}
_TOOLS = {"items": {"$ref": "#/components/schemas/ResponseTool"}}
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
    tools: Annotated[list[dict[str, Any]], msgspec.Meta(extra_json_schema=_TOOLS)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = True
    stream: bool | None = False
    priority: wire.Priority | None = None
    """Not OpenAI's; see ``openai``."""
    deadline_ms: Annotated[int, msgspec.Meta(ge=1, le=1 << 40)] | None = None
    """Not OpenAI's; see ``openai``."""


class Item(msgspec.Struct):
    """One of ``input``."""

    role: Literal["system", "developer", "user", "assistant"]
    content: openai.Text | list[dict[str, Any]]
    type: Literal["message"] = "message"


class CallItem(msgspec.Struct):
    """A call of the assistant, in ``input``."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: openai.Text


class OutputItem(msgspec.Struct):
    """What a call has returned, in ``input``."""

    type: Literal["function_call_output"]
    call_id: str
    output: openai.Text | list[dict[str, Any]]


_KINDS = ("input_text", "output_text", "text")
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
        "reasoning": "the models here know nothing of it",
        "store": "nothing is stored",
    },
    {
        "background": ("send a durable task over the wire", (False,)),
        "conversation": ("nothing is stored: send the conversation", ()),
        "previous_response_id": ("nothing is stored: send the conversation", ()),
        "prompt": ("there are no stored prompts", ()),
        "max_tool_calls": ("it counts tools of a service, and here are none", ()),
        "truncation": ("a prompt that does not fit is refused", ("disabled",)),
    },
)
_PAST = {
    "id": "nothing is stored",
    "status": "it is no part of the conversation",
    "phase": "it is no part of the conversation",
}
ITEM = Form(Item, _PAST)
CALL = Form(CallItem, _PAST)
OUTPUT = Form(OutputItem, _PAST)


def doors(kernel: Front, heard: Heard) -> Iterator[tuple[str, Door]]:
    """Paths and what answers them."""
    here = _Responses(kernel, heard)
    media = ("application/json", openai.EVENTS)
    forms = FORM, ITEM, CALL, OUTPUT, formats.TEXT, formats.TEXT_FORMAT, functions.RESPONSE_TOOL
    yield "/v1/responses", Door("POST", here.respond, *forms, media=media)


class _Responses:
    def __init__(self, kernel: Front, heard: Heard) -> None:
        self._kernel, self._heard = kernel, heard

    async def respond(self, request: Request, body: bytes) -> Response:
        """An answer to a text or a conversation."""
        asked, warnings = FORM.read(body)
        turns = _turns(asked, warnings)
        params = openai.sampled(asked.temperature, asked.top_p, asked.top_k, asked.seed)
        tools = functions.of_response(asked.tools, warnings)
        params |= functions.choice(tools, asked.tool_choice, asked.parallel_tool_calls)
        params |= {"schema": formats.of_response(asked.text, warnings)}
        params |= {"messages": turns, "max_tokens": asked.max_output_tokens}
        params["logprobs"] = _logprobs(asked, warnings)
        priority, deadline = openai.urgency(request, asked.priority, asked.deadline_ms)
        whole = not asked.stream
        question = Ask(asked.model, params, priority, deadline, who(request), whole=whole)
        answer = await unless_gone(request.receive, ask(self._kernel, question, self._heard))
        said = Said(_head(asked, tools), talks=not tools)
        if asked.stream:
            return streamed(_lines(answer, said), openai.EVENTS, warnings)
        try:
            said.add(await unless_gone(request.receive, answer.all()))
        finally:
            answer.drop()
        return Whole(said.ended(answer), headers=warned(warnings))


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


def _turns(asked: Respond, warnings: list[str]) -> list[dict[str, Any]]:
    """The conversation, as the engine takes it.

    Raises:
        BadRequest: it holds something else than text, calls and what they returned.
    """
    turns: list[dict[str, Any]] = []
    if asked.instructions:
        turns.append({"role": "system", "content": asked.instructions})
    if isinstance(asked.input, str):
        return [*turns, {"role": "user", "content": asked.input}]
    names: dict[str, str] = {}
    """Of the functions that were called, by the calls' ids."""
    for at, given in enumerate(asked.input):
        where = f"input[{at}]."
        kind = given.get("type")
        if kind == "function_call":
            call, more = CALL.take(given, where)
            made = functions.called(call.name, call.arguments, f"{where}arguments")
            names[call.call_id] = call.name
            # Calls beside each other, and the words before them, are one message of the assistant.
            if not turns or turns[-1]["role"] != "assistant":
                turns.append({"role": "assistant", "content": ""})
            turns[-1].setdefault("tool_calls", []).append(made)
        elif kind == "function_call_output":
            output, more = OUTPUT.take(given, where)
            name = openai.answered(output.call_id, names, f"{where}call_id")
            content = openai.text_of(output.output, where, _KINDS, warnings)
            turns.append({"role": "tool", "name": name, "content": content})
        else:
            item, more = ITEM.take(given, where)
            role = "system" if item.role == "developer" else item.role
            content = openai.text_of(item.content, where, _KINDS, warnings)
            turns.append({"role": role, "content": content})
        warnings += more
    if not turns:
        raise BadRequest("input is empty: there is nothing to answer", "input")
    return turns


def _head(asked: Respond, tools: list[dict[str, Any]]) -> dict[str, Any]:
    """What is known of a response before it has begun."""
    return {
        "id": f"resp_{os.urandom(16).hex()}",
        "object": "response",
        "created_at": int(time.time()),
        "model": asked.model,
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "tool_choice": asked.tool_choice or "auto",
        "tools": [{"type": "function", "strict": True} | each for each in tools],
        "metadata": {},
        "store": False,
        "error": None,
        "incomplete_details": None,
        "text": {"format": (asked.text or {}).get("format") or {"type": "text"}},
    }


async def _lines(answer: Answer, said: Said) -> AsyncIterator[bytes]:
    events = Events(said)
    try:
        for line in events.begin():
            yield line
        for line in events.of(answer.first):
            yield line
        async for piece in answer:
            for line in events.of(piece):
                yield line
        for line in events.end(answer):
            yield line
    except ClawError as wrong:
        yield events.event("response.failed", response=said.failed(wrong))
    finally:
        answer.drop()
