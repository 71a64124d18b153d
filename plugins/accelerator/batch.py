"""A joint step: a token for each of several sequences, so that weights are read once for all.

Each gets the logits that it would get alone, bit for bit. A batch has activations of its own and
can be left between two ops as a run can; it refuses sequences that another run has left.
"""

from collections.abc import Sequence as Items
from typing import Any

from clawai.plugins.accelerator.native import ffi, lib
from clawai.plugins.accelerator.sequence import CpuSequence, Shared
from clawai.sdk.model.driver import Left


class CpuBatch:
    """See ``clawai.sdk.model.driver.Batch``."""

    def __init__(self, shared: Shared, number: int) -> None:
        self._shared = shared
        self._rows = ffi.new("claw_row[]", lib.CLAW_MAX_SEQUENCES)
        self._times = ffi.new("claw_time[]", lib.CLAW_TIMES)
        self._batch = ffi.new("claw_batch *")
        self._batch.rows, self._batch.times, self._batch.arena = self._rows, self._times, number
        self._each = [self._rows[i] for i in range(lib.CLAW_MAX_SEQUENCES)]
        self._members: tuple[CpuSequence, ...] = ()
        self._reach = 0
        """How far the step that is on goes."""

    @property
    def most(self) -> int:
        """How many sequences it takes."""
        return min(int(lib.CLAW_MAX_SEQUENCES), self._shared.chunk)

    def run(self, sequences: Items[CpuSequence], tokens: Items[int]) -> list[Any]:
        """Append a token to each (see ``Batch``)."""
        if self._members:
            raise ValueError("a step has left and is not at its end; resume it, or forget it")
        if not 1 <= len(sequences) <= self.most or len(sequences) != len(tokens):
            got = f"{len(sequences)} and {len(tokens)}"
            raise ValueError(f"a step takes 1..{self.most} sequences and a token each, got {got}")
        if len(set(sequences)) < len(sequences):
            raise ValueError("a sequence takes one token a step, and one is named twice")
        self._shared.open()
        # The step before has emptied all caches: what is not touched here need not be fetched.
        positions = map(CpuSequence.join, sequences, self._each, tokens)
        self._reach = 1 + max(positions)
        self._batch.n, self._batch.step, self._batch.stamped = len(sequences), 0, 0
        self._members = tuple(sequences)
        return self.resume()

    def resume(self) -> list[Any]:
        """Go on with the step that left (see ``Batch``)."""
        if not self._members:
            raise ValueError("no step has left")
        with self._shared.lock:
            plan = self._shared.open(self._reach)
            code = lib.claw_plan_decode(plan, self._batch)
        if code == lib.CLAW_LEFT:
            raise Left("left in a joint step")
        members, self._members = self._members, ()
        if code:
            raise RuntimeError(f"the executor refused checked tokens with code {code}")
        return [
            None if row.gone else member.append(row.likeliest)
            for row, member in zip(self._each, members, strict=False)
        ]

    def drop(self, sequence: CpuSequence) -> None:
        """Take a sequence out of the step that left (see ``Batch``)."""
        for row, member in zip(self._rows[0 : len(self._members)], self._members, strict=True):
            if member is sequence:
                row.gone, row.control = 1, ffi.NULL

    def forget(self) -> None:
        """Drop the step that left: no token is appended (see ``Batch``)."""
        self._members = ()

    def op_times(self) -> list[tuple[str, int]]:
        """(step, nanoseconds) of the last step, oldest first."""
        return [(name, took) for name, _, took in self.stamps()]

    def stamps(self) -> list[tuple[str, int, int]]:
        """(step, tokens at once, nanoseconds) of the last step, also while it goes on."""
        return self._shared.stamps(self._times, int(self._batch.stamped))
