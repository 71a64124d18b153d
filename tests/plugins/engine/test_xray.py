"""A model as it runs: each node is in a step, edges follow the graph, stamps have their names."""

from dataclasses import replace

import pytest

from clawai.plugins.engine import notes, xray
from clawai.plugins.engine.tokenizer import Tokenizer
from clawai.plugins.engine.turns import Turns
from clawai.sdk import graphs
from clawai.sdk.errors import ClawError
from clawai.sdk.model import llama
from clawai.sdk.model.driver import Plan
from clawai.sdk.model.gguf import parse
from clawai.sdk.model.graph import Node, Op
from gguf_files import tiny_llama
from tiny_llama import compiled

FILE = parse(memoryview(tiny_llama(metadata={"llama.context_length": 64})))
GRAPH = llama.graph(FILE)


@pytest.fixture
def plan() -> Plan:
    made: Plan = compiled(GRAPH, context=64, threads=1, sequences=2)
    return made


def test_steps_hold_the_whole_graph_in_an_order_that_can_run(plan: Plan) -> None:
    told = xray.describe(xray.light(GRAPH), plan, "cpu")
    profile = graphs.read(told)
    named = {node.name: place for place, node in enumerate(profile.nodes)}
    assert list(named) == list(plan.steps)
    helpers = sum(name.startswith(("cache ", "quantize ")) for name in plan.steps)
    ops = [op for node in profile.nodes for op in node.ops]
    assert len(ops) - helpers <= len(GRAPH.nodes) <= len(ops)
    assert all(source < place for place, n in enumerate(profile.nodes) for source in n.inputs)
    # Each value that a node reads comes from its step, or from one that is before it.
    above: list[set[int]] = []
    for place, node in enumerate(profile.nodes):
        above.append({place}.union(*(above[source] for source in node.inputs)))
    assert above[-1] == set(range(len(profile.nodes))), "all that runs is for the logits"
    sizes = {n: len(t.data) for n, t in GRAPH.tensors.items() if t.data is not None}
    read = [name for node in GRAPH.nodes for name in node.inputs if name in sizes]
    table, rows = "token_embd.weight", GRAPH.vocabulary
    whole = sum(sizes[name] for name in read) - sizes[table] + sizes[table] // rows
    assert sum(node.bytes for node in profile.nodes) == whole
    assert {node.layer for node in profile.nodes} == {None, *range(GRAPH.layers)}


def test_what_is_measured_is_what_the_executor_stamped(plan: Plan) -> None:
    turns, heard = Turns(plan), list[float]()
    with turns.seat() as seat:
        took = xray.measure(seat, plan, GRAPH.vocabulary, 9, 3, heard.append)
        assert seat.sequence.position == 12
        last = dict(seat.sequence.op_times())
    assert heard[-1] == 1.0
    profile = graphs.read(xray.describe(GRAPH, plan, "cpu") | took)
    assert profile.prefill and profile.decode
    assert (profile.prefill.tokens, profile.decode.tokens) == (9, 1)
    assert set(profile.decode.ns) == set(last) <= set(plan.steps)
    assert all(profile.decode.ns.values()), "every step took some time"
    now = xray.live(plan)
    assert now["decode"] == {"tokens": 1, "ns": last} and now["prefill"] is None
    with turns.seat() as seat, pytest.raises(ClawError, match="more tokens than the context"):
        xray.measure(seat, plan, GRAPH.vocabulary, 60, 5, heard.append)


def test_a_worker_that_read_no_file_tells_the_same(plan: Plan) -> None:
    kept = notes.write(GRAPH, Tokenizer(FILE), None, notes.Kind(64, "f16"), b"")
    found = notes.read(kept)
    assert found
    again = notes.graph(found[0].encoded)
    assert xray.describe(again, plan, "cpu") == xray.describe(GRAPH, plan, "cpu")
    with pytest.raises(ClawError, match="damaged"):
        notes.graph(kept[:40])
    odd = replace(GRAPH, nodes=(Node(Op.ADD, ("x", "nowhere"), "y"), *GRAPH.nodes))
    with pytest.raises(ClawError, match="makes no sense"):
        xray.describe(odd, plan, "cpu")
