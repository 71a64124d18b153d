"""What is asked at an install besides permissions: files of its own, secrets, settings."""

from pathlib import Path
from typing import Any

MANIFEST = """
[plugin]
name = "keeper"
version = "{version}"
module = "keeper"
[[operation]]
name = "keeper.say"
[limits]
data_mib = {data}
[permissions.limits]
data = "what it has learned"
[secrets]
{secrets}
[config.greeting]
default = "Hello"
description = "How it begins."
[config.place]
description = "Where it is."
"""
ONE = 'token = "to read the forecast"\n'
TWO = f'{ONE}other = "to read it again"\n'


def made(folder: Path, version: str, data: int = 16, secrets: str = ONE) -> str:
    folder.mkdir(exist_ok=True)
    text = MANIFEST.format(version=version, data=data, secrets=secrets)
    (folder / "plugin.toml").write_text(text)
    (folder / "keeper.py").write_text("")
    return str(folder)


def test_data_secrets_and_settings_are_in_the_question(box: Any) -> None:
    said = box.run("plugin", "install", made(box.home / "keeper", "1.0"), "--yes").stdout
    assert "• keep files of its own, 16 MiB at most, that stay when it ends" in said
    assert "“what it has learned”" in said
    assert "• be told its secret token, once you have typed it in\n" in said
    assert "“to read the forecast”" in said
    assert "with `claw plugin config keeper`" in said
    assert '• greeting (text): "Hello"' in said
    assert "How it begins." in said
    assert "• place (text): you must set it before it runs" in said
    told = box.json("plugin", "info", "keeper")
    assert [each["kind"] for each in told["permissions"]] == ["secrets", "data"]
    assert [each["key"] for each in told["config"]] == ["greeting", "place"]
    assert "• place (text)" in box.run("plugin", "info", "keeper").stdout


def test_nobody_is_told_a_secret_without_a_grant(box: Any) -> None:
    made(box.home / "keeper", "1.0")
    refused = box.json("plugin", "install", str(box.home / "keeper"), code=1)["error"]
    assert refused["code"] == "not_granted"
    assert "secrets, data 16 MiB" in refused["message"]
    copied = box.home / "data" / "clawai" / "plugins"
    copied.mkdir(parents=True, exist_ok=True)
    made(copied / "keeper", "1.0")
    (row,) = [each for each in box.json("plugin", "list") if each["name"] == "keeper"]
    assert (row["state"], row["asks"]) == ("not granted", "secrets, data 16 MiB")


def test_an_upgrade_that_asks_for_more_asks_again(box: Any) -> None:
    folder = box.home / "keeper"
    box.run("plugin", "install", made(folder, "1.0"), "--yes")
    box.run("plugin", "install", made(folder, "1.1", data=16))
    box.run("plugin", "install", made(folder, "1.2", data=8))
    more = box.json("plugin", "install", made(folder, "1.3", data=32), code=1)["error"]
    assert "data 32 MiB" in more["message"]
    another = box.json("plugin", "install", made(folder, "1.4", 8, TWO), code=1)["error"]
    assert another["got"] == ["be told its secret other, once you have typed it in"]
    assert box.json("plugin", "info", "keeper")["version"] == "1.2"
    said = box.run("plugin", "install", made(folder, "1.4", 8, TWO), "--yes").stdout
    assert "more than version 1.2 was granted" in said
    assert said.index("secret other") < said.index("It goes on having") < said.index("token")
