"""ONNX Runtime as a side of `claw bench gemm`, from the wheels of the `bench` extra.

    python -m clawai.sdk.cli.bench.onnx_products MxKxN THREADS

int8 is MatMulInteger (u8 x s8, its fast case) and, for its time, QLinearMatMul and
DynamicQuantizeMatMul. On x86 without VNNI these saturate where two products pass 16 bits (its
documents advise 7-bit weights there); the sums that ours are compared with come from u8 x u8, which
is exact. int4 is MatMulNBits in blocks of 32 at accuracy levels 4 (int8 activations) and 0
(float32). A run takes the fastest that works here and says which it was.
"""

import functools
import importlib.metadata
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from clawai.sdk.cli.bench import peer, product_peer
from clawai.sdk.cli.bench.product_case import GROUP, Case, Shape
from clawai.sdk.errors import ClawError

FLAGS = ("amx_int8", "avx512_vnni", "avx_vnni", "avx512bw", "avx2", "asimddp", "i8mm")
"""What its kernels look for, best first; the processor's flag of that name."""
TRIALS = 5
"""Runs of a variant before the fastest is chosen."""


class Onnx:
    """Sessions of one node each."""

    def __init__(self, case: Case, threads: int, onnx: Any, runtime: Any) -> None:
        self.case, self.threads, self._onnx, self._runtime = case, threads, onnx, runtime
        self.results: dict[str, Any] = {}
        self.names: dict[str, str] = {}
        """The variant that a kind runs."""

    def _session(
        self, op: str, x: Any, weights: dict[str, Any], out: type, **attrs: int
    ) -> Callable[[], Any]:
        """A model of one node; each further input is a constant."""
        helper, shape = self._onnx.helper, self.case.shape
        kind = helper.np_dtype_to_tensor_dtype
        own = op in ("DynamicQuantizeMatMul", "MatMulNBits")
        names = ["x", *weights]
        node = helper.make_node(op, names, ["y"], domain="com.microsoft" if own else "", **attrs)
        value = helper.make_tensor_value_info
        model = helper.make_model(
            helper.make_graph(
                [node],
                op,
                [value("x", kind(x.dtype), x.shape)],
                [value("y", kind(np.dtype(out)), [shape.m, shape.n])],
                [self._onnx.numpy_helper.from_array(np.asarray(w), n) for n, w in weights.items()],
            ),
            opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)],
            ir_version=10,
        )
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.log_severity_level = 3
        session = self._runtime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return functools.partial(lambda: session.run(None, {"x": x})[0])

    def _variants(self, kind: str) -> dict[str, Callable[[], Any]]:
        case = self.case
        if kind == "int8":
            w, one = self.case.weights.T.copy(), np.float32(0.01)
            quantized = {"xs": one, "xz": np.uint8(128), "w": w, "ws": one, "wz": np.int8(0)}
            quantized |= {"ys": np.float32(9), "yz": np.uint8(128)}
            return {
                "MatMulInteger": self._session("MatMulInteger", case.bytes, {"w": w}, np.int32),
                "QLinearMatMul": self._session("QLinearMatMul", case.bytes, quantized, np.uint8),
                "DynamicQuantizeMatMul": self._session(
                    "DynamicQuantizeMatMul", case.floats, {"w": w, "ws": one}, np.float32
                ),
            }
        symmetric = kind == "int4_symmetric"
        pairs = case.codes.reshape(*case.scales.shape, GROUP // 2, 2)
        weights = {"w": pairs[..., 0] | pairs[..., 1] << 4}
        weights |= {"scales": case.scales.astype(np.float32).reshape(-1)}
        if not symmetric:
            zeros = case.zeros(False)
            zeros = np.pad(zeros, ((0, 0), (0, zeros.shape[1] % 2)))
            weights["zeros"] = (zeros[:, ::2] | zeros[:, 1::2] << 4).reshape(-1)
        sizes = {"K": case.shape.k, "N": case.shape.n, "bits": 4, "block_size": GROUP}
        return {
            f"MatMulNBits level {level}": self._session(
                "MatMulNBits", case.floats, weights, np.float32, accuracy_level=level, **sizes
            )
            for level in (4, 0)
        }

    def _sums(self) -> Any:
        """Exact sums of int8, [m, n] int32; says how many of the fast case are others."""
        shifted = (self.case.weights.T.astype(np.int16) + 128).astype(np.uint8)
        weights = {"w": shifted, "xz": np.uint8(0), "wz": np.uint8(128)}
        sums = self._session("MatMulInteger", self.case.bytes, weights, np.int32)()
        wrong = np.mean(self.results["int8"] != sums)
        self.names["int8_sums"] = f"{wrong:.0%} saturated" if wrong else "exact"
        return sums

    @functools.cache  # noqa: B019 (one object a process)
    def fastest(self, kind: str) -> Callable[[], Any]:
        """The variant of a kind that a few runs found fastest; the first one's result is kept,
        and of int8 the exact one."""
        variants, times = self._variants(kind), {}
        for name, run in variants.items():
            y = run()
            self.results.setdefault(kind, y)
            times[name] = min(timed(run) for _ in range(TRIALS))
        self.names[kind] = min(times, key=lambda name: times[name])
        if kind == "int8":
            self.results[kind] = self._sums()
        return variants[self.names[kind]]

    def run(self, kind: str, isa: str, rounds: int) -> list[float]:
        """Seconds of each round; ``isa`` is chosen by the library itself."""
        run = self.fastest(kind)
        return [timed(run) for _ in range(rounds)]

    def peak(self, isa: str) -> float:
        """Not known of a library."""
        raise ClawError("bad_params", "only our own side knows its ceiling", got=isa)


def timed(run: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def instructions() -> str:
    """The best set of this processor that the library has integer kernels for: it does not say."""
    words = set(Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split())
    return next((flag for flag in FLAGS if flag in words), "")


def main() -> None:
    """Take orders."""
    shape = Shape.parse(sys.argv[1])
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        peer.fail(
            ClawError(
                "unsupported_system",
                "ONNX Runtime is not installed here",
                got=str(error),
                hint="pip install 'clawai[bench]'",
            )
        )
        return
    side = Onnx(Case(shape), int(sys.argv[2]), onnx, onnxruntime)
    version = importlib.metadata.version("onnxruntime")
    for kind in product_peer.KINDS:
        side.fastest(kind)
    facts = {"version": f"{version} ({instructions()})", "variants": side.names}
    product_peer.serve(side, facts)


if __name__ == "__main__":
    main()
