"""Keys at the doors that are not OpenAI's: gRPC, shared memory, the page."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

import onnx_files
from broker_parts import free_port
from clawai.sdk.httpkeys import hashed
from doors_kit import Doors, written
from support import Kernel, no_leak

SCOPES = {
    "words": ["llm.*"],
    "arrays": ["tensor.*"],
    "lender": ["tensor.*", "shared_memory"],
    "looker": ["page"],
}


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """Nobody is answered without a key."""
    port, folder = free_port(), tmp_path_factory.mktemp("models")
    kernel = Kernel(f'[plugins]\nports = ["gateway:8080={port}"]\n')
    kernel.model("half", written(folder / "half.onnx", onnx_files.half_plus(2.0)), "tensor")
    keys = [
        {"name": name, "hash": hashed(f"claw-{name}"), "operations": scopes}
        for name, scopes in SCOPES.items()
    ]
    try:
        with no_leak():
            client = kernel.start().client()
            task = client.submit("gateway.serve", {"keys": keys, "required": True})
            assert any(event.note.startswith("http://") for event in task)
            yield Doors(kernel, client, task, port)
            assert kernel.stop() == 0, kernel.stderr()
            kernel.check_gone()
    finally:
        kernel.remove()


@pytest.fixture
def peer(doors: Doors) -> Iterator[triton.InferenceServerClient]:
    made = triton.InferenceServerClient(f"127.0.0.1:{doors.port}")
    yield made
    made.close()


def sent(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer claw-{name}"} if name else {}


def infer(peer: triton.InferenceServerClient, name: str) -> Any:
    x = triton.InferInput("x", [3], "FP32")
    x.set_data_from_numpy(np.float32([1, 2, 5]))
    return peer.infer("half", [x], headers=sent(name)).as_numpy("y")


@pytest.mark.parametrize(
    ("name", "status"),
    [("", "UNAUTHENTICATED"), ("nobody", "UNAUTHENTICATED"), ("words", "PERMISSION_DENIED")],
)
def test_grpc_needs_a_key_that_says_so(
    peer: triton.InferenceServerClient, name: str, status: str
) -> None:
    assert peer.get_model_metadata("half", headers=sent("arrays")).name == "half"  # it is kept
    assert peer.is_server_live()  # who looks whether it lives needs none
    with pytest.raises(InferenceServerException) as refused:
        infer(peer, name)
    assert refused.value.status() == f"StatusCode.{status}"
    with pytest.raises(InferenceServerException) as refused:
        peer.get_model_metadata("half", headers=sent(name))
    assert refused.value.status() == f"StatusCode.{status}"


def test_grpc_answers_who_has_one(peer: triton.InferenceServerClient) -> None:
    assert infer(peer, "arrays").tolist() == [2.5, 3.0, 4.5]


def test_a_stream_needs_it_for_each_request(peer: triton.InferenceServerClient) -> None:
    said: list[Any] = []
    peer.start_stream(lambda result, error: said.append(error), headers=sent("words"))
    x = triton.InferInput("x", [1], "FP32")
    x.set_data_from_numpy(np.float32([1]))
    peer.async_stream_infer("half", [x])
    peer.stop_stream()
    assert "may not ask for this" in str(said[0])


def test_memory_is_for_keys_that_name_it(doors: Doors, peer: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException) as refused:
        peer.get_system_shared_memory_status(headers=sent("arrays"))
    assert refused.value.status() == "StatusCode.PERMISSION_DENIED"
    assert not peer.get_system_shared_memory_status(headers=sent("lender")).regions
    path = "/v2/systemsharedmemory/status"
    assert doors.ask("GET", path, headers=sent("arrays"))[0] == 403
    assert doors.ask("GET", path, headers=sent("lender"))[0] == 200


def test_the_page_is_for_keys_that_name_it(doors: Doors) -> None:
    for path in ("/page/now", "/page/logs", "/page/try"):
        assert doors.ask("GET", path)[0] == 401
        assert doors.ask("GET", path, headers=sent("arrays"))[0] == 403
        assert doors.ask("GET", path, headers=sent("looker"))[0] == 200
    json = {"content-type": "application/json"}
    assert doors.ask("POST", "/page/now/pin", {}, sent("arrays") | json)[0] == 403
