"""What the Open Inference Protocol is about, whether it comes over HTTP or gRPC."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Annotated, Any

import msgspec

from clawai.plugins.gateway.fields import BadRequest, Form
from clawai.plugins.gateway.regions import Lent
from clawai.plugins.gateway.tensors import Array, Models, Told, Urgency, Version
from clawai.plugins.gateway.typed import best, datatype
from clawai.sdk.front import Front

EXTENSIONS = ["binary_tensor_data", "classification", "model_configuration", "model_repository"]
EXTENSIONS += ["system_shared_memory"]
Size = Annotated[int, msgspec.Meta(ge=0, lt=1 << 40)]
_STATE = "models here keep nothing between two requests"


class InputParameters(msgspec.Struct):
    """``parameters`` of an input."""

    binary_data_size: Size | None = None
    shared_memory_region: str | None = None
    shared_memory_byte_size: Size | None = None
    shared_memory_offset: Size = 0


class OutputParameters(msgspec.Struct):
    """``parameters`` of an output."""

    binary_data: bool | None = None
    classification: Annotated[int, msgspec.Meta(ge=0)] = 0
    shared_memory_region: str | None = None
    shared_memory_byte_size: Size | None = None
    shared_memory_offset: Size = 0


class InferParameters(msgspec.Struct):
    """``parameters`` of ``infer``."""

    binary_data_output: bool = False
    timeout: Annotated[int, msgspec.Meta(ge=0, lt=1 << 50)] | None = None
    """Triton's: microseconds, the deadline here; 0: none."""


INPUT_PARAMETERS, OUTPUT_PARAMETERS = Form(InputParameters), Form(OutputParameters)
PARAMETERS = Form(
    InferParameters,
    {"priority": "the header X-Claw-Priority says how urgent it is"},
    {
        "sequence_id": (_STATE, (0, "")),
        "sequence_start": (_STATE, (False,)),
        "sequence_end": (_STATE, (False,)),
    },
)


class LoadParameters(msgspec.Struct):
    """``parameters`` of both."""

    unload_dependents: bool = False
    """Nothing depends on a model here."""


LOAD_PARAMETERS = Form(LoadParameters, {}, {"config": ("a model says itself what it takes", ())})


@dataclass(slots=True)
class Wanted:
    """How an output is answered."""

    name: str
    binary: bool = False
    classes: int = 0
    """Only the best so many, as text."""
    region: str = ""
    offset: int = 0
    size: int = 0


async def infer(
    models: Models,
    model: Version,
    arrays: Mapping[str, Array],
    wanted: Sequence[Wanted],
    urgency: Urgency,
) -> list[tuple[Wanted, Array]]:
    """Run a model: each output that is wanted, or all.

    Raises:
        ClawError, BadRequest: what became of it.
    """
    names = [each.name for each in wanted] if wanted else None
    found = await models.run(model, arrays, urgency, names)
    every = wanted or [Wanted(name) for name in found]
    return [
        (each, best(found[each.name], each.classes) if each.classes else found[each.name])
        for each in every
    ]


def read_parameters(
    given: Mapping[str, Any] | None, urgency: Urgency
) -> tuple[InferParameters, Urgency, list[str]]:
    """``parameters`` of a request: what they say, how urgent it is, and warnings.

    Raises:
        BadRequest: one is not to be had.
    """
    asked, warnings = PARAMETERS.take(dict(given or {}), "parameters.")
    if asked.timeout:
        urgency = Urgency(urgency.priority, asked.timeout / 1e6, urgency.behalf)
    return asked, urgency, warnings


def read_wanted(
    name: str, given: Mapping[str, Any] | None, where: str, warnings: list[str]
) -> Wanted:
    """How an output is wanted, by its ``parameters``.

    Raises:
        BadRequest: that is not to be had.
    """
    asked, more = OUTPUT_PARAMETERS.take(dict(given or {}), f"{where}parameters.")
    warnings += more
    made = Wanted(name, bool(asked.binary_data), asked.classification)
    if asked.shared_memory_region is not None:
        if asked.shared_memory_byte_size is None:
            raise BadRequest(f"{where}shared_memory_byte_size is missing", f"{where}parameters")
        made.region, made.offset = asked.shared_memory_region, asked.shared_memory_offset
        made.size = asked.shared_memory_byte_size
    return made


def lent(asked: InputParameters, mine: Lent, where: str) -> bytes:
    """The bytes of an input that lie in shared memory.

    Raises:
        BadRequest: they do not.
    """
    if asked.shared_memory_byte_size is None:
        raise BadRequest(f"{where}shared_memory_byte_size is missing", f"{where}parameters")
    place = asked.shared_memory_offset, asked.shared_memory_byte_size
    return mine.read(asked.shared_memory_region or "", *place)


def put(each: Wanted, raw: bytes, mine: Lent) -> dict[str, Any]:
    """Write an output into shared memory; its ``parameters`` in the answer.

    Raises:
        BadRequest: there is no room.
    """
    if len(raw) > each.size:
        text = f"the output {each.name!r} has {len(raw)} bytes; got room for {each.size}"
        raise BadRequest(text, "shared_memory_byte_size")
    mine.write(each.region, each.offset, raw)
    said: dict[str, Any] = {"shared_memory_region": each.region}
    said |= {"shared_memory_byte_size": len(raw)}
    return said | ({"shared_memory_offset": each.offset} if each.offset else {})


async def is_ready(kernel: Front) -> bool:
    """Whether workers can be started: the sandbox was proved."""
    sandbox = (await kernel.query("status"))["sandbox"] or {}
    return sandbox.get("level", "none") not in ("none", "being proved")


async def describe_server() -> dict[str, Any]:
    """Name, version and extensions."""
    return {
        "name": "clawai",
        "version": metadata.version("clawai"),
        "extensions": EXTENSIONS,
    }


async def describe_model(
    models: Models, name: str, version: str, urgency: Urgency
) -> dict[str, Any]:
    """What a model takes and gives, and the versions that there are."""
    model = await models.version(name, version)
    told = await models.described(model, urgency)
    numbers = [str(each.number) for each in await models.versions(name)]
    return {
        "name": name,
        "versions": numbers,
        "platform": told.platform,
        "inputs": [shown(each) for each in told.inputs],
        "outputs": [shown(each) for each in told.outputs],
    }


async def configure(models: Models, name: str, version: str, urgency: Urgency) -> dict[str, Any]:
    """The same as Triton's configuration says it; 0: a model takes what shapes it takes."""
    told = await models.described(await models.version(name, version), urgency)

    def tensors(each: Sequence[Told]) -> list[dict[str, Any]]:
        return [
            {
                "name": t.name,
                "data_type": f"TYPE_{'STRING' if t.dtype == '|S' else datatype(t.dtype)}",
                "dims": list(t.shape),
            }
            for t in each
        ]

    return {
        "name": name,
        "platform": told.platform,
        "backend": "onnxruntime",
        "max_batch_size": 0,
        "input": tensors(told.inputs),
        "output": tensors(told.outputs),
    }


async def listed(models: Models, only_ready: bool) -> list[dict[str, str]]:
    """The repository: what is in memory is ready, the rest is loaded when it is asked for."""
    rows = [
        {
            "name": each.name,
            "version": str(each.number),
            "state": "UNAVAILABLE" if each.state == "stored" else "READY",
            "reason": "not in memory: the first request loads it" if each.state == "stored" else "",
        }
        for each in await models.all()
    ]
    return [row for row in rows if row["state"] == "READY" or not only_ready]


def shown(each: Told) -> dict[str, Any]:
    """An input or output, as the protocol says it."""
    return {"name": each.name, "datatype": datatype(each.dtype), "shape": list(each.shape)}


def check_load(parameters: dict[str, Any] | None) -> list[str]:
    """Warnings about what ``load`` or ``unload`` also wants.

    Raises:
        BadRequest: it is not to be had.
    """
    for name in parameters or {}:
        if name.startswith("file:"):
            raise BadRequest("a model is stored with `claw pull`, not sent", f"parameters.{name}")
    return LOAD_PARAMETERS.take(parameters or {}, "parameters.")[1]
