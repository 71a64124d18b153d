"""A real daemon starts only what its owner has granted, and hears of a change at once."""

import contextlib
import io
import os
from pathlib import Path
from unittest import mock

import pytest

from clawai.sdk.cli.main import main
from clawai.sdk.client import Client
from clawai.sdk.errors import ClawError
from conftest import StartKernel
from plugin_folders import plugin
from support import Kernel, wait_until

READS = """
from pathlib import Path
from clawai.sdk import operation

@operation("{name}.read")
def read(path: str) -> str:
    return Path(path).read_text() + "{more}"
"""


def reader(kernel: Kernel, name: str, path: Path, more: str = "", asks: bool = True) -> Path:
    """A plugin's folder, not among the kernel's, that reads the file ``path``."""
    folder = kernel.base / "source" / name
    plugin(folder, name, permissions=f'read = {{ "{path}" = "the test" }}\n' if asks else "")
    text = (folder / "plugin.toml").read_text()
    (folder / "plugin.toml").write_text(text.replace(f"{name}.say", f"{name}.read"))
    (folder / f"claw_{name}.py").write_text(READS.format(name=name, more=more))
    return folder


def claw(kernel: Kernel, *words: str, code: int = 0) -> str:
    """What a verb of `claw plugin` says, without a terminal."""
    out = io.StringIO()
    homes = {name: text for name, text in kernel.env.items() if name.startswith(("XDG_", "CLAW_"))}
    with (
        mock.patch.dict(os.environ, homes),
        mock.patch("sys.stdin", io.StringIO()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
        pytest.raises(SystemExit) as ended,
    ):
        main(["plugin", *words])
    assert ended.value.code == code, out.getvalue()
    return out.getvalue()


def read(client: Client, name: str, path: Path) -> str:
    return client.call(f"{name}.read", {"path": str(path)}).value


def refusal(client: Client, name: str, path: Path) -> str:
    """Why it is not started; empty if it is."""
    try:
        read(client, name, path)
    except ClawError as error:
        assert error.code == "not_granted" and error.hint.startswith("claw plugin "), error
        return error.message
    return ""


def listed(client: Client, name: str) -> dict:
    return next(row for row in client.query("plugins")["plugins"] if row["name"] == name)


@pytest.fixture
def secret(shared_kernel: Kernel) -> Path:
    path = shared_kernel.base / "secret.txt"
    path.write_text("42")
    path.chmod(0o644)
    return path


def test_from_refused_to_granted_to_removed(shared_kernel: Kernel, secret: Path) -> None:
    kernel = shared_kernel
    source = reader(kernel, "alpha", secret)
    copied = kernel.plugins_dir / "alpha"
    source.rename(copied)
    with kernel.client() as client:
        assert "permissions that nobody has granted (read)" in refusal(client, "alpha", secret)
        row = listed(client, "alpha")
        assert (row["granted"], row["started"]) == (False, 0)
        assert f"claw plugin install {copied}" in row["problem"]
        claw(kernel, "install", str(copied), "--yes")
        assert read(client, "alpha", secret) == "42"  # no restart
        assert listed(client, "alpha")["granted"]
        claw(kernel, "remove", "alpha")
        with pytest.raises(ClawError) as caught:
            read(client, "alpha", secret)
        assert caught.value.code in ("unknown_operation", "unknown_plugin")


def test_files_that_changed_and_a_grant_that_was_taken_back(
    shared_kernel: Kernel, secret: Path
) -> None:
    kernel = shared_kernel
    source = reader(kernel, "beta", secret)
    claw(kernel, "install", str(source), "--yes")
    module = kernel.plugins_dir / "beta" / "claw_beta.py"
    with kernel.client() as client:
        assert read(client, "beta", secret) == "42"
        before = module.read_text()
        module.write_text(f"{before}# evil\n")
        changed = "not those that were installed"
        assert changed in wait_until(lambda: refusal(client, "beta", secret), "it is refused")
        assert not listed(client, "beta")["granted"]
        module.write_text(before)
        assert read(client, "beta", secret) == "42"
        book = kernel.config.parent / "grants.json"
        book.write_text(book.read_text().replace("beta", "other"))
        nobody = "nobody has granted"
        assert nobody in wait_until(lambda: refusal(client, "beta", secret), "it is refused")


def test_a_manifest_that_grows_by_hand(shared_kernel: Kernel, secret: Path) -> None:
    """A folder that asked for nothing runs; once it asks, it does not, and never gets the file."""
    kernel = shared_kernel
    copied = kernel.plugins_dir / "gamma"
    reader(kernel, "gamma", secret, asks=False).rename(copied)
    with kernel.client() as client:
        with pytest.raises(ClawError) as caught:
            read(client, "gamma", secret)
        assert caught.value.code == "worker_failed"  # it runs, and sees no such file
        copied.rename(kernel.base / "gamma.old")
        reader(kernel, "gamma", secret).rename(copied)

        def refused() -> str:
            with pytest.raises(ClawError) as caught:
                read(client, "gamma", secret)
            if caught.value.code == "worker_failed":
                return ""  # by the worker of before, which lives on and sees no such file either
            return caught.value.message

        assert "nobody has granted" in wait_until(refused, "it is refused")
        client.admin("unload", "gamma")
        assert "nobody has granted" in refusal(client, "gamma", secret)


def test_an_upgrade_while_it_runs(shared_kernel: Kernel, secret: Path) -> None:
    kernel = shared_kernel
    claw(kernel, "install", str(reader(kernel, "delta", secret)), "--yes")
    with kernel.client() as client:
        assert read(client, "delta", secret) == "42"
        said = claw(kernel, "install", str(reader(kernel, "delta", secret, more="!")))
        assert "asks for more" not in said
        assert read(client, "delta", secret) == "42!"


def test_plugins_that_nobody_signed(start_kernel: StartKernel, tmp_path: Path) -> None:
    kernel = start_kernel(config="[plugins]\nrequire_signature = true\n", start=False)
    folder = plugin(tmp_path / "omega", "omega")
    folder.rename(kernel.plugins_dir / "omega")
    kernel.start()
    with kernel.client() as client:
        assert client.call("echo.say", {"text": "hello"}).value == "hello"
        with pytest.raises(ClawError) as caught:
            client.call("omega.say", {})
        assert caught.value.code == "not_granted"
        copied = str(kernel.plugins_dir / "omega")
        assert "require_signature" in claw(kernel, "install", copied, code=1)
        package = tmp_path / "omega-1.0.0.clawplugin"
        claw(kernel, "pack", copied, "-o", str(package))
        claw(kernel, "sign", str(package))
        claw(kernel, "install", str(package))
        assert client.call("omega.say", {}).value == "hello"
