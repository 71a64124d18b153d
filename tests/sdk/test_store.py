"""The store: models appear and disappear whole, and damage is told."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clawai.sdk.errors import ClawError
from clawai.sdk.manifest import Model
from clawai.sdk.store import Store

DATA = b"GGUF" + bytes(range(256)) * 8


def model(name: str = "mine", data: bytes = DATA) -> Model:
    return Model(
        name=name,
        file="mine.gguf",
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        capability="llm",
    )


def publish(store: Store, name: str = "mine", data: bytes = DATA):
    with store.lock(name):
        staged = store.staging(name) / "whole"
        staged.write_bytes(data)
        return store.publish(staged, model(name, data))


def code(call, *args) -> ClawError:
    with pytest.raises(ClawError) as caught:
        call(*args)
    return caught.value


def test_an_empty_store_lists_nothing(home):
    assert Store().list() == ([], [])


def test_a_published_model_is_listed_found_and_verified(home):
    store = Store()
    found = publish(store)
    assert store.list() == ([found], [])
    assert store.get("mine") == found
    assert found.path.read_bytes() == DATA
    seen = []
    assert store.verify("mine", lambda done, total: seen.append((done, total))) == found
    assert seen[-1] == (len(DATA), len(DATA))
    assert not (store.root / ".staging" / "mine").exists()


def test_publishing_again_replaces(home):
    store = Store()
    publish(store)
    assert publish(store, data=b"GGUF new").path.read_bytes() == b"GGUF new"
    assert len(store.list()[0]) == 1


def test_remove_tells_the_bytes_and_leaves_nothing(home):
    store = Store()
    publish(store)
    assert store.remove("mine") > len(DATA)
    assert store.list() == ([], [])
    assert {path.name for path in store.root.iterdir()} == {".locks", ".staging"}
    assert code(store.remove, "mine").code == "unknown_model"


def test_remove_takes_a_half_pulled_model_too(home):
    store = Store()
    with store.lock("half"):
        (store.staging("half") / "000.part").write_bytes(b"x" * 100)
    assert store.remove("half") == 100


def test_a_changed_byte_is_found(home):
    store = Store()
    found = publish(store)
    found.path.write_bytes(DATA[:-1] + b"!")
    error = code(store.verify, "mine")
    assert error.code == "bad_download"
    assert error.allowed == found.model.sha256
    assert error.got != error.allowed


@pytest.mark.parametrize("damage", ["cut", "gone", "json", "other name", "other file"])
def test_a_damaged_model_says_so_and_can_be_removed(home, damage):
    store = Store()
    found = publish(store)
    record = found.path.with_name("model.json")
    match damage:
        case "cut":
            found.path.write_bytes(DATA[:-1])
        case "gone":
            found.path.unlink()
        case "json":
            record.write_text("{")
        case "other name":
            record.write_text(record.read_text().replace('"mine"', '"yours"'))
        case "other file":
            record.write_text(record.read_text().replace("mine.gguf", "../mine.gguf"))
    error = code(store.get, "mine")
    assert error.code == "bad_config"
    models, broken = store.list()
    assert models == [] and [each.code for each in broken] == ["bad_config"]
    store.remove("mine")
    assert store.list() == ([], [])


def test_an_alias_finds_the_model(home):
    store = Store()
    publish(store, "smollm2")
    assert store.get("smollm2-135m").model.name == "smollm2"
    store.remove("smollm2-135m")
    assert store.list() == ([], [])


def test_a_model_that_could_be_pulled_names_the_command(home):
    error = code(Store().get, "smollm2")
    assert error.code == "unknown_model"
    assert "claw pull smollm2" in error.hint


def test_a_misspelt_stored_model_gets_the_nearest(home):
    store = Store()
    publish(store, "my-model")
    assert "my-model" in code(store.get, "mymodel").hint


@pytest.mark.parametrize("name", ["../x", "a/b", ".locks", "", "A", "x" * 65, "a\n"])
def test_a_name_never_leaves_the_store(home, name):
    store = Store()
    publish(store)
    assert code(store.get, name).code == "unknown_model"
    for call in (store.remove, lambda each: store.lock(each).__enter__()):
        assert code(call, name).code in ("bad_params", "unknown_model")
    assert (store.root / "mine").is_dir()


def test_a_lock_holds_between_processes_and_ends_with_its_holder(home):
    store = Store()
    program = (
        "import sys; from clawai.sdk.store import Store\n"
        "with Store().lock('mine'): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        waited = []

        def waiting() -> None:
            waited.append(True)
            holder.kill()  # a crash must not leave the lock behind

        with store.lock("mine", waiting):
            assert waited == [True]
    finally:
        holder.kill()
        holder.communicate()


def test_hidden_folders_and_files_are_no_models(home):
    store = Store()
    publish(store)
    (store.root / ".x").mkdir()
    Path(store.root / "note.txt").write_text("x")
    assert [each.model.name for each in store.list()[0]] == ["mine"]
    assert store.list()[1] == []


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_only_a_regular_file_is_a_model(home, kind):
    """A pipe would let the reader wait for ever, and a link to a device never end."""
    store = Store()
    found = publish(store)
    found.path.unlink()
    match kind:
        case "pipe":
            os.mkfifo(found.path)
        case "link":
            found.path.symlink_to("/dev/zero")
        case "folder":
            found.path.mkdir()
    for call in (store.get, store.verify):
        error = code(call, "mine")
        assert error.code == "bad_config"
        assert "no regular file" in error.message


def test_a_manifest_that_is_a_pipe_is_refused(home):
    store = Store()
    found = publish(store)
    manifest = found.path.with_name("model.json")
    manifest.unlink()
    os.mkfifo(manifest)
    assert code(store.get, "mine").code == "bad_config"


def test_of_a_linked_folder_only_the_link_is_deleted(home, tmp_path):
    store = Store()
    found = publish(store)
    elsewhere = tmp_path / "elsewhere"
    found.path.parent.rename(elsewhere)
    (store.root / "mine").symlink_to(elsewhere)
    assert store.get("mine").path.is_file()
    assert store.remove("mine") == 0
    assert not (store.root / "mine").is_symlink()
    assert (elsewhere / "mine.gguf").read_bytes() == DATA
