"""`claw bench gemm`: a small product on all sides, and what it refuses."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from clawai.plugins.accelerator.native import available_isas
from clawai.plugins.accelerator.products import Products
from clawai.sdk.cli.bench import gemm
from clawai.sdk.cli.bench.product_case import Case, Shape
from clawai.sdk.cli.bench.product_peer import KINDS
from clawai.sdk.cli.bench.report import judged
from clawai.sdk.errors import ClawError


def claw(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clawai.sdk.cli.main", "bench", "gemm", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_form_of_a_report_and_the_same_sums_as_the_peer() -> None:
    peer = ["--against", "onnxruntime"] if find_spec("onnxruntime") else []
    done = claw("--shape", "5x64x48", "--threads", "2", "--rounds", "1", "--json", *peer)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    figures = found["figures"]
    for kind in KINDS:
        assert figures[f"{kind}_gop_s"] > 0
        assert found["shares"][f"{kind}_gop_s"] > 0
    assert set(found["shares"]) == {key for key in figures if key.endswith("_gop_s")}
    assert found["ceilings"]["int8_gop_s"] > figures["int8_gop_s"]
    assert 0 < figures["int4_symmetric_error"] < 0.02
    assert 0 < figures["int4_asymmetric_error"] < 0.02
    said = {bar.key: judged(bar, found) for bar in gemm.BARS}
    if peer:
        assert figures["int8_same_ratio"] == 1.0
        assert "1.1x onnxruntime" in said["int8_gop_s"]
        assert found["settings"]["onnxruntime_int8"]
        assert re.fullmatch(r"exact|\d+% saturated", found["settings"]["onnxruntime_int8_sums"])
    else:
        assert not said["int8_gop_s"], "the peer was not measured"


@pytest.mark.parametrize("threads", [1, 3])
def test_products_are_those_of_numpy_on_every_set(threads: int) -> None:
    case = Case(Shape.parse("9x160x112"))
    sums = case.bytes.astype(np.int64) @ case.weights.T.astype(np.int64)
    products, floats = Products(case, threads), {}
    for isa in available_isas():
        for kind in KINDS:
            assert len(products.run(kind, isa, 2)) == 2
        assert np.array_equal(products.results["int8"], sums)
        for kind in KINDS[1:]:
            assert case.error(products.results[kind], kind == "int4_symmetric") < 0.02
            floats.setdefault((isa == "scalar", kind), products.results[kind])
            assert np.array_equal(floats[isa == "scalar", kind], products.results[kind])


SHAPES = ["128x4096", "0x64x64", "4x33x64", "4x64x40", "257x64x64", "axbxc"]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_that_cannot_run_is_refused(shape: str) -> None:
    with pytest.raises(ClawError, match="MxKxN") as caught:
        Shape.parse(shape)
    assert caught.value.code == "bad_params" and caught.value.got == shape


def test_a_wrong_shape_and_a_set_that_is_not_here_are_told() -> None:
    done = claw("--shape", "1x1x1")
    assert done.returncode == 1 and "bad_params" in done.stderr
    with pytest.raises(ClawError, match="set"):
        Products(Case(Shape.parse("1x32x16")), 1).run("int8", "sse", 1)
