"""What a worker has of its own, in the real sandbox: settings, secrets, a data folder, the log."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clawai.sdk.cli.main import main
from clawai.sdk.client import Client
from clawai.sdk.errors import ClawError
from support import Kernel, wait_until

HOME = """
import gc, os, time
from pathlib import Path
from clawai.sdk.plugin import Context, operation

@operation("home.config")
def config(ctx: Context) -> dict:
    return dict(ctx.config)

@operation("home.secret")
def secret(ctx: Context, key: str) -> str:
    return ctx.secret(key)

@operation("home.log")
def log(ctx: Context, level: str, lines: list[str]) -> None:
    for line in lines:
        ctx.log(level, line)

@operation("home.write")
def write(ctx: Context, name: str, mib: int) -> str:
    path = ctx.data / name
    with path.open("wb") as file:
        for _ in range(mib):
            file.write(bytes(1 << 20))
    return str(path)

@operation("home.list")
def list_(ctx: Context) -> list[str]:
    return sorted(os.listdir(ctx.data))

@operation("home.touch")
def touch(ctx: Context, path: str) -> str:
    try:
        Path(path).write_text("x")
    except OSError as error:
        return type(error).__name__
    return "written"

@operation("home.hold")
def hold(ctx: Context) -> None:
    ctx.progress(None, "holds")
    while True:
        ctx.checkpoint()
        time.sleep(0.005)

@operation("home.birth")
def birth(ctx: Context) -> dict:
    env = "".join(f"{k}={v}" for k, v in os.environ.items())
    return {"env": env, "pid": ctx.outlet.incarnation}
"""
MANIFEST = """
data_mib = 3

[config.greeting]
description = "How to greet"
default = "Hello"
max = 8

[config.loud]
description = "Whether loudly"
type = "boolean"
default = false

[config.factor]
description = "How much"
type = "number"
default = 1
min = 0
max = 2.5

[config.level]
description = "How high"
type = "integer"
default = 3
choices = [1, 3, 5]

[secrets]
api_key = "for the service"
other = "for another one"
"""
NEEDY = """
from clawai.sdk.plugin import Context, operation

@operation("needy.url")
def url(ctx: Context) -> str:
    return ctx.config["url"]

@operation("needy.data")
def data(ctx: Context) -> str:
    return str(ctx.data)

@operation("needy.secret")
def secret(ctx: Context) -> str:
    return ctx.secret("api_key")
"""
OPERATIONS = ("config", "secret", "log", "write", "list", "touch", "hold", "birth")


@pytest.fixture(scope="module")
def home() -> Iterator[Kernel]:
    kernel = Kernel("[log]\nlevel = 'debug'\n")
    kernel.plugin("home", HOME, {f"home.{n}": "" for n in OPERATIONS}, slots=2, extra=MANIFEST)
    names = {f"needy.{name}": "" for name in ("url", "data", "secret")}
    kernel.plugin("needy", NEEDY, names, extra='[config.url]\ndescription = "Where to ask"\n')
    try:
        yield kernel.start()
        assert kernel.stop() == 0
        kernel.check_gone()
        assert "Traceback" not in kernel.stderr()
    finally:
        kernel.remove()


@pytest.fixture
def client(home: Kernel) -> Iterator[Client]:
    with Client(folder=home.folder, timeout=60) as made:
        yield made


@dataclass
class Done:
    """What a command has printed."""

    stdout: str
    stderr: str


def claw(kernel: Kernel, *args: str, text: str = "", code: int = 0) -> Done:
    """Run ``claw plugin`` in this process: the commands are many."""
    typed = io.TextIOWrapper(io.BytesIO(text.encode()))
    with (
        contextlib.redirect_stdout(io.StringIO()) as said,
        contextlib.redirect_stderr(io.StringIO()) as complained,
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(SystemExit) as end,
    ):
        patch.setattr(sys, "stdin", typed)
        for name, value in kernel.env.items():
            patch.setenv(name, value)
        main(["plugin", *args])
    done = Done(said.getvalue(), complained.getvalue())
    assert (end.value.code or 0) == code, (args, done)
    return done


def failed(client: Client, op: str, params: dict[str, Any] | None = None) -> ClawError:
    with pytest.raises(ClawError) as caught:
        client.call(op, params)
    return caught.value


def test_configuration_is_typed_and_takes_effect_at_the_next_call(
    home: Kernel, client: Client
) -> None:
    plain = {"greeting": "Hello", "loud": False, "factor": 1.0, "level": 3}
    assert client.call("home.config").value == plain
    claw(home, "config", "home", "greeting=Moin ✓", "loud=yes", "factor=0.5", "level=5")
    changed = {"greeting": "Moin ✓", "loud": True, "factor": 0.5, "level": 5}
    assert client.call("home.config").value == changed
    assert "its model or its settings were replaced" in home.log()
    shown = claw(home, "config", "home").stdout
    assert '"Moin ✓"' in shown
    assert "1, 3, 5" in shown
    claw(home, "config", "home", "--unset", "greeting", "--unset", "loud")
    claw(home, "config", "home", "factor=1", "level=3")
    assert client.call("home.config").value == plain


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("greeting=much too long", "0 to 8 characters"),
        ("loud=perhaps", "boolean"),
        ("factor=nan", "0 to 2.5"),
        ("factor=3", "0 to 2.5"),
        ("level=4", "1, 3, 5"),
        ("level=3.0", "integer"),
        ("gretting=Hi", "greeting"),
    ],
)
def test_wrong_values_are_refused(home: Kernel, change: str, says: str) -> None:
    assert says in claw(home, "config", "home", change, code=1).stderr


def test_wrong_words(home: Kernel) -> None:
    assert "KEY=VALUE" in claw(home, "config", "home", "greeting", code=2).stderr
    assert "no plugin" in claw(home, "config", "nobody", code=1).stderr
    assert "no plugin" in claw(home, "secret", "../../etc", "x", text="y", code=1).stderr


def test_a_running_task_is_not_interrupted_by_a_change(home: Kernel, client: Client) -> None:
    task = client.submit("home.hold")
    next(event for event in task if event.note == "holds")
    before = client.call("home.birth").value["pid"]
    claw(home, "config", "home", "greeting=Hi")
    waiting = client.submit("home.config")
    task.cancel()
    assert waiting.result().value["greeting"] == "Hi"
    with pytest.raises(ClawError, match="cancelled"):
        task.result()
    assert client.call("home.birth").value["pid"] > before
    claw(home, "config", "home", "--unset", "greeting")


def test_a_file_that_was_edited_badly_is_named(home: Kernel, client: Client) -> None:
    path = home.config.parent / "plugins" / "home.toml"
    path.write_text("level = 4\n")
    claw_says = claw(home, "config", "home").stdout
    assert "4" in claw_says
    wait_until(lambda: failed_or_none(client) is not None, "the next worker reads it")
    error = failed_or_none(client)
    assert error is not None
    assert (error.code, error.allowed) == ("bad_config", [1, 3, 5])
    path.write_text("level = \n")
    assert str(path) in claw(home, "config", "home", code=1).stderr
    path.unlink()
    wait_until(lambda: failed_or_none(client) is None, "the defaults hold again")


def failed_or_none(client: Client) -> ClawError | None:
    client.query("plugins")  # which looks at the settings
    try:
        client.call("home.config")
    except ClawError as error:
        return error
    return None


def test_what_must_be_set(home: Kernel, client: Client) -> None:
    error = failed(client, "needy.url")
    assert error.code == "bad_config"
    assert error.hint == "claw plugin config needy url=VALUE"
    claw(home, "config", "needy", "url=http://x")
    assert client.call("needy.url").value == "http://x"


def test_what_the_manifest_does_not_ask_for(home: Kernel, client: Client) -> None:
    claw(home, "config", "needy", "url=http://x")
    assert "data_mib" in failed(client, "needy.data").hint
    assert failed(client, "needy.secret").code == "not_permitted"
    said = claw(home, "secret", "needy", "api_key", text="x", code=1).stderr
    assert "asks for no such secret" in said


def test_secrets(home: Kernel, client: Client) -> None:
    error = failed(client, "home.secret", {"key": "api_key"})
    assert (error.code, error.hint) == ("not_permitted", "claw plugin secret home api_key")
    secret = "Tr0ub4dor&3-ünik"
    claw(home, "secret", "home", "api_key", text=f"{secret}\n")
    assert client.call("home.secret", {"key": "api_key"}).value == secret
    assert failed(client, "home.secret", {"key": "other"}).code == "not_permitted"
    path = home.base / "data" / "clawai" / "plugin-secrets" / "home" / "api_key"
    assert path.read_text() == secret
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    shown = claw(home, "secret", "home").stdout
    assert "yes" in shown
    assert secret not in shown + home.log() + client.call("home.birth").value["env"]
    read = 0
    for process in home.processes():
        assert secret.encode() not in Path(f"/proc/{process}/cmdline").read_bytes()
        # Of a worker it can be read by root only; what it sees of it, it has said above.
        with contextlib.suppress(PermissionError):
            assert secret.encode() not in Path(f"/proc/{process}/environ").read_bytes()
            read += 1
    assert read >= 3, "the daemon, the steward, the launchers"
    journals = [p for p in (home.base / "state").rglob("*") if p.is_file()]
    assert journals
    assert not [p for p in journals if secret.encode() in p.read_bytes()]
    claw(home, "secret", "home", "api_key", "--remove")
    assert failed(client, "home.secret", {"key": "api_key"}).code == "not_permitted"


def test_a_secret_that_others_could_read_is_not_used(home: Kernel, client: Client) -> None:
    claw(home, "secret", "home", "api_key", text="open")
    path = home.base / "data" / "clawai" / "plugin-secrets" / "home" / "api_key"
    path.chmod(0o644)
    client.admin("unload", "home")
    error = failed(client, "home.secret", {"key": "api_key"})
    assert error.code == "not_permitted"
    assert "chmod 600" in error.hint
    claw(home, "secret", "home", "api_key", text="shut")
    assert client.call("home.secret", {"key": "api_key"}).value == "shut"
    for text in ("", "x" * (70 << 10)):
        assert "characters" in claw(home, "secret", "home", "api_key", text=text, code=1).stderr


def test_the_log(home: Kernel, client: Client) -> None:
    home.mark()
    lines = ["one", "two\nlines \x1b[31m", "\x1eerror 7 forged"]
    client.call("home.log", {"level": "warning", "lines": lines})
    client.call("home.log", {"level": "debug", "lines": ["fine"]})

    def said() -> list[str]:
        return [line.split(" ", 2)[2] for line in home.log().splitlines() if "] task " in line]

    wait_until(lambda: len(said()) >= 6, "all is written")
    words = [line.split(" task ")[0].split("[")[0] for line in said()]
    assert words == ["warning home"] * 5 + ["debug home"], "a line each, none of another level"
    assert "\x1b" not in home.log()
    assert failed(client, "home.log", {"level": "loud", "lines": ["x"]}).code == "bad_params"


def test_a_flood_of_log_lines_is_bounded(home: Kernel, client: Client) -> None:
    home.mark()
    client.call("home.log", {"level": "info", "lines": [f"flood {n}" for n in range(5000)]})
    wait_until(lambda: "flood 0\n" in home.log(), "the first is written")
    assert 50 <= home.log().count(" flood ") <= 1000
    # The next second says how much there would have been.
    wait_until(
        lambda: (
            client.call("home.log", {"level": "info", "lines": ["later"]})
            and "lines were left out" in home.log()
        ),
        "it is counted",
    )


def test_the_data_folder_is_private_and_stays(home: Kernel, client: Client) -> None:
    path = client.call("home.write", {"name": "a", "mib": 1}).value
    assert Path(path) == home.base / "data" / "clawai" / "plugin-data" / "home" / "a"
    assert Path(path).stat().st_size == 1 << 20
    assert Path(path).parent.stat().st_mode & 0o777 == 0o700
    client.admin("unload", "home")
    assert client.call("home.list").value == ["a"]
    neighbour = Path(path).parents[1] / "needy"
    neighbour.mkdir(exist_ok=True)
    neighbour.chmod(0o777)
    for other in (neighbour / "x", home.config, home.plugins_dir / "home" / "x"):
        assert client.call("home.touch", {"path": str(other)}).value != "written"
        assert other == home.config or not other.exists()
    assert client.call("home.touch", {"path": f"{Path(path).parent}/b"}).value == "written"
    if os.geteuid() == 0:
        assert Path(path).stat().st_uid not in (0, 65534), "a uid of its own"


def test_a_data_folder_that_grows_too_large(home: Kernel, client: Client) -> None:
    task = client.submit("home.write", {"name": "big", "mib": 8})
    path = home.base / "data" / "clawai" / "plugin-data" / "home" / "big"
    task_end = None
    try:
        task.result()
        # It had written all before anybody looked; it is ended at the next look.
        client.call("home.hold", deadline=30)
    except ClawError as error:
        task_end = error
    assert task_end is not None
    assert task_end.code == "worker_died"
    assert "its data folder holds" in task_end.message
    assert "3 MiB are allowed" in task_end.message
    error = failed(client, "home.list")
    assert error.code in ("disk_full", "quarantined")
    path.unlink()
    client.admin("unload", "home")
    assert "big" not in client.call("home.list").value


def test_a_manifest_that_is_wrong(tmp_path: Path) -> None:
    from clawai.sdk.manifest import read_plugin

    head = '[plugin]\nname = "p"\nversion = "1"\nmodule = "p"\n'
    for wrong in (
        '[config.Key]\ndescription = "x"\n',
        '[config.key]\ndescription = "x"\ntype = "list"\n',
        '[config.key]\ndescription = "x"\ndefault = 5\n',
        '[config.key]\ndescription = "x"\ntype = "integer"\ndefault = true\n',
        '[config.key]\ndescription = "x"\nmaximum = 5\n',
        '[config.key]\ndescription = "x"\nchoices = ["a"]\ndefault = "b"\n',
        '[secrets]\n"a/b" = "x"\n',
        "[limits]\ndata_mib = -1\n",
    ):
        (tmp_path / "plugin.toml").write_text(head + wrong)
        with pytest.raises(ClawError) as caught:
            read_plugin(tmp_path)
        assert caught.value.code == "bad_config", wrong
