"""Packages: the same bytes everywhere, a changed one is found, a hostile one leaves nothing."""

import io
import os
import stat
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest

from clawai.sdk import contents, package, signing
from clawai.sdk.errors import ClawError
from clawai.sdk.manifest import read_plugin
from plugin_folders import forged, homes, plugin, refused_by, zipped

FILES = {"data/Maps/a.bin": bytes(range(256)), "lib.so": b"\x7fELF", "größe.txt": "ä", "empty": ""}
MANIFEST = b'[plugin]\nname = "demo"\nversion = "1.0.0"\nmodule = "m"\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    homes(tmp_path, monkeypatch)
    made = plugin(tmp_path / "demo", files=FILES)
    (made / "lib.so").chmod(0o755)
    return made


def packed(folder: Path, signed: bool = False) -> bytes:
    path, found = package.pack(folder, folder.parent)
    if signed:
        if not signing.has_key("default"):
            signing.generate("default")
        package.with_signature(path, path, found, signing.sign(found, "default").encoded())
    return path.read_bytes()


def test_what_is_packed_comes_out_again(folder: Path, tmp_path: Path) -> None:
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.pyc").write_bytes(b"x")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("x")
    path, found = package.pack(folder, tmp_path)
    assert path == tmp_path / "demo-1.0.0.clawplugin"
    out = tmp_path / "out"
    out.mkdir()
    assert (
        package.read(path, out).contents == found == contents.collect(folder, read_plugin(folder))
    )
    assert {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()} == {
        "plugin.toml", "claw_demo.py", *FILES,
    }  # fmt: skip
    for name in found.files:
        assert (out / name).read_bytes() == (folder / name).read_bytes()
    assert [name for name, item in found.files.items() if item.executable] == ["lib.so"]
    with zipfile.ZipFile(path) as archive:  # any tool can read it
        assert archive.testzip() is None
        assert archive.namelist() == ["clawplugin.json", *sorted(found.files)]
        assert archive.getinfo("lib.so").external_attr >> 16 == stat.S_IFREG | 0o755


def test_the_same_plugin_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    first = packed(folder)
    code = "import sys; from pathlib import Path; from clawai.sdk import package\n"
    code += "package.pack(Path(sys.argv[1]), Path(sys.argv[2]))"
    before = os.umask(0o077)
    try:
        for number, seed in enumerate(("1", "4242")):
            other = tmp_path / f"other{number}" / "copy"
            # In another order, at another time, with other modes for others.
            for name in sorted(contents.collect(folder, read_plugin(folder)).files, reverse=True):
                (other / name).parent.mkdir(parents=True, exist_ok=True)
                (other / name).write_bytes((folder / name).read_bytes())
            (other / "lib.so").chmod(0o700)
            os.utime(other / "plugin.toml", (1, 1))
            target = tmp_path / f"again{number}"
            env = os.environ | {"PYTHONHASHSEED": seed, "TZ": "Asia/Tokyo"}
            subprocess.run([sys.executable, "-c", code, other, target], env=env, check=True)
            assert target.read_bytes() == first
    finally:
        os.umask(before)


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_a_changed_byte_anywhere_is_found(tmp_path: Path, signed: bool, monkeypatch) -> None:
    homes(tmp_path, monkeypatch)
    raw = packed(plugin(tmp_path / "demo"), signed)
    undetected = []
    for place in range(len(raw)):
        changed = bytearray(raw)
        changed[place] ^= 1 << (place % 8)
        try:
            found = package.unpack(io.BytesIO(changed), "it")
            signing.check(found.contents, found.signature)
            undetected.append(place)
        except ClawError as error:
            assert error.code == "bad_package", error
    assert not undetected


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_a_cut_or_longer_one_is_refused(folder: Path, signed: bool) -> None:
    raw = packed(folder, signed)
    for length in {*range(0, len(raw), 7), len(raw) - 1}:
        refused_by(raw[:length])
    refused_by(raw + b"\0")
    refused_by(b"#!/bin/sh\n" + raw)
    assert package.unpack(io.BytesIO(raw), "it").contents.name == "demo"


def index_of(raw: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        return archive.read("clawplugin.json")


NAMES = {
    "out of the folder": "../evil",
    "out, deeper": "a/../../evil",
    "absolute": "/etc/evil",
    "a drive": "C:/evil",
    "a backslash": "..\\evil",
    "a dot": "./evil",
    "an empty part": "a//evil",
    "a folder as a file": "evil/",
    "a control character": "ev\x1b[31mil",
    "a line": "ev\nil",
    "reads backwards": "ev\u202eil",
    "compiled": "__pycache__/m.cpython-311.pyc",
    "hidden": ".evil",
    "hidden, deeper": "a/.evil/b",
    "too long": "x" * 241,
    "too deep": "/".join("abcdefghijklmnopq"),
    "our own name": "clawplugin.sig",
    "empty": "",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_bad_names_are_refused_and_write_nothing(name: str, tmp_path: Path) -> None:
    out = tmp_path / "in" / "out"
    out.mkdir(parents=True)
    refused_by(forged({"plugin.toml": MANIFEST, name: b"evil"}), out)
    assert list(tmp_path.rglob("*")) == [tmp_path / "in", out]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a.py", "A.py"),
        ("x/a", "X/b"),
        ("stra\u00dfe", "STRASSE"),
        ("\u00e9", "e\u0301"),
        ("a", "a/b"),
    ],
)
def test_names_that_collide_on_some_boxes(one: str, other: str, tmp_path: Path) -> None:
    refused_by(forged({"plugin.toml": MANIFEST, one: b"1", other: b"2"}), tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_index_that_lies(tmp_path: Path) -> None:
    good = {"plugin.toml": MANIFEST, "a": b"aaaa"}
    package.unpack(io.BytesIO(forged(good)), "it")

    def file(key: str, value: object):
        return lambda index: index["files"]["a"].update({key: value})

    for change in (
        file("sha256", "0" * 64),
        file("sha256", "A" * 64),
        file("size", 3),
        file("size", 5),
        file("size", -1),
        file("size", 1 << 40),
        file("executable", 1),
        file("mode", "0777"),
        lambda index: index.update(format=2),
        lambda index: index.update(more=1),
        lambda index: index["files"].pop("a"),  # a file that the index does not name
        lambda index: index["files"].update(b=index["files"]["a"]),  # one that is not there
        lambda index: index["files"].pop("plugin.toml"),
    ):
        refused_by(forged(good, change))
    newer = forged(good, lambda index: index.update(format=2, more=1))
    assert "a newer ClawAI may read it" in refused_by(newer)
    refused_by(forged({"a": b"no manifest"}))


def test_an_index_in_another_form() -> None:
    raw = forged({"plugin.toml": MANIFEST})
    index = index_of(raw)
    twice = index.replace(b' "format"', b' "format": 1,\n "format"')
    for other in (index.replace(b"\n", b""), index + b" ", twice, b"[" * 100_000, b"{}", b"\xff"):
        parts = [("clawplugin.json", other), ("plugin.toml", MANIFEST)]
        entries = [package._Entry(n, len(d), zlib.crc32(d), False) for n, d in parts]
        body = b"".join(e.local() + d for e, (_, d) in zip(entries, parts, strict=True))
        refused_by(body + package._directory(entries))


def test_zip_files_of_other_tools(tmp_path: Path) -> None:
    """Links, two entries of a name, compressed bombs, encryption: nothing of that is a package."""
    index = index_of(forged({"plugin.toml": MANIFEST, "a": b"0" * 100}))
    plain = [("clawplugin.json", index), ("a", b"0" * 100), ("plugin.toml", MANIFEST)]
    link = zipfile.ZipInfo("a")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    attacks = {
        "as a tool writes it": zipped(plain),
        "compressed": zipped(plain, zipfile.ZIP_DEFLATED),
        "a bomb": zipped([("clawplugin.json", b"0" * (64 << 20))], zipfile.ZIP_DEFLATED),
        "a link": zipped([plain[0], (link, b"/etc/passwd"), plain[2]]),
        "nothing": b"",
        "no zip": b"PK" * 1000,
        "empty zip": zipped([]),
    }
    with pytest.warns(UserWarning, match="Duplicate"):
        attacks["a name twice"] = zipped([*plain, ("a", b"1" * 100)])
    for raw in attacks.values():
        refused_by(raw, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_link_in_the_directory_only(folder: Path) -> None:
    """The files are right, but their directory, which other tools believe, says one is a link."""
    raw = bytearray(packed(folder))
    place = raw.rindex(b"empty") - 8  # the attributes stand 8 bytes before the name
    raw[place : place + 4] = ((stat.S_IFLNK | 0o777) << 16).to_bytes(4, "little")
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        assert stat.S_ISLNK(archive.getinfo("empty").external_attr >> 16)
    assert "directory" in refused_by(bytes(raw))


def test_too_many_and_too_large(tmp_path: Path) -> None:
    many = {f"f{number}": b"" for number in range(contents.FILES)} | {"plugin.toml": MANIFEST}
    assert "too much" in refused_by(forged(many))
    big = [f"b{number}" for number in range(5)]

    def grow(index: dict) -> None:
        for name in big:
            index["files"][name]["size"] = contents.BYTES // 4

    assert "too much" in refused_by(
        forged(dict.fromkeys(big, b"") | {"plugin.toml": MANIFEST}, grow)
    )


@pytest.mark.parametrize("what", ["link", "folder link", "pipe", "collision", "reserved", "name"])
def test_folders_that_cannot_be_packed(folder: Path, what: str) -> None:
    match what:
        case "link":
            (folder / "link").symlink_to("/etc/passwd")
        case "folder link":
            (folder / "data" / "link").symlink_to("/etc")
        case "pipe":
            os.mkfifo(folder / "pipe")
        case "collision":
            (folder / "EMPTY").touch()
        case "reserved":
            (folder / "clawplugin.json").touch()
        case "name":
            (folder / "a\nb").touch()
    with pytest.raises(ClawError) as caught:
        package.pack(folder, folder.parent)
    assert caught.value.code == "bad_package"
    assert not list(folder.parent.glob("*clawplugin*"))


def test_too_much_to_pack(folder: Path) -> None:
    deep = folder.joinpath(*["d"] * contents.DEPTH)
    deep.mkdir(parents=True)
    (deep / "f").touch()
    with pytest.raises(ClawError, match="within each other"):
        package.pack(folder, folder.parent)
    with (folder / "data" / "large").open("wb") as file:
        file.truncate(contents.BYTES + 1)
    (folder / "d").rename(folder.parent / "d")
    with pytest.raises(ClawError, match="too large"):
        package.pack(folder, folder.parent)


def test_a_package_in_the_folder_is_not_packed_again(folder: Path) -> None:
    first, found = package.pack(folder, folder)
    again, same = package.pack(folder, folder)
    assert (first, found) == (again, same)
