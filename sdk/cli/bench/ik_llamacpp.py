"""ik_llama.cpp as a side of `claw bench decode`, from the prebuilt wheel of the `bench` extra.

    python -m clawai.sdk.cli.bench.ik_llamacpp MODEL.gguf THREADS CONTEXT [SEQUENCES]

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
    """A model in ik_llama.cpp, greedy."""

    def __init__(
        self, calls: Any, internals: Any, model: str, threads: int, context: int, sequences: int = 1
    ) -> None:
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
            loaded,
            n_ctx=context * sequences,
            n_threads=threads,
            flash_attn=False,
            n_seq_max=sequences,
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
        self._next = self._likeliest(-1)

    def _likeliest(self, row: int) -> int:
        logits = ctypes.cast(self._context.get_logits(row), ctypes.POINTER(ctypes.c_float))
        return int(np.argmax(np.ctypeslib.as_array(logits, (self._width,))))

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

    def parallel(self, prompts: Sequence[Sequence[int]], count: int) -> float:
        """See ``peer.Peer``; a token of each sequence in one batch."""
        self._context.kv_cache_clear()
        tokens, positions = [], []
        for number, prompt in enumerate(prompts):
            self._batch(list(prompt), [number] * len(prompt), range(len(prompt)), only_last=True)
            tokens.append(self._likeliest(-1))
            positions.append(len(prompt))
        start = time.perf_counter()
        for step in range(count):
            at = [position + step for position in positions]
            self._batch(tokens, range(len(prompts)), at, only_last=False)
            tokens = [self._likeliest(row) for row in range(len(prompts))]
        return time.perf_counter() - start

    def _batch(
        self, tokens: Sequence[int], numbers: Sequence[int], at: Sequence[int], *, only_last: bool
    ) -> None:
        """Decode tokens of any sequences; logits of all or of the last."""
        batch = self._calls.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for row, (token, number, position) in enumerate(zip(tokens, numbers, at, strict=True)):
            batch.token[row], batch.pos[row] = token, position
            batch.n_seq_id[row], batch.seq_id[row][0] = 1, number
            batch.logits[row] = int(not only_last or row == len(tokens) - 1)
        code = self._context.decode(batch)
        self._calls.llama_batch_free(batch)
        if code:
            raise ClawError("worker_failed", "ik_llama.cpp did not decode", got=code)


def main() -> None:
    """Load and take orders."""
    model, numbers = sys.argv[1], [int(word) for word in sys.argv[2:]]
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
        side = IkLlamaCpp(calls, internals, model, *numbers)
    except ClawError as error:
        peer.fail(error)
        return
    version = f"ik-llama-cpp-python {importlib.metadata.version('ik-llama-cpp-python')}"
    peer.serve(side, {"name": "ik_llama.cpp", "version": version})
    os._exit(0)


if __name__ == "__main__":
    main()
