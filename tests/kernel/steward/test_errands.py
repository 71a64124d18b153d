"""Models that the steward has fetched and deleted for others, from a server of this box."""

import hashlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clawai.kernel.loop import Loop
from clawai.kernel.steward import errands, limits
from clawai.kernel.steward.log import LogFile
from clawai.sdk.client import Client
from clawai.sdk.errors import ClawError
from gguf_files import tiny_llama
from support import Kernel, wait_until
from web_files import WebFile, serve

DATA = tiny_llama(context=512) + bytes(3_000_000)
SHA = hashlib.sha256(DATA).hexdigest()
PARAMS = {"prompt": "hello", "max_tokens": 2}


@pytest.fixture
def web() -> Iterator[WebFile]:
    with serve(DATA) as served:
        yield served


@pytest.fixture
def halfway(web: WebFile) -> Iterator[threading.Event]:
    """The server waits with half of the file sent; set, it goes on."""
    go_on = threading.Event()
    web.during = lambda: go_on.wait(60)
    yield go_on
    go_on.set()


def seen(client: Client, command: str, name: str) -> list[dict[str, Any]]:
    """All that is seen of an errand until it has ended."""
    found = [client.admin(command, name)]
    while not found[-1]["ended"]:
        time.sleep(0.01)
        found.append(client.query(f"{command}:{found[0]['errand']}"))
    return found


def done(client: Client, command: str, name: str) -> dict[str, Any]:
    last = seen(client, command, name)[-1]
    assert "error" not in last, last
    return last


def failed(client: Client, command: str, name: str) -> ClawError:
    return ClawError(*seen(client, command, name)[-1]["error"])


def stored(client: Client) -> list[str]:
    return [row["name"] for row in client.query("models")["models"]]


def part(kernel: Kernel, name: str) -> Path:
    return kernel.models_dir / ".staging" / name / "000.part"


def begun(kernel: Kernel, client: Client, name: str) -> dict[str, Any]:
    """Begin a pull from a server that waits halfway, and wait until that half is here."""
    found: dict[str, Any] = client.admin("pull", name)

    def half() -> bool:  # who looks keeps it going, however slow this box is
        told = client.query(f"pull:{found['errand']}")
        return told["step"] == "fetching" and part(kernel, name).exists()

    wait_until(half, "the half is written")
    return found


def programs(kernel: Kernel) -> list[int]:
    found = kernel.processes().items()
    return [pid for pid, line in found if "clawai.sdk.cli.main" in line]


def test_a_model_comes_answers_and_goes(kernel: Kernel, web: WebFile) -> None:
    kernel.offer("far", web.url, SHA, len(DATA))
    client = kernel.client()
    told = seen(client, "pull", "far")
    assert {"begins", "done"} <= {each["step"] for each in told}, "what is between may be short"
    assert told[0]["sha256"] == SHA and told[0]["bytes"] == len(DATA)
    assert told[-1]["done"] == len(DATA) and not told[-1]["already"]
    assert stored(client) == ["far"]
    assert client.call("llm.generate", PARAMS, model="far").value["text"] is not None
    assert len(seen(client, "pull", "far")) == 1, "it is stored already"
    assert len(web.asked) == 1
    done(client, "remove", "far")
    assert stored(client) == [], "though it was loaded"
    wait_until(
        lambda: all(row["model"] != "far" for row in client.query("workers")["workers"]),
        "and it is loaded no more",
    )
    log = kernel.log()
    assert "a user has the model far fetched" in log and "the model far is deleted" in log
    done(client, "pull", "far")
    assert stored(client) == ["far"], "it can come again"


def test_those_who_want_the_same_share_it(
    kernel: Kernel, web: WebFile, halfway: threading.Event
) -> None:
    kernel.offer("far", web.url, SHA, len(DATA))
    first, second = kernel.client(), kernel.client()
    one = begun(kernel, first, "far")
    assert second.admin("pull", "far")["errand"] == one["errand"]
    with pytest.raises(ClawError, match="is being fetched") as refused:
        second.admin("remove", "far")
    assert refused.value.code == "bad_state"
    first.close()
    halfway.set()
    done(second, "pull", "far")
    assert len(web.asked) == 1


def test_what_nobody_looks_at_stops_and_goes_on_the_next_time(
    kernel: Kernel, web: WebFile, halfway: threading.Event
) -> None:
    kernel.offer("far", web.url, SHA, len(DATA))
    client = kernel.client()
    one = begun(kernel, client, "far")
    wait_until(lambda: not programs(kernel), "its program is interrupted")

    def end() -> Any:
        told = client.query(f"pull:{one['errand']}")
        return told["ended"] and told

    assert wait_until(end, "that is noted")["error"][0] == "cancelled"
    half = part(kernel, "far").stat().st_size
    assert 0 < half < len(DATA) and stored(client) == []
    web.during = None
    done(client, "pull", "far")
    assert web.asked[-1]["Range"] == f"bytes={half}-"
    wait_until(lambda: gone(client, "pull", one), "it is forgotten")


def gone(client: Client, command: str, begun: dict[str, Any]) -> bool:
    try:
        client.query(f"{command}:{begun['errand']}")
    except ClawError as error:
        assert error.code == "bad_params" and "any more" in error.message
        return True
    return False


def test_what_has_the_wrong_digest_is_not_stored(kernel: Kernel, web: WebFile) -> None:
    kernel.offer("false", web.url, "0" * 64, len(DATA))
    client = kernel.client()
    error = failed(client, "pull", "false")
    assert (error.code, error.got, error.allowed) == ("bad_download", SHA, "0" * 64)
    assert stored(client) == [] and "was not fetched" in kernel.log()


def test_what_cannot_fit_the_disk_is_not_even_begun(kernel: Kernel, web: WebFile) -> None:
    kernel.offer("vast", web.url, SHA, 1 << 47)
    error = failed(kernel.client(), "pull", "vast")
    assert error.code == "disk_full" and "needed" in str(error.allowed)
    assert web.asked == []


@pytest.mark.parametrize(
    "name",
    [
        "",
        "nobody",
        "/etc/passwd",
        "../far",
        "./far.gguf",
        "--help",
        SHA,
        "far:latest",
        "smollm2-135m",
    ],
)
def test_only_a_name_of_the_catalogue_is_fetched(kernel: Kernel, web: WebFile, name: str) -> None:
    kernel.offer("far", web.url, SHA, len(DATA))
    client = kernel.client()
    for each in (name, f"{web.url}{name}", f"file:{name}"):
        with pytest.raises(ClawError) as refused:
            client.admin("pull", each)
        error = refused.value
        assert (
            error.code == "unknown_model" and "far" in error.allowed and "smollm2" in error.allowed
        )
        assert error.got == each[:80] and "claw pull" in error.hint
    assert web.asked == [] and not programs(kernel)


def test_a_model_of_the_owners_is_not_replaced(
    kernel: Kernel, web: WebFile, tmp_path: Path
) -> None:
    kernel.offer("mine", web.url, SHA, len(DATA))
    (tmp_path / "mine.gguf").write_bytes(DATA)
    kernel.model("mine", tmp_path / "mine.gguf")
    with pytest.raises(ClawError, match="another file is stored under the name mine"):
        kernel.client().admin("pull", "mine")


def test_a_program_that_cannot_be_started_is_told_and_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(errands, "CLAW", [str(tmp_path / "nothing")])
    log = LogFile(tmp_path / "log", "debug", 1 << 20, False)
    made = errands.Errands(Loop(lambda _: None), log)
    with pytest.raises(ClawError, match="cannot be fetched") as refused:
        made.begin("pull", "smollm2", "", {})
    assert refused.value.code == "bad_config" and made.next_timer() is None
    log.close()


def test_what_is_not_stored_is_not_deleted(kernel: Kernel) -> None:
    client = kernel.client()
    for name in ("nobody", "smollm2", "smollm2-135m"):
        with pytest.raises(ClawError, match="is stored here") as refused:
            client.admin("remove", name)
        assert (refused.value.code, refused.value.allowed) == ("unknown_model", [])
    for name in ("", "../models", "/etc", ".staging", "--json"):
        with pytest.raises(ClawError) as refused:
            client.admin("remove", name)
        assert refused.value.code == "bad_params"
    with pytest.raises(ClawError, match="no such pull"):
        client.query("pull:1")


def test_half_a_model_is_deleted(kernel: Kernel, web: WebFile, halfway: threading.Event) -> None:
    kernel.offer("far", web.url, SHA, len(DATA))
    client = kernel.client()
    begun(kernel, client, "far")
    wait_until(lambda: not programs(kernel), "its program is interrupted")
    done(client, "remove", "far")
    assert not part(kernel, "far").parent.exists()


def test_what_is_pinned_or_in_use_is_not_deleted(kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "long.gguf").write_bytes(tiny_llama(layers=4, width=256, hidden=1024, context=4096))
    kernel.model("long", tmp_path / "long.gguf")
    client = kernel.client()
    task = client.submit("llm.generate", {"prompt": "a", "max_tokens": 4000}, model="long")
    wait_until(lambda: client.query("workers")["workers"], "it is loaded")
    with pytest.raises(ClawError, match="in use") as refused:
        client.admin("remove", "long")
    assert refused.value.code == "bad_state" and refused.value.got == "1 tasks run or wait"
    client.admin("pin", "long")
    task.cancel()
    wait_until(lambda: not client.query("tasks")["tasks"], "nobody uses it")
    with pytest.raises(ClawError, match="pinned") as refused:
        client.admin("remove", "long")
    assert "claw unpin long" in refused.value.hint
    client.admin("unpin", "long")
    done(client, "remove", "long")
    assert stored(client) == []


def test_only_so_many_run_at_a_time(kernel: Kernel, web: WebFile, halfway: threading.Event) -> None:
    client = kernel.client()
    for number in range(limits.ERRANDS + 1):
        kernel.offer(f"far{number}", web.url, SHA, len(DATA))
    four = [client.admin("pull", f"far{number}") for number in range(limits.ERRANDS)]
    with pytest.raises(ClawError) as refused:
        client.admin("pull", f"far{limits.ERRANDS}")
    assert refused.value.code == "overloaded" and refused.value.retry_after_ms
    halfway.set()
    while not all(client.query(f"pull:{each['errand']}")["ended"] for each in four):
        time.sleep(0.01)
    done(client, "pull", f"far{limits.ERRANDS}")


@pytest.mark.parametrize("how", ["the kernel is stopped", "the steward dies"])
def test_no_program_is_left(
    kernel: Kernel, web: WebFile, halfway: threading.Event, how: str
) -> None:
    kernel.offer("far", web.url, SHA, len(DATA))
    client = kernel.client()
    if how == "the steward dies":  # not as soon as it is started, which would end the kernel
        wait_until(lambda: client.query("status")["uptime_s"] >= 1, "it is no newborn")
    begun(kernel, client, "far")
    assert programs(kernel)
    if how == "the steward dies":
        first = kernel.steward()
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: not programs(kernel), "it is interrupted")
        wait_until(lambda: kernel.steward() not in (0, first), "there is another one")
        web.during = None
        done(client, "pull", "far")


def test_a_store_that_cannot_be_used_is_told(kernel: Kernel, web: WebFile) -> None:
    kernel.offer("far", web.url, SHA, len(DATA))
    client = kernel.client()
    staging = kernel.models_dir / ".staging"
    staging.write_text("this is no folder")
    error = failed(client, "pull", "far")
    assert error.code == "not_permitted" and "model store" in error.message
    staging.unlink()
    shutil.rmtree(kernel.models_dir)
    kernel.models_dir.write_text("this is no folder")
    with pytest.raises(ClawError, match="cannot be fetched") as refused:
        client.admin("pull", "far")
    assert refused.value.code == "bad_config"
