"""``model.quantize`` in its sandbox: files in, files out, in little memory."""

import hashlib
from pathlib import Path
from typing import Any

import gguf as official
import numpy as np
import pytest

from clawai.sdk.errors import ClawError
from clawai.sdk.model.dequant import dequantize
from clawai.sdk.model.dtypes import DType
from clawai.sdk.model.gguf import parse
from gguf_files import File, T, tiny_llama
from support import Kernel, memory_kib
from tiny_llama import random_bytes

SOURCES = [
    DType.F32, DType.F16, DType.BF16, DType.Q8_0, DType.Q5_0, DType.Q4_K, DType.Q5_K, DType.Q6_K,
]  # fmt: skip


def model(kernel: Kernel, name: str, raw: bytes) -> None:
    path = kernel.base / f"{name}.gguf"
    path.write_bytes(raw)
    kernel.model(name, path)


def quantized(kernel: Kernel, name: str, **params: Any) -> tuple[bytes, dict[str, Any], list[Any]]:
    """The new file, the result, and the events."""
    with kernel.client() as client:
        task = client.submit("model.quantize", params, model=name)
        events = list(task)
        told = task.result().value
    first, *rest = (event.data for event in events if event.kind == "chunk")
    raw = b"".join(rest)
    assert told == first | {"sha256": hashlib.sha256(raw).hexdigest()}
    assert len(raw) == told["result"]["bytes"]
    return raw, told, events


@pytest.fixture(scope="module")
def many(shared_kernel: Kernel) -> bytes:
    """A model with a matrix of every type that is read, stored as ``many``."""
    rng = np.random.default_rng(0)
    tensors = [
        T(f"{each.name}.weight", (6, 256), each, random_bytes(rng, each, 6, 256, 1.0))
        for each in SOURCES
    ]
    tensors += [
        T("norm.weight", (64,), DType.F16, random_bytes(rng, DType.F16, 1, 64, 1.0)),
        T("odd.weight", (3, 40), DType.F16, random_bytes(rng, DType.F16, 3, 40, 1.0)),
        T("token_embd.weight", (9, 64), DType.F32, random_bytes(rng, DType.F32, 9, 64, 1.0)),
    ]
    raw = File({"general.architecture": "any", "general.name": "many"}, tensors).build()
    model(shared_kernel, "many", raw)
    return raw


@pytest.mark.parametrize("to", ["q8_0", "q4_0", "q4_1"])
def test_every_type_is_read_and_the_official_package_reads_the_result(
    shared_kernel: Kernel, many: bytes, to: str, tmp_path: Path
) -> None:
    raw, told, _ = quantized(shared_kernel, "many", to=to)
    source = parse(memoryview(many))
    (tmp_path / "x.gguf").write_bytes(raw)
    reader = official.GGUFReader(tmp_path / "x.gguf")
    assert reader.fields["general.name"].contents() == "many"
    found = {each.name: each for each in reader.tensors}
    assert list(found) == list(source.tensors)
    limit = {"q8_0": 0.011, "q4_0": 0.13, "q4_1": 0.11}[to]
    for name, tensor in source.tensors.items():
        was = dequantize(tensor.data, tensor.dtype, tensor.shape)
        now = official.quants.dequantize(found[name].data, found[name].tensor_type)
        error = np.sqrt(((now.reshape(was.shape) - was) ** 2).sum() / (was**2).sum())
        assert error <= limit, name
    types = {name: each.tensor_type.name for name, each in found.items()}
    assert types["token_embd.weight"] == "Q8_0" and types["odd.weight"] == "F16"
    assert types["norm.weight"] == "F32" and types["Q6_K.weight"] == to.upper()
    assert told["result"]["types"][to.upper()] > 0


def test_what_has_the_type_already_is_copied(shared_kernel: Kernel, many: bytes) -> None:
    raw, _, _ = quantized(shared_kernel, "many", to="q8_0")
    one, other = (parse(memoryview(each)).tensors["Q8_0.weight"] for each in (many, raw))
    assert bytes(one.data) == bytes(other.data)
    model(shared_kernel, "again", raw)
    again, _, _ = quantized(shared_kernel, "again", to="q8_0")
    assert again == raw


def test_the_new_model_runs(shared_kernel: Kernel) -> None:
    model(shared_kernel, "tiny", tiny_llama(context=256))
    scores = {}
    with shared_kernel.client() as client:
        for to in ("", "q8_0", "q4_1"):
            name = f"tiny-{to.replace('_', '-')}" if to else "tiny"
            if to:
                model(shared_kernel, name, quantized(shared_kernel, "tiny", to=to)[0])
            scores[to] = client.call("llm.score", {"text": "the cat"}, model=name).value["mean_nll"]
    assert scores["q8_0"] == pytest.approx(scores[""], rel=0.02)
    assert scores["q4_1"] == pytest.approx(scores[""], rel=0.2)


@pytest.fixture(scope="module")
def large(shared_kernel: Kernel) -> int:
    """A model of 96 MiB, stored as ``large``; its size."""
    data = np.random.default_rng(0).standard_normal(1 << 22).astype(np.float16).tobytes()
    tensors = [T(f"{i}.weight", (1 << 12, 1 << 10), DType.F16, data) for i in range(12)]
    raw = File({}, tensors).build()
    model(shared_kernel, "large", raw)
    return len(raw)


def test_memory_is_bounded_and_progress_is_told(shared_kernel: Kernel, large: int) -> None:
    peak = 0
    with shared_kernel.client() as client:
        task = client.submit("model.quantize", {"to": "q4_0"}, model="large")
        fractions, pid = [], 0
        for event in task:
            if event.kind == "chunk":
                pid = pid or shared_kernel.worker_pid("quantizer")
                peak = max(peak, memory_kib(pid, "RssAnon"))
            elif event.kind == "progress" and event.fraction is not None:
                fractions.append(event.fraction)
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert large > 96 << 20 and peak < 80 << 10


def test_a_cancel_ends_it(shared_kernel: Kernel, large: int) -> None:
    with shared_kernel.client() as client:
        task = client.submit("model.quantize", {"to": "q4_1"}, model="large")
        pieces = 0
        for event in task:
            pieces += event.kind == "chunk"
            if pieces == 3:
                task.cancel()
        with pytest.raises(ClawError) as caught:
            task.result()
        assert caught.value.code == "cancelled" and pieces < 30
        assert client.call("model.quantize", {"to": "q8_0"}, model="large").value["sha256"]


def test_hostile_files_end_in_typed_errors(shared_kernel: Kernel) -> None:
    bad = np.ones((40, 64), np.float32)
    bad[33, 5] = np.nan
    scale = (np.float16(np.inf).tobytes() + bytes([1] * 32)) * 4
    for name, tensor, why in (
        ("nan", T("a.weight", (40, 64), DType.F32, bad.tobytes()), "nan"),
        (
            "large-weight",
            T("a.weight", (1, 64), DType.F32, (bad[:1] * 1e9).tobytes()),
            "1000000000",
        ),
        ("inf", T("a.weight", (2, 64), DType.Q8_0, scale), "inf"),
    ):
        model(shared_kernel, name, File({}, [tensor]).build())
        with pytest.raises(ClawError, match="a weight that cannot be quantized") as caught:
            quantized(shared_kernel, name, to="q4_1")
        assert caught.value.code == "bad_model" and why in str(caught.value.got)
    model(shared_kernel, "cut-off", tiny_llama()[:-100])
    with pytest.raises(ClawError, match="beyond the end of the file") as caught:
        quantized(shared_kernel, "cut-off", to="q8_0")
    assert caught.value.code == "bad_model"


def test_parameters_are_checked(shared_kernel: Kernel, many: bytes) -> None:
    for params in ({"to": "q2_k"}, {}, {"to": "q4_0", "embedding": "f64"}):
        with pytest.raises(ClawError) as caught:
            quantized(shared_kernel, "many", **params)
        assert caught.value.code == "bad_params"
