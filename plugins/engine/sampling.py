"""Choosing the next token: temperature, top-k, top-p, with a seed that reproduces a run.

Order as in the field: keep the ``top_k`` best logits, divide by the temperature, keep the fewest
that together reach ``top_p`` of the probability (nucleus sampling, Holtzman et al. 2020,
arXiv:1904.09751), draw. Temperature 0 is greedy; the lowest id wins a tie.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from clawai.sdk.errors import ClawError

MAX_CANDIDATES = 4096
"""Most tokens that a draw looks at: beyond them a probability is below any use."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose. ``seed`` None takes one from the system."""

    temperature: float = 0.0
    top_k: int = 40
    """0 means no limit."""
    top_p: float = 0.95
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, got, fine, allowed in (
            ("temperature", self.temperature, 0 <= self.temperature <= 10, "0 to 10"),
            ("top_k", self.top_k, 0 <= self.top_k <= 1 << 20, "0 (no limit) to 1048576"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "above 0, up to 1"),
            ("seed", self.seed, self.seed is None or 0 <= self.seed < 1 << 63, "0 to 2**63 - 1"),
        ):
            if not fine:  # false also for NaN
                raise ClawError("bad_params", name, got=got, allowed=allowed)


class Sampler:
    """Draws tokens of one sequence.

    Reproducible: the same seed, settings and logits give the same tokens. The generator is numpy's
    PCG64, whose stream numpy keeps stable.
    """

    def __init__(self, settings: Sampling) -> None:
        self.settings = settings
        self._random = np.random.Generator(np.random.PCG64(settings.seed))

    def pick(self, logits: Any) -> int:
        """A token id from ``logits``, float32 (vocabulary,).

        Raises:
            ClawError: bad_model, if no logit is a finite number.
        """
        best = int(np.argmax(logits))
        if not np.isfinite(logits[best]):
            finite = np.where(np.isfinite(logits), logits, -np.inf)
            best = int(np.argmax(finite))
            if not np.isfinite(finite[best]):
                raise ClawError("bad_model", "the model computed no finite logit")
            logits = finite
        if self.settings.temperature == 0 or self.settings.top_k == 1:
            return best
        return self._draw(logits)

    def _draw(self, logits: Any) -> int:
        keep = min(self.settings.top_k or MAX_CANDIDATES, MAX_CANDIDATES, len(logits))
        if keep < len(logits):
            chosen = np.argpartition(logits, len(logits) - keep)[len(logits) - keep :]
        else:
            chosen = np.arange(len(logits))
        # Best first; equal logits by id, so that the order does not depend on the partition.
        chosen = chosen[np.lexsort((chosen, -logits[chosen]))]
        scaled = logits[chosen].astype(np.float64) / self.settings.temperature
        weights = np.exp(scaled - scaled[0])
        total = np.cumsum(weights)
        nucleus = int(np.searchsorted(total, self.settings.top_p * total[-1])) + 1
        total = total[: min(nucleus, len(total))]
        point = self._random.random() * total[-1]
        return int(chosen[min(int(np.searchsorted(total, point, side="right")), len(total) - 1)])
