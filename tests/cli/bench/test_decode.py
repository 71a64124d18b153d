"""`claw bench decode` on a tiny model: the form, the sides, and what each refuses."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from clawai.sdk.cli.bench import decode, report, start
from clawai.sdk.cli.bench.neighbours import Neighbours, ticks_of
from gguf_files import tiny_llama

KEYS = {
    "prefill_128_tok_s", "prefill_512_tok_s", "decode_64_tok_s", "decode_64_at_1024_tok_s",
    "first_token_ms", "decode_64_cpu_ms", "resident_bytes",
}  # fmt: skip
SHARED = KEYS - {"decode_64_cpu_ms", "resident_bytes"}
CASES = ("decode_64", "decode_64_at_1024")


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.gguf"
    path.write_bytes(tiny_llama(context=2048))
    return path


def claw(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clawai.sdk.cli.main", "bench", "decode", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_form_of_a_report_and_its_table_for_people(tiny, capsys):
    words = ("--threads", "1", "--rounds", "2", "--kv", "q8", "--daemon", "--json")
    done = claw("--model", str(tiny), *words)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == {
        "bench", "version", "box", "settings", "figures", "against", "ceilings", "shares",
    }  # fmt: skip
    assert found["bench"] == "decode"
    assert (found["settings"]["threads"], found["settings"]["kv"]) == (1, "q8")
    through = {f"daemon_{case}_{what}" for case in CASES for what in ("tok_s", "ratio")}
    through |= {f"daemon_engine_{case}_tok_s" for case in CASES}
    assert set(found["figures"]) == KEYS | through
    assert all(value > 0 for value in found["figures"].values())
    assert set(found["ceilings"]) == {"read_gb_s", "int8_gop_s", "fma_gflop_s"}
    told = {key for key in through if key.endswith("_tok_s")}
    assert set(found["shares"]) == SHARED | told
    assert all(value > 0 for value in found["shares"].values()), "how much, a timing decides"
    assert found["against"] == {}
    assert 0 <= found["settings"]["others_busy_ratio"] <= 1
    assert {"processor", "cores", "isa", "memory_bytes"} <= set(found["box"])
    report.show(found)
    text = capsys.readouterr().out
    for key in KEYS | through:
        assert key in text
    assert "the box at most: read_gb_s" in text
    assert "OF THE BOX" in text


def test_a_model_that_is_not_there(tmp_path):
    done = claw("--model", str(tmp_path / "no.gguf"))
    assert done.returncode == 1
    assert "unknown_model" in done.stderr


def test_a_bad_model_is_told_by_its_code(tmp_path):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(100))
    done = claw("--model", str(tmp_path / "bad.gguf"))
    assert done.returncode == 1
    assert "bad_model" in done.stderr


@pytest.mark.parametrize(
    ("package", "module", "extra"),
    [
        ("xllamacpp", "llamacpp", "bench"),
        ("torch", "torch_eager", "torch"),
        ("safetensors", "torch_load", "torch"),
    ],
)
def test_a_peer_that_is_not_installed_names_the_extra(package, module, extra):
    program = (
        f"import sys; sys.modules['{package}'] = None; sys.argv = 'x m 1 1 1 load f'.split()\n"
        f"from clawai.sdk.cli.bench import {module}; {module}.main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    told = json.loads(done.stdout)["error"]
    assert told["code"] == "unsupported_system"
    assert f"clawai[{extra}]" in told["hint"]


def test_a_side_that_dies_is_told(tiny):
    side = decode.Side("clawai.plugins.engine.bench", tiny, 1)
    try:
        side._process.kill()
        side._process.wait()
        with pytest.raises(decode.ClawError) as caught:
            side.ask(prefill=[1])
        assert caught.value.code == "worker_failed"
    finally:
        side.close()


@pytest.mark.model
@pytest.mark.oracle
@pytest.mark.timeout(400)  # its own threads spin: minutes on a busy box
def test_llama_cpp_is_measured_in_the_same_run(smollm2_path):
    pytest.importorskip("xllamacpp", reason="the bench extra is not installed")
    words = ["--model", str(smollm2_path), "--threads", "2", "--rounds", "1", "--json"]
    done = claw(*words, "--against", "llama.cpp")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["against"]) == {"llama.cpp"}
    assert set(found["against"]["llama.cpp"]) == KEYS
    assert "xllamacpp" in found["settings"]["llama.cpp"]


@pytest.mark.oracle
def test_pytorch_runs_the_same_model(tiny):
    """Its logits put our answers at the top, after a prompt and in the cache behind it."""
    pytest.importorskip("torch", reason="the torch extra is not installed")
    done = claw("--model", str(tiny), "--rounds", "1", "--against", "torch", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["against"]["torch"]) == KEYS
    assert found["figures"]["torch_logits_below"] < 0.1
    assert found["figures"]["cpu_over_torch_ratio"] > 0
    assert found["figures"]["decode_64_over_torch_ratio"] > 0


@pytest.mark.oracle
def test_pytorch_loads_the_same_weights(tiny, tmp_path, monkeypatch):
    """From a file that has no name, so that nothing can be left of it."""
    pytest.importorskip("torch", reason="the torch extra is not installed")
    pytest.importorskip("safetensors", reason="the torch extra is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    prompt = decode.prompt_ids(start.TOKENS, 260)
    weights = start.Weights(tiny, 1, prompt, start.CONTEXT)
    try:
        found = start.theirs("torch", tiny, prompt, 1, 1, weights)
        weights.first = 17  # another model's
        with pytest.raises(decode.ClawError, match="does not go on"):
            start.theirs("torch", tiny, prompt, 1, 1, weights)
    finally:
        weights.close()
    assert set(found) == {"warm_ms", "cold_ms"}
    assert all(value > 0 for value in found.values())
    assert not list((tmp_path / "cache" / "clawai" / "bench").iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ("--layers", "2"),
        ("--forget",),
        ("--shape", "7b", "--daemon"),
        ("--shape", "7b", "--against", "torch"),
        ("--shape", "1b"),
        ("--shape", "7b", "--layers", "33"),
    ],
)
def test_options_that_do_not_go_together_are_refused(words):
    done = CliRunner().invoke(decode.command, words)
    assert done.exit_code == 2
    assert "shape" in done.output or "layers" in done.output


def test_work_of_others_is_counted_and_ours_is_not():
    """One that spins is a neighbour until it is named as one of the measured."""
    spinner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        alone, named = Neighbours([]), Neighbours([spinner.pid])
        while alone.share() <= 0:
            pass
        spinning = ticks_of(spinner.pid)
        while ticks_of(spinner.pid) < spinning + 20:
            pass
        assert alone.share() > named.share()
    finally:
        spinner.kill()
        spinner.wait()


def test_prompt_ids_stay_in_the_vocabulary():
    for vocabulary in (64, 260, 49152):
        ids = decode.prompt_ids(512, vocabulary)
        assert len(ids) == 512
        assert all(0 <= each < vocabulary for each in ids)


@pytest.mark.parametrize(
    ("key", "ours", "theirs", "text"),
    [
        ("decode_64_tok_s", 200, 100, "2.00x faster"),
        ("decode_64_tok_s", 50, 100, "0.50x"),
        ("first_token_ms", 50, 100, "2.00x faster"),
        ("resident_bytes", 200, 100, "0.50x"),
        ("first_token_ms", 50, None, ""),
    ],
)
def test_how_figures_compare(key, ours, theirs, text):
    assert report.compared(key, ours, theirs) == text
