"""`claw config`: every key is explained, and a change is checked before it is kept."""

import pytest

from clawai.sdk import config
from clawai.sdk.cli import settings


@pytest.fixture
def path(box):
    return box.home / "config" / "clawai" / "config.toml"


def test_every_key_has_a_meaning():
    keys = settings.flat(config.as_dict(config.Config()))
    assert set(settings.meanings()) == set(keys)


def test_the_listing_shows_values_defaults_and_the_file(box, path):
    box.run("config", "set", "workers.threads", "2")
    shown = box.json("config")
    assert shown["file"] == str(path)
    assert shown["keys"]["workers.threads"] == {
        "value": 2,
        "default": 0,
        "meaning": "Compute threads of one engine worker; 0 means one a core.",
    }
    assert "workers.threads" in box.run("config").stdout
    assert box.run("config", "path").stdout.strip() == str(path)


def test_comments_and_order_stay(box, path):
    path.parent.mkdir(parents=True)
    path.write_text(
        "# mine\n[log]\n# loud\nlevel = 'debug'  # for now\n\n[memory]\nbudget_mib = 1\n"
    )
    box.run("config", "set", "log.level", "error")
    box.run("config", "set", "log.max_mib", "3")
    box.run("config", "set", "workers.context", "512")
    box.run("config", "set", "plugin_dirs", '["/a", "/b"]')
    box.run("config", "unset", "memory.budget_mib")
    text = path.read_text()
    assert "# mine" in text and "# loud" in text
    found = config.load(path)
    assert (found.log.level, found.log.max_mib, found.workers.context) == ("error", 3, 512)
    assert found.plugin_dirs == ("/a", "/b")
    assert found.memory.budget_mib == 0


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("memory.budget", "1", "memory.budget_mib"),
        ("workers.threads", "999", "<= 256"),
        ("workers.threads", "many", "int"),
        ("sandbox.minimum", "none", "no-landlock"),
        ("workers.kv", "int8", "q8"),
        ("plugin_dirs", "/a", "array"),
        ("plugins.ports", '["gateway:8080=99999"]', "65535"),
        ("plugins.ports", '["8080=80"]', "plugins.ports"),
        ("memory.budget_mib", "1\n[log]\nlevel='debug'", "int"),
    ],
)
def test_a_bad_change_is_refused_and_changes_nothing(box, path, key, value, says):
    box.run("config", "set", "memory.budget_mib", "77")
    before = path.read_bytes()
    done = box.run("config", "set", key, value, code=1)
    assert says in done.stderr
    assert "bad_config" in done.stderr
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == ["config.toml"]


@pytest.mark.parametrize(
    "text",
    ['"memory".budget_mib = 5\n', "memory.budget_mib = 5\n", "memory = { budget_mib = 5 }\n",
     'plugin_dirs = [\n  "/a",\n]\n'],
)  # fmt: skip
def test_a_form_that_cannot_be_edited_is_left_alone(box, path, text):
    path.parent.mkdir(parents=True)
    path.write_text(text)
    key, value = ("plugin_dirs", "[]") if "plugin" in text else ("memory.budget_mib", "6")
    done = box.run("config", "set", key, value, code=1)
    assert "bad_config" in done.stderr
    assert path.read_text() == text


def test_a_broken_file_is_shown_as_an_error(box, path):
    path.parent.mkdir(parents=True)
    path.write_text("[memory]\nbudget_mb = 1\n")
    for words in (["config"], ["config", "set", "log.level", "debug"]):
        assert "budget_mb" in box.run(*words, code=1).stderr
    assert box.json("config", code=1)["error"]["code"] == "bad_config"


def test_one_value_is_printed_alone(box):
    assert box.run("config", "get", "workers.context").stdout == "2048\n"
    box.run("config", "set", "workers.threads", "2")
    assert box.json("config", "get", "workers.threads") == 2
    assert box.run("config", "get", "log.level").stdout == "info\n"
    assert "workers.threads" in box.run("config", "get", "workers.thread", code=1).stderr


def test_a_negative_value_is_a_value(box):
    done = box.run("config", "set", "workers.threads", "-5", code=1)
    assert "bad_config" in done.stderr
    assert ">= 0" in done.stderr


def test_more_memory_than_the_box_has_is_refused(box):
    most = config.box_bytes() >> 20
    error = box.run("config", "set", "memory.budget_mib", str(most + 1), code=1).stderr
    assert str(most) in error
    box.run("config", "set", "memory.budget_mib", str(most))
    for key, value in (
        ("memory.budget_mib", str(1 << 70)),
        ("workers.idle_minutes", "nan"),
        ("workers.idle_minutes", "inf"),
        ("log.max_mib", "9999999"),
    ):
        assert "bad_config" in box.run("config", "set", key, value, code=1).stderr
