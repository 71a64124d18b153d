"""The whole path once: a client, the daemon, a sandboxed worker and back."""

import numpy as np
import pytest

from clawai.sdk.errors import ClawError
from clawai.sdk.plugin import Tensor
from support import Kernel, memory_kib


def test_call_stream_and_query(kernel: Kernel) -> None:
    client = kernel.client()
    assert client.welcome.pid == kernel.pid
    assert client.welcome.leases
    assert client.call("echo.say", {"text": "hello"}).value == "hello"
    task = client.submit("echo.count", {"upto": 5})
    assert [event.data for event in task if event.kind == "chunk"] == [1, 2, 3, 4, 5]
    assert task.result().value == 5
    assert client.query("tasks") == {"tasks": []}
    assert client.query("status")["ended"] == {"done": 2}


def test_timings_add_up(kernel: Kernel) -> None:
    times = kernel.client().call("echo.say", {"text": "x"}).timings
    assert set(times) == {"queue_us", "load_us", "compute_us", "plugin_us", "wire_us"}
    assert min(times.values()) >= 0
    assert times["load_us"] > 0


def test_plugin_dropped_while_the_kernel_runs(kernel: Kernel) -> None:
    kernel.plugin("greet")
    assert kernel.client().call("greet.hello", {"name": "you"}).value == "Hello, you!"


@pytest.mark.parametrize(
    ("op", "params", "code", "part"),
    [
        ("echo.sy", {}, "unknown_operation", "did you mean 'echo.say'?"),
        ("echo.say", {}, "bad_params", "text"),
        ("echo.say", {"text": 3}, "bad_params", "Expected `str`"),
        ("echo.say", {"text": "x", "foo": 1}, "bad_params", "foo"),
    ],
)
def test_bad_requests(kernel: Kernel, op: str, params: dict[str, object], code: str, part: str):
    client = kernel.client()
    with pytest.raises(ClawError) as caught:
        client.call(op, params)
    assert caught.value.code == code
    assert part in str(caught.value)
    assert client.call("echo.say", {"text": "still here"}).value == "still here"


def test_tensors_by_lease_and_by_frame(kernel: Kernel) -> None:
    client = kernel.client()
    numbers = np.arange(100_000, dtype="<f4")
    loan = client.borrow("echo.tensor", numbers.nbytes)
    loan.array("<f4", numbers.shape)[...] = numbers
    result = client.call("echo.tensor", {"x": loan.tensor("<f4", numbers.shape)}, leases=[loan])
    assert result.value["lease"] == 0
    assert (client.array(result, result.value, [loan]) == numbers).all()
    client.give_back(loan)
    again = client.borrow("echo.tensor", numbers.nbytes)
    assert again.lease.segment == loan.lease.segment
    assert again.lease.generation == loan.lease.generation + 1
    small = np.arange(10.0)
    sent = {"x": Tensor("<f8", (10,), frame=0)}
    result = client.call("echo.tensor", sent, frames=[small.tobytes()])
    assert (client.array(result, result.value) == small).all()


def test_idle_kernel_is_small(kernel: Kernel) -> None:
    kernel.client().call("echo.say", {"text": "x"})
    assert memory_kib(kernel.pid) < 45 * 1024
