"""`claw bench decode --shape`: the file that it writes, its report, and what it refuses."""

from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import numpy as np
import pytest

from clawai.plugins.accelerator.roofline import REGION
from clawai.sdk.cli.bench import report, roof, roofline, shape
from clawai.sdk.cli.bench.side import Reader
from clawai.sdk.cli.output import Status
from clawai.sdk.errors import ClawError
from clawai.sdk.model import gguf, llama
from clawai.sdk.model.dequant import dequantize
from clawai.sdk.model.dtypes import DType

SMALL = shape.Shape(layers=2, width=64, hidden=96, heads=4, vocabulary=300)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, and 7b in small."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(shape.SHAPES, "7b", SMALL)
    return tmp_path / "clawai" / "bench"


def test_the_shape_is_that_of_llama_7b() -> None:
    sizes = {each.name: each.shape for each in shape.SHAPES["7b"].tensors()}
    assert len(sizes) == 32 * 9 + 3
    assert sizes["blk.31.ffn_down.weight"] == (4096, 11008)
    assert sum(int(np.prod(each)) for each in sizes.values()) == 6_738_415_616


def test_the_file_is_written_once_and_is_a_model(cache: Path) -> None:
    path = shape.file("7b", None, Status())
    assert path.parent == cache
    read = gguf.read(path)
    assert llama.graph(read).layers == 2
    down = read.tensors["blk.1.ffn_down.weight"]
    values = dequantize(down.data, down.dtype, down.shape)
    assert values.std() == pytest.approx(96**-0.5, rel=0.05)
    assert abs(values.mean()) < values.std() / 5
    made = path.stat().st_mtime_ns
    assert shape.file("7b", 2, Status()) == path
    assert path.stat().st_mtime_ns == made
    assert shape.file("7b", 1, Status()) != path
    assert len(list(cache.iterdir())) == 2, "nothing unfinished"


def test_every_piece_of_a_large_tensor_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Odd counts of blocks, whose bytes are no multiple of 8, in pieces that do not divide them."""
    monkeypatch.setattr(shape, "PIECE", 7)
    tensor = SMALL.tensors()[0]
    pieces = [bytes(each) for each in shape._blocks(tensor, np.random.default_rng(1))]
    assert sum(map(len, pieces)) == tensor.nbytes
    assert len(set(pieces)) == len(pieces) > 80
    assert np.isfinite(dequantize(b"".join(pieces), DType.Q4_0, tensor.shape)).all()


def test_the_report(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = shape.measure("7b", None, 1, 1, (), forget=True).as_dict()
    assert set(found["figures"]) == {
        "decode_16_tok_s", "token_bytes", "read_gb_s", "read_ratio",
        "read_peak_ratio", "huge_ratio", "resident_bytes", "peak_bytes",
    }  # fmt: skip
    matrices = [each for each in SMALL.tensors() if each.name != "token_embd.weight"]
    assert found["figures"]["token_bytes"] > sum(each.nbytes for each in matrices)
    assert found["figures"]["peak_bytes"] >= found["figures"]["resident_bytes"]
    assert found["settings"]["layers"] == 2
    assert not list(cache.iterdir()), "--forget deletes it"
    report.show(found)
    assert "at most 4.2 GB: reached" in capsys.readouterr().out


def test_memory_is_read_between_all_that_is_measured() -> None:
    with closing(Reader(1)) as reader:
        orders: list[Any] = []
        tell = reader.tell

        def heard(**order: Any) -> dict[str, Any]:
            answer = tell(**order)
            orders.append((order, answer))
            return answer

        reader.tell = heard  # type: ignore[method-assign]
        rates = reader.between(0.2, [lambda: orders.append("one"), lambda: orders.append("two")])
        assert orders[1::2] == ["one", "two"]
        assert [order for order, _ in orders[::2]] == [{"read": 0.2}] * 3
        first, second, last = (answer for _, answer in orders[::2])
        assert shape.REGION == REGION
        assert first["bytes"] % REGION == 0 and last["bytes"] >= REGION
        assert 0.05 < first["seconds"] < 5
        for rate, (a, b) in zip(rates, [(first, second), (second, last)], strict=True):
            assert rate == (a["bytes"] + b["bytes"]) / (a["seconds"] + b["seconds"]) > 1e8


def test_a_share_of_what_memory_gave_in_the_same_moment() -> None:
    class Told:
        times: ClassVar = {"decode_4": [1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 8.0, 8.0]}

        def tell(self, resident: bool) -> dict[str, float]:
            return {"huge": 90.0, "bytes": 100.0, "peak": 110.0}

    roof: Any = SimpleNamespace(looks=[{"read_gb_s": 10.0}, {"read_gb_s": 10.0}])
    steady = [4e9 * share for share in (1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25)]
    found = shape.figures(cast(Any, Told()), 0.9e9, steady, roof)
    assert found["read_ratio"] == 0.9, "each four beside its own moment; one round was held up"
    assert found["decode_16_tok_s"] == round(16 / 15, 2)
    assert found["read_gb_s"] == pytest.approx(0.96)
    assert found["read_peak_ratio"] == pytest.approx(0.096)
    assert found["huge_ratio"] == 0.9


def test_a_full_disk_is_told_before_anything_is_written(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shape, "RESERVE", 1 << 60)
    with pytest.raises(ClawError) as caught:
        shape.file("7b", None, Status())
    assert caught.value.code == "disk_full"
    assert not list(cache.iterdir())


def test_too_little_memory_is_told_before_anything_is_loaded() -> None:
    with pytest.raises(ClawError) as caught:
        shape.require_memory(1 << 60, 2, 2)
    assert caught.value.code == "no_memory"
    assert "2 sides" in str(caught.value.allowed)


def test_a_share_is_the_slower_of_reading_and_computing(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter((9.0, 10.0, 30.0))

    def ceilings(threads: int | None = None) -> dict:
        most = {"read_2t_gb_s": next(looks), "int8_gop_s": 100.0, "fma_gflop_s": 50.0}
        return {"figures": most | {"read_1t_gb_s": 99.0}}

    monkeypatch.setattr(roofline, "ceilings", ceilings)
    box = roof.Roof(2)
    for _ in range(3):
        box.measure()
    assert box.figures()["read_gb_s"] == 10.0, "the median of the looks"
    model = roof.Model(10**9, 1000, 10**9, 10**8, integer=True)
    assert box.share(model, model.decode(64, 0), 0.2) == pytest.approx(0.5, abs=0.001)
    assert box.share(model, model.prefill(100), 4) == pytest.approx(2 * 100.1 / 100 / 4, abs=0.001)
    floats = roof.Model(10**9, 1000, 10**9, 10**8, integer=False)
    assert box.share(floats, floats.prefill(100), 8) == pytest.approx(2 * 100.1 / 50 / 8, abs=0.001)
    eight = model.decode(64, 100, 8)
    assert eight.nbytes == 10**9 + 8 * 132.5 * 1000
    assert eight.operations == 2 * 8 * 1.1e9
