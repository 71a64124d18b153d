"""The Open Inference Protocol over gRPC, on the port of the other doors.

A connection that begins as HTTP/2 does is gRPC's (``either``); no browser begins so.
"""

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from google.protobuf.message import DecodeError
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.server import Server, Stream
from starlette.requests import Request

from clawai.plugins.gateway import inference
from clawai.plugins.gateway.answers import status_of, told
from clawai.plugins.gateway.fields import BadRequest
from clawai.plugins.gateway.keys import ASKER, Asker, Keys, Look
from clawai.plugins.gateway.messages import DATA_TYPES, PACKAGE, classes
from clawai.plugins.gateway.metrics import Metrics
from clawai.plugins.gateway.regions import Lent, Regions
from clawai.plugins.gateway.tensors import Array, Models, Urgency, made, urgency_of
from clawai.plugins.gateway.typed import DATATYPES, datatype, of_bytes, to_bytes
from clawai.sdk import wire
from clawai.sdk.errors import ClawError
from clawai.sdk.front import Front

SERVICE = f"{PACKAGE}.GRPCInferenceService"
MOST = wire.MAX_MESSAGE
"""Bytes of a message."""
PATIENCE = 30.0
"""Seconds for it to come."""
FREE = frozenset({"ServerLive", "ServerReady"})
"""Methods that need no key: they tell whether there is a server, and nothing of it."""
_STATUS = {
    400: Status.INVALID_ARGUMENT,
    401: Status.UNAUTHENTICATED,
    403: Status.PERMISSION_DENIED,
    404: Status.NOT_FOUND,
    408: Status.DEADLINE_EXCEEDED,
    413: Status.RESOURCE_EXHAUSTED,
    422: Status.FAILED_PRECONDITION,
    429: Status.RESOURCE_EXHAUSTED,
    503: Status.UNAVAILABLE,
    504: Status.UNAVAILABLE,
}
_TYPED = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
Method = Callable[[Any, Urgency, list[str]], Awaitable[Any]]


class Doors:
    """What answers the service's methods; grpclib finds them by ``__mapping__``."""

    def __init__(
        self,
        kernel: Front,
        models: Models,
        metrics: Metrics,
        regions: Regions,
        keys: Keys,
        look: Look,
    ) -> None:
        self._kernel, self._models, self._metrics = kernel, models, metrics
        self._regions, self._keys, self._look = regions, keys, look
        self._kinds = classes()

    def server(self) -> Server:
        """The server for these doors; made in the event loop that it runs in."""
        return Server([self])

    def __mapping__(self) -> dict[str, Handler]:
        methods: dict[str, Method] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ServerMetadata": self._server,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model,
            "ModelConfig": self._config,
            "ModelInfer": self._infer,
            "SystemSharedMemoryStatus": self._status,
            "SystemSharedMemoryUnregister": self._unregister,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }
        found = {}
        for name, method in methods.items():
            request, reply = self._kinds[f"{name}Request"], self._kinds[f"{name}Response"]
            unary = self._unary(name, method)
            found[f"/{SERVICE}/{name}"] = Handler(unary, Cardinality.UNARY_UNARY, request, reply)
        name = "SystemSharedMemoryRegister"
        kinds = self._kinds[f"{name}Request"], self._kinds[f"{name}Response"]
        found[f"/{SERVICE}/{name}"] = Handler(self._register, Cardinality.UNARY_UNARY, *kinds)
        asked, answer = self._kinds["ModelInferRequest"], self._kinds["ModelStreamInferResponse"]
        found[f"/{SERVICE}/ModelStreamInfer"] = Handler(
            self._stream, Cardinality.STREAM_STREAM, asked, answer
        )
        return found

    def _unary(self, name: str, method: Method) -> Callable[[Any], Awaitable[None]]:
        """A method with what all have: bounds, errors in gRPC's form, warnings, metrics."""

        async def answer(stream: "Stream[Any, Any]") -> None:
            began, status = time.perf_counter(), 499
            try:
                request = await _received(stream, self._kinds[f"{name}Request"])
                if request is None:
                    raise GRPCError(Status.INVALID_ARGUMENT, "there is no request")
                with self._asked_by(stream, free=name in FREE):
                    reply, warnings = await self._tried(method, request, _urgency(stream))
                if warnings:
                    await stream.send_initial_metadata(metadata=_warned(warnings))
                await stream.send_message(reply)
                status = 200
            except BadRequest as error:
                status = error.status
                code = _STATUS.get(status, Status.INTERNAL)
                raise GRPCError(code, error.message[:2000]) from None
            finally:
                took = time.perf_counter() - began
                self._metrics.answered(f"/{SERVICE}/{name}", status, took)

        return answer

    @contextmanager
    def _asked_by(self, stream: "Stream[Any, Any]", free: bool) -> Iterator[None]:
        """Have what is asked for within be whose key the request has.

        Args:
            free: it needs none.

        Raises:
            BadRequest: 401, 429.
        """
        transport: Any = stream.peer._transport
        asker = Asker(stream.peer.addr(), self._look, transport.connection)
        ASKER.set(asker)
        headers: Any = stream.metadata or {}
        said = str(headers.get("authorization", "")), str(headers.get("x-api-key", ""))
        if not free and (held := self._keys.find_in(*said)):
            held.enter()
            asker.held = held
        try:
            yield
        finally:
            if asker.held:
                asker.held.leave()

    async def _tried(self, method: Method, request: Any, urgency: Urgency) -> tuple[Any, list[str]]:
        """The reply of a method, and warnings.

        Raises:
            BadRequest: there is none, whatever the reason.
        """
        warnings: list[str] = []
        try:
            return await method(request, urgency, warnings), warnings
        except ClawError as error:
            raise BadRequest(told(error), status=status_of(error)) from None
        except BadRequest:
            raise
        except Exception:
            traceback.print_exc()  # goes to the kernel's log
            raise BadRequest("the gateway failed: `claw logs`", status=500) from None

    async def _stream(self, stream: "Stream[Any, Any]") -> None:
        """One answer for each request, in their order; an error ends none of the others."""
        kind = self._kinds["ModelStreamInferResponse"]
        while (request := await _received(stream, self._kinds["ModelInferRequest"])) is not None:
            try:
                with self._asked_by(stream, free=False):
                    found, _ = await self._tried(self._infer, request, _urgency(stream))
                reply = kind(infer_response=found)
            except BadRequest as error:
                reply = kind(error_message=error.message[:2000])
                reply.infer_response.id = request.id
            await stream.send_message(reply)

    async def _live(self, request: Any, urgency: Urgency, warnings: list[str]) -> Any:
        return self._kinds["ServerLiveResponse"](live=True)

    async def _ready(self, request: Any, urgency: Urgency, warnings: list[str]) -> Any:
        return self._kinds["ServerReadyResponse"](ready=await inference.is_ready(self._kernel))

    async def _server(self, request: Any, urgency: Urgency, warnings: list[str]) -> Any:
        return self._kinds["ServerMetadataResponse"](**await inference.describe_server())

    async def _model_ready(self, request: Any, urgency: Urgency, warnings: list[str]) -> Any:
        try:
            await self._models.version(request.name, request.version)
        except BadRequest:
            return self._kinds["ModelReadyResponse"](ready=False)
        return self._kinds["ModelReadyResponse"](ready=True)

    async def _model(self, request: Any, urgency: Urgency, warnings: list[str]) -> Any:
        asked = request.name, request.version
        told_of = await inference.describe_model(self._models, *asked, urgency)
        return self._kinds["ModelMetadataResponse"](**told_of)

    async def _config(self, request: Any, urgency: Urgency, warnings: list[str]) -> Any:
        found = await inference.configure(self._models, request.name, request.version, urgency)
        for each in (*found["input"], *found["output"]):
            each["data_type"] = DATA_TYPES.index(each["data_type"].removeprefix("TYPE_"))
        return self._kinds["ModelConfigResponse"](config=found)

    async def _index(self, request: Any, urgency: Urgency, warnings: list[str]) -> Any:
        rows = await inference.listed(self._models, request.ready)
        if request.repository_name:
            warnings.append("repository_name is ignored: there is one store")
        return self._kinds["RepositoryIndexResponse"](models=rows)

    async def _load(self, request: Any, urgency: Urgency, warnings: list[str]) -> Any:
        warnings += inference.check_load(_values(request.parameters))
        model = await self._models.version(request.model_name)
        await self._models.load(model, urgency)
        return self._kinds["RepositoryModelLoadResponse"]()

    async def _unload(self, request: Any, urgency: Urgency, warnings: list[str]) -> Any:
        warnings += inference.check_load(_values(request.parameters))
        for model in await self._models.versions(request.model_name):
            await self._models.unload(model, urgency)
        return self._kinds["RepositoryModelUnloadResponse"]()

    async def _status(self, request: Any, urgency: Urgency, warnings: list[str]) -> Any:
        reply = self._kinds["SystemSharedMemoryStatusResponse"]()
        for each in (await self._regions.lent()).listed(request.name):
            reply.regions[each.name].CopyFrom(self._kinds["RegionStatus"](**each.told()))
        return reply

    async def _register(self, stream: "Stream[Any, Any]") -> None:
        peer = stream.peer.addr()

        async def register(request: Any, urgency: Urgency, warnings: list[str]) -> Any:
            if not peer or max(request.offset, request.byte_size) >= 1 << 40:
                raise BadRequest("byte_size and offset are below 2 ** 40", "byte_size")
            where = request.name, request.key, request.offset, request.byte_size
            await (await self._regions.lent()).register(*where, (peer[0], peer[1]))
            return self._kinds["SystemSharedMemoryRegisterResponse"]()

        await self._unary("SystemSharedMemoryRegister", register)(stream)

    async def _unregister(self, request: Any, urgency: Urgency, warnings: list[str]) -> Any:
        (await self._regions.lent()).unregister(request.name)
        return self._kinds["SystemSharedMemoryUnregisterResponse"]()

    async def _infer(self, request: Any, urgency: Urgency, warnings: list[str]) -> Any:
        given = _values(request.parameters)
        _, urgency, more = inference.read_parameters(given, urgency)
        warnings += more
        both = (*request.inputs, *request.outputs)
        needed = any("shared_memory_region" in each.parameters for each in both)
        mine = await self._regions.lent(needed)
        arrays = self._arrays(request, warnings, mine)
        wanted = [
            inference.read_wanted(each.name, _values(each.parameters), f"outputs[{at}].", warnings)
            for at, each in enumerate(request.outputs)
        ]
        model = await self._models.version(request.model_name, request.model_version)
        found = await inference.infer(self._models, model, arrays, wanted, urgency)
        reply = self._kinds["ModelInferResponse"](
            model_name=model.name, model_version=str(model.number), id=request.id
        )
        for each, array in found:
            kind = datatype(array.dtype.str)
            told = reply.outputs.add(name=each.name, datatype=kind, shape=array.shape)
            raw = to_bytes(array)
            if each.region:
                for name, value in inference.put(each, raw, mine).items():
                    choice = "string_param" if isinstance(value, str) else "int64_param"
                    setattr(told.parameters[name], choice, value)
                raw = b""  # the parts are counted by the outputs
            reply.raw_output_contents.append(raw)
        return reply

    def _arrays(self, request: Any, warnings: list[str], mine: Lent) -> dict[str, Array]:
        """The inputs, by name.

        Raises:
            BadRequest: one is wrong.
        """
        found: dict[str, Array] = {}
        raw = list(request.raw_input_contents)
        for at, each in enumerate(request.inputs):
            where = f"inputs[{at}]"
            if each.name in found:
                raise BadRequest(f"{where}: {each.name[:80]!r} comes twice")
            if each.datatype not in DATATYPES:
                text = f"{where}: the datatype is {each.datatype[:40]!r}"
                raise BadRequest(f"{text}; allowed: {', '.join(DATATYPES)}")
            if len(each.shape) > 16 or any(not 0 <= size < 1 << 40 for size in each.shape):
                raise BadRequest(f"{where}: {list(each.shape)[:20]} is no shape")
            asked, more = inference.INPUT_PARAMETERS.take(
                _values(each.parameters), f"{where}.parameters."
            )
            warnings += more
            if asked.shared_memory_region is not None:
                part = inference.lent(asked, mine, f"{where}.parameters.")
                found[each.name] = of_bytes(part, each.datatype, each.shape, where)
            elif raw:
                found[each.name] = of_bytes(raw.pop(0), each.datatype, each.shape, where)
            elif request.raw_input_contents:
                raise BadRequest(f"{where} has no part in raw_input_contents")
            else:
                found[each.name] = _typed(each, where)
        if raw:
            raise BadRequest(f"{len(raw)} parts of raw_input_contents belong to no input")
        return found


def _typed(each: Any, where: str) -> Array:
    """An input whose values are fields of its own."""
    if each.datatype not in _TYPED:
        raise BadRequest(f"{where}: {each.datatype} travels in raw_input_contents only")
    items = list(getattr(each.contents, _TYPED[each.datatype]))
    return made(items, each.shape, DATATYPES[each.datatype], where)


def _values(given: Any) -> dict[str, Any]:
    """Parameters as plain values."""
    found = {}
    for name, each in given.items():
        chosen = each.WhichOneof("parameter_choice")
        found[name] = getattr(each, chosen) if chosen else None
    return found


def _urgency(stream: "Stream[Any, Any]") -> Urgency:
    told = (stream.metadata or {}).items()
    headers = [(k.encode(), v.encode("latin-1", "replace")) for k, v in told if isinstance(v, str)]
    found = urgency_of(Request({"type": "http", "headers": headers}))
    if stream.deadline and found.deadline is None:
        left = max(0.001, stream.deadline.time_remaining())
        return Urgency(found.priority, left, found.behalf)
    return found


def _warned(warnings: list[str]) -> Mapping[str, str]:
    from clawai.plugins.gateway.door import warned

    return warned(warnings)


async def _received(stream: "Stream[Any, Any]", kind: Any) -> Any:
    """The next message; None if there is none. grpclib itself would take any length.

    Raises:
        GRPCError: it is too large, too slow, compressed, or none.
    """
    incoming = stream._stream
    try:
        head = await incoming.recv_data(5)
        if not head:
            return None
        size = int.from_bytes(head[1:5], "big")
        if head[0]:
            raise GRPCError(Status.UNIMPLEMENTED, "a compressed message is not read here")
        if size > MOST:
            text = f"a message of {size} bytes; allowed: {MOST}"
            raise GRPCError(Status.RESOURCE_EXHAUSTED, text)
        async with asyncio.timeout(PATIENCE):
            return kind.FromString(await incoming.recv_data(size))
    except TimeoutError:
        text = f"the message did not come within {PATIENCE:.0f} s"
        raise GRPCError(Status.DEADLINE_EXCEEDED, text) from None
    except DecodeError as error:
        raise GRPCError(Status.INVALID_ARGUMENT, f"no {kind.__name__}: {error}"[:400]) from None
