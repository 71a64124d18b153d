"""`claw bench ops`: its forms, sane shares, and what it refuses."""

import json
import subprocess
import sys

import pytest

from clawai.sdk.cli.bench import ops

MOST = 2.5
"""Of a ceiling that another moment of the box reached; a wrong count would give far more."""


def claw(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clawai.sdk.cli.main", "bench", "ops", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_op_has_a_row_and_a_sane_share() -> None:
    done = claw("--quick", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    listed = json.loads(
        subprocess.run(
            [sys.executable, "-m", "clawai.sdk.cli.main", "ops", "--json"],
            capture_output=True,
            check=True,
        ).stdout
    )
    isas = {row["isa"] for row in found["rows"]}
    assert "scalar" in isas
    there = {(row["op"], row["isa"]) for row in listed if row["isa"] in isas}
    assert {(row["op"], row["isa"]) for row in found["rows"]} == there
    assert set(found["figures"]) == {f"{op}_{isa}_us" for op, isa in there}
    assert set(found["shares"]) <= set(found["figures"])
    assert set(found["ceilings"]) == {"read_1t_gb_s", "fma_1t_gflop_s", "int8_1t_gop_s"}
    for row in found["rows"]:
        assert row["time_us"] > 0 and row["shape"]
        assert row["from"] in ("cache", "memory")
        assert row["family"] and row["dtype"]
        if "share_ratio" in row:
            assert row["of"] in ("read", "fma", "int8")
            assert 0 < row["share_ratio"] < MOST, row
        else:
            assert row["why"] in ("in cache", "too short")
        if row["isa"] == "scalar":
            assert "faster_ratio" not in row
    families = [row["family"] for row in found["rows"]]
    assert families == sorted(families, key=families.index), "families are not kept together"


def test_one_family_on_one_set() -> None:
    done = claw("--quick", "--family", "gemv_int", "--isa", "scalar")
    assert done.returncode == 0, done.stderr
    head, *_ = [line for line in done.stdout.splitlines() if line.startswith("OP ")]
    assert head.split()[:5] == ["OP", "ISA", "US", "GB/S", "GOP/S"]
    assert "gemv_q8s" in done.stdout and "rmsnorm" not in done.stdout


@pytest.mark.parametrize(
    ("words", "allowed"), [(("--family", "waltz"), "gemv_int"), (("--isa", "mmx"), "scalar")]
)
def test_what_there_is_not_is_named_with_what_there_is(
    words: tuple[str, str], allowed: str
) -> None:
    done = claw(*words)
    assert done.returncode == 1
    assert words[1] in done.stderr and allowed in done.stderr
    assert "claw ops lists" in done.stderr and "bad_params" in done.stderr


def test_low_figures_are_marked_but_not_those_of_the_reference() -> None:
    row = {"op": "add", "isa": "avx2", "time_us": 2.0, "shape": "", "of": "read"}
    assert ops.cells(row | {"share_ratio": 0.2, "faster_ratio": 1.2})[5:7] == (
        "read 20% <",
        "1.2x <",
    )
    assert ops.cells(row | {"share_ratio": 0.9, "faster_ratio": 3})[5:7] == (
        "read 90%  ",
        "3.0x  ",
    )
    assert ops.cells(row | {"isa": "scalar", "share_ratio": 0.2})[5:7] == ("read 20%  ", "")
    assert ops.cells({**row, "why": "in cache", "faster_ratio": 9})[5] == "in cache  "
