"""The profile of the ops on its way: measured for the first model, kept, told to workers."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from clawai.sdk import tuning
from clawai.sdk.errors import ClawError
from gguf_files import tiny_llama
from support import Kernel

PARAMS = {"prompt": "hello", "max_tokens": 8}


@pytest.fixture
def fresh(tmp_path: Path, start_kernel: Callable[..., Kernel]) -> Callable[..., Kernel]:
    """Starts kernels of a box that was never measured, with a tiny model."""
    (tmp_path / "tiny.gguf").write_bytes(tiny_llama(context=512))

    def start(**env: str) -> Kernel:
        kernel = start_kernel(env={"XDG_CACHE_HOME": str(tmp_path / "cache"), **env}, start=False)
        kernel.model("tiny", tmp_path / "tiny.gguf")
        return kernel.start()

    return start


def answer(kernel: Kernel) -> str:
    text: str = kernel.client().call("llm.generate", PARAMS, model="tiny").value["text"]
    return text


def test_the_first_model_has_the_box_measured_and_later_ones_do_not(
    fresh: Callable[..., Kernel], tmp_path: Path
) -> None:
    kernel = fresh()
    kernel.client().call("echo.say", {"text": "x"})
    assert "ops measured" not in kernel.log(), "an echo has no use for it"
    first = answer(kernel)
    assert kernel.log().count("ops measured in") == 1
    cache = tmp_path / "cache" / "clawai" / "ops.json"
    kept = json.loads(cache.read_text())
    assert kept["of"] == tuning.box() and kept["profile"]["timed"]
    other = fresh()
    assert answer(other) == first
    assert "ops measured" not in other.log()


def test_what_the_owner_wants_reaches_the_worker(
    fresh: Callable[..., Kernel], tmp_path: Path
) -> None:
    cache = tmp_path / "cache" / "clawai" / "ops.json"
    cache.parent.mkdir(parents=True)
    cache.write_text('{"of": 7}')  # damaged: measured anew
    kernel = fresh(CLAW_OPS_PROFILE="gemv_int=mmx")
    with pytest.raises(ClawError) as caught:
        answer(kernel)
    assert caught.value.code == "bad_config"
    assert "gemv_int=mmx" in caught.value.message and "scalar" in caught.value.allowed
    assert "ops measured in" in kernel.log()


def test_what_cannot_be_read_is_told_by_the_worker_and_ends_nothing(
    fresh: Callable[..., Kernel],
) -> None:
    kernel = fresh(CLAW_ISA="AVX2")
    with pytest.raises(ClawError) as caught:
        answer(kernel)
    assert caught.value.code == "bad_config" and caught.value.got == "isa=AVX2"
    assert kernel.client().call("echo.say", {"text": "x"}).value == "x"
