"""The fake kernel refuses what the real one refuses, and cancels as it does."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from clawai.sdk import wire
from clawai.sdk.errors import ClawError
from clawai.sdk.plugin import Yielded
from clawai.sdk.sandboxed import SandboxKernel
from clawai.sdk.testing import FakeClock, FakeKernel
from support import no_leak

STREAM = """
from clawai.sdk.plugin import Context, Tensor, operation

@operation("demo.count")
def count(ctx: Context, upto: int):
    for number in range(upto):
        ctx.checkpoint()
        ctx.progress(number / upto)
        yield {"number": number}
    return upto

@operation("demo.double")
def double(ctx: Context, x: Tensor) -> Tensor:
    return ctx.reply(ctx.array(x) * 2)
"""
MANIFEST = """
[plugin]
name = "demo"
version = "1"
module = "{module}"
[[operation]]
name = "demo.count"
stream = true
[[operation]]
name = "{second}"
"""


def plugin(folder: Path, module: str, second: str = "demo.double") -> Path:
    (folder / f"{module}.py").write_text(STREAM)
    (folder / "plugin.toml").write_text(MANIFEST.format(module=module, second=second))
    return folder


def test_streams_progress_and_result(tmp_path: Path) -> None:
    task = FakeKernel(plugin(tmp_path, "demo_streams")).submit("demo.count", {"upto": 3})
    assert task.chunks == [{"number": 0}, {"number": 1}, {"number": 2}]
    assert next(event.fraction for event in task.events if event.kind == "progress") == 0.0
    assert task.result().value == 3


@pytest.mark.parametrize("after", [0, 2])
def test_cancel_stops_at_the_next_checkpoint(tmp_path: Path, after: int) -> None:
    kernel = FakeKernel(plugin(tmp_path, f"demo_cancel{after}"))
    task = kernel.submit("demo.count", {"upto": 9}, stop_after=after)
    assert len(task.chunks) == after
    with pytest.raises(ClawError) as caught:
        task.result()
    assert caught.value.code == "cancelled"


def test_arrays_travel_as_frames(tmp_path: Path) -> None:
    import numpy

    kernel = FakeKernel(plugin(tmp_path, "demo_arrays"))
    array = numpy.arange(6, dtype="<f4").reshape(2, 3)
    named = {"dtype": "<f4", "shape": [2, 3], "frame": 0}
    result = kernel.call("demo.double", {"x": named}, frames=[array.tobytes()])
    got = numpy.frombuffer(result.frames[0], result.value["dtype"]).reshape(result.value["shape"])
    assert (got == array * 2).all()


@pytest.mark.parametrize(
    "named",
    [
        {"dtype": "<f4", "shape": [3, 3], "frame": 0},
        {"dtype": "object", "shape": [1], "frame": 0},
        {"dtype": "<f4", "shape": [-1], "frame": 0},
        {"dtype": "nonsense", "shape": [1], "frame": 0},
        {"dtype": "<f4", "shape": [1], "frame": 1},
        {"dtype": "<f4", "shape": [1], "lease": 0},
        {"dtype": "<f4", "shape": [1 << 40, 1 << 40], "frame": 0},
    ],
)
def test_a_tensor_that_does_not_fit_is_refused(tmp_path: Path, named: dict[str, object]) -> None:
    kernel = FakeKernel(plugin(tmp_path, f"demo_bad{abs(hash(str(named)))}"))
    with pytest.raises(ClawError) as caught:
        kernel.call("demo.double", {"x": named}, frames=[bytes(24)])
    assert caught.value.code == "bad_params"


BATCH = """
from clawai.sdk import Batch, ClawError, Context, Params, batched, operation

class Item(Params):
    x: int

@batched("demo.half")
def half(items: list[Item], batch: Batch) -> list:
    batch.checkpoint()
    if any(item.x == 0 for item in items):
        raise ClawError("bad_params", "all of them")
    return [item.x // 2 if item.x % 2 == 0 else ClawError("bad_params", "odd", item.x)
            for item in items]

@operation("demo.threads")
def threads(ctx: Context) -> int:
    ctx.checkpoint()
    return ctx.threads
"""
BATCH_MANIFEST = """
[plugin]
name = "demo"
version = "1"
module = "{module}"
[[operation]]
name = "demo.half"
idempotent = true
batch = 3
[[operation]]
name = "demo.threads"
{threads}
"""


def batch_plugin(folder: Path, module: str, threads: str = "") -> Path:
    (folder / f"{module}.py").write_text(BATCH)
    (folder / "plugin.toml").write_text(BATCH_MANIFEST.format(module=module, threads=threads))
    return folder


def test_batches_have_an_end_for_each_task(tmp_path: Path) -> None:
    kernel = FakeKernel(batch_plugin(tmp_path, "demo_batch"))
    good, odd, bad = kernel.batch("demo.half", [{"x": 4}, {"x": 3}, {"y": 1}])
    assert good.result().value == 2
    for task in (odd, bad):
        with pytest.raises(ClawError) as caught:
            task.result()
        assert caught.value.code == "bad_params"
    assert kernel.call("demo.half", {"x": 8}).value == 4
    for task in kernel.batch("demo.half", [{"x": 0}, {"x": 2}]):
        assert isinstance(task.end, ClawError)
        assert task.end.message == "all of them"
    for tasks in ([], [{"x": 2}] * 4):
        with pytest.raises(ClawError) as caught:
            kernel.batch("demo.half", tasks)
        assert caught.value.allowed == "1 to 3"


def test_the_control_word_asks_as_the_kernel_does(tmp_path: Path) -> None:
    kernel = FakeKernel(batch_plugin(tmp_path, "demo_word"))
    for task in kernel.batch("demo.half", [{"x": 2}, {"x": 4}], word=wire.YIELD):
        with pytest.raises(Yielded):
            task.result()
    stopped = kernel.submit("demo.half", {"x": 2}, word=wire.STOP)
    assert isinstance(stopped.end, ClawError)
    assert stopped.end.code == "cancelled"
    assert kernel.call("demo.threads", threads=3).value == 3
    assert kernel.call("demo.threads", word=wire.YIELD).value == 1, "not idempotent: it goes on"
    with pytest.raises(ValueError, match="take this control word back"):
        kernel.submit("demo.threads", word=wire.HOLD)


def test_a_batch_in_the_manifest_needs_a_batch_function(tmp_path: Path) -> None:
    with pytest.raises(ClawError, match="take one task at a time"):
        FakeKernel(batch_plugin(tmp_path, "demo_alone", threads="batch = 2"))


def test_a_manifest_that_differs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClawError, match=r"differ from those of plugin\.toml"):
        FakeKernel(plugin(tmp_path, "demo_differs", second="demo.other"))


def test_the_clock_moves_only_when_told() -> None:
    clock = FakeClock()
    assert clock.advance(1.5) == 1_500_000_000
    assert clock.monotonic() == 1.5
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)


# Time, cancels, hooks.

TIMED = """
from clawai.sdk import Context, operation
from clawai.sdk.hookspecs import hookimpl

said = []

@hookimpl
def claw_start(worker):
    worker.reserve(1 << 20)
    said.append("start")

@hookimpl
def claw_stop():
    said.append("stop")

@operation("timed.work")
def work(ctx: Context, steps: int) -> list:
    left = []
    for step in range(steps):
        ctx.checkpoint()
        ctx.progress(step / steps)
        left.append(ctx.remaining())
    return left

@operation("timed.said")
def say() -> list:
    return said
"""
TIMED_MANIFEST = """
[plugin]
name = "timed"
version = "1"
module = "{module}"
[[operation]]
name = "timed.work"
idempotent = true
[[operation]]
name = "timed.said"
"""


def timed(folder: Path, module: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{module}.py").write_text(TIMED)
    (folder / "plugin.toml").write_text(TIMED_MANIFEST.format(module=module))
    return folder


def test_deadlines_go_by_the_clock_of_the_test(tmp_path: Path) -> None:
    kernel = FakeKernel(timed(tmp_path, "demo_timed"), FakeClock(step=0.5))
    deadline = kernel.clock.monotonic() + 2
    assert kernel.call("timed.work", {"steps": 3}, deadline=deadline).value == [1.5, 1.0, 0.5]
    assert kernel.clock.monotonic() == 1.5
    late = kernel.submit("timed.work", {"steps": 9}, deadline=deadline)
    assert isinstance(late.end, ClawError)
    assert late.end.code == "deadline_passed"
    assert late.progressed == [], "it stops at the first checkpoint after the deadline"
    assert kernel.call("timed.work", {"steps": 1}).value == [None]


def test_a_cancel_comes_at_the_checkpoint_that_is_named(tmp_path: Path) -> None:
    kernel = FakeKernel(timed(tmp_path, "demo_at"))
    task = kernel.submit("timed.work", {"steps": 9}, cancel_at=3)
    assert isinstance(task.end, ClawError)
    assert task.end.code == "cancelled"
    assert task.progressed == [0, 1 / 9]
    assert len(kernel.call("timed.work", {"steps": 2}, cancel_at=3).value) == 2


def test_the_hooks_are_called_as_in_a_worker(tmp_path: Path) -> None:
    with FakeKernel(timed(tmp_path, "demo_hooks")) as kernel:
        said = kernel.operations["timed.said"].function.__globals__["said"]
        assert kernel.call("timed.said").value == ["start"]
    assert said == ["start", "stop"]


def test_two_plugins_may_have_modules_of_one_name(tmp_path: Path) -> None:
    first = FakeKernel(timed(tmp_path / "one", "demo_twin"))
    second = FakeKernel(timed(tmp_path / "two", "demo_twin"))
    places = [k.operations["timed.said"].function.__globals__["__file__"] for k in (first, second)]
    assert [Path(place).parent.name for place in places] == ["one", "two"]


ASKING = """
from clawai.sdk import ClawError, Context, operation

@operation("asking.work")
def work(ctx: Context, text: str) -> dict:
    ctx.log("info", f"asked for {text}")
    pieces = [event.data for event in ctx.submit("other.stream", {"text": text})]
    try:
        ctx.call("other.fails")
    except ClawError as error:
        pieces.append(error.code)
    (ctx.data / "note").write_text(ctx.secret("key"))
    return {"pieces": pieces, "limit": ctx.config["limit"], "all": ctx.call("more.all")}
"""
ASKING_MANIFEST = """
[plugin]
name = "asking"
version = "1"
module = "demo_asking"
[[operation]]
name = "asking.work"
[permissions.operations]
"other.*" = "it asks others"
"more.all" = "it asks for more"
[config.limit]
type = "integer"
default = 7
"""


def test_what_a_plugin_asks_of_others_the_test_answers(tmp_path: Path) -> None:
    (tmp_path / "demo_asking.py").write_text(ASKING)
    (tmp_path / "plugin.toml").write_text(ASKING_MANIFEST)

    def stream(text: str) -> Iterator[str]:
        yield from text

    def fails() -> None:
        raise ClawError("overloaded", "not now")

    with FakeKernel(tmp_path) as kernel:
        kernel.children = {"other.stream": stream, "other.fails": fails, "more.all": lambda: 3}
        kernel.secrets["key"] = "secret"
        task = kernel.submit("asking.work", {"text": "ab"})
        assert task.result().value == {"pieces": ["a", "b", "overloaded"], "limit": 7, "all": 3}
        assert task.logs == [("info", "asked for ab")]
        data = kernel.data
        assert (data / "note").read_text() == "secret"
        stopped = kernel.submit("asking.work", {"text": "ab"}, cancel_at=1)
        assert isinstance(stopped.end, ClawError)
        assert stopped.end.code == "cancelled", "asking another is a checkpoint"
        del kernel.children["more.all"]
        with pytest.raises(ClawError, match="no test answers this"):
            kernel.call("asking.work", {"text": "x"})
        with pytest.raises(ClawError, match=r"\[permissions.operations\]"):
            kernel.child("llm.generate", {})
        kernel.reset()
        assert (kernel.children, kernel.secrets) == ({}, {})
    assert not data.exists()


def test_an_operation_can_be_asked_what_it_is(tmp_path: Path) -> None:
    found = FakeKernel(timed(tmp_path, "demo_asked")).describe("timed.work")
    assert (found.name, found.required) == ("timed.work", ["steps"])


def test_the_real_sandbox_has_the_same_interface(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)  # the worker of a root daemon is another user
    (tmp_path / "demo_real.py").write_text(STREAM)
    (tmp_path / "plugin.toml").write_text(MANIFEST.format(module="demo_real", second="demo.double"))
    with SandboxKernel(tmp_path) as kernel:
        task = kernel.submit("demo.count", {"upto": 3})
        assert (task.chunks, task.result().value) == ([{"number": n} for n in range(3)], 3)
        assert 0.0 in task.progressed
        for options in ({"stop_after": 1}, {"cancel_at": 1}, {"stop_after": 0}):
            ended = kernel.submit("demo.count", {"upto": 1 << 30}, **options)
            assert isinstance(ended.end, ClawError)
            assert ended.end.code == "cancelled"
        late = kernel.submit(
            "demo.count", {"upto": 1 << 30}, deadline=kernel.clock.monotonic() + 0.2
        )
        assert isinstance(late.end, ClawError)
        assert late.end.code == "deadline_passed"
        one, two = kernel.batch("demo.count", [{"upto": 1}, {"upto": 2}])
        assert (one.result().value, two.result().value) == (1, 2)
        assert kernel.describe("demo.count").required == ["upto"]
        with pytest.raises(ClawError, match="claw_fake"):
            kernel.submit("demo.count", {"upto": 1}, threads=2)


def test_a_plugin_that_cannot_be_taken_leaves_no_kernel(tmp_path: Path) -> None:
    (tmp_path / "plugin.toml").write_text(MANIFEST.format(module="m", second="demo.double"))
    tmp_path.chmod(0o755)
    text = (tmp_path / "plugin.toml").read_text().replace('"demo"', '"echo"')
    (tmp_path / "plugin.toml").write_text(text)
    with no_leak(), pytest.raises(ClawError, match="taken by"):
        SandboxKernel(tmp_path)
