"""The OpenAPI document is true, and what it allows never makes the gateway fail."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from doors_kit import Doors

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance"
ST = str(Path(sys.executable).with_name("st"))


def fuzzed(doors: Doors, folder: Path, *options: str) -> str:
    """What Schemathesis says; it only asks the model that answers at once, and cannot delete it."""
    doors.client.call("llm.generate", {"prompt": "a", "max_tokens": 1}, model="tiny")
    doors.client.admin("pin", "tiny")
    document = doors.ask("GET", "/openapi.json")[2]
    text = json.dumps(document).replace('["long", "tiny"]', '["tiny"]')
    (folder / "openapi.json").write_text(text)
    command = [ST, "run", str(folder / "openapi.json"), "--url", doors.address, "--no-color"]
    command += ["--checks", CHECKS, *options]
    # It keeps a cache where it runs.
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
    return ran.stdout


def test_it_names_every_path_and_the_models(doors: Doors) -> None:
    document = doors.ask("GET", "/openapi.json")[2]
    paths, schemas = document["paths"], document["components"]["schemas"]
    assert {"/v1/chat/completions", "/v1/completions", "/api/chat", "/api/tags"} <= set(paths)
    assert schemas["ChatCompletion"]["properties"]["model"]["enum"] == ["long", "tiny"]
    assert "enum" not in schemas["OllamaPull"]["properties"]["model"], "it is not stored yet"
    for path, methods in paths.items():
        for method, told in methods.items():
            assert told["summary"], path
            needed = told.get("requestBody", {}).get("required")
            allowed = 400 if needed else 404 if "{" in path else 200
            asked = path.replace("{name}", "nobody")
            assert doors.ask(method.upper(), asked, {} if method == "post" else None)[0] == allowed


def test_schemathesis_finds_nothing(doors: Doors, tmp_path: Path) -> None:
    options = ["--max-examples", "8", "--phases", "coverage,fuzzing"]
    # The doors of a version are those without one.
    said = fuzzed(doors, tmp_path, *options, "--exclude-path-regex", "/versions/")
    paths = doors.ask("GET", "/openapi.json")[2]["paths"]
    tried = sum(len(each) for path, each in paths.items() if "/versions/" not in path)
    assert f"Tested: {tried}" in said
    assert doors.ask("GET", "/health")[0] == 200


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_schemathesis_finds_nothing_for_minutes(doors: Doors, tmp_path: Path) -> None:
    fuzzed(doors, tmp_path, "--max-examples", "400")
    assert doors.running() == ["gateway.serve"]
