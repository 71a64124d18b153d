"""OpenAI's doors: models, chat completions, completions."""

import asyncio
from collections.abc import Awaitable, Iterator
from typing import Annotated, Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from clawai.plugins.gateway import catalogue, formats, functions, tfserving
from clawai.plugins.gateway.answers import Answer, Ask, Heard, Piece, ask_all
from clawai.plugins.gateway.choices import Chat, Shape, lines
from clawai.plugins.gateway.choices import Text as Plain
from clawai.plugins.gateway.door import Door, Said, header, streamed, unless_gone, warned, who
from clawai.plugins.gateway.fields import BadRequest, Form
from clawai.plugins.gateway.tensors import Models
from clawai.sdk import wire
from clawai.sdk.front import Front

EVENTS = "text/event-stream"
Tokens = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
Text = Annotated[str, msgspec.Meta(max_length=4_000_000)]


_FORMAT = {"$ref": "#/components/schemas/ResponseFormat"}
_TOOLS = {"items": {"$ref": "#/components/schemas/ChatTool"}}
_TURNS = {"items": {"$ref": "#/components/schemas/ChatMessage"}}


class ContentPart(msgspec.Struct):
    """A piece of a message's content."""

    type: str
    text: Text = ""


class ChatMessage(msgspec.Struct):
    """One of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    """Of the assistant, whose content may be missing then."""
    tool_call_id: str | None = None
    """Of a tool: the call that it answers."""


class StreamOptions(msgspec.Struct):
    """``stream_options``"""

    include_usage: bool = False


class _Common(msgspec.Struct, kw_only=True):
    model: str
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = 1.0
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = 1.0
    top_k: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)] | None = 0
    """Not OpenAI's: only so many of the likeliest tokens; 0: all."""
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = 0
    """Not OpenAI's: only tokens with this part of the likeliest one's probability."""
    frequency_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = 0
    presence_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = 0
    logit_bias: dict[str, float] | None = None
    seed: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)] | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=16)] | None = 1
    stop: str | list[str] | None = None
    stream: bool | None = False
    stream_options: dict[str, Any] | None = None
    max_tokens: Tokens | None = None
    priority: wire.Priority | None = None
    """Not OpenAI's: the class of the task; so says the header ``X-Claw-Priority``."""
    deadline_ms: Annotated[int, msgspec.Meta(ge=1, le=1 << 40)] | None = None
    """Not OpenAI's: from now on; so says the header ``X-Claw-Deadline-Ms``."""


class ChatCompletion(_Common, kw_only=True):
    """``/v1/chat/completions``"""

    messages: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1, extra_json_schema=_TURNS)]
    max_completion_tokens: Tokens | None = None
    tools: Annotated[list[dict[str, Any]], msgspec.Meta(extra_json_schema=_TOOLS)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = True
    response_format: Annotated[dict[str, Any], msgspec.Meta(extra_json_schema=_FORMAT)] | None = (
        None
    )
    logprobs: bool | None = False
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None


class Completion(_Common, kw_only=True):
    """``/v1/completions``"""

    prompt: Text
    max_tokens: Tokens | None = 16
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None


IGNORED = {
    "user": "it names nobody here",
    "safety_identifier": "it names nobody here",
    "prompt_cache_key": "what is kept of a prompt needs no name",
    "prompt_cache_retention": "it is kept as long as there is room",
    "store": "nothing is stored",
    "metadata": "nothing is stored",
    "service_tier": "priority says how urgent it is",
    "verbosity": "the models here know nothing of it",
    "reasoning_effort": "the models here know nothing of it",
}
REFUSED: dict[str, tuple[str, tuple[Any, ...]]] = {
    "best_of": ("every answer is sent: ask for n and choose", (1,)),
    "functions": ("send tools", ([],)),
    "function_call": ("send tool_choice", ("none", "auto")),
    "modalities": ("only text is written", (["text"],)),
    "audio": ("only text is written", ()),
    "prediction": ("drafts are found by the engine itself", ()),
    "web_search_options": ("a model reads what it is sent, nothing else", ()),
    "suffix": ("a model only goes on", ("",)),
    "echo": ("an answer is what comes after the prompt", (False,)),
}
CHAT = Form(ChatCompletion, IGNORED, REFUSED)
COMPLETION = Form(Completion, IGNORED, REFUSED | {"top_logprobs": ("logprobs says how many", (0,))})
MESSAGE = Form(
    ChatMessage,
    {
        "name": "the models' templates have no names",
        "refusal": "it is no part of the conversation",
        "annotations": "it is no part of the conversation",
        "reasoning_content": "it is no part of the conversation",
    },
    {
        "function_call": ("send tool_calls", ()),
        "audio": ("only text is read yet", ()),
    },
)
PART = Form(
    ContentPart,
    {
        "annotations": "it is no part of the conversation",
        "logprobs": "it is no part of the conversation",
    },
)
STREAM_OPTIONS = Form(StreamOptions, {"include_obfuscation": "nothing is padded on this box"})


def doors(kernel: Front, heard: Heard) -> Iterator[tuple[str, Door]]:
    """Paths and what answers them."""
    here = _OpenAI(kernel, heard)
    yield "/v1/models", Door("GET", here.models)
    yield "/v1/models/{name}", Door("GET", here.model)
    media = ("application/json", EVENTS)
    forms: tuple[Form[Any], ...] = CHAT, MESSAGE, PART, STREAM_OPTIONS
    forms += formats.RESPONSE_FORMAT, formats.JSON_SCHEMA
    forms += functions.CHAT_TOOL, functions.FUNCTION, functions.TOOL_CALL, functions.FUNCTION_CALL
    yield "/v1/chat/completions", Door("POST", here.chat, *forms, media=media)
    yield "/v1/completions", Door("POST", here.completion, COMPLETION, media=media)


class _OpenAI:
    def __init__(self, kernel: Front, heard: Heard) -> None:
        self._kernel, self._heard = kernel, heard
        self._models = Models(kernel)

    async def models(self, request: Request, body: bytes) -> Response:
        """The stored models."""
        rows = await catalogue.models(self._kernel)
        return Said({"object": "list", "data": [_row(row) for row in rows]})

    async def model(self, request: Request, body: bytes) -> Response:
        """One of them; if it takes tensors, also as TensorFlow Serving and KServe V1 tell it."""
        name = request.path_params["name"]
        versions = [each for each in await self._models.all() if each.name == name]
        row = versions[0].row if versions else await catalogue.model(self._kernel, name)
        served = {"name": name, "ready": True} | tfserving.statuses(versions) if versions else {}
        return Said(_row(row) | {"id": name} | served)

    async def chat(self, request: Request, body: bytes) -> Response:
        """An answer to a conversation."""
        asked, warnings = CHAT.read(body)
        turns = _turns(asked.messages, warnings)
        tools = functions.of_chat(asked.tools, warnings)
        schema = formats.of_chat(asked.response_format, warnings)
        params: dict[str, Any] = {"messages": turns, "schema": schema}
        params |= functions.choice(tools, asked.tool_choice, asked.parallel_tool_calls)
        most = asked.max_completion_tokens or asked.max_tokens
        if asked.logprobs:
            params["logprobs"] = asked.top_logprobs or 0
        elif asked.top_logprobs:
            raise BadRequest("top_logprobs needs logprobs: true", "top_logprobs")
        shape = Chat(asked.model, bool(asked.logprobs))
        return await self._answer(request, asked, params, most, shape, warnings)

    async def completion(self, request: Request, body: bytes) -> Response:
        """What comes after a text."""
        asked, warnings = COMPLETION.read(body)
        params: dict[str, Any] = {"prompt": asked.prompt, "logprobs": asked.logprobs}
        shape = Plain(asked.model, asked.logprobs is not None)
        return await self._answer(request, asked, params, asked.max_tokens, shape, warnings)

    async def _answer(
        self,
        request: Request,
        asked: _Common,
        params: dict[str, Any],
        most: int | None,
        shape: Shape,
        warnings: list[str],
    ) -> Response:
        stop = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
        params |= sampled(asked.temperature, asked.top_p, asked.top_k, asked.seed)
        params |= {
            "max_tokens": most,
            "stop": stop,
            "min_p": asked.min_p or 0.0,
            "frequency_penalty": asked.frequency_penalty or 0.0,
            "presence_penalty": asked.presence_penalty or 0.0,
            "logit_bias": asked.logit_bias,
        }
        usage = False
        if asked.stream_options is not None:
            options, more = STREAM_OPTIONS.take(asked.stream_options, "stream_options.")
            usage = options.include_usage
            warnings += more
        priority, deadline = urgency(request, asked.priority, asked.deadline_ms)
        questions = [
            Ask(
                asked.model,
                params | {"seed": seed},
                priority,
                deadline,
                who(request),
                whole=not asked.stream,
            )
            for seed in _seeds(asked.seed, asked.n or 1)
        ]
        asking = ask_all(self._kernel, questions, self._heard)
        if asked.stream:
            answers = await unless_gone(request.receive, asking)
            return streamed(lines(answers, shape, usage), EVENTS, warnings)
        answers, pieces = await unless_gone(request.receive, _whole(asking))
        return Said(shape.whole(pieces, answers), headers=warned(warnings))


async def _whole(asking: Awaitable[list[Answer]]) -> tuple[list[Answer], list[Piece]]:
    """Answers, and all that each says; none goes on where one fails."""
    answers = await asking
    try:
        if len(answers) == 1:
            return answers, [await answers[0].all()]
        return answers, await asyncio.gather(*(answer.all() for answer in answers))
    finally:
        for answer in answers:
            answer.drop()


def _seeds(seed: int | None, count: int) -> list[int | None]:
    """One for each of several answers: the first one is what a single answer would be."""
    return [None if seed is None else (seed + more) % (1 << 63) for more in range(count)]


def sampled(
    temperature: float | None, top_p: float | None, top_k: int | None, seed: int | None
) -> dict[str, Any]:
    """How tokens are drawn: OpenAI's defaults are all tokens, as likely as they are."""
    return {
        "temperature": 1.0 if temperature is None else temperature,
        # A share of nothing is the likeliest token alone.
        "top_p": max(1.0 if top_p is None else top_p, 1e-6),
        "top_k": top_k or 0,
        "seed": seed,
    }


def urgency(
    request: Request, priority: wire.Priority | None, deadline_ms: int | None
) -> tuple[wire.Priority, float | None]:
    """Class and deadline, of the body or of the headers.

    Raises:
        BadRequest: a header says neither.
    """
    chosen: Any = priority or header(request, b"x-claw-priority")
    if chosen is None:
        chosen = "interactive"
    if chosen not in wire.PRIORITIES:
        raise BadRequest(f"X-Claw-Priority must be one of {', '.join(wire.PRIORITIES)}")
    if deadline_ms is None and (text := header(request, b"x-claw-deadline-ms")):
        if not (text.isascii() and text.isdigit() and 0 < int(text[:16]) <= 1 << 40):
            raise BadRequest("X-Claw-Deadline-Ms must be a number of milliseconds from now on")
        deadline_ms = int(text)
    return chosen, None if deadline_ms is None else deadline_ms / 1000


def _turns(given: list[dict[str, Any]], warnings: list[str]) -> list[dict[str, Any]]:
    """The conversation, as the engine takes it.

    Raises:
        BadRequest: it makes no sense.
    """
    names: dict[str, str] = {}
    """Of the functions that were called, by the calls' ids."""
    turns = []
    for at, each in enumerate(given):
        where = f"messages[{at}]."
        message, more = MESSAGE.take(each, where)
        warnings += more
        turn: dict[str, Any] = {"role": message.role, "content": ""}
        if message.role == "developer":
            turn["role"] = "system"
        if message.role == "tool":
            turn["name"] = answered(message.tool_call_id, names, f"{where}tool_call_id")
        elif message.tool_call_id is not None:
            raise BadRequest(f"{where}role must be tool with tool_call_id", f"{where}role")
        if message.tool_calls:
            if message.role != "assistant":
                raise BadRequest(f"{where}role must be assistant with tool_calls", f"{where}role")
            calls = functions.said_before(message.tool_calls, where, warnings)
            names |= {name: call["name"] for name, call in calls}
            turn["tool_calls"] = [call for _, call in calls]
        elif message.content is None:
            raise BadRequest(f"{where}content is missing", f"{where}content")
        if message.content is not None:
            turn["content"] = text_of(message.content, where, ("text",), warnings)
        turns.append(turn)
    return turns


def answered(call: str | None, names: dict[str, str], where: str) -> str:
    """The name of the function whose result a message of role tool is.

    Raises:
        BadRequest: no call before it has this id.
    """
    if call is None or call not in names:
        got = "is missing" if call is None else f"{call[:64]!r} is no call before it"
        raise BadRequest(f"{where} {got}: what has the role of a tool answers a call", where)
    return names[call]


def text_of(
    content: str | list[dict[str, Any]], where: str, kinds: tuple[str, ...], warnings: list[str]
) -> str:
    """The text of a message's parts.

    Raises:
        BadRequest: one is of another type than ``kinds``.
    """
    if isinstance(content, str):
        return content
    texts = []
    for number, each in enumerate(content):
        part, more = PART.take(each, f"{where}content[{number}].")
        warnings += more
        if part.type not in kinds:
            kind = f"{where}content[{number}].type"
            raise BadRequest(f"{kind} is {part.type[:40]!r}: only text is read here", kind)
        texts.append(part.text)
    return "".join(texts)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    created = int(catalogue.pulled(row).timestamp())
    return {"id": row["name"], "object": "model", "created": created, "owned_by": "clawai"}
