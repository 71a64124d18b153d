"""Build script of the C ops: cffi in API mode, module ``clawai.plugins.accelerator._ops``.

``setup.py`` names ``ffibuilder``; ``python plugins/accelerator/build_ops.py`` builds in place. The
declarations come from the C sources themselves: ``ops.def`` (one row an op) and the marked part of
``api.h``. No flag here chooses an instruction set: each file of ``csrc/targets`` does so for its
own code, and the library picks one at run time.
"""

import importlib
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from cffi import FFI

# setup.py runs this file from the repository's root and setuptools wants relative paths.
HERE = Path(__file__).resolve().parent
CSRC = HERE / "csrc"
MODULE = "clawai.plugins.accelerator._ops"
FLAGS = [
    "-O3",
    "-g0",  # Python's own flags ask for it, which costs a third of the compile time.
    "-std=gnu11",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",  # Nobody looks at the flags of exceptions: loops with choices vectorise.
    "-Wall",
    "-Wextra",
    "-Wno-psabi",
]
SANITIZE = [
    "-O1",
    "-g1",  # Lines, for the traces; what is known of variables costs minutes in large functions.
    "-fno-inline",  # A check in each copy of each primitive would, too: a quarter of the time.
    "-fno-omit-frame-pointer",
    "-fsanitize=address,undefined",
]


class OpRow(NamedTuple):
    """One row of ``ops.def``."""

    family: str
    name: str
    dtype: str
    tolerance: float
    arguments: str
    dots: bool
    """Built on sums of products of bytes: an op of its own for sets that bring only these."""


def read_ops() -> list[OpRow]:
    """The rows of ``ops.def``, in order."""
    text = re.sub(r"/\*.*?\*/", "", (CSRC / "ops.def").read_text(), flags=re.S)
    rows = re.findall(r'CLAW_(OP|DOT)\((\w+), (\w+), "([^"]+)", ([^,]+), \(([^)]*)\)\)', text)
    if len(rows) != text.count("CLAW_OP(") + text.count("CLAW_DOT("):
        raise ValueError(
            f'{CSRC / "ops.def"}: a row is not CLAW_OP(family, name, "dtype", n, (args))'
        )
    return [OpRow(f, n, d, float(t), a, kind == "DOT") for kind, f, n, d, t, a in rows]


def declarations() -> str:
    """What Python may call, as cffi reads it."""
    table = "".join(f"    void (*{op.name})({op.arguments});\n" for op in read_ops())
    api = (CSRC / "api.h").read_text()
    api = re.sub(
        r"/\*.*?\*/", "", api.split("/* BEGIN CDEF */")[1].split("/* END CDEF */")[0], flags=re.S
    )
    limits = re.findall(r"#define (CLAW_\w+) (?:\d|\()", (CSRC / "bounds.h").read_text())
    constants = "".join(f"#define {name} ...\n" for name in limits)
    return (
        constants + f"typedef struct claw_ops {{\n    const char *isa;\n{table}}} claw_ops;\n{api}"
    )


def sources(root: Path) -> list[str]:
    """The C files that are compiled by themselves, relative to ``root`` if they lie below it."""
    files = sorted([*CSRC.glob("core/*.c"), *CSRC.glob("targets/*.c")])
    return [str(f.relative_to(root)) if f.is_relative_to(root) else str(f) for f in files]


def make_builder(root: Path, extra: list[str] | None = None) -> FFI:
    """A builder of the extension that will run in ``root``; ``extra`` flags come last."""
    builder = FFI()
    builder.cdef(declarations())
    depends = [str(f) for f in sorted(CSRC.rglob("*")) if f.suffix in {".h", ".c", ".def", ".inc"}]
    flags = FLAGS + (extra or [])
    builder.set_source(
        MODULE,
        '#include "api.h"\n',
        sources=sources(root),
        include_dirs=[str(CSRC)],
        depends=depends,
        extra_compile_args=[*flags, "-fvisibility=hidden"],
        extra_link_args=["-pthread", *(f for f in flags if f.startswith("-fsanitize"))],
        libraries=["m"],
    )
    return builder


def compile_side_by_side() -> None:
    """Have setuptools compile the sources of an extension on all cores; by itself it uses one.

    Each instruction set is one source of some seconds, the reference the longest.
    """
    importlib.import_module("setuptools")  # it is what brings distutils
    compiler: Any = importlib.import_module("distutils.ccompiler").CCompiler

    def compile(  # noqa: A001 - the method's own name and order
        self: Any,
        sources: list[str],
        output_dir: str | None = None,
        macros: Any = None,
        include_dirs: Any = None,
        debug: bool = False,
        extra_preargs: Any = None,
        extra_postargs: Any = None,
        depends: Any = None,
    ) -> list[str]:
        macros, objects, extra_postargs, options, build = self._setup_compile(
            output_dir, macros, include_dirs, sources, depends, extra_postargs
        )
        words = self._get_cc_args(options, debug, extra_preargs)

        def one(made: str) -> None:
            source, suffix = build[made]
            self._compile(made, source, suffix, words, extra_postargs, options)

        # The one that takes longest first, or it would be alone at the end.
        todo = sorted((each for each in objects if each in build), key=lambda o: "scalar" not in o)
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for done in [pool.submit(one, made) for made in todo]:
                done.result()
        return list(objects)

    compiler.compile = compile


compile_side_by_side()
ffibuilder = make_builder(Path.cwd())


def build_in_place(argv: list[str]) -> Path:
    """Build the extension next to this file, or into another folder; returns its path."""
    import argparse
    import shutil
    import tempfile

    parser = argparse.ArgumentParser(description="Build the C ops of this checkout.")
    parser.add_argument("--sanitize", action="store_true", help="with ASan and UBSan")
    parser.add_argument("--into", type=Path, default=HERE, help="folder for the extension")
    parser.add_argument("-v", "--verbose", action="store_true", help="print the commands")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        builder = make_builder(Path(scratch), SANITIZE if options.sanitize else None)
        built = Path(builder.compile(tmpdir=scratch, verbose=options.verbose))
        target: Path = options.into / built.name
        # A running process may have the old file mapped: replace the name, never the bytes.
        shutil.copy2(built, target.with_suffix(".new"))
        return target.with_suffix(".new").replace(target)


if __name__ == "__main__":
    print(build_in_place(sys.argv[1:]))
