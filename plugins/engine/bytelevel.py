"""Byte-level BPE: GPT-2's way to spell bytes as letters, and the pre-tokenizers that are known.

Refused by name: pre-tokenizers whose rules are not known here (a wrong rule would give a model
worse text without any error), and merges that do not make tokens of tokens.

Rules: GPT-2's, and those that the models' own tokenizer files state.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Library
from tokenizers.models import BPE

from clawai.plugins.engine.vocabulary import CONTROL, Merger, Merges, Words
from clawai.sdk.model.gguf import GGUF, ModelFileError, Strings

_CONTRACTIONS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True, slots=True)
class _Rule:
    """How text is cut before merging: GPT-2's expression if ``pattern`` is empty."""

    pattern: str = ""
    single_digits: bool = False
    nfc: bool = False
    whole_words: bool = False
    """A cut that is a token as a whole is taken without merging."""


_RULES = {
    "gpt-2": _Rule(),
    "llama-bpe": _Rule(rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_SYMBOLS}", whole_words=True),
    "qwen2": _Rule(rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_SYMBOLS}", nfc=True),
    "smollm": _Rule(single_digits=True),
}

REPLACEMENT = "\ufffd"
QUICK = 16_384
"""Characters, after which the library is built: by then it has cost as much to do without it."""


class Tables(msgspec.Struct, frozen=True, array_like=True):
    """What a byte-level vocabulary is, besides its tokens."""

    rule: str
    """Name of the pre-tokenizer."""
    letters: list[int]
    """The token of each byte, -1 for none."""
    merges: Merges
    words: Words | None
    """To find a token by its text; only for rules that take whole words."""


class ByteLevel:
    """How a byte-level vocabulary spells text."""

    def __init__(self, tables: Tables, tokens: Sequence[str], kinds: Sequence[int]) -> None:
        """Build from tables (``tables_of``), the texts of the tokens, and their kinds."""
        self.tables = tables
        self._rule = rule = _RULES[tables.rule]
        self._tokens, self._kinds = tokens, kinds
        letters = byte_letters()
        self._bytes_of = {letter: byte for byte, letter in enumerate(letters)}
        self._id_of = dict(zip(letters, tables.letters, strict=True))
        self._gaps = _unknown_characters(tables.letters)
        self._cutter = _cutter(rule)
        self._merger = Merger(tables.merges)
        self._found: dict[str, list[int]] = {}
        self._library: Any = None
        self._read = 0
        """Characters that were encoded without the library."""
        self._building = threading.Lock()
        self.adds_bos = rule.whole_words
        """Whether models of this kind want their first token, where the file does not say."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text without control tokens and tokens that users defined."""
        text = self._shown(text)
        if self._library is None and self._read + len(text) <= QUICK:
            self._read += len(text)
            return self.quick(text)
        return list(self.library().encode(text, add_special_tokens=False).ids)

    def _shown(self, text: str) -> str:
        """The text without characters that have a byte that is no token."""
        found = {each for each in set(text) for first, last in self._gaps if first <= each <= last}
        return text.translate(dict.fromkeys(map(ord, found), REPLACEMENT)) if found else text

    def quick(self, text: str) -> list[int]:
        """The same ids as the library's, for short texts sooner than it could be built."""
        if self._rule.nfc:
            text = normalizers.NFC().normalize_str(text)
        ids: list[int] = []
        for word, _ in self._cutter.pre_tokenize_str(text):
            if word not in self._found:
                self._found[word] = self._word(word)
            ids += self._found[word]
        return ids

    def _word(self, word: str) -> list[int]:
        if self.tables.words is not None:
            whole = self.tables.words.find(word, self._tokens)
            if whole is not None:
                return [whole]
        return self._merger.merged([self._id_of[letter] for letter in word])

    def library(self) -> Any:
        """The library's tokenizer, which takes a third of a second to build."""
        with self._building:
            if self._library is None:
                self._library = self._built()
                self._found.clear()
        return self._library

    def _built(self) -> Any:
        tokens = list(self._tokens)
        vocabulary = {text: i for i, text in enumerate(tokens) if self._kinds[i] != CONTROL}
        pairs = [(tokens[a], tokens[b]) for a, b in self.tables.merges.in_order()]
        library = Library(BPE(vocabulary, pairs, ignore_merges=self._rule.whole_words))
        if self._rule.nfc:
            library.normalizer = normalizers.NFC()
        library.pre_tokenizer = self._cutter
        return library

    def bytes_of(self, text: str) -> bytes:
        """What an ordinary token stands for."""
        table = self._bytes_of
        return b"".join(
            bytes([table[letter]]) if letter in table else letter.encode() for letter in text
        )


def tables_of(file: GGUF, ordinary: dict[str, int]) -> Tables:
    """The tables of a file; ``ordinary`` are the tokens that text may become.

    Raises:
        ModelFileError: an unknown pre-tokenizer, or merges that do not make tokens of tokens.
    """
    rule = _rule(file)
    letters = [ordinary.get(letter, -1) for letter in byte_letters()]
    _unknown_characters(letters)
    words = Words.of(ordinary) if _RULES[rule].whole_words else None
    return Tables(rule, letters, _merges(file, ordinary), words)


def _rule(file: GGUF) -> str:
    got = file.get("tokenizer.ggml.pre", str)
    if got not in _RULES:
        where = file.offsets.get("tokenizer.ggml.pre")
        raise ModelFileError("unsupported tokenizer.ggml.pre", where, got, sorted(_RULES))
    return str(got)


def byte_letters() -> list[str]:
    """The printable letter that GPT-2's vocabulary writes for each byte."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: chr(byte) for byte in visible}
    for byte in range(256):
        letters.setdefault(byte, chr(0x100 + len(letters) - len(visible)))
    return [letters[byte] for byte in range(256)]


def _unknown_characters(letters: Sequence[int]) -> list[tuple[str, str]]:
    """First and last of the characters with a byte that is no token (the library drops them)."""
    missing = [byte for byte in range(256) if letters[byte] < 0]
    ranges = [("\ud800", "\udfff")]
    for byte in missing:
        if 0x80 <= byte < 0xC0 or byte in REPLACEMENT.encode():
            raise ModelFileError("the vocabulary lacks a byte of UTF-8", None, hex(byte))
        first, last = _characters_led_by(byte)
        if first <= last:
            ranges.append((chr(first), chr(last)))
    return ranges


def _characters_led_by(byte: int) -> tuple[int, int]:
    """First and last code point whose UTF-8 starts with ``byte``; (1, 0) if there is none."""
    if byte < 0x80:
        return byte, byte
    if 0xC2 <= byte < 0xE0:
        return (byte & 0x1F) << 6, (byte & 0x1F) << 6 | 0x3F
    if 0xE0 <= byte < 0xF0:
        return max(0x800, (byte & 0x0F) << 12), (byte & 0x0F) << 12 | 0xFFF
    if 0xF0 <= byte < 0xF5:
        return max(0x10000, (byte & 7) << 18), min(0x10FFFF, (byte & 7) << 18 | 0x3FFFF)
    return 1, 0


def _merges(file: GGUF, vocabulary: dict[str, int]) -> Merges:
    merges: Strings | None = file.get("tokenizer.ggml.merges", Strings)
    if merges is None:
        raise ModelFileError("metadata tokenizer.ggml.merges is missing")
    where = file.offsets["tokenizer.ggml.merges"]
    columns: tuple[list[int], list[int], list[int]] = [], [], []
    for index, merge in enumerate(merges):
        left, _, right = merge.partition(" ")
        try:
            made = vocabulary[left], vocabulary[right], vocabulary[left + right]
        except KeyError:
            raise ModelFileError(
                f"merge {index} is not two tokens that make a third", where, merges[index]
            ) from None
        for column, token in zip(columns, made, strict=True):
            column.append(token)
    return Merges.of(*columns)


def _cutter(rule: _Rule) -> Any:
    """What cuts a text into words, spelt in the letters of bytes."""
    steps: list[Any] = []
    if rule.single_digits:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    if rule.pattern:
        steps.append(pre_tokenizers.Split(Regex(rule.pattern), "isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not rule.pattern))
    return pre_tokenizers.Sequence(steps)
