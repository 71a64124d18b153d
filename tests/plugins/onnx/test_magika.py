"""A real model of the catalogue tells what kind of file some bytes are."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from support import Kernel

TYPES = {"python": 143, "elf": 46, "html": 71}
"""Places of some types among the model's 214, from its ``config.min.json``."""


def tokens(data: bytes) -> "np.ndarray":
    """The first and the last 1024 bytes, without blanks around them; 256 where there are none."""
    begin, end = data.lstrip()[:1024], data.rstrip()[-1024:]
    found = np.full((1, 2048), 256, "<i4")
    found[0, : len(begin)] = list(begin)
    found[0, 2048 - len(end) :] = list(end)
    return found


@pytest.mark.model
def test_it_knows_files(start_kernel: Callable[..., Kernel], magika_path: Path) -> None:
    kernel = start_kernel(start=False)
    kernel.model("magika", magika_path, "file type")
    client = kernel.start().client()
    told = client.call("tensor.describe", model="magika").value
    assert told["inputs"] == [{"name": "bytes", "dtype": "<i4", "shape": [-1, 2048]}]
    for kind, data in (
        ("python", Path(__file__).read_bytes()),
        ("elf", Path("/proc/self/exe").read_bytes()),
        ("html", b"<!doctype html><html><body><h1>Title</h1><p>text</p></body></html>\n" * 9),
    ):
        x = tokens(data)
        inputs = {"bytes": {"dtype": "<i4", "shape": x.shape, "frame": 0}}
        result = client.call(
            "tensor.infer", {"inputs": inputs}, model="magika", frames=[x.tobytes()]
        )
        scores = client.array(result, result.value["target_label"])
        assert scores.argmax() == TYPES[kind] and scores.max() > 0.9, kind
