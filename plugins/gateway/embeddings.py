"""Vectors of texts, at OpenAI's door and at Ollama's two."""

import base64
import time
from array import array
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from clawai.plugins.gateway import catalogue
from clawai.plugins.gateway.door import Door, unless_gone, warned, who
from clawai.plugins.gateway.fields import BadRequest, Form
from clawai.plugins.gateway.ollama import seconds_of
from clawai.plugins.gateway.openai import urgency
from clawai.sdk import wire
from clawai.sdk.errors import ClawError
from clawai.sdk.front import Front
from clawai.sdk.session import Result

Text = Annotated[str, msgspec.Meta(max_length=1_000_000)]
_Texts = Annotated[list[Text], msgspec.Meta(min_length=1, max_length=2048)]
_Dimensions = Annotated[int, msgspec.Meta(ge=1, le=8192)] | None


class Embedding(msgspec.Struct, kw_only=True):
    """``/v1/embeddings``"""

    model: str
    input: Text | _Texts
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: _Dimensions = None
    priority: wire.Priority | None = None
    """Not OpenAI's: the class of the task; so says the header ``X-Claw-Priority``."""
    deadline_ms: Annotated[int, msgspec.Meta(ge=1, le=1 << 40)] | None = None
    """Not OpenAI's: from now on; so says the header ``X-Claw-Deadline-Ms``."""


class OllamaEmbed(msgspec.Struct, kw_only=True):
    """``/api/embed``"""

    model: str
    input: Text | _Texts
    truncate: bool = True
    dimensions: _Dimensions = None
    keep_alive: str | float | None = None


class OllamaEmbeddings(msgspec.Struct, kw_only=True):
    """``/api/embeddings``: one text, and a vector of the length that the model gives it."""

    model: str
    prompt: Text
    keep_alive: str | float | None = None


OPTIONS = {"options": "a vector has none"}
OPENAI = Form(Embedding, {"user": "it names nobody here"})
OLLAMA = Form(OllamaEmbed, OPTIONS)
OLLAMA_ONE = Form(OllamaEmbeddings, OPTIONS)


def doors(kernel: Front, heard: object) -> Iterator[tuple[str, Door]]:
    """Paths and what answers them."""
    here = _Embeddings(kernel)
    yield "/v1/embeddings", Door("POST", here.openai, OPENAI)
    yield "/api/embed", Door("POST", here.ollama, OLLAMA)
    yield "/api/embeddings", Door("POST", here.ollama_one, OLLAMA_ONE)


class _Embeddings:
    def __init__(self, kernel: Front) -> None:
        self._kernel = kernel

    async def openai(self, request: Request, body: bytes) -> Response:
        """A vector for each text."""
        asked, warnings = OPENAI.read(body)
        priority, deadline = urgency(request, asked.priority, asked.deadline_ms)
        params = {"texts": _several(asked.input), "dimensions": asked.dimensions}
        found, tokens, _ = await self._embed(
            request, asked.model, params, priority=priority, deadline=deadline
        )
        data = [
            {"object": "embedding", "index": index, "embedding": _said(row, asked.encoding_format)}
            for index, row in enumerate(found)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        answer = {"object": "list", "data": data, "model": asked.model, "usage": usage}
        return JSONResponse(answer, headers=warned(warnings))

    async def ollama(self, request: Request, body: bytes) -> Response:
        """A vector for each text."""
        asked, warnings = OLLAMA.read(body)
        started = time.perf_counter_ns()
        params = {
            "texts": _several(asked.input),
            "dimensions": asked.dimensions,
            "truncate": asked.truncate,
        }
        alive = seconds_of(asked.keep_alive)
        found, tokens, result = await self._embed(request, asked.model, params, keep_alive=alive)
        answer = {
            "model": asked.model,
            "embeddings": [row.tolist() for row in found],
            "total_duration": time.perf_counter_ns() - started,
            "load_duration": 1000 * result.timings.get("load_us", 0),
            "prompt_eval_count": tokens,
        }
        return JSONResponse(answer, headers=warned(warnings))

    async def ollama_one(self, request: Request, body: bytes) -> Response:
        """A vector for one text, as long as the model makes it."""
        asked, warnings = OLLAMA_ONE.read(body)
        params = {"texts": [asked.prompt], "truncate": True, "normalize": False}
        alive = seconds_of(asked.keep_alive)
        found, _, _ = await self._embed(request, asked.model, params, keep_alive=alive)
        return JSONResponse({"embedding": found[0].tolist()}, headers=warned(warnings))

    async def _embed(
        self, request: Request, model: str, params: dict[str, Any], **options: Any
    ) -> tuple[Sequence["array[float]"], int, Result]:
        """Vectors, tokens, and all that the kernel said.

        Raises:
            BadRequest: the model makes no vectors.
            ClawError: what became of it.
        """
        row = await catalogue.model(self._kernel, model)
        if row["capability"] != "embedding":
            text = f"the model {row['name']} makes no vectors: it is for {row['capability']}"
            raise BadRequest(f"{text}; `claw pull minilm` fetches one that does", "model")
        asked = self._kernel.call(
            "text.embed", params, model=row["name"], behalf=who(request), **options
        )
        result: Result = await unless_gone(request.receive, asked)
        told = result.value["vectors"]
        count, width = told["shape"]
        whole = array("f", result.frames[told["frame"]])
        if told["dtype"] != "<f4" or len(whole) != count * width:
            raise ClawError("worker_failed", "the vectors do not fit their frame")
        rows = [whole[at : at + width] for at in range(0, len(whole), width)]
        return rows, result.value["tokens"], result


def _several(given: str | list[str]) -> list[str]:
    return [given] if isinstance(given, str) else given


def _said(row: "array[float]", form: str) -> list[float] | str:
    """A vector as numbers, or as little-endian float32 in base64."""
    return row.tolist() if form == "float" else base64.b64encode(row.tobytes()).decode()
