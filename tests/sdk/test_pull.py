"""Pulling: every source brings the very file or a typed error, and leaves nothing half done."""

import errno
import hashlib
import io
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tarfile
import threading
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest

from clawai.sdk import fetch, pull
from clawai.sdk.catalogue import Entry
from clawai.sdk.errors import ClawError
from clawai.sdk.store import Store
from web_files import serve

DATA = b"GGUF" + os.urandom(300_000)


def entry(source, data: bytes = DATA, **changes) -> Entry:
    fields = {
        "source": source,
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "licence": "MIT",
        "capability": "llm",
        "file": "model.gguf",
        "name": "mine",
    }
    return Entry(**(fields | changes))


def code(call, *args, **options) -> ClawError:
    with pytest.raises(ClawError) as caught:
        call(*args, **options)
    return caught.value


def nothing_left(store: Store) -> None:
    """Neither a model nor a byte of one."""
    assert store.list() == ([], [])
    left = [path for path in (store.root / ".staging").rglob("*") if path.is_file()]
    assert left == []


@pytest.fixture(autouse=True)
def no_waits(monkeypatch, home):
    monkeypatch.setattr(fetch, "BACKOFF_S", (0.0, 0.0, 0.0, 0.0))


# Local files.


def test_a_local_file_is_copied_verified_and_described(tmp_path):
    source = tmp_path / "a b.gguf"
    source.write_bytes(DATA)
    seen = []
    found = pull.pull(
        pull.describe(str(source), "mine"), progress=lambda done, total: seen.append((done, total))
    )
    assert found.path.read_bytes() == DATA
    assert found.path.name == "mine.gguf"  # a name with a blank is not taken over
    assert found.model.sha256 == hashlib.sha256(DATA).hexdigest()
    assert found.model.source == f"file:{tmp_path}/a%20b.gguf"
    assert found.model.pulled_at.endswith("Z")
    assert seen[-1] == (len(DATA), len(DATA))
    assert source.read_bytes() == DATA


def test_pulling_again_fetches_nothing(tmp_path):
    source = tmp_path / "a.gguf"
    source.write_bytes(DATA)
    wanted = entry(f"file:{source}")
    first = pull.pull(wanted)
    source.unlink()
    assert pull.pull(wanted) == first


def test_a_wrong_hash_stores_nothing(tmp_path):
    source = tmp_path / "a.gguf"
    source.write_bytes(DATA[:-1] + b"!")
    error = code(pull.pull, entry(f"file:{source}"))
    assert error.code == "bad_download"
    assert (error.got, error.allowed) == (
        hashlib.sha256(DATA[:-1] + b"!").hexdigest(),
        hashlib.sha256(DATA).hexdigest(),
    )
    nothing_left(Store())


@pytest.mark.parametrize("data", [DATA[:-1], DATA + b"!", b""])
def test_a_wrong_size_stores_nothing(tmp_path, data):
    source = tmp_path / "a.gguf"
    source.write_bytes(data)
    assert code(pull.pull, entry(f"file:{source}")).code == "bad_download"
    nothing_left(Store())


def test_a_model_that_is_no_gguf_is_refused(tmp_path):
    source = tmp_path / "notes.gguf"
    source.write_bytes(b"these are notes")
    error = code(pull.pull, pull.describe(str(source), "notes"))
    assert error.code == "bad_model"
    nothing_left(Store())


def test_a_damaged_model_is_pulled_again(tmp_path):
    source = tmp_path / "a.gguf"
    source.write_bytes(DATA)
    found = pull.pull(entry(f"file:{source}"))
    found.path.write_bytes(b"cut")
    assert pull.pull(entry(f"file:{source}")).path.read_bytes() == DATA


def test_a_file_of_the_web_needs_its_hash():
    error = code(pull.describe, "https://host/a.gguf", "mine")
    assert error.code == "bad_params"
    assert "--sha256" in error.hint


def test_parts_are_joined_in_order(tmp_path):
    parts = []
    for number in range(3):
        parts.append(f"file:{tmp_path}/part{number}")
        (tmp_path / f"part{number}").write_bytes(DATA[number * 100_000 :][: 100_000 + number * 4])
    whole = b"".join((tmp_path / f"part{number}").read_bytes() for number in range(3))
    assert pull.pull(entry(tuple(parts), whole)).path.read_bytes() == whole


def test_parts_that_are_too_long_together_are_refused(tmp_path):
    (tmp_path / "a").write_bytes(DATA)
    error = code(pull.pull, entry((f"file:{tmp_path}/a", f"file:{tmp_path}/a")))
    assert error.code == "bad_download"
    nothing_left(Store())


def test_a_part_that_has_come_is_not_fetched_again():
    with serve(DATA[:200_000]) as first, serve(DATA[200_000:]) as second:
        wanted = entry((first.url, second.url))
        second.statuses = [404]
        assert code(pull.pull, wanted).code == "network"
        assert pull.pull(wanted).path.read_bytes() == DATA
        assert (len(first.asked), len(second.asked)) == (1, 2)


def test_what_was_fetched_for_another_entry_is_not_used():
    with serve(DATA) as web:
        web.cut_at, web.statuses = [100_000], []
        web.after_cut = lambda: web.statuses.extend([404])
        assert code(pull.pull, entry(web.url)).code == "network"
        other = b"GGUF" + DATA[:200_000]
        web.data, web.after_cut = other, None
        assert pull.pull(entry(web.url, other)).path.read_bytes() == other
        assert "Range" not in web.asked[-1]


# The web.


def test_a_file_of_the_web():
    with serve(DATA) as web:
        assert pull.pull(entry(web.url)).path.read_bytes() == DATA
        assert len(web.asked) == 1
        assert "Range" not in web.asked[0]


def test_a_cut_connection_is_resumed_in_the_same_run():
    with serve(DATA) as web:
        web.cut_at = [100_000, 50_000]
        assert pull.pull(entry(web.url)).path.read_bytes() == DATA
        assert [each.get("Range") for each in web.asked] == [None, "bytes=100000-", "bytes=150000-"]
        assert web.asked[1]["If-Range"] == '"one"'


def test_a_cut_body_without_a_length_is_found():
    with serve(DATA) as web:
        web.chunked, web.cut_at = True, [100_000]
        assert code(pull.pull, entry(web.url)).code == "bad_download"
        nothing_left(Store())


def test_an_interrupted_pull_is_resumed_by_the_next_run():
    def interrupt(done: int, total: int) -> None:
        if done > 100_000:
            raise KeyboardInterrupt

    with serve(DATA) as web:
        web.cut_at = [150_000]
        with pytest.raises(KeyboardInterrupt):
            pull.pull(entry(web.url), progress=interrupt)
        assert Store().list() == ([], [])
        assert pull.pull(entry(web.url)).path.read_bytes() == DATA
        assert web.asked[-1]["Range"].startswith("bytes=1")
        assert not (Store().root / ".staging" / "mine").exists()


def test_a_changed_file_is_not_joined_with_the_old_one():
    with serve(b"old" + DATA[3:]) as web:
        web.cut_at = [100_000]

        def change() -> None:
            web.data, web.etag = DATA, '"two"'

        web.after_cut = change
        assert pull.pull(entry(web.url)).path.read_bytes() == DATA
        assert web.asked[1]["If-Range"] == '"one"'


def test_a_server_without_ranges_starts_anew():
    with serve(DATA) as web:
        web.ranges, web.cut_at = False, [100_000]
        assert pull.pull(entry(web.url)).path.read_bytes() == DATA


@pytest.mark.parametrize(("etag", "modified"), [('W/"weak"', ""), ("", "")])
def test_nothing_resumes_without_a_strong_validator(etag, modified):
    with serve(DATA) as web:
        web.etag, web.last_modified, web.cut_at = etag, modified, [100_000]
        assert pull.pull(entry(web.url)).path.read_bytes() == DATA
        assert "Range" not in web.asked[1]


def test_the_date_of_change_is_a_validator():
    with serve(DATA) as web:
        web.etag, web.last_modified = "", "Fri, 07 Feb 2025 07:02:00 GMT"
        web.cut_at = [100_000]
        assert pull.pull(entry(web.url)).path.read_bytes() == DATA
        assert web.asked[1]["If-Range"] == web.last_modified


def test_a_wrong_length_is_refused_before_the_body():
    with serve(DATA + b"more") as web:
        error = code(pull.pull, entry(web.url))
        assert error.code == "bad_download"
        assert error.got == f"{len(DATA) + 4} bytes"
        nothing_left(Store())


def test_an_endless_body_is_cut_off():
    with serve(DATA * 3) as web:
        web.chunked = True
        assert code(pull.pull, entry(web.url)).code == "bad_download"
        nothing_left(Store())


def test_a_missing_file_is_told_at_once():
    with serve(DATA) as web:
        web.statuses = [404]
        error = code(pull.pull, entry(web.url))
        assert error.code == "network"
        assert "404" in error.got
        assert len(web.asked) == 1


def test_a_busy_server_is_asked_again():
    with serve(DATA) as web:
        web.statuses = [503, 429]
        assert pull.pull(entry(web.url)).path.read_bytes() == DATA


def test_a_dead_server_is_given_up():
    with serve(DATA) as web:
        web.statuses = [500] * 50
        assert code(pull.pull, entry(web.url)).code == "network"
        assert len(web.asked) == 4


def test_a_refused_connection_is_a_network_error():
    with serve(DATA) as web:
        gone = web.url
    assert code(pull.pull, entry(gone)).code == "network"


@pytest.mark.parametrize(
    "target", ["http://example.org/x", "ftp://example.org/x", "file:///etc/passwd"]
)
def test_a_redirect_may_not_leave_https(target):
    with serve(DATA) as web:
        web.redirect = target
        error = code(pull.pull, entry(web.url))
        assert error.code in ("bad_download", "network")
        nothing_left(Store())


def test_hugging_face_honours_endpoint_and_token_and_keeps_the_token(monkeypatch):
    with serve(DATA) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url.rpartition("/")[0])
        monkeypatch.setenv("HF_TOKEN", "secret")
        hub.redirect = hub.url.replace("/model.gguf", "/target")
        found = pull.pull(entry("hf:own/repo/q4/a b.gguf@v2"))
        assert found.path.read_bytes() == DATA
        assert hub.asked[0]["path"] == "/own/repo/resolve/v2/q4/a%20b.gguf"
        assert hub.asked[0]["Authorization"] == "Bearer secret"
        assert "Authorization" not in hub.asked[1]


def test_an_endpoint_that_is_not_safe_is_refused(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://example.org")
    assert code(pull.pull, entry("hf:own/repo/a.gguf")).code == "bad_params"


# Packages: real pip, on wheels that the test makes.


def wheel(folder: Path, members: dict[str, bytes], name: str = "claw_test_model") -> None:
    info = f"{name}-1.0.dist-info"
    files = members | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in files.items():
            archive.writestr(member, data)


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A package index of the user's: pip is told by its own settings only."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in [each for each in os.environ if each.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


SOURCE = "pypi:claw-test-model==1.0#claw_test_model/x.gguf"


def test_one_member_of_a_wheel_is_taken_and_no_more(index):
    wheel(index, {"claw_test_model/x.gguf": DATA, "claw_test_model/__init__.py": b"boom("})
    seen = []
    found = pull.pull(entry(SOURCE), progress=lambda done, total: seen.append(done))
    assert found.path.read_bytes() == DATA
    assert sorted(path.name for path in found.path.parent.iterdir()) == ["model.gguf", "model.json"]
    assert seen == sorted(seen)
    assert not (Store().root / ".staging" / "mine").exists()


def test_several_files_become_one_archive_and_their_wheel_comes_once(index, tmp_path, monkeypatch):
    members = {"a.json": b"{}", "b.bin": DATA, "c": b"local"}
    wheel(index, {f"claw_test_model/{name}": members[name] for name in ("a.json", "b.bin")})
    (tmp_path / "c").write_bytes(members["c"])
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members.items():
            told = tarfile.TarInfo(name)
            told.size = len(data)
            tar.addfile(told, io.BytesIO(data))
    # What Python's own writer pads its archives with is not ours.
    whole = out.getvalue()[: sum(512 + -(-len(each) // 512) * 512 for each in members.values())]
    whole += bytes(1024)
    fetched = []
    download = fetch._pip_download

    def counted(*args):
        fetched.append(args)
        return download(*args)

    monkeypatch.setattr(fetch, "_pip_download", counted)
    base = "pypi:claw-test-model==1.0#claw_test_model"
    sources = (f"{base}/a.json", f"{base}/b.bin", f"file:{tmp_path}/c")
    found = pull.pull(
        entry(sources, whole, members=tuple(members), capability="embedding", file="m.tar")
    )
    assert found.path.read_bytes() == whole
    assert len(fetched) == 1
    assert sorted(path.name for path in found.path.parent.iterdir()) == ["m.tar", "model.json"]
    assert not (Store().root / ".staging" / "mine").exists()


def test_a_member_name_decides_nothing_on_our_disk(index, tmp_path):
    wheel(index, {"../../../escaped": DATA})
    found = pull.pull(entry("pypi:claw-test-model==1.0#../../../escaped"))
    assert found.path.read_bytes() == DATA
    assert list(tmp_path.rglob("escaped")) == []


def test_a_missing_package_is_a_network_error_at_once(index, monkeypatch):
    tries, real = [], fetch._pip_download
    monkeypatch.setattr(fetch, "_pip_download", lambda *args: tries.append(1) or real(*args))
    error = code(pull.pull, entry(SOURCE))
    assert error.code == "network"
    assert tries == [1]
    assert "claw-test-model" in error.got
    nothing_left(Store())


def test_a_missing_member_is_a_bad_download(index):
    wheel(index, {"claw_test_model/y.gguf": DATA})
    assert code(pull.pull, entry(SOURCE)).code == "bad_download"
    nothing_left(Store())


def test_a_bomb_is_refused_by_its_size(index):
    wheel(index, {"claw_test_model/x.gguf": b"\0" * 50_000_000})
    assert code(pull.pull, entry(SOURCE)).code == "bad_download"
    nothing_left(Store())


def test_a_source_package_is_never_run(index, tmp_path):
    """pip would run its setup.py to learn the metadata."""
    folder = tmp_path / "claw-test-model-1.0"
    folder.mkdir()
    proof = tmp_path / "it-ran"
    (folder / "setup.py").write_text(f"open({str(proof)!r}, 'w')\n")
    shutil.make_archive(str(index / "claw-test-model-1.0"), "gztar", tmp_path, folder.name)
    assert code(pull.pull, entry(SOURCE)).code == "network"
    assert not proof.exists()


@pytest.mark.parametrize("cut", [10, 1000, 150_000, 299_000])
def test_a_damaged_archive_is_a_bad_download(tmp_path, cut):
    wheel(tmp_path, {"claw_test_model/x.gguf": DATA})
    path = next(tmp_path.glob("*.whl"))
    raw = bytearray(path.read_bytes())
    raw[cut : cut + 8] = b"\xff" * 8
    path.write_bytes(raw)
    target = tmp_path / "out"
    try:
        fetch._extract(path, "claw_test_model/x.gguf", target, len(DATA), lambda done: None)
    except ClawError as error:
        assert error.code == "bad_download"
    else:
        assert target.read_bytes() == DATA  # the damage hit a field that is not needed


# A full disk, and two at once.

FULL = """
import glob, os, sys, time
sys.path.insert(0, {tests!r})
from web_files import serve
from clawai.sdk import fetch, pull
from clawai.sdk.catalogue import Entry
from clawai.sdk.store import Store
import hashlib
data = b"GGUF" + bytes(3_000_000)
root = {root!r}
def fill():
    while not any(map(os.path.getsize, glob.glob(root + "/clawai/models/.staging/mine/*.part"))):
        time.sleep(0.01)
    with open(root + "/filler", "wb") as file:
        try:
            while True:
                file.write(bytes(1 << 16)); file.flush()
        except OSError:
            pass
with serve(data) as web:
    web.during = fill
    entry = Entry(source=web.url, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data),
                  licence="", capability="llm", file="m.gguf", name="mine")
    try:
        pull.pull(entry, say=lambda text: None)
    except Exception as error:
        print(getattr(error, "code", repr(error)))
    os.unlink(root + "/filler")
    web.during = None
    print(pull.pull(entry, say=lambda text: None).path.stat().st_size, web.asked[-1].get("Range"))
"""


def test_a_full_disk_is_told_and_resumed_after(tmp_path, monkeypatch):
    root = tmp_path / "full"
    root.mkdir()
    monkeypatch.setenv("XDG_DATA_HOME", str(root))
    program = FULL.format(tests=str(Path(__file__).parent.parent), root=str(root))
    script = f'mount -t tmpfs -o size=4m tmpfs {root} && exec "$0" -c "$1"'
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a small disk of our own needs user namespaces")
    done = subprocess.run(
        [*unshare, "sh", "-c", script, sys.executable, program],
        capture_output=True,
        text=True,
        check=False,
    )
    first, second = done.stdout.splitlines()
    assert first == "disk_full", done.stderr
    size, resumed = second.split()
    assert int(size) == 3_000_004
    assert resumed.startswith("bytes=")


def test_what_can_never_fit_the_disk_is_refused_before_the_fetch():
    with serve(DATA) as web:
        error = code(pull.pull, entry(web.url, bytes=1 << 47))
        assert error.code == "disk_full"
        assert web.asked == []


def test_a_write_error_is_a_full_disk(tmp_path, monkeypatch):
    source = tmp_path / "a.gguf"
    source.write_bytes(DATA)

    def full(*args) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Store, "publish", full)
    error = code(pull.pull, entry(f"file:{source}"))
    assert error.code == "disk_full"
    assert "claw rm" in error.hint


def test_two_pulls_at_once_fetch_once():
    said, results = [], []
    with serve(DATA) as web:
        go_on = threading.Event()
        web.during = lambda: go_on.wait(30)

        def one() -> None:
            results.append(pull.pull(entry(web.url), say=note))

        def note(text: str) -> None:
            said.append(text)
            if "waiting" in text:
                go_on.set()

        threads = [threading.Thread(target=one) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(results) == 2 and results[0] == results[1]
        assert len(web.asked) == 1


def test_a_killed_pull_leaves_no_model_and_no_lock(home):
    program = (
        "import sys; from clawai.sdk import pull; from clawai.sdk.catalogue import Entry\n"
        "entry = Entry(source=sys.argv[1], sha256=sys.argv[2], bytes=int(sys.argv[3]), licence='',"
        " capability='llm', file='m.gguf', name='mine')\n"
        "pull.pull(entry)"
    )
    wanted = entry("")
    with serve(DATA) as web:
        reached, go_on = threading.Event(), threading.Event()

        def halfway() -> None:
            reached.set()
            go_on.wait(30)

        web.during = halfway
        command = [sys.executable, "-c", program, web.url, wanted.sha256, str(wanted.bytes)]
        child = subprocess.Popen(command)
        assert reached.wait(30)
        child.send_signal(signal.SIGKILL)
        child.wait()
        go_on.set()
        web.during = None
        assert Store().list() == ([], [])
        assert pull.pull(entry(web.url)).path.read_bytes() == DATA


# What never ends, and what is no file.


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def test_a_source_that_is_no_file_is_refused(tmp_path):
    """A device never ends, and a pipe that nobody writes to never begins."""
    odd = ["/dev/zero", "file:/dev/zero", str(tmp_path), str(pipe(tmp_path / "pipe"))]
    for source in odd:
        error = code(pull.describe, source, "mine")
        assert error.code == "bad_params"
        assert "not a regular file" in error.message
    for source in ("/dev/zero", tmp_path / "pipe"):
        assert code(pull.pull, entry(f"file:{source}")).code == "bad_config"
    nothing_left(Store())


@pytest.mark.parametrize("source", ["./no.gguf", "no.gguf", "/no/such.gguf", "~nobody-here/x.gguf"])
def test_a_missing_file_is_named(source):
    error = code(pull.describe, source, "mine")
    assert error.code == "bad_params"
    assert "no such file" in error.message


def unknown_size(web) -> Entry:
    web.chunked = True
    return pull.describe(web.url, "mine", hashlib.sha256(DATA).hexdigest())


def test_a_body_of_unknown_size_is_bounded_by_a_cap(monkeypatch):
    monkeypatch.setattr(fetch, "UNKNOWN_MOST", 100_000)
    with serve(DATA) as web:
        assert code(pull.pull, unknown_size(web)).code == "bad_download"
        nothing_left(Store())
        monkeypatch.setattr(fetch, "UNKNOWN_MOST", len(DATA))
        assert pull.pull(unknown_size(web)).path.read_bytes() == DATA


def test_a_body_of_unknown_size_leaves_the_disk_a_reserve(monkeypatch):
    monkeypatch.setattr(fetch, "RESERVE", 1 << 60)
    with serve(DATA) as web:
        assert code(pull.pull, unknown_size(web)).code == "disk_full"
        nothing_left(Store())


def test_a_length_that_the_disk_cannot_hold_is_told_before_the_body():
    with serve(DATA) as web:
        wanted = unknown_size(web)
        web.chunked, web.length = False, str(1 << 50)
        assert code(pull.pull, wanted).code == "disk_full"
        assert len(web.asked) == 1


@pytest.mark.parametrize("length", ["many", "-5", "9" * 5000, "1e3"])
def test_a_length_that_is_no_number_is_a_network_error(length):
    with serve(DATA) as web:
        web.length = length
        error = code(pull.pull, entry(web.url))
        assert error.code == "network"
        assert "Content-Length" in error.got
        assert len(error.got) < 250


def test_resuming_is_promised_only_where_it_is_true():
    with serve(DATA) as web:
        web.statuses = [404]
        assert "resumes" not in code(pull.pull, entry(web.url)).hint
        web.cut_at, web.after_cut = [100_000], lambda: web.statuses.extend([500] * 50)
        assert "resumes" in code(pull.pull, entry(web.url)).hint


def test_a_certificate_that_is_not_trusted_is_not_tried_again(tmp_path, monkeypatch):
    tries = []

    def refuse(*args, **options):
        tries.append(args)
        raise urllib.error.URLError(ssl.SSLCertVerificationError("self-signed certificate"))

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", refuse)
    error = code(pull.pull, entry("https://host/model.gguf"))
    assert error.code == "network"
    assert "self-signed" in error.got
    assert len(tries) == 1


def test_an_address_that_is_none_is_refused():
    for url in ("https://host:99999/x", "https://hòst/x", "https://host/ü"):
        assert code(pull.describe, url, "mine", "0" * 64).code == "bad_params"
