"""llama.cpp as a side of `claw bench decode`, from the prebuilt wheel of the `bench` extra.

    python -m clawai.sdk.cli.bench.llamacpp MODEL.gguf THREADS CONTEXT

The times are llama.cpp's own (its server's ``timings``), so that nothing of ours or of the JSON in
between is counted against it. It decodes ``N + 1`` tokens and counts ``N``: its clock of the answer
starts when the first token is there.
"""

import importlib.metadata
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from clawai.sdk.cli.bench import peer
from clawai.sdk.errors import ClawError


class LlamaCpp:
    """A model in llama.cpp's server, one slot, greedy, without its prompt cache."""

    def __init__(self, module: Any, model: str, threads: int, context: int) -> None:
        params = module.CommonParams()
        params.model.path = model
        params.n_ctx = context
        params.n_parallel = 1
        params.cpuparams.n_threads = threads
        params.cpuparams_batch.n_threads = threads
        self._server = module.Server(params)
        self._prompt: list[int] = []

    def _run(self, count: int) -> dict[str, Any]:
        answer = self._server.handle_completions(
            {
                "prompt": self._prompt,
                "n_predict": count,
                "temperature": 0.0,
                "samplers": ["top_k"],
                "top_k": 1,
                "ignore_eos": True,
                "cache_prompt": False,
            }
        )
        timings: dict[str, Any] = answer["timings"]
        if timings["prompt_n"] != len(self._prompt) or timings["predicted_n"] != count:
            raise ClawError("worker_failed", "llama.cpp ran another number of tokens", got=timings)
        return timings

    def prefill(self, tokens: Sequence[int]) -> float:
        """See ``peer.Peer``."""
        self._prompt = list(tokens)
        return float(self._run(1)["prompt_ms"]) / 1000

    def decode(self, count: int) -> float:
        """See ``peer.Peer``; the prompt is read again, outside of the measured time."""
        return float(self._run(count + 1)["predicted_ms"]) / 1000


def main() -> None:
    """Load and take orders."""
    model, threads, context = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    try:
        import xllamacpp
    except ImportError:
        peer.fail(
            ClawError(
                "unsupported_system",
                "llama.cpp is not installed here",
                got="no package xllamacpp",
                hint="pip install 'clawai[bench]'",
            )
        )
        return
    side = LlamaCpp(xllamacpp, model, threads, context)
    built = re.findall(r"(\w+) = 1", xllamacpp.get_system_info())
    version = f"xllamacpp {importlib.metadata.version('xllamacpp')} ({' '.join(built)})"
    peer.serve(side, {"name": "llama.cpp", "version": version})
    # Its server's threads are not joined at a normal exit.
    os._exit(0)


if __name__ == "__main__":
    main()
