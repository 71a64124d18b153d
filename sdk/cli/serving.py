"""`claw serve --model_name`: a kernel, its gateway and the versions of a model, in one program."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

import click

from clawai.sdk.cli import output
from clawai.sdk.cli.daemon import KERNEL, START_S, STOP_S, read_line
from clawai.sdk.cli.gateway import serve_http
from clawai.sdk.cli.main import CANCELLED
from clawai.sdk.cli.models import unload
from clawai.sdk.client import Client
from clawai.sdk.errors import ClawError
from clawai.sdk.versions import Versions

LOOK = 0.5
"""Seconds between two looks at the folder."""


def serve(port: int, name: str, base: str) -> NoReturn:
    """Serve over HTTP until Ctrl-C or the end of the kernel.

    Args:
        name: of the model whose versions are in ``base``; empty for none.

    Raises:
        ClawError: the kernel or the gateway cannot start, or the folder cannot be read.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    kernel = _start(port)
    try:
        with contextlib.ExitStack() as stack:
            http = _Http()
            http.start()
            if name:
                client = stack.enter_context(Client(timeout=START_S))
                versions = _versions(client, name, base, port)
                stack.callback(versions.close)
            while kernel.poll() is None:
                http.check()
                if name:
                    versions.look()
                time.sleep(LOOK)
    except KeyboardInterrupt:
        output.note("the kernel ends")
        raise click.exceptions.Exit(CANCELLED) from None
    finally:
        kernel.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            kernel.wait(STOP_S)
        kernel.kill()
    raise click.exceptions.Exit(kernel.returncode)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _start(port: int) -> "subprocess.Popen[bytes]":
    """A kernel of our own, with its log on standard error; ready when this returns."""
    reader, writer = os.pipe()
    command = [*KERNEL, "--foreground", "--ready-fd", str(writer), "--port", f"gateway:8080={port}"]
    # In a session of its own: Ctrl-C is for us, who end it in order.
    kernel = subprocess.Popen(
        [sys.executable, *command], pass_fds=[writer], start_new_session=True, cwd="/"
    )
    os.close(writer)
    try:
        if not read_line(reader, START_S).endswith(b"\n"):
            kernel.terminate()
            raise click.exceptions.Exit(kernel.wait(STOP_S) or 1)  # it has said why
    finally:
        os.close(reader)
    return kernel


class _Http(threading.Thread):
    """The gateway's task, which ends only when it cannot go on."""

    def __init__(self) -> None:
        super().__init__(name="http", daemon=True)
        self._error: ClawError | None = None

    def run(self) -> None:
        try:
            with Client(timeout=START_S) as client:
                serve_http(client, {}, closed=False, as_json=False)
        except ClawError as error:
            self._error = error

    def check(self) -> None:
        """Raises ``ClawError`` if it has ended."""
        if self._error and self._error.code not in ("no_kernel", "kernel_stopped"):
            raise self._error


def _versions(client: Client, name: str, base: str, port: int) -> Versions:
    address = f"http://127.0.0.1:{port}/v1/models/{name}"

    def said(text: str) -> None:
        print(f"{text}   {address}" if text.endswith(" serves") else text, flush=True)

    def load(stored: str) -> None:
        client.call("tensor.describe", model=stored)

    return Versions(name, Path(base).absolute(), load, unload, said)
