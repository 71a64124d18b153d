"""A vocabulary as arrays: the same ids as the library's, and itself after it was written down."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers.models import BPE

from clawai.plugins.engine import notes
from clawai.plugins.engine.bytelevel import QUICK, ByteLevel
from clawai.plugins.engine.tokenizer import Saved, Tokenizer
from clawai.plugins.engine.vocabulary import Merger, Merges, Strings, Texts, Words
from clawai.sdk.model import llama
from clawai.sdk.model.gguf import GGUF, ModelFileError, parse, read
from gguf_files import tiny_llama

RULES = ("gpt-2", "smollm", "qwen2", "llama-bpe")
PICKS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=30)


@given(picks=PICKS, word=st.text("abc", min_size=1, max_size=30))
@settings(max_examples=300)
def test_any_merges_give_the_ids_of_the_library(picks: list[tuple[int, int]], word: str) -> None:
    tokens = ["a", "b", "c"]
    merges = []
    for left, right in picks:  # also of the same pair twice, and of different pairs to one token
        a, b = tokens[left % len(tokens)], tokens[right % len(tokens)]
        if len(a + b) <= 12:
            merges.append((a, b))
            if a + b not in tokens:
                tokens.append(a + b)
    ids = {text: number for number, text in enumerate(tokens)}
    expected = Library(BPE(ids, merges)).encode(word).ids
    columns = [[ids[a], ids[b], ids[a + b]] for a, b in merges]
    made = Merges.of(
        *(list(column) for column in zip(*columns, strict=True)) if columns else ([],) * 3
    )
    assert Merger(made).merged([ids[letter] for letter in word]) == expected
    assert made.in_order() == [
        pair
        for at, pair in enumerate([(a, b) for a, b, _ in columns])
        if pair not in [(a, b) for a, b, _ in columns[at + 1 :]]
    ]


def tokenizer(rule: str) -> Tokenizer:
    raw = tiny_llama(layers=1, metadata={"tokenizer.ggml.pre": rule})
    return Tokenizer(parse(memoryview(raw)))


BY_RULE = {rule: tokenizer(rule) for rule in RULES}


@given(text=st.text(max_size=60) | st.text("the  1'sTE\n\u00e9\u0301", max_size=60))
@settings(max_examples=150)
def test_without_the_library_texts_have_the_same_ids(text: str) -> None:
    for each in BY_RULE.values():
        spelling = each._spelling
        assert isinstance(spelling, ByteLevel)
        shown = spelling._shown(text)
        ids = spelling.library().encode(shown, add_special_tokens=False).ids
        assert spelling.quick(shown) == ids


def test_a_real_vocabulary_is_itself_again(smollm2_path: object) -> None:
    first = Tokenizer(read(str(smollm2_path)))
    saved = first.saved()
    assert saved is not None
    kept = msgspec.msgpack.decode(msgspec.msgpack.encode(saved), type=Saved)
    other = Tokenizer(kept)
    text = "Ada's 1st program, 1843:\n\tit's <|im_end|> 42! \u65e5\u672c \U0001f600 caf\u00e9 " * 40
    assert len(text) < QUICK
    spelling = other._spelling
    assert isinstance(spelling, ByteLevel)
    ids = other.encode(text)
    assert spelling._library is None, "a short text needs no library"
    assert other.encode(text * 20)[: len(ids) - 2] == ids[:-2]  # too long: by the library
    assert spelling._library is not None
    assert first.encode(text) == ids and other.decode(ids) == first.decode(ids) == text
    assert other.encode("<|im_end|>", special=True) == [other.eos] == [first.eos]
    for name in ("vocabulary", "bos", "eos", "ends", "add_bos", "longest_token", "control_texts"):
        assert getattr(other, name) == getattr(first, name)


def test_words_are_found_by_their_texts() -> None:
    texts = ["b", "", "\u00e9", "a", "ab", "\U0001f600", "z"]
    words = Words.of({text: number for number, text in enumerate(texts)})
    assert [words.find(text, texts) for text in texts] == list(range(7))
    assert words.find("aa", texts) is None and words.find("zz", texts) is None


@pytest.mark.parametrize(
    "damaged",
    [
        lambda: Texts(Strings(memoryview(b"abc"), memoryview(b"\x02\0\0\0"))),
        lambda: Texts(Strings(memoryview(b"abc"), memoryview(b"\x04\0\0\0\x03\0\0\0"))),
        lambda: Merger(Merges(memoryview(bytes(16)), memoryview(bytes(8)), memoryview(bytes(4)))),
    ],
)
def test_damaged_arrays_are_refused(damaged: object) -> None:
    assert callable(damaged)
    with pytest.raises(ModelFileError, match="damaged"):
        damaged()


KIND = notes.Kind(128, "f16")


def model() -> tuple[GGUF, bytes]:
    file = parse(memoryview(tiny_llama(layers=1)))
    return file, notes.write(llama.graph(file), Tokenizer(file), "{{ messages }}", KIND, b"plan")


def test_notes_hold_all_but_the_weights() -> None:
    file, kept = model()
    found = notes.read(kept)
    assert found is not None
    told, spelling = found
    graph = llama.graph(file)
    whole = told.graph(notes.Kind(64, "q8"))
    assert (told.template, told.plan, whole.nodes) == ("{{ messages }}", b"plan", graph.nodes)
    assert {n: (t.shape, t.dtype) for n, t in whole.tensors.items()} == {
        n: (t.shape, t.dtype) for n, t in graph.tensors.items()
    }
    assert not any(tensor.data for tensor in whole.tensors.values())
    outline = told.graph(KIND)
    assert not outline.nodes, "whoever knows its plan looks at no graph"
    assert (outline.context, outline.vocabulary) == (graph.context, graph.vocabulary)
    assert spelling.encode("the the") == Tokenizer(file).encode("the the")
    assert len(kept) < 40_000


@given(at=st.integers(0, 5000), value=st.integers(0, 255))
@settings(max_examples=200)
def test_damaged_notes_are_read_or_left(at: int, value: int) -> None:
    data = bytearray(KEPT)
    data[at % len(data)] = value
    notes.read(bytes(data))
    notes.read(bytes(data[: at % len(data)]))


KEPT = model()[1]
