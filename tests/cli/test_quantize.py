"""`claw quantize`: files and stored models, and nothing at all where it is interrupted."""

import itertools
import os
import signal

import gguf as official
import numpy as np
import pytest

from clawai.sdk.cli.quantize import default_name
from clawai.sdk.client import Client
from clawai.sdk.files import Unnamed
from clawai.sdk.model import gguf
from clawai.sdk.model.dtypes import DType
from gguf_files import File, T, tiny_llama
from support import wait_until


@pytest.fixture
def mine(box):
    """A tiny model, stored as ``mine``."""
    path = box.home / "mine.gguf"
    path.write_bytes(tiny_llama(context=4096))
    configured(box)
    box.run("pull", str(path), "--name", "mine")
    return path


def configured(box):
    """Nothing is measured when its kernel starts."""
    folder = box.home / "config" / "clawai"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text('[preemption]\nmeans = "none"\n')


def left(box):
    """What lies in the store and beside it, but for locks."""
    models = box.home / "data" / "clawai" / "models"
    found = {path.name for path in models.iterdir() if path.name != ".locks"} - {".staging"}
    return found | {path.name for path in (models / ".staging").glob("*")}


def test_a_model_is_quantized_stored_and_run(box, mine):
    done = box.run("quantize", "mine", "--to", "q4_1")
    assert "mine-q4_1 is stored" in done.stdout
    for said in ("before", "after", "bits a weight", "Q4_1", "claw run mine-q4_1", "as F16"):
        assert said in done.stdout
    assert left(box) == {"mine", "mine-q4_1"}
    shown = box.json("show", "mine-q4_1", "--verify")
    assert shown["verified"] and "quantized to q4_1" in shown["source"]
    assert set(shown["gguf"]["weights"]) == {"Q8_0", "Q4_1", "F32"}
    box.run("run", "mine-q4_1", "hello", "--max-tokens", "3")

    told = box.json("quantize", "mine-q4_1", "--to", "q8_0", "--name", "other")
    assert told["name"] == "other" and told["model"] == "mine-q4_1"
    assert told["result"]["bytes"] == box.json("show", "other")["bytes"]
    assert "no better" in box.run("quantize", "mine-q4_1", "--to", "q8_0").stdout
    assert left(box) == {"mine", "mine-q4_1", "other", "mine-q8_0"}
    is_written_as_a_file(box, mine)


def is_written_as_a_file(box, mine):
    path, models = box.home / "small.gguf", left(box)
    done = box.run("quantize", "mine", "--to", "q4_0", "--output", str(path), "--embedding", "q4_0")
    assert f"{path} is written" in done.stdout
    reader = official.GGUFReader(path)
    kinds = {each.tensor_type.name for each in reader.tensors}
    assert kinds == {"Q4_0", "F32"}
    added = {"general.file_type", "general.quantization_version"}
    assert set(gguf.read(path).metadata) == set(gguf.read(mine).metadata) | added
    assert left(box) == models
    kept = path.read_bytes()
    again = box.run("quantize", "mine", "--to", "q8_0", "--output", str(path), code=1)
    assert "the output exists" in again.stderr and path.read_bytes() == kept


def test_what_cannot_be_done_is_said(box, mine):
    for code, said, *words in (
        (2, "'q5_k'", "mine", "--to", "q5_k"),
        (2, "--to", "mine"),
        (2, "give one of them", "mine", "--to", "q8_0", "--name", "a", "--output", "b"),
        (1, "unknown_model", "nobody", "--to", "q8_0"),
        (1, "a model has this name", "mine", "--to", "q8_0", "--name", "mine"),
        (1, "nor in the catalogue", "mine", "--to", "q8_0", "--name", "smollm2"),
        (1, "name of a model", "mine", "--to", "q8_0", "--name", "../x"),
        (1, "is not there", "mine", "--to", "q8_0", "--output", str(box.home / "no" / "x")),
        (1, "the output exists", "mine", "--to", "q8_0", "--output", str(box.home)),
    ):
        assert said in box.run("quantize", *words, code=code).stderr
    assert not (box.home / "run" / "kernel.pid").exists(), "none of it needs a kernel"
    assert left(box) == {"mine"}


def large(box):
    """Store a model that takes its time, as ``large``."""
    data = np.random.default_rng(0).standard_normal(1 << 22).astype(np.float16).tobytes()
    tensors = [T(f"{i}.weight", (1 << 12, 1 << 10), DType.F16, data) for i in range(6)]
    (box.home / "large.gguf").write_bytes(File({}, tensors).build())
    box.run("pull", str(box.home / "large.gguf"), "--name", "large")


def begun(box):
    """Wait until the worker has begun to stream."""
    with Client(folder=box.home / "run") as client:
        wait_until(
            lambda: any(t["state"] == "running" for t in client.query("tasks")["tasks"]), "it runs"
        )


def test_an_interrupted_one_leaves_nothing(box):
    configured(box)
    large(box)
    box.run("up")
    target = box.home / "out"
    target.mkdir()
    models = box.home / "data" / "clawai" / "models"
    ways = (("--name", "new"), ("--output", str(target / "new.gguf")))
    for number, words in itertools.product((signal.SIGINT, signal.SIGKILL), ways):
        started = box.start("quantize", "large", "--to", "q4_1", *words)
        begun(box)
        os.kill(started.pid, number)
        said = started.communicate()[1]
        if number == signal.SIGINT:
            assert started.returncode == 130 and "nothing was written" in said
        assert not list(target.iterdir()) and not (models / "new").exists()
        staged = models / ".staging" / "new"
        assert not staged.exists() or not list(staged.iterdir())
    box.run("quantize", "large", "--to", "q4_0", "--name", "new")
    assert left(box) == {"large", "new"}


def test_names_are_not_piled_up():
    assert default_name("smollm2", "q4_0") == "smollm2-q4_0"
    assert default_name("smollm2-q8_0", "q4_1") == "smollm2-q4_1"
    assert len(default_name("x" * 64, "q4_1")) == 64


def test_a_file_has_no_name_until_it_is_whole(tmp_path, monkeypatch):
    for flag in (os.O_TMPFILE, os.O_DIRECTORY | os.O_EXCL):  # with such files, and without
        monkeypatch.setattr(os, "O_TMPFILE", flag)
        path = tmp_path / "new"
        with Unnamed(tmp_path) as made:
            made.file.write(b"whole")
            assert not path.exists()
            made.link(path)
        assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"whole"
        with Unnamed(tmp_path) as made, pytest.raises(FileExistsError):
            made.link(path)
        assert list(tmp_path.iterdir()) == [path]
        path.unlink()
