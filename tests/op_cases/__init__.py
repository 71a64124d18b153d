"""One maker of test cases for each op of ``ops.def``, with a float64 reference written in numpy.

A module a group of families, each with its table MAKERS: the name of an op to its maker.
"""

import zlib

import numpy as np

from op_cases import arrays, images, language, quantize, sound, transformer
from op_cases.parts import KINDS, Case, Maker, Out

__all__ = ["KINDS", "MAKERS", "Case", "Out", "make_case"]

MAKERS: dict[str, Maker] = {
    **transformer.MAKERS,
    **language.MAKERS,
    **sound.MAKERS,
    **arrays.MAKERS,
    **images.MAKERS,
    **quantize.MAKERS,
}


def make_case(name: str, kind: str) -> Case:
    """The case of an op; the same on every call."""
    rng = np.random.default_rng(zlib.crc32(f"{name} {kind}".encode()))
    # numpy itself would report the NaN and the overflows that the cases ask for.
    with np.errstate(all="ignore"):
        return MAKERS[name](rng, kind)
