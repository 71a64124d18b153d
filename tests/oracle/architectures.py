"""What llama.cpp says of small random models, one for each architecture and each of its variants.

    python tests/oracle/architectures.py

writes ``architectures.json`` beside this file: log probabilities of the likeliest tokens after
prompts of growing length, long enough to leave every window. The models are made from a seed.
"""

import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from clawai.sdk.model.dtypes import DType
from gguf_files import T, tiny_llama

HERE = Path(__file__).parent
BEST = 12
PROMPT = [int(each) for each in np.random.default_rng(5).integers(3, 259, 90)]
LENGTHS = (1, 2, 7, 16, 17, 33, 64, 65, 90)
SIZES = {"width": 128, "hidden": 160, "heads": 4, "kv_heads": 2, "context": 256}


def divisors() -> T:
    """As of Llama 3.1: high frequencies stay, low ones are slowed down."""
    values = np.geomspace(1, 8, 16).astype(np.float32)
    return T("rope_freqs.weight", [16], DType.F32, values.tobytes())


GEMMA2 = {
    "gemma2.attention.sliding_window": 16,
    "gemma2.attention.key_length": 32,
    "gemma2.attention.value_length": 32,
    "gemma2.attn_logit_softcapping": 2.0,
    "gemma2.final_logit_softcapping": 3.0,
}
GEMMA3 = {
    "gemma3.attention.sliding_window": 16,
    "gemma3.attention.key_length": 32,
    "gemma3.attention.value_length": 32,
    "gemma3.rope.freq_base": 1e6,
    "gemma3.rope.scaling.type": "linear",
    "gemma3.rope.scaling.factor": 8.0,
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"architecture": "llama"},
    "llama 3.1": {"architecture": "llama", "extra": [divisors()]},
    "llama, own output": {"architecture": "llama", "tied": False, "seed": 1},
    "qwen2": {"architecture": "qwen2"},
    "qwen3": {"architecture": "qwen3"},
    "gemma": {"architecture": "gemma"},
    "gemma2": {"architecture": "gemma2", "layers": 4, "metadata": GEMMA2},
    "gemma3": {"architecture": "gemma3", "layers": 7, "metadata": GEMMA3},
}


# llama.cpp gives no probabilities for a token that ends inside of a character.
WORDS = {
    "tokenizer.ggml.tokens": [f"w{index} " for index in range(262)],
    "tokenizer.ggml.token_type": [1] * 262,
    "tokenizer.ggml.merges": ["a b"],
}


def build(name: str) -> bytes:
    """The file of a model."""
    made = {**SIZES, **MODELS[name]}
    return tiny_llama(**made | {"metadata": WORDS | made.get("metadata", {})})


def ask(name: str, path: Path) -> list[dict[str, float]]:
    """Log probabilities by token of the likeliest tokens, for each length of the prompt."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.warmup, params.verbosity = 256, 1, False, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    peer = xllamacpp.Server(params)
    answers = []
    for length in LENGTHS:
        request = {"prompt": PROMPT[:length], "max_tokens": 1, "temperature": 0.0}
        reply = peer.handle_completions(request | {"n_probs": BEST, "cache_prompt": False})
        best = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        answers.append({str(each["id"]): round(each["logprob"], 5) for each in best})
    return answers


def main() -> None:
    """Ask about every model (seconds) and write the file."""
    result: dict[str, Any] = {"made_by": f"llama.cpp as in xllamacpp {version('xllamacpp')}"}
    with tempfile.TemporaryDirectory() as folder:
        for name in MODELS:
            path = Path(folder) / "model.gguf"
            path.write_bytes(build(name))
            result[name] = ask(name, path)
    text = json.dumps(result, separators=(",", ":"))
    (HERE / "architectures.json").write_text(text.replace("[{", "[\n{").replace("},{", "},\n{"))


if __name__ == "__main__":
    main()
