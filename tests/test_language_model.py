"""The whole path: client, kernel, sandboxed worker, our own C ops, a real language model."""

import json
import os
import shutil
import signal
import struct
import threading
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from clawai.plugins import engine
from clawai.plugins.accelerator.driver import CpuDriver
from clawai.sdk.client import Client, Task
from clawai.sdk.errors import ClawError
from clawai.sdk.manifest import read_plugin
from clawai.sdk.model import gguf, llama
from clawai.sdk.wire import Priority
from support import Kernel, wait_until

pytestmark = pytest.mark.model

ENGINE = Path(engine.__file__).parent
QUESTION = [{"role": "user", "content": "Name three colours."}]
LONG = {"prompt": "Once upon a time", "max_tokens": 1500}


def answer(kernel: Kernel, params: dict[str, Any], **options: Any) -> dict[str, Any]:
    with kernel.client() as client:
        value: dict[str, Any] = client.call(
            "llm.generate", params, model="smollm2", **options
        ).value
    return value


def test_an_answer_streams_and_says_where_the_time_went(smollm2_store: Kernel) -> None:
    with smollm2_store.client() as client:
        task = client.submit(
            "llm.generate", {"messages": QUESTION, "max_tokens": 24}, model="smollm2"
        )
        events = list(task)
        result = task.result()
    pieces = [event.data["text"] for event in events if event.kind == "chunk"]
    assert len(pieces) > 1 and "".join(pieces) == result.value["text"]
    assert result.value["finish_reason"] in ("stop", "length")
    assert 0 < result.value["usage"]["completion_tokens"] <= 24
    assert result.timings["load_us"] > 0 and result.timings["compute_us"] > 0
    assert set(result.timings) == {"queue_us", "load_us", "compute_us", "plugin_us", "wire_us"}


def test_the_same_seed_gives_the_same_answer(smollm2_store: Kernel) -> None:
    params = {"messages": QUESTION, "max_tokens": 16, "temperature": 1.2, "top_k": 0, "top_p": 1.0}
    first, again = (answer(smollm2_store, {**params, "seed": 7})["text"] for _ in range(2))
    others = {answer(smollm2_store, {**params, "seed": seed})["text"] for seed in range(4)}
    assert first == again
    assert len(others) > 1


def test_greedy_does_not_depend_on_what_came_before(smollm2_store: Kernel) -> None:
    params = {"prompt": "The capital of France is", "max_tokens": 12}
    first = answer(smollm2_store, params)["text"]
    answer(smollm2_store, {"messages": QUESTION, "max_tokens": 5})
    assert answer(smollm2_store, params)["text"] == first
    assert "Paris" in first


def test_a_stop_string_ends_the_answer_and_is_not_shown(smollm2_store: Kernel) -> None:
    params = {"prompt": "1 2 3 4 5 6 7", "max_tokens": 40}
    whole = answer(smollm2_store, params)["text"]
    stop = whole[3:8]
    cut = answer(smollm2_store, {**params, "stop": [stop]})
    assert cut["text"] == whole[: whole.index(stop)]
    assert cut["finish_reason"] == "stop"


def test_an_answer_obeys_a_schema_or_calls_a_function(smollm2_store: Kernel) -> None:
    colours = {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 3}
    schema = {"type": "object", "properties": {"colours": colours}, "required": ["colours"]}
    said = answer(smollm2_store, {"messages": QUESTION, "schema": schema, "max_tokens": 60})
    if said["finish_reason"] == "stop":
        jsonschema.validate(json.loads(said["text"]), schema)
    city = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = [{"name": "weather", "description": "of a city", "parameters": city}, {"name": "now"}]
    asked = [{"role": "user", "content": "What is the weather in Paris?"}]
    options = {"tools": tools, "tool_choice": "required", "max_calls": 1, "max_tokens": 60}
    said = answer(smollm2_store, {"messages": asked} | options)
    assert said["finish_reason"] == "tool_calls" and said["text"] == ""
    (call,) = said["tool_calls"]
    assert (call["name"], json.loads(call["arguments"])) == ("weather", {"city": "Paris"})


def test_two_clients_at_once_stream_without_mixing(smollm2_store: Kernel) -> None:
    prompts = ["The capital of France is", "Two plus two equals"]
    alone = [answer(smollm2_store, {"prompt": p, "max_tokens": 24})["text"] for p in prompts]
    together: dict[str, str] = {}

    def ask(prompt: str) -> None:
        with smollm2_store.client() as client:
            task = client.submit(
                "llm.generate", {"prompt": prompt, "max_tokens": 24}, model="smollm2"
            )
            together[prompt] = "".join(e.data["text"] for e in task if e.kind == "chunk")

    threads = [threading.Thread(target=ask, args=(prompt,)) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[prompt] for prompt in prompts] == alone


def start_long(client: Client, priority: Priority) -> Task:
    """An answer that takes its time; it has begun."""
    task = client.submit("llm.generate", LONG, model="smollm2", priority=priority)
    next(event for event in task if event.kind == "chunk")
    return task


def test_twenty_queued_requests_are_answered_in_priority_order(smollm2_store: Kernel) -> None:
    """Bulk answers go on in three slots; the fourth is not for bulk, and what is urgent passes."""
    classes: list[Priority] = ["batch", "normal", "interactive", "critical"]
    ended: list[int] = []
    with smollm2_store.client() as client:
        note = client._session._end
        client._session._end = lambda request, end: (ended.append(request.id), note(request, end))
        bulk = [start_long(client, "batch") for _ in range(3)]
        running = start_long(client, "critical")
        params = {"prompt": "a", "max_tokens": 1}
        tasks = [
            client.submit("llm.generate", params, model="smollm2", priority=priority)
            for priority in classes * 5
        ]
        by_id = {
            task._request.id: priority for task, priority in zip(tasks, classes * 5, strict=True)
        }
        wait_until(lambda: len(client.query("tasks")["tasks"]) == 24, "all are queued")
        running.cancel()
        for task in tasks:
            if by_id[task._request.id] != "batch":
                assert task.result().value["usage"]["completion_tokens"] == 1
        for task in bulk:
            task.cancel()
        for task in tasks:
            assert task.result().value["usage"]["completion_tokens"] == 1
    order = [by_id[number] for number in ended if number in by_id]
    ranks = ["critical", "interactive", "normal", "batch"]
    assert order == sorted(by_id.values(), key=ranks.index)


def test_an_urgent_question_interrupts_a_bulk_answer_of_the_same_model(
    smollm2_store: Kernel,
) -> None:
    """It is answered while the other one waits, and that one ends as if nothing had been."""
    story = {"prompt": "Once upon a time", "max_tokens": 150}
    question = {"messages": QUESTION, "max_tokens": 8}
    # A prompt of several chunks is interrupted too, not only an answer.
    reading = {"prompt": "All happy families are alike. " * 120, "max_tokens": 20}
    alone = [answer(smollm2_store, params)["text"] for params in (story, reading, question)]
    with smollm2_store.client() as client:
        bulk = [
            client.submit("llm.generate", params, model="smollm2", priority="batch")
            for params in (story, reading)
        ]
        next(event for event in bulk[0] if event.kind == "chunk")
        for _ in range(4):
            urgent = client.call("llm.generate", question, model="smollm2", priority="critical")
            assert urgent.value["text"] == alone[2]
        workers = client.query("workers")["workers"]
        assert len(workers) == 1
        assert [task.result().value["text"] for task in bulk] == alone[:2]


def test_a_worker_that_was_stopped_goes_on_exactly(smollm2_store: Kernel) -> None:
    """SIGSTOP falls wherever it falls: in a prompt, in a token, in an op."""
    params = {"prompt": "All happy families are alike. " * 100, "max_tokens": 60}
    alone = answer(smollm2_store, params)["text"]
    with smollm2_store.client() as client:
        (worker,) = client.query("workers")["workers"]
        task = client.submit("llm.generate", params, model="smollm2")
        threads = Path(f"/proc/{worker['pid']}/task")
        for _ in range(30):
            os.kill(worker["pid"], signal.SIGSTOP)
            wait_until(lambda: all_stopped(threads), "every thread stands still")
            os.kill(worker["pid"], signal.SIGCONT)
            time.sleep(0.01)
        assert task.result().value["text"] == alone
        assert client.query("workers")["workers"][0]["worker"] == worker["worker"]


def all_stopped(threads: Path) -> bool:
    states = [
        (path / "stat").read_text().rpartition(")")[2].split()[0] for path in threads.iterdir()
    ]
    return all(state == "T" for state in states)


def weights_of(pid: int) -> list[str]:
    """The mappings of weights objects in a process, as /proc/PID/maps writes them."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [line for line in lines if "memfd:claw-weights" in line]


@pytest.mark.parametrize(
    ("smollm2_store", "kv", "shared"),
    [("", "f16", True), ("[workers]\nweights = 'private'\nkv = 'q8'", "q8", False)],
    indirect=["smollm2_store"],
)
def test_weights_outlive_their_worker(
    smollm2_store: Kernel, smollm2_path: Path, kv: str, shared: bool
) -> None:
    """The next one maps the same object, for reading only."""
    graph = llama.graph(gguf.read(smollm2_path))
    need = CpuDriver().footprint(graph, context=2048, sequences=4, kv=kv)
    params = {"prompt": "The capital of France is", "max_tokens": 12}
    first = answer(smollm2_store, params)["text"]
    seen = []
    with smollm2_store.client() as client:
        for _ in range(3):
            (worker,) = client.query("workers")["workers"]
            mapped = weights_of(worker["pid"])
            seen.append([line.split()[4] for line in mapped])
            assert all(line.split()[1].startswith("r--") for line in mapped)
            promised = worker["bytes"] - read_plugin(ENGINE).limits.memory_mib * 2**20
            assert promised == (need.private if shared else need.total)
            os.kill(worker["pid"], signal.SIGKILL)
            wait_until(
                lambda pid=worker["pid"]: [
                    w for w in client.query("workers")["workers"]
                    if w["state"] == "ready" and w["pid"] != pid
                ],
                "the worker is back",
            )  # fmt: skip
            assert answer(smollm2_store, params)["text"] == first
    assert len(seen[0]) == shared
    assert seen[0] == seen[1] == seen[2], "one object, the same inode"


def test_cancel_in_mid_answer(smollm2_store: Kernel) -> None:
    with smollm2_store.client() as client:
        task = client.submit("llm.generate", LONG, model="smollm2")
        next(event for event in task if event.kind == "chunk")
        task.cancel()
        with pytest.raises(ClawError) as caught:
            task.result()
        assert caught.value.code == "cancelled"
        again = client.call("llm.generate", {"prompt": "a", "max_tokens": 2}, model="smollm2")
        assert again.value["usage"]["completion_tokens"] == 2
        assert client.query("workers")["workers"][0]["worker"] == 1, "the worker was not replaced"


def test_a_deadline_ends_a_running_answer(smollm2_store: Kernel) -> None:
    answer(smollm2_store, {"prompt": "a", "max_tokens": 1})
    with pytest.raises(ClawError) as caught:
        answer(smollm2_store, LONG, deadline=0.3)
    assert caught.value.code == "deadline_passed"
    with pytest.raises(ClawError) as caught:
        answer(smollm2_store, LONG, deadline=0)
    assert caught.value.code == "deadline_passed"


def test_kill_of_the_worker_in_mid_answer(smollm2_store: Kernel) -> None:
    with smollm2_store.client() as client:
        task = client.submit("llm.generate", LONG, model="smollm2")
        next(event for event in task if event.kind == "chunk")
        (worker,) = client.query("workers")["workers"]
        os.kill(worker["pid"], signal.SIGKILL)
        with pytest.raises(ClawError) as caught:
            task.result()
        assert caught.value.code == "worker_died"
        assert "engine smollm2" in caught.value.message and "SIGKILL" in caught.value.message

        def back() -> bool:
            workers = client.query("workers")["workers"]
            return any(w["state"] == "ready" and w["pid"] != worker["pid"] for w in workers)

        wait_until(back, "the worker is back without a request")
        again = client.call("llm.generate", {"prompt": "a", "max_tokens": 2}, model="smollm2")
        assert again.value["usage"]["completion_tokens"] == 2


def test_a_prompt_longer_than_the_context_is_never_cut(smollm2_store: Kernel) -> None:
    with pytest.raises(ClawError) as caught:
        answer(smollm2_store, {"prompt": "word " * 3000})
    assert caught.value.code == "prompt_too_long"
    assert "3001 tokens" in caught.value.message and "2048" in caught.value.message


@pytest.mark.parametrize("smollm2_store", ["[workers]\ncontext = 64"], indirect=True)
def test_an_answer_ends_with_the_context(smollm2_store: Kernel) -> None:
    ended = answer(smollm2_store, {"prompt": "Once upon a time"})
    usage = ended["usage"]
    assert ended["finish_reason"] in ("length", "stop")
    assert usage["prompt_tokens"] + usage["completion_tokens"] <= 64


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"prompt": "a", "messages": QUESTION},
        {"prompt": ""},
        {"prompt": "a", "temperature": -1},
        {"prompt": "a", "top_p": 0},
        {"prompt": "a", "top_p": float("nan")},
        {"prompt": "a", "top_k": -1},
        {"prompt": "a", "max_tokens": 0},
        {"prompt": "a", "seed": -1},
        {"prompt": "a", "stop": [""]},
        {"prompt": "a", "stop": "x"},
        {"messages": []},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "nobody", "content": "x"}]},
        {"prompt": 3},
        {"prompt": "a", "unknown": 1},
    ],
    ids=str,
)
def test_bad_parameters(shared_llm: Kernel, params: dict[str, Any]) -> None:
    with pytest.raises(ClawError) as caught:
        answer(shared_llm, params)
    assert caught.value.code == "bad_params"


@pytest.fixture(scope="module")
def shared_llm(smollm2_path: Path) -> Any:
    """One kernel for the tests that only send what is refused."""
    kernel = Kernel()
    try:
        kernel.model("smollm2", smollm2_path)
        yield kernel.start()
        kernel.stop()
        kernel.check_gone()
    finally:
        kernel.remove()


def test_a_model_that_can_never_fit(start_kernel: Any, smollm2_path: Path) -> None:
    """Refused at once by its file's size, and after its header was read by what it would hold."""
    for budget, known in ((250, "smollm2 needs"), (320, "smollm2 needs")):
        kernel = start_kernel(config=f"[memory]\nbudget_mib = {budget}", start=False)
        kernel.model("smollm2", smollm2_path)
        kernel.start()
        with pytest.raises(ClawError) as caught:
            answer(kernel, {"prompt": "a"})
        assert caught.value.code == "never_fits"
        assert known in caught.value.message and f"{budget} MiB" in caught.value.allowed
        with kernel.client() as client:
            wait_until(lambda c=client: c.query("status")["used_bytes"] == 0, "memory is back")


def _cut(data: bytearray) -> None:
    del data[len(data) // 2 :]


def _giant_count(data: bytearray) -> None:
    data[8:16] = struct.pack("<Q", 1 << 60)


def _not_gguf(data: bytearray) -> None:
    data[:4] = b"ELF\0"


def _noise(data: bytearray) -> None:
    for at in range(24, 100_000, 97):
        data[at] ^= 0xA5


@pytest.mark.parametrize("damage", [_cut, _giant_count, _not_gguf, _noise])
def test_a_damaged_file_is_a_typed_error_and_nothing_is_lost(
    start_kernel: Any, smollm2_path: Path, tmp_path: Path, damage: Any
) -> None:
    broken = tmp_path / "broken.gguf"
    shutil.copyfile(smollm2_path, broken)
    data = bytearray(broken.read_bytes())
    damage(data)
    broken.write_bytes(data)
    kernel = start_kernel(start=False)
    kernel.model("broken", broken)
    kernel.model("smollm2", smollm2_path)
    kernel.start()
    with kernel.client() as client:
        with pytest.raises(ClawError) as caught:
            client.call("llm.generate", {"prompt": "a"}, model="broken")
        assert caught.value.code == "bad_model"
        fine = client.call("llm.generate", {"prompt": "a", "max_tokens": 1}, model="smollm2")
        assert fine.value["usage"]["completion_tokens"] == 1
        wait_until(lambda: len(client.query("workers")["workers"]) == 1, "the broken one is gone")


def test_unknown_model_and_operation_name_the_nearest(smollm2_store: Kernel) -> None:
    with smollm2_store.client() as client:
        with pytest.raises(ClawError, match="did you mean 'smollm2'") as caught:
            client.call("llm.generate", {"prompt": "a"}, model="smollm")
        assert caught.value.code == "unknown_model"
        with pytest.raises(ClawError, match=r"did you mean 'llm\.generate'") as caught:
            client.call("llm.generat", {"prompt": "a"}, model="smollm2")
        assert caught.value.code == "unknown_operation"
        with pytest.raises(ClawError, match="needs a model"):
            client.call("llm.generate", {"prompt": "a"})
