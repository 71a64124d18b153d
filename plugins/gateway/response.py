"""A response of OpenAI's newer door as it comes to be: its items, and events that tell of them."""

import os
from collections.abc import Iterator
from typing import Any

import msgspec

from clawai.plugins.gateway.answers import Answer, Piece, told
from clawai.plugins.gateway.choices import likely
from clawai.plugins.gateway.functions import Made
from clawai.sdk.errors import ClawError

MAX_CALLS = 16
"""Of an answer, as the engine allows."""


class Said:
    """The response, as it comes to be."""

    def __init__(self, head: dict[str, Any], talks: bool) -> None:
        self._head = head
        self._message = f"msg_{os.urandom(16).hex()}"
        self._items = [f"fc_{os.urandom(16).hex()}" for _ in range(MAX_CALLS)]
        self.text = Piece()
        self.made = Made()
        self.talks = talks
        """Whether there is a message, maybe without a text."""

    def add(self, piece: Piece) -> None:
        """More of it."""
        self.text.add(Piece(piece.text, piece.logprobs))
        self.made.add(piece.calls)
        self.talks = self.talks or bool(self.text.text)

    def begun(self) -> dict[str, Any]:
        """Before there is anything."""
        return self._head | {"status": "in_progress", "output": [], "usage": None}

    def part(self) -> dict[str, Any]:
        """The text as a part of the message."""
        known = {"text": self.text.text, "logprobs": likely(self.text.logprobs)}
        return {"type": "output_text", "annotations": []} | known

    def message(self, status: str) -> dict[str, Any]:
        """The message; without a text while it is in progress."""
        return {
            "id": self._message,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": [] if status == "in_progress" else [self.part()],
        }

    def call(self, index: int, status: str) -> dict[str, Any]:
        """One of the calls; without arguments while it is in progress."""
        call = self.made.calls[index]
        return {
            "id": self._items[index],
            "type": "function_call",
            "call_id": call["id"],
            "name": call["name"],
            "arguments": "" if status == "in_progress" else call["arguments"],
            "status": status,
        }

    def output(self, whole: bool) -> list[dict[str, Any]]:
        """All items."""
        status = "completed" if whole else "incomplete"
        calls = [
            self.call(index, "completed" if index in self.made.whole else "incomplete")
            for index in range(len(self.made.calls))
        ]
        # Whatever happens, there is an item: who called nothing said nothing.
        return [*([self.message(status)] if self.talks or not calls else []), *calls]

    def ended(self, answer: Answer) -> dict[str, Any]:
        """All of it."""
        usage, whole = answer.usage, answer.reason != "length"
        prompt, written = usage["prompt_tokens"], usage["completion_tokens"]
        return self._head | {
            "status": "completed" if whole else "incomplete",
            "incomplete_details": None if whole else {"reason": "max_output_tokens"},
            "output": self.output(whole),
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


class Events:
    """Named server-sent events, numbered, of a response as it comes to be."""

    def __init__(self, said: Said) -> None:
        self._said = said
        self._number = -1
        self._open: tuple[str, int] | None = None
        """What kind of item has been begun and not ended, and which call it is."""
        self._place = -1
        """Of that item in the output."""

    def event(self, kind: str, **fields: Any) -> bytes:
        """One of them."""
        self._number += 1
        data = msgspec.json.encode({"type": kind, "sequence_number": self._number} | fields)
        return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"

    def of(self, piece: Piece) -> Iterator[bytes]:
        """What a piece says."""
        if piece.text or (piece.logprobs and not piece.calls):
            self._said.add(Piece(piece.text, piece.logprobs))
            yield from self._begin("message", 0)
            known = {"delta": piece.text, "logprobs": likely(piece.logprobs)}
            yield self.event("response.output_text.delta", **self._inside(), **known)
        for news in piece.calls:
            index = news["index"]
            if "name" in news:
                yield from self.close("completed")
            self._said.add(Piece(calls=[news]))
            yield from self._begin("call", index)
            if delta := news.get("arguments"):
                kind = "response.function_call_arguments.delta"
                yield self.event(kind, **self._inside(), delta=delta)
            if news.get("whole"):
                yield from self.close("completed")

    def _begin(self, kind: str, index: int) -> Iterator[bytes]:
        """Begin an item, unless it is the one that is open."""
        if self._open == (kind, index):
            return
        yield from self.close("completed")
        self._open, self._place = (kind, index), self._place + 1
        item = self._item("in_progress")
        yield self.event("response.output_item.added", output_index=self._place, item=item)
        if kind == "message":
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            yield self.event("response.content_part.added", **self._inside(), part=part)

    def close(self, status: str) -> Iterator[bytes]:
        """End the item that is open."""
        if self._open is None:
            return
        item, place = self._item(status), self._inside()
        if self._open[0] == "message":
            (part,) = item["content"]
            known = {"text": part["text"], "logprobs": part["logprobs"]}
            yield self.event("response.output_text.done", **place, **known)
            yield self.event("response.content_part.done", **place, part=part)
        else:
            known = {"name": item["name"], "arguments": item["arguments"]}
            yield self.event("response.function_call_arguments.done", **place, **known)
        yield self.event("response.output_item.done", output_index=self._place, item=item)
        self._open = None

    def _item(self, status: str) -> dict[str, Any]:
        assert self._open is not None
        kind, index = self._open
        return self._said.message(status) if kind == "message" else self._said.call(index, status)

    def _inside(self) -> dict[str, Any]:
        """Where the open item is."""
        assert self._open is not None
        place = {"item_id": self._item("in_progress")["id"], "output_index": self._place}
        return place | ({"content_index": 0} if self._open[0] == "message" else {})

    def begin(self) -> Iterator[bytes]:
        """The first ones."""
        yield self.event("response.created", response=self._said.begun())
        yield self.event("response.in_progress", response=self._said.begun())
        if self._said.talks:
            yield from self._begin("message", 0)

    def end(self, answer: Answer) -> Iterator[bytes]:
        """The last ones."""
        if self._place < 0:
            yield from self._begin("message", 0)
        ended = self._said.ended(answer)
        yield from self.close(ended["status"])
        yield self.event(f"response.{ended['status']}", response=ended)
