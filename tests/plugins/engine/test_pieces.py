"""Vocabularies of pieces, beside the ``sentencepiece`` library: trained here, encoded by both."""

import io
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from clawai.plugins.engine.tokenizer import Tokenizer
from clawai.sdk.model.gguf import ModelFileError, parse
from gguf_files import File

TEXT = (Path(__file__).parents[2] / "oracle" / "text.txt").read_text()
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6


def trained(*, prefix: bool, all_bytes: bool = True) -> Any:
    """A small model of the oracle's text."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.split("\n")),
        model_writer=out,
        vocab_size=600,
        model_type="bpe",
        byte_fallback=all_bytes,
        add_dummy_prefix=prefix,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
        num_threads=1,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())


def metadata(library: Any, *, prefix: bool) -> dict[str, Any]:
    """What a converter writes of such a model."""
    ids = range(library.get_piece_size())
    kinds = [
        UNKNOWN if library.is_unknown(i)
        else CONTROL if library.is_control(i)
        else BYTE if library.is_byte(i)
        else NORMAL
        for i in ids
    ]  # fmt: skip
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [library.id_to_piece(i) for i in ids],
        "tokenizer.ggml.scores": [library.get_score(i) for i in ids],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_space_prefix": prefix,
    }


def build(fields: dict[str, Any]) -> Tokenizer:
    return Tokenizer(parse(memoryview(File(fields).build())))


LIBRARIES = {prefix: trained(prefix=prefix) for prefix in (True, False)}
OURS = {prefix: build(metadata(each, prefix=prefix)) for prefix, each in LIBRARIES.items()}


@pytest.mark.parametrize("prefix", [True, False])
def test_a_whole_text_has_the_ids_of_the_library(prefix: bool) -> None:
    ours, library = OURS[prefix], LIBRARIES[prefix]
    for text in (
        TEXT,
        TEXT.upper(),
        "  two  spaces ",
        "\u00e9\u4f60\U0001f600 <0x41>",
        "\n\t",
        "a",
    ):
        assert ours.encode(text) == library.encode(text), text[:40]
        assert ours.decode(ours.encode(text)) == " " * prefix + text


@given(st.text(st.sampled_from("abcdefgh the\n\u00e9\u20ac\U0001f600"), max_size=60), st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_text_has_the_ids_of_the_library(text: str, prefix: bool) -> None:
    assert OURS[prefix].encode(text) == LIBRARIES[prefix].encode(text)


def test_without_tokens_for_all_bytes_characters_become_the_unknown_token() -> None:
    library = trained(prefix=True, all_bytes=False)
    ours = build(metadata(library, prefix=True))
    for text in ("licence", "\u4f60\u597d licence \U0001f600"):
        assert ours.encode(text) == library.encode(text)
    assert ours.decode(ours.encode("\u4f60")) == " "


def test_a_text_never_becomes_a_control_token() -> None:
    ours = OURS[False]
    assert not {1, 2} & set(ours.encode("<s>the</s>"))
    assert ours.encode("<s>the", special=True)[0] == 1
    assert ours.add_bos and ours.bos == 1 and ours.ends == {2}


def test_lone_surrogates_and_streams_of_bytes() -> None:
    ours = OURS[False]
    assert ours.decode(ours.encode("a\ud800b")) == "a\ufffdb"
    stream = ours.stream()
    assert "".join(map(stream.feed, ours.encode("\u20ac5"))) + stream.finish() == "\u20ac5"


BAD: list[tuple[dict[str, Any], str]] = [
    ({"tokenizer.ggml.scores": [1.0]}, "bad tokenizer.ggml.scores"),
    ({"tokenizer.ggml.scores": [float("nan")] * 600}, "bad tokenizer.ggml.scores"),
    ({"tokenizer.ggml.scores": ["a"] * 600}, "scores has the wrong type"),
    ({"tokenizer.ggml.tokens": ["x" * 2000] + ["y"] * 599}, "byte token has a bad text"),
    ({"tokenizer.ggml.token_type": [NORMAL] * 600}, "neither an unknown token nor all bytes"),
]


@pytest.mark.parametrize(("change", "match"), BAD)
def test_what_is_refused(change: dict[str, Any], match: str) -> None:
    fields = metadata(LIBRARIES[True], prefix=True)
    with pytest.raises(ModelFileError, match=match):
        build(fields | change)


def test_a_token_that_is_too_long_is_refused() -> None:
    fields = metadata(LIBRARIES[True], prefix=True)
    fields["tokenizer.ggml.tokens"][-1] = "x" * 2000
    with pytest.raises(ModelFileError, match="a token is too long"):
        build(fields)


def test_scores_are_needed() -> None:
    fields = metadata(LIBRARIES[True], prefix=True)
    del fields["tokenizer.ggml.scores"]
    with pytest.raises(ModelFileError, match=r"tokenizer\.ggml\.scores is missing"):
        build(fields)
