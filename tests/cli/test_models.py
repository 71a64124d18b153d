"""`claw models`, `pull`, `show`, `rm`: the store from the command line, without a kernel."""

import hashlib
import json
import signal
import threading

import pytest

import onnx_files
from clawai.sdk.catalogue import user_file
from gguf_files import tiny_llama
from web_files import serve

DATA = tiny_llama()
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def mine(box):
    path = box.home / "mine.gguf"
    path.write_bytes(DATA)
    return path


def test_a_file_is_pulled_listed_shown_and_deleted(box, mine):
    done = box.run("pull", str(mine), "--name", "mine")
    assert "mine is stored" in done.stdout
    assert "claw run mine" in done.stdout
    rows = {each["name"]: each for each in box.json("models")}
    assert rows["mine"]["state"] == "stored"
    assert rows["mine"]["sha256"] == SHA
    assert rows["smollm2"]["state"] == "can be pulled"
    assert [each["name"] for each in box.json("models", "--stored")] == ["mine"]
    shown = box.json("show", "mine", "--verify")
    assert shown["verified"] is True
    assert shown["gguf"]["architecture"] == "llama"
    assert "llama" in box.run("show", "mine").stdout
    assert box.json("rm", "mine")["freed_bytes"]["mine"] >= len(DATA)
    assert "unknown_model" in box.run("show", "mine", code=1).stderr


def test_an_onnx_file_is_told_by_its_content(box):
    path = onnx_files.written(box.home / "half", onnx_files.half_plus(2.0))
    assert "claw call tensor.describe" in box.run("pull", str(path), "--name", "half").stdout
    shown = box.json("show", "half")
    assert (shown["capability"], shown["format"], shown["onnx"]["opset"]) == ("tensor", "onnx", 17)
    refused = box.run("pull", str(path), "--name", "no", "--capability", "llm", code=1).stderr
    assert "this is not a GGUF file" in refused
    path.write_bytes(onnx_files.elsewhere())
    assert (
        "keeps weights in another file" in box.run("pull", str(path), "--name", "x", code=1).stderr
    )


def test_show_knows_the_catalogue_too(box):
    assert box.json("show", "smollm2")["state"] == "can be pulled"


def test_a_file_needs_a_name(box, mine):
    assert "--name" in box.run("pull", str(mine), code=2).stderr
    assert "--name" in box.run("pull", "smollm2", "--name", "x", code=2).stderr


def test_the_hash_of_a_file_is_checked(box, mine):
    done = box.run("pull", str(mine), "--name", "mine", "--sha256", "0" * 64, code=1)
    assert SHA in done.stderr and "0" * 64 in done.stderr
    assert "bad_download" in done.stderr
    assert (
        "bad_params"
        in box.run("pull", str(mine), "--name", "mine", "--sha256", "nonsense", code=1).stderr
    )
    assert "bad_params" in box.run("pull", str(mine), "--name", "../mine", code=1).stderr


def test_an_unknown_model_gets_the_nearest(box):
    for words in (["pull", "smolm2"], ["show", "smolm2"], ["rm", "smolm2"], ["run", "smolm2", "x"]):
        done = box.run(*words, code=1)
        assert "unknown_model" in done.stderr
        assert "smollm2" in done.stderr


def test_run_offers_the_pull_of_a_model_that_is_not_stored(box):
    done = box.run("run", "smollm2", "hello", code=1)
    assert "claw pull smollm2" in done.stderr


def test_a_pull_from_the_owners_catalogue_resumes_after_ctrl_c(box, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", box.env["XDG_CONFIG_HOME"])
    data = DATA + bytes(3_000_000)
    with serve(data) as web:
        user_file().parent.mkdir(parents=True)
        user_file().write_text(
            f'[model.far]\nsource = "{web.url}"\nsha256 = "{hashlib.sha256(data).hexdigest()}"\n'
            f'bytes = {len(data)}\nlicence = "MIT"\ncapability = "llm"\n'
        )
        part = box.home / "data" / "clawai" / "models" / ".staging" / "far" / "000.part"
        child = None
        go_on = threading.Event()

        def interrupt() -> None:
            while not (part.exists() and part.stat().st_size):
                go_on.wait(0.01)
            child.send_signal(signal.SIGINT)
            go_on.wait(30)

        web.during = interrupt
        child = box.start("pull", "far")
        _, errors = child.communicate()
        go_on.set()
        assert child.returncode == 130
        assert "Traceback" not in errors
        web.during = None
        assert "far is stored" in box.run("pull", "far").stdout
        assert web.asked[-1]["Range"].startswith("bytes=")


def test_the_progress_of_a_pull_is_told_to_programs_line_by_line(box, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", box.env["XDG_CONFIG_HOME"])
    user_file().parent.mkdir(parents=True)
    with serve(DATA) as web:
        user_file().write_text(
            f'[model.far]\nsource = "{web.url}"\nsha256 = "{SHA}"\nbytes = {len(DATA)}\n'
            'licence = "MIT"\ncapability = "llm"\n'
        )
        lines, _, last = box.run("pull", "far", "--json", "--progress").stdout.partition("{\n")
    assert json.loads("{" + last)["sha256"] == SHA
    *fetching, verifying = [json.loads(line) for line in lines.splitlines()]
    assert fetching[-1] == {"step": "fetching", "done": len(DATA), "total": len(DATA)}
    assert verifying == {"step": "verifying the sha256"}
    assert "step" not in box.run("pull", "far", "--progress").stdout, "they are for programs"


def test_a_hash_that_was_only_computed_is_not_called_checked(box, mine):
    assert "sha256 computed" in box.run("pull", str(mine), "--name", "a").stdout
    assert "sha256 checked" in box.run("pull", str(mine), "--name", "b", "--sha256", SHA).stdout


def test_a_missing_file_and_an_unknown_capability_are_named(box, mine):
    done = box.run("pull", str(box.home / "no.gguf"), "--name", "a", code=1)
    assert "no such file" in done.stderr
    error = box.json("pull", str(mine), "--name", "a", "--capability", "flying", code=1)["error"]
    assert (error["got"], error["allowed"]) == ("flying", ["llm", "tensor"])


def test_another_file_does_not_get_the_text_of_the_catalogue(box, mine):
    box.run("pull", str(mine), "--name", "smollm2")
    rows = {each["name"]: each for each in box.json("models")}
    assert rows["smollm2"]["state"] == "stored"
    assert rows["smollm2"]["description"] == ""


def test_rm_of_several_deletes_none_if_one_is_unknown(box, mine):
    for name in ("a", "b"):
        box.run("pull", str(mine), "--name", name)
    assert "unknown_model" in box.run("rm", "a", "nothing", "b", code=1).stderr
    assert len(box.json("models", "--stored")) == 2
    assert set(box.json("rm", "a", "b", "a")["freed_bytes"]) == {"a", "b"}
