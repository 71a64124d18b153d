"""Whole plans: small Llamas against numpy, and the executor's promises on numbers and stops."""

import ctypes
import gc
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from mmap import PAGESIZE
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clawai.plugins.accelerator import claw_open_device
from clawai.plugins.accelerator.driver import CpuDriver
from clawai.plugins.accelerator.native import PACKED, available_isas
from clawai.plugins.accelerator.sequence import CpuSequence
from clawai.sdk.model import gguf
from clawai.sdk.model.driver import Stopped
from clawai.sdk.model.dtypes import DType
from clawai.sdk.model.graph import Graph
from clawai.sdk.model.llama import graph as llama_graph
from support import wait_until
from tiny_llama import FLOATS, allocate, compiled, forward, llama

TOKENS = np.random.default_rng(1).integers(0, 101, 150).tolist()


@contextmanager
def running(
    graph: Graph, *, context: int = 200, threads: int = 1, control: Any = None, kv: str = "f16"
) -> Iterator[CpuSequence]:
    plan = compiled(graph, context=context, threads=threads, kv=kv)
    try:
        plan.sequences[0].start(control)
        yield plan.sequences[0]
    finally:
        plan.close()


def distance(got: Any, expected: Any) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def test_the_hook_gives_the_driver_for_cpu_only() -> None:
    assert isinstance(claw_open_device("cpu"), CpuDriver)
    assert claw_open_device("gpu") is None


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("dtype", list(PACKED), ids=lambda d: d.name)
def test_logits_match_numpy(dtype: DType, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLAW_ISA", isa)
    k_type = dtype.geometry.block == 256
    sizes = {"width": 256, "ffn": 512, "head_dim": 64} if k_type else {}
    graph = llama(dtype, **sizes)
    tokens = TOKENS[:20]
    with running(graph) as plan:
        got = plan.run(tokens, all_logits=True)
    assert got.shape == (20, 101)
    assert got.dtype == np.float32
    # What is left after mirroring: f16 keys and values, and the rounding that it moves by a step.
    assert distance(got, forward(graph, tokens, mirror=True)) < (2e-3 if dtype in FLOATS else 2e-2)
    assert distance(got, forward(graph, tokens)) < (2e-3 if dtype in FLOATS else 6e-2)


SHAPES: list[dict[str, Any]] = [
    {"style": "split"},
    {"style": "split", "rot_dim": 6, "head_dim": 8},
    {"rot_dim": 10, "head_dim": 24, "heads": 6, "kv_heads": 3, "dtype": DType.F16},
    {"heads": 8, "kv_heads": 1, "head_dim": 8},
    {"heads": 2, "kv_heads": 2, "head_dim": 32},
    {"heads": 40, "kv_heads": 2, "head_dim": 8, "width": 96, "layers": 1, "dtype": DType.F32},
    {"head_dim": 256, "heads": 2, "kv_heads": 1},
    {"tied": False, "bias": True},
    {"bias": True, "dtype": DType.F32, "ffn": 50, "width": 33, "tied": False},
    {"mixed": DType.Q8_0},
    {"mixed": DType.F16},
    {"vocabulary": 8, "layers": 1},
    {"gemma": True, "style": "split"},
    {"gemma": True, "layers": 3, "head_dim": 32, "dtype": DType.Q8_0, "vocabulary": 5000},
    {"gemma": True, "dtype": DType.F16, "bias": True, "rot_dim": 10},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes_and_fusions(shape: dict[str, Any]) -> None:
    graph = llama(**shape)
    tokens = [t % graph.vocabulary for t in TOKENS[:70]]
    with running(graph, threads=2) as plan:
        got = plan.run(tokens, all_logits=True)
    assert distance(got, forward(graph, tokens, mirror=True)) < 2e-2


@pytest.mark.parametrize(
    "shape",
    [
        {"head_dim": 64},
        {"head_dim": 8, "heads": 8, "kv_heads": 1, "dtype": DType.F32},
        {"head_dim": 24, "heads": 4, "kv_heads": 4, "dtype": DType.F16, "width": 96},
        {"head_dim": 80, "heads": 4, "kv_heads": 2, "rot_dim": 20},
        {"head_dim": 40, "heads": 40, "kv_heads": 2, "dtype": DType.F16, "layers": 1},
        {"head_dim": 32, "gemma": True, "style": "split", "dtype": DType.Q8_0},
    ],
    ids=str,
)
def test_a_cache_in_int8_is_near_numpy(shape: dict[str, Any]) -> None:
    """Heads of any width, of which the last group may be short; windows and caps."""
    graph = llama(**shape)
    with running(graph, threads=2, kv="q8") as plan:
        got = plan.run(TOKENS[:70], all_logits=True)
    assert distance(got, forward(graph, TOKENS[:70], mirror=True)) < 2.5e-2


@pytest.mark.parametrize("kv", ["f16", "q8"])
@pytest.mark.parametrize("gemma", [False, True])
@pytest.mark.parametrize("dtype", [DType.Q4_1, DType.Q8_0, DType.F16], ids=lambda d: d.name)
def test_tokens_alone_in_chunks_and_with_threads_give_the_same_bits(
    dtype: DType, gemma: bool, kv: str
) -> None:
    graph = llama(dtype, width=96, ffn=160, heads=6, kv_heads=2, gemma=gemma)
    with running(graph, kv=kv) as one, running(graph, threads=3, kv=kv) as three:
        whole = one.run(TOKENS, all_logits=True)
        assert one.position == len(TOKENS)
        assert np.array_equal(three.run(TOKENS, all_logits=True), whole)
        one.rewind(0)
        alone = [one.run([t]).copy() for t in TOKENS]
        assert np.array_equal(np.concatenate(alone), whole)
        for size in (3, 64, 129):
            three.rewind(0)
            parts = [TOKENS[i : i + size] for i in range(0, len(TOKENS), size)]
            got = [three.run(part).copy() for part in parts]
            ends = np.cumsum([len(part) for part in parts]) - 1
            assert np.array_equal(np.concatenate(got), whole[ends])


def test_fast_targets_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the scalar one, which has no fused multiply-add, rounds differently."""
    graph, results = llama(), []
    for isa in available_isas():
        monkeypatch.setenv("CLAW_ISA", isa)
        with running(graph) as plan:
            results.append(plan.run(TOKENS).copy())
    for result in results[2:]:
        assert np.array_equal(result, results[1])
    monkeypatch.setenv("CLAW_ISA", "abacus")
    with pytest.raises(RuntimeError, match="CLAW_ISA=abacus cannot run here; allowed: scalar"):
        compiled(graph)


@pytest.mark.parametrize("kv", ["f16", "q8"])
def test_rewind_forgets(kv: str) -> None:
    graph = llama()
    with running(graph, kv=kv) as plan:
        plan.run(TOKENS[:30])
        first = plan.run(TOKENS[30:33]).copy()
        plan.run([1, 2, 3, 4])
        plan.rewind(30)
        assert plan.position == 30
        assert np.array_equal(plan.run(TOKENS[30:33]), first)
        for wrong in (-1, 34):
            with pytest.raises(ValueError, match=r"rewind takes 0\.\.33"):
                plan.rewind(wrong)


def test_the_control_word_stops_and_the_plan_goes_on() -> None:
    word = bytearray(4096)
    graph = llama()
    with running(graph, threads=2, control=memoryview(word)) as plan, running(graph) as free:
        expected = free.run(TOKENS, all_logits=True)
        plan.run(TOKENS[:10])
        struct.pack_into("<I", word, 0, 1)
        with pytest.raises(Stopped, match="10 tokens"):
            plan.run(TOKENS[10:140])
        assert plan.position == 10
        struct.pack_into("<I", word, 0, 0)
        assert np.array_equal(plan.run(TOKENS[10:])[0], expected[-1])


def test_a_stop_from_another_thread_keeps_finished_chunks() -> None:
    """Wherever the stop falls, going on from ``position`` gives the same logits."""
    word = bytearray(4)
    graph = llama(layers=6, context=2000)
    prompt = (TOKENS * 13)[:1900]
    with (
        running(graph, context=2000, threads=2, control=memoryview(word)) as plan,
        running(graph, context=2000) as free,
    ):
        expected = free.run(prompt).copy()
        for delay in (0.0, 0.002, 0.01):
            timer = threading.Timer(delay, lambda: word.__setitem__(0, 1))
            timer.start()
            plan.rewind(0)
            while plan.position < len(prompt):
                done = plan.position
                try:
                    got = plan.run(prompt[done:])
                except Stopped:
                    assert done <= plan.position < len(prompt)
                    assert (plan.position - done) % 32 == 0  # a slow box halves chunks
                    timer.join()
                    word[0] = 0
            timer.join()
            word[0] = 0
            assert np.array_equal(got, expected)


def test_a_plan_that_nobody_closed_can_be_collected_in_a_circle() -> None:
    """Python 3.11 crashes when a memoryview in the circle is held by something else in it."""
    for _ in range(10):
        owner: list[Any] = [compiled(llama(), sequences=2)]
        page = memoryview(bytearray(16)).cast("I")
        owner[0].sequences[0].start(page)
        owner[0].sequences[0].run(TOKENS[:5])
        owner += [owner, page]
        del owner, page
        gc.collect()


def test_op_times_name_the_steps() -> None:
    with running(llama(layers=1), threads=2) as plan:
        plan.run([1, 2, 3])
        names = [name for name, _ in plan.op_times()]
        assert names[0] == "x"
        assert names[-1] == "logits"
        assert "0.q+0.k+0.v" in names
        assert all(ns >= 0 for _, ns in plan.op_times())
        plan.run(TOKENS[:140])
        assert len(plan.op_times()) > len(names)


@pytest.mark.parametrize(("sequences", "kv"), [(1, "f16"), (3, "f16"), (3, "q8")])
def test_footprint_is_what_compile_asks_for(sequences: int, kv: str) -> None:
    graph = llama(tied=False)
    asked: dict[str, int] = {}

    def counting(nbytes: int, purpose: str) -> memoryview:
        asked[purpose] = asked.get(purpose, 0) + nbytes
        return allocate(nbytes, purpose)

    footprint = CpuDriver().footprint(graph, context=100, sequences=sequences, threads=1, kv=kv)
    compiled(graph, context=100, sequences=sequences, kv=kv, give=counting).close()
    assert asked == {
        "weights": footprint.weights,
        "tables": footprint.tables,
        "kv": footprint.kv,
        "arena": footprint.arena,
    }
    assert footprint.total == sum(asked.values()) == footprint.weights + footprint.private


def test_a_cache_in_int8_takes_17_of_32_bytes_and_the_same_weights() -> None:
    driver, graph = CpuDriver(), llama(head_dim=64, context=4096)
    half, eight = (driver.footprint(graph, context=1024, kv=kv) for kv in ("f16", "q8"))
    assert eight.kv * 32 == half.kv * 17
    assert (eight.weights, eight.tables) == (half.weights, half.tables)


def test_packing_tells_how_far_it_is() -> None:
    progress: list[float] = []
    driver, graph = CpuDriver(), llama()
    memory = allocate(driver.footprint(graph, context=1).weights, "weights")
    driver.pack(graph, memory, progress.append)
    assert progress == sorted(progress)
    assert progress[-1] == pytest.approx(1.0)


def test_weights_depend_on_the_layout_alone() -> None:
    """The same bytes for another context and other threads: workers of both share them."""
    driver, packed = CpuDriver(), []
    for context in (10, 100):
        graph = llama(tied=False, bias=True)
        memory = allocate(driver.footprint(graph, context=context, threads=2).weights, "weights")
        driver.pack(graph, memory)
        packed.append((driver.layout(graph), bytes(memory)))
    assert packed[0] == packed[1]
    layouts = {driver.layout(llama(**shape)) for shape in ({}, {"tied": False}, {"layers": 3})}
    assert len(layouts) == 3


def test_tied_embeddings_are_stored_once() -> None:
    driver = CpuDriver()
    tied, untied = (driver.footprint(llama(tied=t), context=64).weights for t in (True, False))
    assert untied - tied >= 101 * 64 * 5 // 8


def test_threads_end_with_the_plan() -> None:
    before = threading_count()
    plan = compiled(llama(), threads=4)
    plan.sequences[0].run([1])
    assert threading_count() == before + 3
    plan.close()
    assert threading_count() == before
    plan.close()
    with pytest.raises(ValueError, match="closed"):
        plan.sequences[0].run([1])


def test_the_first_cache_block_is_there_before_a_run() -> None:
    """The second thread asks for its pages, and changes nothing that a run has written."""
    given: dict[str, memoryview] = {}

    def give(nbytes: int, purpose: str) -> memoryview:
        given[purpose] = allocate(nbytes, purpose)
        return given[purpose]

    plan = compiled(llama(), context=200, threads=2, give=give)
    try:
        kv = np.frombuffer(given["kv"], np.uint8)
        block = kv.nbytes // 4  # of 64 positions
        wait_until(lambda: set(present(kv)[: block // PAGESIZE]) == {True}, "the pages")
        assert not kv[:block].any()
        assert plan.sequences[0].run(TOKENS[:8]).shape == (1, 101)
    finally:
        plan.close()


def present(memory: Any) -> list[bool]:
    """Which whole pages of it there are."""
    pages = memory.nbytes // PAGESIZE
    found = (ctypes.c_ubyte * pages)()
    at = ctypes.c_void_p(memory.ctypes.data)
    assert ctypes.CDLL(None).mincore(at, ctypes.c_size_t(pages * PAGESIZE), found) == 0
    return [bool(each & 1) for each in found]


def threading_count() -> int:
    """Threads of this process, those of C included."""
    return len(list(Path("/proc/self/task").iterdir()))


@pytest.mark.model
def test_smollm2_matches_numpy(smollm2_path: Path) -> None:
    """The real model on 24 tokens: what is left is rounding of activations, keys and values."""
    graph = llama_graph(gguf.read(smollm2_path))
    tokens = np.random.default_rng(2).integers(0, graph.vocabulary, 24).tolist()
    with running(graph, threads=2) as plan:
        got = plan.run(tokens, all_logits=True).copy()
        plan.rewind(0)
        assert np.array_equal(np.concatenate([plan.run([t]).copy() for t in tokens]), got)
    expected = forward(graph, tokens, mirror=True)
    assert distance(got, expected) < 2e-2
    assert (got.argmax(1) == expected.argmax(1)).mean() > 0.9
