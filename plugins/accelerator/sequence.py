"""One sequence of a plan: its place in the KV memory, and the run that appends to it.

A run that left between two steps stays here with its tokens and goes on where it was; nothing that
it has computed lies where another sequence writes. It refuses tokens that do not fit.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clawai.plugins.accelerator.native import ffi, lib
from clawai.plugins.accelerator.weights import Tables
from clawai.sdk.model.driver import Left, Stopped

STOP = 1
"""Low byte of a control word (``clawai.sdk.wire``)."""


@dataclass(eq=False, slots=True)
class Shared:
    """What the sequences of a plan share. It knows none of them: nothing here refers in a circle.

    (CPython 3.11 crashes when it collects a circle with a memoryview that something exports.)
    """

    context: int
    vocabulary: int
    chunk: int
    names: list[str]
    """Of the steps."""
    plan: Any
    """The C plan, None when it is closed."""
    keep: list[Any]
    """What the C plan points to."""
    tables: Tables | None
    """None when it is closed. Who holds the lock has them reach as far as it goes."""
    lock: Any = field(default_factory=threading.Lock)
    """Held by the run that is on."""

    def open(self, reach: int = 0) -> Any:
        """The C plan; with its lock held, for a run that goes up to position ``reach``."""
        if self.plan is None or self.tables is None:
            raise ValueError("the plan is closed; compile the graph again")
        self.tables.reach(reach)
        return self.plan

    def stamps(self, ring: Any, end: int) -> list[tuple[str, int, int]]:
        """(step, tokens at once, nanoseconds), oldest first, of a ring with ``end`` stamps."""
        kept = range(max(0, end - lib.CLAW_TIMES), end)
        stamps = (ring[i % lib.CLAW_TIMES] for i in kept)
        return [(self.names[each.step], int(each.tokens), int(each.ns)) for each in stamps]


class CpuSequence:
    """See ``clawai.sdk.model.driver.Sequence``."""

    def __init__(self, shared: Shared, number: int, logits: memoryview) -> None:
        self._shared = shared
        self._row: Any = np.frombuffer(logits, np.float32).reshape(1, -1)
        self._times = ffi.new("claw_time[]", lib.CLAW_TIMES)
        self._run = ffi.new("claw_run *")
        self._run.sequence, self._run.chunk, self._run.likeliest = number, shared.chunk, -1
        self._run.times = self._times
        # A token alone comes thousands of times a second, after a step that has emptied all caches:
        # it has its places from the beginning, and the least of code.
        self._one = ffi.new("int32_t[1]")
        self._row_at = ffi.from_buffer("float[]", self._row, require_writable=True)
        self._logits: Any = None
        """Of the run that is not at its end, if there is one."""
        self._held: tuple[Any, ...] = ()
        self._word: Any = None

    def start(self, control: memoryview | None, keep: int = 0) -> None:
        """Begin anew under another control word (see ``Sequence``)."""
        if control is not None and control.nbytes < 4:
            raise ValueError(f"control must hold a 32-bit word, got {control.nbytes} bytes")
        self.rewind(keep)
        self._word = None
        self._run.control = ffi.NULL
        if control is not None:
            # A view of our own keeps the memory; its buffer is not held, for Python 3.11 crashes
            # when it collects a task in a circle whose view of the word is held from outside.
            self._word = memoryview(control)
            with ffi.from_buffer("uint8_t[]", self._word) as held:
                self._run.control = ffi.cast("const uint32_t *", held)

    def run(self, tokens: Iterable[int], *, all_logits: bool = False) -> Any:
        """Append ``tokens`` and return logits (see ``Sequence``)."""
        self._shared.open()
        if self._logits is not None:
            raise ValueError("a run has left and is not at its end; resume it, or rewind")
        one = self._single(tokens)
        ids = () if one else self._checked(tokens)
        count = len(ids) or 1
        if count > self._shared.context - self.position:
            raise ValueError(
                f"{count} tokens after {self.position} do not fit a context of "
                f"{self._shared.context}; rewind, or compile with a larger context"
            )
        logits, out = self._row, self._row_at
        if all_logits:
            logits = np.empty((count, self._shared.vocabulary), np.float32)
            out = ffi.from_buffer("float[]", logits, require_writable=True)
        tokens_at = self._one if one else ffi.from_buffer("int32_t[]", ids)
        run = self._run
        run.tokens, run.out, run.n, run.all = tokens_at, out, count, all_logits
        run.done = run.step = run.stamped = 0
        self._held = (ids, tokens_at, out)
        self._logits = logits
        return self.resume()

    def resume(self) -> Any:
        """Go on with the run that left (see ``Sequence``)."""
        if self._logits is None:
            raise ValueError("no run has left")
        with self._shared.lock:
            plan = self._shared.open(self.position + self._run.n - self._run.done)
            code = lib.claw_plan_run(plan, self._run)
        if code == lib.CLAW_LEFT:
            if self._word is not None and self._run.control[0] & 0xFF == STOP:
                self._forget()
                raise Stopped(f"the control word was set; {self.position} tokens are in the cache")
            raise Left(f"left at token {self.position}")
        logits = self._logits
        self._forget()
        if code:
            raise RuntimeError(f"the executor refused checked tokens with code {code}")
        return logits

    def join(self, row: Any, token: int) -> int:
        """Describe ``token`` after this sequence as a row of a joint step; returns its position."""
        if self._logits is not None:
            raise ValueError("a run has left and is not at its end; resume it, or rewind")
        if type(token) is not int or not 0 <= token < self._shared.vocabulary:
            token = self._checked([token])[0]  # or it says what is wrong
        run = self._run
        position: int = run.position
        if position >= self._shared.context:
            raise ValueError(f"the context of {self._shared.context} tokens is full; rewind")
        row.token, row.sequence, row.position = token, run.sequence, position
        row.control, row.gone, row.out = run.control, 0, self._row_at
        return position

    def append(self, likeliest: int) -> Any:
        """A joint step appended its token: the logits. ``likeliest``: of them, -1 if not known."""
        self._run.position += 1
        self._run.likeliest = likeliest
        return self._row

    @property
    def likeliest(self) -> int | None:
        """Of the logits that the last run returned (see ``Sequence``)."""
        found = int(self._run.likeliest)
        return found if found >= 0 else None

    @property
    def number(self) -> int:
        """In its plan."""
        return int(self._run.sequence)

    def close(self) -> None:
        """Let go of all memory; the plan is closed, and says so to whoever comes."""
        # Not left to the garbage collector: see ``Shared``.
        self._forget()
        self._row = self._row_at = self._word = None
        self._run.control = ffi.NULL

    def _forget(self) -> None:
        self._logits, self._held = None, ()
        self._run.step = 0

    def _single(self, tokens: Iterable[int]) -> bool:
        """Whether ``tokens`` are a list of one good id, which then is in its place."""
        if type(tokens) is not list or len(tokens) != 1 or type(tokens[0]) is not int:
            return False
        token = tokens[0]
        if not 0 <= token < self._shared.vocabulary:
            return False  # the long way says what is wrong
        self._one[0] = token
        return True

    def _checked(self, tokens: Iterable[int]) -> Any:
        try:
            ids = np.asarray(tokens, dtype=np.int64)
        except OverflowError as error:
            raise ValueError(f"a token id does not fit 64 bits: {error}") from error
        if ids.ndim != 1 or not ids.size:
            raise ValueError(f"tokens must be a sequence of at least one id, got shape {ids.shape}")
        top = self._shared.vocabulary - 1
        if ids.min() < 0 or ids.max() > top:
            raise ValueError(f"token ids must be in 0..{top}, got {ids.min()}..{ids.max()}")
        return ids.astype(np.int32)

    @property
    def position(self) -> int:
        """Tokens in the KV cache."""
        return int(self._run.position)

    def rewind(self, position: int) -> None:
        """Forget the tokens from ``position`` on, and a run that left."""
        if not 0 <= position <= self.position:
            raise ValueError(f"rewind takes 0..{self.position}, got {position}")
        self._forget()
        self._run.position = position

    def op_times(self) -> list[tuple[str, int]]:
        """(step, nanoseconds) of the last run, oldest first; a prompt has one entry a chunk."""
        return [(name, took) for name, _, took in self.stamps()]

    def stamps(self) -> list[tuple[str, int, int]]:
        """(step, tokens at once, nanoseconds) of the last run, also while it goes on."""
        return self._shared.stamps(self._times, int(self._run.stamped))
