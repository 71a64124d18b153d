"""The fake kernel refuses what the real one refuses, and cancels as it does."""

from pathlib import Path

import pytest

from clawai.sdk.errors import ClawError
from clawai.sdk.testing import FakeClock, FakeKernel

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


def test_a_manifest_that_differs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClawError, match=r"differ from those of plugin\.toml"):
        FakeKernel(plugin(tmp_path, "demo_differs", second="demo.other"))


def test_the_clock_moves_only_when_told() -> None:
    clock = FakeClock()
    assert clock.advance(1.5) == 1_500_000_000
    assert clock.monotonic() == 1.5
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)
