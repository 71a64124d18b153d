"""llama.cpp as a side of `claw bench decode` and `parallel`, from the wheel of the `bench` extra.

    python -m clawai.sdk.cli.bench.llamacpp MODEL.gguf THREADS CONTEXT [SEQUENCES [load]]

The times are llama.cpp's own (its server's ``timings``), so that nothing of ours or of the JSON in
between is counted against it. It decodes ``N + 1`` tokens and counts ``N``: its clock of the answer
starts when the first token is there.
"""

import importlib.metadata
import os
import re
import sys
import time
from collections.abc import Sequence
from typing import Any

from clawai.sdk.cli.bench import peer
from clawai.sdk.errors import ClawError


class LlamaCpp:
    """A model in llama.cpp's server, greedy, without its prompt cache; a slot a sequence."""

    def __init__(
        self,
        module: Any,
        model: str,
        threads: int,
        context: int,
        sequences: int = 1,
        *,
        loading: bool = False,
    ) -> None:
        params = module.CommonParams()
        params.model.path = model
        params.n_ctx = context * sequences  # of all slots
        params.n_parallel = sequences
        params.kv_unified = False  # each slot a cache of its own: faster there, too
        params.cpuparams.n_threads = threads
        params.cpuparams_batch.n_threads = threads
        if loading:  # what is measured is the load: the file is read, and nothing is run before
            params.load_mode = module.llama_load_mode.LLAMA_LOAD_MODE_NONE
            params.warmup = False
        self._server = module.Server(params)
        self._prompt: list[int] = []

    def _complete(self, prompt: Any, count: int) -> Any:
        return self._server.handle_completions(
            {
                "prompt": prompt,
                "n_predict": count,
                "temperature": 0.0,
                "samplers": ["top_k"],
                "top_k": 1,
                "ignore_eos": True,
                "cache_prompt": False,
            }
        )

    def _run(self, count: int) -> dict[str, Any]:
        answer = self._complete(self._prompt, count)
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

    def parallel(self, prompts: Sequence[Sequence[int]], count: int) -> float:
        """See ``peer.Peer``. One request of several prompts: its slots then decode in one batch.

        All are read in one batch and write as many tokens, so they begin and end together; the
        answer holds a choice of each, and the times of the first. Prompts are of one length.
        """
        answer = self._complete([list(prompt) for prompt in prompts], count + 1)
        timings = answer["timings"]
        ran = (len(answer["choices"]), timings["prompt_n"], timings["predicted_n"])
        if ran != (len(prompts), len(prompts[0]), count + 1):
            raise ClawError("worker_failed", "llama.cpp ran another number of tokens", got=ran)
        return float(timings["predicted_ms"]) / 1000


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
    sequences = int(sys.argv[4]) if len(sys.argv) > 4 else 1
    loading = sys.argv[5:] == ["load"]
    start = time.perf_counter()
    side = LlamaCpp(xllamacpp, model, threads, context, sequences, loading=loading)
    took = time.perf_counter() - start
    built = re.findall(r"(\w+) = 1", xllamacpp.get_system_info())
    version = f"xllamacpp {importlib.metadata.version('xllamacpp')} ({' '.join(built)})"
    peer.serve(side, {"name": "llama.cpp", "version": version, "load_s": took})
    # Its server's threads are not joined at a normal exit.
    os._exit(0)


if __name__ == "__main__":
    main()
