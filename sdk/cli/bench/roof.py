"""A figure as a share of what the box can do at most, measured in the same run.

A step of a language model cannot be faster than its bytes can be read, nor than its products can be
computed. The longer of these two times, at the ceilings of ``claw bench roofline`` for as many
threads, divided by the time that the step took, is its share. What counts as work is what the file
asks for, not what an engine makes of it: each weight as many bytes as it is stored in, read once a
step; the key and value of each token before; a multiply and an add for each weight of a matrix and
each token (attention's own, few at these lengths, are left out).
"""

import statistics
from dataclasses import dataclass
from typing import Any

from clawai.sdk.cli.bench import roofline


@dataclass(frozen=True, slots=True)
class Work:
    """What one step asks of the box."""

    nbytes: float
    operations: float
    """A multiply and an add are two."""


@dataclass(frozen=True, slots=True)
class Model:
    """What the steps of a model ask for; our side tells it in its facts, under these names."""

    weight_bytes: int
    """Read in every step."""
    kv_bytes: int
    """Of each token in the cache."""
    multiply_adds: int
    """For each token."""
    head_multiply_adds: int
    """For each token whose logits are asked for."""
    integer: bool
    """Whether the matrices are quantized, so that the integer peak is theirs."""

    @classmethod
    def of(cls, facts: dict[str, Any]) -> "Model":
        """From a side's facts."""
        return cls(**{name: facts[name] for name in cls.__slots__})

    def prefill(self, count: int) -> Work:
        """A prompt of ``count`` tokens."""
        operations = 2 * (count * self.multiply_adds + self.head_multiply_adds)
        return Work(self.weight_bytes + count * self.kv_bytes, operations)

    def decode(self, count: int, depth: int, sequences: int = 1) -> Work:
        """``count`` tokens in each sequence after ``depth`` others; the mean of these steps."""
        cached = sequences * (depth + (count + 1) / 2) * self.kv_bytes
        return Work(
            self.weight_bytes + cached,
            2 * sequences * (self.multiply_adds + self.head_multiply_adds),
        )


class Roof:
    """The ceilings of this run: medians of a look after each round.

    Each look is the best of several short runs; but a box that shares its memory with others has
    slower and faster seconds, and the figures that are compared with these are medians, too.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self.looks: list[dict[str, float]] = []
        """The figures of each, under the keys that stay."""

    def measure(self) -> None:
        """Look once; while nothing else is measured. A second or two.

        Raises:
            ClawError: worker_failed.
        """
        found = roofline.ceilings(self._threads)["figures"]
        look = {"read_gb_s": found[f"read_{self._threads}t_gb_s"]}
        self.looks.append(look | {key: found[key] for key in ("int8_gop_s", "fma_gflop_s")})

    def figures(self) -> dict[str, float]:
        """The ceilings for as many threads as the sides have."""
        return {key: statistics.median(look[key] for look in self.looks) for key in self.looks[0]}

    def share(self, model: Model, work: Work, seconds: float) -> float:
        """0 to 1: what the box could do at most, as a part of what it took."""
        most = self.figures()
        peak = most["int8_gop_s"] if model.integer else most["fma_gflop_s"]
        least = max(work.nbytes / most["read_gb_s"], work.operations / peak) / 1e9
        return round(least / seconds, 3)
