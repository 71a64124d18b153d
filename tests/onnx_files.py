"""Writes small ONNX files for tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, STRING = TensorProto.FLOAT, TensorProto.STRING


def info(name: str, shape: Sequence[Any], kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, list(shape))


def const(name: str, value: Any, dtype: str = "f4") -> Any:
    return numpy_helper.from_array(np.array(value, dtype), name)


def model(nodes: Any, inputs: Any, outputs: Any, constants: Any = (), opset: int = 17) -> bytes:
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(constants))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(made)
    data: bytes = made.SerializeToString()
    return data


def half_plus(more: float) -> bytes:
    """y = x / 2 + ``more``, for any number of x."""
    nodes = [
        helper.make_node("Mul", ["x", "half"], ["z"]),
        helper.make_node("Add", ["z", "more"], ["y"]),
    ]
    constants = [const("half", 0.5), const("more", more)]
    return model(nodes, [info("x", ["n"])], [info("y", ["n"])], constants)


def mixed() -> bytes:
    """Of numbers a (n, 2), flags b (n) and texts t (n): their sums, not b, and t."""
    nodes = [
        helper.make_node("ReduceSum", ["a", "axes"], ["sum"], keepdims=0),
        helper.make_node("Not", ["b"], ["other"]),
        helper.make_node("Identity", ["t"], ["same"]),
    ]
    inputs = [info("a", ["n", 2], TensorProto.INT64), info("b", ["n"], TensorProto.BOOL)]
    outputs = [info("sum", ["n"], TensorProto.INT64), info("other", ["n"], TensorProto.BOOL)]
    constants = [const("axes", [1], "i8")]
    return model(
        nodes,
        [*inputs, info("t", ["n"], STRING)],
        [*outputs, info("same", ["n"], STRING)],
        constants,
    )


KINDS = {
    "f2": TensorProto.FLOAT16,
    "f4": TensorProto.FLOAT,
    "f8": TensorProto.DOUBLE,
    "i1": TensorProto.INT8,
    "i2": TensorProto.INT16,
    "i4": TensorProto.INT32,
    "i8": TensorProto.INT64,
    "u1": TensorProto.UINT8,
    "u2": TensorProto.UINT16,
    "u4": TensorProto.UINT32,
    "u8": TensorProto.UINT64,
    "bool": TensorProto.BOOL,
    "text": TensorProto.STRING,
}
"""By numpy's name, and ``text``."""


def kinds() -> bytes:
    """Of every type an input (n) of its name, and the same as the output ``same_NAME``."""
    nodes = [helper.make_node("Identity", [name], [f"same_{name}"]) for name in KINDS]
    inputs = [info(name, ["n"], kind) for name, kind in KINDS.items()]
    outputs = [info(f"same_{name}", ["n"], kind) for name, kind in KINDS.items()]
    return model(nodes, inputs, outputs)


def classifier() -> bytes:
    """Of x (n, 3) the scores of three classes, and the class of the highest."""
    nodes = [
        helper.make_node("Softmax", ["x"], ["scores"], axis=1),
        helper.make_node("ArgMax", ["x"], ["class"], axis=1, keepdims=0),
    ]
    outputs = [info("scores", ["n", 3]), info("class", ["n"], TensorProto.INT64)]
    return model(nodes, [info("x", ["n", 3])], outputs)


def slow(rounds: int = 1 << 40) -> bytes:
    """y = x after very many additions of nothing, in a loop: ends only when it is ended."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Add", ["v", "nothing"], ["w"]),
        ],
        "body",
        [info("i", [], TensorProto.INT64), info("go", [], TensorProto.BOOL), info("v", ["n"])],
        [info("on", [], TensorProto.BOOL), info("w", ["n"])],
    )
    nodes = [helper.make_node("Loop", ["rounds", "yes", "x"], ["y"], body=body)]
    constants = [const("rounds", rounds, "i8"), const("yes", True, "?"), const("nothing", 0.0)]
    return model(nodes, [info("x", ["n"])], [info("y", ["n"])], constants)


def greedy(size: int = 1 << 42) -> bytes:
    """y = x + the sum of ``size`` numbers, made when it runs: of more memory than there is."""
    nodes = [
        helper.make_node("Mul", ["size", "one"], ["many"]),
        helper.make_node("ConstantOfShape", ["many"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    inputs = [info("x", ["n"]), info("one", [1], TensorProto.INT64)]
    return model(nodes, inputs, [info("y", ["n"])], [const("size", [size], "i8")])


def elsewhere() -> bytes:
    """One that keeps its weights in another file."""
    made = onnx.load_from_string(half_plus(2.0))
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    data: bytes = made.SerializeToString()
    return data


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
