"""`claw bench gateway`: its arithmetic, and one short run of it."""

import json
import subprocess
import sys
from pathlib import Path

from clawai.sdk.cli.bench import gateway
from gguf_files import tiny_llama


def test_what_is_added_is_the_difference_of_the_percentiles() -> None:
    times = {("wire", False): [1.0, 2.0, 9.0], ("http", False): [2.0, 3.5, 4.0]}
    times |= {("wire", True): [1.0], ("http", True): [1.25]}
    times |= {("library", False): [2.5, 4.0, 4.5], ("library", True): [1.5]}
    found = gateway.figures(times)
    library = found["library_p50_added_ms"], found["library_first_added_ms"]
    assert library == (2.0, 0.5)
    assert (found["p50_added_ms"], found["first_added_ms"]) == (1.5, 0.25)
    assert found["p99_added_ms"] < 0, "what the wire was slower at"


def test_a_short_run_has_every_figure(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(tiny_llama(context=512))
    words = ["bench", "gateway", "--model", str(tmp_path / "tiny.gguf"), "--samples", "10"]
    command = [
        sys.executable,
        "-m",
        "clawai.sdk.cli.main",
        *words,
        "--streams",
        "70",
        "--seconds",
        "0.2",
        "--json",
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)["figures"]
    assert found["idle_streams"] == 70, "more than a plugin that is no front may have"
    assert found["busy_rps"] > 0 and found["busy_p50_ms"] <= found["busy_p99_ms"]
    assert {bar.key for bar in gateway.BARS} <= set(found)
