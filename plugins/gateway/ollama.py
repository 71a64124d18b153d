"""Ollama's doors: generate, chat, tags, show, ps, version."""

import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from importlib import metadata
from typing import Annotated, Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from clawai.plugins.gateway import catalogue, formats, functions
from clawai.plugins.gateway.answers import Answer, Ask, Heard, Piece, ask, told
from clawai.plugins.gateway.choices import likely
from clawai.plugins.gateway.door import Door, Said, streamed, unless_gone, warned, who
from clawai.plugins.gateway.fields import BadRequest, Form
from clawai.plugins.gateway.functions import Made
from clawai.sdk.errors import ClawError
from clawai.sdk.front import Front

Text = Annotated[str, msgspec.Meta(max_length=4_000_000)]
LINES = "application/x-ndjson"
API = "0.13.0"
"""The version of Ollama whose doors these are."""


class OllamaOptions(msgspec.Struct):
    """``options``; the defaults are Ollama's, but nothing is penalised that nobody asked for."""

    temperature: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.8
    top_k: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)] = 40
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.9
    seed: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)] | None = None
    num_predict: Annotated[int, msgspec.Meta(ge=-2, le=1 << 20)] = -1
    """-1 and -2: until the model ends, or the context does."""
    stop: str | list[str] = []
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    repeat_penalty: Annotated[float, msgspec.Meta(gt=0, le=10)] = 1.0
    repeat_last_n: Annotated[int, msgspec.Meta(ge=-1, le=1 << 20)] = 64
    """-1: all of the context."""
    presence_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] = 0.0


OPTIONS_IGNORED = {
    "num_ctx": "workers.context in the configuration says how long the context is",
    "num_thread": "workers.threads in the configuration says it",
    "num_gpu": "the models run on the processor",
    "num_batch": "the engine chooses it",
    "num_keep": "a context is never shifted",
    "main_gpu": "the models run on the processor",
    "use_mmap": "weights are packed once and mapped",
    "numa": "the engine chooses it",
}
_NONE = "the engine draws by temperature, top_k, top_p and min_p"
OPTIONS_REFUSED: dict[str, tuple[str, tuple[Any, ...]]] = {
    "typical_p": (_NONE, (1,)),
    "mirostat": (_NONE, (0,)),
}


_TURNS = {"items": {"$ref": "#/components/schemas/OllamaMessage"}}
_TOOLS = {"items": {"$ref": "#/components/schemas/ChatTool"}}
_OPTIONS = {"$ref": "#/components/schemas/OllamaOptions"}


class OllamaMessage(msgspec.Struct):
    """One of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: Text = ""
    tool_calls: list[dict[str, Any]] | None = None
    """Of the assistant."""
    tool_name: str | None = None
    """Of a tool: the function whose result it is."""


class _Common(msgspec.Struct, kw_only=True):
    model: str
    stream: bool | None = True
    options: Annotated[dict[str, Any], msgspec.Meta(extra_json_schema=_OPTIONS)] | None = None
    keep_alive: str | float | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None
    """``json``: any object; or a JSON schema."""
    logprobs: bool | None = False
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None


class OllamaGenerate(_Common, kw_only=True):
    """``/api/generate``"""

    prompt: Text = ""
    system: Text | None = None
    raw: bool | None = False


class OllamaChat(_Common, kw_only=True):
    """``/api/chat``"""

    messages: Annotated[list[dict[str, Any]], msgspec.Meta(extra_json_schema=_TURNS)] = []
    tools: Annotated[list[dict[str, Any]], msgspec.Meta(extra_json_schema=_TOOLS)] | None = None


class OllamaShow(msgspec.Struct, kw_only=True):
    """``/api/show``"""

    model: str = ""
    name: str = ""


IGNORED: dict[str, str] = {"verbose": "there is no more to tell"}
REFUSED: dict[str, tuple[str, tuple[Any, ...]]] = {
    "images": ("only text is read yet", ([],)),
    "suffix": ("a model only goes on", ("",)),
    "template": ("a model's own template is used", ("",)),
    "context": ("send the conversation to /api/chat", ([],)),
    "think": ("the models here know nothing of it", (False,)),
}
OPTIONS = Form(OllamaOptions, OPTIONS_IGNORED, OPTIONS_REFUSED)
GENERATE = Form(OllamaGenerate, IGNORED, REFUSED | {"tools": ("/api/chat takes them", ([],))})
CHAT = Form(OllamaChat, IGNORED, REFUSED)
SHOW = Form(OllamaShow, IGNORED)
MESSAGE = Form(
    OllamaMessage,
    {"thinking": "it is no part of the conversation"},
    {
        "images": ("only text is read yet", ([],)),
    },
)


def doors(kernel: Front, heard: Heard) -> Iterator[tuple[str, Door]]:
    """Paths and what answers them."""
    here = _Ollama(kernel, heard)
    yield "/", Door("GET", here.alive, media=("text/plain",))
    yield "/api/version", Door("GET", here.version)
    yield "/api/tags", Door("GET", here.tags)
    yield "/api/ps", Door("GET", here.ps)
    media = ("application/json", LINES)
    yield "/api/show", Door("POST", here.show, SHOW)
    yield "/api/generate", Door("POST", here.generate, GENERATE, OPTIONS, media=media)
    yield "/api/chat", Door("POST", here.chat, CHAT, MESSAGE, OPTIONS, media=media)


def error(text: str) -> dict[str, str]:
    """An error as Ollama's clients read it."""
    return {"error": text}


class _Ollama:
    def __init__(self, kernel: Front, heard: Heard) -> None:
        self._kernel, self._heard = kernel, heard

    async def alive(self, request: Request, body: bytes) -> Response:
        """What Ollama's command line looks for."""
        return PlainTextResponse("Ollama is running")

    async def version(self, request: Request, body: bytes) -> Response:
        """The version of the doors, and ours."""
        return Said({"version": API, "clawai": metadata.version("clawai")})

    async def tags(self, request: Request, body: bytes) -> Response:
        """The stored models."""
        rows = await catalogue.models(self._kernel)
        return Said({"models": [_row(row) for row in rows]})

    async def ps(self, request: Request, body: bytes) -> Response:
        """Those that are loaded."""
        loaded = {row["model"]: row for row in (await self._kernel.query("workers"))["workers"]}
        rows = await catalogue.models(self._kernel)
        found = []
        for row in rows:
            if worker := loaded.get(row["name"]):
                memory = {"size": worker["bytes"], "size_vram": 0}
                found.append(_row(row) | memory | {"expires_at": _stamp(_NEVER)})
        return Said({"models": found})

    async def show(self, request: Request, body: bytes) -> Response:
        """What is known of a model."""
        asked, warnings = SHOW.read(body)
        if not (asked.model or asked.name):
            raise BadRequest("model is missing", "model")
        row = await catalogue.model(self._kernel, asked.model or asked.name)
        said = {
            "license": row["licence"],
            "details": _details(row),
            "capabilities": ["completion", "tools"],
            "model_info": {},
            "modified_at": _iso(catalogue.pulled(row)),
        }
        return Said(said, headers=warned(warnings))

    async def generate(self, request: Request, body: bytes) -> Response:
        """An answer to a prompt, in the model's template unless ``raw``."""
        asked, warnings = GENERATE.read(body)
        if not asked.prompt:
            raise BadRequest("prompt is empty: there is nothing to answer", "prompt")
        params: dict[str, Any] = {"prompt": asked.prompt}
        if not asked.raw:
            system = [{"role": "system", "content": asked.system}] if asked.system else []
            params = {"messages": [*system, {"role": "user", "content": asked.prompt}]}
        elif asked.system:
            raise BadRequest("system is not supported with raw", "system")
        return await self._answer(request, asked, params, lambda p: {"response": p.text}, warnings)

    async def chat(self, request: Request, body: bytes) -> Response:
        """An answer to a conversation."""
        asked, warnings = CHAT.read(body)
        if not asked.messages:
            raise BadRequest("messages is empty: there is nothing to answer", "messages")
        turns = []
        for at, given in enumerate(asked.messages):
            each, more = MESSAGE.take(given, f"messages[{at}].")
            warnings += more
            turns.append(_turn(each, f"messages[{at}].", warnings))
        made, told = Made(), 0

        def said(piece: Piece) -> dict[str, Any]:
            nonlocal told
            message: dict[str, Any] = {"role": "assistant", "content": piece.text}
            made.add(piece.calls)
            if calls := made.objects(told):
                told += len(calls)
                message["tool_calls"] = [{"function": call} for call in calls]
            return {"message": message}

        tools = functions.of_chat(asked.tools, warnings)
        params = {"messages": turns} | functions.choice(tools, None, None)
        return await self._answer(request, asked, params, said, warnings)

    async def _answer(
        self,
        request: Request,
        asked: _Common,
        params: dict[str, Any],
        said: Callable[[Piece], dict[str, Any]],
        warnings: list[str],
    ) -> Response:
        options, more = OPTIONS.take(asked.options or {}, "options.")
        warnings += more
        params |= {
            "max_tokens": options.num_predict if options.num_predict > 0 else None,
            "temperature": options.temperature,
            "top_k": options.top_k,
            "top_p": max(options.top_p, 1e-6),
            "seed": options.seed,
            "schema": formats.OBJECT if asked.format == "json" else asked.format or None,
            "min_p": options.min_p,
            "repeat_penalty": options.repeat_penalty,
            "repeat_last_n": options.repeat_last_n,
            "presence_penalty": options.presence_penalty,
            "frequency_penalty": options.frequency_penalty,
            # Ollama tells the likeliest ones only where it tells any.
            "logprobs": (asked.top_logprobs or 0) if asked.logprobs else None,
            "stop": [options.stop] if isinstance(options.stop, str) else options.stop,
        }
        started = time.perf_counter_ns()
        seconds = seconds_of(asked.keep_alive)
        whole = asked.stream is False
        question = Ask(asked.model, params, behalf=who(request), keep_alive=seconds, whole=whole)
        answer = await unless_gone(request.receive, ask(self._kernel, question, self._heard))

        def line(piece: Piece, done: bool) -> dict[str, Any]:
            head = {"model": asked.model, "created_at": _stamp(time.time()), "done": done}
            if piece.logprobs:
                head["logprobs"] = likely(piece.logprobs)
            return head | said(piece) | (_end(answer, started) if done else {})

        if asked.stream is not False:
            return streamed(_lines(answer, line), LINES, warnings)
        try:
            piece = await unless_gone(request.receive, answer.all())
        finally:
            answer.drop()
        return Said(line(piece, True), headers=warned(warnings))


def _turn(given: OllamaMessage, where: str, warnings: list[str]) -> dict[str, Any]:
    """A message as the engine takes it.

    Raises:
        BadRequest: its calls make no sense.
    """
    turn: dict[str, Any] = {"role": given.role, "content": given.content}
    if given.tool_calls:
        calls = functions.said_before(given.tool_calls, where, warnings)
        turn["tool_calls"] = [call for _, call in calls]
    return turn | ({"name": given.tool_name} if given.tool_name else {})


async def _lines(
    answer: Answer, line: Callable[[Piece, bool], dict[str, Any]]
) -> AsyncIterator[bytes]:
    try:
        if answer.first != Piece():
            yield _packed(line(answer.first, False))
        async for piece in answer:
            said = line(piece, False)
            # A call is told when it is whole; there is nothing to say before.
            if piece.text or piece.logprobs or any("whole" in each for each in piece.calls):
                yield _packed(said)
        yield _packed(line(Piece(), True))
    except ClawError as wrong:
        yield _packed(error(told(wrong)))
    finally:
        answer.drop()


def _packed(data: dict[str, Any]) -> bytes:
    return msgspec.json.encode(data) + b"\n"


def _end(answer: Answer, started: int) -> dict[str, Any]:
    """The last line's figures: durations in nanoseconds."""
    ended, usage = answer.ended, answer.usage
    return {
        # Ollama's word for an answer that ends with calls.
        "done_reason": "stop" if answer.reason == "tool_calls" else answer.reason,
        "total_duration": time.perf_counter_ns() - started,
        "load_duration": 1000 * answer.timings.get("load_us", 0),
        "prompt_eval_count": usage["prompt_tokens"],
        "prompt_eval_duration": 1000 * ended["prefill_us"],
        "eval_count": usage["completion_tokens"],
        "eval_duration": 1000 * ended["decode_us"],
    }


_NEVER = 4_102_444_800.0
"""The year 2100: when a worker that is in use goes is not known."""
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds_of(keep_alive: str | float | None) -> float | None:
    """``keep_alive``: seconds, or a duration such as ``5m``; below 0: for ever.

    Raises:
        BadRequest: it is neither.
    """
    if keep_alive is None:
        return None
    try:
        if isinstance(keep_alive, str):
            unit = next((u for u in _UNITS if keep_alive.endswith(u)), "")
            number = float(keep_alive.removesuffix(unit)) * _UNITS.get(unit, 1.0)
        else:
            number = keep_alive
    except ValueError:
        text = f"keep_alive is {str(keep_alive)[:40]!r}: seconds, or a duration such as 5m"
        raise BadRequest(text, "keep_alive") from None
    most = float((1 << 31) - 1)
    if math.isnan(number):
        raise BadRequest("keep_alive is no number", "keep_alive")
    return most if number < 0 else min(number, most)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    name = row["name"] + catalogue.LATEST
    return {
        "name": name,
        "model": name,
        "modified_at": _iso(catalogue.pulled(row)),
        "size": row["bytes"],
        "digest": row["sha256"],
        "details": _details(row),
    }


def _details(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": row["format"],
        "family": row["capability"],
        "families": [row["capability"]],
        "parameter_size": "",
        "quantization_level": "",
    }


def _stamp(seconds: float) -> str:
    return _iso(datetime.fromtimestamp(seconds, UTC))


def _iso(when: datetime) -> str:
    return when.astimezone(UTC).isoformat().replace("+00:00", "Z")
