"""Grants: pinned to version and files, read again when they change, gone with a dead developer."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clawai.sdk import asks, contents, develop, grants, signing
from clawai.sdk.errors import ClawError
from clawai.sdk.grants import Guard
from clawai.sdk.manifest import read_plugin
from plugin_folders import ASKS, homes, plugin

MORE = ASKS + 'models = { "*" = "to choose one" }\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    homes(tmp_path, monkeypatch)
    return plugin(tmp_path / "there" / "demo", permissions=ASKS)


@pytest.fixture
def guard(tmp_path: Path) -> Guard:
    return Guard(tmp_path / "bundled")


def grant(folder: Path, signer: str = "") -> grants.Grant:
    made = grants.grant(read_plugin(folder), folder, "a test", signer=signer)
    grants.change("demo", [made])
    return made


def refusal(guard: Guard, folder: Path) -> str:
    refused = guard.refusal(read_plugin(folder), folder)
    if refused is None:
        return ""
    assert refused.code == "not_granted" and refused.hint
    return refused.message


def test_who_asks_for_nothing_needs_no_grant(tmp_path: Path, guard: Guard, folder: Path) -> None:
    plugin(folder)
    assert refusal(guard, folder) == ""


def test_who_asks_needs_one(guard: Guard, folder: Path) -> None:
    assert "nobody has granted (read, network)" in refusal(guard, folder)
    grant(folder)
    assert refusal(guard, folder) == ""
    grants.change("demo", [])
    assert "nobody has granted" in refusal(guard, folder)


def test_the_bundled_ones_are_trusted(tmp_path: Path, guard: Guard) -> None:
    assert refusal(guard, plugin(tmp_path / "bundled" / "demo", permissions=ASKS)) == ""


@pytest.mark.parametrize(
    "what", ["a byte", "a file", "a hidden file", "compiled", "a link", "a mode", "gone", "version"]
)
def test_it_holds_for_exactly_these_files(guard: Guard, folder: Path, what: str) -> None:
    grant(folder)
    assert refusal(guard, folder) == ""
    code = folder / "claw_demo.py"
    match what:
        case "a byte":
            found = code.stat()
            code.write_bytes(code.read_bytes().replace(b"Say", b"Day"))
            os.utime(code, ns=(found.st_atime_ns, found.st_mtime_ns))  # as if it had not changed
        case "a file":
            (folder / "more.py").touch()
        case "a hidden file":
            (folder / ".more").touch()
        case "compiled":
            (folder / "__pycache__").mkdir()
            (folder / "__pycache__" / "claw_demo.pyc").write_bytes(b"x")
        case "a link":
            (folder / "data").symlink_to("/etc")
        case "a mode":
            code.chmod(0o755)
        case "gone":
            code.unlink()
        case "version":
            plugin(folder, version="1.0.1", permissions=ASKS)
    assert "not those that were installed as version 1.0.0" in refusal(guard, folder)


def test_files_are_read_again_only_when_they_have_changed(
    guard: Guard, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant(folder)
    read = []
    whole = contents.tree_hash
    monkeypatch.setattr(contents, "tree_hash", lambda place: read.append(place) or whole(place))
    for _ in range(5):
        assert refusal(guard, folder) == ""
    assert len(read) == 1
    (folder / "claw_demo.py").touch()  # another time, the same bytes
    assert refusal(guard, folder) == ""
    assert len(read) == 2


def test_a_manifest_that_was_read_before_the_files_changed_gets_no_more(
    guard: Guard, folder: Path
) -> None:
    """The grant is for what lies there now; what is in memory asks for more."""
    greedy = read_plugin(plugin(folder, permissions=MORE))
    plugin(folder, permissions=ASKS)
    grant(folder)
    refused = guard.refusal(greedy, folder)
    assert refused and "(models)" in refused.message
    assert refused.hint == f"claw plugin install {folder}"


def test_who_runs_in_anothers_worker_must_be_pinned_too(
    tmp_path: Path, guard: Guard, folder: Path
) -> None:
    grant(folder)
    driver = plugin(tmp_path / "there" / "motor", name="motor")
    beside = [(read_plugin(driver), driver)]
    refused = guard.refusal(read_plugin(folder), folder, beside)
    assert refused and "the plugin motor is not started" in refused.message
    assert refusal(guard, driver) == ""  # by itself it asks for nothing
    grants.change("motor", [grants.grant(beside[0][0], driver, "a test")])
    assert guard.refusal(read_plugin(folder), folder, beside) is None


def test_a_required_signature(guard: Guard, folder: Path) -> None:
    strict = Guard(guard.bundled, require_signature=True)
    plugin(folder)
    assert "only copied" in refusal(strict, folder)
    grant(folder)
    assert "require_signature" in refusal(strict, folder)
    key = signing.generate("ada")
    grant(folder, signer=key)
    assert refusal(strict, folder) == ""
    signing.distrust("ada")
    assert "require_signature" in refusal(strict, folder)


def test_the_file_is_the_owners_alone_and_can_be_read(guard: Guard, folder: Path) -> None:
    grant(folder)
    path = grants.book_file()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    told = json.loads(path.read_text())["plugins"]["demo"][0]
    assert told["permissions"][0] == {"kind": "read", "what": "/srv/maps", "reason": "to draw them"}
    path.chmod(0o622)
    assert "nobody else may write" in refusal(guard, folder)
    path.chmod(0o600)
    assert refusal(guard, folder) == ""
    path.rename(path.with_suffix(".kept"))
    path.symlink_to(path.with_suffix(".kept"))
    assert "not started" in refusal(guard, folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2}', '{"plugins": {"demo": [{}]}}'])
def test_a_broken_file_grants_nothing(guard: Guard, folder: Path, text: str) -> None:
    grant(folder)
    grants.book_file().write_text(text)
    assert "grants.json" in refusal(guard, folder)
    with pytest.raises(ClawError):
        grants.change("demo", [])
    assert grants.book_file().read_text() == text


DEVELOPS = """
import sys, time
from pathlib import Path
from clawai.sdk import develop
with develop.Session(Path(sys.argv[1]), granted=True):
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["closed", "killed"])
def test_a_folder_in_development_until_its_developer_ends(
    guard: Guard, folder: Path, end: str, tmp_path: Path
) -> None:
    other = plugin(folder.parent / "other", permissions=ASKS)
    command = [sys.executable, "-c", DEVELOPS, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout and process.stdout.readline() == b"open\n"
        plugin(folder, permissions=MORE)
        assert refusal(guard, folder) == "" and grants.developed(folder)
        assert "nobody has granted" in refusal(guard, other)
        if end == "killed":
            process.send_signal(signal.SIGKILL)
        process.communicate()
    assert "nobody has granted" in refusal(guard, folder)
    assert not list((tmp_path / "run" / "develop").iterdir())


def test_a_session_grants_only_where_its_author_says_so(guard: Guard, folder: Path) -> None:
    with develop.Session(folder):
        assert develop.folders() == [folder] and develop.granted() == []
        assert "nobody has granted" in refusal(guard, folder)
        with develop.Session(folder, granted=True):
            assert refusal(guard, folder) == ""
        assert "nobody has granted" in refusal(guard, folder)


def test_what_a_dead_developer_left_is_never_in_force(
    guard: Guard, folder: Path, tmp_path: Path
) -> None:
    sessions = tmp_path / "run" / "develop"
    sessions.mkdir(parents=True, mode=0o700)
    for name, text in (("session-a", f"{folder}\0granted"), ("session-b", "{")):
        (sessions / name).write_text(text)
    assert "nobody has granted" in refusal(guard, folder)
    assert not list(sessions.iterdir())


def test_words_growth_and_a_short_form(folder: Path) -> None:
    wanted = asks.asks(read_plugin(plugin(folder, permissions=MORE)))
    had = asks.asks(read_plugin(plugin(folder, permissions=ASKS)))
    assert asks.short(wanted) == "read, network, models"
    assert [ask.kind for ask in asks.grown(wanted, had)] == ["models"]
    assert asks.grown(had, wanted) == []
    less, more = asks.Ask("memory", "1024", "a"), asks.Ask("memory", "2048", "b")
    assert asks.grown([more], [less]) == [more]
    assert asks.grown([less], [more]) == []
    assert asks.grown([asks.Ask("read", "/a/b", "")], [asks.Ask("read", "/a", "")])


@pytest.mark.parametrize(
    ("kind", "what", "words"),
    [
        ("read", "~/maps", "read ~/maps and what is in it"),
        ("network", "lan", "connect to any machine of the local network, port 80 or 443"),
        ("network", "*.example.org", "connect to any host below example.org, port 80 or 443"),
        ("network", "example.org:22", "connect to example.org, port 22"),
        ("network", "[2001:db8::1]:22", "connect to 2001:db8::1, port 22"),
        ("network", "2001:DB8::1", "connect to 2001:db8::1, port 80 or 443"),
        ("network", "localhost:11434", "connect to this machine, port 11434"),
        ("listen", "8080", "accept connections from this machine on TCP port 8080"),
        ("listen", "lan:8080", "accept connections from any machine on TCP port 8080"),
        ("operations", "llm.*", "call any operation that begins with llm."),
        ("operations", "*", "call any operation"),
        ("operations", "llm.score", "call the operation llm.score"),
        ("models", "*", "have any model used"),
        ("memory", "1024", "hold 1024 MiB of memory"),
        ("kernel", "logs", "read the log of the kernel, with what every plugin prints"),
        ("on_behalf_of", "", "act for other users of this kernel"),
    ],
)
def test_permissions_in_plain_words(kind: str, what: str, words: str) -> None:
    assert asks.words(asks.Ask(kind, what, "why")) == words


def test_every_kind_has_words() -> None:
    said = {asks.words(asks.Ask(kind, "a", "why")) for kind in asks.KINDS}
    assert len(said) == len(asks.KINDS)


def test_two_changes_at_once_are_both_kept(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from clawai.sdk import grants\n"
        "from clawai.sdk.manifest import read_plugin\n"
        "place = Path(sys.argv[1])\n"
        "for number in range(20):\n"
        "    with grants.lock():\n"
        "        grants.change(f'{sys.argv[2]}{number}',\n"
        "                      [grants.grant(read_plugin(place), place, 'x')])\n"
    )
    started = time.monotonic()
    both = [subprocess.Popen([sys.executable, "-c", code, folder, name]) for name in "ab"]
    assert [process.wait() for process in both] == [0, 0]
    assert len(grants.read().plugins) == 40, time.monotonic() - started
    assert {path.name for path in grants.book_file().parent.iterdir()} == {
        "grants.json", "plugins.lock",
    }  # fmt: skip
