"""Several sequences of one plan: runs that leave between steps, threads that come and go."""

import dataclasses
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clawai.plugins.accelerator.weights import ROWS, Tables, Turn
from clawai.sdk.model.driver import Left, Stopped
from clawai.sdk.model.dtypes import DType
from clawai.sdk.wire import GO, HOLD, STOP
from tiny_llama import compiled, llama

TOKENS = np.random.default_rng(3).integers(0, 101, 400).tolist()
GRAPH = llama(DType.Q4_1, width=96, ffn=160, heads=6, kv_heads=2)


def word(threads: int = 0) -> memoryview:
    view = memoryview(bytearray(4)).cast("I")
    view[0] = threads << 8
    return view


def expected(parts: list[list[int]], kv: str = "f16") -> list[Any]:
    """What a plan of its own says."""
    plan = compiled(GRAPH, context=400, kv=kv)
    try:
        return [plan.sequences[0].run(part, all_logits=True).copy() for part in parts]
    finally:
        plan.close()


@pytest.mark.parametrize("kv", ["f16", "q8"])
def test_sequences_that_leave_after_every_step_say_what_they_say_alone(kv: str) -> None:
    prompts = [[TOKENS[:150], [5]], [TOKENS[150:200], [6]], [[7], TOKENS[200:330]]]
    alone = [expected(parts, kv) for parts in prompts]
    plan = compiled(GRAPH, context=400, threads=2, sequences=3, kv=kv)
    told: list[list[Any]] = [[], [], []]
    left = 0
    try:
        plan.preempt(True)
        goings = [
            (number, lambda s=s, part=part: s.run(part, all_logits=True))
            for number, (s, parts) in enumerate(zip(plan.sequences, prompts, strict=True))
            for part in parts[:1]
        ]
        waiting = [parts[1:] for parts in prompts]
        while goings:
            number, go_on = goings.pop(0)
            sequence = plan.sequences[number]
            try:
                told[number].append(go_on())
            except Left:
                left += 1
                goings.append((number, sequence.resume))
                continue
            if waiting[number]:
                part = waiting[number].pop()
                goings.append((number, lambda s=sequence, part=part: s.run(part, all_logits=True)))
    finally:
        plan.close()
    assert left > 100
    for got, wanted in zip(told, alone, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_a_held_run_leaves_and_goes_on_exactly() -> None:
    (wanted,) = expected([TOKENS[:300]])
    control = word()
    plan = compiled(GRAPH, context=400, threads=2)
    (sequence,) = plan.sequences
    try:
        sequence.start(control)
        control[0] = HOLD
        with pytest.raises(Left):
            sequence.run(TOKENS[:300], all_logits=True)
        for _ in range(3):
            with pytest.raises(Left):
                sequence.resume()
        with pytest.raises(ValueError, match="resume it"):
            sequence.run([1])
        control[0] = GO
        assert np.array_equal(sequence.resume(), wanted)
        with pytest.raises(ValueError, match="no run has left"):
            sequence.resume()
    finally:
        plan.close()


def test_a_stop_ends_one_sequence_and_no_other() -> None:
    (wanted,) = expected([TOKENS[:200]])
    controls = [word(), word()]
    plan = compiled(GRAPH, context=400, sequences=2)
    first, second = plan.sequences
    try:
        for sequence, control in zip(plan.sequences, controls, strict=True):
            sequence.start(control)
        plan.preempt(True)
        with pytest.raises(Left):
            first.run(TOKENS[:200], all_logits=True)
        with pytest.raises(Left):
            second.run(TOKENS[200:300])
        controls[1][0] = STOP
        plan.preempt(False)
        with pytest.raises(Stopped):
            second.resume()
        assert second.position == 0
        assert np.array_equal(first.resume(), wanted)
        second.start(None)
        assert np.array_equal(second.run(TOKENS[:200], all_logits=True), wanted)
    finally:
        plan.close()


def test_threads_that_are_granted_and_taken_back_change_no_bit() -> None:
    """Both while a run is on, step by step, and at any moment from outside."""
    parts = [TOKENS[:200], *([t] for t in TOKENS[200:230])]
    wanted = expected(parts)
    control = word(1)
    plan = compiled(GRAPH, context=400, threads=3)
    (sequence,) = plan.sequences
    try:
        sequence.start(control)
        plan.preempt(True)
        for number, (part, logits) in enumerate(zip(parts, wanted, strict=True)):
            go_on = lambda part=part: sequence.run(part, all_logits=True)  # noqa: E731
            while True:
                control[0] = (number % 5) << 8  # 4 are more than there are, 0 is all
                number += 1  # noqa: PLW2901
                try:
                    assert np.array_equal(go_on(), logits)
                    break
                except Left:
                    go_on = sequence.resume
        plan.preempt(False)
        over = threading.Event()

        def change() -> None:
            grant = 0
            while not over.wait(0.0005):
                grant = (grant + 1) % 4
                control[0] = grant << 8

        other = threading.Thread(target=change)
        other.start()
        try:
            sequence.rewind(0)
            for part, logits in zip(parts, wanted, strict=True):
                assert np.array_equal(sequence.run(part, all_logits=True), logits)
        finally:
            over.set()
            other.join()
    finally:
        plan.close()


def test_threads_without_a_grant_sleep() -> None:
    """They use no processor time at all while steps go by."""
    control = word(1)
    before = set(Path("/proc/self/task").iterdir())
    plan = compiled(llama(layers=4, context=2000), context=2000, threads=4)
    (sequence,) = plan.sequences
    helpers = list(set(Path("/proc/self/task").iterdir()) - before)
    try:
        assert len(helpers) == 3
        sequence.start(control)
        sequence.run(TOKENS)  # the first step sends them to sleep

        def ran() -> list[str]:
            return [(path / "schedstat").read_text().split()[2] for path in helpers]

        def asleep() -> bool:
            said = [(path / "stat").read_text() for path in helpers]
            return all(text.rpartition(")")[2].split()[0] == "S" for text in said)

        while True:  # until the last one has arrived there
            counts = ran()
            sequence.run([1, 2, 3])
            if asleep() and ran() == counts:  # one may still wait for a processor
                break
        sequence.run(TOKENS * 3)
        assert ran() == counts, "how often they were given a processor"
        control[0] = 0
        while ran() == counts:
            sequence.run([1])
    finally:
        plan.close()


def test_op_times_are_those_of_each_sequence() -> None:
    plan = compiled(llama(layers=1), context=200, sequences=2)
    first, second = plan.sequences
    try:
        first.run(TOKENS[:150])
        second.run([1])
        assert len(first.op_times()) > len(second.op_times()) > 0
        assert [name for name, _ in second.op_times()][-1] == "logits"
    finally:
        plan.close()


def test_a_sequence_says_which_logit_is_the_largest() -> None:
    for threads in (1, 3):
        plan = compiled(GRAPH, context=400, threads=threads, sequences=2)
        sequence, other = plan.sequences
        try:
            assert sequence.likeliest is None
            for part in (TOKENS[:150], [5], [7]):
                assert int(np.argmax(sequence.run(part)[-1])) == sequence.likeliest
            sequence.run([1, 2], all_logits=True)
            assert sequence.likeliest is None
            alone = other.run([9]).copy()
            other.rewind(0)
            plan.preempt(True)
            with pytest.raises(Left):
                other.run([9])
            with pytest.raises(ValueError, match="has left"):  # and does not forget its token
                other.run([8])
            plan.preempt(False)
            assert np.array_equal(other.resume(), alone)
            for row, each in zip(
                plan.batches[0].run([sequence, other], [3, 4]), plan.sequences, strict=True
            ):
                assert int(np.argmax(row[-1])) == each.likeliest
        finally:
            plan.close()


def test_no_logit_is_the_largest_where_one_is_no_number() -> None:
    name = GRAPH.nodes[-1].inputs[1]
    matrix = GRAPH.tensors[name]
    raw = np.frombuffer(matrix.data, np.uint8).reshape(matrix.shape[0], -1).copy()
    raw[50, :2] = 0x00, 0x7E  # the scale of a group, in f16
    broken = dataclasses.replace(matrix, data=memoryview(raw.reshape(-1).data))
    plan = compiled(
        dataclasses.replace(GRAPH, tensors=GRAPH.tensors | {name: broken}), context=8, sequences=2
    )
    try:
        assert np.flatnonzero(np.isnan(plan.sequences[0].run([5])[0])).tolist() == [50]
        assert plan.sequences[0].likeliest is None
        plan.batches[0].run(plan.sequences, [5, 6])
        assert [each.likeliest for each in plan.sequences] == [None, None]
    finally:
        plan.close()


@pytest.mark.parametrize("interleaved", [True, False])
def test_rotations_are_written_as_far_as_a_sequence_comes(interleaved: bool) -> None:
    context = 3 * ROWS + 5
    first = Turn(64, 1e4, 16, interleaved, 1.0, [1.0])
    size = 64 + 4 * first.width * context
    turns = [first, Turn(size, 5e5, 2, False, 8.0, [1.5])]
    whole, parts = (np.zeros(size + 4 * 2 * context, np.uint8) for _ in range(2))
    for turn in turns:
        turn.write(whole, 0, context)
    tables = Tables(turns, parts, context)
    for position in (0, 1, ROWS, ROWS + 1, 7, context):
        tables.reach(position)
        written = min(-(-position // ROWS) * ROWS, context)
        end = 64 + 4 * first.width * written
        assert np.array_equal(parts[64:end], whole[64:end])
        if position == 1:
            assert not parts[end:size].any(), "no more than is needed"
    assert np.array_equal(parts, whole)
