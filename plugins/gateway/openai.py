"""OpenAI's doors: models, chat completions, completions."""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from clawai.plugins.gateway import catalogue
from clawai.plugins.gateway.answers import Answer, Ask, Heard, ask, status_of, told
from clawai.plugins.gateway.door import Door, Said, streamed, unless_gone, warned, who
from clawai.plugins.gateway.fields import BadRequest, Form
from clawai.sdk import wire
from clawai.sdk.errors import ClawError
from clawai.sdk.front import Front

EVENTS = "text/event-stream"
Tokens = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
Text = Annotated[str, msgspec.Meta(max_length=4_000_000)]


_TURNS = {"items": {"$ref": "#/components/schemas/ChatMessage"}}


class ContentPart(msgspec.Struct):
    """A piece of a message's content."""

    type: str
    text: Text = ""


class ChatMessage(msgspec.Struct):
    """One of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[dict[str, Any]]


class StreamOptions(msgspec.Struct):
    """``stream_options``"""

    include_usage: bool = False


class _Common(msgspec.Struct, kw_only=True):
    model: str
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = 1.0
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = 1.0
    top_k: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)] | None = 0
    """Not OpenAI's: only so many of the likeliest tokens; 0: all."""
    seed: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)] | None = None
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


class Completion(_Common, kw_only=True):
    """``/v1/completions``"""

    prompt: Text
    max_tokens: Tokens | None = 16


IGNORED = {
    "user": "it names nobody here",
    "safety_identifier": "it names nobody here",
    "prompt_cache_key": "what is kept of a prompt needs no name",
    "prompt_cache_retention": "it is kept as long as there is room",
    "store": "nothing is stored",
    "metadata": "nothing is stored",
    "service_tier": "priority says how urgent it is",
    "parallel_tool_calls": "there are no tools yet",
    "verbosity": "the models here know nothing of it",
    "reasoning_effort": "the models here know nothing of it",
}
_ONE = "one answer a request"
REFUSED: dict[str, tuple[str, tuple[Any, ...]]] = {
    "n": (_ONE, (1,)),
    "best_of": (_ONE, (1,)),
    "logprobs": ("the engine does not tell them yet", (False, 0)),
    "top_logprobs": ("the engine does not tell them yet", (0,)),
    "frequency_penalty": ("the engine has none yet", (0,)),
    "presence_penalty": ("the engine has none yet", (0,)),
    "logit_bias": ("the engine has none yet", ({},)),
    "response_format": ("only free text is written yet", ({"type": "text"},)),
    "tools": ("only text is written yet", ([],)),
    "tool_choice": ("only text is written yet", ("none", "auto")),
    "functions": ("only text is written yet", ([],)),
    "function_call": ("only text is written yet", ("none", "auto")),
    "modalities": ("only text is written", (["text"],)),
    "audio": ("only text is written", ()),
    "prediction": ("drafts are found by the engine itself", ()),
    "web_search_options": ("a model reads what it is sent, nothing else", ()),
    "suffix": ("a model only goes on", ("",)),
    "echo": ("an answer is what comes after the prompt", (False,)),
}
CHAT = Form(ChatCompletion, IGNORED, REFUSED)
COMPLETION = Form(Completion, IGNORED, REFUSED)
MESSAGE = Form(
    ChatMessage,
    {
        "name": "the models' templates have no names",
        "refusal": "it is no part of the conversation",
        "annotations": "it is no part of the conversation",
        "reasoning_content": "it is no part of the conversation",
    },
    {
        "tool_calls": ("only text is read yet", ([],)),
        "tool_call_id": ("only text is read yet", ()),
        "function_call": ("only text is read yet", ()),
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
    forms = CHAT, MESSAGE, PART, STREAM_OPTIONS
    yield "/v1/chat/completions", Door("POST", here.chat, *forms, media=media)
    yield "/v1/completions", Door("POST", here.completion, COMPLETION, media=media)


def error(status: int, text: str, param: str | None, code: str = "") -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    kinds = {400: "invalid_request_error", 404: "not_found_error", 403: "permission_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    kind = "rate_limit_error" if status == 429 else kind
    return {"error": {"message": text, "type": kind, "param": param, "code": code or None}}


class _OpenAI:
    def __init__(self, kernel: Front, heard: Heard) -> None:
        self._kernel, self._heard = kernel, heard

    async def models(self, request: Request, body: bytes) -> Response:
        """The stored models."""
        rows = await catalogue.models(self._kernel)
        return Said({"object": "list", "data": [_row(row) for row in rows]})

    async def model(self, request: Request, body: bytes) -> Response:
        """One of them."""
        return Said(_row(await catalogue.model(self._kernel, request.path_params["name"])))

    async def chat(self, request: Request, body: bytes) -> Response:
        """An answer to a conversation."""
        asked, warnings = CHAT.read(body)
        turns = [_message(each, at, warnings) for at, each in enumerate(asked.messages)]
        params: dict[str, Any] = {"messages": turns}
        most = asked.max_completion_tokens or asked.max_tokens
        return await self._answer(request, asked, params, most, _ChatForm(asked.model), warnings)

    async def completion(self, request: Request, body: bytes) -> Response:
        """What comes after a text."""
        asked, warnings = COMPLETION.read(body)
        params: dict[str, Any] = {"prompt": asked.prompt}
        form = _TextForm(asked.model)
        return await self._answer(request, asked, params, asked.max_tokens, form, warnings)

    async def _answer(
        self,
        request: Request,
        asked: _Common,
        params: dict[str, Any],
        most: int | None,
        form: "_Form",
        warnings: list[str],
    ) -> Response:
        stop = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
        params |= sampled(asked.temperature, asked.top_p, asked.top_k, asked.seed)
        params |= {"max_tokens": most, "stop": stop}
        usage = False
        if asked.stream_options is not None:
            options, more = STREAM_OPTIONS.take(asked.stream_options, "stream_options.")
            usage = options.include_usage
            warnings += more
        priority, deadline = urgency(request, asked.priority, asked.deadline_ms)
        question = Ask(asked.model, params, priority, deadline, who(request))
        answer = await unless_gone(request, ask(self._kernel, question, self._heard))
        if asked.stream:
            return streamed(_lines(answer, form, usage), EVENTS, warnings)
        try:
            text = await unless_gone(request, answer.all())
        finally:
            answer.drop()
        return Said(form.whole(text, answer), headers=warned(warnings))


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
    chosen: Any = priority or request.headers.get("x-claw-priority", "interactive")
    if chosen not in wire.PRIORITIES:
        raise BadRequest(f"X-Claw-Priority must be one of {', '.join(wire.PRIORITIES)}")
    if deadline_ms is None and (text := request.headers.get("x-claw-deadline-ms")):
        if not (text.isascii() and text.isdigit() and 0 < int(text[:16]) <= 1 << 40):
            raise BadRequest("X-Claw-Deadline-Ms must be a number of milliseconds from now on")
        deadline_ms = int(text)
    return chosen, None if deadline_ms is None else deadline_ms / 1000


def _message(given: dict[str, Any], at: int, warnings: list[str]) -> dict[str, str]:
    """A message as the engine takes it."""
    where = f"messages[{at}]."
    message, more = MESSAGE.take(given, where)
    warnings += more
    role = "system" if message.role == "developer" else message.role
    return {"role": role, "content": text_of(message.content, where, ("text",), warnings)}


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


class _Form(ABC):
    """How a protocol says what comes."""

    KIND = PIECE = PREFIX = ""

    def __init__(self, model: str) -> None:
        self._head = {
            "id": f"{self.PREFIX}-{os.urandom(12).hex()}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, text: str, answer: Answer) -> dict[str, Any]:
        """Without streaming."""
        choice = self._full(text) | {"finish_reason": answer.ended["finish_reason"]}
        return self._said(self.KIND, [choice]) | {"usage": _usage(answer)}

    def piece(self, text: str, first: bool) -> dict[str, Any]:
        """Some text of a stream."""
        return self._said(self.PIECE, [self._part(text, first) | {"finish_reason": None}])

    def end(self, reason: str) -> dict[str, Any]:
        """The end of the stream's text."""
        return self._said(self.PIECE, [self._last() | {"finish_reason": reason}])

    def usage(self, answer: Answer) -> dict[str, Any]:
        """What comes behind it where it was asked for."""
        return self._said(self.PIECE, []) | {"usage": _usage(answer)}

    def _said(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        every = [{"index": 0, "logprobs": None} | choice for choice in choices]
        return self._head | {"object": kind, "choices": every}

    @abstractmethod
    def _full(self, text: str) -> dict[str, Any]: ...

    @abstractmethod
    def _part(self, text: str, first: bool) -> dict[str, Any]: ...

    @abstractmethod
    def _last(self) -> dict[str, Any]: ...


class _ChatForm(_Form):
    KIND, PIECE, PREFIX = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def _full(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _part(self, text: str, first: bool) -> dict[str, Any]:
        role = {"role": "assistant"} if first else {}
        return {"delta": role | {"content": text}}

    def _last(self) -> dict[str, Any]:
        return {"delta": {}}


class _TextForm(_Form):
    KIND = PIECE = "text_completion"
    PREFIX = "cmpl"

    def _full(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def _part(self, text: str, first: bool) -> dict[str, Any]:
        return {"text": text}

    def _last(self) -> dict[str, Any]:
        return {"text": ""}


def _usage(answer: Answer) -> dict[str, Any]:
    usage = answer.usage
    prompt, written = usage["prompt_tokens"], usage["completion_tokens"]
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": usage["cached_tokens"]},
    }


async def _lines(answer: Answer, form: _Form, usage: bool) -> AsyncIterator[bytes]:
    """Server-sent events; an error in the middle is one, too."""
    try:
        yield _event(form.piece(answer.first, first=True))
        async for text in answer.pieces:
            yield _event(form.piece(text, first=False))
        yield _event(form.end(answer.ended["finish_reason"]))
        if usage:
            yield _event(form.usage(answer))
    except ClawError as wrong:
        yield _event(error(status_of(wrong), told(wrong), None, wrong.code))
    finally:
        answer.drop()
    yield b"data: [DONE]\n\n"


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(data) + b"\n\n"
