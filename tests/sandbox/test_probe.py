"""The prober: what it proves here, and what it says on a box that lacks a layer."""

import base64
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clawai.sandbox import filters, landlock, probe, syscalls
from clawai.sandbox.attempts import ATTEMPTS, KNOWN_GAPS, bait, clear_stale
from clawai.sandbox.policy import LEVELS, Policy

PROBE = (sys.executable, "-I", "-m", "clawai.sandbox.probe")
HELD = """
from clawai.sandbox.attempts import Bait
made = Bait()
print(made.folder, flush=True)
input()
"""


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


@pytest.mark.parametrize(
    ("switch", "value", "command"),
    [
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "apparmor_restrict_unprivileged"),
        ("kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
        ("user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces="),
    ],
)
def test_what_forbids_namespaces_is_told_with_the_command_that_helps(
    tmp_path: Path, switch: str, value: str, command: str
) -> None:
    (tmp_path / switch).parent.mkdir()
    (tmp_path / switch).write_text(f"{value}\n")
    layers = {"namespaces": "PermissionError: mount", "landlock": "ok (ABI 7)"}
    (advice,) = probe._advice(layers, 7, str(tmp_path))
    assert command in advice
    if "apparmor" in switch:
        assert os.path.realpath(sys.executable) in advice
        assert "docs/sandbox.md" in advice


def test_an_older_landlock_is_named_with_what_it_leaves_to_others() -> None:
    assert probe._landlock_text(7) == "ok (ABI 7)"
    said = probe._landlock_text(2)
    for what in ("truncating", "TCP", "device ioctls", "abstract sockets and signals"):
        assert what in said
    assert "moving files" in probe._landlock_text(1)


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 6])
def test_every_older_landlock_denies_what_is_outside(tmp_path: Path, version: int) -> None:
    if landlock.abi() < version:
        pytest.skip(f"this kernel's Landlock is older than {version}")
    (tmp_path / "data").write_text("secret")
    child = os.fork()
    if child == 0:
        try:
            syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
            folders = [each for each in ("/usr", "/lib") if Path(each).exists()]
            landlock.restrict(Policy(), folders, "/usr", version=version)
            Path("/usr/bin/env").read_bytes()
            (tmp_path / "data").read_text()
        except PermissionError as error:
            os._exit(0 if error.filename == str(tmp_path / "data") else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_record_says_what_bounds_workers_and_whether_denials_have_names(
    probed: dict[str, Any],
) -> None:
    assert probed["denials"] == "named"
    assert probed["limits"].keys() == {"memory", "pids", "cpu"}
    assert set(probed["limits"].values()) <= {"cgroup1", "cgroup2", "watchdog"}


def test_where_somebody_listens_already_calls_are_denied_without_names(
    run_with: Callable[..., str],
) -> None:
    found = json.loads(run_with("user", "degraded.py", "listener", *PROBE))
    assert found["level"] == "full", found["layers"]
    assert found["denials"].startswith("not named: something outside listens")


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


def test_what_a_killed_probe_left_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed = subprocess.Popen(
        [sys.executable, "-c", HELD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert killed.stdout
    left = Path(killed.stdout.readline().strip())
    other, mine = tmp_path / "claw-bait-elsewher", tmp_path / "claw-bait-notes"
    other.symlink_to("/")
    mine.mkdir()
    with bait() as held:
        for folder in (left, held.folder, mine):
            os.utime(folder, (1, 1))
        clear_stale()
        assert left.is_dir(), "its probe still runs"
        killed.kill()
        killed.communicate()
        clear_stale()
        assert not left.exists()
        assert held.folder.is_dir() and other.is_symlink()
    assert set(tmp_path.iterdir()) == {other, mine}


def test_a_bait_that_is_just_being_made_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "claw-bait-justmade").mkdir()
    clear_stale()
    assert (tmp_path / "claw-bait-justmade").is_dir()
