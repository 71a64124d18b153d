"""The profile of a box: it changes no bit, measures what runs, and seldom leaves defaults."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ops_table
from checkops import MACHINES, build, run_cases, why_not, write_cases
from clawai.plugins.accelerator import profile, tuned
from clawai.plugins.accelerator.build_ops import CSRC, read_ops
from clawai.plugins.accelerator.listing import SMALLER, listing
from clawai.plugins.accelerator.native import ISAS, available_isas, lib
from clawai.sdk import tuning
from clawai.sdk.errors import ClawError
from op_cases import KINDS, make_case
from op_cases.native import run
from tiny_llama import compiled, llama

OPS = {op.name: op for op in read_ops()}
HERE = [names for g in tuned.SAME_BITS if len(names := [n for n in g if n in available_isas()]) > 1]


@pytest.fixture(autouse=True)
def hints() -> Iterator[None]:
    """Tests change the hints of this process; afterwards they are as before."""
    yield
    tuned.tune("")


def bits(name: str, target: str, kind: str) -> list[bytes]:
    return [out.tobytes() for out in run(OPS[name], target, make_case(name, kind), "end")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OPS)
def test_no_choice_of_an_instruction_set_changes_a_bit(name: str, kind: str) -> None:
    for group in HERE:
        first, *others = (bits(name, target, kind) for target in group)
        assert all(other == first for other in others), f"{name} {kind}: {group} differ"


def test_nor_does_one_of_another_processor(tmp_path: Path) -> None:
    machine = MACHINES["aarch64"]
    if reason := why_not(machine):
        pytest.skip(reason)
    dots = [name for name in OPS if OPS[name].dots]  # the others are the very same functions
    cases = [(name, kind, make_case(name, kind)) for name in dots for kind in KINDS]
    write_cases(tmp_path / "cases", cases)
    command = [*machine.emulator, build(machine) / "checkops"]
    seen = {
        target: [
            (cases[i][:2], side, [out.tobytes() for out in outs])
            for i, side, outs in run_cases(command, target, cases, tmp_path / "cases")
        ]
        for target in ("neon", "dotprod", "i8mm")
    }
    assert seen["dotprod"] == seen["neon"]
    assert seen["i8mm"] == seen["neon"]


@pytest.mark.parametrize("name", [n for n in OPS if OPS[n].family in ("gemv_int", "gemm_int")])
def test_no_hint_changes_a_bit(name: str) -> None:
    target = available_isas()[-1]
    tuned.tune("")
    expected = bits(name, target, "large")
    for line in (
        *("ahead=0", "ahead=65536", "tile=1", "tile=2 ahead=1000", "tile=3"),
        *("streams=1", "streams=4", "streams=1 ahead=0"),
    ):
        tuned.tune(line)
        assert bits(name, target, "large") == expected, line


def logits(line: str, monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setenv(tuning.VARIABLE, line)
    plan = compiled(llama(), threads=2)
    try:
        sequence = plan.sequences[0]
        sequence.start(None)
        prompt = sequence.run([3, 1, 4, 1, 5, 9, 2, 6, 5, 3], all_logits=True).tobytes()
        return bytes(prompt + sequence.run([7]).tobytes())
    finally:
        plan.close()


def test_a_model_gives_the_same_bits_with_any_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = logits("", monkeypatch)
    best = available_isas()[-1]
    for isa in tuned.alike(best):
        assert logits(f"gemv_int={isa} gemm_int={isa} attention={isa}", monkeypatch) == expected
    assert logits("tile=2 ahead=0 one_threads=1 many_threads=1", monkeypatch) == expected
    for streams in (1, lib.CLAW_STREAMS):
        assert logits(f"streams={streams}", monkeypatch) == expected


def test_a_measurement_of_this_box() -> None:
    # An override holds for its own process: what is kept must not come from it.
    env = os.environ | {tuning.VARIABLE: "gemv_int=scalar", tuning.ISA_VARIABLE: "scalar"}
    done = subprocess.run(tuning.MEASURE, capture_output=True, check=True, env=env)
    found = tuning.check(done.stdout)
    alike = tuned.alike(available_isas()[-1])
    assert set(found.timed) <= set(alike)
    for times in found.timed.values():
        assert set(times) <= set(OPS)
        assert all(time > 0 for time in times.values())
    assert {"gemv_q4a", "gemm_q8s", "attention_f16"} <= set(found.timed[alike[-1]])
    for name, value in found.choices.items():
        assert name in tuning.NUMBERS or value in alike
    tuned.tune(tuning.line(found.choices))


def test_a_choice_must_win_by_a_margin() -> None:
    assert profile.winner({"a": 100.0, "b": 96.0}, "a") == "a"
    assert profile.winner({"a": 100.0, "b": 94.0}, "a") == "b"
    assert profile.winner({"a": 100.0, "b": 120.0}, "a") == "a"


def test_a_race_without_time_decides_nothing() -> None:
    calls: list[Any] = [lambda: None, lambda: None]
    assert profile.race(calls, until=0.0) is None
    times = profile.race(calls, until=1e9)
    assert times is not None and len(times) == 2


def test_families_run_where_the_line_says() -> None:
    best, *_ = reversed(available_isas())
    found = tuned.tune("gemv_int=scalar ahead=512 tile=3 one_threads=1")
    scalar = lib.claw_ops_named(b"scalar")
    assert found.isa_of("gemv_int") == "scalar" and found.isa_of("gemm_int") == best
    assert found.table.gemv_q4a == scalar.gemv_q4a
    assert found.table.gemm_q4a == lib.claw_ops_named(best.encode()).gemm_q4a
    assert (lib.claw_tune.ahead, lib.claw_tune.tile, lib.claw_tune.one) == (512, 3, 1)
    tuned.tune("")
    assert lib.claw_tune.ahead == tuned.DEFAULTS["ahead"] and lib.claw_tune.one == 0
    assert str(found) == f"{best} (gemv_int on scalar)"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("gemv_int=mmx", "no such instruction set"),
        ("isa=mmx", "no such instruction set"),
        ("dance=scalar", "no family of ops dance"),
        ("isa=rvv" if "rvv" not in available_isas() else "isa=avx2", "this processor cannot run"),
    ],
)
def test_what_there_is_not_is_refused(line: str, says: str) -> None:
    with pytest.raises(ClawError, match=says) as caught:
        tuned.tune(line)
    assert caught.value.code == "bad_config" and caught.value.allowed and caught.value.hint


def test_the_listing_covers_the_library() -> None:
    found = listing("")
    assert {row["op"] for row in found["ops"]} == set(OPS)
    for name, op in OPS.items():
        mine = [row for row in found["ops"] if row["op"] == name]
        assert {row["family"] for row in mine} == {op.family}
        assert sum(row["chosen"] for row in mine) == 1
        assert ("avx512vnni" in {row["isa"] for row in mine}) == op.dots
    assert found["here"] == available_isas()


def test_every_target_is_listed_and_has_its_place() -> None:
    targets = {path.stem for path in (CSRC / "targets").glob("*.c")}
    assert set(ISAS) == targets, "native.ISAS and csrc/targets differ"
    vectors = {isa for group in tuned.SAME_BITS for isa in group}
    assert targets - {"scalar"} <= vectors, "a target is in no group of SAME_BITS"
    assert set(SMALLER) <= vectors


def test_the_listing_is_a_program() -> None:
    done = subprocess.run([*tuning.LIST, "isa=scalar"], capture_output=True, text=True, check=True)
    assert all(row["chosen"] == (row["isa"] == "scalar") for row in json.loads(done.stdout)["ops"])
    done = subprocess.run([*tuning.LIST, "isa=x"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["error"][0] == "bad_config"
    assert tuning.LIST[:2] == (sys.executable, "-I")


def test_the_table_in_the_document_is_that_of_the_library() -> None:
    text = ops_table.DOCUMENT.read_text()
    assert ops_table.renewed(text) == text, "renew it: python tests/ops_table.py"


def test_numbers_of_the_sdk_are_those_of_the_library() -> None:
    assert tuning.NUMBERS["tile"] == (1, lib.CLAW_MAX_TILE)
    assert tuning.NUMBERS["streams"] == (1, lib.CLAW_STREAMS)
    assert tuning.NUMBERS["ahead"] == (0, lib.CLAW_MAX_AHEAD)
    assert tuning.NUMBERS["one_threads"] == (0, lib.CLAW_MAX_THREADS)
    assert np.isin(list(tuned.DEFAULTS), list(tuning.NUMBERS)).all()
