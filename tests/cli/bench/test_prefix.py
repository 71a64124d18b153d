"""`claw bench prefix`, `speculate` and `roofline`: forms, and promises beside times."""

import json
import subprocess
import sys
from pathlib import Path

from gguf_files import tiny_llama


def claw(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clawai.sdk.cli.main", "bench", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_beginning_is_kept_and_changes_no_answer(tmp_path: Path) -> None:
    model = tmp_path / "tiny.gguf"
    model.write_bytes(tiny_llama(context=2048))
    done = claw("prefix", "--model", str(model), "--rounds", "2", "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)["figures"]
    assert set(figures) == {"warm_ratio", "cold_ms", "warm_ms", "same_ratio"}
    assert figures["same_ratio"] == 1.0


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    done = claw("prefix", "--model", str(tmp_path / "no.gguf"))
    assert done.returncode == 1 and "unknown_model" in done.stderr


def test_drafts_change_no_answer(tmp_path: Path) -> None:
    model = tmp_path / "tiny.gguf"
    model.write_bytes(tiny_llama(context=1024))
    words = ("speculate", "--model", str(model), "--threads", "2", "--rounds", "1")
    done = claw(*words, "--tokens", "40", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    kinds = ("repeat", "code", "quote", "data", "story", "question")
    figures = found["figures"]
    assert {f"{kind}_{what}_ratio" for kind in kinds for what in ("accepted", "drafted")} | {
        f"{kind}_ratio" for kind in kinds
    } | {"same_ratio"} == set(figures)
    assert figures["same_ratio"] == 1.0
    model.write_bytes(tiny_llama(context=64))
    done = claw(*words)
    assert done.returncode == 1 and "prompt_too_long" in done.stderr


def test_the_ceilings_of_the_box() -> None:
    found = json.loads(claw("roofline", "--json").stdout)
    assert {"read_1t_gb_s", "fma_gflop_s", "int8_gop_s"} <= set(found["figures"])
    assert all(value > 0 for value in found["figures"].values())
    assert found["settings"]["isa"]
