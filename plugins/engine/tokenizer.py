"""Text to token ids and back, from the vocabulary inside of a GGUF file.

The ``tokenizers`` library merges; this module builds it from the file's tokens and merges and
keeps control tokens (``<|im_end|>`` and the like) out of it, so that no text of a user can ever
become one: control ids come only from parts that a chat template wrote itself.

Refused by name: vocabularies that are not byte-level BPE, and pre-tokenizers whose rules are not
known here (a wrong rule would give a model worse text without any error).

Rules: GPT-2's, and those that the models' own tokenizer files state.
"""

import codecs
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Library
from tokenizers.models import BPE

from clawai.sdk.errors import ClawError
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

_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4
_END_TEXTS = {"<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|end|>", "<EOT>"}
_REPLACEMENT = "\ufffd"


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a prompt. ``control`` says that ``text`` is exactly one control token."""

    text: str
    control: bool = False


class Tokenizer:
    """Byte-level BPE of one model. Thread-safe: nothing changes after construction."""

    def __init__(self, file: GGUF) -> None:
        """Build from metadata.

        Raises:
            ModelFileError: the vocabulary is missing, inconsistent, or of an unsupported kind.
        """
        rule = _rule(file)
        tokens, kinds = _vocabulary(file)
        self.vocabulary = len(tokens)
        self._tokens = tokens
        self._kinds = kinds
        self._control = {
            text: index for index, text in enumerate(tokens) if kinds[index] == _CONTROL and text
        }
        defined = [text for index, text in enumerate(tokens) if kinds[index] == _USER_DEFINED]
        self._defined = _any_of(defined)
        self._defined_ids = {text: tokens.index(text) for text in defined}
        self._letters = _byte_letters()
        self._bytes_of = {letter: byte for byte, letter in enumerate(self._letters)}
        ordinary = {text: i for i, text in enumerate(tokens) if kinds[i] != _CONTROL}
        self._unknown = _unknown_characters(ordinary, self._letters)
        self._library = _library(file, rule, ordinary)
        self.longest_token = max(len(text.encode()) for text in tokens)
        """No token stands for more bytes than this, so n bytes are at least n / this tokens."""
        self.bos = self._id(file, "bos")
        self.eos = self._id(file, "eos")
        self.add_bos: bool = self.bos is not None and file.get(
            "tokenizer.ggml.add_bos_token", bool, rule.whole_words
        )
        self.ends = self._ends(file)

    @property
    def control_texts(self) -> tuple[str, ...]:
        """The texts of all control tokens."""
        return tuple(self._control)

    def token(self, index: int | None) -> str:
        """The text of a token as the vocabulary spells it; "" for None."""
        return "" if index is None else self._tokens[index]

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of ``text``.

        Args:
            text: any string. Characters that the vocabulary has no bytes for, and lone surrogates,
                are taken as U+FFFD, the replacement character.
            special: whether texts of control tokens become these tokens; never for what a user
                wrote.
        """
        if not special or not self._control:
            return self._plain(text)
        return self.encode_parts(split_control(text, self.control_texts))

    def encode_parts(self, parts: Iterable[Part]) -> list[int]:
        """Token ids of a prompt whose control tokens are marked.

        Raises:
            ClawError: bad_params, a part is marked as control but is no control token.
        """
        ids: list[int] = []
        for part in parts:
            if not part.control:
                ids += self._plain(part.text)
            elif part.text in self._control:
                ids.append(self._control[part.text])
            else:
                raise ClawError("bad_params", "not a control token", got=part.text)
        return ids

    def with_bos(self, ids: list[int]) -> list[int]:
        """``ids`` with the model's first token in front, where it wants one and lacks it."""
        if self.add_bos and self.bos is not None and ids[:1] != [self.bos]:
            return [self.bos, *ids]
        return ids

    def token_bytes(self, index: int) -> bytes:
        """The bytes that a token stands for; control tokens stand for none."""
        kind, text = self._kinds[index], self._tokens[index]
        if kind == _CONTROL:
            return b""
        if kind != _NORMAL:
            return text.encode()
        table = self._bytes_of
        return b"".join(
            bytes([table[letter]]) if letter in table else letter.encode() for letter in text
        )

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids``; bytes that are not UTF-8 become U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def stream(self) -> "Decoder":
        """A decoder for ids that arrive one by one."""
        return Decoder(self)

    def _plain(self, text: str) -> list[int]:
        text = self._unknown.sub(_REPLACEMENT, text)
        if self._defined is None:
            return list(self._library.encode(text, add_special_tokens=False).ids)
        ids: list[int] = []
        for piece in self._defined.split(text):
            if piece in self._defined_ids:
                ids.append(self._defined_ids[piece])
            elif piece:
                ids += self._library.encode(piece, add_special_tokens=False).ids
        return ids

    def _id(self, file: GGUF, name: str) -> int | None:
        key = f"tokenizer.ggml.{name}_token_id"
        index: int | None = file.get(key, int)
        if index is not None and not 0 <= index < self.vocabulary:
            where = file.offsets[key]
            raise ModelFileError(f"bad {key}", where, index, f"0 to {self.vocabulary - 1}")
        return index

    def _ends(self, file: GGUF) -> frozenset[int]:
        """The tokens that end an answer: those the file names, and those known by their text."""
        named = {self._id(file, name) for name in ("eos", "eot", "eom")}
        known = {index for text, index in self._control.items() if text in _END_TEXTS}
        return frozenset(index for index in named | known if index is not None)


class Decoder:
    """Ids to text, piece by piece: a character comes out when its last byte has come in."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, index: int) -> str:
        """The characters that this token completes, often "" inside of a multi-byte one."""
        return self._utf8.decode(self._tokenizer.token_bytes(index))

    def finish(self) -> str:
        """What is left: U+FFFD where the ids ended inside of a character."""
        return self._utf8.decode(b"", final=True)


def split_control(text: str, controls: Iterable[str]) -> list[Part]:
    """Cut ``text`` at the control tokens in it, the longest first where two could match."""
    pattern = _any_of(list(controls))
    if pattern is None:
        return [Part(text)] if text else []
    pieces = pattern.split(text)
    return [Part(piece, bool(at % 2)) for at, piece in enumerate(pieces) if piece]


def _any_of(texts: Sequence[str]) -> re.Pattern[str] | None:
    """One group that matches any of ``texts``, longest first."""
    ordered = sorted((text for text in texts if text), key=lambda each: (-len(each), each))
    return re.compile(f"({'|'.join(map(re.escape, ordered))})") if ordered else None


def _rule(file: GGUF) -> _Rule:
    for key, known in (("tokenizer.ggml.model", {"gpt2"}), ("tokenizer.ggml.pre", set(_RULES))):
        got = file.get(key, str)
        if got not in known:
            raise ModelFileError(f"unsupported {key}", file.offsets.get(key), got, sorted(known))
    return _RULES[file.metadata["tokenizer.ggml.pre"]]


def _vocabulary(file: GGUF) -> tuple[list[str], list[int]]:
    texts: Strings | None = file.get("tokenizer.ggml.tokens", Strings)
    if not texts:
        raise ModelFileError("metadata tokenizer.ggml.tokens is missing or empty")
    kinds: memoryview | None = file.get("tokenizer.ggml.token_type", memoryview)
    tokens = list(texts)
    if kinds is None:
        return tokens, [_NORMAL] * len(tokens)
    if len(kinds) != len(tokens) or kinds.format not in ("i", "I"):
        where = file.offsets["tokenizer.ggml.token_type"]
        raise ModelFileError("bad tokenizer.ggml.token_type", where, len(kinds), len(tokens))
    return tokens, kinds.tolist()


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
        if 0x80 <= byte < 0xC0 or byte in _REPLACEMENT.encode():
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
