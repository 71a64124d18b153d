"""The RISC-V target as a build on such a box makes it: no flag for vectors, one file that has them.

What its ops compute is checked by ``test_machines.py``, under an emulator.
"""

import subprocess

import pytest

from checkops import MACHINES, why_not
from clawai.plugins.accelerator.build_ops import CSRC, FLAGS

MACHINE = MACHINES["riscv64-v128"]


def assembly(target: str, *flags: str) -> str:
    """What the compiler makes of a file, for a RISC-V processor that need not have vectors."""
    if reason := why_not(MACHINE):
        pytest.skip(reason)
    options = [flag for flag in FLAGS if not flag.startswith("-O")]
    command = [*MACHINE.compiler, *options, "-O1", "-march=rv64gc", *flags, "-S", "-o", "-"]
    done = subprocess.run(
        [*command, str(CSRC / target)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def test_vectors_are_used_in_their_own_file_only() -> None:
    text = assembly("targets/rvv.c")
    assert "claw_ops_rvv:" in text
    assert text.count("vfmacc.vv") > 20, "products are not done by vectors"
    assert "vsetivli" not in assembly("core/registry.c") + assembly("core/steps.c")


def test_a_compiler_that_has_no_vectors_leaves_the_target_out() -> None:
    text = assembly("targets/rvv.c", "-D__clang_major__=17", "-Wno-macro-redefined")
    assert "claw_ops_rvv" not in text
    assert ".weak\tclaw_ops_rvv" in assembly("core/registry.c"), "a library without would not load"
