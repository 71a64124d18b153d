"""`claw plugin pack, sign, verify, keygen, trust, install, remove, list, info`, as programs."""

import json
import os
import pty
import select
import signal
import subprocess
import time

import pytest

from clawai.sdk import develop
from plugin_folders import ASKS, forged, plugin

PATIENCE = 60.0


@pytest.fixture
def packed(inside, folder):
    target = folder.parent / "demo.clawplugin"
    inside.run("plugin", "pack", str(folder), "-o", str(target))
    return target


class Terminal:
    """`claw` with a terminal as its input and output."""

    def __init__(self, inside, *args, columns=80):
        self.master, slave = pty.openpty()
        env = inside.program.env | {"TERM": "xterm", "COLUMNS": str(columns), "NO_COLOR": "1"}
        self.process = subprocess.Popen(
            [*inside.program.command, *args], env=env, stdin=slave, stdout=slave, stderr=slave,
            start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self.said = ""

    def until(self, text=None):
        """Read until it has said ``text``, or to its end."""
        until = time.monotonic() + PATIENCE
        while text is None or text not in self.said:
            assert select.select([self.master], [], [], until - time.monotonic())[0], self.said
            try:
                data = os.read(self.master, 65536)
            except OSError:
                data = b""
            if not data:
                assert text is None, self.said
                break
            self.said += data.decode()
        return self.said.replace("\r\n", "\n")

    def answer(self, text):
        os.write(self.master, text.encode())

    def interrupt(self):
        """Ctrl-C, pressed until it is heard: one just before the line is read may be lost."""
        until = time.monotonic() + PATIENCE
        while "cancelled" not in self.said and time.monotonic() < until:
            self.process.send_signal(signal.SIGINT)
            if select.select([self.master], [], [], 1.0)[0]:
                self.said += os.read(self.master, 65536).decode()

    def end(self):
        said = self.until()
        os.close(self.master)
        return self.process.wait(PATIENCE), said


def names(inside):
    return [row["name"] for row in inside.json("plugin", "list")]


def row(inside, name="demo"):
    return next(row for row in inside.json("plugin", "list") if row.get("name") == name)


def test_pack_says_where_and_what(inside, folder):
    target = folder.parent / "out"
    target.mkdir()
    said = inside.run("plugin", "pack", str(folder), "-o", str(target)).stdout
    assert str(target / "demo-1.0.0.clawplugin") in said and "2 files" in said
    told = inside.json("plugin", "pack", str(folder), "-o", str(target))
    assert told["hash"] in said and told["files"] == 2
    (folder / "plugin.toml").write_text("[plugin")
    assert "plugin.toml" in inside.run("plugin", "pack", str(folder), code=1).stderr


def test_sign_makes_a_key_and_verify_knows_it(inside, packed):
    assert "nobody" in inside.run("plugin", "verify", str(packed)).stdout
    assert inside.run("plugin", "verify", str(packed), "--trusted", code=1).stderr.count(
        "not_granted"
    )
    done = inside.run("plugin", "sign", str(packed))
    assert "made a key of your own" in done.stderr
    told = inside.json("plugin", "verify", str(packed), "--trusted")
    assert (told["signed"], told["trusted"], told["name"]) == (True, True, "default")
    assert told["key"] in done.stdout
    raw = bytearray(packed.read_bytes())
    raw[-200] ^= 1
    packed.write_bytes(raw)
    assert inside.json("plugin", "verify", str(packed), code=1)["error"]["code"] == "bad_package"


def test_keys_of_others(inside, packed):
    assert "no key is trusted" in inside.run("plugin", "trust").stdout
    key = inside.json("plugin", "keygen", "ada")["key"]
    assert inside.run("plugin", "keygen", "bob").stdout.startswith("ed25519:")
    assert set(inside.json("plugin", "trust")) == {"ada", "bob"}
    inside.run("plugin", "sign", str(packed), "--key", "ada")
    assert "is trusted no more" in inside.run("plugin", "trust", "--remove", key).stdout
    assert "a key that you have not trusted" in inside.run("plugin", "verify", str(packed)).stdout
    inside.run("plugin", "trust", key, "--name", "countess")
    assert "countess (ed25519:" in inside.run("plugin", "verify", str(packed)).stdout
    assert "countess" in inside.run("plugin", "trust").stdout
    for wrong in (("trust", "rsa:AAAA"), ("trust", key, "--name", "bob"), ("keygen", "../x"),
                  ("keygen", "ada"), ("sign", str(packed), "--key", "eve")):  # fmt: skip
        assert "bad_params" in inside.run("plugin", *wrong, code=1).stderr
    assert "Which key?" in inside.run("plugin", "trust", "--remove", code=2).stderr


def test_without_a_terminal_it_needs_yes(inside, packed):
    done = inside.run("plugin", "install", str(packed), code=1)
    assert "read /srv/maps" in done.stdout and "“to draw them”" in done.stdout
    assert f"claw plugin install {packed} --yes" in done.stderr and "not_granted" in done.stderr
    assert "demo" not in names(inside)
    assert inside.json("plugin", "install", str(packed), code=1)["error"]["code"] == "not_granted"
    told = inside.json("plugin", "install", str(packed), "--yes")
    assert [each["kind"] for each in told["granted"]] == ["read", "network"]
    assert (row(inside)["state"], row(inside)["source"]) == ("ready", "package")


def test_who_asks_for_nothing_is_not_asked_about(inside, folder):
    plugin(folder)
    said = inside.run("plugin", "install", str(folder)).stdout
    assert "asks for nothing" in said and "signed by  nobody" in said
    assert row(inside)["state"] == "ready"
    there = inside.home / "data" / "clawai" / "plugins" / "demo"
    (there / "claw_demo.py").write_text("# mine now\n")
    assert row(inside)["state"] == "edited"
    with develop.Session(there, granted=True):
        assert row(inside)["state"] == "in development"


def test_the_question_at_a_terminal(inside, packed):
    asked = Terminal(inside, "plugin", "install", str(packed))
    said = asked.until("[y/N]")
    assert "connect to api.example.org, port 443" in said and "“the news”" in said
    asked.answer("n\n")
    code, said = asked.end()
    assert code == 1 and "nothing was installed" in said and "demo" not in names(inside)
    asked = Terminal(inside, "plugin", "install", str(packed))
    asked.until("[y/N]")
    asked.interrupt()
    code, said = asked.end()
    assert code == 130 and "cancelled" in said and "demo" not in names(inside)
    asked = Terminal(inside, "plugin", "install", str(packed))
    asked.until("[y/N]")
    asked.answer("y\n")
    code, said = asked.end()
    assert code == 0 and "✓ demo 1.0.0 is installed" in said
    assert [each.name for each in (inside.home / "data" / "clawai" / "plugins").iterdir()] == [
        "demo"
    ]


def test_killed_while_it_asks(inside, packed):
    asked = Terminal(inside, "plugin", "install", str(packed))
    asked.until("[y/N]")
    asked.process.send_signal(signal.SIGKILL)
    asked.end()
    place = inside.home / "data" / "clawai" / "plugins"
    assert len(list(place.iterdir())) == 1  # its copy, which the next command sweeps away
    assert "demo" not in names(inside)
    assert not list(place.iterdir())


def test_an_upgrade_shows_the_difference(inside, folder):
    inside.run("plugin", "install", str(folder), "--yes")
    kept, new = 'read = { "/srv/maps" = "to draw" }\n', 'listen = { "8080" = "to show" }\n'
    plugin(folder, version="1.1.0", permissions=kept + new)
    done = inside.run("plugin", "install", str(folder), code=1)
    more, before, gone = (
        done.stdout.index(text)
        for text in ("more than version 1.0.0 was granted", "goes on having", "no longer asks to")
    )
    assert more < done.stdout.index("TCP port 8080") < before
    assert before < done.stdout.index("/srv/maps") < gone < done.stdout.index("api.example.org")
    inside.run("plugin", "install", str(folder), "--yes")
    done = inside.run("plugin", "install", str(folder))
    assert "asks for:" not in done.stdout and "installed again" in done.stdout
    plugin(folder, version="1.0.9", permissions=kept)
    assert "--force" in inside.run("plugin", "install", str(folder), "--yes", code=1).stderr
    inside.run("plugin", "install", str(folder), "--force")
    assert row(inside)["version"] == "1.0.9"


def test_another_signer_is_said_and_asked_about(inside, packed):
    inside.run("plugin", "sign", str(packed))
    inside.run("plugin", "install", str(packed), "--yes")
    inside.run("plugin", "keygen", "eve")
    inside.run("plugin", "sign", str(packed), "--key", "eve")
    done = inside.run("plugin", "install", str(packed), code=1)
    assert "Careful" in done.stdout and "signed by another" in done.stderr
    inside.run("plugin", "install", str(packed), "--yes")
    assert row(inside)["signer"]["name"] == "eve"


def test_remove_and_its_data(inside, folder):
    data = inside.home / "data" / "clawai" / "plugin-data" / "demo"
    for words, stays in (((), True), (("--data",), False)):
        data.mkdir(parents=True, exist_ok=True)
        (data / "kept.txt").write_text("kept")
        inside.run("plugin", "install", str(folder), "--yes")
        inside.run("plugin", "remove", "demo", *words)
        assert data.exists() == stays and "demo" not in names(inside)
    grants = inside.home / "config" / "clawai" / "grants.json"
    assert json.loads(grants.read_text())["plugins"] == {}
    assert inside.run("plugin", "remove", "demo", code=1).stderr.count("unknown_plugin")
    assert inside.run("plugin", "remove", "echo", code=1).stderr.count("not_permitted")
    assert inside.run("plugin", "remove", "../../x", code=1).stderr.count("unknown_plugin")


def test_list_and_info_say_who_may_not_start(inside, folder):
    place = inside.home / "data" / "clawai" / "plugins"
    place.mkdir(parents=True)
    plugin(place / "demo", permissions=ASKS)
    plugin(place / "quiet", name="quiet")
    (place / "broken").mkdir()
    (place / "broken" / "plugin.toml").write_text("[plugin")
    listed = {each.get("name"): each for each in inside.json("plugin", "list")}
    assert (listed["demo"]["state"], listed["demo"]["source"]) == ("not granted", "copied")
    assert (listed["quiet"]["state"], listed["echo"]["source"]) == ("ready", "bundled")
    done = inside.run("plugin", "list")
    assert f"claw plugin install {place / 'demo'}" in done.stderr and "broken" in done.stderr
    assert "Not started:" in inside.run("plugin", "info", "demo").stdout
    inside.run("plugin", "install", str(place / "demo"), "--yes")
    (place / "demo" / "claw_demo.py").write_text("")
    assert row(inside)["state"] == "changed"
    assert "claw plugin install" in inside.run("plugin", "info", "demo").stdout
    assert "broken" in inside.run("plugin", "info", "broken", code=1).stderr
    assert "did you mean quiet" in inside.run("plugin", "info", "quite", code=1).stderr


def test_info_of_a_package_a_folder_and_what_is_bundled(inside, folder, packed):
    for what in (folder, packed):
        said = inside.run("plugin", "info", str(what)).stdout
        assert "demo.say  (idempotent)" in said and "times: int = 1" in said and "Say it." in said
        assert "read /srv/maps" in said and "not installed from here" in said
    assert "demo" not in names(inside)
    told = inside.json("plugin", "info", "echo")
    assert {each["name"]: each["type"] for each in told["operations"][0]["parameters"]}["text"]
    assert told["permissions"] == []
    assert inside.json("plugin", "info", "engine")["permissions"][0]["kind"] == "threads"


def test_narrow_terminals_and_strange_texts(inside, folder):
    long = "x" * 60 + " " + "y" * 60
    plugin(folder, permissions=f'read = {{ "/srv/maps" = "{long}" }}\n')
    shown = Terminal(inside, "plugin", "info", str(folder), columns=60)
    code, said = shown.end()
    assert code == 0 and "“" + "x" * 60 in said and "\n      " + "y" * 60 in said
    evil = folder.parent / "evil.clawplugin"
    evil.write_bytes(forged({"plugin.toml": b"", "\x1b]0;gone\x07\x1b[2J": b""}))
    for words in (("install", "--yes"), ("verify",), ("info",)):
        done = inside.run("plugin", words[0], str(evil), *words[1:], code=1)
        assert "\x1b" not in done.stdout + done.stderr and "bad_package" in done.stderr
    evil.write_bytes(forged({"plugin.toml": b'[plugin]\nname="a"\nversion="1"\nmodule="m"\n'}))
    assert "another name" in inside.run("plugin", "verify", str(evil), code=1).stderr
    (folder / "plugin.toml").write_text('[plugin]\nname = "demo"\nversion = "1"\nmodule = "m"\n'
                                        'description = "\\u001b[2Jnothing to see"\n')  # fmt: skip
    done = inside.run("plugin", "install", str(folder), "--yes", code=1)
    assert "\x1b" not in done.stdout + done.stderr and "plugin.description" in done.stderr


def test_wrong_words(inside, folder, tmp_path):
    assert "unknown_plugin" in inside.run("plugin", "install", "no-such-thing", code=1).stderr
    assert "There is no file" in inside.run("plugin", "verify", str(tmp_path / "no"), code=2).stderr
    assert "There is no folder" in inside.run("plugin", "pack", str(tmp_path / "no"), code=2).stderr
    (tmp_path / "text").write_text("hello")
    for verb in ("install", "verify", "sign", "info"):
        assert "bad_package" in inside.run("plugin", verb, str(tmp_path / "text"), code=1).stderr
    assert "plugin.toml" in inside.run("plugin", "install", str(tmp_path), code=1).stderr
    assert not (inside.home / "config" / "clawai" / "plugin-keys").exists()
