"""Build script of the C half of the host of C and C++ plugins: module ``clawai.sdk._native``.

``setup.py`` names ``ffibuilder``; the declarations are those of ``include/clawai.h`` and the marked
part of ``csrc/host.h``, so that nothing is written twice.
"""

import re
from pathlib import Path

from cffi import FFI

# setup.py runs this file from the repository's root and setuptools wants relative paths.
HERE = Path(__file__).resolve().parent
MODULE = "clawai.sdk._native"
CALLBACKS = """
extern "Python" int32_t claw_chunk_(void *user, const uint8_t *data, uint64_t size);
extern "Python" void claw_progress_(void *user, double fraction, const char *note);
extern "Python" void claw_log_(void *user, int32_t level, const char *text);
extern "Python" void claw_look_(void *user);
"""


def _declarations() -> str:
    """What Python may touch, as cffi reads it."""
    header = (HERE / "include" / "clawai.h").read_text()
    header = re.sub(r"/\*.*?\*/", "", header, flags=re.S)
    types = header.partition("typedef int32_t claw_status;")[2].partition("static inline")[0]
    types = "typedef int32_t claw_status;" + re.sub(r"^#.*$", "", types, flags=re.M)
    host = (HERE / "csrc" / "host.h").read_text()
    host = host.partition("/* BEGIN CDEF */")[2].partition("/* END CDEF */")[0]
    host = re.sub(r"/\*.*?\*/", "", host, flags=re.S)
    constants = "".join(
        f"#define {name} ...\n"
        for name in ("CLAW_VERSION_MAJOR", "CLAW_VERSION_MINOR", "CLAW_MAX_DIMENSIONS")
    )
    types = types.replace("struct claw_host {", "struct claw_host { ...; }; struct unused_ {", 1)
    types = types.partition("struct unused_ {")[0]
    return f"{constants}{types}{host}{CALLBACKS}"


def make_builder(root: Path) -> FFI:
    """A builder of the extension that will run in ``root``."""

    def relative(path: Path) -> str:
        return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)

    builder = FFI()
    builder.cdef(_declarations())
    builder.set_source(
        MODULE,
        '#include "host.h"\n',
        sources=[relative(HERE / "csrc" / name) for name in ("host.c", "guard.c")],
        include_dirs=[relative(HERE / "include"), relative(HERE / "csrc")],
        depends=[str(path) for path in sorted([*HERE.glob("csrc/*"), *HERE.glob("include/*")])],
        extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra"],
        libraries=["dl"],
    )
    return builder


ffibuilder = make_builder(Path.cwd().resolve())
