"""The clients in C and JavaScript, written from WIRE.md: both pass every case of the runner."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support import PATIENCE, Kernel

EXAMPLES = Path(__file__).parents[2] / "examples"
HEADERS = ("zmq.h", "msgpack.h", "jansson.h")


def run(*command: str | Path, cwd: Path, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        **more,
    )


def conforms(*command: str | Path) -> None:
    """Every case passes."""
    runner = (sys.executable, "-m", "clawai.sdk.conformance", "--json")
    done = run(*runner, *command, cwd=EXAMPLES)
    found = json.loads(done.stdout)
    assert {row["case"]: row["failed"] for row in found["cases"] if row["failed"]} == {}
    page = (EXAMPLES.parent / "docs" / "clients.md").read_text()
    assert f"WIRE.md: {found['passed']} cases" in page, "the page says how many there are"
    assert done.returncode == 0


@pytest.fixture(scope="module")
def c_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that its own Makefile builds, with every warning an error."""
    missing = [name for name in HEADERS if not Path("/usr/include", name).exists()]
    if missing or not shutil.which("pkg-config"):
        pytest.skip(f"this box lacks {missing or 'pkg-config'}; `sh .ci/packages test` installs it")
    folder = tmp_path_factory.mktemp("client_c")
    for name in ("Makefile", "client.c"):
        shutil.copy(EXAMPLES / "client_c" / name, folder)
    done = run("make", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "client"


@pytest.fixture(scope="module")
def js_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program beside its packages: those of `make conformance`, or out of npm's own cache."""
    if not shutil.which("node"):
        pytest.skip("this box lacks node; `make conformance` installs it")
    folder = tmp_path_factory.mktemp("client_js")
    for name in ("package.json", "client.mjs"):
        shutil.copy(EXAMPLES / "client_js" / name, folder)
    installed = EXAMPLES / "client_js" / "node_modules"
    if installed.is_dir():
        (folder / "node_modules").symlink_to(installed)
    else:
        npm = shutil.which("npm")
        words = ("install", "--offline", "--no-audit", "--no-fund", "--no-package-lock")
        if not npm or run(npm, *words, cwd=folder).returncode:
            pytest.skip("npm's cache lacks zeromq and @msgpack/msgpack; see `make conformance`")
    return folder / "client.mjs"


def test_the_client_in_c_conforms(c_client: Path) -> None:
    conforms(c_client)


def test_the_client_in_javascript_conforms(js_client: Path) -> None:
    conforms("node", js_client)


def ask(kernel: Kernel, *command: str | Path) -> tuple[int, str, str]:
    done = run(*command, cwd=EXAMPLES, env=kernel.env)
    return done.returncode, done.stdout, done.stderr


def test_the_client_in_c_asks_for_one_operation(c_client: Path, shared_kernel: Kernel) -> None:
    said = ask(shared_kernel, c_client, "echo.say", '{"text": "ahoj světe"}')
    assert said == (0, '"ahoj světe"\n', "")
    assert ask(shared_kernel, c_client, "echo.count", '{"upto": 2}') == (0, "1\n2\n2\n", "")
    code, out, error = ask(shared_kernel, c_client, "echo.sya")
    assert (code, out) == (1, "")
    assert error.startswith("unknown_operation: ")


def test_the_client_in_javascript_asks_for_one_operation(
    js_client: Path, shared_kernel: Kernel
) -> None:
    said = ask(shared_kernel, "node", js_client, "echo.say", '{"text": "ahoj světe"}')
    assert said == (0, "ahoj světe\n", "")
    assert ask(shared_kernel, "node", js_client, "echo.count", '{"upto": 2}') == (
        0,
        "1\n2\n2\n",
        "",
    )
    code, out, error = ask(shared_kernel, "node", js_client, "echo.sya")
    assert (code, out) == (1, "")
    assert error.startswith("unknown_operation: ")


def test_the_commands_of_the_page_run(c_client: Path) -> None:
    """docs/clients.md, as somebody types it into a shell."""
    page = (EXAMPLES.parent / "docs" / "clients.md").read_text()
    begin, check = re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    kernel = Kernel()
    tools = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = kernel.env | {"PATH": tools}
    try:
        done = run("bash", "-ec", begin, cwd=EXAMPLES.parent, env=env)
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith('"hello"\n1\n2\n3\n3\n')
    finally:
        run("claw", "down", cwd=EXAMPLES.parent, env=env)
        kernel.remove()
    whole, part = check.splitlines()
    assert whole == "python -m clawai.sdk.conformance examples/client_c/client"
    done = run("bash", "-ec", part, cwd=EXAMPLES.parent, env=env)
    assert done.stdout.splitlines()[-1] == "19 of 19 cases passed"


def test_without_a_kernel_it_says_so(c_client: Path, tmp_path: Path) -> None:
    env = os.environ | {"CLAW_RUNTIME_DIR": str(tmp_path)}
    done = run(c_client, "echo.say", cwd=tmp_path, env=env)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("no_kernel: ")
