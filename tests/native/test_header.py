"""The headers: strict compilers take them, 1.0 never changes, old binaries go on loading."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from clawai.sdk.errors import ClawError
from clawai.sdk.native import Library
from native_build import CPP, HERE, INCLUDE, ROOT, Build, C, compiled

FROZEN = HERE / "v1_0"
COMPILERS = [c for c in ("gcc", "clang") if shutil.which(c)]
SANITIZE = ["-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined"]
HOST = [ROOT / "sdk/csrc/host.c", ROOT / "sdk/csrc/guard.c", f"-I{ROOT / 'sdk/csrc'}", "-ldl"]


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("standard", ["c99", "c11", "c17"])
def test_the_c_header_stands_alone(tmp_path: Path, compiler: str, standard: str) -> None:
    file = tmp_path / "alone.c"
    file.write_text("#include <clawai.h>\n#include <clawai.h>\nint x;\n")
    compiled(compiler, f"-std={standard}", *C[2:], f"-I{INCLUDE}", "-fsyntax-only", file)


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("header", ["clawai.h", "clawai.hpp"])
@pytest.mark.parametrize("standard", ["c++17", pytest.param("c++20", marks=pytest.mark.soak)])
def test_the_headers_are_cpp(tmp_path: Path, compiler: str, header: str, standard: str) -> None:
    file = tmp_path / "alone.cpp"
    file.write_text(f"#include <{header}>\n#include <{header}>\nint x;\n")
    plus = {"gcc": "g++", "clang": "clang++"}[compiler]
    compiled(plus, f"-std={standard}", *CPP[2:], f"-I{INCLUDE}", "-fsyntax-only", file)


def structs(header: str) -> dict[str, list[str]]:
    """The structs of a header and the names of their members, in order."""
    text = re.sub(r"/\*.*?\*/", "", header, flags=re.S)
    found = {}
    for name, body in re.findall(r"struct (claw_\w+) \{(.*?)\n\}", text, re.S):
        members = []
        for line in body.split(";"):
            if function := re.search(r"\(\*(\w+)\)", line):
                members.append(function[1])
            elif line.strip():
                members += re.findall(r"(\w+)\s*(?=,|$)", line.strip())
        found[name] = members
    return found


def layout(folder: Path, include: Path, members: dict[str, list[str]]) -> list[str]:
    """Where each of these members lies and how large it is, as the compiler sees this header."""
    lines = [
        f'printf("{struct}.{m} %zu %zu\\n", offsetof({struct}, {m}), '
        f"sizeof(((({struct} *)0)->{m})));"
        for struct, names in members.items()
        for m in names
    ]
    constants = re.findall(r"\b(CLAW_[A-Z0-9_]+) = ", (FROZEN / "clawai.h").read_text())
    lines += [f'printf("{name} %d\\n", (int){name});' for name in constants]
    source = folder / "layout.c"
    source.write_text("#include <clawai.h>\nint main(void) {\n" + "\n".join(lines) + "\n}\n")
    compiled("cc", "-std=c99", f"-I{include}", "-o", folder / "layout", source)
    return subprocess.check_output([folder / "layout"], text=True).splitlines()


def test_version_1_0_never_changes(tmp_path: Path) -> None:
    """Each member and constant of 1.0 is where it was; a minor version adds behind them only."""
    frozen = structs((FROZEN / "clawai.h").read_text())
    assert len(frozen) == 7
    now = structs((INCLUDE / "clawai.h").read_text())
    for name, members in frozen.items():
        assert now[name][: len(members)] == members
        assert name == "claw_host" or members[:2] == ["struct_size", "version"]
    assert layout(tmp_path, INCLUDE, frozen) == layout(tmp_path, FROZEN, frozen)


def grown_header(folder: Path) -> Path:
    """The header as a later minor version: a member more in every struct, and a function."""
    text = (INCLUDE / "clawai.h").read_text()
    text = re.sub(r"(#define CLAW_VERSION_MINOR) (\d+)", lambda m: f"{m[1]} {int(m[2]) + 1}", text)
    for name in structs(text):
        text, count = re.subn(
            rf"(struct {name} \{{.*?)\n\}}", r"\1\n    uint64_t grown[3];\n}", text, flags=re.S
        )
        assert count == 1, name
    (folder / "clawai.h").write_text(text)
    shutil.copy(INCLUDE / "clawai.hpp", folder)
    return folder


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The driver with today's host, and with one that has grown."""
    folder = tmp_path_factory.mktemp("hosts")
    grown = folder / "include"
    grown.mkdir()
    found = {"include": grown_header(grown)}
    for name, include in (("now", INCLUDE), ("grown", grown)):
        found[name] = folder / name
        flags = ["-std=gnu11", "-Wno-missing-field-initializers", f"-I{include}"]
        compiled("cc", *flags, "-o", found[name], HERE / "driver.c", *HOST)
    return found


def drive(driver: Path, *arguments: str | Path) -> str:
    done = subprocess.run(
        [str(a) for a in (driver, *arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1, 2), done.stdout + done.stderr
    assert "ERROR" not in done.stderr and "runtime error" not in done.stderr, done.stderr
    return done.stdout


def test_a_binary_of_version_1_0_runs_in_a_host_that_has_grown(
    build: Build, hosts: dict[str, Path]
) -> None:
    old = build("every.c", name="old.so", include=FROZEN)
    call = ("every.give", "needed=-7", "i64=12", "tensor=772:24", "text=x")
    now, grown = (drive(hosts[host], old, *call) for host in ("now", "grown"))
    assert "status 0\nresult " in now and "frame 000102" in now
    assert grown == now
    assert drive(hosts["grown"], old, "every.stream", "data=ab").count("chunk") == 2


def test_a_binary_that_is_newer_than_the_host_is_refused(
    build: Build, hosts: dict[str, Path], tmp_path: Path
) -> None:
    newer = build(
        "every.c", "-Wno-missing-field-initializers", name="newer.so", include=hosts["include"]
    )
    with pytest.raises(ClawError, match=r"version 1\.1 of clawai\.h.* offers 1\.0") as caught:
        Library(newer)
    assert caught.value.code == "bad_version"
    assert "claw plugin include-dir" in caught.value.hint
    assert "status 0" in drive(hosts["grown"], newer, "every.give", "needed=1")
    text = (INCLUDE / "clawai.h").read_text()
    (tmp_path / "clawai.h").write_text(text.replace("VERSION_MAJOR 1", "VERSION_MAJOR 2"))
    other = build("every.c", name="other.so", include=tmp_path)
    with pytest.raises(ClawError, match=r"version 2\.0 .*which is not compatible"):
        Library(other)


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver with the host, under the sanitizers.

    Outside of the sandbox, as the sanitizers' own library needs more than that permits.
    """
    driver = tmp_path_factory.mktemp("sanitized") / "driver"
    compiled("cc", "-std=gnu11", *SANITIZE, f"-I{INCLUDE}", "-o", driver, HERE / "driver.c", *HOST)
    return driver


def test_host_and_plugins_under_the_sanitizers(
    build: Build, sanitized: Path, tmp_path: Path, examples: Path
) -> None:
    made = {}
    for source in ("every.c", "garbage.c"):
        made[source] = build(source, *SANITIZE, name=f"{source}.asan.so")
    made["grey.c"] = sanitized_example(tmp_path, examples / "plugin_c" / "grey.c")
    assert "frame 0001" in drive(
        sanitized, made["every.c"], "every.give", "needed=3", "tensor=772:24"
    )
    assert drive(sanitized, made["every.c"], "every.stream", "data=abc").count("chunk") == 3
    assert "status 0" in drive(sanitized, made["grey.c"], "grey.convert", "picture=513:600")
    assert "status 0" in drive(sanitized, made["garbage.c"], "garbage.run")


def sanitized_example(folder: Path, source: Path) -> Path:
    target = folder / f"{source.name}.so"
    compiler = C if source.suffix == ".c" else CPP
    flags = [*SANITIZE, "-fPIC", "-shared", f"-I{INCLUDE}"]
    compiled(*compiler, *flags, "-o", target, source, "-lm")
    return target


@pytest.mark.soak
def test_all_of_clawai_hpp_under_the_sanitizers(
    build: Build, sanitized: Path, tmp_path: Path, examples: Path
) -> None:
    ngrams = sanitized_example(tmp_path, examples / "plugin_cpp" / "ngrams.cpp")
    assert "chunk" in drive(sanitized, ngrams, "ngrams.count", "text=a b a", "every=1")
    throws = build("throws.cpp", *SANITIZE, name="throws.asan.so")
    given = ("throws.typed", "bytes=xy", "view=772:24")
    assert "frame 0000" in drive(sanitized, throws, *given)
    assert "status 1\nerror worker_failed out of range" in drive(
        sanitized, throws, "throws.raise", "how=standard"
    )
