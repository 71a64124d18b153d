"""What a driver (plugin code that runs graphs on a device) offers to an engine.

Drivers register themselves through the hook ``claw_driver`` (see ``clawai.sdk.hookspecs``); the
engine picks one and never imports it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from clawai.sdk.model.graph import Graph

Allocate = Callable[[int, str], memoryview]
"""``allocate(nbytes, purpose)``: zeroed writable memory, 64-byte aligned, charged to the worker.
``purpose`` is "weights", "kv" or "arena"."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes that a plan will ask ``Allocate`` for, known before any is allocated."""

    weights: int
    kv: int
    arena: int

    @property
    def total(self) -> int:
        """All of it, in bytes."""
        return self.weights + self.kv + self.arena


class Stopped(Exception):
    """The control word asked for a stop; the sequence keeps the tokens that were finished."""


class Plan(Protocol):
    """A graph compiled for a device, with one sequence's KV cache."""

    context: int

    def run(self, tokens: Sequence[int], *, all_logits: bool = False) -> Any:
        """Append ``tokens`` to the sequence and return logits.

        Args:
            tokens: ids, at least one; position + len(tokens) must stay within ``context``.
            all_logits: logits of every token, not of the last only.

        Returns:
            numpy float32 (1, vocabulary) or (len(tokens), vocabulary); valid until the next run.

        Raises:
            Stopped: the control word was set between two ops.
            ValueError: an id is outside of the vocabulary, or the context would overflow.
        """
        ...

    @property
    def position(self) -> int:
        """Tokens in the KV cache."""
        ...

    def rewind(self, position: int) -> None:
        """Forget the tokens from ``position`` on (0 empties the cache)."""
        ...

    def op_times(self) -> list[tuple[str, int]]:
        """(op name, nanoseconds) of the last run, from the executor's own stamps."""
        ...

    def close(self) -> None:
        """Free the threads and the memory."""
        ...


class Driver(Protocol):
    """One device."""

    name: str

    def footprint(self, graph: Graph, *, context: int, threads: int | None = None) -> Footprint:
        """Memory that ``compile`` will need. Reads shapes only.

        Args:
            threads: as for ``compile``; None: as many as this process has cores.
        """
        ...

    def compile(
        self,
        graph: Graph,
        *,
        context: int,
        threads: int,
        allocate: Allocate,
        control: memoryview | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Plan:
        """Pack the weights and plan the arena.

        Args:
            context: length of the KV cache in tokens, at most ``graph.context``.
            threads: worker threads, the calling one included.
            control: a shared page; a plan stops between ops when the first 32-bit word is not 0.
            progress: called with 0..1 while the weights are packed.

        Raises:
            UnsupportedGraph: a node or a dtype that this driver cannot run.
        """
        ...


class UnsupportedGraph(Exception):
    """The driver has no op for a node; the message names node, op, dtype and shape."""
