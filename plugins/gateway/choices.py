"""How OpenAI's two older protocols say answers, whole and as server-sent events."""

import os
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from clawai.plugins.gateway.answers import Answer, Piece, merged, status_of, told
from clawai.plugins.gateway.functions import Made
from clawai.sdk.errors import ClawError


def error(status: int, text: str, param: str | None, code: str = "") -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    kinds = {400: "invalid_request_error", 404: "not_found_error", 403: "permission_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    kind = "rate_limit_error" if status == 429 else kind
    return {"error": {"message": text, "type": kind, "param": param, "code": code or None}}


class Shape(ABC):
    """How a protocol says what comes."""

    KIND = PIECE = PREFIX = ""

    def __init__(self, model: str, logprobs: bool) -> None:
        self._head = {
            "id": f"{self.PREFIX}-{os.urandom(12).hex()}",
            "created": int(time.time()),
            "model": model,
        }
        self._logprobs = logprobs

    def whole(self, pieces: Sequence[Piece], answers: Sequence[Answer]) -> dict[str, Any]:
        """Without streaming."""
        choices = [
            self._choice(number, self._full(number, piece), piece, answers[number].reason)
            for number, piece in enumerate(pieces)
        ]
        return self._said(self.KIND, choices) | {"usage": _usage(answers)}

    def piece(self, number: int, piece: Piece, first: bool) -> dict[str, Any]:
        """Some of a stream's answer ``number``."""
        return self._said(
            self.PIECE, [self._choice(number, self._part(number, piece, first), piece, None)]
        )

    def end(self, number: int, reason: str) -> dict[str, Any]:
        """The end of one of the stream's answers."""
        return self._said(self.PIECE, [self._choice(number, self._last(), Piece(), reason)])

    def usage(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """What comes behind them where it was asked for."""
        return self._said(self.PIECE, []) | {"usage": _usage(answers)}

    def _said(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return self._head | {"object": kind, "choices": choices}

    def _choice(
        self, number: int, said: dict[str, Any], piece: Piece, reason: str | None
    ) -> dict[str, Any]:
        # Whole answers without a token have an empty list; the end of a stream has none.
        known = self._logprobs and (piece.logprobs or "message" in said)
        logprobs = self._likely(number, piece.logprobs) if known else None
        return {"index": number, "logprobs": logprobs} | said | {"finish_reason": reason}

    @abstractmethod
    def _full(self, number: int, piece: Piece) -> dict[str, Any]: ...

    @abstractmethod
    def _part(self, number: int, piece: Piece, first: bool) -> dict[str, Any]: ...

    @abstractmethod
    def _last(self) -> dict[str, Any]: ...

    @abstractmethod
    def _likely(self, number: int, seen: list[dict[str, Any]]) -> dict[str, Any]: ...


class Chat(Shape):
    """``/v1/chat/completions``"""

    KIND, PIECE, PREFIX = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def __init__(self, model: str, logprobs: bool) -> None:
        super().__init__(model, logprobs)
        self._made: dict[int, Made] = defaultdict(Made)

    def _full(self, number: int, piece: Piece) -> dict[str, Any]:
        said: dict[str, Any] = {"role": "assistant", "content": piece.text, "refusal": None}
        made = Made()
        made.add(piece.calls)
        if made.calls:
            said |= {"content": piece.text or None, "tool_calls": list(map(_call, made.calls))}
        return {"message": said}

    def _part(self, number: int, piece: Piece, first: bool) -> dict[str, Any]:
        delta: dict[str, Any] = {"role": "assistant"} if first else {}
        if piece.text or not piece.calls:
            delta["content"] = piece.text
        made = self._made[number]
        made.add(piece.calls)
        calls = [_news(each, made) for each in piece.calls if not each.get("whole")]
        return {"delta": delta | ({"tool_calls": calls} if calls else {})}

    def _last(self) -> dict[str, Any]:
        return {"delta": {}}

    def _likely(self, number: int, seen: list[dict[str, Any]]) -> dict[str, Any]:
        return {"content": likely(seen), "refusal": None}


def _call(made: dict[str, str]) -> dict[str, Any]:
    function = {"name": made["name"], "arguments": made["arguments"]}
    return {"id": made["id"], "type": "function", "function": function}


def _news(news: dict[str, Any], made: Made) -> dict[str, Any]:
    """A call's beginning, or more of its arguments."""
    if "name" not in news:
        return {"index": news["index"], "function": {"arguments": news["arguments"]}}
    call = made.calls[news["index"]] | {"arguments": ""}
    return {"index": news["index"]} | _call(call)


class Text(Shape):
    """``/v1/completions``"""

    KIND = PIECE = "text_completion"
    PREFIX = "cmpl"

    def __init__(self, model: str, logprobs: bool) -> None:
        super().__init__(model, logprobs)
        self._offsets: dict[int, int] = {}

    def _full(self, number: int, piece: Piece) -> dict[str, Any]:
        return {"text": piece.text}

    def _part(self, number: int, piece: Piece, first: bool) -> dict[str, Any]:
        return {"text": piece.text}

    def _last(self) -> dict[str, Any]:
        return {"text": ""}

    def _likely(self, number: int, seen: list[dict[str, Any]]) -> dict[str, Any]:
        tokens = [_text(each) for each in seen]
        at, offsets = self._offsets.get(number, 0), []
        for token in tokens:
            offsets.append(at)
            at += len(token)
        self._offsets[number] = at
        return {
            "tokens": tokens,
            "token_logprobs": [each["logprob"] for each in seen],
            "top_logprobs": [{_text(t): t["logprob"] for t in each["top"]} for each in seen],
            "text_offset": offsets,
        }


def likely(seen: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Log-probabilities of tokens, as chats tell them; Ollama's too."""
    return [_likely(each) | {"top_logprobs": list(map(_likely, each["top"]))} for each in seen]


def _likely(seen: dict[str, Any]) -> dict[str, Any]:
    return {"token": _text(seen), "logprob": seen["logprob"], "bytes": list(seen["bytes"])}


def _text(seen: dict[str, Any]) -> str:
    text: str = seen["bytes"].decode("utf-8", "replace")
    return text


def _usage(answers: Sequence[Answer]) -> dict[str, Any]:
    prompt = answers[0].usage["prompt_tokens"]  # of all of them: it is the same one
    written = sum(each.usage["completion_tokens"] for each in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": answers[0].usage["cached_tokens"]},
    }


async def lines(answers: Sequence[Answer], shape: Shape, usage: bool) -> AsyncIterator[bytes]:
    """Server-sent events; an error in the middle is one, too."""
    try:
        for number, answer in enumerate(answers):
            yield _event(shape.piece(number, answer.first, first=True))
        async for number, piece in merged(answers):
            if piece is None:
                yield _event(shape.end(number, answers[number].reason))
            else:
                yield _event(shape.piece(number, piece, first=False))
        if usage:
            yield _event(shape.usage(answers))
    except ClawError as wrong:
        yield _event(error(status_of(wrong), told(wrong), None, wrong.code))
    finally:
        for answer in answers:
            answer.drop()
    yield b"data: [DONE]\n\n"


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(data) + b"\n\n"
