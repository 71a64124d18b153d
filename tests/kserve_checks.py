"""Checks by KServe's own clients, run by ``plugins/gateway/test_kserve.py`` as a program.

    python kserve_checks.py PORT

It takes the name of a check a line, and says a line what came of each: nothing, or the traceback in
JSON. The models are those of the fixture ``tensors``.
"""

import asyncio
import json
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import httpx
import numpy as np
from kserve import (
    InferenceGRPCClient,
    InferenceRESTClient,
    InferInput,
    InferRequest,
    InferResponse,
    RESTConfig,
)
from kserve.protocol.infer_type import RequestedOutput

Ask = Callable[..., Awaitable[InferResponse]]
KINDS = {
    "f2": ("FP16", [0.5, -2.0]),
    "f4": ("FP32", [0.1, -3e38]),
    "f8": ("FP64", [0.1, -1e300]),
    "i1": ("INT8", [-128, 127]),
    "i2": ("INT16", [-(1 << 15), 7]),
    "i4": ("INT32", [-(1 << 31), 7]),
    "i8": ("INT64", [-(1 << 63), 7]),
    "u1": ("UINT8", [0, 255]),
    "u2": ("UINT16", [0, (1 << 16) - 1]),
    "u4": ("UINT32", [0, (1 << 32) - 1]),
    "u8": ("UINT64", [0, (1 << 64) - 1]),
    "bool": ("BOOL", [True, False]),
}
X = np.float32([1, 2, 5])


def given(name: str, array: Any, kind: str, binary: bool = True) -> InferInput:
    made = InferInput(name, list(array.shape), kind)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def asked(model: str, inputs: list[InferInput], **more: Any) -> InferRequest:
    return InferRequest(model_name=model, infer_inputs=inputs, **more)


def output(response: InferResponse, name: str) -> Any:
    (found,) = (each for each in response.outputs if each.name == name)
    return found.as_numpy()


def of_all(binary: bool, kinds: list[str]) -> list[InferInput]:
    """An input of every type."""
    made = [
        given(name, np.array(values, np.dtype(name)), KINDS[name][0], binary)
        for name, (_, values) in KINDS.items()
        if name in kinds
    ]
    return [*made, given("text", np.array(["grün".encode(), b""], object), "BYTES", binary)]


def compare(response: InferResponse, kinds: list[str]) -> None:
    for name in kinds:
        found = output(response, f"same_{name}")
        assert found.dtype == np.dtype(name), (name, found.dtype)
        assert np.array_equal(found, np.array(KINDS[name][1], np.dtype(name))), (name, found)
    texts = output(response, "same_text").tolist()
    assert [t if isinstance(t, bytes) else t.encode() for t in texts] == ["grün".encode(), b""]


class Rest:
    """Over HTTP, protocol v2."""

    def __init__(self, base: str) -> None:
        self.base = base

    async def health(self, client: InferenceRESTClient) -> None:
        assert await client.is_server_live(self.base) and await client.is_server_ready(self.base)
        assert await client.is_model_ready(self.base, "half")
        assert not await client.is_model_ready(self.base, "nobody")

    async def arrays(self, client: InferenceRESTClient) -> None:
        for binary in (True, False):
            request = asked("half", [given("x", X, "FP32", binary)], request_id="seven")
            told: dict[str, str] = {}
            found = await client.infer(self.base, request, "half", response_headers=told)
            assert output(found, "y").tolist() == [2.5, 3.0, 4.5]
            assert (found.id, found.model_name) == ("seven", "half")
            assert "x-claw-warning" not in told, told

    async def every_type_behind_the_json(self, client: InferenceRESTClient) -> None:
        more = {"binary_data_output": True}
        request = asked("kinds", of_all(True, list(KINDS)), parameters=more)
        compare(await client.infer(self.base, request, "kinds"), list(KINDS))

    async def types_in_json(self, client: InferenceRESTClient) -> None:
        kinds = [name for name in KINDS if name != "f2"]  # the client sends no FP16 in JSON
        inputs = [*of_all(False, kinds), given("f2", np.float16([0.5, -2]), "FP16")]
        request = asked("kinds", inputs)
        compare(await client.infer(self.base, request, "kinds"), kinds)

    async def outputs_that_are_asked_for(self, client: InferenceRESTClient) -> None:
        wanted = [RequestedOutput("class", parameters={"binary_data": True})]
        inputs = [given("x", np.float32([[0, 9, 1]]), "FP32")]
        found = await client.infer(
            self.base, asked("classes", inputs, request_outputs=wanted), "classes"
        )
        assert [each.name for each in found.outputs] == ["class"]
        assert output(found, "class").tolist() == [1]

    async def what_is_wrong(self, client: InferenceRESTClient) -> None:
        for model, inputs, status, words in (
            ("nobody", [given("x", X, "FP32")], 404, "no model 'nobody'"),
            ("half", [given("z", X, "FP32")], 400, "allowed: ['x']"),
            ("half", [given("x", X.astype("f8"), "FP64")], 400, "another type"),
        ):
            try:
                await client.infer(self.base, asked(model, inputs), model)
            except httpx.HTTPStatusError as error:
                assert error.response.status_code == status and words in str(error), error
            else:
                raise AssertionError(words)
        told: dict[str, str] = {}
        request = asked("plus", [given("x", X, "FP32")])
        found = await client.infer(self.base, request, "half", response_headers=told)
        assert found.model_name == "half" and "the path says another" in told["x-claw-warning"]

    async def deadlines(self, client: InferenceRESTClient) -> None:
        inputs = [given("x", X, "FP32")]
        try:
            request = asked("slow", inputs, parameters={"timeout": 200_000})
            await client.infer(self.base, request, "slow")
        except httpx.HTTPStatusError as error:
            assert error.response.status_code == 408 and "deadline" in str(error), error
        else:
            raise AssertionError("a task has no end")
        try:
            await client.infer(self.base, asked("slow", inputs), "slow", timeout=0.3)
        except httpx.ReadTimeout:
            pass
        else:
            raise AssertionError("a client waits for ever")
        found = await client.infer(self.base, asked("half", inputs), "half")
        assert output(found, "y").tolist() == [2.5, 3.0, 4.5], "who hung up is not waited for"


class First:
    """Over HTTP, protocol v1."""

    def __init__(self, base: str) -> None:
        self.base = base

    async def readiness(self, client: InferenceRESTClient) -> None:
        assert await client.is_model_ready(self.base, "half") is True
        try:
            await client.is_model_ready(self.base, "nobody")
        except httpx.HTTPStatusError as error:
            assert error.response.status_code == 404, error
        else:
            raise AssertionError("nobody is ready")

    async def predictions(self, client: InferenceRESTClient) -> None:
        found = await client.infer(self.base, {"instances": [1.0, 2.0, 5.0]}, "half")
        assert found == {"predictions": [2.5, 3.0, 4.5]}, found
        try:
            await client.infer(self.base, {"instances": ["a"]}, "half")
        except httpx.HTTPStatusError as error:
            assert error.response.status_code == 400 and "'400 Bad Request'" in str(error), error
        else:
            raise AssertionError("a text is no number")


class Grpc:
    """Over gRPC."""

    async def health(self, client: InferenceGRPCClient) -> None:
        assert await client.is_server_live() and await client.is_server_ready()
        assert await client.is_model_ready("half")
        assert not await client.is_model_ready("nobody")

    async def arrays(self, client: InferenceGRPCClient) -> None:
        for binary in (True, False):
            request = asked("half", [given("x", X, "FP32", binary)], request_id="seven")
            found = await client.infer(request)
            assert output(found, "y").tolist() == [2.5, 3.0, 4.5]
            assert (found.id, found.model_name, found.model_version) == ("seven", "half", "1")
        request = asked("plus", [given("x", np.float32([0]), "FP32")], model_version="2")
        assert output(await client.infer(request), "y").tolist() == [20.0]

    async def every_type_in_bytes(self, client: InferenceGRPCClient) -> None:
        compare(await client.infer(asked("kinds", of_all(True, list(KINDS)))), list(KINDS))

    async def types_in_fields(self, client: InferenceGRPCClient) -> None:
        request = asked(
            "mixed",
            [
                given("a", np.int64([[1, 2], [3, 4]]), "INT64", False),
                given("b", np.array([True, False]), "BOOL", False),
                given("t", np.array(["grün".encode(), b""], object), "BYTES", False),
            ],
        )
        found = await client.infer(request)
        assert output(found, "sum").tolist() == [3, 7]
        assert output(found, "other").tolist() == [False, True]
        assert output(found, "same").tolist() == ["grün".encode(), b""]

    async def what_is_wrong(self, client: InferenceGRPCClient) -> None:
        for model, kind, code, words in (
            ("nobody", "f4", grpc.StatusCode.NOT_FOUND, "no model 'nobody'"),
            ("half", "f8", grpc.StatusCode.INVALID_ARGUMENT, "another type"),
        ):
            inputs = [given("x", X.astype(kind), KINDS[kind][0])]
            try:
                await client.infer(asked(model, inputs))
            except grpc.RpcError as error:
                assert error.code() == code and words in error.details(), error
            else:
                raise AssertionError(words)

    async def deadlines(self, client: InferenceGRPCClient) -> None:
        inputs = [given("x", X, "FP32")]
        try:
            await client.infer(asked("slow", inputs), timeout=0.3)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
        else:
            raise AssertionError("a client waits for ever")
        found = await client.infer(asked("half", inputs))
        assert output(found, "y").tolist() == [2.5, 3.0, 4.5]


async def check(port: int, name: str) -> None:
    """One check; its name is ``CLASS.METHOD``."""
    kind, _, method = name.partition(".")
    base = f"http://127.0.0.1:{port}"
    if kind == "Grpc":
        async with InferenceGRPCClient(f"127.0.0.1:{port}") as client:
            await getattr(Grpc(), method)(client)
        return
    config = RESTConfig(protocol="v1" if kind == "First" else "v2")
    async with InferenceRESTClient(config) as client:
        await getattr(First(base) if kind == "First" else Rest(base), method)(client)


async def main(port: int) -> None:
    """One event loop for all: gRPC's threads know only the first."""
    loop = asyncio.get_running_loop()
    while name := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        try:
            await check(port, name)
            said = ""
        except Exception:
            said = traceback.format_exc()
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
