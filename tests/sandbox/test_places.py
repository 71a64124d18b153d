"""Which places a manifest may ask for: refused ones with words, allowed ones expanded."""

from pathlib import Path

import pytest

from clawai.sdk import places
from clawai.sdk.errors import ClawError
from clawai.sdk.manifest import read_plugin


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with the kernel's own folders where XDG puts them."""
    home = tmp_path / "people" / "anna"
    (home / ".ssh").mkdir(parents=True)
    (home / "Documents").mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLAW_RUNTIME_DIR", str(home / "run"))
    return home


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/", "undo the sandbox"),
        ("/proc", "undo the sandbox"),
        ("/proc/self/mem", "undo the sandbox"),
        ("/sys/kernel", "undo the sandbox"),
        ("/dev", "undo the sandbox"),
        ("~", "keys"),
        ("~/.ssh", "keys"),
        ("~/.ssh/id_ed25519", "keys"),
        ("~/.config", "."),
        ("~/run", "belongs to the kernel"),
        ("~/.local/state/clawai", "belongs to the kernel"),
        ("~/.local/share/clawai/plugins", "holds the plugins"),
        ("/etc", "secrets of the system"),
        ("/etc/shadow", "secrets of the system"),
    ],
)
def test_dangerous_places_are_refused_for_reading_and_writing(
    home: Path, path: str, why: str
) -> None:
    for write in (False, True):
        with pytest.raises(ClawError) as caught:
            places.folder(path, write=write)
        assert caught.value.code == "not_permitted"
        assert why in caught.value.message
        assert caught.value.hint


@pytest.mark.parametrize("path", ["/usr/local", "/etc/cron.d", "~/.bashrc", "~/.local/bin/tool"])
def test_what_runs_later_may_be_read_but_not_written(home: Path, path: str) -> None:
    places.folder(path, write=False)
    with pytest.raises(ClawError, match="no plugin may write"):
        places.folder(path, write=True)


def test_a_link_counts_as_what_it_leads_to(home: Path, tmp_path: Path) -> None:
    (tmp_path / "innocent").symlink_to(home / ".ssh")
    with pytest.raises(ClawError, match=r"a link to .*\.ssh"):
        places.folder(str(tmp_path / "innocent"), write=False)
    with pytest.raises(ClawError, match="undo the sandbox"):
        (tmp_path / "root").symlink_to("/")
        places.folder(str(tmp_path / "root"), write=False)


def test_a_tilde_is_the_owners_home(home: Path) -> None:
    assert places.folder("~/Documents", write=True) == str(home / "Documents")
    for path in ("relative", "~other/x", "/a/../b", "/a//b", "/a/", "", "/a\0b"):
        with pytest.raises(ClawError) as caught:
            places.folder(path, write=False)
        assert caught.value.code == "bad_config"


def test_programs_and_devices_have_rules_of_their_own() -> None:
    assert places.program("/usr/bin/env") == "/usr/bin/env"
    assert places.device("/dev/dri/renderD128") == "/dev/dri/renderD128"
    for path in ("/usr/bin", "/proc/self/exe", "/dev/null"):
        with pytest.raises(ClawError, match="cannot be a program"):
            places.program(path)
    for path in ("/dev/mem", "/dev/tty1", "/dev/ttyS0", "/dev/input/event3", "/dev/vhost-net"):
        with pytest.raises(ClawError, match="as a device"):
            places.device(path)
    with pytest.raises(ClawError, match="as a device"):
        places.device("/etc/passwd")


@pytest.mark.parametrize(
    "line",
    [
        'read = {"~/.ssh" = "x"}',
        'write = {"/" = "x"}',
        'programs = {"/usr" = "x"}',
        'devices = {"/dev/mem" = "x"}',
    ],
)
def test_a_manifest_that_asks_for_one_cannot_be_read(tmp_path: Path, line: str) -> None:
    text = f'[plugin]\nname = "x"\nversion = "1"\nmodule = "x"\n[permissions]\n{line}\n'
    (tmp_path / "plugin.toml").write_text(text)
    with pytest.raises(ClawError, match=r"permissions[:.]") as caught:
        read_plugin(tmp_path)
    assert caught.value.code == "bad_config"
    assert caught.value.allowed
