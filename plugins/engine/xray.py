"""A model as it runs: its graph as the steps of the plan, and what each of them takes.

A driver joins nodes into steps (products that share an input, a norm that its readers compute for
themselves). Which node went where is read off the names of the steps: a step is called after the
values that it makes. What no step is called after belongs to the step of its first reader.

Times are the executor's own stamps, a step each. They are taken from runs of this task, or from
what ran last for anybody (``live``), which costs nothing.
"""

import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

from clawai.plugins.engine.seats import Seat
from clawai.sdk.errors import ClawError
from clawai.sdk.model.driver import Plan
from clawai.sdk.model.dtypes import DType
from clawai.sdk.model.graph import Graph, Node, Op, Tensor

FORMAT = 1
_LAYER = re.compile(r"blk\.(\d+)\.")
_HELPERS = ("cache ", "quantize ")
"""Steps that a driver adds, before the name of the value that they are for."""
_EMPTY = memoryview(b"")


@dataclass(slots=True)
class Part:
    """One step."""

    name: str
    nodes: list[Node] = field(default_factory=list)
    inputs: set[int] = field(default_factory=set)


def light(graph: Graph) -> Graph:
    """The same graph without its weights, for whoever keeps it longer than the file."""
    tensors = {
        name: each if each.data is None else replace(each, data=_EMPTY)
        for name, each in graph.tensors.items()
    }
    return replace(graph, tensors=tensors)


def describe(graph: Graph, plan: Plan, device: str) -> dict[str, Any]:
    """Nodes and edges; nodes are the steps of the plan in the order in which they run.

    Raises:
        ClawError: bad_model, if the graph is none.
    """
    names = list(getattr(plan, "steps", ())) or [node.output for node in graph.nodes]
    try:
        parts = _parts(graph, names)
        nodes = [_told(graph, part) for part in parts]
    except (LookupError, ValueError, TypeError) as error:  # of notes that were tampered with
        raise ClawError("bad_model", f"the graph makes no sense: {error!r}") from None
    return {
        "format": FORMAT,
        "device": device,
        "isa": str(getattr(plan, "isa", "")),
        "layers": graph.layers,
        "context": plan.context,
        "nodes": nodes,
    }


def _parts(graph: Graph, names: Sequence[str]) -> list[Part]:
    parts = [Part(name) for name in names]
    owner: dict[str, int] = {}
    helpers: dict[str, int] = {}
    for place, name in enumerate(names):
        if name.startswith(_HELPERS):
            helpers[name] = place
        else:
            owner |= dict.fromkeys(name.split("+"), place)
    readers: defaultdict[str, list[Node]] = defaultdict(list)
    for node in graph.nodes:
        for name in node.inputs:
            readers[name].append(node)
    for node in reversed(graph.nodes):
        if node.output not in owner:
            reader = readers[node.output][0].output if readers[node.output] else ""
            into = helpers.get(f"cache {reader}", owner.get(reader, len(parts) - 1))
            owner[node.output] = into
    for node in graph.nodes:
        place = owner[node.output]
        parts[place].nodes.append(node)
        sources = {owner[name] for name in node.inputs if name in owner}
        if (cache := helpers.get(f"cache {node.output}")) is not None:
            parts[cache].inputs |= sources - {cache}
            sources = {cache}
        parts[place].inputs |= sources - {place}
    for name, place in helpers.items():
        made = name.partition(" ")[2]
        if name.startswith("quantize ") and made in owner:
            parts[place].inputs.add(owner[made])
    return parts


def _told(graph: Graph, part: Part) -> dict[str, Any]:
    weights = [
        graph.tensors[name]
        for node in part.nodes
        for name in node.inputs
        if graph.tensors[name].data is not None
    ]
    largest = max(weights, key=_size, default=None)
    made = part.name.split("+")[-1].split(" ")[-1]
    tensor = graph.tensors.get(made)
    layer = _LAYER.search(part.name)
    return {
        "name": part.name,
        "ops": [node.op.value for node in part.nodes] or [part.name.partition(" ")[0]],
        "layer": int(layer[1]) if layer else None,
        "shape": list(tensor.shape) if tensor else [],
        "dtype": largest.dtype.name if largest else "F32",
        "bytes": _read(part, weights),
        "inputs": sorted(part.inputs),
    }


def _size(tensor: Tensor) -> int:
    *rows, width = (int(dim) for dim in tensor.shape)
    return prod(rows) * DType(tensor.dtype).row_bytes(width)


def _read(part: Part, weights: Iterable[Tensor]) -> int:
    """Bytes of weights that it reads for one token: of a table of embeddings, one row."""
    tables = {node.inputs[1] for node in part.nodes if node.op is Op.EMBED}
    return sum(
        _size(each) // (int(each.shape[0]) if each.name in tables else 1) for each in weights
    )


# Times.


def measure(
    seat: Seat, plan: Plan, vocabulary: int, prompt: int, decode: int,
    progress: Callable[[float], None],
) -> dict[str, Any]:  # fmt: skip
    """Run a prompt and then single tokens; what each step took, in nanoseconds.

    Raises:
        Stopped: the control word was set.
        ClawError: bad_params, if that many tokens do not fit the context.
    """
    if prompt + decode > plan.context:
        raise ClawError(
            "bad_params", "more tokens than the context takes", prompt + decode, plan.context
        )
    ids = [1 + place * 7919 % (vocabulary - 1) for place in range(prompt + decode)]
    seat.run(ids[:prompt])
    first: defaultdict[str, int] = defaultdict(int)
    for name, took in seat.sequence.op_times():
        first[name] += took
    found: defaultdict[str, list[int]] = defaultdict(list)
    for place, token in enumerate(ids[prompt:]):
        seat.run([token], all_logits=True)  # its own run, not one that it shares with others
        for name, took in seat.sequence.op_times():
            found[name].append(took)
        progress((place + 1) / decode)
    each = {name: int(statistics.median(times)) for name, times in found.items()}
    return {"prefill": _times(first, prompt), "decode": _times(each, 1)}


def live(plan: Plan) -> dict[str, Any]:
    """What steps took when they ran last, for whomever: single tokens, and many at a time."""
    one: defaultdict[str, list[int]] = defaultdict(list)
    many: defaultdict[str, list[int]] = defaultdict(list)
    most = 0
    for joint, each in [
        *((False, each) for each in plan.sequences),
        *((True, each) for each in getattr(plan, "batches", ())),
    ]:
        latest: dict[str, tuple[int, int]] = {}
        for name, tokens, took in getattr(each, "stamps", list)():
            latest[name] = tokens, took
        for name, (tokens, took) in latest.items():
            single = joint or tokens == 1
            (one if single else many)[name].append(took)
            most = most if single else max(most, tokens)
    return {
        "prefill": _times({name: int(statistics.mean(t)) for name, t in many.items()}, most),
        "decode": _times({name: int(statistics.mean(t)) for name, t in one.items()}, 1),
    }


def _times(steps: Mapping[str, int], tokens: int) -> dict[str, Any] | None:
    """None if nothing ran."""
    return {"tokens": tokens, "ns": dict(steps)} if steps else None
