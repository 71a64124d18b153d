"""The architectures that ops are checked for, and how the runner is built for each.

A machine is a compiler, the command that runs its programs here, and the targets of the library
that it checks. Runners lie in ``build/checkops``, named by a hash of all that goes into them, so an
unchanged tree builds nothing. Two compilers run at a time.
"""

import hashlib
import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from clawai.plugins.accelerator.build_ops import CSRC, FLAGS, SANITIZE, OpRow, read_ops
from clawai.plugins.accelerator.native import available_isas

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
FOLDER = ROOT / "build" / "checkops"
HOST = platform.machine()
LIMIT_S = 300.0


@dataclass(frozen=True)
class Machine:
    """How to build the runner for an architecture, and to run it here."""

    name: str
    targets: tuple[str, ...]
    compiler: tuple[str, ...] = ("cc",)
    flags: tuple[str, ...] = ("-O2",)
    emulator: tuple[str, ...] = ()
    """The command in front of the runner; empty: this processor runs it."""
    host: str = ""
    """The only host that can run it; empty: any."""
    needs: tuple[str, ...] = ()
    """Headers that the compiler must find."""
    only: str = ""
    """The one file of ``csrc/targets`` to build."""
    objdump: str = "objdump"
    runner: str = ""
    """The name of a runner that is shared with other machines; empty: its own."""


def _aarch64() -> Machine:
    targets = ("scalar", "neon", "dotprod", "i8mm")
    if HOST == "aarch64":
        return Machine("aarch64", targets)
    return Machine(
        "aarch64",
        targets,
        ("aarch64-linux-gnu-gcc",),
        ("-O1", "-static"),  # the build that ships takes twice as long to compile
        ("qemu-aarch64", "-cpu", "max"),
        objdump="aarch64-linux-gnu-objdump",
    )


def _riscv64(bits: int) -> Machine:
    """RISC-V with vector registers of ``bits``; the emulator sets their size, not the build."""
    name, targets = f"riscv64-v{bits}", ("rvv",)
    if HOST == "riscv64":
        return Machine(name, targets)
    link = "-fuse-ld=lld-19", "-Wno-unused-command-line-argument"
    return Machine(
        name,
        targets,
        # gcc before 14 has no vectors for this processor. The flag stands in for the question to
        # the system, which emulators of that age do not answer.
        ("clang-19", "--target=riscv64-linux-gnu", "-isystem", "/usr/riscv64-linux-gnu/include"),
        ("-O1", "-march=rv64gcv", "-static", *link),
        ("qemu-riscv64", "-cpu", f"rv64,v=true,vlen={bits},vext_spec=v1.0"),
        runner="riscv64",
    )


def _alone(name: str, target: str, flags: tuple[str, ...], needs: tuple[str, ...] = ()) -> Machine:
    """A runner with one x86 target, whether or not the processor says that it has it."""
    table = f"-DCHECKOPS_TABLE=claw_ops_{target}"
    return Machine(name, (target,), ("cc",), (*flags, table), (), "x86_64", needs, target)


def _emulated(target: str, *names: str) -> Machine:
    """An x86 target whose own instructions are emulated by SIMDe, on AVX2."""
    headers = tuple(f"simde/x86/avx512/{name}.h" for name in names)
    flags = ["-O1", "-DCLAW_EMULATED", "-mavx2", "-mfma", "-mf16c"]
    flags += ["-DSIMDE_ENABLE_NATIVE_ALIASES"]
    for header in headers:
        flags += ["-include", header]
    return _alone(target, target, tuple(flags), headers)


MACHINES = {
    machine.name: machine
    for machine in (
        _alone("sanitized", "avx2", tuple(SANITIZE)),
        _aarch64(),
        _emulated("avxvnni", "dpbusd"),
        _emulated(
            "avx512vnni",
            "abs",
            "add",
            "and",
            "cvt",
            "dpbusd",
            "fmadd",
            "loadu",
            "mov_mask",
            "mul",
            "set1",
            "setzero",
            "srli",
            "storeu",
            "sub",
        ),
        _riscv64(128),
        _riscv64(256),
    )
}


def why_not(machine: Machine) -> str:
    """Why this box cannot check the machine; empty if it can."""
    if machine.host not in ("", HOST):
        return f"{machine.name} can be run by {machine.host} only, and this is {HOST}"
    if machine.only and "avx2" not in available_isas():
        return f"{machine.name} is emulated on AVX2, which this processor lacks"
    for tool in (*machine.compiler[:1], *machine.emulator[:1]):
        if shutil.which(tool) is None:
            return f"no {tool} here (`sh .ci/packages test` installs it)"
    for header in machine.needs:
        command = [*machine.compiler, "-E", "-include", header, "-x", "c", "/dev/null"]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            return f"no <{header}> here (`sh .ci/packages test` installs it)"
    return ""


def build(machine: Machine) -> Path:
    """The runner's folder: ``checkops`` and an object file a source.

    Raises:
        RuntimeError: it does not compile; with what the compiler said.
    """
    name = machine.runner or machine.name
    folder = FOLDER / f"{name}-{_fingerprint(machine)}"
    if (folder / "checkops").exists():
        return folder
    for old in FOLDER.glob(f"{name}-*"):
        shutil.rmtree(old, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "calls.inc").write_text(_calls(read_ops()))
    # Targets first: they take longest, and two of them should not be what is left at the end.
    files = [*sorted(CSRC.glob("targets/*.c")), *sorted(CSRC.glob("core/*.c"))]
    if machine.only:
        shared = [CSRC / "core" / each for each in ("tune.c", "cpu.c")]
        files = [CSRC / "targets" / f"{machine.only}.c", *shared]
    files.append(HERE / "checkops.c")
    flags = [flag for flag in FLAGS if not flag.startswith("-O")]
    command = [*machine.compiler, *flags, *machine.flags, "-DCLAW_CHECKOPS"]
    command += [f"-I{CSRC}", f"-I{folder}"]
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            [*command, *_in_haste(machine, f), "-c", str(f), "-o", str(folder / f"{f.stem}.o")]
            for f in files
        ]
        list(pool.map(_run, jobs))
    objects = [str(folder / f"{f.stem}.o") for f in files]
    link = [f for f in machine.flags if f.startswith(("-fsanitize", "-static", "-fuse-ld"))]
    partial = folder / "checkops.new"
    _run([*machine.compiler, *link, *objects, "-o", str(partial), "-lm", "-pthread"])
    partial.rename(folder / "checkops")  # a build that was cut off leaves no runner
    return folder


def _in_haste(machine: Machine, file: Path) -> list[str]:
    """Flags for a file that must be there but is not checked."""
    unused = machine.targets and file.parent.name == "targets" and file.stem not in machine.targets
    return ["-O0"] if unused else []


def _fingerprint(machine: Machine) -> str:
    version = subprocess.run([*machine.compiler, "--version"], capture_output=True, check=True)
    made = machine.compiler, machine.flags, machine.only, FLAGS
    digest = hashlib.sha256(repr(made).encode() + version.stdout)
    for path in sorted([*CSRC.rglob("*.*"), *HERE.glob("*.[cp]*")]):
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def plain_env() -> dict[str, str]:
    """The environment, without what puts a sanitizer under the interpreter (check_c.sh)."""
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


def _run(command: list[str]) -> None:
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=LIMIT_S, env=plain_env()
    )
    if done.returncode or done.stderr:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


def _calls(ops: list[OpRow]) -> str:
    """C: for each op a function that takes its arguments out of an array."""
    text = "typedef void (*caller)(const claw_ops *ops, const value *v);\n"
    for op in ops:
        given = ", ".join(_cast(arg, i) for i, arg in enumerate(op.arguments.split(",")))
        text += f"static void call_{op.name}(const claw_ops *o, const value *v) "
        text += f"{{ o->{op.name}({given}); }}\n"
    rows = "".join(f'    {{"{op.name}", call_{op.name}}},\n' for op in ops)
    return (
        text + f"static const struct {{ const char *name; caller call; }} CALLS[] = {{\n{rows}}};\n"
    )


def _cast(argument: str, index: int) -> str:
    """`const float *x` at 3 becomes `(const float *)v[3].p`."""
    kind = argument.strip().rstrip(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789"
    )
    kind = kind.strip()
    if "*" in kind:
        return f"({kind})v[{index}].p"
    return f"({kind})v[{index}].{'f' if kind in ('float', 'double') else 'i'}"
