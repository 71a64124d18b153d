"""Manifests: what is refused, and that the refusal names the file and the key."""

from pathlib import Path

import pytest

from clawai.sdk.asks import asks
from clawai.sdk.errors import ClawError
from clawai.sdk.manifest import LIMIT, UNASKED, covers, read_model, read_plugin

GOOD = """
[plugin]
name = "good"
version = "1"
module = "good"

[[operation]]
name = "good.op"

[permissions]
profile = "tool"
"""


def refused(folder: Path, text: str | bytes) -> str:
    (folder / "plugin.toml").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ClawError) as caught:
        read_plugin(folder)
    assert caught.value.code == "bad_config"
    assert str(folder / "plugin.toml") in caught.value.message
    return str(caught.value)


def test_a_good_one(tmp_path: Path) -> None:
    (tmp_path / "plugin.toml").write_text(GOOD)
    plugin = read_plugin(tmp_path)
    assert (plugin.plugin.name, plugin.operation[0].name) == ("good", "good.op")
    assert not plugin.operation[0].idempotent


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ('name = "good"\n', 'name = "../good"\n', "plugin.name"),
        ('name = "good"\n', 'name = ""\n', "plugin.name"),
        ('module = "good"', 'module = "os; x"', "plugin.module"),
        ('"good.op"', '"good"', "operation.name"),
        ('"good.op"', '"good.op\\n"', "operation.name"),
        ('"tool"', '"../../../good/own"', "permissions.profile"),
        ('"tool"', '"/etc/profile"', "permissions.profile"),
        ('"tool"', '"engine"', "permissions.profile"),
        ('version = "1"', "version = 1", "version"),
        ("[[operation]]", "[operation]", "operation"),
        ("[plugin]", "[plugin", "plugin.toml"),
        ("[permissions]", "[limits]\nslots = 65\n[permissions]", "slots"),
        ("[permissions]", "[limits]\nmemory_mib = -1\n[permissions]", "memory_mib"),
    ],
)
def test_bad_ones(tmp_path: Path, old: str, new: str, part: str) -> None:
    assert GOOD.count(old) == 1
    assert part in refused(tmp_path, GOOD.replace(old, new))


@pytest.mark.parametrize(
    "line",
    [
        'read = { "relative" = "x" }',
        'read = { "/a/../b" = "x" }',
        'read = { "/a//b" = "x" }',
        'read = { "/a/" = "x" }',
        'read = { "/" = "x" }',
        'read = { "~" = "x" }',
        'read = { "~root/a" = "x" }',
        'write = { "/a/./b" = "x" }',
        'write = { "/a\\u001b[2Jb" = "x" }',
        'programs = { "ls" = "x" }',
        'devices = { "/etc/passwd" = "x" }',
        'devices = { "/dev" = "x" }',
        'network = { "example.org:0" = "x" }',
        'network = { "example.org:65536" = "x" }',
        'network = { "example.org:" = "x" }',
        'network = { "http://example.org" = "x" }',
        'network = { "*" = "x" }',
        'network = { "*.org.*" = "x" }',
        'network = { "*.localhost:x" = "x" }',
        'network = { "-a.org" = "x" }',
        'network = { "1.2.3" = "x" }',
        'network = { "1.2.3.256" = "x" }',
        'network = { "[::1" = "x" }',
        'network = { "a b" = "x" }',
        'network = { "ex\\u0430mple.org" = "x" }',
        'listen = { "0" = "x" }',
        'listen = { "080" = "x" }',
        'listen = { "any:80" = "x" }',
        'operations = { "LLM" = "x" }',
        'operations = { "llm*" = "x" }',
        'models = { "../x" = "x" }',
        'limits = { disk = "x" }',
        'netwrok = { "a.org" = "x" }',
        'read = ["/a"]',
        'read = { "/a" = "" }',
        'read = { "/a" = "  " }',
        f'read = {{ "/a" = "{"x" * 201}" }}',
        'read = { "/a" = "one\\ntwo" }',
        'read = { "/a" = "\\u001b]0;gone\\u0007" }',
        'read = { "/a" = "safe \\u202egnihton" }',
        'on_behalf_of = "\\u009b2J"',
        'kernel = { logs = "x" }',
        'on_behalf_of = "x"\nkernel = { shutdown = "x" }',
        "read = {" + ",".join(f'"/a{number}" = "x"' for number in range(65)) + "}",
    ],
)
def test_permissions_that_cannot_be_asked_for(tmp_path: Path, line: str) -> None:
    refused(tmp_path, f"{GOOD}{line}\n")


@pytest.mark.parametrize(
    "line",
    [
        'read = { "/srv/a b/ä" = "x", "~/maps" = "y" }',
        'write = { "~/.cache/good" = "x" }',
        'programs = { "/usr/bin/ffmpeg" = "x" }',
        'devices = { "/dev/dri/renderD128" = "x" }',
        'network = { "lan" = "a", "example.org" = "b", "*.a-b.example.org:8443" = "c" }',
        'network = { "localhost:11434" = "a", "10.0.0.1:22" = "b", "[2001:db8::1]:443" = "c" }',
        'listen = { "8080" = "a", "lan:443" = "b" }',
        'operations = { "llm.*" = "a", "echo.say" = "b", "*" = "c" }',
        'models = { "*" = "a", "smollm2" = "b" }',
        'on_behalf_of = "It is a gateway: many users come through it."',
        'on_behalf_of = "x"\nkernel = { logs = "a", timeline = "t", pin = "b", unload = "c" }',
        'on_behalf_of = "x"\nkernel = { pull = "p", remove = "r" }',
        f'read = {{ "/a" = "{"x" * 200}" }}',
    ],
)
def test_permissions_that_can(tmp_path: Path, line: str) -> None:
    (tmp_path / "plugin.toml").write_text(f"{GOOD}{line}\n")
    assert asks(read_plugin(tmp_path))


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ('version = "1"', 'version = "\\u001b[31m1"', "plugin.version"),
        ('version = "1"', 'version = "one"', "plugin.version"),
        ('version = "1"', 'version = "../1"', "plugin.version"),
        ('version = "1"', f'version = "1.0-{"x" * 70}"', "plugin.version"),
        ('version = "1"', 'version = "1"\ndescription = "a\\u0007b"', "plugin.description"),
        ('version = "1"', f'version = "1"\ndescription = "{"x" * 1001}"', "plugin.description"),
        ('"good.op"', '"good.op"\ndescription = "a\\u200bb"', "operation.description"),
    ],
)
def test_texts_that_a_terminal_would_obey(tmp_path: Path, old: str, new: str, part: str) -> None:
    assert part in refused(tmp_path, GOOD.replace(old, new))


@pytest.mark.parametrize(("key", "kind"), [("memory_mib", "memory"), ("threads", "threads")])
def test_more_than_a_plugin_gets_unasked_needs_a_reason(
    tmp_path: Path, key: str, kind: str
) -> None:
    most = UNASKED[kind]
    path = tmp_path / "plugin.toml"
    path.write_text(f"{GOOD}[limits]\n{key} = {most}\n")
    assert not asks(read_plugin(tmp_path))
    with_more = f"{GOOD}%s[limits]\n{key} = {most + 1}\n"
    assert f"limits.{key}" in refused(tmp_path, with_more % "")
    path.write_text(with_more % f'limits = {{ {kind} = "it computes a lot" }}\n')
    (asked,) = asks(read_plugin(tmp_path))
    assert (asked.kind, asked.what) == (kind, str(most + 1))


def test_a_reason_without_more_asks_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "plugin.toml").write_text(f'{GOOD}limits = {{ memory = "in case" }}\n')
    assert not asks(read_plugin(tmp_path))


def test_too_large_and_not_text(tmp_path: Path) -> None:
    assert "too large" in refused(tmp_path, "#" * (LIMIT + 1))
    refused(tmp_path, b"\xff\xfe\x00")


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 60_000,
        "a = " + "{a=" * 20_000,
        ".".join("a" * 30_000) + " = 1",
        "[" + " . ".join("a" * 15_000) + "]",
        ("[" + ".".join("a" * 15) + "]\n") * 2000,
        "a = " + "9" * 60_000,
        f"{GOOD}[limits]\ncpu = nan\n",
        f"{GOOD}[limits]\ncpu = inf\n",
    ],
    ids=["lists", "tables", "key", "header", "keys", "number", "nan", "inf"],
)
def test_manifests_that_would_cost_their_reader_too_much(tmp_path: Path, text: str) -> None:
    refused(tmp_path, text)


def test_a_model_must_be_that_of_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    for name, file in (("other", "f"), ("m", "../f"), ("m", "/f"), ("m", "")):
        record = f'{{"name":"{name}","file":"{file}","bytes":1,"sha256":"","capability":"llm"}}'
        (folder / "model.json").write_text(record)
        if file:
            with pytest.raises(ClawError, match="those of its own folder"):
                read_model(folder)


def test_a_permission_covers_a_name_or_all_that_begin_so() -> None:
    for granted, name, covered in (
        ({"llm.generate": "why"}, "llm.generate", True),
        ({"llm.generate": "why"}, "llm.generate_more", False),
        ({"llm.*": "why", "echo.say": "why"}, "echo.say", True),
        ({"llm.*": "why"}, "llm.x", True),
        ({"llm.*": "why"}, "llm", False),
        ({"*": "why"}, "anything", True),
        ({"a*b": "why"}, "aab", False),
        ({}, "llm.x", False),
    ):
        assert covers(granted, name) is covered, (granted, name)
