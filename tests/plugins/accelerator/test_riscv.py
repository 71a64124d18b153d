"""The RISC-V target as a build on such a box makes it: no flag for vectors, one file that has them.

What its ops compute is checked by ``test_machines.py``, under an emulator.
"""

import subprocess

import pytest

from checkops import MACHINES, why_not
from clawai.plugins.accelerator.build_ops import CSRC, FLAGS

MACHINE = MACHINES["riscv64-v128"]


def compiled(target: str, *flags: str) -> str:
    """What the compiler prints of a file, for a RISC-V processor that need not have vectors."""
    if reason := why_not(MACHINE):
        pytest.skip(reason)
    options = [flag for flag in FLAGS if not flag.startswith("-O")]
    command = [*MACHINE.compiler, *options, "-march=rv64gc", *flags, str(CSRC / target)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def test_the_target_needs_no_flag_and_the_rest_gets_no_vectors() -> None:
    compiled("targets/rvv.c", "-fsyntax-only")
    assert "claw_ops_rvv = {" in compiled("targets/rvv.c", "-E")
    assert "vsetivli" not in compiled("core/registry.c", "-O1", "-S", "-o", "-")


def test_a_compiler_that_has_no_vectors_leaves_the_target_out() -> None:
    old = "-D__clang_major__=17", "-Wno-macro-redefined"
    assert "claw_ops_rvv" not in compiled("targets/rvv.c", "-E", *old)
    text = compiled("core/registry.c", "-O1", "-S", "-o", "-")
    assert ".weak\tclaw_ops_rvv" in text, "a library without it would not load"
