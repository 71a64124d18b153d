"""TensorFlow Serving's REST shape, asked by curl as its manual does."""

import json
import math
import subprocess
from typing import Any

import openai
import pytest

from doors_kit import Doors
from support import wait_until


def curl(doors: Doors, path: str, body: Any = None) -> tuple[int, Any]:
    """Status and JSON; a body that is text is sent as it is."""
    command = ["curl", "-s", "-w", "\n%{http_code}", f"{doors.address}{path}"]
    if body is not None:
        command += ["-d", body if isinstance(body, str) else json.dumps(body)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    text, _, status = said.rpartition("\n")
    return int(status), json.loads(text)


def predict(doors: Doors, name: str, **body: Any) -> Any:
    status, said = curl(doors, f"/v1/models/{name}:predict", body)
    assert status == 200, said
    return said


def test_rows_and_columns(tensors: Doors) -> None:
    assert predict(tensors, "half", instances=[1.0, 2.0, 5.0]) == {"predictions": [2.5, 3.0, 4.5]}
    named = predict(tensors, "half", instances=[{"x": 1}], signature_name="serving_default")
    assert named == {"predictions": [2.5]}
    assert predict(tensors, "half", inputs=[1, 0.2]) == {"outputs": [2.5, 2.1]}
    assert predict(tensors, "half", inputs={"x": [1]}) == {"outputs": [2.5]}


def test_numbers_flags_and_texts(tensors: Doors) -> None:
    rows = [
        {"a": [1, 2], "b": True, "t": "grün"},
        {"a": [3, 4], "b": False, "t": {"b64": "YWJj"}},
    ]
    expected = [
        {"sum": 3, "other": False, "same": "grün"},
        {"sum": 7, "other": True, "same": "abc"},
    ]
    assert predict(tensors, "mixed", instances=rows) == {"predictions": expected}
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    assert predict(tensors, "mixed", inputs=columns)["outputs"]["sum"] == [3, 7]


def test_what_is_no_number_in_json(tensors: Doors) -> None:
    status, said = curl(tensors, "/v1/models/half:predict", '{"instances": [NaN, -Infinity]}')
    assert status == 200 and math.isnan(said["predictions"][0])
    assert said["predictions"][1] == -math.inf


def test_classes_and_numbers_of_examples(tensors: Doors) -> None:
    examples = [{"x": [0.0, 0.0, 0.0]}, {"x": [9.0, 0.0, 0.0]}]
    status, said = curl(tensors, "/v1/models/classes:classify", {"examples": examples})
    first, second = said["results"]
    assert status == 200 and [label for label, _ in first] == ["", "", ""]
    assert first[0][1] == pytest.approx(1 / 3) and second[0][1] > 0.99
    body = {
        "signature_name": "tensorflow/serving/regress",
        "examples": [{"x": 1.0}, {"x": [2.0]}],
    }
    assert curl(tensors, "/v1/models/half:regress", body) == (200, {"results": [2.5, 3.0]})
    shared = {"context": {"x": 4.0}, "examples": [{}, {}]}
    assert curl(tensors, "/v1/models/half:regress", shared) == (200, {"results": [4.0, 4.0]})


def test_the_newest_version_serves_and_each_can_be_named(tensors: Doors) -> None:
    assert predict(tensors, "plus", instances=[0]) == {"predictions": [30.0]}
    assert predict(tensors, "plus/versions/2", instances=[0]) == {"predictions": [20.0]}
    status, said = curl(tensors, "/v1/models/plus/versions/2")
    fine = {"error_code": "OK", "error_message": ""}
    assert said == {
        "model_version_status": [{"version": "2", "state": "AVAILABLE", "status": fine}]
    }
    status, said = curl(tensors, "/v1/models/plus/versions/4")
    assert status == 404 and said == {"error": "plus has no version '4'; it has 3, 2"}


def test_one_address_answers_both_clients(tensors: Doors) -> None:
    status, said = curl(tensors, "/v1/models/plus")
    assert status == 200
    assert [each["version"] for each in said["model_version_status"]] == ["3", "2"]
    with openai.OpenAI(base_url=f"{tensors.address}/v1", api_key="none", max_retries=0) as client:
        found = client.models.retrieve("plus")
        assert (found.id, found.object, found.owned_by) == ("plus", "model", "clawai")
        with pytest.raises(openai.NotFoundError, match="is not stored here"):
            client.models.retrieve("nobody")


def test_metadata(tensors: Doors) -> None:
    status, said = curl(tensors, "/v1/models/mixed/metadata")
    assert status == 200
    assert said["model_spec"] == {"name": "mixed", "signature_name": "", "version": "1"}
    signature = said["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["a"] == {
        "name": "a",
        "dtype": "DT_INT64",
        "tensor_shape": {
            "dim": [{"size": "-1", "name": ""}, {"size": "2", "name": ""}],
            "unknown_rank": False,
        },
    }
    assert signature["outputs"]["same"]["dtype"] == "DT_STRING"


@pytest.mark.parametrize(
    ("verb", "body", "status", "words"),
    [
        ("half:predict", {}, 400, "either instances or inputs"),
        ("half:predict", {"instances": [1], "inputs": [1]}, 400, "either instances or inputs"),
        ("half:predict", {"instances": ["one"]}, 400, "x takes numbers, got 'one'"),
        ("half:predict", {"instances": [True]}, 400, "x takes numbers"),
        ("half:predict", {"instances": [[1], [1, 2]]}, 400, "different lengths"),
        ("half:predict", {"instances": [{"y": 1}]}, 400, "exactly x"),
        ("half:predict", {"instances": []}, 400, "one or more"),
        ("half:predict", {"instances": [1], "signature_name": "other"}, 400, "signature 'other'"),
        ("half:predict", "[1", 400, "not JSON"),
        ("half:predict", '{"instances": ' + "[" * 100_000, 400, "not JSON"),
        ("half:predict", {"instances": [[1]]}, 400, "another shape"),
        ("mixed:predict", {"inputs": {"a": [[1, 2]]}}, 400, "the inputs are a, b, t"),
        ("mixed:regress", {"examples": [{"a": [1, 2], "b": True, "t": "x"}]}, 400, "one output"),
        ("half:regress", {"examples": [{"x": 1}], "context": {"x": 2}}, 400, "in context already"),
        ("nobody:predict", {"instances": [1]}, 404, "no model 'nobody'"),
        ("half:explain", {"instances": [1]}, 404, "nothing at"),
    ],
)
def test_errors_are_in_its_form(
    tensors: Doors, verb: str, body: Any, status: int, words: str
) -> None:
    found, said = curl(tensors, f"/v1/models/{verb}", body)
    assert list(said) == ["error"] and words in said["error"], said
    assert found == status


def test_who_hangs_up_ends_the_run(tensors: Doors) -> None:
    command = ["curl", "-s", "-m", "1", f"{tensors.address}/v1/models/slow:predict"]
    done = subprocess.run([*command, "-d", '{"instances": [1]}'], capture_output=True, check=False)
    assert done.returncode == 28, "it would never have ended"
    wait_until(lambda: tensors.running() == ["gateway.serve"], "the run ends")
