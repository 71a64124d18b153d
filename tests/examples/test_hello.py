"""examples/hello: under ten lines, installed by copying its folder, called through the kernel."""

import shutil
from pathlib import Path

import pytest

from clawai.sdk.errors import ClawError
from clawai.sdk.testing import FakeKernel
from support import Kernel

HELLO = Path(__file__).parents[2] / "examples" / "hello"


def test_it_is_under_ten_lines() -> None:
    assert len((HELLO / "hello.py").read_text().splitlines()) < 10


def test_it_is_found_while_the_kernel_runs_and_called(kernel: Kernel) -> None:
    with kernel.client() as client:
        with pytest.raises(ClawError) as caught:
            client.call("hello.greet")
        assert caught.value.code == "unknown_operation"
        shutil.copytree(HELLO, kernel.plugins_dir / "hello")
        assert client.call("hello.greet", {"name": "Ada"}).value == "Hello, Ada!"
        listed = {plugin["name"]: plugin for plugin in client.query("plugins")["plugins"]}
    assert listed["hello"]["workers"] == 1


def test_it_runs_in_the_fake_kernel() -> None:
    kernel = FakeKernel(HELLO)
    assert kernel.call("hello.greet").value == "Hello, world!"
    with pytest.raises(ClawError, match="unknown field `nam`"):
        kernel.call("hello.greet", {"nam": "Ada"})
