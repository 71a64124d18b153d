"""The conformance runner: a good client passes, and each mistake that authors make is found."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clawai.sdk.conformance import live, scripted, vectors
from clawai.sdk.conformance.values import from_json, same, to_json, wide

CLIENT = Path(__file__).with_name("conformance_client.py")
RUNNER = [sys.executable, "-m", "clawai.sdk.conformance"]


def conformance(*words: str, mistake: str = "", client: Any = CLIENT) -> Any:
    done = subprocess.run(
        [*RUNNER, *words, sys.executable, str(client)],
        env=os.environ | {"MISTAKE": mistake},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done if "--json" not in words else json.loads(done.stdout)


def test_a_client_of_zmq_and_msgpack_passes() -> None:
    found = conformance("--json")
    assert found["failed"] == []
    names = [row["case"] for row in found["cases"]]
    assert {name.partition(".")[0] for name in names} == {"vector", "scripted", "live", "client"}
    assert len(names) == len(vectors.load()) + len(scripted.CASES) + len(live.CASES) + 1
    assert all(row["about"].endswith(".") for row in found["cases"])


@pytest.mark.parametrize(
    ("mistake", "case"),
    [
        ("imprecise", "scripted.largest_numbers"),
        ("strict", "scripted.unknown_types"),
        ("strict_fields", "scripted.unknown_fields"),
        ("payload", "scripted.payload_frames"),
        ("defaults", "scripted.defaults_are_filled_in"),
        ("deaf", "scripted.requests_are_told_apart"),
        ("twice", "scripted.an_end_without_accepted"),
        ("forgets", "scripted.a_kernel_that_dies"),
        ("priority", "scripted.submit_as_told"),
        ("limits", "live.too_large_is_not_sent"),
        ("code", "client.ends"),
    ],
)
def test_a_mistake_is_found(mistake: str, case: str) -> None:
    found = conformance("--json", "--only", case, "--patience", "1", mistake=mistake)
    assert found["failed"] == [case]


def test_what_it_prints_for_people() -> None:
    done = conformance("--only", "unknown_types", mistake="strict")
    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == "FAILED scripted.unknown_types"
    assert "A type that the client does not know is ignored" in done.stdout
    assert "it ended before it said" in done.stdout
    assert "unknown type weather" in done.stdout, "what the client wrote to standard error"
    assert done.stdout.splitlines()[-1] == "0 of 1 cases passed"
    done = conformance("--only", "unknown_types")
    assert (done.returncode, done.stdout) == (
        0,
        "ok     scripted.unknown_types\n1 of 1 cases passed\n",
    )


def test_a_program_that_is_none_is_a_failed_case() -> None:
    words = ["--only", "a_newer_minor", "--patience", "1"]
    for program in ("/no/such/program", "true", "cat"):
        done = subprocess.run(
            [*RUNNER, *words, program], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1, program
        assert "0 of 1 cases passed" in done.stdout
        assert "Traceback" not in done.stderr + done.stdout
    done = subprocess.run([*RUNNER, "--only", "no such"], capture_output=True, check=False)
    assert done.returncode == 2, "a program must be named"


def test_values_survive_json() -> None:
    value = {"bytes": b"\x00\xff", "big": [(1 << 64) - 1, -(1 << 63), 5], "text": "ß", "nil": None}
    assert from_json(json.loads(json.dumps(to_json(value)))) == value
    assert msgspec.msgpack.decode(wide(value)) == value
    assert same([1, {"a": 2.0}], [1.0, {"a": 2}])
    assert not same(1, True)
    assert not same({"a": 1}, {"a": 1, "b": 2})
    assert not same([1], [1, 1])
