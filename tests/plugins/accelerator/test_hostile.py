"""Graphs and calls that a hostile model file could lead to: refused before C touches a byte."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from clawai.plugins.accelerator.compiled import step_records
from clawai.plugins.accelerator.driver import CpuDriver, lower
from clawai.plugins.accelerator.native import ffi, lib
from clawai.sdk.model.driver import UnsupportedGraph
from clawai.sdk.model.dtypes import DType
from clawai.sdk.model.graph import Graph, Node, Op, Tensor
from guarded import Guarded
from tiny_llama import allocate, compiled, llama

Change = Callable[[Graph], Graph]


def attrs(op: Op, /, **changes: Any) -> Change:
    def change(graph: Graph) -> Graph:
        nodes = [replace(n, attrs={**n.attrs, **changes}) if n.op is op else n for n in graph.nodes]
        return replace(graph, nodes=tuple(nodes))

    return change


def tensor(name: str, /, **changes: Any) -> Change:
    def change(graph: Graph) -> Graph:
        changed = replace(graph.tensors[name], **changes)
        return replace(graph, tensors={**graph.tensors, name: changed})

    return change


def node(output: str, /, **changes: Any) -> Change:
    def change(graph: Graph) -> Graph:
        nodes = [replace(n, **changes) if n.output == output else n for n in graph.nodes]
        return replace(graph, nodes=tuple(nodes))

    return change


def fields(**changes: Any) -> Change:
    return lambda graph: replace(graph, **changes)


HOSTILE: list[tuple[Change, str]] = [
    (attrs(Op.RMSNORM, eps=float("nan")), "eps must be a number"),
    (attrs(Op.RMSNORM, eps=-1.0), "eps must be a number"),
    (attrs(Op.RMSNORM, eps="1"), "eps must be a number"),
    (attrs(Op.ROPE, heads=1 << 40), "heads must be an integer"),
    (attrs(Op.ROPE, head_dim=7), "head_dim must be an integer in 8"),
    (attrs(Op.ROPE, head_dim=1 << 20), "head_dim must be an integer"),
    (attrs(Op.ROPE, head_dim=12), "multiple of 8"),
    (attrs(Op.ROPE, rot_dim=5), "rot_dim must be even"),
    (attrs(Op.ROPE, rot_dim=32), "rot_dim must be an integer in 2..16"),
    (attrs(Op.ROPE, theta=0.0), "theta must be a number"),
    (attrs(Op.ROPE, theta=float("inf")), "theta must be a number"),
    (attrs(Op.ROPE, style="spiral"), "style must be"),
    (attrs(Op.ROPE, heads=3), "must be 48"),
    (attrs(Op.ATTENTION, kv_heads=0), "kv_heads must be"),
    (attrs(Op.ATTENTION, kv_heads=3), "no multiple"),
    (attrs(Op.ATTENTION, kv_heads=4), "must be 64"),
    (attrs(Op.ATTENTION, heads=True), "heads must be an integer"),
    (attrs(Op.ATTENTION, layer=0), "already has an attention"),
    (attrs(Op.ATTENTION, layer=2), "layer must be an integer in 0..1"),
    (attrs(Op.ATTENTION, layer=-1), "layer must be"),
    (attrs(Op.ATTENTION, scale=float("nan")), "scale must be"),
    (tensor("table", shape=(102, 64)), "must have shape"),
    (tensor("table", shape=(101, 0)), "must have shape"),
    (tensor("table", shape=(101, -64)), "must have shape"),
    (tensor("table", shape=(101, 64, 1)), "must have shape"),
    (tensor("table", shape=(101, "tokens")), "must have shape"),
    (tensor("table", shape=(101, 65)), "multiple of"),
    (tensor("table", shape=(101, 1 << 19)), "at most"),
    (tensor("table", data=None), "must be a weight"),
    (tensor("table", dtype=DType.I32), "allowed"),
    (tensor("table", dtype=DType.Q4_K), "multiple of"),
    (tensor("0.g1", dtype=DType.Q8_0), "allowed"),
    (tensor("0.g1", shape=(63,)), "must have shape"),
    (tensor("0.q.w", shape=(64, 32)), "must have shape"),
    (tensor("0.q.w", shape=(1 << 40, 64)), "at most"),
    (node("0.q", inputs=("0.in",)), "takes"),
    (node("0.q", inputs=("nowhere", "0.q.w")), "not computed"),
    (node("0.q", inputs=("0.x2", "0.q.w")), "not computed"),
    (node("0.x1", output="table"), "already taken"),
    (node("0.x1", output="0.q"), "already taken"),
    (node("0.x1", output="tokens"), "input of the graph"),
    (node("x", inputs=("0.in", "table")), "graph's input"),
    (node("0.x1", inputs=("x", "0.q.w")), "not computed"),
    (node("0.qr", op=Op.LAST, attrs={}), "has been through LAST"),
    (node("last", op=Op.ADD, inputs=("1.x2", "1.x2")), "LAST node"),
    (fields(vocabulary=0), "vocabulary must be"),
    (fields(vocabulary=1 << 30), "vocabulary must be"),
    (fields(vocabulary=100), "must have shape"),
    (fields(outputs=("norm",)), "as wide as the vocabulary"),
    (fields(outputs=("0.x1",)), "LAST node"),
    (fields(outputs=()), "one output"),
    (fields(inputs=("a", "b")), "one input"),
    (fields(layers=0), "layers must be"),
]


GEMMA: list[tuple[Change, str]] = [
    (attrs(Op.EMBED, scale=float("inf")), "scale must be"),
    (attrs(Op.HEAD_NORM, heads=3), "must be 48"),
    (attrs(Op.HEAD_NORM, head_dim=0), "head_dim must be"),
    (attrs(Op.HEAD_NORM, eps=-1.0), "eps must be"),
    (attrs(Op.ROPE, stretch=0.5), "stretch must be"),
    (attrs(Op.ATTENTION, window=-1), "window must be"),
    (attrs(Op.ATTENTION, window=True), "window must be"),
    (attrs(Op.ATTENTION, softcap=float("nan")), "softcap must be"),
    (attrs(Op.SOFTCAP, cap=0.0), "cap must be"),
    (tensor("divisors", shape=(9,)), "must have shape"),
    (tensor("divisors", data=None), "must be a weight"),
    (tensor("divisors", data=memoryview(bytes(32))), "positive"),
    (tensor("0.qr.g", shape=(15,)), "must have shape"),
    (node("capped", inputs=("norm",)), "as wide as the vocabulary"),
    (node("0.act", inputs=("0.gate", "0.x1")), "must be 96"),
    (fields(outputs=("logits",)), "last node must give"),
]


@pytest.mark.parametrize(("change", "message"), GEMMA, ids=range(len(GEMMA)))
def test_hostile_graphs_of_the_gemma_kind_are_refused(change: Change, message: str) -> None:
    graph = change(llama(gemma=True))
    with pytest.raises(UnsupportedGraph, match=message):
        compiled(graph)


@pytest.mark.parametrize(("change", "message"), HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_graphs_are_refused(change: Change, message: str) -> None:
    graph = change(llama())
    with pytest.raises(UnsupportedGraph, match=message):
        CpuDriver().footprint(graph, context=64)


def test_a_weight_shorter_than_its_shape_is_refused() -> None:
    graph = llama()
    short = replace(graph.tensors["1.down.w"], data=graph.tensors["1.down.w"].data[:-1])
    graph = replace(graph, tensors={**graph.tensors, "1.down.w": short})
    with pytest.raises(UnsupportedGraph, match="contiguous bytes"):
        compiled(graph)


@pytest.mark.parametrize("context", [0, -1, 4097, 1 << 40])
def test_context_is_bounded(context: int) -> None:
    with pytest.raises(ValueError, match="context must be in"):
        CpuDriver().footprint(llama(), context=context)


@pytest.mark.parametrize(
    "tokens", [[], [101], [-1], [1 << 31], [1 << 70], [[1]], [0, 1 << 32], [1 << 63]]
)
def test_token_ids_are_checked(tokens: Any) -> None:
    plan = compiled(llama())
    (sequence,) = plan.sequences
    try:
        with pytest.raises(ValueError, match=r"token|tokens"):
            sequence.run(tokens)
        assert sequence.position == 0
    finally:
        plan.close()


def test_the_context_cannot_overflow() -> None:
    plan = compiled(llama(), context=65)
    (sequence,) = plan.sequences
    try:
        sequence.run([1] * 60)
        with pytest.raises(ValueError, match="do not fit a context of 65"):
            sequence.run([1] * 6)
        sequence.run([1] * 5)
        assert sequence.position == 65
        with pytest.raises(ValueError, match="do not fit"):
            sequence.run([1])
    finally:
        plan.close()


@pytest.mark.parametrize("threads", [0, -1, 65])
def test_threads_are_bounded(threads: int) -> None:
    with pytest.raises(ValueError, match="threads must be in"):
        compiled(llama(), threads=threads)


@pytest.mark.parametrize("sequences", [0, -1, 65])
def test_sequences_are_bounded(sequences: int) -> None:
    with pytest.raises(ValueError, match="sequences must be in"):
        compiled(llama(), sequences=sequences)


def test_an_unknown_cache_is_refused() -> None:
    with pytest.raises(ValueError, match="kv must be one of f16, q8, got 'q4'"):
        CpuDriver().footprint(llama(), context=64, kv="q4")
    with pytest.raises(ValueError, match="kv must be one of f16, q8, got 'Q8'"):
        compiled(llama(), kv="Q8")


def test_allocate_must_keep_its_promise() -> None:
    backing = bytearray(1 << 20)
    shift = -(ffi.cast("uintptr_t", ffi.from_buffer(backing)).__int__()) % 64 + 4
    weights = allocate(1 << 20, "weights")
    for give in (
        lambda n, purpose: memoryview(bytearray(n - 1)),
        lambda n, purpose: memoryview(bytes(n)),
        lambda n, purpose: memoryview(backing)[shift : shift + n],
    ):
        with pytest.raises(ValueError, match="allocate"):
            CpuDriver().compile(llama(), context=64, threads=1, weights=weights, allocate=give)


@pytest.mark.parametrize(("gemma", "kv"), [(False, "f16"), (True, "f16"), (True, "q8")])
def test_c_refuses_every_extent_that_leaves_its_area(gemma: bool, kv: str) -> None:
    """The C side by itself: each number of each step, changed, is refused or stays in bounds.

    The memories end at forbidden pages, so a step that leaves one kills the test.
    """
    lowering = lower(llama(layers=1, gemma=gemma), 64, kv)
    steps = step_records(lowering)
    scratch = int(lib.claw_scratch_bytes(steps, len(steps), lowering.chunk, 1))
    sizes = {"weights": lowering.weights.nbytes, "tables": lowering.tables.nbytes}
    # Of two sequences and of one batch.
    sizes |= {"kv": 2 * lowering.cache_bytes, "arena": 3 * lowering.arena_bytes, "work": scratch}
    spec, isa = ffi.new("claw_spec *"), ffi.new("char[]", b"scalar")
    spec.isa, spec.context, spec.chunk, spec.sequences, spec.batches = isa, 64, 64, 2, 1
    spec.threads, spec.vocabulary, spec.kv_block = 1, 101, lowering.cache_block
    tokens, times = ffi.new("int32_t[]", list(range(64))), ffi.new("claw_time[]", lib.CLAW_TIMES)
    code, bad = ffi.new("int32_t *"), ffi.new("uint32_t *")
    refused = 0

    def attempt() -> int:
        plan = lib.claw_plan_new(spec, steps, len(steps), code, bad)
        if plan == ffi.NULL:
            assert code[0] == lib.CLAW_BAD_PLAN
            return 1
        logits = space.place(np.zeros((64, 101), np.float32))
        run = ffi.new("claw_run *")
        run.tokens, run.out, run.times = tokens, ffi.cast("float *", logits.ctypes.data), times
        run.n, run.all, run.chunk = 64, 1, 64
        assert lib.claw_plan_run(plan, run) == 0
        for number in range(2):
            rows[number].out = ffi.cast("float *", outs[number].ctypes.data)
            rows[number].sequence, rows[number].position, rows[number].gone = number, 63, 0
        batch.rows, batch.times, batch.n, batch.step, batch.stamped = rows, times, 2, 0, 0
        assert lib.claw_plan_decode(plan, batch) == 0
        lib.claw_plan_free(plan)
        return 0

    with Guarded("end") as space:
        for key, size in sizes.items():
            area = space.place(np.zeros(size, np.uint8))
            setattr(spec, key, ffi.cast("uint8_t *", area.ctypes.data))
            setattr(spec, f"{key}_bytes", size)
        spec.kv_bytes, spec.arena_bytes = lowering.cache_bytes, lowering.arena_bytes
        outs = [space.place(np.zeros(101, np.float32)) for _ in range(2)]
        rows, batch = ffi.new("claw_row[2]"), ffi.new("claw_batch *")
        assert attempt() == 0, "the plan as it is must run"
        for step in steps:
            if kv == "q8" and step.code not in (lib.CLAW_KV, lib.CLAW_ATTEND):
                continue  # the others are what they are over f16
            for name in NUMBERS:
                before = getattr(step, name)
                other = [before ^ lib.CLAW_KV_Q8] if name == "flags" else []
                for value in (0, 1, 64, 4096, 1 << 20, (1 << 32) - 64, *other):
                    setattr(step, name, value)
                    refused += attempt()
                setattr(step, name, before)
            for view in (step.a, step.b, step.c, step.y):
                before = view.offset, view.stride, view.base
                for changed in VIEWS:
                    view.offset, view.stride, view.base = changed
                    refused += attempt()
                view.offset, view.stride, view.base = before
    assert refused > (500 if kv == "f16" else 60)


NUMBERS = ["code", "flags", "format", "rows", "k", "heads", "kv_heads", "head_dim", "rot_dim"]
NUMBERS += ["folds", "in_q8", "q8", "weight", "extra", "cache", "window"]
VIEWS = [(0, 64, 0), (4, 1 << 20, 0), (0, 0, 0), (1 << 20, 64, 0), ((1 << 64) - 64, 64, 0)]
VIEWS += [(0, 101, 1), (0, 64, 1), (0, 0xFFFFFFFF, 0), (2, 64, 0), (0, 64, 2)]


def test_odd_graphs_still_compute_right() -> None:
    """Nodes that no fusion covers: standalone rotation, gate, sum, a value read twice."""
    from tiny_llama import forward

    rng = np.random.default_rng(5)

    def w(name: str, rows: int, columns: int) -> Tensor:
        data = (rng.standard_normal((rows, columns)) / 4).astype(np.float32).tobytes()
        return Tensor(name, (rows, columns), DType.F32, memoryview(data))

    tensors = {"t": w("t", 32, 16), "a": w("a", 16, 16), "b": w("b", 16, 16), "h": w("h", 32, 16)}
    rope = {"heads": 2, "head_dim": 8, "rot_dim": 8, "theta": 100.0, "style": "split"}
    nodes = (
        Node(Op.EMBED, ("ids", "t"), "x"),
        Node(Op.MATMUL, ("x", "a"), "p"),
        Node(Op.ROPE, ("p",), "r", rope),
        Node(Op.SILU_MUL, ("p", "r"), "g"),
        Node(Op.ADD, ("g", "g"), "gg"),
        Node(Op.MATMUL, ("gg", "b"), "m"),
        Node(Op.ADD, ("m", "x"), "s"),
        Node(Op.ADD, ("s", "m"), "u"),
        Node(
            Op.ATTENTION,
            ("r", "u", "p"),
            "att",
            {"layer": 0, "heads": 2, "kv_heads": 2, "head_dim": 8, "scale": 0.1},
        ),
        Node(Op.ADD, ("att", "x"), "v"),
        Node(Op.LAST, ("v",), "l"),
        Node(Op.MATMUL, ("l", "h"), "logits"),
    )
    graph = Graph(tensors, nodes, ("ids",), ("logits",), 100, 32, 1)
    tokens = rng.integers(0, 32, 40).tolist()
    plan = compiled(graph, context=50, threads=2)
    try:
        got = plan.sequences[0].run(tokens, all_logits=True)
    finally:
        plan.close()
    np.testing.assert_allclose(got, forward(graph, tokens), rtol=5e-3, atol=2e-3)
