"""Picks the next token from logits: temperature, then top-k, top-p, min-p, by a seeded generator.

Before that the rules of a task change a copy of the logits (``rules``: penalties, biases, what a
grammar allows) and after it they learn what was picked. A task without rules pays for none.

The same seed, settings and logits give the same token. The vocabulary (about 50,000) is never
sorted, only the few tokens that can be drawn are; nothing is approximated.

Nucleus sampling (top-p): Holtzman et al. 2020, arXiv:1904.09751.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clawai.sdk.errors import ClawError

F32 = NDArray[np.float32]
_BLOCK = 64
_FIRST_CANDIDATES = 256
_GREEDY = 1e-4


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose.

    Raises:
        ClawError: bad_params, naming the parameter and its range.
    """

    temperature: float = 0.0
    """0 takes the most likely token always (greedy), as does all below 0.0001."""
    top_k: int = 40
    """Only the most likely tokens; 0 means no limit."""
    top_p: float = 0.95
    """Only the fewest tokens that together reach this probability."""
    seed: int | None = None
    """None takes one from the system."""
    min_p: float = 0.0
    """Only tokens with this part of the likeliest one's probability."""

    def __post_init__(self) -> None:
        for name, got, fine, allowed in (
            ("temperature", self.temperature, 0 <= self.temperature <= 10, "0 to 10"),
            ("top_k", self.top_k, 0 <= self.top_k <= 1 << 20, "0 (no limit) to 1048576"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "above 0, up to 1"),
            ("min_p", self.min_p, 0 <= self.min_p <= 1, "0 to 1"),
            ("seed", self.seed, self.seed is None or 0 <= self.seed < 1 << 63, "0 to 2**63 - 1"),
        ):
            if not fine:  # false also for NaN
                raise ClawError("bad_params", name, got=got, allowed=allowed)


def warm_draws() -> None:
    """Draw once: numpy imports its generators when they are first asked for."""
    np.random.Generator(np.random.PCG64(0)).random()


class Rule(Protocol):
    """What a task has to say about its next token, and learns of it."""

    @property
    def changes(self) -> bool:
        """Whether ``apply`` does anything."""

    @property
    def ended(self) -> bool:
        """Whether the answer is complete."""

    def apply(self, row: F32) -> None:
        """Change the logits of the next token, (vocabulary,), in place; -inf excludes one."""

    def learn(self, token: int, logits: F32) -> None:
        """This one was picked; the logits are the model's own."""


class Sampler:
    """Draws the tokens of one sequence. numpy keeps the stream of its PCG64 stable.

    ``pick`` is called once for each token of the answer, in their order.
    """

    def __init__(self, settings: Sampling, rules: Sequence[Rule] = ()) -> None:
        self.settings = settings
        self._rules = tuple(rules)
        self._changes = tuple(rule for rule in rules if rule.changes)
        self._random: Any = None
        """Made for the first draw: who takes the likeliest token needs none."""

    @property
    def plain(self) -> bool:
        """Whether it takes the likeliest token always, which costs next to nothing."""
        return not self._rules and self._greedy

    @property
    def _greedy(self) -> bool:
        return self.settings.temperature < _GREEDY or self.settings.top_k == 1

    def pick(self, logits: Any, best: int | None = None) -> int:
        """A token id from ``logits``, float32 (vocabulary,), which stay as they are.

        Args:
            best: ``argmax`` of ``logits``, if it is known.

        Raises:
            ClawError: bad_model, the logits are not finite numbers (-inf excludes a token).
        """
        if not self._rules:
            return self._picked(logits, best)
        row = logits
        if self._changes:
            row, best = np.array(logits, np.float32), None
            for rule in self._changes:
                rule.apply(row)
        token = self._picked(row, best)
        for rule in self._rules:
            rule.learn(token, logits)
        return token

    @property
    def ended(self) -> bool:
        """Whether a rule says that the answer is complete."""
        return any(rule.ended for rule in self._rules)

    def _picked(self, logits: F32, best: int | None) -> int:
        if best is None:
            best = int(np.argmax(logits))  # the first of equals; a NaN counts as the largest
        if not isfinite(logits.item(best)):  # as np.isfinite, in a tenth of the time
            raise ClawError("bad_model", "the model computed logits that are no finite numbers")
        if self._greedy:
            return best
        if self._random is None:
            self._random = np.random.Generator(np.random.PCG64(self.settings.seed))
        ids, weights = self._candidates(logits, logits[best])
        if self.settings.min_p:  # the likeliest one's weight is 1
            kept = weights >= self.settings.min_p
            ids, weights = ids[kept], weights[kept]
        # One draw for each token whatever the candidates, so that settings compare draw by draw.
        return int(ids[_drawn(weights, self._random.random())])

    def _candidates(self, logits: F32, peak: np.float32) -> tuple[NDArray[np.intp], F32]:
        """Ids, most likely first unless all are kept, with weights exp((logit - peak) / t)."""
        share, size = self.settings.top_p, logits.size
        count = min(self.settings.top_k or size, size)
        if count < size:
            ids = top(logits, count)
            weights = self._weights(logits[ids], peak)
            cut = count if share == 1 else _nucleus(weights, share * _sum(weights))
            return ids[:cut], weights[:cut]
        everything = self._weights(logits, peak)
        if share == 1:
            return np.arange(size), everything
        wanted, count = share * _sum(everything), _FIRST_CANDIDATES
        while True:
            ids = top(logits, min(count, size))
            weights = everything[ids]
            cut = _nucleus(weights, wanted)
            if cut < ids.size or ids.size == size:
                return ids[:cut], weights[:cut]
            count *= 8

    def _weights(self, logits: F32, peak: np.float32) -> F32:
        with np.errstate(under="ignore", over="ignore"):
            weights: F32 = np.exp((logits - peak) * np.float32(1 / self.settings.temperature))
            return weights


def _sum(weights: F32) -> float:
    return float(weights.sum(dtype=np.float64))


def _nucleus(weights: F32, wanted: float) -> int:
    """How many of the sorted ``weights`` it takes to reach ``wanted``, at least one."""
    cumulative = np.cumsum(weights, dtype=np.float64)
    return min(int(np.searchsorted(cumulative, wanted, side="left")) + 1, weights.size)


def top(logits: F32, count: int) -> NDArray[np.intp]:
    """The ids of the ``count`` largest of ``logits``, largest first, of equals the lowest id."""
    least = np.partition(logits, -count)[-count]
    candidates = np.flatnonzero(logits >= least)
    return candidates[np.lexsort((candidates, -logits[candidates]))[:count]]


def _drawn(weights: F32, share: float) -> int:
    """The first index where the running sum of ``weights`` exceeds ``share`` (0 to 1) of it all.

    In two steps, blocks and then inside of one, because a running sum of everything is slow.
    """
    blocks = np.cumsum(
        np.add.reduceat(weights, np.arange(0, weights.size, _BLOCK)), dtype=np.float64
    )
    at = share * blocks[-1]
    block = min(int(np.searchsorted(blocks, at, side="right")), len(blocks) - 1)
    inside = weights[block * _BLOCK : (block + 1) * _BLOCK]
    rest = at - (blocks[block - 1] if block else 0.0)
    index = int(np.searchsorted(np.cumsum(inside, dtype=np.float64), rest, side="right"))
    # Rounding may lead beyond the end of the block; a token of weight 0 is never drawn.
    return block * _BLOCK + min(index, int(np.flatnonzero(inside)[-1]))
