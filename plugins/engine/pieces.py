"""SentencePiece vocabularies of the BPE kind: Llama 1 and 2, Mistral, Gemma.

Spaces are written as U+2581, and the pair whose union has the best score is merged first. The
``tokenizers`` library merges by rank, so every way to cut a token into two tokens becomes a merge,
ranked by the score of the whole. A character that is no token becomes the tokens of its bytes.

Source: SentencePiece (arXiv 1808.06226).
"""

import math
import re
from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer as Library
from tokenizers.models import BPE

from clawai.sdk.model.gguf import GGUF, ModelFileError

SPACE = "\u2581"
LONGEST = 1024
"""Characters of a token; each may be cut in as many places."""
_SURROGATES = re.compile("[\ud800-\udfff]")


class Pieces:
    """How a vocabulary of pieces spells text."""

    adds_bos = True
    """Models of this kind want their first token, where the file does not say."""

    def __init__(self, file: GGUF, normal: dict[str, int], others: dict[str, int]) -> None:
        """Build from metadata.

        Args:
            file: has the scores of the tokens.
            normal: the tokens that text may become.
            others: those of bytes, and the unknown one.
        """
        count = len(file.metadata["tokenizer.ggml.tokens"])
        scores = _scores(file, count)
        longest = max(map(len, normal), default=0)
        if longest > LONGEST:
            where = file.offsets["tokenizer.ggml.tokens"]
            raise ModelFileError("a token is too long", where, longest, f"1 to {LONGEST}")
        merges = sorted(_cuts(normal), key=lambda cut: (-scores[cut[0]], cut[0]))
        unknown = next((text for text in others if not text.startswith("<0x")), None)
        self._whole = all(f"<0x{byte:02X}>" in others for byte in range(256))
        if unknown is None and not self._whole:
            raise ModelFileError("the vocabulary has neither an unknown token nor all bytes")
        model = BPE(
            normal | others,
            [(left, right) for _, left, right in merges],
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=self._whole,
        )
        self._library: Any = Library(model)
        self._prefix = SPACE if file.get("tokenizer.ggml.add_space_prefix", bool, True) else ""

    def encode(self, text: str) -> list[int]:
        """Ids of a text without control tokens and tokens that users defined."""
        text = _SURROGATES.sub("\ufffd", text)
        if not text:
            return []
        spelled = self._prefix + text.replace(" ", SPACE)
        return list(self._library.encode(spelled, add_special_tokens=False).ids)

    def bytes_of(self, text: str) -> bytes:
        """What an ordinary token stands for."""
        return text.replace(SPACE, " ").encode()


def _cuts(normal: dict[str, int]) -> Iterator[tuple[int, str, str]]:
    """(token, left, right) for every way to cut a token into two tokens."""
    for text, index in normal.items():
        for at in range(1, len(text)):
            if text[:at] in normal and text[at:] in normal:
                yield index, text[:at], text[at:]


def _scores(file: GGUF, count: int) -> list[float]:
    key = "tokenizer.ggml.scores"
    scores: memoryview | None = file.get(key, memoryview)
    if scores is None:
        raise ModelFileError(f"metadata {key} is missing")
    where = file.offsets[key]
    if len(scores) != count or scores.format not in ("f", "d"):
        raise ModelFileError(f"bad {key}", where, len(scores), f"{count} numbers")
    values = list(map(float, scores.tolist()))
    if not all(map(math.isfinite, values)):
        raise ModelFileError(f"bad {key}", where, "a number that is not finite")
    return values
