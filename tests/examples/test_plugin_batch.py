"""examples/plugin_batch: the same answers alone, in a batch, and through the kernel."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clawai.sdk.errors import ClawError
from clawai.sdk.testing import FakeKernel
from support import Kernel

EXAMPLE = Path(__file__).parents[2] / "examples" / "plugin_batch"
VECTORS = np.random.default_rng(1).standard_normal((6, 32)).astype("<f4")


def params(count: int = 1, size: int = 32) -> dict[str, Any]:
    return {"vector": {"dtype": "<f4", "shape": [size], "frame": 0}, "count": count}


def test_a_batch_gives_what_each_alone_would() -> None:
    kernel = FakeKernel(EXAMPLE)
    frames = [[vector.tobytes()] for vector in VECTORS]
    tasks = kernel.batch("nearest.find", [params(3)] * 6, frames=frames)
    alone = [kernel.call("nearest.find", params(3), frames=each).value for each in frames]
    assert [task.result().value for task in tasks] == alone
    points = FakeKernel(EXAMPLE).operations["nearest.find"].function.__globals__["POINTS"]
    for place, nearest in enumerate(alone):
        distances = ((points - VECTORS[place]) ** 2).sum(1)
        assert sorted(distances[nearest]) == pytest.approx(sorted(distances)[:3], rel=1e-4)


def test_a_wrong_task_fails_alone() -> None:
    frame = VECTORS[0].tobytes()
    good, short, many = FakeKernel(EXAMPLE).batch(
        "nearest.find", [params(), params(size=31), params(0)], frames=[[frame]] * 3
    )
    assert len(good.result().value) == 1
    for task in (short, many):
        assert isinstance(task.end, ClawError)
        assert task.end.code == "bad_params"


def test_it_answers_through_the_kernel(kernel: Kernel) -> None:
    shutil.copytree(EXAMPLE, kernel.plugins_dir / "nearest")
    fake = FakeKernel(EXAMPLE)
    with kernel.client() as client:
        tasks = [
            client.submit("nearest.find", params(2), frames=[vector.tobytes()])
            for vector in VECTORS
        ]
        for vector, task in zip(VECTORS, tasks, strict=True):
            expected = fake.call("nearest.find", params(2), frames=[vector.tobytes()])
            assert task.result().value == expected.value
