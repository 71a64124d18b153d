"""Recordings written down, at OpenAI's door: the body is a form with a file in it."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Annotated, Any, Literal

import msgspec
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from clawai.plugins.gateway import catalogue
from clawai.plugins.gateway.answers import later, status_of, told
from clawai.plugins.gateway.choices import error
from clawai.plugins.gateway.door import Door, streamed, unless_gone, warned, who
from clawai.plugins.gateway.fields import BadRequest, Form
from clawai.plugins.gateway.openai import EVENTS, urgency
from clawai.sdk import wire
from clawai.sdk.aclient import AsyncTask
from clawai.sdk.errors import ClawError
from clawai.sdk.front import Front

FORMS = "multipart/form-data"
FIELDS = 32
Part = dict[str, Any]
_FILE = msgspec.Meta(extra_json_schema={"type": "string", "format": "binary"})


class Transcription(msgspec.Struct, kw_only=True):
    """``/v1/audio/transcriptions``"""

    file: Annotated[bytes, _FILE]
    model: str
    response_format: Literal["json", "text", "srt", "vtt", "verbose_json"] = "json"
    language: Literal["en", "english", ""] = ""
    stream: Literal["true", "false", "True", "False", "1", "0"] = "false"
    timestamp_granularities: Literal["segment"] | None = msgspec.field(
        default=None, name="timestamp_granularities[]"
    )
    priority: wire.Priority | None = None
    """Not OpenAI's: the class of the task; so says the header ``X-Claw-Priority``."""


FORM = Form(
    Transcription,
    {
        "prompt": "the model takes none",
        "temperature": "the likeliest token is taken",
        "chunking_strategy": "parts end in pauses",
    },
    {
        "include[]": ("the model does not tell them", ()),
        "known_speaker_names[]": ("speakers are not told apart", ()),
        "known_speaker_references[]": ("speakers are not told apart", ()),
    },
)


def doors(kernel: Front, heard: object) -> Iterator[tuple[str, Door]]:
    """Paths and what answers them."""
    here = _Transcripts(kernel)
    media = ("application/json", "text/plain", EVENTS)
    path = "/v1/audio/transcriptions"
    yield path, Door("POST", here.transcribe, FORM, media=media, takes=FORMS)


class _Transcripts:
    def __init__(self, kernel: Front) -> None:
        self._kernel = kernel

    async def transcribe(self, request: Request, body: bytes) -> Response:
        """What is said in a recording."""
        asked, warnings = FORM.take(await _fields(request, body))
        row = await catalogue.model(self._kernel, asked.model)
        if row["capability"] != "speech":
            text = f"the model {row['name']} hears nothing: it is for {row['capability']}"
            raise BadRequest(f"{text}; `claw pull moonshine` fetches one that does", "model")
        priority, deadline = urgency(request, asked.priority, None)
        tensor = {"dtype": "|u1", "shape": [len(asked.file)], "frame": 0}
        submitted = self._kernel.submit(
            "audio.transcribe",
            {"audio": tensor},
            model=row["name"],
            frames=[asked.file],
            priority=priority,
            deadline=deadline,
            behalf=who(request),
        )
        task = await unless_gone(request.receive, submitted)
        try:
            # Until the first part an error still can be a status.
            parts = _parts(task)
            first = await unless_gone(request.receive, anext(parts, None))
            if asked.stream.lower() in ("true", "1"):
                return streamed(_events(task, first, parts), EVENTS, warnings)
            said = [] if first is None else [first]
            said += await unless_gone(request.receive, _rest(parts))
            value = (await task.result()).value
        except BaseException:
            later(task.cancel())
            raise
        if asked.response_format in _TEXTS:
            text = _TEXTS[asked.response_format](said)
            return PlainTextResponse(text, headers=warned(warnings))
        answer: Part = {"text": value["text"]}
        if asked.response_format == "verbose_json":
            head = {"task": "transcribe", "language": "english", "duration": value["seconds"]}
            answer = head | answer
            answer["segments"] = [{"id": number} | each for number, each in enumerate(said)]
        answer["usage"] = _usage(value)
        return JSONResponse(answer, headers=warned(warnings))


async def _fields(request: Request, body: bytes) -> dict[str, Any]:
    """The fields of a form; those of its files are bytes.

    Raises:
        BadRequest: it is no such form.
    """
    if not request.headers.get("content-type", "").startswith(FORMS):
        raise BadRequest(f"the body must be a form: {FORMS}")

    async def whole() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(
        request.headers, whole(), max_files=1, max_fields=FIELDS, max_part_size=1 << 16
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as wrong:
        text = str(getattr(wrong, "message", wrong))[:200]
        raise BadRequest(f"the form cannot be read: {text}") from None
    found: dict[str, Any] = {}
    try:
        for name, value in form.multi_items():
            if name in found:
                raise BadRequest(f"{name[:64]} comes more than once", name[:64])
            is_file = isinstance(value, UploadFile)
            found[name] = await value.read() if isinstance(value, UploadFile) else value
            if is_file != (name == "file"):
                must = "must not be" if is_file else "must be"
                raise BadRequest(f"{name[:64]} {must} a file", name[:64])
    finally:
        await form.close()
    return found


async def _parts(task: AsyncTask) -> AsyncIterator[Part]:
    """What was said, part by part; an error ends it."""
    async for event in task:
        if event.kind == "chunk":
            yield event.data
    await task.result()


async def _rest(parts: AsyncIterator[Part]) -> list[Part]:
    return [part async for part in parts]


async def _events(
    task: AsyncTask, first: Part | None, parts: AsyncIterator[Part]
) -> AsyncIterator[bytes]:
    """Server-sent events: the text as it grows, then all of it."""
    try:
        if first is not None:
            yield _event("transcript.text.delta", delta=first["text"])
            async for part in parts:
                yield _event("transcript.text.delta", delta=f" {part['text']}")
        value = (await task.result()).value
        yield _event("transcript.text.done", text=value["text"], usage=_usage(value))
    except ClawError as wrong:
        said = error(status_of(wrong), told(wrong), None, wrong.code)
        yield b"data: " + msgspec.json.encode({"type": "error"} | said) + b"\n\n"
    finally:
        if not task.done:
            later(task.cancel())


def _event(kind: str, **fields: Any) -> bytes:
    return b"data: " + msgspec.json.encode({"type": kind} | fields) + b"\n\n"


def _usage(value: Part) -> Part:
    return {"type": "duration", "seconds": value["seconds"]}


def _text(parts: list[Part]) -> str:
    return " ".join(part["text"] for part in parts) + "\n"


def _srt(parts: list[Part]) -> str:
    """SubRip's subtitles."""
    return "".join(
        f"{number}\n{_time(part['start'], ',')} --> {_time(part['end'], ',')}\n{part['text']}\n\n"
        for number, part in enumerate(parts, 1)
    )


def _vtt(parts: list[Part]) -> str:
    """WebVTT's."""
    return "WEBVTT\n\n" + "".join(
        f"{_time(part['start'], '.')} --> {_time(part['end'], '.')}\n{part['text']}\n\n"
        for part in parts
    )


_TEXTS: dict[str, Callable[[list[Part]], str]] = {"text": _text, "srt": _srt, "vtt": _vtt}


def _time(seconds: float, point: str) -> str:
    whole, ms = divmod(round(1000 * seconds), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{point}{ms:03}"
