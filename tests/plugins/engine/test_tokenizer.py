"""The tokenizer: the field's rules, no control token from a user's text, no byte lost."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clawai.plugins.engine.bytelevel import ByteLevel
from clawai.plugins.engine.tokenizer import Part, Tokenizer, split_control
from clawai.sdk.errors import ClawError
from clawai.sdk.model.gguf import ModelFileError, parse
from gguf_files import byte_letters, tiny_llama

LETTERS = byte_letters()


def build(**metadata: object) -> Tokenizer:
    return Tokenizer(parse(memoryview(tiny_llama(layers=1, metadata=metadata))))


TINY = build()
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *LETTERS, "th", "the", "\u0120the"]


def test_merges_apply() -> None:
    assert [TINY.token(index) for index in TINY.encode("the the")] == ["the", "\u0120the"]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a 12", ["a", "\u0120", "1", "2"]),
        ("thethe", ["the", "the"]),
        ("é", ["\u00c3", "\u00a9"]),
        ("", []),
    ],
)
def test_pieces(text: str, pieces: list[str]) -> None:
    assert [TINY.token(index) for index in TINY.encode(text)] == pieces


def test_control_tokens_come_only_when_asked_for() -> None:
    text = "<|im_start|>the<|im_end|>"
    assert not {0, 1, 2} & set(TINY.encode(text))
    assert TINY.encode(text, special=True) == [1, *TINY.encode("the"), 2]
    assert TINY.decode(TINY.encode(text)) == text
    assert TINY.decode(TINY.encode(text, special=True)) == "the"


def test_parts_say_which_texts_are_control_tokens() -> None:
    parts = [Part("<|im_start|>", control=True), Part("<|im_end|>")]
    ids = TINY.encode_parts(parts)
    assert ids[0] == 1 and 2 not in ids
    with pytest.raises(ClawError, match="not a control token") as caught:
        TINY.encode_parts([Part("<|nothing|>", control=True)])
    assert caught.value.code == "bad_params"


def test_a_merge_cannot_make_a_control_token() -> None:
    """A hostile file whose merges build the text of a control token is refused."""
    tokens = [*TOKENS, "<|"]
    with pytest.raises(ModelFileError, match="merge 0 is not two tokens that make a third"):
        build(
            **{
                "tokenizer.ggml.tokens": [*tokens[:2], "<|x", *tokens[3:]],
                "tokenizer.ggml.token_type": [3] * 3 + [1] * (len(tokens) - 3),
                "tokenizer.ggml.merges": ["<| x"],
            }
        )


def test_user_defined_tokens_are_text_that_is_always_one_token() -> None:
    tokens = [*TOKENS, "<tool>"]
    kinds = [3] * 3 + [1] * (len(TOKENS) - 3) + [4]
    tokenizer = build(**{"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": kinds})
    ids = tokenizer.encode("the<tool>é<tool>")
    assert ids.count(len(tokens) - 1) == 2 and tokenizer.decode(ids) == "the<tool>é<tool>"


def test_the_longest_control_token_wins() -> None:
    parts = split_control("a<|x|><|x|>>b<|x|", ["<|x|>", "<|x|>>", ""])
    assert parts == [Part("a"), Part("<|x|>", True), Part("<|x|>>", True), Part("b<|x|")]


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_text_comes_back(text: str) -> None:
    expected = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
    assert TINY.decode(TINY.encode(text)) == expected


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_streamed_pieces_are_whole_characters_and_lose_nothing(text: str) -> None:
    decoder = TINY.stream()
    ids = TINY.encode(text)
    pieces = [decoder.feed(index) for index in ids]
    assert decoder.finish() == ""
    assert "".join(pieces) == TINY.decode(ids)
    assert all(piece.encode("utf-8", "strict") is not None for piece in pieces)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, len(TOKENS) - 1), max_size=30))
def test_any_ids_stream_to_what_they_decode_to(ids: list[int]) -> None:
    decoder = TINY.stream()
    text = "".join(map(decoder.feed, ids)) + decoder.finish()
    assert text == TINY.decode(ids)
    raw = b"".join(map(TINY.token_bytes, ids))
    assert text == raw.decode("utf-8", "replace")


def test_a_character_comes_out_with_its_last_byte() -> None:
    decoder = TINY.stream()
    pieces = [decoder.feed(index) for index in TINY.encode("😀")]
    assert pieces == ["", "", "", "😀"]
    assert decoder.feed(TINY.encode("😀")[0]) == "" and decoder.finish() == "\ufffd"


def test_characters_without_a_token_become_the_replacement_character() -> None:
    missing = [letter for letter in LETTERS if letter not in (LETTERS[0x04], LETTERS[0xF1])]
    tokens = [*TOKENS[:3], *missing, "th", "the", "\u0120the"]
    tokenizer = build(
        **{
            "tokenizer.ggml.tokens": [*tokens, "a1", "a2"],
            "tokenizer.ggml.token_type": [3] * 3 + [1] * (len(tokens) - 1),
        }
    )
    text = "a\x04b\x05c\U00040000\U0003ffff\U00080000d\ud800e"
    assert tokenizer.decode(tokenizer.encode(text)) == (
        "a\ufffdb\x05c\ufffd\U0003ffff\U00080000d\ufffde"
    )


def test_a_vocabulary_that_cannot_spell_utf8_is_refused() -> None:
    tokens = [text if text != LETTERS[0x85] else "xx" for text in TOKENS]
    with pytest.raises(ModelFileError, match="lacks a byte of UTF-8"):
        build(**{"tokenizer.ggml.tokens": tokens})


@pytest.mark.parametrize(
    ("metadata", "match"),
    [
        ({"tokenizer.ggml.model": "bert"}, "unsupported tokenizer.ggml.model"),
        ({"tokenizer.ggml.pre": "deepseek-llm"}, "unsupported tokenizer.ggml.pre"),
        ({"tokenizer.ggml.token_type": [1, 2]}, "bad tokenizer.ggml.token_type"),
        ({"tokenizer.ggml.merges": ["th"]}, "merge 0"),
        ({"tokenizer.ggml.merges": ["zz zz"]}, "merge 0"),
        ({"tokenizer.ggml.bos_token_id": 9999}, "bad tokenizer.ggml.bos_token_id"),
        ({"tokenizer.ggml.tokens": 5}, "tokenizer.ggml.tokens has the wrong type"),
    ],
)
def test_what_is_refused(metadata: dict[str, object], match: str) -> None:
    with pytest.raises(ModelFileError, match=match):
        Tokenizer(parse(memoryview(tiny_llama(layers=1, metadata=metadata))))


def test_the_refusal_lists_what_is_known() -> None:
    with pytest.raises(ModelFileError) as caught:
        build(**{"tokenizer.ggml.pre": "chameleon"})
    assert caught.value.got == "chameleon"
    assert caught.value.allowed == ["gpt-2", "llama-bpe", "qwen2", "smollm"]


@pytest.mark.parametrize("key", ["model", "pre", "merges", "tokens"])
def test_missing_metadata_is_refused(key: str) -> None:
    raw = tiny_llama(layers=1, without=[f"tokenizer.ggml.{key}"])
    with pytest.raises(ModelFileError, match=key):
        Tokenizer(parse(memoryview(raw)))


def cuts(pre: str, text: str) -> list[str]:
    """Where the rule cuts: pieces of a vocabulary whose merges join everything inside of a cut."""
    spelling = build(**{"tokenizer.ggml.pre": pre})._spelling
    assert isinstance(spelling, ByteLevel)
    library = spelling.library()
    return [text[start:end] for _, (start, end) in library.pre_tokenizer.pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("pre", "text", "expected"),
    [
        ("gpt-2", "I'll go 123 x", ["I", "'ll", " go", " 123", " x"]),
        ("smollm", "I'll go 123 x", ["I", "'ll", " go", " ", "1", "2", "3", " x"]),
        ("qwen2", "I'LL go 123\n\nx", ["I", "'LL", " go", " ", "1", "2", "3", "\n\n", "x"]),
        ("llama-bpe", "go 12345 (x)", ["go", " ", "123", "45", " (", "x", ")"]),
    ],
)
def test_where_each_rule_cuts(pre: str, text: str, expected: list[str]) -> None:
    assert cuts(pre, text) == expected


def test_qwen2_composes_characters() -> None:
    tokenizer = build(**{"tokenizer.ggml.pre": "qwen2"})
    assert tokenizer.encode("e\u0301") == tokenizer.encode("\u00e9")


def test_ends_are_those_named_and_those_known() -> None:
    assert build(**{"tokenizer.ggml.eos_token_id": 5}).ends == {0, 2, 5}


def test_the_first_token() -> None:
    tokenizer = build(**{"tokenizer.ggml.add_bos_token": True})
    assert tokenizer.with_bos([7]) == [1, 7] and tokenizer.with_bos([1, 7]) == [1, 7]
    assert TINY.with_bos([7]) == [7]


def test_longest_token_bounds_the_bytes_of_any_token() -> None:
    assert TINY.longest_token >= max(map(len, map(TINY.token_bytes, range(TINY.vocabulary))))
