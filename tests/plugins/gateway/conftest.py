"""Kernels with little models whose gateway serves, and clients of it."""

import json
from collections.abc import Iterator

import ollama
import openai
import pytest

import onnx_files
from doors_kit import Doors, gateway, written
from gguf_files import tiny_llama
from support import Kernel


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """One gateway for the tests of a module; ``tiny`` answers at once, ``long`` for long."""
    folder = tmp_path_factory.mktemp("models")

    def store(kernel: Kernel) -> None:
        kernel.model("tiny", written(folder / "tiny.gguf", tiny_llama(context=512)))
        large = tiny_llama(layers=4, width=256, hidden=1024, context=16384)
        kernel.model("long", written(folder / "long.gguf", large))

    with gateway(store, "[workers]\ncontext = 16384\n") as served:
        yield served


@pytest.fixture(scope="package")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """One gateway with models that take tensors; ``plus`` has the versions 2 and 3."""
    folder = tmp_path_factory.mktemp("models")
    models = {
        "half": onnx_files.half_plus(2.0),
        "mixed": onnx_files.mixed(),
        "kinds": onnx_files.kinds(),
        "classes": onnx_files.classifier(),
        "slow": onnx_files.slow(),
        "plus.2": onnx_files.half_plus(20.0),
        "plus.3": onnx_files.half_plus(30.0),
    }

    def store(kernel: Kernel) -> None:
        for name, data in models.items():
            kernel.model(name, written(folder / f"{name}.onnx", data), "tensor")
            if name.startswith("plus."):
                record = kernel.models_dir / name / "model.json"
                told = json.loads(record.read_text()) | {"serves": "plus", "version": int(name[5:])}
                record.write_text(json.dumps(told))

    with gateway(store) as served:
        yield served


@pytest.fixture
def client(doors: Doors) -> Iterator[openai.OpenAI]:
    """OpenAI's."""
    with openai.OpenAI(base_url=f"{doors.address}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def peer(doors: Doors) -> Iterator[ollama.Client]:
    """Ollama's."""
    with ollama.Client(host=doors.address) as client:
        yield client
