"""The Open Inference Protocol (KServe V2) over HTTP, with Triton's extensions of it.

Arrays come as JSON, or as bytes behind it (``Inference-Header-Content-Length`` says where the JSON
ends), or in shared memory of this box. What is stored is ready: what is not in memory is loaded by
the first request.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from clawai.plugins.gateway.door import Door, unless_gone, warned
from clawai.plugins.gateway.fields import BadRequest, Form
from clawai.plugins.gateway.inference import (
    INPUT_PARAMETERS,
    LOAD_PARAMETERS,
    OUTPUT_PARAMETERS,
    PARAMETERS,
    Size,
    Wanted,
    check_load,
    configure,
    describe_model,
    describe_server,
    infer,
    is_ready,
    lent,
    listed,
    put,
    read_parameters,
    read_wanted,
)
from clawai.plugins.gateway.regions import Lent, Regions
from clawai.plugins.gateway.tensors import (
    Array,
    Models,
    flat,
    made,
    plain,
    urgency_of,
)
from clawai.plugins.gateway.typed import DATATYPES, datatype, of_bytes, to_bytes
from clawai.sdk.front import Front

LENGTH = "inference-header-content-length"
MODEL = "/v2/models/{name}"
VERSION = MODEL + "/versions/{version}"


class InferInput(msgspec.Struct):
    """One of ``inputs``."""

    name: str
    shape: Annotated[list[Size], msgspec.Meta(max_length=16)]
    datatype: str
    data: Any = msgspec.UNSET
    parameters: dict[str, Any] | None = None


class InferOutput(msgspec.Struct):
    """One of ``outputs``."""

    name: str
    parameters: dict[str, Any] | None = None


class Infer(msgspec.Struct):
    """``infer``"""

    inputs: Annotated[list[dict[str, Any]], msgspec.Meta(max_length=256)]
    outputs: Annotated[list[dict[str, Any]], msgspec.Meta(max_length=256)] | None = None
    id: str | None = None
    model_name: str | None = None
    """KServe's client says it here, too."""
    parameters: dict[str, Any] | None = None


class Index(msgspec.Struct):
    """``/v2/repository/index``"""

    ready: bool = False


class Register(msgspec.Struct):
    """``register`` of a region of shared memory"""

    key: Annotated[str, msgspec.Meta(min_length=1, max_length=250)]
    byte_size: Size
    offset: Size = 0


class Nothing(msgspec.Struct):
    """A body that says nothing."""


class Load(msgspec.Struct):
    """``load`` and ``unload``"""

    parameters: dict[str, Any] | None = None


INFER = Form(Infer)
INPUT, OUTPUT = Form(InferInput), Form(InferOutput)
INDEX = Form(Index, {"repository_name": "there is one store"})
LOAD = Form(Load)
REGISTER, NOTHING = Form(Register), Form(Nothing)


def doors(kernel: Front, models: Models, regions: Regions) -> Iterator[tuple[str, Door]]:
    """Paths and what answers them."""
    here = _KServe(kernel, models, regions)
    shared = "/v2/systemsharedmemory"
    for base in (shared, f"{shared}/region/{{name}}"):
        yield f"{base}/status", Door("GET", here.regions)
        yield f"{base}/unregister", Door("POST", here.unregister, NOTHING, optional=True)
    yield f"{shared}/region/{{name}}/register", Door("POST", here.register, REGISTER)
    yield "/v2", Door("GET", here.server)
    yield "/v2/health/live", Door("GET", here.live)
    yield "/v2/health/ready", Door("GET", here.ready)
    yield "/v2/repository/index", Door("POST", here.index, INDEX, optional=True)
    forms = LOAD, LOAD_PARAMETERS
    yield "/v2/repository/models/{name}/load", Door("POST", here.load, *forms, optional=True)
    yield "/v2/repository/models/{name}/unload", Door("POST", here.unload, *forms, optional=True)
    parts = INPUT, OUTPUT, INPUT_PARAMETERS, OUTPUT_PARAMETERS, PARAMETERS
    media = ("application/json", "application/octet-stream")
    for base in (MODEL, VERSION):
        yield base, Door("GET", here.model)
        yield f"{base}/ready", Door("GET", here.model_ready)
        yield f"{base}/config", Door("GET", here.config)
        yield f"{base}/infer", Door("POST", here.infer, INFER, *parts, media=media)


def owns(path: str) -> bool:
    """Whether an error at a path is told in this protocol's form."""
    return path == "/v2" or path.startswith("/v2/")


class _KServe:
    def __init__(self, kernel: Front, models: Models, regions: Regions) -> None:
        self._kernel = kernel
        self._models = models
        self._regions = regions

    async def live(self, request: Request, body: bytes) -> Response:
        """Whether the server answers."""
        return JSONResponse({"live": True})

    async def ready(self, request: Request, body: bytes) -> Response:
        """Whether models can be run."""
        ready = await is_ready(self._kernel)
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def server(self, request: Request, body: bytes) -> Response:
        """Who serves, and what it can."""
        return JSONResponse(await describe_server())

    async def model(self, request: Request, body: bytes) -> Response:
        """What a model takes and gives."""
        return JSONResponse(
            await describe_model(self._models, *_named(request), urgency_of(request))
        )

    async def config(self, request: Request, body: bytes) -> Response:
        """The same in Triton's form."""
        return JSONResponse(await configure(self._models, *_named(request), urgency_of(request)))

    async def model_ready(self, request: Request, body: bytes) -> Response:
        """Whether a model can be asked."""
        model = await self._models.version(*_named(request))
        return JSONResponse({"name": model.name, "ready": True})

    async def index(self, request: Request, body: bytes) -> Response:
        """The stored models that take tensors."""
        asked, warnings = INDEX.read(body)
        said = await listed(self._models, asked.ready)
        return JSONResponse(said, headers=warned(warnings))

    async def load(self, request: Request, body: bytes) -> Response:
        """Bring a model into memory."""
        asked, warnings = LOAD.read(body)
        warnings += check_load(asked.parameters)
        model = await self._models.version(request.path_params["name"])
        await unless_gone(request.receive, self._models.load(model, urgency_of(request)))
        return JSONResponse({}, headers=warned(warnings))

    async def unload(self, request: Request, body: bytes) -> Response:
        """Let go of a model, every version of it, once nobody uses it."""
        asked, warnings = LOAD.read(body)
        warnings += check_load(asked.parameters)
        for model in await self._models.versions(request.path_params["name"]):
            await self._models.unload(model, urgency_of(request))
        return JSONResponse({}, headers=warned(warnings))

    async def regions(self, request: Request, body: bytes) -> Response:
        """The shared memory that is registered, or one region of it."""
        mine = await self._regions.lent()
        found = mine.listed(request.path_params.get("name", ""))
        return JSONResponse([each.told() for each in found])

    async def register(self, request: Request, body: bytes) -> Response:
        """Use shared memory of the program that asks."""
        asked, warnings = REGISTER.read(body)
        if request.client is None:
            raise BadRequest("whose connection this is cannot be told", status=403)
        where = request.path_params["name"], asked.key, asked.offset, asked.byte_size
        peer = request.client.host, request.client.port
        await (await self._regions.lent()).register(*where, peer)
        return JSONResponse({}, headers=warned(warnings))

    async def unregister(self, request: Request, body: bytes) -> Response:
        """Let go of a region of shared memory, or of all."""
        _, warnings = NOTHING.read(body)
        mine = await self._regions.lent()
        mine.unregister(request.path_params.get("name", ""))
        return JSONResponse({}, headers=warned(warnings))

    async def infer(self, request: Request, body: bytes) -> Response:
        """A model's outputs for some inputs."""
        if encoding := request.headers.get("content-encoding"):
            text = f"a body in {encoding[:40]} is not read here: send it as it is"
            raise BadRequest(text, status=415)
        head, tail = _split(request, body)
        asked, warnings = INFER.take(_loads(head))
        parameters, urgency, more = read_parameters(asked.parameters, urgency_of(request))
        warnings += more
        if asked.model_name not in (None, request.path_params["name"]):
            warnings.append("model_name is ignored: the path says another one")
        mine = await self._regions.lent(needed=_names_memory(asked))
        arrays = _Inputs(tail, warnings, mine).arrays(asked.inputs)
        wanted = [_wanted(each, at, warnings) for at, each in enumerate(asked.outputs or [])]
        model = await self._models.version(*_named(request))
        running = infer(self._models, model, arrays, wanted, urgency)
        found = await unless_gone(request.receive, running)
        for each, _ in found:
            each.binary |= parameters.binary_data_output
        said = {"model_name": model.name, "model_version": str(model.number)}
        said |= {"id": asked.id} if asked.id else {}
        return _answered(said, found, warnings, mine)


def _names_memory(asked: Any) -> bool:
    """Whether an input or an output is said to lie in shared memory."""
    told = (
        each.get("parameters")
        for each in (*asked.inputs, *(asked.outputs or ()))
        if isinstance(each, dict)
    )
    return any(isinstance(each, dict) and "shared_memory_region" in each for each in told)


def _named(request: Request) -> tuple[str, str]:
    return request.path_params["name"], request.path_params.get("version", "")


def _split(request: Request, body: bytes) -> tuple[bytes, memoryview]:
    """The JSON of a body, and what comes behind it."""
    told = request.headers.get(LENGTH)
    if told is None:
        return body, memoryview(b"")
    if not (told.isascii() and told.isdigit() and len(told) < 12 and int(told) <= len(body)):
        raise BadRequest(f"{LENGTH} is {told[:40]!r}, of a body of {len(body)} bytes")
    return body[: int(told)], memoryview(body)[int(told) :]


def _loads(head: bytes) -> Any:
    from clawai.plugins.gateway.tfserving import loads

    return loads(head)


class _Inputs:
    """The arrays of a request, as they are read one after the other."""

    def __init__(self, tail: memoryview, warnings: list[str], mine: Lent) -> None:
        self._tail = tail
        self._warnings = warnings
        self._mine = mine

    def arrays(self, inputs: Sequence[Any]) -> dict[str, Array]:
        """All of them, by name.

        Raises:
            BadRequest: one is wrong, or bytes are left.
        """
        found: dict[str, Array] = {}
        for at, given in enumerate(inputs):
            where = f"inputs[{at}]."
            each, more = INPUT.take(given, where)
            self._warnings += more
            if each.name in found:
                raise BadRequest(f"{where}name: {each.name[:80]!r} comes twice", f"{where}name")
            found[each.name] = self._array(each, where)
        if self._tail:
            raise BadRequest(f"{len(self._tail)} bytes behind the last input belong to none")
        return found

    def _array(self, each: InferInput, where: str) -> Array:
        if each.datatype not in DATATYPES:
            text = f"{where}datatype is {each.datatype[:40]!r}; allowed: {', '.join(DATATYPES)}"
            raise BadRequest(text, f"{where}datatype")
        asked, more = INPUT_PARAMETERS.take(each.parameters or {}, f"{where}parameters.")
        self._warnings += more
        ways = asked.binary_data_size, asked.shared_memory_region
        if sum(way is not None for way in ways) + (each.data is not msgspec.UNSET) != 1:
            text = f"{where}data: an input has data, or binary_data_size, or shared_memory_region"
            raise BadRequest(text, f"{where}data")
        if asked.shared_memory_region is not None:
            raw = lent(asked, self._mine, f"{where}parameters.")
            return of_bytes(raw, each.datatype, each.shape, f"{where}data")
        if asked.binary_data_size is not None:
            size = asked.binary_data_size
            if size > len(self._tail):
                text = f"{where}binary_data_size is {size}; {len(self._tail)} bytes are left"
                raise BadRequest(text, f"{where}parameters")
            part, self._tail = self._tail[:size], self._tail[size:]
            return of_bytes(part, each.datatype, each.shape, f"{where}data")
        items, shape = flat(each.data, f"{where}data")
        if len(shape) > 1 and list(shape) != each.shape:  # else it is flattened, as one may
            text = f"{where}data has the shape {list(shape)}, and says {each.shape}"
            raise BadRequest(text, f"{where}data")
        return made(items, each.shape, DATATYPES[each.datatype], f"{where}data")


def _wanted(given: Any, at: int, warnings: list[str]) -> Wanted:
    each, more = OUTPUT.take(given, f"outputs[{at}].")
    warnings += more
    return read_wanted(each.name, each.parameters, f"outputs[{at}].", warnings)


def _answered(
    said: dict[str, Any],
    found: Sequence[tuple[Wanted, Array]],
    warnings: list[str],
    mine: Lent,
) -> Response:
    """The outputs, as each is wanted: in the JSON or behind it."""
    outputs, tail = [], []
    for each, array in found:
        told: dict[str, Any] = {
            "name": each.name,
            "datatype": datatype(array.dtype.str),
            "shape": list(array.shape),
        }
        if each.region:
            told["parameters"] = put(each, to_bytes(array), mine)
        elif each.binary:
            raw = to_bytes(array)
            tail.append(raw)
            told["parameters"] = {"binary_data_size": len(raw)}
        else:
            told["data"] = _data(array, each.name)
        outputs.append(told)
    text = json.dumps(said | {"outputs": outputs}, ensure_ascii=False).encode()
    if not tail:
        return Response(text, media_type="application/json", headers=warned(warnings))
    headers = warned(warnings) | {LENGTH: str(len(text))}
    body = b"".join([text, *tail])
    return Response(body, media_type="application/octet-stream", headers=headers)


def _data(array: Array, name: str) -> list[Any]:
    """An output in JSON, flattened."""
    if array.dtype.kind == "S":
        try:
            return [each.decode() for each in array.ravel().tolist()]
        except UnicodeDecodeError:
            text = f"the output {name!r} is no text: ask for it with binary_data"
            raise BadRequest(text, "outputs") from None
    items: list[Any] = plain(array.ravel())
    return items
