"""What the kernel asks of a running worker, with a real one: batches, giving way, suspension."""

import pytest

from clawai.sdk.errors import ClawError
from support import Kernel

BATCHED = """
    import time
    from clawai.sdk import Batch, ClawError, Params, batched

    class Item(Params):
        x: int
        wait: bool = False

    @batched("bat.square")
    def square(items: list[Item], batch: Batch) -> list:
        while items[0].wait:
            batch.checkpoint()
            time.sleep(0.001)
        return [
            [item.x**2, len(items)] if item.x else ClawError("bad_params", "zero") for item in items
        ]
"""
GIVES_WAY = """
    import time
    from clawai.sdk import Context, operation

    runs = []

    @operation("way.long")
    def long(ctx: Context) -> int:
        runs.append(ctx.task)
        while len(runs) < 2:
            ctx.progress(None, "runs")
            ctx.checkpoint()
            time.sleep(0.001)
        return len(runs)

    @operation("way.quick")
    def quick() -> str:
        return "quick"
"""


def test_tasks_that_wait_together_run_together(kernel: Kernel) -> None:
    kernel.plugin("bat", BATCHED, {"bat.square": "idempotent = true\nbatch = 8"})
    with kernel.client() as client:
        first = client.submit("bat.square", {"x": 1, "wait": True})
        assert next(event for event in first if event.state == "running")
        rest = [client.submit("bat.square", {"x": x}) for x in range(8)]
        for task in rest:
            assert next(iter(task)).kind == "accepted"
        first.cancel()
        with pytest.raises(ClawError) as caught:
            rest[0].result()
        assert caught.value.code == "bad_params", "it fails alone"
        values = [task.result().value for task in rest[1:]]
    assert [value[0] for value in values] == [x**2 for x in range(1, 8)]
    assert max(value[1] for value in values) > 1, "some of them shared a call"


def test_what_can_begin_anew_gives_way_to_what_is_more_urgent(kernel: Kernel) -> None:
    operations = {"way.long": "idempotent = true", "way.quick": "idempotent = true"}
    kernel.plugin("way", GIVES_WAY, operations)
    with kernel.client() as client:
        long = client.submit("way.long", priority="normal")
        assert next(event for event in long if event.note == "runs")
        assert client.call("way.quick", priority="critical").value == "quick"
        assert long.result().value == 2
