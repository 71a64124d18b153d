"""Our side of `claw bench decode`, `parallel`, `speculate`: the engine as in a worker, no sandbox.

    python -m clawai.plugins.engine.bench MODEL.gguf THREADS CONTEXT [SEQUENCES [KV]]

One sequence stays with `decode`; the answers of the others need more.

The drivers come from the manifest and are found through their hook, as the worker host does it.
"""

import importlib
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from clawai.plugins.engine.flow import GAP
from clawai.plugins.engine.generate import Author, Outcome, Request, Session
from clawai.plugins.engine.lookup import DRAFTS, Ahead, Costs
from clawai.plugins.engine.sampling import Sampler, Sampling
from clawai.plugins.engine.seats import Seat
from clawai.plugins.engine.worker import Engine
from clawai.sdk import hooks
from clawai.sdk.cli.bench import peer
from clawai.sdk.errors import ClawError
from clawai.sdk.manifest import read_plugin
from clawai.sdk.model.graph import Graph, Op


class Host:
    """What ``claw_start`` is given: a model, threads, and all the memory that it asks for."""

    def __init__(
        self,
        engine: Engine,
        model: str,
        threads: int,
        context: int,
        sequences: int = 1,
        kv: str = "f16",
    ) -> None:
        self.model: Mapping[str, Any] = {"name": Path(model).stem}
        self.model_fd = os.open(model, os.O_RDONLY | os.O_CLOEXEC)
        self.threads = threads
        self.context = context
        self.control = memoryview(bytearray(4096)).cast("I")
        self.args: Mapping[str, Any] = {"slots": sequences, "weights": "private", "kv": kv}
        self.graph: Graph | None = None
        self._plugins = hooks.manager()
        folder = Path(__file__).parent
        for name in read_plugin(folder).plugin.drivers:
            found = read_plugin(folder.parent / name).plugin.module
            module = importlib.import_module(found)
            self._plugins.register(getattr(module, "claw_plugin", module))
        self._plugins.register(engine)

    def reserve(self, size: int) -> None:
        """Granted: there is no ledger here."""

    def notes(self) -> memoryview | None:
        """Nobody was here before."""

    def weights(
        self,
        layout: str,
        nbytes: int,
        private: int,
        fill: Callable[[memoryview], None],
        notes: bytes | memoryview = b"",
    ) -> memoryview | None:
        """There is no object here: private memory."""

    def listener(self, port: int) -> Any:
        """An engine asks for no port."""
        raise ClawError("not_permitted", "an engine does not listen", got=port)

    def driver(self, device: str) -> Any:
        """The first driver for ``device``."""
        return hooks.open_device(self._plugins, device)

    def load_model(self) -> Any:
        """The model, from the plugin that knows its format."""
        loaded = hooks.load_model(self._plugins, self.model_fd)
        self.graph = loaded.graph
        return loaded

    def quantize(self, weights: Any, dtype: Any, importance: Any = None) -> Any:
        """A matrix in the blocks of ``dtype``."""
        return hooks.quantize(self._plugins, weights, dtype, importance)


def greedy(seat: Seat, count: int) -> Author:
    """Says so many of the likeliest tokens, as a task without drafts does."""
    return Author(Sampler(Sampling()), (), count, Ahead(seat, (), Costs(), 0), GAP)


class Ours:
    """A loaded model, greedy."""

    def __init__(self, session: Session, seat: Seat) -> None:
        self._session = session
        self._turns = session.turns
        self._seat = seat
        self._logits: Any = None

    def prefill(self, tokens: Sequence[int]) -> float:
        """See ``clawai.sdk.cli.bench.peer.Peer``."""
        self._seat.rewind(0)
        start = time.perf_counter()
        self._logits = self._seat.run(list(tokens))[-1:]
        greedy(self._seat, 1).choose(self._logits, self._seat.likeliest)
        return time.perf_counter() - start

    def decode(self, count: int) -> float:
        """See ``clawai.sdk.cli.bench.peer.Peer``."""
        start = time.perf_counter()
        self.write(count + 1)
        return time.perf_counter() - start

    def write(self, count: int) -> list[int]:
        """See ``clawai.sdk.cli.bench.peer.Writer``."""
        handfuls = self._seat.write(greedy(self._seat, count), self._logits)
        return [token for tokens in handfuls for token in tokens]

    def parallel(self, prompts: Sequence[Sequence[int]], count: int) -> float:
        """See ``clawai.sdk.cli.bench.peer.Peer``. A thread and a seat each, as tasks have."""
        ready = threading.Barrier(len(prompts) + 1)

        def answer(prompt: Sequence[int]) -> int:
            with self._turns.seat() as seat:
                logits = seat.run(list(prompt))[-1:]
                ready.wait()
                return sum(map(len, seat.write(greedy(seat, count + 1), logits)))

        with ThreadPoolExecutor(len(prompts)) as threads:
            answers = [threads.submit(answer, prompt) for prompt in prompts]
            ready.wait()
            start = time.perf_counter()
            assert all(each.result() == count + 1 for each in answers)
            return time.perf_counter() - start

    def reply(self, text: str, count: int, drafts: bool) -> dict[str, Any]:
        """See ``clawai.sdk.cli.bench.peer.Talker``. Greedy, in a sequence of its own."""
        session = self._session
        session.drafts = DRAFTS if drafts else 0
        request = Request(prompt=text, max_tokens=count)
        if session.template is not None:
            request = Request(messages=[{"role": "user", "content": text}], max_tokens=count)
        with self._turns.seat(priority="normal") as seat:  # alone in its class
            generator = session.generate(request, seat)
            while True:
                try:
                    next(generator)
                except StopIteration as end:
                    said: Outcome = end.value
                    break
        return {
            "us": said.decode_us,
            "text": said.text,
            "tokens": said.completion_tokens,
            "drafted": said.drafted_tokens,
            "accepted": said.accepted_tokens,
        }


def asked(graph: Graph, context: int, kv_bytes: int) -> dict[str, Any]:
    """What a step of this model asks of the box: fields of ``clawai.sdk.cli.bench.roof.Model``.

    Args:
        kv_bytes: of a cache of ``context`` tokens.
    """
    read, adds, behind = set(), [0, 0], 0
    for node in graph.nodes:
        weights = [graph.tensors[name] for name in node.inputs]
        weights = [each for each in weights if each.data is not None]
        if node.op is Op.EMBED:  # one row of it
            continue
        read |= {each.name for each in weights}
        behind |= node.op is Op.LAST
        if node.op is Op.MATMUL:
            adds[behind] += math.prod(int(size) for size in weights[0].shape)
    matrices = [graph.tensors[name] for name in read if len(graph.tensors[name].shape) > 1]
    return {
        "weight_bytes": sum(len(graph.tensors[name].data or b"") for name in read),
        "kv_bytes": kv_bytes // context,
        "multiply_adds": adds[0],
        "head_multiply_adds": adds[1],
        "integer": all(each.dtype.geometry.block > 1 for each in matrices),
    }


def main() -> None:
    """Load and take orders."""
    engine = Engine()
    try:
        threads, context, *more = sys.argv[2:]
        sequences, kv = [*more, *("1", "f16")[len(more) :]]
        host = Host(engine, sys.argv[1], int(threads), int(context), int(sequences), kv)
        engine.claw_start(host)
    except ClawError as error:
        peer.fail(error)
        return
    assert engine.session is not None and host.graph is not None
    session = engine.session
    shape = {"context": session.context, "threads": host.threads, "kv": kv}
    need = host.driver("cpu").footprint(host.graph, **shape)
    facts = asked(host.graph, session.context, need.kv) | {
        "name": "clawai",
        "isa": getattr(session.plan, "isa", ""),
        "vocabulary": session.tokenizer.vocabulary,
    }
    with session.turns.seat() as seat:
        peer.serve(Ours(session, seat), facts)


if __name__ == "__main__":
    main()
