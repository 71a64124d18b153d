"""What llama.cpp says: greedy tokens, the gap between its two best logits, likelihood of a text.

    python tests/oracle/llamacpp.py MODEL.gguf [--everyday]

writes ``llamacpp.json`` beside this file, which the suite compares our engine with, so that only
this program needs llama.cpp (the prebuilt wheel ``xllamacpp`` of the bench extra). Differences of
log probabilities are those of logits.

Two lists of prompts. ``prompts.json``: what comes next is clear (counting, copying a line for the
fourth time); no gap of llama.cpp's is below ``CLEAR``, so every right engine gives its tokens.
``everyday.json``: ordinary beginnings, full of near ties that rounding activations to int8
decides; there llama.cpp is asked in two of its own settings (``--everyday``), because it does not
agree with itself.
"""

import hashlib
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PROMPTS: list[dict[str, Any]] = json.loads((HERE / "prompts.json").read_text())
TEXT = (HERE / "text.txt").read_text()
NEW_TOKENS = 32
CLEAR = 0.5
CONTEXT = 2048
_SHORT, _ALL = 400, 49152


def server(model: Path, cache: str = "") -> Any:
    """A quiet llama.cpp with one sequence, on one thread (its threads spin on a busy box).

    Args:
        model: the GGUF file.
        cache: "f16" or "f32": plain attention over such a KV cache, in place of its defaults.
    """
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_ctx = CONTEXT
    params.n_parallel = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup = False
    params.verbosity = 0
    if cache:
        kind = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{cache.upper()}")
        params.cache_type_k = params.cache_type_v = kind
        off = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.flash_attn_type = off
    return xllamacpp.Server(params)


def greedy(peer: Any, entry: dict[str, Any]) -> dict[str, Any]:
    """Tokens, and for each the logit gap to the second best (rounded to 0.0001)."""
    common = {"max_tokens": NEW_TOKENS, "temperature": 0.0, "cache_prompt": False}
    if "messages" in entry:
        request = {**common, **entry, "logprobs": True, "top_logprobs": 2}
        reply = peer.handle_chat_completions(request)
    else:
        reply = peer.handle_completions({**common, **entry, "n_probs": 2})
    choice = reply["choices"][0]
    steps = choice["logprobs"]["content"]
    # A token that ends inside of a character gets no entry of its own.
    missing = reply["usage"]["completion_tokens"] - len(steps)
    assert missing <= 0, f"{missing} tokens without probabilities: {entry}"
    gaps = [
        each["top_logprobs"][0]["logprob"] - each["top_logprobs"][1]["logprob"] for each in steps
    ]
    return {
        "prompt_tokens": reply["usage"]["prompt_tokens"],
        "tokens": [each["id"] for each in steps],
        "gaps": [round(gap, 4) for gap in gaps],
        "finish": choice["finish_reason"],
    }


def log_probability(peer: Any, ids: list[int], at: int) -> float:
    """log P(ids[at] | ids[:at]); the whole vocabulary is asked for only where it must be."""
    for count in (_SHORT, _ALL):
        reply = peer.handle_completions(
            {
                "prompt": ids[:at],
                "max_tokens": 1,
                "temperature": 0.0,
                "n_probs": count,
                "cache_prompt": True,
            }
        )
        best = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        for each in best:
            if each["id"] == ids[at]:
                return float(each["logprob"])
    raise AssertionError(f"llama.cpp gave no probability for token {ids[at]}")


def write(name: str, result: dict[str, Any], mark: str) -> None:
    """One line an item, each of which starts with ``mark``."""
    text = json.dumps(result, separators=(",", ":"), ensure_ascii=False)
    (HERE / name).write_text(text.replace(mark, "\n" + mark) + "\n")


def everyday(model: Path, about: dict[str, Any]) -> None:
    """Ask for everyday prompts in two settings (about three minutes)."""
    result = json.loads((HERE / "everyday.json").read_text()) | about
    peers = {"a": server(model, "f16"), "b": server(model, "f32")}
    for case in result["prompts"]:
        for setting, peer in peers.items():
            answer = greedy(peer, case["request"])
            case[setting] = {key: answer[key] for key in case[setting]}
    write("everyday.json", result, '{"request"')


def main() -> None:
    """Ask everything (about five minutes) and write the file."""
    from clawai.plugins.engine.tokenizer import Tokenizer
    from clawai.sdk.model import gguf

    model = Path(sys.argv[1])
    with model.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    about = {
        "made_by": f"llama.cpp as in xllamacpp {version('xllamacpp')}",
        "model_sha256": digest,
    }
    if "--everyday" in sys.argv:
        everyday(model, about)
        return
    ids = Tokenizer(gguf.read(model)).encode(TEXT)
    peer = server(model)
    answers = [greedy(peer, entry) for entry in PROMPTS]
    near = [n for n, each in enumerate(answers) if min(each["gaps"]) < CLEAR]
    assert not near, f"prompts {near} are not clear to llama.cpp: a gap is below {CLEAR}"
    log_probabilities = [log_probability(peer, ids, at) for at in range(1, len(ids))]
    figures = {
        "text_tokens": ids,
        "mean_nll": -sum(log_probabilities) / len(log_probabilities),
        "log_probabilities": [round(each, 5) for each in log_probabilities],
        "answers": answers,
    }
    write("llamacpp.json", about | figures, '{"prompt_tokens"')


if __name__ == "__main__":
    main()
