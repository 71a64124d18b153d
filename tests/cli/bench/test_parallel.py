"""`claw bench parallel` on a tiny model: the form, the bars, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from clawai.sdk.cli.bench import parallel
from clawai.sdk.cli.bench.decode import BATCHING
from clawai.sdk.cli.bench.report import judged
from clawai.sdk.cli.bench.side import Side
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
    assert set(found["shares"]) == {"single_tok_s", "total_3_tok_s", "total_8_tok_s"}
    assert set(found["ceilings"]) == {"read_gb_s", "int8_gop_s", "fma_gflop_s"}
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


def test_llama_cpp_decodes_as_many_sequences_in_the_same_run(smollm2_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="the bench extra is not installed")
    side = Side(BATCHING["llama.cpp"], smollm2_path, 2, 64, 3)
    try:
        prompts = [[1000 + number, 2000, 3000] for number in range(3)]
        assert side.ask(parallel=prompts, count=4) > 0
    finally:
        side.close()
