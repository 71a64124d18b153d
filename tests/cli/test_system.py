"""Closed and full streams, folders that refuse, odd bytes: told in a line, never a traceback."""

import errno
import subprocess

import pytest

from clawai.sdk.cli import system


def shell(box, script: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run ``script`` in a shell that knows `claw` as $CLAW."""
    done = subprocess.run(
        ["sh", "-c", script],
        env=box.env | {"CLAW": box.command[0]} | env,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr
    return done


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["models", "version", "--help", "config --json"])
def test_a_full_standard_output_is_an_error_in_one_line(box, command, unbuffered):
    done = shell(box, f"$CLAW {command} >/dev/full", PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 1
    assert done.stderr == "claw: cannot write the output: No space left on device\n"


@pytest.mark.parametrize("command", ["nonsense", "show nothing", "pull"])
def test_a_full_standard_error_ends_with_an_error(box, command):
    assert shell(box, f"$CLAW {command} 2>/dev/full").returncode in (1, 2)
    assert shell(box, f"$CLAW {command} >/dev/full 2>/dev/full").returncode in (1, 2)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_changes_nothing(box, closed):
    assert shell(box, f"$CLAW models {closed}").returncode == 0
    assert shell(box, f"$CLAW show nothing {closed}").returncode == 1


def test_the_kernel_starts_with_all_streams_closed(box):
    assert shell(box, "$CLAW up <&- >&- 2>&-").returncode == 0
    assert box.run("call", "echo.say", "text=hi").stdout == '"hi"\n'


@pytest.mark.parametrize(
    ("variable", "command"),
    [("XDG_CONFIG_HOME", "config set log.level debug"), ("XDG_STATE_HOME", "up"),
     ("XDG_DATA_HOME", "pull $FILE --name x")],
)  # fmt: skip
def test_a_folder_that_cannot_be_made_is_named(box, variable, command):
    (box.home / "file").write_bytes(b"GGUF")
    place = {variable: str(box.home / "file" / "below")}
    done = shell(box, f"$CLAW {command}", FILE=str(box.home / "file"), **place)
    assert done.returncode == 1
    assert str(box.home / "file") in done.stderr
    assert any(code in done.stderr for code in ("bad_config", "not_permitted"))


def test_a_disk_that_takes_no_more_leaves_the_old_configuration(box):
    box.run("config", "set", "log.level", "debug")
    folder = box.home / "config" / "clawai"
    before = (folder / "config.toml").read_bytes()
    done = shell(box, "ulimit -f 0; $CLAW config set log.max_mib 3")
    assert done.returncode == 1
    assert "disk_full" in done.stderr
    assert (folder / "config.toml").read_bytes() == before
    assert [each.name for each in folder.iterdir()] == ["config.toml"]


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.EACCES, "not_permitted"), (errno.EROFS, "not_permitted"), (errno.ENOSPC, "disk_full"),
     (errno.EDQUOT, "disk_full"), (errno.ENOTDIR, "bad_config"), (errno.ELOOP, "bad_config")],
)  # fmt: skip
def test_each_refusal_of_the_system_has_its_code(number, code):
    error = system.as_claw_error(OSError(number, "said", "/the/place"))
    assert error.code == code
    assert "/the/place" in error.message
    assert error.hint


def test_bytes_that_are_no_text_are_refused_by_name(box):
    odd = "$(printf '\\377')"
    for words, says in (
        (f"run m x --system {odd}", "--system"),
        (f"run m x --system={odd}", "--system"),
        (f"run m {odd}", "word 3"),
        (f"config set log.level {odd}", "word 4"),
    ):
        done = shell(box, f"$CLAW {words}")
        assert done.returncode == 2
        assert says in done.stderr
        assert "UTF-8" in done.stderr
