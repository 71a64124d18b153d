"""The embedder in a worker: reads its model, and gives vectors to many callers at once."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import msgspec
import numpy as np

from clawai.plugins.embedder.bert import F32, Bert, parsed
from clawai.sdk.errors import ClawError
from clawai.sdk.hookspecs import hookimpl
from clawai.sdk.model import bundle, safetensors
from clawai.sdk.plugin import (
    Batch,
    Context,
    Operation,
    Params,
    Start,
    Tensor,
    batched,
    operations_of,
)

TOKENS = 2048
"""Computed at a time: some tens of MiB of activations."""
TOKENIZER = 32 << 20
"""Bytes that tokenizer.json may have."""
Text = Annotated[str, msgspec.Meta(max_length=1_000_000)]


class Texts(Params):
    """What one caller asks: a vector for each text.

    Args:
        texts: what is turned into vectors.
        truncate: leave out the end of a text that is too long, instead of refusing it.
        normalize: make vectors of length 1: their product is then the cosine of their angle.
        dimensions: only so many, the first, of each vector.
    """

    texts: Annotated[list[Text], msgspec.Meta(min_length=1, max_length=2048)]
    truncate: bool = False
    normalize: bool = True
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=8192)] | None = None


class Vectors(msgspec.Struct, frozen=True):
    """What he gets."""

    vectors: Tensor
    """float32 (texts, dimensions)"""
    tokens: int
    """Of all texts, as they were computed."""


class Embedder:
    """The plugin object: its hooks and its operation."""

    def __init__(self) -> None:
        self._bert: Bert | None = None
        self._tokenizer: Any = None

    @hookimpl
    def claw_start(self, worker: Start) -> None:
        """Map the model."""
        from tokenizers import Tokenizer

        members = bundle.read(worker.model_fd)
        text = bundle.member(members, "tokenizer.json")
        if len(text) > TOKENIZER:
            raise ClawError("bad_model", "bytes of tokenizer.json", len(text), TOKENIZER)
        try:
            self._tokenizer = Tokenizer.from_str(str(text, "utf-8"))
        except Exception as error:  # the library raises no other kind
            raise ClawError("bad_model", f"tokenizer.json: {error}"[:1000]) from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        tensors = safetensors.read(bundle.member(members, "model.safetensors"))
        self._bert = Bert(parsed(bundle.member(members, "config.json")), tensors)

    @hookimpl
    def claw_operations(self) -> Iterable[Operation]:
        """The method below."""
        return list(operations_of(self))

    @batched("text.embed")
    def embed(self, items: list[Texts], batch: Batch) -> list[Vectors | ClawError]:
        """A vector for each text: those of a like meaning point the same way.

        Texts of several callers are computed together; nobody's result depends on the others'.
        """
        encoded: list[list[list[int]] | ClawError] = []
        for item in items:
            try:
                encoded.append([self._ids(text, item.truncate) for text in item.texts])
            except ClawError as error:
                encoded.append(error)
            batch.checkpoint()
        rows = self._rows(
            [ids for each in encoded if isinstance(each, list) for ids in each], batch
        )
        return [
            each
            if isinstance(each, ClawError)
            else self._answer(item, each, np.stack([next(rows) for _ in each]), ctx)
            for item, each, ctx in zip(items, encoded, batch, strict=True)
        ]

    def _ids(self, text: str, truncate: bool) -> list[int]:
        """Token ids, the special ones included."""
        assert self._bert is not None
        config = self._bert.config
        ids: list[int] = self._tokenizer.encode(text).ids
        if len(ids) > config.max_position_embeddings:
            if not truncate:
                raise ClawError(
                    "prompt_too_long",
                    "tokens of a text",
                    got=len(ids),
                    allowed=config.max_position_embeddings,
                    hint="split it, or set truncate",
                )
            ids = [*ids[: config.max_position_embeddings - 1], ids[-1]]
        if not ids:
            raise ClawError("bad_params", "a text has no tokens", got=text[:40])
        if max(ids) >= config.vocab_size:
            raise ClawError("bad_model", "tokenizer.json and config.json differ in vocab_size")
        return ids

    def _rows(self, texts: list[list[int]], batch: Batch) -> Iterator[F32]:
        """A vector for each text, in order; those of about one length are computed together."""
        assert self._bert is not None
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        found: list[F32] = [np.empty(0, np.float32)] * len(texts)
        while order:
            taken = [order.pop()]
            size = len(texts[taken[0]])
            while order and size + len(texts[order[-1]]) <= TOKENS:
                size += len(texts[order[-1]])
                taken.append(order.pop())
            rows = self._bert.encode([texts[number] for number in taken], batch.checkpoint)
            for number, row in zip(taken, rows, strict=True):
                found[number] = row
        return iter(found)

    def _answer(
        self, item: Texts, encoded: list[list[int]], rows: F32, ctx: Context
    ) -> Vectors | ClawError:
        width = rows.shape[1]
        if item.dimensions is not None:
            if item.dimensions > width:
                return ClawError("bad_params", "dimensions", item.dimensions, f"1 to {width}")
            rows = rows[:, : item.dimensions]
        if item.normalize:
            rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-12))
        return Vectors(ctx.reply(np.ascontiguousarray(rows)), sum(map(len, encoded)))
