"""Text to token ids and back, from the vocabulary inside of a GGUF file.

The ``tokenizers`` library merges; ``bytelevel`` and ``pieces`` build it from the file's tokens, one
for each way to spell text. This module keeps control tokens (``<|im_end|>`` and the like) out of
it, so that no text of a user can ever become one: control ids come only from parts that a chat
template wrote itself.

Refused by name: vocabularies of other kinds.
"""

import codecs
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from clawai.plugins.engine.bytelevel import ByteLevel, Tables, tables_of
from clawai.plugins.engine.pieces import Pieces
from clawai.plugins.engine.vocabulary import CONTROL as _CONTROL
from clawai.plugins.engine.vocabulary import Strings, Texts
from clawai.sdk.errors import ClawError
from clawai.sdk.model import gguf
from clawai.sdk.model.gguf import GGUF, ModelFileError

NORMAL, _UNKNOWN, _USER_DEFINED, _BYTE = 1, 2, 4, 6
"""Kinds of tokens in GGUF files."""
_END_TEXTS = {"<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|end|>", "<EOT>"}
_BYTE_TEXT = re.compile("<0x[0-9A-Fa-f]{2}>")
_END_TEXTS |= {"<end_of_turn>"}


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a prompt. ``control`` says that ``text`` is exactly one control token."""

    text: str
    control: bool = False


class Saved(msgspec.Struct, frozen=True, array_like=True):
    """A tokenizer written down (``Tokenizer.saved``)."""

    tokens: Strings
    kinds: memoryview
    tables: Tables
    control: dict[str, int]
    defined: dict[str, int]
    longest: int
    bos: int | None
    eos: int | None
    add_bos: bool
    ends: list[int]


class Tokenizer:
    """The vocabulary of one model. Thread-safe: nothing changes after construction."""

    def __init__(self, source: "GGUF | Saved") -> None:
        """Build from the metadata of a file, or from what ``saved`` gave.

        Raises:
            ModelFileError: the vocabulary is missing, inconsistent, or of an unsupported kind.
        """
        if isinstance(source, Saved):
            self._restore(source)
        else:
            self._read(source)

    def _read(self, file: GGUF) -> None:
        tokens, kinds = _vocabulary(file)
        self.vocabulary = len(tokens)
        self._tokens: Sequence[str] = tokens
        self._kinds: Sequence[int] = kinds
        self._control = {
            text: index for index, text in enumerate(tokens) if kinds[index] == _CONTROL and text
        }
        defined = [text for index, text in enumerate(tokens) if kinds[index] == _USER_DEFINED]
        self._defined = _any_of(defined)
        self._defined_ids = {text: tokens.index(text) for text in defined}
        self._spelling = _spelling(file, tokens, kinds)
        self.longest_token = max(len(text.encode()) for text in tokens)
        """No token stands for more bytes than this, so n bytes are at least n / this tokens."""
        self.bos = self._id(file, "bos")
        self.eos = self._id(file, "eos")
        self.add_bos: bool = self.bos is not None and file.get(
            "tokenizer.ggml.add_bos_token", bool, self._spelling.adds_bos
        )
        self.ends = self._ends(file)

    def saved(self) -> "Saved | None":
        """What a tokenizer is quickly built from again; None for kinds that have no such form."""
        if not isinstance(self._spelling, ByteLevel):
            return None
        return Saved(
            tokens=Strings.of(self._tokens),
            kinds=memoryview(bytes(kind if 0 <= kind < 255 else 255 for kind in self._kinds)),
            tables=self._spelling.tables,
            control=self._control,
            defined=self._defined_ids,
            longest=self.longest_token,
            bos=self.bos,
            eos=self.eos,
            add_bos=self.add_bos,
            ends=sorted(self.ends),
        )

    def _restore(self, saved: "Saved") -> None:
        self._tokens, self._kinds = Texts(saved.tokens), saved.kinds
        self.vocabulary = len(self._tokens)
        if len(self._kinds) != self.vocabulary:
            raise ModelFileError("the kept kinds of tokens are damaged")
        self._control, self._defined_ids = saved.control, saved.defined
        self._defined = _any_of(list(saved.defined))
        self._spelling = ByteLevel(saved.tables, self._tokens, self._kinds)
        self.longest_token = saved.longest
        self.bos, self.eos, self.add_bos = saved.bos, saved.eos, saved.add_bos
        self.ends = frozenset(saved.ends)

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
        if kind in (_CONTROL, _UNKNOWN):
            return b""
        if kind == _BYTE:
            return bytes([int(text[3:5], 16)])
        return self._spelling.bytes_of(text) if kind == NORMAL else text.encode()

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids``; bytes that are not UTF-8 become U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def stream(self) -> "Decoder":
        """A decoder for ids that arrive one by one."""
        return Decoder(self)

    def _plain(self, text: str) -> list[int]:
        if self._defined is None:
            return self._spelling.encode(text)
        ids: list[int] = []
        for piece in self._defined.split(text):
            if piece in self._defined_ids:
                ids.append(self._defined_ids[piece])
            elif piece:
                ids += self._spelling.encode(piece)
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


def _spelling(file: GGUF, tokens: list[str], kinds: list[int]) -> ByteLevel | Pieces:
    """How ordinary text becomes tokens, by the file's kind of vocabulary."""
    kind = file.get("tokenizer.ggml.model", str)
    if kind == "gpt2":
        ordinary = {text: i for i, text in enumerate(tokens) if kinds[i] != _CONTROL}
        return ByteLevel(tables_of(file, ordinary), tokens, kinds)
    if kind == "llama":
        normal = {text: i for i, text in enumerate(tokens) if kinds[i] == NORMAL}
        others = {
            text: i for i, text in enumerate(tokens) if kinds[i] in (_UNKNOWN, _BYTE) and text
        }
        return Pieces(file, normal, others)
    where = file.offsets.get("tokenizer.ggml.model")
    raise ModelFileError("unsupported tokenizer.ggml.model", where, kind, ["gpt2", "llama"])


def _vocabulary(file: GGUF) -> tuple[list[str], list[int]]:
    texts: gguf.Strings | None = file.get("tokenizer.ggml.tokens", gguf.Strings)
    if not texts:
        raise ModelFileError("metadata tokenizer.ggml.tokens is missing or empty")
    kinds: memoryview | None = file.get("tokenizer.ggml.token_type", memoryview)
    tokens = list(texts)
    if kinds is None:
        return tokens, [NORMAL] * len(tokens)
    if len(kinds) != len(tokens) or kinds.format not in ("i", "I"):
        where = file.offsets["tokenizer.ggml.token_type"]
        raise ModelFileError("bad tokenizer.ggml.token_type", where, len(kinds), len(tokens))
    for index, kind in enumerate(kinds):
        if kind == _BYTE and not _BYTE_TEXT.fullmatch(tokens[index]):
            where = file.offsets["tokenizer.ggml.tokens"]
            raise ModelFileError("a byte token has a bad text", where, tokens[index], "<0x00> ...")
    return tokens, kinds.tolist()
