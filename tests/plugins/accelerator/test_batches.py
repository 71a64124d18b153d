"""Joint steps: several sequences, a token each, with the bits that each gets alone."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from clawai.plugins.accelerator.driver import CpuDriver, CpuPlan
from clawai.plugins.accelerator.native import lib
from clawai.sdk.model.driver import Left
from clawai.sdk.model.dtypes import DType
from clawai.sdk.model.graph import Graph
from clawai.sdk.wire import GO, HOLD, STOP
from guarded import Guarded
from tiny_llama import compiled, llama

TOKENS = np.random.default_rng(7).integers(0, 101, 400).tolist()
GRAPH = llama(DType.Q4_1, width=96, ffn=160, heads=6, kv_heads=2)
PROMPTS = [TOKENS[:5], TOKENS[10:140], TOKENS[3:70], TOKENS[:1]]


def word() -> memoryview:
    return memoryview(bytearray(4)).cast("I")


@contextmanager
def plan_of(graph: Graph = GRAPH, **settings: Any) -> Iterator[CpuPlan]:
    plan = compiled(graph, context=300, **{"threads": 2, "sequences": 4, **settings})
    try:
        yield plan
    finally:
        plan.close()


def alone(prompt: list[int], tokens: list[int], graph: Graph = GRAPH, kv: str = "f16") -> list[Any]:
    """What a sequence says that has a plan for itself."""
    with plan_of(graph, sequences=1, threads=1, kv=kv) as plan:
        (sequence,) = plan.sequences
        sequence.run(prompt)
        return [sequence.run([token]).copy() for token in tokens]


def prefilled(plan: CpuPlan, controls: Any = None) -> None:
    for number, (sequence, prompt) in enumerate(zip(plan.sequences, PROMPTS, strict=False)):
        sequence.start(controls[number] if controls else None)
        sequence.run(prompt)


def to_the_end(batch: Any, sequences: Any, tokens: list[int]) -> tuple[list[Any], int]:
    """The outcome of a step that is left again and again, and how often it was."""
    go_on, left = lambda: batch.run(sequences, tokens), 0
    while True:
        try:
            return go_on(), left
        except Left:
            go_on, left = batch.resume, left + 1


def rows_are_as_alone(graph: Graph, threads: int, kv: str = "f16") -> None:
    wanted = [alone(prompt, TOKENS[:6], graph, kv) for prompt in PROMPTS]
    with plan_of(graph, threads=threads, kv=kv) as plan:
        prefilled(plan)
        for number, token in enumerate(TOKENS[:6]):
            members = [0, 1, 2, 3] if number % 2 else [3, 1, 0]  # who takes part changes
            sequences = [plan.sequences[m] for m in members]
            for member, logits in zip(
                members, plan.batches[0].run(sequences, [token] * len(members)), strict=True
            ):
                assert np.array_equal(logits, wanted[member][number])
            if len(members) == 3:  # and one of them goes alone
                assert np.array_equal(plan.sequences[2].run([token]), wanted[2][number])
        assert [s.position for s in plan.sequences] == [len(p) + 6 for p in PROMPTS]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("dtype", "kv"),
    [
        (DType.Q4_0, "f16"),
        (DType.Q4_1, "f16"),
        (DType.Q4_1, "q8"),
        (DType.Q8_0, "f16"),
        (DType.Q4_K, "f16"),
        (DType.F16, "q8"),
        (DType.F32, "f16"),
    ],
)
def test_each_row_has_the_bits_that_it_has_alone(dtype: DType, kv: str, threads: int) -> None:
    wide = {"width": 256, "ffn": 256} if dtype is DType.Q4_K else {"width": 96, "ffn": 160}
    graph = llama(dtype, heads=8, kv_heads=2, head_dim=32, bias=True, style="split", **wide)
    rows_are_as_alone(graph, threads, kv)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [DType.Q4_1, DType.Q8_0, DType.F32])
def test_so_has_each_of_a_long_vocabulary(dtype: DType, bias: bool) -> None:
    """Whose rows are done by 64: the last piece has 24."""
    graph = llama(dtype, width=96, ffn=160, heads=6, kv_heads=2, vocabulary=8216, bias=bias)
    rows_are_as_alone(graph, threads=2)


@pytest.mark.parametrize("rows", range(1, 34))
def test_any_number_of_rows(rows: int) -> None:
    with plan_of(sequences=33) as plan:
        wanted = [plan.sequences[0].run([token]).copy() for token in TOKENS[:2]]
        plan.sequences[0].rewind(0)
        chosen = plan.sequences[33 - rows :]
        for token, logits in zip(TOKENS[:2], wanted, strict=True):
            for got in plan.batches[0].run(chosen, [token] * rows):
                assert np.array_equal(got, logits)


@pytest.mark.parametrize("kv", ["f16", "q8"])
def test_steps_left_in_the_middle_go_on_exactly_whatever_ran_between(kv: str) -> None:
    """Two batches and a lone run are at different ops of the model at any time."""
    wanted = [alone(prompt, TOKENS[:3], kv=kv) for prompt in PROMPTS]
    with plan_of(kv=kv) as plan:
        prefilled(plan)
        plan.preempt(True)
        for number, token in enumerate(TOKENS[:3]):
            pairs = [(0, 2), (1, 3)]
            told: dict[int, Any] = {}
            goings: list[tuple[int, Any]] = [
                (which, lambda b=plan.batches[which], p=pair, t=token: b.run(
                    [plan.sequences[m] for m in p], [t, t]
                ))
                for which, pair in enumerate(pairs)
            ]  # fmt: skip
            left = 0
            while goings:
                which, go_on = goings.pop(0)
                try:
                    told |= dict(zip(pairs[which], go_on(), strict=True))
                except Left:
                    left += 1
                    goings.append((which, plan.batches[which].resume))
            assert left > 10
            for member, logits in told.items():
                assert np.array_equal(logits, wanted[member][number])


def test_a_stop_takes_out_one_row_and_no_other() -> None:
    wanted = [alone(prompt, TOKENS[:1]) for prompt in PROMPTS]
    controls = [word() for _ in PROMPTS]
    with plan_of() as plan:
        prefilled(plan, controls)
        plan.preempt(True)
        with pytest.raises(Left):
            plan.batches[0].run(plan.sequences, [TOKENS[0]] * 4)
        controls[2][0] = STOP
        plan.preempt(False)
        outcome = plan.batches[0].resume()
        assert outcome[2] is None
        assert plan.sequences[2].position == len(PROMPTS[2])
        for member in (0, 1, 3):
            assert np.array_equal(outcome[member], wanted[member][0])
        plan.sequences[2].start(None)  # it is free for another task
        plan.sequences[2].run(PROMPTS[2])
        assert np.array_equal(plan.sequences[2].run(TOKENS[:1]), wanted[2][0])


def test_a_held_row_is_taken_out_while_others_go_on_and_its_token_comes_later() -> None:
    wanted = [alone(prompt, TOKENS[:1]) for prompt in PROMPTS]
    controls = [word() for _ in PROMPTS]
    with plan_of() as plan:
        prefilled(plan, controls)
        controls[1][0] = HOLD
        outcome = plan.batches[0].run(plan.sequences, [TOKENS[0]] * 4)
        assert [logits is None for logits in outcome] == [False, True, False, False]
        controls[1][0] = GO
        (later,) = plan.batches[0].run(plan.sequences[1:2], [TOKENS[0]])
        assert np.array_equal(later, wanted[1][0])


def test_a_step_whose_rows_are_all_held_leaves_and_loses_nothing() -> None:
    controls = [word() for _ in PROMPTS]
    wanted = [alone(prompt, TOKENS[:1]) for prompt in PROMPTS]
    with plan_of() as plan:
        prefilled(plan, controls)
        for control in controls:
            control[0] = HOLD
        for go_on in (
            lambda: plan.batches[0].run(plan.sequences, [TOKENS[0]] * 4),
            plan.batches[0].resume,
        ):
            with pytest.raises(Left):
                go_on()
        controls[0][0] = STOP  # one that ends does not bring the others back to work
        with pytest.raises(Left):
            plan.batches[0].resume()
        for control in controls[1:]:
            control[0] = GO
        outcome = plan.batches[0].resume()
        assert outcome[0] is None
        for member in (1, 2, 3):
            assert np.array_equal(outcome[member], wanted[member][0])


def test_a_step_whose_rows_are_all_stopped_is_over() -> None:
    controls = [word() for _ in PROMPTS]
    with plan_of() as plan:
        prefilled(plan, controls)
        for control in controls:
            control[0] = STOP
        assert plan.batches[0].run(plan.sequences, [1] * 4) == [None] * 4
        assert [s.position for s in plan.sequences] == [len(p) for p in PROMPTS]


def test_a_sequence_dropped_from_a_step_that_left_is_free_at_once() -> None:
    """Its new task runs while the others' step is still in the middle; neither sees the other."""
    wanted = [alone(prompt, TOKENS[:1]) for prompt in PROMPTS]
    with plan_of() as plan:
        prefilled(plan)
        plan.preempt(True)
        with pytest.raises(Left):
            plan.batches[0].run(plan.sequences, [TOKENS[0]] * 4)
        plan.preempt(False)
        dropped = plan.sequences[1]
        plan.batches[0].drop(dropped)
        dropped.start(None)
        dropped.run(PROMPTS[0])
        outcome = plan.batches[0].resume()
        assert outcome[1] is None
        for member in (0, 2, 3):
            assert np.array_equal(outcome[member], wanted[member][0])
        assert np.array_equal(dropped.run(TOKENS[:1]), wanted[0][0])


def test_words_that_change_at_any_moment_change_no_bit() -> None:
    """Threads come and go, rows are held and let go from outside, while steps run."""
    tokens = TOKENS[:40]
    wanted = [alone(prompt, tokens) for prompt in PROMPTS]
    controls = [word() for _ in PROMPTS]
    over = threading.Event()

    def change() -> None:
        rng = np.random.default_rng(1)
        while not over.wait(0.0003):
            number = int(rng.integers(4))
            controls[number][0] = int(rng.choice([GO, GO, HOLD])) | int(rng.integers(4)) << 8

    with plan_of(threads=3) as plan:
        prefilled(plan, controls)
        other = threading.Thread(target=change)
        other.start()
        done = [0] * 4
        try:
            while min(done) < len(tokens):
                members = [m for m in range(4) if done[m] < len(tokens)]
                outcome, _ = to_the_end(
                    plan.batches[1],
                    [plan.sequences[m] for m in members],
                    [tokens[done[m]] for m in members],
                )
                for member, logits in zip(members, outcome, strict=True):
                    if logits is not None:  # else it was held, and its token comes again
                        assert np.array_equal(logits, wanted[member][done[member]])
                        done[member] += 1
        finally:
            over.set()
            other.join()


def test_op_times_cover_the_step() -> None:
    with plan_of() as plan:
        prefilled(plan)
        plan.batches[0].run(plan.sequences, [1] * 4)
        names = [name for name, _ in plan.batches[0].op_times()]
        assert names[0] == "x"
        assert names[-1] == "logits"
        assert len(names) > len(plan.sequences[0].op_times())  # nothing is folded


def test_what_does_not_fit_is_refused() -> None:
    with plan_of() as plan:
        batch, (one, two, *_) = plan.batches[0], plan.sequences
        for sequences, tokens, message in (
            ([], [], r"takes 1\.\.64 sequences"),
            ([one], [1, 2], r"takes 1\.\.64 sequences"),
            ([one, one], [1, 2], "named twice"),
            ([one, two], [1, 101], "token ids"),
            ([one, two], [-1, 1], "token ids"),
        ):
            with pytest.raises(ValueError, match=message):
                batch.run(sequences, tokens)
        with pytest.raises(ValueError, match="no step has left"):
            batch.resume()
        two.run([1] * 300)
        with pytest.raises(ValueError, match="context of 300 tokens is full"):
            batch.run([one, two], [1, 1])
        plan.preempt(True)
        with pytest.raises(Left):
            one.run([1] * 5)
        with pytest.raises(ValueError, match="resume it"):
            batch.run([one], [1])
        one.rewind(0)
        two.rewind(0)
        with pytest.raises(Left):
            batch.run([one, two], [1, 1])
        with pytest.raises(ValueError, match="a step has left"):
            batch.run([one, two], [1, 1])
        batch.forget()
        plan.preempt(False)
        assert batch.run([one, two], [1, 1])[0] is not None


@pytest.mark.parametrize(
    "change",
    [
        {"n": 0},
        {"n": 5},
        {"arena": 2},
        {"step": 10_000},
        {"row.sequence": 4},
        {"row.sequence": 1},  # twice
        {"row.position": 300},
        {"row.token": 101},
        {"row.token": -1},
    ],
)
def test_c_refuses_a_batch_that_lies_outside_of_the_plan(change: dict[str, int]) -> None:
    """Whatever Python was talked into: the library looks for itself."""
    with plan_of() as plan:
        prefilled(plan)
        batch = plan.batches[0]
        batch.run(plan.sequences[:2], [1, 1])
        for key, value in change.items():
            name, _, field = key.rpartition(".")
            setattr(batch._rows[0] if name else batch._batch, field, value)
        assert lib.claw_plan_decode(plan._shared.open(), batch._batch) < 0


@pytest.mark.parametrize("kv", ["f16", "q8"])
def test_a_batch_stays_inside_of_its_memory(kv: str) -> None:
    """Every memory of the plan ends at a page that nobody may touch, and begins after one."""
    for side in ("start", "end"):
        with Guarded(side) as space:

            def give(nbytes: int, purpose: str, space: Guarded = space) -> memoryview:
                return memoryview(space.place(np.zeros(-(-nbytes // 64) * 64, np.uint8)))

            with plan_of(give=give, sequences=5, threads=3, kv=kv) as plan:
                for sequence in plan.sequences:
                    sequence.run([1] * 299)
                assert all(out is not None for out in plan.batches[1].run(plan.sequences, [2] * 5))


def test_the_footprint_counts_what_a_batch_needs() -> None:
    driver = CpuDriver()
    sizes = [driver.footprint(GRAPH, context=300, sequences=n, threads=2).arena for n in (1, 2, 3)]
    assert sizes[1] - sizes[0] > sizes[2] - sizes[1] > 0, "two sequences can join, so one more"
    with plan_of(sequences=1) as plan:
        assert plan.batches == ()
