"""Rules of a task for its tokens: penalties, biases, and a witness that tells probabilities.

Penalties: CTRL's for what was said lately (Keskar et al. 2019, arXiv:1909.05858), and OpenAI's two
for what the answer has said. A penalty of 0, or of 1 where it divides, is no rule at all.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clawai.plugins.engine.sampling import F32, Rule
from clawai.plugins.engine.tokenizer import Tokenizer
from clawai.sdk.errors import ClawError

MAX_BIASES = 1024
MAX_TOP = 20
"""Of the likeliest tokens that are told beside the one that was picked."""
LEAST = -9999.0
"""What is told for a probability of nothing: JSON has no infinity."""


@dataclass(frozen=True, slots=True)
class Penalties:
    """How much less likely a token is that was there before.

    Raises:
        ClawError: bad_params, naming the parameter and its range.
    """

    frequency: float = 0.0
    """Taken from a token's logit for each time that the answer has it."""
    presence: float = 0.0
    """Taken once if it has."""
    repeat: float = 1.0
    """Divides the logit of a token that is among the last ones of prompt and answer."""
    last: int = 64
    """How many those are; -1: all."""

    def __post_init__(self) -> None:
        for name, got, fine, allowed in (
            ("frequency_penalty", self.frequency, -2 <= self.frequency <= 2, "-2 to 2"),
            ("presence_penalty", self.presence, -2 <= self.presence <= 2, "-2 to 2"),
            ("repeat_penalty", self.repeat, 0 < self.repeat <= 10, "above 0, up to 10"),
            ("repeat_last_n", self.last, -1 <= self.last <= 1 << 20, "-1 (all) to 1048576"),
        ):
            if not fine:
                raise ClawError("bad_params", name, got=got, allowed=allowed)

    def rules(self, prompt: Sequence[int]) -> list[Rule]:
        """Those that do anything."""
        found: list[Rule] = []
        if self.repeat != 1 and self.last:
            found.append(Repeats(self.repeat, self.last, prompt))
        if self.frequency or self.presence:
            found.append(Counts(self.frequency, self.presence))
        return found


class Repeats:
    """Divides the logits of the last tokens, or multiplies those below 0."""

    changes, ended = True, False

    def __init__(self, penalty: float, last: int, prompt: Sequence[int]) -> None:
        self._penalty = np.float32(penalty)
        self._last = deque(prompt, maxlen=None if last < 0 else last)

    def apply(self, row: F32) -> None:
        """As ``Rule``."""
        ids = np.unique(np.fromiter(self._last, np.intp, len(self._last)))
        values = row[ids]
        row[ids] = np.where(values > 0, values / self._penalty, values * self._penalty)

    def learn(self, token: int, logits: F32) -> None:
        """As ``Rule``."""
        self._last.append(token)


class Counts:
    """Takes from the logits of the answer's own tokens."""

    changes, ended = True, False

    def __init__(self, frequency: float, presence: float) -> None:
        self._frequency, self._presence = np.float32(frequency), np.float32(presence)
        self._counts: F32 | None = None

    def apply(self, row: F32) -> None:
        """As ``Rule``."""
        if self._counts is not None:
            row -= self._frequency * self._counts
            row -= self._presence * (self._counts > 0)

    def learn(self, token: int, logits: F32) -> None:
        """As ``Rule``."""
        if self._counts is None:
            self._counts = np.zeros(len(logits), np.float32)
        self._counts[token] += 1


class Biases:
    """Adds to the logits of some tokens."""

    changes, ended = True, False

    def __init__(self, biases: Mapping[str, float], vocabulary: int) -> None:
        """Of token ids, as JSON has them, to -100 to 100.

        Raises:
            ClawError: bad_params.
        """
        if len(biases) > MAX_BIASES:
            allowed = f"up to {MAX_BIASES} tokens"
            raise ClawError("bad_params", "logit_bias", got=len(biases), allowed=allowed)
        for name, value in biases.items():
            known = name.isascii() and name.isdigit() and int(name[:12]) < vocabulary
            if not known or not -100 <= value <= 100:
                allowed = f"ids of tokens, 0 to {vocabulary - 1}, with numbers from -100 to 100"
                raise ClawError("bad_params", "logit_bias", {name[:40]: value}, allowed)
        self._ids: NDArray[np.intp] = np.array([int(name) for name in biases], np.intp)
        self._values = np.array(list(biases.values()), np.float32)

    def apply(self, row: F32) -> None:
        """As ``Rule``."""
        np.add.at(row, self._ids, self._values)

    def learn(self, token: int, logits: F32) -> None:
        """As ``Rule``."""


class Witness:
    """Tells how likely each token was: by the model alone, at temperature 1, before any rule."""

    changes, ended = False, False

    def __init__(self, tokenizer: Tokenizer, most: int) -> None:
        """Tell each token, and ``most`` of the likeliest ones in its place.

        Raises:
            ClawError: bad_params.
        """
        if not 0 <= most <= MAX_TOP:
            raise ClawError("bad_params", "logprobs", got=most, allowed=f"0 to {MAX_TOP}")
        self._tokenizer, self._most = tokenizer, most
        self._seen: list[dict[str, Any]] = []

    def apply(self, row: F32) -> None:
        """As ``Rule``."""

    def learn(self, token: int, logits: F32) -> None:
        """As ``Rule``."""
        if token in self._tokenizer.ends:
            return
        peak = np.max(logits)
        norm = float(peak) + float(np.log(np.exp(logits - peak).sum(dtype=np.float64)))
        best = [self._told(each, logits, norm) for each in _likeliest(logits, self._most)]
        self._seen.append(self._told(token, logits, norm) | {"top": best})

    def _told(self, token: int, logits: F32, norm: float) -> dict[str, Any]:
        logprob = max(float(logits[token]) - norm, LEAST)
        return {
            "token": token,
            "bytes": self._tokenizer.token_bytes(token),
            "logprob": min(logprob, 0.0),
        }

    def taken(self) -> list[dict[str, Any]]:
        """What was not told yet."""
        seen, self._seen = self._seen, []
        return seen


def _likeliest(logits: F32, count: int) -> Iterator[int]:
    """The first ``count``, of equals the lowest id; for a few quicker than any kind of sorting."""
    row = np.array(logits)
    for _ in range(min(count, len(row))):
        best = int(row.argmax())
        yield best
        row[best] = -np.inf
