"""`claw bench parallel` on a tiny model: the form, the bars, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clawai.sdk.cli.bench import llamacpp, parallel
from clawai.sdk.cli.bench.report import judged
from clawai.sdk.errors import ClawError
from gguf_files import tiny_llama


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(tiny_llama(context=1024))
    return path


def claw(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clawai.sdk.cli.main", "bench", "parallel", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_form_of_a_report(tiny: Path) -> None:
    done = claw("--model", str(tiny), "--sequences", "3", "--sequences", "8", "--threads", "2",
                "--rounds", "1", "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == {"bench", "version", "box", "settings", "figures", "against"}
    figures = found["figures"]
    assert set(figures) == {
        "single_tok_s", "total_3_tok_s", "total_3_over_single_ratio", "total_8_tok_s",
        "total_8_over_single_ratio",
    }  # fmt: skip
    assert all(value > 0 for value in figures.values())
    said = {bar.key: judged(bar, found) for bar in parallel.BARS}
    assert "at least 3" in said["total_8_over_single_ratio"]
    assert not said["total_8_tok_s"], "the peer was not measured"
    assert not said["total_24_tok_s"]


@pytest.mark.parametrize("count", ["1", "64", "many"])
def test_the_number_of_sequences_is_bounded(tiny: Path, count: str) -> None:
    done = claw("--model", str(tiny), "--sequences", count)
    assert done.returncode == 2
    assert "--sequences" in done.stderr


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    done = claw("--model", str(tmp_path / "no.gguf"))
    assert done.returncode == 1
    assert "unknown_model" in done.stderr


class FakeServer:
    """llama.cpp's answers to one request of several prompts."""

    def __init__(self, params: Any) -> None:
        self.params = params

    def handle_completions(self, request: dict[str, Any]) -> Any:
        return [
            {"timings": {"prompt_n": len(p), "predicted_n": 5, "predicted_ms": 10.0 * len(p)}}
            for p in request["prompt"]
        ]


def test_the_peer_is_timed_by_its_slowest_slot_and_checked() -> None:
    cpu = SimpleNamespace
    params = SimpleNamespace(model=cpu(), cpuparams=cpu(), cpuparams_batch=cpu())
    module = SimpleNamespace(CommonParams=lambda: params, Server=FakeServer)
    side = llamacpp.LlamaCpp(module, "m", 2, 256, 3)
    assert (params.n_parallel, params.n_ctx) == (3, 768)
    assert side.parallel([[1], [1, 2], [1, 2, 3]], 4) == pytest.approx(0.03)
    with pytest.raises(ClawError, match="other numbers of tokens"):
        side.parallel([[1]], 7)
