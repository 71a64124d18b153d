"""Whole files with hostile content: loading ends in a session's parts or in the one typed error."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clawai.plugins.engine.chat import ChatTemplate
from clawai.plugins.engine.tokenizer import Tokenizer
from clawai.sdk.errors import ClawError
from clawai.sdk.model import llama
from clawai.sdk.model.gguf import ModelFileError, parse
from gguf_files import tiny_llama, u32, u64

BASE = tiny_llama(layers=1)
HEADER = BASE.index(b"output_norm.weight") + 64


def load(raw: bytes) -> None:
    """What the engine does with a file before the driver sees it, and a first use of it."""
    file = parse(memoryview(raw))
    graph = llama.graph(file)
    tokenizer = Tokenizer(file)
    ids = tokenizer.encode("the <|im_end|> 12 é 😀", special=True)
    assert all(0 <= index < graph.vocabulary for index in ids)
    tokenizer.decode(range(tokenizer.vocabulary))
    template = ChatTemplate(
        file.get("tokenizer.chat_template", str, ""),
        bos=tokenizer.token(tokenizer.bos),
        eos=tokenizer.token(tokenizer.eos),
        controls=tokenizer.control_texts,
    )
    tokenizer.encode_parts(template.render([{"role": "user", "content": "a"}]))


def attempt(raw: bytes) -> None:
    try:
        load(raw)
    except ClawError as error:
        assert error.code in ("bad_model", "bad_params")


def test_the_base_loads() -> None:
    load(BASE)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(
            st.integers(24, HEADER),
            st.one_of(
                st.binary(min_size=1, max_size=4),
                st.sampled_from([u64(0), u64(1), u64(3), u32(0), u32(5), u32(8), b"\xff" * 4]),
            ),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_mutated_files(changes: list[tuple[int, bytes]]) -> None:
    raw = bytearray(BASE)
    for at, patch in changes:
        raw[at : at + len(patch)] = patch
    attempt(bytes(raw))


VALUES = st.one_of(
    st.integers(0, 2**64 - 1),
    st.floats(width=32),
    st.booleans(),
    st.text(max_size=20),
    st.lists(st.integers(-(2**31), 2**31 - 1), max_size=8),
    st.lists(st.text(max_size=8), min_size=1, max_size=8),
)
KEYS = list(parse(memoryview(BASE)).metadata)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=2))
def test_any_value_of_any_key(metadata: dict[str, Any]) -> None:
    attempt(tiny_llama(layers=1, metadata=metadata))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_vocabulary(data: st.DataObject) -> None:
    tokens = list(parse(memoryview(BASE)).metadata["tokenizer.ggml.tokens"])
    kinds = [3] * 3 + [1] * (len(tokens) - 3)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(tokens) - 1))
        tokens[at] = data.draw(st.one_of(st.text(max_size=4), st.sampled_from(tokens)))
        kinds[at] = data.draw(st.integers(-1, 7))
    attempt(
        tiny_llama(
            layers=1,
            metadata={"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": kinds},
        )
    )


def test_the_tokenizer_and_the_graph_agree_on_the_vocabulary() -> None:
    """A hostile list of tokens that is longer than the embedding is refused by the graph."""
    tokens = [*parse(memoryview(BASE)).metadata["tokenizer.ggml.tokens"], "x", "y"]
    raw = tiny_llama(metadata={"tokenizer.ggml.tokens": tokens})
    with pytest.raises(ModelFileError, match=r"token_embd\.weight has the wrong shape"):
        load(raw)
