"""Byte-level BPE: GPT-2's way to spell bytes as letters, and the pre-tokenizers that are known.

Refused by name: pre-tokenizers whose rules are not known here (a wrong rule would give a model
worse text without any error), and merges that do not make tokens of tokens.

Rules: GPT-2's, and those that the models' own tokenizer files state.
"""

import re
from dataclasses import dataclass
from typing import Any

from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Library
from tokenizers.models import BPE

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


class ByteLevel:
    """How a byte-level vocabulary spells text."""

    def __init__(self, file: GGUF, ordinary: dict[str, int]) -> None:
        """Build from metadata; ``ordinary`` are the tokens that text may become."""
        rule = _rule(file)
        letters = _byte_letters()
        self._bytes_of = {letter: byte for byte, letter in enumerate(letters)}
        self._unknown = _unknown_characters(ordinary, letters)
        self._library = _library(file, rule, ordinary)
        self.adds_bos = rule.whole_words
        """Whether models of this kind want their first token, where the file does not say."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text without control tokens and tokens that users defined."""
        text = self._unknown.sub(REPLACEMENT, text)
        return list(self._library.encode(text, add_special_tokens=False).ids)

    def bytes_of(self, text: str) -> bytes:
        """What an ordinary token stands for."""
        table = self._bytes_of
        return b"".join(
            bytes([table[letter]]) if letter in table else letter.encode() for letter in text
        )


def _rule(file: GGUF) -> _Rule:
    got = file.get("tokenizer.ggml.pre", str)
    if got not in _RULES:
        where = file.offsets.get("tokenizer.ggml.pre")
        raise ModelFileError("unsupported tokenizer.ggml.pre", where, got, sorted(_RULES))
    return _RULES[got]


def _byte_letters() -> list[str]:
    """The printable letter that GPT-2's vocabulary writes for each byte."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: chr(byte) for byte in visible}
    for byte in range(256):
        letters.setdefault(byte, chr(0x100 + len(letters) - len(visible)))
    return [letters[byte] for byte in range(256)]


def _unknown_characters(vocabulary: dict[str, int], letters: list[str]) -> re.Pattern[str]:
    """A pattern for the characters with a byte that is no token (the library would drop them)."""
    missing = [byte for byte in range(256) if letters[byte] not in vocabulary]
    ranges = [r"\ud800-\udfff"]
    for byte in missing:
        if 0x80 <= byte < 0xC0 or byte in REPLACEMENT.encode():
            raise ModelFileError("the vocabulary lacks a byte of UTF-8", None, hex(byte))
        first, last = _characters_led_by(byte)
        if first <= last:
            ranges.append(f"\\U{first:08x}-\\U{last:08x}")
    return re.compile(f"[{''.join(ranges)}]")


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


def _library(file: GGUF, rule: _Rule, vocabulary: dict[str, int]) -> Any:
    merges: Strings | None = file.get("tokenizer.ggml.merges", Strings)
    if merges is None:
        raise ModelFileError("metadata tokenizer.ggml.merges is missing")
    pairs: list[tuple[str, str]] = []
    where = file.offsets["tokenizer.ggml.merges"]
    for index, merge in enumerate(merges):
        left, _, right = merge.partition(" ")
        pairs.append((left, right))
        if not all(part in vocabulary for part in (left, right, left + right)):
            raise ModelFileError(
                f"merge {index} is not two tokens that make a third", where, merges[index]
            )
    library = Library(BPE(vocabulary, pairs, ignore_merges=rule.whole_words))
    if rule.nfc:
        library.normalizer = normalizers.NFC()
    steps: list[Any] = []
    if rule.single_digits:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    if rule.pattern:
        steps.append(pre_tokenizers.Split(Regex(rule.pattern), "isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not rule.pattern))
    library.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return library
