"""Signatures: whose they are, and that another package, key or byte does not pass."""

import stat
from pathlib import Path

import pytest

from clawai.sdk import contents, package, signing
from clawai.sdk.errors import ClawError
from clawai.sdk.manifest import read_plugin
from plugin_folders import homes, plugin


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> contents.Contents:
    homes(tmp_path, monkeypatch)
    folder = plugin(tmp_path / "demo")
    return contents.collect(folder, read_plugin(folder))


def test_keys_are_the_owners_alone(found: contents.Contents) -> None:
    key = signing.generate("ada")
    path = signing.keys_dir() / "ada.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(signing.trusted_file().stat().st_mode) == 0o600
    assert signing.trusted() == {"ada": key} and signing.name_of(key) == "ada"
    with pytest.raises(ClawError, match="already"):
        signing.generate("ada")
    path.chmod(0o666)
    with pytest.raises(ClawError) as caught:
        signing.sign(found, "ada")
    assert caught.value.code == "not_permitted"


def test_a_signature_is_of_one_key_for_one_plugin(found: contents.Contents) -> None:
    key, other = signing.generate("ada"), signing.generate("bob")
    made = signing.sign(found, "ada")
    assert signing.check(found, made.encoded()) == key
    assert signing.check(found, b"") == ""
    changed = contents.Contents(1, found.name, "1.0.1", found.files)
    for what, raw in (
        (changed, made.encoded()),
        (found, signing.Signature(other, made.signature).encoded()),
        (found, made.encoded() + b" "),
        (found, b"{}"),
        (found, b"\xff"),
        (found, signing.Signature("ed25519:AAAA", made.signature).encoded()),
        (found, signing.Signature(key, made.signature[:-4]).encoded()),
    ):
        with pytest.raises(ClawError) as caught:
            signing.check(what, raw)
        assert caught.value.code == "bad_package"


def test_trust_comes_and_goes(found: contents.Contents) -> None:
    key, other = signing.generate("ada"), signing.generate("bob")
    assert signing.distrust("ada") == key
    assert signing.name_of(key) == ""
    with pytest.raises(ClawError, match="no trusted key"):
        signing.distrust("ada")
    with pytest.raises(ClawError, match="another key"):
        signing.trust("bob", key)
    for wrong in ("", "ed25519:", "ed25519:AAAA", other[8:], f"{other}=", f"rsa:{other[8:]}"):
        with pytest.raises(ClawError, match="no public key"):
            signing.trust("carl", wrong)
    for name in ("", "../x", "a b", "\x1b"):
        with pytest.raises(ClawError, match="no name"):
            signing.trust(name, key)
    with pytest.raises(ClawError, match="there is no key"):
        signing.sign(found, "carl")


def test_another_signature_takes_the_place_of_the_first(
    found: contents.Contents, tmp_path: Path
) -> None:
    path, _ = package.pack(tmp_path / "demo", tmp_path)
    plain = path.read_bytes()
    for name in ("ada", "bob"):
        key = signing.generate(name)
        package.with_signature(path, path, found, signing.sign(found, name).encoded())
        read = package.read(path)
        assert signing.check(read.contents, read.signature) == key
    package.with_signature(path, path, found, b"")
    assert path.read_bytes() == plain
