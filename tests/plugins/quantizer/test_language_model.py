"""A real language model, quantized by its worker, runs and is hardly worse."""

import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from clawai.sdk.model.gguf import parse
from oracle import llamacpp
from support import Kernel, no_leak

LIKELIHOOD = json.loads((llamacpp.HERE / "likelihood.json").read_text())["q8_0"]

TEXT = (
    "The town library opens at nine. On rainy days the reading room fills before noon, and the "
    "children sit on the floor beside the old globe, turning it slowly to look for islands."
)


@pytest.fixture(scope="module")
def stored(shared_kernel: Kernel, smollm2_path: Path) -> Iterator[Kernel]:
    """A daemon whose store holds ``smollm2``."""
    with no_leak():
        shared_kernel.model("smollm2", smollm2_path)
        yield shared_kernel
        shared_kernel.close_clients()


def quantized(kernel: Kernel, to: str) -> str:
    """Quantize the model and store it; its name."""
    path = kernel.base / f"{to}.gguf"
    with kernel.client() as client, path.open("wb") as file:
        task = client.submit("model.quantize", {"to": to}, model="smollm2")
        pieces = (event.data for event in task if event.kind == "chunk")
        for piece in itertools.islice(pieces, 1, None):
            file.write(piece)
        assert file.tell() == task.result().value["result"]["bytes"]
    name = f"smollm2-{to}"
    kernel.model(name, path)
    return name


@pytest.mark.model
def test_eight_bits_are_hardly_worse_and_four_run(stored: Kernel, smollm2_path: Path) -> None:
    nll = {}
    with stored.client() as client:
        for name in ("smollm2", quantized(stored, "q8_0"), quantized(stored, "q4_0")):
            nll[name] = client.call("llm.score", {"text": TEXT}, model=name).value["mean_nll"]
        question = {"prompt": "The capital of France is", "max_tokens": 4}
        answer = client.call("llm.generate", question, model="smollm2-q4_0").value["text"]
        text = client.call("llm.score", {"text": llamacpp.TEXT}, model="smollm2-q8_0").value
    # What llama.cpp says when it computes with these very weights in float16.
    made = hashlib.sha256((stored.base / "q8_0.gguf").read_bytes()).hexdigest()
    assert made == LIKELIHOOD["sha256"]
    assert text["mean_nll"] == pytest.approx(LIKELIHOOD["mean_nll"], rel=0.005)
    assert nll["smollm2-q8_0"] == pytest.approx(nll["smollm2"], rel=0.01)
    assert nll["smollm2-q4_0"] == pytest.approx(nll["smollm2"], rel=0.15)
    assert answer.strip()
    was, now = (
        parse(memoryview(path.read_bytes())) for path in (smollm2_path, stored.base / "q4_0.gguf")
    )
    tokenizers = [key for key in was.entries if key.startswith("tokenizer.")]
    assert tokenizers and all(bytes(was.entries[k]) == bytes(now.entries[k]) for k in tokenizers)
