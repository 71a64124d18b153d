"""Start, find and stop the kernel, a program of its own that is never imported here."""

import json
import os
import re
import select
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from clawai.sdk import paths
from clawai.sdk.cli import output
from clawai.sdk.cli.holder import end_hung, holder, refuse_hung
from clawai.sdk.codes import CODES
from clawai.sdk.errors import ClawError

if TYPE_CHECKING:
    from clawai.sdk.client import Client

KERNEL = ("-m", "clawai.kernel")
START_S = 15.0
STOP_S = 15.0
UP_S = 2.0
PROOF_S = 3.0
"""How long `claw up` waits for the level of the sandbox, to show it."""
MINIMUM_PYTHON = (3, 11)
_NEEDED = ("memfd_create", "pidfd_open")


def require_system() -> None:
    """Refuse a system that the kernel cannot run on.

    Raises:
        ClawError: unsupported_system.
    """
    hint = "`claw doctor` shows everything that this box lacks"
    if sys.platform != "linux":
        raise ClawError(
            "unsupported_system", "the kernel runs on Linux only", sys.platform, "linux", hint
        )
    if sys.version_info[:2] < MINIMUM_PYTHON:
        raise ClawError(
            "unsupported_system",
            "this Python is too old",
            ".".join(map(str, sys.version_info[:2])),
            "3.11 or newer",
            hint,
        )
    missing = [name for name in _NEEDED if not hasattr(os, name)]
    if missing:
        raise ClawError(
            "unsupported_system",
            "this Python or its C library lacks system calls that the kernel needs",
            missing,
            "Linux 5.6 or newer, glibc 2.27 or newer",
            hint,
        )


def connect(start: bool = False, timeout: float = 5.0) -> "Client":
    """A client of the running kernel; with ``start`` one is started first if none runs.

    Raises:
        ClawError: no_kernel, unsupported_system, or why the kernel did not start.
    """
    require_system()
    from clawai.sdk.client import Client

    began = time.monotonic()
    try:
        return Client(timeout=timeout)
    except ClawError as error:
        if error.code != "no_kernel":
            raise
        if not start or time.monotonic() - began >= timeout:
            refuse_hung(error)
        if not start:
            raise
    output.note("no kernel runs here; starting one (`claw down` stops it)")
    return _started(timeout)


def _started(timeout: float) -> "Client":
    """Start a kernel and connect; when another process starts one at this moment, use that one."""
    from clawai.sdk.client import Client

    until = time.monotonic() + START_S
    try:
        start_kernel()
    except ClawError as error:
        if error.code != "address_in_use":
            raise
    while True:
        try:
            return Client(timeout=timeout)
        except ClawError as error:
            if error.code != "no_kernel":
                raise
            if time.monotonic() > until:
                refuse_hung(error)
                raise
        time.sleep(0.05)


def start_kernel() -> dict[str, Any]:
    """Start the kernel in a session of its own and wait until it is ready.

    Returns:
        Its ready line, decoded.

    Raises:
        ClawError: what the kernel said, or no_kernel with the end of its log.
    """
    log = paths.log_file()
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    reader, writer = os.pipe()
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    with open(os.open(log, flags, 0o600), "ab") as errors:  # noqa: PTH123
        before = errors.tell()
        process = subprocess.Popen(
            [sys.executable, *KERNEL, "--ready-fd", str(writer)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            pass_fds=[writer],
            start_new_session=True,
            cwd="/",
        )
    os.close(writer)
    line = read_line(reader, START_S)
    os.close(reader)
    if line.endswith(b"\n"):
        ready: dict[str, Any] = json.loads(line)
        return ready
    try:
        status = process.wait(1.0)
    except subprocess.TimeoutExpired:
        process.kill()
        status = process.wait()
    with log.open("rb") as file:
        file.seek(min(before, os.fstat(file.fileno()).st_size))
        said = file.read()[-4000:].decode(errors="replace").splitlines()
    raise _start_error(said, status)


def _start_error(said: list[str], status: int) -> ClawError:
    """The error that the kernel printed before it ended: ``claw: MESSAGE [CODE]; ...``."""
    for line in reversed(said):
        if line.startswith("claw: ") and (match := re.search(r" \[([a-z_]+)\](; |$)", line)):
            code = match[1] if match[1] in CODES else "no_kernel"
            return ClawError(
                code,
                f"the kernel did not start: {line[6 : match.start()]}",
                hint=line[match.end() :] or "`claw doctor` checks this box",
            )
    return ClawError(
        "no_kernel",
        "the kernel did not start",
        got=said[-1] if said else f"exit status {status}",
        hint="see `claw logs` and `claw doctor`; `claw serve` shows it in the foreground",
    )


def read_line(reader: int, seconds: float) -> bytes:
    """The first line of a pipe; what came of it when the time is over or the writer is gone."""
    line, end = b"", time.monotonic() + seconds
    while not line.endswith(b"\n"):
        left = end - time.monotonic()
        if left <= 0 or not select.select([reader], [], [], left)[0]:
            break
        if not (piece := os.read(reader, 4096)):
            break
        line += piece
    return line


def _describe(client: "Client") -> dict[str, Any]:
    until = time.monotonic() + PROOF_S
    while True:
        status = client.query("status")
        sandbox = status.get("sandbox") or {}
        if sandbox.get("level") != "being proved" or time.monotonic() > until:
            break
        time.sleep(0.05)
    return {
        "pid": status.get("pid"),
        "sandbox": sandbox.get("level"),
        "socket": str(paths.kernel_socket()),
        "log": str(paths.log_file()),
        "budget_bytes": status.get("budget_bytes"),
    }


def _print_kernel(found: dict[str, Any], as_json: bool, state: str) -> None:
    if as_json:
        output.print_json({"state": state} | found)
        return
    print(f"{output.style('●', 'green')} the kernel {state}")
    output.facts(
        [
            ("  pid", found["pid"]),
            ("  sandbox", found["sandbox"]),
            ("  memory", f"{output.size(found['budget_bytes'] or 0)} for models and tasks"),
            ("  socket", found["socket"]),
            ("  log", found["log"]),
        ]
    )


@click.command("serve")
@click.option(
    "--rest-port",
    "--rest_api_port",
    type=click.IntRange(1, 65535),
    help="Serve HTTP on this port of this box, too.",
)
@click.option("--model_name", "--model-name", default="", help="Name of a model in versions.")
@click.option(
    "--model_base_path",
    "--model-base-path",
    metavar="DIR",
    default="",
    help="Its folder: DIR/1/model.onnx, DIR/2/...; looked at while it serves.",
)
def serve_command(rest_port: int | None, model_name: str, model_base_path: str) -> None:
    """Run the kernel in the foreground, with its log on standard error; Ctrl-C stops it.

    With --rest-port it answers what `claw http` does; with a model's name and folder, TensorFlow
    Serving's clients find its versions there, the newest first.

    \b
    Examples:
      claw serve
      claw serve --rest-port 8501 --model_name=half --model_base_path=/srv/half
    """
    require_system()
    if bool(model_name) != bool(model_base_path):
        raise click.UsageError("--model_name and --model_base_path belong together.")
    if model_name and not rest_port:
        raise click.UsageError("--model_name needs --rest-port: where its clients ask.")
    if rest_port:
        from clawai.sdk.cli.serving import serve

        serve(rest_port, model_name, model_base_path)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *KERNEL, "--foreground"])


@click.command("up")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def up_command(as_json: bool) -> None:
    """Start the kernel in the background and wait until it answers.

    \b
    Example:
      claw up
    """
    require_system()
    from clawai.sdk.client import Client

    began = time.monotonic()
    try:
        with Client(timeout=UP_S) as client:
            _print_kernel(_describe(client), as_json, "runs already")
            return
    except ClawError as error:
        if error.code != "no_kernel":
            raise
        # One that answers nothing at once may be starting; one that lets us wait hangs.
        if time.monotonic() - began >= UP_S:
            refuse_hung(error)
    with _started(timeout=5.0) as client:
        _print_kernel(_describe(client), as_json, "runs")


@click.command("down")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def down_command(as_json: bool) -> None:
    """Stop the kernel and all of its workers; running tasks end with an error.

    \b
    Example:
      claw down
    """
    require_system()
    pid: int | None
    try:
        pid = _stop()
    except ClawError as error:
        if error.code != "no_kernel":
            raise
        pid = holder()
        if pid is not None:
            end_hung(pid)
    _say_down(pid, as_json)


def _stop() -> int:
    """Ask the kernel to end and wait until it has.

    Returns:
        Its process id.

    Raises:
        ClawError: no_kernel, if none runs or it does not answer or end in time.
    """
    from clawai.sdk.client import Client

    with Client(timeout=5.0) as client:
        pid = int(client.query("status")["pid"])
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return pid
        try:
            client.admin("shutdown")
        except ClawError as error:
            if error.code not in ("no_kernel", "kernel_stopped"):
                os.close(handle)
                raise
    try:
        # A pidfd becomes readable when its process has ended.
        if not select.select([handle], [], [], STOP_S)[0]:
            raise ClawError("no_kernel", f"the kernel did not end within {STOP_S:.0f} s")
    finally:
        os.close(handle)
    return pid


def _say_down(pid: int | None, as_json: bool) -> None:
    if as_json:
        output.print_json({"state": "stopped" if pid else "not running", "pid": pid})
    else:
        print(f"the kernel (pid {pid}) has stopped" if pid else "no kernel runs")
