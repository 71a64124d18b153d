"""`claw serve --model_name`: versions in numbered folders, picked up while it runs."""

import json
import shutil
import signal
import urllib.error
import urllib.request

import onnx_files
from broker_parts import free_port


def ask(address, verb, body=None):
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(f"{address}{verb}", data, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def version(folder, number, more):
    """A folder that appears whole."""
    draft = folder.parent / f"draft-{number}"
    draft.mkdir()
    (draft / "model.onnx").write_bytes(onnx_files.half_plus(more))
    draft.rename(folder / str(number))


def test_versions_come_and_go_while_it_serves(box):
    folder, port = box.home / "half", free_port()
    address = f"http://127.0.0.1:{port}/v1/models/half"
    folder.mkdir()
    version(folder, 1, 10.0)
    words = [f"--rest_api_port={port}", "--model_name=half", f"--model_base_path={folder}"]
    running = box.start("serve", *words)
    try:
        said = []

        def until(words):
            for line in running.stdout:
                said.append(line)
                if words in line:
                    return
            raise AssertionError((said, running.stderr.read()))

        until(f"half version 1 serves   {address}")
        if not any("OpenAI" in line for line in said):
            until("OpenAI's API")
        one = {"instances": [0.0]}
        assert ask(address, ":predict", one) == (200, {"predictions": [10.0]})
        version(folder, 2, 20.0)
        until("half version 2 serves")
        assert ask(address, ":predict", one) == (200, {"predictions": [20.0]})
        assert ask(address, "/versions/1:predict", one) == (200, {"predictions": [10.0]})
        (folder / "3").mkdir()
        (folder / "3" / "model.onnx").write_bytes(onnx_files.half_plus(30.0)[:-5])
        until("half version 3 cannot serve")
        served = ask(address, "")[1]["model_version_status"]
        assert [each["version"] for each in served] == ["2", "1"]
        shutil.rmtree(folder / "2")
        until("half version 2 is gone")
        assert ask(address, ":predict", one) == (200, {"predictions": [10.0]})
        assert ask(address, "/versions/2:predict", one)[0] == 404
        workers = {row["model"] for row in box.json("ps")["workers"]}
        assert "half.1" in workers and "half.2" not in workers
    finally:
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=60)
    assert running.returncode == 130 and "Traceback" not in errors, errors
    assert box.json("models", "--stored") == []


def test_what_does_not_belong_together_is_named(box):
    assert "belong together" in box.run("serve", "--model_name=half", code=2).stderr
    words = ["--model_name=half", "--model_base_path=/srv"]
    assert "needs --rest-port" in box.run("serve", *words, code=2).stderr
