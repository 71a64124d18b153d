"""What an engine leaves beside its packed weights, so that the next start reads no model file.

The graph without its weights, the tokenizer as arrays, and the chat template's text.
"""

import sys
from dataclasses import replace

import msgspec

from clawai.plugins.engine.bytelevel import Tables, byte_letters
from clawai.plugins.engine.tokenizer import NORMAL, Saved, Tokenizer
from clawai.plugins.engine.vocabulary import Merges, Strings
from clawai.sdk.errors import ClawError
from clawai.sdk.model.graph import Graph, Op

EMPTY = memoryview(b"")
"""Of a weight: it lies in the packed weights."""


class Kind(msgspec.Struct, frozen=True, array_like=True):
    """What a plan depends on, besides the graph."""

    context: int
    kv: str


class Notes(msgspec.Struct, frozen=True, array_like=True):
    """All that a session is made of, but the weights."""

    context: int
    """Of the graph, as ``vocabulary``."""
    vocabulary: int
    kind: Kind
    """What the plan was made for."""
    encoded: memoryview
    """The graph, which nobody looks at who has its plan."""
    tokenizer: Saved | None
    """None: it has no such form, and is read from the model's file."""
    template: str | None
    plan: bytes
    """What the driver has found out."""

    def graph(self, kind: Kind) -> Graph:
        """What a driver is to compile for ``kind``: an outline, if it knows the plan.

        Raises:
            msgspec.DecodeError: it is damaged.
        """
        if kind == self.kind:
            return Graph({}, (), (), (), self.context, self.vocabulary, 1)
        return msgspec.msgpack.decode(self.encoded, type=Graph)


def write(
    graph: Graph, tokenizer: Tokenizer, template: str | None, kind: Kind, plan: bytes
) -> bytes:
    """Write down a loaded model."""
    saved = tokenizer.saved()
    # A plan's tables are made of these, and they are small.
    small = {name for node in graph.nodes if node.op is Op.ROPE for name in node.inputs[1:]}
    tensors = {
        name: tensor if tensor.data is None or name in small else replace(tensor, data=EMPTY)
        for name, tensor in graph.tensors.items()
    }
    encoded = memoryview(msgspec.msgpack.encode(replace(graph, tensors=tensors)))
    known = graph.context, graph.vocabulary, kind, encoded
    return msgspec.msgpack.encode(Notes(*known, saved, template, plan))


def read(kept: bytes | memoryview) -> tuple[Notes, Tokenizer] | None:
    """What was written down; None if nothing was, or it is damaged: the model's file says it all.

    They may come from a worker that had met a hostile model, so everything is checked here or, as
    for a graph from a file, where it is used.
    """
    if not kept:
        return None
    try:
        notes = _DECODER.decode(kept)
        return (notes, Tokenizer(notes.tokenizer)) if notes.tokenizer else None
    except (msgspec.DecodeError, ClawError, ValueError, LookupError) as error:
        print(f"the packed notes are not used: {error}", file=sys.stderr)
        return None


def graph(encoded: bytes | memoryview) -> Graph:
    """The whole graph, for those who want to see it.

    Raises:
        ClawError: bad_model, if it is damaged.
    """
    try:
        return msgspec.msgpack.decode(encoded, type=Graph)
    except msgspec.DecodeError as error:
        raise ClawError("bad_model", f"the packed notes are damaged: {error}") from None


def warm() -> None:
    """Have the decoder work once, which makes it, and a vocabulary of the 256 bytes."""
    tables = Tables("gpt-2", list(range(256)), Merges.of([0], [1], [2]), None)
    texts = Strings.of(byte_letters())
    kinds = memoryview(bytes([NORMAL]) * 256)
    saved = Saved(texts, kinds, tables, {}, {}, 1, None, None, False, [])
    small = Notes(1, 1, Kind(1, ""), memoryview(b""), saved, None, b"")
    if found := read(msgspec.msgpack.encode(small)):
        tokenizer = found[1]
        tokenizer.stream().feed(tokenizer.encode("A b")[0])


_DECODER = msgspec.msgpack.Decoder(Notes)
