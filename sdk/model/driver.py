"""What a driver (plugin code that runs graphs on a device) offers to an engine.

Drivers register themselves through the hook ``claw_open_device`` (see ``clawai.sdk.hookspecs``);
the engine picks one and never imports it.
"""

from collections.abc import Callable, Iterable
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Any, Protocol

from clawai.sdk.model.graph import Graph

Allocate = Callable[[int, str], memoryview]
"""``allocate(nbytes, purpose)``: zeroed writable memory, 64-byte aligned, charged to the worker.
``purpose`` is "weights", "tables", "kv" or "arena"."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of each memory that a plan needs, known before any is allocated."""

    weights: int
    """Depends on the graph and on ``Driver.layout`` alone: may be shared with other workers."""
    tables: int
    kv: int
    """Of all sequences."""
    arena: int

    @property
    def private(self) -> int:
        """All but the weights, in bytes."""
        return self.tables + self.kv + self.arena

    @property
    def total(self) -> int:
        """All of it, in bytes."""
        return self.weights + self.private


class Stopped(Exception):
    """The control word asked for a stop; the sequence keeps the tokens that were finished."""


class Left(Exception):
    """A run left between two ops, as asked: ``Sequence.resume`` goes on with it."""


class Sequence(Protocol):
    """A KV cache of a plan. One thread at a time uses it; of a plan one sequence or batch runs."""

    def start(self, control: memoryview | None, keep: int = 0) -> None:
        """Begin anew, empty or with the first ``keep`` tokens that are in the cache.

        Args:
            control: a 32-bit word that the kernel writes (``clawai.sdk.wire``): its low byte has a
                run stop or leave between two ops, the second says how many threads it may use.
        """
        ...

    def run(self, tokens: Iterable[int], *, all_logits: bool = False) -> Any:
        """Append ``tokens`` to the sequence and return logits.

        Args:
            tokens: ids, at least one; position + len(tokens) must stay within the context.
            all_logits: logits of every token, not of the last only.

        Returns:
            numpy float32 (1, vocabulary) or (len(tokens), vocabulary); valid until the next run.

        Raises:
            Stopped: the control word said STOP between two ops; the run is forgotten.
            Left: it said HOLD, or ``Plan.preempt`` was called.
            ValueError: an id is outside of the vocabulary, or the context would overflow.
        """
        ...

    def resume(self) -> Any:
        """Go on with the run that left, exactly where it was; as ``run``."""
        ...

    @property
    def position(self) -> int:
        """Tokens in the KV cache."""
        ...

    @property
    def likeliest(self) -> int | None:
        """Where the largest logit is that the last run returned, the first of equals.

        None where the driver does not know: where several rows were asked for, or some are no
        numbers.
        """
        ...

    def rewind(self, position: int) -> None:
        """Forget the tokens from ``position`` on (0 empties the cache), and a run that left."""
        ...

    def op_times(self) -> list[tuple[str, int]]:
        """(op name, nanoseconds) of the last run, from the executor's own stamps."""
        ...

    def stamps(self) -> list[tuple[str, int, int]]:
        """The same with the tokens that each had at once: (op name, tokens, nanoseconds).

        From any thread, also while it runs: then of what has run so far.
        """
        ...


class Batch(Protocol):
    """A joint step: a token for each of several sequences of a plan.

    Each gets the logits that it would get alone. While a step is left, its sequences run nothing
    else.
    """

    @property
    def most(self) -> int:
        """How many sequences it takes."""
        ...

    def run(self, sequences: Items[Any], tokens: Items[int]) -> list[Any]:
        """Append to each sequence its token.

        Returns:
            For each sequence its logits as of ``Sequence.run``, or None if its control word took it
            out (STOP; or HOLD, while others went on): its token is not appended.

        Raises:
            Left: all control words said HOLD, or ``Plan.preempt`` was called.
            ValueError: as ``Sequence.run``; or a sequence is named twice, or is in a run that left.
        """
        ...

    def resume(self) -> list[Any]:
        """Go on with the step that left, exactly where it was; as ``run``."""
        ...

    def drop(self, sequence: Any) -> None:
        """Take a sequence out of the step that left; it may be used for something else at once."""
        ...

    def forget(self) -> None:
        """Drop the step that left: no token of it is appended."""
        ...

    def op_times(self) -> list[tuple[str, int]]:
        """(op name, nanoseconds) of the last step."""
        ...

    def stamps(self) -> list[tuple[str, int, int]]:
        """As of a sequence."""
        ...


class Plan(Protocol):
    """A graph compiled for a device, with the KV caches of its sequences."""

    context: int
    sequences: tuple[Sequence, ...]
    batches: tuple[Batch, ...]
    """As many joint steps can be left at the same time; none: the driver has no joint steps."""

    steps: Items[str]
    """Names of what it runs, in order, as ``op_times`` has them: of the values that each makes,
    joined by "+", or such a name after "cache " or "quantize "."""

    def preempt(self, on: bool) -> None:
        """While ``on``, have whatever runs leave between two ops. From any thread."""
        ...

    def close(self) -> None:
        """Free the threads and the memory."""
        ...


class Driver(Protocol):
    """One device."""

    name: str

    def layout(self, graph: Graph) -> str:
        """Names how ``pack`` lays weights out: all that their bytes depend on but the model."""
        ...

    def saved(self, graph: Graph, *, context: int, kv: str = "f16") -> bytes:
        """What this driver has found out about a graph, for ``restore`` in another worker.

        It holds for the same driver on the same box.
        """
        ...

    def restore(self, graph: Graph, saved: bytes) -> None:
        """Spare ``layout``, ``footprint`` and ``compile`` of ``graph`` the work of ``saved``.

        ``graph`` may be without its weights then (``Tensor.data`` empty), but for ``pack``.

        Raises:
            ValueError: the bytes are damaged.
        """
        ...

    def footprint(
        self,
        graph: Graph,
        *,
        context: int,
        sequences: int = 1,
        threads: int | None = None,
        kv: str = "f16",
    ) -> Footprint:
        """Memory that a plan will need. Reads shapes only.

        Args:
            context: length of each KV cache in tokens, at most ``graph.context``.
            threads: as for ``compile``; None: as many as this process has cores.
            kv: as for ``compile``.

        Raises:
            ValueError: as ``compile``.
        """
        ...

    def pack(
        self, graph: Graph, memory: memoryview, progress: Callable[[float], None] | None = None
    ) -> None:
        """Write the weights into ``memory``: zeroed, of ``Footprint.weights`` bytes. Keeps no view.

        Args:
            progress: called with 0..1.

        Raises:
            UnsupportedGraph: a node or a dtype that this driver cannot run.
        """
        ...

    def compile(
        self,
        graph: Graph,
        *,
        context: int,
        threads: int,
        weights: memoryview,
        allocate: Allocate,
        sequences: int = 1,
        kv: str = "f16",
    ) -> Plan:
        """Plan the arena and start the threads.

        Args:
            context: length of each KV cache in tokens, at most ``graph.context``.
            threads: worker threads, the calling one included.
            weights: what ``pack`` wrote; never written to, and its pages are not touched here.
            kv: what a KV cache holds: "f16" halves; or "q8" int8, with an f16 scale for each 32
                elements of a head, in little more than half of the bytes.

        Raises:
            UnsupportedGraph: a node or a dtype that this driver cannot run.
            ValueError: an argument is out of range, or this driver has no such ``kv``.
        """
        ...


class UnsupportedGraph(Exception):
    """The driver has no op for a node; the message names node, op, dtype and shape."""
