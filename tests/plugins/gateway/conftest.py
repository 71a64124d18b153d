"""A kernel with little models whose gateway serves."""

import json
from collections.abc import Iterator

import pytest

import onnx_files
from broker_parts import free_port
from doors_kit import Doors, served, written
from gguf_files import tiny_llama
from support import Kernel, no_leak


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """One gateway for the tests of a module; ``tiny`` answers at once, ``long`` for long."""
    port, folder = free_port(), tmp_path_factory.mktemp("models")
    kernel = Kernel(f'[plugins]\nports = ["gateway:8080={port}"]\n[workers]\ncontext = 16384\n')
    kernel.model("tiny", written(folder / "tiny.gguf", tiny_llama(context=512)))
    large = tiny_llama(layers=4, width=256, hidden=1024, context=16384)
    kernel.model("long", written(folder / "long.gguf", large))
    try:
        with no_leak():
            yield served(kernel.start(), port)
            assert kernel.stop() == 0, kernel.stderr()
            kernel.check_gone()
    finally:
        kernel.remove()


@pytest.fixture(scope="package")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """One gateway with models that take tensors; ``plus`` has the versions 2 and 3."""
    port, folder = free_port(), tmp_path_factory.mktemp("models")
    kernel = Kernel(f'[plugins]\nports = ["gateway:8080={port}"]\n')
    models = {
        "half": onnx_files.half_plus(2.0),
        "mixed": onnx_files.mixed(),
        "classes": onnx_files.classifier(),
        "slow": onnx_files.slow(),
        "plus.2": onnx_files.half_plus(20.0),
        "plus.3": onnx_files.half_plus(30.0),
    }
    for name, data in models.items():
        kernel.model(name, written(folder / f"{name}.onnx", data), "tensor")
        if name.startswith("plus."):
            record = kernel.models_dir / name / "model.json"
            told = json.loads(record.read_text()) | {"serves": "plus", "version": int(name[5:])}
            record.write_text(json.dumps(told))
    try:
        with no_leak():
            yield served(kernel.start(), port)
            assert kernel.stop() == 0, kernel.stderr()
            kernel.check_gone()
    finally:
        kernel.remove()
