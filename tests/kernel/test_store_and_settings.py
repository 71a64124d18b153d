"""Odd files in the store, odd settings and plugins that claim too much: told, and nothing hangs."""

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from clawai.sdk.client import Client
from clawai.sdk.errors import ClawError
from support import Kernel


def code_of(call: Any) -> str:
    with pytest.raises(ClawError) as caught:
        call()
    return caught.value.code


def odd_model(kernel: Kernel, name: str) -> Path:
    folder = kernel.models_dir / name
    folder.mkdir()
    record = {"name": name, "file": "m.gguf", "bytes": 0, "sha256": "", "capability": "llm"}
    (folder / "model.json").write_text(json.dumps(record))
    return folder / "m.gguf"


def test_a_model_that_is_no_regular_file_is_refused_unopened(kernel: Kernel) -> None:
    os.mkfifo(odd_model(kernel, "pipe"))
    odd_model(kernel, "link").symlink_to("/etc/hostname")
    odd_model(kernel, "folder").mkdir()
    odd_model(kernel, "missing")
    client = kernel.client()
    for name in ("pipe", "link", "folder", "missing"):
        assert code_of(lambda n=name: client.call("llm.tokenize", {"text": "a"}, model=n)) == (
            "bad_model"
        )
    assert client.call("echo.say", {"text": "still here"}).value == "still here"


def test_a_listing_that_cannot_be_sent_does_not_end_the_kernel(kernel: Kernel) -> None:
    """A manifest may hold a number that msgpack cannot carry."""
    client = kernel.client()
    folder = kernel.plugins_dir / "huge"
    folder.mkdir()
    (folder / "plugin.toml").write_text(f"[plugin]\nname = 'huge'\nversion = {10**30}\n")
    listed = client.query("plugins")
    assert str(folder) in listed["problems"]
    assert client.query("status")["pid"] == kernel.pid


def test_an_operation_that_is_taken_is_a_problem_of_the_second(kernel: Kernel) -> None:
    folder = kernel.plugin("mimic", operations={"echo.say": ""})
    with kernel.client() as client:
        assert "offered by 'echo'" in client.query("plugins")["problems"][str(folder)]
        assert client.call("echo.say", {"text": "x"}).value == "x"


def test_a_plugin_that_does_not_start_says_why_in_the_listing(kernel: Kernel) -> None:
    kernel.plugin("lame", "import nothing_of_the_sort", {"lame.op": ""})
    with kernel.client() as client:
        assert code_of(lambda: client.call("lame.op")) == "worker_failed"
        listed = {p["name"]: p for p in client.query("plugins")["plugins"]}
    assert "nothing_of_the_sort" in listed["lame"]["problem"]
    assert listed["echo"]["problem"] == ""


def test_a_worker_cannot_hold_more_than_is_charged_and_a_slack(kernel: Kernel) -> None:
    grab = """
    from clawai.sdk.plugin import operation

    @operation("grab.some")
    def some(mib: int) -> int:
        try:
            return len(bytearray(mib << 20)) >> 20
        except MemoryError:
            return 0
    """
    kernel.plugin("grab", grab, {"grab.some": ""}, memory_mib=64)
    with kernel.client() as client:
        assert client.call("grab.some", {"mib": 16}).value == 16
        assert client.call("grab.some", {"mib": 192}).value == 0


def test_a_client_refuses_another_thread_and_its_own_end(kernel: Kernel) -> None:
    client = Client(folder=kernel.folder)
    seen: list[str] = []
    thread = threading.Thread(
        target=lambda: seen.append(code_of(lambda: client.call("echo.say", {"text": "x"})))
    )
    thread.start()
    thread.join()
    assert seen == ["bad_state"]
    assert client.call("echo.say", {"text": "fine"}).value == "fine"
    client.close()
    assert code_of(lambda: client.call("echo.say", {"text": "x"})) == "bad_state"


def test_a_client_refuses_a_forked_child(kernel: Kernel) -> None:
    client = kernel.client()
    child = os.fork()
    if child == 0:
        try:
            client.call("echo.say", {"text": "x"})
            os._exit(1)
        except ClawError as error:
            os._exit(0 if error.code == "bad_state" else 2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert client.call("echo.say", {"text": "fine"}).value == "fine"
