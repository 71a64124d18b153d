"""TensorFlow Serving's REST doors, for models that take arrays.

Their addresses lie beside OpenAI's: ``GET /v1/models/NAME`` answers both, with the fields of both.
A model here has one signature, ``serving_default``.
"""

import base64
import binascii
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from clawai.plugins.gateway.door import Door, unless_gone, warned
from clawai.plugins.gateway.fields import BadRequest, Form
from clawai.plugins.gateway.tensors import (
    Array,
    Described,
    Models,
    Told,
    Version,
    flat,
    made,
    plain,
    urgency_of,
)

SIGNATURE = "serving_default"
BASE = "/v1/models/{name}"
VERSION = BASE + "/versions/{version}"
_DTYPES = {
    "|b1": "DT_BOOL",
    "|u1": "DT_UINT8",
    "<u2": "DT_UINT16",
    "<u4": "DT_UINT32",
    "<u8": "DT_UINT64",
    "|i1": "DT_INT8",
    "<i2": "DT_INT16",
    "<i4": "DT_INT32",
    "<i8": "DT_INT64",
    "<f2": "DT_HALF",
    "<f4": "DT_FLOAT",
    "<f8": "DT_DOUBLE",
    "|S": "DT_STRING",
}


class Predict(msgspec.Struct):
    """``:predict``: one of ``instances`` (rows) and ``inputs`` (columns)."""

    signature_name: str | None = None
    instances: Any = msgspec.UNSET
    inputs: Any = msgspec.UNSET


class Examples(msgspec.Struct):
    """``:classify`` and ``:regress``"""

    examples: list[dict[str, Any]]
    context: dict[str, Any] | None = None
    signature_name: str | None = None


PREDICT, EXAMPLES = Form(Predict), Form(Examples)


def doors(models: Models) -> Iterator[tuple[str, Door]]:
    """Paths and what answers them; ``GET /v1/models/NAME`` is OpenAI's module's."""
    here = _Serving(models)
    for base in (BASE, VERSION):
        yield f"{base}:predict", Door("POST", here.predict, PREDICT)
        yield f"{base}:classify", Door("POST", here.classify, EXAMPLES)
        yield f"{base}:regress", Door("POST", here.regress, EXAMPLES)
        yield f"{base}/metadata", Door("GET", here.metadata)
    yield VERSION, Door("GET", here.status)


def owns(path: str) -> bool:
    """Whether an error at a path is told in TensorFlow Serving's form."""
    rest = path.removeprefix("/v1/models/")
    return rest != path and ("/" in rest or ":" in rest)


def statuses(versions: Sequence[Version]) -> dict[str, Any]:
    """What is served under a name. All can be asked: what is not in memory comes when it is."""
    fine = {"error_code": "OK", "error_message": ""}
    return {
        "model_version_status": [
            {"version": str(each.number), "state": "AVAILABLE", "status": fine} for each in versions
        ]
    }


class _Serving:
    def __init__(self, models: Models) -> None:
        self._models = models

    async def _found(self, request: Request) -> tuple[Version, Described]:
        asked = request.path_params
        model = await self._models.version(asked["name"], asked.get("version", ""))
        return model, await self._models.described(model, urgency_of(request))

    async def status(self, request: Request, body: bytes) -> Response:
        """Whether one version of a model serves."""
        asked = request.path_params
        found = await self._models.version(asked["name"], asked["version"])
        return _answer(statuses([found]))

    async def metadata(self, request: Request, body: bytes) -> Response:
        """What a model takes and gives."""
        model, told = await self._found(request)
        signature = {
            "inputs": {each.name: _info(each) for each in told.inputs},
            "outputs": {each.name: _info(each) for each in told.outputs},
            "method_name": "tensorflow/serving/predict",
        }
        spec = {"name": model.name, "signature_name": "", "version": str(model.number)}
        signatures = {"signature_def": {SIGNATURE: signature}}
        return _answer({"model_spec": spec, "metadata": {"signature_def": signatures}})

    async def predict(self, request: Request, body: bytes) -> Response:
        """A model's outputs for some inputs, in rows or in columns."""
        asked, warnings = PREDICT.take(loads(body))
        rows = asked.instances is not msgspec.UNSET
        if rows == (asked.inputs is not msgspec.UNSET):
            raise BadRequest("a request has either instances or inputs", "instances")
        _check_signature(asked.signature_name)
        model, told = await self._found(request)
        if not rows:
            found = await self._run(request, model, _columns(asked.inputs, told.inputs))
            each = {name: _shown(name, array) for name, array in found.items()}
            value = next(iter(each.values())) if len(each) == 1 else each
            return _answer({"outputs": value}, warnings)
        count, columns = _rows(asked.instances, told.inputs)
        found = await self._run(request, model, _columns(columns, told.inputs))
        return _answer({"predictions": _predictions(found, count)}, warnings)

    async def classify(self, request: Request, body: bytes) -> Response:
        """The classes of some examples, each with its score."""
        count, model, told, columns, warnings = await self._examples(request, body)
        names = [each.name for each in told.outputs if each.dtype == "|S"]
        scores = _chosen(told, "scores", (1, 2))
        wanted = [scores, *(names[:1] if len(names) == 1 else ())]
        found = await self._run(request, model, columns, wanted)
        values = found[scores].reshape(count, -1) if count else found[scores]
        labels = [[""] * len(row) for row in values]
        if len(wanted) > 1 and found[wanted[1]].size == found[scores].size:
            told_labels = found[wanted[1]].reshape(values.shape)
            labels = [[each.decode("utf-8", "replace") for each in row] for row in told_labels]
        results = [
            [list(pair) for pair in zip(row, plain(value), strict=True)]
            for row, value in zip(labels, values, strict=True)
        ]
        return _answer({"results": results}, warnings)

    async def regress(self, request: Request, body: bytes) -> Response:
        """A number for each of some examples."""
        count, model, told, columns, warnings = await self._examples(request, body)
        name = _chosen(told, "outputs", (1, 2))
        found = (await self._run(request, model, columns, [name]))[name]
        if found.size != count:
            text = f"the output {name} has {found.size} numbers for {count} examples"
            raise BadRequest(f"{text}: the model is no regression")
        return _answer({"results": plain(found.reshape(-1))}, warnings)

    async def _examples(
        self, request: Request, body: bytes
    ) -> tuple[int, Version, Described, dict[str, Array], list[str]]:
        asked, warnings = EXAMPLES.take(loads(body))
        _check_signature(asked.signature_name)
        context = asked.context or {}
        for at, each in enumerate(asked.examples):
            if both := set(each) & set(context):
                raise BadRequest(f"examples[{at}]: {min(both)[:80]} is in context already")
        model, told = await self._found(request)
        columns: dict[str, Any] = {}
        for wanted in told.inputs:
            rank = len(wanted.shape)
            values = []
            for at, each in enumerate(asked.examples):
                where = f"examples[{at}].{wanted.name}"
                value = (context | each).get(wanted.name, msgspec.UNSET)
                if value is msgspec.UNSET:
                    raise BadRequest(f"{where} is missing", where)
                # One number and a list of one are the same feature.
                if rank == 1 and isinstance(value, list) and len(value) == 1:
                    value = value[0]
                if rank == 2 and not isinstance(value, list):
                    value = [value]
                values.append(value)
            columns[wanted.name] = values
        names = {each.name for each in told.inputs}
        for at, each in enumerate([context, *asked.examples]):
            if more := set(each) - names:
                where = "context" if not at else f"examples[{at - 1}]"
                raise BadRequest(f"{where}: {min(more)[:80]} is none of {sorted(names)}", where)
        return len(asked.examples), model, told, _columns(columns, told.inputs), warnings

    async def _run(
        self,
        request: Request,
        model: Version,
        arrays: Mapping[str, Array],
        wanted: Sequence[str] | None = None,
    ) -> dict[str, Array]:
        running = self._models.run(model, arrays, urgency_of(request), wanted)
        return await unless_gone(request.receive, running)


def _answer(said: dict[str, Any], warnings: list[str] | None = None) -> Response:
    """JSON as TensorFlow Serving writes it: with NaN and Infinity, which strict JSON has not."""
    headers = warned(warnings or [])
    text = json.dumps(said, ensure_ascii=False)
    return Response(text.encode(), media_type="application/json", headers=headers)


def loads(body: bytes) -> Any:
    """A body, NaN and Infinity included.

    Raises:
        BadRequest: it is no JSON.
    """
    try:
        return json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from None


def _check_signature(name: str | None) -> None:
    """A model has one; the others that are taken are names of TensorFlow's own for the same.

    Raises:
        BadRequest: it is another one.
    """
    methods = tuple(f"tensorflow/serving/{each}" for each in ("predict", "classify", "regress"))
    if name and name not in (SIGNATURE, *methods):
        text = f"the signature {name[:80]!r} is not there; there is {SIGNATURE}"
        raise BadRequest(text, "signature_name")


def _info(each: Told) -> dict[str, Any]:
    dims = [{"size": str(size), "name": ""} for size in each.shape]
    shape = {"dim": dims, "unknown_rank": False}
    return {"name": each.name, "dtype": _DTYPES[each.dtype], "tensor_shape": shape}


def _rows(given: Any, inputs: Sequence[Told]) -> tuple[int, Any]:
    """How many instances there are, and the same in columns."""
    if not isinstance(given, list) or not given:
        raise BadRequest("instances is a list of one or more", "instances")
    names = [each.name for each in inputs]
    objects = [isinstance(each, dict) and not _is_b64(each) for each in given]
    if not any(objects):
        if len(names) != 1:
            text = f"each of instances is an object with {', '.join(names)}"
            raise BadRequest(text, "instances")
        return len(given), {names[0]: given}
    for at, each in enumerate(given):
        if not objects[at] or set(each) != set(names):
            got = sorted(each) if objects[at] else type(each).__name__
            text = f"instances[{at}] is no object with exactly {', '.join(names)}: {str(got)[:200]}"
            raise BadRequest(text, f"instances[{at}]")
    return len(given), {name: [each[name] for each in given] for name in names}


def _columns(given: Any, inputs: Sequence[Told]) -> dict[str, Array]:
    """An array for each input."""
    names = [each.name for each in inputs]
    if not isinstance(given, dict) or _is_b64(given):
        if len(names) != 1:
            raise BadRequest(f"inputs is an object with {', '.join(names)}", "inputs")
        given = {names[0]: given}
    if set(given) != set(names):
        text = f"the inputs are {', '.join(names)}; got {str(sorted(given))[:200]}"
        raise BadRequest(text, "inputs")
    return {each.name: _array(given[each.name], each) for each in inputs}


def _array(value: Any, told: Told) -> Array:
    items, shape = flat(value, told.name)
    if told.dtype == "|S":
        items = [_decoded(each, told.name) for each in items]
    return made(items, shape, told.dtype, told.name)


def _is_b64(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"b64"}


def _decoded(value: Any, where: str) -> Any:
    if not _is_b64(value):
        return value
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise BadRequest(f"{where}: b64 is no base64: {error}", where) from None


def _shown(name: str, array: Array) -> Any:
    """An output in JSON; texts of names that end so, and what is no text, in base64."""
    if array.dtype.kind != "S":
        return plain(array)
    return _texts(array.tolist(), name.endswith("_bytes"))


def _texts(value: Any, binary: bool) -> Any:
    if isinstance(value, list):
        return [_texts(each, binary) for each in value]
    if not binary:
        try:
            return value.decode()
        except UnicodeDecodeError:
            pass
    return {"b64": base64.b64encode(value).decode()}


def _predictions(found: dict[str, Array], count: int) -> list[Any]:
    """A row for each instance.

    Raises:
        BadRequest: an output has not one for each.
    """
    for name, array in found.items():
        if not array.shape or array.shape[0] != count:
            text = f"the output {name} has the shape {list(array.shape)} for {count} instances"
            raise BadRequest(f"{text}; ask with inputs, in columns", "instances")
    each = {name: _shown(name, array) for name, array in found.items()}
    if len(each) == 1:
        rows: list[Any] = next(iter(each.values()))
        return rows
    return [{name: rows[at] for name, rows in each.items()} for at in range(count)]


def _chosen(told: Described, name: str, ranks: tuple[int, ...]) -> str:
    """The output of that name, or the only one of numbers with a point.

    Raises:
        BadRequest: there is none.
    """
    fitting = [
        each.name
        for each in told.outputs
        if each.dtype in ("<f2", "<f4", "<f8") and len(each.shape) in ranks
    ]
    if name in fitting:
        return name
    if len(fitting) != 1:
        text = (
            f"one output {name!r} of numbers is needed; there are: {', '.join(fitting) or 'none'}"
        )
        raise BadRequest(f"{text}; ask with :predict")
    return fitting[0]
