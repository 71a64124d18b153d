"""Moonshine: an encoder that hears, and a decoder that writes token by token with a cache.

Source: Jeffries et al. 2024 (arXiv 2410.15608). The decoder is the merged one of the ONNX export:
its first run fills the cache of what was heard, the others keep it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from clawai.plugins.speech.sound import F32, RATE
from clawai.sdk.errors import ClawError
from clawai.sdk.model import bundle

BEGIN, END = 1, 2
"""Ids of the tokens at both ends of a text."""
A_SECOND = 6.5
"""More tokens than anybody speaks in one: what goes on for longer only repeats itself."""
LEAST = RATE // 2
"""Samples that the encoder gets at least."""
WORDS = 1 << 18
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


def vocabulary(data: memoryview) -> list[bytes]:
    """The tokens' texts: each behind its length, of seven bits, or of fifteen in two bytes.

    Raises:
        ClawError: bad_model.
    """
    found: list[bytes] = []
    at, whole = 0, bytes(data)
    while at < len(whole):
        size = whole[at]
        at += 1
        if size >= 128 and at < len(whole):
            size = size & 127 | whole[at] << 7
            at += 1
        if at + size > len(whole) or len(found) == WORDS:
            raise ClawError("bad_model", "the vocabulary is cut off", len(found))
        found.append(whole[at : at + size])
        at += size
    return found


class Moonshine:
    """One model.

    Raises:
        ClawError: bad_model; unsupported_system, ONNX Runtime is not there.
    """

    def __init__(self, members: Mapping[str, memoryview]) -> None:
        files = dict(members)
        self._encoder = _session(bundle.member(files, "encoder_model.ort"))
        self._decoder = _session(bundle.member(files, "decoder_model_merged.ort"))
        self._words = vocabulary(bundle.member(files, "tokenizer.bin"))
        self._empty: dict[str, Any] = {}
        for each in self._decoder.get_inputs():
            if each.name.startswith("past_key_values."):
                heads, width = each.shape[1], each.shape[3]
                if not (isinstance(heads, int) and isinstance(width, int)):
                    raise ClawError("bad_model", f"the cache {each.name}", list(each.shape))
                self._empty[each.name] = np.zeros((1, heads, 0, width), np.float32)
        self._kept = [each.name for each in self._decoder.get_outputs()][1:]
        expected = {each.replace("present.", "past_key_values.") for each in self._kept}
        if not self._empty or expected != set(self._empty):
            raise ClawError("bad_model", "the decoder's caches in and out differ")

    def write(self, samples: F32, obey: Callable[[], None]) -> str:
        """What is said in one part.

        Args:
            samples: at 16 kHz, of half a minute at most.
            obey: called before each token; what it raises ends the run.

        Raises:
            ClawError: bad_model, it does not fit together.
        """
        heard = np.zeros((1, max(len(samples), LEAST)), np.float32)
        heard[0, : len(samples)] = samples
        everything = np.ones(heard.shape, np.int64)
        try:
            said = {"input_values": heard, "attention_mask": everything}
            states = self._encoder.run(None, said)[0]
            ids = self._decode(states, everything, obey)
        except ClawError:
            raise
        except Exception as error:  # ONNX Runtime's errors have no common root but this
            if type(error).__module__.partition(".")[0] != "onnxruntime":
                raise
            text = " ".join(str(error).split())[:500]
            raise ClawError("bad_model", f"the model does not run: {text}") from None
        text = b"".join(self._words[each] for each in ids).decode(errors="replace")
        return text.replace(SPACE, " ").strip()

    def _decode(self, states: Any, everything: Any, obey: Callable[[], None]) -> list[int]:
        cache, token, ids = dict(self._empty), BEGIN, list[int]()
        for step in range(int(everything.size / RATE * A_SECOND) + 2):
            obey()
            logits, *kept = self._decoder.run(
                None,
                {
                    "input_ids": np.array([[token]], np.int64),
                    "encoder_hidden_states": states,
                    "encoder_attention_mask": everything,
                    "use_cache_branch": np.array([step > 0]),
                    **cache,
                },
            )
            for name, value in zip(self._kept, kept, strict=True):
                # Behind the first run what was heard comes back empty.
                if step == 0 or ".encoder." not in name:
                    cache[name.replace("present.", "past_key_values.")] = value
            token = int(logits[0, -1].argmax())
            if token == END:
                break
            if token >= len(self._words):
                got = f"token {token} of {len(self._words)}"
                raise ClawError("bad_model", "the decoder and the vocabulary differ", got)
            ids.append(token)
        return ids


def _session(data: memoryview) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ClawError(
            "unsupported_system",
            f"speech needs the package {error.name}",
            hint="pip install 'clawai[voice]'",
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # what a run took is given back after it
    options.log_severity_level = 4  # each error comes as an exception, too
    try:
        return onnxruntime.InferenceSession(
            bytes(data), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its own classes of errors have no common root but this
        text = " ".join(str(error).split())[:500]
        raise ClawError("bad_model", f"ONNX Runtime cannot load the model: {text}") from None
