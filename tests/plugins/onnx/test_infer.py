"""Models in ONNX files, run in the real sandbox by a real client."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import onnx_files
from clawai.sdk.client import Client
from clawai.sdk.errors import ClawError
from support import Kernel, no_leak, wait_until

MODELS = {
    "half": onnx_files.half_plus(2.0),
    "mixed": onnx_files.mixed(),
    "slow": onnx_files.slow(),
    "greedy": onnx_files.greedy(),
    "broken": onnx_files.half_plus(2.0)[:-9],
    "elsewhere": onnx_files.elsewhere(),
}


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    folder = tmp_path_factory.mktemp("models")
    made = Kernel()
    for name, data in MODELS.items():
        made.model(name, onnx_files.written(folder / f"{name}.onnx", data), "tensor")
    try:
        with no_leak():
            yield made.start()
            assert made.stop() == 0, made.stderr()
            made.check_gone()
    finally:
        made.remove()


@pytest.fixture
def client(kernel: Kernel) -> Client:
    return kernel.client()


def infer(client: Client, model: str, wanted: Any = None, **arrays: Any) -> dict[str, Any]:
    """Run a model; its outputs as arrays."""
    made = {name: np.asarray(each) for name, each in arrays.items()}
    told = {
        name: {"dtype": each.dtype.str, "shape": each.shape, "frame": at}
        for at, (name, each) in enumerate(made.items())
    }
    frames = [each.tobytes() for each in made.values()]
    params = {"inputs": told} | ({"outputs": wanted} if wanted is not None else {})
    result = client.call("tensor.infer", params, model=model, frames=frames)
    return {name: client.array(result, each) for name, each in result.value.items()}


def test_it_says_what_it_takes_and_gives(client: Client) -> None:
    told = client.call("tensor.describe", model="mixed").value
    assert told["platform"] == "onnxruntime_onnx" and told["opset"] == 17
    assert told["inputs"] == [
        {"name": "a", "dtype": "<i8", "shape": [-1, 2]},
        {"name": "b", "dtype": "|b1", "shape": [-1]},
        {"name": "t", "dtype": "|S", "shape": [-1]},
    ]
    assert [each["name"] for each in told["outputs"]] == ["sum", "other", "same"]


def test_it_runs_on_arrays_of_all_kinds(client: Client) -> None:
    texts = np.array(["grün".encode(), b"", b"x"])
    a = np.arange(6).reshape(3, 2)
    found = infer(client, "mixed", a=a, b=[True, False, True], t=texts)
    assert found["sum"].tolist() == [1, 5, 9]
    assert found["other"].tolist() == [False, True, False]
    assert found["same"].tolist() == texts.tolist()
    assert list(infer(client, "mixed", ["sum"], a=a, b=[True] * 3, t=texts)) == ["sum"]
    assert infer(client, "half", x=np.float32([])).get("y").shape == (0,)


def test_large_arrays_travel_in_leases(client: Client) -> None:
    x = np.arange(4_000_000, dtype="<f4")
    give = client.borrow("tensor.infer", x.nbytes, model="half")
    take = client.borrow("tensor.infer", x.nbytes, model="half")
    give.array("<f4", x.shape)[:] = x
    tensor = {"dtype": "<f4", "shape": [len(x)]}
    params = {"inputs": {"x": tensor | {"lease": 0}}, "into": {"y": tensor | {"lease": 1}}}
    result = client.call("tensor.infer", params, model="half", leases=[give, take])
    assert result.value["y"]["lease"] == 1
    y = client.array(result, result.value["y"], [give, take])
    assert np.array_equal(y, x / 2 + 2)
    del y
    for loan in (give, take):
        client.give_back(loan)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({}, "not those of the model"),
        ({"x": np.float64([1])}, "another type"),
        ({"x": np.float32([[1]])}, "another shape"),
        ({"x": np.float32([1]), "z": np.float32([1])}, "not those of the model"),
    ],
)
def test_wrong_inputs_are_named(client: Client, arrays: Any, words: str) -> None:
    with pytest.raises(ClawError, match=words) as caught:
        infer(client, "half", **arrays)
    assert caught.value.code == "bad_params"
    with pytest.raises(ClawError, match="no such output"):
        infer(client, "half", ["z"], x=np.float32([1]))


def test_a_file_that_is_none_is_refused_before_it_is_loaded(client: Client) -> None:
    with pytest.raises(ClawError, match="cut off") as caught:
        infer(client, "broken", x=np.float32([1]))
    assert caught.value.code == "bad_model"
    with pytest.raises(ClawError, match="another file"):
        infer(client, "elsewhere", x=np.float32([1]))


def test_more_memory_than_there_is_ends_the_run_alone(client: Client, kernel: Kernel) -> None:
    client.call("tensor.describe", model="greedy")
    pid = kernel.worker_pid("onnx")
    with pytest.raises(ClawError, match="cannot run on these inputs"):
        infer(client, "greedy", x=np.float32([1]), one=np.int64([1]))
    told = client.call("tensor.describe", model="greedy").value
    assert told["inputs"][0]["name"] == "x" and kernel.worker_pid("onnx") == pid


def test_an_engine_gets_only_models_of_its_format(client: Client) -> None:
    with pytest.raises(ClawError, match="takes GGUF files") as caught:
        client.call("llm.generate", {"prompt": "x"}, model="half")
    assert caught.value.got == "onnx" and "tensor.infer" in caught.value.hint


def test_a_run_that_would_never_end_is_cancelled(client: Client, kernel: Kernel) -> None:
    client.call("tensor.describe", model="slow")
    pid = kernel.worker_pid("onnx")
    tensor = {"dtype": "<f4", "shape": [1], "frame": 0}
    task = client.submit("tensor.infer", {"inputs": {"x": tensor}}, model="slow", frames=[bytes(4)])

    def states() -> list[str]:
        return [row["state"] for row in client.query("tasks")["tasks"]]

    wait_until(lambda: states() == ["running"], "it runs")
    task.cancel()
    with pytest.raises(ClawError) as caught:
        task.result()
    assert caught.value.code == "cancelled"
    assert pid in [row["pid"] for row in client.query("workers")["workers"]], "the worker lives"
    assert client.call("tensor.describe", model="slow").value["inputs"]
