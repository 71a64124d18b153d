"""The prober: what it proves here, and what it says on a box that lacks a layer."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from clawai.sandbox import filters
from clawai.sandbox.attempts import ATTEMPTS, KNOWN_GAPS
from clawai.sandbox.policy import LEVELS

PROBE = (sys.executable, "-I", "-m", "clawai.sandbox.probe")


def test_the_record_is_one_line_with_every_attempt(probed: dict[str, Any]) -> None:
    assert probed["level"] in LEVELS
    assert probed["escapes"].keys() == ATTEMPTS.keys()
    worked = {name for name, state in probed["escapes"].items() if state == "WORKED"}
    assert worked <= KNOWN_GAPS.get(probed["level"], set(ATTEMPTS))
    assert len(filters.unpack(probed["bpf"])) == 3


@pytest.mark.parametrize(
    ("missing", "levels", "layer", "advice"),
    [
        ("landlock", {"root": "no-landlock", "user": "no-landlock"}, "landlock", "lsm="),
        ("unshare", {"root": "no-userns", "user": "no-userns"}, "namespaces", "container"),
        # A root daemon makes its namespaces before it gives up root, and needs no user namespace.
        ("userns", {"root": "full", "user": "no-userns"}, "namespaces", "namespaces"),
        ("landlock,unshare", {"root": "weaker", "user": "weaker"}, "landlock", "lsm="),
    ],
)
def test_a_missing_layer_lowers_the_level_and_is_named(
    run_as: Callable[..., str],
    identity: str,
    missing: str,
    levels: dict[str, str],
    layer: str,
    advice: str,
) -> None:
    found = json.loads(run_as("degraded.py", missing, *PROBE))
    assert found["level"] == levels[identity], found["layers"]
    assert base64.b64decode(found["bpf"])
    if found["level"] == "full":
        assert found["advice"] == []
        return
    assert not found["layers"][layer].startswith("ok")
    assert any(advice in text for text in found["advice"]), found["advice"]


def test_without_libseccomp_the_debian_package_is_named() -> None:
    # The import fails as it does where the library is missing; the rest of the prober is real.
    code = (
        "import sys, runpy; sys.modules['seccomp'] = sys.modules['pyseccomp'] = None;"
        "runpy.run_module('clawai.sandbox.probe', run_name='__main__')"
    )
    said = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, check=True, timeout=60
    )
    found = json.loads(said.stdout)
    assert (found["level"], found["bpf"]) == ("weaker", "")
    assert "apt install libseccomp2" in found["advice"][0]


def test_the_filters_compile_for_both_architectures() -> None:
    from clawai.sandbox import seccomp

    ours, other = (filters.unpack(seccomp.compile_filters(m)) for m in ("x86_64", "aarch64"))
    assert len(ours) == len(other) == 3
    assert ours != other
    with pytest.raises(OSError, match="no system call list for riscv64; known: x86_64, aarch64"):
        seccomp.compile_filters("riscv64")


def test_a_filter_that_was_cut_short_is_refused(probed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="cut short"):
        filters.unpack(probed["bpf"][:-8])
    assert filters.unpack(b"") == []


def test_the_placeholder_pid_is_no_process_and_nothing_else(probed: dict[str, Any]) -> None:
    placeholder = filters.OWN_PID.to_bytes(4, "little")
    base, second, names = filters.unpack(probed["bpf"])
    fields = [base[i : i + 4] for i in range(4, len(base), 8)]
    assert base.count(placeholder) == fields.count(placeholder) > 0
    assert placeholder not in second + names
    assert filters.OWN_PID > 1 << 22  # PID_MAX_LIMIT
    with pytest.raises(ProcessLookupError):
        os.kill(filters.OWN_PID, 0)
