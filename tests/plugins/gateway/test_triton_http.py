"""The Open Inference Protocol over HTTP, by Triton's own client."""

import json
from collections.abc import Iterator
from typing import Any

import gevent
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from doors_kit import Doors


@pytest.fixture(scope="module", autouse=True)
def hub() -> Iterator[None]:
    """The client's event loop, which is there for longer than a client."""
    gevent.sleep(0)
    yield
    gevent.get_hub().destroy(destroy_loop=True)


@pytest.fixture
def client(tensors: Doors) -> Iterator[triton.InferenceServerClient]:
    made = triton.InferenceServerClient(f"127.0.0.1:{tensors.port}")
    yield made
    made.close()


def given(name: str, array: Any, kind: str, binary: bool = True) -> triton.InferInput:
    made = triton.InferInput(name, list(array.shape), kind)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


X = np.float32([1, 2, 5])


def test_health_and_what_there_is(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("half") and client.is_model_ready("plus", "2")
    assert not client.is_model_ready("nobody") and not client.is_model_ready("plus", "9")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    told = client.get_model_metadata("mixed")
    assert told["inputs"] == [
        {"name": "a", "datatype": "INT64", "shape": [-1, 2]},
        {"name": "b", "datatype": "BOOL", "shape": [-1]},
        {"name": "t", "datatype": "BYTES", "shape": [-1]},
    ]
    assert client.get_model_metadata("plus")["versions"] == ["3", "2"]
    config = client.get_model_config("mixed")
    assert [each["data_type"] for each in config["input"]] == [
        "TYPE_INT64",
        "TYPE_BOOL",
        "TYPE_STRING",
    ]


@pytest.mark.parametrize("binary", [True, False])
def test_arrays_in_json_and_behind_it(client: triton.InferenceServerClient, binary: bool) -> None:
    outputs = [triton.InferRequestedOutput("y", binary_data=binary)]
    for wanted in (outputs, None):
        found = client.infer("half", [given("x", X, "FP32", binary)], outputs=wanted)
        assert found.as_numpy("y").tolist() == [2.5, 3.0, 4.5]
    inputs = [
        given("a", np.int64([[1, 2], [3, 4]]), "INT64", binary),
        given("b", np.array([True, False]), "BOOL", binary),
        given("t", np.array(["grün".encode(), b""], object), "BYTES", binary),
    ]
    names = ("same", "other", "sum")
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in names]
    found = client.infer("mixed", inputs, outputs=outputs, request_id="seven")
    assert found.get_response()["id"] == "seven"
    assert found.as_numpy("sum").tolist() == [3, 7]
    assert found.as_numpy("other").tolist() == [False, True]
    same = [each if isinstance(each, bytes) else each.encode() for each in found.as_numpy("same")]
    assert same == ["grün".encode(), b""]


def test_versions_and_classes(client: triton.InferenceServerClient) -> None:
    one = [given("x", np.float32([0]), "FP32")]
    assert client.infer("plus", one).as_numpy("y").tolist() == [30.0]
    found = client.infer("plus", one, model_version="2")
    assert found.as_numpy("y").tolist() == [20.0]
    assert found.get_response()["model_version"] == "2"
    outputs = [triton.InferRequestedOutput("scores", class_count=2)]
    x = np.float32([[0, 9, 1]])
    found = client.infer("classes", [given("x", x, "FP32")], outputs=outputs)
    ((first, second),) = found.as_numpy("scores").tolist()
    assert first.decode().endswith(":1") and second.decode().endswith(":2")


def test_the_repository(client: triton.InferenceServerClient) -> None:
    client.unload_model("half")

    def state() -> str:
        rows = {row["name"]: row for row in client.get_model_repository_index()}
        assert {"half", "mixed", "plus"} <= set(rows)
        return str(rows["half"]["state"])

    client.load_model("half")
    assert state() == "READY"
    with pytest.raises(InferenceServerException, match="claw pull"):
        client.load_model("half", files={"file:1/model.onnx": b"x"}, config="{}")
    with pytest.raises(InferenceServerException, match="no model 'nobody'"):
        client.load_model("nobody")


def test_a_deadline_and_a_sequence(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="deadline"):
        client.infer("slow", [given("x", X, "FP32")], timeout=200_000)
    with pytest.raises(InferenceServerException, match="keep nothing between"):
        client.infer("half", [given("x", X, "FP32")], sequence_id=5, sequence_start=True)


def tensor(**more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]} | more]}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "inputs"),
        (tensor(datatype="BF16"), "allowed: BOOL"),
        (tensor(datatype="FP64"), "another type"),
        (tensor(shape=[2]), "reshape"),
        (tensor(shape=[1 << 39, 1 << 39]), "inputs[0].data"),
        (tensor(shape=[-1]), "inputs[0].shape"),
        (tensor(data=[[1], [2]]), "has the shape [2, 1]"),
        (tensor(data=["a"]), "takes numbers"),
        (tensor(parameters={"binary_data_size": 4}), "an input has data, or"),
        ({"inputs": tensor()["inputs"] * 2}, "comes twice"),
        (tensor() | {"outputs": [{"name": "z"}]}, "no such output"),
        (tensor() | {"parameters": {"sequence_id": 3}}, "sequence_id is not supported"),
    ],
)
def test_what_is_wrong_is_named(tensors: Doors, body: Any, words: str) -> None:
    status, _, said = tensors.ask("POST", "/v2/models/half/infer", body)
    assert status == 400 and list(said) == ["error"] and words in said["error"], said


def test_bytes_behind_the_json_are_counted(tensors: Doors) -> None:
    plain = {"name": "x", "shape": [1], "datatype": "FP32"}
    for size, tail, length, words in (
        (4, b"\0\0\0", 0, "3 bytes are left"),
        (3, b"\0\0\0", 0, "3 bytes for [1] of FP32"),
        (4, b"\0" * 9, 0, "5 bytes behind the last input"),
        (4, b"\0" * 4, 99999, "of a body of"),
    ):
        head = json.dumps({"inputs": [plain | {"parameters": {"binary_data_size": size}}]}).encode()
        headers = {"Inference-Header-Content-Length": str(length or len(head))}
        status, _, said = tensors.ask("POST", "/v2/models/half/infer", head + tail, headers)
        assert status == 400 and words in said["error"], said
    status, _, said = tensors.ask(
        "POST", "/v2/models/half/infer", b"x", {"Content-Encoding": "gzip"}
    )
    assert status == 415 and "gzip" in said["error"]
