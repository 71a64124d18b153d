"""Our side of `claw bench gemm`: single products on a team of threads, in a process of their own.

    python -m clawai.plugins.accelerator.products MxKxN THREADS

takes orders as lines of JSON and answers each with one (``clawai.sdk.cli.bench.product_peer``). A
kind is ``int8``, ``int4_symmetric`` or ``int4_asymmetric``; ``isa`` names the instruction set.
"""

import functools
import sys
from typing import Any

import numpy as np

from clawai.plugins.accelerator.native import FORMATS, available_isas, choose_isa, ffi, lib
from clawai.plugins.accelerator.roofline import best
from clawai.sdk.cli.bench import peer, product_peer
from clawai.sdk.cli.bench.product_case import Case, Shape
from clawai.sdk.errors import ClawError
from clawai.sdk.model.dtypes import DType

ROUNDS, RUNS = 1 << 19, 3
"""Of the loop that shows the ceiling."""


def pointer(kind: str, array: Any) -> Any:
    """The address of an array, for a field of that type."""
    return ffi.cast(kind, array.ctypes.data)


def aligned(nbytes: int) -> Any:
    """Zeroed bytes on a cache line."""
    memory = np.zeros(nbytes + 64, np.uint8)
    return memory[-memory.ctypes.data % 64 :][:nbytes]


class Products:
    """The packed matrices of one shape."""

    def __init__(self, case: Case, threads: int) -> None:
        self.case, self.threads = case, threads
        self.results: dict[str, Any] = {}

    @functools.cached_property
    def int8(self) -> Any:
        """The packed weights of the int8 product."""
        shape, block = self.case.shape, (self.case.shape.k + 3) // 4 * 32 + 32
        packed = aligned(shape.n // 8 * block)
        pack = lib.claw_ops_named(ffi.NULL).pack_s8
        source, target = self.case.weights.ctypes.data, packed.ctypes.data
        for number in range(shape.n // 8):
            rows = ffi.cast("const int8_t *", source + number * 8 * shape.k)
            pack(rows, shape.k, 8, shape.k, ffi.cast("uint8_t *", target + number * block))
        return packed

    @functools.cache  # noqa: B019 (one object a process)
    def int4(self, symmetric: bool) -> Any:
        """The packed weights of an int4 product, through the blocks of GGUF's Q4_0 or Q4_1."""
        case, shape = self.case, self.case.shape
        halves = case.codes.reshape(*case.scales.shape, 2, 16)
        parts = [case.scales[..., None].view(np.uint8)]
        if not symmetric:
            minima = -case.scales.astype(np.float32) * case.zeros(False)
            parts.append(minima.astype(np.float16)[..., None].view(np.uint8))
        parts.append(halves[..., 0, :] | halves[..., 1, :] << 4)
        source = np.ascontiguousarray(np.concatenate(parts, axis=-1))
        fmt, dtype = (("q4s", DType.Q4_0), ("q4a", DType.Q4_1))[not symmetric]
        number = FORMATS.index(fmt)
        packed = aligned(lib.claw_packed_bytes(number, shape.n, shape.k))
        code = lib.claw_pack(
            number, int(dtype), shape.n, shape.k, pointer("const uint8_t *", source),
            source.nbytes, pointer("uint8_t *", packed), packed.nbytes, 0, 1,
        )  # fmt: skip
        assert code == lib.CLAW_OK
        return packed

    def run(self, kind: str, isa: str, rounds: int) -> list[float]:
        """Seconds of each round."""
        shape, product = self.case.shape, ffi.new("claw_product *")
        product.m, product.k, product.n = shape.m, shape.k, shape.n
        out = np.zeros((shape.m, shape.n), np.int32 if kind == "int8" else np.float32)
        if kind == "int8":
            product.w = pointer("const uint8_t *", self.int8)
            product.a = pointer("const uint8_t *", self.case.bytes)
            product.sums = pointer("int32_t *", out)
        else:
            symmetric = kind == "int4_symmetric"
            product.format = FORMATS.index("q4s" if symmetric else "q4a")
            product.w = pointer("const uint8_t *", self.int4(symmetric))
            product.x = pointer("const float *", self.case.floats)
            product.y = pointer("float *", out)
        times = ffi.new("uint64_t[]", rounds)
        ops = lib.claw_ops_named(isa.encode())
        if ops == ffi.NULL:
            raise ClawError("bad_config", "no such set here", got=isa, allowed=available_isas())
        code = lib.claw_product_run(ops, product, self.threads, rounds, times)
        if code:
            raise ClawError("worker_failed", "the product did not run", got=code)
        self.results[kind] = out
        return [ns / 1e9 for ns in times]

    def peak(self, isa: str) -> float:
        """Operations a nanosecond of the loop of byte products, on as many threads."""
        roof = ffi.new("claw_roof *")
        lib.claw_roofline(isa.encode(), roof)
        seconds = best(lambda _: roof.dot(ROUNDS), self.threads, RUNS)
        return self.threads * ROUNDS * float(roof.int_ops) / seconds / 1e9


def main() -> None:
    """Take orders."""
    shape = Shape.parse(sys.argv[1])
    products = Products(Case(shape), int(sys.argv[2]))
    try:
        facts = {"isa": choose_isa(), "isas": available_isas()}
    except RuntimeError as error:
        peer.fail(ClawError("bad_config", str(error)))
        return
    product_peer.serve(products, facts)


if __name__ == "__main__":
    main()
