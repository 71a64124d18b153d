"""Answers in a given form: a grammar says at each token which ones may be next.

``llguidance`` keeps the parser and knows the vocabulary as a trie; a mask costs some ten
microseconds. It is loaded, and the trie made (some tenths of a second, 25 MiB for a vocabulary of
50,000), when a model's first answer of this kind is asked for.

A grammar is a stranger's. What it may cost is bounded: its size, the states that its parser and its
lexer may have, the work for a token. An answer whose grammar needs more ends with an error.

Masks of a grammar over subword tokens: Willard and Louf 2023, arXiv:2307.09702.
"""

import json
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from clawai.plugins.engine.sampling import F32
from clawai.plugins.engine.schema import checked_all
from clawai.plugins.engine.tokenizer import Tokenizer
from clawai.sdk.errors import ClawError

LIMITS: dict[str, Any] = {
    "max_items_in_row": 2000,
    "initial_lexer_fuel": 100_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_lexer_states": 20_000,
    "max_grammar_size": 100_000,
    "verbose_errors": False,
}
STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""One way to write JSON, as Python does: what a model may choose, a small one may do for ever."""


def json_rules(schemas: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The bodies of a grammar's rules for JSON in some schemas; errors name them by their keys.

    Raises:
        ClawError: bad_params, one cannot be obeyed.
    """
    return [f"%json {json.dumps(each | {'x-guidance': STYLE})}" for each in checked_all(schemas)]


class Grammars:
    """What is kept of a model's vocabulary to make masks. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._building = threading.Lock()
        self._vocabulary: Any = None

    def json(self, schema: Mapping[str, Any]) -> "Constraint":
        """The answer is JSON that ``schema`` allows.

        Raises:
            ClawError: bad_params, the schema cannot be obeyed; unsupported_system.
        """
        return self.constraint(f"start: {json_rules({'schema': schema})[0]}")

    def constraint(self, grammar: str) -> "Constraint":
        """The answer is of the language of a grammar, in the library's form of Lark.

        Raises:
            ClawError: bad_params; unsupported_system, the library is not there.
        """
        try:
            import llguidance
        except ImportError:
            raise ClawError(
                "unsupported_system",
                "answers in a given form need the package llguidance",
                hint="pip install 'clawai[llm]'",
            ) from None
        with self._building:
            if self._vocabulary is None:
                self._vocabulary = _vocabulary(self._tokenizer)
        limits = llguidance.LLParserLimits(**LIMITS)
        lark = llguidance.LLMatcher.grammar_from_lark(grammar)
        matcher = llguidance.LLMatcher(self._vocabulary, lark, log_level=0, limits=limits)
        return Constraint(matcher, self._tokenizer)


class Constraint:
    """A rule (``sampling.Rule``): only tokens that the grammar allows after those before."""

    changes = True

    def __init__(self, matcher: Any, tokenizer: Tokenizer) -> None:
        self._matcher, self._ends = matcher, tokenizer.ends
        self._mask = np.zeros((tokenizer.vocabulary + 32) // 32, np.uint32)
        self._size = tokenizer.vocabulary
        self._fill()  # what cannot even begin is refused before anything is computed
        if matcher.is_stopped():
            raise ClawError("bad_params", "no answer could ever satisfy the schema")

    @property
    def ended(self) -> bool:
        """Whether the answer is complete and nothing can come behind it."""
        return bool(self._matcher.is_stopped())

    def apply(self, row: F32) -> None:
        """As ``sampling.Rule``."""
        bits = self._fill()
        row[bits[: len(row)] == 0] = -np.inf

    def learn(self, token: int, logits: F32) -> None:
        """As ``sampling.Rule``."""
        if token not in self._ends:
            self._matcher.consume_token(token)
            self._check()

    def _fill(self) -> Any:
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        self._check()
        return np.unpackbits(self._mask.view(np.uint8), bitorder="little")

    def _check(self) -> None:
        if self._matcher.is_error():
            said = self._matcher.get_error().partition("\n")[0].removesuffix("<non-verbose/>")
            raise ClawError(
                "bad_params",
                f"the schema cannot be obeyed: {said[:300]}",
                hint="make it simpler: fewer alternatives, shorter patterns",
            )


class _Words:
    """The vocabulary as the library reads it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        words = [tokenizer.token_bytes(index) for index in range(tokenizer.vocabulary)]
        # Those that stand for no bytes need a name; nothing in an answer can spell them.
        self.special_token_ids = [index for index, word in enumerate(words) if not word]
        self._ids = {word: index for index, word in reversed(list(enumerate(words))) if word}
        self._longest = max(map(len, self._ids), default=1)
        self.tokens = [word or b"<%d>" % index for index, word in enumerate(words)]
        self.tokens.append(b"<no end>")
        self.special_token_ids.append(tokenizer.vocabulary)
        self.ends = sorted(tokenizer.ends) or [tokenizer.vocabulary]
        self.eos_token_id = self.ends[0]
        self.bos_token_id = None
        self._tokenizer = tokenizer

    def __call__(self, text: bytes) -> list[int]:
        """Tokens of what a grammar leaves no choice about: the model's own, if they spell it."""
        try:
            ids = self._tokenizer.encode(text.decode())
        except UnicodeDecodeError:
            ids = []
        if b"".join(map(self._tokenizer.token_bytes, ids)) == text:
            return ids
        ids = []
        while text:
            most = min(len(text), self._longest)
            size = next((n for n in range(most, 0, -1) if text[:n] in self._ids), 0)
            if not size:  # no token at all has this byte: the grammar will find no way
                break
            ids.append(self._ids[text[:size]])
            text = text[size:]
        return ids


def _vocabulary(tokenizer: Tokenizer) -> Any:
    import llguidance

    words = _Words(tokenizer)
    wrapped = llguidance.TokenizerWrapper(words)
    slices = llguidance.LLTokenizer.json_slices()
    return llguidance.LLTokenizer(wrapped, eos_token=words.ends, slices=slices)
