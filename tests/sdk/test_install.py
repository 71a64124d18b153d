"""Installing: atomic, from three sources, nothing left behind, whenever it is killed."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from clawai.sdk import asks, contents, grants, install, package, paths, signing
from clawai.sdk.errors import ClawError
from clawai.sdk.grants import Guard
from clawai.sdk.manifest import read_plugin
from clawai.sdk.version import version_key
from plugin_folders import ASKS, forged, homes, installed, plugin

FILES = {"data/a.txt": "a", "lib.so": b"\x7fELF"}


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    homes(tmp_path, monkeypatch)
    return plugin(tmp_path / "source" / "demo", permissions=ASKS, files=FILES)


def put(what: Path | str, force: bool = False, require: bool = False) -> list[asks.Ask]:
    """Install as the command does, saying yes; what had to be asked."""
    with install.staged(str(what)) as candidate:
        there = install.before(candidate.name)
        new = install.check(candidate, there, force, require)
        install.commit(candidate, there)
    return new


def version() -> str:
    return read_plugin(installed()).plugin.version


def in_force() -> bool:
    """Whether what is installed may start."""
    guard = Guard(Path("/nowhere"))
    return guard.refusal(read_plugin(installed()), installed()) is None


def left_over() -> list[str]:
    """What lies beside the installed plugins."""
    return [path.name for path in paths.plugins_dir().iterdir() if path.name != "demo"]


def refused(what: Path | str, **options: bool) -> ClawError:
    with pytest.raises(ClawError) as caught:
        put(what, **options)
    assert not paths.plugins_dir().exists() or left_over() == []
    return caught.value


def test_a_folder(source: Path) -> None:
    (source / ".git").mkdir()
    (source / "__pycache__").mkdir()
    (source / "__pycache__" / "evil.pyc").write_bytes(b"evil")
    assert [ask.kind for ask in put(source)] == ["read", "network"]
    there = {str(p.relative_to(installed())) for p in installed().rglob("*") if p.is_file()}
    compiled = f"__pycache__/claw_demo.{sys.implementation.cache_tag}.pyc"
    assert there == {"plugin.toml", "claw_demo.py", "data/a.txt", "lib.so", compiled}
    assert in_force() and left_over() == []
    (held,) = grants.read().plugins["demo"]
    assert held.hash == contents.collect(source, read_plugin(source)).hash
    assert held.source == f"folder {source}"


def test_what_is_compiled_is_used(source: Path) -> None:
    put(source)
    code = (
        "import claw_demo; print(claw_demo.__cached__); print(claw_demo.say.__code__.co_filename)"
    )
    env = os.environ | {"PYTHONPATH": str(installed()), "PYTHONVERBOSE": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert str(installed() / "claw_demo.py") in done.stdout
    assert f"code object from '{installed()}/__pycache__/claw_demo" in done.stderr.replace('"', "'")
    assert in_force()  # it was not compiled anew


def test_everybody_may_read_it_and_nobody_write(source: Path) -> None:
    before = os.umask(0o077)
    try:
        put(source)
    finally:
        os.umask(before)
    for path in (installed(), *installed().rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path


def test_a_package_signed_and_not(source: Path, tmp_path: Path) -> None:
    path, found = package.pack(source, tmp_path)
    put(path)
    assert grants.read().plugins["demo"][0].signer == ""
    key = signing.generate("ada")
    package.with_signature(path, path, found, signing.sign(found, "ada").encoded())
    assert put(path, require=True) == []
    (held,) = grants.read().plugins["demo"]
    assert (held.signer, held.hash, held.source) == (key, found.hash, f"package {path}")
    signing.distrust("ada")
    assert refused(path, require=True).code == "not_granted"
    assert refused(source, require=True).code == "not_granted"


def test_an_upgrade_is_asked_only_for_what_has_grown(source: Path) -> None:
    put(source)
    more = f'{ASKS}listen = {{ "8080" = "to show them" }}\n'
    plugin(source, version="1.1.0", permissions=more)
    assert [(ask.kind, ask.what) for ask in put(source)] == [("listen", "8080")]
    assert version() == "1.1.0" and in_force() and left_over() == []
    plugin(source, version="1.2.0", permissions="")
    assert put(source) == []
    plugin(source, version="1.3.0", permissions=ASKS)  # what it had given up is asked for again
    assert len(put(source)) == 2
    assert len(grants.read().plugins["demo"]) == 1


def test_a_downgrade_needs_force(source: Path) -> None:
    plugin(source, version="1.10.0", permissions=ASKS)
    put(source)
    plugin(source, version="1.9.0", permissions=ASKS)
    error = refused(source)
    assert (error.code, error.got) == ("not_granted", "1.9.0") and "--force" in error.hint
    assert version() == "1.10.0"
    put(source, force=True)
    assert version() == "1.9.0"


def test_the_order_of_versions() -> None:
    ordered = ["0.9", "1.0a1", "1.0-alpha.1", "1.0-beta", "1.0-rc.2", "1.0-rc.10", "1.0", "1.0.1",
               "1.2", "1.10", "2"]  # fmt: skip
    assert sorted(ordered, key=version_key) == ordered
    assert version_key("1.0") == version_key("1") == version_key("1.0.0+build")
    assert version_key("1.0") < version_key("1.0.post1") < version_key("1.0.1")


def test_a_folder_that_was_copied_by_hand_is_replaced_where_it_lies(source: Path) -> None:
    mine = paths.plugins_dir() / "mine"
    shutil.copytree(source, mine)
    put(mine)  # what lies there already can be granted
    assert not installed().exists()
    guard = Guard(Path("/nowhere"))
    assert guard.refusal(read_plugin(mine), mine) is None
    plugin(source, version="1.1.0", permissions=ASKS)
    put(source)
    assert read_plugin(mine).plugin.version == "1.1.0"


def test_a_link_is_replaced_and_what_it_leads_to_stays(source: Path) -> None:
    paths.plugins_dir().mkdir(parents=True)
    installed().symlink_to(source)
    put(source)
    assert not installed().is_symlink() and (source / "plugin.toml").exists()
    assert in_force() and left_over() == []


def test_names_that_are_taken(source: Path, tmp_path: Path) -> None:
    assert "bundled" in refused(plugin(tmp_path / "echo", name="echo")).message
    installed().mkdir(parents=True)
    (installed() / "mine.txt").write_text("mine")
    with pytest.raises(ClawError, match="in the way"):
        put(source)
    assert (installed() / "mine.txt").exists()


def test_nobody_takes_anothers_operation(source: Path, tmp_path: Path) -> None:
    put(source)
    thief = plugin(tmp_path / "thief", name="aaa")
    text = (thief / "plugin.toml").read_text()
    (thief / "plugin.toml").write_text(text.replace("aaa.say", "demo.say"))
    with pytest.raises(ClawError, match="demo offers demo") as caught:
        put(thief)
    assert caught.value.hint.endswith("claw plugin remove demo")
    (thief / "plugin.toml").write_text(text.replace("aaa.say", "llm.generate"))
    with pytest.raises(ClawError, match="engine offers llm"):
        put(thief)
    assert left_over() == []


def test_hostile_packages_leave_nothing(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "evil.clawplugin"
    manifest = (source / "plugin.toml").read_bytes()
    for names in (
        {"plugin.toml": manifest, "../../evil": b"x"},
        {"plugin.toml": b"[plugin", "a": b"x"},
        {"plugin.toml": manifest.replace(b'"demo"', b'"other"')},
        {"plugin.toml": manifest.replace(b'"1.0.0"', b'"1.0.1"')},
    ):
        path.write_bytes(forged(names))
        assert refused(path).code in ("bad_package", "bad_config")
    good, _ = package.pack(source, tmp_path)
    for length in (0, 100, good.stat().st_size - 1):
        path.write_bytes(good.read_bytes()[:length])
        assert refused(path).code == "bad_package"
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "pipe").code == "unknown_plugin"
    assert not (tmp_path / "evil").exists() and not grants.book_file().exists()


def test_source_that_no_compiler_likes_is_installed_as_it_is(source: Path) -> None:
    (source / "template.py").write_text("def {{name}}(:\n")
    (source / "deep.py").write_text("(" * 50_000)
    put(source)
    assert in_force() and (installed() / "deep.py").exists()


def test_what_changes_meanwhile(source: Path) -> None:
    with install.staged(str(source)) as candidate:
        there = install.before("demo")
        put(source)
        with pytest.raises(ClawError) as caught:
            install.commit(candidate, there)
    assert caught.value.code == "bad_state" and in_force() and left_over() == []


def test_removing(source: Path, tmp_path: Path) -> None:
    put(source)
    install.remove("demo", ())
    assert not installed().exists() and grants.read().plugins == {} and left_over() == []
    for name, further, code in (
        ("demo", (), "unknown_plugin"),
        ("echo", (), "not_permitted"),
        ("demo", (str(source.parent),), "not_permitted"),
        ("../source", (), "unknown_plugin"),
    ):
        with pytest.raises(ClawError) as caught:
            install.remove(name, further)
        assert caught.value.code == code
    assert source.exists()


# Entry points.


def distribution(site: Path, monkeypatch: pytest.MonkeyPatch, record: bool = True) -> None:
    """An installed Python package whose code must not be imported."""
    info = site / "lovely-1.2.dist-info"
    info.mkdir(parents=True)
    plugin(site / "lovely" / "demo", permissions=ASKS)
    for folder in (site / "lovely", site / "lovely" / "demo"):
        (folder / "__init__.py").write_text("raise SystemExit('imported')\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lovely\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[clawai.plugins]\nlovely-demo = lovely.demo\n")
    files = ["lovely/__init__.py", "lovely/demo/__init__.py", "lovely/demo/claw_demo.py"]
    files += ["lovely/demo/plugin.toml"] if record else []
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    monkeypatch.syspath_prepend(str(site))


def test_an_entry_point(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(tmp_path / "site", monkeypatch)
    assert len(put("lovely-demo")) == 2
    assert in_force() and grants.read().plugins["demo"][0].source == "Python package lovely 1.2"
    assert "lovely" not in sys.modules


def test_entry_points_that_lead_nowhere(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distribution(tmp_path / "site", monkeypatch, record=False)
    assert refused("lovely-demo").code == "bad_package"
    error = refused("lovely-dem")
    assert (error.code, error.allowed) == ("unknown_plugin", ["lovely-demo"])


# Killed.

KILLED = """
import os, signal, sys
from pathlib import Path
from clawai.sdk import contents, grants, install
from clawai.sdk.cli import output
from clawai.sdk.grants import Guard
from clawai.sdk.manifest import read_plugin

WATCHED = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree",
           "ctypes.dlsym"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
mode, what, kill_at = sys.argv[1], sys.argv[2], -1
seen = 0

def hook(event, arguments):
    global seen
    reads = event == "open" and not (arguments[2] or 0) & WRITES
    if kill_at >= 0 and event in WATCHED and not reads:
        seen += 1
        if seen > kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

def act():
    if mode == "remove":
        install.remove("demo", ())
        return
    with install.staged(what) as candidate:
        install.commit(candidate, install.before("demo"))

sys.addaudithook(hook)
points = 0
while True:
    pid = os.fork()
    if not pid:
        kill_at = points
        act()
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
    if sys.stdin.readline() != "go\\n" or not status:
        break
    points += 1
"""


def bare(folder: Path, name: str, **options: str) -> Path:
    """A plugin without a Python file, which would have to be compiled each time."""
    made = plugin(folder / name, files={"data/a.txt": name}, **options)
    (made / "claw_demo.py").unlink()
    return made


def kill_everywhere(mode: str, what: Path, check) -> int:
    """Do it again and again, killed one step later each time, until it gets through.

    Args:
        check: is called with whether it got through, and puts things back as they were.
    """
    command = [sys.executable, "-c", textwrap.dedent(KILLED), mode, str(what)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    count = 0
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdin and process.stdout
        while line := process.stdout.readline():
            status = int(line)
            assert status in (0, -signal.SIGKILL)
            check(status == 0)
            if status == 0:
                return count
            count += 1
            process.stdin.write("go\n")
            process.stdin.flush()
    raise AssertionError("it ended before it got through")


def test_killed_at_any_step_of_a_first_installation(source: Path, tmp_path: Path) -> None:
    def check(through: bool) -> None:
        there = installed().exists()
        assert there or not through
        if there:
            assert in_force()
        install.sweep()
        assert not paths.plugins_dir().exists() or left_over() == []
        assert set(grants.read().plugins) == ({"demo"} if there else set())
        if there:
            install.remove("demo", ())

    assert kill_everywhere("install", bare(tmp_path, "bare", permissions=ASKS), check) > 10


def test_killed_at_any_step_of_an_upgrade(source: Path, tmp_path: Path) -> None:
    old = bare(tmp_path, "old", permissions=ASKS)
    more = f'{ASKS}models = {{ "*" = "all" }}\n'
    new = bare(tmp_path, "new", version="2.0", permissions=more)
    put(old)
    seen = set()

    def check(through: bool) -> None:
        seen.add(version())
        assert in_force(), "neither the old nor the new version may start"
        assert version() == "2.0" or not through
        install.sweep()
        assert in_force() and left_over() == []
        (held,) = grants.read().plugins["demo"]
        assert held.version == version()
        if version() == "2.0":
            put(old, force=True)

    assert kill_everywhere("install", new, check) > 10
    assert seen == {"1.0.0", "2.0"}


def test_killed_at_any_step_of_a_removal(source: Path, tmp_path: Path) -> None:
    old = bare(tmp_path, "old", permissions=ASKS)
    put(old)

    def check(through: bool) -> None:
        assert not installed().exists() or (in_force() and not through)
        install.sweep()
        assert left_over() == []
        assert set(grants.read().plugins) == ({"demo"} if installed().exists() else set())
        if not installed().exists():
            put(old)

    assert kill_everywhere("remove", old, check) > 5
