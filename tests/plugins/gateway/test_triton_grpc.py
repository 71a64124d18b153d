"""The Open Inference Protocol over gRPC, by Triton's own client, on the port of the HTTP doors."""

import queue
import socket
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from doors_kit import Doors
from support import wait_until


@pytest.fixture(scope="module")
def client(tensors: Doors) -> Iterator[triton.InferenceServerClient]:
    made = triton.InferenceServerClient(f"127.0.0.1:{tensors.port}")
    yield made
    made.close()


def given(name: str, array: Any, kind: str) -> triton.InferInput:
    made = triton.InferInput(name, list(array.shape), kind)
    made.set_data_from_numpy(array)
    return made


X = np.float32([1, 2, 5])


def test_health_and_what_there_is(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("half") and not client.is_model_ready("nobody")
    assert "binary_tensor_data" in client.get_server_metadata().extensions
    told = client.get_model_metadata("mixed")
    assert [(each.name, each.datatype, list(each.shape)) for each in told.inputs] == [
        ("a", "INT64", [-1, 2]),
        ("b", "BOOL", [-1]),
        ("t", "BYTES", [-1]),
    ]
    assert list(client.get_model_metadata("plus").versions) == ["3", "2"]
    config = client.get_model_config("mixed", as_json=True)["config"]
    kinds = [each["data_type"] for each in config["input"]]
    assert kinds == ["TYPE_INT64", "TYPE_BOOL", "TYPE_STRING"]


def test_arrays_of_all_kinds(client: triton.InferenceServerClient) -> None:
    inputs = [
        given("a", np.int64([[1, 2], [3, 4]]), "INT64"),
        given("b", np.array([True, False]), "BOOL"),
        given("t", np.array(["grün".encode(), b""], object), "BYTES"),
    ]
    outputs = [triton.InferRequestedOutput(name) for name in ("same", "other", "sum")]
    found = client.infer("mixed", inputs, outputs=outputs, request_id="seven")
    assert found.get_response().id == "seven"
    assert found.as_numpy("sum").tolist() == [3, 7]
    assert found.as_numpy("other").tolist() == [False, True]
    assert found.as_numpy("same").tolist() == ["grün".encode(), b""]
    assert client.infer("half", [given("x", X, "FP32")]).as_numpy("y").tolist() == [2.5, 3.0, 4.5]
    found = client.infer("plus", [given("x", X[:1], "FP32")], model_version="2")
    assert found.as_numpy("y").tolist() == [20.5]
    outputs = [triton.InferRequestedOutput("scores", class_count=1)]
    found = client.infer("classes", [given("x", np.float32([[0, 9, 1]]), "FP32")], outputs=outputs)
    assert found.as_numpy("scores")[0][0].endswith(b":1")


def test_values_in_fields_of_their_own(client: triton.InferenceServerClient) -> None:
    made = triton.service_pb2.ModelInferRequest(model_name="half")
    made.inputs.add(name="x", datatype="FP32", shape=[2]).contents.fp32_contents.extend([1.0, 2.0])
    reply = client._client_stub.ModelInfer(made)
    assert np.frombuffer(reply.raw_output_contents[0], "<f4").tolist() == [2.5, 3.0]


def test_a_stream_of_requests(client: triton.InferenceServerClient) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for value in (1.0, 2.0):
        client.async_stream_infer("half", [given("x", np.float32([value]), "FP32")])
    client.async_stream_infer("nobody", [given("x", X, "FP32")])
    client.async_stream_infer("half", [given("x", np.float32([3.0]), "FP32")])
    got = [answers.get(timeout=60) for _ in range(4)]
    client.stop_stream()
    assert [result.as_numpy("y").tolist() for result, error in got if not error] == [
        [2.5],
        [3.0],
        [3.5],
    ]
    assert "no model 'nobody'" in str(got[2][1])


def test_the_repository(client: triton.InferenceServerClient) -> None:
    client.load_model("half")
    rows = {row.name: row for row in client.get_model_repository_index().models}
    assert rows["half"].state == "READY" and {"mixed", "plus"} <= set(rows)
    client.unload_model("half")
    with pytest.raises(InferenceServerException, match="claw pull"):
        client.load_model("half", files={"file:1/model.onnx": b"x"}, config="{}")


def test_errors_have_a_status(client: triton.InferenceServerClient, tensors: Doors) -> None:
    x = given("x", X, "FP32")
    for status, words, asked in (
        ("NOT_FOUND", "no model 'nobody'", {"model_name": "nobody"}),
        ("NOT_FOUND", "has no version '9'", {"model_name": "plus", "model_version": "9"}),
        ("INVALID_ARGUMENT", "another type", {"inputs": [given("x", np.float64([1]), "FP64")]}),
        ("INVALID_ARGUMENT", "keep nothing", {"sequence_id": 3}),
        ("DEADLINE_EXCEEDED", "", {"model_name": "slow", "client_timeout": 0.3}),
    ):
        with pytest.raises(InferenceServerException) as caught:
            client.infer(**({"model_name": "half", "inputs": [x]} | asked))
        assert status in caught.value.status() and words in caught.value.message()
    wait_until(lambda: tensors.running() == ["gateway.serve"], "the slow run ends")


def test_a_message_without_an_end_is_refused(tensors: Doors) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{tensors.port}") as channel:
        ask = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            ask(bytes(9 << 20))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.RpcError) as caught:
            ask(b"\xff\xff\xff")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/inference.GRPCInferenceService/Nothing")(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    with socket.create_connection(("127.0.0.1", tensors.port)) as half:
        half.sendall(b"PR")  # neither HTTP nor gRPC yet; the others are served
        assert tensors.ask("GET", "/health")[0] == 200
