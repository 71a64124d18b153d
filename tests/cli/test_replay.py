"""`claw replay`: the journal of the box's kernel, through the program that replays it."""

import json


def test_without_a_journal_it_says_how_to_get_one(box):
    assert "claw up" in box.run("replay", code=1).stderr


def test_the_journal_of_the_box_replays(box):
    box.run("call", "echo.say", "text=s3cret")
    box.run("call", "echo.count", "upto=3")
    box.run("down")
    assert "the same instructions as in the field" in box.run("replay").stdout
    shown = box.run("replay", "--show").stdout
    assert "Submitted(" in shown
    assert "-> Reply(" in shown
    assert "s3cret" not in shown
    found = json.loads(box.run("replay", "--json", "--until", "5").stdout)
    assert found["same"]
    assert found["last"] == 5
    assert "state after event 5" in box.run("replay", "--until", "5").stdout
    folder = box.home / "state" / "clawai" / "journal"
    assert json.loads(box.run("replay", "--json", str(folder)).stdout)["same"]


def test_what_is_no_journal_is_refused_in_a_line(box):
    file = box.home / "noise"
    file.write_bytes(b"noise" * 100)
    for path in (file, box.home, box.home / "nothing"):
        done = box.run("replay", str(path), code=1)
        assert done.stderr.startswith("claw: ")
        assert "Traceback" not in done.stderr
    found = json.loads(box.run("replay", "--json", str(file), code=1).stdout)
    assert found["error"]["code"] == "bad_config"


def test_the_journal_can_be_turned_off(box):
    box.run("config", "set", "journal.enabled", "false")
    box.run("call", "echo.say", "text=x")
    box.run("down")
    assert "no journal" in box.run("replay", code=1).stderr
