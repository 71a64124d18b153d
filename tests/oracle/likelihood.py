"""What llama.cpp says of the text when it computes with the very weights that a file stores.

    python tests/oracle/likelihood.py MODEL.gguf

writes ``likelihood.json`` beside this file: the mean negative log-likelihood of ``text.txt``, for
the file as it is and for the file with its tensors in Q8_0 as our quantizer makes it. The weights
of each are dequantized into a file of float16, and that is what llama.cpp runs: its own integer
products, with their rounding of activations, have no part in the figure. Our engine, which does
round activations, must come within half a percent of it.
"""

import hashlib
import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from clawai.plugins.engine.bench import Host
from clawai.plugins.engine.tokenizer import Tokenizer
from clawai.plugins.engine.worker import Engine
from clawai.plugins.quantizer.worker import Quantizer
from clawai.sdk.model import gguf
from clawai.sdk.model.dequant import dequantize
from clawai.sdk.model.dtypes import DType
from clawai.sdk.model.gguf_writer import NewTensor, header, padding
from oracle import llamacpp


class Quiet:
    """What a quantization tells, told to nobody."""

    def progress(self, part: float, text: str) -> None:
        assert 0 <= part <= 1 and text

    def checkpoint(self) -> None:
        assert self


def quantized(source: Path, target: Path) -> None:
    """The file with its weights in Q8_0, as ``claw quantize --to q8_0`` writes it."""
    worker = Quantizer()
    worker.claw_start(Host(Engine(), str(source), 1, 64))
    quiet: Any = Quiet()
    with target.open("wb") as file:
        for piece in worker.quantize(quiet, "q8_0"):
            if isinstance(piece, bytes):
                file.write(piece)


def dequantized(source: Path, target: Path) -> None:
    """The file with its matrices in float16; vectors stay in float32."""
    read = gguf.read(source)
    made = [
        NewTensor(each.name, each.shape, DType.F32 if len(each.shape) == 1 else DType.F16)
        for each in read.tensors.values()
    ]
    align = gguf.alignment(read)
    with target.open("wb") as file:
        for piece in header(read.entries, made, align):
            file.write(piece)
        for old, new in zip(read.tensors.values(), made, strict=True):
            values = dequantize(old.data, old.dtype, old.shape)
            kind = np.float32 if new.dtype is DType.F32 else np.float16
            file.write(values.astype(kind).tobytes() + padding(new.nbytes, align))


def mean_nll(model: Path) -> float:
    """Of the text, by llama.cpp with its KV cache in float32."""
    ids = Tokenizer(gguf.read(model)).encode(llamacpp.TEXT)
    peer = llamacpp.server(model, "f32")
    found = [llamacpp.log_probability(peer, ids, at) for at in range(1, len(ids))]
    return -sum(found) / len(found)


def figures(stored: Path, folder: Path) -> dict[str, Any]:
    """Of one file."""
    wide = folder / "wide.gguf"
    dequantized(stored, wide)
    with stored.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "mean_nll": round(mean_nll(wide), 6)}


def main() -> None:
    """Ask about both files (some minutes) and write the figures."""
    model = Path(sys.argv[1])
    found: dict[str, Any] = {"made_by": f"llama.cpp as in xllamacpp {version('xllamacpp')}"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        quantized(model, folder / "q8_0.gguf")
        found["as stored"] = figures(model, folder)
        found["q8_0"] = figures(folder / "q8_0.gguf", folder)
    text = json.dumps(found, indent=1)
    (llamacpp.HERE / "likelihood.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
