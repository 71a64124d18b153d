"""`claw run` and `claw chat` with a real kernel and a tiny model; its answers are nonsense."""

import hashlib
import json
import os
import signal
import subprocess

import pytest

from gguf_files import tiny_llama
from terminal import Screen


@pytest.fixture
def tiny(box):
    """A box whose store holds the model ``tiny``, which never ends an answer by itself."""
    path = box.home / "tiny.gguf"
    path.write_bytes(tiny_llama(context=4096))
    box.run("pull", str(path), "--name", "tiny")
    box.run("config", "set", "workers.context", "0")
    box.run("config", "set", "workers.threads", "1")
    return box


@pytest.fixture
def endless(tiny):
    """Words for an answer that takes minutes: greedy, the tiny model never ends by itself."""
    path = tiny.home / "endless.gguf"
    path.write_bytes(tiny_llama(context=131_072))
    tiny.run("pull", str(path), "--name", "endless")
    return "run", "endless", "hello", "--temperature", "0", "--max-tokens", "130000"


def answer(box, *words, text="", code=0):
    done = box.run("run", "tiny", "--json", "--max-tokens", "8", *words, text=text, code=code)
    return json.loads(done.stdout)


def test_the_answer_streams_to_standard_output_alone(tiny):
    done = tiny.run("run", "tiny", "hello", "--max-tokens", "8")
    assert done.stdout.endswith("\n")
    assert done.stderr.splitlines() == ["no kernel runs here; starting one (`claw down` stops it)"]
    again = tiny.run("run", "tiny", "hello", "--max-tokens", "8")
    assert (again.stdout, again.stderr) == (done.stdout, "")
    found = answer(tiny, "hello")
    assert found["text"].strip() == done.stdout.strip()
    assert found["finish_reason"] == "length"
    assert found["usage"]["completion_tokens"] == 8
    assert found["model"] == "tiny"
    assert found["timings"]["decode_us"] > 0


def test_a_seed_makes_it_repeatable_and_another_differs(tiny):
    first = answer(tiny, "hello", "--temperature", "2", "--top-k", "0", "--seed", "1")
    assert (
        answer(tiny, "hello", "--temperature", "2", "--top-k", "0", "--seed", "1")["text"]
        == first["text"]
    )
    assert (
        answer(tiny, "hello", "--temperature", "2", "--top-k", "0", "--seed", "2")["text"]
        != first["text"]
    )


def test_a_stop_text_ends_the_answer(tiny):
    whole = answer(tiny, "hello")["text"]
    stop = whole[3]
    found = answer(tiny, "hello", "--stop", "never", "--stop", stop)
    assert found["text"] == whole[: whole.index(stop)]
    assert found["finish_reason"] == "stop"


def test_the_question_comes_from_words_or_standard_input(tiny):
    words = answer(tiny, "one two")
    assert answer(tiny, "one", "two")["text"] == words["text"]
    assert answer(tiny, text="one two")["text"] == words["text"]
    assert answer(tiny, "-", text="one two\n")["text"] == words["text"]
    both = answer(tiny, "one", "-", text="two")
    assert both["text"] == answer(tiny, "one\n\ntwo")["text"]


def test_system_and_raw_reach_the_model(tiny):
    plain = answer(tiny, "hello")["usage"]["prompt_tokens"]
    assert answer(tiny, "hello", "--system", "Be short.")["usage"]["prompt_tokens"] > plain
    assert answer(tiny, "hello", "--raw")["usage"]["prompt_tokens"] < plain
    assert "--raw" in tiny.run("run", "tiny", "x", "--raw", "--system", "y", code=2).stderr


def test_a_question_that_is_no_question(tiny):
    assert "empty" in tiny.run("run", "tiny", text=" ", code=2).stderr
    done = subprocess.run(
        [*tiny.command, "run", "tiny"],
        env=tiny.env,
        input=b"\xff\xfe",
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert b"bad_params" in done.stderr


def test_a_prompt_that_is_too_long_says_both_lengths(tiny):
    done = tiny.run("run", "tiny", "word " * 4000, code=1)
    assert "prompt_too_long" in done.stderr
    assert "4096" in done.stderr
    found = answer(tiny, "word " * 4000, code=1)
    assert found["error"]["code"] == "prompt_too_long"


def test_a_bad_option_is_named(tiny):
    for words in (
        ["--temperature", "-1"], ["--temperature", "nan"], ["--temperature", "inf"],
        ["--top-p", "2"], ["--top-p", "nan"], ["--top-k", "9999999"], ["--priority", "urgent"],
        ["--max-tokens", "0"], ["--max-tokens", "1048577"], ["--seed", str(1 << 63)],
        ["--deadline", "0"], ["--deadline", "-1"], ["--deadline", "1e10"], ["--deadline", "nan"],
    ):  # fmt: skip
        assert words[0] in tiny.run("run", "tiny", "x", *words, code=2).stderr


def test_a_deadline_that_is_past_is_told(tiny):
    done = tiny.run("run", "tiny", "x", "--deadline", "1e-9", code=1)
    assert "deadline_passed" in done.stderr


def test_ctrl_c_cancels_and_says_so(tiny, endless):
    child = tiny.start(*endless)
    # Some of the answer is there: the task runs.
    assert os.read(child.stdout.fileno(), 1)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate()
    assert child.returncode == 130
    assert "cancelled after" in errors
    assert "Traceback" not in errors
    assert tiny.json("ps")["tasks"] == []
    assert answer(tiny, "hello")["usage"]["completion_tokens"] == 8


def test_a_reader_that_leaves_ends_the_task(tiny, endless):
    child = tiny.start(*endless)
    assert os.read(child.stdout.fileno(), 1)
    child.stdout.close()
    assert child.stderr.read().splitlines()[1:] == []
    assert child.wait() == 141
    child.stderr.close()
    assert answer(tiny, "hello")["usage"]["completion_tokens"] == 8


def test_a_corrupt_model_is_a_typed_error(box):
    path = box.home / "bad.gguf"
    path.write_bytes(tiny_llama()[:-5000])
    box.run("pull", str(path), "--name", "bad")
    assert "bad_model" in box.run("run", "bad", "hello", code=1).stderr
    assert "bad" in box.run("show", "bad").stdout


def test_pull_by_run_only_when_asked(tiny, tmp_path):
    path = tmp_path / "other.gguf"
    path.write_bytes(tiny_llama())
    own = tiny.home / "config" / "clawai" / "catalogue.toml"
    own.write_text(
        f'[model.other]\nsource = "file:{path}"\nbytes = {path.stat().st_size}\n'
        f'sha256 = "{hashlib.sha256(path.read_bytes()).hexdigest()}"\n'
        'licence = "MIT"\ncapability = "llm"\naliases = ["alias"]\n'
    )
    assert "claw pull other" in tiny.run("run", "alias", "x", code=1).stderr
    done = tiny.run("run", "alias", "x", "--pull", "--max-tokens", "2")
    assert done.stdout


def test_stop_unloads_the_model(tiny):
    answer(tiny, "hello")
    assert [each["model"] for each in tiny.json("ps")["workers"]] == ["tiny"]
    states = {each["name"]: each["state"] for each in tiny.json("models")}
    assert states["tiny"] == "ready"
    tiny.run("stop", "tiny")
    assert tiny.json("ps")["workers"] == []


def test_chat_remembers_resets_cancels_and_leaves(tiny):
    screen = Screen(tiny, "chat", "tiny", "--max-tokens", "400")
    try:
        screen.until("> ")
        screen.type("/help\r")
        assert "/reset" in screen.until("> ")
        screen.type("/nonsense\r")
        assert "/help lists them" in screen.until("> ")
        screen.type("/system Be kind.\r")
        screen.until("> ")
        screen.type("/system\r")
        assert "Be kind." in screen.until("> ")
        screen.type("hello there\r")
        screen.until("hello there")
        screen.until("\n")
        # The answer has begun: cancel it.
        while not screen.seen.strip():
            screen.seen += os.read(screen.master, 100).decode(errors="replace")
        screen.type("\x03")
        screen.until("cancelled after")
        screen.until("> ")
        screen.type("/reset\r")
        screen.until("anew")
        screen.until("> ")
        screen.type("\x04")
    except BaseException:
        screen.process.kill()
        raise
    finally:
        status = screen.end()
    assert status == 0


def test_what_is_deleted_or_replaced_is_unloaded(tiny):
    """Else a worker would go on answering with a model that is not there any more."""
    answer(tiny, "hello")
    other = tiny.home / "other.gguf"
    other.write_bytes(tiny_llama(context=2048))
    done = tiny.run("pull", str(other), "--name", "tiny")
    assert "unloaded" in done.stderr
    assert tiny.json("ps")["workers"] == []
    answer(tiny, "hello")
    assert "unloaded" in tiny.run("rm", "tiny").stdout
    assert tiny.json("ps")["workers"] == []
    assert "unknown_model" in tiny.run("run", "tiny", "x", code=1).stderr
