"""Our side of `claw bench decode` and `parallel`: the engine as in a worker, without sandbox.

    python -m clawai.plugins.engine.bench MODEL.gguf THREADS CONTEXT [SEQUENCES [KV]]

The drivers come from the manifest and are found through their hook, as the worker host does it.
"""

import importlib
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from clawai.plugins.engine.turns import Seat, Turns
from clawai.plugins.engine.worker import Engine
from clawai.sdk import hooks
from clawai.sdk.cli.bench import peer
from clawai.sdk.errors import ClawError
from clawai.sdk.manifest import read_plugin


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
        self._plugins = hooks.manager()
        folder = Path(__file__).parent
        for name in read_plugin(folder).plugin.drivers:
            found = read_plugin(folder.parent / name).plugin.module
            module = importlib.import_module(found)
            self._plugins.register(getattr(module, "claw_plugin", module))
        self._plugins.register(engine)

    def reserve(self, size: int) -> None:
        """Granted: there is no ledger here."""

    def notes(self) -> bytes | None:
        """Nobody was here before."""

    def weights(
        self,
        layout: str,
        nbytes: int,
        private: int,
        fill: Callable[[memoryview], None],
        notes: bytes = b"",
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
        return hooks.load_model(self._plugins, self.model_fd)

    def quantize(self, weights: Any, dtype: Any, importance: Any = None) -> Any:
        """A matrix in the blocks of ``dtype``."""
        return hooks.quantize(self._plugins, weights, dtype, importance)


class Ours:
    """A loaded model, greedy."""

    def __init__(self, turns: Turns, seat: Seat) -> None:
        self._turns = turns
        self._seat = seat
        self._next = 0

    def prefill(self, tokens: Sequence[int]) -> float:
        """See ``clawai.sdk.cli.bench.peer.Peer``."""
        self._seat.sequence.rewind(0)
        start = time.perf_counter()
        self._next = int(np.argmax(self._seat.run(list(tokens))[-1]))
        return time.perf_counter() - start

    def decode(self, count: int) -> float:
        """See ``clawai.sdk.cli.bench.peer.Peer``."""
        token = self._next
        start = time.perf_counter()
        for _ in range(count):
            token = int(np.argmax(self._seat.run([token])[-1]))
        return time.perf_counter() - start

    def parallel(self, prompts: Sequence[Sequence[int]], count: int) -> float:
        """See ``clawai.sdk.cli.bench.peer.Peer``. A thread and a seat each, as tasks have."""
        ready = threading.Barrier(len(prompts) + 1)

        def answer(prompt: Sequence[int]) -> None:
            with self._turns.seat() as seat:
                token = int(np.argmax(seat.run(list(prompt))[-1]))
                ready.wait()
                for _ in range(count):
                    token = int(np.argmax(seat.run([token])[-1]))

        with ThreadPoolExecutor(len(prompts)) as threads:
            answers = [threads.submit(answer, prompt) for prompt in prompts]
            ready.wait()
            start = time.perf_counter()
            for each in answers:
                each.result()
            return time.perf_counter() - start


def main() -> None:
    """Load and take orders."""
    engine = Engine()
    try:
        threads, context, *more = sys.argv[2:]
        sequences, kv = [*more, *("1", "f16")[len(more) :]]
        engine.claw_start(Host(engine, sys.argv[1], int(threads), int(context), int(sequences), kv))
    except ClawError as error:
        peer.fail(error)
        return
    assert engine.session is not None
    session = engine.session
    facts = {
        "name": "clawai",
        "isa": getattr(session.plan, "isa", ""),
        "vocabulary": session.tokenizer.vocabulary,
    }
    with session.turns.seat() as seat:
        peer.serve(Ours(session.turns, seat), facts)


if __name__ == "__main__":
    main()
