"""ik_llama.cpp as a side of `claw bench decode`, from the prebuilt wheel of the `bench` extra.

    python -m clawai.sdk.cli.bench.ik_llamacpp MODEL.gguf THREADS CONTEXT

Its weights are repacked when they are loaded (its fastest form; it has no fast form of Q4_1). The
clock runs around its own decode call and the choice of the likeliest token.
"""

import ctypes
import importlib.metadata
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from clawai.sdk.cli.bench import peer
from clawai.sdk.errors import ClawError


class IkLlamaCpp:
    """A model in ik_llama.cpp, one sequence, greedy."""

    def __init__(self, calls: Any, internals: Any, model: str, threads: int, context: int) -> None:
        self._calls, self._internals = calls, internals
        params = calls.llama_model_default_params()
        params.use_mmap, params.repack_tensors = False, True
        calls.llama_backend_init()
        handle = calls.llama_model_load_from_file(model.encode(), params)
        if not handle:
            raise ClawError("bad_model", "ik_llama.cpp cannot load the model", got=model)
        loaded = internals.IkModel.__new__(internals.IkModel)
        loaded._model = handle
        loaded._vocab = calls.llama_model_get_vocab(handle)
        loaded.n_vocab = calls.llama_vocab_n_tokens(loaded._vocab)
        self._width = loaded.n_vocab
        self._context = internals.IkContext(
            loaded, n_ctx=context, n_threads=threads, flash_attn=False
        )
        self._tokens = 0
        self._next = 0

    def _decode(self, tokens: Sequence[int]) -> None:
        batch = self._internals.make_batch_range(list(tokens), pos_start=self._tokens)
        code = self._context.decode(batch)
        self._calls.llama_batch_free(batch)
        if code:
            raise ClawError("worker_failed", "ik_llama.cpp did not decode", got=code)
        self._tokens += len(tokens)
        logits = ctypes.cast(self._context.get_logits(-1), ctypes.POINTER(ctypes.c_float))
        self._next = int(np.argmax(np.ctypeslib.as_array(logits, (self._width,))))

    def prefill(self, tokens: Sequence[int]) -> float:
        """See ``peer.Peer``."""
        self._context.kv_cache_clear()
        self._tokens = 0
        start = time.perf_counter()
        self._decode(tokens)
        return time.perf_counter() - start

    def decode(self, count: int) -> float:
        """See ``peer.Peer``."""
        start = time.perf_counter()
        for _ in range(count):
            self._decode([self._next])
        return time.perf_counter() - start


def main() -> None:
    """Load and take orders."""
    model, threads, context = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    try:
        from ik_llama_cpp import _ctypes_api as calls
        from ik_llama_cpp import _internals as internals
    except ImportError:
        peer.fail(
            ClawError(
                "unsupported_system",
                "ik_llama.cpp is not installed here",
                got="no package ik-llama-cpp-python",
                hint="pip install 'clawai[bench]'",
            )
        )
        return
    try:
        side = IkLlamaCpp(calls, internals, model, threads, context)
    except ClawError as error:
        peer.fail(error)
        return
    version = f"ik-llama-cpp-python {importlib.metadata.version('ik-llama-cpp-python')}"
    peer.serve(side, {"name": "ik_llama.cpp", "version": version})
    os._exit(0)


if __name__ == "__main__":
    main()
